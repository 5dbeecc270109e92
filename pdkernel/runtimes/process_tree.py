"""
Finds and ends everything that a step started, however it tried to get away.

Knows process tables: /proc on Linux, `ps` elsewhere. Standard library only, because the warden runs it
without site-packages. A process belongs to a step if it is one of the step's roots, is in a root's
group or session, has such a parent, or (Linux) carries the step's mark in its environment. The mark is
what finds a daemon that has forked twice and left its group.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

PROCESS_TAG_VARIABLE = "PDKERNEL_STEP_PROCESS"
"""The environment variable whose value tells whose process it is."""

_PROC = Path("/proc")
_ROUNDS = 12
_CLEAN_ROUNDS = 2  # one may be forked behind our back while we look
_PAUSE_S = 0.002
_START_TIME_FIELD = 19  # field 22 of /proc/PID/stat, in clock ticks since the machine was started
_YOUNG_S = 2.0
_KTHREADD_PID = 2  # kthreadd: its children have no environment


class _Process(NamedTuple):
    pid: int
    parent: int
    group: int
    session: int
    ended: bool
    young: bool = False


def find_processes(roots: Collection[int], process_tags: Collection[str] = ()) -> set[int]:
    """The living processes that belong to the process groups *roots* or carry one of *process_tags*; never our own."""
    return _scan(roots, process_tags)[0]


def _scan(roots: Collection[int], marks: Collection[str]) -> tuple[set[int], bool]:
    """The members, and whether it is sure that there are no others."""
    table = _table()
    belongs = set(roots)
    wanted = [f"{PROCESS_TAG_VARIABLE}={mark}".encode() for mark in marks]
    sure = True
    for process in table:
        if process.group in belongs or process.session in belongs:
            belongs.add(process.pid)
        elif wanted and not process.ended and _KTHREADD_PID not in (process.pid, process.parent):
            carries = _has_tag(process.pid, wanted)
            if carries:
                belongs.add(process.pid)
            sure = sure and not (carries is None and process.young)
    grown = True
    while grown:
        grown = False
        for process in table:
            if process.pid not in belongs and process.parent in belongs:
                belongs.add(process.pid)
                grown = True
    return {p.pid for p in table if p.pid in belongs and not p.ended} - {os.getpid()}, sure


def kill_processes(roots: Collection[int], process_tags: Collection[str] = ()) -> None:
    """
    Kill every member, again until none is left: one may fork while it is being looked for.

    Blocks for a few milliseconds. A process that cannot be killed (uninterruptible sleep) is given up on.
    """
    for root in roots:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(root, signal.SIGKILL)
    clean = 0
    for _ in range(_ROUNDS):
        found, sure = _scan(roots, process_tags)
        clean = clean + 1 if sure and not found else 0
        if clean == _CLEAN_ROUNDS:
            return
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_PAUSE_S)


def _table() -> list[_Process]:
    if _PROC.joinpath("self/stat").exists():
        return _read_proc()
    return _read_ps()


def _read_proc() -> list[_Process]:
    table = []
    recent = (time.clock_gettime(time.CLOCK_BOOTTIME) - _YOUNG_S) * os.sysconf("SC_CLK_TCK")
    for name in os.listdir(_PROC):  # noqa: PTH208 - a Path for each entry triples the time
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
                # the command's name stands in brackets and may itself hold brackets and blanks
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue
        if len(fields) > _START_TIME_FIELD:
            state, parent, group, session = fields[:4]
            table.append(
                _Process(
                    int(name),
                    int(parent),
                    int(group),
                    int(session),
                    ended=state in (b"Z", b"X"),
                    young=int(fields[_START_TIME_FIELD]) > recent,
                )
            )
    return table


def _has_tag(pid: int, wanted: list[bytes]) -> bool | None:
    """Whether one of *wanted* is in its environment; None if that is empty, as it is in the middle of an exec."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123
            environ = file.read()
    except OSError:  # another user's process, one that has ended, or no /proc
        return False
    return any(mark in environ for mark in wanted) if environ else None


def _read_ps() -> list[_Process]:
    listing = subprocess.run(
        ["ps", "-axo", "pid=,ppid=,pgid=,stat="], capture_output=True, text=True, check=False
    ).stdout
    table = []
    for line in listing.splitlines():
        fields = line.split()
        if len(fields) == 4:
            pid, parent, group = (int(field) for field in fields[:3])
            table.append(_Process(pid, parent, group, group, ended=fields[3].startswith("Z")))
    return table

"""
Finds and ends every process that a step started, including daemons.

It reads /proc on Linux, and runs `ps` on other systems. It uses only the standard library, because the warden runs it without
site-packages. A process belongs to a step if one of these is true: it is one of the step's roots; it is in the group or session
of a root; its parent belongs to the step; on Linux, it has the step's tag in its environment. The tag finds a daemon that
forked twice and left its group.
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
"""The environment variable with the tag of the step or worker that a process belongs to."""

_PROC = Path("/proc")
_ROUNDS = 12
_CLEAN_ROUNDS = 2  # a process may fork during the scan
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
    """Return the running processes of the process groups *roots* or with one of *process_tags*, without this process."""
    return _scan(roots, process_tags)[0]


def _scan(roots: Collection[int], tags: Collection[str]) -> tuple[set[int], bool]:
    """Return the members, and whether the scan is certain that there are no others."""
    table = _table()
    belongs = set(roots)
    wanted = [f"{PROCESS_TAG_VARIABLE}={tag}".encode() for tag in tags]
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


def kill_processes(roots: Collection[int], process_tags: Collection[str] = (), *, reaper: int | None = None) -> bool:
    """
    Kill every process that `find_processes` returns, and repeat until there is none: a process may fork during a scan.

    Return whether the last scan found none. The root *reaper* is not killed: as long as it lives, processes that lose their parent
    become its children, so that they are found.

    It blocks for a few milliseconds. A process that cannot be killed (uninterruptible sleep) is left after some attempts.
    """
    for root in set(roots) - {reaper}:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(root, signal.SIGKILL)
    clean = 0
    found = set[int]()
    for _ in range(_ROUNDS):
        found, sure = _scan(roots, process_tags)
        found.discard(reaper or 0)
        clean = clean + 1 if sure and not found else 0
        if clean == _CLEAN_ROUNDS:
            return True
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_PAUSE_S)
    return not found


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
                # the command's name is in parentheses and may contain parentheses and spaces
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
    """Return whether one of *wanted* is in the environment of *pid*; None if the environment is empty, as during an exec."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123
            environ = file.read()
    except OSError:  # another user's process, one that has ended, or no /proc
        return False
    return any(tag in environ for tag in wanted) if environ else None


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

"""Measures the memory of processes, and reads how much memory this process may use."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

BYTES_PER_MB = 1 << 20

_PAGE_BYTES = resource.getpagesize()
_HAS_CHILDREN_FILES = os.path.exists(f"/proc/self/task/{os.getpid()}/children")  # noqa: PTH110 - Linux


def resident_bytes(pid: int) -> int:
    """Return the resident memory of process *pid*; 0 if the process does not exist."""
    try:
        with open(f"/proc/{pid}/statm", "rb", buffering=0) as file:  # noqa: PTH123 - at the end of every step
            return int(file.read().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError):
        pass
    try:
        return int(psutil.Process(pid).memory_info().rss)  # not Linux
    except psutil.Error:
        return 0


def peak_resident_bytes(pid: int) -> int:
    """Return the highest resident memory that process *pid* has had since its start; 0 if it is unknown (not Linux)."""
    try:
        with open(f"/proc/{pid}/status", "rb", buffering=0) as file:  # noqa: PTH123 - at the start and the end of steps
            return int(file.read().partition(b"VmHWM:")[2].split(None, 1)[0]) * 1024
    except (OSError, IndexError):
        return 0


def resident_bytes_with_descendants(pid: int | None, root_pid: int | None) -> int:
    """Return the memory of *pid*, of its descendants, and of those of *root_pid*, which have lost their parent."""
    if pid is None or root_pid is None:  # not started yet
        return 0
    return sum(resident_bytes(each) for each in {pid, *_descendants(pid), *_descendants(root_pid)})


def proportional_bytes(pids: Sequence[int]) -> int:
    """
    Return the memory of *pids* and of all processes below them; a page that processes share is counted once in total.

    That is the proportional set size (Linux). Where it cannot be read, the resident memory counts.
    """
    everyone = {pid for parent in pids for pid in (parent, *_descendants(parent))}
    return sum(_proportional_bytes(pid) for pid in everyone)


def find_memory_limit(*, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """
    Return the memory in bytes that this process and its children may use: of the machine, or of its control group if less.

    Args:
        proc: The folder of the process file system.
        cgroups: The folder of the control groups, version 1 or 2.
    """
    return min([psutil.virtual_memory().total, *_cgroup_limits(proc, cgroups)])


def _descendants(pid: int) -> list[int]:
    if not _HAS_CHILDREN_FILES:
        with contextlib.suppress(psutil.Error):
            return [child.pid for child in psutil.Process(pid).children(recursive=True)]
        return []
    found: list[int] = []
    waiting = [pid]
    while waiting:
        children = _children(waiting.pop())
        found += children
        waiting += children
    return found


def _children(pid: int) -> list[int]:
    """The children of process *pid*; psutil reads every process of the machine to find them."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:  # noqa: PTH123
                found += map(int, file.read().split())
    return found


def _proportional_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:  # noqa: PTH123 - for each worker
            return next(int(line.split()[1]) for line in file if line.startswith(b"Pss:")) * 1024
    except (OSError, StopIteration):
        return resident_bytes(pid)


def _cgroup_limits(proc: Path, cgroups: Path) -> Iterator[int]:
    """The limits of this process's control group and of all groups above it."""
    try:
        groups = (proc / "self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, name = cgroups, "memory.max"
        elif "memory" in controllers.split(","):
            top, name = cgroups / "memory", "memory.limit_in_bytes"
        else:
            continue
        # in a container, the path is that of the host, and the group of the container is mounted at the top
        group = top / path.strip("/")
        for folder in (group, *group.parents):
            with contextlib.suppress(OSError, ValueError):  # a group without a limit has the word `max`
                yield int((folder / name).read_text())
            if folder == top:
                break

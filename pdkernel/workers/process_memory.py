"""
Measures the memory of processes, and ends a step that exceeds its limit.

Memory that processes share belongs to no process: a file in memory (memfd), a shared mapping, an object of System V. It counts once,
whether it is mapped or not. `SharedMemory` finds it by the open files, the mappings and the lists of System V objects of processes.

Sampling must not slow down a short step. Without a limit, the first sample is taken after half a second, and another when the
step ends, unless the step took less than `MIN_SAMPLED_DURATION_S`. With a limit, the next sample is due before the step can have
filled what it has left: a sample is never later than `LIMITED_SAMPLE_INTERVAL_S`, and sooner when little is left.

With a limit, the highest memory of the process between two samples counts, too. The system reports it for the whole life of a
worker, so it is that of the step if it has grown; and at the end of a Bash or Go step, also for the programs that it waited for.
Of other processes and of shared memory, only samples count.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import math
import os
import platform
import re
import resource
import stat
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import ClassVar
from weakref import WeakKeyDictionary

from pdkernel.common.blocking import run_blocking
from pdkernel.errors import StepError
from pdkernel.workers.child_process import ChildProcess

BYTES_PER_MB = 1 << 20
FREE_BUFFERS = 512
"""How many sockets and pipes of a step count nothing; each of the others counts as much as it may hold in the kernel."""

_PAGE_BYTES = resource.getpagesize()
_BLOCK_BYTES = 512
_THREAD_BYTES = 24 << 10  # the stack of a thread in the kernel, and its description
_SEMAPHORE_BYTES = 128
_FEW_BUFFERS = 16  # of a worker: its pipes, and some connections
_BUFFER_BYTES = 208 << 10  # the default of net.core.wmem_max; pipes of a user hold 64 MB together
_SEGMENT_USED, _QUEUE_USED, _SET_SEMAPHORES = 14, 3, 3  # columns of /proc/sysvipc/shm, msg and sem
_SHARED_MAPPING = re.compile(rb"^(\S+) ...s \S+ (\S+) (\d+)(?! */SYSV)", re.MULTILINE)
_HELD_BY_SOCKET, _HELD_BY_RING = "scm_fds:", "UserFiles:"  # fields of /proc/PID/fdinfo
_RESIDENT = b"VmRSS"
_STATUS = re.compile(rb"^(Rss\w+|VmPTE|VmRSS|Threads):\s+(\d+)", re.MULTILINE)
_RING = "anon_inode:[io_uring]"
_KCMP = {"x86_64": 312, "aarch64": 272}.get(platform.machine())
_KCMP_FILES = 2
_HAS_CHILDREN_FILES = os.path.exists(f"/proc/self/task/{os.getpid()}/children")  # noqa: PTH110 - Linux


def resident_bytes(pid: int) -> int:
    """Return the resident memory of process *pid*; 0 if the process does not exist."""
    try:
        with open(f"/proc/{pid}/statm", "rb", buffering=0) as file:  # noqa: PTH123 - at the end of every step
            return int(file.read().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError):
        pass
    import psutil  # slow to import, and most commands start no process

    try:
        return int(psutil.Process(pid).memory_info().rss)  # not Linux
    except psutil.Error:
        return 0


def resident_and_peak_bytes(pid: int) -> tuple[int, int]:
    """Return the resident memory of process *pid* now, and the highest since its start; 0 for what is unknown."""
    try:
        with open(f"/proc/{pid}/status", "rb", buffering=0) as file:  # noqa: PTH123 - at the start and the end of steps
            peak, _, _, resident, _ = file.read().partition(b"VmHWM:")[2].split(None, 5)[:5]
        return int(resident) * 1024, int(peak) * 1024
    except (OSError, ValueError):  # not Linux, or it has ended
        return resident_bytes(pid), 0


class SharedMemory:
    """
    The shared memory, sockets and pipes of some processes (Linux).

    Attributes:
        bytes: How many bytes they use.
        may_hide: How many more bytes they may have where this process cannot look: without a limit if descriptors are on their way
            through a socket or held by an io_uring, or a process does not let this process look; as much as is mapped if only root may look.
    """

    def __init__(self, threads: Collection[int], system_v: Sequence[int] = ()) -> None:
        """
        Look for the shared memory of the processes that have *threads*.

        Args:
            threads: A thread that has not ended of each process; its first one has the number of the process.
            system_v: Descriptors of their `/proc/sysvipc/shm`, `msg` and `sem`, or nothing.
        """
        self.may_hide = 0.0
        self._objects: dict[int, int] = {}  # size in bytes by inode number
        self._buffers: set[int] = set()
        self._system_v_bytes = system_v_bytes(system_v)
        if sys.platform == "linux":
            for thread in threads:
                for table in _descriptor_tables(thread):
                    self._look_into(table, self._add_files)
                self._look_into(f"/proc/{thread}", self._add_mappings)

    @property
    def bytes(self) -> int:
        """The memory that was found."""
        return sum(self._objects.values()) + self._system_v_bytes

    @property
    def buffer_bytes(self) -> int:
        """What their sockets and pipes hold in the kernel: the data of TCP connections, and a share for each of many others."""
        found = max(0, len(self._buffers) - FREE_BUFFERS) * _BUFFER_BYTES
        return found + (_tcp_bytes(self._buffers) if len(self._buffers) > _FEW_BUFFERS else 0)

    def _look_into(self, thread: str, add: Callable[[str], None]) -> None:
        try:
            add(thread)
        except PermissionError:
            if _RESIDENT in _read_status(thread):
                self.may_hide = math.inf
        except OSError:  # it has ended
            pass

    def _add_files(self, thread: str) -> None:
        folder = os.open(f"{thread}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in os.listdir(folder):  # noqa: PTH208 - by descriptor
                with contextlib.suppress(FileNotFoundError):  # it was closed
                    found = os.stat(name, dir_fd=folder)
                    kind = stat.S_IFMT(found.st_mode)
                    if kind in (stat.S_IFSOCK, stat.S_IFIFO):
                        if kind == stat.S_IFSOCK and found.st_ino not in self._buffers:
                            self._add_held(f"{thread}/fdinfo/{name}", _HELD_BY_SOCKET)
                        self._buffers.add(found.st_ino)
                    elif found.st_dev == _memory_device():
                        self._objects[found.st_ino] = found.st_blocks * _BLOCK_BYTES
                    elif kind == 0 and os.readlink(name, dir_fd=folder) == _RING:
                        # without the system call filter of steps, Node.js has some, in which it keeps no files
                        self._add_held(f"{thread}/fdinfo/{name}", _HELD_BY_RING)
        finally:
            os.close(folder)

    def _add_held(self, description: str, field: str) -> None:
        """Look whether a socket or an io_uring holds descriptors; *field* of its *description* has their number."""
        if self.may_hide < math.inf:
            with open(description, "rb", buffering=0) as file:  # noqa: PTH123 - while steps run
                if int((file.readall().partition(field.encode())[2].split(None, 1) or [b"0"])[0]):
                    self.may_hide = math.inf

    def _add_mappings(self, thread: str) -> None:
        with open(f"{thread}/maps", "rb", buffering=0) as file:  # noqa: PTH123 - while steps run
            text = file.readall()
        device = f"{os.major(_memory_device()):02x}:{os.minor(_memory_device()):02x}".encode()
        if b" %b " % device not in text:
            return
        for place, of, inode in _SHARED_MAPPING.findall(text):
            if of == device and int(inode) not in self._objects:
                try:
                    found = os.stat(f"{thread}/map_files/{place.decode()}")  # noqa: PTH116 - while steps run
                except OSError:  # only root may; pages of a mapping exist also if the process has released them
                    start, end = (int(each, 16) for each in place.split(b"-"))
                    self.may_hide += end - start
                else:
                    self._objects[found.st_ino] = found.st_blocks * _BLOCK_BYTES


class StepMemory:
    """
    Measures the processes of a step again and again.

    Shared memory may be where this process cannot look (`SharedMemory.may_hide`). Then the step counts for what the shared memory of the
    machine has grown since a measurement without such places, less what was found for all steps of this process.
    """

    _found: ClassVar[WeakKeyDictionary[StepMemory, int]] = WeakKeyDictionary()
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, *, read_machine: Callable[[], int] | None = None) -> None:
        self._read_machine = read_machine or _machine_shared_bytes
        self._unexplained_before: int | None = None

    def measure(self, pid: int | None, root_pid: int | None, system_v: Sequence[int] = ()) -> int:
        """
        Return the bytes that *pid*, its descendants, and those of *root_pid*, which have lost their parent, use.

        Args:
            pid: The process, or None if it is not started yet.
            root_pid: Its ancestor, or None.
            system_v: As for `SharedMemory`.
        """
        if pid is None or root_pid is None:
            return 0
        everyone = {pid, *_descendants(pid), *_descendants(root_pid)}
        statuses = dict(map(_find_living_thread, everyone))
        shared = SharedMemory(statuses, system_v)
        mapped = max(of_process.get(b"RssShmem", 0) for of_process in statuses.values())
        private = sum(_private_bytes(of_process) or resident_bytes(each) for each, of_process in statuses.items())
        return private + self._count_shared(shared, max(shared.bytes, mapped)) + shared.buffer_bytes

    def _count_shared(self, shared: SharedMemory, found: int) -> int:
        with self._lock:
            self._found[self] = found
            unexplained = self._read_machine() - sum(self._found.values())
        if self._unexplained_before is None or not shared.may_hide:
            self._unexplained_before = unexplained
        return found + int(min(max(0, unexplained - self._unexplained_before), shared.may_hide))


def holds_shared_memory(pid: int, system_v: Sequence[int]) -> bool:
    """Return whether *pid*, with the descriptors *system_v* as for `SharedMemory`, would pass shared memory on to its next run."""
    found = SharedMemory([pid], system_v)
    return found.bytes + found.may_hide > 0


def system_v_bytes(files: Sequence[int]) -> int:
    """Return the memory of the System V objects that *files* list: `/proc/sysvipc/shm`, `msg` and `sem`, or nothing."""
    used = 0
    for file, column, size in zip(
        files, (_SEGMENT_USED, _QUEUE_USED, _SET_SEMAPHORES), (1, 1, _SEMAPHORE_BYTES), strict=False
    ):
        _, *lines = _read_all(file).splitlines()
        used += sum(int(line.split()[column]) + 1 for line in lines) * size
    return used


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
    import psutil

    return min([psutil.virtual_memory().total, *_cgroup_limits(proc, cgroups)])


def _descendants(pid: int) -> list[int]:
    if not _HAS_CHILDREN_FILES:
        import psutil

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
    """Return the children of process *pid*; psutil reads every process of the machine to find them."""
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


def _private_bytes(status: Mapping[bytes, int]) -> int:
    """Return what a process uses besides shared memory: its pages, its page tables and its threads."""
    resident = status.get(_RESIDENT, 0) - status.get(b"RssShmem", 0)
    return resident + status.get(b"VmPTE", 0) + status.get(b"Threads", 0) * _THREAD_BYTES


def _find_living_thread(pid: int) -> tuple[int, dict[bytes, int]]:
    """
    Return a thread of process *pid* that has not ended, as a process id for `/proc`, and its numbers as `_read_status` does.

    It is not the first one if a program has ended that: all numbers of the process in `/proc/PID` are then 0.
    """
    status = _read_status(f"/proc/{pid}")
    if status and _RESIDENT not in status:
        with contextlib.suppress(OSError):
            for thread in map(int, os.listdir(f"/proc/{pid}/task")):  # noqa: PTH208 - while steps run
                of_thread = _read_status(f"/proc/{thread}")
                if _RESIDENT in of_thread:
                    return thread, of_thread
    return pid, status


def _read_status(process: str) -> dict[bytes, int]:
    """Return numbers of `status` in the folder *process* or that of a thread, memory in bytes; empty if it cannot be read."""
    try:
        with open(f"{process}/status", "rb", buffering=0) as file:  # noqa: PTH123 - while steps run
            found = _STATUS.findall(file.read())
    except OSError:
        return {}
    return {name: int(number) * (1 if name == b"Threads" else 1024) for name, number in found}


def _descriptor_tables(pid: int) -> Iterator[str]:
    """Yield the folder in `/proc` of *pid*, and of each of its threads that has open files of its own."""
    process = f"/proc/{pid}"
    yield process
    threads: list[str] = []
    with contextlib.suppress(OSError):  # it has ended
        threads = os.listdir(f"{process}/task")  # noqa: PTH208 - while steps run
    for thread in threads if len(threads) > 1 else ():
        if int(thread) != pid and (_KCMP is None or _libc().syscall(_KCMP, pid, int(thread), _KCMP_FILES, 0, 0)):
            yield f"{process}/task/{thread}"


def _tcp_bytes(sockets: Collection[int]) -> int:
    """Return the bytes that wait in the TCP connections with these inode numbers, to be sent or to be read."""
    used = 0
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError), open(f"/proc/net/{name}", "rb") as file:  # noqa: PTH123 - while steps run
            next(file, None)
            for line in file:
                fields = line.split(None, 10)
                if int(fields[9]) in sockets:
                    sent, received = fields[4].split(b":")
                    used += int(sent, 16) + int(received, 16)
    return used


def _machine_shared_bytes() -> int:
    """Return the shared memory of the machine (`Shmem` of `/proc/meminfo`); 0 where it is not known."""
    with contextlib.suppress(OSError, IndexError), open("/proc/meminfo", "rb", buffering=0) as file:  # noqa: PTH123
        return int(file.read().partition(b"\nShmem:")[2].split(None, 1)[0]) * 1024
    return 0


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


@cache
def _memory_device() -> int:
    """Return the number of the device that has all shared memory but that of mounted file systems."""
    file = os.memfd_create("pdkernel")
    try:
        return os.fstat(file).st_dev
    finally:
        os.close(file)


def _read_all(file: int) -> bytes:
    text = b""
    while part := os.pread(file, 1 << 20, len(text)):
        text += part
    return text


def _cgroup_limits(proc: Path, cgroups: Path) -> Iterator[int]:
    """Yield the limits of this process's control group and of all groups above it."""
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


SAMPLE_INTERVAL_S = 0.5
"""Seconds between two samples, and before the first sample, if there is no limit."""
LIMITED_SAMPLE_INTERVAL_S = 0.1
MIN_SAMPLE_INTERVAL_S = 0.01
FILL_BYTES_PER_S = 4 << 30
"""How fast a step may fill memory."""
MIN_SAMPLED_DURATION_S = 0.02
"""Steps shorter than this, in seconds, are not sampled without a limit."""


class StepMemoryError(StepError):
    """The step's processes used more memory than the workflow's settings allow."""

    code = "memory"


class MemoryWatch:
    """
    Samples the memory of a process and its children until it is closed.

    Args:
        process: The process; its ids may become known later.
        limit_mb: The limit for all processes together in megabytes, or None.
        on_exceeded: Called with the error when they exceed the limit.

    Attributes:
        peak_bytes: The highest sample in bytes.
        error: The error if the limit was exceeded, or None.
    """

    def __init__(
        self, process: ChildProcess, limit_mb: int | None, on_exceeded: Callable[[StepMemoryError], None]
    ) -> None:
        self.peak_bytes = 0
        self.error: StepMemoryError | None = None
        self._process = process
        self._limit_mb = limit_mb
        self._on_exceeded = on_exceeded
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        now, self._peak_before = (0, 0) if limit_mb is None else self._read_memory()
        self._memory = StepMemory()
        self._timer = self._loop.call_later(self._wait_s(now), self._sample)

    def close(self) -> None:
        """Take the last sample and stop; without a limit, a very short step is not sampled."""
        self._closed = True
        self._timer.cancel()
        if self._limit_mb is not None or self._loop.time() - self._began >= MIN_SAMPLED_DURATION_S:
            now, peak = self._read_memory()
            self._record(max(now, self._process.peak_bytes, peak if peak > self._peak_before else 0))

    def _read_memory(self) -> tuple[int, int]:
        """Return the resident memory of the process now, and the highest since its start if there is a limit."""
        pid = self._process.pid if self._process.exit_code is None else None
        if not pid:
            return 0, 0
        return (resident_bytes(pid), 0) if self._limit_mb is None else resident_and_peak_bytes(pid)

    def _wait_s(self, used_bytes: int) -> float:
        if self._limit_mb is None:
            return SAMPLE_INTERVAL_S
        left_s = (self._limit_mb * BYTES_PER_MB - used_bytes) / FILL_BYTES_PER_S
        return min(max(left_s, MIN_SAMPLE_INTERVAL_S), LIMITED_SAMPLE_INTERVAL_S)

    def _sample(self) -> None:
        system_v: list[int] = []
        try:
            for each in self._process.system_v:
                system_v.append(os.dup(each))  # noqa: PERF401 - the process may be forgotten meanwhile
        except OSError:  # no descriptors are left: the next sample may find some
            for each in system_v:
                os.close(each)
            self._timer = self._loop.call_later(LIMITED_SAMPLE_INTERVAL_S, self._sample)
            return
        sample = run_blocking(self._measure, self._process.pid, self._process.root_pid, system_v)
        sample.add_done_callback(self._on_sampled)

    def _measure(self, pid: int | None, root_pid: int | None, system_v: Sequence[int]) -> int:
        try:
            return self._memory.measure(pid, root_pid, system_v)
        finally:
            for each in system_v:
                os.close(each)

    def _on_sampled(self, sample: asyncio.Future[int]) -> None:
        if self._closed or sample.cancelled():
            return
        self._record(sample.result())
        self._timer = self._loop.call_later(self._wait_s(sample.result()), self._sample)

    def _record(self, used_bytes: int) -> None:
        self.peak_bytes = max(self.peak_bytes, used_bytes)
        if self.error is None and self._limit_mb is not None and used_bytes > self._limit_mb * BYTES_PER_MB:
            self.error = build_memory_error(used_bytes, self._limit_mb)
            self._on_exceeded(self.error)


def build_memory_error(used_bytes: int, limit_mb: int) -> StepMemoryError:
    """Build the error of a step whose processes use *used_bytes*; the message begins as the platform's does."""
    return StepMemoryError(
        f"Out of Memory: the step used {used_bytes / BYTES_PER_MB:,.0f} MB, and settings.lambda_memory allows {limit_mb:,} MB.",
        name="OutOfMemory",
        fix="Raise settings.lambda_memory, or stream large data through a file in the temporary folder ($TMPDIR; on "
        "Pipedream, /tmp).",
    )

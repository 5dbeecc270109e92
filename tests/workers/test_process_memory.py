"""The memory of processes, the limits of this process, and the end of steps that exceed theirs."""

from __future__ import annotations

import asyncio
import ctypes
import math
import mmap
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import psutil
import pytest

from pdkernel.workers.child_process import ChildProcess
from pdkernel.workers.interpreters import find_node
from pdkernel.workers.process_memory import (
    BYTES_PER_MB,
    LIMITED_SAMPLE_INTERVAL_S,
    MemoryWatch,
    SharedMemory,
    StepMemory,
    StepMemoryError,
    build_memory_error,
    find_memory_limit,
    proportional_bytes,
    resident_bytes,
)

MB = 1 << 20
HOLD = "import sys; held = bytearray(50 << 20); {}print(flush=True); sys.stdin.read()"


@pytest.mark.parametrize("start", ["run", "threading.Thread(target=run).start"])
def test_memory_of_children_counts(start: str) -> None:
    """The memory of a process includes that of the processes that its threads started, and of theirs."""
    child = HOLD.format("")
    parent = (
        f"import subprocess, sys, threading\ndef run(): subprocess.run([sys.executable, '-c', {child!r}])\n{start}()"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        own = StepMemory().measure(os.getpid(), os.getpid()) - resident_bytes(os.getpid())
        measured = (
            proportional_bytes([process.pid]),
            StepMemory().measure(process.pid, process.pid),
            own,
            StepMemory().measure(2**22 + 1, process.pid),  # its program has ended: no process has the number
        )
        process.stdin.close()  # type: ignore[union-attr]

    assert min(measured) > 50 * MB


@pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(),
    reason="this system has no /proc/self/smaps_rollup, which lists shared memory",
)
def test_shared_memory_counts_once() -> None:
    """Two processes that share their memory after a fork count about once together."""
    code = HOLD.format("import os; os.fork(); ")
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.readline()
        measured, resident = (
            proportional_bytes([process.pid]),
            StepMemory().measure(process.pid, process.pid),
        )
        process.stdin.close()  # type: ignore[union-attr]

    assert measured < 80 * MB
    assert resident > 100 * MB


def test_process_that_has_ended_uses_nothing() -> None:
    """A process that ends before the measurement counts 0."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()

    assert proportional_bytes([ended.pid]) == 0


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        ("0::/app/web\n", {"app/web/memory.max": "max\n", "app/memory.max": f"{64 * MB}\n"}, 64 * MB),
        ("0::/app/web\n", {"app/web/memory.max": f"{32 * MB}\n", "app/memory.max": f"{64 * MB}\n"}, 32 * MB),
        ("0::/host/path\n", {"memory.max": f"{48 * MB}\n"}, 48 * MB),
        ("4:memory:/app\n0::/\n", {"memory/app/memory.limit_in_bytes": f"{16 * MB}\n"}, 16 * MB),
        ("4:cpu,memory:/app\n", {"memory/memory.limit_in_bytes": f"{16 * MB}\n"}, 16 * MB),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),
        ("0::/\n", {}, None),
    ],
    ids=["above", "nearest", "container", "version 1", "version 1 of a container", "version 1 without", "none"],
)
def test_memory_limit(tmp_path: Path, groups: str, files: dict[str, str], limit: int | None) -> None:
    """The limit is the lowest of the control group, of the groups above it, and of the machine."""
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "self/cgroup").write_text(groups)
    for name, text in files.items():
        (cgroups / name).parent.mkdir(parents=True, exist_ok=True)
        (cgroups / name).write_text(text)

    assert find_memory_limit(proc=proc, cgroups=cgroups) == (limit or psutil.virtual_memory().total)


def test_memory_limit_without_proc(tmp_path: Path) -> None:
    """Where control groups do not exist, the limit is the machine's memory."""
    assert find_memory_limit(proc=tmp_path, cgroups=tmp_path) == psutil.virtual_memory().total


def test_own_memory_is_measured() -> None:
    """This process, whose memory is known to psutil, has a plausible size; memory that it does not use does not count."""
    with mmap.mmap(-1, 1 << 30):
        this = psutil.Process()
        known = known_with_children = this.memory_info().rss
        for child in this.children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # what other tests have left may end meanwhile
                known_with_children += child.memory_info().rss
        proportional, resident = proportional_bytes([os.getpid()]), resident_bytes(os.getpid())

    assert 10 * MB < proportional < 1.2 * known_with_children
    assert known / 1.2 < resident < 1.2 * known


linux = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="this system has no files in memory")


@linux
def test_file_in_memory_counts_once() -> None:
    """A file in memory counts as much as it has, also if two descriptors and a mapping refer to it."""
    file = os.memfd_create("test")
    os.write(file, bytes(20 * MB))
    before = SharedMemory([os.getpid()]).bytes
    copy = os.dup(file)
    with mmap.mmap(file, 20 * MB):
        both = SharedMemory([os.getpid()]).bytes
    os.close(copy)
    os.close(file)

    assert 20 * MB <= before == both
    assert SharedMemory([os.getpid()]).bytes <= before - 20 * MB


@linux
def test_process_whose_first_thread_has_ended_counts() -> None:
    """The memory of a process counts as long as one of its threads runs."""
    code = (
        "import ctypes, os, sys, threading\n"
        "def run():\n"
        "    while '(zombie)' not in open('/proc/self/status').read(): pass\n"
        "    file = os.memfd_create('test'); os.write(file, bytes(50 << 20))\n"
        "    held = b'x' * (50 << 20); print(flush=True); sys.stdin.read()\n"
        "threading.Thread(target=run, daemon=True).start()\n"
        "ctypes.CDLL(None).pthread_exit(None)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        measured = StepMemory().measure(process.pid, process.pid)
        process.kill()

    assert measured > 100 * MB


@linux
def test_ended_process_hides_nothing() -> None:
    """A process that has ended, whose parent has not asked for its result yet, has no memory that this process cannot see."""
    with subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        found = SharedMemory([process.pid])

    assert (found.bytes, found.may_hide) == (0, 0)


@linux
def test_node_holds_no_shared_memory() -> None:
    """What Node.js opens for itself, such as an empty io_uring, is not shared memory."""
    code = "setTimeout(() => console.log(), 50); process.stdin.resume();"
    with subprocess.Popen([find_node(), "-e", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = SharedMemory([process.pid])
        process.kill()

    assert (found.bytes, found.may_hide) == (0, 0)


@linux
def test_io_uring_with_files_may_hide_memory() -> None:
    """An io_uring keeps files open that every process has closed."""
    libc = ctypes.CDLL(None)
    ring = libc.syscall(425, 1, (ctypes.c_char * 120)())
    if ring < 0:
        pytest.skip("this system has no io_uring")
    before = SharedMemory([os.getpid()]).may_hide
    file = os.memfd_create("test")
    registered = libc.syscall(427, ring, 2, (ctypes.c_int * 1)(file), 1)
    os.close(file)
    after = SharedMemory([os.getpid()]).may_hide
    os.close(ring)

    assert registered == 0
    assert before < after == math.inf


@linux
def test_hidden_memory_counts_by_the_growth_of_the_machine() -> None:
    """While a descriptor is on its way through a socket, unexplained growth of the machine's shared memory is the step's."""
    readings = iter([100 * MB, 400 * MB])
    memory = StepMemory(read_machine=lambda: next(readings))
    pid = os.getpid()
    before = memory.measure(pid, pid)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"\0pdkernel-{pid}")
        listening.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"\0pdkernel-{pid}")
            socket.send_fds(client, [b"x"], [0])
            during = memory.measure(pid, pid)

    assert 290 * MB < during - before < 310 * MB


@linux
def test_growth_of_the_machine_is_not_that_of_a_step_that_hides_nothing() -> None:
    """Shared memory that other programs use meanwhile does not count."""
    readings = iter([100 * MB, 900 * MB])
    memory = StepMemory(read_machine=lambda: next(readings))
    with subprocess.Popen(["sleep", "60"]) as process:
        first, second = (memory.measure(process.pid, process.pid) for _ in range(2))
        process.kill()

    assert abs(second - first) < 100 * MB


@linux
def test_memory_of_other_steps_is_not_that_of_a_step_that_may_hide_some() -> None:
    """What another step has in files in memory explains the growth of the machine's shared memory."""
    readings = iter([100 * MB, 120 * MB, 120 * MB])
    hiding, other = (StepMemory(read_machine=lambda: next(readings)) for _ in range(2))
    here, there = socket.socketpair()
    socket.send_fds(here, [b"x"], [0])
    with subprocess.Popen(["sleep", "60"], pass_fds=[there.fileno()]) as process:
        first = hiding.measure(process.pid, process.pid)
        file = os.memfd_create("test")
        os.write(file, bytes(20 * MB))
        with subprocess.Popen(["sleep", "60"], pass_fds=[file]) as holder:
            other.measure(holder.pid, holder.pid)
            second = hiding.measure(process.pid, process.pid)
            holder.kill()
        process.kill()
    os.close(file)
    here.close()
    there.close()

    assert abs(second - first) < 5 * MB


LARGE = 10**6
"""A limit in megabytes that no step exceeds."""


@dataclass
class OwnProcess:
    """This process, as a step's process."""

    pid: int = os.getpid()
    root_pid: int = os.getpid()
    exit_code: int | None = None
    peak_bytes: int = 0
    system_v: tuple[int, ...] = ()


def watch(limit_mb: int | None, on_exceeded: Callable[[StepMemoryError], None] = lambda _: None) -> MemoryWatch:
    """Watch this process."""
    return MemoryWatch(cast("ChildProcess", OwnProcess()), limit_mb, on_exceeded)


@contextmanager
def a_child(megabytes: int) -> Iterator[None]:
    """A child process of this process with so much memory."""
    code = f"data = bytearray(b'x' * {megabytes} * {BYTES_PER_MB}); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        yield
        child.kill()


async def until(condition: Callable[[], bool]) -> None:
    """Wait until *condition* holds."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def test_the_peak_has_the_children() -> None:
    """The highest sample counts the processes that the step has started, and stays when these have ended."""
    watching = watch(LARGE)
    with a_child(60):
        await until(lambda: watching.peak_bytes > resident_bytes(os.getpid()) + 40 * BYTES_PER_MB)
    watching.close()

    assert watching.peak_bytes > resident_bytes(os.getpid()) + 30 * BYTES_PER_MB
    assert watching.error is None


async def test_the_limit_is_reported_once() -> None:
    """A step that stays above its limit has one error, which the end of the step does not repeat."""
    errors: list[StepMemoryError] = []
    watching = watch(1, errors.append)
    await until(lambda: bool(errors))
    first = watching.peak_bytes
    with a_child(60):
        await until(lambda: watching.peak_bytes > first + 40 * BYTES_PER_MB)
    watching.close()

    assert errors == [watching.error]
    assert errors[0].message.endswith("settings.lambda_memory allows 1 MB.")


async def test_the_last_sample_counts() -> None:
    """A short step with a limit is sampled at its end, and a step of some hundredths of a second without one too."""
    errors: list[StepMemoryError] = []
    limited, free = watch(1, errors.append), watch(None)
    limited.close()
    await asyncio.sleep(0.05)
    free.close()

    assert len(errors) == 1
    assert (limited.peak_bytes > 0, free.peak_bytes > 0, free.error) == (True, True, None)


@contextmanager
def a_program() -> Iterator[tuple[OwnProcess, Callable[[int], None]]]:
    """A program, and a function that lets it use so many megabytes for a moment."""
    code = "import sys\nfor line in sys.stdin:\n    len(b'x' * (int(line) << 20))\n    print(flush=True)"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        stdin, stdout = program.stdin, program.stdout
        assert stdin is not None
        assert stdout is not None

        def grow(megabytes: int) -> None:
            stdin.write(b"%d\n" % megabytes)
            stdin.flush()
            stdout.readline()

        grow(0)
        yield OwnProcess(program.pid, program.pid), grow
        program.kill()


@pytest.mark.parametrize(("limit_mb", "is_exceeded"), [(100, True), (300, False), (None, False)])
async def test_memory_between_two_samples_counts(limit_mb: int | None, is_exceeded: bool) -> None:
    """The highest memory of a process is compared with the limit, though the process has released it before the sample."""
    with a_program() as (process, grow):
        watching = MemoryWatch(cast("ChildProcess", process), limit_mb, lambda _: None)
        grow(200)
        watching.close()

    assert (watching.error is not None) == is_exceeded
    assert (watching.peak_bytes > 200 * BYTES_PER_MB) == (limit_mb is not None)


async def test_memory_of_an_earlier_step_does_not_count() -> None:
    """What the process used before the watch, for a step with another limit, is not memory of the step."""
    with a_program() as (process, grow):
        grow(200)
        watching = MemoryWatch(cast("ChildProcess", process), 100, lambda _: None)
        grow(20)
        watching.close()

    assert watching.error is None
    assert 0 < watching.peak_bytes < 100 * BYTES_PER_MB


async def test_highest_memory_of_an_ended_program_counts() -> None:
    """A program that has ended reports its highest memory; its number may belong to another process by now."""
    process = OwnProcess()
    watching = MemoryWatch(cast("ChildProcess", process), LARGE, lambda _: None)
    process.exit_code, process.peak_bytes = 0, 10**12
    watching.close()

    assert watching.peak_bytes == 10**12


async def test_an_ended_step_is_not_measured_again() -> None:
    """A step that ends while it is measured is not measured again."""
    samples = 0

    class EndsMeanwhile:
        """This process, as that of a step which ends when a sample begins."""

        pid = os.getpid()
        exit_code = None
        peak_bytes = 0
        system_v = ()

        @property
        def root_pid(self) -> int:
            nonlocal samples
            samples += 1
            watching.close()
            return os.getpid()

    watching = MemoryWatch(cast("ChildProcess", EndsMeanwhile()), LARGE, lambda _: None)
    await until(lambda: samples > 0)
    await asyncio.sleep(3 * LIMITED_SAMPLE_INTERVAL_S)

    assert samples == 1


async def test_a_sample_that_fails_is_repeated() -> None:
    """Without free descriptors a sample fails; the limit holds again as soon as there are some."""
    exceeded: list[StepMemoryError] = []
    process = OwnProcess(system_v=(-1,))
    watching = MemoryWatch(cast("ChildProcess", process), 1, exceeded.append)
    await asyncio.sleep(3 * LIMITED_SAMPLE_INTERVAL_S)
    failed = [*exceeded]
    process.system_v = ()
    await until(lambda: bool(exceeded))
    watching.close()

    assert failed == []


async def test_less_than_the_limit_is_allowed() -> None:
    """The limit is in megabytes of 1,048,576 bytes."""
    used_mb = resident_bytes(os.getpid()) / BYTES_PER_MB
    watching = watch(round(used_mb * 1.02) + 1)
    watching.close()

    assert watching.error is None


def test_the_message_begins_as_the_platforms() -> None:
    """The error has both numbers in megabytes."""
    error = build_memory_error(3000 * BYTES_PER_MB, 2048)

    assert error.message == "Out of Memory: the step used 3,000 MB, and settings.lambda_memory allows 2,048 MB."
    assert error.code == "memory"

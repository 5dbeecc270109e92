"""The memory of processes, and the limits of this process."""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from pdkernel.workers.interpreters import find_node
from pdkernel.workers.process_memory import (
    SharedMemory,
    StepMemory,
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

"""The memory of processes, and the limits of this process."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from pdkernel.workers.process_memory import (
    find_memory_limit,
    proportional_bytes,
    resident_bytes,
    resident_bytes_with_descendants,
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
        own = resident_bytes_with_descendants(os.getpid(), os.getpid()) - resident_bytes(os.getpid())
        measured = (
            proportional_bytes([process.pid]),
            resident_bytes_with_descendants(process.pid, process.pid),
            own,
            resident_bytes_with_descendants(2**22 + 1, process.pid),  # its program has ended: no process has the number
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
            resident_bytes_with_descendants(process.pid, process.pid),
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

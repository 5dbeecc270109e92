"""Memory that belongs to no process: the limit of a workflow holds for it, and nothing of it is left after the run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pdkernel.model import Language, Step
from pdkernel.workers import RunSetup, StepAccess, StepCall, StepOutcome, StepRecorder, WorkerPool

LIMIT_MB = 256
HELPERS = """
import ctypes, mmap, os, socket, subprocess, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
MB = 1 << 20
BLOCK = b"x" * MB

def fill(file, megabytes):
    for _ in range(megabytes):
        os.write(file, BLOCK)

def memfd(megabytes):
    file = os.memfd_create("attack")
    fill(file, megabytes)
    return file

def shared(megabytes):
    held = mmap.mmap(-1, megabytes * MB)
    for number in range(megabytes):
        held[number * MB:(number + 1) * MB] = BLOCK
    return held

def segment(megabytes, detach=True):
    libc.shmat.restype = ctypes.c_void_p
    number = libc.shmget(0, ctypes.c_size_t(megabytes * MB), 0o1600)
    assert number >= 0
    address = ctypes.c_void_p(libc.shmat(number, None, 0))
    ctypes.memset(address, 1, megabytes * MB)
    if detach:
        libc.shmdt(address)

"""
HOARDS = {
    "bytes": "held = [bytes(BLOCK) + b'x' for _ in range(700)]",
    "an anonymous mapping": "held = mmap.mmap(-1, 700 * MB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS); [held.write(BLOCK) for _ in range(700)]",
    "a file in memory": "memfd(700)",
    "many files in memory": "held = [memfd(10) for _ in range(70)]",
    "a mapped file in memory": "file = memfd(700); held = mmap.mmap(file, 700 * MB); os.close(file)",
    "a file in memory on its way through a socket": """
here, there = socket.socketpair()
for _ in range(70):
    file = memfd(10)
    socket.send_fds(here, [b'x'], [file])
    os.close(file)
""",
    "a file in memory on its way through a socket that is not accepted": """
listening = socket.socket(socket.AF_UNIX)
listening.bind("/tmp/attack.sock")
listening.listen(100)
for _ in range(70):
    client, file = socket.socket(socket.AF_UNIX), memfd(10)
    client.connect("/tmp/attack.sock")
    socket.send_fds(client, [b'x'], [file])
    client.close()
    os.close(file)
""",
    "files in memory of a thread with descriptors of its own": """
def hoard():
    assert libc.unshare(0x400) == 0
    files = [memfd(10) for _ in range(70)]
    time.sleep(60)
threading.Thread(target=hoard, daemon=True).start()
""",
    "a file in memory of a sibling": """
here, there = socket.socketpair()
if os.fork() == 0:
    _, files, _, _ = socket.recv_fds(there, 1, 1)
    here.close()
    time.sleep(60)
file = memfd(700)
socket.send_fds(here, [b'x'], [file])
os.close(file)
""",
    "a shared mapping": "held = shared(700)",
    "a shared mapping whose pages are released": """
held = []
for _ in range(35):
    held.append(shared(20))
    held[-1].madvise(mmap.MADV_DONTNEED)
""",
    "segments of System V": "segment(700)",
    "an attached segment of System V": "segment(700, detach=False)",
    "many segments of System V": "[segment(10) for _ in range(70)]",
    "semaphores of System V": "[libc.semget(0, 32000, 0o1600) for _ in range(350)]",
    "many children": """
for _ in range(70):
    if os.fork() == 0:
        held = BLOCK * 10
        time.sleep(60)
""",
    "a daemon": """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 100)
        held = memfd(700)
        time.sleep(60)
    os._exit(0)
""",
    "a process whose first thread has ended": """
def hoard():
    time.sleep(0.1)
    held = [bytes(BLOCK) + b'x' for _ in range(700)]
    time.sleep(60)
if os.fork() == 0:
    threading.Thread(target=hoard, daemon=True).start()
    libc.pthread_exit(None)
""",
    "a process that cannot be looked into": """
libc.prctl(4, 0, 0, 0, 0)
for _ in range(70):
    memfd(10)
""",
    "the buffers of TCP connections": """
held, listening = [], socket.socket()
listening.bind(("127.0.0.1", 0))
listening.listen(500)
for _ in range(240):
    client = socket.create_connection(listening.getsockname())
    held += [client, listening.accept()[0]]
    client.setblocking(False)
    try:
        while True:
            client.send(BLOCK)
    except BlockingIOError:
        pass
""",
    "the buffers of sockets": """
held = []
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
for _ in range(4000):
    pair = socket.socketpair()
    held.append(pair)
    pair[0].setblocking(False)
    try:
        while True:
            pair[0].send(BLOCK[:200000])
    except BlockingIOError:
        pass
""",
}
OTHER_HOARDS: dict[str, tuple[Language, str]] = {
    "Node.js: buffers": (
        "node",
        """
import fs from "fs";
export default { async run() {
  const held = [];
  for (let i = 0; i < 70; i++) { held.push(Buffer.alloc(10 << 20, 1)); await new Promise((done) => setTimeout(done, 1)); }
  await new Promise((done) => setTimeout(done, 60000));
} };
""",
    ),
    "Bash: a child": ("bash", "python3 -c 'held = b\"x\" * (700 << 20); import time; time.sleep(60)' &\nsleep 60"),
    "Bash: a file in memory of a child": (
        "bash",
        "python3 -c 'import os, time; f = os.memfd_create(\"a\"); [os.write(f, bytes(1 << 20)) for _ in range(700)]; time.sleep(60)'",
    ),
}
WITHIN = {
    "a file in memory": "memfd(60)",
    "a shared mapping": "global held; held = shared(60)",
    "a large mapping of which little is used": "global held; held = mmap.mmap(-1, 2000 * MB); held[:MB] = BLOCK",
    "a segment of System V": "segment(60)",
    "an attached segment of System V": "segment(150, detach=False)",
    "many quick files in memory": "memfd(30)",
    "a file in memory that a thread holds": "threading.Thread(target=lambda: (memfd(60), time.sleep(60)), daemon=True).start(); time.sleep(0.2)",
    "files": "open('/tmp/large', 'wb').write(BLOCK * 4); [open(f'/dev/shm/{n}', 'wb').write(BLOCK) for n in range(300)]",
}


def a_step(hoard: str, then: str = "time.sleep(60)") -> Step:
    """A Python step that runs *hoard*."""
    body = "\n".join(f"    {line}" for line in [*hoard.strip().splitlines(), then])
    return Step("hoard", "python", f"{HELPERS}\ndef handler(pd):\n{body}\n")


def run_steps(base: Path, steps: Sequence[Step]) -> list[StepOutcome]:
    """Run each step in a run of one user, with the limit."""

    async def run() -> list[StepOutcome]:
        project = base / "project"
        project.mkdir(exist_ok=True)
        pool = WorkerPool(access=StepAccess(read=frozenset({project}), hide=frozenset({project / ".pdkernel"})))
        outcomes = []
        try:
            for step in steps:
                run = await pool.open_run(RunSetup("run", "demo", {"event": {}, "context": {}}, {}, project))
                call = StepCall(step, memory_limit_mb=LIMIT_MB, timeout_s=30)
                outcomes.append(await run.run_step(call, StepRecorder(step.language)))
                await run.release()
        finally:
            await pool.close()
        return outcomes

    return asyncio.run(run())


def shared_mb() -> float:
    """The shared memory of this machine in megabytes."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Shmem:")) / 1024


@pytest.fixture
def nothing_is_left() -> Iterator[None]:
    """The shared memory of the machine is as before; other programs may use some."""
    before = shared_mb()
    yield
    for _ in range(100):  # the system frees the memory of ended processes one after the other
        if shared_mb() < before + LIMIT_MB / 4:
            return
        time.sleep(0.05)
    pytest.fail(f"{shared_mb() - before:.0f} MB of shared memory are left")


@pytest.mark.usefixtures("nothing_is_left")
@pytest.mark.parametrize("name", HOARDS)
def test_memory_limit_holds(base: Path, name: str) -> None:
    """A Python step that hoards 700 MB is ended, because it has more than the limit of 256 MB."""
    [outcome] = run_steps(base, [a_step(HOARDS[name])])

    assert outcome.error is not None
    assert outcome.error.code == "memory", outcome.error


@pytest.mark.usefixtures("nothing_is_left")
@pytest.mark.parametrize("name", OTHER_HOARDS)
def test_memory_limit_holds_in_other_languages(base: Path, name: str) -> None:
    """A Node.js or Bash step that hoards 700 MB is ended, because it has more than the limit."""
    language, source = OTHER_HOARDS[name]
    [outcome] = run_steps(base, [Step("hoard", language, source)])

    assert outcome.error is not None
    assert outcome.error.code == "memory", outcome.error


@pytest.mark.usefixtures("nothing_is_left")
@pytest.mark.parametrize("name", WITHIN)
def test_memory_within_the_limit_is_allowed(base: Path, name: str) -> None:
    """Steps may use what they need of each kind, run after run: a run does not inherit what the one before it has left."""
    outcomes = run_steps(base, [a_step(WITHIN[name], "time.sleep(0.1)")] * 4)

    assert [outcome.error for outcome in outcomes] == [None] * 4

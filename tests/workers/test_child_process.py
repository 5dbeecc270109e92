"""Processes without a zygote, as on systems without namespaces: `process_tree` finds and ends what they started."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from pdkernel.model import Language
from pdkernel.runtimes import process_tree
from pdkernel.workers import WorkerPool
from pdkernel.workers.child_process import ProcessRequest, SpawnedProcess, open_pipes
from pdkernel.workers.warden_client import WARDEN
from pdkernel.workers.zygote import ZYGOTES, Zygotes, start_process
from tests.workers.conftest import Bench, OpenRun
from tests.workers.test_warden_client import ROOT, left_of
from tests.workers.test_worker import SOURCES, leftovers, marks_of, run_until_up

LANGUAGES: tuple[Language, ...] = ("python", "node", "bash")


@pytest.fixture
async def bench(open_run: OpenRun) -> AsyncIterator[Bench]:
    """A run of a pool that starts processes itself."""
    pool = WorkerPool(zygotes=None)
    yield await open_run(of=pool)
    await pool.close()


@pytest.mark.parametrize("language", LANGUAGES)
async def test_kill_ends_children_in_other_sessions(bench: Bench, language: Language) -> None:
    """A child that left the session ends with the step, which is found by its tag."""
    task = await run_until_up(bench, language, SOURCES["escape"][language])
    marks = marks_of(bench)

    bench.workers.kill()
    outcome = await task

    assert outcome.error is not None
    assert marks
    assert await leftovers(marks) == set()


@pytest.mark.parametrize("language", LANGUAGES)
async def test_exit_by_a_signal_is_reported(bench: Bench, language: Language) -> None:
    """The error names the signal, and the next step runs."""
    error = await bench.fail(language, SOURCES["killed"][language])
    after = await bench.run(language, SOURCES["lookalike"][language], name="after")

    assert "SIGSEGV" in error.message
    assert after.exports == {"$return_value": 1}


async def test_process_that_left_the_group_of_a_bash_step_ends_with_it(bench: Bench) -> None:
    """A process that left the group of its step is found by its tag at the end of the step."""
    source = (
        'setsid sh -c "touch ready; exec sleep 1000" > /dev/null 2>&1 & until [ -e ready ]; do sleep 0.01; done; rm ready; '
        f"echo mark=${process_tree.PROCESS_TAG_VARIABLE} >> $PIPEDREAM_EXPORTS"
    )

    outcome = await bench.run("bash", source)

    assert process_tree.find_processes([], {str(outcome.exports["mark"])}) == set()


def test_process_that_left_an_ended_step_ends_with_the_owner(tmp_path: Path) -> None:
    """If the owner is killed after the program of a step has ended, the warden finds what the program started."""
    tag = secrets.token_hex(16)
    program = (
        "import os, sys, time\nfrom pdkernel.workers.child_process import ProcessRequest, SpawnedProcess, open_pipes\n"
        "escape = 'setsid sh -c \"touch ready; exec sleep 1000\" & until [ -e ready ]; do sleep 0.01; done'\n"
        "own_ends, child_ends = open_pipes('from', 'from')\n"
        "request = ProcessRequest(['/bin/sh', '-c', escape], {'PATH': os.defpath}, sys.argv[1], folder=sys.argv[2])\n"
        "process = SpawnedProcess(request, child_ends)\n"
        "while not process.poll(): time.sleep(0.001)\n"
        "os.kill(os.getpid(), 9)\n"
    )

    subprocess.run([sys.executable, "-c", program, tag, tmp_path], cwd=ROOT, check=False)

    assert (tmp_path / "ready").exists()
    assert left_of(tag) == set()


@pytest.mark.parametrize("when", ["at once", "running", "ended"])
@pytest.mark.parametrize("kind", ["spawned", "zygote"])
async def test_killed_process_leaves_no_open_file(kind: str, when: str) -> None:
    """`kill` closes every descriptor that leads to a process, whose end is not reported; the warden does not look for it any more."""
    own_zygotes = Zygotes()  # has not started when the first process is killed
    zygote = own_zygotes.get() if kind == "zygote" else None
    registered = dict(WARDEN._registered)
    exits: list[int] = []
    counts = []

    for number in range(3):
        own_ends, child_ends = open_pipes("from", "from")
        argv = ["/bin/true"] if when == "ended" else ["/bin/sleep", "1000"]
        # a tag is of one process: `kill` ends every process of the machine that has it, those of other test runs, too
        process = start_process(ProcessRequest(argv, {"PATH": os.defpath}, secrets.token_hex(16)), child_ends, zygote)
        if when == "ended":
            async with asyncio.timeout(60):
                while not process.poll():
                    await asyncio.sleep(0.001)
        elif when == "running":
            process.watch_exit(partial(exits.append, number))
            async with asyncio.timeout(60):
                while process.pid is None:
                    await asyncio.sleep(0.001)
            assert not process.has_children()
        process.kill()
        for descriptor in (*own_ends, *child_ends):
            os.close(descriptor)
        counts.append(len(list(Path("/proc/self/fd").iterdir())))
    await asyncio.sleep(0.01)
    left = WARDEN._registered.items() - registered.items()
    own_zygotes.close()

    assert counts[2] <= counts[0]  # this process may close a file of its own meanwhile
    assert exits == []
    assert left == set()


@pytest.mark.parametrize("kind", ["spawned", "zygote"])
async def test_signals_that_this_process_ignores_end_a_step(kind: str) -> None:
    """A process starts with the usual reactions to signals, whatever the server or the notebook has set."""
    zygotes = Zygotes() if kind == "zygote" else None
    usual = {signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = {each: signal.signal(each, signal.SIG_IGN) for each in usual}
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        own_ends, child_ends = open_pipes("from", "from")
        request = ProcessRequest(["/bin/cat", "/proc/self/status"], {"PATH": os.defpath}, secrets.token_hex(16))
        process = start_process(request, child_ends, zygotes.get() if zygotes else None)
        async with asyncio.timeout(60):
            while not process.poll():
                await asyncio.sleep(0.001)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, masked)
        for each, handler in before.items():
            signal.signal(each, handler)
    status = dict(line.split(":\t", 1) for line in os.read(own_ends[0], 1 << 16).decode().splitlines())
    process.kill()
    if zygotes is not None:
        zygotes.close()
    for descriptor in (*own_ends, *child_ends):
        os.close(descriptor)

    ignored = {each for each in usual if int(status["SigIgn"], 16) >> (each - 1) & 1}
    assert ignored == set()
    assert int(status["SigBlk"], 16) == 0


async def test_end_that_other_code_has_read_is_reported() -> None:
    """If other code of this process waits for every child, the end of a process is known, and its exit code is not."""
    own_ends, child_ends = open_pipes("from", "from")
    process = SpawnedProcess(ProcessRequest(["/bin/true"], {"PATH": os.defpath}, secrets.token_hex(16)), child_ends)
    os.waitpid(process.pid, 0)

    has_ended = process.poll()
    process.kill()
    for descriptor in (*own_ends, *child_ends):
        os.close(descriptor)

    assert has_ended
    assert process.exit_code is None


async def test_group_of_a_program_ends_with_it() -> None:
    """When the end of a program is known, the processes that it left in its group have ended, too."""
    tag = secrets.token_hex(16)
    own_ends, child_ends = open_pipes("from", "from")
    process = SpawnedProcess(ProcessRequest(["/bin/sh", "-c", "sleep 1000 &"], {"PATH": os.defpath}, tag), child_ends)

    async with asyncio.timeout(60):
        while not process.poll():
            await asyncio.sleep(0.001)
    left = await leftovers({tag})
    process.kill()
    for descriptor in (*own_ends, *child_ends):
        os.close(descriptor)

    assert left == set()


@pytest.mark.parametrize("kind", ["spawned", "zygote"])
async def test_program_starts_in_its_folder(tmp_path: Path, kind: str) -> None:
    """The working folder of a program may have any name, and its arguments are not changed."""
    folder = tmp_path / "a  b $HOME 'c'"
    folder.mkdir()
    own_ends, child_ends = open_pipes("from", "from")
    argv = ["/bin/sh", "-c", 'pwd; echo "$1"', "sh", "a  b"]
    request = ProcessRequest(argv, {"PATH": os.defpath}, secrets.token_hex(16), folder=str(folder))

    process = start_process(request, child_ends, ZYGOTES.get() if kind == "zygote" else None)
    async with asyncio.timeout(60):
        while not process.poll():
            await asyncio.sleep(0.001)
    printed = os.read(own_ends[0], 1000)
    process.kill()
    for descriptor in (*own_ends, *child_ends):
        os.close(descriptor)

    assert printed.decode() == f"{folder}\na  b\n"


def test_pipes_are_not_inherited() -> None:
    """No other process that is started meanwhile holds a pipe open, and no descriptor has a number that a child gives to another one."""
    own_ends, child_ends = open_pipes("to", "from")

    inheritable = [os.get_inheritable(each) for each in (*own_ends, *child_ends)]
    blocking = [os.get_blocking(each) for each in (*own_ends, *child_ends)]
    os.write(own_ends[0], b"there")
    os.write(child_ends[1], b"back")
    passed = os.read(child_ends[0], 9), os.read(own_ends[1], 9)
    for descriptor in (*own_ends, *child_ends):
        os.close(descriptor)

    assert inheritable == [False] * 4
    assert blocking == [False, False, True, True]
    assert passed == (b"there", b"back")
    assert min(child_ends) > 4

"""Runs of users in turn leave nothing behind: processes, descriptors, memory and temporary files stay as many."""

from __future__ import annotations

import asyncio
import os
import tempfile
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

import psutil
import pytest

from pdkernel.model import Step
from tests.http_servers import AnsweringServer
from tests.isolation.attacks import Attackers, processes_with

USERS = 4
SETTLED = 20
"""So many equal measurements, each tenth of a second, show that nothing starts or ends any more."""
LITTERING = Step(
    "attack",
    "python",
    """
import os, socket, subprocess, sys, tempfile, threading, time

def handler(pd):
    number = pd.steps["trigger"]["event"]["body"]["number"]
    os.makedirs(f"/tmp/left/{number}")
    with open(f"/tmp/left/{number}/file", "w") as file:
        file.write("x" * 1000)
    tempfile.mkdtemp()
    litter = number % 20
    if litter == 3:
        sys.kept = [open(os.devnull) for _ in range(3)]
    if litter == 7:
        threading.Thread(target=time.sleep, args=[60], daemon=True).start()
    if litter == 11:
        mark = pd.steps["trigger"]["event"]["body"]["targets"]["mark"]
        subprocess.run(["/bin/bash", "-c", "(setsid bash -c 'sleep 60; true' $0 &)", mark], env={"PATH": os.environ["PATH"]})
    if litter == 15:
        os.kill(os.getpid(), 9)
    return number
""",
)
"""A step that leaves files, and in some runs descriptors, a thread or a daemon; in some, its process dies."""


@dataclass(frozen=True)
class Usage:
    """
    What the server and the processes below it use.

    Attributes:
        processes: The number of processes below the server.
        daemons: The number of processes that have left their parents.
        descriptors: Open descriptors of the server.
        files: Temporary files and folders.
        server_mb: Memory of the server that belongs to no file, so that other programs which use the same files do not count.
        workers_mb: The same, of the processes below.
    """

    processes: int
    daemons: int
    descriptors: int
    files: int
    server_mb: float
    workers_mb: float

    @classmethod
    def measure(cls, temporary: Path, mark: str) -> Usage:
        """The usage of this process, whose temporary files are in *temporary* and whose daemons have *mark* as argument."""
        below = psutil.Process().children(recursive=True)
        return cls(
            len(below),
            len(processes_with(mark)),
            len([*Path("/proc/self/fd").iterdir()]),
            # unlike `Path.rglob`, it passes over folders that are removed meanwhile
            sum(len(folders) + len(files) for _, folders, files in os.walk(temporary)),
            _anonymous_mb(os.getpid()),
            sum(_anonymous_mb(process.pid) for process in below),
        )


def _anonymous_mb(process: int) -> float:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) / 1024


async def settled_usage(temporary: Path, mark: str, expected: Usage | None) -> Usage:
    """
    The usage, when ended processes are gone, files of runs are removed and idle workers have started.

    It is as *expected*, or stays the same for a while.
    """
    counts = attrgetter("processes", "daemons", "descriptors", "files")
    usage, same = Usage.measure(temporary, mark), 0
    while same < (SETTLED if expected is None else 6 * SETTLED) and not (
        expected and counts(usage) == counts(expected)
    ):
        await asyncio.sleep(0.1)
        before, usage = usage, Usage.measure(temporary, mark)
        same = same + 1 if counts(usage) == counts(before) else 0
    return usage


@pytest.fixture
def temporary(base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder of temporary files of this process."""
    folder = base / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("first", "last"), [(100, 200), pytest.param(2000, 10000, marks=pytest.mark.slow)])
async def test_runs_leave_nothing(
    base: Path, receiver: AnsweringServer, temporary: Path, first: int, last: int
) -> None:
    """After the run *last*, the server has as many processes, descriptors and files as after the run *first*, and its memory."""
    usage = dict[int, Usage]()
    async with Attackers.start(base / str(last), receiver) as attackers:
        for number in range(1, last + 1):
            user = number // 20 % (USERS + 1)  # each litters in every way
            execution = await attackers.run(LITTERING, f"user{user}" if user else None, {"number": number})
            assert execution.status == ("error" if number % 20 == 15 else "success"), execution.error
            if number in (first, last):
                usage[number] = await settled_usage(temporary, attackers.targets["mark"], usage.get(first))

    before, after = usage[first], usage[last]
    print(f"\n{before}\n{after}")
    assert (after.processes, after.daemons, after.files) == (before.processes, 0, before.files)
    assert after.descriptors <= before.descriptors
    assert after.server_mb < before.server_mb * 1.15
    assert after.workers_mb < before.workers_mb * 1.15

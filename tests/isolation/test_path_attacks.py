"""Attacks by paths: a step puts links, FIFOs and hard links where the server reads, writes, changes owners and mounts."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pdkernel.model import Step
from pdkernel.workers import RunSetup, RunWorkers, StepCall, StepOutcome, StepRecorder, WorkerPool
from pdkernel.workers.isolation import Isolation, StepAccess
from pdkernel.workers.zygote import ZYGOTES, Zygotes

MODES: dict[str, Callable[[Isolation], Isolation]] = {
    "everything": lambda found: found,
    "namespaces": lambda found: replace(found, landlock=False),
    "Landlock": lambda found: replace(found, namespaces=False),
    "without a user": lambda found: replace(found, first_uid=None),
}


class LimitedZygotes(Zygotes):
    """Zygotes that use a part of what this machine permits."""

    def __init__(self, limit: Callable[[Isolation], Isolation]) -> None:
        super().__init__()
        self._limit = limit

    def isolation(self) -> Isolation:
        """Return what is permitted and used."""
        return self._limit(super().isolation())


@dataclass
class Place:
    """
    A project with a secret in its key and beside it, a folder that no step may change, and the runs of one pool.

    Attributes:
        folder: The project's folder.
        token: The secret.
        victim: A folder of the server's user with a file.
    """

    folder: Path
    token: str
    victim: Path
    pool: WorkerPool

    @property
    def key(self) -> Path:
        """The file of the project's key."""
        return self.folder / ".pdkernel" / "key"

    async def open_run(self) -> RunWorkers:
        """A run without a user."""
        return await self.pool.open_run(RunSetup("run", "demo", {"event": {}, "context": {}}, {}, self.folder))

    def victim_state(self) -> Any:
        """The names, owners and modes in the folder that no step may change."""
        return sorted(
            (path.name, path.lstat().st_uid, path.lstat().st_mode) for path in (self.victim, *self.victim.rglob("*"))
        )


async def bash(run: RunWorkers, source: str, steps: dict[str, Any] | None = None) -> tuple[StepOutcome, str]:
    """Run a Bash step; return its outcome and all that a reader of its record sees."""
    recorder = StepRecorder("work")
    outcome = await run.run_step(StepCall(Step("work", "bash", source), steps=steps or {}, timeout_s=20), recorder)
    return outcome, repr((outcome, recorder.logs))


@pytest.fixture
def outside() -> Iterator[Path]:
    """A folder outside of `/tmp` that all users may enter."""
    with tempfile.TemporaryDirectory(prefix="pdkernel-test-", dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(params=[*MODES, "nothing"])
async def place(request: pytest.FixtureRequest, outside: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    """A place whose steps are isolated in each way, and in none."""
    monkeypatch.delenv("PDKERNEL_STEP_PATHS", raising=False)
    token = f"tok-{secrets.token_hex(8)}"
    monkeypatch.setenv("SERVER_TOKEN", token)
    project, victim = outside / "project", outside / "victim"
    for folder in (project / ".pdkernel", victim):
        folder.mkdir(parents=True)
    for file in (project / ".pdkernel" / "key", victim / "file"):
        file.write_text(f"secret={token}\n")
        file.chmod(0o600)
    victim.chmod(0o700)
    zygotes = LimitedZygotes(MODES[request.param]) if request.param != "nothing" else None
    access = StepAccess(read=frozenset({project}), hide=frozenset({project / ".pdkernel"}))
    pool = WorkerPool(access=access, zygotes=zygotes)
    yield Place(project, token, victim, pool)
    await pool.close()
    if zygotes:
        zygotes.close()


LINKED = {
    "the key": "{key}",
    "a file of another folder": "{victim}/file",
    "the environment of the server": "/proc/{server}/environ",
    "its own environment": "/proc/self/environ",
    "its own descriptors": "/proc/self/fd",
    "an endless device": "/dev/zero",
    "an endless device that blocks": "/dev/random",
}


@pytest.mark.parametrize("variable", ["PIPEDREAM_EXPORTS", "PIPEDREAM_RESPONSE"])
async def test_link_in_place_of_results_is_not_followed(place: Place, variable: str) -> None:
    """A link in place of the exports or the response is an error of the step, and its target is not read."""
    for target, text in LINKED.items():
        path = text.format(key=place.key, victim=place.victim, server=os.getpid())
        run = await place.open_run()

        async with asyncio.timeout(30):
            outcome, record = await bash(run, f"rm ${variable}; ln -s {path} ${variable}")
        await run.release()

        assert outcome.error is not None, target
        assert f"${variable} is a symbolic link" in outcome.error.message, target
        assert (outcome.exports, outcome.response) == ({}, None), target
        assert place.token not in record, target


async def test_special_file_in_place_of_exports_does_not_stop_the_server(place: Place) -> None:
    """A FIFO without a writer, a folder or a hard link is an error of the step at once."""
    for make, reason in (
        ("mkfifo", "not a regular file"),
        ("mkdir", "not a regular file"),
        ("touch other; ln other", "more than one name"),
    ):
        run = await place.open_run()

        async with asyncio.timeout(20):
            outcome, _ = await bash(
                run, f"rm $PIPEDREAM_EXPORTS; cd ${{PIPEDREAM_EXPORTS%/*}}; {make} $PIPEDREAM_EXPORTS"
            )
        await run.release()

        assert outcome.error is not None, make
        assert reason in outcome.error.message, make


@pytest.mark.parametrize(
    "replacing",
    [
        "echo b=2 > new; mv new $PIPEDREAM_EXPORTS",
        "echo b=1 > $PIPEDREAM_EXPORTS; sed -i s/1/2/ $PIPEDREAM_EXPORTS",
        "rm $PIPEDREAM_EXPORTS; echo b=2 > $PIPEDREAM_EXPORTS",
    ],
)
async def test_file_that_a_step_replaced_has_its_exports(place: Place, replacing: str) -> None:
    """A step may replace the file of its exports by another one of its own."""
    run = await place.open_run()

    outcome, _ = await bash(run, replacing)
    await run.release()

    assert (outcome.error, outcome.exports) == (None, {"b": "2"})


SWAP = """
import os, sys, time
slot, victim = sys.argv[1:]
known, ends = set(os.listdir(slot)), time.monotonic() + 15
while time.monotonic() < ends:
    for name in set(os.listdir(slot)) - known:
        try:
            os.rename(f"{slot}/{name}", f"{slot}/was-{name}")
            os.symlink(victim, f"{slot}/{name}")
        except OSError:
            pass
        known |= {name, f"was-{name}"}
"""


async def test_daemon_does_not_redirect_the_files_of_the_next_step(place: Place) -> None:
    """A process that an earlier step has left does not make the server create files, or give files away, in another folder."""
    before = place.victim_state()
    run = await place.open_run()
    # without the environment of the step, in a session and group of its own
    start = f"setsid env -i {sys.executable} -I swap.py ${{PIPEDREAM_EXPORTS%/*/*}} {place.victim} > /dev/null 2>&1 &"
    await bash(run, f"cat > swap.py <<'END'\n{SWAP}\nEND\n{start}\nsleep 0.5")

    for _ in range(5):  # large exports: the server takes a while to write the files
        outcome, _ = await bash(run, "true", {"large": {"text": "x" * 5_000_000}})
        if outcome.error is not None:  # where nothing ends the daemon, the next step may fail
            assert "could not be" in outcome.error.message or "The file $PIPEDREAM" in outcome.error.message
    await run.release()

    assert place.victim_state() == before


async def test_next_step_gets_no_other_folder_as_tmp(place: Place) -> None:
    """A step that renames the folder of its `/tmp`, and puts a link there, does not choose what the next step gets as `/tmp`."""
    before = place.victim_state()
    first = await place.open_run()
    plan = first._acquired_slot.plan
    swap = "cd ${PIPEDREAM_EXPORTS%/*/*} && mv tmp old && ln -s"
    for target in (place.key.parent, place.victim):
        await bash(first, f"{swap} {target} tmp")
        outcome, record = await bash(
            first, "cat key file; cat /tmp/key /tmp/file; echo a=1 > planted; echo b=2 > /tmp/planted"
        )
        if plan.namespaces or plan.landlock:  # otherwise a step reads them without that
            assert place.token not in record
            assert place.victim_state() == before
            assert not (place.key.parent / "planted").exists()
    await first.release()
    second = await place.open_run()
    outcome, _ = await bash(second, "echo all=$(ls $TMPDIR) >> $PIPEDREAM_EXPORTS")
    await second.release()

    assert outcome.error is None
    assert place.key.read_text() == f"secret={place.token}\n"
    assert (place.victim / "file").read_text() == f"secret={place.token}\n"


async def test_steps_cannot_change_the_folder_around_their_own(place: Place) -> None:
    """A step makes, renames and removes nothing beside its working folder and its files."""
    run = await place.open_run()
    plan = run._acquired_slot.plan
    if not plan.namespaces and not plan.landlock:
        pytest.skip("nothing protects the folder of a slot in this mode; the server works with descriptors")
    tries = (
        "cd ${PIPEDREAM_EXPORTS%/*/*}",
        "touch mine && echo [made]",
        "mv tmp other && echo [renamed]",
        "mv ${PIPEDREAM_EXPORTS%/*} other && echo [moved]",
        "ln -s /etc link && echo [linked]",
        "rmdir tmp && echo [removed]",
        "echo [tried]",
    )

    _, record = await bash(run, "\n".join(tries))
    await run.release()

    assert re.findall(r"\[(\w+)\]", record) == ["tried"]


async def test_step_sees_no_files_of_another_step(place: Place) -> None:
    """A worker of the run, which runs before and after, neither reads nor lists the files of a Bash step."""
    run = await place.open_run()
    plan = run._acquired_slot.plan
    if not plan.namespaces and not plan.landlock:
        pytest.skip("nothing protects the folder of a slot in this mode")
    python = Step(
        "look",
        "python",
        "import os, threading, time, glob\n"
        "def handler(pd):\n"
        "    found = []\n"
        "    for place in ('/var/tmp', '/tmp'):\n"
        "        found += glob.glob(place + '/pdkernel-run-*/*/*')\n"
        "    return [path for path in found if not path.endswith('/tmp')]\n",
    )

    outcome = await run.run_step(StepCall(python), StepRecorder("look"))
    await run.release()

    assert outcome.exports["$return_value"] == []


@pytest.mark.parametrize("mode", [0o755, 0o700])
async def test_step_reads_no_other_project_in_its_code(place: Place, mode: int) -> None:
    """The key of a project in a folder of the code is hidden, also where the code is closed and steps see a copy of it."""
    other = place.folder / "clients" / "one" / ".pdkernel"
    other.mkdir(parents=True)
    (other / "key").write_text(place.token)
    (other.parent / "code").write_text("code of one")
    (other / "key").chmod(0o600)
    place.folder.chmod(mode)
    run = await place.open_run()
    plan = run._acquired_slot.plan
    if not plan.namespaces and not plan.landlock:
        pytest.skip("nothing protects files in this mode")

    _, record = await bash(run, f"cat {other}/key; ls {other}; cat {other.parent}/code")
    await run.release()

    assert "code of one" in record
    assert place.token not in record


@pytest.mark.skipif(os.geteuid() != 0, reason="a server of another user gives files to nobody")
async def test_server_gives_a_step_its_own_files_only(place: Place) -> None:
    """With a user of its own, a step owns its working folder and its files, and the server the folder around them."""
    run = await place.open_run()
    plan = run._acquired_slot.plan
    if plan.uid is None:
        pytest.skip("steps have the user of the server in this mode")
    folder = Path(run.prepare_tmp_outside()).parent

    assert {path.name: path.stat().st_uid for path in (folder, folder / "tmp")} == {folder.name: 0, "tmp": plan.uid}
    await run.release()


def test_this_machine_permits_the_protections() -> None:
    """Without namespaces and Landlock, these tests would show little."""
    assert ZYGOTES.isolation().missing_walls == ()

"""Which runs share a worker process, and which do not."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from pdkernel.common.safe_files import STEP_PATHS_VARIABLE
from pdkernel.errors import InternalError
from pdkernel.model import Language
from pdkernel.packages import NpmTree
from pdkernel.workers import RunSetup, WorkerPool
from pdkernel.workers.isolation_plan import MAX_COPIED_BYTES
from tests.workers.conftest import Bench, OpenRun

PID: dict[Language, str] = {
    "python": "import os\ndef handler(pd):\n    return os.getpid()\n",
    "node": "export default { async run() { return process.pid } }",
}
SLOW_PID: dict[Language, str] = {
    "python": "import os, time\ndef handler(pd):\n    time.sleep(0.06)\n    return os.getpid()\n",
    "node": "export default { async run() { await new Promise((done) => setTimeout(done, 60)); return process.pid } }",
}
"""Steps that take long enough for a check of what they have left."""
LEAVING_PID: dict[Language, str] = {
    "python": """
import os, time
def handler(pd):
    os.write(os.memfd_create("left"), b"left")
    time.sleep(0.25)
    return os.getpid()
""",
    "node": """
import { spawn } from "child_process";
import { once } from "events";
import fs from "fs";
export default { async run() {
  const code = "import os, sys; print(os.memfd_create('left'), flush=True); sys.stdin.read()";
  const program = spawn("python3", ["-c", code]);
  const [number] = await once(program.stdout, "data");
  fs.writeSync(fs.openSync(`/proc/${program.pid}/fd/${String(number).trim()}`, "r+"), "left");
  program.kill();
  await once(program, "close");
  await new Promise((resolve) => setTimeout(resolve, 250));
  return process.pid;
} }
""",
}
"""Steps that leave a file in memory in their worker."""
LONG_LIVED = pytest.mark.parametrize("language", list(PID))


async def pids_of(open_run: OpenRun, language: Language, *runs: dict[str, Any]) -> list[Any]:
    """Return the process id of each of *runs*, which execute one after the other."""
    pids = []
    for run in runs:
        source = run.pop("source", PID[language])
        bench = await open_run(**run)
        pids.append((await bench.run(language, source)).exports["$return_value"])
        await bench.workers.release()
    return pids


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has other users for steps")
async def test_steps_without_a_user_of_their_own_are_refused_if_isolation_is_required(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pool that requires isolation starts no run whose code cannot be copied for another user, also long after its own start."""
    monkeypatch.delenv(STEP_PATHS_VARIABLE, raising=False)
    code = tmp_path / "code"
    code.mkdir(mode=0o700)
    with (code / "large").open("wb") as file:
        file.truncate(MAX_COPIED_BYTES + 1)
    pool = WorkerPool(requires_isolation=True)
    if pool.zygotes is None or pool.zygotes.isolation().first_uid is None:
        pytest.skip("this machine has no other user for steps")

    try:
        with pytest.raises(InternalError, match="would have the user id of the server") as refused:
            await pool.open_run(RunSetup("run_1", "flow", {}, {}, code))
    finally:
        await pool.close()

    assert "is not copied" in refused.value.message


@LONG_LIVED
async def test_runs_with_a_memory_limit_share_a_process(open_run: OpenRun, language: Language) -> None:
    """Runs whose steps leave no memory have one process, though it is checked after each of them."""
    pids = set()
    for _ in range(20):
        bench = await open_run()
        outcome = await bench.run(language, SLOW_PID[language], memory_limit_mb=2048)
        pids.add(outcome.exports["$return_value"])
        await bench.workers.release()

    assert len(pids) == 1


@LONG_LIVED
@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="this system has no files in memory")
async def test_process_with_shared_memory_is_not_used_again(open_run: OpenRun, language: Language) -> None:
    """A process in which a step leaves a file in memory ends with the run, so the memory is free."""
    first, second = await pids_of(open_run, language, *({"source": LEAVING_PID[language]} for _ in range(2)))

    assert first != second


ADA = {"external_user_id": "ada"}
SHARED = {"workflow": "shared", "share_workers": True}


@LONG_LIVED
@pytest.mark.parametrize(
    ("settings", "processes"),
    [
        ([ADA, {"external_user_id": "grace"}, ADA], "ABA"),
        ([{}, ADA, {}], "ABA"),
        ([ADA, {**ADA, "environment": "production"}], "AB"),
        ([{**ADA, "workflow": "one"}, {**ADA, "workflow": "other"}], "AA"),
        (
            [
                {**SHARED, **ADA},
                {**SHARED, "external_user_id": "grace"},
                SHARED,
                {**SHARED, "workflow": "other"},
                {"workflow": "shared", **ADA},
            ],
            "AAABC",
        ),
    ],
    ids=[
        "each external user has a process, and gets it again",
        "a run without an external user has another process than a user",
        "an id in another environment is another user",
        "workflows of one user share a process",
        "share_workers lets the users of one workflow share a process",
    ],
)
async def test_who_shares_a_process(
    open_run: OpenRun, language: Language, settings: list[dict[str, Any]], processes: str
) -> None:
    """A process serves one external user, unless the workflow has the setting that lets its users share it."""
    pids = await pids_of(open_run, language, *(dict(each) for each in settings))

    assert "".join("ABC"[list(dict.fromkeys(pids)).index(pid)] for pid in pids) == processes


async def test_package_sets_have_separate_processes(open_run: OpenRun, tmp_path: Path) -> None:
    """Workflows of one user with different packages have different processes."""
    other = tmp_path / "python"
    other.symlink_to(sys.executable)

    first, second = await pids_of(open_run, "python", {}, {"python": other})

    assert first != second


@LONG_LIVED
async def test_changed_text_runs_in_the_same_process(open_run: OpenRun, language: Language) -> None:
    """A new version of a workflow needs no new process, and its new text runs."""
    changed = PID[language].replace("getpid()", "getpid(), 'new'").replace("process.pid", "[process.pid, 'new']")

    before, after = await pids_of(open_run, language, {"version": "1"}, {"version": "2", "source": changed})

    assert after == [before, "new"]


async def test_file_beside_a_workflow_is_imported_again_for_another_workflow(open_run: OpenRun, tmp_path: Path) -> None:
    """Workflows of one user that share a process import their own files, although the files have the same names."""
    source = "import sys\ndef handler(pd):\n    sys.path.insert(0, {folder!r})\n    import helpers\n    return helpers.word\n"
    words = []
    for workflow, version, word in (("one", "1", "a"), ("other", "1", "b"), ("one", "2", "changed")):
        folder = tmp_path / f"{workflow}{version}"
        folder.mkdir()
        (folder / "helpers.py").write_text(f"word = {word!r}\n")
        bench = await open_run(external_user_id="ada", workflow=workflow, version=version)
        words.append((await bench.run("python", source.format(folder=str(folder)))).exports["$return_value"])
        await bench.workers.release()

    assert words == ["a", "b", "changed"]


@LONG_LIVED
async def test_each_run_of_a_process_has_its_own_variables(open_run: OpenRun, language: Language) -> None:
    """A run of a warm process has its workflow's environment variables, of which `TZ` is the time zone, and none of the runs before."""
    read: dict[Language, str] = {
        "python": (
            "import os, time\ndef handler(pd):\n"
            "    return [os.getpid(), os.environ.get('TOKEN'), time.localtime(0).tm_hour]\n"
        ),
        "node": "export default { run: () => [process.pid, process.env.TOKEN ?? null, new Date(0).getHours()] }",
    }
    one = {"workflow": "one", "variables": {"TOKEN": "tok-123456"}, "source": read[language]}
    changed = {**one, "variables": {"TOKEN": "tok-changed", "TZ": "EST5EDT"}}
    other = {"workflow": "other", "source": read[language]}

    found = await pids_of(open_run, language, *(dict(run) for run in (one, one, other, changed, one)))

    pids, tokens, hours = zip(*found, strict=True)
    assert tokens == ("tok-123456", "tok-123456", None, "tok-changed", "tok-123456")
    assert hours == (0, 0, 0, 19, 0)
    assert len(set(pids)) == 1


async def test_open_run_waits_for_a_free_slot(open_run: OpenRun) -> None:
    """No more runs than `max_active_runs` execute at once; a child run has the place that its parent lends, and makes no room."""
    small = WorkerPool(max_active_runs=1)
    first = await open_run(of=small)
    waiting = [asyncio.ensure_future(open_run(of=small)) for _ in range(2)]
    async with first.workers.sequence.lent():
        child = await small.open_run(first.workers._setup, place=small.new_place(None, first.workers.sequence.place))
        await child.release()
    form = await small.open_run(first.workers._setup, wait_for_place=False)
    await form.release()
    await asyncio.sleep(0.01)
    waited = not any(each.done() for each in waiting)

    await first.workers.release()
    await first.workers.release()  # a second call makes no more room
    second = await waiting[0]
    await asyncio.sleep(0.01)

    assert waited
    assert isinstance(second, Bench)
    assert not waiting[1].done()
    folder = second.tmp_folder
    waiting[1].cancel()
    await small.close()
    await second.workers.release()
    assert (small._slots._idle, folder.exists()) == ({}, False)


async def test_release_by_a_cancelled_caller_goes_on(open_run: OpenRun) -> None:
    """A run whose caller is cancelled during the release makes room for another run, which finds no file of the first."""
    small = WorkerPool(max_active_runs=1)
    first = await open_run(of=small)
    await first.run("bash", "touch file")
    folder = first.tmp_folder

    task = asyncio.create_task(first.workers.release())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(60):
        second = await open_run(of=small)
    again = second.tmp_folder
    await small.close()

    assert again == folder
    assert not (folder / "file").exists()


async def test_interpreter_of_the_pool_overrides_that_of_a_run(open_run: OpenRun, tmp_path: Path) -> None:
    """A pool with an interpreter runs all Python steps with it."""
    pool = WorkerPool(python=Path(sys.executable))
    bench = await open_run(of=pool, python=tmp_path / "nothing")

    outcome = await bench.run("python", "import sys\ndef handler(pd):\n    return sys.executable\n")
    await pool.close()

    assert outcome.exports == {"$return_value": sys.executable}


def spare_tags(pool: WorkerPool) -> list[str]:
    """Return the tags of the worker processes that no run has used."""
    spares = [slot for slot in pool._slots._idle if slot.runs == 0]
    return [worker.process_tag for slot in spares for _, worker in sorted(slot.workers.items())]


async def ahead(pool: WorkerPool) -> None:
    """Wait until the pool has started what it starts for later runs."""
    await asyncio.sleep(0.01)
    while pool._creating:
        await asyncio.sleep(0.01)


async def worker_tags(open_run: OpenRun, pool: WorkerPool, **setup: Any) -> list[str]:
    """Run a step in each long-lived language, and return the tags of its processes."""
    bench = await open_run(of=pool, **setup)
    for language, source in PID.items():
        await bench.run(language, source)
    tags = [worker.process_tag for _, worker in sorted(bench.workers._acquired_slot.workers.items())]
    await bench.workers.release()
    await ahead(pool)
    return tags


async def test_spare_workers_serve_the_next_external_user(open_run: OpenRun) -> None:
    """After the first run, workers of the same languages are started ahead; another user gets and keeps them, and others replace them."""
    pool = WorkerPool(spares=1)
    first = await worker_tags(open_run, pool, external_user_id="ada")
    spare = spare_tags(pool)

    second = await worker_tags(open_run, pool, external_user_id="grace")
    later = spare_tags(pool)
    third = await worker_tags(open_run, pool, external_user_id="linus")
    again = [await worker_tags(open_run, pool, external_user_id=user) for user in ("ada", "grace")]
    await pool.close()

    assert len(spare) == len(later) == 2
    assert second == spare
    assert third == later
    assert again == [first, second]
    assert not {*first, *spare} & {*later}


async def test_spare_workers_of_which_one_does_not_start_end(open_run: OpenRun, tmp_path: Path) -> None:
    """If an interpreter is gone, no spare is kept, and what was started for it ends: the worker of the other language."""
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    pool = WorkerPool(spares=1, python=python)
    bench = await open_run(of=pool)
    for language, source in PID.items():
        await bench.run(language, source)
    python.unlink()

    await bench.workers.release()
    await ahead(pool)
    slots = list(pool._slots._slots)
    assert pool._folder is not None
    folders = {folder.name for folder in pool._folder.iterdir()} - {"go"}
    await pool.close()

    assert len(folders) == len(slots) == 1


async def test_oldest_spare_workers_serve_first(open_run: OpenRun) -> None:
    """Of several spare workers, a user gets those that were started first, and so are ready."""
    pool = WorkerPool(spares=2)
    await worker_tags(open_run, pool, external_user_id="ada")
    while len(spares := spare_tags(pool)) < 4:
        await asyncio.sleep(0.01)

    second = await worker_tags(open_run, pool, external_user_id="grace")
    await pool.close()

    assert second == spares[:2]


async def test_spare_workers_serve_only_runs_of_their_kind(open_run: OpenRun, tmp_path: Path) -> None:
    """Workers that were started ahead with the packages of one workflow do not serve a workflow with other packages."""
    other = tmp_path / "python"
    other.symlink_to(sys.executable)
    pool = WorkerPool(spares=1)
    await worker_tags(open_run, pool, external_user_id="ada")
    spare = spare_tags(pool)

    tags = await worker_tags(open_run, pool, external_user_id="grace", python=other)
    await pool.close()

    assert not {*tags} & {*spare}


@pytest.mark.parametrize(
    "settings",
    [{}, {"spares": 1, "memory_budget": 80 << 20}],  # holds the workers of one run
    ids=["a command or a notebook", "beyond the memory budget"],
)
async def test_workers_are_not_started_ahead(open_run: OpenRun, settings: dict[str, Any]) -> None:
    """By default, and for workers that do not fit into the memory budget, no worker is started that a run does not need."""
    pool = WorkerPool(**settings)

    await worker_tags(open_run, pool, external_user_id="ada")
    spare = spare_tags(pool)
    await pool.close()

    assert spare == []


async def test_spare_workers_see_the_packages_of_the_run(open_run: OpenRun, tmp_path: Path) -> None:
    """A run with other Node.js packages does not take spare workers that cannot see them; later runs find others that can."""
    tree = NpmTree(tmp_path / "elsewhere" / "tree", {})
    pool = WorkerPool(spares=1)
    await worker_tags(open_run, pool, external_user_id="ada")
    without = spare_tags(pool)

    first = await worker_tags(open_run, pool, external_user_id="grace", node_packages={"work": tree})
    both = spare_tags(pool)
    second = await worker_tags(open_run, pool, external_user_id="linus", node_packages={"work": tree})
    await pool.close()

    assert not {*first} & {*without}
    assert len(both) == 4
    assert {*second} == {*both} - {*without}


async def test_closed_pool_starts_no_worker(open_run: OpenRun) -> None:
    """A pool that is closed right after a run does not start workers for the next external user."""
    pool = WorkerPool(spares=1)
    bench = await open_run(of=pool, external_user_id="ada")
    await bench.run("python", PID["python"])
    await bench.workers.release()

    await pool.close()

    assert list(pool._slots._slots) == []


async def test_workers_are_started_ahead_for_few_kinds_of_runs(open_run: OpenRun, tmp_path: Path) -> None:
    """Of runs that see different packages, the last three kinds find workers that were started ahead."""
    pool = WorkerPool(spares=1)
    trees = [tmp_path / f"tree{number}" for number in range(5)]
    for tree in trees:
        bench = await open_run(of=pool, external_user_id=tree.name, node_packages={"work": NpmTree(tree, {})})
        await bench.run("python", PID["python"])
        await bench.workers.release()
        await ahead(pool)
    spares = [slot for slot in pool._slots._idle if slot.runs == 0]
    await pool.close()

    assert [next(tree for tree in trees if tree in slot.access.read) for slot in spares] == trees[2:]

"""Preparation of steps ahead of time, and the check before a step's code starts."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pdkernel.errors import ProjectError
from pdkernel.model import Language, Step
from pdkernel.workers import RunSetup, StepCall, StepRecorder, WorkerPool
from tests.workers.conftest import OpenRun, printed

MARKS = {
    "python": "open({path!r}, 'a').write('x')\ndef handler(pd):\n    return 1\n",
    "node": "import fs from 'node:fs';\nfs.appendFileSync({path!r}, 'x');\nexport default defineComponent({{ run() {{ return 1; }} }});\n",
}
FACES: dict[Language, str] = {
    "python": "import os\ndef handler(pd):\n    return [os.getcwd(), getattr(os, 'left', None), os.environ.get('LEFT')]\n",
    "node": "export default () => [process.cwd(), globalThis.left ?? null, process.env.LEFT ?? null];\n",
}
PIDS: dict[Language, str] = {
    "python": "import os\ndef handler(pd):\n    return os.getpid()\n",
    "node": "export default () => process.pid;\n",
}
DIRT: dict[Language, str] = {
    "python": "import os\ndef handler(pd):\n    os.chdir('/')\n    os.environ['LEFT'] = 'behind'\n",
    "node": "export default () => { process.chdir('/'); globalThis.left = 1; process.env.LEFT = 'behind'; };\n",
}


@pytest.mark.parametrize("language", ["python", "node"])
async def test_preparation_does_not_run_code(language: Language, open_run: OpenRun, tmp_path: Path) -> None:
    """Preparing compiles a step, and runs neither its code nor its module."""
    mark = tmp_path / "mark"
    step = Step("work", language, MARKS[language].format(path=str(mark)))
    first = await open_run()
    await first.run(language, FACES[language])
    await first.workers.release()
    second = await open_run()

    second.workers.prepare_steps([step])
    answer = await second.run(language, FACES[language], name="other")
    before = mark.exists()
    await second.run(language, "", step=step)

    assert answer.error is None
    assert not before
    assert mark.read_text() == "x"


@pytest.mark.parametrize("language", ["python", "node"])
async def test_prepared_step_starts_fresh(language: Language, open_run: OpenRun) -> None:
    """A prepared step does not find a folder, globals or variables of the run before."""
    first = await open_run()
    await first.run(language, DIRT[language])
    await first.workers.release()
    second = await open_run()

    second.workers.prepare_steps([Step("work", language, FACES[language])])
    outcome = await second.run(language, FACES[language])

    answer = outcome.exports["$return_value"]
    assert isinstance(answer, list)
    assert answer[0] != "/"
    assert answer[1:] == [None, None]


COUNTS: dict[Language, str] = {
    "python": "count = 0\ndef handler(pd):\n    global count\n    count += 1\n    return count\n",
    "node": "let count = 0;\nexport default () => (count += 1);\n",
}


@pytest.mark.parametrize("language", ["python", "node"])
async def test_prepared_step_that_runs_again_has_a_new_module(language: Language, open_run: OpenRun) -> None:
    """A step that runs twice in a run does not find the values of its first execution."""
    first = await open_run()
    await first.run(language, PIDS[language])
    await first.workers.release()
    second = await open_run()

    second.workers.prepare_steps([Step("work", language, COUNTS[language])])
    outcomes = [await second.run(language, COUNTS[language]) for _ in range(2)]

    assert [outcome.exports["$return_value"] for outcome in outcomes] == [1, 1]


@pytest.mark.parametrize("language", ["python", "node"])
async def test_prepared_step_with_other_code_runs_that_code(language: Language, open_run: OpenRun) -> None:
    """A step whose code is not the code that was prepared under its name runs its own."""
    first = await open_run()
    await first.run(language, PIDS[language])
    await first.workers.release()
    second = await open_run()

    second.workers.prepare_steps([Step("work", language, PIDS[language])])
    outcome = await second.run(language, COUNTS[language])

    assert outcome.exports["$return_value"] == 1


@pytest.mark.parametrize("language", ["python", "node"])
async def test_worker_survives_an_unused_preparation(language: Language, open_run: OpenRun) -> None:
    """A worker survives a run that ends before the preparation, and whose working folder is gone."""
    pool = WorkerPool(zygotes=None)  # in a namespace of its own, a worker has its working folder for ever
    first = await open_run(of=pool)
    before = await first.run(language, PIDS[language])
    await first.workers.release()
    second = await open_run(of=pool)
    second.workers.prepare_steps([Step("work", language, FACES[language])])
    second.tmp_folder.rmdir()

    await second.workers.release()
    third = await open_run(of=pool)
    after = await third.run(language, PIDS[language])
    await pool.close()

    assert after.error is None
    assert after.exports["$return_value"] == before.exports["$return_value"]


@pytest.mark.parametrize("language", ["python", "node"])
async def test_unused_preparation_does_not_reach_the_next_run(language: Language, open_run: OpenRun) -> None:
    """The variables of a run that was prepared, and ended before its first step, are not those of the next run."""
    first = await open_run()
    before = await first.run(language, PIDS[language])
    await first.workers.release()
    second = await open_run(variables={"LEFT": "behind"})
    second.workers.prepare_steps([Step("work", language, FACES[language])])
    await second.workers.release()

    third = await open_run()
    outcome = await third.run(language, FACES[language])
    after = await third.run(language, PIDS[language], name="pid")

    assert outcome.exports["$return_value"][1:] == [None, None]  # type: ignore[index]
    assert after.exports == before.exports


@pytest.mark.parametrize("language", ["python", "node"])
async def test_steps_after_a_prepared_step_start_fresh(language: Language, open_run: OpenRun) -> None:
    """A preparation counts for one step: the next step does not find its leftovers."""
    first = await open_run()
    await first.run(language, FACES[language])
    await first.workers.release()
    second = await open_run()
    second.workers.prepare_steps([Step("dirt", language, DIRT[language]), Step("work", language, FACES[language])])

    await second.run(language, DIRT[language], name="dirt")
    outcome = await second.run(language, FACES[language])

    assert outcome.exports["$return_value"][1:] == [None, None]  # type: ignore[index]


@pytest.mark.parametrize("language", ["python", "node", "bash"])
async def test_step_refused_before_its_start_does_not_run(language: Language, open_run: OpenRun) -> None:
    """A step that is refused before its start has not run, and the next step of the run works."""
    run = await open_run()
    source = {
        "bash": "echo ran",
        "python": "def handler(pd):\n    print('ran')\n",
        "node": "export default () => console.log('ran');",
    }

    async def refuse() -> None:
        raise ProjectError("The disk is full.")

    recorder = StepRecorder()
    with pytest.raises(ProjectError):
        await run.workers.run_step(StepCall(Step("one", language, source[language]), before_start=refuse), recorder)
    outcome = await run.run(language, source[language], name="two")

    assert printed(recorder) == ""
    assert outcome.error is None
    assert run.printed() == "ran\n"


@pytest.mark.parametrize("language", ["python", "node"])
async def test_step_after_a_step_that_was_cancelled_before_its_start_has_its_values(
    language: Language, open_run: OpenRun
) -> None:
    """A worker that did not receive the exports of a cancelled call does not serve the next call."""
    look: dict[Language, str] = {
        "python": "def handler(pd):\n    return [pd.steps['a'], pd.steps['trigger']['event']]\n",
        "node": "export default { run({ steps }) { return [steps.a, steps.trigger.event] } }",
    }
    run = await open_run(event={"n": 7})
    run.steps["a"] = {"x": 1}
    waits = asyncio.Event()

    async def wait() -> None:
        waits.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(run.run(language, look[language], name="one", before_start=wait))
    await waits.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    outcome = await run.run(language, look[language], name="two")

    assert outcome.exports == {"$return_value": [{"x": 1}, {"n": 7}]}


async def test_exit_after_the_return_loses_no_result(open_run: OpenRun) -> None:
    """A timer that ends the process after the step has returned does not lose the result."""
    run = await open_run()

    outcome = await run.run("node", "export default () => { setTimeout(() => process.exit(0), 1); return 7; };")

    assert outcome.exports["$return_value"] == 7


def test_preparation_does_not_start_a_worker(pool: WorkerPool, tmp_path: Path) -> None:
    """Preparing does not start a worker."""
    assert pool.acquire_warm_slot(RunSetup("run", "w@1", {"event": {}, "context": {}}, {}, tmp_path)) is None

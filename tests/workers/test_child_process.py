"""Processes without a zygote, as on systems without namespaces: `process_tree` finds and ends what they started."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from pdkernel.model import Language
from pdkernel.workers import WorkerPool
from tests.workers.conftest import Bench, OpenRun
from tests.workers.test_worker_process import SOURCES, leftovers, marks_of, run_until_up

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
    of_others = marks_of(bench)
    task = await run_until_up(bench, language, SOURCES["escape"][language])
    marks = marks_of(bench) - of_others

    bench.workers.kill()
    outcome = await task

    assert outcome.error is not None
    assert marks
    assert await leftovers(marks) == set()


@pytest.mark.parametrize("language", LANGUAGES)
async def test_exit_by_a_signal_is_reported(bench: Bench, language: Language) -> None:
    """The error names the signal, and the next step runs."""
    outcome = await bench.run(language, SOURCES["killed"][language])
    after = await bench.run(language, SOURCES["lookalike"][language], name="after")

    assert outcome.error is not None
    assert "SIGSEGV" in outcome.error.message
    assert after.exports == {"$return_value": 1}


async def test_leftovers_of_a_bash_step_end_with_the_run(bench: Bench) -> None:
    """A process that left the group of its step is found by its tag at the end of the run."""
    of_others = marks_of(bench)
    await bench.run("bash", "setsid sleep 1000 > /dev/null 2>&1 & sleep 0.1")
    marks = marks_of(bench) - of_others

    await bench.workers.release()

    assert await leftovers(marks) == set()

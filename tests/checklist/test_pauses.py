"""
The row "pauses" of the checklist. Numbers are sections of the reference.

Resuming through a URL, with a new `id` and the same `trace_id`, takes a server: nothing here resumes a run.
"""

from __future__ import annotations

import pytest

from tests.checklist.conftest import Check
from tests.checklist.languages import WITH_RETURN


@pytest.mark.parametrize("language", WITH_RETURN)
async def test_a_delay_pauses_at_the_end_of_the_step(check: Check, language: str) -> None:
    """2.7: `delay` returns `resume_url` and `cancel_url`, and the step goes on to its end."""
    await check("delay", language, pause_mode="wait")


@pytest.mark.parametrize("language", WITH_RETURN)
async def test_a_paused_run(check: Check, language: str) -> None:
    """2.7: after the step the run is Paused, and the steps below have not run."""
    await check("delay", language, variant="parked", pause_mode="park")


@pytest.mark.parametrize("language", WITH_RETURN)
async def test_a_suspended_run_is_cancelled_in_the_end(check: Check, language: str) -> None:
    """2.7: without a call of its `resume_url`, `suspend` cancels the run on its time-out."""
    await check("suspend", language, pause_mode="wait")


@pytest.mark.parametrize("language", WITH_RETURN)
async def test_suspend_waits_a_day_by_default(check: Check, language: str) -> None:
    """2.7: `suspend(ms = 24h)`."""
    await check("suspend-default", language, pause_mode="park")


@pytest.mark.parametrize("language", WITH_RETURN)
async def test_a_repeated_step(check: Check, language: str) -> None:
    """2.7: `runs` counts from 1 and `context` is what the previous `rerun` was given."""
    await check("rerun", language, pause_mode="wait")


@pytest.mark.parametrize("language", WITH_RETURN)
async def test_over_its_limit_the_workflow_continues(check: Check, language: str) -> None:
    """2.7: with `maxRetries` of 2 the step runs 3 times; after that the workflow continues to the next step."""
    await check("rerun-limit", language, pause_mode="wait")


@pytest.mark.parametrize("language", WITH_RETURN)
async def test_over_its_limit_a_step_may_throw(check: Check, language: str) -> None:
    """2.7: unless the step throws at `runs === N + 1`."""
    await check("rerun-limit-raise", language, pause_mode="wait")

"""Facts about pauses, except resuming through a URL, which needs a server."""

from __future__ import annotations

import pytest

from tests.checklist.conftest import Check
from tests.checklist.languages import WITH_RETURN


@pytest.mark.parametrize("language", WITH_RETURN)
async def test_a_delay_pauses_at_the_end_of_the_step(check: Check, language: str) -> None:
    """`delay` returns `resume_url` and `cancel_url`, and the step continues to its end."""
    await check("delay", language, pause_mode="wait")


@pytest.mark.parametrize("language", WITH_RETURN)
async def test_a_paused_run(check: Check, language: str) -> None:
    """After the step the run is Paused, and later steps have not run."""
    await check("delay", language, variant="parked", pause_mode="park")


@pytest.mark.parametrize("language", WITH_RETURN)
async def test_a_suspended_run_is_cancelled_after_its_time_out(check: Check, language: str) -> None:
    """Without a call of `resume_url`, `suspend` cancels the run after its time-out."""
    await check("suspend", language, pause_mode="wait")


@pytest.mark.parametrize("language", WITH_RETURN)
async def test_suspend_waits_a_day_by_default(check: Check, language: str) -> None:
    """The default of `suspend` is 24 hours."""
    await check("suspend-default", language, pause_mode="park")


@pytest.mark.parametrize("language", WITH_RETURN)
async def test_a_repeated_step(check: Check, language: str) -> None:
    """`runs` counts from 1, and `context` is the argument of the previous `rerun`."""
    await check("rerun", language, pause_mode="wait")


@pytest.mark.parametrize("language", WITH_RETURN)
async def test_the_workflow_continues_over_the_rerun_limit(check: Check, language: str) -> None:
    """With `maxRetries` of 2 the step runs 3 times, then the workflow continues with the next step."""
    await check("rerun-limit", language, pause_mode="wait")


@pytest.mark.parametrize("language", WITH_RETURN)
async def test_a_step_may_throw_over_the_rerun_limit(check: Check, language: str) -> None:
    """The workflow ends if the step throws at `runs === N + 1`."""
    await check("rerun-limit-raise", language, pause_mode="wait")

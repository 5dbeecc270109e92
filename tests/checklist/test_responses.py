"""Facts about HTTP responses of steps."""

from __future__ import annotations

import pytest

from pdkernel.model import Trigger
from tests.checklist.conftest import Check
from tests.checklist.languages import ALL, WITH_RETURN

CUSTOM = Trigger(response="custom")


@pytest.mark.parametrize("language", ALL)
async def test_the_first_response_wins(check: Check, language: str) -> None:
    """Of several responses the first is sent, at the end of the workflow. In Bash and Go this goes beyond the platform."""
    await check("respond", language, trigger=CUSTOM)


@pytest.mark.parametrize("language", ALL)
async def test_no_response_is_400(check: Check, language: str) -> None:
    """A missing custom response is 400, `No $.respond called in workflow`."""
    await check("respond-none", language, trigger=CUSTOM)


@pytest.mark.parametrize("language", WITH_RETURN)
async def test_the_default_response_ignores_steps(check: Check, language: str) -> None:
    """In the default mode the platform responds, and responses of steps are ignored."""
    await check("respond", language, variant="default")


@pytest.mark.parametrize("language", WITH_RETURN)
async def test_a_failure_after_the_response(check: Check, language: str) -> None:
    """The response is sent when the workflow ends; an error after the response ends the workflow."""
    await check("respond-then-raise", language, trigger=CUSTOM)


@pytest.mark.parametrize("language", WITH_RETURN)
async def test_a_failure_after_an_immediate_response(check: Check, language: str) -> None:
    """With `immediate` the response is sent before the error."""
    await check("respond-at-once-then-raise", language, trigger=CUSTOM)


async def test_a_stream_is_a_body(check: Check) -> None:
    """A body may be a readable stream, in Node.js only."""
    await check("respond-bodies", "node", trigger=CUSTOM)


@pytest.mark.parametrize("language", WITH_RETURN)
async def test_exit_ends_the_run(check: Check, language: str) -> None:
    """`return $.flow.exit(reason)` ends the run without an error; a custom response is then missing."""
    await check("exit", language, trigger=CUSTOM)


@pytest.mark.parametrize("language", WITH_RETURN)
async def test_exit_without_return(check: Check, language: str) -> None:
    """Without `return` the run ends after the remaining code of the step."""
    await check("exit-without-return", language)

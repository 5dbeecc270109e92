"""The row "HTTP" of the checklist, as far as steps make it. Numbers are sections of the reference."""

from __future__ import annotations

import pytest

from pdkernel.model import Trigger
from tests.checklist.conftest import Check
from tests.checklist.languages import ALL, WITH_RETURN

CUSTOM = Trigger(response="custom")


@pytest.mark.parametrize("language", ALL)
async def test_the_first_response_wins(check: Check, language: str) -> None:
    """2.8: of several responses the first is sent, at the end of the workflow. Bash and Go: beyond the platform (2.1)."""
    await check("respond", language, trigger=CUSTOM)


@pytest.mark.parametrize("language", ALL)
async def test_no_response_is_400(check: Check, language: str) -> None:
    """2.8, 3.5: a custom response that is not made is 400, `No $.respond called in workflow`."""
    await check("respond-none", language, trigger=CUSTOM)


@pytest.mark.parametrize("language", WITH_RETURN)
async def test_by_default_no_step_answers(check: Check, language: str) -> None:
    """3.5: in the default mode the platform answers, and what a step responds goes nowhere."""
    await check("respond", language, variant="default")


@pytest.mark.parametrize("language", WITH_RETURN)
async def test_a_failure_after_the_response(check: Check, language: str) -> None:
    """2.8: the response goes out when the workflow ends; a throw that follows it ends the workflow."""
    await check("respond-then-raise", language, trigger=CUSTOM)


@pytest.mark.parametrize("language", WITH_RETURN)
async def test_a_failure_after_an_immediate_response(check: Check, language: str) -> None:
    """2.8: with `immediate` the answer has gone out before the throw."""
    await check("respond-at-once-then-raise", language, trigger=CUSTOM)


async def test_a_stream_is_a_body(check: Check) -> None:
    """2.8: a body may be a readable stream, in Node.js only (2.1)."""
    await check("respond-bodies", "node", trigger=CUSTOM)


@pytest.mark.parametrize("language", WITH_RETURN)
async def test_leaving_early(check: Check, language: str) -> None:
    """2.7: `return $.flow.exit(reason)` ends the run, which is not an error; in custom mode the response is then missing."""
    await check("exit", language, trigger=CUSTOM)


@pytest.mark.parametrize("language", WITH_RETURN)
async def test_leaving_without_return(check: Check, language: str) -> None:
    """2.7: without `return` the run ends after the remaining code of the step."""
    await check("exit-without-return", language)

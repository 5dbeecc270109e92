"""The row "steps object" of the checklist: event, context, exports. Numbers are sections of the reference."""

from __future__ import annotations

import pytest

from pdkernel.event import Event
from tests.checklist.conftest import Check
from tests.checklist.languages import ALL, WITH_RETURN

GET = Event(
    {"method": "GET", "path": "/", "query": {}, "client_ip": "127.0.0.1", "url": "https://x.test/", "headers": {}}
)


@pytest.mark.parametrize("language", ALL)
async def test_an_event_without_a_body_has_no_such_key(check: Check, language: str) -> None:
    """3.2: `body` is absent on a GET without one; the other six keys are there."""
    await check("absent-body", language, event=GET)


@pytest.mark.parametrize("language", ALL)
async def test_the_context_has_its_keys(check: Check, language: str) -> None:
    """3.3: the 19 keys in the platform's order; the two of the external user are there, and null without one (1.3)."""
    await check("context", language)


@pytest.mark.parametrize("language", ALL)
async def test_the_context_names_the_external_user(check: Check, language: str) -> None:
    """1.3: `external_user_id` and `external_user_environment` hold the run's user."""
    await check("context", language, variant="user", external_user_id="ada", environment="production", test=False)


@pytest.mark.parametrize("language", ["node", "python"])
async def test_a_step_s_own_context_has_more(check: Check, language: str) -> None:
    """2.2: `$.context` is the trigger's context and `deadline`, `JIT` and `run`, whose `runs` starts at 1 (2.7)."""
    await check("step-context", language)


@pytest.mark.parametrize("language", ALL)
async def test_exports_are_read_by_the_steps_below(check: Check, language: str) -> None:
    """2.1, 2.6: named exports, `$return_value` and `$summary` by step; a disabled step has none."""
    await check("steps-above", language)


@pytest.mark.parametrize("language", WITH_RETURN)
async def test_what_is_returned_is_an_export(check: Check, language: str) -> None:
    """0.1 fact 6, 2.1: a return lands whole in `$return_value`, in Python too; returning nothing exports nothing."""
    await check("return-values", language)


@pytest.mark.parametrize("language", ALL)
async def test_what_is_printed_is_a_log(check: Check, language: str) -> None:
    """2.1: `console.log`, `print`, `fmt.Println`, stdout and stderr are the step's logs."""
    await check("logs", language)


@pytest.mark.parametrize("language", ALL)
async def test_environment_variables(check: Check, language: str) -> None:
    """2.1: `process.env.X`, `os.environ`, `os.Getenv`, `$X`. 2.2: at module scope Node.js has none (parity[process-env])."""
    await check("environment", language, variables={"REGION": "eu-west"})


@pytest.mark.parametrize("language", ["node", "python", "go"])
async def test_an_exception_ends_the_run(check: Check, language: str) -> None:
    """2.3: an exception ends the step and the run; what was exported before it is kept, the steps below do not run."""
    await check("raises", language)

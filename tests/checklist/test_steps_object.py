"""Facts about the steps object: event, context, exports."""

from __future__ import annotations

import pytest

from pdkernel.event import Event
from tests.checklist.conftest import Check
from tests.checklist.languages import ALL, WITH_RETURN

GET = Event(
    {"method": "GET", "path": "/", "query": {}, "client_ip": "127.0.0.1", "url": "https://x.test/", "headers": {}}
)


@pytest.mark.parametrize("language", ALL)
async def test_an_event_without_a_body_has_no_body_key(check: Check, language: str) -> None:
    """`body` is absent on a GET without a body; the other six keys are present."""
    await check("absent-body", language, event=GET)


@pytest.mark.parametrize("language", ALL)
async def test_the_context_has_its_keys(check: Check, language: str) -> None:
    """The context has the 19 keys in the platform's order; both keys of the external user are null without a user."""
    await check("context", language)


@pytest.mark.parametrize("language", ALL)
async def test_the_context_names_the_external_user(check: Check, language: str) -> None:
    """`external_user_id` and `external_user_environment` name the run's user."""
    await check("context", language, variant="user", external_user_id="ada", environment="production", test=False)


@pytest.mark.parametrize("language", ["node", "python"])
async def test_a_steps_own_context_has_more_keys(check: Check, language: str) -> None:
    """`$.context` is the trigger's context and `deadline`, `JIT` and `run`, whose `runs` starts at 1."""
    await check("step-context", language)


@pytest.mark.parametrize("language", ALL)
async def test_exports_are_read_by_the_steps_below(check: Check, language: str) -> None:
    """Later steps read named exports, `$return_value` and `$summary` by step; a disabled step has no exports."""
    await check("steps-above", language)


@pytest.mark.parametrize("language", WITH_RETURN)
async def test_a_return_value_is_an_export(check: Check, language: str) -> None:
    """A returned value is in `$return_value` as a whole; without a return value there is no export."""
    await check("return-values", language)


@pytest.mark.parametrize("language", ALL)
async def test_printed_text_is_a_log(check: Check, language: str) -> None:
    """`console.log`, `print`, `fmt.Println`, stdout and stderr are the step's logs."""
    await check("logs", language)


@pytest.mark.parametrize("language", ALL)
async def test_environment_variables(check: Check, language: str) -> None:
    """Steps read variables by `process.env.X`, `os.environ`, `os.Getenv` and `$X`; Node.js not at module scope (parity[process-env])."""
    await check("environment", language, variables={"REGION": "eu-west"})


@pytest.mark.parametrize("language", ["node", "python", "go"])
async def test_an_exception_ends_the_run(check: Check, language: str) -> None:
    """An exception ends the step and the run; earlier exports are kept, later steps do not run."""
    await check("raises", language)

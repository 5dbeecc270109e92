"""Facts about end users."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pdkernel.model import Trigger
from pdkernel.storage import Project
from tests.builders import an_event
from tests.checklist.conftest import Check
from tests.checklist.languages import ALL, WITH_RETURN

Connect = Callable[..., str]
CUSTOM = Trigger(response="custom")


@pytest.mark.parametrize("language", ALL)
async def test_the_newest_account_is_used(check: Check, connect: Connect, language: str) -> None:
    """A step uses the newest of several accounts of an app. In Bash and Go this goes beyond the platform."""
    connect("ada", "xoxb-older-token", account_id="apn_older01")
    connect("ada", "xoxb-newer", account_id="apn_newer01")
    connect("ada", "xoxp-in-production", account_id="apn_prod001", environment="production")
    await check("end-user", language, external_user_id="ada")


@pytest.mark.parametrize("language", ALL)
async def test_no_user(check: Check, language: str) -> None:
    """The first of the four errors follows `Pipedream Connect Error: ` in the body of a custom response."""
    await check("end-user", language, variant="no-user", trigger=CUSTOM)


@pytest.mark.parametrize("language", ALL)
async def test_an_unknown_user(check: Check, language: str) -> None:
    """The second error names an unknown user."""
    await check("end-user", language, variant="unknown-user", trigger=CUSTOM, external_user_id="nobody")


@pytest.mark.parametrize("language", ALL)
async def test_no_account(check: Check, connect: Connect, language: str) -> None:
    """The third error names app, user and environment."""
    connect("ada", app="github")
    await check("end-user", language, variant="no-account", trigger=CUSTOM, external_user_id="ada")


@pytest.mark.parametrize("language", ALL)
async def test_production_on_a_free_plan(check: Check, connect: Connect, project: Project, language: str) -> None:
    """The fourth error refuses production on the free plan; development is free."""
    connect("ada", environment="production", account_id="apn_prod001")
    project.set_plan("free")
    await check(
        "end-user",
        language,
        variant="free-plan",
        trigger=CUSTOM,
        external_user_id="ada",
        environment="production",
    )


@pytest.mark.parametrize("language", ALL)
async def test_timers_have_no_user(check: Check, language: str) -> None:
    """The triggering event names the user, so a run that a timer starts has no user."""
    await check("end-user", language, variant="timer", trigger=Trigger(type="schedule"))


@pytest.mark.parametrize("language", WITH_RETURN)
async def test_one_user_per_run(check: Check, connect: Connect, language: str) -> None:
    """A run has one external user; no step can change the user for later steps."""
    connect("ada", "xoxb-of-ada", account_id="apn_ada0001")
    connect("grace", "xoxb-of-grace-hopper", account_id="apn_grace01")
    await check("one-user", language, external_user_id="ada", event=an_event(headers={"x-pd-external-user-id": "ada"}))

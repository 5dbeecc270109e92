"""The row "end user" of the checklist. Numbers are sections of the reference."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pdkernel.model import Trigger
from pdkernel.project import Project
from tests.builders import an_event
from tests.checklist.conftest import Check
from tests.checklist.languages import ALL, WITH_RETURN

Connect = Callable[..., str]
CUSTOM = Trigger(response="custom")


@pytest.mark.parametrize("language", ALL)
async def test_the_newest_account_is_used(check: Check, connect: Connect, language: str) -> None:
    """1.2, 1.3: of several accounts of an app the most recently created one. Bash and Go: beyond the platform (2.1)."""
    connect("ada", "xoxb-older-token", account_id="apn_older01")
    connect("ada", "xoxb-newer", account_id="apn_newer01")
    connect("ada", "xoxp-in-production", account_id="apn_prod001", environment="production")
    await check("end-user", language, external_user_id="ada")


@pytest.mark.parametrize("language", ALL)
async def test_no_user(check: Check, language: str) -> None:
    """1.3: the first of the four errors, behind `Pipedream Connect Error: `, in the body of a custom response (1.2)."""
    await check("end-user", language, variant="no-user", trigger=CUSTOM)


@pytest.mark.parametrize("language", ALL)
async def test_an_unknown_user(check: Check, language: str) -> None:
    """1.3: the second error."""
    await check("end-user", language, variant="unknown-user", trigger=CUSTOM, external_user_id="nobody")


@pytest.mark.parametrize("language", ALL)
async def test_no_account(check: Check, connect: Connect, language: str) -> None:
    """1.2, 1.3: the third error, with app, user and environment."""
    connect("ada", app="github")
    await check("end-user", language, variant="no-account", trigger=CUSTOM, external_user_id="ada")


@pytest.mark.parametrize("language", ALL)
async def test_production_on_a_free_plan(check: Check, connect: Connect, project: Project, language: str) -> None:
    """1.2, 1.3: the fourth error; development is free."""
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
    """1.2: the user must arrive in the triggering event, so a workflow that a timer starts has none."""
    await check("end-user", language, variant="timer", trigger=Trigger(type="schedule"))


@pytest.mark.parametrize("language", WITH_RETURN)
async def test_one_user_per_run(check: Check, connect: Connect, language: str) -> None:
    """1.2: one external user per execution; no step can change it for the steps below."""
    connect("ada", "xoxb-of-ada", account_id="apn_ada0001")
    connect("grace", "xoxb-of-grace-hopper", account_id="apn_grace01")
    await check("one-user", language, external_user_id="ada", event=an_event(headers={"x-pd-external-user-id": "ada"}))

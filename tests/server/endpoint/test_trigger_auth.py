"""Who may start a workflow: the trigger's auth, then the four end-user errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pdkernel.model import Trigger
from tests.builders import a_workflow, python_step
from tests.server.endpoint.conftest import ECHO
from tests.server.site import Site, site_of

NEEDS_SLACK = python_step("post", "pd.respond(status=200, body='posted')", options="--app slack")


def guarded(auth: Any, *, step: Any = None, response: Any = "custom", token_env: str | None = None) -> Any:
    """A workflow whose trigger asks for *auth*."""
    workflow = a_workflow(step or python_step("echo", ECHO))
    return replace(workflow, triggers=(Trigger(auth=auth, token_env=token_env, response=response),))


async def ask(site: Site, **headers: str) -> tuple[int, str]:
    """Status and text of a POST."""
    answer = await site.http.post(site.path(), headers=headers)
    return answer.status_code, answer.text


async def test_oauth(tmp_path: Path) -> None:
    """A token of a client passes, one that lacks the scope does not, and neither do others."""
    async with site_of(tmp_path, guarded("oauth")) as site:
        good = await ask(site, **site.token("connect:workflow:invoke"))
        refused = [
            await ask(site),
            await ask(site, Authorization=""),
            await ask(site, Authorization="Bearer nonsense"),
            await ask(site, **site.token("connect:accounts:read")),
        ]
        runs = await site.runs()

    assert good[0] == 200
    assert [status for status, _ in refused] == [401] * 4
    assert len(runs) == 1
    assert "nonsense" not in str(refused)


async def test_a_revoked_token(tmp_path: Path) -> None:
    """A token that was revoked does not pass."""
    async with site_of(tmp_path, guarded("oauth")) as site:
        header = site.token()
        tokens = site.context.project.access_tokens
        token = tokens.verify(header["Authorization"].removeprefix("Bearer "))
        assert token is not None
        tokens.revoke(token)
        status, _ = await ask(site, **header)

    assert status == 401


async def test_bearer(tmp_path: Path) -> None:
    """The token in the named variable passes, and nothing else."""
    (tmp_path / ".env").write_text("HOOK_TOKEN=s3cret-é\n", encoding="utf-8")
    async with site_of(tmp_path, guarded("bearer", token_env="HOOK_TOKEN")) as site:
        good = await site.http.post(site.path(), headers=[(b"authorization", "Bearer s3cret-é".encode())])
        refused = [await ask(site), await ask(site, Authorization="Bearer s3cret"), await ask(site, **site.token())]

    assert good.status_code == 200
    assert [status for status, _ in refused] == [401] * 3


async def test_bearer_without_its_variable(tmp_path: Path) -> None:
    """Where the variable is not set, nobody passes."""
    async with site_of(tmp_path, guarded("bearer", token_env="NOT_SET")) as site:
        assert [(await ask(site, Authorization=given))[0] for given in ("Bearer", "Bearer None")] == [401, 401]


async def test_auth_comes_before_the_user(tmp_path: Path) -> None:
    """Without a token nothing is said of users."""
    async with site_of(tmp_path, guarded("oauth", step=NEEDS_SLACK)) as site:
        status, text = await ask(site, **{"x-pd-external-user-id": "nobody"})

    assert status == 401
    assert "Pipedream Connect Error" not in text


ERRORS = [
    ({}, "No external user ID passed, but one or more steps require it"),
    ({"x-pd-external-user-id": "eve"}, "No matching external user ID: eve in development"),
    ({"x-pd-external-user-id": "bob"}, "Required account for slack not found for external user ID bob in development"),
    (
        {"x-pd-external-user-id": "ada", "x-pd-environment": "production"},
        "Running workflows for your users in production requires a higher tier plan",
    ),
]


def people(site: Site) -> None:
    """Ada has Slack in both environments, Bob has another app; the plan is free."""
    for environment in ("development", "production"):
        site.directory.add_account(
            app="slack", credentials={"api_key": "0123456789"}, external_user_id="ada", environment=environment
        )
    site.directory.add_account(app="github", credentials={"api_key": "0123456789"}, external_user_id="bob")
    site.context.project.set_plan("free")


@pytest.mark.parametrize(("headers", "sentence"), ERRORS)
async def test_end_user_errors_where_the_response_is_custom(
    tmp_path: Path, headers: dict[str, str], sentence: str
) -> None:
    """The caller gets 400 and the platform's words alone: who else there is stays in the record."""
    async with site_of(tmp_path, guarded("none", step=NEEDS_SLACK)) as site:
        people(site)
        answer = await ask(site, **headers)
        (run,) = await site.runs()

    assert answer == (400, f"Pipedream Connect Error: {sentence}")
    assert run.error is not None
    assert run.error.message.startswith(answer[1])
    assert [step.status for step in run.steps] == ["not_run"]


@pytest.mark.parametrize(("headers", "sentence"), ERRORS)
async def test_end_user_errors_by_default(tmp_path: Path, headers: dict[str, str], sentence: str) -> None:
    """The caller gets the platform's answer; the run holds the error."""
    async with site_of(tmp_path, guarded("none", step=NEEDS_SLACK, response="default")) as site:
        people(site)
        answer = await site.http.post(site.path(), headers=headers)
        (run,) = await site.runs()

    assert (answer.status_code, answer.json()["event_id"]) == (200, run.id)
    assert run.status == "error"
    assert run.error is not None
    assert sentence in run.error.message


async def test_end_user_with_an_account(tmp_path: Path) -> None:
    """With an account the run is the user's, in the environment that the header names."""
    async with site_of(tmp_path, guarded("none", step=NEEDS_SLACK)) as site:
        people(site)
        answer = await ask(site, **{"X-PD-External-User-ID": "ada"})
        (run,) = await site.runs()

    assert answer == (200, "posted")
    assert (run.external_user, run.environment, run.context["external_user_id"]) == ("ada", "development", "ada")
    assert run.step("post").accounts[0].owner == "external_user"


async def test_unknown_environment(tmp_path: Path) -> None:
    """An environment that there is none of is 400, and starts nothing."""
    async with site_of(tmp_path, guarded("none")) as site:
        status, _ = await ask(site, **{"x-pd-environment": "staging"})
        runs = await site.runs()

    assert (status, runs) == (400, [])

"""The trigger's auth, and the four end-user errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from pdkernel.files.source import WorkflowSource
from pdkernel.model import Trigger
from pdkernel.server import create_app
from pdkernel.server.app_context import ServedWorkflow
from pdkernel.server.passthrough import PipedreamPassthrough
from pdkernel.server.rate_limits import ENDPOINT_BURST
from tests.accounts.upstream import TOKEN, Upstream, token_of
from tests.builders import a_workflow, python_step
from tests.server.endpoint.conftest import ECHO
from tests.server.served import served
from tests.server.site import Site, site_of

LIMITED = token_of("o_ours", "connect:accounts:read", number=7)
"""A token of the project's workspace that may not start workflows."""
NEEDS_SLACK = python_step("post", "pd.respond(status=200, body='posted')", options="--app slack")


def guarded(auth: Any, *, step: Any = None, response: Any = "custom", token_env: str | None = None) -> Any:
    """A workflow whose trigger requires *auth*."""
    workflow = a_workflow(step or python_step("echo", ECHO))
    return replace(workflow, triggers=(Trigger(auth=auth, token_env=token_env, response=response),))


async def post(site: Site, **headers: str) -> tuple[int, str]:
    """Send a POST; returns the status and the text. A 401 names the scheme that the endpoint requires."""
    answer = await site.http.post(site.path(), headers=headers)
    assert answer.headers.get("www-authenticate") == ("Bearer" if answer.status_code == 401 else None)
    return answer.status_code, answer.text


async def test_oauth_requires_a_token_with_the_scope(tmp_path: Path) -> None:
    """A token with the scope starts the workflow; without the scope or with an invalid token the response is 401."""
    async with site_of(tmp_path, guarded("oauth")) as site:
        good = await post(site, **site.token("connect:workflow:invoke"))
        refused = [
            await post(site),
            await post(site, Authorization=""),
            await post(site, Authorization="Bearer nonsense"),
            await post(site, **site.token("connect:accounts:read")),
        ]
        runs = await site.runs()

    assert good[0] == 200
    assert [status for status, _ in refused] == [401] * 4
    assert len(runs) == 1
    assert "nonsense" not in str(refused)


@pytest.mark.parametrize("auth", ["oauth", "bearer"])
async def test_requests_without_a_valid_token_leave_the_burst(tmp_path: Path, auth: str) -> None:
    """Requests that are refused for their token do not count, so a stranger cannot use up the burst of an authorized caller."""
    (tmp_path / ".env").write_text("HOOK_TOKEN=rk-1\n")
    workflow = guarded(auth, token_env="HOOK_TOKEN")
    async with site_of(tmp_path, workflow, applies_rate_limits=True) as site:
        wrong = site.token("connect:accounts:read") if auth == "oauth" else {"Authorization": "Bearer rk-2"}
        refused = [await post(site, **wrong) for _ in range(2 * int(ENDPOINT_BURST))]
        right = site.token("connect:workflow:invoke") if auth == "oauth" else {"Authorization": "Bearer rk-1"}
        answer = await site.http.post(site.path(), headers=right)

    assert {status for status, _ in refused} == {401}
    assert answer.status_code == 200


async def test_a_revoked_token(tmp_path: Path) -> None:
    """A revoked token is answered 401."""
    async with site_of(tmp_path, guarded("oauth")) as site:
        header = site.token()
        tokens = site.context.project.access_tokens
        token = tokens.verify(header["Authorization"].removeprefix("Bearer "))
        assert token is not None
        tokens.revoke(token)
        status, _ = await post(site, **header)

    assert status == 401


@pytest.mark.parametrize(
    ("token", "is_reachable", "status", "reason"),
    [
        (TOKEN, True, 200, ""),
        (LIMITED, True, 401, "lacks the scope connect:workflow:invoke"),
        (
            "unknown",
            True,
            401,
            "Neither this server nor the workspace of its Connect project issued this access token.",
        ),
        (TOKEN, False, 503, "could not be checked: Pipedream does not respond. Try again."),
        ("", True, 401, "This endpoint requires an OAuth access token."),
    ],
)
async def test_a_token_of_a_real_project(
    tmp_path: Path, upstream: Upstream, token: str, is_reachable: bool, status: int, reason: str
) -> None:
    """With a real project, a token of its workspace starts the workflow; the answer to another has the reason, and no token."""
    upstream.tokens[LIMITED] = ("o_ours", "connect:accounts:read")
    login = upstream.login if is_reachable else replace(upstream.login, base_url="http://127.0.0.1:9")
    source = WorkflowSource(tmp_path / "work.ipynb", "notebook", guarded("oauth", response="default"))
    async with served(tmp_path, ServedWorkflow("p_test", "eotest", source)) as site:
        pipedream = PipedreamPassthrough(login, site.project.pipedream_tokens, site.context.clock)
        transport = httpx.ASGITransport(create_app(replace(site.context, passthrough=pipedream)))
        async with httpx.AsyncClient(transport=transport, base_url=site.context.settings.base_url) as http:
            answer = await http.post("/eotest", headers={"Authorization": f"Bearer {token}"})
        await pipedream.close()

    assert answer.status_code == status
    assert reason in answer.text
    assert token == "" or token not in answer.text
    assert answer.headers.get("retry-after") == ("2" if status == 503 else None)


async def test_bearer_requires_the_token_of_the_variable(tmp_path: Path) -> None:
    """The value of the named variable starts the workflow; another token is answered 401."""
    (tmp_path / ".env").write_text("HOOK_TOKEN=s3cret-é\n", encoding="utf-8")
    async with site_of(tmp_path, guarded("bearer", token_env="HOOK_TOKEN")) as site:
        good = await site.http.post(site.path(), headers=[(b"authorization", "Bearer s3cret-é".encode())])
        refused = [await post(site), await post(site, Authorization="Bearer s3cret"), await post(site, **site.token())]

    assert good.status_code == 200
    assert [status for status, _ in refused] == [401] * 3


@pytest.mark.parametrize("variables", ["", "HOOK_TOKEN=\n"], ids=["not set", "empty"])
async def test_bearer_without_its_variable(tmp_path: Path, variables: str) -> None:
    """If the variable is not set or empty, every token is answered 401, and so is a request without a token."""
    (tmp_path / ".env").write_text(variables)
    async with site_of(tmp_path, guarded("bearer", token_env="HOOK_TOKEN")) as site:
        refused = [await post(site), *[await post(site, Authorization=given) for given in ("Bearer", "Bearer None")]]

    assert [status for status, _ in refused] == [401] * 3


async def test_auth_is_checked_before_the_user(tmp_path: Path) -> None:
    """Without a token, the response does not reveal whether the user exists."""
    async with site_of(tmp_path, guarded("oauth", step=NEEDS_SLACK)) as site:
        status, text = await post(site, **{"x-pd-external-user-id": "unknown"})

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


def add_users(site: Site) -> None:
    """Ada has Slack in both environments, Bob has another app; the plan is free."""
    for environment in ("development", "production"):
        site.directory.add_account(
            app="slack", credentials={"api_key": "0123456789"}, external_user_id="ada", environment=environment
        )
    site.directory.add_account(app="github", credentials={"api_key": "0123456789"}, external_user_id="bob")
    site.context.project.set_plan("free")


@pytest.mark.parametrize(("headers", "sentence"), ERRORS)
async def test_end_user_errors_with_a_custom_response(tmp_path: Path, headers: dict[str, str], sentence: str) -> None:
    """The caller gets 400 with the platform's message only; the record has the whole error."""
    async with site_of(tmp_path, guarded("none", step=NEEDS_SLACK)) as site:
        add_users(site)
        answer = await post(site, **headers)
        (run,) = await site.runs()

    assert answer == (400, f"Pipedream Connect Error: {sentence}")
    assert run.error is not None
    assert run.error.message.startswith(answer[1])
    assert [step.status for step in run.steps] == ["not_run"]


@pytest.mark.parametrize(("headers", "sentence"), ERRORS)
async def test_end_user_errors_with_the_default_response(
    tmp_path: Path, headers: dict[str, str], sentence: str
) -> None:
    """The caller gets the platform's default response, and the record has the error."""
    async with site_of(tmp_path, guarded("none", step=NEEDS_SLACK, response="default")) as site:
        add_users(site)
        answer = await site.http.post(site.path(), headers=headers)
        (run,) = await site.runs()

    assert (answer.status_code, answer.json()["event_id"]) == (200, run.id)
    assert run.status == "error"
    assert run.error is not None
    assert sentence in run.error.message


async def test_a_user_with_an_account(tmp_path: Path) -> None:
    """The run belongs to the user, in the environment of the header."""
    async with site_of(tmp_path, guarded("none", step=NEEDS_SLACK)) as site:
        add_users(site)
        answer = await post(site, **{"X-PD-External-User-ID": "ada"})
        (run,) = await site.runs()

    assert answer == (200, "posted")
    assert (run.external_user, run.environment, run.context["external_user_id"]) == ("ada", "development", "ada")
    assert run.step("post").accounts[0].owner == "external_user"


async def test_an_unknown_environment_is_rejected(tmp_path: Path) -> None:
    """An unknown environment is answered 400, and starts no run."""
    async with site_of(tmp_path, guarded("none")) as site:
        status, _ = await post(site, **{"x-pd-environment": "staging"})
        runs = await site.runs()

    assert (status, runs) == (400, [])

"""Requests to endpoints: flags, limits, the event, and isolation of users."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import random
import signal
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from pdkernel.common.clock import ManualClock
from pdkernel.engine.run_context import derive_id
from pdkernel.files.source import WorkflowSource
from pdkernel.model import Trigger
from pdkernel.server import create_app
from pdkernel.server.app_context import ServedWorkflow
from pdkernel.server.passthrough import PipedreamPassthrough
from pdkernel.server.rate_limits import ENDPOINT_BURST
from tests.accounts.upstream import TOKEN, Upstream, token_of
from tests.builders import a_step, a_workflow, python_step
from tests.postgres import stopping_postgres
from tests.server.endpoint.conftest import ECHO, Serve
from tests.server.served import served
from tests.server.site import Site, site_of

PLACES = ["headers", "params"]


def with_flag(where: str, name: str) -> Any:
    """The argument of an httpx call that sets the flag as a header or in the query."""
    return {where: {name: "1"}}


@pytest.mark.parametrize("where", PLACES)
async def test_nostore_does_not_record_the_run(echo: Site, where: str) -> None:
    """With x-pd-nostore the workflow runs, and the database does not have the event."""
    mark = "not-recorded-body"
    answer = await echo.http.post(echo.path(), content=mark, **with_flag(where, "x-pd-nostore"))
    await echo.http.post(echo.path(), content="recorded-body")
    (run,) = await echo.runs()
    path = echo.context.project.sqlite_path
    assert path is not None
    with sqlite3.connect(path) as database:
        rows = [str(row) for table in ("runs", "steps") for row in database.execute(f"select * from {table}")]

    assert answer.json()["body"] == mark
    assert run.event["body"] == "recorded-body"
    assert mark not in "".join(rows)
    assert "recorded-body" in "".join(rows)


@pytest.mark.parametrize("where", PLACES)
async def test_notrigger_records_the_event_without_steps(echo: Site, where: str) -> None:
    """With x-pd-notrigger the event is recorded as a test, and no step runs; a flag with another value than 1 is off."""
    answer = await echo.http.post(echo.path(), json={"a": 1}, **with_flag(where, "x-pd-notrigger"))
    off: Any = {where: {"x-pd-nostore": "0", "x-pd-notrigger": "0"}}
    await echo.http.post(echo.path(), **off)
    run, usual = await echo.runs()

    assert (answer.status_code, answer.json()["event_id"]) == (200, run.id)
    assert run.event["body"] == {"a": 1}
    assert run.context["test"] is True
    assert [step.status for step in (*run.steps, *usual.steps)] == ["not_run", "success"]


async def test_the_rate_limit_of_an_endpoint(serve: Serve) -> None:
    """If rate limits apply, requests above a burst are answered 429 with `retry-after`."""
    site = await serve(python_step("quick"), response="default", applies_rate_limits=True, clock=ManualClock())

    answers = await asyncio.gather(*(site.http.post(site.path(), headers={"x-pd-nostore": "1"}) for _ in range(150)))

    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(refused) == 50
    assert {answer.headers["retry-after"] for answer in refused} == {"1"}


USERS, ROUNDS = 24, 2
PYTHON = """
import json, os, tempfile
global left, held
seen = {
    "event": pd.steps["trigger"]["event"],
    "auth": dict(pd.inputs["slack"]["$auth"]),
    "left": globals().get("left"),
    "held": globals().get("held"),
    "environ": dict(os.environ),
    "files": {name: open(name).read() for name in os.listdir(".") if os.path.isfile(name)},
    "temporary": os.listdir(tempfile.gettempdir()),
}
held = [pd.steps["trigger"]["event"]["body"]]
left = os.environ["LEFT"] = seen["auth"]["oauth_access_token"]
open("left.txt", "w").write(left)
open(os.path.join(tempfile.gettempdir(), left), "w").close()
return json.loads(json.dumps(seen, default=str))
"""
NODE = """%%pdstep tell --lang node
const kept = [];
export default defineComponent({
  props: { slack: { type: "app", app: "slack" } },
  async run({ steps, $ }) {
const fs = await import("node:fs");
const seen = { left: globalThis.left ?? null, held: kept, env: process.env.LEFT ?? null, above: steps.look, auth: this.slack.$auth,
  files: fs.readdirSync(".") };
globalThis.left = this.slack.$auth.oauth_access_token;
process.env.LEFT = globalThis.left;
kept.push(globalThis.left);
await $.respond({ status: 200, body: seen });
  },
});
"""


def token(number: int) -> str:
    """A credential that only this user's account has."""
    return f"xoxb-mark-{number:03d}-of-its-user"


async def read_everything(site: Site, number: int) -> str:
    """Run the workflow as the user; returns everything that the run can read."""
    headers = {"x-pd-external-user-id": f"user-{number:03d}"}
    answer = await site.http.post(site.path(), json={"mine": f"event-mark-{number:03d}"}, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.text


async def test_users_are_isolated_in_shared_workers(tmp_path: Path) -> None:
    """Each user reads its own marks, and no mark of another user; so does the record."""
    steps = (python_step("look", PYTHON, options="--app slack"), a_step(NODE))
    async with site_of(tmp_path, a_workflow(*steps, response="custom"), size=4) as site:
        for number in range(USERS):
            site.connect(f"user-{number:03d}", "slack", {"oauth_access_token": token(number)})
        order = [number for number in range(USERS) for _ in range(ROUNDS)]
        random.Random(7).shuffle(order)
        answers = await asyncio.gather(*(read_everything(site, number) for number in order))
        runs = await site.runs()

    for number, answer in zip(order, answers, strict=True):
        assert token(number) in answer
        assert f"event-mark-{number:03d}" in answer
        others = [
            mark for other in range(USERS) if other != number for mark in (token(other), f"event-mark-{other:03d}")
        ]
        assert [mark for mark in others if mark in answer] == []
    assert len(runs) == USERS * ROUNDS
    for run in runs:
        assert run.external_user is not None
        mine = run.external_user.removeprefix("user-")
        text = str(run.to_json())
        assert f"event-mark-{mine}" in text
        assert "xoxb-mark" not in text
        assert [other for other in range(USERS) if f"{other:03d}" != mine and f"event-mark-{other:03d}" in text] == []


@pytest.mark.parametrize(("limits", "outcome"), [({}, "error: ProjectError"), ({"concurrency": 1}, "lost")])
async def test_a_run_that_cannot_be_recorded(tmp_path: Path, limits: dict[str, Any], outcome: str) -> None:
    """If the journal cannot be written, the caller is told to send again instead of the id of a missing run, also with a queue."""
    async with site_of(tmp_path, a_workflow(python_step(), **limits)) as site:
        await site.journal.close()
        answer = await site.http.post(site.path(), json={})
        (line,) = await site.wait_for_lines(1)

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "may have been stored" in answer.text
    assert outcome in line


@pytest.mark.parametrize("limits", [{}, {"concurrency": 1}])
@pytest.mark.parametrize("response", ["default", "custom"])
async def test_a_repeated_request_starts_no_second_run(tmp_path: Path, response: str, limits: dict[str, Any]) -> None:
    """Requests with one `Idempotency-Key`, at the same time or later, get the answer of the run that one of them has started."""
    async with site_of(tmp_path, a_workflow(python_step("echo", ECHO), response=response, **limits)) as site:

        async def send() -> httpx.Response:
            return await site.http.post(site.path(), json={"n": 1}, headers={"idempotency-key": "a-key"})

        answers = [*await asyncio.gather(*(send() for _ in range(5))), await send()]
        (run,) = await site.runs()

    assert [answer.status_code for answer in answers] == [200] * 6
    found = [answer.json()["event_id" if response == "default" else "body"] for answer in answers]
    assert found == [run.id if response == "default" else {"n": 1}] * 6


async def test_another_request_with_an_idempotency_key_is_another_event(echo: Site) -> None:
    """A request that differs in its key, body, path or external user is not a repeated one, so its event is not lost."""
    for sent in ({}, {"key": "another"}, {"body": {"n": 2}}, {"user": "ben"}, {"path": "/b"}):
        given: dict[str, Any] = {"key": "a-key", "user": "ada", "path": "/a", "body": {"n": 1}, **sent}
        headers = {"idempotency-key": given["key"], "x-pd-external-user-id": given["user"]}
        await echo.http.post(echo.path() + given["path"], json=given["body"], headers=headers)

    assert len(await echo.runs()) == 5


async def test_a_refused_request_is_not_taken_for_a_repeated_one(tmp_path: Path) -> None:
    """A caller who was refused because too many runs wait starts the run by sending the same request later."""
    workflow = a_workflow(python_step("hold", "import time; time.sleep(0.5)"), concurrency=1, queue=1)
    async with site_of(tmp_path, workflow) as site, asyncio.timeout(60):
        keys = (f"key-{number}" for number in itertools.count())
        headers = {"idempotency-key": next(keys)}
        while (refused := await site.http.post(site.path(), json={"n": 1}, headers=headers)).status_code != 429:
            headers = {"idempotency-key": next(keys)}
        while (again := await site.http.post(site.path(), json={"n": 1}, headers=headers)).status_code == 429:
            await asyncio.sleep(0.05)
        repeated = await site.http.post(site.path(), json={"n": 1}, headers=headers)

    assert refused.status_code == 429
    assert again.status_code == 200
    assert again.json()["event_id"] == repeated.json()["event_id"]


async def test_every_method_starts_the_workflow(echo: Site) -> None:
    """The event has the method and the body."""
    for method in ("GET", "PUT", "PATCH", "DELETE", "PURGE"):
        event = (await echo.http.request(method, echo.path(), json={"a": 1})).json()

        assert (event["method"], event["body"]) == (method, {"a": 1})


async def test_headers_of_the_event(echo: Site) -> None:
    """Header names are in lower case, and values of a repeated header are joined."""
    headers = [(b"x-twice", b"a"), (b"X-Twice", b"b"), (b"x-pd-custom", "Ü".encode("latin-1"))]
    answer = await echo.http.post(echo.path(), headers=headers)

    assert answer.json()["headers"]["x-twice"] == "a, b"
    assert answer.json()["headers"]["x-pd-custom"] == "Ü"


async def test_unusual_characters_are_recorded(serve: Serve) -> None:
    """A lone surrogate and NUL pass through the workflow, the journal and the run's page."""
    token = "a-token-of-the-admin"
    echo = await serve(python_step("echo", ECHO), admin_token_hash=hashlib.sha256(token.encode()).digest())
    body: Any = {"half": "\ud800", "nul": "\x00", "\u2028": "\u202e"}
    answer = await echo.http.post(echo.path(), content=json.dumps(body), headers={"content-type": "application/json"})
    (run,) = await echo.runs()
    page = await echo.http.get(f"/-/runs/{run.id}", headers={"authorization": f"Bearer {token}"})

    assert answer.status_code == 200
    assert page.status_code == 200
    assert run.status == "success"


SECRET = "xoxb-4f9a7c21e8d35b60"
"""A credential of ada's account, which a caller puts into an event."""

NOT_STARTED: dict[str, tuple[dict[str, str], bytes]] = {
    "notrigger": ({"x-pd-external-user-id": "ada", "x-pd-notrigger": "1"}, b""),
    "notrigger and nostore": ({"x-pd-external-user-id": "ada", "x-pd-notrigger": "1", "x-pd-nostore": "1"}, b""),
    "nostore": ({"x-pd-external-user-id": "ada", "x-pd-nostore": "1"}, b""),
    "the other environment": ({"x-pd-external-user-id": "ada", "x-pd-environment": "production"}, b""),
    "no environment": ({"x-pd-external-user-id": "ada", "x-pd-environment": f"staging {SECRET}"}, b""),
    "an unknown user": ({"x-pd-external-user-id": "nobody"}, b""),
    "an unknown user, nostore": ({"x-pd-external-user-id": "nobody", "x-pd-nostore": "1"}, b""),
    "no user": ({}, b""),
    "too large": ({"x-pd-external-user-id": "ada"}, b"x" * (600 * 1024)),
}


async def _send_not_started(site: Site) -> None:
    """Send an event with the token in its body, query, path and headers for each case, and one that starts a run."""
    site.connect("ada", "slack", {"bot_token": SECRET})
    for headers, body in NOT_STARTED.values():
        await site.http.post(
            f"{site.path()}/hook/{SECRET}?key={SECRET}",
            content=json.dumps({"text": f"token {SECRET} in a text"}).encode() + body,
            headers={**headers, "content-type": "application/json", "x-other": SECRET, "referer": f"http://a/{SECRET}"},
        )
    started = {"x-pd-external-user-id": "ada", "x-other": "an-ordinary-word"}
    await site.http.post(site.path(), json={"key": SECRET}, headers=started)
    await site.runs()


def _read_all(folder: Path) -> bytes:
    """The bytes of all files below *folder*."""
    return b"".join(file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file())


APP_STEP = python_step("send", options="--app slack")


async def test_events_that_start_no_run_are_not_stored_in_clear(tmp_path: Path) -> None:
    """No file of the project has a token of a refused or skipped event, while the run's event is recorded redacted."""
    async with site_of(tmp_path, a_workflow(APP_STEP), size=1) as site:
        await _send_not_started(site)
        runs = await site.runs()
        stored = _read_all(tmp_path)  # while the database is open, so with its write-ahead log

    assert SECRET.encode() not in stored
    assert b"an-ordinary-word" in stored
    assert [run.trigger.sealed for run in runs] == [True, False, True, True, True, False]
    assert [run.status for run in runs] == ["success", "error", "error", "error", "error", "success"]


async def test_events_that_start_no_run_are_not_stored_in_clear_in_postgres(tmp_path: Path) -> None:
    """No file of the PostgreSQL server has a token of a refused or skipped event, while the run's event is recorded."""
    with stopping_postgres() as (server, stop, start):
        url, key = server.url("postgres"), tmp_path / "key"
        async with site_of(tmp_path, a_workflow(APP_STEP), database_url=url, key_file=key) as site:
            await _send_not_started(site)
        await asyncio.to_thread(stop, signal.SIGINT)  # writes all pages
        stored = _read_all(server.sockets)
        await asyncio.to_thread(start)

    assert SECRET.encode() not in stored
    assert b"an-ordinary-word" in stored


async def test_a_recorded_event_that_started_no_run_can_be_run(tmp_path: Path) -> None:
    """The event of a request with `x-pd-notrigger` is complete in the run's encrypted request."""
    async with site_of(tmp_path, a_workflow(APP_STEP)) as site:
        site.connect("ada", "slack", {"bot_token": SECRET})
        headers = {"x-pd-external-user-id": "ada", "x-pd-notrigger": "1"}
        await site.http.post(site.path(), json={"key": SECRET}, headers=headers)
        (run,) = await site.runs()
        found = await site.journal.load_run(run.id)
        assert found is not None
        state = site.context.engine.restore_request(found[1])

    assert (run.trigger.sealed, run.event) == (True, {})
    assert state.event.data["body"] == {"key": SECRET}


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
    """A token with the scope starts the workflow; without the scope, or with a revoked or invalid token, the response is 401."""
    async with site_of(tmp_path, guarded("oauth")) as site:
        tokens, revoked = site.context.project.access_tokens, site.token()
        token = tokens.verify(revoked["Authorization"].removeprefix("Bearer "))
        assert token is not None
        tokens.revoke(token)
        invalid = [{}, {"Authorization": ""}, {"Authorization": "Bearer nonsense"}, site.token("connect:accounts:read")]
        good = await post(site, **site.token("connect:workflow:invoke"))
        refused = [await post(site, **headers) for headers in (*invalid, revoked)]
        runs = await site.runs()

    assert good[0] == 200
    assert [status for status, _ in refused] == [401] * 5
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
        headers: list[dict[str, str]] = [{}, {"Authorization": "Bearer"}, {"Authorization": "Bearer None"}]

        assert [(await post(site, **each))[0] for each in headers] == [401] * 3


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
        site.connect("ada", "slack", {"api_key": "0123456789"}, environment=environment)
    site.connect("bob", "github", {"api_key": "0123456789"})
    site.context.project.set_plan("free")


@pytest.mark.parametrize("response", ["custom", "default"])
async def test_end_user_errors(tmp_path: Path, response: str) -> None:
    """A caller gets 400 with the platform's message only, or the default response; the record has the whole error."""
    async with site_of(tmp_path, guarded("none", step=NEEDS_SLACK, response=response)) as site:
        add_users(site)
        answers = [await site.http.post(site.path(), headers=headers) for headers, _ in ERRORS]
        runs = await site.runs()

    for answer, run, (_, sentence) in zip(answers, runs, ERRORS, strict=True):
        message = f"Pipedream Connect Error: {sentence}"
        if response == "custom":
            assert (answer.status_code, answer.text) == (400, message)
        else:
            assert (answer.status_code, answer.json()["event_id"]) == (200, run.id)
        assert (run.status, [step.status for step in run.steps]) == ("error", ["not_run"])
        assert (run.error.message if run.error else "").startswith(message)


async def test_a_user_with_an_account(tmp_path: Path) -> None:
    """The run belongs to the user, in the environment of the header; an unknown environment is answered 400, and starts no run."""
    async with site_of(tmp_path, guarded("none", step=NEEDS_SLACK)) as site:
        add_users(site)
        answer = await post(site, **{"X-PD-External-User-ID": "ada"})
        status, _ = await post(site, **{"X-PD-External-User-ID": "ada", "x-pd-environment": "staging"})
        (run,) = await site.runs()

    assert (answer, status) == ((200, "posted"), 400)
    assert (run.external_user, run.environment, run.context["external_user_id"]) == ("ada", "development", "ada")
    assert run.step("post").accounts[0].owner == "external_user"


async def event_of(site: Site, path: str, **request: Any) -> dict[str, Any]:
    """The event that a POST to *path* causes."""
    answer = await site.http.post(path, **request)
    assert answer.status_code == 200, answer.text
    event: dict[str, Any] = answer.json()
    return event


async def test_a_key_in_the_path(echo: Site) -> None:
    """The event's path is the rest after the key."""
    event = await event_of(echo, f"{echo.path()}/orders/a%20b?x=1&y=2&y=3")

    assert event["path"] == "/orders/a b"
    assert event["query"] == {"x": "1", "y": ["2", "3"]}
    assert event["url"] == f"{echo.url}{echo.path()}/orders/a%20b?x=1&y=2&y=3"


@pytest.mark.parametrize("before", ["", "/wf", "/a/b"])
async def test_a_key_below_other_segments(echo: Site, before: str) -> None:
    """The key may be below other segments of the path, in any case."""
    event = await event_of(echo, before + echo.path().upper())

    assert event["path"] == "/"


@pytest.mark.parametrize(("depth", "status"), [(7, 200), (8, 404)])
async def test_the_key_is_among_the_first_segments(echo: Site, depth: int, status: int) -> None:
    """The first eight segments of a path are searched for the key."""
    answer = await echo.http.post("/x" * depth + echo.path())

    assert answer.status_code == status


@pytest.mark.parametrize(
    ("path", "headers", "url"),
    [
        *(
            pytest.param("/hook", {"host": f"{{key}}.{domain}"}, f"http://{{key}}.{domain}/hook", id=f"of {domain}")
            for domain in ("m.pipedream.net", "localhost", "M.PIPEDREAM.NET:443")
        ),
        pytest.param("/hook", {"x-forwarded-host": "{key}.m.pipedream.net"}, "", id="in front of an SDK"),
        pytest.param(
            "/hook",
            {"host": "{key}.localhost", "x-forwarded-host": "eoanother0000001.m.pipedream.net"},
            "http://{key}.localhost/hook",
            id="before a forwarded one",
        ),
        pytest.param("/{key}/hook", {"x-forwarded-host": "evil.example"}, "{url}/{key}/hook", id="without a key"),
    ],
)
async def test_the_host_of_a_request(echo: Site, path: str, headers: dict[str, str], url: str) -> None:
    """With the key in `host`, else in `x-forwarded-host`, the whole path is the event's; the event's URL has the host of the request."""
    names = {"key": echo.key(), "url": echo.url}
    event = await event_of(
        echo, path.format(**names), headers={name: each.format(**names) for name, each in headers.items()}
    )

    assert event["path"] == "/hook"
    assert url == "" or event["url"] == url.format(**names)


@pytest.mark.parametrize(
    ("mangled", "path", "query"),
    [
        ("/https:/{key}.m.pipedream.net", "/", {}),
        ("/https://{key}.m.pipedream.net/sub/path", "/sub/path", {}),
        ("/http:/127.0.0.1:1/wf/{key}", "/", {}),
        ("/http:/127.0.0.1:1/{key}/sub?q=1", "/sub", {"q": "1"}),
        ("/http:/127.0.0.1:1/{key}%3Fq=1&r=2", "/", {"q": "1", "r": "2"}),
        ("/https%3A//{key}.m.pipedream.net/x", "/x", {}),
    ],
)
async def test_a_url_as_the_path(echo: Site, mangled: str, path: str, query: dict[str, str]) -> None:
    """Python SDKs 1.1.12 to 2.3.0 append the whole URL to the base of the API."""
    event = await event_of(echo, mangled.format(key=echo.key()))

    assert (event["path"], event["query"]) == (path, query)


@pytest.mark.parametrize(
    ("path", "host"),
    [
        *((path, "localhost") for path in ("/{id}", "/a/{id}", "/http:/127.0.0.1:1/{id}", "/https%3A//{id}.localhost")),
        *((path, "localhost") for path in ("/https:/{id}.m.pipedream.net/", "/http:/", "/https:/x/%ff")),
        *((path, "localhost") for path in ("/", "/eonothing", "/https:/eonothing.m.pipedream.net")),
        ("/", "{id}.m.pipedream.net"),
    ],
)
async def test_what_is_not_an_endpoint(echo: Site, path: str, host: str) -> None:
    """An unknown key, and the id of a workflow in a path or a host name, are answered 404, and start no run."""
    (served,) = echo.context.workflows.list_workflows()
    for known in (served.id, derive_id("p_", served.source.workflow.name)):
        answer = await echo.http.post(path.format(id=known), headers={"host": host.format(id=known)})
        assert answer.status_code == 404

    assert await echo.runs() == []


async def test_a_workflow_without_an_http_trigger_has_no_endpoint(tmp_path: Path) -> None:
    """A workflow with a schedule only is answered 404."""
    workflow = replace(a_workflow(python_step()), triggers=(Trigger("schedule"),))
    async with site_of(tmp_path, workflow) as site:
        answer = await site.http.post(site.path())

    assert answer.status_code == 404

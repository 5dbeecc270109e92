"""Requests to endpoints: flags, limits, the event, and isolation of users."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import random
import signal
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from pdkernel.common.clock import ManualClock
from tests.builders import a_step, a_workflow, python_step
from tests.postgres import stopping_postgres
from tests.server.endpoint.conftest import ECHO, Serve
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
    """With x-pd-notrigger the event is recorded as a test, and no step runs."""
    answer = await echo.http.post(echo.path(), json={"a": 1}, **with_flag(where, "x-pd-notrigger"))
    (run,) = await echo.runs()

    assert (answer.status_code, answer.json()["event_id"]) == (200, run.id)
    assert run.event["body"] == {"a": 1}
    assert run.context["test"] is True
    assert [step.status for step in run.steps] == ["not_run"]


async def test_a_flag_other_than_1_is_off(echo: Site) -> None:
    """A flag has an effect only with the value 1."""
    await echo.http.post(echo.path(), headers={"x-pd-nostore": "0", "x-pd-notrigger": "0"})
    (run,) = await echo.runs()

    assert run.step("echo").status == "success"


async def test_the_rate_limit_of_an_endpoint(serve: Serve) -> None:
    """If rate limits apply, requests above a burst are answered 429 with `retry-after`."""
    site = await serve(python_step("quick"), response="default", applies_rate_limits=True, clock=ManualClock())

    answers = await asyncio.gather(*(site.http.post(site.path(), headers={"x-pd-nostore": "1"}) for _ in range(150)))

    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(refused) == 50
    assert {answer.headers["retry-after"] for answer in refused} == {"1"}


USERS = 50


ROUNDS = 3


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
    """Each of fifty users reads its own marks, and no mark of another user; so does the record."""
    steps = (
        python_step("look", PYTHON, options="--app slack"),
        a_step(NODE),
    )
    async with site_of(tmp_path, a_workflow(*steps, response="custom"), size=4) as site:
        for number in range(USERS):
            site.directory.add_account(
                app="slack", credentials={"oauth_access_token": token(number)}, external_user_id=f"user-{number:03d}"
            )
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
        await site.context.engine.journal.close()
        answer = await site.http.post(site.path(), json={})
        (line,) = await site.wait_for_lines(1)

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "may have been stored" in answer.text
    assert outcome in line


@pytest.mark.parametrize("limits", [{}, {"concurrency": 1}])
@pytest.mark.parametrize("response", ["default", "custom"])
async def test_a_repeated_request_starts_no_second_run(tmp_path: Path, response: str, limits: dict[str, Any]) -> None:
    """A request that is sent again with its `Idempotency-Key` gets the answer of the run that the first one has started."""
    workflow = a_workflow(python_step("echo", ECHO), response=response, **limits)
    async with site_of(tmp_path, workflow) as site:
        answers = [
            await site.http.post(site.path(), json={"n": 1}, headers={"idempotency-key": "a-key"}) for _ in range(2)
        ]
        runs = await site.runs()

    assert [answer.status_code for answer in answers] == [200, 200]
    name = "event_id" if response == "default" else "body"
    assert answers[0].json()[name] == answers[1].json()[name]
    assert len(runs) == 1


@pytest.mark.parametrize("limits", [{}, {"concurrency": 1}])
async def test_repeated_requests_at_the_same_time_start_one_run(tmp_path: Path, limits: dict[str, Any]) -> None:
    """Of equal requests at the same time, one starts a run, and all have its answer."""
    async with site_of(tmp_path, a_workflow(python_step("echo", ECHO), **limits)) as site:
        sent = [site.http.post(site.path(), json={"n": 1}, headers={"idempotency-key": "a-key"}) for _ in range(5)]
        answers = await asyncio.gather(*sent)
        runs = await site.runs()

    assert [answer.status_code for answer in answers] == [200] * 5
    assert {answer.json()["event_id"] for answer in answers} == {run.id for run in runs}
    assert len(runs) == 1


@pytest.mark.parametrize("changed", [{"key": "another"}, {"body": {"n": 2}}, {"user": "ben"}, {"path": "/b"}])
async def test_another_request_with_an_idempotency_key_is_another_event(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    """A request that differs in its key, body, path or external user is not a repeated one, so its event is not lost."""
    async with site_of(tmp_path, a_workflow(python_step("echo", ECHO))) as site:
        for sent in ({}, changed):
            headers = {"idempotency-key": sent.get("key", "a-key"), "x-pd-external-user-id": sent.get("user", "ada")}
            await site.http.post(site.path() + sent.get("path", "/a"), json=sent.get("body", {"n": 1}), headers=headers)
        runs = await site.runs()

    assert len(runs) == 2


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


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "PURGE"])
async def test_every_method_starts_the_workflow(echo: Site, method: str) -> None:
    """The event has the method and the body."""
    answer = await echo.http.request(method, echo.path(), json={"a": 1})

    assert (answer.json()["method"], answer.json()["body"]) == (method, {"a": 1})


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


TOKEN = "xoxb-4f9a7c21e8d35b60"
"""A credential of ada's account, which a caller puts into an event."""

NOT_STARTED: dict[str, tuple[dict[str, str], bytes]] = {
    "notrigger": ({"x-pd-external-user-id": "ada", "x-pd-notrigger": "1"}, b""),
    "notrigger and nostore": ({"x-pd-external-user-id": "ada", "x-pd-notrigger": "1", "x-pd-nostore": "1"}, b""),
    "nostore": ({"x-pd-external-user-id": "ada", "x-pd-nostore": "1"}, b""),
    "the other environment": ({"x-pd-external-user-id": "ada", "x-pd-environment": "production"}, b""),
    "no environment": ({"x-pd-external-user-id": "ada", "x-pd-environment": f"staging {TOKEN}"}, b""),
    "an unknown user": ({"x-pd-external-user-id": "nobody"}, b""),
    "an unknown user, nostore": ({"x-pd-external-user-id": "nobody", "x-pd-nostore": "1"}, b""),
    "no user": ({}, b""),
    "too large": ({"x-pd-external-user-id": "ada"}, b"x" * (600 * 1024)),
}


async def _send_not_started(site: Site) -> None:
    """Send an event with the token in its body, query, path and headers for each case, and one that starts a run."""
    site.directory.add_account(app="slack", credentials={"bot_token": TOKEN}, external_user_id="ada")
    for headers, body in NOT_STARTED.values():
        await site.http.post(
            f"{site.path()}/hook/{TOKEN}?key={TOKEN}",
            content=json.dumps({"text": f"token {TOKEN} in a text"}).encode() + body,
            headers={**headers, "content-type": "application/json", "x-other": TOKEN, "referer": f"http://a/{TOKEN}"},
        )
    started = {"x-pd-external-user-id": "ada", "x-other": "an-ordinary-word"}
    await site.http.post(site.path(), json={"key": TOKEN}, headers=started)
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

    assert TOKEN.encode() not in stored
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

    assert TOKEN.encode() not in stored
    assert b"an-ordinary-word" in stored


async def test_a_recorded_event_that_started_no_run_can_be_run(tmp_path: Path) -> None:
    """The event of a request with `x-pd-notrigger` is complete in the run's encrypted request."""
    async with site_of(tmp_path, a_workflow(APP_STEP)) as site:
        site.directory.add_account(app="slack", credentials={"bot_token": TOKEN}, external_user_id="ada")
        headers = {"x-pd-external-user-id": "ada", "x-pd-notrigger": "1"}
        await site.http.post(site.path(), json={"key": TOKEN}, headers=headers)
        (run,) = await site.runs()
        found = await site.context.engine.journal.load_run(run.id)
        assert found is not None
        state = site.context.engine.restore_request(found[1])

    assert (run.trigger.sealed, run.event) == (True, {})
    assert state.event.data["body"] == {"key": TOKEN}

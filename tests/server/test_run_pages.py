"""Cancel and resume URLs, and health checks."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from pdkernel.engine.pauses import build_flow_urls
from pdkernel.journal import WaitKey
from pdkernel.model import Workflow
from pdkernel.server.app_state import get_state
from pdkernel.storage import Project
from pdkernel.storage.key_rotation import RotationScope
from tests.builders import Gate, a_workflow, node_step, python_step
from tests.http_servers import Answer, AnsweringServer, SentRequest, serve
from tests.server.site import Site, site_of


async def test_health_checks(tmp_path: Path) -> None:
    """The server is live, and ready until its shutdown begins."""
    async with site_of(tmp_path) as site:
        answers = [await site.http.get(path) for path in ("/-/live", "/-/ready")]
        get_state(site.server.config.loaded_app).is_stopping = True
        answers += [await site.http.get(path) for path in ("/-/live", "/-/ready")]

    assert [(answer.status_code, answer.json()["status"]) for answer in answers] == [
        (200, "live"),
        (200, "ready"),
        (200, "live"),
        (503, "stopping"),
    ]


ASKS = python_step("ask", "pd.respond(status=200, body=pd.flow.suspend(60000), immediate=True)")
ANSWERS = python_step("answer", 'return pd.steps["ask"].get("$resume_data")')


@asynccontextmanager
async def a_paused_run(folder: Path, **settings: Any) -> AsyncIterator[tuple[Site, dict[str, str]]]:
    """A server with a run that waits for its answer, and the run's URLs."""
    async with site_of(folder, a_workflow(ASKS, ANSWERS, response="custom", **settings)) as site:
        urls = (await site.http.post(site.path())).json()
        await site.wait_for_run("paused")
        yield site, urls


APPROVAL = node_step(
    "ask",
    """
    const { resume_url, cancel_url } = $.flow.suspend(60_000);
    const button = (text, style, url) => ({ type: "button", text: { type: "plain_text", text }, style, url });
    const response = await fetch("https://slack.com/api/chat.postMessage", {
      method: "POST",
      headers: {
        "Authorization": `Bearer ${this.slack.$auth.oauth_access_token}`,
        "Content-Type": "application/json; charset=utf-8",
      },
      body: JSON.stringify({
        channel: "C024BE91L",
        text: `Refund ${steps.trigger.event.body.amount}?`,
        blocks: [
          { type: "section", text: { type: "mrkdwn", text: `*Refund ${steps.trigger.event.body.amount}?*` } },
          { type: "actions", elements: [
            button("Approve", "primary", resume_url),
            button("Reject", "danger", cancel_url),
          ] },
        ],
      }),
    });
    return (await response.json()).ts;
    """,
    props='{ slack: { type: "app", app: "slack" } }',
)


def answer_as_slack(request: SentRequest) -> Answer:
    """Answers as `chat.postMessage`, which has status 200 for errors too."""
    if request.headers["authorization"] != "Bearer xoxb-0123456789":
        return 200, {"ok": False, "error": "invalid_auth"}
    if (request.method, request.path) != ("POST", "/api/chat.postMessage"):
        return 200, {"ok": False, "error": "unknown_method"}
    return 200, {"ok": True, "channel": request.json()["channel"], "ts": "1764262800.000100"}


@pytest.mark.parametrize(("button", "status"), [("Approve", "success"), ("Reject", "cancelled")])
async def test_a_button_in_slack_approves_or_rejects(tmp_path: Path, button: str, status: str) -> None:
    """The buttons of a message open `resume_url` and `cancel_url` in a browser: a page, whose button decides."""
    refund = python_step("refund", "return pd.steps['trigger']['event']['body']['amount']")
    with serve(AnsweringServer(answer_as_slack)) as api:
        async with site_of(tmp_path, a_workflow(APPROVAL, refund), egress=f"stand-in={api.url}") as site:
            credentials = {"oauth_access_token": "xoxb-0123456789"}
            site.connect("ada", "slack", credentials)
            await site.http.post(site.path(), json={"amount": 12}, headers={"x-pd-external-user-id": "ada"})
            await site.wait_for_run("paused")
            message = api.requests[0].json()
            urls = {each["text"]["text"]: each["url"] for each in message["blocks"][1]["elements"]}
            page = await site.http.get(urls[button])
            decided = await site.http.post(urls[button])
            (run,) = await site.runs()

    assert '<form method="post">' in page.text
    assert decided.status_code == 200
    assert (run.status, run.step("ask").return_value) == (status, "1764262800.000100")
    assert run.step("refund").return_value == (12 if button == "Approve" else None)
    assert len(api.requests) == 1
    assert message["text"] == "Refund 12?"


async def test_a_post_to_the_resume_url_continues_the_run(tmp_path: Path) -> None:
    """The run goes on with the body as `$resume_data`, once; a second call gets the answer that the run went on."""
    async with a_paused_run(tmp_path) as (site, urls):
        first = await site.http.post(urls["resume_url"], json={"approved": True})
        (run,) = await site.runs()
        second = await site.http.post(urls["resume_url"], json={"approved": False})

    assert urls["resume_url"].startswith(f"{site.url}/-/resume/{run.id}/ask/")
    assert (first.status_code, second.status_code) == (200, 409)
    assert run.status == "success"
    assert run.step("answer").return_value == {"approved": True}
    assert run.step("ask").exports["$resume_data"] == {"approved": True}


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"x" * (512 * 1024 + 1), 413, ""),
        (b"[" * 257 + b"]" * 257, 400, "The body is nested more than 256 levels deep."),
    ],
)
async def test_a_body_that_cannot_be_resume_data(tmp_path: Path, body: bytes, status: int, message: str) -> None:
    """A body that is too large or too deep is refused, and the run waits for the next call."""
    async with a_paused_run(tmp_path) as (site, urls):
        headers = {"content-type": "application/json"}
        refused = await site.http.post(urls["resume_url"], content=body, headers=headers)
        (before,) = await site.journal.list_executions()
        accepted = await site.http.post(urls["resume_url"], json=1)

    assert (refused.status_code, refused.text) == (status, f"{message}\n")
    assert (before.status, accepted.status_code) == ("paused", 200)


@pytest.mark.parametrize("headers", [{}, {"x-pdkernel-caller": "1"}], ids=["a preview", "a forged mark of a step"])
async def test_a_get_of_the_resume_url_shows_a_page(tmp_path: Path, headers: dict[str, str]) -> None:
    """A link preview does not decide: a GET shows a page with a button, and the run stays paused."""
    async with a_paused_run(tmp_path) as (site, urls):
        page = await site.http.get(urls["resume_url"], headers=headers)
        (run,) = await site.journal.list_executions()
        line = (await site.wait_for_lines(2))[-1]

    assert page.status_code == 200
    assert '<form method="post"><button>Continue the run</button></form>' in page.text
    assert run.status == "paused"
    assert "/-/resume/" in line
    assert urls["resume_url"].rpartition(".")[2] not in line


async def test_the_pages_of_the_urls(tmp_path: Path) -> None:
    """A page has the workflow's name as text, is not stored or framed, and has no button after the end of the run."""
    async with site_of(tmp_path, a_workflow(ASKS, ANSWERS, name="<img src=x>", response="custom")) as site:
        urls = (await site.http.post(site.path("<img src=x>"))).json()
        await site.wait_for_run("paused")
        before = [await site.http.get(urls[name]) for name in ("resume_url", "cancel_url")]
        await site.http.post(urls["cancel_url"])
        after = [await site.http.get(urls[name]) for name in ("resume_url", "cancel_url")]

    buttons = [page.text.partition("<button>")[2].partition("</button>")[0] for page in before + after]
    assert buttons == ["Continue the run", "Cancel the run", "", ""]
    assert ["The run has ended already (status: cancelled)." in page.text for page in after] == [True, True]
    assert {"<h1>&lt;img src=x&gt;</h1>" in page.text for page in before + after} == {True}
    assert {page.headers["cache-control"] for page in before + after} == {"no-store"}
    assert {
        "form-action 'self'; frame-ancestors 'none'" in page.headers["content-security-policy"] for page in before
    } == {True}


@pytest.mark.parametrize("language", ["node", "python"])
async def test_a_get_of_a_step_resumes_a_run(tmp_path: Path, language: str) -> None:
    """A workflow resumes another one by a GET of its `resume_url`, and the event of a step's call does not show the mark."""
    caller = {
        "node": node_step("call", "return (await fetch(steps.trigger.event.body.url)).status"),
        "python": python_step(
            "call",
            "import urllib.request\nurl = pd.steps['trigger']['event']['body']['url']\n"
            "return urllib.request.urlopen(url).status",
        ),
    }[language]
    async with site_of(
        tmp_path,
        a_workflow(ASKS, ANSWERS, response="custom"),
        a_workflow(caller, name="Caller"),
        a_workflow(python_step("echo", "return pd.steps['trigger']['event']['headers']"), name="Echo"),
    ) as site:
        urls = (await site.http.post(site.path())).json()
        await site.http.post(site.path("Caller"), json={"url": urls["resume_url"]})
        runs = {run.workflow: run for run in await site.runs()}
        await site.http.post(site.path("Caller"), json={"url": f"{site.url}{site.path('Echo')}"})
        echo = next(run for run in await site.runs() if run.workflow == "Echo")

    assert runs["Caller"].step("call").return_value == 200
    assert runs["Test"].status == "success"
    assert "x-pdkernel-caller" not in str(echo.to_json())


async def test_resume_on_get_lets_a_get_decide(tmp_path: Path) -> None:
    """With `settings: resume_on_get: true`, a GET resumes the run, as on the platform."""
    async with a_paused_run(tmp_path, resume_on_get=True) as (site, urls):
        answer = await site.http.get(urls["resume_url"])
        (run,) = await site.runs()

    assert (answer.status_code, run.status) == (200, "success")


async def test_the_cancel_url_ends_a_run(tmp_path: Path) -> None:
    """A suspended step's `cancel_url` cancels the run once; then the `resume_url` is late."""
    async with a_paused_run(tmp_path) as (site, urls):
        cancelled = [(await site.http.post(urls["cancel_url"])).status_code for _ in range(2)]
        resumed = await site.http.post(urls["resume_url"])
        (run,) = await site.runs()

    assert cancelled == [200, 409]
    assert resumed.status_code == 409
    assert resumed.text.startswith(
        "The run has ended already (status: cancelled). Step ask was cancelled by cancel_url at 20"
    )
    assert [(each.verdict, each.by) for each in run.decisions] == [("cancelled", "cancel_url")]
    assert run.status == "cancelled"


async def test_a_late_cancel_does_not_end_a_run(tmp_path: Path) -> None:
    """A call of the `cancel_url` after the run was resumed gets 409, and the run goes on to its end."""
    gate = Gate(tmp_path)
    async with site_of(tmp_path, a_workflow(ASKS, python_step("held", gate.code), response="custom")) as site:
        urls = (await site.http.post(site.path())).json()
        await site.wait_for_run("paused")
        resumed = await site.http.post(urls["resume_url"])
        await gate.wait_until_reached()
        cancelled = await site.http.post(urls["cancel_url"])
        gate.open()
        (run,) = await site.runs()

    assert (resumed.status_code, cancelled.status_code) == (200, 409)
    assert run.status == "success"


async def test_a_wrong_token_opens_nothing(tmp_path: Path) -> None:
    """The run's id, the other URL's token or a changed token do not resume a run."""
    async with a_paused_run(tmp_path) as (site, urls):
        resume, cancel = (urls[f"{verb}_url"].rpartition("/") for verb in ("resume", "cancel"))
        wrong = [
            "1.1.",
            "1",
            "1.1.x",
            cancel[2],
            resume[2][:-1],
            resume[2] + "A",
            "2" + resume[2][1:],
            "1.2" + resume[2][3:],
        ]
        answers = {(await site.http.post(f"{resume[0]}/{each}")).status_code for each in wrong}
        (run,) = await site.journal.list_executions()

    assert answers == {404}
    assert run.status == "paused"


async def test_a_replaced_key_opens_no_later_run(tmp_path: Path) -> None:
    """A URL that is signed with a key that was replaced does not resume a run that began after that: others may know the key."""
    with Project.open(tmp_path / ".pdkernel") as project:
        old = project.vault
        project.rotate_key(RotationScope((), lambda _: (0.0, 0.0)))  # a run has waited since 1970: the old key verifies
    async with a_paused_run(tmp_path) as (site, _):
        (run,) = await site.journal.list_executions()
        signed = build_flow_urls(site.url, WaitKey(run.id, "ask", number=1), old.sign)
        answer = await site.http.post(signed["resume_url"])
        (after,) = await site.journal.list_executions()

    assert (answer.status_code, after.status) == (404, "paused")


async def test_a_server_refuses_events_after_its_tables_have_changed(tmp_path: Path) -> None:
    """The server is not ready, and answers 503, so that senders repeat the event after its restart with the newer version."""
    async with site_of(tmp_path, Workflow("Greet", steps=(python_step(),))) as site:
        (served,) = site.context.workflows.list_workflows()
        before = await site.http.post(f"/{served.endpoint_key}", json={})
        assert site.context.project.sqlite_path is not None
        with closing(sqlite3.connect(site.context.project.sqlite_path)) as connection:
            connection.execute("pragma user_version = 99")
        await site.wait_for_answer("/-/ready", 503)
        after = await site.http.post(f"/{served.endpoint_key}", json={})

    assert (before.status_code, after.status_code) == (200, 503)
    assert "retry-after" in after.headers

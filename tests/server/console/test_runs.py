"""The list of runs and the page of a run."""

from __future__ import annotations

import asyncio
import html
import html.parser
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import StreamingResponse

from pdkernel.accounts import LocalDirectory
from pdkernel.common.encode import decode_json
from pdkernel.egress import parse_policy
from pdkernel.engine.run_request import RunRequest
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.event import Event
from pdkernel.execution import ErrorRecord, Execution, Log, StepResult
from pdkernel.files.source import WorkflowSource
from pdkernel.journal import (
    MAX_NOTE_CHARACTERS,
    Claim,
    JournalReader,
    NewRun,
    StepRow,
    encode_event,
    encode_output,
    encode_step,
)
from pdkernel.model import Trigger
from pdkernel.server import create_app
from pdkernel.server.app_context import ServedWorkflow
from pdkernel.server.app_state import get_state
from pdkernel.server.console.access import Visit
from pdkernel.server.console.live import LiveEvent, stream_response
from pdkernel.server.console_sessions import hash_admin_token
from pdkernel.server.run_registry import build_run_request
from pdkernel.storage import Batch
from tests.builders import Gate, a_workflow, an_event, python_step
from tests.server.console.conftest import ADMIN, HTML, JSON, Console, Serve, app_state, log_in
from tests.server.served import Served, served
from tests.waiting import until, until_awaited

GREET = a_workflow(python_step("greet"), name="Greet")
FAIL = a_workflow(python_step("fail", "raise ValueError('no <b>luck</b>')"), name="Fail")


async def start_all(console: Console) -> dict[str, str]:
    """Runs with different workflows, users, environments and statuses, oldest first; their ids by a name."""
    runs = {
        "greet ada": await console.start(name="Greet", **{"x-pd-external-user-id": "ada"}),
        "greet production": await console.start(name="Greet", **{"x-pd-environment": "production"}),
        "fail ada": await console.start(name="Fail", **{"x-pd-external-user-id": "ada"}),
        "greet": await console.start(name="Greet"),
    }
    await console.site.runs()
    return runs


async def test_filters(serve: Serve) -> None:
    """Each filter selects the runs on the page and in the JSON; several filters must all match."""
    console = await serve(GREET, FAIL)
    runs = await start_all(console)
    everything = ["greet", "fail ada", "greet production", "greet ada"]
    for query, names in {
        "": everything,
        "workflow=Fail": ["fail ada"],
        "external_user=ada": ["fail ada", "greet ada"],
        "environment=production": ["greet production"],
        "status=error": ["fail ada"],
        "status=success&external_user=ada": ["greet ada"],
        "since=1h": everything,
        "since=tomorrow": [],
        "workflow=&status=": everything,
        "workflow=none": [],
    }.items():
        listed = (await console.http.get(f"/-/runs?{query}", headers=JSON)).json()
        page = await console.page(f"/-/runs?{query}")
        stream = page.partition('data-events="')[2].partition('"')[0].replace("&amp;", "&")

        assert [each["id"] for each in listed] == listed_ids(page) == [runs[name] for name in names], query
        assert stream.partition("?")[0] == "/-/events/runs"
        assert parse_qs(urlsplit(stream).query) == parse_qs(query), query


def listed_ids(page: str) -> list[str]:
    """The ids of the rows of a page."""
    return [part.partition('"')[0] for part in page.split('<li id="run-')[1:]]


async def test_an_invalid_filter(serve: Serve) -> None:
    """The page shows what is wrong with a filter, and keeps its text; JSON and the stream have status 400."""
    console = await serve(GREET)
    for query, message in (
        ("since=soonish", "Since soonish is not a time."),
        ("status=good", "&#39;good&#39; is not a status."),
        ("environment=test", "&#39;test&#39; is not an environment."),
    ):
        others = [await console.http.get(f"{path}?{query}", headers=JSON) for path in ("/-/runs", "/-/events/runs")]

        assert message in await console.page(f"/-/runs?{query}", status=400)
        assert [answer.status_code for answer in others] == [400, 400]


async def store(console: Console, number: int, **fields: Any) -> str:
    """Store a finished run without running it."""
    journal, run_id = console.site.context.engine.journal, f"{number:027d}"
    definition = await journal.store_definition(fields.pop("workflow", GREET))
    values = {"external_user_id": None, "environment": "development", "event": encode_event({}, {}), **fields}
    await journal.accept_run(
        NewRun(id=run_id, trace_id="t", workflow="Greet", definition=definition, created=1e9 + number, **values)
    )
    await journal.finish(Claim.first(run_id), "success", encode_output())
    return run_id


async def test_paging(serve: Serve) -> None:
    """Pages of fifty runs follow each other without a gap, also while new runs start; the first is live, the last has no link."""
    console = await serve(GREET)
    ids = [await store(console, number) for number in range(120)]
    pages, paths, path = [], [], "/-/runs?workflow=Greet"
    while path:
        page = await console.page(path)
        pages.append(listed_ids(page))
        paths.append((path.partition("&before=")[0], "data-events" in page))
        await store(console, 1000 + len(pages))
        path = page.partition('id="older" href="')[2].partition('"')[0].replace("&amp;", "&")
    first = await console.http.get("/-/runs?workflow=Greet&status=success", headers=JSON)

    assert [len(page) for page in pages] == [50, 50, 20]
    assert [run_id for page in pages for run_id in page] == ids[::-1]
    assert paths == [("/-/runs?workflow=Greet", is_live) for is_live in (True, False, False)]
    older = f"{console.site.url}/-/runs?workflow=Greet&status=success&before={first.json()[-1]['id']}"
    assert first.headers["link"] == f'<{older}>; rel="next"'
    assert len(first.json()) == 50


async def test_a_full_last_page_has_no_link(serve: Serve) -> None:
    """Exactly fifty runs are one page; with one more run, an older page follows."""
    console = await serve(GREET)
    for number in range(50):
        await store(console, number)
    full = await console.page("/-/runs?workflow=Greet")
    await store(console, 50)
    longer = await console.page("/-/runs?workflow=Greet")

    assert (len(listed_ids(full)), len(listed_ids(longer))) == (50, 50)
    assert ('id="older"' in full, 'id="older"' in longer) == (False, True)


async def test_a_run(serve: Serve) -> None:
    """The page has the timeline of the run and its actions; JSON is the execution; an unknown id is not found."""
    console = await serve(FAIL)
    run_id = await console.start(name="Fail")
    execution = await console.wait_until(run_id, "error")
    page = await console.page(f"/-/runs/{run_id}")
    shown = (await console.http.get(f"/-/runs/{run_id}", headers=JSON)).json()
    none = await console.http.get("/-/runs/none", headers=JSON)

    assert "no &lt;b&gt;luck&lt;/b&gt;" in page
    assert "Python" in page
    assert [name in page for name in ("/replay", "/fork", "/cancel", "/approve")] == [True, True, False, False]
    assert shown == execution.to_json()
    assert (none.status_code, none.headers["cache-control"]) == (404, "no-store")
    assert "There is no such run" in await console.page("/-/runs/none", status=404)


async def test_the_event_comes_first(serve: Serve) -> None:
    """The page of a run begins with the body of its event, redacted, above the decision, so that it is read before."""
    console = await serve(a_workflow(python_step("ask", "pd.flow.suspend(60000)"), name="Pay"))
    body = {"amount": 4200, "to": "ACME <b>Ltd</b>"}
    page = await console.page(
        f"/-/runs/{await console.start_paused(name='Pay', body=body, authorization='Bearer s3cret')}"
    )

    texts = (">Event</h2>", "amount: 4200", "request: POST", ">Actions</h2>", ">Steps</h2>")
    assert [page.index(text) for text in texts] == sorted(page.index(text) for text in texts)
    assert "ACME &lt;b&gt;Ltd&lt;/b&gt;" in page
    assert "s3cret" not in page


class ActiveParts(html.parser.HTMLParser):
    """Collects what could act in a page: scripts, handlers, frames, and addresses that are not of the console."""

    ALLOWED_TAGS = re.compile(
        "html|head|meta|title|link|script|body|a|header|nav|ul|ol|li|form|input|button|main|h1|h2|h3|p|div"
        "|span|strong|code|time|label|select|option|textarea|datalist|details|summary|pre|table|thead|tbody|tr|th|td|svg|rect|line|wbr|em|b"
    )

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an active element."""
        if not self.ALLOWED_TAGS.fullmatch(tag):
            self.found.append(tag)
        self.scripts += tag == "script"
        for name, value in attrs:
            if name.startswith("on") or name in ("srcdoc", "srcset", "background", "http-equiv", "xlink:href"):
                self.found.append(name)
            if name in ("href", "src", "action", "formaction") and not (value or "").startswith(("/-/", "#main")):
                self.found.append(f"{name}={value}")


HOSTILE = [
    "<script>alert(1)</script>",
    "</textarea></select></title></code><svg onload=alert(1)>",
    '"><img src=x onerror=alert(1)>',
    "' autofocus onfocus='alert(1)",
    "javascript:alert(1)",
    "\u202eevil\u2066\u200f",
    "{{ 1234 * 1001 }}{% raw %}",
    "\x1b[31mred\x00\x07\r\n\r\n",
    "&lt;script&gt;",
    "x" * 50_000,
    "\ud800",
]
hostile = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=30).map(lambda text: f"<a href={text} onclick={text}>"))


@given(text=hostile, second=hostile)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
async def test_nothing_of_an_event_is_active(hostile_site: Console, text: str, second: str) -> None:
    """Whatever an event, a log, an error, a user or a workflow's name has: the pages have the console's own script only."""
    console, number = hostile_site, next(NUMBERS)
    journal = console.site.context.engine.journal
    run_id = f"{number:027d}"
    definition = await journal.store_definition(replace(GREET, name=text))
    event = encode_event({"method": text, "path": second, "body": {text: [second]}}, {})
    user: Any = {"external_user_id": second, "environment": "development"}
    await journal.accept_run(NewRun(run_id, "t", text, definition, event, created=float(number), **user))
    claim = Claim.first(run_id)
    error = ErrorRecord("step_failed", text, second, step="greet", stack=text)
    step = StepResult("greet", "error", exports={text: second}, logs=(Log("stdout", text),), error=error)
    await journal.append_step(claim, StepRow(0, "greet", encode_step(step), path="greet"))
    await journal.finish(claim, "error", encode_output(error=error))
    paths = ["/-/", f"/-/runs/{run_id}", "/-/runs", "/-/users"]
    queries = [{"workflow": text[:500], "external_user": second[:500]}, {"external_user": text[:500]}]
    answers = [await console.http.get(path, headers=HTML) for path in paths]
    if "\ud800" not in text + second:
        answers += [
            await console.http.get(path, params=query, headers=HTML)
            for path, query in zip(("/-/runs", "/-/users"), queries, strict=True)
        ]
    for answer in answers:
        parts = ActiveParts()
        parts.feed(answer.text)
        assert parts.found == [], (answer.url, parts.found)
        assert parts.scripts == 1
        assert "1235234" not in answer.text
        assert not {"\u202e", "\u2066", "\x1b", "\x00"} & set(answer.text)
        policy = answer.headers["content-security-policy"]
        assert "script-src 'nonce-" in policy
        assert "unsafe-inline" not in policy.partition("script-src")[2].partition(";")[0]


NUMBERS = iter(range(1, 10**6))


@pytest.fixture
async def hostile_site(serve: Serve) -> Console:
    """A console whose project has hostile runs."""
    return await serve(GREET)


Events = list[tuple[str, dict[str, str]]]


async def read_events(console: Console, path: str, count: int, found: Events) -> Events:
    """Add the first *count* events of a stream to *found*, as they arrive."""
    name = ""
    async with asyncio.timeout(60), console.http.stream("GET", path) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for line in answer.aiter_lines():
            key, _, value = line.partition(": ")
            if key == "event":
                name = value
            elif key == "data":
                found.append((name, decode_json(value, dict[str, str])))
                if len(found) == count:
                    break
    return found


async def wait_for_event(found: Events, run_id: str, word: str = "") -> None:
    """Wait until *found* has an event of the run whose HTML has *word*."""
    await until(lambda: any(data["id"] == run_id and word in data["html"] for _, data in found))


async def test_the_list_is_live(serve: Serve) -> None:
    """The stream begins with the rows of the list, oldest first, then has new and changed ones, of the filter's workflow only."""
    console = await serve(a_workflow(python_step("ask", "pd.flow.suspend(60000)"), name="Ask"), GREET)
    earlier, first = [await console.start(name="Ask") for _ in range(2)]
    for run_id in (earlier, first):
        await console.wait_until(run_id, "paused")
    events: Events = []
    reading = asyncio.create_task(read_events(console, "/-/events/runs?workflow=Ask", 100, events))
    await wait_for_event(events, first, "paused")
    other = await console.start(name="Greet")
    await console.wait_until(other, "success")
    second = await console.start(name="Ask")
    await wait_for_event(events, second, "paused")
    await console.act(first, "cancel")
    await wait_for_event(events, first, "cancelled")
    reading.cancel()

    assert {name for name, _ in events} == {"row"}
    # a run that is executing when the list is read has a row for that, too
    assert list(dict.fromkeys(data["id"] for _, data in events[:-1])) == [earlier, first, second]
    assert [data["id"] for _, data in events].count(first) == 2


async def test_a_row_that_leaves_the_filter_is_shown_once_more(serve: Serve) -> None:
    """A run whose new status does not match the filter is sent with that status."""
    console = await serve(a_workflow(python_step("ask", "pd.flow.suspend(60000)")))
    run_id = await console.start_paused()
    found: Events = []
    reading = asyncio.create_task(read_events(console, "/-/events/runs?status=paused", 2, found))
    await wait_for_event(found, run_id, "paused")
    await console.act(run_id, "cancel")
    events = await reading

    assert [data["id"] for _, data in events] == [run_id, run_id]
    assert "cancelled" in events[1][1]["html"]


async def test_a_run_is_live_until_its_end(serve: Serve, tmp_path: Path) -> None:
    """The stream of a run has its steps as they end, and its last event is `end`; then the actions are those of an ended run."""
    gate = Gate(tmp_path)
    console = await serve(a_workflow(python_step("first"), python_step("second", gate.code)))
    run_id = await console.start()
    await gate.wait_until_reached()
    page = await console.page(f"/-/runs/{run_id}")
    found: Events = []
    reading = asyncio.create_task(read_events(console, f"/-/events/runs/{run_id}", 100, found))
    await until(lambda: found)
    gate.open()
    events = await reading
    unknown = await console.http.get("/-/events/runs/none")
    bearer = {"authorization": f"Bearer {ADMIN}"}
    program = await console.site.http.get(f"/-/events/runs/{run_id}", headers=bearer)

    assert f'data-events="/-/events/runs/{run_id}"' in page
    *states, (last, _) = events
    # a state between the end of the last step and the end of the run may be an event, too
    assert ({name for name, _ in states}, last) == ({"run"}, "end")
    assert [states[place][1]["status"] for place in (0, -1)] == ["executing", "success"]
    assert ["/cancel" in states[place][1]["actions"] for place in (0, -1)] == [True, False]
    assert "data-events" not in await console.page(f"/-/runs/{run_id}")
    assert unknown.status_code == 404
    assert program.text.count("event: ") == 2


@pytest.mark.parametrize("end", ["logout", "shutdown"])
async def test_a_stream_ends_with_its_session_or_the_server(serve: Serve, end: str) -> None:
    """A logout, and a shutdown of the server, end the open streams."""
    console = await serve(GREET)
    csrf = await console.csrf()

    received = bytearray()
    has_begun = asyncio.Event()

    async def read_all() -> None:
        async with console.http.stream("GET", "/-/events/runs") as answer:
            async for chunk in answer.aiter_bytes():
                received.extend(chunk)
                has_begun.set()

    reading = asyncio.create_task(read_all())
    await has_begun.wait()
    if end == "logout":
        await console.http.post("/-/logout", data={"csrf": csrf})
    else:
        console.site.server.stop()

    await asyncio.wait_for(reading, 60)
    assert received == b":\n\n"  # the comment with which a stream begins


async def test_a_quiet_stream_shows_that_it_is_in_use(tmp_path: Path) -> None:
    """After fifteen seconds without an event a stream sends a comment, so that no proxy closes the connection."""
    async with served(tmp_path) as site:
        state = get_state(create_app(site.context))
        visit = Visit(Request({"type": "http"}), state, None, {})

        async def no_changes(_: JournalReader) -> list[LiveEvent]:
            return []

        stream = stream_response(visit, no_changes)
        assert isinstance(stream, StreamingResponse)
        began, found = site.clock.monotonic(), list[tuple[object, float]]()
        async for part in stream.body_iterator:
            found.append((part, site.clock.monotonic() - began))
            state.is_stopping = len(found) == 3

    assert found == [(b":\n\n", 0.0), (b":\n\n", 15.0), (b":\n\n", 30.0)]


async def test_a_damaged_record(serve: Serve) -> None:
    """The page of a run whose record cannot be read has the reason, and the list goes on."""
    console = await serve(GREET)
    run_id = f"{1:027d}"
    await store(console, 2)
    journal = console.site.context.engine.journal
    definition = await journal.store_definition(GREET)
    await journal.accept_run(NewRun(run_id, "t", "Greet", definition, encode_event({}, {})))
    await journal.append_step(Claim.first(run_id), StepRow(0, "greet", "{", path="greet"))
    page = await console.page(f"/-/runs/{run_id}", status=500)
    listed = listed_ids(await console.page("/-/runs"))

    assert "is damaged: its steps cannot be read" in page
    assert listed == [run_id, f"{2:027d}"]


EACH: dict[str, Any] = {"interval_seconds": 3600, "for_each": "external_user"}
WORKFLOW = replace(
    a_workflow(
        python_step(
            "work", "if pd.steps['trigger']['context']['external_user_id'] == 'bob': raise ValueError('no channel')"
        ),
        name="Report",
    ),
    triggers=(Trigger("schedule", config=EACH),),
)


async def a_batch(console: Console) -> Batch:
    """A batch with a run that succeeds and one that fails, when both runs have ended."""
    context = console.state.context
    (served,) = context.workflows.list_workflows()
    batch = Batch("batch_1", served.id, "schedule", "Report", "development", context.project.clock.now(), state="done")
    context.project.batches.add(batch)
    for user in ("ada", "bob"):
        request = build_run_request(
            context,
            served,
            Event.from_schedule(EACH, batch.at),
            external_user_id=user,
            environment="development",
            batch=batch.id,
            dedupe_key=batch.dedupe_key(user),
        )
        await context.engine.run(request)
    return batch


async def test_the_pages_of_a_batch(serve: Serve) -> None:
    """They have the cause of a failure, a link to the run and a button for retries; a run names its batch, which is a filter of runs."""
    console = await serve(WORKFLOW)
    batch = await a_batch(console)
    page = await console.page(f"/-/batches/{batch.id}")
    (failed,) = (await console.http.get(f"/-/batches/{batch.id}", headers=JSON)).json()["failed"]
    runs, others = [
        (await console.http.get(f"/-/runs?batch={each}", headers=JSON)).json() for each in (batch.id, "batch_2")
    ]
    gone = await console.site.http.get("/-/batches/batch_gone", headers={"authorization": f"Bearer {ADMIN}"})

    assert "2 users: 1 succeeded, 1 failed" in page
    assert "no channel" in page
    assert f"/-/runs/{failed['run']}" in page
    assert "Retry the failed runs" in page
    assert (sorted(run["external_user"] for run in runs), others) == (["ada", "bob"], [])
    for path in ("/-/batches", f"/-/runs/{runs[0]['id']}"):
        assert f"/-/batches/{batch.id}" in await console.page(path)
    await console.page("/-/batches/batch_gone", status=404)
    assert (gone.status_code, gone.json()["error"]["message"]) == (404, "There is no such batch.")


async def test_the_button_retries_the_failed_runs(serve: Serve) -> None:
    """A form of the page does; a form without the session's token, and a second one, do not."""
    console = await serve(WORKFLOW)
    batch = await a_batch(console)
    path = f"/-/batches/{batch.id}/retry"
    foreign = await console.http.post(path, data={})
    pressed = await console.http.post(path, data={"csrf": await console.csrf()})
    await until(lambda: (found := console.state.context.project.batches.find(batch.id)) and found.round)
    runs = (await console.http.get("/-/batches/batch_1", headers=JSON)).json()

    assert (foreign.status_code, pressed.status_code) == (403, 303)
    assert runs["retries"] == 1


ASK = a_workflow(
    python_step("ask", "pd.flow.suspend(60000)"), python_step("answer", 'return pd.steps["ask"].get("$resume_data")')
)
PAY = a_workflow(python_step("ask", "pd.flow.suspend(60000)"), python_step("pay", 'return "posted"'))
WAIT = a_workflow(python_step("wait", "pd.flow.delay(60000)"), python_step("after"))


@pytest.mark.parametrize(("action", "approved"), [("approve", True), ("reject", False)])
async def test_a_decision_that_a_step_reads(serve: Serve, action: str, approved: bool) -> None:
    """The decision and the note are the suspended step's `$resume_data`; the page says so before, and confirms it."""
    console = await serve(ASK)
    run_id = await console.start_paused()
    page = await console.page(f"/-/runs/{run_id}")
    answer = await console.act(run_id, action, note="Fine & good", pause="ask 1 1")
    run = await console.wait_until(run_id, "success")
    after = await console.page(answer.headers["location"])

    assert 'name="pause" value="ask 1 1"' in page
    assert "Reject: the run goes on, and step answer gets the answer</button>" in page
    assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (303, f"/-/runs/{run_id}")
    assert run.step("answer").return_value == {"approved": approved, "note": "Fine & good"}
    assert f"The run was {'approved' if approved else 'rejected'}" in after


async def test_a_rejection_that_no_step_reads(serve: Serve) -> None:
    """Reject cancels the run, and no further step starts: the page says so before, and the step would act as after an approval."""
    console = await serve(PAY)
    run_id = await console.start_paused()
    page = await console.page(f"/-/runs/{run_id}")
    answer = await console.act(run_id, "reject", note="Too much", pause="ask 1 1")
    run = await console.wait_until(run_id, "cancelled")
    after = await console.page(answer.headers["location"])

    assert "Reject and cancel the run</button>" in page
    assert "The run was rejected and cancelled. No further step starts." in after
    assert run.step("pay").status == "not_run"
    assert run.error is not None
    assert (run.error.code, run.response) == ("rejected", None)
    assert [(each.verdict, each.step, each.note) for each in run.decisions] == [("rejected", "ask", "Too much")]
    assert "Too much" in after


async def test_an_approval_that_no_step_reads(serve: Serve) -> None:
    """An approved run goes on, and keeps the decision with its note."""
    console = await serve(PAY)
    run_id = await console.start_paused()
    await console.act(run_id, "approve", note="Checked")
    run = await console.wait_until(run_id, "success")
    (session,) = {each.by for each in run.decisions}

    assert run.step("pay").return_value == "posted"
    assert [(each.verdict, each.step, each.note) for each in run.decisions] == [("approved", "ask", "Checked")]
    assert re.fullmatch(r"console session [0-9a-f]{6}", session)


async def test_a_program_rejects(serve: Serve) -> None:
    """A program without a form rejects by the same rule; the record names the admin token."""
    console = await serve(PAY)
    run_id = await console.start_paused()
    answer = await console.site.http.post(f"/-/runs/{run_id}/reject", headers={"authorization": f"Bearer {ADMIN}"})
    run = answer.json()

    assert (run["status"], run["error"]["code"]) == ("cancelled", "rejected")
    assert [(each["verdict"], each["by"], "note" in each) for each in run["decisions"]] == [
        ("rejected", "admin token", False)
    ]


@pytest.mark.parametrize("first", ["approve", "reject", "cancel"])
async def test_the_first_of_two_persons_decides(serve: Serve, first: str) -> None:
    """The second of two persons is told who has decided, what and when; the first decision stays."""
    console = await serve(ASK if first == "reject" else PAY)
    run_id = await console.start_paused()
    async with httpx.AsyncClient(base_url=console.site.url, timeout=60) as http:
        other = replace(console, http=http)
        await log_in(console.site, app_state(console.site).console.create_code(), http)
        csrf = await other.csrf()
        await console.act(run_id, first, pause="ask 1 1")
        run = await console.wait_until(run_id, "success", "cancelled")
        late = await http.post(f"/-/runs/{run_id}/reject", data={"csrf": csrf, "pause": "ask 1 1"}, headers=HTML)
    (decision,) = (await console.wait_until(run_id, run.status)).decisions

    assert late.status_code == 409
    assert f"was {decision.verdict} by {decision.by} at " in html.unescape(late.text)
    assert decision.verdict == {"approve": "approved", "reject": "rejected", "cancel": "cancelled"}[first]


async def test_two_decisions_at_once(serve: Serve) -> None:
    """Of decisions that arrive at once exactly one is done, and it alone is recorded."""
    console = await serve(PAY)
    run_id = await console.start_paused()
    token = {"authorization": f"Bearer {ADMIN}"}
    actions = ("approve", "reject") * 4
    answers = await asyncio.gather(
        *(console.site.http.post(f"/-/runs/{run_id}/{action}", headers=token) for action in actions)
    )
    run = await console.wait_until(run_id, "success", "cancelled")
    done = [action for action, answer in zip(actions, answers, strict=True) if answer.status_code == 200]

    assert len(done) == len(run.decisions) == 1
    assert run.decisions[0].verdict == {"approve": "approved", "reject": "rejected"}[done[0]]
    assert run.status == {"approve": "success", "reject": "cancelled"}[done[0]]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"note": "x" * (MAX_NOTE_CHARACTERS + 1)}, f"more than {MAX_NOTE_CHARACTERS} characters"),
        ({"pause": "before 1 1"}, "has ended already."),
    ],
    ids=["a note that the record would cut", "a form of an earlier pause"],
)
async def test_a_decision_that_is_refused(serve: Serve, fields: dict[str, str], reason: str) -> None:
    """It decides nothing, and the page shows the reason and the current pause."""
    console = await serve(PAY)
    run_id = await console.start_paused()
    answer = await console.act(run_id, "approve", **fields)
    run = await console.wait_until(run_id, "paused")

    assert (answer.status_code, run.decisions) == (409, ())
    assert reason in answer.text
    assert 'value="ask 1 1"' in answer.text


async def test_only_a_suspend_is_approved(serve: Serve) -> None:
    """A delay has no decision: its page has none, and the action is refused, for a program as JSON. It can be resumed."""
    console = await serve(WAIT)
    run_id = await console.start_paused()
    page = await console.page(f"/-/runs/{run_id}")
    refused = await console.act(run_id, "approve")
    bearer = {"authorization": f"Bearer {ADMIN}", **HTML}
    program = await console.site.http.post(f"/-/runs/{run_id}/approve", headers=bearer)
    still = await console.wait_until(run_id, "paused")
    await console.act(run_id, "resume")
    run = await console.wait_until(run_id, "success")

    assert ["/approve" in page, "/resume" in page] == [False, True]
    assert (refused.status_code, program.status_code, still.status) == (409, 409, "paused")
    assert "Only a run that waits in a suspend can be approved or rejected." in refused.text
    assert program.json()["error"]["message"].startswith("Only a run that waits in a suspend can be approved")
    assert run.step("after").return_value == 1


async def test_a_run_of_a_terminal_goes_on_in_the_server(serve: Serve, tmp_path: Path) -> None:
    """A run that a terminal has started, and whose process has ended, is approved in the console; the server runs its next steps."""
    console = await serve(ASK)
    project = console.site.context.project
    request = RunRequest(ASK, an_event(), parse_policy("deny"), folder=tmp_path, pause_mode="park")
    async with await WorkflowEngine.start(project, LocalDirectory(project)) as terminal:
        waiting = await terminal.run(request)
    answer = await console.act(waiting.id, "approve")
    run = await console.wait_until(waiting.id, "success")

    assert (waiting.status, answer.status_code) == ("paused", 303)
    assert run.step("answer").return_value == {"approved": True, "note": ""}


async def test_a_run_is_cancelled(serve: Serve) -> None:
    """A paused run is cancelled once; a second attempt reports that the run has ended."""
    console = await serve(ASK)
    run_id = await console.start_paused()
    first, second = await console.act(run_id, "cancel"), await console.act(run_id, "cancel")
    run = await console.wait_until(run_id, "cancelled")
    late = await console.act(run_id, "approve")

    assert "The run was cancelled." in await console.page(first.headers["location"])
    assert (second.status_code, late.status_code, run.status) == (409, 409, "cancelled")
    assert "has ended already" in second.text


async def test_a_running_step_is_cancelled(serve: Serve) -> None:
    """Cancelling a run ends the step that runs."""
    console = await serve(a_workflow(python_step("sleep", "import time; time.sleep(60)"), python_step("after")))
    run_id = await console.start()
    await console.wait_until(run_id, "executing")
    await console.act(run_id, "cancel")
    run = await console.wait_until(run_id, "cancelled")
    await until(lambda: run_id not in console.state.runs.active_run_ids)  # the step would run for a minute

    assert run.step("after").status == "not_run"


async def test_a_replay(serve: Serve) -> None:
    """A replay runs the same event as the same user, and the page of the new run confirms that."""
    console = await serve(a_workflow(python_step("echo", "return pd.steps['trigger']['event']['body']")))
    run_id = await console.start(body={"n": 7}, **{"x-pd-external-user-id": "ada"})
    await console.wait_until(run_id, "success")
    answer = await console.act(run_id, "replay")
    new_id = answer.headers["location"].partition("?")[0].rpartition("/")[2]
    run = await console.wait_until(new_id, "success")

    assert "This is the new run on the same event." in await console.page(answer.headers["location"])
    assert (run.replay_of, run.external_user, run.step("echo").return_value) == (run_id, "ada", {"n": 7})


async def test_a_fork(serve: Serve) -> None:
    """A fork keeps the exports of the steps above the chosen step; an unknown step is refused."""
    console = await serve(
        a_workflow(
            python_step("first", "import time; return time.time()"), python_step("second", "return pd.steps['first']")
        )
    )
    run_id = await console.start()
    original = await console.wait_until(run_id, "success")
    answer = await console.act(run_id, "fork", step="second")
    new_id = answer.headers["location"].partition("?")[0].rpartition("/")[2]
    run = await console.wait_until(new_id, "success")
    refused = await console.act(run_id, "fork", step="third")

    assert run.replay_of == run_id
    assert run.step("first").status == "pinned"
    assert run.step("second").return_value == original.step("second").return_value
    assert (refused.status_code, "third" in refused.text) == (409, True)


async def test_a_replay_sends_outbound_calls_only_if_chosen(serve: Serve) -> None:
    """Without the check mark, outbound calls of the new run are refused, also those of a fork."""
    console = await serve(a_workflow(python_step("first"), python_step("second")))
    run_id = await console.start()
    await console.wait_until(run_id, "success")
    engine, sent = console.site.context.engine, []
    for action, fields in (("replay", {}), ("fork", {"step": "second"})):
        for mark in ({"sends": "on"}, {}):
            answer = await console.act(run_id, action, **fields, **mark)
            loaded = await engine.journal.load_run(answer.headers["location"].partition("?")[0].rpartition("/")[2])
            assert loaded is not None
            sent.append(engine.restore_request(loaded[1]).options.resend)

    assert sent == [True, False, True, False]


async def test_an_unknown_run(serve: Serve) -> None:
    """An action on an unknown run is not found; a GET of an action does nothing."""
    console = await serve()
    for action in ("approve", "cancel", "fork", "replay", "reject", "resume"):
        answer = await console.act("none", action)
        got = await console.http.get(f"/-/runs/none/{action}", headers=HTML)

        assert (answer.status_code, got.status_code) == (404, 404)


async def test_a_replay_in_a_server_that_leaves_no_runs(tmp_path: Path) -> None:
    """The server of a notebook, whose runs end with it, runs the replay itself, which gives out URLs of that server."""
    workflow = a_workflow(python_step("ask", "print(pd.flow.suspend(3600_000)['resume_url'])\nraise ValueError"))
    source = ServedWorkflow("p_test", "eotest", WorkflowSource(tmp_path / "work.ipynb", "notebook", workflow))
    token = {"authorization": f"Bearer {ADMIN}"}
    async with served(tmp_path, source, admin_token_hash=hash_admin_token(ADMIN)) as site:
        run_id = (await site.http.post("/eotest")).json()["event_id"]
        first = await until_awaited(lambda: ended(site, run_id))
        answer = await site.http.post(f"/-/runs/{run_id}/replay", headers=token)
        replay = await until_awaited(lambda: ended(site, answer.json()["id"]))

    urls = [run.step("ask").logs[0].text.partition("/-/")[0] for run in (first, replay)]
    assert (replay.replay_of, urls) == (run_id, [site.context.settings.base_url] * 2)


async def ended(site: Served, run_id: str) -> Execution | None:
    """The run, if it has ended."""
    run = await site.context.engine.journal.get_execution(run_id)
    return run if run is not None and run.finished_at is not None else None

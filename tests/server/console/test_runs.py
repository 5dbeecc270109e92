"""The list of runs and the page of a run."""

from __future__ import annotations

import asyncio
import html.parser
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import StreamingResponse

from pdkernel.common.encode import decode_json
from pdkernel.execution import ErrorRecord, Log, StepResult
from pdkernel.journal import Claim, JournalReader, NewRun, StepRow, encode_event, encode_output, encode_step
from pdkernel.server import create_app
from pdkernel.server.app_state import get_state
from pdkernel.server.console.access import Visit
from pdkernel.server.console.live import LiveEvent, stream_response
from tests.builders import Gate, a_workflow, python_step
from tests.server.console.conftest import ADMIN, HTML, JSON, Console, Serve
from tests.server.served import served

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
    found = {}
    for query in (
        "",
        "workflow=Fail",
        "external_user=ada",
        "environment=production",
        "status=error",
        "status=success&external_user=ada",
        "since=1h",
        "since=tomorrow",
        "workflow=&status=",
        "workflow=none",
    ):
        listed = (await console.http.get(f"/-/runs?{query}", headers=JSON)).json()
        page = await console.page(f"/-/runs?{query}")
        found[query] = [next(name for name, run_id in runs.items() if run_id == each["id"]) for each in listed]
        assert [each["id"] for each in listed] == listed_ids(page), query
        stream = page.partition('data-events="')[2].partition('"')[0].replace("&amp;", "&")
        assert stream.partition("?")[0] == "/-/events/runs"
        assert parse_qs(urlsplit(stream).query) == parse_qs(query), query

    everything = ["greet", "fail ada", "greet production", "greet ada"]
    assert found == {
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
    }


def listed_ids(page: str) -> list[str]:
    """The ids of the rows of a page."""
    return [part.partition('"')[0] for part in page.split('<li id="run-')[1:]]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("since=soonish", "Since soonish is not a time."),
        ("status=good", "&#39;good&#39; is not a status."),
        ("environment=test", "&#39;test&#39; is not an environment."),
    ],
)
async def test_an_invalid_filter(serve: Serve, query: str, message: str) -> None:
    """The page shows what is wrong with a filter, and keeps its text; JSON and the stream have status 400."""
    console = await serve(GREET)
    page = await console.page(f"/-/runs?{query}", status=400)
    others = [await console.http.get(f"{path}?{query}", headers=JSON) for path in ("/-/runs", "/-/events/runs")]

    assert message in page
    assert [answer.status_code for answer in others] == [400, 400]


async def store(console: Console, number: int, **fields: Any) -> str:
    """Store a finished run without running it."""
    journal, run_id = console.site.context.engine.journal, f"{number:027d}"
    definition = await journal.store_definition(fields.pop("workflow", GREET))
    values = {"external_user": None, "environment": "development", "event": encode_event({}, {}), **fields}
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
    run_id = await console.start(
        name="Pay", body={"amount": 4200, "to": "ACME <b>Ltd</b>"}, authorization="Bearer s3cret"
    )
    await console.wait_until(run_id, "paused")
    page = await console.page(f"/-/runs/{run_id}")

    order = [
        page.index(text) for text in (">Event</h2>", "amount: 4200", "request: POST", ">Actions</h2>", ">Steps</h2>")
    ]
    assert order == sorted(order)
    assert "ACME &lt;b&gt;Ltd&lt;/b&gt;" in page
    assert "s3cret" not in page


class ActiveParts(html.parser.HTMLParser):
    """Collects what could act in a page: scripts, handlers, frames, and addresses that are not of the console."""

    ALLOWED_TAGS = frozenset(
        [
            "html",
            "head",
            "meta",
            "title",
            "link",
            "script",
            "body",
            "a",
            "header",
            "nav",
            "ul",
            "ol",
            "li",
            "form",
            "input",
            "button",
            "main",
            "h1",
            "h2",
            "h3",
            "p",
            "div",
            "span",
            "strong",
            "code",
            "time",
            "label",
            "select",
            "option",
            "textarea",
            "datalist",
            "details",
            "summary",
            "pre",
            "table",
            "thead",
            "tbody",
            "tr",
            "th",
            "td",
            "svg",
            "rect",
            "line",
            "wbr",
            "em",
            "b",
        ]
    )

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an active element."""
        if tag not in self.ALLOWED_TAGS:
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
    await journal.accept_run(
        NewRun(
            run_id, "t", text, definition, event, external_user=second, environment="development", created=float(number)
        )
    )
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


async def wait_for_event(found: Events, run_id: str, word: str) -> None:
    """Wait until *found* has an event of the run whose HTML has *word*."""
    async with asyncio.timeout(60):
        while not any(data["id"] == run_id and word in data["html"] for _, data in found):
            await asyncio.sleep(0.01)


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
    run_id = await console.start()
    await console.wait_until(run_id, "paused")
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
    async with asyncio.timeout(60):
        while not found:
            await asyncio.sleep(0.01)
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

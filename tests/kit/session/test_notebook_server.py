"""The served draft, called over HTTP."""

from __future__ import annotations

import asyncio
import errno
import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from pdkernel.egress import parse_policy
from pdkernel.engine.run_context import derive_id
from pdkernel.errors import DirectiveError, InternalError, RequestError
from pdkernel.event import Event
from pdkernel.execution import Execution
from pdkernel.kit.session import Session
from pdkernel.kit.session.notebook_server import MAX_KEPT_REQUESTS, DraftWorkflowSource
from pdkernel.operations.run_history import end_pause
from pdkernel.storage import DeployedTrigger
from tests.builders import Gate, an_event
from tests.http_servers import AnsweringServer, serve
from tests.waiting import wait_until

HEADER = "%%pdworkflow\nname: Draft\ntrigger:\n  type: http\n  response: custom\n"


def step(word: str) -> str:
    """A step that returns *word*."""
    return f"%%pdstep answer\ndef handler(pd):\n    pd.respond(status=200, body='{word}')\n"


def served(session: Session) -> tuple[str, list[Execution], list[str]]:
    """The draft's URL, its runs, and the log lines."""
    runs: list[Execution] = []
    lines: list[str] = []
    return session.server.start(on_run=runs.append, log_line=lines.append), runs, lines


def draft_of(session: Session) -> DraftWorkflowSource:
    """The draft of *session*, as its server reads it."""
    return DraftWorkflowSource(session.project, lambda: (session.source, session.outbound_policy))


def test_each_request_runs_the_current_draft(session: Session) -> None:
    """The next request runs the newest text of a cell; an invalid cell changes nothing."""
    session.record_cell(HEADER, cell_id="h")
    session.record_cell(step("first"), cell_id="a")
    url, runs, lines = served(session)
    answers = [httpx.post(url, timeout=60).text]
    session.record_cell(step("second"), cell_id="a")
    answers.append(httpx.post(url, timeout=60).text)
    session.record_cell("%%pdworkflow\nnme: Draft\n", cell_id="h")

    assert answers == ["first", "second"]
    with pytest.raises(DirectiveError, match="unknown key 'nme'"):
        draft_of(session)
    assert wait_until(lambda: {run.status for run in runs} >= {"executing", "success"})
    assert wait_until(lambda: len(lines) == 2)


def test_a_run_of_a_cell_has_the_urls_of_the_drafts_server(session: Session) -> None:
    """While the draft is served, the URLs that resume a run of a cell are those of its server; before, there are none."""
    session.record_cell(step("first"), cell_id="a")
    session.choose_event(an_event())
    before = session.get_request(session.run().id).base_url
    url, _, _ = served(session)

    after = session.get_request(session.run().id).base_url

    assert before is None
    assert after is not None
    assert url.startswith(f"{after}/")


def test_a_draft_takes_over_no_endpoint(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    """Sources that another server of the project has activated keep its URL: their hooks do not run for a notebook's server."""
    now, there = session.project.clock.now(), "http://127.0.0.1:1"
    found = DeployedTrigger("dc_1", "ada", "production", "k", "1", "n", {}, {}, True, now, now, base_url=there)
    session.project.deployed_triggers.add(found)
    session.record_cell(HEADER, cell_id="h")
    session.record_cell(step("first"), cell_id="a")
    url, _, _ = served(session)

    assert httpx.post(url, timeout=60).text == "first"
    assert "hook of the deployed trigger" not in caplog.text


def test_the_drafts_id_is_not_an_endpoint(session: Session) -> None:
    """The draft's id is random, stays with its notebook, and is not an endpoint."""
    session.record_cell(HEADER, cell_id="h")
    session.record_cell(step("first"), cell_id="a")
    url, _, _ = served(session)
    known, again = (draft_of(session) for _ in range(2))
    (draft,) = known.list_workflows()

    opened = {
        made: httpx.post(f"{url.rpartition('/')[0]}/{made}", timeout=60)
        for made in (draft.id, derive_id("p_", draft.source.workflow.name))
    }

    assert [answer.status_code for answer in opened.values()] == [404, 404]
    assert len(opened) == 2
    assert again.list_workflows()[0].id == draft.id
    assert known.find_id(draft.id) is not None
    assert known.find(draft.endpoint_key.upper()) is not None  # a key can be a part of a host name
    session.choose_egress("deny")
    assert [each.policy for each in known.list_workflows()] == [parse_policy("deny")]


def test_the_endpoint_of_the_sidecar_is_served(
    make_session: Callable[..., Session], save_notebook: Callable[..., Path], tmp_path: Path
) -> None:
    """The notebook's `pdkernel.yaml` names the key of the endpoint."""
    path = save_notebook(("h", HEADER), ("a", step("yes")))
    (tmp_path / "work.pdkernel.yaml").write_text("endpoint: eo1234567890abc\n")

    assert draft_of(make_session(path.name)).endpoint == "eo1234567890abc"


def test_requests_during_a_run(session: Session, tmp_path: Path) -> None:
    """A request is answered while a cell runs."""
    session.record_cell(HEADER, cell_id="h")
    session.record_cell(step("quick"), cell_id="a")
    url, _, _ = served(session)
    httpx.post(url, timeout=60)
    gate = Gate(tmp_path)
    session.record_cell(f"%%pdstep slow\ndef handler(pd):\n    {gate.code}\n", cell_id="b")
    session.choose_event(Event.from_body({}))
    running = session.start(only=frozenset({"slow"}))
    session.remove_cells(["b"])
    asyncio.run(gate.wait_until_reached())
    answer = httpx.post(url, timeout=60)
    gate.open()

    assert answer.text == "quick"
    assert running.result().status == "success"


def test_a_request_as_the_test_event(session: Session) -> None:
    """The event of a request becomes the chosen event, with its external user and without its token."""
    session.record_cell(HEADER, cell_id="h")
    session.record_cell(step("yes"), cell_id="a")
    url, runs, _ = served(session)
    with pytest.raises(RequestError, match="No request"):
        session.server.choose_event_of()
    headers = {"authorization": "Bearer hidden-token", "x-pd-external-user-id": "ada"}
    httpx.post(f"{url}/a", json={"n": 1}, headers=headers, timeout=60)
    httpx.post(f"{url}/b", json={"n": 2}, timeout=60)
    session.server.choose_event_of(runs[0].id)

    assert session.event is not None
    assert (session.event.data["path"], session.event.data["body"]) == ("/a", {"n": 1})
    assert session.external_user_id == "ada"
    assert "hidden-token" not in str(session.event.data)


def test_a_run_stays_among_the_requests_after_its_pause(session: Session) -> None:
    """A run that goes on after a pause is reported to its end, and its event can become the test event."""
    session.record_cell(HEADER, cell_id="h")
    session.record_cell("%%pdstep wait\ndef handler(pd):\n    pd.flow.suspend(600_000)\n", cell_id="a")
    url, runs, _ = served(session)
    httpx.post(url, json={"n": 1}, timeout=60)
    assert wait_until(lambda: bool(runs) and runs[-1].status == "paused")
    run_id = runs[-1].id

    session.call_engine(lambda engine: end_pause(engine, run_id, None))
    ended = wait_until(lambda: runs[-1].status == "success")
    session.server.choose_event_of(run_id)

    assert ended
    assert session.event is not None
    assert session.event.data["body"] == {"n": 1}


def test_a_run_that_waited_is_among_the_requests(session: Session) -> None:
    """The event of a run that waited for the limits of its workflow can become the test event."""
    session.record_cell(f"{HEADER}settings: {{concurrency: 1}}\n", cell_id="h")
    session.record_cell(step("done"), cell_id="a")
    url, runs, _ = served(session)
    httpx.post(url, json={"n": 1}, timeout=60)

    session.server.choose_event_of(runs[-1].id)

    assert session.event is not None
    assert session.event.data["body"] == {"n": 1}


def test_a_run_goes_on_under_the_policy_of_today(session: Session) -> None:
    """A run that paused before outbound calls were denied calls nothing."""
    with serve(AnsweringServer(lambda _: (204, b""))) as destination:
        session.choose_egress(f"stand-in={destination.url}")
        session.record_cell(HEADER, cell_id="h")
        session.record_cell("%%pdstep wait\ndef handler(pd):\n    pd.flow.suspend(600_000)\n", cell_id="a")
        call = "import urllib.request\n    urllib.request.urlopen('http://api.example.com/').read()\n"
        session.record_cell(f"%%pdstep call\ndef handler(pd):\n    {call}", cell_id="b")
        url, runs, _ = served(session)
        httpx.post(url, timeout=60)
        assert wait_until(lambda: bool(runs) and runs[-1].status == "paused")
        session.choose_egress("deny")
        session.call_engine(lambda engine: end_pause(engine, runs[-1].id, None))
        ended = wait_until(lambda: runs[-1].status in ("success", "error"))

    assert ended
    assert (runs[-1].status, destination.requests) == ("error", [])


def test_stop(session: Session) -> None:
    """A stopped server does not answer, and starts again at the same path; a second start is refused."""
    session.record_cell(step("yes"), cell_id="a")
    first, _, _ = served(session)
    with pytest.raises(RequestError, match="already served"):
        served(session)
    stopped = [session.server.stop(), session.server.stop()]
    with pytest.raises(httpx.ConnectError):
        httpx.post(first, timeout=60)
    second, _, _ = served(session)

    assert stopped == [True, False]
    assert first.rpartition("/")[2] == second.rpartition("/")[2]
    assert httpx.post(second, timeout=60).status_code == 200


def test_a_request_that_must_not_be_stored(session: Session) -> None:
    """A run with `x-pd-nostore` is not shown in the notebook, which would store it, and is not a test event."""
    session.record_cell(HEADER, cell_id="h")
    session.record_cell(step("yes"), cell_id="a")
    url, runs, lines = served(session)
    answer = httpx.post(url, json={"secret": 1}, headers={"x-pd-nostore": "1"}, timeout=60)

    assert answer.text == "yes"
    assert wait_until(lambda: len(lines) == 1)
    assert runs == []
    with pytest.raises(RequestError, match="No request has arrived yet"):
        session.server.choose_event_of()


def test_a_long_run_does_not_become_the_latest_request(session: Session, tmp_path: Path) -> None:
    """The end of a run whose request is no longer in the list does not make it the latest request."""
    gate = Gate(tmp_path)
    session.record_cell(HEADER, cell_id="h")
    session.record_cell(
        "%%pdstep answer\ndef handler(pd):\n"
        "    pd.respond(status=200, body='', immediate=True)\n"
        "    if pd.steps['trigger']['event']['path'] == '/long':\n"
        f"        {gate.code}\n",
        cell_id="a",
    )
    url, runs, _ = served(session)
    httpx.post(f"{url}/long", timeout=60)
    for number in range(MAX_KEPT_REQUESTS):
        httpx.post(f"{url}/{number}", timeout=60)

    assert not [run for run in runs if run.event["path"] == "/long" and run.finished_at]
    oldest = next(run.id for run in runs if run.event["path"] == "/long")
    with pytest.raises(RequestError, match="among the latest requests"):
        session.server.get_run_request(oldest)
    gate.open()
    assert wait_until(lambda: any(run.event["path"] == "/long" and run.finished_at for run in runs))
    assert session.server.get_run_request().event.data["path"] == f"/{MAX_KEPT_REQUESTS - 1}"


def test_a_server_that_cannot_start_raises_the_reason(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the event loop cannot listen on the port, the error has the reason; the port is free for the next start."""
    session.record_cell(HEADER, cell_id="h")
    session.record_cell(step("first"), cell_id="a")

    async def fail_to_listen(*_: object, **_options: object) -> None:
        raise OSError(errno.EADDRINUSE, "Address already in use")

    with monkeypatch.context() as patch:
        patch.setattr(asyncio.BaseEventLoop, "create_server", fail_to_listen)
        with pytest.raises(InternalError, match=r"The server did not start: .*Address already in use"):
            served(session)
    url, _, _ = served(session)

    assert httpx.post(url, timeout=60).text == "first"


class TestConsole:
    """The console of the draft's server."""

    def test_a_link_logs_in_once(self, session: Session) -> None:
        """The link opens the pages of runs for one browser, and tells who created it."""
        session.record_cell(step("first"), cell_id="a")
        served(session)
        used: list[bool] = []
        link = httpx.URL(session.server.create_console_link(lambda: used.append(True)))
        other = httpx.URL(session.server.create_console_link())

        own_host = {"host": link.netloc.decode()}  # which browsers, but not all systems, lead to this machine
        with httpx.Client(
            base_url=f"http://127.0.0.1:{link.port}", headers=own_host, follow_redirects=True, timeout=60
        ) as browser:
            form = {"secret": link.params["code"], "next": "/-/"}
            closed = browser.get("/-/runs", headers={"accept": "application/json"}).status_code
            headers = {"origin": f"http://{link.netloc.decode()}", "sec-fetch-site": "same-origin"}
            first = browser.post("/-/login", data=form, headers=headers)
            second = browser.post("/-/login", data=form, headers=headers)
            runs = browser.get("/-/runs", headers={"accept": "text/html"})

        assert (closed, first.status_code, second.status_code, runs.status_code) == (401, 200, 401, 200)
        assert used == [True]
        assert link != other
        assert re.fullmatch(r"console-[a-z2-7]{26}\.localhost", link.host)

    def test_without_a_server_there_is_no_console(self, session: Session) -> None:
        """Before the draft is served, and after it was, the message names the line that serves it."""
        session.record_cell(step("first"), cell_id="a")
        with pytest.raises(RequestError, match="no console") as before:
            session.server.create_console_link()
        served(session)
        session.server.stop()

        with pytest.raises(RequestError, match="no console"):
            session.server.create_console_link()
        assert before.value.fix == "%pdserve"

"""Responses of endpoints, over HTTP and in the record."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pdkernel.execution import Response
from pdkernel.model import Step
from tests.builders import Gate, a_workflow, node_step, python_step
from tests.server.endpoint.conftest import Serve
from tests.server.site import Site, site_of

ADDED_HEADERS = {"date", "content-length"}
"""Headers of the connection, which the server adds."""
HEADER_NAMES = (
    "X-A", "x-a", "X-B", "Link", "Content-Type", "content-type", "Vary", "Access-Control-Allow-Origin", "Content-Length",
    "Transfer-Encoding", "Connection", "Keep-Alive", "bad name", "Ü", "",
)  # fmt: skip
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9) | st.just("\ud800"),
    lambda held: st.lists(held, max_size=3) | st.dictionaries(st.text(max_size=5), held, max_size=3),
)
BODIES = (
    st.none()
    | st.text(max_size=20)
    | JSON_VALUES
    | st.fixed_dictionaries({"$base64": st.sampled_from(["", "AP8=", "AP8", "%", "é"])})
)
HEADERS = st.dictionaries(
    st.sampled_from(HEADER_NAMES),
    st.text(max_size=9) | st.lists(st.text(max_size=5), max_size=3) | st.just("text/html"),
    max_size=4,
)
STATUSES = st.sampled_from([200, 200, 201, 404, 500, 100, 101, 199, 204, 205, 304])


def assert_recorded(recorded: Response | None, answer: httpx.Response, content: bytes) -> None:
    """Assert that the recorded response is the response that the client received with the bytes *content*."""
    assert recorded is not None
    received: dict[str, str] = {}
    for raw_name, raw_value in answer.headers.raw:
        name, value = raw_name.decode().lower(), raw_value.decode("latin-1")
        received[name] = f"{received[name]}, {value}" if name in received else value
    headers = {name.lower(): value for name, value in recorded.headers.items()}
    body, media_type = expected_content(recorded.body)
    # for a body without a content type, the server adds the type of the body
    implied = {} if media_type is None else {"content-type": media_type, "x-content-type-options": "nosniff"}
    added = {"access-control-allow-origin": "*", **({} if "content-type" in headers else implied)}

    policy = received.pop("content-security-policy", None)
    assert policy is None or (policy.startswith("sandbox ") and received.get("content-type") != media_type)

    assert answer.status_code == recorded.status
    assert {name: value for name, value in received.items() if name not in ADDED_HEADERS} == {**added, **headers}
    if body is None:
        assert json.loads(content) == recorded.body
    else:
        assert content == body


def expected_content(recorded_body: Any) -> tuple[bytes | None, str | None]:
    """Return the bytes and the media type of a recorded body; None in place of the bytes is the body as JSON."""
    if recorded_body is None:
        return b"", None
    if isinstance(recorded_body, str):
        return recorded_body.encode(), "text/plain; charset=utf-8"
    if isinstance(recorded_body, dict) and recorded_body.keys() == {"$base64"}:
        return {"": b"", "AP8=": b"\x00\xff"}[recorded_body["$base64"]], "application/octet-stream"
    return None, "application/json; charset=utf-8"


def test_the_record_is_what_the_client_received(tmp_path: Path) -> None:
    """For any response of a step, the recorded response is the response over HTTP."""
    step = python_step("answer", "pd.respond(**pd.steps['trigger']['event']['body'])")
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        site = runner.run(stack.enter_async_context(site_of(tmp_path, a_workflow(step, response="custom"))))

        async def post(raw: dict[str, Any]) -> None:
            content = json.dumps(raw).encode()
            headers = {"content-type": "application/json"}
            async with site.http.stream("POST", site.path(), content=content, headers=headers) as answer:
                received = b"".join([chunk async for chunk in answer.aiter_raw()])
            assert_recorded((await site.runs())[-1].response, answer, received)

        @settings(database=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(raw=st.fixed_dictionaries({"status": STATUSES, "headers": HEADERS, "body": BODIES}))
        def responds(raw: dict[str, Any]) -> None:
            runner.run(post(raw))

        try:
            responds()
        finally:
            runner.run(stack.aclose())


NO_RESPONSE = "No $.respond called in workflow"
LATE = python_step("late", "pd.respond(status=200)")


@pytest.mark.parametrize(
    ("steps", "status", "text"),
    [
        pytest.param([python_step("needs", options="--app slack")], 400, "", id="end-user error"),
        pytest.param([python_step("silent")], 400, NO_RESPONSE, id="no response"),
        pytest.param([python_step("ends", "pd.flow.exit('enough')")], 400, NO_RESPONSE, id="exit"),
        pytest.param([python_step("fails", "1 / 0")], 400, NO_RESPONSE, id="failed"),
        pytest.param([python_step("waits", "pd.flow.delay(100)"), LATE], 400, "", id="responds after a pause"),
        pytest.param(
            [python_step("waits", "pd.respond(status=201)\npd.flow.delay(100)")], 201, "", id="pauses after it"
        ),
        pytest.param(
            [python_step("answer", "pd.respond(status=202, body='taken')"), python_step("fails", "1 / 0")],
            202,
            "taken",
            id="fails after it",
        ),
        pytest.param(
            [python_step("early", "pd.respond(status=202, immediate=True)"), python_step("fails", "1 / 0")],
            202,
            "",
            id="immediate",
        ),
        pytest.param([python_step("x", "# pipedream add-package no==\nreturn 1")], 400, "", id="refused"),
    ],
)
async def test_the_record_has_the_response_of_each_way_to_end(
    serve: Serve, steps: list[Step], status: int, text: str
) -> None:
    """A refused, silent, failed or paused run records the response that its caller received."""
    site = await serve(*steps)
    answer = await site.http.post(site.path())
    (run,) = await site.runs()

    assert (answer.status_code, answer.text) == (status, text or answer.text)
    assert_recorded(run.response, answer, answer.content)


async def test_a_run_without_steps_records_the_default_response(echo: Site) -> None:
    """With x-pd-notrigger the caller gets the default response, which the record does not repeat."""
    answer = await echo.http.post(echo.path(), headers={"x-pd-notrigger": "1"})
    (run,) = await echo.runs()

    assert (answer.status_code, run.response) == (200, None)


async def has_unfinished_run(site: Site) -> bool:
    """Whether a run has not ended yet."""
    kept = await site.journal.list_executions(limit=1000)
    return any(run.finished_at is None for run in kept)


async def test_the_default_response(serve: Serve, tmp_path: Path) -> None:
    """The default response comes at once and has the id of the run, which goes on."""
    gate = Gate(tmp_path)
    site = await serve(python_step("slow", gate.code), response="default")
    answer = await site.http.post(site.path())
    is_unfinished = await has_unfinished_run(site)
    gate.open()
    (run,) = await site.runs()

    assert answer.status_code == 200
    assert is_unfinished
    assert list(answer.json()) == [
        "about", "event_id", "workflow_id", "owner_id", "deployment_id", "timestamp", "inspect", "quickstart",
    ]  # fmt: skip
    assert (answer.json()["event_id"], answer.json()["workflow_id"]) == (run.id, run.context["workflow_id"])
    assert (run.status, run.context["test"]) == ("success", False)


@pytest.mark.parametrize(
    ("python", "status", "kind", "content"),
    [
        ("{'status': 201, 'body': {'a': 'é'}}", 201, "application/json; charset=utf-8", '{"a": "é"}'.encode()),
        ("{'status': 200, 'body': [1]}", 200, "application/json; charset=utf-8", b"[1]"),
        ("{'status': 418, 'body': 'tea'}", 418, "text/plain; charset=utf-8", b"tea"),
        ("{'status': 503, 'body': 'own'}", 503, "text/plain; charset=utf-8", b"own"),
        ("{'status': 200, 'body': b'\\x00\\xff'}", 200, "application/octet-stream", b"\x00\xff"),
        ("{'status': 200, 'headers': {'Content-Type': 'text/html'}, 'body': '<p>'}", 200, "text/html", b"<p>"),
        ("{'status': 204, 'body': 'none'}", 204, None, b""),
        ("{'status': 304}", 304, None, b""),
        ("{'status': 200}", 200, None, b""),
        ("{'status': 99, 'body': ''}", 400, "text/plain; charset=utf-8", b"No $.respond called in workflow"),
        ("{'status': 1000}", 400, "text/plain; charset=utf-8", b"No $.respond called in workflow"),
    ],
)
async def test_custom_responses(evaluating: Site, python: str, status: int, kind: str | None, content: bytes) -> None:
    """Status, headers and body are the step's: objects as JSON, texts and bytes unchanged."""
    answer = await evaluating.http.post(evaluating.path(), content=python)

    assert (answer.status_code, answer.headers.get("content-type"), answer.content) == (status, kind, content)


async def test_a_buffer_and_headers_of_node(serve: Serve) -> None:
    """A Buffer is sent as bytes; control characters, invalid names and headers of the connection are dropped."""
    body = (
        "await $.respond({ status: 200, headers: { 'X-Mine': 'a\\r\\nX-Injected: 1', 'Transfer-Encoding': 'chunked', "
        "'Content-Length': 99, 'bad name': 'x' }, body: Buffer.from([1, 2, 255]) });"
    )
    site = await serve(node_step("answer", body))
    answer = await site.http.post(site.path())

    assert answer.content == b"\x01\x02\xff"
    assert answer.headers["x-mine"] == "aX-Injected: 1"
    assert "x-injected" not in answer.headers
    assert (answer.headers["content-length"], "transfer-encoding" in answer.headers) == ("3", False)


@pytest.mark.parametrize(
    "answers",
    [
        node_step("answer", "await $.respond({ status: 200, headers: { 'X-Several': ['a=1', 'b=2'], 'X-On': true } })"),
        python_step("answer", "pd.respond(status=200, headers={'X-Several': ['a=1', 'b=2'], 'X-On': True})"),
    ],
    ids=["node", "python"],
)
async def test_a_repeated_header(serve: Serve, answers: Step) -> None:
    """A list in `headers` is a repeated header, as in Node.js; the record has the joined values."""
    site = await serve(answers)
    answer = await site.http.post(site.path())
    (run,) = await site.runs()

    assert answer.headers.get_list("x-several") == ["a=1", "b=2"]
    assert answer.headers["x-on"] == "true"
    assert run.response is not None
    assert run.response.headers["X-Several"] == "a=1, b=2"


async def test_the_caller_gets_a_secret_that_the_record_does_not_have(serve: Serve) -> None:
    """The caller gets the value of a secret; the record has a placeholder."""
    tells = "pd.respond(status=200, body=pd.inputs['slack']['$auth']['oauth_access_token'])"
    site = await serve(python_step("answer", tells, options="--app slack"))
    site.connect("ada", "slack", {"oauth_access_token": "xoxb-0123456789"})
    answer = await site.http.post(site.path(), headers={"x-pd-external-user-id": "ada"})
    (run,) = await site.runs()

    assert answer.text == "xoxb-0123456789"
    assert run.response is not None
    assert "xoxb" not in str(run.to_json())


async def test_the_first_response_is_sent_at_the_end(serve: Serve, tmp_path: Path) -> None:
    """The first of several responses is sent when the workflow has ended."""
    gate = Gate(tmp_path)
    site = await serve(
        python_step("first", "pd.respond(status=200, body='first')"),
        python_step("second", f"{gate.code}\npd.respond(status=500, body='second')"),
    )
    request = asyncio.ensure_future(site.http.post(site.path()))
    await gate.wait_until_reached()
    early, _ = await asyncio.wait([request], timeout=0.1)
    gate.open()
    answer = await request

    assert not early
    assert (answer.status_code, answer.text) == (200, "first")


async def test_an_immediate_response(serve: Serve, tmp_path: Path) -> None:
    """With `immediate` the response is sent at once, and the run goes on."""
    gate = Gate(tmp_path)
    site = await serve(
        python_step("answer", f"pd.respond(status=200, body='now', immediate=True)\n{gate.code}\nreturn 1")
    )
    answer = await site.http.post(site.path())
    is_unfinished = await has_unfinished_run(site)
    gate.open()
    (run,) = await site.runs()

    assert (answer.text, run.status) == ("now", "success")
    assert is_unfinished


@pytest.mark.parametrize(
    ("before", "status", "text"),
    [("", 400, "$.respond() not called for this invocation"), ("pd.respond(status=200, body='made')", 200, "made")],
)
async def test_a_pause_sends_the_response(serve: Serve, tmp_path: Path, before: str, status: int, text: str) -> None:
    """At a pause the caller gets the response so far, or the platform's 400; the run goes on later."""
    gate = Gate(tmp_path)
    site = await serve(
        python_step("waits", f"{before}\npd.flow.delay(100)"), python_step("after", f"{gate.code}\nreturn 'late'")
    )
    answer = await site.http.post(site.path())
    is_unfinished = await has_unfinished_run(site)
    gate.open()
    (run,) = await site.runs()

    assert (answer.status_code, answer.text) == (status, text)
    assert is_unfinished
    assert (run.status, run.step("after").return_value) == ("success", "late")


async def test_pages_of_every_origin_may_call(echo: Site) -> None:
    """OPTIONS starts no run and allows every page; every response allows every origin."""
    preflight = await echo.http.options(echo.path(), headers={"access-control-request-headers": "content-type"})
    answer = await echo.http.get(echo.path())
    missing = await echo.http.get("/eonone")

    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert preflight.headers["access-control-allow-methods"] == "GET,HEAD,PUT,PATCH,POST,DELETE"
    assert preflight.headers["access-control-allow-headers"] == "content-type"
    assert answer.headers["access-control-allow-origin"] == missing.headers["access-control-allow-origin"] == "*"
    assert len(await echo.runs()) == 1


async def test_a_head_request(echo: Site) -> None:
    """HEAD runs the workflow; the response has no body."""
    answer = await echo.http.head(echo.path())

    assert (answer.status_code, answer.content) == (200, b"")


async def test_concurrent_callers_get_their_own_responses(echo: Site) -> None:
    """Each of sixty concurrent callers gets the response to its own request."""

    async def send(number: int) -> Any:
        return (await echo.http.post(echo.path(), json={"n": number})).json()["body"]["n"]

    assert await asyncio.gather(*(send(number) for number in range(60))) == list(range(60))
    assert len({run.id for run in await echo.runs()}) == 60


async def test_a_caller_that_disconnects(serve: Serve, tmp_path: Path) -> None:
    """The run goes on to its end after its caller has disconnected."""
    gate = Gate(tmp_path)
    site = await serve(python_step("slow", f"{gate.code}\nreturn 1"))
    request = asyncio.ensure_future(site.http.post(site.path()))
    await gate.wait_until_reached()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    await site.http.options(site.path())  # the server has handled the disconnect before it answers
    gate.open()
    (run,) = await site.runs()

    assert run.status == "success"


async def test_a_paused_run_does_not_block_other_runs(serve: Serve) -> None:
    """With one worker, a request is answered while another run is paused; both runs succeed."""
    wait = (
        "if pd.steps['trigger']['event']['body'] == 'wait':\n"
        "    pd.respond(status=200, body=pd.flow.suspend(600_000)['resume_url'], immediate=True)"
    )
    site = await serve(
        python_step("maybe", wait), python_step("after", "pd.respond(status=200, body='done'); return 1"), size=1
    )
    waiting = await site.http.post(site.path(), content="wait")
    answer = await site.http.post(site.path(), content="go")
    is_unfinished = await has_unfinished_run(site)
    await site.http.post(waiting.text)
    runs = await site.runs()

    assert answer.text == "done"
    assert is_unfinished
    assert [(run.status, run.step("after").return_value) for run in runs] == [("success", 1)] * 2


@pytest.mark.parametrize(
    ("isolated", "media_types"),
    [
        (
            True,
            ["text/html", "Text/HTML; charset=utf-8", "image/svg+xml", "application/xhtml+xml", "text/xml", "unknown"],
        ),
        (True, ["text/plain;a, text/html"]),
        (False, ["text/plain", "application/json; charset=utf-8", "application/problem+json", "image/png"]),
        (False, ["application/pdf"]),
    ],
)
async def test_a_page_of_a_workflow_has_an_origin_of_its_own(
    evaluating: Site, isolated: bool, media_types: list[str]
) -> None:
    """A response that a browser renders is in a sandbox, without the origin of the console, unless its host is the endpoint's."""
    for media_type in media_types:
        page = repr({"status": 200, "body": "<script>1</script>", "headers": {"content-type": media_type}})
        answer = await evaluating.http.post(evaluating.path(), content=page)
        at_host = await evaluating.http.post("/", content=page, headers={"host": f"{evaluating.key()}.localhost"})
        policy = answer.headers.get("content-security-policy", "")

        assert policy.startswith("sandbox allow-scripts ") == isolated, media_type
        assert "allow-same-origin" not in policy
        assert "content-security-policy" not in at_host.headers


HOST_WIDE = {
    "Set-Cookie": ["pdkernel_link=x; Path=/_static", "b=2"],
    "cLEAR-sITE-dATA": '"*"',
    "Strict-Transport-Security": "max-age=9999999",
    "NEL": '{"report_to": "x", "max_age": 9999999}',
    "Report-To": '{"group": "x", "max_age": 9, "endpoints": [{"url": "https://x.example"}]}',
    "Reporting-Endpoints": 'x="https://x.example"',
    "Public-Key-Pins": "pin-sha256=x",
    "Service-Worker-Allowed": "/",
    "Alt-Svc": 'h3="x.example:443"',
}


async def test_a_response_does_not_act_on_the_host_of_the_server(evaluating: Site) -> None:
    """Headers that act on a whole host are sent at a host of the endpoint only; a note in the run names what was left out."""
    site, content = evaluating, repr({"status": 200, "body": "x", "headers": {**HOST_WIDE, "X-On": "1"}})
    at_path = await site.http.post(site.path(), content=content)
    at_host = await site.http.post("/", content=content, headers={"host": f"{site.key()}.localhost"})
    (first, _) = await site.runs()
    (note,) = [log.text for log in first.step("echo").logs if log.is_note]

    assert {name.lower() for name in HOST_WIDE} & set(at_path.headers) == set()
    assert at_path.headers["x-on"] == "1"
    assert {name.lower() for name in HOST_WIDE} <= set(at_host.headers)
    assert all(name in note for name in HOST_WIDE)


async def test_a_response_does_not_act_on_the_hosts_above(serve: Serve) -> None:
    """At a host below the name of the server, a cookie is of that host only, and the site's data stay."""
    headers = {"Set-Cookie": ["a=1; Domain=flows.test; Path=/", "b=2;domain=.flows.test"], "Clear-Site-Data": '"*"'}
    site = await serve(
        python_step("answer", f"pd.respond(status=200, body='x', headers={headers!r})"), base_url="http://flows.test"
    )
    answer = await site.http.get("/", headers={"host": f"{site.key()}.flows.test"})

    assert answer.status_code == 200
    assert answer.headers.get_list("set-cookie") == ["a=1; Path=/", "b=2"]
    assert "clear-site-data" not in answer.headers


async def test_no_service_worker_has_the_origin_of_the_server(serve: Serve) -> None:
    """A browser gets no service worker from the path of an endpoint, and the workflow does not run; at the endpoint's host it does."""
    site = await serve(
        python_step("worker", "pd.respond(status=200, body='', headers={'content-type': 'text/javascript'})")
    )
    loads = {"service-worker": "script", "sec-fetch-dest": "serviceworker"}
    at_path = await site.http.get(site.path(), headers=loads)
    before = await site.runs()
    at_host = await site.http.get("/", headers={"host": f"{site.key()}.localhost", **loads})

    assert (at_path.status_code, before, at_host.status_code) == (403, [], 200)


async def test_a_workflow_cannot_leave_the_sandbox(evaluating: Site) -> None:
    """A policy of the workflow's own does not replace the sandbox: browsers apply both."""
    headers = {"content-type": "text/html", "content-security-policy": "sandbox allow-scripts allow-same-origin"}
    page = repr({"status": 200, "body": "x", "headers": headers})
    answer = await evaluating.http.post(evaluating.path(), content=page)
    policies = answer.headers.get_list("content-security-policy")

    assert len(policies) == 2
    assert [policy for policy in policies if "allow-same-origin" not in policy]

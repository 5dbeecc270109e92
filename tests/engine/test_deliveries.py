"""Delivery of `$.send` after the last step."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from pdkernel.common.redaction import Redactor, Secret
from pdkernel.egress import CallContext, parse_policy
from pdkernel.egress.certificates import CertificateAuthority
from pdkernel.engine.deliveries import (
    NOTIFICATION_STEP,
    MailSettings,
    SendDelivery,
    build_message,
    build_notification,
    find_destination,
    find_send_problem,
    may_retry,
    parse_mail_server,
    parse_mail_settings,
    retry_delay_s,
    send_mail,
)
from pdkernel.engine.run_request import RunRequest, RunWatcher
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.errors import RequestError
from pdkernel.execution import Delivery, ErrorRecord, Execution, StepResult
from pdkernel.model import JSON, Step
from pdkernel.storage import Project
from pdkernel.workers import Effect
from tests.builders import a_workflow, an_event, node_step, python_step
from tests.engine.conftest import Run
from tests.http_servers import AnsweringServer, SentRequest, serve
from tests.ports import free_port
from tests.render.builders import a_call, an_execution


@pytest.fixture
def server() -> Iterator[AnsweringServer]:
    """A running HTTP server that answers 200 and stores the requests."""
    with serve(AnsweringServer(lambda _: (200, b"ok"))) as running:
        yield running


async def test_http_request_is_sent_after_the_last_step(shared_run: Run, server: AnsweringServer) -> None:
    """HTTP requests are sent after the last step, with their query, to which `params` are added, headers and JSON."""
    url = f"http://127.0.0.1:{server.server_port}/hook"
    first = node_step(
        "first",
        f"$.send.http({{ method: 'POST', url: '{url}', data: {{ a: 1 }}, params: {{ q: 'x y' }}, headers: {{ 'X-A': 'b' }} }});"
        f"$.send.http({{ method: 'GET', url: '{url}?a=1', params: {{ b: 2 }} }})",
    )

    execution = await shared_run(first, python_step("second", "return 1"))

    request, added = server.requests
    assert request.method == "POST"
    assert request.path in ("/hook?q=x%20y", "/hook?q=x+y")
    assert (request.headers["x-a"], request.json()) == ("b", {"a": 1})
    assert (added.method, added.path) == ("GET", "/hook?a=1&b=2")
    assert [(sent.step, sent.kind, sent.outcome, sent.status) for sent in execution.sends] == [
        ("first", "http", "sent", 200)
    ] * 2


def calls_of(mode: str) -> CallContext:
    """The context of the calls of a step; refusals are discarded."""
    return CallContext(
        step="a",
        policy=parse_policy(mode),
        redactor=Redactor([Secret("env/KEY", "key-0123456789")]),
        on_call_finished=lambda _: None,
        on_call_refused=lambda _: None,
    )


async def test_a_request_has_what_the_step_wrote(server: AnsweringServer) -> None:
    """The default method is GET; a text is sent as it is, and a key for all tries is added unless the step has its own."""
    url, binding, sending = (
        f"http://127.0.0.1:{server.server_port}/key-0123456789",
        calls_of("live"),
        SendDelivery(None, None),
    )

    async def send(key: str | None = None, **payload: JSON) -> Delivery:
        effect = Effect("http", {"url": url, **payload})
        return await sending.deliver("a", effect, binding=binding, redactor=binding.redactor, idempotency_key=key)

    first = await send("key-1", auth={"username": "u", "password": "p"})
    await send("key-2", method="put", data="text", headers={"IDEMPOTENCY-KEY": "own"})
    await send()

    requests = server.requests
    assert [(each.method, each.body) for each in requests] == [("GET", b""), ("PUT", b"text"), ("GET", b"")]
    assert requests[0].headers["authorization"] == "Basic dTpw"
    assert [each.headers.get("idempotency-key") for each in requests] == ["key-1", "own", None]
    assert (first.outcome, first.status, first.to) == (
        "sent",
        200,
        f"GET http://127.0.0.1:{server.server_port}/⟦secret:env/KEY⟧",
    )


async def test_the_note_of_a_failure_shows_no_secret() -> None:
    """An error that repeats a part of the address has a placeholder for a secret in it."""
    binding = calls_of("live")
    effect = Effect("http", {"url": "http://127.0.0.1:key-0123456789/"})

    delivery = await SendDelivery(None, None).deliver("a", effect, binding=binding, redactor=binding.redactor)

    assert (delivery.outcome, delivery.note) == ("failed", "Not sent: Invalid port: '⟦secret:env/KEY⟧'")
    assert "key-0123456789" not in str(delivery)


@pytest.mark.parametrize(("step", "to"), [("a", "me@a.example"), (NOTIFICATION_STEP, "ops@b.example")])
async def test_outbound_policy_applies_to_e_mail(step: str, to: str) -> None:
    """A mail server on another machine is not reached; a message of a step goes to the author, whatever it names."""
    binding, mail = calls_of("deny"), MailSettings("me@a.example", "mail.example.com")
    effect = Effect("email", {"to": "ops@b.example", "subject": "s"})

    delivery = await SendDelivery(None, mail).deliver(step, effect, binding=binding, redactor=binding.redactor)

    assert (delivery.outcome, delivery.to) == ("shown", to)
    assert delivery.note == "Not sent: the outbound policy is deny."


@pytest.mark.parametrize(
    ("effect", "warning"),
    [
        (Effect("email", {"html": "<b>"}, 3), None),
        (Effect("email", {"to": "a"}, 3), "$.send.email (line 3): subject, text and html are missing"),
        (Effect("http", {"url": "https://a.example"}), None),
        (Effect("http", {"url": "a.example"}), "$.send.http: 'a.example' is not a URL"),
        (Effect("http", {"url": "ftp://a.example"}, 0), "$.send.http (line 0): 'ftp://a.example' is not a URL"),
        (Effect("http", {}, 3), "$.send.http (line 3): the URL is missing"),
        (Effect("emit", {}), None),
    ],
)
def test_what_a_step_is_warned_of(effect: Effect, warning: str | None) -> None:
    """A message without content and one without a URL are reported with the line of the call."""
    found = find_send_problem(effect, dollar_name="$")

    assert found is None if warning is None else str(found).startswith(warning)


async def test_outbound_policy_applies_to_deliveries(shared_run: Run) -> None:
    """A denied request does not fail the run; the record reports that it was not sent."""
    step = python_step("a", "pd.send.http('POST', 'https://hooks.example.com/x', data='text')")
    execution = await shared_run(step)
    (sent,) = execution.sends
    assert execution.status == "success"
    assert sent.outcome == "failed"
    assert sent.request is not None
    assert sent.request.outcome == "denied"
    assert not may_retry(sent)


async def test_unreachable_host_is_recorded(shared_run: Run) -> None:
    """A request without an answer is recorded as failed, with the gateway's reason, and may be tried again."""
    done = await shared_run(
        python_step("a", "pd.send.http('POST', 'http://nowhere.invalid/x', data='text')"), egress="live"
    )

    (sent,) = done.sends
    assert (sent.outcome, sent.status) == ("failed", None)
    assert (sent.note or "").startswith("POST http://nowhere.invalid/x got no response: nowhere.invalid ")
    assert may_retry(sent)


async def test_failed_step_does_not_prevent_a_queued_delivery(shared_run: Run, server: AnsweringServer) -> None:
    """A queued request is sent even if the run fails later."""
    step = node_step("a", f"$.send.http({{ method: 'GET', url: 'http://127.0.0.1:{server.server_port}/' }})")
    execution = await shared_run(step, python_step("b", "raise ValueError()"))
    assert execution.status == "error"
    assert execution.sends[0].outcome == "sent"


async def test_kinds_without_a_destination_are_shown(run: Run, runtime: WorkflowEngine) -> None:
    """Emitted events, S3 objects and server-sent events are recorded with payload and reason."""
    execution = await run(python_step("a", "pd.send.emit({'n': 1})\npd.send.s3('b', 'p', 'x')\npd.send.sse('c', 1)"))
    assert [(sent.kind, sent.outcome) for sent in execution.sends] == [
        ("emit", "shown"),
        ("s3", "shown"),
        ("sse", "shown"),
    ]
    assert execution.sends[0].payload == {"event": {"n": 1}, "channel": ""}
    kept = await runtime.journal.get_execution(execution.id)
    assert kept is not None
    assert kept.sends == execution.sends


async def test_email_without_a_server_is_shown(shared_run: Run) -> None:
    """Without a mail server the record shows the message and the command that sets a server."""
    execution = await shared_run(python_step("a", "pd.send.email(subject='s', text='t', html=None)"))
    (sent,) = execution.sends
    assert sent.outcome == "shown"
    assert "pdkernel project set mail_server" in (sent.note or "")


class Mailbox:
    """A mail server that stores the messages."""

    def __init__(self) -> None:
        self.taken: list[Envelope] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - the library's name
        """Store the message."""
        self.taken.append(envelope)
        return "250 OK"


async def test_email_is_sent_to_the_own_address(run: Run, project: Project) -> None:
    """A mail server gets one message, addressed to `mail_to`; it gets no password without encryption."""
    box = Mailbox()
    port = free_port()
    controller = Controller(box, hostname="127.0.0.1", port=port)
    controller.start()
    try:
        project.settings.set("mail_to", "me@example.com")
        project.settings.set("mail_server", f"127.0.0.1:{port}")
        execution = await run(a_workflow(python_step("a", "pd.send.email(subject='Hello', text='There', html=None)")))
        with_login = MailSettings("me@example.com", "127.0.0.1", port, "me", "password")
        with pytest.raises(ValueError, match="does not offer encryption"):
            await asyncio.to_thread(send_mail, with_login, {"text": "There"})
    finally:
        controller.stop()
    assert [sent.outcome for sent in execution.sends] == ["sent"]
    (envelope,) = box.taken
    assert envelope.rcpt_tos == ["me@example.com"]
    assert b"Subject: Hello" in (envelope.content or b"")
    assert b"There" in (envelope.content or b"")


@pytest.mark.parametrize(
    ("step", "warning"),
    [
        (
            node_step("a", "\n$.send.http({ method: 'POST', url: 'hooks/x' });"),
            "$.send.http (line 5): 'hooks/x' is not a URL",
        ),
        (node_step("a", "$.send.http();"), "$.send.http (line 4): the URL is missing"),
        (python_step("a", "pd.send.http('POST', 'ftp://x/y')"), "pd.send.http (line 3): 'ftp://x/y' is not a URL"),
        (node_step("a", "$.send.email({});"), "$.send.email (line 4): subject, text and html are missing"),
        (python_step("a", "\npd.send.email()"), "pd.send.email (line 3): subject, text and html are missing"),
    ],
    ids=["node-path", "node-nothing", "python-scheme", "node-email", "python-email"],
)
async def test_undeliverable_message_is_a_warning_of_the_step(shared_run: Run, step: Step, warning: str) -> None:
    """A message that cannot be delivered does not fail the step; its log has a warning with the line of the call."""
    execution = await shared_run(step)

    assert execution.step("a").status == "success"
    assert warning in execution.step("a").output


async def test_deliverable_message_causes_no_warning(shared_run: Run, server: AnsweringServer) -> None:
    """A URL, and an e-mail with only a subject, cause no warning."""
    body = f"pd.send.http('GET', 'http://127.0.0.1:{server.server_port}/')\npd.send.email(subject='s')"

    assert (await shared_run(python_step("a", body))).step("a").output == ""


async def test_invalid_params_fail_the_delivery(shared_run: Run, server: AnsweringServer) -> None:
    """`params` that are not an object do not fail the run; the delivery has failed, with the reason."""
    url = f"http://127.0.0.1:{server.server_port}/"
    sends = f"for (const params of [true, 1, ['ab', ''], [[]]]) $.send.http({{ method: 'GET', url: '{url}', params }})"

    execution = await shared_run(node_step("one", sends))

    assert execution.status == "success"
    assert [(sent.outcome, sent.note) for sent in execution.sends] == [
        ("failed", "Not sent: params is not an object")
    ] * 4
    assert server.requests == []


async def test_a_cancelled_run_sends_nothing(runtime: WorkflowEngine, server: AnsweringServer) -> None:
    """Messages that a step queued are not sent if the run is cancelled before its end."""
    queued = node_step("first", f"$.send.http({{ method: 'POST', url: 'http://127.0.0.1:{server.server_port}/hook' }})")
    waits = python_step("second", 'import time\nprint("on", flush=True)\ntime.sleep(60)', options="--timeout 60")
    started = asyncio.Event()

    def on_change(execution: Execution) -> None:
        if execution.step("second").logs:
            started.set()

    request = RunRequest(a_workflow(queued, waits), an_event(), parse_policy("live"))
    task = asyncio.create_task(runtime.run(request, RunWatcher(on_change=on_change)))
    await asyncio.wait_for(started.wait(), 60)

    task.cancel()
    execution = await task

    assert execution.status == "cancelled"
    assert (execution.sends, server.requests) == ((), [])


async def test_a_pause_is_recorded_before_messages_leave(run: Run, project: Project) -> None:
    """When a message of a pausing run arrives, its pause with the step's result is on disk: a crash then skips no pause."""
    found: list[tuple[str, int]] = []

    def answer(_: SentRequest) -> tuple[int, str]:
        with closing(sqlite3.connect(str(project.sqlite_path))) as connection:
            found.extend(
                connection.execute(
                    "select status, (select count(*) from waits where run_id = runs.id and data like '%\"ask\"%') from runs"
                ).fetchall()
            )
        return 200, "ok"

    with serve(AnsweringServer(answer)) as server:
        execution = await run(
            node_step("ask", f"$.send.http({{ method: 'POST', url: '{server.url}/hook' }}); $.flow.suspend(60000)"),
            python_step("next"),
            pause_mode="park",
        )

    assert found == [("paused", 1)]
    assert (execution.status, [sent.outcome for sent in execution.sends]) == ("paused", ["sent"])


FAILED = an_execution(
    status="error",
    error=ErrorRecord("step_failed", "ValueError", "no stock", step="count"),
    steps=(
        StepResult("send", "success", requests=(a_call(), a_call(outcome="refused"), a_call(method="GET", safe=True))),
    ),
)


@pytest.mark.parametrize("base_url", [None, "https://work.example.com"])
def test_a_notification_about_a_failed_run(base_url: str | None) -> None:
    """A URL gets the run, the user, the cause, unsafe calls that were sent, and the page of the run if it is served."""
    message = build_notification(FAILED, "https://hooks.example.com/a@b", base_url)

    assert message.kind == "http"
    assert message.payload == {
        "method": "POST",
        "url": "https://hooks.example.com/a@b",
        "data": {
            "workflow": FAILED.workflow,
            "run": FAILED.id,
            "external_user": FAILED.external_user,
            "environment": FAILED.environment,
            "step": "count",
            "error": {"name": "ValueError", "message": "no stock"},
            "already_sent": ["POST https://slack.com/api/chat.postMessage"],
            "command": f"pdkernel runs show {FAILED.id}",
            "url": base_url and f"{base_url}/-/runs/{FAILED.id}",
        },
    }


def test_a_notification_by_e_mail() -> None:
    """An address gets the same facts, a line each, and the subject names the workflow and the step."""
    message = build_notification(FAILED, "ada@example.com", None)

    assert (message.kind, message.payload["to"]) == ("email", "ada@example.com")
    assert message.payload["subject"] == f"{FAILED.workflow} failed in step count"
    assert f"command: pdkernel runs show {FAILED.id}" in str(message.payload["text"]).splitlines()


def test_a_message_has_six_tries() -> None:
    """The waits between tries are 10 s, 40 s, ... and the sixth try is the last one."""
    waits = [retry_delay_s(tries) for tries in range(1, 8)]

    assert waits == [10, 40, 160, 640, 2560, None, None]


@pytest.mark.parametrize(
    ("delivery", "again"),
    [
        (Delivery("s", "http", "failed", note="Not sent: refused"), True),
        (Delivery("s", "http", "failed", note="The mode is deny."), False),
        (Delivery("s", "http", "sent", status=500), False),
        (Delivery("s", "http", "failed", request=a_call(outcome="failed", status=None)), True),
        (Delivery("s", "http", "failed", request=a_call(outcome="failed", status=202)), False),
        (Delivery("s", "email", "failed", note="Not sent: refused"), False),
        (Delivery("s", "emit", "failed", note="Not sent: the database is locked"), True),
    ],
    ids=[
        "no answer",
        "refused by a rule",
        "answered",
        "a call without an answer",
        "an answer that breaks off",
        "e-mail",
        "an event that is not stored",
    ],
)
def test_only_a_message_without_an_answer_is_tried_again(delivery: Delivery, again: bool) -> None:
    """A destination that answered, regardless of its status, and a call that a rule refused are not tried again."""
    assert may_retry(delivery) == again


@pytest.mark.parametrize(
    ("effect", "destination"),
    [
        (Effect("http", {"url": "https://API.example.com/a?b"}), "https://api.example.com:443"),
        (Effect("http", {"url": "http://api.example.com"}), "http://api.example.com:80"),
        (Effect("http", {"url": "http://u:secret@[::1]:8080/x"}), "http://::1:8080"),
        (Effect("http", {"url": "nowhere"}), "http"),
        (Effect("http", {"url": "http://a\0"}), "http"),
        (Effect("http", {}), "http"),
        (Effect("email", {"url": "https://api.example.com"}), "email"),
    ],
)
def test_the_destination_of_a_message(effect: Effect, destination: str) -> None:
    """Messages to one scheme, host and port have the same destination; those of other kinds share one."""
    assert find_destination(effect) == destination


async def test_messages_of_a_run_are_shown_in_their_order(shared_run: Run) -> None:
    """A host gets its messages in their order while others get theirs, and the record has them in the order of the step."""
    arrived: list[str] = []
    slow_is_done = asyncio.Event()
    loop = asyncio.get_running_loop()

    def answer_slowly(request: SentRequest) -> tuple[int, bytes]:
        asyncio.run_coroutine_threadsafe(slow_is_done.wait(), loop).result(20)
        arrived.append(request.path)
        return 204, b""

    def answer_fast(request: SentRequest) -> tuple[int, bytes]:
        arrived.append(request.path)
        if request.path == "/fast/1":
            loop.call_soon_threadsafe(slow_is_done.set)
        return 204, b""

    with serve(AnsweringServer(answer_slowly)) as slow, serve(AnsweringServer(answer_fast)) as fast:
        urls = [f"{slow.url}/slow/0", f"{fast.url}/fast/0", f"{slow.url}/slow/1", f"{fast.url}/fast/1"]
        execution = await shared_run(python_step("tell", f"for url in {urls}: pd.send.http(method='GET', url=url)"))

    assert arrived == ["/fast/0", "/fast/1", "/slow/0", "/slow/1"]
    assert [each.to for each in execution.sends] == [f"GET {url}" for url in urls]


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("smtp.example.com", ("smtp.example.com", 25)),
        ("smtp.example.com:587", ("smtp.example.com", 587)),
        ("[::1]:465", ("::1", 465)),
        ("[::1]", ("::1", 25)),
    ],
)
def test_a_mail_server(text: str, server: tuple[str, int]) -> None:
    """The default port is 25."""
    assert parse_mail_server(text) == server


@pytest.mark.parametrize("text", ["", ":25", "a:", "a:0", "a:x", "a:65536", "me@a", "a b", "a/b", "a?b", "smtp://a"])
def test_an_invalid_mail_server_is_refused(text: str) -> None:
    """Another form than HOST or HOST:PORT is refused."""
    with pytest.raises(RequestError):
        parse_mail_server(text)


@pytest.mark.parametrize(
    ("settings", "variables", "mail"),
    [
        ({"mail_to": "me@a", "mail_server": "a"}, {}, MailSettings("me@a", "a", 25, None, None)),
        (
            {"mail_to": "me@a", "mail_server": "a:465", "mail_user": "me"},
            {"PDKERNEL_MAIL_PASSWORD": "p"},
            MailSettings("me@a", "a", 465, "me", "p"),
        ),
        ({"mail_to": "me@a", "mail_server": "a", "mail_user": 1}, {}, MailSettings("me@a", "a")),
        ({"mail_to": "me@a"}, {}, None),
        ({"mail_server": "a"}, {}, None),
    ],
)
def test_settings_of_a_project(settings: dict[str, Any], variables: dict[str, str], mail: MailSettings | None) -> None:
    """Without an address or a server, no e-mail is sent; the password is a variable and does not show."""
    found = parse_mail_settings(settings, variables)

    assert found == mail
    assert "password" not in repr(found)


@pytest.mark.parametrize(
    ("payload", "subject", "kind", "content"),
    [
        ({"subject": "a\r\nBcc: b", "text": "hi"}, "a Bcc: b", "text/plain", "hi\n"),
        ({"text": None}, "", "text/plain", "\n"),
        ({"text": "hi", "html": "<b>"}, "", "text/html", "<b>\n"),
        ({"text": "hi", "html": ""}, "", "text/html", "\n"),
    ],
)
def test_a_message(payload: dict[str, Any], subject: str, kind: str, content: str) -> None:
    """The author's address is sender and recipient; HTML replaces the text, and a subject has one line."""
    message = build_message("me@a", payload)

    assert (message["From"], message["To"], message["Subject"]) == ("me@a", "me@a", subject)
    assert (message.get_content_type(), message.get_content()) == (kind, content)


class Inbox:
    """What a mail server has received, in order: passwords, and the first lines of messages."""

    def __init__(self) -> None:
        self.received: list[str] = []

    def log_in(
        self, _server: SMTP, _session: Session, _envelope: Envelope, _method: str, data: LoginPassword
    ) -> AuthResult:
        """Accept every password."""
        self.received.append(data.password.decode())
        return AuthResult(success=True)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - the library's name
        """Store the message; refuse an empty one."""
        body = (envelope.content or b"").decode().split("\r\n\r\n", 1)[1].strip()  # type: ignore[union-attr]  # bytes
        self.received.append(body)
        return "250 OK" if body else "554 No text"


@pytest.mark.parametrize("is_trusted", [True, False])
def test_a_password_needs_a_verified_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_trusted: bool) -> None:
    """With STARTTLS, the password and the message leave after the server's certificate was verified, or not at all."""
    authority, other = (CertificateAuthority(tmp_path / name, environ={}) for name in ("own", "other"))
    monkeypatch.setenv("SSL_CERT_FILE", str((authority if is_trusted else other).certificate_file))
    inbox = Inbox()
    port = free_port()
    controller = Controller(
        inbox,
        hostname="127.0.0.1",
        port=port,
        tls_context=authority.server_context("127.0.0.1"),
        authenticator=inbox.log_in,
    )
    controller.start()
    failure = None
    try:
        send_mail(MailSettings("me@a", "127.0.0.1", port, "me", "the password"), {"text": "hi"})
    except OSError as fault:
        failure = str(fault)
    finally:
        controller.stop()

    assert inbox.received == (["the password", "hi"] if is_trusted else [])
    assert ("certificate verify failed" in (failure or "")) != is_trusted

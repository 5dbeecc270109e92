"""Sending once: an unsafe request is sent once for an event and user, and its response is stored."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme
from msgspec import UNSET

from pdkernel.common.identity import ProxyAccess
from pdkernel.egress import Gateway, StoredResponse
from pdkernel.errors import PdkernelError, ProjectError
from pdkernel.execution import OutboundCall
from pdkernel.storage import Project
from tests.egress.hosts import gateway_to, host
from tests.egress.kit import (
    REF,
    TOKEN,
    ClientProcess,
    Got,
    Ledger,
    Loop,
    OutsideServer,
    SentMemory,
    issue_bound_token,
    knock,
    outside_context,
    python_process,
    read_all,
    read_until,
    redactor,
    wait_until,
)

URL = "https://api.example.test/messages"
STATUS_URL = "https://api.example.test/status/{}"
CUT_URL = "https://api.example.test/cut"


class Runs:
    """The runs of a Python step that share one store of sent requests."""

    def __init__(self, process: ClientProcess, ledger: Ledger) -> None:
        self._process = process
        self._ledger = ledger
        self.sent = SentMemory()

    def start(self, mode: str = "live", **binding: Any) -> ClientProcess:
        """Start another run; return its process."""
        self._process.bind(self._ledger.binding(mode, sent_requests=self.sent, **binding))
        return self._process

    def post(self, url: str = URL, body: str = "hello", *, mode: str = "live", **binding: Any) -> Got:
        """Send a POST in another run."""
        return self.start(mode, **binding).request("requests", "POST", url, body)

    def fail(self, url: str, *, mode: str = "live", **binding: Any) -> str:
        """Send a POST in another run; return the error of the call."""
        error = self.start(mode, **binding).ask("requests", "POST", url, "hello")["error"]
        assert isinstance(error, str)
        return error


@pytest.fixture
def runs(python: ClientProcess, ledger: Ledger) -> Runs:
    """Runs without a sent request."""
    return Runs(python, ledger)


def test_a_second_run_sends_nothing(runs: Runs, outside: OutsideServer, ledger: Ledger) -> None:
    """The same request of the same step gets the stored response, and the ledger has its time."""
    first = runs.post()

    second = runs.post()

    assert len(outside.seen) == 1
    assert (second.status, second.body) == (first.status, first.body)
    assert second.headers["content-type"] == first.headers["content-type"]
    assert [call.outcome for call in ledger.calls] == ["sent", "not_sent"]
    assert ledger.calls[1].same_as == ledger.calls[0].at


def test_an_edited_body_is_sent(runs: Runs, outside: OutsideServer) -> None:
    """A request with a changed body is another request."""
    runs.post(body="hello")

    runs.post(body="hello, edited")

    assert [seen.body for seen in outside.seen] == [b"hello", b"hello, edited"]


def test_repeats_of_a_loop_are_sent(runs: Runs, outside: OutsideServer) -> None:
    """Equal requests of one run are distinguished by their ordinal; each gets its own response in the next run."""
    bodies = []
    for _ in range(2):
        process = runs.start()
        bodies.append([process.request("httpx", "POST", URL, "tick").body for _ in range(3)])

    assert len(outside.seen) == 3
    assert bodies[1] == bodies[0]


@pytest.mark.parametrize("url", [URL, STATUS_URL.format(500), CUT_URL], ids=["answered", "failed", "no response"])
def test_send_repeats_and_stores_the_new_response(runs: Runs, outside: OutsideServer, url: str) -> None:
    """With `send`, the request is sent again, also if its outcome is unknown; a later run gets the newer response."""
    bodies = []
    for send_again in (False, True, False):
        out = runs.start(send_again=send_again).ask("requests", "POST", url, "hello")
        bodies.append(out.get("body"))

    assert len(outside.seen) == 2
    assert bodies[1] == bodies[2]
    assert (bodies[0] == bodies[1]) == (url == CUT_URL)


def test_a_safe_request_is_sent_each_time(runs: Runs, outside: OutsideServer) -> None:
    """A safe request is sent in each run."""
    for _ in range(2):
        runs.start().request("requests", "GET", URL)

    assert len(outside.seen) == 2
    assert runs.sent.kept == {}


def test_another_event_user_or_step_sends(runs: Runs, outside: OutsideServer) -> None:
    """The stored response applies to one scope and step."""
    for scope, step in (("a", "send"), ("b", "send"), ("a", "notify")):
        runs.post(send_once_scope=scope, step=step)

    assert len(outside.seen) == 3


def test_the_message_of_a_stand_in_stays_visible(runs: Runs, ledger: Ledger) -> None:
    """A message to a stand-in that is not sent again has the note of its first answer."""
    for _ in range(2):
        runs.post("https://slack.com/api/chat.postMessage", mode="stand-in=slack")

    assert [call.outcome for call in ledger.calls] == ["stand_in", "not_sent"]
    assert ledger.calls[0].note
    assert ledger.calls[1].note == ledger.calls[0].note


def test_a_stand_in_is_another_target(
    runs: Runs, outside: OutsideServer, plain_outside: OutsideServer, ledger: Ledger
) -> None:
    """After a stand-in's response, live sends the request; the stand-in itself gets the request once."""
    stand_in = f"stand-in=http://127.0.0.1:{plain_outside.port}"
    for mode in (stand_in, stand_in, "live"):
        runs.post(mode=mode)

    assert (len(plain_outside.seen), len(outside.seen)) == (1, 1)
    assert [call.outcome for call in ledger.calls] == ["stand_in", "not_sent", "sent"]


def test_allow_and_live_are_one_target(runs: Runs, outside: OutsideServer) -> None:
    """A change from live to a list of hosts does not send the request again."""
    for mode in ("live", "allow=api.example.test"):
        runs.post(mode=mode)

    assert len(outside.seen) == 1


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_request_with_a_server_error_is_not_sent_again(
    runs: Runs, outside: OutsideServer, ledger: Ledger, status: int
) -> None:
    """A 5xx response is returned again, and both rows report that the outcome is unknown: the host may have acted."""
    received = [runs.post(STATUS_URL.format(status)).status for _ in range(2)]

    assert received == [status, status]
    assert len(outside.seen) == 1
    assert [(call.outcome, call.status) for call in ledger.calls] == [("sent", status), ("not_sent", status)]
    assert all("The outcome is unknown" in (call.note or "") for call in ledger.calls)
    assert all("`%pdrun --send` repeats it" in (call.note or "") for call in ledger.calls)


@pytest.mark.parametrize(
    ("status", "sent"),
    [
        *((status, 2) for status in (401, 403, 407, 408, 425, 429)),
        *((status, 1) for status in (201, 302, 400, 404, 409, 422)),
    ],
)
def test_a_final_response_is_stored(runs: Runs, outside: OutsideServer, ledger: Ledger, status: int, sent: int) -> None:
    """An accepted request, and one with a final rejection, are not sent twice; one that the receiver rejected for now is."""
    received = [
        runs.start().request("http.client", "POST", STATUS_URL.format(status), "hello").status for _ in range(2)
    ]

    assert received == [status, status]
    assert len(outside.seen) == sent
    assert [(call.outcome, call.note) for call in ledger.calls] == [
        ("sent", None),
        ("sent" if sent == 2 else "not_sent", None),
    ]


def test_a_request_with_a_withheld_credential_is_not_sent_again(runs: Runs, outside: OutsideServer) -> None:
    """The placeholder of a withheld credential is new in each run; a request that has it in its URL is still the same."""
    access = ProxyAccess("https://api.example.test/proxy", "apn_1", "ada", "production", lambda: "token")
    for placeholder in ("withheld-in-the-first-run", "withheld-in-the-second-run"):
        runs.post(
            f"https://slack.com/api/chat?token={placeholder}",
            redactor=redactor({REF: placeholder}),
            proxy_by_secret_ref={REF: access},
        )

    assert len(outside.seen) == 1


def test_a_request_without_a_complete_response_is_not_sent_again(
    runs: Runs, outside: OutsideServer, ledger: Ledger
) -> None:
    """If the connection breaks after the request, its outcome is unknown: the next run fails and sends nothing."""
    failed: list[str] = []
    errors = [runs.fail(CUT_URL, on_failed=failed.append) for _ in range(2)]

    assert len(outside.seen) == 1
    assert "api.example.test:443" in errors[0]
    assert "was not sent again: it was sent at" in errors[1]
    assert len(failed) == 2
    assert failed[1].startswith(f"POST {CUT_URL} was not sent again: it was sent at")
    assert [(call.outcome, call.status) for call in ledger.calls] == [("failed", None), ("not_sent", None)]
    assert ledger.calls[1].same_as == ledger.calls[0].at
    assert all("The outcome is unknown" in (call.note or "") for call in ledger.calls)
    assert all("`%pdrun --send` repeats it" in (call.note or "") for call in ledger.calls)


def test_a_request_of_a_failed_connection_is_not_stored(runs: Runs, ledger: Ledger) -> None:
    """If no byte was sent, nothing is stored, and the outcome is known."""
    for mode in ("live", "stand-in=http://127.0.0.1:9"):
        runs.fail("https://nowhere.invalid/messages", mode=mode)

    assert runs.sent.kept == {}
    assert [call.outcome for call in ledger.calls] == ["failed", "failed"]
    assert all("unknown" not in (call.note or "") for call in ledger.calls)


def test_an_unknown_outcome_without_a_store(loop: Loop, tmp_path: Path, ledger: Ledger) -> None:
    """Without a store, the row of an unsafe request also reports that the outcome is unknown; that of a safe request does not."""

    def hang_up(sock: socket.socket) -> None:
        sock.recv(1000)

    for method in ("POST", "GET"):
        with (
            host(hang_up) as port,
            gateway_to(loop, tmp_path, port, meant=80) as (gateway, caller_token),
        ):
            gateway.bind(caller_token, ledger.binding("live"))
            with knock(gateway, caller_token, "slack.com", 80, secure=False) as sock:
                sock.sendall(f"{method} / HTTP/1.1\r\nHost: slack.com\r\nContent-Length: 0\r\n\r\n".encode())
                with pytest.raises(ConnectionResetError):
                    read_all(sock)

    assert ["The outcome is unknown" in (call.note or "") for call in ledger.calls] == [True, False]


def test_a_stored_response_needs_no_connection(
    loop: Loop, tmp_path: Path, ledger: Ledger, authority: trustme.CA, outside_ca: Path
) -> None:
    """If the host cannot be reached any more, its step still gets the stored response; another step, and `send`, fail."""

    def answer(sock: socket.socket) -> None:
        sock.recv(1000)
        sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi")

    sent = SentMemory()
    with ExitStack() as reachable:
        port = reachable.enter_context(host(answer, outside_context(authority)))
        with gateway_to(loop, tmp_path, port, meant=443, ca=outside_ca) as (gateway, _):
            process = python_process(gateway)
            process.bind(ledger.binding("live", sent_requests=sent))
            first = process.request("urllib", "POST", "https://slack.com/messages", "hello")
            reachable.close()
            process.bind(ledger.binding("live", sent_requests=sent))
            second = process.request("urllib", "POST", "https://slack.com/messages", "hello")
            process.bind(ledger.binding("live", sent_requests=sent, step="other"))
            third = process.ask("urllib", "POST", "https://slack.com/messages", "hello")
            process.bind(ledger.binding("live", sent_requests=sent, send_again=True))
            fourth = process.ask("urllib", "POST", "https://slack.com/messages", "hello")
            process.stop()

    assert first.body == second.body == b"hi"
    assert third["error"].startswith("URLError")
    assert fourth["error"] == third["error"]
    assert [call.outcome for call in ledger.calls] == ["sent", "not_sent", "failed", "failed"]


def test_without_a_store_every_run_sends(python: ClientProcess, outside: OutsideServer, ledger: Ledger) -> None:
    """A served run, and a run of the command line, always send."""
    for _ in range(2):
        python.bind(ledger.binding("live"))
        python.request("requests", "POST", URL, "hello")

    assert len(outside.seen) == 2


def test_node_sends_once_too(node: ClientProcess, outside: OutsideServer, ledger: Ledger) -> None:
    """Node.js's fetch gets the stored response too."""
    sent = SentMemory()
    bodies = []
    for _ in range(2):
        node.bind(ledger.binding("live", sent_requests=sent))
        bodies.append(node.request("fetch", "POST", URL, "hello").body)

    assert len(outside.seen) == 1
    assert bodies[0] == bodies[1]


def test_a_request_is_stored_if_the_client_disconnects(
    gateway: Gateway, outside: OutsideServer, ledger: Ledger
) -> None:
    """A step that is stopped while it waits for the response does not send twice."""
    sent = SentMemory()
    request = b"POST /events HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"
    caller_token = issue_bound_token(gateway, ledger, "live", sent_requests=sent)
    with knock(gateway, caller_token, "api.example.test", 443, secure=True) as sock:
        sock.sendall(request)
        wait_until(lambda: bool(outside.seen))
    gateway.revoke_token(caller_token)
    outside.go_on.set()
    wait_until(lambda: bool(sent.kept))

    again = issue_bound_token(gateway, ledger, "live", sent_requests=sent)
    with knock(gateway, again, "api.example.test", 443, secure=True) as sock:
        sock.sendall(request)
        answer = read_all(sock)

    assert answer.endswith(b"onetwo")
    assert len(outside.seen) == 1
    assert [call.outcome for call in ledger.calls] == ["sent", "not_sent"]


def test_closing_the_gateway_ends_a_call_without_a_response(loop: Loop, tmp_path: Path, ledger: Ledger) -> None:
    """The gateway does not wait for a host that never answers, and closes the host's connection."""
    received: list[bytes] = []

    def silent(sock: socket.socket) -> None:
        received.append(read_until(sock, b"hi"))
        received.append(sock.recv(100))

    with host(silent) as port, gateway_to(loop, tmp_path, port, meant=80) as (gateway, caller_token):
        gateway.bind(caller_token, ledger.binding("live", sent_requests=SentMemory()))
        with knock(gateway, caller_token, "slack.com", 80, secure=False) as sock:
            sock.sendall(b"POST / HTTP/1.1\r\nHost: slack.com\r\nContent-Length: 2\r\n\r\nhi")
            wait_until(lambda: bool(received))
            loop.run(gateway.close())
            assert read_all(sock) == b""
        wait_until(lambda: len(received) == 2)

    assert received[1] == b""


class FullStore(SentMemory):
    """A store that is full after *room* records."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room

    def add(self, key: str, recorded: StoredResponse) -> None:
        """Store the response, or raise the error of a full disk."""
        if self._room == 0:
            raise OSError("no space left")
        self._room -= 1
        super().add(key, recorded)


def test_a_request_that_cannot_be_recorded_is_not_sent(
    python: ClientProcess, outside: OutsideServer, ledger: Ledger
) -> None:
    """If the record of a request cannot be stored, the request fails with the reason, because a repetition could not be noticed."""
    python.bind(ledger.binding("live", sent_requests=FullStore(0)))

    out = python.ask("http.client", "POST", URL, "hello")

    assert "no space left" in out["error"]
    assert outside.seen == []
    assert [(call.outcome, "was not sent" in (call.note or "")) for call in ledger.calls] == [("failed", True)]


def test_a_request_is_recorded_if_the_store_fails(
    python: ClientProcess, outside: OutsideServer, ledger: Ledger
) -> None:
    """If the store fails afterwards, the response is lost, the call's row is written, and the call is not sent again."""
    store = FullStore(1)
    for _ in range(2):
        python.bind(ledger.binding("live", sent_requests=store))
        out = python.ask("http.client", "POST", URL, "hello")
        assert "error" in out

    assert len(outside.seen) == 1
    assert [call.outcome for call in ledger.calls] == ["sent", "not_sent"]


POST = b"POST / HTTP/1.1\r\nHost: slack.com\r\nContent-Length: 2\r\nIdempotency-Key: %s\r\n\r\nhi"


class SilentHost:
    """
    A host that receives requests and answers when it is told to.

    Attributes:
        requests: The requests that it received.
        go_on: Lets it answer.
        records: The records of the store when the first byte arrived.
    """

    def __init__(self, sent: SentMemory) -> None:
        self.requests: list[bytes] = []
        self.go_on = threading.Event()
        self.records: list[dict[str, StoredResponse]] = []
        self._sent = sent

    def serve(self, sock: socket.socket) -> None:
        """Answer one request."""
        first = sock.recv(1)
        self.records.append(dict(self._sent.kept))
        self.requests.append(first + read_until(sock, b"hi"))
        self.go_on.wait(60)
        sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")


def test_a_request_is_recorded_before_its_first_byte(loop: Loop, tmp_path: Path, ledger: Ledger) -> None:
    """When the first byte of a request arrives, its record says that no answer was seen; the answer replaces the record."""
    sent = SentMemory()
    silent = SilentHost(sent)
    silent.go_on.set()
    with host(silent.serve) as port, gateway_to(loop, tmp_path, port, meant=80) as (gateway, token):
        gateway.bind(token, ledger.binding("live", sent_requests=sent))
        with knock(gateway, token, "slack.com", 80, secure=False) as sock:
            sock.sendall(POST % b"1")
            read_until(sock, b"ok")

    assert [each.status for each in silent.records[0].values()] == [0]
    assert sorted(each.status for each in sent.kept.values()) == [0, 200]  # and the mark of the host


@pytest.mark.parametrize("end", ["the step ends", "the gateway closes"])
def test_a_request_whose_answer_was_not_seen_is_not_sent_again(
    loop: Loop, tmp_path: Path, ledger: Ledger, end: str
) -> None:
    """The row of a call in flight is written when its step ends or the gateway closes; a later run does not send the call."""
    sent = SentMemory()
    silent = SilentHost(sent)
    with host(silent.serve) as port:
        with gateway_to(loop, tmp_path, port, meant=80) as (gateway, token):
            gateway.bind(token, ledger.binding("live", sent_requests=sent))
            with knock(gateway, token, "slack.com", 80, secure=False) as sock:
                sock.sendall(POST % b"1")
                wait_until(lambda: bool(silent.requests))
                if end == "the step ends":
                    gateway.unbind(token)
                    gateway.revoke_token(token)
                    assert len(ledger.calls) == 1
        with gateway_to(loop, tmp_path, port, meant=80) as (gateway, token):
            gateway.bind(token, ledger.binding("live", sent_requests=sent))
            with knock(gateway, token, "slack.com", 80, secure=False) as sock:
                sock.sendall(POST % b"2")
                with pytest.raises(ConnectionResetError):
                    read_all(sock)
        silent.go_on.set()

    assert len(silent.requests) == 1
    assert [call.outcome for call in ledger.calls] == ["failed", "not_sent"]
    assert (ledger.calls[0].note or "").startswith("unknown: sent, answer not seen.")
    assert "The outcome is unknown" in (ledger.calls[1].note or "")
    assert ledger.calls[1].same_as == ledger.calls[0].at


def test_a_request_with_the_same_idempotency_key_is_repeated(loop: Loop, tmp_path: Path, ledger: Ledger) -> None:
    """If the answer was not seen, a request with the `Idempotency-Key` of the first one is sent, because its host recognizes it."""
    sent = SentMemory()
    first, second = SilentHost(sent), SilentHost(sent)
    second.go_on.set()
    for silent in (first, second):
        with host(silent.serve) as port, gateway_to(loop, tmp_path, port, meant=80) as (gateway, token):
            gateway.bind(token, ledger.binding("live", sent_requests=sent))
            with knock(gateway, token, "slack.com", 80, secure=False) as sock:
                sock.sendall(POST % b"order-7")
                wait_until(lambda silent=silent: bool(silent.requests))  # type: ignore[misc]
                if silent is second:
                    read_until(sock, b"ok")
            loop.run(gateway.close())
            silent.go_on.set()

    assert second.requests == first.requests
    assert [call.outcome for call in ledger.calls] == ["failed", "sent"]


def test_a_run_waits_for_the_same_request_in_flight(loop: Loop, tmp_path: Path, ledger: Ledger) -> None:
    """A run that repeats a request which an ended run has sent gets its answer, and sends nothing."""
    sent = SentMemory()
    silent = SilentHost(sent)
    with host(silent.serve) as port, gateway_to(loop, tmp_path, port, meant=80) as (gateway, token):
        gateway.bind(token, ledger.binding("live", sent_requests=sent))
        with knock(gateway, token, "slack.com", 80, secure=False) as sock:
            sock.sendall(POST % b"1")
            wait_until(lambda: bool(silent.requests))
        gateway.unbind(token)
        gateway.bind(token, ledger.binding("live", sent_requests=sent))
        with knock(gateway, token, "slack.com", 80, secure=False) as sock:
            sock.sendall(POST % b"1")
            time.sleep(0.2)
            silent.go_on.set()
            answer = read_until(sock, b"ok")

    assert answer.startswith(b"HTTP/1.1 200")
    assert len(silent.requests) == 1
    assert [call.outcome for call in ledger.calls] == ["failed", "not_sent"]


def test_a_request_of_a_killed_process_is_not_sent_again(loop: Loop, tmp_path: Path, ledger: Ledger) -> None:
    """`kill -9` of the gateway's process between the first byte and the answer leaves a record; the next process does not send."""
    silent = SilentHost(SentMemory())
    sender = Path(__file__).parent / "clients" / "killed_gateway.py"
    with host(silent.serve) as port:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.egress.clients.killed_gateway", str(tmp_path), str(port)],
            cwd=sender.parents[3],
        )
        wait_until(lambda: bool(silent.requests))
        process.kill()
        process.wait()
        with (
            Project.open(tmp_path / ".pdkernel") as project,
            gateway_to(loop, tmp_path, port, meant=80) as (gateway, token),
        ):
            gateway.bind(token, ledger.binding("live", sent_requests=project.idempotency))
            with knock(gateway, token, "slack.com", 80, secure=False) as sock:
                sock.sendall(POST % b"2")
                with pytest.raises(ConnectionResetError):
                    read_all(sock)
        silent.go_on.set()

    assert len(silent.requests) == 1
    assert [call.outcome for call in ledger.calls] == ["not_sent"]
    assert "got no response: what sent it ended before" in (ledger.calls[0].note or "")
    assert "`%pdrun --send` repeats it" in (ledger.calls[0].note or "")


def test_a_request_with_a_large_response_is_not_sent_again(runs: Runs, outside: OutsideServer, ledger: Ledger) -> None:
    """A response above 8 MB is passed on completely and not stored: the next run fails and sends nothing."""
    url = "https://api.example.test/big/9000000"
    first = runs.post(url)
    error = runs.fail(url)

    assert (first.status, len(first.body)) == (200, 9_000_000)
    assert "got status 200 with a body of more than 8 MB, which is not stored" in error
    assert "`%pdrun --send` repeats it" in error
    assert len(outside.seen) == 1
    assert [(call.outcome, call.status, call.bytes) for call in ledger.calls] == [
        ("sent", 200, 9_000_000),
        ("not_sent", None, None),
    ]
    assert all(len(stored.body) < 100 for stored in runs.sent.kept.values())


def test_a_large_response_that_no_client_reads_is_recorded(
    gateway: Gateway, outside: OutsideServer, ledger: Ledger
) -> None:
    """If the client leaves before a large response arrives, its connection is closed and the call is in the record."""
    sent = SentMemory()
    token = issue_bound_token(gateway, ledger, sent_requests=sent)
    with knock(gateway, token, "api.example.test", 443, secure=True) as sock:
        sock.sendall(b"POST /held/50000000 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        wait_until(lambda: bool(outside.seen))
    gateway.revoke_token(token)
    outside.go_on.set()

    wait_until(lambda: bool(ledger.calls))
    assert ledger.calls[0].outcome == "sent"
    assert [stored.has_body for stored in sent.kept.values() if stored.status] == [False]


class InFlightMemory:
    """
    The calls of an attempt, recorded before they are sent, in memory.

    Attributes:
        calls: The recorded calls.
        go_on: Lets `add` return.
    """

    def __init__(self, repeated: int = 0, refusal: PdkernelError | None = None) -> None:
        self.calls: list[OutboundCall] = []
        self.go_on = threading.Event()
        self._repeated = repeated
        self._refusal = refusal

    def is_repeated(self, method: str, url: str) -> bool:
        """Whether the first calls were sent before."""
        self._repeated -= 1
        return self._repeated >= 0

    async def add(self, call: OutboundCall) -> None:
        """Record the call, as slowly as the test wants."""
        self.calls.append(call)
        await asyncio.to_thread(self.go_on.wait, 60)
        if self._refusal is not None:
            raise self._refusal


def test_a_call_waits_for_its_record(loop: Loop, tmp_path: Path, ledger: Ledger) -> None:
    """No byte of an unsafe call leaves before its record is stored, which says that no answer was seen, without secrets."""
    in_flight = InFlightMemory()
    silent = SilentHost(SentMemory())
    with host(silent.serve) as port, gateway_to(loop, tmp_path, port, meant=80) as (gateway, token):
        gateway.bind(token, ledger.binding("live", calls_in_flight=in_flight, attempt=3))
        with knock(gateway, token, "slack.com", 80, secure=False) as sock:
            sock.sendall(POST.replace(b"/ HTTP", f"/{TOKEN} HTTP".encode()) % b"1")
            wait_until(lambda: bool(in_flight.calls))
            time.sleep(0.2)
            before = list(silent.records)
            in_flight.go_on.set()
            wait_until(lambda: bool(silent.requests))
            silent.go_on.set()
            read_until(sock, b"ok")

    (call,) = in_flight.calls
    assert (before, len(silent.requests)) == ([], 1)
    assert (call.method, call.status, call.outcome, call.attempt, call.app) == ("POST", None, "failed", 3, "slack")
    assert (call.note or "").startswith("unknown: sent, answer not seen.")
    assert TOKEN not in call.url
    assert [(each.outcome, each.attempt, each.note) for each in ledger.calls] == [("sent", UNSET, None)]


def test_only_unsafe_calls_that_leave_are_recorded(
    python: ClientProcess, outside: OutsideServer, ledger: Ledger
) -> None:
    """A safe call is not recorded before it is sent, and neither is one that a built-in stand-in answers."""
    in_flight = InFlightMemory()
    in_flight.go_on.set()
    python.bind(ledger.binding("live", calls_in_flight=in_flight))
    python.request("requests", "GET", URL)
    python.bind(ledger.binding("stand-in=slack", calls_in_flight=in_flight))
    python.request("requests", "POST", "https://slack.com/api/chat.postMessage", "{}")
    python.bind(ledger.binding("deny", calls_in_flight=in_flight))
    python.request("requests", "POST", URL, "hello")

    assert in_flight.calls == []
    assert [seen.method for seen in outside.seen] == ["GET"]


def test_a_call_whose_record_is_refused_is_not_sent(
    python: ClientProcess, outside: OutsideServer, ledger: Ledger
) -> None:
    """If the run is lost or the disk is full, the call fails with the reason."""
    in_flight = InFlightMemory(refusal=ProjectError("no space left"))
    in_flight.go_on.set()
    python.bind(ledger.binding("live", calls_in_flight=in_flight))

    out = python.ask("http.client", "POST", URL, "hello")

    assert "no space left" in out["error"]
    assert outside.seen == []
    assert [(call.outcome, call.attempt, "was not sent" in (call.note or "")) for call in ledger.calls] == [
        ("failed", UNSET, True)
    ]


def test_a_repeated_call_is_marked(python: ClientProcess, outside: OutsideServer, ledger: Ledger) -> None:
    """A call that an earlier attempt has sent is marked, unless it has an `Idempotency-Key` or is not sent."""
    in_flight = InFlightMemory(repeated=1)
    in_flight.go_on.set()
    python.bind(ledger.binding("live", calls_in_flight=in_flight))

    python.request("requests", "POST", URL, "hello", {"Idempotency-Key": "1"})
    python.request("requests", "POST", URL, "hello")
    python.ask("requests", "POST", "https://closed.example.test/", "hello")
    python.request("requests", "POST", URL, "hello")

    assert len(outside.seen) == 3
    again = [(call.note or "").startswith("sent again: an earlier attempt sent it") for call in ledger.calls]
    assert again == [False, True, False, False]

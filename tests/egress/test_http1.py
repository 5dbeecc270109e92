"""HTTP through the gateway, byte for byte."""

from __future__ import annotations

import base64
import gc
import socket
import struct
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pdkernel.egress import Gateway
from tests.egress.hosts import gateway_to, host
from tests.egress.kit import (
    ClientProcess,
    Ledger,
    Loop,
    OutsideServer,
    issue_bound_token,
    knock,
    read_all,
    read_until,
    wait_until,
)

HOST = "api.example.test"

URL = f"https://{HOST}"

GET_EVENTS = b"GET /events HTTP/1.1\r\nHost: api.example.test\r\nConnection: close\r\n\r\n"

_CHARACTERS = "abcXYZ019-._~!$'()*+,;=:@/%"


def test_path_query_and_headers_leave_as_written(gateway: Gateway, outside: OutsideServer, ledger: Ledger) -> None:
    """Nothing is decoded or added: `%2F` stays, a GET gets no length, headers of the connection are removed."""
    caller_token = issue_bound_token(gateway, ledger)
    with knock(gateway, caller_token, HOST, 443, secure=True) as sock:
        sock.sendall(
            b"GET /a%2Fb/../c?q=%20+x&&y HTTP/1.1\r\nHost: api.example.test\r\nX-Odd: 1\r\nX-Odd: 2\r\n"
            b"Proxy-Connection: keep-alive\r\nConnection: close, x-hop\r\nX-Hop: 1\r\n\r\n"
        )
        read_all(sock)

    seen = outside.seen[0]
    assert seen.path == "/a%2Fb/../c?q=%20+x&&y"
    assert not {"content-length", "transfer-encoding", "proxy-connection", "x-hop", "user-agent"} & set(seen.headers)


def test_pipelined_requests_are_answered_in_order(gateway: Gateway, outside: OutsideServer, ledger: Ledger) -> None:
    """A client may send several requests without waiting for the responses."""
    caller_token = issue_bound_token(gateway, ledger)
    with knock(gateway, caller_token, HOST, 443, secure=True) as sock:
        sock.sendall(b"GET /one HTTP/1.1\r\nHost: a\r\n\r\nGET /two HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answers = read_all(sock)

    assert answers.count(b"HTTP/1.1 200") == 2
    assert [seen.path for seen in outside.seen] == ["/one", "/two"]


def test_an_invalid_request_is_a_bad_request(gateway: Gateway, ledger: Ledger) -> None:
    """A request that is not HTTP after its first line is answered with 400."""
    caller_token = issue_bound_token(gateway, ledger)
    with knock(gateway, caller_token, HOST, 443, secure=True) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nnot a header\r\n\r\n")
        answer = read_all(sock)

    assert answer.startswith(b"HTTP/1.1 400")


def test_an_invalid_body_is_a_bad_request(gateway: Gateway, ledger: Ledger) -> None:
    """A request whose body is not in chunks, as its head announces, is answered with 400."""
    caller_token = issue_bound_token(gateway, ledger)
    with knock(gateway, caller_token, HOST, 443, secure=True) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: api.example.test\r\nTransfer-Encoding: chunked\r\n\r\nno chunk\r\n")
        answer = read_all(sock)

    assert answer.startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    ("mode", "outcome", "note"),
    [
        ("live", "failed", "no response: the client did not send its whole request."),
        ("deny", "denied", "POST https://api.example.test/half was not sent"),
    ],
)
def test_a_client_that_leaves_before_the_end_of_its_request(
    gateway: Gateway, outside: OutsideServer, ledger: Ledger, mode: str, outcome: str, note: str
) -> None:
    """The call has a row, which does not blame the host."""
    caller_token = issue_bound_token(gateway, ledger, mode)
    with knock(gateway, caller_token, HOST, 443, secure=True) as sock:
        sock.sendall(b"POST /half HTTP/1.1\r\nHost: api.example.test\r\nContent-Length: 100\r\n\r\nhalf")
    wait_until(lambda: bool(ledger.calls))

    assert [(call.outcome, str(call.note)[: len(note)]) for call in ledger.calls] == [(outcome, note)]


def test_a_client_that_resets_its_connection_in_a_request(loop: Loop, tmp_path: Path, ledger: Ledger) -> None:
    """A killed process is not an error of the host: the row has the cause, and the host's connection is closed."""
    received: list[bytes] = []
    has_half = threading.Event()

    def read(sock: socket.socket) -> None:
        received.append(read_until(sock, b"half"))
        has_half.set()
        received.append(sock.recv(100))

    with host(read) as port, gateway_to(loop, tmp_path, port, meant=80) as (own, caller_token):
        own.bind(caller_token, ledger.binding("live"))
        with knock(own, caller_token, "slack.com", 80, secure=False) as sock:
            sock.sendall(b"POST / HTTP/1.1\r\nHost: slack.com\r\nContent-Length: 100\r\n\r\nhalf")
            assert has_half.wait(60)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wait_until(lambda: bool(ledger.calls))

    assert [call.note for call in ledger.calls] == ["no response: the client did not send its whole request."]
    assert received[1:] == [b""]


def test_the_head_of_a_slow_response_is_passed_on_at_once(loop: Loop, tmp_path: Path, ledger: Ledger) -> None:
    """A client gets the head of a response whose body has not begun, as from an endpoint for long polling."""
    go_on = threading.Event()

    def slow(sock: socket.socket) -> None:
        read_until(sock, b"\r\n\r\n")
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
        go_on.wait(60)
        sock.sendall(b"body")

    with host(slow) as port, gateway_to(loop, tmp_path, port, meant=80) as (own, caller_token):
        own.bind(caller_token, ledger.binding("live"))
        with knock(own, caller_token, "slack.com", 80, secure=False) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: slack.com\r\nConnection: close\r\n\r\n")
            head = read_until(sock, b"\r\n\r\n")
            go_on.set()
            body = read_all(sock)

    assert head.startswith(b"HTTP/1.1 200 OK")
    assert body == b"body"


@pytest.mark.parametrize(("size", "is_closed"), [(10, False), ((1 << 20) + 1, True)])
def test_a_body_that_nothing_reads(gateway: Gateway, size: int, is_closed: bool) -> None:
    """After a refusal without a step, the rest of a short body is read, and the connection is closed after a long one."""
    head = b"POST / HTTP/1.1\r\nHost: api.example.test\r\nContent-Length: %d\r\n\r\n"
    with knock(gateway, gateway.issue_token(), HOST, 443, secure=True) as sock:
        sock.sendall(head % (3 << 20 if is_closed else size) + bytes(size))
        answer = read_until(sock, b"\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 403")
    assert (b"connection: close" in answer) == is_closed


@pytest.mark.parametrize("mode", ["deny", None])
def test_a_refusal_of_a_request_for_a_head_has_no_body(gateway: Gateway, ledger: Ledger, mode: str | None) -> None:
    """A refused HEAD request is answered, and so is the next one on its connection; without a step, too."""
    caller_token = gateway.issue_token()
    if mode is not None:
        gateway.bind(caller_token, ledger.binding(mode))
    with knock(gateway, caller_token, HOST, 443, secure=True) as sock:
        sock.sendall(b"HEAD /one HTTP/1.1\r\nHost: a\r\n\r\nHEAD /two HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answers = read_all(sock)

    assert answers.count(b"HTTP/1.1 403") == 2
    assert answers.count(b"\r\n\r\n") == 2
    assert answers.endswith(b"\r\n\r\n")


ODD_RESPONSES = {
    "an unknown status": b"HTTP/1.1 999 Odd\r\nContent-Length: 2\r\n\r\nab",
    "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nab",
    "an early hint": b"HTTP/1.1 103 Early Hints\r\n\r\n",
    "too small a status": b"HTTP/1.1 099 Odd\r\nContent-Length: 2\r\n\r\nab",
    "a long line": b"x" * (1 << 20),
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nab",
    "an odd header": b"HTTP/1.1 200 OK\r\nA\x00b: \x01\xff\r\nContent-Length: 2\r\n\r\nab",
    "an unneeded body": b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nab",
}


@pytest.mark.parametrize("method", ["GET", "HEAD", "WEBSOCKET"])
@pytest.mark.parametrize("name", ["slack.com", "127.0.0.1"])
def test_an_odd_response_is_not_an_error_of_the_gateway(
    loop: Loop, tmp_path: Path, ledger: Ledger, caplog: pytest.LogCaptureFixture, method: str, name: str
) -> None:
    """A response that HTTP does not permit ends the client's connection at most, and nothing is in the server's log."""
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket" if method == "WEBSOCKET" else "Connection: close"
    request = f"{method.replace('WEBSOCKET', 'GET')} / HTTP/1.1\r\nHost: a\r\n{upgrade}\r\n\r\n".encode()
    logged: dict[str, list[str]] = {}
    for kind, answer in ODD_RESPONSES.items():

        def play(sock: socket.socket, answer: bytes = answer) -> None:
            read_until(sock, b"\r\n\r\n")
            sock.sendall(answer)

        with host(play) as port, gateway_to(loop, tmp_path / kind, port, meant=80) as (own, caller_token):
            own.bind(caller_token, ledger.binding("live"))
            with knock(own, caller_token, name, port if name == "127.0.0.1" else 80, secure=False) as sock:
                sock.sendall(request)
                with suppress(ConnectionResetError):
                    read_all(sock)
        gc.collect()  # the loop reports an error of a task when nothing refers to the task
        logged[kind] = [each.getMessage() for each in caplog.records if each.levelname == "ERROR"]

    assert logged == {kind: [] for kind in ODD_RESPONSES}


def test_plain_http_is_routed(
    node: ClientProcess, plain_outside: OutsideServer, outside: OutsideServer, ledger: Ledger
) -> None:
    """Plain HTTP is routed like https, by the hook and by the proxy variables."""
    node.bind(ledger.binding("live"))

    got = node.request("http.request", "POST", "http://api.example.test/x", "hello")

    assert got.status == 200
    assert (ledger.calls[0].url, plain_outside.seen[0].body) == ("http://api.example.test/x", b"hello")


def test_curl_uses_absolute_form_for_plain_http(
    python: ClientProcess, plain_outside: OutsideServer, outside: OutsideServer, ledger: Ledger
) -> None:
    """A request in absolute form is split into host and path."""
    python.bind(ledger.binding("live"))

    got = python.request("curl", "POST", "http://api.example.test/x?y=1", "hello")

    assert got.status == 200
    assert (plain_outside.seen[0].path, plain_outside.seen[0].headers["host"]) == ("/x?y=1", "api.example.test")
    assert "proxy-authorization" not in plain_outside.seen[0].headers


@pytest.mark.parametrize(
    ("target", "url"),
    [
        (f"https://{HOST}/x?y=1", f"https://{HOST}/x?y=1"),
        (f"HTTP://{HOST}:80?y=1", f"http://{HOST}/?y=1"),
        (f"https://{HOST}:444/x", f"https://{HOST}:444/x"),
    ],
)
def test_the_url_of_a_request_in_absolute_form(gateway: Gateway, ledger: Ledger, target: str, url: str) -> None:
    """The scheme decides the port if the target has none."""
    user = base64.b64encode(f"{issue_bound_token(gateway, ledger, 'deny')}:x".encode()).decode()
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=60) as sock:
        head = f"Host: {HOST}\r\nProxy-Authorization: Basic {user}\r\nConnection: close\r\n\r\n"
        sock.sendall(f"GET {target} HTTP/1.1\r\n{head}".encode())
        read_all(sock)

    assert [call.url for call in ledger.calls] == [url]


@pytest.mark.parametrize("form", ["connect", "absolute", "hook"])
def test_this_machine_is_reached_through_the_gateway(
    gateway: Gateway, plain_outside: OutsideServer, ledger: Ledger, form: str
) -> None:
    """A client that requests loopback from the gateway reaches it, in deny too, and the ledger has no row."""
    plain_outside.seen.clear()
    caller_token = issue_bound_token(gateway, ledger, "deny")
    user = base64.b64encode(f"{caller_token}:x".encode()).decode()
    place = f"127.0.0.1:{plain_outside.port}"
    target = f"http://{place}/here" if form == "absolute" else "/here"
    request = (
        f"GET {target} HTTP/1.1\r\nHost: {place}\r\nProxy-Authorization: Basic {user}\r\nConnection: close\r\n\r\n"
    )
    if form == "hook":
        sock = knock(gateway, caller_token, "127.0.0.1", plain_outside.port, secure=False)
    else:
        sock = socket.create_connection(("127.0.0.1", gateway.port), timeout=60)
    with sock:
        if form == "connect":
            sock.sendall(f"CONNECT {place} HTTP/1.1\r\nProxy-Authorization: Basic {user}\r\n\r\n".encode())
            read_until(sock, b"\r\n\r\n")
        sock.sendall(request.encode())
        answer = read_all(sock)

    assert answer.startswith(b"HTTP/1.1 200")
    assert plain_outside.seen[0].path == "/here"
    assert ledger.calls == []


def test_concurrent_connections_are_answered(gateway: Gateway, outside: OutsideServer, ledger: Ledger) -> None:
    """Forty simultaneous connections get forty responses."""
    caller_token = issue_bound_token(gateway, ledger)
    socks = [knock(gateway, caller_token, HOST, 443, secure=True) for _ in range(40)]
    for number, sock in enumerate(socks):
        sock.sendall(f"GET /{number} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())

    answers = [read_all(sock) for sock in socks]
    for sock in socks:
        sock.close()

    assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)
    assert {seen.path for seen in outside.seen} == {f"/{number}" for number in range(40)}
    assert len(ledger.calls) == 40


@settings(max_examples=settings().max_examples // 2, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.text(_CHARACTERS, max_size=40), query=st.none() | st.text(_CHARACTERS + "?&", max_size=40))
def test_any_target_leaves_as_written(
    gateway: Gateway, plain_outside: OutsideServer, path: str, query: str | None
) -> None:
    """Behind the hook and in absolute form, path and query are sent unchanged."""
    ledger = Ledger()
    caller_token = issue_bound_token(gateway, ledger)
    plain_outside.seen.clear()
    target = f"/x{path}" + ("" if query is None else f"?{query}")
    user = base64.b64encode(f"{caller_token}:x".encode()).decode()
    for form in ("hook", "absolute"):
        head = f"Host: {HOST}\r\nProxy-Authorization: Basic {user}\r\nConnection: close\r\n\r\n"
        if form == "hook":
            sock = knock(gateway, caller_token, HOST, 80, secure=False)
            start = f"GET {target} HTTP/1.1\r\n"
        else:
            sock = socket.create_connection(("127.0.0.1", gateway.port), timeout=60)
            start = f"GET http://{HOST}{target} HTTP/1.1\r\n"
        with sock:
            sock.sendall((start + head).encode())
            read_all(sock)
    gateway.revoke_token(caller_token)

    assert [seen.path for seen in plain_outside.seen] == [target, target]

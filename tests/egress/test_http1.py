"""HTTP through the gateway, byte for byte. No bytes of one user reach another, and no odd response is taken for the next one."""

from __future__ import annotations

import base64
import contextlib
import gc
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterator
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


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nnot a header\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: api.example.test\r\nTransfer-Encoding: chunked\r\n\r\nno chunk\r\n",
    ],
    ids=["not HTTP after the first line", "a body that is not in chunks"],
)
def test_an_invalid_request_is_a_bad_request(gateway: Gateway, ledger: Ledger, sent: bytes) -> None:
    """A request that is not HTTP after its first line, or whose body is not as its head announces, is answered with 400."""
    caller_token = issue_bound_token(gateway, ledger)
    with knock(gateway, caller_token, HOST, 443, secure=True) as sock:
        sock.sendall(sent)
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

    assert [each.getMessage() for each in caplog.records if each.levelname == "ERROR"] == []


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


SHOP = "shop.test"


class Origin:
    """
    A host that believes `Content-Length` and keeps its connections.

    Attributes:
        connections: The bytes that arrived, by connection.
        answers: The bytes of the response to each request; the last one is repeated.
        late: Bytes that follow a moment after a response.
    """

    def __init__(self) -> None:
        self.connections: list[bytearray] = []
        self.answers: list[bytes] = [response(b"ok")]
        self.late = b""

    def serve(self, sock: socket.socket) -> None:
        """Answer the requests of one connection."""
        received = bytearray()
        self.connections.append(received)
        number = 0
        while b"\r\n\r\n" in (head := read_until(sock, b"\r\n\r\n")):
            received += head
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            if lengths:
                received += sock.recv(int(lengths[0].partition(b":")[2]), socket.MSG_WAITALL)
            elif b"transfer-encoding" in head.lower():
                received += read_until(sock, b"0\r\n\r\n")
            sock.sendall(self.answers[min(number, len(self.answers) - 1)])
            if self.late:
                time.sleep(0.1)
                sock.sendall(self.late)
            number += 1


def response(body: bytes, *headers: bytes) -> bytes:
    """A response of status 200."""
    lines = [b"HTTP/1.1 200 OK", b"content-length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


@pytest.fixture
def origin() -> Iterator[tuple[Origin, int]]:
    """The host, and its port."""
    host = Origin()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                host.serve(self.request)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield host, server.server_address[1]
        server.shutdown()


@pytest.fixture
def way(loop: Loop, tmp_path: Path, origin: tuple[Origin, int]) -> Iterator[Gateway]:
    """A gateway whose shop.test is the origin."""
    overrides = {(SHOP, 80): ("127.0.0.1", origin[1])}
    gateway = loop.run(Gateway.start(tmp_path, host_overrides=overrides, environ={}))
    yield gateway
    loop.run(gateway.close())


Call = Callable[..., bytes]


@pytest.fixture
def call(way: Gateway, ledger: Ledger) -> Call:
    """A function that sends the bytes of a step of a user, and returns the bytes of the response."""
    tokens: dict[str, str] = {}

    def run(user: str, data: bytes, *, loopback: int | None = None) -> bytes:
        if user not in tokens:
            tokens[user] = issue_bound_token(way, ledger, owner=user)
        target = (SHOP, 80) if loopback is None else ("127.0.0.1", loopback)
        with knock(way, tokens[user], *target, secure=False) as sock:
            sock.settimeout(20)
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                return read_all(sock)
            return b""

    return run


def request(path: bytes, *headers: bytes, body: bytes = b"") -> bytes:
    """A GET, or a POST if there are more *headers*."""
    lines = [(b"POST " if headers else b"GET ") + path + b" HTTP/1.1", b"Host: shop.test", *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


SMUGGLED = b"GET /secret-of-ada HTTP/1.1\r\nHost: shop.test\r\nX: "


def chunked(data: bytes) -> bytes:
    """*data* as one chunk and the last chunk."""
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data)


@pytest.mark.parametrize(
    "headers",
    [
        [b"Content-Length: 4", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: chunked", b"Content-Length: 4"],
        [b"Content-Length: 4", b"Transfer-Encoding: Chunked", b"Connection: transfer-encoding"],
    ],
    ids=["length first", "coding first", "named in Connection"],
)
@pytest.mark.parametrize("loopback", [False, True], ids=["outside", "this machine"])
def test_a_request_has_one_framing(
    way: Gateway, call: Call, origin: tuple[Origin, int], headers: list[bytes], *, loopback: bool
) -> None:
    """Of a length and a transfer coding, the coding is sent alone: a host that believes the length gets no second request."""
    port = origin[1] if loopback else None
    if loopback:
        way.own_server.announce(f"http://127.0.0.1:{origin[1]}", b"mark")
    call("ada", request(b"/", *headers, body=chunked(b"a=1&" + SMUGGLED)), loopback=port)
    answer = call("bob", request(b"/of-bob", b"Authorization: Bearer bobs"), loopback=port)

    first, second = (bytes(received) for received in origin[0].connections)
    assert (b"x-pdkernel-caller" in first) == loopback
    assert b"content-length" not in first.lower().partition(b"\r\n\r\n")[0]
    assert first.lower().count(b"transfer-encoding: chunked") == 1
    assert b"bobs" not in first
    assert second.startswith(b"POST /of-bob ")
    assert answer.endswith(b"ok")


def test_connection_does_not_remove_the_length(call: Call, origin: tuple[Origin, int]) -> None:
    """A length that the header `Connection` names is sent all the same, with the body."""
    call("ada", request(b"/", b"Content-Length: 3", b"Connection: content-length, host", body=b"abc"))

    received = bytes(origin[0].connections[0])
    assert received.lower().count(b"content-length: 3") == 1
    assert received.endswith(b"\r\n\r\nabc")
    assert b"host: shop.test" in received.lower()


@pytest.mark.parametrize(
    "head",
    [
        [b"Content-Length: 3", b"Content-Length: 4"],
        [b"Content-Length: 3", b"Content-Length: 3"],
        [b"Content-Length: 3, 4"],
        [b"Content-Length: +3"],
        [b"Content-Length: -3"],
        [b"Content-Length: 0x3"],
        [b"Content-Length: 1_0"],
        [b"Content-Length: 3 3"],
        [b"Content-Length:"],
        [b"Content-Length : 3"],
        [b"Content-Length\t: 3"],
        [b" Content-Length: 3"],
        [b"Content_Length: 3"],
        [b"X: a\nContent-Length: 3"],
        [b"X: a\rContent-Length: 3"],
        [b"X: a", b" Content-Length: 3"],
        [b"X: a\x00b"],
        [b"X: a\x0bContent-Length: 3"],
        [b"Transfer-Encoding: gzip, chunked"],
        [b"Transfer-Encoding: chunked, identity"],
        [b"Transfer-Encoding: xchunked"],
        [b"Transfer-Encoding: identity"],
        [b"Transfer-Encoding: \x0bchunked"],
        [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: chunked", b"Transfer-Encoding: x"],
        [b"Transfer-Encoding : chunked"],
        [b"Transfer_Encoding: chunked"],
        [b"Transfer-Encoding:", b" chunked"],
    ],
    ids=repr,
)
def test_an_ambiguous_request_is_refused(call: Call, origin: tuple[Origin, int], head: list[bytes]) -> None:
    """A request whose end, or one of whose headers, programs may read differently is refused, and nothing is sent."""
    answer = call("ada", request(b"/", *head, body=chunked(b"abc")))

    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 501"))
    assert origin[0].connections == []


def test_http_1_0_has_no_transfer_coding(call: Call, origin: tuple[Origin, int]) -> None:
    """A request of HTTP/1.0 with a transfer coding is refused."""
    answer = call("ada", b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"abc"))

    assert answer.startswith(b"HTTP/1.1 400")
    assert origin[0].connections == []


@pytest.mark.parametrize(
    "body",
    [b"+3\r\nabc\r\n0\r\n\r\n", b"0x3\r\nabc\r\n0\r\n\r\n", b"3 3\r\nabc\r\n0\r\n\r\n", b"1_0\r\nabc\r\n0\r\n\r\n",
     b"3\r\nabcdef\r\n0\r\n\r\n", b"3\r\nabcXX0\r\n\r\n", b"-1\r\nabc\r\n0\r\n\r\n"],
    ids=repr,
)  # fmt: skip
def test_an_invalid_chunk_is_not_sent(call: Call, origin: tuple[Origin, int], body: bytes) -> None:
    """After an invalid chunk the host gets no end of the request, and its connection is closed."""
    call("ada", request(b"/", b"Transfer-Encoding: chunked", body=body))
    call("ada", request(b"/next", b"A: b"))

    assert all(b"0\r\n\r\n" not in received for received in origin[0].connections[:-1])
    assert bytes(origin[0].connections[-1]).startswith(b"POST /next")


def test_chunk_extensions_are_not_sent(call: Call, origin: tuple[Origin, int]) -> None:
    """The chunks of a request are written anew."""
    call("ada", request(b"/", b"Transfer-Encoding: chunked", body=b'3;a="\r\nabc\r\n00;b\r\n\r\n'))

    assert bytes(origin[0].connections[0]).endswith(b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n")


FORGED = response(b"forged", b"set-cookie: session=adas")


@pytest.mark.parametrize(
    "answer",
    [
        response(b"ok") + FORGED,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n" + FORGED,
        b"HTTP/1.1 204 No\r\n\r\n" + FORGED,
        b"HTTP/1.1 204 No\r\ncontent-length: 5\r\n\r\n",
        b"HTTP/1.1 304 No\r\ncontent-length: 5\r\n\r\n" + FORGED,
        b"HTTP/1.1 103 Hints\r\nlink: </a>\r\n\r\n" + response(b"ok") + b"HTTP/1.1 103 Hints\r\n\r\n",
        b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n" + FORGED,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 200 + FORGED,
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 8\r\n\r\nok" + FORGED,
        b"HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nok" + FORGED,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: x, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n" + FORGED,
    ],
    ids=range(13),
)
def test_an_odd_response_ends_its_connection(call: Call, origin: tuple[Origin, int], answer: bytes) -> None:
    """After a response with surplus bytes, or with an ambiguous end, the same user's next request uses a new connection."""
    origin[0].answers = [answer]
    first = call("ada", request(b"/1"))
    origin[0].answers = [response(b"right")]
    second = call("ada", request(b"/2"))

    assert b"forged" not in first or b" 200 " not in first
    assert second.endswith(b"right")
    assert len(origin[0].connections) == 2


def test_a_body_after_the_response_to_head_ends_its_connection(call: Call, origin: tuple[Origin, int]) -> None:
    """The response to HEAD has no body; bytes that follow are not a response to the next request."""
    origin[0].answers = [FORGED + FORGED, response(b"right")]
    call("ada", b"HEAD / HTTP/1.1\r\nHost: shop.test\r\n\r\n")
    second = call("ada", request(b"/2"))

    assert b"forged" not in second.partition(b"\r\n\r\n")[0]
    assert len(origin[0].connections) == 2


def test_a_late_response_ends_its_connection(call: Call, origin: tuple[Origin, int]) -> None:
    """A response that arrives while no request waits is not the response to the next request."""
    origin[0].late = FORGED
    call("ada", request(b"/1"))
    time.sleep(0.3)
    origin[0].late = b""
    second = call("ada", request(b"/2"))

    assert second.endswith(b"ok")
    assert len(origin[0].connections) == 2


def test_a_plain_response_keeps_its_connection(call: Call, origin: tuple[Origin, int]) -> None:
    """Without anything odd, the next request of the same user uses the same connection."""
    for _ in range(3):
        call("ada", request(b"/"))

    assert len(origin[0].connections) == 1


def test_a_response_has_one_framing(call: Call, origin: tuple[Origin, int]) -> None:
    """The step gets no length beside a transfer coding."""
    origin[0].answers = [
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    ]
    answer = call("ada", request(b"/"))

    assert b"content-length" not in answer.lower()
    assert answer.endswith(b"2\r\nok\r\n0\r\n\r\n")


def test_a_response_that_is_read_in_part_ends_its_connection(
    way: Gateway, ledger: Ledger, origin: tuple[Origin, int]
) -> None:
    """If a step ends in the middle of a response, the rest is not taken for the response to the next request."""
    origin[0].answers = [b"HTTP/1.1 200 OK\r\ncontent-length: 9000000\r\n\r\n" + b"x" * 100]
    token = issue_bound_token(way, ledger, owner="ada")
    with knock(way, token, SHOP, 80, secure=False) as sock:
        sock.sendall(request(b"/1"))
        read_until(sock, b"xxx")
    way.revoke_token(token)
    wait_until(lambda: len(ledger.calls) == 1)
    origin[0].answers = [response(b"right")]
    token = issue_bound_token(way, ledger, owner="ada")
    with knock(way, token, SHOP, 80, secure=False) as sock:
        sock.sendall(request(b"/2", b"Connection: close"))
        answer = read_all(sock)

    assert answer.endswith(b"right")
    assert len(origin[0].connections) == 2

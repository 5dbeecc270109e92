"""Request and response smuggling: no bytes of one user reach another, and no odd response is taken for the next one."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pdkernel.egress import Gateway
from tests.egress.kit import Ledger, Loop, issue_bound_token, knock, read_all, read_until, wait_until

HOST = "shop.test"


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
    overrides = {(HOST, 80): ("127.0.0.1", origin[1])}
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
        target = (HOST, 80) if loopback is None else ("127.0.0.1", loopback)
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
    with knock(way, token, HOST, 80, secure=False) as sock:
        sock.sendall(request(b"/1"))
        read_until(sock, b"xxx")
    way.revoke_token(token)
    wait_until(lambda: len(ledger.calls) == 1)
    origin[0].answers = [response(b"right")]
    token = issue_bound_token(way, ledger, owner="ada")
    with knock(way, token, HOST, 80, secure=False) as sock:
        sock.sendall(request(b"/2", b"Connection: close"))
        answer = read_all(sock)

    assert answer.endswith(b"right")
    assert len(origin[0].connections) == 2

"""Bodies of requests and responses, complete and in chunks."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pdkernel.egress import Gateway
from pdkernel.egress.message import (
    Body,
    Headers,
    Request,
    end_to_end_headers,
    format_origin,
    strip_control_characters,
)
from tests.egress.kit import (
    ClientProcess,
    Ledger,
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


def test_large_bodies_pass_both_ways(python: ClientProcess, outside: OutsideServer, ledger: Ledger) -> None:
    """Ten megabytes are sent and received completely."""
    python.bind(ledger.binding("live"))

    up = python.request("httpx", "POST", f"{URL}/upload", "y" * 10_000_000).json()
    down = python.request("httpx", "GET", f"{URL}/big/10000000").body

    assert up["size"] == 10_000_000
    assert down == b"x" * 10_000_000


def test_a_large_upload_is_refused_with_an_answer(
    python: ClientProcess, outside: OutsideServer, ledger: Ledger
) -> None:
    """The gateway reads a large upload to its end, so that the client reads the refusal."""
    python.bind(ledger.binding("deny"))

    got = python.request("http.client", "POST", f"{URL}/upload", "y" * 10_000_000)

    assert got.status == 403
    assert outside.seen == []


def test_head_keeps_its_length(python: ClientProcess, outside: OutsideServer, ledger: Ledger) -> None:
    """The response to HEAD has the length of the GET response and no body."""
    python.bind(ledger.binding("live"))

    got = python.request("requests", "HEAD", f"{URL}/big/1234")

    assert (got.headers["content-length"], got.body) == ("1234", b"")
    assert python.request("requests", "GET", f"{URL}/big/3").body == b"xxx"


def test_head_is_replayed_with_its_length(
    python: ClientProcess, outside: OutsideServer, ledger: Ledger, tmp_path: Path
) -> None:
    """A recorded HEAD response has the same length."""
    for mode in ("record", "replay"):
        python.bind(ledger.binding(f"{mode}={tmp_path}/calls.jsonl"))
        got = python.request("requests", "HEAD", f"{URL}/big/1234")

    assert (got.headers["content-length"], got.body) == ("1234", b"")
    assert len(outside.seen) == 1


def test_a_chunked_response_arrives_complete(node: ClientProcess, outside: OutsideServer, ledger: Ledger) -> None:
    """A chunked response has no length, and all its chunks."""
    node.bind(ledger.binding("live"))

    got = node.request("https.agent", "GET", f"{URL}/chunked")

    assert got.body == b"one,two,three"
    assert ledger.calls[0].status == 200


def test_responses_without_a_body_end(python: ClientProcess, outside: OutsideServer, ledger: Ledger) -> None:
    """204 and 304 have no body, and the connection continues."""
    python.bind(ledger.binding("live"))

    statuses = [python.request("requests", "GET", f"{URL}/status/{status}").status for status in (204, 304, 200)]

    assert statuses == [204, 304, 200]


def test_expect_continue_is_answered(gateway: Gateway, outside: OutsideServer, ledger: Ledger) -> None:
    """`Expect: 100-continue` is answered with 100, then with the response."""
    caller_token = issue_bound_token(gateway, ledger)
    with knock(gateway, caller_token, HOST, 443, secure=True) as sock:
        sock.sendall(
            b"POST /up HTTP/1.1\r\nHost: api.example.test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n"
            b"Connection: close\r\n\r\n"
        )
        asked = read_until(sock, b"\r\n\r\n")
        sock.sendall(b"body")
        answer = read_all(sock)

    assert asked.startswith(b"HTTP/1.1 100")
    assert answer.startswith(b"HTTP/1.1 200")
    assert outside.seen[0].body == b"body"
    assert "expect" not in outside.seen[0].headers


def test_a_chunked_request_arrives_complete(gateway: Gateway, outside: OutsideServer, ledger: Ledger) -> None:
    """A chunked request is sent in chunks and arrives complete."""
    caller_token = issue_bound_token(gateway, ledger)
    with knock(gateway, caller_token, HOST, 443, secure=True) as sock:
        sock.sendall(
            b"POST /up HTTP/1.1\r\nHost: api.example.test\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
            b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        )
        read_all(sock)

    assert outside.seen[0].body == b"abcde"


def test_a_truncated_response_is_truncated(python: ClientProcess, outside: OutsideServer, ledger: Ledger) -> None:
    """A truncated response does not look complete to the client."""
    python.bind(ledger.binding("live"))

    out = python.ask("requests", "GET", f"{URL}/cut")

    assert "error" in out
    assert [call.outcome for call in ledger.calls] == ["failed"]


@pytest.mark.parametrize("mode", ["live", "record={}/calls.jsonl"])
def test_events_arrive_as_they_are_sent(
    gateway: Gateway, outside: OutsideServer, ledger: Ledger, tmp_path: Path, mode: str
) -> None:
    """The first event arrives before the host sends the second; the call is in the ledger at the end."""
    caller_token = issue_bound_token(gateway, ledger, mode.format(tmp_path))
    with knock(gateway, caller_token, HOST, 443, secure=True) as sock:
        sock.sendall(GET_EVENTS)
        read_until(sock, b"one")
        calls_by_then = list(ledger.calls)
        outside.go_on.set()
        rest = read_all(sock)

    assert b"two" in rest
    assert calls_by_then == []
    assert [call.outcome for call in ledger.calls] == ["sent"]


def test_a_call_of_a_disconnected_client_is_recorded(gateway: Gateway, outside: OutsideServer, ledger: Ledger) -> None:
    """The row is written when the client disconnects before the end of the response."""
    caller_token = issue_bound_token(gateway, ledger)
    with knock(gateway, caller_token, HOST, 443, secure=True) as sock:
        sock.sendall(GET_EVENTS)
        read_until(sock, b"one")
    gateway.revoke_token(caller_token)

    wait_until(lambda: bool(ledger.calls))
    outside.go_on.set()

    assert [(call.status, call.outcome) for call in ledger.calls] == [(200, "sent")]


@pytest.mark.parametrize(
    ("headers", "kept"),
    [
        ([(b"Host", b"a"), (b"Accept", b"*/*")], [b"Host", b"Accept"]),
        ([(b"Connection", b"close"), (b"Keep-Alive", b"5"), (b"TE", b"x"), (b"Upgrade", b"x")], []),
        ([(b"Proxy-Authorization", b"x"), (b"Proxy-Connection", b"x"), (b"Transfer-Encoding", b"chunked")], []),
        ([(b"connection", b"X-One, x-two"), (b"x-one", b"1"), (b"X-Two", b"2"), (b"x-three", b"3")], [b"x-three"]),
        ([(b"set-cookie", b"a"), (b"set-cookie", b"b")], [b"set-cookie", b"set-cookie"]),
    ],
)
def test_headers_of_the_connection_are_not_forwarded(headers: Headers, kept: list[bytes]) -> None:
    """The headers of a connection, and those that `Connection` names, belong to one connection; the others keep their order."""
    assert [name for name, _ in end_to_end_headers(headers)] == kept


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (b" a\tb ", b"a\tb"),
        (b"a\r\nb: c", b"ab: c"),
        (b"a\nb", b"ab"),
        (b"\x00a\x7f\x1f", b"a"),
        ("é".encode(), "é".encode()),
    ],
)
def test_a_value_of_a_header_has_no_control_characters(value: bytes, shown: bytes) -> None:
    """A tab and letters stay; a line break would begin another header."""
    assert strip_control_characters(value) == shown


@pytest.mark.parametrize(
    ("scheme", "host", "port", "origin"),
    [
        ("https", "a.test", 443, "https://a.test"),
        ("http", "a.test", 443, "http://a.test:443"),
        ("http", "a.test", 80, "http://a.test"),
        ("https", "::1", 8443, "https://[::1]:8443"),
        ("tcp", "a.test", 80, "tcp://a.test:80"),
    ],
)
def test_an_origin_has_no_default_port(scheme: str, host: str, port: int, origin: str) -> None:
    """The port is left out if it is the scheme's own."""
    assert format_origin(scheme, host, port) == origin


async def some_chunks(*parts: bytes) -> AsyncIterator[bytes]:
    """The chunks of a body."""
    for part in parts:
        yield part


async def test_a_buffered_body_can_be_read_again() -> None:
    """A body is streamed once, or buffered and read as often as needed until its last user releases it."""
    body = Body(some_chunks(b"one,", b"two"))

    digest = await body.buffer()

    assert digest == await body.buffer() == hashlib.sha256(b"one,two").hexdigest()
    assert (await body.read(), await body.read(), body.byte_count, body.is_buffered) == (
        b"one,two",
        b"one,two",
        7,
        True,
    )
    body.retain()
    body.release()
    assert await body.read() == b"one,two"
    body.release()
    with pytest.raises(ValueError, match="closed"):
        await body.read()


async def test_the_beginning_of_a_body_is_kept() -> None:
    """The first 64 KB of a body are searched for credentials, however they arrive."""
    body = Body(some_chunks(b"a" * 65_000, b"b" * 1000, b"c"))

    assert (body.prefix, body.byte_count, body.is_buffered) == (b"", 0, False)
    assert len(await body.read()) == body.byte_count == 66_001
    assert body.prefix == b"a" * 65_000 + b"b" * 536


@pytest.mark.parametrize(
    ("upgrade", "wants"), [(b"websocket", True), (b" WebSocket ", True), (b"h2c", False), (None, False)]
)
def test_a_request_for_a_websocket(upgrade: bytes | None, wants: bool) -> None:
    """The header `Upgrade` asks for a WebSocket in any case of letters."""
    headers = [] if upgrade is None else [(b"Upgrade", upgrade)]
    request = Request("GET", "https", "a.test", 443, b"/x?y=1", headers, Body(some_chunks()))

    assert (request.wants_websocket, request.path, request.url) == (wants, "/x", "https://a.test/x?y=1")

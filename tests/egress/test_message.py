"""Bodies of requests and responses, complete and in chunks."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdkernel.egress import Gateway
from tests.egress.kit import ClientProcess, Ledger, OutsideServer, knock, read_all, read_until, wait_until

HOST = "api.example.test"

URL = f"https://{HOST}"

GET_EVENTS = b"GET /events HTTP/1.1\r\nHost: api.example.test\r\nConnection: close\r\n\r\n"

_CHARACTERS = "abcXYZ019-._~!$'()*+,;=:@/%"


def test_large_bodies_pass_both_ways(python: ClientProcess, outside: OutsideServer, ledger: Ledger) -> None:
    """Ten megabytes go up and come down whole."""
    python.bind(ledger.binding("live"))

    up = python.request("httpx", "POST", f"{URL}/upload", "y" * 10_000_000).json()
    down = python.request("httpx", "GET", f"{URL}/big/10000000").body

    assert up["size"] == 10_000_000
    assert down == b"x" * 10_000_000


def test_a_large_upload_is_refused_with_an_answer(
    python: ClientProcess, outside: OutsideServer, ledger: Ledger
) -> None:
    """A client that sends much is heard out, so that it reads the refusal."""
    python.bind(ledger.binding("deny"))

    got = python.request("http.client", "POST", f"{URL}/upload", "y" * 10_000_000)

    assert got.status == 403
    assert outside.seen == []


def test_head_keeps_its_length(python: ClientProcess, outside: OutsideServer, ledger: Ledger) -> None:
    """The answer to HEAD tells the length of what GET would give, and has no body."""
    python.bind(ledger.binding("live"))

    got = python.request("requests", "HEAD", f"{URL}/big/1234")

    assert (got.headers["content-length"], got.body) == ("1234", b"")
    assert python.request("requests", "GET", f"{URL}/big/3").body == b"xxx"


def test_head_is_replayed_with_its_length(
    python: ClientProcess, outside: OutsideServer, ledger: Ledger, tmp_path: Path
) -> None:
    """A recorded HEAD tells the same length."""
    for mode in ("record", "replay"):
        python.bind(ledger.binding(f"{mode}={tmp_path}/calls.jsonl"))
        got = python.request("requests", "HEAD", f"{URL}/big/1234")

    assert (got.headers["content-length"], got.body) == ("1234", b"")
    assert len(outside.seen) == 1


def test_an_answer_in_pieces_arrives_whole(node: ClientProcess, outside: OutsideServer, ledger: Ledger) -> None:
    """A chunked answer has no length, and all its pieces."""
    node.bind(ledger.binding("live"))

    got = node.request("https.agent", "GET", f"{URL}/chunked")

    assert got.body == b"one,two,three"
    assert ledger.calls[0].status == 200


def test_answers_without_a_body_end(python: ClientProcess, outside: OutsideServer, ledger: Ledger) -> None:
    """204 and 304 have no body, and the connection goes on."""
    python.bind(ledger.binding("live"))

    statuses = [python.request("requests", "GET", f"{URL}/status/{status}").status for status in (204, 304, 200)]

    assert statuses == [204, 304, 200]


def test_a_client_that_asks_before_its_body_is_told_to_go_on(
    gateway: Gateway, outside: OutsideServer, ledger: Ledger
) -> None:
    """`Expect: 100-continue` is answered with 100, then with the answer."""
    caller_token = gateway.issue_token()
    gateway.bind(caller_token, ledger.binding("live"))
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


def test_a_body_in_pieces_goes_out_in_pieces(gateway: Gateway, outside: OutsideServer, ledger: Ledger) -> None:
    """A chunked request arrives whole."""
    caller_token = gateway.issue_token()
    gateway.bind(caller_token, ledger.binding("live"))
    with knock(gateway, caller_token, HOST, 443, secure=True) as sock:
        sock.sendall(
            b"POST /up HTTP/1.1\r\nHost: api.example.test\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
            b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        )
        read_all(sock)

    assert outside.seen[0].body == b"abcde"


def test_an_answer_that_breaks_off_breaks_off(python: ClientProcess, outside: OutsideServer, ledger: Ledger) -> None:
    """Half an answer is never taken for a whole one."""
    python.bind(ledger.binding("live"))

    out = python.ask("requests", "GET", f"{URL}/cut")

    assert "error" in out
    assert [call.outcome for call in ledger.calls] == ["failed"]


@pytest.mark.parametrize("mode", ["live", "record={}/calls.jsonl"])
def test_events_arrive_as_they_are_sent(
    gateway: Gateway, outside: OutsideServer, ledger: Ledger, tmp_path: Path, mode: str
) -> None:
    """The first event is here before the host sends the second; the call is in the ledger at the end."""
    caller_token = gateway.issue_token()
    gateway.bind(caller_token, ledger.binding(mode.format(tmp_path)))
    with knock(gateway, caller_token, HOST, 443, secure=True) as sock:
        sock.sendall(GET_EVENTS)
        read_until(sock, b"one")
        calls_by_then = list(ledger.calls)
        outside.go_on.set()
        rest = read_all(sock)

    assert b"two" in rest
    assert calls_by_then == []
    assert [call.outcome for call in ledger.calls] == ["sent"]


def test_a_client_that_leaves_has_made_the_call(gateway: Gateway, outside: OutsideServer, ledger: Ledger) -> None:
    """The row is written when the client leaves before the end of the response."""
    caller_token = gateway.issue_token()
    gateway.bind(caller_token, ledger.binding("live"))
    with knock(gateway, caller_token, HOST, 443, secure=True) as sock:
        sock.sendall(GET_EVENTS)
        read_until(sock, b"one")
    gateway.revoke_token(caller_token)

    wait_until(lambda: bool(ledger.calls))
    outside.go_on.set()

    assert [(call.status, call.outcome) for call in ledger.calls] == [(200, "sent")]

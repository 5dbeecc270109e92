"""HTTP through the gateway, to the byte."""

from __future__ import annotations

import base64
import json
import socket
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pdkernel.egress import Gateway
from tests.egress.kit import TOKEN, ClientProcess, Ledger, OutsideServer, knock, read_all, read_until, wait_until

HOST = "api.example.test"
URL = f"https://{HOST}"


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


def test_path_query_and_headers_leave_as_written(gateway: Gateway, outside: OutsideServer, ledger: Ledger) -> None:
    """Nothing is decoded or added: `%2F` stays, a GET gets no length, the connection's own headers stay behind."""
    ticket = gateway.open_ticket()
    gateway.bind(ticket, ledger.binding("live"))
    with knock(gateway, ticket, HOST, 443, secure=True) as sock:
        sock.sendall(
            b"GET /a%2Fb/../c?q=%20+x&&y HTTP/1.1\r\nHost: api.example.test\r\nX-Odd: 1\r\nX-Odd: 2\r\n"
            b"Proxy-Connection: keep-alive\r\nConnection: close, x-hop\r\nX-Hop: 1\r\n\r\n"
        )
        read_all(sock)

    seen = outside.seen[0]
    assert seen.path == "/a%2Fb/../c?q=%20+x&&y"
    assert not {"content-length", "transfer-encoding", "proxy-connection", "x-hop", "user-agent"} & set(seen.headers)


def test_a_client_that_asks_before_its_body_is_told_to_go_on(
    gateway: Gateway, outside: OutsideServer, ledger: Ledger
) -> None:
    """`Expect: 100-continue` is answered with 100, then with the answer."""
    ticket = gateway.open_ticket()
    gateway.bind(ticket, ledger.binding("live"))
    with knock(gateway, ticket, HOST, 443, secure=True) as sock:
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
    ticket = gateway.open_ticket()
    gateway.bind(ticket, ledger.binding("live"))
    with knock(gateway, ticket, HOST, 443, secure=True) as sock:
        sock.sendall(
            b"POST /up HTTP/1.1\r\nHost: api.example.test\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
            b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        )
        read_all(sock)

    assert outside.seen[0].body == b"abcde"


def test_requests_one_behind_the_other_are_answered_in_order(
    gateway: Gateway, outside: OutsideServer, ledger: Ledger
) -> None:
    """A client need not wait for one answer before it asks again."""
    ticket = gateway.open_ticket()
    gateway.bind(ticket, ledger.binding("live"))
    with knock(gateway, ticket, HOST, 443, secure=True) as sock:
        sock.sendall(b"GET /one HTTP/1.1\r\nHost: a\r\n\r\nGET /two HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answers = read_all(sock)

    assert answers.count(b"HTTP/1.1 200") == 2
    assert [seen.path for seen in outside.seen] == ["/one", "/two"]


def test_an_answer_that_breaks_off_breaks_off(python: ClientProcess, outside: OutsideServer, ledger: Ledger) -> None:
    """Half an answer is never taken for a whole one."""
    python.bind(ledger.binding("live"))

    out = python.ask("requests", "GET", f"{URL}/cut")

    assert "error" in out
    assert [call.outcome for call in ledger.calls] == ["failed"]


def test_a_host_that_is_not_there_is_a_marked_502(python: ClientProcess, ledger: Ledger) -> None:
    """A live call without an answer says so; it is no refusal."""
    python.bind(ledger.binding("live"))

    got = python.request("requests", "GET", "https://nowhere.invalid/")

    assert (got.status, got.headers["x-pdkernel-egress"]) == (502, "upstream")
    assert [call.outcome for call in ledger.calls] == ["failed"]
    assert ledger.refused == []


def test_what_cannot_be_read_is_a_bad_request(gateway: Gateway, ledger: Ledger) -> None:
    """A request that is not HTTP after its first line is answered 400."""
    ticket = gateway.open_ticket()
    gateway.bind(ticket, ledger.binding("live"))
    with knock(gateway, ticket, HOST, 443, secure=True) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nnot a header\r\n\r\n")
        answer = read_all(sock)

    assert answer.startswith(b"HTTP/1.1 400")


def test_plain_http_passes_too(
    node: ClientProcess, plain_outside: OutsideServer, outside: OutsideServer, ledger: Ledger
) -> None:
    """Plain HTTP is caught like https, by the hook and by the proxy variables."""
    node.bind(ledger.binding("live"))

    got = node.request("http.request", "POST", "http://api.example.test/x", "hello")

    assert got.status == 200
    assert (ledger.calls[0].url, plain_outside.seen[0].body) == ("http://api.example.test/x", b"hello")


def test_curl_uses_absolute_form_for_plain_http(
    python: ClientProcess, plain_outside: OutsideServer, outside: OutsideServer, ledger: Ledger
) -> None:
    """A request in absolute form is taken apart into host and path."""
    python.bind(ledger.binding("live"))

    got = python.request("curl", "POST", "http://api.example.test/x?y=1", "hello")

    assert got.status == 200
    assert (plain_outside.seen[0].path, plain_outside.seen[0].headers["host"]) == ("/x?y=1", "api.example.test")
    assert "proxy-authorization" not in plain_outside.seen[0].headers


def test_only_listed_hosts_are_let_out(python: ClientProcess, outside: OutsideServer, ledger: Ledger) -> None:
    """With a list of hosts, the others are refused."""
    python.bind(ledger.binding("allow=api.example.test"))

    statuses = [python.request("httpx", "GET", f"https://{host}/").status for host in (HOST, "other.example.test")]

    assert statuses == [200, 403]
    assert [call.outcome for call in ledger.calls] == ["sent", "denied"]
    assert "allow=api.example.test" in ledger.refused[0]


def test_a_stand_in_that_is_down_is_a_marked_502(python: ClientProcess, ledger: Ledger) -> None:
    """The message names who did not answer."""
    python.bind(ledger.binding("stand-in=http://127.0.0.1:9"))

    got = python.request("httpx", "GET", f"{URL}/")

    assert (got.status, got.headers["x-pdkernel-egress"]) == (502, "upstream")


def test_the_app_is_known_by_its_credential(python: ClientProcess, outside: OutsideServer, ledger: Ledger) -> None:
    """A call is its app's when it carries a credential of its account: in a header, the URL or the body."""
    python.bind(ledger.binding("live"))
    python.request("http.client", "GET", f"{URL}/", headers={"authorization": f"Bearer {TOKEN}"})
    python.request("http.client", "GET", f"{URL}/?auth={TOKEN}")
    python.request("http.client", "POST", f"{URL}/", json.dumps({"auth": TOKEN}))
    python.request("http.client", "GET", f"{URL}/")

    assert [call.app for call in ledger.calls] == ["slack", "slack", "slack", None]
    assert TOKEN not in repr(ledger.calls)
    assert TOKEN in outside.seen[1].path


def test_a_value_under_a_telling_name_is_hidden_from_the_ledger(
    python: ClientProcess, outside: OutsideServer, ledger: Ledger
) -> None:
    """A token that nobody told us of does not stand in the ledger's URL."""
    python.bind(ledger.binding("live"))

    python.request("requests", "GET", f"{URL}/?access_token=abc123&page=2")

    assert ledger.calls[0].url == f"{URL}/?access_token={{{{redacted}}}}&page=2"
    assert "access_token=abc123" in outside.seen[0].path


GET_EVENTS = b"GET /events HTTP/1.1\r\nHost: api.example.test\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("mode", ["live", "record={}/calls.jsonl"])
def test_events_arrive_as_they_are_sent(
    gateway: Gateway, outside: OutsideServer, ledger: Ledger, tmp_path: Path, mode: str
) -> None:
    """The first event is here before the host sends the second; the call is in the ledger at the end."""
    ticket = gateway.open_ticket()
    gateway.bind(ticket, ledger.binding(mode.format(tmp_path)))
    with knock(gateway, ticket, HOST, 443, secure=True) as sock:
        sock.sendall(GET_EVENTS)
        read_until(sock, b"one")
        calls_by_then = list(ledger.calls)
        outside.go_on.set()
        rest = read_all(sock)

    assert b"two" in rest
    assert calls_by_then == []
    assert [call.outcome for call in ledger.calls] == ["sent"]


def test_a_client_that_leaves_has_made_the_call(gateway: Gateway, outside: OutsideServer, ledger: Ledger) -> None:
    """Its row is written when the rest of the answer has nobody to go to."""
    ticket = gateway.open_ticket()
    gateway.bind(ticket, ledger.binding("live"))
    with knock(gateway, ticket, HOST, 443, secure=True) as sock:
        sock.sendall(GET_EVENTS)
        read_until(sock, b"one")
    gateway.close_ticket(ticket)

    wait_until(lambda: bool(ledger.calls))
    outside.go_on.set()

    assert [(call.status, call.outcome) for call in ledger.calls] == [(200, "sent")]


@pytest.mark.parametrize("door", ["connect", "absolute", "hook"])
def test_this_machine_is_not_outside_at_any_door(
    gateway: Gateway, plain_outside: OutsideServer, ledger: Ledger, door: str
) -> None:
    """A client that asks the gateway for loopback gets there, in deny too, and the ledger has no row."""
    plain_outside.seen.clear()
    ticket = gateway.open_ticket()
    gateway.bind(ticket, ledger.binding("deny"))
    user = base64.b64encode(f"{ticket}:x".encode()).decode()
    place = f"127.0.0.1:{plain_outside.port}"
    target = f"http://{place}/here" if door == "absolute" else "/here"
    request = (
        f"GET {target} HTTP/1.1\r\nHost: {place}\r\nProxy-Authorization: Basic {user}\r\nConnection: close\r\n\r\n"
    )
    if door == "hook":
        sock = knock(gateway, ticket, "127.0.0.1", plain_outside.port, secure=False)
    else:
        sock = socket.create_connection(("127.0.0.1", gateway.port), timeout=10)
    with sock:
        if door == "connect":
            sock.sendall(f"CONNECT {place} HTTP/1.1\r\nProxy-Authorization: Basic {user}\r\n\r\n".encode())
            read_until(sock, b"\r\n\r\n")
        sock.sendall(request.encode())
        answer = read_all(sock)

    assert answer.startswith(b"HTTP/1.1 200")
    assert plain_outside.seen[0].path == "/here"
    assert ledger.calls == []


def test_many_at_once_are_each_answered(gateway: Gateway, outside: OutsideServer, ledger: Ledger) -> None:
    """Forty connections at the same time get forty answers."""
    ticket = gateway.open_ticket()
    gateway.bind(ticket, ledger.binding("live"))
    socks = [knock(gateway, ticket, HOST, 443, secure=True) for _ in range(40)]
    for number, sock in enumerate(socks):
        sock.sendall(f"GET /{number} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())

    answers = [read_all(sock) for sock in socks]
    for sock in socks:
        sock.close()

    assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)
    assert {seen.path for seen in outside.seen} == {f"/{number}" for number in range(40)}
    assert len(ledger.calls) == 40


_CHARACTERS = "abcXYZ019-._~!$'()*+,;=:@/%"


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(path=st.text(_CHARACTERS, max_size=40), query=st.none() | st.text(_CHARACTERS + "?&", max_size=40))
def test_any_target_leaves_as_written(
    gateway: Gateway, plain_outside: OutsideServer, path: str, query: str | None
) -> None:
    """Behind the hook and in absolute form, path and query go out to the byte."""
    ledger = Ledger()
    ticket = gateway.open_ticket()
    gateway.bind(ticket, ledger.binding("live"))
    plain_outside.seen.clear()
    target = f"/x{path}" + ("" if query is None else f"?{query}")
    user = base64.b64encode(f"{ticket}:x".encode()).decode()
    for door in ("hook", "absolute"):
        head = f"Host: {HOST}\r\nProxy-Authorization: Basic {user}\r\nConnection: close\r\n\r\n"
        if door == "hook":
            sock = knock(gateway, ticket, HOST, 80, secure=False)
            start = f"GET {target} HTTP/1.1\r\n"
        else:
            sock = socket.create_connection(("127.0.0.1", gateway.port), timeout=10)
            start = f"GET http://{HOST}{target} HTTP/1.1\r\n"
        with sock:
            sock.sendall((start + head).encode())
            read_all(sock)
    gateway.close_ticket(ticket)

    assert [seen.path for seen in plain_outside.seen] == [target, target]

"""TLS, WebSockets and HTTP/2: the host's name, and connections passed through unread in live and refused in other modes."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest
import trustme

from pdkernel.egress import Gateway
from tests.egress.hosts import client_context, echo, gateway_to, host, websocket
from tests.egress.kit import Ledger, Loop, OutsideServer, issue_bound_token, knock, outside_context, read_until

ASK = b"GET /ws HTTP/1.1\r\nHost: db.example.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


def test_a_websocket_works_in_live(loop: Loop, tmp_path: Path, ledger: Ledger) -> None:
    """After the host accepts, bytes pass in both directions."""
    with host(websocket) as port, gateway_to(loop, tmp_path, port, meant=80) as (gateway, caller_token):
        gateway.bind(caller_token, ledger.binding("live"))
        with knock(gateway, caller_token, "db.example.test", 80, secure=False) as sock:
            sock.sendall(ASK)
            head = read_until(sock, b"\r\n\r\n")
            sock.sendall(b"ping")
            answer = sock.recv(100)

    assert head.startswith(b"HTTP/1.1 101")
    assert answer == b"ping"
    assert [(call.method, call.url, call.status) for call in ledger.calls] == [
        ("GET", "http://db.example.test/ws", 101)
    ]


@pytest.mark.parametrize("mode", ["deny", "stand-in=slack", "record={}/calls.jsonl"])
def test_a_websocket_is_refused_in_other_modes(gateway: Gateway, ledger: Ledger, tmp_path: Path, mode: str) -> None:
    """In other modes the request is answered with 403."""
    caller_token = issue_bound_token(gateway, ledger, mode.format(tmp_path))
    with knock(gateway, caller_token, "db.example.test", 443, secure=True) as sock:
        sock.sendall(ASK)
        head = read_until(sock, b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 403")
    assert b"x-pdkernel-egress: upgrade" in head
    assert len(ledger.refused) == 1


def test_the_name_in_the_tls_identifies_the_host(gateway: Gateway, ledger: Ledger, outside: OutsideServer) -> None:
    """For a client that resolved the name itself, rows, policies and recordings use the name in its TLS."""
    caller_token = issue_bound_token(gateway, ledger, "allow=slack.com")
    project_ca = gateway.build_environment(caller_token, "python")["NODE_EXTRA_CA_CERTS"]
    with (
        knock(gateway, caller_token, "203.0.113.5", 443, secure=False) as plain,
        ssl.create_default_context(cafile=project_ca).wrap_socket(plain, server_hostname="slack.com") as sock,
    ):
        sock.sendall(b"GET /x HTTP/1.1\r\nHost: slack.com\r\nConnection: close\r\n\r\n")
        answer = read_until(sock, b"\r\n")

    assert answer == b"HTTP/1.1 200 OK\r\n"
    assert [call.url for call in ledger.calls] == ["https://slack.com/x"]
    assert len(outside.seen) == 1


def test_a_client_that_speaks_only_http2_is_passed_through(
    loop: Loop, tmp_path: Path, ledger: Ledger, authority: trustme.CA, outside_ca: Path
) -> None:
    """The TLS of the client is not opened: it gets the host's own certificate."""
    server = outside_context(authority)
    server.set_alpn_protocols(["h2"])
    with (
        host(echo, server) as port,
        gateway_to(loop, tmp_path, port, meant=443, ca=outside_ca) as (gateway, caller_token),
    ):
        gateway.bind(caller_token, ledger.binding("live"))
        with (
            knock(gateway, caller_token, "slack.com", 443, secure=False) as plain,
            client_context(outside_ca, "h2").wrap_socket(plain, server_hostname="slack.com") as sock,
        ):
            sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            answer = sock.recv(100)

    assert answer.startswith(b"PRI *")
    assert [(call.url, call.outcome) for call in ledger.calls] == [("https://slack.com", "sent")]


def test_http2_behind_the_node_hook_is_passed_through(
    loop: Loop, tmp_path: Path, ledger: Ledger, authority: trustme.CA, outside_ca: Path
) -> None:
    """The hook's client sends without TLS; the gateway makes the TLS connection with the client's protocol."""
    server = outside_context(authority)
    server.set_alpn_protocols(["h2"])
    chosen: list[str | None] = []

    def play(sock: socket.socket) -> None:
        assert isinstance(sock, ssl.SSLSocket)
        chosen.append(sock.selected_alpn_protocol())
        echo(sock)

    with (
        host(play, server) as port,
        gateway_to(loop, tmp_path, port, meant=443, ca=outside_ca) as (gateway, caller_token),
    ):
        gateway.bind(caller_token, ledger.binding("live"))
        line = f'PDK1 {{"host":"slack.com","port":443,"tls":true,"alpn":["h2"],"token":"{caller_token}"}}\n'
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as sock:
            sock.sendall(line.encode() + b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            answer = sock.recv(100)

    assert answer.startswith(b"PRI *")
    assert chosen == ["h2"]

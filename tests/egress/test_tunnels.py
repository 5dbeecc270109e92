"""What is not HTTP/1.1: passed through unread in live, refused elsewhere."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from pdkernel.egress import Gateway
from tests.egress.kit import (
    TOKEN,
    Ledger,
    Loop,
    OutsideServer,
    knock,
    outside_context,
    read_all,
    read_until,
    wait_until,
)

Play = Callable[[socket.socket], None]


@contextmanager
def host(play: Play, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """A host that plays *play* with its first client; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)

        def serve() -> None:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            client.settimeout(10)
            with client:
                if context is None:
                    play(client)
                    return
                with context.wrap_socket(client, server_side=True) as secure:
                    play(secure)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield int(listener.getsockname()[1])
        listener.close()
        thread.join(10)


def echo(sock: socket.socket) -> None:
    """Give back one piece."""
    sock.sendall(sock.recv(100))


def greet(sock: socket.socket) -> None:
    """Speak first, as a database does."""
    sock.sendall(b"220 ready\r\n")
    sock.recv(100)


def websocket(sock: socket.socket) -> None:
    """Agree to a WebSocket, and give back one piece."""
    head = read_until(sock, b"\r\n\r\n")
    agreed = b"upgrade: websocket" in head.lower()
    sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n" if agreed else b"HTTP/1.1 400 No\r\n\r\n")
    sock.sendall(sock.recv(100))


@contextmanager
def gateway_to(
    loop: Loop, folder: Path, port: int, *, meant: int, ca: Path | None = None
) -> Iterator[tuple[Gateway, str]]:
    """A gateway that finds db.example.test:*meant* at *port* of this machine, and a ticket."""
    resolve = {("db.example.test", meant): ("127.0.0.1", port), ("slack.com", meant): ("127.0.0.1", port)}
    gateway = loop.run(Gateway.start(folder, resolve=resolve, upstream_ca=ca, environ={}))
    try:
        yield gateway, gateway.open_ticket()
    finally:
        loop.run(gateway.close())


def test_a_database_is_reached_in_live(loop: Loop, tmp_path: Path, ledger: Ledger) -> None:
    """Bytes that are no HTTP pass both ways; the ledger has host and port."""
    with host(echo) as port, gateway_to(loop, tmp_path, port, meant=5432) as (gateway, ticket):
        gateway.bind(ticket, ledger.binding("live"))
        with knock(gateway, ticket, "db.example.test", 5432, secure=False) as sock:
            sock.sendall(b"\x00\x00\x00\x08\x04\xd2\x16\x2f")
            answer = sock.recv(100)

    assert answer == b"\x00\x00\x00\x08\x04\xd2\x16\x2f"
    assert [(call.method, call.url, call.outcome) for call in ledger.calls] == [
        ("CONNECT", "tcp://db.example.test:5432", "sent")
    ]


def test_a_host_that_speaks_first_is_reached_in_live(loop: Loop, tmp_path: Path, ledger: Ledger) -> None:
    """A client that waits for the host's greeting gets it."""
    with host(greet) as port, gateway_to(loop, tmp_path, port, meant=25) as (gateway, ticket):
        gateway.bind(ticket, ledger.binding("live"))
        with knock(gateway, ticket, "db.example.test", 25, secure=False) as sock:
            greeting = read_until(sock, b"\n")
            sock.sendall(b"QUIT\r\n")

    assert greeting == b"220 ready\r\n"


@pytest.mark.parametrize("mode", ["deny", "allow=slack.com", "stand-in=slack", "record={}/calls.jsonl"])
@pytest.mark.parametrize("first", [b"\x00\x00\x00\x08", b""])
def test_a_database_is_not_reached_elsewhere(
    gateway: Gateway, ledger: Ledger, tmp_path: Path, mode: str, first: bytes
) -> None:
    """In other modes the connection is closed, and the run is told why."""
    ticket = gateway.open_ticket()
    gateway.bind(ticket, ledger.binding(mode.format(tmp_path)))
    with knock(gateway, ticket, "db.example.test", 5432, secure=False) as sock:
        sock.sendall(first)
        try:
            answer = read_all(sock)
        except ConnectionResetError:
            answer = b""

    assert answer == b""
    assert [call.outcome for call in ledger.calls] == ["denied"]
    assert "tcp://db.example.test:5432" in ledger.refused[0]


ASK = b"GET /ws HTTP/1.1\r\nHost: db.example.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


def test_a_websocket_works_in_live(loop: Loop, tmp_path: Path, ledger: Ledger) -> None:
    """After the host agrees, bytes pass both ways."""
    with host(websocket) as port, gateway_to(loop, tmp_path, port, meant=80) as (gateway, ticket):
        gateway.bind(ticket, ledger.binding("live"))
        with knock(gateway, ticket, "db.example.test", 80, secure=False) as sock:
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
def test_a_websocket_is_refused_before_it_begins(gateway: Gateway, ledger: Ledger, tmp_path: Path, mode: str) -> None:
    """Elsewhere the request for it is answered 403."""
    ticket = gateway.open_ticket()
    gateway.bind(ticket, ledger.binding(mode.format(tmp_path)))
    with knock(gateway, ticket, "db.example.test", 443, secure=True) as sock:
        sock.sendall(ASK)
        head = read_until(sock, b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 403")
    assert b"x-pdkernel-egress: upgrade" in head
    assert len(ledger.refused) == 1


def client_context(ca: Path, *protocols: str) -> ssl.SSLContext:
    """A client's TLS that trusts *ca* and offers *protocols*."""
    context = ssl.create_default_context(cafile=str(ca))
    context.set_alpn_protocols(list(protocols))
    return context


def test_a_client_that_speaks_only_http2_is_passed_through(
    loop: Loop, tmp_path: Path, ledger: Ledger, authority: trustme.CA, outside_ca: Path
) -> None:
    """Its TLS stays closed: it meets the host's own certificate."""
    server = outside_context(authority)
    server.set_alpn_protocols(["h2"])
    with (
        host(echo, server) as port,
        gateway_to(loop, tmp_path, port, meant=443, ca=outside_ca) as (gateway, ticket),
    ):
        gateway.bind(ticket, ledger.binding("live"))
        with (
            knock(gateway, ticket, "slack.com", 443, secure=False) as plain,
            client_context(outside_ca, "h2").wrap_socket(plain, server_hostname="slack.com") as sock,
        ):
            sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            answer = sock.recv(100)

    assert answer.startswith(b"PRI *")
    assert [(call.url, call.outcome) for call in ledger.calls] == [("https://slack.com", "sent")]


def test_http2_behind_the_node_hook_is_passed_through(
    loop: Loop, tmp_path: Path, ledger: Ledger, authority: trustme.CA, outside_ca: Path
) -> None:
    """The hook's client speaks plainly; the gateway makes the TLS, with the protocol that the client wanted."""
    server = outside_context(authority)
    server.set_alpn_protocols(["h2"])
    chosen: list[str | None] = []

    def play(sock: socket.socket) -> None:
        assert isinstance(sock, ssl.SSLSocket)
        chosen.append(sock.selected_alpn_protocol())
        echo(sock)

    with (
        host(play, server) as port,
        gateway_to(loop, tmp_path, port, meant=443, ca=outside_ca) as (gateway, ticket),
    ):
        gateway.bind(ticket, ledger.binding("live"))
        line = f'PDK1 {{"host":"slack.com","port":443,"tls":true,"alpn":["h2"],"ticket":"{ticket}"}}\n'
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as sock:
            sock.sendall(line.encode() + b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            answer = sock.recv(100)

    assert answer.startswith(b"PRI *")
    assert chosen == ["h2"]


def test_a_host_can_be_left_unopened(
    loop: Loop, tmp_path: Path, ledger: Ledger, authority: trustme.CA, outside_ca: Path
) -> None:
    """A client that pins the host's certificate meets it; the ledger has host and port only."""
    with (
        host(echo, outside_context(authority)) as port,
        gateway_to(loop, tmp_path, port, meant=443, ca=outside_ca) as (gateway, ticket),
    ):
        gateway.bind(ticket, ledger.binding("live", unopened=("slack.com",)))
        with (
            knock(gateway, ticket, "slack.com", 443, secure=False) as plain,
            client_context(outside_ca, "http/1.1").wrap_socket(plain, server_hostname="slack.com") as sock,
        ):
            sock.sendall(TOKEN.encode())
            answer = sock.recv(100)

    assert answer == TOKEN.encode()
    assert [(call.method, call.url) for call in ledger.calls] == [("CONNECT", "https://slack.com")]


@pytest.mark.parametrize(("mode", "outcome"), [("live", "failed"), ("deny", "denied")])
def test_a_client_that_rejects_the_certificate_is_named(
    gateway: Gateway, ledger: Ledger, outside_ca: Path, mode: str, outcome: str
) -> None:
    """The ledger says which host, and what can be done."""
    ticket = gateway.open_ticket()
    gateway.bind(ticket, ledger.binding(mode))
    with knock(gateway, ticket, "slack.com", 443, secure=False) as plain, pytest.raises(ssl.SSLError):
        client_context(outside_ca, "http/1.1").wrap_socket(plain, server_hostname="slack.com")
    wait_until(lambda: bool(ledger.calls))

    assert [(call.url, call.outcome) for call in ledger.calls] == [("https://slack.com", outcome)]
    assert "does not accept the project's certificate" in (ledger.calls[0].note or "")


def test_tls_that_is_no_http_is_carried_on(
    loop: Loop, tmp_path: Path, ledger: Ledger, authority: trustme.CA, outside_ca: Path
) -> None:
    """A mail client's TLS meets the project's certificate, and the mail server behind it."""
    with (
        host(greet, outside_context(authority)) as port,
        gateway_to(loop, tmp_path, port, meant=993, ca=outside_ca) as (gateway, ticket),
    ):
        gateway.bind(ticket, ledger.binding("live"))
        project_ca = gateway.environment(ticket, "python")["NODE_EXTRA_CA_CERTS"]
        context = ssl.create_default_context(cafile=project_ca)
        with (
            knock(gateway, ticket, "slack.com", 993, secure=False) as plain,
            context.wrap_socket(plain, server_hostname="slack.com") as sock,
        ):
            greeting = read_until(sock, b"\n")
            sock.sendall(b"QUIT\r\n")

    assert greeting == b"220 ready\r\n"


def test_calls_go_through_the_upstream_proxy(loop: Loop, tmp_path: Path, ledger: Ledger) -> None:
    """With `via`, the proxy is asked and the host is not dialled."""
    asked: list[bytes] = []

    def proxy(sock: socket.socket) -> None:
        asked.append(read_until(sock, b"\r\n\r\n"))
        sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    with host(proxy) as port, gateway_to(loop, tmp_path, port, meant=1) as (gateway, ticket):
        gateway.bind(ticket, ledger.binding("live", via=f"http://127.0.0.1:{port}"))
        with knock(gateway, ticket, "nowhere.invalid", 80, secure=False) as sock:
            sock.sendall(b"GET /a%2Fb HTTP/1.1\r\nHost: nowhere.invalid\r\nConnection: close\r\n\r\n")
            answer = read_all(sock)

    assert answer.endswith(b"ok")
    assert asked[0].startswith(b"GET http://nowhere.invalid:80/a%2Fb HTTP/1.1")


def test_two_gateways_in_a_row(
    loop: Loop, gateway: Gateway, outside: OutsideServer, ledger: Ledger, tmp_path: Path
) -> None:
    """An upstream proxy with a name and a password is asked for https too, and never learns the first one's ticket."""
    behind = Ledger()
    second = gateway.open_ticket()
    gateway.bind(second, behind.binding("live"))
    ca = Path(gateway.environment(second, "python")["NODE_EXTRA_CA_CERTS"])
    first = loop.run(Gateway.start(tmp_path, upstream_ca=ca, environ={}))
    ticket = first.open_ticket()
    first.bind(ticket, ledger.binding("live", via=f"http://{second}:x@127.0.0.1:{gateway.port}"))
    with knock(first, ticket, "api.example.test", 443, secure=True) as sock:
        sock.sendall(b"GET /far HTTP/1.1\r\nHost: api.example.test\r\nConnection: close\r\n\r\n")
        answer = read_all(sock)
    loop.run(first.close())

    assert answer.startswith(b"HTTP/1.1 200")
    assert [seen.path for seen in outside.seen] == ["/far"]
    assert ([call.outcome for call in ledger.calls], [call.outcome for call in behind.calls]) == (["sent"], ["sent"])

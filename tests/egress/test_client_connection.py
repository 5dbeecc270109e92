"""The target of a client, in each form; and protocols other than plain HTTP: passed through unread in live, else refused."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import h11
import pytest
import trustme

from pdkernel.egress import Gateway
from pdkernel.egress.client_connection import (
    PER_REQUEST_TARGET,
    ProxyTarget,
    parse_proxy_token,
    read_proxy_target,
)
from pdkernel.egress.message import Body
from pdkernel.model import JSON
from tests.egress.hosts import Play, client_context, echo, gateway_to, greet, host, websocket
from tests.egress.kit import (
    PYTHON_HOOK,
    TOKEN,
    Ledger,
    Loop,
    OutsideServer,
    closed_port,
    issue_bound_token,
    knock,
    node_paths,
    outside_context,
    read_all,
    read_until,
    wait_until,
)


@pytest.mark.parametrize(
    ("play", "sent", "answer"),
    [(echo, b"\x00\x00\x00\x08\x04\xd2\x16\x2f", b"\x00\x00\x00\x08\x04\xd2\x16\x2f"), (greet, b"", b"220 ready\r\n")],
    ids=["client first", "host first"],
)
def test_a_database_is_reached_in_live(
    loop: Loop, tmp_path: Path, ledger: Ledger, play: Play, sent: bytes, answer: bytes
) -> None:
    """Bytes that are not HTTP pass in both directions, also if the client waits for the host's greeting; the ledger has host and port."""
    with host(play) as port, gateway_to(loop, tmp_path, port, meant=5432) as (gateway, caller_token):
        gateway.bind(caller_token, ledger.binding("live"))
        with knock(gateway, caller_token, "db.example.test", 5432, secure=False) as sock:
            sock.sendall(sent)
            received = read_until(sock, answer)
            sock.sendall(b"QUIT\r\n")
    assert received == answer
    assert [(call.method, call.url, call.outcome) for call in ledger.calls] == [
        ("CONNECT", "tcp://db.example.test:5432", "sent")
    ]


@pytest.mark.parametrize("mode", ["deny", "allow=slack.com", "stand-in=slack", "record={}/calls.jsonl"])
@pytest.mark.parametrize("first", [b"\x00\x00\x00\x08", b""])
def test_a_database_is_refused_in_other_modes(
    gateway: Gateway, ledger: Ledger, tmp_path: Path, mode: str, first: bytes
) -> None:
    """In other modes, the connection is closed, and the reason is reported to the run."""
    caller_token = issue_bound_token(gateway, ledger, mode.format(tmp_path))
    with knock(gateway, caller_token, "db.example.test", 5432, secure=False) as sock:
        sock.sendall(first)
        try:
            answer = read_all(sock)
        except ConnectionResetError:
            answer = b""

    assert answer == b""
    assert [call.outcome for call in ledger.calls] == ["denied"]
    assert "tcp://db.example.test:5432" in ledger.refused[0]


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("live", "it cannot go through the upstream proxy"),
        ("allow=slack.com", "Only `live`, or `allow=` with this host"),
    ],
)
def test_a_database_is_not_reached_through_a_proxy(gateway: Gateway, ledger: Ledger, mode: str, said: str) -> None:
    """The proxy is the reason only where the mode allows the host."""
    caller_token = issue_bound_token(gateway, ledger, f"{mode} via=http://127.0.0.1:{closed_port()}")
    with knock(gateway, caller_token, "db.example.test", 5432, secure=False) as sock, suppress(ConnectionResetError):
        sock.sendall(b"\x00\x00\x00\x08")
        assert read_all(sock) == b""

    assert said in ledger.refused[0]
    assert [call.outcome for call in ledger.calls] == ["denied"]


def test_a_host_can_be_left_unopened(
    loop: Loop, tmp_path: Path, ledger: Ledger, authority: trustme.CA, outside_ca: Path
) -> None:
    """A client that pins the host's certificate gets that certificate; the ledger has host and port only."""
    with (
        host(echo, outside_context(authority)) as port,
        gateway_to(loop, tmp_path, port, meant=443, ca=outside_ca) as (gateway, caller_token),
    ):
        gateway.bind(caller_token, ledger.binding("live", unopened=("slack.com",)))
        with (
            knock(gateway, caller_token, "slack.com", 443, secure=False) as plain,
            client_context(outside_ca, "http/1.1").wrap_socket(plain, server_hostname="slack.com") as sock,
        ):
            sock.sendall(TOKEN.encode())
            answer = sock.recv(100)

    assert answer == TOKEN.encode()
    assert [(call.method, call.url) for call in ledger.calls] == [("CONNECT", "https://slack.com")]


@pytest.mark.parametrize(("mode", "outcome"), [("live", "failed"), ("deny", "denied")])
def test_a_rejected_certificate_is_reported(
    gateway: Gateway, ledger: Ledger, outside_ca: Path, mode: str, outcome: str
) -> None:
    """The ledger has the host and a fix."""
    caller_token = issue_bound_token(gateway, ledger, mode)
    with knock(gateway, caller_token, "slack.com", 443, secure=False) as plain, pytest.raises(ssl.SSLError):
        client_context(outside_ca, "http/1.1").wrap_socket(plain, server_hostname="slack.com")
    wait_until(lambda: bool(ledger.calls))

    assert [(call.url, call.outcome) for call in ledger.calls] == [("https://slack.com", outcome)]
    assert "does not accept the project's certificate" in (ledger.calls[0].note or "")


@contextmanager
def knock_by_tls(gateway: Gateway, caller_token: str, port: int) -> Iterator[ssl.SSLSocket]:
    """A connection to *port* of slack.com, with TLS that verifies the certificate of the project."""
    project_ca = gateway.build_environment(caller_token, "python")["NODE_EXTRA_CA_CERTS"]
    context = ssl.create_default_context(cafile=project_ca)
    with (
        knock(gateway, caller_token, "slack.com", port, secure=False) as plain,
        context.wrap_socket(plain, server_hostname="slack.com") as sock,
    ):
        yield sock


def test_a_client_that_leaves_after_its_handshake(
    loop: Loop, tmp_path: Path, ledger: Ledger, authority: trustme.CA, outside_ca: Path
) -> None:
    """The connection that the gateway has opened to the host is closed when the client sends no request."""
    received: list[bytes] = []

    def read(sock: socket.socket) -> None:
        received.append(sock.recv(100))

    with (
        host(read, outside_context(authority)) as port,
        gateway_to(loop, tmp_path, port, meant=443, ca=outside_ca) as (gateway, caller_token),
    ):
        gateway.bind(caller_token, ledger.binding("live"))
        with knock_by_tls(gateway, caller_token, 443):
            pass
        wait_until(lambda: bool(received))

    assert received == [b""]
    assert ledger.calls == []


@pytest.mark.parametrize(
    ("play", "silence_s", "sent", "answer"),
    [
        (greet, 3, b"", b"220 ready\r\n"),  # for the start of TLS; inside TLS, the client is silent until its greeting
        (echo, 60, b"\x10\x0c\x00\x04MQTT", b"\x10\x0c\x00\x04MQTT"),
    ],
    ids=["mail", "the first bytes are not HTTP"],
)
def test_tls_without_http_is_passed_on(
    loop: Loop,
    tmp_path: Path,
    ledger: Ledger,
    authority: trustme.CA,
    outside_ca: Path,
    play: Play,
    silence_s: float,
    sent: bytes,
    answer: bytes,
) -> None:
    """TLS of another protocol ends at the gateway, which connects to the host by TLS and passes on all bytes, also the first ones."""
    with (
        host(play, outside_context(authority)) as port,
        gateway_to(loop, tmp_path, port, meant=8883, ca=outside_ca) as (gateway, caller_token),
    ):
        gateway.silence_s = silence_s
        gateway.bind(caller_token, ledger.binding("live"))
        with knock_by_tls(gateway, caller_token, 8883) as sock:
            sock.sendall(sent)
            received = read_until(sock, answer)
            sock.sendall(b"QUIT\r\n")
    assert received == answer
    assert [(call.url, call.outcome) for call in ledger.calls] == [("https://slack.com:8883", "sent")]


def test_closing_the_gateway_ends_a_silent_client_inside_tls(loop: Loop, tmp_path: Path, ledger: Ledger) -> None:
    """The gateway does not wait for a client that has established TLS and sends nothing."""
    with gateway_to(loop, tmp_path, closed_port(), meant=8080) as (gateway, caller_token):
        gateway.bind(caller_token, ledger.binding("deny"))
        with knock_by_tls(gateway, caller_token, 8080) as sock:
            loop.run(gateway.close())
            with suppress(OSError):
                assert sock.recv(100) == b""

    assert ledger.calls == []


# ── TLS, WebSockets and HTTP/2 ──────────────────────────────────────────────────────────────────────────


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


def test_a_websocket_to_a_host_that_refuses(loop: Loop, tmp_path: Path, ledger: Ledger) -> None:
    """The connection is reset as without a gateway, and the row has the cause."""
    with gateway_to(loop, tmp_path, closed_port(), meant=80) as (gateway, caller_token):
        gateway.bind(caller_token, ledger.binding("live"))
        with knock(gateway, caller_token, "db.example.test", 80, secure=False) as sock:
            sock.sendall(ASK)
            with pytest.raises(ConnectionResetError):
                sock.recv(100)

    assert [(call.url, call.outcome, call.note) for call in ledger.calls] == [
        (
            "http://db.example.test/ws",
            "failed",
            "no response: db.example.test:80 refused the connection (ECONNREFUSED).",
        )
    ]


@pytest.mark.parametrize("mode", ["deny", "stand-in=slack", "record={}/calls.jsonl", "live via=http://127.0.0.1:9"])
def test_a_websocket_is_refused_in_other_modes(gateway: Gateway, ledger: Ledger, tmp_path: Path, mode: str) -> None:
    """In other modes, and with an upstream proxy, the request is answered with 403."""
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
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=60) as sock:
            sock.sendall(line.encode() + b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            answer = sock.recv(100)

    assert answer.startswith(b"PRI *")
    assert chosen == ["h2"]


# ── mail by SMTP with STARTTLS ──────────────────────────────────────────────────────────────────────────


PYTHON = f"""
import importlib.util, smtplib, ssl, sys
spec = importlib.util.spec_from_file_location("egress_hook", {str(PYTHON_HOOK)!r})
spec.loader.exec_module(importlib.util.module_from_spec(spec))
try:
    with smtplib.SMTP("slack.com", 587, timeout=60) as mail:
        mail.starttls(context=ssl.create_default_context(cafile=sys.argv[1]))
        print(mail.ehlo()[0])
except (OSError, smtplib.SMTPException) as error:
    print(type(error).__name__)
"""
NODE = """
import net from "node:net"; import tls from "node:tls"; import fs from "node:fs";
const said = (socket) => new Promise((resolve, reject) => {
  socket.once("data", (data) => resolve(String(data))); socket.once("error", reject); socket.once("close", () => reject(new Error("closed")));
});
try {
  const plain = net.connect(587, "slack.com");
  await said(plain);
  plain.write("STARTTLS\\r\\n");
  await said(plain);
  plain.removeAllListeners();
  const secure = tls.connect({ socket: plain, servername: "slack.com", ca: fs.readFileSync(process.argv[1]) });
  await new Promise((resolve, reject) => { secure.once("secureConnect", resolve); secure.once("error", reject); });
  secure.write("EHLO me\\r\\n");
  console.log((await said(secure)).slice(0, 3));
  secure.end("QUIT\\r\\n");
} catch (error) { console.log(error.message); }
"""


def mail_server(context: ssl.SSLContext) -> Play:
    """A mail server for one client: greeting, STARTTLS, and a greeting by name inside."""

    def play(sock: socket.socket) -> None:
        sock.sendall(b"220 ready\r\n")
        while b"STARTTLS" not in (line := read_until(sock, b"\n").upper()):
            if not line:
                return
            sock.sendall(b"250-hello\r\n250 STARTTLS\r\n")
        sock.sendall(b"220 go ahead\r\n")
        with context.wrap_socket(sock, server_side=True) as secure:
            while (line := read_until(secure, b"\n").upper()) and not line.startswith(b"QUIT"):
                secure.sendall(b"250 hello, in private\r\n")
            secure.sendall(b"221 bye\r\n")

    return play


@pytest.fixture(params=["python", "node"])
def client(request: pytest.FixtureRequest, outside_ca: Path) -> list[str]:
    """A program that sends mail."""
    if request.param == "python":
        return [sys.executable, "-c", PYTHON, str(outside_ca)]
    return [str(node_paths()["wheel"]), "--input-type=module", "-e", NODE, str(outside_ca)]


@pytest.mark.parametrize("mode", ["live", "allow=slack.com"])
def test_mail_is_sent_in_live(
    loop: Loop, tmp_path: Path, ledger: Ledger, authority: trustme.CA, client: list[str], mode: str
) -> None:
    """The client's TLS has the mail server's own certificate; the ledger has host and port, and a note that the content was not read."""
    with (
        host(mail_server(outside_context(authority))) as port,
        gateway_to(loop, tmp_path, port, meant=587) as (gateway, caller_token),
    ):
        gateway.bind(caller_token, ledger.binding(mode))
        environment = {"PATH": os.environ["PATH"]} | gateway.build_environment(caller_token, "node")
        done = subprocess.run(client, env=environment, capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout.strip() == "250"
    assert [(call.method, call.url, call.outcome) for call in ledger.calls] == [
        ("CONNECT", "tcp://slack.com:587", "sent")
    ]
    assert "passed through unread" in (ledger.calls[0].note or "")


@pytest.mark.parametrize(
    "mode", ["deny", "allow=api.example.test", "record={}/a.jsonl", "replay={}/b.jsonl", "stand-in=slack"]
)
def test_mail_is_refused_in_other_modes(
    loop: Loop, tmp_path: Path, ledger: Ledger, client: list[str], mode: str
) -> None:
    """Mail cannot be recorded or answered by a stand-in: the connection closes before the greeting, and the run gets the refusal."""
    (tmp_path / "b.jsonl").touch()
    with gateway_to(loop, tmp_path, 9, meant=587) as (gateway, caller_token):
        gateway.bind(caller_token, ledger.binding(mode.format(tmp_path)))
        environment = {"PATH": os.environ["PATH"]} | gateway.build_environment(caller_token, "node")
        done = subprocess.run(client, env=environment, capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout.strip() in ("SMTPServerDisconnected", "ConnectionResetError", "closed", "read ECONNRESET")
    assert [(call.url, call.outcome) for call in ledger.calls] == [("tcp://slack.com:587", "denied")]
    assert "tcp://slack.com:587" in ledger.refused[0]


def basic(text: str) -> bytes:
    """A Basic header with *text*."""
    return b"Basic " + base64.b64encode(text.encode())


@pytest.mark.parametrize(
    ("header", "token"),
    [
        (basic("token:x"), "token"),
        (basic("token"), "token"),
        (b"BASIC " + basic("token:a:b").partition(b" ")[2], "token"),
        (b"  " + basic("token:x") + b" ", "token"),
        (basic(":x"), ""),
        (b"Bearer token", None),
        (b"Basic ***", None),
        (b"Basic dG9r*ZW4=", None),
        (b"", None),
        (None, None),
    ],
)
def test_the_token_is_the_user_name(header: bytes | None, token: str | None) -> None:
    """A malformed header has no token."""
    assert parse_proxy_token(header) == token


def failure(token: str, port: int) -> Mapping[str, JSON]:
    """The cause of a dropped connection."""
    return {"token": token, "port": port}


async def read(*sent: bytes, end: bool = False) -> tuple[ProxyTarget | None, bytes, bytes]:
    """The target of a connection on which a client sends *sent*, the gateway's answer, and the bytes that are left."""
    client, server = socket.socketpair()
    with client, server:
        server.setblocking(False)
        for part in sent:
            client.sendall(part)
        if end:
            client.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(60):
            target = await read_proxy_target(server, lambda token: token == "known", failure)
        left = b""
        with contextlib.suppress(BlockingIOError):
            left = server.recv(1 << 16)
        server.shutdown(socket.SHUT_WR)
        client.settimeout(60)
        answer = b""
        while chunk := client.recv(1 << 16):
            answer += chunk
        return target, answer, left


def preamble(**changes: object) -> bytes:
    """The line of a hook."""
    return b"PDK1 " + json.dumps({"host": "a.test", "port": 443, "token": "known", **changes}).encode() + b"\n"


def connect(to: str, token: str | None = "known") -> bytes:
    """A CONNECT request."""
    header = b"" if token is None else b"Proxy-Authorization: " + basic(f"{token}:x") + b"\r\n"
    return f"CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n".encode() + header + b"\r\n"


@pytest.mark.parametrize(
    ("changes", "target"),
    [
        ({}, ProxyTarget("a.test", 443, "known")),
        ({"tls": True}, ProxyTarget("a.test", 443, "known", client_expects_tls=True)),
        ({"port": "8443"}, ProxyTarget("a.test", 8443, "known")),
        ({"port": 1}, ProxyTarget("a.test", 1, "known")),
        ({"port": 65535}, ProxyTarget("a.test", 65535, "known")),
        ({"host": "[::1]"}, ProxyTarget("::1", 443, "known")),
        ({"host": "bücher.test"}, ProxyTarget("xn--bcher-kva.test", 443, "known")),
        (
            {"servername": "b.test", "alpn": ["h2", "http/1.1"]},
            ProxyTarget("a.test", 443, "known", server_name="b.test", protocols=("h2", "http/1.1")),
        ),
        ({"servername": "", "alpn": None}, ProxyTarget("a.test", 443, "known")),
    ],
)
async def test_the_line_of_a_hook(changes: dict[str, object], target: ProxyTarget) -> None:
    """The line names host, port, token and TLS; bytes after the line are left for the host."""
    assert await read(preamble(**changes) + b"GET /") == (target, b"", b"GET /")


@pytest.mark.parametrize(
    "line",
    [
        preamble(port=0),
        preamble(port=65536),
        preamble(port="x"),
        preamble(host=""),
        preamble(host="a b"),
        preamble(host="a/b"),
        preamble(host="a@b"),
        preamble(host="a\x00b"),
        b'PDK1 {"host": "a.test", "port": 443}\n',
        b'PDK1 {"host": "a.test", "token": "t"}\n',
        b"PDK1 {\n",
        b"PDK1 5\n",
        b"PDK1 []\n",
        b"PDK1 \xff\n",
        *(connect(to) for to in ("a.test", "a.test:0", "a.test:65536", "a.test:https", ":443", "a/b:443")),
    ],
)
async def test_a_malformed_line_is_answered(line: bytes) -> None:
    """The client of a hook or of CONNECT gets a 400 with a mark, and no target."""
    target, answer, _ = await read(line)

    assert target is None
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\nx-pdkernel-egress: bad-request\r\n")


async def test_a_hook_may_query_the_cause_of_a_drop() -> None:
    """The answer is the cause as JSON; such a connection has no target."""
    target, answer, _ = await read(preamble(dropped=5000, token="other"))

    assert (target, json.loads(answer)) == (None, {"token": "other", "port": 5000})
    assert (await read(preamble(dropped=0)))[1].startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    ("to", "target"),
    [
        ("a.test:443", ProxyTarget("a.test", 443, "known")),
        ("[::1]:8080", ProxyTarget("::1", 8080, "known")),
        ("1.2.3.4:22", ProxyTarget("1.2.3.4", 22, "known")),
    ],
)
async def test_a_connect_request(to: str, target: ProxyTarget) -> None:
    """A CONNECT with a known token is accepted; bytes after its head are left for the host."""
    assert await read(connect(to) + b"\x16\x03") == (
        target,
        b"HTTP/1.1 200 Connection established\r\n\r\n",
        b"\x16\x03",
    )


async def test_a_client_may_authenticate_after_a_challenge() -> None:
    """A client gets three challenges on one connection; the third answer may still be right."""
    wrong = connect("a.test:443", None)

    target, answer, _ = await read(wrong, wrong, connect("a.test:443"))
    refused, challenges, _ = await read(wrong, connect("a.test:443", "unknown"), wrong, connect("a.test:443"))

    assert target == ProxyTarget("a.test", 443, "known")
    assert answer.count(b"HTTP/1.1 407 Proxy Authentication Required\r\n") == 2
    assert answer.endswith(b"200 Connection established\r\n\r\n")
    assert refused is None
    assert challenges.count(b"HTTP/1.1 407 ") == 3
    assert b"200" not in challenges


async def test_other_connections() -> None:
    """A request in absolute form has its target in each request; other bytes have none."""
    assert (await read(b"GET http://a.test/ HTTP/1.1\r\n"))[0] is PER_REQUEST_TARGET
    assert (await read(b"\x16\x03\x01\x00\x05hello"))[0] is None


async def _no_body() -> AsyncIterator[bytes]:
    empty: tuple[bytes, ...] = ()
    for chunk in empty:
        yield chunk


def request_to(target: ProxyTarget, url: str) -> tuple[str, str, int, bytes, str]:
    """Scheme, host, port, target and URL of a request to *url*."""
    head = h11.Request(method="GET", target=url, headers=[("host", "x")])
    built = target.build_request(head, Body(_no_body()))
    return built.scheme, built.host, built.port, built.target, built.url


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("http://a.test/x?y=1", ("http", "a.test", 80, b"/x?y=1", "http://a.test/x?y=1")),
        ("HTTPS://a.test", ("https", "a.test", 443, b"/", "https://a.test/")),
        ("https://a.test:8443?q=/", ("https", "a.test", 8443, b"/?q=/", "https://a.test:8443/?q=/")),
        ("http://[::1]:81/", ("http", "::1", 81, b"/", "http://[::1]:81/")),
        ("http://me:pw@a.test/", ("http", "a.test", 80, b"/", "http://a.test/")),
        ("http://a.test/%2F/../b", ("http", "a.test", 80, b"/%2F/../b", "http://a.test/%2F/../b")),
        ("/x", ("http", "", 80, b"/x", "http:///x")),
        ("ftp://a.test/", ("http", "", 80, b"ftp://a.test/", "http://ftp://a.test/")),
        ("http://a.test:x/", ("http", "", 80, b"http://a.test:x/", "http://http://a.test:x/")),
    ],
)
def test_a_request_in_absolute_form(url: str, parts: tuple[str, str, int, bytes, str]) -> None:
    """The URL names scheme, host and port; path and query are unchanged."""
    assert request_to(PER_REQUEST_TARGET, url) == parts


def test_a_request_to_the_target_of_its_connection() -> None:
    """A request in origin form goes to the connection's target; the default port is not in the URL."""
    secure = ProxyTarget("a.test", 443, "known", client_expects_tls=True, server_name="b.test")

    assert request_to(secure, "/x") == ("https", "a.test", 443, b"/x", "https://a.test/x")
    assert request_to(ProxyTarget("a.test", 443, None), "/") == ("http", "a.test", 443, b"/", "http://a.test:443/")
    assert (secure.origin, ProxyTarget("::1", 80, None).origin) == ("https://a.test", "http://[::1]")

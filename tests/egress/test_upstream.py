"""Calls through an upstream proxy or Connect's proxy, and unreachable hosts: the client's call fails as without a gateway."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import json
import socket
import socketserver
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme

from pdkernel.common.identity import ProxyAccess
from pdkernel.egress import Gateway
from pdkernel.egress.message import Body, Request
from pdkernel.egress.outbound_policy import system_lookup
from pdkernel.egress.own_server import OwnServer
from pdkernel.egress.protocol_sniff import parse_client_hello
from pdkernel.egress.upstream import (
    IDLE_S,
    MAX_IDLE,
    Destination,
    Upstream,
    UpstreamError,
    build_proxy_request,
    find_proxy_access,
    format_call_note,
    unsupported_reason,
)
from pdkernel.errors import ProjectError
from tests.builders import skip_time
from tests.egress.hosts import client_context, gateway_to, host
from tests.egress.kit import (
    NODE_CLIENTS,
    REF,
    TOKEN,
    ClientProcess,
    Ledger,
    Loop,
    OutsideServer,
    closed_port,
    issue_bound_token,
    knock,
    node_paths,
    node_process,
    outside_context,
    python_process,
    read_all,
    read_until,
    redactor,
)


def answering_proxy(asked: list[bytes]) -> Callable[[socket.socket], None]:
    """A proxy that answers `ok`, and adds the head of each request to *asked*."""

    def proxy(sock: socket.socket) -> None:
        asked.append(read_until(sock, b"\r\n\r\n"))
        sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    return proxy


def test_calls_go_through_the_upstream_proxy(loop: Loop, tmp_path: Path, ledger: Ledger) -> None:
    """With `via`, the gateway connects to the proxy and not to the host."""
    asked: list[bytes] = []

    with host(answering_proxy(asked)) as port, gateway_to(loop, tmp_path, port, meant=1) as (gateway, caller_token):
        gateway.bind(caller_token, ledger.binding("live", via=f"http://127.0.0.1:{port}"))
        with knock(gateway, caller_token, "nowhere.invalid", 80, secure=False) as sock:
            sock.sendall(b"GET /a%2Fb HTTP/1.1\r\nHost: nowhere.invalid\r\nConnection: close\r\n\r\n")
            answer = read_all(sock)

    assert answer.endswith(b"ok")
    assert asked[0].startswith(b"GET http://nowhere.invalid:80/a%2Fb HTTP/1.1")


def test_the_name_and_password_of_an_upstream_proxy_are_decoded(loop: Loop, tmp_path: Path, ledger: Ledger) -> None:
    """The proxy receives the characters that are percent-encoded in the URL of `via`."""
    asked: list[bytes] = []

    with host(answering_proxy(asked)) as port, gateway_to(loop, tmp_path, port, meant=1) as (gateway, caller_token):
        gateway.bind(caller_token, ledger.binding("live", via=f"http://ada%40corp:p%3Aw%2F@127.0.0.1:{port}"))
        with knock(gateway, caller_token, "nowhere.invalid", 80, secure=False) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: nowhere.invalid\r\nConnection: close\r\n\r\n")
            read_all(sock)

    sent = next(line for line in asked[0].split(b"\r\n") if line.lower().startswith(b"proxy-authorization:"))
    assert base64.b64decode(sent.rpartition(b" ")[2]) == b"ada@corp:p:w/"


def test_calls_through_connects_proxy_go_through_the_upstream_proxy(loop: Loop, tmp_path: Path, ledger: Ledger) -> None:
    """With `via`, a call with a withheld credential reaches Connect's proxy through the upstream proxy."""
    asked: list[bytes] = []

    def proxy(sock: socket.socket) -> None:
        asked.append(read_until(sock, b"\r\n\r\n"))
        sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    access = ProxyAccess("http://connect.invalid/proxy", "apn_1", "ada", "production", lambda: "token")
    with host(proxy) as port, gateway_to(loop, tmp_path, port, meant=1) as (gateway, caller_token):
        via = f"http://127.0.0.1:{port}"
        gateway.bind(caller_token, ledger.binding("live", via=via, proxy_by_secret_ref={REF: access}))
        with knock(gateway, caller_token, "slack.com", 80, secure=False) as sock:
            sock.sendall(f"GET /?token={TOKEN} HTTP/1.1\r\nHost: slack.com\r\nConnection: close\r\n\r\n".encode())
            answer = read_all(sock)

    assert answer.endswith(b"ok")
    assert asked[0].startswith(b"GET http://connect.invalid:80/proxy/")


def test_two_gateways_in_a_row(
    loop: Loop, gateway: Gateway, outside: OutsideServer, ledger: Ledger, tmp_path: Path
) -> None:
    """An upstream proxy with a name and a password gets https calls too, and no caller token of the first gateway."""
    behind = Ledger()
    second = issue_bound_token(gateway, behind)
    ca = Path(gateway.build_environment(second, "python")["NODE_EXTRA_CA_CERTS"])
    first = loop.run(Gateway.start(tmp_path, extra_ca_file=ca, environ={}))
    caller_token = first.issue_token()
    first.bind(caller_token, ledger.binding("live", via=f"http://{second}:x@127.0.0.1:{gateway.port}"))
    with knock(first, caller_token, "api.example.test", 443, secure=True) as sock:
        sock.sendall(b"GET /far HTTP/1.1\r\nHost: api.example.test\r\nConnection: close\r\n\r\n")
        answer = read_all(sock)
    roots = ssl.create_default_context(cafile=first.build_environment(caller_token, "python")["SSL_CERT_FILE"])
    with (
        knock(first, caller_token, "api.example.test", 443, secure=False) as plain,
        roots.wrap_socket(plain, server_hostname="api.example.test") as secure,
    ):
        # the first gateway cannot reach the host itself
        secure.sendall(b"GET /tls HTTP/1.1\r\nHost: api.example.test\r\nConnection: close\r\n\r\n")
        by_tls = read_all(secure)
    loop.run(first.close())

    assert answer.startswith(b"HTTP/1.1 200")
    assert by_tls.startswith(b"HTTP/1.1 200")
    assert [seen.path for seen in outside.seen] == ["/far", "/tls"]
    assert [call.outcome for call in ledger.calls] == [call.outcome for call in behind.calls] == ["sent"] * 2


def test_an_upstream_proxy_with_tls(
    loop: Loop, tmp_path: Path, ledger: Ledger, authority: trustme.CA, outside_ca: Path
) -> None:
    """TLS with the upstream proxy verifies the proxy's name, and TLS with the host inside it has the host's name."""
    asked: list[bytes] = []

    def proxy(sock: socket.socket) -> None:
        asked.append(read_until(sock, b"\r\n\r\n"))
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        asked.append(sock.recv(1 << 16))

    with (
        host(proxy, outside_context(authority)) as port,
        gateway_to(loop, tmp_path, port, meant=443, ca=outside_ca) as (gateway, caller_token),
    ):
        gateway.bind(caller_token, ledger.binding("live", via="https://slack.com:443"))
        name = "www.example.test"
        with (
            knock(gateway, caller_token, "db.example.test", 443, secure=True, server_name=name) as sock,
            contextlib.suppress(ConnectionResetError),
        ):
            sock.sendall(b"GET / HTTP/1.1\r\nHost: db.example.test\r\n\r\n")
            read_all(sock)

    assert asked[0].startswith(b"CONNECT db.example.test:443 ")
    assert parse_client_hello(asked[1]).server_name == name


# ── unreachable hosts ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def untrusted() -> Iterator[OutsideServer]:
    """slack.com with a certificate of an unknown authority."""
    server = OutsideServer(outside_context(trustme.CA()))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def nowhere(loop: Loop, untrusted: OutsideServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway for which refused.test refuses connections, and slack.com has an untrusted certificate."""
    port = closed_port()
    resolve = {("refused.test", number): ("127.0.0.1", port) for number in (80, 443, 5432)}
    resolve["slack.com", 443] = ("127.0.0.1", untrusted.port)
    folder = tmp_path_factory.mktemp("project") / "egress"
    started = loop.run(Gateway.start(folder, host_overrides=resolve, environ={}))
    yield started
    loop.run(started.close())


@pytest.fixture(scope="module")
def lost(nowhere: Gateway) -> Iterator[ClientProcess]:
    """A Python step's process."""
    process = python_process(nowhere)
    yield process
    process.stop()


@pytest.fixture(scope="module", params=sorted(node_paths()))
def lost_node(nowhere: Gateway, request: pytest.FixtureRequest) -> Iterator[ClientProcess]:
    """A Node.js step's process, for each available Node.js."""
    process = node_process(nowhere, node_paths()[request.param])
    yield process
    process.stop()


@pytest.mark.parametrize(
    ("client", "error"),
    [
        ("urllib", "URLError: <urlopen error [Errno 111] refused.test:443 refused the connection"),
        ("http.client", "ConnectionRefusedError: [Errno 111] refused.test:443 refused the connection"),
        ("urllib3", "ProtocolError: ('Connection aborted.', ConnectionRefusedError(111, 'refused.test:443 refused"),
        ("httpx", "ConnectError: [Errno 111] refused.test:443 refused the connection"),
        ("httpx.async", "ConnectError: "),
        ("requests", "ConnectionError: ('Connection aborted.', ConnectionRefusedError(111, 'refused.test:443 refused"),
        (
            "aiohttp",
            "ClientConnectorError: Cannot connect to host refused.test:443 ssl:default [refused.test:443 refused",
        ),
        ("curl", "CalledProcessError: "),
    ],
)
def test_pythons_clients_raise_their_connection_errors(
    lost: ClientProcess, ledger: Ledger, client: str, error: str
) -> None:
    """A refused connection raises each client's own connection error, with the host and the cause."""
    lost.bind(ledger.binding("live"))

    out = lost.ask(client, "POST", "https://refused.test/messages", "hello")

    assert out["error"].startswith(error)
    assert [(call.outcome, call.status) for call in ledger.calls] == [("failed", None)]
    assert ledger.calls[0].note == "no response: refused.test:443 refused the connection (ECONNREFUSED)."
    assert ledger.refused == []


@pytest.mark.parametrize(
    "client", ["urllib", "http.client", "urllib3", "httpx", "httpx.async", "requests", "aiohttp", "curl"]
)
def test_pythons_clients_raise_for_plain_http(lost: ClientProcess, ledger: Ledger, client: str) -> None:
    """A host that cannot be reached without TLS gives no response either; the row names the request."""
    lost.bind(ledger.binding("live"))

    out = lost.ask(client, "POST", "http://refused.test/messages", "hello")

    assert "error" in out
    assert (ledger.calls[0].method, ledger.calls[0].url) == ("POST", "http://refused.test/messages")
    assert ledger.calls[0].note == "no response: refused.test:80 refused the connection (ECONNREFUSED)."


@pytest.mark.parametrize("client", NODE_CLIENTS)
def test_nodes_clients_throw_with_the_code_of_the_cause(lost_node: ClientProcess, ledger: Ledger, client: str) -> None:
    """`fetch` throws and `http.request` fails with the code and message of a refused connection."""
    lost_node.bind(ledger.binding("live"))

    out = lost_node.ask(client, "GET", "https://refused.test/x")

    assert "connect ECONNREFUSED refused.test:443" in out["error"]
    assert ("fetch failed" in out["error"]) == (client in ("fetch", "worker", "child"))
    assert [(call.outcome, call.status) for call in ledger.calls] == [("failed", None)]


def test_a_name_that_does_not_exist_in_node(lost_node: ClientProcess, ledger: Ledger) -> None:
    """The error has the code of the failed lookup."""
    lost_node.bind(ledger.binding("live"))

    out = lost_node.ask("fetch", "GET", "https://nowhere.invalid/")

    assert any(f"getaddrinfo {code} nowhere.invalid {code}" in out["error"] for code in ("ENOTFOUND", "EAI_AGAIN"))


def test_a_name_that_does_not_exist_in_python(lost: ClientProcess, ledger: Ledger) -> None:
    """The error has the number of the failed lookup: a missing name, or no answer of a name server."""
    lost.bind(ledger.binding("live"))

    out = lost.ask("http.client", "GET", "https://nowhere.invalid/")

    missing = f"gaierror: [Errno {socket.EAI_NONAME}] nowhere.invalid was not found"
    unanswered = f"gaierror: [Errno {socket.EAI_AGAIN}] nowhere.invalid cannot be resolved"
    assert out["error"].startswith((missing, unanswered))


@pytest.mark.parametrize("name", ["-a.example.test", "a_b.example.test"])
def test_a_name_that_idna_refuses(nowhere: Gateway, ledger: Ledger, name: str) -> None:
    """The gateway has a certificate for a name that servers have although IDNA refuses it, such as that of an old bucket."""
    caller_token = nowhere.issue_token()
    nowhere.bind(caller_token, ledger.binding("deny"))
    context = ssl.create_default_context(
        cafile=nowhere.build_environment(caller_token, "python")["NODE_EXTRA_CA_CERTS"]
    )
    with (
        knock(nowhere, caller_token, name, 443, secure=False) as plain,
        context.wrap_socket(plain, server_hostname=name) as secure,
    ):
        secure.sendall(f"GET /x HTTP/1.1\r\nhost: {name}\r\n\r\n".encode())
        answer = secure.recv(12)

    assert answer == b"HTTP/1.1 403"
    assert [(call.url, call.outcome) for call in ledger.calls] == [(f"https://{name}/x", "denied")]


def test_a_certificate_that_is_not_trusted(lost: ClientProcess, lost_node: ClientProcess, ledger: Ledger) -> None:
    """TLS that cannot be verified raises the client's own certificate error."""
    for process in (lost, lost_node):
        process.bind(ledger.binding("live"))

    python = lost.ask("requests", "GET", "https://slack.com/")
    node = lost_node.ask("fetch", "GET", "https://slack.com/")

    assert python["error"].startswith("SSLError")
    assert node["error"].endswith("UNABLE_TO_GET_ISSUER_CERT_LOCALLY")
    assert all("the certificate of slack.com:443 is not trusted" in (call.note or "") for call in ledger.calls)


def test_a_stand_in_that_is_down(lost: ClientProcess, lost_node: ClientProcess, ledger: Ledger) -> None:
    """The error names the stand-in."""
    stand_in = f"127.0.0.1:{closed_port()}"
    for process in (lost, lost_node):
        process.bind(ledger.binding(f"stand-in=http://{stand_in}"))

    for process, client in ((lost, "httpx"), (lost, "requests"), (lost_node, "fetch"), (lost_node, "https.request")):
        assert stand_in in process.ask(client, "GET", "https://api.example.test/")["error"]
    assert {call.note for call in ledger.calls} == {f"no response: {stand_in} refused the connection (ECONNREFUSED)."}


@pytest.mark.parametrize("secure", [True, False])
def test_a_host_that_closes_without_a_response(
    loop: Loop, tmp_path: Path, ledger: Ledger, authority: trustme.CA, outside_ca: Path, secure: bool
) -> None:
    """A host that reads the request and closes without a response is a reset connection."""

    def hang_up(sock: socket.socket) -> None:
        sock.recv(1000)

    port = 443 if secure else 80
    with (
        host(hang_up, outside_context(authority) if secure else None) as there,
        gateway_to(loop, tmp_path, there, meant=port, ca=outside_ca) as (gateway, caller_token),
    ):
        gateway.bind(caller_token, ledger.binding("live"))
        with knock(gateway, caller_token, "slack.com", port, secure=secure) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: slack.com\r\n\r\n")
            with pytest.raises(ConnectionResetError):
                read_all(sock)

    assert ledger.calls[0].outcome == "failed"
    assert "(ECONNRESET)" in (ledger.calls[0].note or "")


def test_a_database_that_cannot_be_reached(nowhere: Gateway, ledger: Ledger) -> None:
    """A connection that is passed through unread fails as a connection, too."""
    caller_token = nowhere.issue_token()
    nowhere.bind(caller_token, ledger.binding("live"))
    with knock(nowhere, caller_token, "refused.test", 5432, secure=False) as sock, pytest.raises(ConnectionResetError):
        sock.recv(100)

    assert [(call.url, call.outcome) for call in ledger.calls] == [("tcp://refused.test:5432", "failed")]
    assert ledger.calls[0].note == "no response: refused.test:5432 refused the connection (ECONNREFUSED)."


def test_the_host_is_connected_once(
    loop: Loop, tmp_path: Path, ledger: Ledger, authority: trustme.CA, outside_ca: Path
) -> None:
    """The connection made before the client's TLS also carries the request: the host accepts only one client."""

    def answer(sock: socket.socket) -> None:
        sock.recv(1000)
        sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")

    with (
        host(answer, outside_context(authority)) as port,
        gateway_to(loop, tmp_path, port, meant=443, ca=outside_ca) as (gateway, caller_token),
    ):
        gateway.bind(caller_token, ledger.binding("live"))
        ours = Path(gateway.build_environment(caller_token, "python")["NODE_EXTRA_CA_CERTS"])
        with (
            knock(gateway, caller_token, "slack.com", 443, secure=False) as plain,
            client_context(ours, "http/1.1").wrap_socket(plain, server_hostname="slack.com") as sock,
        ):
            sock.sendall(b"GET / HTTP/1.1\r\nHost: slack.com\r\nConnection: close\r\n\r\n")
            got = read_all(sock)

    assert got.startswith(b"HTTP/1.1 200 OK")
    assert [call.outcome for call in ledger.calls] == ["sent"]


def test_a_recorded_call_asks_for_no_compression(loop: Loop, tmp_path: Path, ledger: Ledger) -> None:
    """The header of the client is replaced, in any case of letters: a recording is readable."""
    asked: list[bytes] = []

    with host(answering_proxy(asked)) as port, gateway_to(loop, tmp_path, port, meant=80) as (gateway, caller_token):
        gateway.bind(caller_token, ledger.binding(f"record={tmp_path}/calls.jsonl"))
        with knock(gateway, caller_token, "slack.com", 80, secure=False) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: slack.com\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n")
            read_all(sock)

    lines = [line for line in asked[0].lower().split(b"\r\n") if line.startswith(b"accept-encoding")]
    assert lines == [b"accept-encoding: identity"]


def test_a_response_cannot_look_like_a_refusal(loop: Loop, tmp_path: Path, ledger: Ledger) -> None:
    """The gateway removes its own header from the response of a host."""

    def answer(sock: socket.socket) -> None:
        read_until(sock, b"\r\n\r\n")
        sock.sendall(b"HTTP/1.1 403 No\r\nX-Pdkernel-Egress: denied\r\nx-more: 1\r\ncontent-length: 2\r\n\r\nhi")

    with host(answer) as port, gateway_to(loop, tmp_path, port, meant=80) as (gateway, caller_token):
        gateway.bind(caller_token, ledger.binding("live"))
        with knock(gateway, caller_token, "slack.com", 80, secure=False) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: slack.com\r\nConnection: close\r\n\r\n")
            got = read_all(sock)

    assert got.startswith(b"HTTP/1.1 403 No\r\n")
    assert b"x-more: 1" in got
    assert b"x-pdkernel-egress" not in got.lower()


def find_cause(gateway: Gateway, caller_token: str, port: int) -> dict[str, object]:
    """The gateway's answer to a hook that asks why the connection from *port* was dropped."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=60) as asking:
        asking.sendall(f"PDK1 {json.dumps({'token': caller_token, 'dropped': port})}\n".encode())
        return dict(json.loads(read_all(asking)))


def test_the_cause_is_only_for_the_calling_process(nowhere: Gateway, ledger: Ledger) -> None:
    """A hook requests the cause with its caller token and port; another token or port gets no answer."""
    caller_token, other = nowhere.issue_token(), nowhere.issue_token()
    nowhere.bind(caller_token, ledger.binding("live"))
    with knock(nowhere, caller_token, "refused.test", 5432, secure=False) as sock:
        port = sock.getsockname()[1]
        with pytest.raises(ConnectionResetError):
            sock.recv(100)

    assert find_cause(nowhere, caller_token, port) == {
        "code": "ECONNREFUSED",
        "message": "refused.test:5432 refused the connection (ECONNREFUSED).",
        "host": "refused.test",
        "port": 5432,
    }
    assert find_cause(nowhere, other, port) == find_cause(nowhere, caller_token, port % 65535 + 1) == {}


def test_the_cause_is_that_of_the_ports_last_connection(nowhere: Gateway, ledger: Ledger) -> None:
    """A new connection from the same port has no cause of the connection before."""
    caller_token = issue_bound_token(nowhere, ledger)
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        while True:
            with knock(nowhere, caller_token, "refused.test", 5432, secure=False) as sock:
                port = sock.getsockname()[1]
                with pytest.raises(ConnectionResetError):
                    sock.recv(100)
            with contextlib.suppress(OSError):  # the system gave the port to another program
                again.bind(("127.0.0.1", port))
                break
        again.connect(("127.0.0.1", nowhere.port))
        again.sendall(f"PDK1 {json.dumps({'host': 'a.test', 'port': 80, 'token': caller_token})}\n".encode())
        again.sendall(b"CONNECT b.test:443 HTTP/1.1\r\nHost: b.test\r\n\r\n")
        answer = again.recv(12)
        cause = find_cause(nowhere, caller_token, port)

    assert (answer, cause) == (b"HTTP/1.1 403", {})


def test_the_cause_has_no_secret(lost: ClientProcess, ledger: Ledger) -> None:
    """A secret in the name of a host is redacted in the error that the client raises."""
    lost.bind(ledger.binding("live", redactor=redactor({REF: "refused.test"})))

    out = lost.ask("http.client", "GET", "http://refused.test/")

    assert (
        out["error"] == f"ConnectionRefusedError: [Errno 111] ⟦secret:{REF}⟧:80 refused the connection (ECONNREFUSED)."
    )


def test_the_cause_names_no_secret_host(nowhere: Gateway, ledger: Ledger) -> None:
    """A hook that requests the cause gets no secret, neither in the message nor as the host."""
    caller_token = issue_bound_token(nowhere, ledger, redactor=redactor({REF: "refused.test"}))
    with knock(nowhere, caller_token, "refused.test", 5432, secure=False) as sock:
        port = sock.getsockname()[1]
        with pytest.raises(ConnectionResetError):
            sock.recv(100)

    cause = find_cause(nowhere, caller_token, port)

    assert cause["host"] == f"⟦secret:{REF}⟧"
    assert "refused.test" not in str(cause)


@pytest.mark.parametrize(
    ("fault", "code", "why"),
    [
        (socket.gaierror(socket.EAI_AGAIN, "x"), "EAI_AGAIN", "far.test cannot be resolved: no name server answers"),
        (socket.gaierror(socket.EAI_NONAME, "x"), "ENOTFOUND", "far.test was not found"),
        (ConnectionRefusedError(), "ECONNREFUSED", "far.test:443 refused the connection"),
        (ConnectionResetError(), "ECONNRESET", "far.test:443 closed the connection"),
        (TimeoutError(), "ETIMEDOUT", "far.test:443 did not answer in time"),
        (
            OSError(errno.EHOSTUNREACH, "No route to host"),
            "EHOSTUNREACH",
            "far.test:443 cannot be reached, No route to host",
        ),
        (OSError("odd."), "ECONNRESET", "far.test:443: odd"),
    ],
    ids=lambda each: each if isinstance(each, str) and each.isupper() else "",
)
@pytest.mark.parametrize("way", ["send", "open", "connect", "via"])
async def test_the_cause_of_a_failed_connection(way: str, fault: OSError, code: str, why: str) -> None:
    """The error has Node.js's code of the cause, and a sentence that names host and port; no part of a request was sent."""

    async def lookup(_host: str, _port: int) -> list[str]:
        raise fault

    upstream = Upstream(environ={}, host_overrides={}, extra_cas=(), lookup=lookup, own_server=OwnServer())
    to = Destination("https", "far.test", 443)
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "send": lambda: upstream.send("ada", to, "GET", b"/", [], Body(empty()), via=None, public_only=True),
        "via": lambda: upstream.send(
            "ada", to, "GET", b"/", [], Body(empty()), via="http://127.0.0.1:9", public_only=True
        ),
        "open": lambda: upstream.open("ada", to, public_only=True),
        "connect": lambda: upstream.connect(to, tls=True, public_only=True),
    }
    with pytest.raises(UpstreamError) as caught:
        await calls[way]()
    await upstream.close()

    error = caught.value
    assert (str(error), error.code, error.host, error.port) == (f"{why} ({code}).", code, "far.test", 443)
    assert not error.sent or way == "connect"


async def empty() -> AsyncIterator[bytes]:
    """An empty body."""
    yield b""


@contextlib.contextmanager
def counting_host(answer: bytes, context: ssl.SSLContext | None = None) -> Iterator[tuple[int, list[int]]]:
    """A host that gives *answer* to each request; yields its port, and the numbers of its open and of all connections."""
    counts = [0, 0]

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            sock = self.request if context is None else context.wrap_socket(self.request, server_side=True)
            counts[0] += 1
            counts[1] += 1
            with sock, contextlib.suppress(OSError):
                while b"\r\n\r\n" in read_until(sock, b"\r\n\r\n"):
                    sock.sendall(answer)
            counts[0] -= 1

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server.server_address[1], counts
        server.shutdown()


OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


async def get(upstream: Upstream, owner: str, to: Destination) -> bytes:
    """The body of the response to a request of *owner*."""
    got = await upstream.send(owner, to, "GET", b"/", [(b"host", to.host.encode())], Body(empty()), via=None)
    return b"".join([chunk async for chunk in got.body])


def plain_upstream() -> Upstream:
    """Connections without overrides."""
    return Upstream(environ={}, host_overrides={}, extra_cas=(), lookup=system_lookup, own_server=OwnServer())


async def test_a_connection_is_not_used_for_another_name(authority: trustme.CA, outside_ca: Path) -> None:
    """A request for another name in TLS than that of the connection which was opened first gets a connection of its own."""
    with counting_host(OK, outside_context(authority)) as (port, counts):
        overrides = {("db.example.test", 443): ("127.0.0.1", port)}
        upstream = Upstream(
            environ={}, host_overrides=overrides, extra_cas=[outside_ca], lookup=system_lookup, own_server=OwnServer()
        )
        to = Destination("https", "db.example.test", 443, "slack.com")
        await upstream.open("ada", to)
        bodies = [await get(upstream, "ada", each) for each in (to, replace(to, server_name="api.example.test"))]
        await upstream.close()

    assert bodies == [b"ok", b"ok"]
    assert counts[1] == 2


async def test_owners_share_no_connection() -> None:
    """A connection carries the requests of one owner, one after another; another owner gets a connection of its own."""
    with counting_host(OK) as (port, counts):
        upstream, to = plain_upstream(), Destination("http", "127.0.0.1", port)
        connections = []
        for owner in ("ada", "ada", "bob", "ada", "bob"):
            await get(upstream, owner, to)
            connections.append(counts[1])
        await upstream.close()

    assert connections == [1, 1, 2, 2, 2]


async def test_unused_connections_of_many_owners_are_few() -> None:
    """200 owners leave no more open connections than the limit."""
    with counting_host(OK) as (port, counts):
        upstream, to = plain_upstream(), Destination("http", "127.0.0.1", port)
        for number in range(200):
            await get(upstream, f"user {number}", to)
        while counts[0] > MAX_IDLE:
            await asyncio.sleep(0.01)
        kept = counts[0]
        await upstream.close()
        while counts[0]:
            await asyncio.sleep(0.01)

    assert kept == MAX_IDLE


async def test_an_unused_connection_is_closed() -> None:
    """A connection that no request uses is closed without another request."""
    with counting_host(OK) as (port, counts):
        upstream = plain_upstream()
        await get(upstream, "ada", Destination("http", "127.0.0.1", port))
        await skip_time(IDLE_S - 1)
        early = counts[0]
        await skip_time(1)
        while counts[0]:
            await asyncio.sleep(0.01)
        await upstream.close()

    assert early == 1


def test_a_token_for_connects_proxy_that_is_not_issued(loop: Loop, tmp_path: Path, ledger: Ledger) -> None:
    """If Pipedream issues no token for its proxy, the call fails with that reason."""

    def refuse() -> str:
        raise ProjectError("Pipedream reports a server error (500).")

    access = ProxyAccess("http://connect.invalid/proxy", "apn_1", "ada", "production", refuse)
    with gateway_to(loop, tmp_path, 9, meant=80) as (gateway, caller_token):
        gateway.bind(caller_token, ledger.binding("live", proxy_by_secret_ref={REF: access}))
        with knock(gateway, caller_token, "slack.com", 80, secure=False) as sock:
            sock.sendall(f"GET /?token={TOKEN} HTTP/1.1\r\nHost: slack.com\r\nConnection: close\r\n\r\n".encode())
            with pytest.raises(ConnectionResetError):
                sock.recv(100)

    assert [(call.outcome, call.note) for call in ledger.calls] == [
        ("failed", "no response: Pipedream reports a server error (500).")
    ]


def test_a_service_of_this_machine_that_refuses(nowhere: Gateway, ledger: Ledger) -> None:
    """A connection to a closed port of this machine is reset, its cause is known, and it is not recorded."""
    caller_token, closed = issue_bound_token(nowhere, ledger, "deny"), closed_port()
    with knock(nowhere, caller_token, "127.0.0.1", closed, secure=False) as sock:
        port = sock.getsockname()[1]
        with pytest.raises(ConnectionResetError):
            sock.recv(100)

    assert find_cause(nowhere, caller_token, port)["code"] == "ECONNREFUSED"
    assert ledger.calls == []


OTHER_REF, OTHER = "github/apn_2/token", "ghp-planted-secret-token-0123456789"
ACCESS = ProxyAccess("https://api.example/v1/connect/proj_1/proxy", "apn_1", "ada & co", "production", lambda: "t")
CONTEXT = Ledger().binding(
    "live",
    redactor=redactor({REF: TOKEN, OTHER_REF: OTHER, "env/KEY": "an-environment-variable"}),
    proxy_by_secret_ref={REF: ACCESS, OTHER_REF: replace(ACCESS, account_id="apn_2")},
)


def request(
    target: bytes = b"/x", headers: dict[str, str] | None = None, *, method: str = "GET", body: bytes = b"", **more: Any
) -> Request:
    """A request whose body was read already."""

    async def chunks() -> AsyncIterator[bytes]:
        yield body

    read = Body(chunks())
    read.prefix, read.byte_count = body, len(body)
    named = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    return Request(method, "https", more.pop("host", "slack.com"), 443, target, named, read)


BEARER = {"authorization": f"Bearer {TOKEN}"}


@pytest.mark.parametrize(
    ("sent", "account"),
    [
        (request(headers=BEARER), "apn_1"),
        (request(f"/x?token={TOKEN}".encode()), "apn_1"),
        (request(body=f'{{"token": "{OTHER}"}}'.encode()), "apn_2"),
        (request(headers={"x-key": "an-environment-variable"}), None),
        (request(), None),
    ],
)
def test_the_account_of_a_request(sent: Request, account: str | None) -> None:
    """The credential in URL, headers or body selects the account; a credential that is not withheld does not."""
    found = find_proxy_access(CONTEXT, sent)

    assert (found and found.account_id) == account


def test_without_withheld_credentials_nothing_is_searched() -> None:
    """A run without withheld credentials does not use the proxy."""
    assert find_proxy_access(Ledger().binding("live"), request(headers=BEARER)) is None


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (request(headers=BEARER), None),
        (request(f"/x?token={TOKEN}".encode()), None),
        *((request(headers=BEARER, method=method), None) for method in ("POST", "PUT", "PATCH", "DELETE")),
        (request(headers=BEARER, method="HEAD"), "does not support HEAD"),
        (request(headers=BEARER, method="OPTIONS"), "does not support OPTIONS"),
        (request(headers={**BEARER, "upgrade": "WebSocket"}), "WebSockets"),
        (request(headers={**BEARER, "accept": "text/html, TEXT/Event-Stream"}), "event streams"),
        (request(headers={**BEARER, "x-other": OTHER}), "the credentials of several"),
        (request(f"/bot{TOKEN}/send".encode()), "in the path"),
        (request(host=f"{TOKEN}.example"), "in the path"),
        (request(headers=BEARER, method="POST", body=TOKEN.encode()), "in the request's body"),
    ],
)
def test_what_the_proxy_does_not_support(sent: Request, reason: str | None) -> None:
    """The reason is the end of a sentence."""
    found = unsupported_reason(CONTEXT, sent)

    assert found is None if reason is None else reason in (found or "")


def test_the_request_to_the_proxy() -> None:
    """The URL is encoded in the path; the headers of the host get a prefix, and headers that the proxy sets are left out."""
    sent = request(
        f"/x?a=1&token={TOKEN}&b=%26".encode(),
        {
            "host": "slack.com",
            "cookie": "no",
            "user-agent": "no",
            "sec-fetch-mode": "no",
            "x-pd-proxy-mine": "no",
            "connection": "x-hop",
            "x-hop": "no",
            "content-type": "application/json",
            "X-Extra": "kept",
            **BEARER,
        },
        method="POST",
        body=b"{}",
    )

    made = build_proxy_request(CONTEXT, ACCESS, "access", sent)

    path, _, query = made.target.partition(b"?")
    coded = path.removeprefix(b"/v1/connect/proj_1/proxy/")
    assert base64.urlsafe_b64decode(coded + b"==") == b"https://slack.com/x?a=1&b=%26"
    assert not coded.endswith(b"=")
    assert query == b"external_user_id=ada%20%26%20co&account_id=apn_1"
    assert made.destination == Destination("https", "api.example", 443)
    assert made.headers == [
        (b"host", b"api.example"),
        (b"authorization", b"Bearer access"),
        (b"x-pd-environment", b"production"),
        (b"content-type", b"application/json"),
        (b"x-pd-proxy-content-type", b"application/json"),
        (b"x-pd-proxy-X-Extra", b"kept"),
        (b"content-length", b"2"),
    ]


@pytest.mark.parametrize(
    ("method", "body", "length"),
    [("POST", b"", b"0"), ("PUT", b"", b"0"), ("PATCH", b"", b"0"), ("DELETE", b"", None), ("DELETE", b"x", b"1"), ("GET", b"", None)],
)  # fmt: skip
def test_a_body_has_a_length(method: str, body: bytes, length: bytes | None) -> None:
    """A method with a body has a length, also of an empty body; another method only with a body."""
    made = build_proxy_request(CONTEXT, ACCESS, "access", request(headers=BEARER, method=method, body=body))

    assert dict(made.headers).get(b"content-length") == length


@pytest.mark.parametrize(
    ("status", "ending"),
    [
        (200, "the account apn_1"),
        (400, "allows only hosts of the account's app"),
        (401, "the account apn_1"),
        (403, "allows only hosts of the account's app"),
        (404, "the account apn_1"),
        (504, "waits at most 30 s for the host"),
    ],
)
def test_a_call_through_the_proxy_is_noted(status: int, ending: str) -> None:
    """The note names the account, and what a status of the proxy means."""
    note = format_call_note(ACCESS, status)

    assert note.startswith("sent through Connect's proxy, with the account apn_1")
    assert note.endswith(ending)

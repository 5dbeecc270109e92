"""The mark of calls of steps to their own server."""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from pdkernel.egress import Gateway
from pdkernel.egress.certificates import CertificateAuthority
from pdkernel.egress.message import Request
from pdkernel.egress.own_server import CALLER_HEADER, OwnServer, StepCaller
from tests.egress.hosts import gateway_to, host
from tests.egress.kit import Ledger, Loop, issue_bound_token, knock, read_all, read_until

CALLER = StepCaller("ada", "production")
HEADERS = [(b"host", b"hooks.example"), (b"X-PDKernel-Caller", b"made up")]


def request_to(scheme: str, host: str, port: int) -> Request:
    """A request of a step."""
    body: Any = b""
    return Request("GET", scheme, host, port, b"/", HEADERS, body)


@pytest.mark.parametrize(
    ("base_url", "request_", "is_marked"),
    [
        ("https://hooks.example", request_to("https", "hooks.example", 443), True),
        ("http://127.0.0.1:8765", request_to("http", "localhost", 8765), True),
        ("https://127.0.0.1:8765", request_to("https", "localhost", 8765), True),
        ("https://127.0.0.1:8765", request_to("http", "localhost", 8765), False),
        ("https://hooks.example", request_to("https", "other.example", 443), False),
        ("https://hooks.example", request_to("https", "hooks.example", 8443), False),
        ("http://hooks.example", request_to("http", "hooks.example", 80), False),
    ],
)
def test_processes_of_a_project_accept_each_others_mark(base_url: str, request_: Request, is_marked: bool) -> None:
    """The mark of one process is accepted by another one with the project's secret, and by no other server."""
    one, same, other = OwnServer(), OwnServer(), OwnServer()
    one.announce(base_url, b"a secret")
    same.announce(base_url, b"a secret")
    other.announce(base_url, b"another secret")

    sent = [(name.lower(), value) for name, value in one.mark(request_, HEADERS, CALLER)]

    assert same.take_mark(sent) == ([HEADERS[0]], CALLER if is_marked else None)
    assert other.take_mark(sent) == ([HEADERS[0]], None)
    assert same.take_mark([*sent, *sent]) == ([HEADERS[0]] * 2, None)


def test_without_a_server_nothing_is_marked() -> None:
    """A gateway without a server marks no call, and believes no mark."""
    gateway = OwnServer()

    assert gateway.mark(request_to("https", "hooks.example", 443), HEADERS, CALLER) == [HEADERS[0]]
    assert gateway.take_mark([(CALLER_HEADER, b"")]) == ([], None)


@pytest.mark.parametrize("is_own", [True, False])
def test_a_call_to_the_own_server_by_tls_is_marked(loop: Loop, ledger: Ledger, tmp_path: Path, is_own: bool) -> None:
    """A call to a server with a certificate of the project's authority (`serve --tls`) has the mark; to another port it has none."""
    seen: list[bytes] = []

    def serve(sock: socket.socket) -> None:
        seen.append(read_until(sock, b"\r\n\r\n"))
        sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    authority = CertificateAuthority(tmp_path, environ={})
    with (
        host(serve, authority.server_context("127.0.0.1")) as port,
        gateway_to(loop, tmp_path, port, meant=443) as (gateway, caller_token),
    ):
        gateway.own_server.announce(f"https://127.0.0.1:{port if is_own else 1}", b"a secret")
        gateway.bind(caller_token, ledger.binding("live"))
        variables = gateway.build_environment(caller_token, "python")
        with knock(gateway, caller_token, "127.0.0.1", port, secure=True) as sock:
            sock.sendall(
                b"GET /x HTTP/1.1\r\nHost: 127.0.0.1\r\nX-PDKernel-Caller: made up\r\nConnection: close\r\n\r\n"
            )
            answer = read_all(sock)

    assert answer.endswith(b"ok")
    assert (b"a secret" in seen[0], b"made up" in seen[0]) == (is_own, not is_own)
    assert (variables["PDK_OWN_PORT"] == str(port)) is is_own


REQUEST = b"GET /key HTTP/1.1\r\nHost: 127.0.0.1\r\nx-pd-external-user-id: bob\r\nConnection: close\r\n\r\n"
UPGRADE = REQUEST.replace(b"Connection: close", b"Connection: Upgrade\r\nUpgrade: websocket")


@pytest.mark.parametrize(
    ("pieces", "name"),
    [
        ([UPGRADE], "127.0.0.1"),
        ([UPGRADE, REQUEST], "localhost"),
        ([b"\r\n" + REQUEST], "127.0.0.1"),
        ([b"", REQUEST], "127.0.0.1"),
        ([REQUEST.replace(b"GET", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nGET", 1)], "127.0.0.1"),
        ([REQUEST], "alias.test"),
        ([UPGRADE], "alias.test"),
        ([b"\r\n" + REQUEST], "alias.test"),
        ([b"", REQUEST], "alias.test"),
    ],
    ids=[
        "upgrade",
        "after an upgrade",
        "line break",
        "late",
        "HTTP/2",
        "name",
        "name, upgrade",
        "name, raw",
        "name, late",
    ],
)
@pytest.mark.parametrize("is_public", [False, True], ids=["local", "public"])
def test_no_call_reaches_the_own_server_without_the_mark(
    loop: Loop, ledger: Ledger, tmp_path: Path, pieces: list[bytes], name: str, *, is_public: bool
) -> None:
    """Not as another protocol, after a silence, or by another name of this machine; nor at the port behind a public URL."""
    seen: list[bytes] = []

    def serve(sock: socket.socket) -> None:
        sock.settimeout(5)
        with contextlib.suppress(OSError):
            seen.append(read_until(sock, b"\r\n\r\n"))
            sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            sock.settimeout(1)  # after an upgrade, the connection stays open
            seen.append(read_all(sock))

    with host(serve) as port:
        overrides = {("alias.test", port): ("127.0.0.1", port)}
        gateway = loop.run(Gateway.start(tmp_path, host_overrides=overrides, environ={}))
        local_url = f"http://127.0.0.1:{port}"
        gateway.silence_s = 0.1
        gateway.own_server.announce(
            "https://flows.example" if is_public else local_url, b"a secret", local_url=local_url
        )
        with knock(gateway, issue_bound_token(gateway, ledger), name, port, secure=False) as sock:
            sock.settimeout(10)
            with contextlib.suppress(OSError):
                for piece in pieces:
                    sock.sendall(piece)
                    time.sleep(0.2)
                sock.shutdown(socket.SHUT_WR)
                read_all(sock)
        loop.run(gateway.close())

    assert b"".join(seen).count(b"bob") == b"".join(seen).count(b"a secret")

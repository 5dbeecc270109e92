"""The sandbox of systems without a seccomp listener: refusals only."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pdkernel.egress import Gateway
from pdkernel.egress.sandbox.detection import SandboxKind, can_use_landlock
from tests.egress.kit import Ledger, Loop, OutsideServer
from tests.egress.sandboxed import HEAD, python, run_sandboxed

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the guard is Linux's")


@pytest.fixture
def locking(loop: Loop, tmp_path: Path) -> Iterator[Gateway]:
    """A gateway on a system without a seccomp listener."""
    if not can_use_landlock():
        pytest.skip("this system has no Landlock for TCP")
    guard: SandboxKind = "landlock"
    gateway = loop.run(Gateway.start(tmp_path, environ={}, sandbox_kind=guard))
    yield gateway
    loop.run(gateway.close())


REFUSED = """
import socket
for make in MAKE:
    try:
        make()
    except PermissionError:
        print("refused")
"""


def test_landlock_refuses_every_other_port(locking: Gateway, plain_outside: OutsideServer) -> None:
    """Without a listener, a program without proxy variables reaches no port, also not on this machine."""
    make = f"[lambda: socket.create_connection((HOST, 80), 5), lambda: socket.create_connection(('127.0.0.1', {plain_outside.port}), 5)]"

    done = run_sandboxed(locking, locking.issue_token(), python(f"import socket\nMAKE = {make}\n{REFUSED}"))

    assert done.stdout.splitlines() == ["refused", "refused"]


def test_landlock_refuses_udp(locking: Gateway) -> None:
    """Datagrams, raw sockets and other protocols are refused; Unix sockets and TCP sockets are not."""
    make = (
        "[lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM), lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM),"
        " lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262), lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),"
        " lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM).sendto(b'x', 0x20000000, (HOST, 80)),"
        " lambda: socket.socket(socket.AF_INET), lambda: socket.socketpair(), lambda: print('fine')]"
    )
    done = run_sandboxed(locking, locking.issue_token(), python(f"import socket\nMAKE = {make}\n{REFUSED}"))

    assert done.stdout.splitlines() == ["refused"] * 5 + ["fine"]


def test_landlock_allows_the_gateway(locking: Gateway, ledger: Ledger) -> None:
    """The gateway answers a program that uses the proxy variables."""
    caller_token = locking.issue_token()
    locking.bind(caller_token, ledger.binding("deny"))
    preamble = f'PDK1 {{"host": "api.example.test", "port": 80, "token": "{caller_token}"}}\\n'
    code = f"import socket\nsock = socket.create_connection((HOST, PORT), 5)\nsock.sendall(b'''{preamble}{HEAD}''')\nprint(sock.recv(12).decode())"

    done = run_sandboxed(locking, caller_token, python(code, "127.0.0.1", locking.port))

    assert done.stdout == "HTTP/1.1 403\n"

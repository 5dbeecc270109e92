"""Datagrams in the sandbox: every way to send one is refused."""

from __future__ import annotations

import socket
import sys

import pytest

from pdkernel.egress import Gateway
from tests.egress.kit import Ledger
from tests.egress.sandboxed import PLACE, own_address, python, run_sandboxed

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the guard is Linux's")


SENDING = {
    "connected": "sock.connect((HOST, PORT)); sock.send(b'x')",
    "sendto": "sock.sendto(b'x', (HOST, PORT))",
    "sendmsg": "sock.sendmsg([b'x'], [], 0, (HOST, PORT))",
}


@pytest.mark.parametrize("how", SENDING)
def test_udp_is_refused(gateway: Gateway, bound: str, ledger: Ledger, how: str) -> None:
    """A datagram is refused for every system call; the ledger has one row for each target."""
    address = own_address()
    if address is None:
        pytest.skip("this machine has no address but loopback")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((address, 0))
        server.setblocking(False)
        port = server.getsockname()[1]
        code = f"""
import socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(3):
    try:
        {SENDING[how]}
    except PermissionError:
        print("refused")
"""
        unguarded = run_sandboxed(gateway, bound, python(code, address, port), guard=False)
        arrived = server.recv(10)
        while arrived and _waits(server):
            server.recv(10)

        done = run_sandboxed(gateway, bound, python(code, address, port))

        assert (unguarded.stdout, arrived) == ("", b"x"), "without the guard it would arrive"
        assert done.stdout.splitlines() == ["refused"] * 3
        assert not _waits(server)
    assert [(call.url, call.outcome) for call in ledger.calls] == [(f"udp://{address}:{port}", "denied")]
    assert f"udp://{address}:{port}" in ledger.refused[0]


def _waits(server: socket.socket) -> bool:
    try:
        return bool(server.recv(10, socket.MSG_PEEK))
    except BlockingIOError:
        return False


def test_many_datagrams_at_once_are_refused(gateway: Gateway, bound: str, ledger: Ledger) -> None:
    """`sendmmsg`, which has no Python function, is refused too."""
    code = """
import ctypes, os, socket, struct
libc = ctypes.CDLL(None, use_errno=True)
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
name = ctypes.create_string_buffer(struct.pack("=H", socket.AF_INET) + struct.pack("!H", PORT) + socket.inet_aton(HOST) + bytes(8), 16)
data = ctypes.create_string_buffer(b"x", 1)
piece = ctypes.create_string_buffer(struct.pack("=QQ", ctypes.addressof(data), 1), 16)
local = struct.pack("=QIIQQQQiIII", 0, 0, 0, ctypes.addressof(piece), 1, 0, 0, 0, 0, 0, 0)[:64]
there = struct.pack("=QIIQQQQiIII", ctypes.addressof(name), 16, 0, ctypes.addressof(piece), 1, 0, 0, 0, 0, 0, 0)[:64]
messages = ctypes.create_string_buffer(local.ljust(64, bytes(1)) + there.ljust(64, bytes(1)), 128)
print(libc.sendmmsg(sock.fileno(), messages, 2, 0), os.strerror(ctypes.get_errno()))
"""
    done = run_sandboxed(gateway, bound, python(code, PLACE, 514))

    assert done.stdout.split(" ", 1) == ["-1", "Permission denied\n"]
    assert [call.url for call in ledger.calls] == [f"udp://{PLACE}:514"]


def test_a_query_to_a_name_server_is_refused(gateway: Gateway, bound: str, ledger: Ledger) -> None:
    """A DNS datagram is refused: its name could carry data to an outside server."""
    code = "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x' * 20, (HOST, PORT))"

    done = run_sandboxed(gateway, bound, python(code, PLACE, 53))

    assert "PermissionError" in done.stderr
    assert [call.url for call in ledger.calls] == [f"udp://{PLACE}:53"]

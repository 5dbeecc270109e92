"""Ports of this machine for servers that a test starts later."""

from __future__ import annotations

import contextlib
import random
import socket
from contextlib import ExitStack


def free_port() -> int:
    """A port that no process listens on."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """
    Ports that no process listens on.

    They are below those that the system gives to clients and to servers without a port of their own, so that they stay free
    until the test uses them.
    """
    with ExitStack() as opened:
        ports: list[int] = []
        while len(ports) < count:
            probe = opened.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", random.randrange(10_000, 32_000)))
                ports.append(probe.getsockname()[1])
        return ports

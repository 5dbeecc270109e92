"""Ports of this machine for servers that a test starts later."""

from __future__ import annotations

import contextlib
import os
import random
import socket
from contextlib import ExitStack

_FIRST, _COUNT, _PROCESSES = 10_000, 2_750, 8
"""The first port, and how many each process of a test run has; a ninth process shares those of the first."""


def free_port() -> int:
    """A port that no process listens on."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """
    Ports that no process listens on.

    They are below those that the system gives to clients and to servers without a port of their own, so that they stay free
    until the test uses them. Each of several processes of a test run has ports of its own.
    """
    first = _FIRST + _COUNT * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % _PROCESSES)
    with ExitStack() as opened:
        ports: list[int] = []
        while len(ports) < count:
            probe = opened.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", random.randrange(first, first + _COUNT)))
                ports.append(probe.getsockname()[1])
        return ports

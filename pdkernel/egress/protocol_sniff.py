"""
Looking at a socket's first bytes without taking them.

Knows MSG_PEEK. Knows nothing of what the bytes mean. Bytes that asyncio has read cannot be given to TLS any more, so
the raw socket is looked at until the kind of the connection is known.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

MAX_PEEK_BYTES = 64 * 1024
_PEEK_TIMEOUT_S = 30.0
_MIN_POLL_S = 0.002
_MAX_POLL_S = 0.1


async def wait_readable(sock: socket.socket) -> None:
    """Wait until *sock* has bytes, or its end."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(sock, wake)
    try:
        await ready
    finally:
        loop.remove_reader(sock)


async def peek(sock: socket.socket, *, timeout_s: float | None = None) -> bytes | None:
    """The bytes that wait, `b""` at the end, or None if there is silence for *timeout_s* seconds."""
    try:
        async with asyncio.timeout(timeout_s):
            await wait_readable(sock)
    except TimeoutError:
        return None
    try:
        return sock.recv(MAX_PEEK_BYTES, socket.MSG_PEEK)
    except OSError:
        return b""


async def peek_until(sock: socket.socket, is_complete: Callable[[bytes], bool]) -> bytes:
    """
    The bytes that wait, once *is_complete* says that they are enough.

    They are returned as they are at the end, at 64 KB, and after thirty seconds.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _PEEK_TIMEOUT_S
    seen = await peek(sock) or b""
    pause = _MIN_POLL_S
    while seen and not is_complete(seen) and len(seen) < MAX_PEEK_BYTES and loop.time() < deadline:
        # Waiting for readiness would not wait: the bytes that were seen are still there.
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, _MAX_POLL_S)
        try:
            more = sock.recv(MAX_PEEK_BYTES, socket.MSG_PEEK)
        except OSError:
            return seen
        if len(more) == len(seen) and _ended(sock):
            return seen
        seen = more
    return seen


def consume(sock: socket.socket, count: int) -> bytes:
    """Take *count* bytes that were seen."""
    return sock.recv(count)


def _ended(sock: socket.socket) -> bool:
    """Whether the other side is known to be gone (an end behind waiting bytes cannot be seen)."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0

"""The protocol of a connection, from its first bytes."""

from __future__ import annotations

import asyncio
import socket
import struct
import time

import pytest

from pdkernel.egress.protocol_sniff import (
    consume,
    detect_protocol,
    is_conclusive,
    peek,
    peek_until,
    sniff_timeout,
)


@pytest.mark.parametrize(
    ("seen", "conclusive", "protocol"),
    [
        (b"\x16", True, "tls"),
        (b"\x16\x03\x01\n", True, "tls"),
        (b"PRI * HTTP/2.0\r\n", True, "http2"),
        (b"PRI * HTTP/2.0", False, "raw"),
        (b"GET / HTTP/1.1\r\n", True, "http1"),
        (b"GET / HTTP/1.0\n", True, "http1"),
        (b"GET / HTTP/2\r\n", True, "raw"),
        (b"get / HTTP/1.1\r\n", True, "raw"),
        (b"M-SEARCH * HTTP/1.1\r\n", True, "http1"),
        (b"-A / HTTP/1.1\r\n", True, "raw"),
        (b"AB x HTTP/1.1\r\n", True, "raw"),
        (b"A" * 20 + b" x HTTP/1.1\r\n", True, "http1"),
        (b"A" * 21 + b" x HTTP/1.1\r\n", True, "raw"),
        (b"GE", False, "raw"),
        (b"GET /a", False, "http1"),
        (b"GET a", False, "raw"),
        (b"A" * 20, False, "raw"),
        (b"A" * 21, True, "raw"),
        (b"SSH-2.0-x", True, "raw"),
        (b"\0\0", True, "raw"),
        (b"EHLO x\r\n", True, "raw"),
    ],
)
def test_the_first_bytes(seen: bytes, conclusive: bool, protocol: str) -> None:
    """TLS, HTTP/1 and HTTP/2 are detected; a possible start of a method is not conclusive."""
    assert (is_conclusive(seen), detect_protocol(seen)) == (conclusive, protocol)


@pytest.mark.parametrize(
    ("port", "timeout"), [(80, None), (443, None), (8080, None), (8443, None), (25, 0.3), (5432, 0.3)]
)
def test_who_sends_first(port: int, timeout: float | None) -> None:
    """On ports of HTTP the client sends first; on other ports a silent client waits for the server."""
    assert sniff_timeout(port) == timeout


async def test_bytes_are_read_twice() -> None:
    """The first bytes are returned without being consumed, until they are complete or the connection ends."""
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        assert await peek(near, timeout_s=0.01) is None
        far.sendall(b"GET /")
        assert [await peek(near), await peek(near)] == [b"GET /"] * 2
        far.sendall(b" x")
        assert await peek_until(near, lambda seen: seen.endswith(b"x")) == b"GET / x"
        assert consume(near, 4) == b"GET "
        assert await peek(near) == b"/ x"
        consume(near, 10)
        far.close()
        assert await peek(near) == b""
        assert await peek_until(near, lambda _: False) == b""


async def test_bytes_that_a_late_loop_finds_count() -> None:
    """A client whose bytes have arrived is not silent, although the event loop looks only after the time."""
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        peeking = asyncio.ensure_future(peek(near, timeout_s=0.01))
        await asyncio.sleep(0)
        far.sendall(b"GET /")
        time.sleep(0.05)  # the event loop does not turn

        assert await peeking == b"GET /"


async def test_a_connection_that_is_reset_is_not_awaited() -> None:
    """If a client resets its connection while more of its first bytes are awaited, the wait ends."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        far = socket.create_connection(server.getsockname())
        near, _ = server.accept()
        with near, far:
            near.setblocking(False)
            far.sendall(b"GE")
            has_begun = asyncio.Event()

            def is_complete(_: bytes) -> bool:
                has_begun.set()
                return False

            waiting = asyncio.ensure_future(peek_until(near, is_complete))
            await has_begun.wait()
            far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            far.close()

            assert await waiting == b"GE"

"""
Reads a socket's first bytes without consuming them, and detects the protocol of the connection.

asyncio cannot return bytes that it has read to TLS, so the raw socket is inspected (MSG_PEEK) until the protocol is known. The start
of a client's TLS tells the server name and the protocols that it offers (RFC 8446, RFC 6066, RFC 7301).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

HANDSHAKE_RECORD = 0x16
_RECORD_HEADER = 5
_SERVER_NAME = 0
_ALPN = 16


@dataclass(frozen=True, slots=True)
class ClientHello:
    """
    The first message of a TLS client.

    Attributes:
        server_name: The requested server name (SNI), or None.
        protocols: Protocols offered by ALPN, in order; empty if there are none.
    """

    server_name: str | None
    protocols: tuple[str, ...]

    @property
    def speaks_http1(self) -> bool:
        """Whether HTTP/1.1 is possible: it is offered, or no protocol is offered."""
        return not self.protocols or "http/1.1" in self.protocols


def hello_is_complete(data: bytes) -> bool:
    """Return whether *data* has the complete ClientHello, in any number of records."""
    message = _message(data)
    return len(message) >= 4 and len(message) >= 4 + int.from_bytes(message[1:4], "big")


def parse_client_hello(data: bytes) -> ClientHello:
    """Parse a ClientHello. Malformed data yields an empty result: the TLS library then reports the error."""
    try:
        return _read(_message(data))
    except (IndexError, UnicodeDecodeError):
        return ClientHello(None, ())


def _message(data: bytes) -> bytes:
    """Return the handshake message, joined from its records."""
    message = b""
    while len(data) >= _RECORD_HEADER and data[0] == HANDSHAKE_RECORD:
        size = int.from_bytes(data[3:5], "big")
        message += data[_RECORD_HEADER : _RECORD_HEADER + size]
        data = data[_RECORD_HEADER + size :]
    return message


def _read(message: bytes) -> ClientHello:
    at = 4 + 2 + 32  # message header, version, random
    at += 1 + message[at]  # session id
    at += 2 + int.from_bytes(message[at : at + 2], "big")  # cipher suites
    at += 1 + message[at]  # compression methods
    end = at + 2 + int.from_bytes(message[at : at + 2], "big")
    at += 2
    name: str | None = None
    protocols: list[str] = []
    while at + 4 <= min(end, len(message)):
        kind = int.from_bytes(message[at : at + 2], "big")
        size = int.from_bytes(message[at + 2 : at + 4], "big")
        content = message[at + 4 : at + 4 + size]
        if kind == _SERVER_NAME and len(content) > 5:
            name = content[5 : 5 + int.from_bytes(content[3:5], "big")].decode("ascii")
        elif kind == _ALPN:
            protocols = _protocols(content[2:])
        at += 4 + size
    return ClientHello(name, tuple(protocols))


def _protocols(content: bytes) -> list[str]:
    found = []
    while content:
        found.append(content[1 : 1 + content[0]].decode("ascii"))
        content = content[1 + content[0] :]
    return found


WireProtocol = Literal["tls", "http1", "http2", "raw"]

CLIENT_FIRST_PORTS = frozenset({80, 443, 8080, 8443})
"""Ports of protocols in which the client always sends first, so the gateway waits for the client."""

SERVER_FIRST_TIMEOUT_S = 0.3
"""On other ports, a client that is silent for this time expects the server to send first, as databases and mail servers do."""

_REQUEST_LINE = re.compile(rb"[A-Z][A-Z-]{2,19} [^\r\n]+ HTTP/1\.[01]\r?\n")
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n"

MAX_PEEK_BYTES = 64 * 1024
_PEEK_TIMEOUT_S = 30.0
_MIN_POLL_S = 0.002
_MAX_POLL_S = 0.1


def is_conclusive(seen: bytes) -> bool:
    """Return whether *seen* is enough to detect the protocol."""
    if seen[:1] == bytes([HANDSHAKE_RECORD]):
        return True
    return b"\n" in seen or not re.match(rb"[A-Z-]{1,20}( |\Z)", seen)


def detect_protocol(seen: bytes) -> WireProtocol:
    """Return the protocol of a connection whose first bytes are *seen*."""
    if seen[:1] == bytes([HANDSHAKE_RECORD]):
        return "tls"
    if seen.startswith(_HTTP2_PREFACE):
        return "http2"
    # A request line longer than the inspected bytes is still a request line.
    if _REQUEST_LINE.match(seen) or (b"\n" not in seen and re.match(rb"[A-Z][A-Z-]{2,19} /", seen)):
        return "http1"
    return "raw"


def sniff_timeout(port: int, silence_s: float = SERVER_FIRST_TIMEOUT_S) -> float | None:
    """Return the seconds of silence after which the server is expected to send first on *port*; None to wait for the client."""
    return None if port in CLIENT_FIRST_PORTS else silence_s


async def wait_readable(sock: socket.socket) -> None:
    """Wait until *sock* has bytes or has reached its end."""
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
    """Return the received bytes, `b""` at the end of the connection, or None after *timeout_s* seconds of silence."""
    with contextlib.suppress(TimeoutError):  # an event loop that is late may notice the bytes and the time together
        async with asyncio.timeout(timeout_s):
            await wait_readable(sock)
    try:
        return sock.recv(MAX_PEEK_BYTES, socket.MSG_PEEK)
    except BlockingIOError:
        return None
    except OSError:
        return b""


async def peek_until(sock: socket.socket, is_complete: Callable[[bytes], bool]) -> bytes:
    """Return the received bytes as soon as *is_complete* accepts them; or at the end, at 64 KB, or after 30 seconds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _PEEK_TIMEOUT_S
    seen = await peek(sock) or b""
    pause = _MIN_POLL_S
    while seen and not is_complete(seen) and len(seen) < MAX_PEEK_BYTES and loop.time() < deadline:
        # The socket is always readable, because the bytes are not consumed: poll instead.
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
    """Consume *count* bytes that were inspected before."""
    return sock.recv(count)


def _ended(sock: socket.socket) -> bool:
    """Return whether the connection has failed (an end behind waiting bytes is not visible)."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0

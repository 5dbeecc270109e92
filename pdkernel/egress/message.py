"""A request of a step and its response, as the gateway passes them between its modules."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import IO

Headers = list[tuple[bytes, bytes]]

_HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te",
     b"trailer", b"transfer-encoding", b"upgrade"}
)  # fmt: skip
_ALWAYS_END_TO_END = frozenset({b"content-length", b"host"})  # `connection: content-length` must not remove the framing
DEFAULT_PORTS = {"http": 80, "https": 443}
_CONTROL_CHARACTERS = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
MAX_MEMORY_BYTES = 1 << 20
"""Bytes of a buffered body in memory; a longer body is buffered in a file."""
_CHUNK = 1 << 16


def get_header(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """Return the first value of header *name* (lower case), or None."""
    return next((value for key, value in headers if key.lower() == name), None)


def end_to_end_headers(headers: Sequence[tuple[bytes, bytes]]) -> Headers:
    """
    Return *headers* without the headers of the connection (RFC 9110, 7.6.1).

    A length beside a transfer coding is removed, too: a receiver that believes the length would take the rest of the body for
    another message (RFC 9112, 6.1).
    """
    named = {
        word.strip().lower() for key, value in headers if key.lower() == b"connection" for word in value.split(b",")
    }
    dropped = _HOP_BY_HOP | (named - _ALWAYS_END_TO_END)
    if get_header(headers, b"transfer-encoding") is not None:
        dropped |= {b"content-length"}
    return [(key, value) for key, value in headers if key.lower() not in dropped]


def strip_control_characters(value: bytes) -> bytes:
    """Remove control characters from a header's *value*: servers and clients reject them."""
    return _CONTROL_CHARACTERS.sub(b"", value).strip()


def format_origin(scheme: str, host: str, port: int) -> str:
    """Return `scheme://host`, with the port unless it is the scheme's default."""
    name = f"[{host}]" if ":" in host else host
    return f"{scheme}://{name}" if port == DEFAULT_PORTS.get(scheme) else f"{scheme}://{name}:{port}"


def is_bodyless(method: str, status: int) -> bool:
    """Return whether a response to *method* with *status* has no body; its `content-length` may still be above 0."""
    return method == "HEAD" or status in (204, 304)


async def close_stream(chunks: AsyncIterator[bytes]) -> None:
    """Close *chunks* early, so that its source is released at once."""
    if isinstance(chunks, AsyncGenerator):
        await chunks.aclose()


class Body:
    """
    A request's body: streamed once, or buffered (in memory up to 1 MB, then in a file) to be read again.

    Attributes:
        prefix: The first bytes read so far, up to 64 KB; they are searched for credentials.
        byte_count: Bytes read so far.
    """

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._buffer: IO[bytes] | None = None
        self._users = 1
        self.prefix = b""
        self.byte_count = 0

    @property
    def is_buffered(self) -> bool:
        """Whether the body is buffered, and can be read again."""
        return self._buffer is not None

    async def buffer(self) -> str:
        """Read and store the whole body, so that it can be streamed again. Returns its SHA-256 as hex."""
        digest = hashlib.sha256()
        if self._buffer is not None:
            async for chunk in self.stream():
                digest.update(chunk)
            return digest.hexdigest()
        stored: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=MAX_MEMORY_BYTES)  # noqa: SIM115  # closed by close()
        self._buffer = stored
        async for chunk in self._chunks:
            self._count(chunk)
            digest.update(chunk)
            stored.write(chunk)
        return digest.hexdigest()

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield the body's bytes, in chunks."""
        if self._buffer is None:
            async for chunk in self._chunks:
                self._count(chunk)
                yield chunk
            return
        self._buffer.seek(0)
        while chunk := self._buffer.read(_CHUNK):
            yield chunk

    async def read(self) -> bytes:
        """Return the whole body."""
        return b"".join([chunk async for chunk in self.stream()])

    def retain(self) -> None:
        """Count one more user of the buffered body; each user calls `release`."""
        self._users += 1

    def release(self) -> None:
        """End the use by one user; the buffer is closed after the last one."""
        self._users -= 1
        if self._buffer is not None and self._users == 0:
            self._buffer.close()

    def _count(self, chunk: bytes) -> None:
        self.byte_count += len(chunk)
        if len(self.prefix) < _CHUNK:
            self.prefix += chunk[: _CHUNK - len(self.prefix)]


@dataclass(frozen=True, eq=False)
class Request:
    """
    A request that a step made.

    Attributes:
        method: The HTTP method as the step wrote it.
        scheme: `http` or `https`.
        host: Name or address that the step calls.
        port: Port of the host.
        target: Path and query exactly as the step wrote them.
        headers: In order, with the headers of the connection.
        body: May be empty.
        server_name: The server name in the step's TLS (SNI), or None.
    """

    method: str
    scheme: str
    host: str
    port: int
    target: bytes
    headers: Headers
    body: Body
    server_name: str | None = None

    @property
    def url(self) -> str:
        """The URL, not redacted."""
        return format_origin(self.scheme, self.host, self.port) + self.target.decode("latin-1")

    @property
    def path(self) -> str:
        """The path without the query."""
        return self.target.decode("latin-1").partition("?")[0]

    @property
    def wants_websocket(self) -> bool:
        """Whether the request asks for an upgrade to a WebSocket, which only a GET can (RFC 6455, 4.1)."""
        return self.method == "GET" and (get_header(self.headers, b"upgrade") or b"").strip().lower() == b"websocket"


@dataclass(frozen=True, eq=False)
class Response:
    """
    The response that a step receives.

    Attributes:
        status: HTTP status.
        reason: Reason phrase, may be empty.
        headers: Headers of the message, without the headers of the connection.
        body: The complete body, or its chunks.
    """

    status: int
    reason: bytes
    headers: Headers
    body: bytes | AsyncIterator[bytes]

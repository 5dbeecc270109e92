"""
A request of a step and the answer to it, as the gateway hands them around.

Knows which headers belong to a connection and not to a message. Knows nothing of sockets or modes.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import IO

Headers = list[tuple[bytes, bytes]]

_HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te",
     b"trailer", b"transfer-encoding", b"upgrade"}
)  # fmt: skip
_DEFAULT_PORTS = {"http": 80, "https": 443}
_MAX_MEMORY_BYTES = 1 << 20
_CHUNK = 1 << 16


def get_header(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """The first value of header *name* (lower case), or None."""
    return next((value for key, value in headers if key.lower() == name), None)


def end_to_end_headers(headers: Sequence[tuple[bytes, bytes]]) -> Headers:
    """The headers that belong to the message (RFC 9110, 7.6.1)."""
    named = {
        word.strip().lower() for key, value in headers if key.lower() == b"connection" for word in value.split(b",")
    }
    return [(key, value) for key, value in headers if key.lower() not in _HOP_BY_HOP and key.lower() not in named]


def format_origin(scheme: str, host: str, port: int) -> str:
    """`scheme://host`, with the port where it is an odd one."""
    name = f"[{host}]" if ":" in host else host
    return f"{scheme}://{name}" if port == _DEFAULT_PORTS.get(scheme) else f"{scheme}://{name}:{port}"


async def close_stream(chunks: AsyncIterator[bytes]) -> None:
    """End *chunks* before its time, so that whatever it reads from is let go at once."""
    if isinstance(chunks, AsyncGenerator):
        await chunks.aclose()


class Body:
    """
    A request's body: passed on as it comes, or kept (in memory up to 1 MB, then in a file) to be read again.

    Attributes:
        prefix: The first bytes of what went through, up to 64 KB: enough to see whose credential it carries.
        byte_count: Bytes that went through so far.
    """

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._kept: IO[bytes] | None = None
        self._users = 1
        self.prefix = b""
        self.byte_count = 0

    @property
    def is_buffered(self) -> bool:
        """Whether it was taken in, and can be read again."""
        return self._kept is not None

    async def buffer(self) -> str:
        """Take in the whole body, to be streamed as often as wanted; its SHA-256 as hex. A second time, only that."""
        digest = hashlib.sha256()
        if self._kept is not None:
            async for chunk in self.stream():
                digest.update(chunk)
            return digest.hexdigest()
        kept: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=_MAX_MEMORY_BYTES)  # noqa: SIM115  # closed by close()
        self._kept = kept
        async for chunk in self._chunks:
            self._count(chunk)
            digest.update(chunk)
            kept.write(chunk)
        return digest.hexdigest()

    async def stream(self) -> AsyncIterator[bytes]:
        """The body's bytes, in pieces."""
        if self._kept is None:
            async for chunk in self._chunks:
                self._count(chunk)
                yield chunk
            return
        self._kept.seek(0)
        while chunk := self._kept.read(_CHUNK):
            yield chunk

    async def read(self) -> bytes:
        """The whole body."""
        return b"".join([chunk async for chunk in self.stream()])

    def retain(self) -> None:
        """One more needs what was kept, and will close it."""
        self._users += 1

    def release(self) -> None:
        """Let go of what was kept, when nobody else needs it."""
        self._users -= 1
        if self._kept is not None and self._users == 0:
            self._kept.close()

    def _count(self, chunk: bytes) -> None:
        self.byte_count += len(chunk)
        if len(self.prefix) < _CHUNK:
            self.prefix += chunk[: _CHUNK - len(self.prefix)]


@dataclass(frozen=True, eq=False)
class Request:
    """
    A request that a step made.

    Attributes:
        method: As written, mostly upper case.
        scheme: `http` or `https`.
        host: Name or address that the step wants to reach.
        port: There.
        target: Path and query exactly as the step wrote them.
        headers: In order, those of the connection included.
        body: May be empty.
        server_name: What the step's TLS called the server, or None.
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
        """Whether it asks to go on as a WebSocket."""
        return (get_header(self.headers, b"upgrade") or b"").strip().lower() == b"websocket"


@dataclass(frozen=True, eq=False)
class Response:
    """
    What a step gets.

    Attributes:
        status: HTTP status.
        reason: Reason phrase, may be empty.
        headers: Those of the message.
        body: All of it, or as it comes.
    """

    status: int
    reason: bytes
    headers: Headers
    body: bytes | AsyncIterator[bytes]

"""Connections that are passed through unread: WebSockets, HTTP/2, databases, and hosts whose TLS is not terminated."""

from __future__ import annotations

import asyncio
import contextlib

from pdkernel.egress.message import Request, end_to_end_headers

_CHUNK = 1 << 16


async def pipe_both_ways(
    client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    initial_data: bytes = b"",
) -> None:
    """Copy bytes in both directions until both sides have ended; *initial_data* was already read from the client."""
    if initial_data:
        server[1].write(initial_data)
    try:
        await asyncio.gather(_one_way(client[0], server[1]), _one_way(server[0], client[1]))
    finally:
        await close_writer(server[1])


async def close_writer(writer: asyncio.StreamWriter) -> None:
    """Close *writer*, in any state of its connection."""
    writer.close()
    try:
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    except asyncio.CancelledError:
        writer.transport.abort()  # the gateway closes after the process has ended, so no TLS close arrives
        raise


def encode_websocket_request(request: Request) -> bytes:
    """The upgrade request for a WebSocket, as it is sent to the host."""
    headers = [*end_to_end_headers(request.headers), (b"connection", b"Upgrade"), (b"upgrade", b"websocket")]
    lines = [request.method.encode() + b" " + request.target + b" HTTP/1.1"]
    lines += [name + b": " + value for name, value in headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"


async def _one_way(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while chunk := await reader.read(_CHUNK):
            writer.write(chunk)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
        else:
            writer.close()
    except OSError:
        writer.close()

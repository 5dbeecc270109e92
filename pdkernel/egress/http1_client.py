"""
The client's side of an HTTP/1.1 connection with a host or a proxy, based on h11.

A connection carries another request only if nothing was left open by the one before: a byte too many would be taken for the
beginning of the next response.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import h11
import httpcore

from pdkernel.egress.message import Headers, close_stream, get_header

_MAX_HEAD = 100 * 1024
_MAX_INTERIM_RESPONSES = 32
_READ_BYTES = 1 << 16
_READ_S = _WRITE_S = 750.0
_SWITCHING_PROTOCOLS, _NO_CONTENT = 101, 204


class Http1ClientConnection:
    """
    One HTTP/1.1 connection with a host or a proxy; it carries one request at a time.

    All errors are those of httpcore.

    Args:
        stream: The connection, with TLS established if it has TLS.
    """

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)
        self._early_read: asyncio.Task[bytes] | None = None
        self._is_ambiguous = False

    @property
    def is_usable(self) -> bool:
        """Whether the connection can carry a request: the last response is complete, and the host has sent nothing since."""
        is_idle = self._h11.our_state is h11.IDLE and self._h11.their_state is h11.IDLE
        return is_idle and (self._early_read is None or not self._early_read.done())

    async def send(
        self, method: str, target: bytes, headers: Headers, body: AsyncIterator[bytes] | None
    ) -> h11.Response:
        """
        Send a request, and return the head of the response. After an error the connection must be closed.

        Args:
            method: The HTTP method.
            target: The request target, as it is sent.
            headers: All headers; they have a length or chunked transfer coding if there is a *body*, never both.
            body: The body, or None.
        """
        try:
            with contextlib.suppress(
                httpcore.WriteError
            ):  # a host may respond and close before it has read the request
                await self._write(h11.Request(method=method, target=target, headers=headers))
                if body is not None:
                    async for chunk in body:
                        await self._write(h11.Data(data=chunk))
                await self._write(h11.EndOfMessage())
        except h11.LocalProtocolError as error:
            raise httpcore.LocalProtocolError(str(error)) from error
        finally:
            if body is not None:
                await close_stream(body)
        for _ in range(_MAX_INTERIM_RESPONSES):
            event = await self._next_event()
            if isinstance(event, h11.Response):
                self._is_ambiguous = _is_ambiguous(event)
                return event
        raise httpcore.RemoteProtocolError("too many interim responses")

    async def body(self) -> AsyncIterator[bytes]:
        """The body of the response."""
        while isinstance(event := await self._next_event(), h11.Data):
            yield bytes(event.data)

    def finish(self) -> bool:
        """Prepare for the next request after a response; False if the connection must be closed."""
        is_done = self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE
        if not is_done or self._is_ambiguous or self._h11.trailing_data != (b"", False):
            return False
        self._h11.start_next_cycle()
        self._early_read = asyncio.ensure_future(self._stream.read(_READ_BYTES, None))
        return True

    async def open_tunnel(self, target: bytes, headers: Headers) -> httpcore.AsyncNetworkStream:
        """Ask the proxy at the other end for a connection to *target* (`host:port`), and return that connection."""
        response = await self.send("CONNECT", target, headers, None)
        if not 200 <= response.status_code < 300:
            reason = response.reason.decode("ascii", "replace")
            raise httpcore.ProxyError(f"{response.status_code} {reason}")
        if self._h11.trailing_data[0]:
            raise httpcore.ProxyError("the proxy sent data before the host could")
        return self._stream

    async def close(self) -> None:
        """Close the connection."""
        if self._early_read is not None:
            self._early_read.cancel()
            await asyncio.gather(self._early_read, return_exceptions=True)
        with contextlib.suppress(OSError, httpcore.NetworkError):
            await self._stream.aclose()

    async def _write(self, event: h11.Event) -> None:
        await self._stream.write(self._h11.send(event) or b"", _WRITE_S)

    async def _next_event(self) -> h11.Event | type[h11.NEED_DATA | h11.PAUSED]:
        while True:
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError as error:
                raise httpcore.RemoteProtocolError(str(error)) from error
            if isinstance(event, h11.InformationalResponse) and event.status_code == _SWITCHING_PROTOCOLS:
                raise httpcore.RemoteProtocolError("the host switched the protocol without a request for it")
            if event is not h11.NEED_DATA:
                return event
            data = await self._read()
            if data == b"" and self._h11.their_state is h11.SEND_RESPONSE:
                raise httpcore.RemoteProtocolError("Server disconnected without sending a response.")
            self._h11.receive_data(data)

    async def _read(self) -> bytes:
        reading, self._early_read = self._early_read, None
        if reading is None:
            return await self._stream.read(_READ_BYTES, _READ_S)
        try:
            async with asyncio.timeout(_READ_S):
                return await reading
        except TimeoutError as error:
            raise httpcore.ReadTimeout from error


def _is_ambiguous(response: h11.Response) -> bool:
    """Whether another program could read the end of *response* differently (RFC 9112, 6.3)."""
    headers = list(response.headers)
    length, coding = get_header(headers, b"content-length"), get_header(headers, b"transfer-encoding")
    if coding is not None:
        return length is not None or response.http_version < b"1.1" or response.status_code == _NO_CONTENT
    return response.status_code == _NO_CONTENT and length not in (None, b"0")

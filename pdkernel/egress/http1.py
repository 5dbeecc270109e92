"""
HTTP/1.1 connections, based on h11: the client's side with a host or a proxy, and the server's side with a client.

A connection with a host carries another request only if nothing was left open by the one before, because a byte too many would be
taken for the beginning of the next response. For a client, head and body of a response are written in one send, because two sends
cost a kept-alive client about 40 ms (delayed ACK).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator

import h11
import httpcore

from pdkernel.egress.message import Headers, Response, close_stream, get_header, is_bodyless

_MAX_RESPONSE_HEAD = 100 * 1024
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
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_RESPONSE_HEAD)
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
        """Yield the body of the response."""
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
    """Return whether another program could read the end of *response* differently (RFC 9112, 6.3)."""
    headers = list(response.headers)
    length, coding = get_header(headers, b"content-length"), get_header(headers, b"transfer-encoding")
    if coding is not None:
        return length is not None or response.http_version < b"1.1" or response.status_code == _NO_CONTENT
    return response.status_code == _NO_CONTENT and length not in (None, b"0")


_MAX_REQUEST_HEAD = 256 * 1024
_HEAD_WAIT_S = 0.05
_MAX_DRAIN_BYTES = 1 << 20
_END_OF_HEAD = b"\r\n\r\n"
_INVALID_HEAD = re.compile(rb"(?<!\r)\n|\r(?!\n)|\n[ \t]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
"""Line ends that not every server reads as such, continued lines, and control characters."""
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
_BARE_LF = re.compile(rb"(?<!\r)\n")


class Http1ServerConnection:
    """
    One HTTP/1.1 connection with a client.

    A request that two programs could read differently is refused with 400: h11 is tolerant, and the host may be, too.

    Attributes:
        reader: Reads the client's bytes.
        writer: Writes to the client.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, initial_data: bytes = b"") -> None:
        self.reader = reader
        self.writer = writer
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_REQUEST_HEAD)
        self._must_close = False
        self._method = ""
        if initial_data:
            self._h11.receive_data(initial_data)

    async def next_request(self) -> h11.Request | None:
        """Return the next request's head, or None at the end of the connection."""
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
        if self._h11.their_state is not h11.IDLE:
            return None
        await self._read_head()
        event = await self._next_event()
        if not isinstance(event, h11.Request):
            return None
        self._must_close = _FRAMING.issubset(name for name, _ in event.headers)
        self._method = event.method.decode("ascii")
        return event

    async def _read_head(self) -> None:
        """Read up to the end of a request's head, and check its characters. Raises `h11.RemoteProtocolError`."""
        head = bytearray(self._h11.trailing_data[0])
        searched = 0
        while (end := head.find(_END_OF_HEAD, max(0, searched - len(_END_OF_HEAD)))) < 0:
            if len(head) > _MAX_REQUEST_HEAD:
                raise h11.RemoteProtocolError("The head of the request is too long.", error_status_hint=431)
            if _BARE_LF.search(head, searched) is not None:
                break
            searched = len(head)
            data = await self.reader.read(_READ_BYTES)
            self._h11.receive_data(data)
            if not data:
                return
            head += data
        if end < 0 or _INVALID_HEAD.search(head, 0, end) is not None:
            raise h11.RemoteProtocolError("The head of the request has an invalid character or line end.")
        _check_framing(bytes(head[:end]).lower())

    async def body(self) -> AsyncIterator[bytes]:
        """
        Yield the body of the current request; send `100 Continue` to a client that expects it.

        Raises:
            h11.RemoteProtocolError: The client closed its connection too early, or sent an invalid body.
        """
        if self._h11.they_are_waiting_for_100_continue:
            self.writer.write(self._send(h11.InformationalResponse(status_code=100, headers=[])))
        while self._h11.their_state is h11.SEND_BODY:
            try:
                event = await self._next_event()
            except OSError as fault:  # otherwise the sender would take it for an error of the host's connection
                raise h11.RemoteProtocolError("The client reset its connection.") from fault
            if isinstance(event, h11.Data):
                yield bytes(event.data)

    async def send(self, response: Response) -> None:
        """
        Send *response* completely; its body only if the request may have one in response.

        Raises:
            h11.LocalProtocolError: HTTP does not permit such a response to the request.
        """
        await self._drop_unread_body()
        head = h11.Response(
            status_code=response.status, reason=response.reason, headers=self._closing(response.headers)
        )
        if isinstance(response.body, bytes):
            body = b"" if is_bodyless(self._method, response.status) else response.body
            out = self._send(head) + self._data(body) + self._send(h11.EndOfMessage())
            self.writer.write(out)
            await self.writer.drain()
            return
        await self._stream(self._send(head), response.body)

    def send_error(self, status: int) -> None:
        """Respond with *status* to a malformed request, and announce the end of the connection."""
        if self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            headers = [("content-length", "0"), ("connection", "close")]
            self.writer.write(self._send(h11.Response(status_code=status, headers=headers)))

    def trailing_data(self) -> bytes:
        """Return the bytes that the client sent after the request, for a connection that switches protocols."""
        return bytes(self._h11.trailing_data[0])

    async def _stream(self, head: bytes, body: AsyncIterator[bytes]) -> None:
        first = asyncio.ensure_future(anext(body, None))
        try:
            # The head is sent alone only if the body is slow.
            if not (await asyncio.wait({first}, timeout=_HEAD_WAIT_S))[0]:
                self.writer.write(head)
                head = b""
            chunk = await first
            while chunk is not None:
                self.writer.write(head + self._data(chunk))
                head = b""
                await self.writer.drain()
                chunk = await anext(body, None)
            self.writer.write(head + self._send(h11.EndOfMessage()))
            await self.writer.drain()
        finally:
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            await close_stream(body)

    async def _drop_unread_body(self) -> None:
        """Read the rest of a short request body; after a long body the connection is closed instead."""
        dropped = 0
        while self._h11.their_state is h11.SEND_BODY and not self._h11.they_are_waiting_for_100_continue:
            event = await self._next_event()
            if not isinstance(event, h11.Data):
                return
            dropped += len(event.data)
            if dropped > _MAX_DRAIN_BYTES:
                return

    def _closing(self, headers: Headers) -> Headers:
        must_close = self._must_close or self._h11.their_state is h11.SEND_BODY
        return [*headers, (b"connection", b"close")] if must_close else headers

    async def _next_event(self) -> type[h11.NEED_DATA | h11.PAUSED] | h11.Event:
        while True:
            event = self._h11.next_event()
            if event is not h11.NEED_DATA:
                return event
            self._h11.receive_data(await self.reader.read(_READ_BYTES))

    def _data(self, data: bytes) -> bytes:
        return self._send(h11.Data(data=data)) if data else b""

    def _send(self, event: h11.Event) -> bytes:
        return self._h11.send(event) or b""


def _check_framing(head: bytes) -> None:
    """
    Raise `h11.RemoteProtocolError` if programs may differ about the end of the request with *head*, in lower case.

    h11 checks the values, but merges equal lengths, and accepts names that some servers take for the same.
    """
    line, *headers = head.split(b"\r\n")
    names = [header.partition(b":")[0] for header in headers]
    framing = [name for name in names if name.replace(b"_", b"-").strip() in _FRAMING]
    if len(set(framing)) != len(framing) or not _FRAMING.issuperset(framing):
        raise h11.RemoteProtocolError("The request has several lengths, or a header that looks like one.")
    if b"transfer-encoding" in framing and not line.endswith(b"http/1.1"):
        raise h11.RemoteProtocolError("Only HTTP/1.1 has a transfer coding.")

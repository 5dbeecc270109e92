"""
The server's side of an HTTP/1.1 connection with a client, based on h11.

Head and body of a response are written in one send: two sends cost a kept-alive client about 40 ms (delayed ACK).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import h11

from pdkernel.egress.message import Headers, Response, close_stream, is_bodyless

_MAX_HEAD = 256 * 1024
_READ_BYTES = 1 << 16
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
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD)
        self._must_close = False
        self._method = ""
        if initial_data:
            self._h11.receive_data(initial_data)

    async def next_request(self) -> h11.Request | None:
        """The next request's head, or None at the end of the connection."""
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
            if len(head) > _MAX_HEAD:
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
        The body of the current request; sends `100 Continue` to a client that expects it.

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
        """Bytes that the client sent after the request, for a connection that switches protocols."""
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

"""
The HTTP/1.1 protocol of the server's connections: a stricter uvicorn protocol.

Rejects unsafe requests that llhttp accepts, limits the size and the duration of a request and the duration of a response, and supports
HTTP/1.0 clients. Also limits the bytes that a process holds for clients that have not read their responses.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sized
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Protocol, cast

import httptools
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from pdkernel.egress.message import strip_control_characters
from pdkernel.egress.own_server import NO_STEP
from pdkernel.server.step_connections import STEP_CALL_KEY, is_step_connection

MAX_UNSENT_BYTES = 128 * 1024 * 1024
"""Bytes of all unsent responses of a process: twenty of the largest responses of a workflow, to clients that read at the same time."""
YOUNG_S = 1.0
"""Seconds after which the rate of a response can be compared with others: its first bytes are in buffers of the system."""

_TOO_MANY = "A connection was closed, because unsent responses use too much memory and its client reads the slowest."
_log = logging.getLogger(__name__)


class Recipient(Protocol):
    """A connection that sends responses; it counts in bytes."""

    @property
    def unsent_bytes(self) -> int:
        """What the process holds for the client."""
        ...

    @property
    def read_bytes(self) -> int:
        """What the system has taken over since the connection was opened."""
        ...

    def abort(self) -> None:
        """Close the connection at once, and forget what is unsent."""
        ...


@dataclass(slots=True)
class _Share:
    size: int
    since: float
    read_before: int


class UnsentResponses:
    """
    The unsent responses of a process. Above *max_bytes*, the connection whose client reads the slowest is closed.

    A minimum rate of each client is not enough: many clients can have large responses and read just fast enough.
    Sizes of connections are exact only when the sum seems to be too large, so that a response costs no timer and no system call.

    Args:
        max_bytes: The limit. A single response may be larger.
        now: The time in seconds.
    """

    def __init__(self, max_bytes: int = MAX_UNSENT_BYTES, *, now: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._now = now
        self._shares: dict[Recipient, _Share] = {}
        self._total = 0

    def update(self, recipient: Recipient, *, is_new: bool = False) -> None:
        """Count what *recipient* holds now; *is_new* means that all of it belongs to a response that begins."""
        self._count(recipient, is_new=is_new)
        if self._total > self._max_bytes:
            self._make_room()

    def remove(self, recipient: Recipient) -> None:
        """Forget *recipient*, whose connection is closed."""
        share = self._shares.pop(recipient, None)
        if share is not None:
            self._total -= share.size

    def _count(self, recipient: Recipient, *, is_new: bool = False) -> None:
        size, share = recipient.unsent_bytes, self._shares.get(recipient)
        if not size:
            self.remove(recipient)
        elif share is None or is_new:
            self._total += size - (share.size if share else 0)
            self._shares[recipient] = _Share(size, self._now(), recipient.read_bytes)
        else:
            self._total += size - share.size
            share.size = size

    def _make_room(self) -> None:
        for recipient in tuple(self._shares):
            self._count(recipient)
        while self._total > self._max_bytes and len(self._shares) > 1:
            slowest = min(self._shares, key=self._speed)
            _log.warning(_TOO_MANY)
            self.remove(slowest)
            slowest.abort()

    def _speed(self, recipient: Recipient) -> tuple[bool, float, float]:
        """Return a key that orders recipients by rate; those that began within `YOUNG_S` are last, the latest at the end."""
        share = self._shares[recipient]
        age = self._now() - share.since
        rate = (recipient.read_bytes - share.read_before) / max(age, YOUNG_S)
        return age < YOUNG_S, rate, share.since


MAX_HEADER_BYTES = 64 * 1024
"""Limit of a request's head, and of chunk metadata and trailers of a body."""
MAX_PIPELINED_REQUESTS = 16
"""Pipelined requests of one connection; at this number, the server stops reading from the connection."""

HEAD_S = 30.0
"""Timeout of a request's head in seconds: the default of Kestrel (ASP.NET)."""
BODY_WINDOW_S = 30.0
"""Seconds over which the rate of a body is averaged, so that a mobile connection may pause."""
BODY_BYTES_PER_S = 240.0
"""Minimum rate of a body, the default of Kestrel. A lower rate makes slow-body attacks cheap."""

RESPONSE_WINDOW_S = 30.0
"""Seconds over which the rate of a response is averaged."""
RESPONSE_BYTES_PER_S = 8192.0
"""Minimum rate at which a client reads: the largest response of a workflow is in memory for up to ten minutes."""
_MAX_BUFFERED_BYTES = 64 * 1024
"""Bytes of a response in a connection's buffer; the rest is not copied until the client has read."""

MAX_CONNECTIONS = 4096
"""Connections of a process at once; fewer if it may open less than twice as many files, because steps and the database need files, too."""

_INVALID_REQUEST = "Invalid HTTP request received."
_TOO_SLOW = "The request arrived too slowly."
_READ_TOO_SLOWLY = "A connection was closed, because its client read a response too slowly."


def filter_response_headers(
    headers: Iterable[tuple[bytes, bytes]], *, status: int, excluded: Collection[bytes]
) -> list[tuple[bytes, bytes]]:
    """
    Headers of another server's response for forwarding, without those in *excluded* (lower case).

    The length of a 304 is dropped: clients would wait for a body that does not follow.
    """
    dropped = {*excluded, b"content-length"} if status == HTTPStatus.NOT_MODIFIED else excluded
    return [(name.lower(), strip_control_characters(value)) for name, value in headers if name.lower() not in dropped]


@dataclass(frozen=True, slots=True)
class Pace:
    """
    Minimum speed of a client that sends a request and reads the response.

    Attributes:
        head_s: Timeout of the head in seconds.
        body_window_s: Seconds over which the rate of a body is averaged.
        body_bytes_per_s: Minimum rate of a body.
        response_window_s: Seconds over which the rate of a response is averaged.
        response_bytes_per_s: Minimum rate at which the client reads.
    """

    head_s: float = HEAD_S
    body_window_s: float = BODY_WINDOW_S
    body_bytes_per_s: float = BODY_BYTES_PER_S
    response_window_s: float = RESPONSE_WINDOW_S
    response_bytes_per_s: float = RESPONSE_BYTES_PER_S


class StrictHttpProtocol(HttpToolsProtocol):
    """
    uvicorn's llhttp protocol with strict checks, the same on every system.

    Args:
        pace: Minimum speed of the client.
        unsent: The unsent responses of all connections of the process.
        max_connections: Connections at once. Beyond it, the connection ends that waits for its client for the longest time.
    """

    def __init__(
        self, *args: Any, pace: Pace, unsent: UnsentResponses, max_connections: int = MAX_CONNECTIONS, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._pace = pace
        self._unsent = unsent
        self._max_connections = max_connections
        self._waits_since = self.loop.time()
        self._held = 0
        self._timer: asyncio.TimerHandle | None = None
        self._received = 0
        self._begun = False
        self._unanswered: deque[RequestResponseCycle] = deque()
        self._in_body = False
        self._is_rejected = False
        self._made_progress = False
        self._pending = 0
        self._replayed_head = b""
        self._response_timer: asyncio.TimerHandle | None = None
        self._written = 0
        self.app = self._bodies = _SlicedBodies(self.app, self._hold, self._count_written)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer of the first head."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(_MAX_BUFFERED_BYTES)
        self.flow: _PipelineFlowControl = _PipelineFlowControl(transport, self.pipeline)
        own, peer = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
        self._is_of_step = is_step_connection(own, peer)
        self._start_timer()
        self._make_room()

    def _make_room(self) -> None:
        """Close the connection that waits for its client for the longest time if there are too many; it may be this one."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = self._max_connections if soft == resource.RLIM_INFINITY else min(self._max_connections, soft // 2)
        if len(self.connections) <= most:
            return
        opened = [each for each in cast("set[StrictHttpProtocol]", self.connections) if not each.transport.is_closing()]
        if len(opened) > most:
            min(opened, key=lambda each: each.waits_since).abort()

    def data_received(self, data: bytes) -> None:
        """Parse received data."""
        if self._is_rejected:
            return
        self._unset_keepalive_if_required()
        self._made_progress = False
        self._received += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._reject()
            return
        # llhttp and uvicorn do not limit the size of a head
        self._pending = 0 if self._made_progress else self._pending + len(data)
        if self._pending > MAX_HEADER_BYTES:
            self._reject()
        elif self._timer is None and not self._made_progress:
            self._start_timer()  # line breaks before a request end uvicorn's keep-alive timer

    def on_message_begin(self) -> None:
        """Start the timer of the head."""
        self._begun = True
        if self._timer is None:
            self._start_timer()
        super().on_message_begin()
        if self._is_of_step:
            cast("dict[str, object]", self.scope)[STEP_CALL_KEY] = NO_STEP

    def on_header(self, name: bytes, value: bytes) -> None:
        """Store a header; ignore trailers."""
        if not self._in_body:
            super().on_header(name, value.rstrip(b" \t"))

    def on_headers_complete(self) -> None:
        """Check the head, and pass the request to the application."""
        self._made_progress = True
        self._check_head()
        if self.parser.should_upgrade():
            self._replayed_head = self._head_without_upgrade()
            return
        super().on_headers_complete()
        self._unanswered.append(self.cycle)
        self._in_body = True
        self._start_timer()

    def on_body(self, body: bytes) -> None:
        """Store a chunk of the body."""
        self._made_progress = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Finish the request."""
        self._made_progress = True
        if self._in_body:
            self._in_body = self._begun = False
            self._stop_timer()
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Continue with the next request."""
        self._unanswered.popleft()
        self._waits_since = self.loop.time()
        super().on_response_complete()
        self._watch_response()

    def pause_writing(self) -> None:
        """Start the timer of the response that waits for the client."""
        super().pause_writing()
        self._watch_response()

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the disconnect to all unanswered requests; uvicorn reports only to the last."""
        self._stop_timer()
        if self._response_timer is not None:
            self._response_timer.cancel()
        self._unsent.remove(self)
        self._disconnect_all()
        super().connection_lost(exc)

    @property
    def waits_since(self) -> float:
        """When the connection began to wait for its client, in seconds of the loop's clock; infinite while the server answers."""
        return self._waits_since if self._in_body or not self._unanswered else float("inf")

    @property
    def unsent_bytes(self) -> int:
        """Bytes of the response in memory, with what the connection buffers: a body stays as a whole until its last slice is sent."""
        return self._held + int(self.transport.get_write_buffer_size())

    @property
    def read_bytes(self) -> int:
        """Bytes of responses that the system has taken over."""
        return self._written - int(self.transport.get_write_buffer_size())

    def abort(self) -> None:
        """Close the connection at once."""
        self._held = 0
        self.transport.abort()

    def _feed(self, data: bytes) -> None:
        rest = memoryview(data)
        while True:
            try:
                self.parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as paused:
                # llhttp treats the data after the head as another protocol: a body would be lost, or parsed as the next request
                rest = rest[paused.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                self.parser.feed_data(self._replayed_head)

    def _check_head(self) -> None:
        """
        Reject a head that llhttp accepts, but that a proxy may interpret differently, or that the server does not support.

        Raises:
            HttpParserError: The head is rejected.
        """
        version = self.parser.get_http_version()
        hosts = [name for name, _ in self.headers].count(b"host")
        codings = [value.lower() for name, value in self.headers if name == b"transfer-encoding"]
        if (
            version not in ("1.0", "1.1")
            or hosts > 1
            or (hosts == 0 and version == "1.1")
            or not self.url.startswith(b"/")
            or len(self.url) >= MAX_HEADER_BYTES  # some versions of httptools count in 16 bits
            or self.parser.get_method() == b"CONNECT"
            or codings not in ([], [b"chunked"])
        ):
            raise httptools.HttpParserError
        if version == "1.0":  # uvicorn would respond with HTTP/1.1; no further request follows on the connection
            self.expect_100_continue = False
            self._bodies.app = _ContentLengthApp(self._bodies.app)

    def _head_without_upgrade(self) -> bytes:
        """Return the request's head without the Upgrade header; the server supports no other protocol."""
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def _start_timer(self) -> None:
        """Start the timer of a head or of the next part of a body."""
        self._stop_timer()
        self._received = 0
        self.flow.was_paused = self.flow.read_paused
        wait_s = self._pace.body_window_s if self._in_body else self._pace.head_s
        self._timer = self.loop.call_later(wait_s, self._check_pace)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check_pace(self) -> None:
        """Reject a slow request, unless the server itself paused reading or has not yet sent 100 Continue."""
        self._timer = None
        enough = self._pace.body_bytes_per_s * self._pace.body_window_s
        awaits_continue = self._in_body and self.cycle.waiting_for_100_continue and not self.cycle.response_complete
        if self.flow.was_paused or awaits_continue or (self._in_body and self._received >= enough):
            self._start_timer()
        elif self._begun:
            self._reject(HTTPStatus.REQUEST_TIMEOUT, _TOO_SLOW)
        elif not self._unanswered:
            self.transport.close()

    def _hold(self, size: int) -> None:
        """Count a body of *size* bytes until it is sent; a negative size has been sent."""
        if self.transport.is_closing():
            return
        is_new = size > 0 and not self.unsent_bytes
        self._held = max(self._held + size, 0)
        self._unsent.update(self, is_new=is_new)

    def _count_written(self, size: int) -> None:
        self._written += size

    def _watch_response(self) -> None:
        """Start the timer of the data that the client has not read, also on a connection that is closing."""
        if self._response_timer is None and (left := self.transport.get_write_buffer_size()):
            read = self._written - left
            self._response_timer = self.loop.call_later(self._pace.response_window_s, self._check_response, read)

    def _check_response(self, read_before: int) -> None:
        """Abort the connection of a client that has read too little, unless it has read everything."""
        self._response_timer = None
        left = self.transport.get_write_buffer_size()
        enough = self._pace.response_bytes_per_s * self._pace.response_window_s
        if left and self._written - left - read_before < enough:
            self.logger.warning(_READ_TOO_SLOWLY)
            self.transport.abort()
        else:
            self._watch_response()

    def _reject(self, status: HTTPStatus = HTTPStatus.BAD_REQUEST, why: str = _INVALID_REQUEST) -> None:
        """Respond with *status* and *why* if possible, and close the connection."""
        self.logger.warning(why)
        self._stop_timer()
        self._is_rejected = True
        if not self._in_body and self._unanswered:
            self._unanswered[-1].keep_alive = False  # a complete request gets its response first
            return
        is_responding = self._in_body and (self.cycle.response_started or len(self._unanswered) > 1)
        self._disconnect_all()
        if not is_responding:
            to_head = self._in_body and self.scope["method"] == "HEAD"  # a response to HEAD has no body
            self._send_error(status, "" if to_head else why)
        self.transport.close()
        self._watch_response()

    def _send_error(self, status: HTTPStatus, text: str) -> None:
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(text)),
            (b"connection", b"close"),
        ]
        lines = [f"HTTP/1.1 {status.value} {status.phrase}".encode(), *(b"%b: %b" % header for header in headers)]
        self.transport.write(b"\r\n".join([*lines, b"", text.encode("ascii")]))

    def _disconnect_all(self) -> None:
        for cycle in self._unanswered:
            cycle.disconnected = True
            cycle.message_event.set()


class _PipelineFlowControl(FlowControl):
    """
    Flow control that pauses reading while many pipelined requests wait.

    uvicorn resumes reading after each response, and buffers all received data.

    Attributes:
        was_paused: Whether reading has been paused since this was last set to False.
    """

    def __init__(self, transport: asyncio.Transport, waiting: Sized) -> None:
        super().__init__(transport)
        self.was_paused = False
        self._waiting = waiting

    def pause_reading(self) -> None:
        """Pause reading."""
        self.was_paused = True
        super().pause_reading()

    def resume_reading(self) -> None:
        """Resume reading if few requests wait; each finished request calls this method again."""
        if len(self._waiting) < MAX_PIPELINED_REQUESTS:
            super().resume_reading()


class _SlicedBodies:
    """
    Sends large bodies of *app* in slices, so that flow control limits what a connection buffers.

    Args:
        app: The application.
        hold: Gets the size of each body before it is sent, and the negative size afterwards.
        count: Gets the size of each slice.
    """

    def __init__(self, app: Any, hold: Callable[[int], None], count: Callable[[int], None]) -> None:
        self.app = app
        self._hold = hold
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if message["type"] != "http.response.body":
                await send(message)
                return
            body = message.get("body", b"")
            self._hold(len(body))
            try:
                start = 0
                while len(body) - start > _MAX_BUFFERED_BYTES:
                    self._count(_MAX_BUFFERED_BYTES)
                    piece = body[start : start + _MAX_BUFFERED_BYTES]
                    await send({"type": message["type"], "body": piece, "more_body": True})
                    start += _MAX_BUFFERED_BYTES
                self._count(len(body) - start)
                await send({**message, "body": body[start:]} if start else message)
            finally:
                self._hold(-len(body))

        await self.app(scope, receive, sent)


class _ContentLengthApp:
    """Adds a content length to each response of *app*: HTTP/1.0 has no chunked encoding."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        held: Message | None = None
        parts: list[bytes] = []

        async def sent(message: Message) -> None:
            nonlocal held
            if message["type"] == "http.response.start" and not _has_content_length(message):
                held = message
            elif held is None:
                await send(message)
            else:
                parts.append(message.get("body", b""))
                if not message.get("more_body"):
                    body = b"".join(parts)
                    length = (b"content-length", b"%d" % len(body))
                    await send({**held, "headers": [*held["headers"], length]})
                    await send({"type": "http.response.body", "body": body})

        await self._app(scope, receive, sent)


def _has_content_length(start: Message) -> bool:
    return start["status"] in (204, 304) or any(name.lower() == b"content-length" for name, _ in start["headers"])

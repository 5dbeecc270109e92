"""
HTTP/1.1 on the server's connections: what is a request, and what is refused before anybody is told of it.

Knows what llhttp, which reads requests, leaves to its caller or takes more kindly than is safe, what uvicorn does not do for
HTTP/1.0, and what it refuses to send. What is answered to a request is the application's.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Collection, Iterable, Sized
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httptools
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

MAX_HEADER_BYTES = 64 * 1024
"""Of a request's head, or of what stands between the parts of its body or after them, that may come without an end of it."""
MAX_PIPELINED_REQUESTS = 16
"""Requests of one connection that wait for an earlier one's answer; while so many do, it is not read from."""

HEAD_S = 30.0
"""Seconds for a request's head, from the connection or the head's first byte on: the default of Kestrel (ASP.NET)."""
BODY_WINDOW_S = 30.0
"""Seconds over which the rate of a body is averaged, so that a mobile connection may pause."""
BODY_BYTES_PER_S = 240.0
"""Least rate of a body, 1,920 bits a second: the default of Kestrel. A smaller one would cost a sender next to nothing."""

_NO_HTTP = "Invalid HTTP request received."
_TOO_SLOW = "The request came too slowly."
_UNFIT = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def strip_control_characters(value: bytes) -> bytes:
    """A header's *value* without control characters, which others send now and then and uvicorn takes for an error of ours."""
    return _UNFIT.sub(b"", value).strip()


def filter_response_headers(
    headers: Iterable[tuple[bytes, bytes]], *, status: int, excluded: Collection[bytes]
) -> list[tuple[bytes, bytes]]:
    """
    The *headers* of another server's answer as they can be sent on, but those in *excluded* (lower case).

    A 304 goes without its length: that is the length of a body which does not come, and would be waited for.
    """
    dropped = {*excluded, b"content-length"} if status == HTTPStatus.NOT_MODIFIED else excluded
    return [(name.lower(), strip_control_characters(value)) for name, value in headers if name.lower() not in dropped]


@dataclass(frozen=True, slots=True)
class Pace:
    """
    The least pace of a client that sends a request.

    Attributes:
        head_s: Seconds for a head.
        body_window_s: Seconds over which the rate of a body is averaged.
        body_bytes_per_s: The least rate of a body.
    """

    head_s: float = HEAD_S
    body_window_s: float = BODY_WINDOW_S
    body_bytes_per_s: float = BODY_BYTES_PER_S


class StrictHttpProtocol(HttpToolsProtocol):
    """uvicorn's connection, its requests read by llhttp: strict, and everywhere the same."""

    def __init__(self, *args: Any, pace: Pace, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pace = pace
        self._timer: asyncio.TimerHandle | None = None
        self._received = 0
        self._begun = False
        self._unanswered: deque[RequestResponseCycle] = deque()
        self._in_body = False
        self._is_rejected = False
        self._progressed = False
        self._pending = 0
        self._replayed_head = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin."""
        super().connection_made(transport)
        self.flow: _PipelineFlowControl = _PipelineFlowControl(transport, self.pipeline)
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        """Read on."""
        if self._is_rejected:
            return
        self._unset_keepalive_if_required()
        self._progressed = False
        self._received += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._refuse()
            return
        # neither llhttp nor uvicorn, which keeps what has come of a head, has a limit
        self._pending = 0 if self._progressed else self._pending + len(data)
        if self._pending > MAX_HEADER_BYTES:
            self._refuse()
        elif self._timer is None and not self._progressed:
            self._start_timer()  # line breaks before a request, which end the keep-alive limit

    def on_message_begin(self) -> None:
        """Limit the time of the head."""
        self._begun = True
        if self._timer is None:
            self._start_timer()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; what comes after a body's last chunk is none."""
        if not self._in_body:
            super().on_header(name, value.rstrip(b" \t"))

    def on_headers_complete(self) -> None:
        """Hand the request on, if it is one."""
        self._progressed = True
        self._check_head()
        if self.parser.should_upgrade():
            self._replayed_head = self._head_without_upgrade()
            return
        super().on_headers_complete()
        self._unanswered.append(self.cycle)
        self._in_body = True
        self._start_timer()

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body."""
        self._progressed = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._progressed = True
        if self._in_body:
            self._in_body = self._begun = False
            self._stop_timer()
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """The next request's turn."""
        self._unanswered.popleft()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever answers a request; uvicorn tells the last one's only."""
        self._stop_timer()
        self._disconnect_all()
        super().connection_lost(exc)

    def _feed(self, data: bytes) -> None:
        rest = memoryview(data)
        while True:
            try:
                self.parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as paused:
                # for llhttp, what follows the head is another protocol's: a body would be lost, or be the next request
                rest = rest[paused.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                self.parser.feed_data(self._replayed_head)

    def _check_head(self) -> None:
        """
        Refuse what llhttp takes, but a proxy in front may understand in another way, or nobody here understands.

        Raises:
            HttpParserError: It is one of these.
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
        if version == "1.0":  # uvicorn would answer as if it were 1.1; no other request follows on the connection
            self.expect_100_continue = False
            self.app = _ContentLengthApp(self.app)

    def _head_without_upgrade(self) -> bytes:
        """The request's head as of a client that asks for no other protocol: there is none here."""
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def _start_timer(self) -> None:
        """Limit the time of what comes next: a head, or the next part of a body."""
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
        """Refuse a request that came too slowly, unless the server itself did not read it or ask for it."""
        self._timer = None
        enough = self._pace.body_bytes_per_s * self._pace.body_window_s
        asked_late = self._in_body and self.cycle.waiting_for_100_continue and not self.cycle.response_complete
        if self.flow.was_paused or asked_late or (self._in_body and self._received >= enough):
            self._start_timer()
        elif self._begun:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, _TOO_SLOW)
        elif not self._unanswered:
            self.transport.close()

    def _refuse(self, status: HTTPStatus = HTTPStatus.BAD_REQUEST, why: str = _NO_HTTP) -> None:
        """Answer *status* and *why* where that is possible, and close; the application need not answer a broken request."""
        self.logger.warning(why)
        self._stop_timer()
        self._is_rejected = True
        if not self._in_body and self._unanswered:
            self._unanswered[-1].keep_alive = False  # it is whole: it has its answer first
            return
        amid_answers = self._in_body and (self.cycle.response_started or len(self._unanswered) > 1)
        self._disconnect_all()
        if not amid_answers:
            to_head = self._in_body and self.scope["method"] == "HEAD"  # whose answer has no body
            self._send_error(status, "" if to_head else why)
        self.transport.close()

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
    When a connection is read from: not while many requests wait for their turn.

    uvicorn reads on with each request that is answered, as much as there is, and keeps what comes.

    Attributes:
        was_paused: Whether reading has been paused since this was last set to False.
    """

    def __init__(self, transport: asyncio.Transport, waiting: Sized) -> None:
        super().__init__(transport)
        self.was_paused = False
        self._waiting = waiting

    def pause_reading(self) -> None:
        """Pause."""
        self.was_paused = True
        super().pause_reading()

    def resume_reading(self) -> None:
        """Read on, if few wait; each of the others calls this again."""
        if len(self._waiting) < MAX_PIPELINED_REQUESTS:
            super().resume_reading()


class _ContentLengthApp:
    """*app*, each of whose answers says its length: HTTP/1.0 has no chunks."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        held: Message | None = None
        parts: list[bytes] = []

        async def sent(message: Message) -> None:
            nonlocal held
            if message["type"] == "http.response.start" and not _is_measured(message):
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


def _is_measured(start: Message) -> bool:
    return start["status"] in (204, 304) or any(name.lower() == b"content-length" for name, _ in start["headers"])

"""
Collects what one step does, and passes each event to a listener as it happens.

It decodes output, limits its size, and keeps the first response. A response body of text bytes becomes text.
"""

from __future__ import annotations

import base64
import codecs
import re
from collections.abc import Mapping
from email.message import Message
from typing import Any

from msgspec import UNSET

from pdkernel.errors import StepError
from pdkernel.execution import Stream
from pdkernel.model import JSON
from pdkernel.workers.calls import StepOutcome
from pdkernel.workers.protocols import StepListener
from pdkernel.workers.replies import (
    Effect,
    Emitted,
    Exit,
    Export,
    Late,
    Pause,
    Respond,
    Response,
    StepReply,
    StoreWrite,
    Warn,
)

MAX_OUTPUT_BYTES = 1 << 20
"""The size of a step's recorded output in bytes."""

_decoder = codecs.getincrementaldecoder("utf-8")
_MAX_LINE_OVERRUN_BYTES = 1 << 16
_STDERR_TAIL_BYTES = 4096
_STDERR_TAIL_LINES = 10
_BASE64_KEY = "$base64"
_TEXT_TYPES = re.compile(
    r"text/.*|application/(?:.*\+)?(?:json|xml|yaml|javascript|graphql|x-ndjson|x-www-form-urlencoded)"
)
_UTF8_CHARSETS = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})


class StepRecorder:
    """
    The results of a running step so far.

    Attributes:
        emitted_events: The events that it emitted as an event source.
        service_db: The content of its `$.service.db`.
    """

    def __init__(self, listener: StepListener, service_db: Mapping[str, JSON] | None = None) -> None:
        self.emitted_events: list[Emitted] = []
        self.service_db: dict[str, JSON] = dict(service_db or {})
        self._has_written_db = False
        self._listener = listener
        self._decoders: dict[Stream, codecs.IncrementalDecoder] = {}
        self._bytes_left = MAX_OUTPUT_BYTES
        self._full = False
        self._dropped = 0
        self._tail = b""
        self._exports: dict[str, JSON] = {}
        self._response: dict[str, Any] | None = None
        self._warnings: list[str] = []
        self._exited = False
        self._exit_reason: str | None = None
        self._effects: list[Effect] = []
        self._pause: Pause | None = None
        self._seconds = 0.0
        self._memory_mb = 0.0

    def output(self, stream: Stream, data: bytes) -> None:
        """Record printed *data*."""
        if stream == "stderr":
            self._tail = (self._tail + data)[-_STDERR_TAIL_BYTES:]
        if self._full or len(data) > self._bytes_left:
            data = self._truncate(data)
        if data:
            self._bytes_left -= len(data)
            decoder = self._decoders.get(stream)
            if decoder is None:
                decoder = self._decoders[stream] = _decoder("replace")
            if text := decoder.decode(data):
                self._listener.log(stream, text)

    def parse_message(self, reply: StepReply) -> None:
        """Record a reply of the step's worker."""
        match reply:
            case Export():
                self.export(reply.name, reply.value)
            case Respond():
                self.respond(reply.response)
            case Effect():
                self._effects.append(reply)
            case Pause():
                self._pause = reply  # the last request counts
            case Emitted():
                self.emitted_events.append(reply)
            case StoreWrite():
                self._has_written_db = True
                if reply.value is UNSET:
                    self.service_db.pop(reply.key, None)
                else:
                    self.service_db[reply.key] = reply.value
            case Exit():
                self._exited = True
                self._exit_reason = reply.reason
            case Warn() | Late():
                self.warn(reply.text)

    def export(self, name: str, value: JSON) -> None:
        """Record an export."""
        self._exports[name] = value
        self._listener.export(name, value)

    def respond(self, response: Response) -> None:
        """Record a response; the first response wins."""
        if self._response is not None:
            self.warn("The step responded more than once; the first response was sent.")
            return
        body = _decode_text_body(response.body, response.headers)
        self._response = {"status": response.status, "headers": response.headers, "body": body}
        if response.immediate:
            self._response["immediate"] = True
        self._listener.respond(self._response)

    def report_progress(self, text: str) -> None:
        """Report slow preparation work to the listener."""
        self._listener.report_progress(text)

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings so far, as sentences for people."""
        return tuple(self._warnings)

    @property
    def response(self) -> dict[str, Any] | None:
        """The first response, or None so far."""
        return self._response

    def set_usage(self, *, seconds: float, memory_mb: float) -> None:
        """Record the duration of the step and its highest measured memory."""
        self._seconds, self._memory_mb = seconds, memory_mb

    def warn(self, text: str) -> None:
        """Record a warning, unless the same text was recorded before."""
        if text not in self._warnings:
            self._warnings.append(text)

    def stderr_tail(self) -> str:
        """Return the last complete lines of stderr."""
        tail = self._tail
        if len(tail) == _STDERR_TAIL_BYTES:
            tail = tail.partition(b"\n")[
                2
            ]  # a partial line may contain a partial secret, which redaction does not find
        return "\n".join(tail.decode("utf-8", "replace").rstrip().splitlines()[-_STDERR_TAIL_LINES:])

    def outcome(self, error: StepError | None = None) -> StepOutcome:
        """Return the outcome of the step, which has ended."""
        for stream, decoder in self._decoders.items():
            if text := decoder.decode(b"", final=True):
                self._listener.log(stream, text)
        if self._dropped:
            notice = (
                f"{self._dropped:,} more bytes were printed and not kept: the limit is {MAX_OUTPUT_BYTES:,} a step."
            )
            self._listener.log("stderr", f"\n[{notice}]\n")
            self.warn(notice)
        return StepOutcome(
            exports=self._exports,
            has_exited=self._exited,
            exit_reason=self._exit_reason,
            response=self._response,
            warnings=tuple(self._warnings),
            queued_sends=tuple(self._effects),
            pause_request=self._pause,
            service_db=self.service_db if self._has_written_db else None,
            duration_s=self._seconds,
            peak_memory_mb=self._memory_mb,
            error=error,
        )

    def _truncate(self, data: bytes) -> bytes:
        if self._full:
            self._dropped += len(data)
            return b""
        # keep data to the end of the line, if the end is near: a partial line may contain a partial secret
        end = data.find(b"\n", max(self._bytes_left - 1, 0)) + 1
        self._full = bool(end) or self._bytes_left < -_MAX_LINE_OVERRUN_BYTES
        if not self._full:
            end = len(data)
        self._dropped = len(data) - end
        return data[:end]


def _decode_text_body(body: JSON, headers: Mapping[str, str | list[str]]) -> JSON:
    """
    Return *body* as text if it holds bytes of a text content type in UTF-8 or without a charset, else unchanged.

    The text encodes to exactly the same bytes in UTF-8. Other bytes stay `{"$base64": TEXT}`.
    """
    if not isinstance(body, dict) or set(body) != {_BASE64_KEY} or not _is_text(headers):
        return body
    try:
        return base64.b64decode(str(body[_BASE64_KEY]), validate=True).decode("utf-8")
    except ValueError:  # not base64, or not UTF-8
        return body


def _is_text(headers: Mapping[str, str | list[str]]) -> bool:
    content_type = next((value for name, value in headers.items() if name.lower() == "content-type"), None)
    if not isinstance(content_type, str):
        return False
    parsed = Message()
    parsed["content-type"] = " ".join(content_type.split())
    try:
        charset = parsed.get_content_charset("utf-8")
    except UnicodeError:  # characters that are invalid in a header
        return False
    return bool(_TEXT_TYPES.fullmatch(parsed.get_content_type())) and charset in _UTF8_CHARSETS

"""
Records one attempt at a step: decodes its output, limits the size, redacts secrets, and builds the results.

Workers report to the recorder while the step runs. A response body of text bytes becomes text.
"""

from __future__ import annotations

import asyncio
import base64
import codecs
import re
from collections.abc import Callable, Mapping
from email.message import Message
from typing import Any, cast

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from pdkernel.common.blocking import run_blocking
from pdkernel.common.clock import SYSTEM_CLOCK, Clock, format_iso
from pdkernel.common.encode import encode_json
from pdkernel.common.redaction import Redactor, StreamRedactor
from pdkernel.errors import PdkernelError, StepError
from pdkernel.execution import NOTE_PREFIX, AccountUse, ErrorRecord, Log, OutboundCall, StepResult, StepStatus, Stream
from pdkernel.model import JSON, MAX_PAYLOAD_BYTES
from pdkernel.packages import ProgressUpdate
from pdkernel.workers.calls import StepOutcome
from pdkernel.workers.replies import (
    Effect,
    Emitted,
    Exit,
    Export,
    Late,
    Pause,
    Respond,
    StepReply,
    StepResponse,
    StoreWrite,
    Warn,
)
from pdkernel.workers.step_errors import PayloadLimitError, build_payload_error

MAX_OUTPUT_BYTES = 1 << 20
"""The size of a step's recorded output in bytes."""
MAX_RECORDED_PROP_BYTES = 1 << 16
"""The size of one recorded prop in bytes of JSON, and of an export of a step that exceeded the payload limit."""
MAX_RECORDED_CALLS_BYTES = 1 << 20
"""The size of all recorded outbound calls of a step in bytes of JSON."""
MAX_MESSAGES = 1000
"""How many messages and events a step may queue for delivery."""
MAX_RESPONSE_HEADERS_BYTES = 1 << 16
"""The size of the headers of a step's HTTP response in bytes of JSON."""
MAX_ERROR_CHARACTERS = 1 << 16
"""The length of an error's message or stack."""
MAX_NOTE_CHARACTERS = 4096
"""The length of a note of pdkernel, which may quote the step."""
MAX_WARNINGS = 100
"""How many different warnings a step may cause."""
MIN_REPORT_INTERVAL_S = 0.05
"""Minimum seconds between two reports of output, so that a step with much output does not slow down."""
SHORTENED = "…"
"""The end of a local variable that a runtime has shortened (`error_report.py`, `frame_locals.mjs`)."""

_SHORTENED = re.compile(f"{SHORTENED}$", re.MULTILINE)
_NO_SECRETS = Redactor()
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
    Records one attempt at a step.

    The recorder receives unredacted values. `snapshot` and `finish` return the redacted record; `outcome` returns the
    unredacted values, which later steps read. Without arguments, the recorder redacts nothing and reports nothing.

    Args:
        name: The step's name.
        redactor: The redactor of the run's secrets.
        clock: For time stamps and durations.
        accounts: The accounts that the step uses.
        on_change: Receives the record after a change, or None. Output is reported at most every `MIN_REPORT_INTERVAL_S`.
        on_respond: Receives the first HTTP response, unredacted, or None.
        attempt: The number of the attempt (`$.flow.rerun`).
        previous_result: The record of the earlier attempts; their logs and outbound calls stay in the record.
        interrupted_calls: Outbound calls of attempts that left no record of their own.
        source: For a pre-built action, the source of the component.

    Attributes:
        attempt: The number of the attempt.
        previous_calls: The outbound calls of the earlier attempts.
        emitted_events: The events that the step emitted as an event source.
        service_db: The content of `$.service.db`. The caller sets the content at the start, and the step changes it.
    """

    def __init__(
        self,
        name: str = "",
        *,
        redactor: Redactor = _NO_SECRETS,
        clock: Clock = SYSTEM_CLOCK,
        accounts: tuple[AccountUse, ...] = (),
        on_change: Callable[[StepResult], None] | None = None,
        on_respond: Callable[[dict[str, Any]], None] | None = None,
        attempt: int = 1,
        previous_result: StepResult | None = None,
        interrupted_calls: tuple[OutboundCall, ...] = (),
        source: str | None = None,
    ) -> None:
        self.emitted_events: list[Emitted] = []
        self.service_db: dict[str, JSON] = {}
        self._name = name
        self._redactor = redactor
        self._clock = clock
        self._accounts = tuple(
            replace(use, name=redactor.redact_text(use.name)) if isinstance(use.name, str) else use for use in accounts
        )
        self._props: Mapping[str, JSON] | UnsetType = UNSET
        self._on_change = on_change
        self._on_respond = on_respond
        self.attempt = attempt
        self._source = source
        self._previous_logs = (
            (*previous_result.logs, Log("stderr", f"{NOTE_PREFIX}Attempt {attempt}:\n")) if previous_result else ()
        )
        self.previous_calls = (*(previous_result.requests if previous_result else ()), *interrupted_calls)
        self._decoders: dict[Stream, codecs.IncrementalDecoder] = {}
        self._stream_redactors: dict[Stream, StreamRedactor] = {}
        self._bytes_left = MAX_OUTPUT_BYTES
        self._is_full = False
        self._dropped_bytes = 0
        self._stderr_tail = b""
        self._logs: list[tuple[tuple[Stream, bool], list[str]]] = []  # stream, whether it is a note, and pieces of text
        self._exports: dict[str, JSON] = {}
        self._unredacted: dict[str, JSON] = {}  # exports since the last redaction
        self._redacted_exports: dict[str, JSON] = {}
        self._outbound_calls: list[OutboundCall] = []
        self._calls_bytes = 0
        self._dropped_calls = 0
        self._messages = 0
        self._kept_bytes = 0
        self._limit_error: StepError | None = None
        self._response: dict[str, Any] | None = None
        self._warnings: list[str] = []
        self._exit: Exit | None = None
        self._queued_sends: list[Effect] = []
        self._pause: Pause | None = None
        self._has_written_db = False
        self._duration_s = 0.0
        self._peak_memory_mb = 0.0
        self._started_at = format_iso(clock.now())
        self._began = clock.monotonic()
        self._reported = self._began
        self._report_timer: asyncio.TimerHandle | None = None

    @property
    def logs(self) -> tuple[Log, ...]:
        """The redacted output of this attempt so far."""
        return tuple(Log(stream, "".join(pieces)) for (stream, _), pieces in self._logs)

    def set_props(self, props: Mapping[str, JSON]) -> None:
        """Record the evaluated props of the step, without the values of secret props."""
        if props:
            self._props = cast("dict[str, JSON]", self._redactor.redact_value(dict(map(limit_prop, props.items()))))
            self._publish()

    def output(self, stream: Stream, data: bytes) -> None:
        """Record printed *data*."""
        if stream == "stderr":
            self._stderr_tail = (self._stderr_tail + data)[-_STDERR_TAIL_BYTES:]
        if self._is_full or len(data) > self._bytes_left:
            data = self._truncate(data)
        if data:
            self._bytes_left -= len(data)
            if text := self._decoders.setdefault(stream, _decoder("replace")).decode(data):
                self.log(stream, text)

    def log(self, stream: Stream, text: str) -> None:
        """Record printed *text*, whose size is not limited."""
        self._append(stream, self._stream_redactors.setdefault(stream, self._redactor.open_stream()).feed(text))
        # output within the interval is reported by a timer: the step may not print again for minutes
        if self._on_change is not None and self._report_timer is None:
            wait = self._reported + MIN_REPORT_INTERVAL_S - self._clock.monotonic()
            if wait > 0:
                self._report_timer = asyncio.get_running_loop().call_later(wait, self._report)
            else:
                self._report()

    def use_redactor(self, redactor: Redactor) -> None:
        """Redact with *redactor* from now on, also text that is held back: the step gets secrets from elsewhere."""
        self._redactor = redactor
        for stream, former in self._stream_redactors.items():
            self._stream_redactors[stream] = redactor.open_stream()
            self._append(stream, self._stream_redactors[stream].feed(former.take_pending()))

    def add_reply(self, reply: StepReply) -> None:
        """Record a reply of the step's worker, unless the step exceeds a limit by it."""
        is_message = isinstance(reply, Effect | Emitted)
        if isinstance(reply, Effect | Emitted | Pause | StoreWrite) and not self._may_keep(
            reply, is_message=is_message
        ):
            return
        match reply:
            case Export():
                self.export({reply.name: reply.value})
            case Respond():
                self.respond(reply.response)
            case Effect():
                self._queued_sends.append(reply)
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
                self._exit = reply
            case Warn() | Late():
                self.warn(reply.text)

    def export(self, exports: Mapping[str, JSON]) -> None:
        """Record *exports* by name, and report them together; the name `$return_value` is the step's return value."""
        self._exports.update(exports)
        self._unredacted.update(exports)
        self._publish()

    def respond(self, response: StepResponse) -> None:
        """Record a response; the first response wins."""
        if self._response is not None:
            self.warn("The step responded more than once; the first response was sent.")
            return
        if not self._may_keep(response) or not self._may_send(response.headers):
            return
        body = _decode_text_body(response.body, response.headers)
        self._response = {"status": response.status, "headers": response.headers, "body": body}
        if response.immediate:
            self._response["immediate"] = True
        if self._on_respond is not None:
            self._on_respond(self._response)

    def add_outbound_call(self, call: OutboundCall) -> None:
        """Record an outbound call, which is already redacted; beyond `MAX_RECORDED_CALLS_BYTES`, calls are only counted."""
        self._calls_bytes += len(encode_json(call))
        if self._calls_bytes > MAX_RECORDED_CALLS_BYTES:
            self._dropped_calls += 1
            return
        self._outbound_calls.append(call)
        self._publish()

    def add_note(self, text: str) -> None:
        """Add a note of pdkernel to the step's logs."""
        self._append("stderr", f"{NOTE_PREFIX}{_shorten(self._redactor.redact_text(text), MAX_NOTE_CHARACTERS)}\n")

    def report_progress(self, text: str) -> None:
        """Add a note about slow preparation work, such as compiling, and report it at once; an update is left out."""
        if not isinstance(text, ProgressUpdate):
            self.add_note(text)
            self._report()

    def warn(self, text: str) -> None:
        """Add a warning to the outcome, unless the outcome has the same warning already."""
        if len(self._warnings) < MAX_WARNINGS and text not in self._warnings:
            is_last = len(self._warnings) == MAX_WARNINGS - 1
            self._warnings.append("More warnings are left out." if is_last else text)

    def leave_out_exports(self) -> None:
        """Replace large exports by their sizes in the record: the step exceeded the limit of a run."""
        self._exports = self._unredacted = dict(map(limit_prop, self._exports.items()))
        self._redacted_exports = {}

    async def redact_large_exports(self) -> None:
        """Redact the exports in another thread, before the record needs them; the step has ended."""
        redactor, exports = self._redactor, self._unredacted
        if exports:
            redacted = await run_blocking(redactor.redact_value, exports)
            self._redacted_exports.update(cast("dict[str, JSON]", redacted))
            self._unredacted = {}

    def set_usage(self, *, seconds: float, memory_mb: float) -> None:
        """Record the duration of the step and its highest measured memory."""
        self._duration_s, self._peak_memory_mb = seconds, memory_mb

    def stderr_tail(self) -> str:
        """Return the last complete lines of stderr, unredacted."""
        tail = self._stderr_tail
        if len(tail) == _STDERR_TAIL_BYTES:
            # a partial line may contain a partial secret, which redaction does not find
            tail = tail.partition(b"\n")[2]
        return "\n".join(tail.decode("utf-8", "replace").rstrip().splitlines()[-_STDERR_TAIL_LINES:])

    def outcome(self, error: StepError | None = None) -> StepOutcome:
        """Return the unredacted outcome of the step, which has ended."""
        self._close_output()
        error = error or self._limit_error
        return StepOutcome(
            exports=self._exports,
            has_exited=self._exit is not None,
            exit_reason=self._exit.reason if self._exit else None,
            response=self._response,
            warnings=tuple(self._warnings),
            queued_sends=() if self._limit_error else tuple(self._queued_sends),
            pause_request=self._pause,
            service_db=self.service_db if self._has_written_db else None,
            duration_s=self._duration_s,
            peak_memory_mb=self._peak_memory_mb,
            error=error,
        )

    def snapshot(self) -> StepResult:
        """Return the record so far, without a duration."""
        return self._build_result("not_run")

    def finish(self, status: StepStatus, error: PdkernelError | None = None) -> StepResult:
        """Return the record of the finished step; later changes are not reported."""
        self._on_change = None
        if self._report_timer is not None:
            self._report_timer.cancel()
        self._close_output()
        duration_ms = (self._clock.monotonic() - self._began) * 1000
        return self._build_result(status, duration_ms, self._build_error(error) if error else None)

    def _may_keep(self, value: Struct, *, is_message: bool = False) -> bool:
        """Count what a step asks to keep besides exports and logs; return whether it may, else the step has an error."""
        # parity[kept-limit]: the platform documents the payload limit for the event, exports and logs only
        self._kept_bytes += len(encode_json(value))
        self._messages += is_message
        if self._kept_bytes > MAX_PAYLOAD_BYTES:
            what = (
                f"the messages, events, responses and contexts of the step have {self._kept_bytes / (1 << 20):.1f} MB"
            )
            self._limit_error = build_payload_error(what)
        elif self._messages > MAX_MESSAGES:
            self._limit_error = PayloadLimitError(
                f"The step queued more than {MAX_MESSAGES:,} messages or events, so none of them is sent.",
                name="TooManyMessages",
                fix="Send one message with a list, or start another run for each part of the work.",
            )
        return self._limit_error is None

    def _may_send(self, headers: Mapping[str, str | list[str]]) -> bool:
        """Return whether a response may have *headers*, else the step has an error."""
        # parity[response-headers]: the platform documents no limit; no HTTP client accepts more by default
        size = len(encode_json(headers))
        if size > MAX_RESPONSE_HEADERS_BYTES:
            self._limit_error = PayloadLimitError(
                f"The headers of the step's response have {size:,} bytes; the limit is {MAX_RESPONSE_HEADERS_BYTES:,}.",
                name="ResponseHeadersTooLarge",
                fix="Return large data in the body of the response.",
            )
        return self._limit_error is None

    def _truncate(self, data: bytes) -> bytes:
        if self._is_full:
            self._dropped_bytes += len(data)
            return b""
        # keep data to the end of the line, if the end is near: a partial line may contain a partial secret
        end = data.find(b"\n", max(self._bytes_left - 1, 0)) + 1
        self._is_full = bool(end) or self._bytes_left < -_MAX_LINE_OVERRUN_BYTES
        if not self._is_full:
            end = len(data)
        self._dropped_bytes = len(data) - end
        return data[:end]

    def _close_output(self) -> None:
        """Record the output that a decoder or a redactor holds back, and the number of dropped bytes."""
        for stream, decoder in self._decoders.items():
            if text := decoder.decode(b"", final=True):
                self.log(stream, text)
        if self._dropped_calls:
            self.warn(
                f"{self._dropped_calls:,} more outbound calls are not recorded: the limit is {MAX_RECORDED_CALLS_BYTES:,} bytes per step."
            )
            self._dropped_calls = 0
        if self._dropped_bytes:
            notice = f"{self._dropped_bytes:,} more bytes of output were dropped: the limit is {MAX_OUTPUT_BYTES:,} bytes per step."
            self.log("stderr", f"\n[{notice}]\n")
            self.warn(notice)
        for stream, redactor in self._stream_redactors.items():
            self._append(stream, redactor.close())
        self._decoders, self._stream_redactors, self._dropped_bytes = {}, {}, 0

    def _append(self, stream: Stream, text: str) -> None:
        if not text:
            return
        kind = (stream, text.startswith(NOTE_PREFIX))
        if not self._logs or self._logs[-1][0] != kind:
            self._logs.append((kind, []))
        self._logs[-1][1].append(text)

    def _report(self) -> None:
        if self._report_timer is not None:
            self._report_timer.cancel()
            self._report_timer = None
        self._reported = self._clock.monotonic()
        self._publish()

    def _publish(self) -> None:
        if self._on_change is not None:
            self._on_change(self.snapshot())

    def _build_result(
        self, status: StepStatus, duration_ms: float | None = None, error: ErrorRecord | None = None
    ) -> StepResult:
        if self._unredacted:
            self._redacted_exports.update(cast("dict[str, JSON]", self._redactor.redact_value(self._unredacted)))
            self._unredacted = {}
        return StepResult(
            name=self._name,
            status=status,
            started_at=self._started_at,
            duration_ms=duration_ms,
            attempt=self.attempt,
            exports=dict(self._redacted_exports),
            logs=(*self._previous_logs, *self.logs),
            accounts=self._accounts,
            requests=(*self.previous_calls, *self._outbound_calls),
            error=error,
            source=UNSET if self._source is None else self._source,
            props=self._props,
        )

    def _build_error(self, error: PdkernelError) -> ErrorRecord:
        return ErrorRecord(
            code=error.code,
            name=_shorten(self._redactor.redact_text(error.name), 200)
            if isinstance(error, StepError)
            else type(error).__name__,
            message=_shorten(self._redactor.redact_text(str(error)), MAX_ERROR_CHARACTERS),
            step=self._name,
            line=getattr(error, "line", None),
            stack=_shorten(self._redact_stack(error.stack), MAX_ERROR_CHARACTERS)
            if isinstance(error, StepError) and error.stack
            else None,
        )

    def _redact_stack(self, stack: str) -> str:
        """Redact *stack*; a part of a secret at the end of a shortened local variable is removed."""
        *shortened, rest = _SHORTENED.split(stack)
        return SHORTENED.join(
            [*(self._redactor.open_stream().feed(text) for text in shortened), self._redactor.redact_text(rest)]
        )


def limit_prop(prop: tuple[str, JSON]) -> tuple[str, JSON]:
    """Replace a value that is too large for the record by its size: an export or the event has the value already."""
    name, value = prop
    size = len(encode_json(value))
    return name, value if size <= MAX_RECORDED_PROP_BYTES else f"({size:,} bytes, not recorded)"


def _shorten(text: str, most: int) -> str:
    """Return the beginning of the redacted *text* if it has more than *most* characters, and say how many are left out."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text) - most:,} more characters are left out)"


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

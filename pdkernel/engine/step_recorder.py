"""The record of one running step: output, exports and outbound calls, redacted and in order, as a `StepResult`."""

from __future__ import annotations

import re
from asyncio import TimerHandle
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import UNSET

from pdkernel.clock import Clock, format_iso
from pdkernel.engine.run_record import require_object
from pdkernel.errors import PdkernelError, StepError
from pdkernel.execution import NOTE_PREFIX, AccountUse, ErrorRecord, Log, OutboundCall, StepResult, StepStatus, Stream
from pdkernel.model import JSON
from pdkernel.redaction import Redactor, StreamRedactor

MIN_REPORT_INTERVAL_S = 0.05
"""Minimum seconds between two reports of output, so that a step with much output does not slow down."""
SHORTENED = "…"
"""The end of a local variable that a runtime has shortened (`python_errors.py`, `node_locals.mjs`)."""
_SHORTENED = re.compile(f"{SHORTENED}$", re.MULTILINE)


class StepRecorder:
    """
    Records one attempt at a step.

    The recorder is the worker's listener: `log`, `report_progress`, `export` and `respond` receive values without
    redaction.

    Args:
        name: The step's name.
        redactor: The redactor of the run's secrets.
        clock: For time stamps and durations.
        accounts: The accounts that the step uses.
        on_change: Receives the record after a change, or None.
        on_respond: Receives an HTTP response.
        call_later: Schedules a function after some seconds (a loop's `call_later`).
        attempt: The number of the attempt (`$.flow.rerun`).
        previous_result: The record of the attempts before; its logs and outbound calls stay in the record.
        source: For a pre-built action, the source of the component.
    """

    def __init__(
        self,
        name: str,
        *,
        redactor: Redactor,
        clock: Clock,
        accounts: tuple[AccountUse, ...],
        on_change: Callable[[StepResult], None] | None,
        on_respond: Callable[[dict[str, Any]], None],
        call_later: Callable[[float, Callable[[], None]], TimerHandle],
        attempt: int = 1,
        previous_result: StepResult | None = None,
        source: str | None = None,
    ) -> None:
        self._redactor = redactor
        self._clock = clock
        self._on_change = on_change
        self._on_respond = on_respond
        self._later = call_later
        self._report_timer: TimerHandle | None = None
        self._streams: dict[Stream, StreamRedactor] = {}
        self._logs: list[Log] = []
        self._exports: dict[str, JSON] = {}
        self._requests: list[OutboundCall] = []
        self._previous_logs = (
            (*previous_result.logs, Log("stderr", f"{NOTE_PREFIX}Attempt {attempt}:\n")) if previous_result else ()
        )
        self._previous_calls = previous_result.requests if previous_result else ()
        self._began = clock.monotonic()
        self._reported = self._began
        self._started_at = format_iso(clock.now())
        self._name = name
        self._accounts = accounts
        self._attempt = attempt
        self._source = source

    @property
    def logs(self) -> tuple[Log, ...]:
        """The output of this attempt so far."""
        return tuple(self._logs)

    def log(self, stream: Stream, text: str) -> None:
        """Record a piece of the step's output."""
        held = self._streams.get(stream)
        if held is None:
            held = self._streams[stream] = self._redactor.open_stream()
        self._append(stream, held.feed(text))
        # output within the interval is reported by a timer: the step may not print again for minutes
        if self._report_timer is None and self._on_change is not None:
            wait = self._reported + MIN_REPORT_INTERVAL_S - self._clock.monotonic()
            if wait > 0:
                self._report_timer = self._later(wait, self._report)
            else:
                self._report()

    def export(self, name: str, value: JSON) -> None:
        """Record a named export."""
        self._exports.update(require_object(self._redactor.redact_value({name: value})))
        self._publish()

    def respond(self, response: dict[str, Any]) -> None:
        """Pass on an HTTP response of the step."""
        self._on_respond(response)

    def add_outbound_call(self, call: OutboundCall) -> None:
        """Record an outbound call, which is already redacted."""
        self._requests.append(call)
        self._publish()

    def add_note(self, text: str) -> None:
        """Add a note of pdkernel to the step's logs."""
        self._append("stderr", f"{NOTE_PREFIX}{self._redactor.redact_text(text)}\n")

    def report_progress(self, text: str) -> None:
        """Add a note and report it at once."""
        self.add_note(text)
        self._report()

    def snapshot(self) -> StepResult:
        """Return the record so far, without a duration."""
        return self._result("not_run")

    def finish(
        self, status: StepStatus, *, exports: Mapping[str, JSON], error: PdkernelError | None = None
    ) -> StepResult:
        """Return the record of the finished step; *exports* (not redacted) replace exports with the same names."""
        if self._report_timer is not None:
            self._report_timer.cancel()
        for stream, held in self._streams.items():
            self._append(stream, held.close())
        self._exports.update(require_object(self._redactor.redact_value(dict(exports))))
        duration_ms = (self._clock.monotonic() - self._began) * 1000
        return self._result(status, duration_ms, self._record(error) if error else None)

    def _result(
        self, status: StepStatus, duration_ms: float | None = None, error: ErrorRecord | None = None
    ) -> StepResult:
        return StepResult(
            name=self._name,
            status=status,
            started_at=self._started_at,
            duration_ms=duration_ms,
            attempt=self._attempt,
            exports=dict(self._exports),
            logs=(*self._previous_logs, *self._logs),
            accounts=self._accounts,
            requests=(*self._previous_calls, *self._requests),
            error=error,
            source=UNSET if self._source is None else self._source,
        )

    def _report(self) -> None:
        self._report_timer = None
        self._reported = self._clock.monotonic()
        self._publish()

    def _publish(self) -> None:
        if self._on_change is not None:
            self._on_change(self.snapshot())

    def _record(self, error: PdkernelError) -> ErrorRecord:
        return ErrorRecord(
            code=error.code,
            name=self._redactor.redact_text(error.name) if isinstance(error, StepError) else type(error).__name__,
            message=self._redactor.redact_text(str(error)),
            step=self._name,
            line=getattr(error, "line", None),
            stack=self._stack(error.stack) if isinstance(error, StepError) and error.stack else None,
        )

    def _stack(self, stack: str) -> str:
        """Redact *stack*; a part of a secret at the end of a shortened local variable is removed."""
        *shortened, rest = _SHORTENED.split(stack)
        return SHORTENED.join(
            [*(self._redactor.open_stream().feed(text) for text in shortened), self._redactor.redact_text(rest)]
        )

    def _append(self, stream: Stream, text: str) -> None:
        if not text:
            return
        log, last = Log(stream, text), self._logs[-1] if self._logs else None
        if last is not None and (last.stream, last.is_note) == (stream, log.is_note):
            self._logs[-1] = Log(stream, last.text + text)
        else:
            self._logs.append(log)

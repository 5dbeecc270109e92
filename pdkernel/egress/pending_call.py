"""
One outbound call until it is recorded.

The call is recorded once, redacted, before the step receives the end of the response.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from msgspec import UNSET

from pdkernel.common.clock import Clock, format_iso
from pdkernel.common.secret_patterns import redact_url
from pdkernel.egress.caller_tokens import CallContext
from pdkernel.egress.message import Request, Response
from pdkernel.egress.refusals import Refusal
from pdkernel.egress.send_once import UNKNOWN, is_safe_method
from pdkernel.execution import CallOutcome, OutboundCall


@dataclass(frozen=True, slots=True)
class CallResult:
    """
    How a call ended: the fields of `OutboundCall` that are known at its end.

    Attributes:
        is_unanswered: Whether an unsafe call was sent and its answer was not seen.
    """

    outcome: CallOutcome
    status: int | None = None
    note: str | None = None
    recorded_at: str | None = None
    body_bytes: int | None = None
    is_unanswered: bool = False


_UNANSWERED = CallResult("failed", note=f"unknown: sent, answer not seen. {UNKNOWN}", is_unanswered=True)
_REPEATED = "sent again: an earlier attempt sent it, answer not seen."
_MADE = frozenset({"sent", "stand_in", "failed"})


class PendingCall:
    """
    An outbound call of a step that is not finished yet.

    Attributes:
        context: The step's context when the call began.
        method: The HTTP method, or `CONNECT`.
        url: The URL, redacted.
        started_at: ISO time of the call's start.
        is_sent: Whether a part of the request may have reached the host.
        head: The result as far as the head of the response shows it, or None before.
        is_repeated: Whether an earlier attempt at the step has sent the call and saw no answer.
    """

    is_sent = False
    head: CallResult | None = None
    is_repeated = False

    def __init__(
        self, context: CallContext, method: str, url: str, clock: Clock, request: Request | None = None
    ) -> None:
        self.context = context
        self.method = method
        self.url = redact_url(context.redactor.redact_text(url))
        self.started_at = format_iso(clock.now())
        self._plain_url = url
        self._clock = clock
        self._began = clock.monotonic()
        self._request = request
        self._finished = False

    @property
    def duration_ms(self) -> float:
        """Milliseconds since the call began."""
        return (self._clock.monotonic() - self._began) * 1000

    def finish(self, result: CallResult) -> None:
        """Record the call with *result*; later calls of `finish` have no effect."""
        if self._finished:
            return
        self._finished = True
        was_sent = result.outcome in _MADE and (result.status is not None or result.is_unanswered)
        if self.is_repeated and was_sent:
            result = replace(result, note=f"{_REPEATED} {result.note}" if result.note else _REPEATED)
        self.context.on_call_finished(self._describe(result, self.duration_ms))

    def describe_unanswered(self) -> OutboundCall:
        """Return the record of the call if its answer is never seen."""
        return self._describe(_UNANSWERED, 0.0)

    def fail(self, why: str, *, status: int | None = None, is_unanswered: bool = False) -> None:
        """
        Record a call without a complete response, and report it to the run; no effect after `finish`.

        Args:
            why: The cause, as a sentence; may contain a note on the outcome.
            status: Status of the response that broke off, or None.
            is_unanswered: As in `CallResult`.
        """
        if self._finished:
            return
        what = "got no response" if status is None else "got no complete response"
        note = f"{what.removeprefix('got ')}: {why}"
        self.finish(CallResult("failed", status, note=note, is_unanswered=is_unanswered))
        self.context.on_failed(f"{self.method} {self.url} {what}: {self.context.redactor.redact_text(why)}")

    def abandon(self) -> None:
        """Record a call whose response the step does not wait for any more, as far as it is known; no effect after `finish`."""
        if self.head is not None:
            self.finish(self.head)
        elif self.is_sent and not is_safe_method(self.method):
            self.finish(_UNANSWERED)
        else:
            self.finish(CallResult("failed", note="no response: the step ended before."))

    def refuse(self, refusal: Refusal) -> Response:
        """Record the call, report the refusal to the run, and return the response for the step."""
        self.finish(CallResult("denied", refusal.status, note=refusal.message.partition("\n")[0]))
        self.context.on_call_refused(refusal.message)
        return refusal.to_response(method=self.method, url=self.url)

    def _describe(self, result: CallResult, duration_ms: float) -> OutboundCall:
        return OutboundCall(
            method=self.method,
            url=self.url,
            status=result.status,
            duration_ms=duration_ms,
            safe=is_safe_method(self.method),
            outcome=result.outcome,
            app=self._app(),
            at=self.started_at,
            same_as=result.recorded_at,
            step=self.context.step,
            external_user=self.context.external_user_id,
            bytes=result.body_bytes,
            note=None if result.note is None else self.context.redactor.redact_text(result.note),
            attempt=self.context.attempt if result.is_unanswered else UNSET,
        )

    def _app(self) -> str | None:
        """Return the app whose account's credential the call carried."""
        if not self.context.app_by_secret_ref:
            return None
        texts = [self._plain_url]
        if self._request is not None:
            texts += [value.decode("latin-1") for _, value in self._request.headers]
            texts.append(self._request.body.prefix.decode("utf-8", "replace"))
        refs = self.context.redactor.find_secrets("\n".join(texts))
        return next(
            (self.context.app_by_secret_ref[ref] for ref in refs if ref in self.context.app_by_secret_ref), None
        )

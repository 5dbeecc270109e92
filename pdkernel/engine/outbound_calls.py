"""
The call context of a step, and the effect of refused and failed outbound calls on the step.

A step that goes on after a refused call is ended after a grace period. `egress` decides whether a call is refused.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property

from msgspec import UnsetType
from msgspec.structs import replace

from pdkernel.egress import CallContext, connection_owner
from pdkernel.engine.record_writes import RunLostError
from pdkernel.engine.run_state import RunState
from pdkernel.errors import OutboundCallRefusedError, StepError
from pdkernel.execution import OutboundCall
from pdkernel.workers import StepOutcome

REFUSED_STEP_GRACE_S = 3.0
"""Seconds until a step with a refused call is ended."""
_MAX_NAMED_FAILURES = 3
"""Failed calls that a step's error names; the last ones are named."""


class StepCallsInFlight:
    """
    The unsafe calls of one attempt at a step, recorded in the run's journal before they are sent; implements `egress.CallsInFlight`.

    Args:
        run: The run.
        step: The step.
        earlier: The outbound calls of earlier attempts.
    """

    def __init__(self, run: RunState, step: str, earlier: Sequence[OutboundCall]) -> None:
        self._run = run
        self._step = step
        self._earlier = earlier
        self._has_ended = False

    @cached_property
    def _unanswered(self) -> Counter[tuple[str, str]]:
        by_attempt: dict[int, Counter[tuple[str, str]]] = {}
        for call in self._earlier:
            if not isinstance(call.attempt, UnsetType):
                by_attempt.setdefault(call.attempt, Counter())[call.method, call.url] += 1
        found = Counter[tuple[str, str]]()
        for calls in by_attempt.values():
            found |= calls  # attempts repeat one another
        return found

    def is_repeated(self, method: str, url: str) -> bool:
        """Return whether an earlier attempt has sent the next call of that method and redacted URL, and saw no answer; counts the call."""
        count = self._unanswered[method, url]
        self._unanswered[method, url] = max(count - 1, 0)
        return count > 0

    async def add(self, call: OutboundCall) -> None:
        """Record *call* before it is sent. Raises `PdkernelError`: it must not be sent; if the run is lost, the step ends."""
        try:
            await self._run.record.record_call(self._step, call, self._check)
        except RunLostError as lost:
            if self._run.running_step == self._step:
                self._run.workers.fail_step(StepError(str(lost), name="RunLost"))
            raise
        self._check()

    def end(self) -> None:
        """Record no more calls: the attempt has ended, and its record is next."""
        self._has_ended = True

    def _check(self) -> None:
        if self._has_ended:
            raise StepError("The step has ended.", name="StepEnded")


def build_call_binding(
    run: RunState,
    step: str,
    on_call: Callable[[OutboundCall], None],
    *,
    attempt: int = 1,
    calls_in_flight: StepCallsInFlight | None = None,
) -> CallContext:
    """
    Return the context of outbound calls of *step*.

    Args:
        run: The run.
        step: The step.
        on_call: Receives each finished call.
        attempt: The number of the attempt at the step.
        calls_in_flight: Records unsafe calls before they are sent, unless the run sends them once; or None.
    """

    def refuse(message: str) -> None:
        error = OutboundCallRefusedError(message, name="OutboundCallRefused")
        run.first_refusals.setdefault(step, error)

        def end() -> None:
            if run.running_step == step:
                run.workers.fail_step(error)

        # some clients retry for minutes after any response
        asyncio.get_running_loop().call_later(REFUSED_STEP_GRACE_S, end)

    def fail(message: str) -> None:
        messages = run.failed_calls.setdefault(step, [])
        if message not in messages:
            messages.append(message)

    request = run.request
    return CallContext(
        step=step,
        policy=request.outbound_policy,
        redactor=run.record.redactor,
        owner=connection_owner(request.external_user_id, request.environment, run.record.run_id),
        external_user_id=request.external_user_id,
        environment=request.environment,
        app_by_secret_ref=run.resolution.app_by_secret,
        proxy_by_secret_ref=run.resolution.proxy_by_secret,
        on_call_finished=on_call,
        on_call_refused=refuse,
        on_failed=fail,
        sent_requests=request.idempotency,
        # the scope hashes the event, which costs time
        send_once_scope=request.idempotency_scope if request.idempotency is not None else "",
        send_again=request.options.resend,
        memory_recording=request.options.recording,
        attempt=attempt,
        calls_in_flight=calls_in_flight if request.idempotency is None else None,
    )


def with_calls_explained(run: RunState, step: str, outcome: StepOutcome) -> StepOutcome:
    """Return *outcome* of *step* with explanations of refused and failed calls in its error or warnings."""
    failed = run.failed_calls.pop(step, [])
    if outcome.error is not None:
        # a client's message ("Connection reset by peer") may not name the cause
        missing = [message for message in failed[-_MAX_NAMED_FAILURES:] if message not in str(outcome.error)]
        outcome.error.fix = "\n".join(part for part in (outcome.error.fix, *missing) if part)
    refusal = run.first_refusals.get(step)
    if refusal is None:
        return outcome
    if outcome.error is not None:
        # a client's message for a refusal ("403 Forbidden") looks like an answer of the remote server
        if refusal.message not in str(outcome.error):
            outcome.error.fix = "\n".join(part for part in (outcome.error.fix, refusal.message) if part)
        return outcome
    # in a replay, results of code that handled a refusal are not reliable
    if run.request.policy.mode == "replay":
        return replace(outcome, error=refusal)
    return replace(outcome, warnings=(*outcome.warnings, refusal.message))

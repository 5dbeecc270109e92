"""
How the outside calls of a run's steps are treated, and what a refused or failed one means for its step.

Knows that a step which goes on after a refusal is ended soon, and that a replay must not trust what it made of it.
Whether a call is refused is `egress`' to know.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from pdkernel.egress import CallContext
from pdkernel.engine.run_state import RunState
from pdkernel.errors import OutboundCallRefusedError
from pdkernel.execution import OutboundCall
from pdkernel.workers import StepOutcome

REFUSED_STEP_GRACE_S = 1.0
"""Seconds that a step has to end by itself after an outside call of it was refused."""
_SHOWN = 3
"""Failed calls that a step's error names, the last ones."""


def build_call_binding(run: RunState, step: str, on_call: Callable[[OutboundCall], None]) -> CallContext:
    """How the outside calls of *step* are treated; *on_call* is told each."""

    def refuse(message: str) -> None:
        error = OutboundCallRefusedError(message, name="OutsideCallRefused")
        run.first_refusals.setdefault(step, error)

        def end() -> None:
            if run.running_step == step:
                run.workers.fail_step(error)

        # some clients ask again for minutes whatever the answer: the step ends even then
        asyncio.get_running_loop().call_later(REFUSED_STEP_GRACE_S, end)

    def fail(message: str) -> None:
        told = run.failed_calls.setdefault(step, [])
        if message not in told:
            told.append(message)

    request = run.request
    return CallContext(
        step=step,
        policy=request.policy,
        redactor=run.record.redactor,
        external_user=request.external_user_id,
        app_by_secret_ref=run.resolution.app_by_secret,
        proxy_by_secret_ref=run.resolution.proxy_by_secret,
        on_call_finished=on_call,
        on_call_refused=refuse,
        on_failed=fail,
        sent_requests=request.idempotency,
        send_once_scope=request.idempotency_scope
        if request.idempotency is not None
        else "",  # a hash of the event, which only that needs
        send_again=request.resend,
        memory_recording=request.recording,
    )


def with_calls_explained(run: RunState, step: str, outcome: StepOutcome) -> StepOutcome:
    """*outcome* of *step*, with what is to be said of calls that were refused, or failed before the step did."""
    failed = run.failed_calls.pop(step, [])
    if outcome.error is not None:
        # a client's own words ("Connection reset by peer") may not name the cause
        missing = [message for message in failed[-_SHOWN:] if message not in str(outcome.error)]
        outcome.error.fix = "\n".join(part for part in (outcome.error.fix, *missing) if part)
    refusal = run.first_refusals.get(step)
    if refusal is None:
        return outcome
    if outcome.error is not None:
        # a client's own words for a refusal ("403 Forbidden") read like the other side's answer
        if refusal.message not in str(outcome.error):
            outcome.error.fix = "\n".join(part for part in (outcome.error.fix, refusal.message) if part)
        return outcome
    # what its code made of the refusal cannot be trusted in a replay
    if run.request.policy.mode == "replay":
        return replace(outcome, error=refusal)
    return replace(outcome, warnings=(*outcome.warnings, refusal.message))

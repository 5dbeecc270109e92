"""
Handles each step of a run: skipped, pinned, or executed with its reruns and pauses; then recorded.

`step_executor` runs one attempt, `pauses` decides about a pause.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import UTC, datetime

from msgspec.structs import replace

from pdkernel.common.clock import Clock, format_iso
from pdkernel.engine.pauses import RerunState, build_flow_urls, decide_pause, retry_delay_s
from pdkernel.engine.restored_run import RestoredPause, RestoredRun
from pdkernel.engine.run_state import RunState
from pdkernel.engine.step_executor import StepExecutor
from pdkernel.errors import DirectiveError, ExpressionError
from pdkernel.execution import RESUME_DATA, ErrorRecord, Status, StepResult
from pdkernel.journal import WaitKey
from pdkernel.language.analysis import find_step_references
from pdkernel.model import JSON, Step, require_object
from pdkernel.workers import StepOutcome


class StepScheduler:
    """
    Runs the steps of a run, one call per step.

    Args:
        executor: Runs one attempt at a step.
        clock: For the ends of pauses.
    """

    def __init__(self, executor: StepExecutor, clock: Clock) -> None:
        self._executor = executor
        self._clock = clock

    async def run(self, run: RunState, step: Step, state: RestoredRun) -> Status | None:
        """
        Handle *step*, unless *state* has its record; return a status if the run ends with it, else None.

        A step that is blocked by a cell that cannot be read fails, and the run goes on.
        """
        request, redactor = run.request, run.record.redactor
        if step.name in request.blocked_steps and request.is_selected(step.name):
            message, line = request.blocked_steps[step.name]
            error = ErrorRecord(
                DirectiveError.code, DirectiveError.__name__, redactor.redact_text(message), step.name, line
            )
            run.record.record_step(StepResult(step.name, "error", error=error))
            return None
        known = state.steps.get(step.name)
        if known is not None:
            run.exports[step.name] = known.exports
            run.payload.add(known.exports, known.result.logs)
            run.record.outbox.add(step.name, known.number, known.sends, run.record.redactor)
            return "error" if known.result.error is not None else None
        if step.disabled:
            run.record.notify(StepResult(step.name, "disabled"))
            return None
        if step.name in request.pinned_exports:
            pinned = _restore(run, step, request.pinned_exports[step.name])
            run.record.record_step(
                StepResult(step.name, "pinned", exports=require_object(redactor.redact_value(pinned))), exports=pinned
            )
            return None
        if not request.is_selected(step.name):
            if step.name in request.previous_exports:
                _restore(run, step, request.previous_exports[step.name])
            return None
        if state.pause is not None and state.pause.step.result.name == step.name:
            return await self._go_on(run, step, state.pause)
        return await self._run(run, step, RerunState())

    async def _go_on(self, run: RunState, step: Step, pause: RestoredPause) -> Status | None:
        """Continue after a pause: run the step again, or record the step with the data of the call that resumed the run."""
        known, redactor = pause.step, run.record.redactor
        if pause.is_rerun:
            previous = replace(known.result, error=None)
            carry = pause.carry
            callback = pause.payload if carry.callback is None else carry.callback
            state = RerunState(pause.number + 1, carry.context, previous, callback, carry.retries, carry.unstarted)
            return await self._run(run, step, state)
        run.attempt = 1  # the step that follows has no earlier attempt
        exports, result = dict(known.exports), known.result
        if pause.payload is not None:
            exports[RESUME_DATA] = pause.payload
            shown = {**result.exports, RESUME_DATA: redactor.redact_value(pause.payload)}
            result = replace(result, exports=shown)
        run.exports[step.name] = exports
        run.payload.add(exports, result.logs)
        run.record.record_step(result, exports=exports)
        return None

    async def _run(self, run: RunState, step: Step, rerun_state: RerunState) -> Status | None:
        while True:
            result, outcome = await self._executor.execute(run, step, rerun_state)
            if outcome is None or outcome.error is not None:
                if self._park_for_retry(run, step, result, outcome, rerun_state):
                    return "paused"
                run.record.record_step(result, outcome, number=rerun_state.run_number, ends_run=True)
                return "error"
            run.exports[step.name] = outcome.exports
            pause = outcome.pause_request
            decision = decide_pause(pause, run.request.pause_mode, runs=rerun_state.runs) if pause else None
            if pause is None or decision is None or decision.action == "go_on":
                run.record.record_step(result, outcome, number=rerun_state.run_number, ends_run=outcome.has_exited)
                return "exited" if outcome.has_exited else None
            if decision.action == "park":
                wake_at = self._clock.now().timestamp() + decision.delay_s
                state = replace(rerun_state, context=pause.context, callback=None)
                run.record.park(result, outcome, pause.kind, state, wake_at=wake_at)
                return "paused"
            run.record.notify(result)
            rerun_state = RerunState(rerun_state.run_number + 1, pause.context, result)

    def _park_for_retry(
        self, run: RunState, step: Step, result: StepResult, outcome: StepOutcome | None, state: RerunState
    ) -> bool:
        """Pause the run before a retry of the failed step; return False if the run fails."""
        error = outcome.error if outcome is not None else run.packages.find_temporary_failure(step.name)
        if error is None or run.request.pause_mode != "park" or run.request.interface == "notebook":
            return False  # a person who tests a step gets its error at once
        delay_s = retry_delay_s(run.request.workflow, error, state)
        if delay_s is None:
            return False
        wake_at = self._clock.now().timestamp() + delay_s
        urls = build_flow_urls(
            run.request.base_url, WaitKey(run.record.run_id, step.name, number=state.run_number), run.record.sign
        )
        attempt = {
            "error": {"name": error.name, "message": error.message},
            "cancel_url": urls["cancel_url"],
            "rerun_url": urls["resume_url"],
            "resume_ts": format_iso(datetime.fromtimestamp(wake_at, UTC)),
        }
        shown = require_object(run.record.redactor.redact_value({"$summary": str(error), "$attempt": attempt}))
        result = replace(result, exports={**result.exports, **shown})
        state = replace(state, retries=state.retries + 1)
        if outcome is not None:
            run.record.park(result, outcome, "retry", state, wake_at=wake_at)
        else:  # the step has not started: its attempt is still the one that was interrupted before
            state = replace(state, unstarted=state.unstarted + 1)
            run.record.park(result, StepOutcome(), "retry", state, wake_at=wake_at, interruptions=run.attempt - 1)
        return True


def _restore(run: RunState, step: Step, redacted: Mapping[str, JSON]) -> dict[str, JSON]:
    """Set the exports of a step that does not run; steps that read secrets of another run in them have a note."""
    redactor, workflow = run.record.redactor, run.request.workflow
    exports = run.exports[step.name] = require_object(redactor.restore(dict(redacted)))
    if unknown := redactor.find_unknown_refs(dict(redacted)):
        note = (
            f"The exports of {step.name} have placeholders for secrets that this run does not have: {', '.join(unknown)}. "
            "Run both steps in one run."
        )
        for each in workflow.steps:
            with contextlib.suppress(ExpressionError):  # the step itself will have the error
                if step.name in find_step_references(each):
                    run.packages.messages.setdefault(each.name, []).append(note)
    return exports

"""
One step's turn in a run: passed over, pinned, or run as often as it asks to, with its pauses; then recorded.

Knows when a step's turn ends the run. What one attempt takes is for `attempt` to know, what a pause means for `pauses`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from pdkernel.clock import Clock
from pdkernel.engine.pauses import PauseDecision, RerunState, decide_pause
from pdkernel.engine.run_record import require_object
from pdkernel.engine.run_state import RunState
from pdkernel.engine.step_executor import StepExecutor
from pdkernel.execution import Status, StepResult
from pdkernel.model import Step
from pdkernel.workers import Pause, RunWorkers


class StepScheduler:
    """
    Gives steps their turns.

    Args:
        executor: Runs a step once.
        clock: What pauses are waited for by.
        reopen_workers: Gives a run a place and processes anew, when it may go on.
    """

    def __init__(
        self, executor: StepExecutor, clock: Clock, *, reopen_workers: Callable[[RunState], Awaitable[RunWorkers]]
    ) -> None:
        self._attempts = executor
        self._clock = clock
        self._open_again = reopen_workers

    async def run(self, run: RunState, step: Step) -> Status | None:
        """Do what *step*'s turn asks for; a status says that the run ends here."""
        request, redactor = run.request, run.record.redactor
        if step.disabled:
            run.record.notify(StepResult(step.name, "disabled"))
            return None
        if step.name in request.pinned_exports:
            pinned = require_object(redactor.restore(dict(request.pinned_exports[step.name])))
            run.exports[step.name] = pinned
            run.record.record_step(
                StepResult(step.name, "pinned", exports=require_object(redactor.redact_value(pinned)))
            )
            return None
        if not request.is_selected(step.name):
            if step.name in request.previous_exports:
                run.exports[step.name] = require_object(redactor.restore(dict(request.previous_exports[step.name])))
            return None
        return await self._run(run, step)

    async def _run(self, run: RunState, step: Step) -> Status | None:
        again = RerunState()
        while True:
            result, outcome = await self._attempts.execute(run, step, again)
            if outcome is None or outcome.error is not None:
                run.record.record_step(result, ends_run=True)
                return "error"
            run.exports[step.name] = outcome.exports
            pause = outcome.pause_request
            verdict = decide_pause(pause, run.request.pause_mode, run_number=again.run_number) if pause else None
            if pause is None or verdict is None or verdict.action == "go_on":
                run.record.record_step(result, ends_run=outcome.has_exited)
                if verdict is not None:
                    await self._wait(run, verdict)
                return "exited" if outcome.has_exited else None
            if verdict.action == "park":
                return self._park(run, step, result, pause, verdict)
            run.record.notify(result)
            await self._wait(run, verdict)
            if verdict.action == "cancel":
                run.record.record_step(result)
                return "cancelled"
            again = RerunState(again.run_number + 1, pause.context, result)

    async def _wait(self, run: RunState, verdict: PauseDecision) -> None:
        if verdict.delay_s <= 0:
            return
        run.record.set_status("paused")
        await run.workers.release()  # a run that waits keeps no other from running
        await self._clock.sleep(verdict.delay_s)
        run.workers = await self._open_again(run)
        run.record.set_status("resumed")

    def _park(self, run: RunState, step: Step, result: StepResult, pause: Pause, verdict: PauseDecision) -> Status:
        if pause.kind == "rerun":
            run.record.notify(result)
        else:
            run.record.record_step(result)
        run.record.park(step.name, wake_at=self._clock.now().timestamp() + verdict.delay_s)
        return "paused"

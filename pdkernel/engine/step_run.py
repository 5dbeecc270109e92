"""
One step's turn in a run: passed over, pinned, or run as often as it asks to, with its pauses; then recorded.

Knows when a step's turn ends the run. What one attempt takes is for `attempt` to know, what a pause means for `pauses`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from pdkernel.clock import Clock
from pdkernel.engine.attempt import Attempts
from pdkernel.engine.pauses import Again, Verdict, judge
from pdkernel.engine.record import as_object
from pdkernel.engine.run_state import RunState
from pdkernel.execution import Status, StepResult
from pdkernel.hosts import Pause, RunGuests
from pdkernel.model import Step


class StepRuns:
    """
    Gives steps their turns.

    Args:
        attempts: Runs a step once.
        clock: What pauses are waited for by.
        open_again: Gives a run a place and processes anew, when it may go on.
    """

    def __init__(
        self, attempts: Attempts, clock: Clock, *, open_again: Callable[[RunState], Awaitable[RunGuests]]
    ) -> None:
        self._attempts = attempts
        self._clock = clock
        self._open_again = open_again

    async def take(self, run: RunState, step: Step) -> Status | None:
        """Do what *step*'s turn asks for; a status says that the run ends here."""
        request, redactor = run.request, run.record.redactor
        if step.disabled:
            run.record.note(StepResult(step.name, "disabled"))
            return None
        if step.name in request.pins:
            pinned = as_object(redactor.restore(dict(request.pins[step.name])))
            run.exports[step.name] = pinned
            run.record.record(StepResult(step.name, "pinned", exports=as_object(redactor.value(pinned))))
            return None
        if not request.runs(step.name):
            if step.name in request.exports:
                run.exports[step.name] = as_object(redactor.restore(dict(request.exports[step.name])))
            return None
        return await self._run(run, step)

    async def _run(self, run: RunState, step: Step) -> Status | None:
        again = Again()
        while True:
            result, outcome = await self._attempts.make(run, step, again)
            if outcome is None or outcome.error is not None:
                run.record.record(result, ends=True)
                return "error"
            run.exports[step.name] = outcome.exports
            pause = outcome.pause
            verdict = judge(pause, run.request.pauses, runs=again.runs) if pause else None
            if pause is None or verdict is None or verdict.then == "go_on":
                run.record.record(result, ends=outcome.exited)
                if verdict is not None:
                    await self._wait(run, verdict)
                return "exited" if outcome.exited else None
            if verdict.then == "park":
                return self._park(run, step, result, pause, verdict)
            run.record.note(result)
            await self._wait(run, verdict)
            if verdict.then == "cancel":
                run.record.record(result)
                return "cancelled"
            again = Again(again.runs + 1, pause.context)

    async def _wait(self, run: RunState, verdict: Verdict) -> None:
        if verdict.seconds <= 0:
            return
        run.record.become("paused")
        await run.guests.release()  # a run that waits keeps no other from running
        await self._clock.sleep(verdict.seconds)
        run.guests = await self._open_again(run)
        run.record.become("resumed")

    def _park(self, run: RunState, step: Step, result: StepResult, pause: Pause, verdict: Verdict) -> Status:
        if pause.kind == "rerun":
            run.record.note(result)
        else:
            run.record.record(result)
        run.record.park(step.name, wake_at=self._clock.now().timestamp() + verdict.seconds)
        return "paused"

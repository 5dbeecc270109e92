"""
One attempt at one step: its props, its process, its record, its limits.

Knows what a step is given and what is said of what it did. Whether the run goes on afterwards, and whether the step is
run again, is for `step_run` to know.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from pdkernel.clock import Clock
from pdkernel.engine.actions import StepAction
from pdkernel.engine.context import step_context
from pdkernel.engine.crossing import said_of_numbers
from pdkernel.engine.deliveries import doubt
from pdkernel.engine.end_users import StepAccounts
from pdkernel.engine.limits import memory_limit, near_limits, raise_timeout, too_deep
from pdkernel.engine.outside_calls import binding_of, with_calls_explained
from pdkernel.engine.pauses import Again, judge, urls
from pdkernel.engine.props import evaluate_props, labelled, undeclared_props
from pdkernel.engine.recorder import StepRecorder
from pdkernel.engine.run_state import RunState, unwritable
from pdkernel.engine.services import Services
from pdkernel.engine.stores import DATA_STORE, StoreService, stores_of
from pdkernel.engine.triggered import RunOther, TriggerService
from pdkernel.errors import ExportNotJSONError, PdkernelError, StepError, StepTimeoutError
from pdkernel.execution import RETURN_VALUE, StepResult, StepStatus
from pdkernel.hosts import StepCall, StepConfigurationError, StepOutcome
from pdkernel.inspection import place_of_missing_prop, return_line
from pdkernel.model import Step, Workflow
from pdkernel.project import StoreTable


class Attempts:
    """
    Runs single steps, once each.

    Args:
        clock: For every time stamp and duration.
        stores: Data stores.
        run_other: Runs a workflow that a step triggers.
    """

    def __init__(self, *, clock: Clock, stores: StoreTable, run_other: RunOther) -> None:
        self._clock = clock
        self._stores = stores
        self._run_other = run_other

    async def make(self, run: RunState, step: Step, again: Again) -> tuple[StepResult, StepOutcome | None]:
        """Run *step* once: its result, and what it did unless it could not be started."""
        action = run.actions.of(step)
        accounts = run.actions.accounts(step) or run.resolution.of(step.name)
        recorder = StepRecorder(
            step.name,
            redactor=run.record.redactor,
            clock=self._clock,
            accounts=accounts.uses,
            on_change=run.record.note if run.record.watched else None,
            on_respond=run.record.respond,
            later=asyncio.get_running_loop().call_later,
            attempt=again.runs,
            earlier=again.earlier,
            source=action.component.told if action else None,
        )
        for line in run.ready.said.pop(step.name, ()):
            recorder.warn(line)
        if run.record.watched:
            run.record.note(recorder.snapshot())
        try:
            run.ready.check(step.name)
            outcome = await self._outcome(run, step, recorder, accounts, again)
        except asyncio.CancelledError:
            cancelled = StepError("The run was cancelled while this step ran.", name="Cancelled")
            run.record.record(recorder.finish("error", exports={}, error=cancelled))
            raise
        except PdkernelError as error:  # its packages, its props or its process cannot be had
            if error is run.record.unwritten:
                run.record.note(StepResult(step.name, "not_run"))
                raise
            _complete(error if isinstance(error, StepError) else None, run.request.workflow, step)
            return recorder.finish("error", exports={}, error=error), None
        except OSError as fault:
            return recorder.finish("error", exports={}, error=unwritable(fault)), None
        _complete(outcome.error, run.request.workflow, step)
        _say_warnings(run, step, recorder, outcome, again)
        outcome = _limited(run, step, recorder, outcome)
        run.sends += ((step.name, effect) for effect in outcome.effects)
        status: StepStatus = "error" if outcome.error else "success"
        return recorder.finish(status, exports=outcome.exports, error=outcome.error), outcome

    async def _outcome(
        self, run: RunState, step: Step, recorder: StepRecorder, accounts: StepAccounts, again: Again
    ) -> StepOutcome:
        timeout_s = run.request.workflow.timeout_s(step)
        action = run.actions.of(step)
        written = step
        step = action.fitted.step if action and action.fitted else step
        if action and action.remote:
            props = await evaluate_props(step, run.guests, run.exports, timeout_s=timeout_s)
            await run.record.settled()
            return await run.actions.run_remote(step, action, props, recorder, timeout_s=timeout_s)
        if again.runs == 1:
            fitted = action.fitted.warnings if action and action.fitted else ()
            for warning in (*fitted, *await undeclared_props(step, run.guests)):
                recorder.warn(warning)
        stores = await _reachable_stores(run, step, action)
        call = StepCall(
            step=step,
            steps=run.exports,
            props=labelled(written, await evaluate_props(step, run.guests, run.exports, timeout_s=timeout_s)),
            auth=accounts.auth,
            context=step_context(
                run.request, self._clock, timeout_s=timeout_s, runs=again.runs, passed_on=again.context
            ),
            timeout_s=timeout_s,
            memory_mb=memory_limit(run.request.workflow),
            binding=binding_of(run, step.name, recorder.call),
            stores=stores,
            services=self._services(run, stores),
            flow=urls(run.request.base_url, run_id=run.record.run_id, step=step.name),
            component=action.component.file if action else None,
            cleared=run.record.settled,
        )
        run.running = step.name
        try:
            outcome = await _runner(run, step, recorder)(call, recorder)
        finally:
            run.running = None
        return with_calls_explained(run, step.name, outcome)

    def _services(self, run: RunState, stores: Mapping[str, str]) -> Services:
        return Services(
            {
                "flow": TriggerService(run.request, self._run_other),
                "store": StoreService(self._stores, stores.values()),
            }
        )


def _complete(error: StepError | None, workflow: Workflow, step: Step) -> None:
    """Say what only the workflow's text knows: where a limit is set, the line of an error that no line of code raised."""
    if isinstance(error, StepTimeoutError):
        error.fix = raise_timeout(workflow, step)
    if error is None or error.line is not None:
        return
    if isinstance(error, StepConfigurationError) and error.prop:
        error.line = place_of_missing_prop(step, error.prop)[0]
    elif isinstance(error, ExportNotJSONError) and RETURN_VALUE in error.message:
        error.line = return_line(step)


def _runner(run: RunState, step: Step, recorder: StepRecorder) -> Callable[..., Awaitable[StepOutcome]]:
    """What runs *step*: a process of its language, or the kernel for a debugger."""
    debugger = run.request.debugger
    if not step.debug:
        return run.guests.run
    if debugger is None:
        recorder.warn("--debug is for running the step's cell in a notebook: here the step ran like any other.")
        return run.guests.run

    async def in_kernel(call: StepCall, listener: StepRecorder) -> StepOutcome:
        await run.record.settled()
        return await debugger.run(call, run.setup, listener)

    return in_kernel


async def _reachable_stores(run: RunState, step: Step, action: StepAction | None) -> dict[str, str]:
    if action and action.component.file:
        return stores_of(step, (await run.guests.describe(action.component.file)).props)
    if step.language != "node" or step.uses is not None or DATA_STORE not in step.source:
        return stores_of(step)
    return stores_of(step, (await run.guests.describe(step)).props)


def _say_warnings(run: RunState, step: Step, recorder: StepRecorder, outcome: StepOutcome, again: Again) -> None:
    for warning in outcome.warnings:
        recorder.warn(warning)
    for effect in outcome.effects:
        if said := doubt(effect, dollar=step.dollar):
            recorder.warn(said)
    if outcome.pause is not None and outcome.error is None:
        recorder.warn(judge(outcome.pause, run.request.pauses, runs=again.runs, dollar=step.dollar).said)
    if outcome.exited and outcome.exit_reason and outcome.error is None:
        recorder.warn(f"The run ends after this step: {outcome.exit_reason}")
    if outcome.response is None:
        return
    run.record.respond(outcome.response)
    if run.request.workflow.trigger.response != "custom":
        recorder.warn(
            "The response is not sent: the trigger answers by itself (response: default). "
            "Write `response: custom` in %%pdworkflow."
        )


def _limited(run: RunState, step: Step, recorder: StepRecorder, outcome: StepOutcome) -> StepOutcome:
    """*outcome*, failed if it is over a limit; one that it came near is said."""
    workflow = run.request.workflow
    near = near_limits(outcome, timeout_s=workflow.timeout_s(step), memory_mb=memory_limit(workflow))
    over, payload = run.payload.add(outcome.exports, recorder.logs)
    for warning in (*near, payload, said_of_numbers(workflow, step, outcome.exports)):
        if warning is not None:
            recorder.warn(warning)
    error = outcome.error or too_deep(step, outcome.exports) or over
    return outcome if error is outcome.error else replace(outcome, error=error)

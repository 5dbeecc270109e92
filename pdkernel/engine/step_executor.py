"""
Runs each step of a run: skipped, pinned, or executed with its reruns and pauses; then recorded.

One attempt at a step has props, services, a worker, limits and warnings. `pauses` decides about a pause.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import replace as replace_request
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

from msgspec.structs import replace

from pdkernel.common.blocking import run_blocking
from pdkernel.common.clock import Clock, format_iso
from pdkernel.common.redaction import Secret
from pdkernel.egress import CallContext
from pdkernel.engine.account_resolution import StepAccounts
from pdkernel.engine.child_runs import ChildRuns, ChildRunService, ExecutedRun
from pdkernel.engine.data_store_service import DATA_STORE_PROP_TYPE, DataStoreService, resolve_data_stores
from pdkernel.engine.deliveries import find_send_problem
from pdkernel.engine.http_response import find_host_wide_headers
from pdkernel.engine.limits import (
    check_export_depth,
    describe_inexact_number,
    explain_bind,
    suggest_longer_timeout,
    warn_near_limits,
)
from pdkernel.engine.outbound_calls import StepCallsInFlight, build_call_binding, with_calls_explained
from pdkernel.engine.pauses import RerunState, build_flow_urls, decide_pause, retry_delay_s
from pdkernel.engine.props import add_option_labels, evaluate_props, warn_undeclared_props
from pdkernel.engine.restored_run import RestoredPause, RestoredRun
from pdkernel.engine.run_context import build_step_context
from pdkernel.engine.run_request import RunRequest
from pdkernel.engine.run_state import RunState, build_system_error
from pdkernel.engine.step_actions import StepAction
from pdkernel.errors import (
    DirectiveError,
    ExportNotJSONError,
    ExpressionError,
    PdkernelError,
    StepError,
    StepTimeoutError,
)
from pdkernel.event import MASK
from pdkernel.execution import CANCELLED, RESUME_DATA, RETURN_VALUE, ErrorRecord, Status, StepResult, StepStatus
from pdkernel.journal import WaitKey
from pdkernel.language.analysis import (
    fill_secret_props,
    find_return_line,
    find_step_references,
    format_instead,
    iter_sources,
    locate_missing_prop,
)
from pdkernel.language.analysis.old_code import OLD_VERSION, find_old_uses
from pdkernel.language.analysis.step_reads import suggest_key
from pdkernel.language.expression import RULE_FILTER, RULE_FILTER_PROP, RuleFilter
from pdkernel.model import JSON, Entry, Step, require_object
from pdkernel.storage import DataStoreTable, ScratchCopy
from pdkernel.workers import Pause, PayloadLimitError, StepCall, StepConfigurationError, StepOutcome, StepRecorder

_MISSING_KEY = re.compile(
    r"\AKeyError: '([^']+)'\Z|Cannot (?:read properties of|destructure property) .*?(?:\(reading )?'([^']+)'"
)
"""The key in the error of a missing key in Python, and the key that JavaScript reads from the missing value."""


MAX_PAUSED_RUNS = 1000
"""How many runs of one external user, in one environment, may be paused."""


_LARGE_EXPORTS_BYTES = 1 << 18
"""Exports with a secret are visited part by part: those of more bytes by another thread, so that the event loop goes on."""


class Service(Protocol):
    """Answers the calls of one service name."""

    async def answer(self, operation: str, args: Mapping[str, JSON]) -> JSON:
        """
        Answer *operation*, the part of the call after the dot.

        Raises:
            PdkernelError: The operation failed; the step's code gets the error as an exception.
        """
        ...


class StepServiceRouter:
    """
    The services of one step; implements `workers.StepServices`.

    Args:
        build: Builds the services by name (`store`, `flow`), when the step's first call arrives.
    """

    def __init__(self, build: Callable[[], Mapping[str, Service]]) -> None:
        self._build = build
        self._services: Mapping[str, Service] | None = None

    async def call(self, call: str, args: Mapping[str, JSON]) -> JSON:
        """
        Answer *call*, `NAME.OPERATION`.

        Raises:
            PdkernelError: There is no such service, or the operation failed.
        """
        if self._services is None:
            self._services = self._build()
        name, _, operation = call.partition(".")
        service = self._services.get(name)
        if service is None:
            raise StepError(f"This version does not support {call}.", name="UnsupportedError")
        return await service.answer(operation, args)


class StepExecutor:
    """
    Runs the steps of runs, one call for each step.

    Args:
        clock: For every time stamp and duration.
        stores: Data stores.
        run_workflow: Runs a workflow that a step triggers, as for `ChildRunService`, with the step's *sequence*.
        load_children: Returns the requests of the runs that the run with the first id has triggered, and whose ids begin with the
            second text.
        count_paused: `RunJournal.count_paused`.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        stores: DataStoreTable,
        run_workflow: Callable[..., Coroutine[Any, Any, ExecutedRun]],
        load_children: Callable[[str, str], Awaitable[Sequence[RunRequest]]],
        count_paused: Callable[[str, str, int], Awaitable[int]],
    ) -> None:
        self._clock = clock
        self._stores = stores
        self._count_paused = count_paused
        self._run_other = run_workflow
        self._load_children = load_children

    async def run(self, run: RunState, step: Step, state: RestoredRun) -> Status | None:
        """
        Handle *step*, unless *state* has its record; return a status if the run ends with it, else None.

        A step that is blocked by a cell that cannot be read fails, and the run goes on.
        """
        request = run.request
        if refuse_unreadable(run, step):
            return None
        known = state.steps.get(step.name)
        if known is not None:
            run.exports[step.name] = known.exports
            run.payload.add(known.exports, known.result.logs)
            run.record.outbox.add(step.name, known.number, known.sends, run.record.redactor)
            if known.result.error is not None:
                return "error"
            return "exited" if known.has_exited else None
        if step.disabled:
            run.record.notify(StepResult(step.name, "disabled"))
            return None
        if pin_exports(run, step):
            return None
        if not request.is_selected(step.name):
            restore_exports(run, step)
            return None
        if (pause := state.pauses.get(step.name)) is not None:
            run.record.outbox.add(step.name, pause.step.number, pause.step.sends, run.record.redactor)
            if pause.has_ended:
                return await self._go_on(run, step, pause)
            run.record.keep_pause(pause)
            return "paused"
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
            result, outcome = await self._execute(run, step, rerun_state)
            if outcome is None or outcome.error is not None:
                if self._park_for_retry(run, step, result, outcome, rerun_state):
                    return "paused"
                run.record.record_step(result, outcome, number=rerun_state.run_number, ends_run=True)
                return "error"
            run.exports[step.name] = outcome.exports
            pause = outcome.pause_request
            decision = decide_pause(pause, run.request.pause_mode, runs=rerun_state.runs) if pause else None
            has_no_pause = (
                pause is None or run.end.status is not None
            )  # a run that ends in another branch does not pause
            if pause is None or decision is None or has_no_pause or decision.action == "go_on":
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
        if run.end.status is not None:  # in another branch
            return False
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

    async def _execute(
        self, run: RunState, step: Step, rerun_state: RerunState
    ) -> tuple[StepResult, StepOutcome | None]:
        """Run *step* once; return its result, and its outcome unless it could not start."""
        action = run.actions.find(step)
        accounts = run.actions.accounts(step) or run.resolution.for_step(step.name)
        recorder = StepRecorder(
            step.name,
            redactor=run.record.redactor,
            clock=self._clock,
            accounts=accounts.uses,
            on_change=run.record.notify if run.record.has_watcher else None,
            on_respond=run.record.set_response,
            attempt=rerun_state.started_number + run.attempt - 1,
            previous_result=rerun_state.previous_result,
            interrupted_calls=run.record.take_interrupted_calls(step.name),
            source=action.component.source_summary if action else None,
        )
        for line in run.packages.messages.pop(step.name, ()):
            recorder.add_note(line)
        if run.record.has_watcher:
            run.record.notify(recorder.snapshot())
        try:
            run.packages.raise_failure(step.name)
            outcome = await self._outcome(run, step, recorder, accounts, rerun_state)
        except asyncio.CancelledError:
            if not run.record.is_handed_over:
                cancelled = StepError("The run was cancelled while this step ran.", name=CANCELLED)
                run.record.record_step(recorder.finish("error", cancelled))
            raise
        except PdkernelError as error:  # its packages, props or worker failed
            if error is run.record.write_error:
                run.record.notify(StepResult(step.name, "not_run"))
                raise
            await _explain_error(error if isinstance(error, StepError) else None, run, step)
            return recorder.finish("error", error), None
        except OSError as fault:
            return recorder.finish("error", build_system_error(fault)), None
        await _explain_error(outcome.error, run, step)
        _add_warnings(run, step, recorder, outcome, rerun_state)
        outcome = await self._limit_pauses(run, _limited(run, step, recorder, outcome))
        if run.payload.last_exports_bytes > _LARGE_EXPORTS_BYTES:
            await recorder.redact_large_exports()
        run.record.outbox.add(step.name, rerun_state.run_number, outcome.queued_sends, run.record.redactor)
        run.attempt = 1
        status: StepStatus = "error" if outcome.error else "success"
        return recorder.finish(status, outcome.error), outcome

    async def _limit_pauses(self, run: RunState, outcome: StepOutcome) -> StepOutcome:
        """Return *outcome*, failed if the step would pause one run too many of its external user."""
        user, environment = run.request.external_user_id, run.request.environment
        if (
            outcome.pause_request is None
            or outcome.error is not None
            or user is None
            or run.request.pause_mode != "park"
        ):
            return outcome
        if await self._count_paused(user, environment, MAX_PAUSED_RUNS) < MAX_PAUSED_RUNS:
            return outcome
        # parity[paused-runs]: the platform documents no number of paused runs
        error = StepError(
            f"The run was not paused: {MAX_PAUSED_RUNS:,} runs of the external user {user!r} are paused already.",
            name="TooManyPausedRuns",
            fix=f"List them with `pdkernel runs list --external-user {user} --status paused`, and resume or cancel some.",
        )
        return replace(outcome, error=error, pause_request=None, queued_sends=())

    async def _outcome(
        self, run: RunState, step: Step, recorder: StepRecorder, accounts: StepAccounts, rerun_state: RerunState
    ) -> StepOutcome:
        timeout_s = run.prepared.steps[step.name].timeout_s
        action, written = run.actions.find(step), step
        step = action.fitted_step.step if action and action.fitted_step else step
        if action and action.remote:
            props = await _evaluate_all_props(run, step, recorder, timeout_s)
            await run.allow_step()
            return await run.actions.run_remote(step, action, props, recorder, timeout_s=timeout_s)
        if step.uses == RULE_FILTER:
            return await _filter_run(run, step, recorder, timeout_s)
        if rerun_state.run_number == 1:
            fitted = action.fitted_step.warnings if action and action.fitted_step else ()
            for warning in (*fitted, *await warn_undeclared_props(step, run.workers)):
                recorder.add_note(warning)
        store_names = await _reachable_stores(run, step, action)
        data_stores = await self._choose_stores(run, step, is_repeat=rerun_state.run_number > 1 or run.attempt > 1)
        in_flight = StepCallsInFlight(run, step.name, recorder.previous_calls)
        binding = build_call_binding(
            run, step.name, recorder.add_outbound_call, attempt=recorder.attempt, calls_in_flight=in_flight
        )
        call = StepCall(
            step=step,
            steps=run.visible_exports(step.name),
            props=add_option_labels(written, await _evaluate_all_props(run, step, recorder, timeout_s)),
            credentials=accounts.credentials,
            context=build_step_context(
                run.request,
                self._clock,
                timeout_s=timeout_s,
                rerun_state=rerun_state,
                attempt=run.attempt,
            ),
            timeout_s=timeout_s,
            memory_limit_mb=run.prepared.memory_limit_mb,
            call_context=binding,
            store_names=store_names,
            services=self._services(
                run, step, recorder, binding, data_stores, store_names.values(), number=rerun_state.started_number
            ),
            flow_urls=build_flow_urls(
                run.request.base_url,
                WaitKey(run.record.run_id, step.name, number=rerun_state.run_number),
                run.record.sign,
            ),
            component=action.component.file if action else None,
            before_start=run.allow_step,
            on_begun=run.on_step_begun,
        )
        run.running_step = step.name
        try:
            outcome = await _runner(run, step, recorder)(call, recorder)
        finally:
            run.running_step = None
            in_flight.end()
        if run.record.write_error is not None:  # a call found that the run is lost
            raise run.record.write_error
        await run.workers.sequence.settle()  # the step may have ended before the runs that it has started
        return with_calls_explained(run, step.name, outcome)

    async def _choose_stores(self, run: RunState, step: Step, *, is_repeat: bool) -> DataStoreTable | ScratchCopy:
        """Return where *step* reads and writes data stores."""
        stores = run.request.data_stores
        if stores is None:
            return self._stores
        if isinstance(
            stores, ScratchCopy
        ):  # all steps have the same one, and a thread would cost more than a short step
            return stores
        above = [each.name for each in run.request.workflow.steps_before(step.name) if not each.disabled]
        return await run_blocking(stores.for_step, step.name, above, is_repeat=is_repeat)  # may copy many records

    def _services(
        self,
        run: RunState,
        step: Step,
        recorder: StepRecorder,
        binding: CallContext,
        data_stores: DataStoreTable | ScratchCopy,
        store_names: Collection[str],
        *,
        number: int,
    ) -> StepServiceRouter:
        """Return the services of one run of *step*; secrets that it gets from another workflow are redacted from then on."""

        def add_returned_secrets(secrets: Sequence[Secret]) -> None:
            run.record.add_returned_secrets(secrets)
            binding.redactor = run.record.redactor
            recorder.use_redactor(run.record.redactor)

        def note_scratch_write(store: str) -> None:
            recorder.add_note(
                f"Data store {store}: written in a scratch copy, because the outbound policy is {run.request.policy.mode}."
            )

        is_repeat = run.attempt > 1

        def build() -> Mapping[str, Service]:
            is_scratch = isinstance(data_stores, ScratchCopy)
            return {
                "flow": ChildRunService(
                    replace_request(run.request, data_stores=data_stores) if is_scratch else run.request,
                    partial(self._run_other, sequence=run.workers.sequence),
                    children=ChildRuns(
                        run.record.run_id, step.name, number, self._load_children if is_repeat else None
                    ),
                    hands_over=run.watcher.hands_over,
                    secrets=lambda: run.record.secrets,
                    on_secrets=add_returned_secrets,
                    clock=self._clock,
                ),
                "store": DataStoreService(
                    data_stores, store_names, on_write=note_scratch_write if is_scratch else None
                ),
            }

        return StepServiceRouter(build)


def refuse_unreadable(run: RunState, entry: Entry) -> bool:
    """Record that *entry* fails alone if a cell that cannot be read blocks it; return whether it does."""
    request = run.request
    if entry.name not in request.blocked_steps or not request.is_selected(entry.name):
        return False
    message, line = request.blocked_steps[entry.name]
    shown = run.record.redactor.redact_text(message)
    error = ErrorRecord(DirectiveError.code, DirectiveError.__name__, shown, entry.name, line)
    run.record.record_step(StepResult(entry.name, "error", error=error))
    return True


def pin_exports(run: RunState, entry: Entry) -> bool:
    """Record the pinned exports of *entry*, if any; return whether it is pinned."""
    given = run.request.options.pinned_exports.get(entry.name)
    if given is None:
        return False
    pinned = _restore(run, entry, given)
    shown = require_object(run.record.redactor.redact_value(pinned))
    run.record.record_step(StepResult(entry.name, "pinned", exports=shown), exports=pinned)
    return True


def restore_exports(run: RunState, entry: Entry) -> None:
    """Set the earlier exports of *entry*, which does not run, if there are any."""
    earlier = run.request.options.previous_exports.get(entry.name)
    if earlier is not None:
        _restore(run, entry, earlier)


async def _filter_run(run: RunState, step: Step, recorder: StepRecorder, timeout_s: float) -> StepOutcome:
    """Evaluate the rules of the builder's Filter step; it needs no worker of its own."""
    props = await _evaluate_all_props(run, step, recorder, timeout_s)
    await run.allow_step()
    reason = RuleFilter.parse(props.get(RULE_FILTER_PROP)).find_end_reason()
    return replace(recorder.outcome(), has_exited=reason is not None, exit_reason=reason)


async def _explain_error(error: StepError | None, run: RunState, step: Step) -> None:
    """Add details: where a time limit is set, a key that the step may have meant, the line of an error without a line."""
    if isinstance(error, StepTimeoutError):
        error.fix = suggest_longer_timeout(run.request.workflow, step)
    elif error is not None and not error.fix:
        error.fix = explain_bind(error) or error.fix
    if error is not None and not error.fix and step.language == "node" and not step.uses:
        old = [
            use
            for use in find_old_uses(step.source)
            if use.name in error.message or use.line + step.line_offset == error.line
        ]
        if old:
            error.fix = (
                f"The step uses {', '.join(use.name for use in old)} of {OLD_VERSION}. {format_instead(step, old)}"
            )
    missing = _MISSING_KEY.search(f"{error.name}: {error.message}") if error is not None else None
    if error is not None and missing is not None and not error.fix:
        values: dict[str, Any] = {"trigger": {"event": run.request.event.data, "context": run.record.context}}
        # in a thread, because code that is made for it takes a second
        error.fix = await run_blocking(
            suggest_key, step, missing[1] or missing[2], values | dict(run.visible_exports(step.name))
        )
    if error is None or error.line is not None:
        return
    if isinstance(error, StepConfigurationError) and error.prop:
        error.line = locate_missing_prop(step, error.prop)[0]
    elif isinstance(error, ExportNotJSONError) and RETURN_VALUE in error.message:
        error.line = find_return_line(step)


def _runner(run: RunState, step: Step, recorder: StepRecorder) -> Callable[..., Awaitable[StepOutcome]]:
    """Return the function that runs *step*: in a worker, or in the kernel for a debugger."""
    debugger = run.watcher.debugger
    if not step.debug:
        return run.workers.run_step
    if debugger is None:
        recorder.add_note("--debug only has an effect when a notebook runs the step's cell: this step ran in a worker.")
        return run.workers.run_step

    async def in_kernel(call: StepCall, recorder: StepRecorder) -> StepOutcome:
        await run.allow_step()
        return await debugger.run_step(call, run.worker_setup, run.workers.prepare_tmp_outside(), recorder)

    return in_kernel


async def _evaluate_all_props(run: RunState, step: Step, recorder: StepRecorder, timeout_s: float) -> dict[str, JSON]:
    """Return the step's props with evaluated expressions and the values of secret props, and record the former."""
    prepared = run.prepared.steps[step.name]
    if step.uses is None and not (prepared.has_expressions or prepared.has_secret_props):
        recorder.set_props(step.props)
        return dict(step.props)
    props = await evaluate_props(step, run.workers, run.visible_exports(step.name), timeout_s=timeout_s)
    recorder.set_props(fill_secret_props(step, props, dict.fromkeys(run.request.variables, MASK)))
    return fill_secret_props(step, props, run.request.variables)


async def _reachable_stores(run: RunState, step: Step, action: StepAction | None) -> dict[str, str]:
    if action and action.component.file:
        return resolve_data_stores(step, (await run.workers.describe(action.component.file)).props)
    if (
        step.language != "node"
        or step.uses
        or not any(DATA_STORE_PROP_TYPE in source for _, source in iter_sources(step))
    ):
        return resolve_data_stores(step)
    return resolve_data_stores(step, (await run.workers.describe(step)).props)


def _add_warnings(
    run: RunState, step: Step, recorder: StepRecorder, outcome: StepOutcome, rerun_state: RerunState
) -> None:
    for warning in outcome.warnings:
        recorder.add_note(warning)
    for effect in outcome.queued_sends:
        if problem := find_send_problem(effect, dollar_name=step.dollar_name):
            recorder.add_note(problem)
    if outcome.pause_request is not None and outcome.error is None:
        recorder.add_note(
            decide_pause(
                outcome.pause_request,
                run.request.pause_mode,
                runs=rerun_state.runs,
                dollar_name=step.dollar_name,
                hint=_pause_hint(run.request, outcome.pause_request),
            ).message
        )
    if outcome.has_exited and outcome.exit_reason and outcome.error is None:
        recorder.add_note(f"The run ends after this step: {outcome.exit_reason}")
    if outcome.response is not None and run.request.workflow.trigger.response != "custom":
        recorder.add_note(
            "The response is not sent: the trigger sends its own response (response: default). "
            "Write `response: custom` in %%pdworkflow."
        )
    elif outcome.response is not None and run.request.interface == "http":
        withheld = find_host_wide_headers(outcome.response)
        if withheld:
            recorder.add_note(
                f"Response headers that act on a whole host are not sent at the path of an endpoint, because the server's own pages "
                f"have that host: {', '.join(withheld)}. They are sent at a host of the endpoint: KEY.localhost, or KEY. before the "
                "host of --public-url."
            )


def _pause_hint(request: RunRequest, pause: Pause) -> str:
    """Return what to do about a paused run; "" if its process continues the run or the output shows what to do."""
    if request.interface == "notebook":
        is_unreachable = pause.kind == "suspend" and request.base_url is None
        return " Its resume_url works if the draft is served before the run: %pdserve" if is_unreachable else ""
    if request.is_served:
        return ""
    return " To wait for the end of the pause, pass --wait; to skip the pause, pass --skip-waits."


def _limited(run: RunState, step: Step, recorder: StepRecorder, outcome: StepOutcome) -> StepOutcome:
    """Return *outcome*, failed if the step exceeded a limit; warn if it came near one."""
    prepared = run.prepared.steps[step.name]
    near = warn_near_limits(outcome, timeout_s=prepared.timeout_s, memory_mb=run.prepared.memory_limit_mb)
    over, payload = run.payload.add(outcome.exports, recorder.logs)
    inexact = describe_inexact_number(outcome.exports) if prepared.is_read_by_javascript else None
    for warning in (*near, payload, inexact):
        if warning is not None:
            recorder.add_note(warning)
    error = outcome.error or check_export_depth(step, outcome.exports) or over
    if over is not None or isinstance(error, PayloadLimitError):
        recorder.leave_out_exports()
        return replace(outcome, error=error, exports={}, queued_sends=())
    return outcome if error is outcome.error else replace(outcome, error=error)


def _restore(run: RunState, step: Entry, redacted: Mapping[str, JSON]) -> dict[str, JSON]:
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

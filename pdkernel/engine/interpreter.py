"""
The loop: one run of a workflow on an event.

Knows the order: refuse what cannot run, resolve accounts, then for each step evaluate its props, run it, record it
and go on. Knows nothing of files, widgets or sockets. A step's failure ends the run and is in the record;
what refuses the run before any step is in the record too, as the run's error.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pdkernel.actions import Catalog
from pdkernel.clock import Clock, Ids
from pdkernel.egress import Binding
from pdkernel.engine.actions import StepAction, StepActions
from pdkernel.engine.checks import Checks
from pdkernel.engine.context import build_context, new_run_ids, step_context
from pdkernel.engine.crossing import said_of_numbers
from pdkernel.engine.end_users import Bindings, Resolution, StepAccounts, resolve_accounts
from pdkernel.engine.journal import Journal
from pdkernel.engine.limits import Payload, memory_limit, near_limits, too_deep
from pdkernel.engine.mail import Mail
from pdkernel.engine.packages import Packages
from pdkernel.engine.pauses import Again, Verdict, judge, urls
from pdkernel.engine.props import evaluate_props, named_variables
from pdkernel.engine.ready import Ready
from pdkernel.engine.record import RunRecord, as_object, known_secrets
from pdkernel.engine.recorder import StepRecorder
from pdkernel.engine.request import RunRequest
from pdkernel.engine.services import Services
from pdkernel.engine.stores import DATA_STORE, StoreService, stores_of
from pdkernel.engine.triggered import TriggerService
from pdkernel.errors import EgressRefusedError, HostError, PdkernelError, StepError
from pdkernel.execution import Execution, OutsideCall, Status, StepResult, StepStatus
from pdkernel.hosts import Effect, Hosts, Pause, RunGuests, RunSetup, StepCall, StepOutcome
from pdkernel.identity import Directory
from pdkernel.inspection import apps_of, merge_apps
from pdkernel.model import JSON, AppBinding, Step
from pdkernel.project import StoreTable
from pdkernel.redaction import Redactor

REFUSED_STEP_S = 1.0
"""Seconds that a step has to end by itself after an outside call of it was refused."""


@dataclass
class _Run:
    """What the steps of one run share."""

    request: RunRequest
    guests: RunGuests
    record: RunRecord
    resolution: Resolution
    actions: StepActions
    payload: Payload
    setup: RunSetup
    ready: Ready = field(default_factory=Ready)
    exports: dict[str, Mapping[str, JSON]] = field(default_factory=dict)
    refusals: dict[str, EgressRefusedError] = field(default_factory=dict)
    sends: list[tuple[str, Effect]] = field(default_factory=list)
    running: str | None = None


class Interpreter:
    """
    Runs workflows.

    Args:
        directory: Users and accounts.
        stores: Data stores.
        hosts: The processes that run steps.
        catalog: The pre-built actions.
        packages: What steps import.
        journal: The record.
        clock: For every time stamp and duration.
        ids: For run and trace ids.
        scratch: A folder for the temporary folders of runs.
        files: The folder of the project's file store, or None for none.
        mail: How `$.send.email` is sent, asked at each; None from it shows the message.
    """

    def __init__(
        self,
        *,
        directory: Directory,
        stores: StoreTable,
        hosts: Hosts,
        catalog: Catalog,
        packages: Packages,
        journal: Journal,
        clock: Clock,
        ids: Ids,
        scratch: Path,
        files: Path | None = None,
        mail: Callable[[], Mail | None] = lambda: None,
    ) -> None:
        self._directory = directory
        self._stores = stores
        self._hosts = hosts
        self._catalog = catalog
        self._packages = packages
        self._journal = journal
        self._clock = clock
        self._ids = ids
        self._scratch = scratch
        self._files = files
        self._mail = mail
        self._checks = Checks()

    async def run(self, request: RunRequest) -> Execution:
        """
        Run *request* and say what every step did.

        Cancelling the task ends the running step with all its processes; the execution is then returned
        with the status `cancelled`.
        """
        execution, _ = await self._execute(request)
        return execution

    async def _execute(self, request: RunRequest) -> tuple[Execution, Mapping[str, Mapping[str, JSON]]]:
        """The record, and the steps' exports as they are."""
        run_id, trace_id = new_run_ids(self._ids)
        context = build_context(
            request, project_id=self._directory.project_id, trace_id=trace_id, run_id=run_id, clock=self._clock
        )
        record = RunRecord(
            request,
            run_id=run_id,
            trace_id=trace_id,
            context=context,
            journal=self._journal,
            clock=self._clock,
            guard="none" if request.policy.mode == "live" else self._hosts.guard,
        )
        record.accept()
        scratch = self._scratch / f"run-{run_id}"
        exports: dict[str, Mapping[str, JSON]] = {}
        try:
            await self._run_in(request, record, scratch, exports)
        except PdkernelError as refusal:
            record.refuse(refusal)
        except asyncio.CancelledError:
            _stop_cancelling()
            record.end("cancelled")
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        finished = asyncio.ensure_future(record.finish())
        await asyncio.sleep(0)
        shutil.rmtree(scratch, ignore_errors=True)
        return await finished, exports

    async def _run_in(
        self, request: RunRequest, record: RunRecord, scratch: Path, exports: dict[str, Mapping[str, JSON]]
    ) -> None:
        await asyncio.sleep(0)  # the record's first commit goes on beside what follows
        self._checks.check(request)
        actions = StepActions(self._catalog.at(request.actions, base=request.folder), request)
        await actions.obtain()
        ready = await self._packages.ready_for(request, self._clock, record.note)
        try:
            scratch.mkdir(mode=0o700)
        except OSError as fault:
            raise _no_scratch(fault) from None
        setup = RunSetup(
            run_id=record.execution.id,
            workflow=f"{request.workflow.name}@{request.workflow.version}",
            trigger={"event": dict(request.event.data), "context": dict(record.execution.context)},
            variables=named_variables(request),
            folder=request.folder,
            scratch=scratch,
            install=request.install,
            files=self._files,
            node_packages=ready.node,
            python=ready.python.python if ready.python else None,
            guarded=request.policy.mode != "live",
        )
        # a run that a step waits for has that step's place
        guests = await self._hosts.open(setup, waits=request.depth == 0)
        try:
            resolution = await self._resolve(request, await self._bindings(request, guests, actions))
            if resolution.secrets:
                record.knows(Redactor([*resolution.secrets, *known_secrets(request)]))
            run = _Run(request, guests, record, resolution, actions, Payload(request.event.data), setup, ready, exports)
            status = await self._steps(run)
            if status != "cancelled":
                await self._deliver(run)
            record.end(status)
        finally:
            await asyncio.shield(guests.release())

    async def _resolve(self, request: RunRequest, bindings: Bindings) -> Resolution:
        if not any(bindings.values()):
            return Resolution()
        return await asyncio.to_thread(  # a directory may ask the network
            resolve_accounts,
            bindings,
            directory=self._directory,
            external_user_id=request.external_user_id,
            environment=request.environment,
        )

    async def _bindings(
        self, request: RunRequest, guests: RunGuests, actions: StepActions
    ) -> dict[str, tuple[AppBinding, ...]]:
        """App props by step: the directive's, and those that code declares (the external user's)."""
        bindings: dict[str, tuple[AppBinding, ...]] = {}
        for step in request.workflow.steps:
            if step.disabled or not request.runs(step.name) or step.name in request.pins:
                continue
            apps = step.apps
            if step.uses is not None:
                apps = await actions.fit(step, guests)
            elif step.language == "node" and "app" in step.source:
                apps = merge_apps(apps, await self._declared(step, guests))
            elif step.language == "go":
                apps = apps_of(step)
            bindings[step.name] = apps
        return bindings

    async def _declared(self, step: Step, guests: RunGuests) -> tuple[AppBinding, ...]:
        try:
            return (await guests.describe(step)).apps
        except StepError:
            return ()  # the step itself will fail with the same error, at its place in the record

    async def _deliver(self, run: _Run) -> None:
        for step, effect in run.sends:
            from pdkernel.engine.deliveries import Deliveries

            binding = self._binding(run, run.request.workflow.step(step), lambda _: None)
            deliveries = Deliveries(self._hosts.gateway, self._mail() if effect.kind == "email" else None)
            delivery = await deliveries.deliver(step, effect, binding=binding, redactor=run.record.redactor)
            run.record.delivered(delivery)

    async def _steps(self, run: _Run) -> Status:
        status: Status = "success"
        try:
            for step in run.request.workflow.steps:
                ended = await self._step(run, step)
                if ended is not None:
                    status = ended
                    break
        except asyncio.CancelledError:
            _stop_cancelling()
            status = "cancelled"
        run.record.skip_rest()
        return status

    async def _step(self, run: _Run, step: Step) -> Status | None:
        """Run one step; a status says that the run ends here."""
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
        await run.record.settled()
        return await self._run_step(run, step)

    async def _run_step(self, run: _Run, step: Step) -> Status | None:
        again = Again()
        while True:
            result, outcome = await self._attempt(run, step, again)
            if outcome is None or outcome.error is not None:
                run.record.record(result)
                return "error"
            run.exports[step.name] = outcome.exports
            pause = outcome.pause
            verdict = judge(pause, run.request.pauses, runs=again.runs) if pause else None
            if pause is None or verdict is None or verdict.then == "go_on":
                run.record.record(result)
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

    async def _wait(self, run: _Run, verdict: Verdict) -> None:
        if verdict.seconds <= 0:
            return
        run.record.become("paused")
        await self._clock.sleep(verdict.seconds)
        run.record.become("resumed")

    def _park(self, run: _Run, step: Step, result: StepResult, pause: Pause, verdict: Verdict) -> Status:
        if pause.kind == "rerun":
            run.record.note(result)
        else:
            run.record.record(result)
        run.record.park(step.name, wake_at=self._clock.now().timestamp() + verdict.seconds)
        return "paused"

    async def _attempt(self, run: _Run, step: Step, again: Again) -> tuple[StepResult, StepOutcome | None]:
        """Run one step once: its result, and what it did unless it could not be started."""
        action = run.actions.of(step)
        accounts = run.actions.accounts(step) or run.resolution.of(step.name)
        recorder = StepRecorder(
            step.name,
            redactor=run.record.redactor,
            clock=self._clock,
            accounts=accounts.uses,
            on_change=run.record.note,
            on_respond=run.record.respond,
            later=asyncio.get_running_loop().call_later,
            attempt=again.runs,
            source=action.component.told if action else None,
        )
        for line in run.ready.said.pop(step.name, ()):
            recorder.warn(line)
        run.record.note(recorder.snapshot())
        try:
            run.ready.check(step.name)
            outcome = await self._outcome(run, step, recorder, accounts, again)
        except asyncio.CancelledError:
            cancelled = StepError("The run was cancelled while this step ran.", name="Cancelled")
            run.record.record(recorder.finish("error", exports={}, error=cancelled))
            raise
        except PdkernelError as error:  # its packages, its props or its process cannot be had
            return recorder.finish("error", exports={}, error=error), None
        except OSError as fault:
            return recorder.finish("error", exports={}, error=_no_scratch(fault)), None
        self._say_warnings(run, recorder, outcome, again)
        outcome = self._limited(run, step, recorder, outcome)
        run.sends += ((step.name, effect) for effect in outcome.effects)
        status: StepStatus = "error" if outcome.error else "success"
        return recorder.finish(status, exports=outcome.exports, error=outcome.error), outcome

    def _limited(self, run: _Run, step: Step, recorder: StepRecorder, outcome: StepOutcome) -> StepOutcome:
        """*outcome*, failed if it is over a limit; one that it came near is said."""
        workflow = run.request.workflow
        near = near_limits(outcome, timeout_s=workflow.timeout_s(step), memory_mb=memory_limit(workflow))
        over, payload = run.payload.add(outcome.exports, recorder.snapshot().logs)
        for warning in (*near, payload, said_of_numbers(workflow, step, outcome.exports)):
            if warning is not None:
                recorder.warn(warning)
        error = outcome.error or too_deep(step, outcome.exports) or over
        return outcome if error is outcome.error else replace(outcome, error=error)

    def _say_warnings(self, run: _Run, recorder: StepRecorder, outcome: StepOutcome, again: Again) -> None:
        for warning in outcome.warnings:
            recorder.warn(warning)
        if outcome.pause is not None and outcome.error is None:
            recorder.warn(judge(outcome.pause, run.request.pauses, runs=again.runs).said)
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

    async def _outcome(
        self, run: _Run, step: Step, recorder: StepRecorder, accounts: StepAccounts, again: Again
    ) -> StepOutcome:
        timeout_s = run.request.workflow.timeout_s(step)
        action = run.actions.of(step)
        step = action.fitted.step if action and action.fitted else step
        if action and action.remote:
            props = await evaluate_props(step, run.guests, run.exports, timeout_s=timeout_s)
            return await run.actions.run_remote(step, action, props, recorder, timeout_s=timeout_s)
        for warning in action.fitted.warnings if action and action.fitted else ():
            recorder.warn(warning)
        stores = await self._stores_of(run, step, action)
        call = StepCall(
            step=step,
            steps=run.exports,
            props=await evaluate_props(step, run.guests, run.exports, timeout_s=timeout_s),
            auth=accounts.auth,
            context=step_context(
                run.request, self._clock, timeout_s=timeout_s, runs=again.runs, passed_on=again.context
            ),
            timeout_s=timeout_s,
            memory_mb=memory_limit(run.request.workflow),
            binding=self._binding(run, step, recorder.call),
            stores=stores,
            services=self._services(run, stores),
            flow=urls(run.request.base_url, run_id=run.record.execution.id, step=step.name),
            component=action.component.file if action else None,
        )
        run.running = step.name
        try:
            outcome = await self._runner(run, step, recorder)(call, recorder)
        finally:
            run.running = None
        refusal = run.refusals.get(step.name)
        if refusal is None:
            return outcome
        if outcome.error is not None:
            # a client's own words for a refusal ("403 Forbidden") read like the other side's answer
            if refusal.message not in str(outcome.error):
                outcome.error.fix = "\n".join(part for part in (outcome.error.fix, refusal.message) if part)
            return outcome
        # its code has swallowed the refusal: what it made of it cannot be trusted in a replay
        if run.request.policy.mode == "replay":
            return replace(outcome, error=refusal)
        return replace(outcome, warnings=(*outcome.warnings, refusal.message))

    def _runner(self, run: _Run, step: Step, recorder: StepRecorder) -> Callable[..., Awaitable[StepOutcome]]:
        """What runs *step*: a process of its language, or the kernel for a debugger."""
        debugger = run.request.debugger
        if not step.debug:
            return run.guests.run
        if debugger is None:
            recorder.warn("--debug is for running the step's cell in a notebook: here the step ran like any other.")
            return run.guests.run
        return lambda call, listener: debugger.run(call, run.setup, listener)

    def _services(self, run: _Run, stores: Mapping[str, str]) -> Services:
        return Services(
            {
                "flow": TriggerService(run.request, self._execute),
                "store": StoreService(self._stores, stores.values()),
            }
        )

    async def _stores_of(self, run: _Run, step: Step, action: StepAction | None) -> dict[str, str]:
        if action and action.component.file:
            return stores_of(step, (await run.guests.describe(action.component.file)).props)
        if step.language != "node" or step.uses is not None or DATA_STORE not in step.source:
            return stores_of(step)
        return stores_of(step, (await run.guests.describe(step)).props)

    def _binding(self, run: _Run, step: Step, on_call: Callable[[OutsideCall], None]) -> Binding:
        def refuse(message: str) -> None:
            error = EgressRefusedError(message, name="OutsideCallRefused")
            run.refusals.setdefault(step.name, error)

            def end() -> None:
                if run.running == step.name:
                    run.guests.end_step(error)

            # some clients ask again for minutes whatever the answer: the step ends even then
            asyncio.get_running_loop().call_later(REFUSED_STEP_S, end)

        return Binding(
            step=step.name,
            policy=run.request.policy,
            redactor=run.record.redactor,
            external_user=run.request.external_user_id,
            apps=run.resolution.apps,
            on_call=on_call,
            on_refused=refuse,
            sent=run.request.sent,
            scope=run.request.scope,
            send=run.request.send,
            tape=run.request.tape,
        )


def _no_scratch(fault: OSError) -> HostError:
    return HostError(
        f"The files of the run cannot be written: {fault.strerror or fault}.",
        fix=f"Make room in {tempfile.gettempdir()}, or name another folder in TMPDIR.",
    )


def _stop_cancelling() -> None:
    """The run has dealt with its cancellation: it returns a record instead of raising."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()

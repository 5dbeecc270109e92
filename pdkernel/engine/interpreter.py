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
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pdkernel.clock import Clock, Ids
from pdkernel.egress import Binding
from pdkernel.engine.checks import Checks
from pdkernel.engine.context import build_context, new_run_ids, step_context
from pdkernel.engine.end_users import Bindings, Resolution, StepAccounts, resolve_accounts
from pdkernel.engine.journal import Journal
from pdkernel.engine.props import evaluate_props, named_variables
from pdkernel.engine.record import RunRecord, as_object, known_secrets
from pdkernel.engine.recorder import StepRecorder
from pdkernel.engine.request import RunRequest
from pdkernel.errors import EgressRefusedError, PdkernelError, StepError
from pdkernel.execution import Execution, Status, StepResult
from pdkernel.hosts import Hosts, RunGuests, RunSetup, StepCall, StepOutcome
from pdkernel.identity import Directory
from pdkernel.inspection import merge_apps
from pdkernel.model import JSON, AppBinding, Step
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
    exports: dict[str, Mapping[str, JSON]] = field(default_factory=dict)
    refusals: dict[str, EgressRefusedError] = field(default_factory=dict)
    running: str | None = None


class Interpreter:
    """
    Runs workflows.

    Args:
        directory: Users and accounts.
        hosts: The processes that run steps.
        journal: The record.
        clock: For every time stamp and duration.
        ids: For run and trace ids.
        scratch: A folder for the temporary folders of runs.
    """

    def __init__(
        self, *, directory: Directory, hosts: Hosts, journal: Journal, clock: Clock, ids: Ids, scratch: Path
    ) -> None:
        self._directory = directory
        self._hosts = hosts
        self._journal = journal
        self._clock = clock
        self._ids = ids
        self._scratch = scratch
        self._checks = Checks()

    async def run(self, request: RunRequest) -> Execution:
        """
        Run *request* and say what every step did.

        Cancelling the task ends the running step with all its processes; the execution is then returned
        with the status `cancelled`.
        """
        run_id, trace_id = new_run_ids(self._ids)
        context = build_context(
            request, project_id=self._directory.project_id, trace_id=trace_id, run_id=run_id, clock=self._clock
        )
        record = RunRecord(
            request, run_id=run_id, trace_id=trace_id, context=context, journal=self._journal, clock=self._clock
        )
        record.accept()
        scratch = Path(tempfile.mkdtemp(prefix="run-", dir=self._scratch))
        try:
            await self._run_in(request, record, scratch)
        except PdkernelError as refusal:
            record.refuse(refusal)
        except asyncio.CancelledError:
            _stop_cancelling()
            record.end("cancelled")
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return await record.finish()

    async def _run_in(self, request: RunRequest, record: RunRecord, scratch: Path) -> None:
        self._checks.check(request)
        setup = RunSetup(
            run_id=record.execution.id,
            workflow=f"{request.workflow.name}@{request.workflow.version}",
            trigger={"event": dict(request.event.data), "context": dict(record.execution.context)},
            variables=named_variables(request),
            folder=request.folder,
            scratch=scratch,
        )
        guests = await self._hosts.open(setup)
        try:
            resolution = await self._resolve(request, await self._bindings(request, guests))
            if resolution.secrets:
                record.knows(Redactor([*resolution.secrets, *known_secrets(request)]))
            await self._steps(_Run(request, guests, record, resolution))
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

    async def _bindings(self, request: RunRequest, guests: RunGuests) -> dict[str, tuple[AppBinding, ...]]:
        """App props by step: the directive's, and those that code declares (the external user's)."""
        bindings: dict[str, tuple[AppBinding, ...]] = {}
        for step in request.workflow.steps:
            if step.disabled or not request.runs(step.name) or step.name in request.pins:
                continue
            apps = step.apps
            if step.language == "node" and step.uses is None and "app" in step.source:
                apps = merge_apps(apps, await self._declared(step, guests))
            bindings[step.name] = apps
        return bindings

    async def _declared(self, step: Step, guests: RunGuests) -> tuple[AppBinding, ...]:
        try:
            return (await guests.describe(step)).apps
        except StepError:
            return ()  # the step itself will fail with the same error, at its place in the record

    async def _steps(self, run: _Run) -> None:
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
        run.record.end(status)

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
        accounts = run.resolution.of(step.name)
        recorder = StepRecorder(
            step.name,
            redactor=run.record.redactor,
            clock=self._clock,
            accounts=accounts.uses,
            on_change=run.record.note,
            on_respond=run.record.respond,
            later=asyncio.get_running_loop().call_later,
        )
        run.record.note(recorder.snapshot())
        try:
            outcome = await self._outcome(run, step, recorder, accounts)
        except asyncio.CancelledError:
            cancelled = StepError("The run was cancelled while this step ran.", name="Cancelled")
            run.record.record(recorder.finish("error", exports={}, error=cancelled))
            raise
        except PdkernelError as error:  # its props cannot be evaluated, or its process cannot be had
            run.record.record(recorder.finish("error", exports={}, error=error))
            return "error"
        self._say_warnings(run, recorder, outcome)
        result = recorder.finish("error" if outcome.error else "success", exports=outcome.exports, error=outcome.error)
        run.exports[step.name] = outcome.exports
        run.record.record(result)
        if outcome.error is not None:
            return "error"
        return "exited" if outcome.exited else None

    def _say_warnings(self, run: _Run, recorder: StepRecorder, outcome: StepOutcome) -> None:
        for warning in outcome.warnings:
            recorder.warn(warning)
        if outcome.response is None:
            return
        run.record.respond(outcome.response)
        if run.request.workflow.trigger.response != "custom":
            recorder.warn(
                "The response is not sent: the trigger answers by itself (response: default). "
                "Write `response: custom` in %%pdworkflow."
            )

    async def _outcome(self, run: _Run, step: Step, recorder: StepRecorder, accounts: StepAccounts) -> StepOutcome:
        timeout_s = run.request.workflow.timeout_s(step)
        call = StepCall(
            step=step,
            steps=run.exports,
            props=await evaluate_props(step, run.guests, run.exports),
            auth=accounts.auth,
            context=step_context(run.request, self._clock, timeout_s=timeout_s),
            timeout_s=timeout_s,
            binding=self._binding(run, step, recorder),
        )
        run.running = step.name
        try:
            outcome = await run.guests.run(call, recorder)
        finally:
            run.running = None
        refusal = run.refusals.get(step.name)
        if refusal is None or outcome.error is not None:
            return outcome
        # its code has swallowed the refusal: what it made of it cannot be trusted in a replay
        if run.request.policy.mode == "replay":
            return replace(outcome, error=refusal)
        return replace(outcome, warnings=(*outcome.warnings, refusal.message))

    def _binding(self, run: _Run, step: Step, recorder: StepRecorder) -> Binding:
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
            apps=run.resolution.apps,
            on_call=recorder.call,
            on_refused=refuse,
            sent=run.request.sent,
            scope=run.request.scope,
            send=run.request.send,
            tape=run.request.tape,
        )


def _stop_cancelling() -> None:
    """The run has dealt with its cancellation: it returns a record instead of raising."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()

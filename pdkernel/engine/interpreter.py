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
from typing import Any

from pdkernel.clock import Clock, Ids, iso
from pdkernel.egress import Binding
from pdkernel.engine.context import build_context, new_run_ids, step_context
from pdkernel.engine.end_users import Bindings, Resolution, StepAccounts, resolve_accounts
from pdkernel.engine.journal import FinalStatus, Journal, NewRun, output_text, step_text, trigger_text
from pdkernel.engine.props import evaluate_props, named_variables
from pdkernel.engine.recorder import StepRecorder
from pdkernel.engine.request import RunRequest
from pdkernel.engine.support import check_supported
from pdkernel.errors import (
    EgressRefusedError,
    EndUserError,
    PdkernelError,
    StepError,
    VariableMissingError,
)
from pdkernel.execution import ErrorRecord, Execution, Response, Status, StepResult
from pdkernel.hosts import Hosts, RunGuests, RunSetup, StepCall, StepOutcome
from pdkernel.identity import Directory
from pdkernel.inspection import check, variables_read
from pdkernel.model import JSON, AppBinding, Step, Workflow
from pdkernel.redaction import Redactor, Secret

_RECORDED = frozenset({"success", "error", "pinned"})
"""Statuses of steps that have a row of their own in the journal."""

REFUSED_STEP_S = 1.0
"""Seconds that a step has to end by itself after an outside call of it was refused."""

NO_RESPONSE = Response(400, {}, "No $.respond called in workflow")
"""What a caller gets when a custom response was promised and none was made (platform documentation)."""


@dataclass
class _Run:
    """What changes while one run goes on."""

    request: RunRequest
    guests: RunGuests
    execution: Execution
    redactor: Redactor
    resolution: Resolution
    exports: dict[str, Mapping[str, JSON]] = field(default_factory=dict)
    response: dict[str, Any] | None = None
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
        self._checked: dict[object, dict[str, list[str]]] = {}

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
        execution = self._blank(request, run_id, trace_id, context)
        await self._accept(request, execution)
        scratch = Path(tempfile.mkdtemp(prefix="run-", dir=self._scratch))
        try:
            execution = await self._run_in(request, execution, scratch)
        except PdkernelError as refusal:
            execution = self._refused(request, execution, refusal)
        except asyncio.CancelledError:
            _stop_cancelling()
            execution = replace(execution, status="cancelled", finished_at=iso(self._clock.now()))
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        await self._finish(execution)
        if request.on_change:
            request.on_change(execution)
        return execution

    def _blank(self, request: RunRequest, run_id: str, trace_id: str, context: Mapping[str, JSON]) -> Execution:
        return Execution(
            id=run_id,
            trace_id=trace_id,
            workflow=request.workflow.name,
            version=request.workflow.version,
            status="executing",
            external_user=request.external_user_id,
            environment=request.environment,
            started_at=iso(self._clock.now()),
            event=request.event.masked().data,
            context=context,
            steps=tuple(StepResult(step.name, "not_run") for step in request.workflow.steps),
        )

    async def _accept(self, request: RunRequest, execution: Execution) -> None:
        version = await self._journal.deploy(request.workflow)
        known = Redactor(Secret(f"env/{name}", value) for name, value in request.variables.items())
        event = _as_object(known.value(dict(execution.event)))
        await self._journal.accept(
            NewRun(
                id=execution.id,
                trace_id=execution.trace_id,
                workflow=execution.workflow,
                version=version,
                event=trigger_text(event, execution.context),
                external_user=execution.external_user,
                environment=execution.environment,
            )
        )

    def _check(self, request: RunRequest) -> None:
        """Refuse what cannot run. What a workflow's text alone decides is looked at once."""
        key = (request.workflow.version, request.only, frozenset(request.pins))
        needed = self._checked.get(key)
        if needed is None:
            running = _only_what_runs(request)
            check(running)
            check_supported(request)
            needed = self._checked[key] = variables_read(running)
        _check_variables(needed, request.variables)

    async def _finish(self, execution: Execution) -> None:
        status: FinalStatus = "error"
        if execution.status in ("success", "exited", "cancelled"):
            status = execution.status
        unrecorded = {step.name: step.status for step in execution.steps if step.status not in _RECORDED}
        output = output_text(response=execution.response, error=execution.error, steps=unrecorded)
        await self._journal.finish(execution.id, status, output)

    async def _run_in(self, request: RunRequest, execution: Execution, scratch: Path) -> Execution:
        self._check(request)
        setup = RunSetup(
            run_id=execution.id,
            workflow=f"{request.workflow.name}@{request.workflow.version}",
            trigger={"event": dict(request.event.data), "context": dict(execution.context)},
            variables=named_variables(request),
            folder=request.folder,
            scratch=scratch,
        )
        guests = await self._hosts.open(setup)
        try:
            bindings = await self._bindings(request, guests)
            resolution = await self._resolve(request, bindings)
            redactor = Redactor(
                [*resolution.secrets, *(Secret(f"env/{name}", value) for name, value in request.variables.items())]
            )
            execution = replace(
                execution,
                event=_as_object(redactor.value(dict(execution.event))),
            )
            run = _Run(request, guests, execution, redactor, resolution)
            return await self._steps(run)
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
                apps = _merge(apps, await self._declared(step, guests))
            bindings[step.name] = apps
        return bindings

    async def _declared(self, step: Step, guests: RunGuests) -> tuple[AppBinding, ...]:
        try:
            return (await guests.describe(step)).apps
        except StepError:
            return ()  # the step itself will fail with the same error, at its place in the record

    async def _steps(self, run: _Run) -> Execution:
        status: Status = "success"
        reached = True
        try:
            for step in run.request.workflow.steps:
                if not reached:
                    self._note(run, replace(run.execution.step(step.name), status="skipped"))
                    continue
                ended = await self._step(run, step)
                if ended is not None:
                    status, reached = ended, False
        except asyncio.CancelledError:
            _stop_cancelling()
            status = "cancelled"
            for result in run.execution.steps:
                if result.status == "not_run" and run.request.runs(result.name):
                    self._note(run, replace(result, status="skipped"))
        return self._finished(run, status)

    async def _step(self, run: _Run, step: Step) -> Status | None:
        """Run one step; a status says that the run ends here."""
        request = run.request
        if step.disabled:
            self._note(run, StepResult(step.name, "disabled"))
            return None
        if step.name in request.pins:
            pinned = _as_object(run.redactor.restore(dict(request.pins[step.name])))
            run.exports[step.name] = pinned
            await self._record(run, StepResult(step.name, "pinned", exports=_as_object(run.redactor.value(pinned))))
            return None
        if not request.runs(step.name):
            if step.name in request.exports:
                run.exports[step.name] = _as_object(run.redactor.restore(dict(request.exports[step.name])))
            return None
        return await self._run_step(run, step)

    async def _run_step(self, run: _Run, step: Step) -> Status | None:
        accounts = run.resolution.of(step.name)
        recorder = StepRecorder(
            step.name,
            redactor=run.redactor,
            clock=self._clock,
            accounts=accounts.uses,
            on_change=lambda result: self._note(run, result),
            on_respond=lambda response: self._respond(run, response),
            later=asyncio.get_running_loop().call_later,
        )
        self._note(run, recorder.snapshot())
        try:
            outcome = await self._outcome(run, step, recorder, accounts)
        except StepError as error:  # its props could not be evaluated
            outcome = StepOutcome(error=error)
        except asyncio.CancelledError:
            cancelled = StepError("The run was cancelled while this step ran.", name="Cancelled")
            await self._record(run, recorder.finish("error", exports={}, error=cancelled))
            raise
        for warning in outcome.warnings:
            recorder.warn(warning)
        if outcome.response is not None:
            self._respond(run, outcome.response)
            if run.request.workflow.trigger.response != "custom":
                recorder.warn(
                    "The response is not sent: the trigger answers by itself (response: default). "
                    "Write `response: custom` in %%pdworkflow."
                )
        result = recorder.finish("error" if outcome.error else "success", exports=outcome.exports, error=outcome.error)
        run.exports[step.name] = outcome.exports
        await self._record(run, result)
        if outcome.error is not None:
            return "error"
        return "exited" if outcome.exited else None

    async def _outcome(self, run: _Run, step: Step, recorder: StepRecorder, accounts: StepAccounts) -> StepOutcome:
        props = await evaluate_props(step, run.guests, run.exports)
        call = StepCall(
            step=step,
            steps=run.exports,
            props=props,
            auth=accounts.auth,
            context=step_context(run.request, self._clock, timeout_s=run.request.workflow.timeout_s(step)),
            timeout_s=run.request.workflow.timeout_s(step),
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
            redactor=run.redactor,
            apps=run.resolution.apps,
            on_call=recorder.call,
            on_refused=refuse,
            sent=run.request.sent,
            scope=run.request.scope,
            send=run.request.send,
        )

    def _respond(self, run: _Run, response: dict[str, Any]) -> None:
        """Keep the first response; the platform ignores the others."""
        if run.response is None:
            run.response = response

    async def _record(self, run: _Run, result: StepResult) -> None:
        """Put a finished step on disk."""
        self._note(run, result)
        place = [step.name for step in run.request.workflow.steps].index(result.name)
        await self._journal.append(run.execution.id, place, result.name, step_text(result))

    def _note(self, run: _Run, result: StepResult) -> None:
        run.execution = run.execution.with_step(result)
        if run.request.on_change:
            run.request.on_change(run.execution)

    def _finished(self, run: _Run, status: Status) -> Execution:
        failed = next((step.error for step in run.execution.steps if step.error), None)
        response = None
        if run.request.workflow.trigger.response == "custom":
            response = _response(run.response, run.redactor)
        return replace(
            run.execution,
            status=status,
            finished_at=iso(self._clock.now()),
            error=failed,
            response=response,
        )

    def _refused(self, request: RunRequest, execution: Execution, refusal: PdkernelError) -> Execution:
        error = ErrorRecord(
            code=refusal.code,
            name=type(refusal).__name__,
            message=str(refusal),
            step=getattr(refusal, "step", None),
            line=getattr(refusal, "line", None),
        )
        response = None
        if request.workflow.trigger.response == "custom":
            # parity[error-status]: the platform does not document the status; 400 is not retried by its SDKs
            response = Response(400, {}, str(refusal)) if isinstance(refusal, EndUserError) else NO_RESPONSE
        return replace(execution, status="error", finished_at=iso(self._clock.now()), error=error, response=response)


def _only_what_runs(request: RunRequest) -> Workflow:
    """The workflow with every step disabled that this run does not run: what is wrong there is no matter now."""
    steps = (
        step if request.runs(step.name) and step.name not in request.pins else replace(step, disabled=True)
        for step in request.workflow.steps
    )
    return replace(request.workflow, steps=tuple(steps))


def _check_variables(needed: Mapping[str, list[str]], variables: Mapping[str, str]) -> None:
    missing = {name: steps for name, steps in needed.items() if name not in variables}
    if not missing:
        return
    names = tuple(sorted(missing))
    reads = "; ".join(f"{name} (read by {', '.join(missing[name])})" for name in names)
    plural = len(names) > 1
    raise VariableMissingError(
        f"The environment variable{'s' if plural else ''} {reads} {'are' if plural else 'is'} not set.",
        names=names,
        fix="\n".join(f"Set it: pdkernel env set {name}" for name in names),
    )


def _stop_cancelling() -> None:
    """The run has dealt with its cancellation: it returns a record instead of raising."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()


def _response(raw: dict[str, Any] | None, redactor: Redactor) -> Response:
    if raw is None:
        return NO_RESPONSE
    headers = {str(name): str(value) for name, value in (raw.get("headers") or {}).items()}
    # parity[redacted-response]: the caller of a real endpoint gets what the step sent; the record of it is redacted
    return Response(
        status=int(raw.get("status", 200)),
        headers=_as_object(redactor.value(headers)),
        body=redactor.value(raw.get("body")),
    )


def _merge(directive: tuple[AppBinding, ...], declared: tuple[AppBinding, ...]) -> tuple[AppBinding, ...]:
    """The directive's bindings, then what code declares besides: matched by prop, else by app."""
    named = {binding.prop for binding in directive}
    by_app = {binding.app: binding for binding in directive if binding.prop == binding.app}
    merged = list(directive)
    for binding in declared:
        if binding.prop in named:
            continue
        alias = by_app.get(binding.app)
        if alias is not None:
            # `--app slack` for code that calls its prop `chat`: the directive says whose account it is
            merged[merged.index(alias)] = replace(alias, prop=binding.prop)
            by_app.pop(binding.app)
        else:
            merged.append(binding)
    return tuple(merged)


def _as_object(value: JSON) -> dict[str, Any]:
    assert isinstance(value, dict)
    return value

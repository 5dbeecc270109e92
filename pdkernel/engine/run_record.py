"""
One run's record: the execution as it grows, and its rows in the journal.

Knows what is written when, and that a step must not start before everything before it is on disk. Commits that nothing
waits for yet go on beside the work. The event is written encrypted until the run's accounts are known, since it may hold their
credentials; the next commit replaces it. Knows nothing of processes or accounts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from pdkernel.clock import Clock, format_iso
from pdkernel.encode import encode_json
from pdkernel.engine.journal import FinalStatus, Journal, NewRun, StepRow, encode_event, encode_output, encode_step
from pdkernel.engine.run_request import RunRequest
from pdkernel.errors import EndUserError, PdkernelError
from pdkernel.execution import Delivery, ErrorRecord, Execution, OutboundEnforcement, Response, Status, StepResult
from pdkernel.lookup import Lookup
from pdkernel.model import JSON
from pdkernel.project import Vault
from pdkernel.redaction import Redactor, Secret, get_redactor

RECORDED_STATUSES = frozenset({"success", "error", "pinned"})
"""Statuses of steps that have a row of their own in the journal."""

NO_RESPONSE = Response(400, {}, "No $.respond called in workflow")
"""What a caller gets when a custom response was promised and none was made (platform documentation)."""


class RunRecord:
    """
    The record of one run.

    Args:
        request: What was asked for.
        run_id: Of the run.
        trace_id: The same for a run and its replays.
        context: `steps.trigger.context`.
        journal: Where the rows go.
        clock: For time stamps.
        vault: Seals the event until the accounts are known; None where the run has none, or nothing is written to a disk.
        guard: What the operating system does about outside calls that go around the gateway.

    Attributes:
        run_id: Of the run.
        context: `steps.trigger.context`.
        initial_secrets: The secrets that are known from the start: variables, and the event's headers.
        redactor: Of the run's secrets; knows those from the start.
        response: The first response that a step made, raw; the platform ignores the others.
        write_error: Why some of the record is not on disk, or None as far as is known.
    """

    def __init__(
        self,
        request: RunRequest,
        *,
        run_id: str,
        trace_id: str,
        context: Mapping[str, JSON],
        journal: Journal,
        clock: Clock,
        vault: Vault | None,
        guard: str = "none",
    ) -> None:
        self._request = request
        self._journal = journal
        self._clock = clock
        self._vault = vault
        self._event_text: str | None = None  # to take the place of the sealed event
        self._pending: list[asyncio.Future[Any]] = []
        self._start_submitted: asyncio.Future[None] | None = None
        self._delayed_writes = 0
        self._last: StepRow | None = None
        self._parked: tuple[int, float] | None = None
        self._step_positions = {step.name: place for place, step in enumerate(request.workflow.steps)}
        self.initial_secrets = tuple(collect_request_secrets(request))
        self._masked = dict(request.event.with_masked_headers().data)
        self.redactor = get_redactor(*self.initial_secrets)
        self.response: dict[str, Any] | None = None
        self.write_error: BaseException | None = None
        self.run_id = run_id
        self.context = context
        self._steps = {step.name: StepResult(step.name, "not_run") for step in request.workflow.steps}
        self._fields: dict[str, Any] = {
            "id": run_id,
            "trace_id": trace_id,
            "workflow": request.workflow.name,
            "version": request.workflow.version,
            "status": "executing",
            "external_user": request.external_user_id,
            "environment": request.environment,
            "started_at": format_iso(clock.now()),
            "event": require_object(self.redactor.redact_value(self._masked)),
            "context": context,
            "outbound_enforcement": None
            if request.policy.mode == "live"
            else OutboundEnforcement(request.policy.mode, guard),
        }
        self._execution: Execution | None = None

    @property
    def execution(self) -> Execution:
        """What is known so far. It is put together when it is asked for: most that becomes known is asked for at the end."""
        if self._execution is None:
            self._execution = Execution(**self._fields, steps=tuple(self._steps.values()))
        return self._execution

    def record_start(self) -> None:
        """Write that the run was asked for."""
        self._start_submitted = asyncio.get_running_loop().create_future()
        self._pending.append(asyncio.ensure_future(self._accept(self.execution)))

    def set_redactor(self, redactor: Redactor) -> None:
        """From now on *redactor* tells the run's secrets, its accounts' among them."""
        if redactor is not self.redactor:
            self.redactor = redactor
            self._update_fields(event=require_object(redactor.redact_value(self._masked)))
        if self._vault is not None:
            self._event_text = self._trigger_text(self._fields["event"])

    def set_lookup(self, lookup: Lookup) -> None:
        """Take how the accounts of the external user were found."""
        plain = lookup.to_json()
        told = require_object(self.redactor.redact_value(plain))
        self._update_fields(lookup=lookup if told is plain else Lookup.from_json(told))

    @property
    def has_watcher(self) -> bool:
        """Whether somebody is told the execution as it grows."""
        return self._request.on_change is not None

    def notify(self, result: StepResult) -> None:
        """Take what a step has done so far, and tell whoever watches."""
        self._steps[result.name] = result
        self._execution = None
        self.publish()

    def record_step(self, result: StepResult, *, ends_run: bool = False) -> None:
        """Take what a finished step did and write its row; that of one that *ends_run* the run goes with the run's end."""
        self.notify(result)
        row = StepRow(self._step_positions[result.name], result.name, encode_step(result))
        if ends_run or row.seq == len(self._step_positions) - 1:
            self._last = row
        else:
            self._write(lambda: self._append(row))

    async def flush(self) -> None:
        """Wait until everything that was written is on disk. Raises `ProjectError` if some of it is not."""
        self._write_last()
        pending = list(self._pending)
        for each in pending:
            if not each.done():
                await _ended(each)  # if the run is cancelled here, they are waited for at its end
        del self._pending[: len(pending)]
        fault = next((fault for each in pending if (fault := _exception_of(each)) is not None), None)
        if fault is not None:
            self.write_error = fault
            raise fault

    def set_response(self, response: dict[str, Any]) -> None:
        """Keep the run's first response."""
        if self.response is None:
            self.response = response
            if self._request.on_respond:
                self._request.on_respond(response)

    def set_status(self, status: Status) -> None:
        """The run is *status* now, and goes on."""
        self._update_fields(status=status)
        self.publish()
        self._say_paused()

    def park(self, step: str, *, wake_at: float) -> None:
        """The run ends here for now, paused in *step* until *wake_at* (seconds since 1970)."""
        self._parked = (self._step_positions[step], wake_at)

    def add_delivery(self, delivery: Delivery) -> None:
        """Take what became of something that was to be sent after the run."""
        self._update_fields(sends=(*self.execution.sends, delivery))

    def skip_remaining(self) -> None:
        """Mark the steps that the run will not come to; those below a pause are still to come."""
        if self._parked is not None:
            return
        for result in tuple(self._steps.values()):
            if result.status == "not_run" and self._request.is_selected(result.name):
                self.notify(replace(result, status="skipped"))

    def set_final_status(self, status: Status) -> None:
        """Say how the run ended, or that it is paused."""
        if status == "paused":
            self._update_fields(status=status)
            return
        failed = next((step.error for step in self._steps.values() if step.error), None)
        self._end(status, failed, self._response() if self._custom else None)

    def record_refusal(self, refusal: PdkernelError) -> None:
        """Say why no step has run."""
        error = ErrorRecord(
            code=refusal.code,
            name=type(refusal).__name__,
            message=self.redactor.redact_text(str(refusal)),
            step=getattr(refusal, "step", None),
            line=getattr(refusal, "line", None),
        )
        response = None
        if self._custom:
            # parity[error-status]: the platform does not document the status; 400 is not retried by its SDKs
            response = Response(400, {}, error.message) if isinstance(refusal, EndUserError) else NO_RESPONSE
        self._end("error", error, response)

    async def finish(self) -> Execution:
        """
        Write the end, wait for the disk, and return the whole.

        What cannot be written (a full disk) is the run's error then, unless it has one: what its steps did is returned
        all the same.
        """
        execution = self.execution
        unrecorded = {step.name: step.status for step in execution.steps if step.status not in RECORDED_STATUSES}
        if self._parked is not None and execution.status == "paused":
            place, wake_at = self._parked
            self._write_last()
            event = self._take_event_text()
            self._write(lambda: self._journal.park(execution.id, place, wake_at=wake_at, event=event))
        else:
            output = encode_output(
                response=execution.response,
                error=execution.error,
                steps=unrecorded,
                sends=execution.sends,
                lookup=execution.lookup,
            )
            last, self._last = self._last, None
            event = self._take_event_text()
            self._write(
                lambda: self._journal.finish(
                    execution.id, _final(execution.status), output, last_step=last, event=event
                )
            )
        try:
            await self.flush()
        except PdkernelError as unwritten:
            if execution.error is None:
                self.record_refusal(unwritten)
        self.publish()
        self._say_paused()
        return self.execution

    def _say_paused(self) -> None:
        if self._request.on_paused and self._fields["status"] == "paused":
            self._request.on_paused()

    def publish(self) -> None:
        """Tell whoever watches."""
        if self._request.on_change:
            self._request.on_change(self.execution)

    @property
    def _custom(self) -> bool:
        return self._request.workflow.trigger.response == "custom"

    def _end(self, status: Status, error: ErrorRecord | None, response: Response | None) -> None:
        self._update_fields(status=status, finished_at=format_iso(self._clock.now()), error=error, response=response)

    def _update_fields(self, **facts: Any) -> None:
        self._fields.update(facts)
        self._execution = None

    def _response(self) -> Response:
        raw = self.response
        if raw is None:
            return NO_RESPONSE
        headers = {
            name: ", ".join(value) if isinstance(value, list) else value for name, value in raw["headers"].items()
        }
        # parity[redacted-response]: a real endpoint's caller gets what the step sent; the record of it is redacted
        return Response(
            status=raw["status"],
            headers=require_object(self.redactor.redact_value(headers)),
            body=self.redactor.redact_value(raw["body"]),
        )

    def _write(self, write: Callable[[], Awaitable[Any]]) -> None:
        # the journal keeps the order in which it was asked, and nothing is written of a run that it has not been told of
        known = self._start_submitted is None or self._start_submitted.done()
        if known and not self._delayed_writes:
            writing = write()
        else:
            self._delayed_writes += 1
            writing = self._write_after_start(write)
        self._pending.append(asyncio.ensure_future(writing))

    async def _write_after_start(self, write: Callable[[], Awaitable[Any]]) -> Any:
        assert self._start_submitted is not None
        try:
            await asyncio.shield(self._start_submitted)
            writing = asyncio.ensure_future(write())
        finally:
            self._delayed_writes -= 1
        return await writing

    def _write_last(self) -> None:
        last, self._last = self._last, None
        if last is not None:
            self._write(lambda: self._append(last))

    def _append(self, row: StepRow) -> Awaitable[bool]:
        return self._journal.append_step(self.run_id, row.seq, row.name, row.data, event=self._take_event_text())

    def _take_event_text(self) -> str | None:
        event, self._event_text = self._event_text, None
        return event

    def _trigger_text(self, event: Mapping[str, JSON] | bytes) -> str:
        return encode_event(event, self.context, outbound_enforcement=self._fields["outbound_enforcement"])

    async def _accept(self, execution: Execution) -> None:
        assert self._start_submitted is not None
        try:
            version = await self._journal.deploy_definition(self._request.workflow)
        finally:
            self._start_submitted.set_result(None)  # who waits for this goes on only after what follows is handed in
        event: Mapping[str, JSON] | bytes = execution.event
        if self._vault is not None:
            event = self._vault.seal(encode_json(dict(execution.event)).decode(), f"runs/{execution.id}/event")
        await self._journal.accept_run(
            NewRun(
                id=execution.id,
                trace_id=execution.trace_id,
                workflow=execution.workflow,
                version=version,
                event=self._trigger_text(event),
                external_user=execution.external_user,
                environment=execution.environment,
            )
        )
        if self._request.on_recorded:
            self._request.on_recorded()


async def _ended(writing: asyncio.Future[Any]) -> None:
    """Wait until *writing* has ended, however; it goes on if who waits is cancelled."""
    ended = asyncio.get_running_loop().create_future()

    def end(_: object) -> None:
        if not ended.done():
            ended.set_result(None)

    writing.add_done_callback(end)
    await ended


def _exception_of(done: asyncio.Future[Any]) -> BaseException | None:
    return asyncio.CancelledError() if done.cancelled() else done.exception()


def collect_request_secrets(request: RunRequest) -> list[Secret]:
    """The values of the project's variables and of the event's secret headers, to be found wherever they turn up."""
    variables = [Secret(f"env/{name}", value) for name, value in request.variables.items()]
    return [*variables, *(Secret(f"event/{name}", value) for name, value in request.event.header_secrets().items())]


def require_object(value: JSON) -> dict[str, Any]:
    """*value*, which is an object."""
    assert isinstance(value, dict)
    return value


def _final(status: Status) -> FinalStatus:
    return status if status in ("success", "exited", "cancelled") else "error"

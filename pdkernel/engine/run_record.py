"""
The record of one run: its execution so far, redacted; its rows in the journal; and the messages that its steps have queued.

A step starts only when all earlier writes are on disk; until then commits run beside the work. The first row has the
request, encrypted. The event may contain credentials, so it is shown only when the run's accounts are resolved.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from msgspec.structs import replace

from pdkernel.common.clock import Clock, format_iso
from pdkernel.common.encode import encode_json
from pdkernel.common.lookup import Lookup
from pdkernel.common.redaction import Redactor, Secret, find_redacted_values, get_redactor
from pdkernel.egress import OutboundPolicy
from pdkernel.engine.deliveries import find_destination
from pdkernel.engine.http_response import (
    NO_RESPONSE,
    NO_RESPONSE_BEFORE_PAUSE,
    CallerResponse,
    HttpResponse,
    build_refusal_response,
)
from pdkernel.engine.pauses import RerunState
from pdkernel.engine.queue_turns import QueueLimits
from pdkernel.engine.record_writes import WRITE_RETRY_S, RecordWrites, RunLostError
from pdkernel.engine.restored_run import RestoredPause, RestoredRun, build_carry, seal_carry, seal_message, seal_request
from pdkernel.engine.run_request import RunRequest, RunWatcher, collect_request_secrets, encode_request
from pdkernel.errors import PdkernelError, ProjectError
from pdkernel.execution import (
    Delivery,
    ErrorRecord,
    Execution,
    OutboundCall,
    OutboundPolicyRecord,
    RunTrigger,
    Status,
    StepResult,
    fill_block_exports,
)
from pdkernel.journal import (
    Begun,
    CallRow,
    FinalStatus,
    NewRun,
    OutboxRow,
    RunJournal,
    StepRow,
    StoredLock,
    WaitKind,
    WaitRow,
    build_pause,
    encode_call,
    encode_event,
    encode_output,
    encode_step,
)
from pdkernel.model import JSON, require_object
from pdkernel.storage import Vault
from pdkernel.workers import MAX_RECORDED_CALLS_BYTES, Effect, StepOutcome

_LANE_DIGITS = 16


class RunOutbox:
    """
    The queued messages of a run, which are recorded with its end or pause and delivered after that.

    Args:
        run_id: The run's id.
        vault: Encrypts the messages; None if the run is not recorded.
    """

    def __init__(self, run_id: str, vault: Vault | None) -> None:
        self._run_id = run_id
        self._vault = vault
        self._unsent: list[tuple[OutboxRow, str, Effect]] = []
        self._places: dict[OutboxRow, int] = {}

    @property
    def rows(self) -> list[OutboxRow]:
        """The rows of the queued messages."""
        return [row for row, _, _ in self._unsent]

    def add(self, step: str, number: int, sends: Sequence[Effect], redactor: Redactor) -> None:
        """Queue messages of the run *number* of a step."""
        for position, effect in enumerate(sends):
            payload = redactor.redact_value(dict(effect.payload))
            shown = encode_json(Delivery(step, effect.kind, "waiting", payload=payload)).decode()
            message = b"" if self._vault is None else seal_message(effect, self._run_id, step, self._vault)
            destination = find_destination(effect)
            lane = destination if self._vault is None else self._vault.sign(f"lane {destination}").hex()[:_LANE_DIGITS]
            row = OutboxRow(step, number, position, message, shown, lane)
            self._places[row] = len(self._places)
            self._unsent.append((row, step, effect))

    def find_place(self, row: OutboxRow) -> int:
        """Return the index of a message among all that were queued."""
        return self._places[row]

    def take(self) -> list[tuple[OutboxRow, str, Effect]]:
        """Return the queued messages, with the name of each step, and forget them."""
        unsent, self._unsent = self._unsent, []
        return unsent


T = TypeVar("T")

RECORDED_STATUSES = frozenset({"success", "error", "pinned"})
"""Statuses of steps that have a row in the journal."""
_log = logging.getLogger(__name__)


def _build_fields(
    request: RunRequest, state: RestoredRun, started: datetime, trigger: RunTrigger, guard: str
) -> dict[str, Any]:
    """Build the fields of a run's `Execution` before its first step, without `steps`."""
    return {
        "id": state.claim.run_id,
        "trace_id": state.trace_id,
        "workflow": request.workflow.name,
        "version": request.workflow.version,
        "status": "executing",
        "external_user": request.external_user_id,
        "environment": request.environment,
        "started_at": format_iso(started),
        "finished_at": None,
        "attempt": state.claim.attempt,
        "replay_of": request.replay_of,
        "trigger": trigger,
        "response": None,
        "error": None,
        "outbound_policy": _record_policy(request.policy, guard),
        "decisions": state.decisions,
        "batch": request.batch,
    }


def _record_policy(policy: OutboundPolicy, guard: str) -> OutboundPolicyRecord | None:
    if policy.mode == "live":
        return OutboundPolicyRecord(policy.text, policy.origin) if policy.origin else None
    return OutboundPolicyRecord(policy.text, policy.origin, guard)


class RunRecord:
    """
    The record of one run.

    Args:
        request: The run's request.
        state: The claim, ids and context of the run; for a continued run, its recorded steps too.
        watcher: The callbacks of the run.
        journal: The journal for the rows.
        clock: For time stamps.
        vault: Encrypts what the record does not show; None if the run is not recorded.
        root: The project's place on this host; stored paths are relative to it.
        may_have_accounts: Whether the event may contain credentials of accounts that are not resolved yet.
        guard: What the operating system does with outbound calls that bypass the gateway.

    Attributes:
        claim: The right to write the run.
        context: `steps.trigger.context`.
        redactor: The redactor of the run's secrets; at first of variables and the event's headers.
        outbox: The messages that steps have queued.
        write_error: Why a write of the record failed, or None.
    """

    def __init__(
        self,
        request: RunRequest,
        *,
        state: RestoredRun,
        watcher: RunWatcher,
        journal: RunJournal,
        clock: Clock,
        vault: Vault | None,
        root: Path,
        may_have_accounts: bool,
        guard: str = "none",
    ) -> None:
        self._journal = journal
        self.claim = state.claim
        self.context = state.context
        self._request = request
        self._watcher = watcher
        self._clock = clock
        self._masked = dict(request.event.with_masked_headers().data)
        # the accounts of a continued run may have other credentials by now
        former = [] if state.event is None else find_redacted_values(self._masked, dict(state.event))
        self._secrets = (*collect_request_secrets(request), *state.secrets, *former)
        self.redactor = get_redactor(*self._secrets)
        names = [entry.name for entry in request.workflow.all_entries]
        self._places = request.prepared.places
        known = {name: step.result for name, step in state.steps.items()}
        self._steps = {name: known.get(name) or self._with_place(StepResult(name, "not_run")) for name in names}
        self._started = clock.now() if state.created is None else datetime.fromtimestamp(state.created, UTC)
        self._fields = _build_fields(request, state, self._started, self._redact_trigger(), guard)
        self._execution: Execution | None = None
        self._vault = vault
        self._root = root
        self._may_have_accounts = may_have_accounts
        self._event_text: str | None = None  # the next commit writes it
        self.outbox = RunOutbox(self.run_id, vault)
        self._earlier_sends = self.execution.sends
        self._deliveries: dict[int, Delivery] = {}
        self._writes = RecordWrites()
        self._package_lock = state.package_lock
        self._begun = state.begun
        self._last: StepRow | None = None
        self._waits: dict[str, tuple[StepResult, WaitRow]] = {}
        # on a full disk, a served run waits; the API call that runs a single action gets the error at once
        self._waits_for_disk = request.waits_for_database
        self._has_waited = False
        self._is_parked = False  # the pause is on disk, and this executor may not write the run any more
        self._step_positions = {name: position for position, name in enumerate(names)}
        self._response = CallerResponse(
            state.response,
            is_expected=request.has_response,
            # a continued run has no caller, or its caller has the response; only the caller of a queued run may wait
            is_sent=state.response is not None or (state.created is not None and watcher.on_respond is None),
            on_respond=watcher.on_respond,
        )
        self._interrupted_calls = dict(state.calls)  # as the next attribute, of steps that are not recorded
        self._calls_bytes = {path: sum(len(encode_call(call)) for call in calls) for path, calls in state.calls.items()}
        self._call_number = 0
        self.write_error: BaseException | None = None
        self._ended: float | None = None

    @property
    def secrets(self) -> Sequence[Secret]:
        """The secrets of the run, as far as they are known."""
        return self._secrets

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.claim.run_id

    @property
    def execution(self) -> Execution:
        """The execution so far; built on access, because most changes are only read at the end."""
        if self._execution is None:
            steps = tuple(self._steps.values())
            if self._request.workflow.blocks:
                steps = fill_block_exports(steps, self._fields["status"])
            self._execution = Execution(**self._fields, steps=steps)
        return self._execution

    def record_start(self) -> None:
        """Write the run's first row."""
        # a child run belongs to a run that was accepted, so it waits for the disk as its parent does
        self._writes.start(
            lambda: self._accept(self.execution), may_repeat=self._waits_for_disk and self._request.parent is not None
        )

    async def enqueue(self, limits: QueueLimits | None, origin: str | None) -> bool:
        """Write the run's first row as waiting; return False if the queue is full. Raises `ProjectError`."""
        accepting = asyncio.ensure_future(self._accept(self.execution, limits, origin))
        self._writes.start(lambda: accepting)
        return await accepting

    @property
    def has_begun(self) -> bool:
        """Whether the run has its place, or was likely to get it at once."""
        return self._begun != Begun.NO

    def set_begun(self, begun: Begun) -> None:
        """Record how far the run is, before its next step starts; only what others continue can be interrupted."""
        if begun != self._begun and self._request.is_served:
            self._begun = begun
            self._writes.submit(lambda: self._journal.set_begun(self.claim, begun))

    def set_package_lock(self, lock: StoredLock | None) -> None:
        """Record the packages of the run, before its steps begin, unless its row has them."""
        if lock != self._package_lock:
            self._package_lock = lock
            self._writes.submit(lambda: self._journal.set_package_lock(self.claim, lock))

    def add_secrets(self, secrets: Sequence[Secret]) -> None:
        """Redact *secrets*, too, from now on; without any, the event may be shown as it is."""
        self._secrets = (*secrets, *self._secrets)
        redactor = get_redactor(*self._secrets)
        if redactor is not self.redactor:
            self.redactor = redactor
            self._update_fields(trigger=self._redact_trigger())
        if self._may_have_accounts:
            self._event_text = self._trigger_text(self.execution.event)

    def add_returned_secrets(self, secrets: Sequence[Secret]) -> None:
        """Redact *secrets* of a triggered run, too, from now on; the run's own secrets keep their placeholders."""
        self._secrets = tuple(dict.fromkeys((*self._secrets, *secrets)))
        self.redactor = get_redactor(*self._secrets)

    def set_lookup(self, lookup: Lookup) -> None:
        """Record the account lookup, redacted."""
        plain = lookup.to_json()
        redacted = self.redactor.redact_value(plain)
        self._update_fields(lookup=lookup if redacted is plain else Lookup.from_json(redacted))

    @property
    def has_watcher(self) -> bool:
        """Whether the watcher has an `on_change` callback."""
        return self._watcher.on_change is not None

    def notify(self, result: StepResult) -> None:
        """Update the result of a step and publish the execution."""
        self._steps[result.name] = self._with_place(result)
        self._execution = None
        self.publish()

    def publish(self) -> None:
        """Pass the execution to the `on_change` callback."""
        if self._watcher.on_change:
            self._watcher.on_change(self.execution)

    def sign(self, text: str) -> bytes:
        """Sign a URL of the run with the project's key; URLs of a run that is not recorded open nothing."""
        return bytes(32) if self._vault is None else self._vault.sign(text)

    @property
    def is_handed_over(self) -> bool:
        """Whether a cancelled run is left to another executor."""
        return self._watcher.hands_over()

    def record_step(
        self,
        result: StepResult,
        outcome: StepOutcome | None = None,
        *,
        exports: Mapping[str, JSON] | None = None,
        number: int = 1,
        ends_run: bool = False,
    ) -> None:
        """
        Record a finished step and write its row; the row of the last step is written together with the run's end.

        Args:
            result: The step's redacted record.
            outcome: The step's outcome, if its code ran.
            exports: The exports of a step without an outcome, not redacted.
            number: The number of the step's run.
            ends_run: Whether the run ends with the step.
        """
        self.notify(result)
        result = self._steps[result.name]
        carry = self._seal_carry(result, outcome or StepOutcome(dict(exports or {})), number=number)
        row = StepRow(
            self._step_positions[result.name],
            result.name,
            encode_step(result),
            result.name,
            result.iteration,
            carry,
            has_calls=self._replaces_calls(result.name),
        )
        if (ends_run or row.seq == len(self._step_positions) - 1) and not self._is_in_parallel(result.name):
            self._last = row
        else:
            event = self._take_event_text()
            self._writes.submit(lambda: self._journal.append_step(self.claim, row, event=event))

    def take_interrupted_calls(self, step: str) -> tuple[OutboundCall, ...]:
        """Return the unsafe calls of interrupted attempts at *step*, once: the record of the step has them from now on."""
        return self._interrupted_calls.pop(step, ())

    async def record_call(self, step: str, call: OutboundCall, check: Callable[[], None]) -> None:
        """
        Record an unsafe call of *step* before it is sent, so that the run has it even if the step leaves no record.

        Beyond `MAX_RECORDED_CALLS_BYTES`, calls are not recorded, as in the record of the step.

        Args:
            step: The running step.
            call: The call as it is if its answer is never seen.
            check: Is called before each try; raises an error if the step has ended.

        Raises:
            ProjectError: The write failed.
            RunLostError: As in `flush`.
        """
        row = encode_call(call)
        size = self._calls_bytes.get(step, 0) + len(row)
        if size > MAX_RECORDED_CALLS_BYTES:
            return

        async def write() -> bool:
            check()
            self._calls_bytes[step] = size
            self._call_number += 1
            return await self._journal.record_call(self.claim, CallRow(step, self._call_number, row))

        if not await self.write_again(write) or self._journal.is_lost:
            self.write_error = RunLostError()
            raise self.write_error

    async def write_again(self, write: Callable[[], Awaitable[T]]) -> T:
        """Return the result of *write*, which is called again while the database cannot be written, if the run waits for that. Raises `ProjectError`."""
        while True:
            try:
                return await write()
            except ProjectError as fault:
                if not self._waits_for_disk:
                    raise
                try:
                    await self._wait_for_room(fault)
                except asyncio.CancelledError:  # the process ends
                    self._waits_for_disk = False
                    raise

    async def flush(self) -> None:
        """
        Wait until all writes are on disk.

        Raises:
            ProjectError: A write failed.
            RunLostError: The journal refused a write, or other processes may take this one for dead.
        """
        try:
            await self._writes.wait(self._wait_for_room if self._waits_for_disk else None)
            if self._journal.is_lost:  # another process may run the next step already
                raise RunLostError
        except BaseException as fault:
            self.write_error = fault
            # either the journal refuses each later write too, or the process ends
            self._waits_for_disk = False
            raise

    async def wait_until_startable(self, journal: RunJournal | None = None) -> None:
        """
        Wait while the lease of this executor may end soon, because another one could start the same step.

        Args:
            journal: The journal that has the lease, if the run is not recorded in it.

        Raises:
            RunLostError: The lease was lost.
        """
        journal = journal or self._journal
        while not journal.may_start:
            if journal.is_lost:
                self.write_error = RunLostError()
                raise self.write_error
            await self._clock.sleep(WRITE_RETRY_S)

    async def _wait_for_room(self, fault: ProjectError) -> None:
        """Wait until a failed write is tried again. The caller gets its response now, because the wait may be long."""
        if not self._has_waited:
            self._has_waited = True
            _log.warning("The run %s waits, because it cannot be recorded: %s", self.run_id, fault.message)
        self._response.send(NO_RESPONSE_BEFORE_PAUSE)
        await self._clock.sleep(WRITE_RETRY_S)

    def set_response(self, response: dict[str, Any]) -> None:
        """Store the response of a step; only the first response before a pause counts. An immediate response is sent at once."""
        self._response.set(response)

    def park(
        self,
        result: StepResult,
        outcome: StepOutcome,
        kind: WaitKind,
        state: RerunState,
        *,
        wake_at: float,
        interruptions: int = 0,
    ) -> None:
        """
        Record that the run is paused in the step of *result*.

        Args:
            result: The step's redacted record.
            outcome: The step's outcome.
            kind: What happens after the pause.
            state: The state for the step's next run; its number is that of the run that pauses.
            wake_at: The end of the pause in seconds since 1970.
            interruptions: How often an attempt at the step was interrupted that the next run repeats.
        """
        stores = self._request.data_stores
        self.notify(result)
        result = self._steps[result.name]
        wait = WaitRow(
            self._step_positions[result.name],
            result.name,
            result.iteration,
            kind,
            state.run_number,
            wake_at,
            encode_step(result),
            self._seal_carry(
                result,
                outcome,
                number=state.run_number,
                state=state,
                attempt=self.claim.attempt - interruptions,
                scratch=None if stores is None else stores.snapshot(),
            ),
            has_calls=self._replaces_calls(result.name),
        )
        self._waits[result.name] = result, wait
        if self._is_in_parallel(result.name):
            event = self._take_event_text()
            self._writes.submit(lambda: self._journal.append_wait(self.claim, wait, event=event))

    def keep_pause(self, pause: RestoredPause) -> None:
        """Let the run be paused again, when its other branches have ended or wait, in a step whose *pause* has not ended."""
        if pause.row is not None:
            self._waits[pause.row.path] = pause.step.result, pause.row
        self.notify(pause.step.result)

    async def commit_pause(self) -> None:
        """Write the pauses with the queued messages, and wait for the disk. Raises as `flush` does."""
        await self.flush()  # steps of branches whose writes are repeated must be on disk before the pause
        waiting = sorted(
            self._waits.values(), key=lambda each: (each[1].wake_at is None, each[1].wake_at or 0.0, each[1].seq)
        )
        (pause, *others), rows = [build_pause(step.name, wait) for step, wait in waiting], [wait for _, wait in waiting]
        self._update_fields(pause=pause, other_pauses=tuple(others))
        event, outbox = self._take_event_text(), self.outbox.rows
        self._writes.submit(lambda: self._journal.park(self.claim, *rows, event=event, outbox=outbox))
        await self.flush()
        self._is_parked = True

    async def add_delivery(self, row: OutboxRow, delivery: Delivery, *, retry_at: float | None = None) -> None:
        """Record the delivery of a message that a step queued, and when another process tries again."""
        self._deliveries[self.outbox.find_place(row)] = delivery  # destinations get their messages at the same time
        ordered = [self._deliveries[place] for place in sorted(self._deliveries)]
        self._update_fields(sends=(*self._earlier_sends, *ordered))
        self.publish()
        await self._journal.record_delivery(self.run_id, row, encode_json(delivery).decode(), retry_at=retry_at)

    def skip_remaining(self) -> None:
        """Mark the steps that the run does not reach as skipped."""
        for result in tuple(self._steps.values()):
            if result.status == "not_run" and self._request.is_selected(result.name):
                self.notify(replace(result, status="skipped"))

    def set_final_status(self, status: Status) -> None:
        """Set the run's final status, or that it is paused; a run whose pause is on disk stays paused."""
        if status == "paused" or self._is_parked:
            self._update_fields(status="paused")
            return
        if status == "cancelled":
            self._waits_for_disk = False  # the process may end: it cannot wait for a free disk
        failed = next((step.error for step in self._steps.values() if step.error), None)
        self._end(status, failed, NO_RESPONSE)

    def record_refusal(self, refusal: PdkernelError) -> None:
        """End the run with the error that refused it, unless its pause is on disk."""
        if self._is_parked:
            return
        error = ErrorRecord(
            code=refusal.code,
            name=type(refusal).__name__,
            message=self.redactor.redact_text(str(refusal)),
            step=getattr(refusal, "step", None),
            line=getattr(refusal, "line", None),
        )
        given = self._request.refusal
        self._end("error", error, given.response if given else build_refusal_response(refusal, error.message))

    async def hand_over(self) -> Execution:
        """Leave the run to another executor, which repeats the running step; its caller gets no response of the workflow."""
        last, self._last = self._last, None
        if not self._journal.is_lost:
            if last is not None:
                event = self._take_event_text()
                self._writes.submit(lambda: self._journal.append_step(self.claim, last, event=event))
            with contextlib.suppress(PdkernelError):  # then the next executor finds this one dead, and takes the run
                await self._writes.wait()
                await self._journal.release(self.claim)
        self._is_parked = True
        self._response.send(NO_RESPONSE_BEFORE_PAUSE)
        return self.execution

    async def finish(self) -> Execution:
        """
        Write the run's end, wait for the disk, and return the execution.

        If a write fails (a full disk), the failure becomes the run's error, unless the run has another error.
        """
        if self._waits_for_disk:
            # steps whose writes are repeated must be on disk before the end; if they fail, so does the end below
            with contextlib.suppress(PdkernelError):
                await self.flush()
        execution = self.execution
        unrecorded = {step.name: step.status for step in execution.steps if step.status not in RECORDED_STATUSES}
        if not self._is_parked and not self._journal.is_lost:  # otherwise another process continues the run
            last, self._last = self._last, None
            event = self._take_event_text()
            ended, outbox = self._ended, self.outbox.rows
            output = encode_output(
                response=execution.response, error=execution.error, steps=unrecorded, lookup=execution.lookup
            )
            is_final = execution.status in ("success", "exited", "cancelled")
            status = cast("FinalStatus", execution.status if is_final else "error")
            finish = partial(self._journal.finish, self.claim, status, output)
            self._writes.submit(lambda: finish(last_step=last, event=event, ended=ended, outbox=outbox))
        try:
            await self.flush()
        except PdkernelError as unwritten:
            if execution.error is None:
                self.record_refusal(unwritten)
        self.publish()
        self._notify_paused()
        self._response.send(NO_RESPONSE)
        return self.execution

    def _redact_trigger(self) -> RunTrigger:
        return RunTrigger(require_object(self.redactor.redact_value(self._masked)), self.context)

    def _update_fields(self, **fields: Any) -> None:
        self._fields.update(fields)
        self._execution = None

    def _is_in_parallel(self, name: str) -> bool:
        """Return whether other branches may run beside the step, so that its record must not wait for the end of the run."""
        place = self._places.get(name)
        return place is not None and place.is_parallel

    def _with_place(self, result: StepResult) -> StepResult:
        """Return *result* with its place among the branches."""
        place = self._places.get(result.name)
        return result if place is None else replace(result, path=place.path, block=place.block, branch=place.branch)

    def _replaces_calls(self, path: str) -> bool:
        """Return whether the record of a step, which is written now, replaces its calls in flight."""
        return self._calls_bytes.pop(path, None) is not None and path not in self._interrupted_calls

    def _notify_paused(self) -> None:
        if self.execution.status != "paused":
            return
        self._response.send(NO_RESPONSE_BEFORE_PAUSE)
        if self._watcher.on_paused:
            self._watcher.on_paused()

    def _end(self, status: Status, error: ErrorRecord | None, default: HttpResponse) -> None:
        response = self._response.settle(default, self.redactor)
        now = self._clock.now()
        self._ended = now.timestamp()
        self._update_fields(status=status, finished_at=format_iso(now), error=error, response=response)

    def _seal_carry(self, result: StepResult, outcome: StepOutcome, **state: Any) -> bytes | None:
        response = self._response.take_new()
        if self._vault is None:
            return None
        carry = build_carry(result, outcome, self._secrets, response=response, **state)
        return None if carry is None else seal_carry(carry, self.run_id, result.name, self._vault)

    def _take_event_text(self) -> str | None:
        event, self._event_text = self._event_text, None
        return event

    def _trigger_text(self, event: Mapping[str, JSON] | None) -> str:
        run = self.execution
        return encode_event(event, self.context, replay_of=run.replay_of, outbound_policy=run.outbound_policy)

    async def _accept(self, execution: Execution, limits: QueueLimits | None = None, origin: str | None = None) -> bool:
        try:
            definition = await self._journal.store_definition(self._request.workflow)
        finally:
            self._writes.mark_started()  # waiters resume only after `accept_run` below has been called
        request = None
        if self._vault is not None:
            request = seal_request(encode_request(self._request, self._root), execution.id, self._vault)
        is_accepted = await self._journal.accept_run(
            NewRun(
                id=execution.id,
                trace_id=execution.trace_id,
                workflow=execution.workflow,
                definition=definition,
                event=self._trigger_text(None if self._may_have_accounts else execution.event),
                request=request,
                external_user_id=execution.external_user,
                environment=execution.environment,
                queue=None if limits is None else limits.queue,
                queue_size=None if limits is None else limits.size,
                created=self._started.timestamp(),
                parent=self._request.parent,
                workflow_id=self._request.workflow_id,
                origin=origin,
                dedupe_key=self._request.dedupe_key,
                batch=self._request.batch,
                package_lock=self._package_lock,
                begun=self._begun,
            )
        )
        if is_accepted and self._watcher.on_recorded:
            self._watcher.on_recorded()
        return is_accepted

"""
The state of a run that an executor continues: recorded steps, the pause that has ended, and what the record does not show.

`data` of a row is redacted; `carry` is the encrypted rest: exports with their secrets, queued messages and the response.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from pdkernel.common.encode import JsonStruct
from pdkernel.common.identity import DEFAULT_ENVIRONMENT, parse_environment
from pdkernel.common.redaction import Secret, find_contained_secrets
from pdkernel.egress import OutboundPolicy
from pdkernel.engine.http_response import NO_RESPONSE_BEFORE_PAUSE, HttpResponse
from pdkernel.engine.pauses import RerunState
from pdkernel.engine.prepared_workflow import parse_definition
from pdkernel.engine.run_request import RunRequest, decode_request
from pdkernel.errors import InternalError, PdkernelError, ProjectError, format_count
from pdkernel.event import Event
from pdkernel.execution import Decision, OutboundCall, StepResult
from pdkernel.journal import (
    MAX_LOST_TASKS,
    Begun,
    Claim,
    ClaimedRun,
    OutboxRow,
    StepRow,
    StoredLock,
    WaitRow,
    decode_calls,
    decode_step,
    decode_trigger,
)
from pdkernel.model import JSON, Workflow
from pdkernel.storage import ScratchState, Vault
from pdkernel.workers import Effect, StepOutcome


class RunGivenUpError(InternalError):
    """The run is not repeated any more: it seems to end each process that executes it, or its end cannot be recorded."""

    code = "interrupted"

    def __init__(self, claimed: ClaimedRun) -> None:
        fix = f"Correct the workflow, then replay the run: pdkernel runs replay {claimed.claim.run_id}"
        if claimed.lost_tasks >= MAX_LOST_TASKS:
            super().__init__(
                f"The run was given up: {format_count(claimed.lost_tasks, 'time')}, an unexpected error ended it before its end was "
                "recorded. The log of the server has the reason.",
                fix=fix,
            )
            return
        beside = claimed.interruptions - claimed.deaths_alone
        before = (
            f", after {format_count(beside, 'death')} of the server in which others ran beside it" if beside else ""
        )
        super().__init__(
            f"The run was given up: it ran alone {format_count(claimed.deaths_alone, 'time')}, and the server ended each time before "
            f"the same step did{before}. So the step probably ends the server.",
            fix=fix,
        )


REQUEST_LOCATION = "runs/{id}/request"
CARRY_LOCATION = "runs/{run_id}/carry/{path}"
PAYLOAD_LOCATION = "runs/{run_id}/payload/{path}"
MESSAGE_LOCATION = "runs/{run_id}/outbox/{path}"
"""The locations for which the values of a run are encrypted."""


class Carry(JsonStruct, frozen=True, omit_defaults=True):
    """
    What later steps need of a step and its record does not show.

    Attributes:
        exports: The exports, if the record has placeholders in them; or None.
        secrets: Ref and value of each secret in the other fields: the run may not have it any more when it is continued.
        sends: Messages that the step queued.
        number: The number of the step's run, if the step queued messages.
        response: The response to the caller, if the step made it.
        has_exited: Whether the run ends with the step without an error: in a parallel branch, the step is recorded before that end.
        context: For a pause, as in `RerunState` of the step's next run.
        retries: For a pause, as in `RerunState`.
        attempt: For a pause, the run's attempt.
        callback: For a pause, as in `RerunState`.
        unstarted: For a pause, as in `RerunState`.
        scratch: For a pause, the changed records of the scratch copy of the data stores, or None.
    """

    exports: Mapping[str, JSON] | None = None
    secrets: tuple[tuple[str, str], ...] = ()
    sends: tuple[Effect, ...] = ()
    number: int = 1
    response: HttpResponse | None = None
    has_exited: bool = False
    context: JSON = None
    retries: int = 0
    attempt: int = 1
    callback: JSON = None
    unstarted: int = 0
    scratch: ScratchState | None = None


@dataclass(frozen=True)
class RestoredStep:
    """
    A step that an earlier executor has run.

    Attributes:
        result: The step's record.
        exports: The exports, not redacted.
        sends: Queued messages that are not in the outbox yet.
        number: The number of the step's run that queued them.
        response: The response that the step made, or None.
        has_exited: Whether the run ends with the step without an error.
    """

    result: StepResult
    exports: Mapping[str, JSON] = field(repr=False)
    sends: tuple[Effect, ...] = field(default=(), repr=False)
    number: int = 1
    response: HttpResponse | None = field(default=None, repr=False)
    has_exited: bool = False


@dataclass(frozen=True)
class RestoredPause:
    """
    A pause that has ended, or of which a branch still waits for the end.

    Attributes:
        row: The pause as it is recorded, until it has ended.
        step: The step that paused.
        is_rerun: Whether the step runs again.
        number: The number of the step's run that paused.
        carry: The state for the step's next run.
        payload: The body of the call that resumed the run, or None.
    """

    row: WaitRow | None = field(repr=False)
    step: RestoredStep
    is_rerun: bool
    number: int
    carry: Carry = field(repr=False)
    payload: JSON = field(default=None, repr=False)

    @property
    def has_ended(self) -> bool:
        """Whether the step goes on."""
        return self.row is None


class RestoredRun(Struct, frozen=True):
    """
    The state in which an executor starts or continues a run.

    Attributes:
        claim: The right to write the run.
        trace_id: The id that a run and its replays share.
        context: `steps.trigger.context`.
        created: The start of the run in seconds since 1970, or None for a new run.
        event: The recorded event, redacted; None for a new run, or if its secrets are not known.
        steps: The recorded steps by path.
        pauses: The pauses that have ended or not, by step.
        interruptions: How often the first step without a record was interrupted.
        response: The response that the caller has received, or None.
        secrets: The secrets in exports, messages, responses and contexts of recorded steps.
        package_lock: The packages of the run's row, or None: those with which the run began, or for a new run those that it
            will probably have.
        decisions: What persons and programs have decided about the run.
        calls: The unsafe calls of interrupted attempts at steps without a record, by the step's path.
        is_queued: Whether the run was claimed within the limits of its workflow.
        begun: How far the run's row says that this executor is.
        problem: Why the run ends instead of going on, or None.
    """

    claim: Claim
    trace_id: str
    context: Mapping[str, JSON]
    created: float | None = None
    event: Mapping[str, JSON] | None = None
    steps: Mapping[str, RestoredStep] = {}
    pauses: Mapping[str, RestoredPause] = {}
    interruptions: int = 0
    response: HttpResponse | None = None
    secrets: tuple[Secret, ...] = ()
    package_lock: StoredLock | None = None
    decisions: tuple[Decision, ...] = ()
    calls: Mapping[str, tuple[OutboundCall, ...]] = {}
    is_queued: bool = False
    begun: Begun = Begun.NO
    problem: PdkernelError | None = None

    @property
    def done_steps(self) -> frozenset[str]:
        """The steps that need not run."""
        return frozenset([*self.steps, *(name for name, pause in self.pauses.items() if not pause.is_rerun)])


def seal_request(text: str, run_id: str, vault: Vault) -> bytes:
    """Encrypt a text of `encode_request` for the run's row."""
    return vault.seal(text, REQUEST_LOCATION.format(id=run_id))


def seal_carry(carry: Carry, run_id: str, path: str, vault: Vault) -> bytes:
    """Encrypt the carry of a step or a pause."""
    return vault.seal_json(carry, CARRY_LOCATION.format(run_id=run_id, path=path))


def seal_message(message: Effect, run_id: str, path: str, vault: Vault) -> bytes:
    """Encrypt a queued message for the outbox."""
    return vault.seal_json(message, MESSAGE_LOCATION.format(run_id=run_id, path=path))


def unseal_message(row: OutboxRow, run_id: str, vault: Vault) -> Effect:
    """Decrypt a message of the outbox. Raises `ProjectError` if the key has changed."""
    return vault.unseal_json(row.message, MESSAGE_LOCATION.format(run_id=run_id, path=row.path), Effect)


def build_carry(
    result: StepResult,
    outcome: StepOutcome,
    secrets: Sequence[Secret],
    *,
    number: int,
    response: HttpResponse | None,
    state: RerunState | None = None,
    attempt: int = 1,
    scratch: ScratchState | None = None,
) -> Carry | None:
    """
    Return what the record of a step does not show, or None if it shows everything.

    Args:
        result: The step's redacted record.
        outcome: The step's outcome.
        secrets: The secrets of the run.
        number: The number of the step's run.
        response: The response that the step made, or None.
        state: For a pause, the state for the step's next run; else None.
        attempt: For a pause, the run's attempt.
        scratch: For a pause, the changed records of the scratch copy of the data stores, or None.
    """
    exports, sends = outcome.exports, outcome.queued_sends
    hidden = any(result.exports.get(name) is not value for name, value in exports.items())
    state = state or RerunState()
    carry = Carry(
        exports=exports if hidden else None,
        sends=sends,
        number=number if sends else 1,
        response=response,
        has_exited=outcome.has_exited,
        context=state.context,
        retries=state.retries,
        attempt=attempt,
        callback=state.callback,
        unstarted=state.unstarted,
        scratch=scratch,
    )
    if carry == Carry():
        return None
    contained = find_contained_secrets(secrets, carry)
    return replace(carry, secrets=tuple((secret.ref, secret.value) for secret in contained))


def restore_request(claimed: ClaimedRun, vault: Vault, root: Path) -> tuple[RunRequest, bool]:
    """
    Decrypt the request of a claimed run; *root* is the project's place on this host.

    Returns:
        As `decode_request`.

    Raises:
        ProjectError: The run cannot be continued: its request or its definition is missing or damaged, or the key has
            changed.
    """
    run_id = claimed.claim.run_id
    if claimed.request is None or not claimed.definition:
        raise ProjectError(
            f"The run {run_id} cannot be continued: its record has no request.", fix="Start the workflow again."
        )
    text = vault.unseal(claimed.request, REQUEST_LOCATION.format(id=run_id))
    try:
        workflow = parse_definition(claimed.definition)
        return decode_request(
            text,
            root,
            workflow=workflow,
            external_user_id=claimed.external_user_id,
            environment=parse_environment(claimed.environment),
            run_ids=(run_id, claimed.trace_id),
        )
    except (ValueError, TypeError, KeyError, RecursionError) as fault:
        raise ProjectError(
            f"The run {run_id} cannot be continued: its request is damaged ({type(fault).__name__}).",
            fix="Restore the project's database from a copy, or start the workflow again.",
        ) from None


def restore_run(claimed: ClaimedRun, vault: Vault) -> RestoredRun:
    """
    Build the state of a claimed run.

    Raises:
        ProjectError: A row is damaged, or was encrypted with another key.
    """
    run_id = claimed.claim.run_id
    shown = restore_shown(claimed, RunGivenUpError(claimed) if claimed.is_given_up else None)
    rows: Sequence[StepRow | WaitRow] = [*claimed.steps, *claimed.waits]
    restored = {row.path: _restore_step(row, run_id, claimed, vault) for row in rows if row.data}
    recorded_attempts = [row.attempt for row in claimed.steps]
    recorded_attempts += [restored[row.path][1].attempt for row in claimed.waits if row.data]
    return replace(
        shown,
        steps={row.path: restored[row.path][0] for row in claimed.steps},
        pauses={row.path: _restore_pause(row, *restored[row.path], run_id, vault) for row in claimed.waits if row.data},
        interruptions=claimed.claim.attempt - max([1, *recorded_attempts]),
        response=next((step.response for step, _ in restored.values() if step.response is not None), shown.response),
        secrets=tuple(dict.fromkeys(Secret(*each) for _, carry in restored.values() for each in carry.secrets)),
        calls=decode_calls(run_id, claimed.calls),
    )


def restore_shown(claimed: ClaimedRun, problem: PdkernelError | None) -> RestoredRun:
    """
    Build the state of a claimed run from what needs no key; with *problem*, the reason why it ends, its event may be damaged.

    Raises:
        ProjectError: The event is damaged, and there is no *problem*.
    """
    event: Mapping[str, JSON] | None = None
    context: Mapping[str, JSON] = {}
    try:
        event, context = decode_trigger(claimed)
    except ProjectError:
        if problem is None:
            raise
    return RestoredRun(
        claimed.claim,
        claimed.trace_id,
        context,
        claimed.created,
        event=event,
        response=NO_RESPONSE_BEFORE_PAUSE if claimed.was_paused else None,
        package_lock=claimed.package_lock,
        decisions=claimed.decisions,
        is_queued=claimed.queue is not None,
        begun=claimed.begun,
        problem=problem,
    )


def restore_shown_request(claimed: ClaimedRun, root: Path) -> RunRequest:
    """Build a request with which a claimed run ends whose own request cannot be restored: with the redacted event, and no steps if need be."""
    try:
        workflow = parse_definition(claimed.definition)
    except (ValueError, TypeError, KeyError, RecursionError):
        workflow = Workflow(claimed.workflow)
    try:
        event, _ = decode_trigger(claimed)
    except ProjectError:
        event = None
    try:
        environment = parse_environment(claimed.environment)
    except PdkernelError:
        environment = DEFAULT_ENVIRONMENT
    return RunRequest(
        workflow,
        Event(event or {}),
        OutboundPolicy("live", "live"),
        external_user_id=claimed.external_user_id,
        environment=environment,
        folder=root,
        test=False,
        interface="http" if claimed.origin == "serve" else "terminal",
        pause_mode="park",
        run_ids=(claimed.claim.run_id, claimed.trace_id),
    )


def _restore_step(row: StepRow | WaitRow, run_id: str, claimed: ClaimedRun, vault: Vault) -> tuple[RestoredStep, Carry]:
    result = decode_step(run_id, row.data)
    carry = Carry()
    if row.carry is not None:
        carry = vault.unseal_json(row.carry, CARRY_LOCATION.format(run_id=run_id, path=row.path), Carry)
    sends = () if (row.path, carry.number) in claimed.sent_runs else carry.sends
    exports = result.exports if carry.exports is None else carry.exports
    return RestoredStep(result, exports, sends, carry.number, carry.response, carry.has_exited), carry


def _restore_pause(row: WaitRow, step: RestoredStep, carry: Carry, run_id: str, vault: Vault) -> RestoredPause:
    payload: JSON = None
    if row.payload is not None:
        payload = json.loads(vault.unseal(row.payload, PAYLOAD_LOCATION.format(run_id=run_id, path=row.path)))
    is_open = row.outcome is None
    return RestoredPause(row if is_open else None, step, row.kind in ("rerun", "retry"), row.number, carry, payload)


def seal_payload(payload: JSON, run_id: str, path: str, vault: Vault) -> bytes:
    """Encrypt the body of a call that resumes a run."""
    return vault.seal_json(payload, PAYLOAD_LOCATION.format(run_id=run_id, path=path))

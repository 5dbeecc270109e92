"""
The JSON in the journal's text columns, and the execution that is built of it.

    definitions.content      the workflow's JSON, keys sorted: `Workflow.version` is the beginning of its hash
    package_locks.content    written by the caller: the packages of runs, and their workflow
    runs.event               {"event", "context"} and, for a replay, "replay_of"; masked and redacted by the caller.
                             Without "event" until the run's accounts are resolved
    runs.request             encrypted by the caller: what an executor needs to run or to continue the run
    steps.data, waits.data   a `StepResult` as JSON
    outbox.shown             a `Delivery` as JSON
    calls_in_flight.shown    an `OutboundCall` as JSON, redacted by the caller
    steps.carry, waits.carry encrypted by the caller: what later steps need and `data` does not show
    runs.output              {"response", "error", "steps": {name: status of a step without a row}} and, if
                             present, "lookup"
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar, cast

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from pdkernel.common.clock import format_iso
from pdkernel.common.encode import LONE_SURROGATE, JsonStruct, decode_json, encode_json
from pdkernel.common.lookup import Lookup
from pdkernel.errors import DamagedRecordError
from pdkernel.execution import (
    Decision,
    Delivery,
    ErrorRecord,
    Execution,
    OutboundCall,
    OutboundPolicyRecord,
    Response,
    RunPause,
    RunTrigger,
    Status,
    StepResult,
    StepStatus,
    Verdict,
    fill_block_exports,
    milliseconds_between,
)
from pdkernel.journal.rows import CallRow, ClaimedRun, RunStatus, WaitRow
from pdkernel.model import JSON, Workflow, merge_entries, split_inside

T = TypeVar("T", bound=JsonStruct)


@dataclass(frozen=True, slots=True)
class RunRow:
    """A row of `runs` with the workflow's definition."""

    id: str
    trace_id: str
    workflow: str
    definition: str | None
    event: str
    external_user_id: str | None
    environment: str
    status: RunStatus
    fence: int
    attempt: int
    created: float
    ended: float | None
    output: str | None
    batch: str | None = None


@dataclass(frozen=True, slots=True)
class ExecutionQuery:
    """
    A query for executions; the result is sorted newest first. None means no condition.

    Attributes:
        workflow: The workflow's name.
        external_user_id: The external user's id.
        environment: `development` or `production`.
        status: The execution's status.
        since: Started at or after this moment.
        until: Started before this moment.
        limit: The maximum number of executions.
        before_id: The id of the last execution of the previous page.
        batch: The id of the batch.
    """

    workflow: str | None = None
    external_user_id: str | None = None
    environment: str | None = None
    status: Status | None = None
    since: datetime | None = None
    until: datetime | None = None
    limit: int = 50
    before_id: str | None = None
    batch: str | None = None


class RunSummary(JsonStruct, frozen=True):
    """One line of a list of runs: an `Execution` without its event, its steps and its response."""

    id: str
    workflow: str
    external_user: str | None
    environment: str
    status: Status
    attempt: int
    started_at: str
    finished_at: str | None
    error: ErrorRecord | None

    @property
    def duration_ms(self) -> float | None:
        """As `Execution.duration_ms`."""
        return None if self.finished_at is None else milliseconds_between(self.started_at, self.finished_at)


class _StoredTrigger(JsonStruct, frozen=True, kw_only=True, omit_defaults=True):
    """The `runs.event` text."""

    event: Mapping[str, JSON] | UnsetType = UNSET
    context: Mapping[str, JSON]
    replay_of: str | None = None
    outbound_policy: OutboundPolicyRecord | None = None


class _StoredOutput(JsonStruct, frozen=True, omit_defaults=True):
    """The `runs.output` text; *steps* holds the statuses of steps without a row."""

    response: Response | None
    error: ErrorRecord | None
    steps: Mapping[str, StepStatus]
    lookup: Lookup | None = None


class _StoredError(JsonStruct, frozen=True):
    """The part of the `runs.output` text that a summary shows."""

    error: ErrorRecord | None


class _StoredStep(JsonStruct, frozen=True):
    """A step of the `definitions.content` text."""

    name: str
    disabled: bool
    inside: str | None = None


class _StoredBlock(JsonStruct, frozen=True):
    """A block of the `definitions.content` text."""

    name: str
    place: int
    inside: str | None = None
    disabled: bool = False


class _StoredDefinition(JsonStruct, frozen=True):
    """The part of the `definitions.content` text that the journal reads."""

    steps: tuple[_StoredStep, ...]
    settings: Mapping[str, JSON] = {}
    blocks: tuple[_StoredBlock, ...] = ()


def encode_definition(workflow: Workflow) -> str:
    """Encode the `definitions.content` text of *workflow*."""
    return json.dumps(workflow.versioned_content(), sort_keys=True)


def hash_definition(content: str) -> str:
    """Return the key of a `definitions.content` text."""
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


def encode_event(
    event: Mapping[str, JSON] | None,
    context: Mapping[str, JSON],
    *,
    replay_of: str | None = None,
    outbound_policy: OutboundPolicyRecord | None = None,
) -> str:
    """Encode the `runs.event` text; *event* is masked and redacted, or None as long as its secrets are not known."""
    return _encode(
        _StoredTrigger(
            event=UNSET if event is None else event,
            context=context,
            replay_of=replay_of,
            outbound_policy=outbound_policy,
        )
    )


def decode_retention(definition: str) -> float | None:
    """Return the days of the setting `retention` in a `definitions.content` text, or None without the setting."""
    try:
        days = decode_json(definition, _StoredDefinition).settings.get("retention")
    except (ValueError, RecursionError):  # a damaged definition has the default
        return None
    return days if isinstance(days, int) and not isinstance(days, bool) else None


def decode_trigger(claimed: ClaimedRun) -> tuple[Mapping[str, JSON] | None, Mapping[str, JSON]]:
    """
    Return the redacted event of a claimed run, or None if its secrets are not known, and `steps.trigger.context`.

    Raises `DamagedRecordError`.
    """
    stored = _decode(claimed.claim.run_id, _StoredTrigger, "event", claimed.event)
    return None if isinstance(stored.event, UnsetType) else stored.event, stored.context


def decode_event(run_id: str, text: str) -> Mapping[str, JSON] | None:
    """Decode the redacted event in a `runs.event` text; None if its secrets are not known. Raises `DamagedRecordError`."""
    event = _decode(run_id, _StoredTrigger, "event", text).event
    return None if isinstance(event, UnsetType) else event


def decode_step(run_id: str, data: str) -> StepResult:
    """Decode a `steps.data` or `waits.data` text. Raises `DamagedRecordError`."""
    return _decode(run_id, StepResult, "steps", data)


def encode_step(result: StepResult) -> str:
    """Encode the `steps.data` text of a step's result."""
    return _encode(result)


def encode_call(call: OutboundCall) -> str:
    """Encode the `calls_in_flight.shown` text of a call."""
    return _encode(call)


def decode_calls(run_id: str, rows: Sequence[CallRow]) -> Mapping[str, tuple[OutboundCall, ...]]:
    """Decode the calls of *rows*, by the path of their step. Raises `DamagedRecordError`."""
    calls: dict[str, tuple[OutboundCall, ...]] = {}
    for row in rows:
        calls[row.path] = (*calls.get(row.path, ()), _decode(run_id, OutboundCall, "calls_in_flight", row.shown))
    return calls


def encode_output(
    *,
    response: Response | None = None,
    error: ErrorRecord | None = None,
    steps: Mapping[str, StepStatus] | None = None,
    lookup: Lookup | None = None,
) -> str:
    """Encode the `runs.output` text; *steps* holds the statuses of steps without a row."""
    return _encode(_StoredOutput(response, error, steps or {}, lookup=lookup))


def escape_json_text(text: str) -> str:
    """Escape NUL and lone surrogates in JSON text: a database cannot store them as text."""
    if text.isascii() and "\0" not in text:
        return text
    return LONE_SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text.replace("\0", "\\u0000"))


def replace_unstorable(text: str) -> str:
    """Replace NUL and lone surrogates in plain text by U+FFFD."""
    if text.isascii() and "\0" not in text:
        return text
    return LONE_SURROGATE.sub("\ufffd", text.replace("\0", "\ufffd"))


def to_row_status(status: Status) -> tuple[RunStatus, bool | None]:
    """Return the row's status for an execution's status, and whether the run was claimed before (None: either)."""
    match status:
        case "queued":
            return "ready", False
        case "resumed":
            return "ready", True
        case "executing":
            return "running", None
        case _:
            return status, None


def build_execution(
    run: RunRow,
    steps: Sequence[str],
    sends: Sequence[str] = (),
    *,
    waits: Sequence[WaitRow] = (),
    decisions: Sequence[Decision] = (),
    calls: Sequence[CallRow] = (),
) -> Execution:
    """
    Build the `Execution` of a run.

    Args:
        run: The run's row.
        steps: The `steps.data` texts in step order, and the `waits.data` texts of steps that are not recorded.
        sends: The `outbox.shown` texts in the order of the messages.
        waits: The pauses that have not ended, the one that ends first before the others.
        decisions: What persons and programs have decided about the run.
        calls: Unsafe calls of interrupted attempts at steps that are not recorded.
    """
    trigger = _decode(run.id, _StoredTrigger, "event", run.event)
    output = _decode(run.id, _StoredOutput, "output", run.output) if run.output else _StoredOutput(None, None, {})
    definition = _decode(run.id, _StoredDefinition, "definition", run.definition or '{"steps":[]}')
    results = {result.name: result for result in (_decode(run.id, StepResult, "steps", text) for text in steps)}
    pauses = tuple(build_pause(decode_step(run.id, wait.data).name, wait) for wait in waits)
    if run.status != "paused":
        pauses = ()
    return Execution(
        id=run.id,
        trace_id=run.trace_id,
        workflow=run.workflow,
        version=hash_definition(run.definition)[:12] if run.definition else "",
        status=_to_execution_status(run.status, run.fence),
        external_user=run.external_user_id,
        environment=run.environment,
        started_at=_iso(run.created),
        finished_at=None if run.ended is None else _iso(run.ended),
        attempt=run.attempt,
        replay_of=trigger.replay_of,
        trigger=RunTrigger(trigger.event or {}, trigger.context, trigger.event is UNSET),
        steps=_with_calls(
            _in_order(definition, results, output.steps, _to_execution_status(run.status, run.fence)),
            decode_calls(run.id, calls),
        ),
        response=output.response,
        error=output.error,
        sends=tuple(_decode(run.id, Delivery, "outbox", shown) for shown in sends),
        lookup=output.lookup,
        outbound_policy=trigger.outbound_policy,
        pause=pauses[0] if pauses else None,
        other_pauses=pauses[1:],
        decisions=tuple(decisions),
        batch=run.batch,
    )


def build_decision(path: str, verdict: Verdict, by: str, note: str, at: float) -> Decision:
    """Build a decision of a row of `decisions`; an empty *path* is a decision about the whole run."""
    return Decision(verdict, by, _iso(at), path or None, note or None)


def build_pause(step: str, wait: WaitRow) -> RunPause:
    """Build the pause that an execution shows."""
    return RunPause(step, wait.kind, None if wait.wake_at is None else _iso(wait.wake_at))


def build_summary(
    run_id: str,
    workflow: str,
    external_user_id: str | None,
    environment: str,
    status: RunStatus,
    fence: int,
    attempt: int,
    created: float,
    ended: float | None,
    output: str | None,
) -> RunSummary:
    """Build the summary of a run from columns of its row; *output* is the `runs.output` text of a failed run."""
    return RunSummary(
        id=run_id,
        workflow=workflow,
        external_user=external_user_id,
        environment=environment,
        status=_to_execution_status(status, fence),
        attempt=attempt,
        started_at=_iso(created),
        finished_at=None if ended is None else _iso(ended),
        error=_decode(run_id, _StoredError, "output", output).error if output else None,
    )


def _in_order(
    definition: _StoredDefinition,
    results: Mapping[str, StepResult],
    others: Mapping[str, StepStatus],
    status: Status,
) -> tuple[StepResult, ...]:
    """Return the definition's steps and blocks, each with its result, or with its status if it has no row."""
    entries = merge_entries(definition.steps, definition.blocks)
    inside = {entry.name: entry.inside for entry in entries}
    ordered = {
        entry.name: results.get(entry.name)
        or _place(StepResult(entry.name, others.get(entry.name, "disabled" if entry.disabled else "not_run")), inside)
        for entry in entries
    }
    steps = tuple({**ordered, **results}.values())
    return fill_block_exports(steps, status) if definition.blocks else steps


def _place(result: StepResult, inside: Mapping[str, str | None]) -> StepResult:
    """Return *result* with its place among the branches."""
    around = inside[result.name]
    if around is None:
        return result
    block, branch = split_inside(around)
    parts, outer = [around, result.name], inside.get(block)
    while outer is not None and len(parts) <= len(inside):  # a damaged definition may have a circle
        parts.insert(0, outer)
        outer = inside.get(split_inside(outer)[0])
    return replace(result, path=".".join(parts), block=block, branch=branch)


def _with_calls(steps: tuple[StepResult, ...], calls: Mapping[str, tuple[OutboundCall, ...]]) -> tuple[StepResult, ...]:
    """Return *steps* with the *calls* of their interrupted attempts."""
    if not calls:
        return steps
    return tuple(replace(step, requests=(*step.requests, *calls.get(step.name, ()))) for step in steps)


def _to_execution_status(status: RunStatus, fence: int) -> Status:
    match status:
        case "running":
            return "executing"
        case "ready":
            return "resumed" if fence else "queued"
        case other:
            return cast("Status", other)


def _iso(seconds: float) -> str:
    return format_iso(datetime.fromtimestamp(seconds, UTC))


def _encode(stored: JsonStruct) -> str:
    return encode_json(stored).decode()


def _decode(run_id: str, kind: type[T], column: str, text: str) -> T:
    """Decode a text of a run's rows. Raises `DamagedRecordError` if that fails."""
    try:
        return decode_json(text, kind)
    except (ValueError, RecursionError) as fault:
        raise DamagedRecordError(
            f"The record of the run {run_id} is damaged: its {column} cannot be read ({fault}).",
            fix="Restore the project's database from a copy.",
        ) from None


def _ended(code: str, name: str, message: str) -> str:
    return encode_output(error=ErrorRecord(code, name, message))


CANCELLED_OUTPUT = _ended("cancelled", "Cancelled", "The run was cancelled.")
REJECTED_OUTPUT = _ended("rejected", "Rejected", "The run was rejected, and cancelled.")
EXPIRED_OUTPUT = _ended(
    "wait_expired", "WaitExpired", "The run was cancelled: no call resumed the run within the time-out."
)
UNWRITABLE_OUTPUT = _ended(
    "unwritable",
    "Unwritable",
    "The run was given up: the end of the run could not be recorded in several attempts. The log of the server has the reason.",
)
INTERRUPTED_OUTPUT = _ended(
    "interrupted", "Interrupted", "The process that ran the workflow ended before the run did. Start the run again."
)

"""
Values of the journal and the JSON in its text columns.

    deployments.definition   the workflow's JSON, keys sorted: its hash is `Workflow.version`
    runs.event               {"event", "context"} and, for a replay, "replay_of"; masked and redacted by the caller.
                             Until the run's accounts are resolved, {"sealed", "context"}: the encrypted event in Base64
    steps.data               a `StepResult` as JSON
    runs.output              {"response", "error", "steps": {name: status of a step without a row}} and, if present,
                             "sends" and "lookup"
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, Self, TypeVar, cast

from msgspec import UNSET, UnsetType

from pdkernel.clock import format_iso
from pdkernel.encode import LONE_SURROGATE, JsonStruct, decode_json, encode_json
from pdkernel.errors import ProjectError
from pdkernel.execution import (
    Delivery,
    ErrorRecord,
    Execution,
    OutboundEnforcement,
    Response,
    RunTrigger,
    Status,
    StepResult,
    StepStatus,
)
from pdkernel.lookup import Lookup
from pdkernel.model import JSON, Workflow

RunStatus = Literal["ready", "running", "paused", "success", "error", "exited", "cancelled"]
FinalStatus = Literal["success", "error", "exited", "cancelled"]

T = TypeVar("T", bound=JsonStruct)

LEASE_S = 10.0
"""Seconds that a lease lasts after a heartbeat."""


FIRST_FENCE = 1
"""The fence of the executor that accepted a run."""


@dataclass(frozen=True, slots=True)
class Claim:
    """
    The right of one executor to write a run; every write names its claim.

    Attributes:
        run_id: The run's id.
        fence: Changes with every claim, so that writes of an earlier owner are refused.
        attempt: If 2 or more, the first step without a row may have run before.
    """

    run_id: str
    fence: int
    attempt: int = 1

    @classmethod
    def first(cls, run_id: str) -> Self:
        """The claim of the executor that accepts the run."""
        return cls(run_id, FIRST_FENCE)


@dataclass(frozen=True, slots=True)
class StepRow:
    """
    The row of a finished step. Its key is (run, path, iteration).

    Attributes:
        seq: The index in the order of the run's steps.
        name: The step's name.
        data: The `encode_step` text.
        path: The place of the step among branches: the name of a step outside of branches.
        iteration: 1, or the number of the pass through a loop.
    """

    seq: int
    name: str
    data: str
    path: str
    iteration: int = 1


@dataclass(frozen=True, slots=True)
class NewRun:
    """
    A run for `accept_run`.

    Attributes:
        id: The run's id; a second run with the same id is refused.
        trace_id: The id that a run and its replays share.
        workflow: The name of the deployed workflow.
        version: The number from `deploy_definition`.
        event: The `runs.event` text (`encode_event`).
        external_user: The external user's id, or None.
        environment: `development` or `production`.
        queue: The queue in which the run waits, or None to start the run at once.
        created: Seconds since 1970, or None for now.
    """

    id: str
    trace_id: str
    workflow: str
    version: int
    event: str
    external_user: str | None = None
    environment: str = "development"
    queue: str | None = None
    created: float | None = None


@dataclass(frozen=True, slots=True)
class WaitRow:
    """
    The pause of a run in one of its steps. Its key is (run, path, iteration), like that of the step.

    Attributes:
        seq: The index of the step.
        path: The path of the step.
        iteration: The iteration of the step.
        wake_at: Seconds since 1970, or None to wait for `resolve_wait` only.
        token_hash: The hash of the token that resumes the run, or None.
    """

    seq: int
    path: str
    iteration: int = 1
    wake_at: float | None = None
    token_hash: str | None = None


@dataclass(frozen=True, slots=True)
class ClaimedRun:
    """
    A run that this executor claimed.

    Attributes:
        claim: The right to write the run.
        workflow: The workflow's name.
        version: The number of its definition.
        event: The `runs.event` text.
        external_user: The external user's id, or None.
        environment: `development` or `production`.
    """

    claim: Claim
    workflow: str
    version: int
    event: str
    external_user: str | None
    environment: str


@dataclass(frozen=True, slots=True)
class RunRow:
    """A row of `runs` with the workflow's definition."""

    id: str
    trace_id: str
    workflow: str
    definition: str | None
    event: str
    external_user: str | None
    environment: str
    status: RunStatus
    fence: int
    attempt: int
    created: float
    ended: float | None
    output: str | None


@dataclass(frozen=True, slots=True)
class ExecutionQuery:
    """
    A query for executions; the result is sorted newest first. None means no condition.

    Attributes:
        workflow: The workflow's name.
        external_user: The external user's id.
        environment: `development` or `production`.
        status: The execution's status.
        since: Started at or after this moment.
        until: Started before this moment.
        limit: The maximum number of executions.
        before_id: The id of the last execution of the previous page.
    """

    workflow: str | None = None
    external_user: str | None = None
    environment: str | None = None
    status: Status | None = None
    since: datetime | None = None
    until: datetime | None = None
    limit: int = 50
    before_id: str | None = None


class _StoredTrigger(JsonStruct, frozen=True, kw_only=True, omit_defaults=True):
    """The `runs.event` text; *sealed* is the encrypted event in Base64."""

    sealed: bytes | UnsetType = UNSET
    event: Mapping[str, JSON] | UnsetType = UNSET
    context: Mapping[str, JSON]
    replay_of: str | None = None
    outside_calls: OutboundEnforcement | None = None


class _StoredOutput(JsonStruct, frozen=True, omit_defaults=True):
    """The `runs.output` text; *steps* holds the statuses of steps without a row."""

    response: Response | None
    error: ErrorRecord | None
    steps: Mapping[str, StepStatus]
    sends: tuple[Delivery, ...] = ()
    lookup: Lookup | None = None


class _StoredStep(JsonStruct, frozen=True):
    """A step of the `deployments.definition` text."""

    name: str
    disabled: bool


class _StoredDefinition(JsonStruct, frozen=True):
    """The part of the `deployments.definition` text that an execution shows."""

    steps: tuple[_StoredStep, ...]


def encode_definition(workflow: Workflow) -> str:
    """Encode the `deployments.definition` text of *workflow*."""
    return json.dumps(workflow.versioned_content(), sort_keys=True)


def encode_event(
    event: Mapping[str, JSON] | bytes,
    context: Mapping[str, JSON],
    *,
    replay_of: str | None = None,
    outbound_enforcement: OutboundEnforcement | None = None,
) -> str:
    """Encode the `runs.event` text; *event* is masked and redacted, or encrypted (bytes)."""
    return _encode(
        _StoredTrigger(
            sealed=event if isinstance(event, bytes) else UNSET,
            event=UNSET if isinstance(event, bytes) else event,
            context=context,
            replay_of=replay_of,
            outside_calls=outbound_enforcement,
        )
    )


def encode_step(result: StepResult) -> str:
    """Encode the `steps.data` text of a step's result."""
    return _encode(result)


def encode_output(
    *,
    response: Response | None = None,
    error: ErrorRecord | None = None,
    steps: Mapping[str, StepStatus] | None = None,
    sends: Sequence[Delivery] = (),
    lookup: Lookup | None = None,
) -> str:
    """Encode the `runs.output` text; *steps* holds the statuses of steps without a row."""
    return _encode(_StoredOutput(response, error, steps or {}, tuple(sends), lookup))


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


def build_execution(run: RunRow, steps: Sequence[str]) -> Execution:
    """
    Build the `Execution` of a run.

    Args:
        run: The run's row.
        steps: The `steps.data` texts in step order.
    """
    trigger = _decode(run, _StoredTrigger, "event", run.event)
    output = _decode(run, _StoredOutput, "output", run.output) if run.output else _StoredOutput(None, None, {})
    definition = _decode(run, _StoredDefinition, "definition", run.definition or '{"steps":[]}')
    results = {result.name: result for result in (_decode(run, StepResult, "steps", text) for text in steps)}
    return Execution(
        id=run.id,
        trace_id=run.trace_id,
        workflow=run.workflow,
        version=hashlib.sha256(run.definition.encode()).hexdigest()[:12] if run.definition else "",
        status=_to_execution_status(run),
        external_user=run.external_user,
        environment=run.environment,
        started_at=_iso(run.created),
        finished_at=None if run.ended is None else _iso(run.ended),
        attempt=run.attempt,
        replay_of=trigger.replay_of,
        trigger=RunTrigger(trigger.event or {}, trigger.context, trigger.sealed is not UNSET),
        steps=_in_order(definition.steps, results, output.steps),
        response=output.response,
        error=output.error,
        sends=output.sends,
        lookup=output.lookup,
        outbound_enforcement=trigger.outside_calls,
    )


def _in_order(
    defined: Sequence[_StoredStep], results: Mapping[str, StepResult], others: Mapping[str, StepStatus]
) -> tuple[StepResult, ...]:
    """Return the definition's steps, each with its result, or with its status if it has no row."""
    ordered = {
        step.name: results.get(step.name)
        or StepResult(step.name, others.get(step.name, "disabled" if step.disabled else "not_run"))
        for step in defined
    }
    return tuple({**ordered, **results}.values())


def _to_execution_status(run: RunRow) -> Status:
    match run.status:
        case "running":
            return "executing"
        case "ready":
            return "resumed" if run.fence else "queued"
        case status:
            return cast("Status", status)


def _iso(seconds: float) -> str:
    return format_iso(datetime.fromtimestamp(seconds, UTC))


def _encode(stored: JsonStruct) -> str:
    return encode_json(stored).decode()


def _decode(run: RunRow, kind: type[T], column: str, text: str) -> T:
    """Decode a text of *run*'s rows. Raises `ProjectError` if the text is damaged."""
    try:
        return decode_json(text, kind)
    except (ValueError, RecursionError) as fault:
        raise ProjectError(
            f"The record of the run {run.id} is damaged: its {column} cannot be read ({fault}).",
            fix="Restore the project's database from a copy.",
        ) from None

"""
The record of a run as frozen values: `Execution`, its steps and their outbound calls.

The fields are the keys of the JSON that `run --json`, the journal and the server use. All values are redacted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Literal, Self

from msgspec import UNSET, UnsetType
from msgspec.structs import force_setattr, replace

from pdkernel.common.encode import JsonStruct
from pdkernel.common.lookup import Lookup
from pdkernel.errors import PdkernelError
from pdkernel.model import JSON, BlockType

Status = Literal["queued", "executing", "paused", "resumed", "success", "error", "exited", "cancelled"]
UNFINISHED_STATUSES: frozenset[Status] = frozenset({"queued", "executing", "paused", "resumed"})
StepStatus = Literal["success", "error", "skipped", "disabled", "pinned", "not_run"]
Stream = Literal["stdout", "stderr"]
Verdict = Literal["approved", "rejected", "resumed", "cancelled"]
CallOutcome = Literal["sent", "not_sent", "stand_in", "replayed", "denied", "failed"]

NOTE_PREFIX = "[pdkernel] "
"""The prefix of a line that pdkernel adds to a step's logs; such a line is a `Log` of its own, on stderr."""
STDERR_INTRODUCTION = " The end of its stderr:\n"
"""The text before the end of stderr in the message of a step whose process ended."""
RETURN_VALUE = "$return_value"
SUMMARY = "$summary"
RESUME_DATA = "$resume_data"
"""The export of a step that was suspended: the body of the call of its `resume_url`, or the answer in the console."""
CANCELLED = "Cancelled"
"""The name of the error of a step that ran when its run was cancelled; the step's status is `error`."""


class Log(JsonStruct, frozen=True):
    """A piece of a step's output."""

    stream: Stream
    text: str

    @property
    def is_note(self) -> bool:
        """Whether pdkernel wrote the text, not the step."""
        return self.text.startswith(NOTE_PREFIX)


class AccountUse(JsonStruct, frozen=True):
    """
    An account that a step used, never its credentials.

    Attributes:
        name: The display name of the account; unset if pdkernel does not know the name.
    """

    prop: str
    app: str
    id: str
    owner: Literal["external_user", "own"]
    name: str | UnsetType = UNSET


class OutboundCall(JsonStruct, frozen=True):
    """
    One outbound call of a step.

    Attributes:
        method: Upper case, or `CONNECT` if only the connection is known.
        url: Redacted.
        status: HTTP status of the response, or None.
        duration_ms: Milliseconds until the response was complete, rounded to one decimal.
        safe: Whether repeating the call changes nothing (GET, HEAD, OPTIONS).
        outcome: How the call ended.
        app: The app whose credential the call carried, or None.
        at: ISO time of the call.
        same_as: For `not_sent`, the ISO time of the call whose stored response was returned.
        note: A sentence for people (a stand-in's text, the reason of a refusal), or None.
        step: The step that made the call.
        external_user: The external user of the run, or None.
        bytes: Length of the response body as received, or None.
        attempt: For an unsafe call that was sent and whose answer was not seen, the attempt at the step; otherwise unset.
    """

    method: str
    url: str
    status: int | None
    duration_ms: float
    safe: bool
    outcome: CallOutcome
    app: str | None = None
    at: str | None = None
    same_as: str | None = None
    note: str | None = None
    step: str | None = None
    external_user: str | None = None
    bytes: int | None = None
    attempt: int | UnsetType = UNSET

    def __post_init__(self) -> None:
        force_setattr(self, "duration_ms", round(self.duration_ms, 1))


class Delivery(JsonStruct, frozen=True):
    """
    The delivery of a message that a step queued with `$.send`; deliveries follow the last step.

    Attributes:
        step: The step that queued the message.
        kind: `http`, `email`, `emit`, `s3` or `sse`.
        outcome: `waiting` (for the first try), `sent`, `shown` (pdkernel has no such destination) or `failed`.
        to: The destination (method and URL, or e-mail address), or None.
        status: HTTP status of the response, or None.
        note: A sentence for people, or None.
        payload: The queued message, redacted.
        request: The outbound call, or None.
    """

    step: str
    kind: str
    outcome: Literal["waiting", "sent", "shown", "failed"]
    to: str | None = None
    status: int | None = None
    note: str | None = None
    payload: JSON = None
    request: OutboundCall | None = None


class OutboundPolicyRecord(JsonStruct, frozen=True, omit_defaults=True):
    """
    The outbound policy of a run.

    Attributes:
        policy: The policy, as `--egress` takes it.
        origin: Who chose it, such as `--egress` or `cell 3 (%pdegress)`; empty for the default.
        guard: What the operating system does with calls that bypass the gateway: `redirect` (sends them to the gateway),
            `landlock` (refuses them), or `none`; empty under `live`. In the journal and the timeline only, because it is a fact
            about the machine.
    """

    policy: str
    origin: str = ""
    guard: str = ""


class StoredResponse(JsonStruct, frozen=True):
    """
    The complete response to an outbound request, stored so that the request is sent once.

    Attributes:
        status: HTTP status, or 0 if there was no response.
        reason: Reason phrase, or the reason why there was no response; may be empty.
        headers: Names and values in the order received; names may repeat.
        body: The bytes that the step received.
        at: ISO time of the call.
        has_body: False if the body was too large to store; *body* is then empty.
        note: The note of the call, what the user would have received from a stand-in; not redacted. None for no note.
    """

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    at: str
    has_body: bool = True
    note: str | None = None

    def __repr__(self) -> str:
        return f"StoredResponse(status={self.status}, at={self.at!r}, {len(self.body)} bytes)"


class ErrorRecord(JsonStruct, frozen=True):
    """
    The error of a step or a run.

    Attributes:
        code: A stable code (`errors`).
        name: The error's class name in the step's language.
        message: Text for people.
        step: The failed step, or None.
        line: Line of the step's cell, or None.
        stack: The frames of the step's own code with their local variables, as text, or None.
    """

    code: str
    name: str
    message: str
    step: str | None = None
    line: int | None = None
    stack: str | None = None


class Response(JsonStruct, frozen=True):
    """
    The HTTP response that the caller received, redacted.

    Attributes:
        status: The status.
        headers: Headers by name as the step wrote it, without headers of the connection and without the content type that
            follows from *body*.
        body: The body; bytes are `{"$base64": TEXT}`.
    """

    status: int
    headers: Mapping[str, str] = {}
    body: JSON = None


class BlockChoice(JsonStruct, frozen=True, omit_defaults=True):
    """
    What a block has decided.

    Attributes:
        type: `if`, `switch` or `parallel`.
        taken: The branches that run, in order.
        conditions: The evaluated conditions in order, as `judge_branch` returns them, of JavaScript with its `source` and the values
            that it read by plain paths (`reads`). Conditions of an if or switch block below the branch that runs are not evaluated.
    """

    type: BlockType
    taken: tuple[str, ...] = ()
    conditions: tuple[Mapping[str, JSON], ...] = ()


class StepResult(JsonStruct, frozen=True):
    """
    The result of one step or block.

    Attributes:
        path: The place of the step among branches, `BLOCK.BRANCH.STEP`; outside of branches its name.
        iteration: 1, or the number of the pass through a loop.
        duration_ms: Milliseconds, rounded to one decimal; None for a step that has not ended.
        source: For a pre-built action, where the component came from and the limits of that source; unset for code.
        props: The props that the step received, with evaluated expressions; unset for a step without props. Secret props
            and very large values are replaced.
        block: The innermost block around the step; unset outside of branches.
        branch: The branch of *block* that the step is part of; unset outside of branches.
        choice: For a block that was reached, what it has decided; unset for a step.
    """

    name: str
    status: StepStatus
    started_at: str | None = None
    duration_ms: float | None = None
    attempt: int = 1
    path: str = ""
    iteration: int = 1
    exports: Mapping[str, JSON] = {}
    logs: tuple[Log, ...] = ()
    accounts: tuple[AccountUse, ...] = ()
    requests: tuple[OutboundCall, ...] = ()
    error: ErrorRecord | None = None
    source: str | UnsetType = UNSET
    props: Mapping[str, JSON] | UnsetType = UNSET
    block: str | UnsetType = UNSET
    branch: str | UnsetType = UNSET
    choice: BlockChoice | UnsetType = UNSET

    def __post_init__(self) -> None:
        if not self.path:
            force_setattr(self, "path", self.name)
        if self.duration_ms is not None:
            force_setattr(self, "duration_ms", round(self.duration_ms, 1))

    @property
    def is_cancelled(self) -> bool:
        """Whether the run was cancelled while the step ran."""
        return self.error is not None and self.error.name == CANCELLED and self.error.stack is None

    @property
    def return_value(self) -> JSON:
        """The step's return value, or None."""
        return self.exports.get(RETURN_VALUE)

    @property
    def output(self) -> str:
        """The step's output on both streams, in order."""
        return "".join(log.text for log in self.logs)


def fill_block_exports(steps: Sequence[StepResult], status: Status) -> tuple[StepResult, ...]:
    """
    Return *steps* with the exports of blocks that have ended: those of the last step of each branch that ran.

    Args:
        steps: The results of a run, each block above its steps.
        status: The status of the run; all blocks of a run that has succeeded have ended.
    """
    filled: list[StepResult] = []
    ended: set[str] = set()
    branches: dict[tuple[str, str], list[StepResult]] = {}  # the last step first
    for step in reversed(steps):
        if not isinstance(step.choice, UnsetType) and step.status == "success":
            inner = {branch: branches.get((step.name, branch), []) for branch in step.choice.taken}
            if status == "success" or all(_has_ended(each, ended) for branch in inner.values() for each in branch):
                ended.add(step.name)
                exports = {branch: (_find_exports(each) for each in results) for branch, results in inner.items()}
                step = replace(step, exports=step.exports or build_block_exports(step.choice, exports))  # noqa: PLW2901
        filled.append(step)
        if not isinstance(step.block, UnsetType) and not isinstance(step.branch, UnsetType):
            branches.setdefault((step.block, step.branch), []).append(step)
    return tuple(reversed(filled))


def _has_ended(step: StepResult, ended: Collection[str]) -> bool:
    is_block = not isinstance(step.choice, UnsetType) and step.status == "success"
    return step.name in ended if is_block else step.status in ("success", "pinned", "disabled")


def _find_exports(step: StepResult) -> Mapping[str, JSON] | None:
    return step.exports if step.status in ("success", "pinned") else None


def build_block_exports(
    choice: BlockChoice, branches: Mapping[str, Iterable[Mapping[str, JSON] | None]]
) -> dict[str, JSON]:
    """
    Return the exports of a block: those of the last step of the branch that ran, or of a parallel block by branch.

    # parity[block-exports]: the platform does not document what a block without an executed step has, nor whether a disabled last step counts.

    Args:
        choice: What the block has decided.
        branches: By taken branch, the exports of its steps, the last step first; None for a step that has not run.
    """
    last = {
        name: next((dict(each) for each in exports if each is not None), None) for name, exports in branches.items()
    }
    return {RETURN_VALUE: dict(last) if choice.type == "parallel" else next(iter(last.values()), None)}


def milliseconds_between(start: str, end: str) -> float:
    """Return the milliseconds from one ISO time to another; 0 if the clock was set back between them, or if one is not a time."""
    try:
        passed = datetime.fromisoformat(end) - datetime.fromisoformat(start)
    except ValueError:  # the text of a file that was edited
        return 0.0
    return max(0.0, passed.total_seconds() * 1000)


class RunTrigger(JsonStruct, frozen=True, omit_defaults=True):
    """
    The event that started a run, and `steps.trigger.context`.

    Attributes:
        sealed: Whether *event* is empty because the journal holds only an encrypted event: the run ended before its
            accounts were resolved, so their credentials could not be redacted.
    """

    event: Mapping[str, JSON]
    context: Mapping[str, JSON]
    sealed: bool = False


class RunPause(JsonStruct, frozen=True):
    """
    The pause of a paused run.

    Attributes:
        step: The step that paused.
        kind: `delay` goes on at *until*, `rerun` and `retry` (after an error) run the step again, and `suspend` is cancelled
            unless it is resumed.
        until: ISO time of the end, or None.
    """

    step: str
    kind: Literal["delay", "suspend", "rerun", "retry"]
    until: str | None


class Decision(JsonStruct, frozen=True, omit_defaults=True):
    """
    What a person or a program decided about a run.

    Attributes:
        verdict: `approved` and `rejected` answer a suspend in the console, `resumed` ends a pause, `cancelled` ends the run.
        by: Who decided, for example `console session 3f9a12`, `admin token`, `resume_url` or `terminal of ada`.
        at: ISO time.
        step: The step whose pause ended, or None if the run was cancelled elsewhere.
        note: The note of the person, or None.
    """

    verdict: Verdict
    by: str
    at: str
    step: str | None = None
    note: str | None = None


class Execution(JsonStruct, frozen=True, kw_only=True, omit_defaults=True):
    """
    One run of a workflow on one event.

    The JSON has no key for a field with its default value.

    Attributes:
        outbound_policy: The outbound policy, or None for `live` by default.
        pause: The pause of a paused run, or None; of several branches that wait, the one that ends first.
        other_pauses: The pauses of the other branches that wait.
        decisions: What persons and programs decided about the run, oldest first.
        batch: The id of the batch to which the run belongs, or None.
    """

    id: str
    trace_id: str
    workflow: str
    version: str
    status: Status
    external_user: str | None
    environment: str
    started_at: str
    finished_at: str | None
    attempt: int
    replay_of: str | None
    trigger: RunTrigger
    steps: tuple[StepResult, ...]
    response: Response | None
    error: ErrorRecord | None
    sends: tuple[Delivery, ...] = ()
    lookup: Lookup | None = None
    outbound_policy: OutboundPolicyRecord | None = None
    pause: RunPause | None = None
    other_pauses: tuple[RunPause, ...] = ()
    decisions: tuple[Decision, ...] = ()
    batch: str | None = None

    @property
    def event(self) -> Mapping[str, JSON]:
        """The event that started the run."""
        return self.trigger.event

    @property
    def duration_ms(self) -> float | None:
        """Milliseconds from the start to the end of the run, its waits and pauses included; None before its end."""
        return None if self.finished_at is None else milliseconds_between(self.started_at, self.finished_at)

    @property
    def context(self) -> Mapping[str, JSON]:
        """The run's `steps.trigger.context`."""
        return self.trigger.context

    def step(self, name: str) -> StepResult:
        """Return the result of step *name*. Raises `KeyError` if there is no such step."""
        for step in self.steps:
            if step.name == name:
                return step
        raise KeyError(f"no step {name!r}; the steps are {', '.join(step.name for step in self.steps) or 'none'}")

    def raise_for_status(self) -> Self:
        """Return the execution. Raises `RunFailedError` if its status is `error` or `cancelled`."""
        if self.status in ("error", "cancelled"):
            raise RunFailedError(self)
        return self

    @property
    def requests(self) -> tuple[OutboundCall, ...]:
        """The outbound calls of all steps, in step order."""
        return tuple(call for step in self.steps for call in step.requests)

    def json_form(self) -> Self:
        """Return the execution without the guard of its outbound policy."""
        policy = self.outbound_policy
        return self if policy is None else replace(self, outbound_policy=replace(policy, guard=""))

    def __repr__(self) -> str:
        steps = ", ".join(f"{step.name}: {step.status}" for step in self.steps)
        error = f", error={self.error.message!r}" if self.error is not None else ""
        return f"Execution({self.workflow!r}, id={self.id!r}, status={self.status!r}, steps=[{steps}]{error})"


BatchState = Literal["listing", "running", "retrying", "done"]
"""
The state of a batch. `listing`: runs of further users are recorded; `running`: all are recorded, and some have not ended;
`retrying`: failed runs are recorded again; `done`: all runs have ended.
"""


class FailedUser(JsonStruct, frozen=True):
    """An external user whose run has failed or was cancelled."""

    external_user: str | None
    run: str
    status: str
    error: str | None


class SkippedUser(JsonStruct, frozen=True):
    """An external user without a run: accounts of the apps are missing, or, without apps, there is no such user."""

    external_user: str
    missing: tuple[str, ...]


class BatchSummary(JsonStruct, frozen=True, kw_only=True):
    """
    A batch and what became of its runs; the fields are the keys of the JSON.

    Attributes:
        id: `batch_...`.
        workflow: The workflow's name.
        environment: The users' environment.
        at: ISO time of the tick.
        state: What is done at the moment: `listing`, `running`, `retrying` or `done`.
        users: The number of external users so far, those without a run included.
        waiting: Runs that have not started.
        in_progress: Runs that have started and not ended.
        succeeded: Runs that have ended without an error.
        failed: Users whose newest run failed or was cancelled.
        skipped: Users without a run.
        retries: How often the failed runs were started again.
        problem: Why there are no runs, or None.
    """

    id: str
    workflow: str
    environment: str
    at: str
    state: BatchState
    users: int
    waiting: int
    in_progress: int
    succeeded: int
    failed: tuple[FailedUser, ...]
    skipped: tuple[SkippedUser, ...]
    retries: int
    problem: str | None = None


class RunFailedError(PdkernelError):
    """
    A run failed or was cancelled, and the caller asked for an exception.

    Attributes:
        execution: The record of the run.
    """

    code = "run_failed"
    exit_status = 1

    def __init__(self, execution: Execution) -> None:
        error = execution.error
        where = f" in step {error.step}" if error is not None and error.step is not None else ""
        why = f": {error.message}" if error is not None else "."
        outcome = "was cancelled" if execution.status == "cancelled" else "failed"
        super().__init__(f"The run of {execution.workflow!r} {outcome}{where}{why}")
        self.execution = execution

"""Values of the journal: runs, steps and pauses as they are written and claimed."""

from __future__ import annotations

from datetime import datetime
from enum import IntEnum
from typing import Literal, Self

from msgspec import Struct

from pdkernel.execution import Decision, Verdict

RunStatus = Literal["ready", "running", "paused", "success", "error", "exited", "cancelled"]
FinalStatus = Literal["success", "error", "exited", "cancelled"]

WaitKind = Literal["delay", "suspend", "rerun", "retry"]
WaitOutcome = Literal["resumed", "cancelled", "timeout"]
WaitResolution = Literal["done", "early", "late"]
"""`done`: the wait is over; `early`: the run will not pause in that step; `late`: another call was first, or no such wait."""

MAX_NOTE_CHARACTERS = 2000
"""Characters of a decision's note."""
FIRST_FENCE = 1
"""The fence of the executor that accepted a run."""

MAX_INTERRUPTIONS = 3
"""
A run that so many deaths of its process have interrupted, since its last recorded step, executes alone in its process from then on.

Any of the runs that executed beside one another may have ended their process. Three deaths allow for a coincidence (the machine
restarts, the system ends a process for its memory), and hold up the other runs a few times only.
"""
MAX_LOST_TASKS = 3
"""How often a run is started again whose task an unexpected error has ended without a record; then it is given up."""
MAX_DEATHS_ALONE = 7
"""
A run is given up after so many deaths of a process in which it executed alone, since its last recorded step.

With the deaths before, these are ten at least. Only deaths alone count, because only they show that it is this run that ends its process.
"""


class Begun(IntEnum):
    """How far the owner of a run is: recorded before the first step of each claim starts, so that a death can be judged."""

    NO = 0
    """It waits for its place among the runs that execute: no step of this claim has started."""
    YES = 1
    """A step may have started, beside other runs of the process."""
    ALONE = 2
    """A step may have started, and the process executes no other run."""


class Claim(Struct, frozen=True):
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
        """Return the claim of the executor that accepts the run *run_id*."""
        return cls(run_id, FIRST_FENCE)


class StoredLock(Struct, frozen=True):
    """
    The packages of a run, stored once for each hash.

    Attributes:
        hash: The key. Runs of different workflows have different keys.
        content: The `package_locks.content` text.
    """

    hash: str
    content: str


class StepRow(Struct, frozen=True):
    """
    The row of a finished step. Its key is (run, path, iteration).

    Attributes:
        seq: The index in the order of the run's steps.
        name: The step's name.
        data: The `encode_step` text.
        path: The place of the step among branches: the name of a step outside of branches.
        iteration: 1, or the number of the pass through a loop.
        carry: What later steps need and *data* does not show, encrypted; or None.
        attempt: The run's attempt that recorded the step.
        has_calls: Whether calls of the step are recorded as in flight, which *data* has.
    """

    seq: int
    name: str
    data: str
    path: str
    iteration: int = 1
    carry: bytes | None = None
    attempt: int = 1
    has_calls: bool = False

    @property
    def size(self) -> int:
        """The characters and bytes of the row's values."""
        return len(self.data) + len(self.carry or b"")


class CallRow(Struct, frozen=True):
    """
    An unsafe call of a step that is not recorded yet, written before the call is sent. Its key is (run, path, iteration, attempt, number).

    Attributes:
        path: The path of the step.
        number: Counts the calls of the run.
        shown: The `encode_call` text of the call if its answer is never seen.
        iteration: The iteration of the step.
    """

    path: str
    number: int
    shown: str
    iteration: int = 1


class NewRun(Struct, frozen=True):
    """
    A run for `accept_run`.

    Attributes:
        id: The run's id; a second run with the same id is refused.
        trace_id: The id that a run and its replays share.
        workflow: The workflow's name.
        definition: The hash from `store_definition`.
        event: The `runs.event` text (`encode_event`).
        request: What an executor needs to run or to continue the run, encrypted; None if the run cannot be continued.
        external_user_id: The external user's id, or None.
        environment: `development` or `production`.
        queue: The queue in which the run waits, or None to start the run at once.
        queue_size: The run is refused if that many runs of its external user wait in the queue, or fewer if runs of others wait there:
            all together, at most twice as many; None sets no limit.
        created: Seconds since 1970, or None for now.
        parent: The id of the run whose step triggered this run, or None.
        workflow_id: The workflow's public id (`p_...`), or None.
        dedupe_key: A second run with the same key is refused; or None.
        batch: The id of the batch to which the run belongs, or None.
        origin: The origin whose executors run the run, which is ready at once; None is that of the journal's executor.
        package_lock: The packages of the run, if they are known; see `set_package_lock`.
        begun: How far the journal's executor is when the run is accepted. A run that waits for an executor has not begun.
    """

    id: str
    trace_id: str
    workflow: str
    definition: str
    event: str
    request: bytes | None = None
    external_user_id: str | None = None
    environment: str = "development"
    queue: str | None = None
    queue_size: int | None = None
    created: float | None = None
    parent: str | None = None
    workflow_id: str | None = None
    dedupe_key: str | None = None
    batch: str | None = None
    origin: str | None = None
    package_lock: StoredLock | None = None
    begun: Begun = Begun.YES

    @property
    def is_ready(self) -> bool:
        """Whether the run waits for an executor that claims it. Otherwise the journal's executor owns the run."""
        return self.queue is not None or self.origin is not None


class WaitRow(Struct, frozen=True):
    """
    The pause of a run in one of its steps; in parallel branches, a run may have several. Its key is (run, path, iteration, number); a step's next pause replaces the row.

    The step itself is recorded when the pause is over.

    Attributes:
        seq: The index of the step.
        path: The path of the step.
        iteration: The iteration of the step.
        kind: What happens after the pause: `delay` goes on, `rerun` and `retry` (after an error) run the step again, and
            `suspend` goes on if the run is resumed, and ends the run as cancelled at *wake_at*.
        number: The number of the step's pause: 1, or the number of the run of a step that reruns.
        wake_at: Seconds since 1970, or None to wait for `resolve_wait` only.
        data: The `encode_step` text of the step so far.
        carry: What the run needs to go on and *data* does not show, encrypted; or None.
        outcome: How the pause ended, or None.
        payload: What the call that ended the pause passed on, encrypted; or None.
        has_calls: As in `StepRow`.
    """

    seq: int
    path: str
    iteration: int = 1
    kind: WaitKind = "delay"
    number: int = 1
    wake_at: float | None = None
    data: str = ""
    carry: bytes | None = None
    outcome: WaitOutcome | None = None
    payload: bytes | None = None
    has_calls: bool = False

    def key(self, run_id: str) -> WaitKey:
        """Return the key of the pause in the run *run_id*."""
        return WaitKey(run_id, self.path, self.iteration, self.number)


class OutboxRow(Struct, frozen=True):
    """
    A message that a step queued with `$.send`: recorded with the run's end or pause, and delivered after that.

    Attributes:
        path: The path of the step.
        number: The number of the step's run, for a step that reruns.
        position: The index among the messages of that run of the step.
        message: The message, encrypted.
        shown: The `Delivery` as JSON; before the delivery its outcome is `waiting`.
        lane: Is the same for messages to one destination, which are sent in their order. It does not reveal the destination.
    """

    path: str
    number: int
    position: int
    message: bytes
    shown: str
    lane: str = ""

    def idempotency_key(self, run_id: str) -> str:
        """Return the key that all tries of the message of the run *run_id* share."""
        return f"{run_id}:{self.path}:{self.number}:{self.position}"


class WaitKey(Struct, frozen=True):
    """
    Names one pause of a run.

    Attributes:
        run_id: The run's id.
        path: The path of the step.
        iteration: The iteration of the step.
        number: The number of the step's pause, as in `WaitRow`.
    """

    run_id: str
    path: str
    iteration: int = 1
    number: int = 1


class NewDecision(Struct, frozen=True):
    """
    A decision about a run that has not been recorded yet; the journal adds the time and the step.

    Attributes:
        verdict: As in `Decision`.
        by: Who decides, as in `Decision`.
        note: The note of the person, at most `MAX_NOTE_CHARACTERS`; may be empty.
    """

    verdict: Verdict
    by: str
    note: str = ""


class FailedRun(Struct, frozen=True):
    """
    A run that ended with an error.

    Attributes:
        id: The run's id.
        workflow: The workflow's name.
        started_at: When the run started.
    """

    id: str
    workflow: str
    started_at: datetime


class ClaimedRun(Struct, frozen=True):
    """
    A run that this executor claimed, with everything that is recorded of it.

    Attributes:
        claim: The right to write the run.
        trace_id: The id that a run and its replays share.
        definition: The `definitions.content` text.
        event: The `runs.event` text.
        request: The `NewRun.request` of the run.
        external_user_id: The external user's id, or None.
        environment: `development` or `production`.
        created: Seconds since 1970.
        steps: The recorded steps in order.
        waits: The pauses of steps that are not recorded.
        was_paused: Whether the run has paused before.
        sent_runs: Path and number of the runs of steps whose messages are in the outbox.
        origin: The origin whose executors continue the run.
        queue: The queue with whose limits the run was claimed, or None.
        package_lock: The packages with which the run began, or None.
        decisions: What persons and programs have decided about the run.
        calls: Unsafe calls of interrupted attempts at steps that are not recorded, in their order.
        workflow: The workflow's name.
        begun: How far the claim says that this executor is.
        interruptions: The deaths of processes that have interrupted the run since its last recorded step.
        deaths_alone: Those of them in which the run executed alone in its process.
        lost_tasks: How often an unexpected error has ended its task, and its end was not recorded.
    """

    claim: Claim
    trace_id: str
    definition: str
    event: str
    request: bytes | None
    external_user_id: str | None
    environment: str
    created: float
    steps: tuple[StepRow, ...] = ()
    waits: tuple[WaitRow, ...] = ()
    was_paused: bool = False
    sent_runs: frozenset[tuple[str, int]] = frozenset()
    origin: str = "terminal"
    queue: str | None = None
    package_lock: StoredLock | None = None
    decisions: tuple[Decision, ...] = ()
    calls: tuple[CallRow, ...] = ()
    workflow: str = ""
    begun: Begun = Begun.NO
    interruptions: int = 0
    deaths_alone: int = 0
    lost_tasks: int = 0

    @property
    def must_be_alone(self) -> bool:
        """Whether the run executes alone in its process, because it may be the run that ends its processes."""
        return self.interruptions >= MAX_INTERRUPTIONS

    @property
    def is_given_up(self) -> bool:
        """Whether the run ends without another attempt: it seems to end its processes, or its end could not be recorded."""
        return self.deaths_alone >= MAX_DEATHS_ALONE or self.lost_tasks >= MAX_LOST_TASKS

    @property
    def open_waits(self) -> tuple[WaitRow, ...]:
        """The pauses that have not ended, the one that ends first before the others."""
        found = (wait for wait in self.waits if wait.data and wait.outcome is None)
        return tuple(sorted(found, key=lambda wait: (wait.wake_at is None, wait.wake_at, wait.seq)))

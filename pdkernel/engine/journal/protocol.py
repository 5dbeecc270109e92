"""
The protocol of a journal.

Each write names its claim: the run and the fence of the executor that opened the journal. A write returns False if that
executor does not own the run any more: the run was claimed, cancelled, paused or finished, or the executor was taken for
dead. A write that returns True is on disk.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from pdkernel.clock import Clock
from pdkernel.engine.journal.rows import (
    Begun,
    CallRow,
    Claim,
    ClaimedRun,
    FinalStatus,
    NewDecision,
    NewRun,
    OutboxRow,
    RunStatus,
    StepRow,
    StoredLock,
    WaitKey,
    WaitOutcome,
    WaitResolution,
    WaitRow,
)
from pdkernel.engine.journal.text_columns import RunSummary
from pdkernel.execution import Execution, Status
from pdkernel.model import Workflow

OWN_DELIVERY_S = 60.0
"""Seconds that the process of a run has to deliver its messages; then another process delivers them."""
MAX_LANES = 64
"""Destinations to which one process sends due messages at the same time."""
MESSAGES_PER_LANE = 3
"""Due messages that one process takes for a destination at a time: it can try them within `OWN_DELIVERY_S`."""

START_MARGIN_S = 0.1
"""Seconds from the record of a start to the first line of the step, on a busy machine: a period begins after them, until the start is seen."""
START_LEAD_S = 0.05
"""Seconds by which runs are claimed before the limit lets them start, so that they are prepared at that moment."""


class ExecutorLiveness(Protocol):
    """Shows other processes of this machine that an executor lives."""

    def hold(self, executor_id: str) -> None:
        """
        Show that this executor lives, until `release` or the end of the process.

        Raises:
            BlockingIOError: Another process holds that id.
        """
        ...

    def release(self, executor_id: str) -> None:
        """Show that this executor has ended."""
        ...

    def is_alive(self, executor_id: str) -> bool:
        """Return whether that executor, of this or another process, lives."""
        ...


class RunJournal(Protocol):
    """The writes of one run; usable from any event loop."""

    @property
    def is_lost(self) -> bool:
        """Whether this executor was taken for dead, or could not extend its lease in time; always False on SQLite."""
        ...

    @property
    def may_start(self) -> bool:
        """Whether this executor may start something new: it is not lost, and will not be soon; always True on SQLite."""
        ...

    async def store_definition(self, workflow: Workflow) -> str:
        """Store the workflow's definition, which runs need to be continued, and return its hash."""
        ...

    async def accept_run(self, run: NewRun) -> bool:
        """Record the run: running, owned by this executor with its first claim; or ready and without owner (`NewRun.is_ready`)."""
        ...

    async def count_paused(self, external_user: str, environment: str, most: int) -> int:
        """Return how many runs of that external user are paused, *most* if there are more."""
        ...

    def set_package_lock(self, claim: Claim, lock: StoredLock | None) -> Awaitable[bool]:
        """Record the packages with which the run's steps begin; submitted before the method returns."""
        ...

    def set_begun(self, claim: Claim, begun: Begun) -> Awaitable[bool]:
        """Record how far the owner of the run is, before its next step starts; submitted before the method returns."""
        ...

    def append_step(self, claim: Claim, row: StepRow, *, event: str | None = None) -> Awaitable[bool]:
        """
        Record a finished step.

        In `append_step`, `finish` and `park`, *event* replaces the run's `runs.event` text in the same commit; None
        leaves it unchanged.

        The write is submitted before the method returns, so it runs beside the caller's work.
        """
        ...

    async def record_call(self, claim: Claim, row: CallRow) -> bool:
        """
        Record an unsafe call before its first byte leaves.

        The row is removed with the write of a step or a pause whose `has_calls` is set: its record has the call. If the step is
        interrupted before, the executor that continues the run gets the row.
        """
        ...

    def finish(
        self,
        claim: Claim,
        status: FinalStatus,
        output: str,
        *,
        last_step: StepRow | None = None,
        event: str | None = None,
        ended: float | None = None,
        outbox: Sequence[OutboxRow] = (),
    ) -> Awaitable[bool]:
        """
        End the run and record *last_step* and *outbox* with it; submitted before the method returns, like `append_step`.

        *ended* is the end in seconds since 1970, or None for now.
        """
        ...

    def park(
        self, claim: Claim, wait: WaitRow, *, event: str | None = None, outbox: Sequence[OutboxRow] = ()
    ) -> Awaitable[bool]:
        """
        Pause the run until `wait.wake_at` or `resolve_wait`; removes the owner.

        The wait, the status and *outbox* are one commit: a crash loses all of them or none. If `resolve_wait` was called
        before, the run is ready at once.
        """
        ...

    async def record_delivery(self, run_id: str, row: OutboxRow, shown: str, *, retry_at: float | None = None) -> bool:
        """Record the outcome of a delivery; without *retry_at* it is the last try."""
        ...

    async def leave_deliveries(self, run_id: str, rows: Sequence[OutboxRow]) -> None:
        """Make messages due at once that this executor has not tried to deliver."""
        ...

    async def release(self, claim: Claim) -> bool:
        """
        Make the run ready, because this executor ends or has lost sight of it: for its next attempt if it had begun.

        It does not count as an interruption. Returns False if the claim is lost.
        """
        ...

    async def cancel(self, run_id: str, *, decision: NewDecision | None = None) -> bool:
        """Cancel a run regardless of its owner, and record *decision* with it. Return False if it has ended."""
        ...

    async def set_queue_limits(
        self,
        queue: str,
        *,
        concurrency: int | None = None,
        max_starts: int | None = None,
        period_s: float | None = None,
        within: str | None = None,
    ) -> None:
        """
        Limit *queue* to *concurrency* running runs and *max_starts* starts in *period_s* seconds; None means no limit.

        The runs of a queue *within* another one, whose limits are set too, keep the limits of both. They start oldest first, and
        do not count among the waiting runs of the outer queue. Starts are recorded for the outer queue, so only that one limits them.
        """
        ...

    async def add_turn(self, queue: str, run_id: str, *, size: int | None) -> bool:
        """
        Let a run that is not in the queue wait for its turn, for example one that is not stored.

        Nothing but the id of the run is stored, until `end_turn`.

        Returns:
            False if *size* runs wait already; None sets no limit.
        """
        ...

    async def grant_turn(self, queue: str, run_id: str) -> bool:
        """Let the run execute, if the limits of the queue permit it and nothing waits for longer; return whether it may."""
        ...

    async def end_turn(self, run_id: str) -> None:
        """Remove the turn of a run that has ended, or waits no longer. If that fails, it is repeated before the next run is claimed."""
        ...

    async def record_start(self, queue: str, claim: Claim) -> float:
        """
        Record that the first step of a claimed run of the queue begins. Until then, the claim counts as a start of any period.

        Returns:
            0, or the seconds after which to call again, because as many runs as the limit permits have started in this period.
        """
        ...

    async def confirm_start(self, claim: Claim) -> None:
        """Record that the first step of the run has begun just now: the period of its start need not begin later."""
        ...

    async def find_children(self, parent: str, prefix: str) -> Sequence[ClaimedRun]:
        """Return the runs that steps of the run *parent* have triggered and whose ids begin with *prefix*, without claiming them."""
        ...

    async def find_circle(self, run_id: str) -> Sequence[str]:
        """
        Return the workflows whose runs wait for each other because of the child run; empty if it is not the last of a circle.

        Each of the runs holds a turn of its workflow's `concurrency`, for which the child run of another one waits.
        """
        ...

    async def load_run(self, run_id: str) -> tuple[Execution, ClaimedRun] | None:
        """Return a run with everything that is recorded of it, without claiming it; or None. Its claim gives no right."""
        ...


class Journal(RunJournal, Protocol):
    """The record of events, runs and finished steps."""

    @property
    def executor_id(self) -> str:
        """The id of this executor, new at every start and at every `rejoin`."""
        ...

    @property
    def clock(self) -> Clock:
        """The clock by which pauses end; on Postgres that of the database, so that all hosts agree."""
        ...

    @property
    def lease_s(self) -> float | None:
        """The seconds after which a silent executor is taken for dead; None on SQLite, where the end of its process shows it."""
        ...

    async def rejoin(self) -> None:
        """
        Become a new executor, with a new id, after the caller has abandoned its runs; other executors continue them.

        Others may have taken this executor for dead: the interruptions that they have recorded are forgotten.
        """
        ...

    def on_change(self, callback: Callable[[], None]) -> None:
        """
        Call *callback* in a thread when another process made runs ready or cancelled runs, and when this executor is lost.

        It is never called on SQLite, where other processes send no messages.
        """
        ...

    @property
    def is_shared(self) -> bool:
        """Whether several servers may use the database."""
        ...

    async def announce(self) -> None:
        """Notify other processes of ready runs that this one cannot take."""
        ...

    async def resolve_wait(
        self,
        key: WaitKey,
        outcome: WaitOutcome,
        payload: bytes | None = None,
        *,
        decision: NewDecision | None = None,
    ) -> WaitResolution:
        """
        End a pause: the run is ready, or cancelled. The first call wins, and its *decision* is recorded in the same commit.

        A call for a step that still runs counts when the step pauses.
        """
        ...

    async def wake_due(self, limit: int = 500) -> int:
        """
        End the pauses whose time has come, with the outcome `timeout`. Return the number of runs.

        A run is ready, or cancelled if no call has resumed its `suspend`.
        """
        ...

    async def claim_deliveries(
        self,
        *,
        lane: str | None = None,
        busy: Collection[str] = (),
        lanes: int = MAX_LANES,
        per_lane: int = MESSAGES_PER_LANE,
    ) -> Sequence[tuple[str, OutboxRow, int]]:
        """
        Return messages of this executor's origin that are due, each with its run and its number of tries.

        If their delivery is not recorded within `OWN_DELIVERY_S`, they are due again.

        Args:
            lane: The lane of the messages; None for every lane.
            busy: Lanes whose messages stay.
            lanes: The most lanes of which messages are returned.
            per_lane: The most messages of a lane: those that have waited longest.
        """
        ...

    async def add_messages(self, run_id: str, rows: Sequence[OutboxRow]) -> bool:
        """
        Add messages, which are due at once, to a run that has ended. A message that the run has already stays as it is.

        Returns False if the run was removed.
        """
        ...

    async def batch_runs(self, batch: str) -> Sequence[RunSummary]:
        """Return the newest run of each external user of a batch, in the order of the users' ids."""
        ...

    async def count_batch(self, batch: str) -> Mapping[RunStatus, int]:
        """Return how many runs of a batch have each status, those of retried users included."""
        ...

    async def claim(self, run_id: str) -> ClaimedRun | None:
        """Claim the ready run; None if another executor was first, or the limits of its queue do not permit it."""
        ...

    async def claim_next(
        self, queue: str | None = None, limit: int = 1, *, begin: int | None = None
    ) -> Sequence[ClaimedRun]:
        """Claim the oldest ready runs of this executor's origin in *queue*, within its limits; *begin* is as in `claim_ready`."""
        ...

    async def claim_ready(self, limit: int, *, begin: int | None = None) -> Sequence[ClaimedRun]:
        """
        Claim ready runs of this executor's origin in every queue, within the limits of each.

        *begin* is the number of runs for which this process has a place to execute at once; None for all.
        """
        ...

    async def reap_dead(self, *, waits: bool = False) -> int:
        """
        End executors of dead processes. Their served runs are ready; the others end. Return the number of ready runs.

        With *waits*, a process that has only been silent is given the time to report, and is ended if it does not.
        """
        ...

    async def announce_end(self) -> None:
        """Record that this process was told to end: if it is killed meanwhile, no run is to blame."""
        ...

    async def release_orphan(self, claim: Claim) -> bool:
        """
        Make a run ready that this executor owns and does not execute, because an error has ended its task.

        After `MAX_LOST_TASKS` times, such a run is given up. If that end cannot be written either, it ends here, with a reason
        that needs nothing of the run. Returns False if the claim is lost.
        """
        ...

    async def find_owned(self) -> Sequence[Claim]:
        """Return the claims of the runs that this executor owns."""
        ...

    async def find_cancelled(self, run_ids: Sequence[str]) -> Sequence[str]:
        """Return which of *run_ids* are cancelled."""
        ...

    async def living_executors(self) -> Collection[str]:
        """Return the ids of the executors, this one included, that are not known to be dead."""
        ...

    async def has_executor(self, origin: str) -> bool:
        """Return whether another living executor has that origin."""
        ...

    async def remove_runs(self, run_ids: Sequence[str]) -> Sequence[str]:
        """
        Remove runs with their steps, pauses and messages, and definitions without a run. Return the ids of the removed runs.

        A run that is executing stays.
        """
        ...

    async def find_expired(self, default_days: float, limit: int = 500) -> Sequence[str]:
        """
        Return runs that ended before their workflow's retention.

        The retention is the setting `retention` in the definition of the workflow's newest run, or *default_days*.
        """
        ...

    async def next_wake(self) -> float | None:
        """
        Return when the next run can go on, in seconds since 1970; 0 if one can now; None if none waits.

        A run that waits for another run of its queue to end has no time.
        """
        ...

    async def find_run_id(self, dedupe_key: str) -> str | None:
        """Return the id of the run that was accepted with that dedupe key, or None."""
        ...

    async def get_execution(self, run_id: str) -> Execution | None:
        """Return the run's current record, or None."""
        ...

    async def list_executions(
        self,
        *,
        workflow: str | None = None,
        external_user: str | None = None,
        environment: str | None = None,
        status: Status | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> list[Execution]:
        """Return runs that match all arguments, newest first; *before* is the last id of the previous page."""
        ...

    async def close(self) -> None:
        """Commit submitted writes, then close the files."""
        ...


class UnrecordedRuns:
    """A `RunJournal` that keeps nothing, for runs that are not recorded."""

    is_lost = False
    may_start = True

    async def count_paused(self, external_user: str, environment: str, most: int) -> int:  # noqa: ARG002 - of the protocol
        """Return 0."""
        return 0

    async def store_definition(self, workflow: Workflow) -> str:
        """Return the workflow's version."""
        return workflow.version

    async def accept_run(self, run: NewRun) -> bool:  # noqa: ARG002
        """Accept every run."""
        return True

    async def set_package_lock(self, claim: Claim, lock: StoredLock | None) -> bool:  # noqa: ARG002
        """Accept all packages."""
        return True

    async def set_begun(self, claim: Claim, begun: Begun) -> bool:  # noqa: ARG002
        """Accept every progress."""
        return True

    async def append_step(self, claim: Claim, row: StepRow, *, event: str | None = None) -> bool:  # noqa: ARG002
        """Accept every step."""
        return True

    async def record_call(self, claim: Claim, row: CallRow) -> bool:  # noqa: ARG002
        """Accept every call."""
        return True

    async def finish(
        self,
        claim: Claim,  # noqa: ARG002
        status: FinalStatus,  # noqa: ARG002
        output: str,  # noqa: ARG002
        *,
        last_step: StepRow | None = None,  # noqa: ARG002
        event: str | None = None,  # noqa: ARG002
        ended: float | None = None,  # noqa: ARG002
        outbox: Sequence[OutboxRow] = (),  # noqa: ARG002
    ) -> bool:
        """Accept every end."""
        return True

    async def park(
        self,
        claim: Claim,  # noqa: ARG002
        wait: WaitRow,  # noqa: ARG002
        *,
        event: str | None = None,  # noqa: ARG002
        outbox: Sequence[OutboxRow] = (),  # noqa: ARG002
    ) -> bool:
        """Accept every pause; the run is not continued."""
        return True

    async def record_delivery(
        self,
        run_id: str,  # noqa: ARG002
        row: OutboxRow,  # noqa: ARG002
        shown: str,  # noqa: ARG002
        *,
        retry_at: float | None = None,  # noqa: ARG002
    ) -> bool:
        """Accept every delivery."""
        return True

    async def leave_deliveries(self, run_id: str, rows: Sequence[OutboxRow]) -> None:
        """Forget the messages."""

    async def release(self, claim: Claim) -> bool:  # noqa: ARG002
        """Accept the release; the run ends."""
        return True

    async def cancel(self, run_id: str, *, decision: NewDecision | None = None) -> bool:  # noqa: ARG002
        """Find no run."""
        return False

    async def set_queue_limits(
        self,
        queue: str,
        *,
        concurrency: int | None = None,
        max_starts: int | None = None,
        period_s: float | None = None,
        within: str | None = None,
    ) -> None:
        """Set no limit: the runs do not wait."""

    async def add_turn(self, queue: str, run_id: str, *, size: int | None) -> bool:  # noqa: ARG002
        """Let every run wait."""
        return True

    async def grant_turn(self, queue: str, run_id: str) -> bool:  # noqa: ARG002
        """Let every run execute."""
        return True

    async def end_turn(self, run_id: str) -> None:
        """Do nothing."""

    async def record_start(self, queue: str, claim: Claim) -> float:  # noqa: ARG002
        """Permit every start."""
        return 0.0

    async def confirm_start(self, claim: Claim) -> None:
        """Do nothing."""

    async def find_children(self, parent: str, prefix: str) -> Sequence[ClaimedRun]:  # noqa: ARG002
        """Find no run."""
        return ()

    async def find_circle(self, run_id: str) -> Sequence[str]:  # noqa: ARG002
        """Find none."""
        return ()

    async def load_run(self, run_id: str) -> tuple[Execution, ClaimedRun] | None:  # noqa: ARG002
        """Return None: nothing is kept."""
        return None

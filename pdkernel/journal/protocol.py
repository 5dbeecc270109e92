"""
What a run needs of its journal: `Journal` implements it, and `UnrecordedRuns` for runs without a record.

Each write names its claim: the run and the fence of the executor that opened the journal. A write returns False if that
executor does not own the run any more: the run was claimed, cancelled, paused or finished, or the executor was taken for
dead. A write that returns True is on disk.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol

from pdkernel.execution import Execution
from pdkernel.journal.rows import (
    Begun,
    CallRow,
    Claim,
    ClaimedRun,
    FinalStatus,
    NewDecision,
    NewRun,
    OutboxRow,
    StepRow,
    StoredLock,
    WaitRow,
)
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

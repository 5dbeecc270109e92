"""
What a run needs of its journal: `Journal` implements it, and `UnrecordedRuns` for runs without a record.

Each write names its claim: the run and the fence of the executor that opened the journal. A write returns False if that
executor does not own the run any more: the run was claimed, cancelled, paused or finished, or the executor was taken for
dead. A write that returns True is on disk.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, Protocol

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

    async def count_paused(self, external_user_id: str, environment: str, most: int) -> int:
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

        In `append_step`, `append_wait`, `finish` and `park`, *event* replaces the run's `runs.event` text in the same commit; None
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

    def append_wait(self, claim: Claim, wait: WaitRow, *, event: str | None = None) -> Awaitable[bool]:
        """
        Record that a branch of the run pauses, while other branches execute; `park` follows with the same wait, or the run ends.

        `resolve_wait` may end the wait before `park`. Submitted before the method returns, like `append_step`.
        """
        ...

    def park(
        self,
        claim: Claim,
        wait: WaitRow,
        *others: WaitRow,
        event: str | None = None,
        outbox: Sequence[OutboxRow] = (),
    ) -> Awaitable[bool]:
        """
        Pause the run until the `wake_at` or `resolve_wait` of one of its waits, of which each branch has one; removes the owner.

        The waits, the status and *outbox* are one commit: a crash loses all of them or none. If `resolve_wait` was called
        before for one of them, the run is ready at once.
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
    """A `RunJournal` that keeps nothing, for runs that are not recorded: every write is accepted, and no run is found."""

    is_lost = False
    may_start = True

    async def store_definition(self, workflow: Workflow) -> str:
        """Return the workflow's version."""
        return workflow.version

    async def _accept(self, *_: Any, **__: Any) -> bool:
        return True

    accept_run = set_package_lock = set_begun = append_step = append_wait = record_call = finish = park = _accept
    record_delivery = release = add_turn = grant_turn = _accept

    async def _do_nothing(self, *_: Any, **__: Any) -> None:
        pass

    leave_deliveries = set_queue_limits = end_turn = confirm_start = load_run = _do_nothing

    async def _find_none(self, *_: Any, **__: Any) -> Sequence[Any]:
        return ()

    find_children = find_circle = _find_none

    async def count_paused(self, *_: Any, **__: Any) -> int:
        """Return 0."""
        return 0

    async def cancel(self, *_: Any, **__: Any) -> bool:
        """Find no run."""
        return False

    async def record_start(self, *_: Any, **__: Any) -> float:
        """Permit every start."""
        return 0.0

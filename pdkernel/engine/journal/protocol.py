"""
The protocol of a journal.

Each write names its claim: the run and the fence of the executor that opened the journal. A write returns False if that
executor does not own the run any more: the run was claimed, cancelled, paused or finished, or the executor's
lease has expired. A write that returns True is on disk.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from datetime import datetime
from typing import Protocol

from pdkernel.engine.journal.records import Claim, ClaimedRun, FinalStatus, NewRun, StepRow, WaitRow
from pdkernel.execution import Execution, Status
from pdkernel.model import Workflow


class Journal(Protocol):
    """The record of events, runs and finished steps; usable from any event loop."""

    @property
    def executor_id(self) -> str:
        """The id of this executor, new at every start."""
        ...

    async def deploy_definition(self, workflow: Workflow) -> int:
        """Return the version number of the workflow's definition; equal definitions have the same number."""
        ...

    async def accept_run(self, run: NewRun) -> bool:
        """Record the run: running, owned by this executor with its first claim; with a queue, ready and without owner."""
        ...

    def append_step(self, claim: Claim, row: StepRow, *, event: str | None = None) -> Awaitable[bool]:
        """
        Record a finished step.

        In `append_step`, `finish` and `park`, *event* replaces the run's `runs.event` text in the same commit; None
        leaves it unchanged.

        The write is submitted before the method returns, so it runs beside the caller's work.
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
        wait: bool = True,
    ) -> Awaitable[bool]:
        """
        End the run and record *last_step* with it; submitted before the method returns, like `append_step`.

        *ended* is the end in seconds since 1970, or None for now. Without *wait* the result is True before the commit. If
        the commit is lost, another executor claims the run, finds its steps recorded and finishes it.
        """
        ...

    def park(
        self, claim: Claim, wait: WaitRow, *, last_step: StepRow | None = None, event: str | None = None
    ) -> Awaitable[bool]:
        """
        Pause the run until `wait.wake_at` or `resolve_wait`, and record *last_step* with it; removes the owner.

        The step's row, the wait and the status are one commit: a crash loses all of them or none.
        """
        ...

    async def resolve_wait(self, run_id: str, fence: int, outcome: str, payload: str | None = None) -> bool:
        """Make the paused run ready. Return False if another call was first."""
        ...

    async def wake_due(self, limit: int = 500) -> int:
        """Make runs ready whose pause has ended, with the outcome `timeout`. Return the number of runs."""
        ...

    async def claim(self, run_id: str) -> ClaimedRun | None:
        """Claim the ready run; None if another executor was first."""
        ...

    async def claim_next(self, queue: str | None = None, limit: int = 1) -> Sequence[ClaimedRun]:
        """Claim the oldest ready runs of *queue*, within its limits."""
        ...

    async def set_queue_limits(
        self,
        queue: str,
        *,
        concurrency: int | None = None,
        max_starts: int | None = None,
        period_s: float | None = None,
    ) -> None:
        """Limit *queue* to *concurrency* running runs and *max_starts* starts in *period_s* seconds; None means no limit."""
        ...

    async def cancel(self, run_id: str) -> bool:
        """Cancel a run regardless of its owner. Return False if it has ended."""
        ...

    async def heartbeat(self) -> bool:
        """Extend this executor's lease. Return False if the lease has expired and was reaped."""
        ...

    async def reap_expired(self) -> int:
        """Mark executors with an expired lease as dead; their runs become ready, attempt + 1. Return the number of runs."""
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

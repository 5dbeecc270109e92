"""
The journal as the engine sees it.

Every write names (owner, fence): the executor that opened this journal, and the fence it got with the run. A write
is refused, with False, when the run is no longer that executor's: taken over, cancelled, paused or finished, or
the executor was declared dead. A write that returns True is on disk.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from datetime import datetime
from typing import Protocol

from pdkernel.engine.journal.records import Claim, FinalStatus, NewRun, StepRow
from pdkernel.execution import Execution, Status
from pdkernel.model import Workflow


class Journal(Protocol):
    """The record of events, runs and finished steps; usable from any event loop."""

    @property
    def executor_id(self) -> str:
        """Who this process is in the record; new at every start."""
        ...

    async def deploy_definition(self, workflow: Workflow) -> int:
        """The version number of this definition; the same text has the same number."""
        ...

    async def accept_run(self, run: NewRun) -> bool:
        """Record the run, owned by this executor with fence 1; with a queue, ready and owned by nobody."""
        ...

    def append_step(
        self, run_id: str, position: int, name: str, result_text: str, *, fence: int = 1, event: str | None = None
    ) -> Awaitable[bool]:
        """
        Record a finished step; *position* is its place in the workflow, *result_text* its result (`step_text`).

        Here and in `finish` and `park`, *event* replaces the `runs.event` text that the run was accepted with, in the
        same commit; None keeps that text.

        The write is on its way when this returns, so that it goes on beside whatever the caller does before it waits.
        """
        ...

    def finish(
        self,
        run_id: str,
        status: FinalStatus,
        output: str,
        *,
        last_step: StepRow | None = None,
        fence: int = 1,
        event: str | None = None,
        wait: bool = True,
    ) -> Awaitable[bool]:
        """
        End the run; on its way when this returns, like `append`. The step that was its *last_step* is recorded with it.

        Without *wait* it returns True before the commit. If that is lost, the run is claimed again, finds its steps
        recorded and finishes.
        """
        ...

    async def park(
        self,
        run_id: str,
        seq: int,
        *,
        fence: int = 1,
        wake_at: float | None = None,
        token_hash: str | None = None,
        event: str | None = None,
    ) -> bool:
        """Pause the run in step *seq* until *wake_at* (seconds since 1970) or `resolve`; it has no owner then."""
        ...

    async def resolve_wait(self, run_id: str, fence: int, outcome: str, payload: str | None = None) -> bool:
        """Make the paused run ready; False if somebody was first."""
        ...

    async def wake_due(self, limit: int = 500) -> int:
        """Make ready what was paused until now, with the outcome `timeout`; how many."""
        ...

    async def claim(self, run_id: str) -> Claim | None:
        """Take that ready run, or None if somebody was first."""
        ...

    async def claim_next(self, queue: str | None = None, limit: int = 1) -> Sequence[Claim]:
        """Take the oldest ready runs of *queue*, no more than its limits allow."""
        ...

    async def set_queue_limits(
        self,
        queue: str,
        *,
        concurrency: int | None = None,
        max_starts: int | None = None,
        period_s: float | None = None,
    ) -> None:
        """Let *queue* have *concurrency* running at once and *max_starts* starts in *period_s* seconds; None: any number."""
        ...

    async def cancel(self, run_id: str) -> bool:
        """End a run that has not ended, whoever owns it; False if it has."""
        ...

    async def heartbeat(self) -> bool:
        """Prolong this executor's lease; False if it was declared dead."""
        ...

    async def reap_expired(self) -> int:
        """Declare dead whose lease is over; their running runs become ready, one attempt on. How many runs."""
        ...

    async def get_execution(self, run_id: str) -> Execution | None:
        """The run as it stands, or None."""
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
        """Runs that match everything given, newest first, from below *before* (an id) on."""
        ...

    async def close(self) -> None:
        """Write what was handed in, then give up the files."""
        ...

"""
The journal on SQLite: `Statements`, `JournalWriter` and `JournalReader` combined as the journal of one executor.

The journal may share the project's file, and several processes may open it.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Awaitable, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Self

from pdkernel.clock import RANDOM_IDS, SYSTEM_CLOCK, Clock, IdGenerator
from pdkernel.engine.journal.executors import EXCLUSIVE_ORIGINS, ExecutorLocks, hold_origin
from pdkernel.engine.journal.protocol import ExecutorLiveness
from pdkernel.engine.journal.reader import JournalReader
from pdkernel.engine.journal.removal import find_expired, remove_runs
from pdkernel.engine.journal.rows import (
    Claim,
    ClaimedRun,
    FinalStatus,
    NewRun,
    OutboxRow,
    StepRow,
    WaitKey,
    WaitOutcome,
    WaitResolution,
    WaitRow,
)
from pdkernel.engine.journal.statements import Statements
from pdkernel.engine.journal.tables import create_tables
from pdkernel.engine.journal.text_columns import (
    ExecutionQuery,
    encode_definition,
    hash_definition,
    replace_unstorable,
)
from pdkernel.engine.journal.writer import MAX_INLINE_COMMIT_S, JournalWriter
from pdkernel.execution import Execution, Status
from pdkernel.model import Workflow
from pdkernel.project.sqlite import connect, translate_error

OWN_DELIVERY_S = 60.0
"""Seconds that the process of a run has to deliver its messages; then another process delivers them."""


class SqliteJournal:
    """The journal of one executor on one SQLite file; implements `Journal`."""

    def __init__(
        self, path: Path, *, statements: Statements, liveness: ExecutorLiveness, clock: Clock, quick_s: float
    ) -> None:
        self.executor_id = statements.executor_id
        self._liveness = liveness
        self._clock = clock
        self._statements = statements
        self._writer = JournalWriter(path, max_inline_commit_s=quick_s)
        self._history = JournalReader(path)
        self._definitions: dict[str, tuple[str, str]] = {}  # the hash and the content by version
        self._queue_limits: dict[str, tuple[int | None, int | None, float | None]] = {}
        self._active_run_ids: set[str] = set()

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        clock: Clock = SYSTEM_CLOCK,
        ids: IdGenerator = RANDOM_IDS,
        origin: str = "terminal",
        liveness: ExecutorLiveness | None = None,
        max_inline_commit_s: float = MAX_INLINE_COMMIT_S,
    ) -> Self:
        """
        Become an executor of the journal in *path*; missing tables are created.

        Args:
            path: The project's SQLite file, or another file.
            clock: For every time stamp.
            ids: For the executor's id.
            origin: What this executor is: `serve`, `notebook`, `terminal` or `python`. It continues runs of its origin.
            liveness: Shows that the executor lives; None locks a file in the folder `executors-NAME` beside it.
            max_inline_commit_s: While commits take fewer seconds, the event loop commits without a thread.

        Raises:
            ProjectError: The file cannot be used, or was written by a newer version.
        """
        statements = Statements(ids.new("exec_", 20), origin)
        liveness = liveness or ExecutorLocks(path.with_name(f"executors-{path.stem}"))
        with contextlib.ExitStack() as undo:
            with closing(connect(path)) as connection:
                try:
                    create_tables(connection, path)
                    if origin in EXCLUSIVE_ORIGINS:
                        hold_origin(liveness, origin, path)
                        undo.callback(liveness.release, origin)
                    # before the row: others take an executor without a lock for dead
                    liveness.hold(statements.executor_id)
                    undo.callback(liveness.release, statements.executor_id)
                    statements.register_executor(connection)
                except sqlite3.Error as fault:
                    raise translate_error(fault, path) from fault
            journal = cls(path, statements=statements, liveness=liveness, clock=clock, quick_s=max_inline_commit_s)
            undo.pop_all()
        return journal

    def __repr__(self) -> str:
        return f"SqliteJournal({self.executor_id})"

    @property
    def commits(self) -> int:
        """The number of transactions so far; one transaction may hold several writes."""
        return self._writer.commits

    async def store_definition(self, workflow: Workflow) -> str:
        """Store the workflow's definition, which runs need to be continued, and return its hash."""
        known = self._definitions.get(workflow.version)
        if known is None:
            content = encode_definition(workflow)
            key = hash_definition(content)
            await self._writer.write(
                lambda connection: self._statements.store_definition(connection, key, workflow.name, content)
            )
            known = self._definitions[workflow.version] = (key, content)
        return known[0]

    async def accept_run(self, run: NewRun) -> bool:
        """Record the run: running, with this executor as the owner and fence 1; or ready and without owner (`NewRun.is_ready`)."""
        now = self._now()
        content = next((content for key, content in self._definitions.values() if key == run.definition), None)
        accepted = await self._writer.write(
            lambda connection: self._statements.accept_run(connection, run, now, content),
            concurrent_runs=max(2, len(self._active_run_ids)),
        )
        if accepted and not run.is_ready:
            self._active_run_ids.add(run.id)
        return accepted

    def append_step(self, claim: Claim, row: StepRow, *, event: str | None = None) -> Awaitable[bool]:
        """Submit a finished step. The result is False if the claim is lost, or the step is already recorded."""
        now = self._now()
        return self._writer.write(
            lambda connection: self._statements.append_step(connection, claim, row, now, event=event),
            is_compound=event is not None,
            concurrent_runs=len(self._active_run_ids),
        )

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
        """Submit the run's end with *last_step*. The result is False if the claim is lost, or the step is already recorded."""
        now = self._now()

        def act(connection: sqlite3.Connection) -> bool:
            if last_step is not None and not self._statements.append_step(connection, claim, last_step, now):
                return False
            done = self._statements.finish(
                connection, claim, status, output, now if ended is None else ended, event=event
            )
            if done and outbox:
                self._statements.fill_outbox(connection, claim.run_id, outbox, now + OWN_DELIVERY_S)
            return done

        concurrent_runs = len(self._active_run_ids)
        self._active_run_ids.discard(claim.run_id)
        return self._writer.write(
            act, is_compound=last_step is not None or bool(outbox), concurrent_runs=concurrent_runs
        )

    def park(
        self, claim: Claim, wait: WaitRow, *, event: str | None = None, outbox: Sequence[OutboxRow] = ()
    ) -> Awaitable[bool]:
        """Submit the run's pause. The result is False if the claim is lost."""
        now = self._now()
        self._active_run_ids.discard(claim.run_id)

        def act(connection: sqlite3.Connection) -> bool:
            done = self._statements.park(connection, claim, wait, event=event)
            if done:
                self._statements.fill_outbox(connection, claim.run_id, outbox, now + OWN_DELIVERY_S)
            return done

        return self._writer.write(act, is_compound=True)

    async def claim_deliveries(self, limit: int = 20) -> Sequence[tuple[str, OutboxRow, int]]:
        """Return messages of this executor's origin that are due, each with its run and its number of tries."""
        now = self._now()
        return await self._writer.write(
            lambda connection: self._statements.claim_deliveries(connection, now, now + OWN_DELIVERY_S, limit),
            is_compound=True,
        )

    async def record_delivery(self, run_id: str, row: OutboxRow, shown: str, *, retry_at: float | None = None) -> bool:
        """Record the outcome of a delivery; without *retry_at* it is the last try."""
        return await self._writer.write(
            lambda connection: self._statements.record_delivery(connection, run_id, row, shown, retry_at)
        )

    async def release(self, claim: Claim) -> bool:
        """Make the run ready for its next attempt. Return False if the claim is lost."""
        self._active_run_ids.discard(claim.run_id)
        return await self._writer.write(lambda connection: self._statements.release(connection, claim))

    async def resolve_wait(self, key: WaitKey, outcome: WaitOutcome, payload: bytes | None = None) -> WaitResolution:
        """End a pause; the first call wins."""
        now = self._now()
        return await self._writer.write(
            lambda connection: self._statements.resolve_wait(connection, key, outcome, payload, now), is_compound=True
        )

    async def wake_due(self, limit: int = 500) -> int:
        """End the pauses whose time has come. Return the number of runs."""
        now = self._now()
        return await self._writer.write(
            lambda connection: self._statements.wake_due(connection, now, limit), is_compound=True
        )

    async def claim(self, run_id: str) -> ClaimedRun | None:
        """Claim the ready run; None if another executor was first."""
        claimed = await self._writer.write(
            lambda connection: self._statements.claim(connection, run_id), is_compound=True
        )
        if claimed is not None:
            self._active_run_ids.add(run_id)
        return claimed

    async def claim_next(self, queue: str | None = None, limit: int = 1) -> Sequence[ClaimedRun]:
        """Claim the oldest ready runs of this executor's origin in *queue*, within its limits."""
        now = self._now()
        claims = await self._writer.write(
            lambda connection: self._statements.claim_next(connection, queue, limit, now), is_compound=True
        )
        self._active_run_ids.update(claimed.claim.run_id for claimed in claims)
        return claims

    async def claim_ready(self, limit: int) -> Sequence[ClaimedRun]:
        """Claim ready runs of this executor's origin in every queue, within the limits of each."""
        now = self._now()
        claims = await self._writer.write(
            lambda connection: self._statements.claim_ready(connection, limit, now), is_compound=True
        )
        self._active_run_ids.update(claimed.claim.run_id for claimed in claims)
        return claims

    async def set_queue_limits(
        self,
        queue: str,
        *,
        concurrency: int | None = None,
        max_starts: int | None = None,
        period_s: float | None = None,
    ) -> None:
        """Set the limits of *queue*; unchanged limits are not written again."""
        limits = (concurrency, max_starts, period_s)
        if self._queue_limits.get(queue) == limits:
            return
        await self._writer.write(
            lambda connection: self._statements.set_queue_limits(connection, queue, concurrency, max_starts, period_s)
        )
        self._queue_limits[queue] = limits

    async def cancel(self, run_id: str) -> bool:
        """Cancel a run regardless of its owner. Return False if it has ended."""
        now = self._now()
        return await self._writer.write(lambda connection: self._statements.cancel(connection, run_id, now))

    async def reap_dead(self) -> int:
        """End executors of dead processes. Their served runs are ready; the others end. Return the number of ready runs."""
        executors = await self._history.read(self._statements.living_executors)
        dead = [executor for executor in executors if not self._liveness.is_alive(executor)]
        if not dead:
            return 0
        now = self._now()
        return await self._writer.write(
            lambda connection: self._statements.bury(connection, dead, now), is_compound=True
        )

    async def find_cancelled(self, run_ids: Sequence[str]) -> Sequence[str]:
        """Return which of *run_ids* are cancelled."""
        return await self._history.read(
            lambda connection: [
                run_id
                for run_id in run_ids
                if connection.execute(
                    "select 1 from runs where id = ? and status = 'cancelled'", (replace_unstorable(run_id),)
                ).fetchone()
            ]
        )

    async def has_executor(self, origin: str) -> bool:
        """Return whether another living executor has that origin."""
        executors = await self._history.read(lambda connection: self._statements.living_executors(connection, origin))
        return any(self._liveness.is_alive(executor) for executor in executors)

    async def remove_runs(self, run_ids: Sequence[str]) -> Sequence[str]:
        """Remove runs that are not executing, and definitions without a run. Return the ids of the removed runs."""
        return await self._writer.write(lambda connection: remove_runs(connection, run_ids), is_compound=True)

    async def find_expired(self, default_days: float, limit: int = 500) -> Sequence[str]:
        """Return runs that ended before their workflow's retention."""
        now = self._now()
        return await self._history.read(lambda connection: find_expired(connection, now, default_days, limit))

    async def next_wake(self) -> float | None:
        """Return when the next run can go on, in seconds since 1970; 0 if one can now; None if none waits."""
        now = self._now()
        return await self._history.read(lambda connection: self._statements.next_wake(connection, now))

    async def load_run(self, run_id: str) -> tuple[Execution, ClaimedRun] | None:
        """Return a run with everything that is recorded of it, without claiming it; or None."""
        return await self._history.load(run_id)

    async def find_run_id(self, dedupe_key: str) -> str | None:
        """Return the id of the run that was accepted with that dedupe key, or None."""
        return await self._history.find_run_id(dedupe_key)

    async def get_execution(self, run_id: str) -> Execution | None:
        """Return the run's current record, or None."""
        return await self._history.execution(run_id)

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
        return await self._history.executions(
            ExecutionQuery(workflow, external_user, environment, status, since, until, limit, before)
        )

    async def close(self) -> None:
        """Commit submitted writes, remove this executor, close the file. A second call does nothing."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._writer.close(final_write=self._statements.unregister_executor)
        self._history.close()
        self._liveness.release(self.executor_id)
        if self._statements.origin in EXCLUSIVE_ORIGINS:
            self._liveness.release(self._statements.origin)

    def _now(self) -> float:
        return self._clock.now().timestamp()

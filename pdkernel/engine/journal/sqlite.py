"""
The journal on SQLite: `Statements`, `JournalWriter` and `JournalReader` combined as the journal of one executor.

The journal may share the project's file, and several processes may open it.
"""

from __future__ import annotations

import asyncio
import os
import platform
import sqlite3
from collections.abc import Awaitable, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Self

from pdkernel.clock import RANDOM_IDS, SYSTEM_CLOCK, Clock, IdGenerator
from pdkernel.engine.journal.reader import JournalReader
from pdkernel.engine.journal.records import (
    LEASE_S,
    Claim,
    ClaimedRun,
    ExecutionQuery,
    FinalStatus,
    NewRun,
    StepRow,
    WaitRow,
    encode_definition,
)
from pdkernel.engine.journal.statements import Statements
from pdkernel.engine.journal.writer import MAX_INLINE_COMMIT_S, JournalWriter
from pdkernel.execution import Execution, Status
from pdkernel.model import Workflow
from pdkernel.project.database import check_schema_version
from pdkernel.project.sqlite import connect, translate_error


class SqliteJournal:
    """The journal of one executor on one SQLite file; implements `Journal`."""

    def __init__(self, path: Path, *, executor_id: str, clock: Clock, lease_s: float, quick_s: float) -> None:
        self.executor_id = executor_id
        self.lease_s = lease_s
        self._clock = clock
        self._statements = Statements(executor_id)
        self._writer = JournalWriter(path, max_inline_commit_s=quick_s)
        self._history = JournalReader(path)
        self._versions: dict[tuple[str, str], int] = {}
        self._unawaited = False
        self._active_run_ids: set[str] = set()

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        clock: Clock = SYSTEM_CLOCK,
        ids: IdGenerator = RANDOM_IDS,
        slot: str | None = None,
        lease_s: float = LEASE_S,
        max_inline_commit_s: float = MAX_INLINE_COMMIT_S,
    ) -> Self:
        """
        Become an executor of the journal in *path*; missing tables are created.

        Args:
            path: The project's SQLite file, or another file.
            clock: For every time stamp.
            ids: For the executor's id.
            slot: The name of this process, or None for machine name and process id.
            lease_s: Seconds that a lease lasts after a heartbeat.
            max_inline_commit_s: While commits take fewer seconds, the event loop commits without a thread.

        Raises:
            ProjectError: The file cannot be used, or was written by a newer version.
        """
        executor_id = ids.new("exec_", 20)
        lease_until = clock.now().timestamp() + lease_s
        with closing(connect(path)) as connection:
            try:
                _create(connection, path)
                Statements(executor_id).register_executor(
                    connection, slot or f"{platform.node()}:{os.getpid()}", lease_until
                )
            except sqlite3.Error as fault:
                raise translate_error(fault, path) from fault
        return cls(path, executor_id=executor_id, clock=clock, lease_s=lease_s, quick_s=max_inline_commit_s)

    def __repr__(self) -> str:
        return f"SqliteJournal({self.executor_id})"

    @property
    def commits(self) -> int:
        """The number of transactions so far; one transaction may hold several writes."""
        return self._writer.commits

    async def deploy_definition(self, workflow: Workflow) -> int:
        """Return the version number of the workflow's definition; equal definitions have the same number."""
        key = (workflow.name, workflow.version)
        if key not in self._versions:
            definition = encode_definition(workflow)
            self._versions[key] = await self._writer.write(
                lambda connection: self._statements.deploy_definition(connection, workflow.name, definition),
                is_compound=True,
            )
        return self._versions[key]

    async def accept_run(self, run: NewRun) -> bool:
        """Record the run: running, with this executor as the owner and fence 1; with a queue, ready and without owner."""
        now = self._now()
        if run.queue is None:
            self._active_run_ids.add(run.id)
        return await self._writer.write(lambda connection: self._statements.accept_run(connection, run, now))

    def append_step(self, claim: Claim, row: StepRow, *, event: str | None = None) -> Awaitable[bool]:
        """Submit a finished step. The result is False if the claim is lost, or the step is already recorded."""
        now = self._now()
        return self._writer.write(
            lambda connection: self._statements.append_step(connection, claim, row, now, event=event),
            is_compound=event is not None,
            commit_now=self._is_alone(claim.run_id),
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
        wait: bool = True,
    ) -> Awaitable[bool]:
        """
        Submit the run's end with *last_step*. The result is False if the claim is lost, or the step is already recorded.

        Without *wait*, the result is True before the commit.
        """
        now = self._now()

        def act(connection: sqlite3.Connection) -> bool:
            if last_step is not None and not self._statements.append_step(connection, claim, last_step, now):
                return False
            return self._statements.finish(
                connection, claim, status, output, now if ended is None else ended, event=event
            )

        alone = self._is_alone(claim.run_id)
        self._active_run_ids.discard(claim.run_id)
        if wait:
            return self._writer.write(act, is_compound=last_step is not None, commit_now=alone)
        self._unawaited = True
        self._writer.write_unawaited(act)
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        done.set_result(True)
        return done

    def park(
        self, claim: Claim, wait: WaitRow, *, last_step: StepRow | None = None, event: str | None = None
    ) -> Awaitable[bool]:
        """Submit the run's pause with *last_step*. The result is False if the claim is lost, or the step is already recorded."""
        now = self._now()
        self._active_run_ids.discard(claim.run_id)

        def act(connection: sqlite3.Connection) -> bool:
            if last_step is not None and not self._statements.append_step(connection, claim, last_step, now):
                return False
            return self._statements.park(connection, claim, wait, event=event)

        return self._writer.write(act, is_compound=True)

    async def resolve_wait(self, run_id: str, fence: int, outcome: str, payload: str | None = None) -> bool:
        """Make the paused run ready. Return False if another call was first."""
        now = self._now()
        return await self._writer.write(
            lambda connection: self._statements.resolve_wait(connection, run_id, fence, outcome, payload, now),
            is_compound=True,
        )

    async def wake_due(self, limit: int = 500) -> int:
        """Make runs ready whose pause has ended. Return the number of runs."""
        now = self._now()
        return await self._writer.write(
            lambda connection: self._statements.wake_due(connection, now, limit), is_compound=True
        )

    async def claim(self, run_id: str) -> ClaimedRun | None:
        """Claim the ready run; None if another executor was first."""
        return await self._writer.write(lambda connection: self._statements.claim(connection, run_id))

    async def claim_next(self, queue: str | None = None, limit: int = 1) -> Sequence[ClaimedRun]:
        """Claim the oldest ready runs of *queue*, within its limits."""
        now = self._now()
        return await self._writer.write(
            lambda connection: self._statements.claim_next(connection, queue, limit, now), is_compound=True
        )

    async def set_queue_limits(
        self,
        queue: str,
        *,
        concurrency: int | None = None,
        max_starts: int | None = None,
        period_s: float | None = None,
    ) -> None:
        """Set the limits of *queue*."""
        await self._writer.write(
            lambda connection: self._statements.set_queue_limits(connection, queue, concurrency, max_starts, period_s)
        )

    async def cancel(self, run_id: str) -> bool:
        """Cancel a run regardless of its owner. Return False if it has ended."""
        now = self._now()
        return await self._writer.write(lambda connection: self._statements.cancel(connection, run_id, now))

    async def heartbeat(self) -> bool:
        """Extend this executor's lease. Return False if the lease has expired and was reaped."""
        until = self._now() + self.lease_s
        return await self._writer.write(lambda connection: self._statements.heartbeat(connection, until))

    async def reap_expired(self) -> int:
        """Mark executors with an expired lease as dead and make their runs ready. Return the number of runs."""
        now = self._now()
        return await self._writer.write(
            lambda connection: self._statements.reap_expired(connection, now), is_compound=True
        )

    async def get_execution(self, run_id: str) -> Execution | None:
        """Return the run's current record, or None."""
        await self._flush_unawaited()
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
        await self._flush_unawaited()
        return await self._history.executions(
            ExecutionQuery(workflow, external_user, environment, status, since, until, limit, before)
        )

    async def close(self) -> None:
        """Commit submitted writes, remove this executor, close the file. A second call does nothing."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._writer.close(final_write=self._statements.unregister_executor)
        self._history.close()

    def _is_alone(self, run_id: str) -> bool:
        """Return whether no other run waits for the loop while this run writes."""
        return self._active_run_ids <= {run_id}

    async def _flush_unawaited(self) -> None:
        """Wait for unawaited writes, so that a reader of this journal sees them."""
        if self._unawaited:
            self._unawaited = False
            await self._writer.write(lambda _: True)

    def _now(self) -> float:
        return self._clock.now().timestamp()


def open_journal_reader(path: Path) -> JournalReader:
    """
    Open the journal in *path* to read runs, without becoming an executor; missing tables are created.

    Raises:
        ProjectError: The file cannot be used, or was written by a newer version.
    """
    with closing(connect(path)) as connection:
        try:
            _create(connection, path)
        except sqlite3.Error as fault:
            raise translate_error(fault, path) from fault
    return JournalReader(path)


def _create(connection: sqlite3.Connection, path: Path) -> None:
    """Create the tables, or change those of an earlier version, in one transaction."""
    from pdkernel.engine.journal.schema import SCHEMA_VERSION, SQLITE_MIGRATIONS

    version = connection.execute("pragma user_version").fetchone()[0]
    if version == SCHEMA_VERSION:
        return
    check_schema_version(version, path, supported=SCHEMA_VERSION)
    connection.execute("begin immediate")
    try:
        version = connection.execute("pragma user_version").fetchone()[0]  # another process may have been first
        statements = (
            _ddl()
            if version == 0
            else [
                each for newer in range(version + 1, SCHEMA_VERSION + 1) for each in SQLITE_MIGRATIONS[newer].split(";")
            ]
        )
        for statement in statements:
            connection.execute(statement)
        connection.execute(f"pragma user_version = {SCHEMA_VERSION}")
        connection.execute("commit")
    finally:
        if connection.in_transaction:
            connection.execute("rollback")


def _ddl() -> Sequence[str]:
    # imported here because only the creation of tables needs SQLAlchemy
    from sqlalchemy.dialects import sqlite
    from sqlalchemy.schema import CreateIndex, CreateTable

    from pdkernel.engine.journal.schema import metadata

    tables = metadata.sorted_tables
    statements: list[CreateTable | CreateIndex] = [CreateTable(table) for table in tables]
    statements += [CreateIndex(index) for table in tables for index in table.indexes]
    return [str(statement.compile(dialect=sqlite.dialect())) for statement in statements]

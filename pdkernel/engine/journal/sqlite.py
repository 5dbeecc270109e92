"""
The journal on SQLite: statements, the writer and history put together as one executor's journal.

It may share the project's file; several processes may each open it.
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
from pdkernel.engine.journal.records import Claim, ExecutionQuery, FinalStatus, NewRun, StepRow, encode_definition
from pdkernel.engine.journal.statements import Statements
from pdkernel.engine.journal.writer import MAX_INLINE_COMMIT_S, JournalWriter
from pdkernel.errors import ProjectError
from pdkernel.execution import Execution, Status
from pdkernel.model import Workflow
from pdkernel.project.sqlite import connect, translate_error

LEASE_S = 10.0
"""Seconds for which a heartbeat is good."""


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
        Become an executor of the journal in *path*; its tables are made if they are not there.

        Args:
            path: The project's SQLite file, or a file of its own.
            clock: Tells the time.
            ids: Makes the executor's id.
            slot: Which of the machine's processes this is, or None for machine and process id.
            lease_s: Seconds for which a heartbeat is good.
            max_inline_commit_s: Seconds; while commits take less, a lone run's are made without a thread.

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
        """Transactions so far: fewer than writes when writes come together."""
        return self._writer.commits

    async def deploy_definition(self, workflow: Workflow) -> int:
        """The version number of this definition; the same text has the same number."""
        key = (workflow.name, workflow.version)
        if key not in self._versions:
            definition = encode_definition(workflow)
            self._versions[key] = await self._writer.write(
                lambda connection: self._statements.deploy_definition(connection, workflow.name, definition),
                is_compound=True,
            )
        return self._versions[key]

    async def accept_run(self, run: NewRun) -> bool:
        """Record the run, owned by this executor with fence 1; with a queue, ready and owned by nobody."""
        now = self._now()
        if run.queue is None:
            self._active_run_ids.add(run.id)
        return await self._writer.write(lambda connection: self._statements.accept_run(connection, run, now))

    def append_step(
        self, run_id: str, position: int, name: str, result_text: str, *, fence: int = 1, event: str | None = None
    ) -> Awaitable[bool]:
        """Record a finished step, handed in at once; False if the run is no longer ours, or has that step."""
        now = self._now()
        return self._writer.write(
            lambda connection: self._statements.append_step(
                connection, run_id, fence, position, name, result_text, now, event=event
            ),
            is_compound=event is not None,
            commit_now=self._is_alone(run_id),
        )

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
        End the run, handed in at once, with its *last_step* step; False if it is no longer ours, or has that step.

        Without *wait*, True before the commit.
        """
        now = self._now()

        def act(connection: sqlite3.Connection) -> bool:
            if last_step is not None and not self._statements.append_step(
                connection, run_id, fence, last_step.seq, last_step.name, last_step.data, now
            ):
                return False
            return self._statements.finish(connection, run_id, fence, status, output, now, event=event)

        alone = self._is_alone(run_id)
        self._active_run_ids.discard(run_id)
        if wait:
            return self._writer.write(act, is_compound=last_step is not None, commit_now=alone)
        self._unawaited = True
        self._writer.write_unawaited(act)
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        done.set_result(True)
        return done

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
        """Pause the run in step *seq*; False if it is no longer ours."""
        self._active_run_ids.discard(run_id)
        return await self._writer.write(
            lambda connection: self._statements.park(connection, run_id, fence, seq, wake_at, token_hash, event=event),
            is_compound=True,
        )

    async def resolve_wait(self, run_id: str, fence: int, outcome: str, payload: str | None = None) -> bool:
        """Make the paused run ready; False if somebody was first."""
        now = self._now()
        return await self._writer.write(
            lambda connection: self._statements.resolve_wait(connection, run_id, fence, outcome, payload, now),
            is_compound=True,
        )

    async def wake_due(self, limit: int = 500) -> int:
        """Make ready what was paused until now; how many."""
        now = self._now()
        return await self._writer.write(
            lambda connection: self._statements.wake_due(connection, now, limit), is_compound=True
        )

    async def claim(self, run_id: str) -> Claim | None:
        """Take that ready run, or None if somebody was first."""
        return await self._writer.write(lambda connection: self._statements.claim(connection, run_id))

    async def claim_next(self, queue: str | None = None, limit: int = 1) -> Sequence[Claim]:
        """Take the oldest ready runs of *queue*, no more than its limits allow."""
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
        """End a run that has not ended, whoever owns it; False if it has."""
        now = self._now()
        return await self._writer.write(lambda connection: self._statements.cancel(connection, run_id, now))

    async def heartbeat(self) -> bool:
        """Prolong this executor's lease; False if it was declared dead."""
        until = self._now() + self.lease_s
        return await self._writer.write(lambda connection: self._statements.heartbeat(connection, until))

    async def reap_expired(self) -> int:
        """Declare dead whose lease is over, and free their runs; how many runs."""
        now = self._now()
        return await self._writer.write(
            lambda connection: self._statements.reap_expired(connection, now), is_compound=True
        )

    async def get_execution(self, run_id: str) -> Execution | None:
        """The run as it stands, or None."""
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
        """Runs that match everything given, newest first, from below *before* (an id) on."""
        await self._flush_unawaited()
        return await self._history.executions(
            ExecutionQuery(workflow, external_user, environment, status, since, until, limit, before)
        )

    async def close(self) -> None:
        """Write what was handed in, stop being an executor, give up the file. Closing twice is fine."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._writer.close(final_write=self._statements.unregister_executor)
        self._history.close()

    def _is_alone(self, run_id: str) -> bool:
        """Whether no other run waits for the loop while this one writes."""
        return self._active_run_ids <= {run_id}

    async def _flush_unawaited(self) -> None:
        """A reader of this journal sees also what it handed in without waiting."""
        if self._unawaited:
            self._unawaited = False
            await self._writer.write(lambda _: True)

    def _now(self) -> float:
        return self._clock.now().timestamp()


def _create(connection: sqlite3.Connection, path: Path) -> None:
    from pdkernel.engine.journal.schema import SCHEMA_VERSION

    version = connection.execute("pragma user_version").fetchone()[0]
    if version == SCHEMA_VERSION:
        return
    if version > SCHEMA_VERSION:
        raise ProjectError(
            f"The journal in {path} was written by a newer pdkernel (tables of version {version}, this one knows "
            f"{SCHEMA_VERSION}). It was left as it is.",
            fix="Upgrade: pip install --upgrade pdkernel",
        )
    connection.execute("begin immediate")
    try:
        if connection.execute("pragma user_version").fetchone()[0] == 0:
            for statement in _ddl():
                connection.execute(statement)
            connection.execute(f"pragma user_version = {SCHEMA_VERSION}")
        connection.execute("commit")
    finally:
        if connection.in_transaction:
            connection.execute("rollback")


def _ddl() -> Sequence[str]:
    # only where tables are made: the journal itself needs no SQLAlchemy
    from sqlalchemy.dialects import sqlite
    from sqlalchemy.schema import CreateIndex, CreateTable

    from pdkernel.engine.journal.schema import metadata

    tables = metadata.sorted_tables
    made: list[CreateTable | CreateIndex] = [CreateTable(table) for table in tables]
    made += [CreateIndex(index) for table in tables for index in table.indexes]
    return [str(make.compile(dialect=sqlite.dialect())) for make in made]

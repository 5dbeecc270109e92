"""
Batches: the runs of one tick of a schedule, one for each external user (`for_each: external_user`).

A batch is stored in the transaction that moves its schedule to the next time. A server then lists the users in pages: the runs
of a page are recorded in the journal first, each with its own dedupe key, and then the page. A server that dies between
records the page again, which starts no run twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import Connection, and_, bindparam, delete, literal_column, or_, select, update

from pdkernel.common.identity import Environment
from pdkernel.execution import BatchState
from pdkernel.storage.database import Database
from pdkernel.storage.schema import batch_skips, batches
from pdkernel.storage.statements import CompiledQuery, insert_if_absent


@dataclass(frozen=True, slots=True)
class Batch:
    """
    The runs of one tick of a schedule, or of one command, for several external users.

    Attributes:
        id: `batch_...`.
        workflow_id: The workflow's id, `p_...`, or the source of the workflow for a command.
        trigger_key: The key of the schedule; empty for a command.
        workflow_name: The workflow's name.
        environment: The users' environment.
        at: The time of the tick.
        origin: What records the runs: `serve` or `terminal`.
        executor: The executor of the command that records the runs, or None for a server.
        state: What is done at the moment.
        listed_to: The last external user, in the order of ids, whose run is recorded; None before the first page.
        round: The number of retries.
        problem: Why there are no runs, or None.
    """

    id: str
    workflow_id: str
    trigger_key: str
    workflow_name: str
    environment: Environment
    at: datetime
    origin: Literal["serve", "terminal"] = "serve"
    state: BatchState = "listing"
    listed_to: str | None = None
    round: int = 0
    problem: str | None = None
    executor: str | None = None

    def dedupe_key(self, external_user_id: str, failed_run: str | None = None) -> str:
        """Return the dedupe key of a user's run, or of the retry of that user's *failed_run*."""
        return f"{self.id}/{external_user_id}" + ("" if failed_run is None else f"/{failed_run}")


class BatchTable:
    """The batches of a project."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, batch: Batch, *, connection: Connection | None = None) -> None:
        """Store a new batch, unless it is stored already; in the caller's transaction, if one is given."""
        if connection is None:
            with self._database.write() as opened:
                return self.add(batch, connection=opened)
        insert_if_absent(
            connection,
            batches,
            id=batch.id,
            workflow=batch.workflow_id,
            trigger=batch.trigger_key,
            name=batch.workflow_name,
            environment=batch.environment,
            origin=batch.origin,
            executor=batch.executor,
            at=batch.at.timestamp(),
            state=batch.state,
            listed_to=batch.listed_to,
            round=batch.round,
            problem=batch.problem,
        )
        return None

    def find(self, batch_id: str) -> Batch | None:
        """Return the batch with that id, or None."""
        found = self._select(batches.c.id == batch_id)
        return found[0] if found else None

    def list_open(self) -> Sequence[Batch]:
        """Return the batches of servers that are not done, oldest first."""
        with self._database.read() as connection:
            return list(map(_batch, _OPEN.fetch_all(connection, ended="done", origin="serve")))

    def list_newest(
        self, *, workflow_id: str | None = None, trigger_key: str | None = None, limit: int = 50
    ) -> Sequence[Batch]:
        """Return the newest batches, of one workflow and one of its schedules if these are given."""
        conditions = []
        if workflow_id is not None:
            conditions.append(batches.c.workflow == workflow_id)
        if trigger_key is not None:
            conditions.append(batches.c.trigger == trigger_key)
        return self._select(*conditions, limit=limit)

    def record_page(self, batch: Batch, listed_to: str, skips: Mapping[str, Sequence[str]]) -> bool:
        """
        Record that the runs of the users up to *listed_to* are recorded, in one transaction.

        Args:
            batch: The batch as it was before the page.
            listed_to: The last user of the page.
            skips: The users of the page who have no run, each with the apps of which an account is missing.

        Returns:
            False if another process has recorded the page.
        """
        before = batches.c.listed_to.is_(None) if batch.listed_to is None else batches.c.listed_to == batch.listed_to
        with self._database.write() as connection:
            is_first = self._update(connection, batch, before, listed_to=listed_to)
            if is_first and skips:
                rows = [
                    {"batch": batch.id, "external_user": user, "missing": ",".join(missing)}
                    for user, missing in skips.items()
                ]
                connection.execute(batch_skips.insert(), rows)
        return is_first

    def set_state(
        self, batch: Batch, state: BatchState, *, problem: str | None = None, executor: str | None = None
    ) -> bool:
        """Set the state, and the executor of a command that records runs; False if another process has changed the state."""
        round_ = batch.round + (state == "retrying")
        with self._database.write() as connection:
            return self._update(connection, batch, state=state, problem=problem, round=round_, executor=executor)

    def list_skips(self, batch_id: str) -> Mapping[str, Sequence[str]]:
        """Return the users without a run, each with the apps of which an account is missing; none if there is no such user."""
        query = select(batch_skips).where(batch_skips.c.batch == batch_id).order_by(batch_skips.c.external_user)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return {row.external_user: tuple(filter(None, row.missing.split(","))) for row in rows}

    def list_done(self, before: datetime, limit: int = 500) -> Sequence[Batch]:
        """Return the oldest batches of before that time that are done, or that a command left without an end."""
        values = {"ended": "done", "origin": "terminal", "before": before.timestamp(), "limit": limit}
        with self._database.read() as connection:
            return list(map(_batch, _DONE.fetch_all(connection, **values)))

    def remove(self, batch_id: str) -> None:
        """Remove a batch without runs."""
        with self._database.write() as connection:
            connection.execute(delete(batch_skips).where(batch_skips.c.batch == batch_id))
            connection.execute(delete(batches).where(batches.c.id == batch_id))

    @staticmethod
    def _update(connection: Connection, batch: Batch, *conditions: Any, **values: Any) -> bool:
        is_unchanged = and_(
            batches.c.id == batch.id, batches.c.state == batch.state, batches.c.round == batch.round, *conditions
        )
        return connection.execute(update(batches).where(is_unchanged).values(**values)).rowcount == 1

    def _select(self, *conditions: Any, limit: int | None = None) -> list[Batch]:
        query = select(batches).where(*conditions).order_by(batches.c.at.desc(), batches.c.id.desc())
        with self._database.read() as connection:
            rows = connection.execute(query.limit(limit)).all()
        return list(map(_batch, rows))


def _batch(row: Any) -> Batch:
    return Batch(
        row.id,
        row.workflow,
        row.trigger,
        row.name,
        row.environment,
        datetime.fromtimestamp(row.at, UTC),
        row.origin,
        row.state,
        row.listed_to,
        row.round,
        row.problem,
        row.executor,
    )


_OLDEST_FIRST = select(batches).order_by(batches.c.at, batches.c.id)
_OPEN = CompiledQuery(
    _OLDEST_FIRST.where(batches.c.state != bindparam("ended"), batches.c.origin == bindparam("origin"))
)
_DONE = CompiledQuery(
    _OLDEST_FIRST.where(
        or_(batches.c.state == bindparam("ended"), batches.c.origin == bindparam("origin")),
        batches.c.at < bindparam("before"),
    )
    .limit(bindparam("limit"))
    .offset(literal_column("0"))  # for SQLite, SQLAlchemy adds an offset as a parameter of its own
)

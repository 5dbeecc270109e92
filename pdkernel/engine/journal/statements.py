"""
The SQL writes of the SQLite journal; each method runs inside the caller's transaction.

The row count of a statement decides which of several writers was first. Only statements about all runs of an owner or a
queue test `status = 'running'`: in frequent statements the planner would use the index on owner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from sqlite3 import Connection

from pdkernel.engine.journal.records import (
    FIRST_FENCE,
    Claim,
    ClaimedRun,
    NewRun,
    StepRow,
    WaitRow,
    escape_json_text,
    replace_unstorable,
)

_EXECUTOR_ALIVE = "exists (select 1 from executors where executors.id = :me and alive)"
_OWNED = f"id = :run and fence = :fence and owner = :me and {_EXECUTOR_ALIVE}"
_CLAIM_COLUMNS = "id, fence, attempt, workflow, version, event, external_user, environment"

# the SQL is made of constants only; every value is a parameter
_ACCEPT = (
    "insert into runs (id, trace_id, workflow, version, event, external_user, environment, status, owner,"
    " fence, attempt, queue, created)"
    " select :run, :trace, :workflow, :version, :event, :user, :environment, :status, :owner,"
    f" :fence, 1, :queue, :created where {_EXECUTOR_ALIVE} on conflict do nothing"
)
_APPEND = (
    "insert into steps (run_id, path, iteration, seq, name, fence, data, at)"  # noqa: S608
    " select :run, :path, :iteration, :seq, :name, :fence, :data, :at"
    f" from runs where {_OWNED} on conflict do nothing"
)
_EVENT = "event = coalesce(:event, event)"
_FINISH = f"update runs set status = :status, output = :output, ended = :at, owner = null, {_EVENT} where {_OWNED}"  # noqa: S608
_PARK = f"update runs set status = 'paused', wake_at = :wake_at, owner = null, {_EVENT} where {_OWNED}"  # noqa: S608
_CLAIM = (
    "update runs set status = 'running', owner = :me, fence = fence + 1"  # noqa: S608
    f" where id = :run and status = 'ready' and {_EXECUTOR_ALIVE} returning {_CLAIM_COLUMNS}"
)


@dataclass(frozen=True, slots=True)
class Statements:
    """
    The writes of one executor.

    Attributes:
        executor_id: The executor's id.
    """

    executor_id: str

    def register_executor(self, connection: Connection, slot: str, lease_until: float) -> bool:
        """Insert this executor's row."""
        connection.execute("insert into executors values (?, ?, ?, true)", (self.executor_id, slot, lease_until))
        return True

    def unregister_executor(self, connection: Connection) -> bool:
        """Delete this executor's row, unless it owns runs: then its lease expires and the runs are reaped."""
        done = connection.execute(
            "delete from executors where id = :me"
            " and not exists (select 1 from runs where owner = :me and status = 'running')",
            {"me": self.executor_id},
        )
        return done.rowcount == 1

    def heartbeat(self, connection: Connection, lease_until: float) -> bool:
        """Extend the lease, unless this executor was marked as dead."""
        done = connection.execute(
            "update executors set lease_until = ? where id = ? and alive", (lease_until, self.executor_id)
        )
        return done.rowcount == 1

    def deploy_definition(self, connection: Connection, workflow: str, definition: str) -> int:
        """Return the number of the definition, a new number for a new definition."""
        name = replace_unstorable(workflow)
        row = connection.execute(
            "select version from deployments where workflow = ? and definition = ? order by version desc limit 1",
            (name, definition),
        ).fetchone()
        if row is None:
            row = connection.execute(
                "insert into deployments select :name, coalesce(max(version), 0) + 1, :definition"
                " from deployments where workflow = :name returning version",
                {"name": name, "definition": definition},
            ).fetchone()
        return int(row[0])

    def accept_run(self, connection: Connection, run: NewRun, now: float) -> bool:
        """Insert the run: owned, or ready if it has a queue. Refused if the id exists or this executor is dead."""
        queued = run.queue is not None
        done = connection.execute(
            _ACCEPT,
            {
                "run": run.id,
                "trace": run.trace_id,
                "workflow": replace_unstorable(run.workflow),
                "version": run.version,
                "event": escape_json_text(run.event),
                "user": None if run.external_user is None else replace_unstorable(run.external_user),
                "environment": run.environment,
                "status": "ready" if queued else "running",
                "owner": None if queued else self.executor_id,
                "fence": 0 if queued else FIRST_FENCE,
                "queue": run.queue,
                "created": now if run.created is None else run.created,
                "me": self.executor_id,
            },
        )
        return done.rowcount == 1

    def append_step(
        self, connection: Connection, claim: Claim, row: StepRow, now: float, *, event: str | None = None
    ) -> bool:
        """
        Insert the step's row, and replace the run's event unless *event* is None.

        Returns:
            False if this executor does not own the run, or if the row exists already.
        """
        done = connection.execute(
            _APPEND,
            {
                "run": claim.run_id,
                "path": replace_unstorable(row.path),
                "iteration": row.iteration,
                "seq": row.seq,
                "name": replace_unstorable(row.name),
                "fence": claim.fence,
                "data": escape_json_text(row.data),
                "at": now,
                "me": self.executor_id,
            },
        )
        if done.rowcount != 1:
            return False
        if event is not None:
            connection.execute("update runs set event = ? where id = ?", (escape_json_text(event), claim.run_id))
        return True

    def finish(
        self,
        connection: Connection,
        claim: Claim,
        status: str,
        output: str,
        now: float,
        *,
        event: str | None = None,
    ) -> bool:
        """End the run if this executor owns it."""
        done = connection.execute(
            _FINISH,
            {
                "run": claim.run_id,
                "fence": claim.fence,
                "status": status,
                "output": escape_json_text(output),
                "at": now,
                "event": None if event is None else escape_json_text(event),
                "me": self.executor_id,
            },
        )
        return done.rowcount == 1

    def park(self, connection: Connection, claim: Claim, wait: WaitRow, *, event: str | None = None) -> bool:
        """Pause the run if this executor owns it, and insert its wait."""
        done = connection.execute(
            _PARK,
            {
                "run": claim.run_id,
                "fence": claim.fence,
                "wake_at": wait.wake_at,
                "event": None if event is None else escape_json_text(event),
                "me": self.executor_id,
            },
        )
        if done.rowcount != 1:
            return False
        connection.execute(
            "insert or replace into waits (run_id, path, iteration, fence, seq, token_hash) values (?, ?, ?, ?, ?, ?)",
            (claim.run_id, replace_unstorable(wait.path), wait.iteration, claim.fence, wait.seq, wait.token_hash),
        )
        return True

    def resolve_wait(
        self, connection: Connection, run_id: str, fence: int, outcome: str, payload: str | None, now: float
    ) -> bool:
        """Make the paused run ready and write the outcome of its wait; the first call wins by the run's status."""
        done = connection.execute(
            "update runs set status = 'ready', wake_at = null where id = ? and fence = ? and status = 'paused'",
            (run_id, fence),
        )
        if done.rowcount != 1:
            return False
        connection.execute(
            "update waits set outcome = ?, payload = ?, at = ? where run_id = ? and fence = ?",
            (outcome, None if payload is None else escape_json_text(payload), now, run_id, fence),
        )
        return True

    def wake_due(self, connection: Connection, now: float, limit: int) -> int:
        """Make runs ready whose pause has ended, with the outcome `timeout`. Return the number of runs."""
        rows = connection.execute(
            "select id, fence from runs where status = 'paused' and wake_at <= ? order by wake_at limit ?",
            (now, limit),
        ).fetchall()
        return sum(self.resolve_wait(connection, run_id, fence, "timeout", None, now) for run_id, fence in rows)

    def claim(self, connection: Connection, run_id: str) -> ClaimedRun | None:
        """Claim the ready run; None if another executor was first."""
        row = connection.execute(
            _CLAIM,
            {"run": run_id, "me": self.executor_id},
        ).fetchone()
        return None if row is None else ClaimedRun(Claim(*row[:3]), *row[3:])

    def claim_next(self, connection: Connection, queue: str | None, limit: int, now: float) -> Sequence[ClaimedRun]:
        """Claim the oldest ready runs of the queue, within its limits."""
        free = self._free(connection, queue, limit, now)
        ids = connection.execute(
            "select id from runs where status = 'ready' and queue is ? order by created, id limit ?", (queue, free)
        ).fetchall()
        claims = [claim for (run_id,) in ids if (claim := self.claim(connection, run_id)) is not None]
        connection.executemany(
            "insert into starts select :queue, :at where exists"
            " (select 1 from limits where limits.queue = :queue and per is not null)",
            [{"queue": queue, "at": now}] * len(claims),
        )
        return claims

    @staticmethod
    def _free(connection: Connection, queue: str | None, limit: int, now: float) -> int:
        row = connection.execute("select concurrency, per, period from limits where queue = ?", (queue,)).fetchone()
        if row is None:
            return limit
        concurrency, per, period = row
        if concurrency is not None:
            running = connection.execute(
                "select count(*) from runs where status = 'running' and queue = ?", (queue,)
            ).fetchone()[0]
            limit = min(limit, concurrency - running)
        if per is not None and period is not None:
            connection.execute("delete from starts where queue = ? and at <= ?", (queue, now - period))
            started = connection.execute("select count(*) from starts where queue = ?", (queue,)).fetchone()[0]
            limit = min(limit, per - started)
        return max(limit, 0)

    def set_queue_limits(
        self, connection: Connection, queue: str, concurrency: int | None, per: int | None, period: float | None
    ) -> None:
        """Set the limits of the queue."""
        connection.execute("insert or replace into limits values (?, ?, ?, ?)", (queue, concurrency, per, period))

    def cancel(self, connection: Connection, run_id: str, now: float) -> bool:
        """Cancel the run regardless of its owner, whose next write is refused."""
        done = connection.execute(
            "update runs set status = 'cancelled', ended = ?, owner = null, wake_at = null"
            " where id = ? and status in ('ready', 'paused', 'running')",
            (now, run_id),
        )
        return done.rowcount == 1

    def reap_expired(self, connection: Connection, now: float) -> int:
        """Mark executors with an expired lease as dead and make their runs ready."""
        dead = connection.execute(
            "update executors set alive = false where alive and lease_until < ? returning id", (now,)
        ).fetchall()
        return sum(
            connection.execute(
                "update runs set status = 'ready', owner = null, attempt = attempt + 1"
                " where owner = ? and status = 'running'",
                owner,
            ).rowcount
            for owner in dead
        )

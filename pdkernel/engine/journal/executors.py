"""The SQL about executors: processes that own runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pdkernel.engine.journal.backend import Connection
from pdkernel.engine.journal.rows import Begun, Claim
from pdkernel.engine.journal.text_columns import INTERRUPTED_OUTPUT

CONTINUED_ORIGIN = "serve"
"""
The origin whose runs others continue after the end of their process.

A run of another origin has a user, who starts it again.
"""

EXECUTOR_ALIVE = "exists (select 1 from executors where executors.id = :me and alive)"
"""The condition of each write: this executor was not taken for dead."""

_HAS_DEAD_OWNER = "status = 'running' and owner not in (select id from executors where alive)"
"""Runs whose owner is dead; an owner without a row has ended without its runs."""
MADE_READY = "status = 'ready', owner = null, attempt = attempt + case when begun > 0 then 1 else 0 end, begun = 0"
"""What an owner leaves: a step that may have started is repeated as the next attempt; a run that only waited has made none."""
_UNLOCKED = "/*postgres for update skip locked*/"
"""A frozen process may hold locks for a while."""


@dataclass(frozen=True, slots=True)
class ExecutorStatements:
    """
    The writes about executors.

    Attributes:
        executor_id: The id of this executor.
        origin: The origin of the runs that it accepts and continues.
    """

    executor_id: str
    origin: str

    def register_executor(self, connection: Connection) -> bool:
        """Insert this executor's row."""
        connection.execute("insert into executors values (?, ?, null, true, false)", (self.executor_id, self.origin))
        return True

    def unregister_executor(self, connection: Connection) -> bool:
        """Delete this executor's row, unless it owns runs: then it is reaped."""
        done = connection.execute(
            "delete from executors where id = :me"
            " and not exists (select 1 from runs where owner = :me and status = 'running')",
            {"me": self.executor_id},
        )
        return done.rowcount == 1

    def announce_end(self, connection: Connection) -> bool:
        """Record that this executor was told to end: if its process is killed meanwhile, no run is to blame."""
        connection.execute("update executors set ending = true where id = ?", (self.executor_id,))
        return True

    def release_runs(self, connection: Connection, executor: str) -> int:
        """Make the served runs of *executor*, which lives and has stopped executing them, ready. Return their number."""
        return connection.execute(
            f"update runs set {MADE_READY} where owner = ? and status = 'running' and origin = ?",  # noqa: S608 - constants only
            (executor, CONTINUED_ORIGIN),
        ).rowcount

    def revoke_death(self, connection: Connection, executor: str) -> None:
        """Forget the interruptions by the death of *executor*, which others have taken for dead and which lives."""
        connection.execute("delete from interruptions where executor = ?", (executor,))

    @staticmethod
    def owned_runs(connection: Connection, executor: str) -> Sequence[Claim]:
        """Return the claims of the runs that *executor* owns."""
        rows = connection.execute(
            "select id, fence, attempt from runs where status = 'running' and owner = ?", (executor,)
        )
        return [Claim(*row) for row in rows]

    def living_executors(self, connection: Connection, origin: str | None = None) -> Sequence[str]:
        """Return the ids of the other executors, all or those of *origin*, that are not marked as dead."""
        rows = connection.execute(
            "select id from executors where alive and id <> :me and origin = coalesce(:origin, origin)",
            {"me": self.executor_id, "origin": origin},
        )
        return [executor for (executor,) in rows]

    def bury(self, connection: Connection, executors: Sequence[str], now: float) -> int:
        """
        Mark *executors* as dead. Their served runs are ready; the others end as interrupted.

        A served run that had begun was interrupted, which is recorded with whether it was alone, unless its executor was told to end:
        see `MAX_INTERRUPTIONS`. Messages of served runs that *executors* were sending are due at once.

        So do the runs of executors that had been marked or removed before: a run may be accepted at the moment of its
        executor's end.

        Returns:
            The number of runs that are ready.
        """
        connection.executemany(
            "update executors set alive = false where id = ?", [(executor,) for executor in executors]
        )
        # an owner without a row has left in order, and a run was accepted at that moment
        left = connection.execute(
            "select id, owner, begun, coalesce((select ending from executors e where e.id = owner), true) from runs"  # noqa: S608
            f" where {_HAS_DEAD_OWNER} and origin = ? {_UNLOCKED}",
            (CONTINUED_ORIGIN,),
        ).fetchall()
        connection.executemany(
            "insert into interruptions (run_id, executor, alone) values (?, ?, ?) on conflict do nothing",
            [(run, owner, begun == Begun.ALONE) for run, owner, begun, was_ending in left if begun and not was_ending],
        )
        connection.executemany(f"update runs set {MADE_READY} where id = ?", [(run,) for run, *_ in left])  # noqa: S608
        connection.execute(
            "update outbox set due = 0, owner = null where due is not null"
            " and owner not in (select id from executors where alive) and run_id in (select id from runs where origin = ?)",
            (CONTINUED_ORIGIN,),
        )
        connection.execute(
            "update runs set status = 'error', owner = null, ended = ?, output = ?"  # noqa: S608 - constants only
            f" where id in (select id from runs where {_HAS_DEAD_OWNER} {_UNLOCKED})",
            (now, INTERRUPTED_OUTPUT),
        )
        connection.execute("delete from executors where not alive")
        return len(left)

"""The SQL about executors: processes that own runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pdkernel.engine.journal.backend import Connection
from pdkernel.engine.journal.text_columns import GIVEN_UP_OUTPUT, INTERRUPTED_OUTPUT

_CONTINUED_ORIGIN = "serve"
"""
The origin whose runs others continue after the end of their process.

A run of another origin has a user, who starts it again.
"""

EXECUTOR_ALIVE = "exists (select 1 from executors where executors.id = :me and alive)"
"""The condition of each write: this executor was not taken for dead."""

_HAS_DEAD_OWNER = "status = 'running' and owner not in (select id from executors where alive)"
"""Runs whose owner is dead; an owner without a row has ended without its runs."""
MAX_INTERRUPTIONS = 10
"""A run is given up after so many processes have ended during the same step, because the step may end them."""
_ENDS_PROCESSES = "attempt >= :most - 1 + (select coalesce(max(s.attempt), 1) from steps s where s.run_id = runs.id)"
"""Whether a run has had so many attempts since its last recorded step."""
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
        connection.execute("insert into executors values (?, ?, null, true)", (self.executor_id, self.origin))
        return True

    def unregister_executor(self, connection: Connection) -> bool:
        """Delete this executor's row, unless it owns runs: then it is reaped."""
        done = connection.execute(
            "delete from executors where id = :me"
            " and not exists (select 1 from runs where owner = :me and status = 'running')",
            {"me": self.executor_id},
        )
        return done.rowcount == 1

    def living_executors(self, connection: Connection, origin: str | None = None) -> Sequence[str]:
        """Return the ids of the other executors, all or those of *origin*, that are not marked as dead."""
        rows = connection.execute(
            "select id from executors where alive and id <> :me and origin = coalesce(:origin, origin)",
            {"me": self.executor_id, "origin": origin},
        )
        return [executor for (executor,) in rows]

    def bury(self, connection: Connection, executors: Sequence[str], now: float) -> int:
        """
        Mark *executors* as dead. Their served runs are ready for the next attempt; the others end as interrupted.

        A served run that was interrupted `MAX_INTERRUPTIONS` times in the same step ends too. Messages of served runs that
        *executors* were sending are due at once.

        So do the runs of executors that had been marked or removed before: a run may be accepted at the moment of its
        executor's end.

        Returns:
            The number of runs that are ready.
        """
        connection.executemany(
            "update executors set alive = false where id = ?", [(executor,) for executor in executors]
        )
        connection.execute(
            "update runs set status = 'error', owner = null, ended = :now, output = :output"  # noqa: S608 - constants only
            f" where id in (select id from runs where {_HAS_DEAD_OWNER} and origin = :origin and {_ENDS_PROCESSES} {_UNLOCKED})",
            {"now": now, "output": GIVEN_UP_OUTPUT, "origin": _CONTINUED_ORIGIN, "most": MAX_INTERRUPTIONS},
        )
        ready = connection.execute(
            "update runs set status = 'ready', owner = null, attempt = attempt + 1"  # noqa: S608 - constants only
            f" where id in (select id from runs where {_HAS_DEAD_OWNER} and origin = ? {_UNLOCKED})",
            (_CONTINUED_ORIGIN,),
        ).rowcount
        connection.execute(
            "update outbox set due = 0, owner = null where due is not null"
            " and owner not in (select id from executors where alive) and run_id in (select id from runs where origin = ?)",
            (_CONTINUED_ORIGIN,),
        )
        connection.execute(
            "update runs set status = 'error', owner = null, ended = ?, output = ?"  # noqa: S608 - constants only
            f" where id in (select id from runs where {_HAS_DEAD_OWNER} {_UNLOCKED})",
            (now, INTERRUPTED_OUTPUT),
        )
        connection.execute("delete from executors where not alive")
        return ready

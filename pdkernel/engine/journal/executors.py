"""
The executors of a SQLite journal: processes that own runs.

Each executor holds a lock on a file of its own; the operating system releases the lock when the process ends, however it
ends. So a free lock means that the executor is dead.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import Connection

from pdkernel.engine.journal.protocol import ExecutorLiveness
from pdkernel.engine.journal.text_columns import INTERRUPTED_OUTPUT
from pdkernel.errors import RequestError

EXCLUSIVE_ORIGINS = ("serve",)
"""Origins of which one process may open a file at a time: runs of another would be taken for those of a dead process."""

_CONTINUED_ORIGIN = "serve"
"""Runs of this origin are continued after the end of their process; another process's user watches the run and starts it again."""

_ORIGIN_WAIT_S = 0.5
"""Seconds in which a killed server's lock is released: a worker that it was just starting shares its files for a moment."""

EXECUTOR_ALIVE = "exists (select 1 from executors where executors.id = :me and alive)"
"""The condition of each write: this executor was not taken for dead."""


class ExecutorLocks:
    """`ExecutorLiveness` by locked files in *folder*."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, int] = {}

    def hold(self, executor_id: str) -> None:
        """Lock the executor's file."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._held[executor_id] = self._lock(executor_id, os.O_CREAT)

    def release(self, executor_id: str) -> None:
        """Remove the executor's file. A second call does nothing."""
        descriptor = self._held.pop(executor_id, None)
        if descriptor is not None:
            with contextlib.suppress(OSError):
                (self._folder / executor_id).unlink()
            os.close(descriptor)

    def is_alive(self, executor_id: str) -> bool:
        """Return whether the executor's file is locked; remove a file that is not."""
        try:
            descriptor = self._lock(executor_id)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        with contextlib.suppress(OSError):
            (self._folder / executor_id).unlink()
        os.close(descriptor)
        return False

    def _lock(self, executor_id: str, flags: int = 0) -> int:
        """Lock the executor's file, and return its descriptor."""
        file = self._folder / executor_id
        while True:
            descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                raise
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), file.stat()):
                    return descriptor
            os.close(descriptor)  # the process that held the lock has removed this file


def hold_origin(liveness: ExecutorLiveness, origin: str, path: Path) -> None:
    """Become the only executor of *origin*. Raises `RequestError` if another process has it."""
    ends = time.monotonic() + _ORIGIN_WAIT_S
    while True:
        try:
            liveness.hold(origin)
        except BlockingIOError:
            if time.monotonic() < ends:
                time.sleep(0.02)
                continue
            raise RequestError(
                f"Another `pdkernel serve` serves the project in {path}. One process serves a project on SQLite.",
                fix="Stop the other server, or serve its workflows with it: pdkernel serve SOURCE SOURCE",
            ) from None
        return


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

        Returns:
            The number of runs that are ready.
        """
        ready = 0
        for executor in executors:
            connection.execute("update executors set alive = false where id = ?", (executor,))
            ready += connection.execute(
                "update runs set status = 'ready', owner = null, attempt = attempt + 1"
                " where owner = ? and status = 'running' and origin = ?",
                (executor, _CONTINUED_ORIGIN),
            ).rowcount
            connection.execute(
                "update outbox set due = 0 where tries = 0 and due is not null"
                " and run_id in (select id from runs where origin = ? and owner is null)",
                (_CONTINUED_ORIGIN,),
            )
            connection.execute(
                "update runs set status = 'error', owner = null, ended = ?, output = ? where owner = ? and status = 'running'",
                (now, INTERRUPTED_OUTPUT, executor),
            )
        connection.execute("delete from executors where not alive")
        return ready

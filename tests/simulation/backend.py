"""A journal's database that fails: before a commit, after it, for a while, or because its disk is full."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import OperationalError

from pdkernel.errors import ProjectError
from pdkernel.journal.backend import Write
from pdkernel.journal.sqlite import SqliteBackend, SqliteSnapshots, SqliteTransactions
from tests.simulation.loop import InjectedBug, SimLoop, SimProcess
from tests.simulation.operations import FAULT_S


class Disk:
    """
    The disk of a host, with its faults.

    Args:
        faults_at: Receives the virtual times in which a commit that is held has effects.

    Attributes:
        is_full: Every commit fails.
        failing: How many of the next commits fail before they are made.
        is_losing: Whether the process dies at its next commit, which is made, before it knows.
        stall_s: How long the process is held at its next commit, in virtual seconds.
    """

    def __init__(self, faults_at: list[tuple[float, float]]) -> None:
        self._faults_at = faults_at
        self.is_full = False
        self.failing = 0
        self.is_losing = False
        self.stall_s = 0.0

    def attach(self, engine: Engine, process: SimProcess, loop: SimLoop, kill: Callable[[], None]) -> None:
        """Let the transactions of the project's tables have the faults, too."""

        def commit(connection: Connection) -> None:
            if process.is_dead or self.takes_failure():
                raise OperationalError("commit", None, _full())
            self.hold(process, loop)
            if self.is_losing:
                self.is_losing = False
                cast("sqlite3.Connection", connection.connection.dbapi_connection).commit()
                kill()

        event.listen(engine, "commit", commit)

    def takes_failure(self) -> bool:
        """Return whether the next commit fails."""
        if self.is_full or not self.failing:
            return self.is_full
        self.failing -= 1
        return True

    def hold(self, process: SimProcess, loop: SimLoop) -> None:
        """Hold *process* at its commit if the disk stalls."""
        if self.stall_s:
            self._faults_at.append((loop.time(), loop.time() + self.stall_s + FAULT_S))
            loop.freeze(process, self.stall_s)
            self.stall_s = 0.0


class Liveness:
    """Who is alive, as the locks of the operating system show it; implements `ExecutorLiveness`."""

    def __init__(self, holders: dict[str, SimProcess], process: SimProcess) -> None:
        self._holders = holders
        self._process = process

    def hold(self, executor_id: str) -> None:
        """Hold the lock of an executor. Raises `BlockingIOError`."""
        if self.is_alive(executor_id) and self._holders[executor_id] is not self._process:
            raise BlockingIOError
        self._holders[executor_id] = self._process

    def release(self, executor_id: str) -> None:
        """Release it."""
        if self._holders.get(executor_id) is self._process:
            del self._holders[executor_id]

    def is_alive(self, executor_id: str) -> bool:
        """Whether a living process holds it."""
        holder = self._holders.get(executor_id)
        return holder is not None and not holder.is_dead


class FaultyBackend(SqliteBackend):
    """
    A journal in a SQLite file on a faulty disk.

    Args:
        path: The file.
        holders: The locks of all processes.
        process: The process that opens it.
        disk: The disk.
        loop: The loop.
        kill: Ends the process at once.
    """

    def __init__(
        self,
        path: Path,
        holders: dict[str, SimProcess],
        process: SimProcess,
        disk: Disk,
        loop: SimLoop,
        kill: Callable[[], None],
        *,
        max_inline_commit_s: float = float("inf"),  # every commit is one of the loop
    ) -> None:
        super().__init__(path, liveness=Liveness(holders, process), max_inline_commit_s=max_inline_commit_s)
        self._file, self._process, self._disk, self._loop, self._kill = path, process, disk, loop, kill

    def open_transactions(self) -> FaultyTransactions:
        """Open a connection for writes."""
        connection = self._take_connection()
        return FaultyTransactions(self._file, self._process, self._disk, self._loop, self._kill, connection=connection)

    def open_snapshots(self) -> FaultySnapshots:
        """Open a connection for reads."""
        return FaultySnapshots(self._file, self._process)


class FaultyTransactions(SqliteTransactions):
    """The commits of one process."""

    def __init__(
        self,
        path: Path,
        process: SimProcess,
        disk: Disk,
        loop: SimLoop,
        kill: Callable[[], None],
        *,
        connection: sqlite3.Connection | None = None,
    ) -> None:
        super().__init__(path, connection=connection)
        self._process, self._disk, self._loop, self._kill = process, disk, loop, kill

    def commit(self, batch: Sequence[Write], *, begun: bool) -> float | None:
        """Commit *batch*, unless the disk fails."""
        disk = self._disk
        if self._loop.time() < self._process.defect_until:
            self._fail(batch, InjectedBug(), begun=begun)
            return None
        if self._process.is_dead or disk.takes_failure():
            self._fail(batch, _error(self._path), begun=begun)
            return None
        disk.hold(self._process, self._loop)
        seconds = super().commit(batch, begun=begun)
        if disk.is_losing:
            disk.is_losing = False
            self._kill()
        return seconds

    def _fail(self, batch: Sequence[Write], fault: Exception, *, begun: bool) -> None:
        if begun:
            self._connection.execute("rollback")
        for write in batch:
            write.fault = fault


class FaultySnapshots(SqliteSnapshots):
    """The reads of one process."""

    def __init__(self, path: Path, process: SimProcess) -> None:
        super().__init__(path)
        self._process = process


def _error(path: Path) -> ProjectError:
    error = ProjectError(f"The project in {path} cannot be written: database or disk is full.")
    error.__cause__ = _full()
    return error


def _full() -> sqlite3.OperationalError:
    return sqlite3.OperationalError("database or disk is full")

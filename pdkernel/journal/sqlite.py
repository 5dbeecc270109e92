"""
A SQLite file that holds a journal; it may be the project's file, and several processes may open it.

Each executor holds a lock on a file of its own; the operating system releases the lock when the process ends, however it
ends. So a free lock means that the executor is dead.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from pdkernel.common.clock import SteadyClock
from pdkernel.errors import RequestError
from pdkernel.journal.backend import Connection, ExecutorLiveness, Presence, Write
from pdkernel.journal.ownership import CONTINUED_ORIGIN, OwnershipStatements
from pdkernel.journal.schema import JOURNAL_SCHEMA
from pdkernel.storage.journal_mark import JournalMark
from pdkernel.storage.migration import Schema, expect_version
from pdkernel.storage.sqlite import BUSY_TIMEOUT_S, connect, creation_statements, is_busy, translate_error

T = TypeVar("T")

MAX_INLINE_COMMIT_S = 0.002
"""Seconds that a commit may block an event loop, as a moving average."""

INLINE_RETRY_S = 0.25
"""Seconds until a loop commits by itself again after slow commits."""

EXCLUSIVE_ORIGINS = ("serve",)
"""Origins of which one process may open a file at a time: runs of another would be taken for those of a dead process."""

ORIGIN_WAIT_S = 2.0
"""Seconds in which a killed server's lock is released: a worker that it was just starting shares its files for a moment."""

MAX_FREE_SHARE = 0.1
"""The share of a file's pages that stay free for new runs."""

RELEASED_PAGES = 128
"""Pages by which one transaction shortens a file: moving them takes some milliseconds."""


class SqliteBackend:
    """
    `Backend` for one SQLite file.

    Args:
        path: The project's SQLite file, or another file.
        liveness: Shows that an executor lives; None locks a file in the folder `executors-NAME` beside the file.
        max_inline_commit_s: While commits take fewer seconds, the event loop commits without a thread.
        inline_retry_s: After slower commits, the event loop commits again after so many seconds.
        origin_wait_s: Seconds to wait for the end of another process that has the origin.
        permit_migration: Raises an error if tables of an earlier version must not be changed now.
        mark: The mark of the project's journal, or None.
        schema: The tables.
    """

    is_shared = False

    def __init__(
        self,
        path: Path,
        *,
        liveness: ExecutorLiveness | None = None,
        max_inline_commit_s: float = MAX_INLINE_COMMIT_S,
        inline_retry_s: float = INLINE_RETRY_S,
        origin_wait_s: float = ORIGIN_WAIT_S,
        permit_migration: Callable[[], object] = lambda: None,
        mark: JournalMark | None = None,
        schema: Schema = JOURNAL_SCHEMA,
    ) -> None:
        self.location = str(path)
        self.max_inline_commit_s = max_inline_commit_s
        self.inline_retry_s = inline_retry_s
        self._path = path
        self._origin_wait_s = origin_wait_s
        self._permit_migration = permit_migration
        self._mark = mark
        self._schema = schema
        self._liveness = liveness or ExecutorLocks(path.with_name(f"executors-{path.stem}"))
        # the connection of the last step of opening: SQLite parses the schema anew for each connection
        self._idle: sqlite3.Connection | None = None

    def create_tables(self) -> None:
        """Create missing tables, or change those of an earlier version, in one transaction."""
        with self._opening() as connection:
            if (version := _read_version(connection)) == self._schema.version:
                return
            if version:
                self._schema.check(version, self._path)
                self._permit_migration()
            connection.execute("begin immediate")
            changes = creation_statements(self._schema.metadata)
            if version := _read_version(connection):  # another process may have been first
                self._schema.check(version, self._path)
                changes = self._schema.statements_after(version)
            for statement in changes:
                connection.execute(statement)
            connection.execute(f"pragma user_version = {self._schema.version}")
            connection.execute("commit")

    def enter(self, executor_id: str, origin: str, clock: SteadyClock) -> Presence:
        """Insert the row of an executor, and lock its file. Raises `RequestError` if another process has the origin."""
        with contextlib.ExitStack() as undo:
            undo.callback(self._close_connection)
            if origin in EXCLUSIVE_ORIGINS:
                _hold_origin(self._liveness, origin, self._path, self._origin_wait_s)
                undo.callback(self._liveness.release, origin)
            # the lock comes before the row, because others take an executor without a lock for dead
            self._liveness.hold(executor_id)
            undo.callback(self._liveness.release, executor_id)
            statements = OwnershipStatements(executor_id, origin)
            with self._opening() as connection:
                statements.register_executor(connection)
            undo.pop_all()
        return SqlitePresence(statements, self._liveness, clock, self._path)

    def end_interrupted(self, now: float) -> None:
        """End the runs of commands and notebooks whose process has ended."""
        with self._opening() as connection:
            rows = connection.execute("select id from executors where alive and origin <> ?", (CONTINUED_ORIGIN,))
            dead = [executor for (executor,) in rows.fetchall() if not self._liveness.is_alive(executor)]
            if dead:
                connection.execute("begin immediate")
                OwnershipStatements("", "").bury(connection, dead, now)
                connection.execute("commit")

    def open_transactions(self) -> SqliteTransactions:
        """Open a connection for writes."""
        return SqliteTransactions(self._path, self._mark, connection=self._take_connection())

    def open_snapshots(self) -> SqliteSnapshots:
        """Open a connection for reads."""
        return SqliteSnapshots(self._path, connection=self._take_connection())

    def release_space(self, connection: Connection) -> bool:
        """Cut some pages off the file, unless it has few free ones. A file of an earlier version keeps all its pages."""
        free = _read_number(connection, "freelist_count")
        if free <= MAX_FREE_SHARE * _read_number(connection, "page_count"):
            return False
        for _ in range(RELEASED_PAGES):  # for a larger number, Python does not run the statement to its end
            connection.execute("pragma incremental_vacuum(1)")
        return _read_number(connection, "freelist_count") < free

    @contextlib.contextmanager
    def _opening(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection for a step of opening the journal, which the next step uses. Raises `ProjectError`."""
        connection = self._take_connection() or connect(self._path)
        try:
            yield connection
        except BaseException as fault:
            connection.close()
            if isinstance(fault, sqlite3.Error):
                raise translate_error(fault, self._path) from fault
            raise
        self._idle = connection

    def _close_connection(self) -> None:
        if (connection := self._take_connection()) is not None:
            connection.close()

    def _take_connection(self) -> sqlite3.Connection | None:
        """Take the connection of the last step of opening, if there is one."""
        connection, self._idle = self._idle, None
        return connection


class SqlitePresence:
    """`Presence` by the locks of an executor."""

    lease_s: float | None = None
    is_lost = False
    may_start = True
    grace_s = 0.0

    def __init__(
        self, statements: OwnershipStatements, liveness: ExecutorLiveness, clock: SteadyClock, path: Path
    ) -> None:
        self._path = path
        self.clock = clock
        self._statements = statements
        self._liveness = liveness

    def steady_time(self) -> float:
        """Return the monotonic time, which all processes of a machine share; it begins anew when the machine starts."""
        return self.clock.monotonic()

    def find_dead(self, connection: Connection) -> Sequence[str]:
        """Return the executors whose lock is free."""
        executors = self._statements.living_executors(connection)
        return [executor for executor in executors if not self._liveness.is_alive(executor)]

    def confirm_dead(self, connection: Connection, executors: Sequence[str]) -> Sequence[str]:  # noqa: ARG002
        """Return *executors*: an executor that has released its lock has ended."""
        return executors

    def has_living(self, connection: Connection, origin: str) -> bool:
        """Return whether another living executor has that origin."""
        return any(map(self._liveness.is_alive, self._statements.living_executors(connection, origin)))

    def has_lapsed(self, connection: Connection) -> bool:  # noqa: ARG002
        """Return False: a process that holds its lock lives, however silent it is."""
        return False

    def announce(self, connection: Connection) -> None:
        """Do nothing: other processes read the file."""

    def on_change(self, callback: Callable[[], None]) -> None:
        """Do nothing: other processes send no messages."""

    def check_version(self, connection: Connection, *, exactly: bool) -> None:  # noqa: ARG002 - costs a microsecond
        """Raise `ProjectError` if a newer version has changed the tables."""
        expect_version(_read_version(connection), self._path, supported=JOURNAL_SCHEMA.version)

    def register(self, connection: Connection, executor_id: str) -> None:
        """Do nothing: an executor without a lease keeps its row."""

    def expire(self, connection: Connection) -> None:
        """Do nothing: `close` releases the lock."""

    def follow(self, executor_id: str) -> None:
        """Do nothing: the executor stays the same."""

    def close(self) -> None:
        """Release the locks."""
        self._liveness.release(self._statements.executor_id)
        if self._statements.origin in EXCLUSIVE_ORIGINS:
            self._liveness.release(self._statements.origin)


class SqliteTransactions:
    """`Transactions` on one file; other processes may write it too."""

    def __init__(
        self, path: Path, mark: JournalMark | None = None, *, connection: sqlite3.Connection | None = None
    ) -> None:
        self._path = path
        self._mark = mark
        self._connection = connection or connect(path)
        self._waits_when_busy = True

    def try_begin(self) -> bool:
        """Begin a transaction; return False if another process writes."""
        self._set_busy_wait(patient=False)
        try:
            self._connection.execute("begin immediate")
        except sqlite3.Error as fault:
            if isinstance(fault, sqlite3.OperationalError) and is_busy(fault):
                return False
            raise self._translate_error(fault) from fault
        return True

    def commit(self, batch: Sequence[Write], *, begun: bool) -> float | None:
        """Commit *batch* in one transaction; a failed write is rolled back alone."""
        connection = self._connection
        try:
            if not begun:
                self._set_busy_wait(patient=True)
                connection.execute("begin immediate")
            is_alone = len(batch) == 1
            for write in batch:
                self._perform(write, is_alone=is_alone)
                if write.fault is not None and is_alone:
                    raise write.fault
                if not connection.in_transaction:  # a full disk rolls back the transaction, not only the statement
                    raise write.fault or sqlite3.OperationalError("the transaction ended early")
            if self._mark is not None:
                self._mark.advance(connection)
            began = time.monotonic()
            connection.execute("commit")
        except Exception as fault:  # noqa: BLE001 - the thread must go on; the callers' futures get the error
            if self._mark is not None:
                self._mark.forget()
            if connection.in_transaction:
                connection.execute("rollback")
            for write in batch:
                write.fault = self._translate_error(fault)
            return None
        seconds = time.monotonic() - began
        if self._mark is not None:
            self._mark.store()
        return seconds

    def hurry(self) -> None:
        """Do nothing: a file needs no connection."""

    @property
    def is_unmarked(self) -> bool:
        """Whether the mark does not cover the last commit, although it is time for a mark."""
        return self._mark is not None and self._mark.is_behind and self._mark.is_due

    def close(self) -> None:
        """Let the mark cover every commit, and close the file."""
        if self._mark is not None and self._mark.is_behind:
            with contextlib.suppress(sqlite3.Error):  # the database cannot be written: the earlier mark is right
                self._connection.execute("begin immediate")
                self._mark.advance(self._connection, always=True)
                self._connection.execute("commit")
                self._mark.store()
        self._connection.close()

    def _set_busy_wait(self, *, patient: bool) -> None:
        """Set whether SQLite waits while another process writes."""
        if patient is not self._waits_when_busy:
            self._connection.execute(f"pragma busy_timeout = {BUSY_TIMEOUT_S * 1000 if patient else 0:.0f}")
            self._waits_when_busy = patient

    def _perform(self, write: Write, *, is_alone: bool) -> None:
        connection = self._connection
        needs_savepoint = write.is_compound and not is_alone  # to roll back this write alone
        try:
            if needs_savepoint:
                connection.execute("savepoint one")
            write.result = write.act(connection)
            if needs_savepoint:
                connection.execute("release one")
        except Exception as fault:  # noqa: BLE001 - the caller's future gets the error
            write.fault = self._translate_error(fault)
            if needs_savepoint and connection.in_transaction:
                connection.execute("rollback to one")
                connection.execute("release one")

    def _translate_error(self, fault: Exception) -> Exception:
        """Return the error for the callers; an error of SQLite becomes a `ProjectError`."""
        if not isinstance(fault, sqlite3.Error):
            return fault
        translated = translate_error(fault, self._path)
        translated.__cause__ = fault
        return translated


class SqliteSnapshots:
    """`Snapshots` of one file."""

    def __init__(self, path: Path, *, connection: sqlite3.Connection | None = None) -> None:
        self._path = path
        self._connection = connection or connect(path)

    def read(self, query: Callable[[Connection], T]) -> T:
        """Return the result of *query*, which reads one snapshot."""
        connection = self._connection
        try:
            connection.execute("begin")  # one snapshot for all statements
            try:
                return query(connection)
            finally:
                connection.execute("rollback")
        except sqlite3.Error as fault:
            raise translate_error(fault, self._path) from fault

    def version(self) -> str:
        """Return a text that differs whenever another connection has changed the file."""
        return self.read(lambda connection: str(connection.execute("pragma data_version").fetchone()[0]))

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


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


def _hold_origin(liveness: ExecutorLiveness, origin: str, path: Path, wait_s: float) -> None:
    """Become the only executor of *origin*, perhaps after *wait_s* seconds. Raises `RequestError` if another process has it."""
    ends = time.monotonic() + wait_s
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


def _read_version(connection: Connection | sqlite3.Connection) -> int:
    """Return the version of the tables, 0 without tables."""
    return _read_number(connection, "user_version")


def _read_number(connection: Connection | sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"pragma {pragma}").fetchone()[0])

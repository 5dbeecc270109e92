"""
A database that several simulated hosts share, as they share one on PostgreSQL: leases, notifications, and links that can be cut.

SQLite stores the rows. A lease is the real one (`ExecutorLease`), in the time of the database; a beat of the loop extends it,
where on PostgreSQL a thread does.
"""

from __future__ import annotations

import contextlib
import math
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextvars import copy_context
from pathlib import Path
from typing import Any, Self

from pdkernel.common.clock import SteadyClock
from pdkernel.errors import DatabaseUnreachableError
from pdkernel.journal.backend import Write
from pdkernel.journal.lease import DATABASE_TIME, ExecutorLease
from pdkernel.journal.ownership import OwnershipStatements
from pdkernel.journal.schema import JOURNAL_SCHEMA
from pdkernel.storage import Project
from pdkernel.storage.sqlite import connect
from tests.simulation.backend import Disk, FaultyBackend, FaultyTransactions
from tests.simulation.loop import EPOCH, PROCESS, SimLoop, SimProcess

LEASE_S = 10.0
"""Seconds after which an executor that does not extend its lease is taken for dead."""
BEAT_S = 1.0
"""Seconds between two extensions."""
SILENCE_S = 5.0
"""Seconds after which a read of a database that does not answer fails."""
_EPOCH_IN_SQLITE = "CAST(STRFTIME('%s', clock_timestamp()) AS INTEGER)"
"""What SQLAlchemy writes for SQLite where it writes `extract(epoch from clock_timestamp())` for PostgreSQL."""
MESSAGE_S = 0.005
"""Seconds that a notification takes."""


class SimDatabase:
    """
    The server of a database.

    Attributes:
        loop: The loop, whose time is that of the database.
        leases: The leases of living processes.
        down_since: The virtual time since when it has not answered, if it is down.
        down_until: It does not answer before that virtual time.
        hangs: Whether, while it is down, it is silent; else it refuses connections.
    """

    def __init__(self, loop: SimLoop) -> None:
        self.loop = loop
        self.leases: list[SimLease] = []
        self._connections: list[LinkedConnection] = []
        self.down_since, self.down_until = math.inf, 0.0
        self.hangs = False

    def stop(self, seconds: float, *, hangs: bool) -> None:
        """Answer nothing for a while."""
        if self.down_until <= self.loop.time():
            self.down_since = self.loop.time()
        self.down_until = max(self.down_until, self.loop.time() + seconds)
        self.hangs = hangs

    def time(self) -> float:
        """Return the time of the database, in seconds since 1970."""
        return EPOCH.timestamp() + self.loop.time()

    def notify(self, sender: str) -> None:
        """Send a notification of the executor *sender* to all processes whose link is not cut."""
        for lease in self.leases:
            if not lease.link.is_down:
                self.loop.call_later(MESSAGE_S, lease.receive, sender, context=lease.context.copy())

    def prepare(self, file: Path) -> None:
        """Store what the tables on PostgreSQL have and those in a file do not."""
        with contextlib.closing(connect(file)) as connection:
            connection.execute("insert into meta values ('journal_schema_version', ?)", (str(JOURNAL_SCHEMA.version),))

    @contextlib.contextmanager
    def connected(self) -> Iterator[None]:
        """A block in which connections to the file are connections to this database."""
        before = sqlite3.connect

        def connect_linked(
            *args: Any, factory: type[sqlite3.Connection] = sqlite3.Connection, **settings: Any
        ) -> LinkedConnection:
            connection = before(*args, factory=_linked(factory), **settings)
            assert isinstance(connection, LinkedConnection)
            connection.join(self)
            self._connections.append(connection)
            return connection

        vars(sqlite3)["connect"] = connect_linked
        try:
            yield
        finally:
            vars(sqlite3)["connect"] = before

    def close(self) -> None:
        """Close the connections of dead processes, too, which their functions would keep open."""
        for connection in self._connections:
            connection.close()


class Link:
    """
    The way from one host to the database.

    Attributes:
        cut_at: The virtual time at which it was cut last.
        cut_until: It is cut until that virtual time.
        hangs: Whether, while it is cut, statements get no answer; else connections are refused.
        cut_after_commit_s: For so many seconds it is cut when the next commit was made, before the answer.
    """

    def __init__(self, database: SimDatabase) -> None:
        self.cut_at, self.cut_until = math.inf, 0.0
        self.hangs = False
        self.cut_after_commit_s = 0.0
        self._database = database

    @property
    def is_down(self) -> bool:
        """Whether no statement reaches the database."""
        return self._database.loop.time() < self.heals_at

    @property
    def heals_at(self) -> float:
        """The virtual time from which statements reach the database."""
        return max(self.cut_until, self._database.down_until)

    @property
    def down_since(self) -> float:
        """The virtual time since when no statement reaches the database, `inf` if they do."""
        now, database = self._database.loop.time(), self._database
        times = (self.cut_at, self.cut_until), (database.down_since, database.down_until)
        return min((began for began, until in times if now < until), default=math.inf)

    def cut(self, seconds: float, *, hangs: bool) -> None:
        """Cut the link."""
        now = self._database.loop.time()
        if self.cut_until <= now:
            self.cut_at = now
        self.cut_until = max(self.cut_until, now + seconds)
        self.hangs = hangs

    def heal(self) -> None:
        """Let statements reach the database again, unless it is down."""
        self.cut_until, self.cut_after_commit_s = min(self.cut_until, self._database.loop.time()), 0.0

    def wait_s(self, *, retries: bool) -> float:
        """
        Return for how many seconds a call waits for the database.

        Args:
            retries: Whether it tries again for as long as a lease, as the journal's writer does.
        """
        if not self.is_down:
            return 0.0
        is_silent = self.hangs if self.cut_until >= self._database.down_until else self._database.hangs
        patience_s = LEASE_S if retries else SILENCE_S if is_silent else 0.0
        return min(self.heals_at - self._database.loop.time(), patience_s)

    def check(self) -> None:
        """Raise `DatabaseUnreachableError` if the link is cut. A process that asks on its event loop is stopped meanwhile."""
        if self.is_down:
            loop, process = self._database.loop, PROCESS.get()
            if not loop.is_in_call:
                loop.freeze(process, self.wait_s(retries=False))
                process.blocked_until = process.thawed_at
            raise DatabaseUnreachableError("The simulated database cannot be reached.")


class LinkedConnection(sqlite3.Connection):
    """A connection to the simulated database, with the functions of PostgreSQL that the journal calls."""

    _database: SimDatabase

    def join(self, database: SimDatabase) -> None:
        """Belong to *database*."""
        self._database = database
        self._senders: list[str] = []
        self.create_function("clock_timestamp", 0, database.time)
        self.create_function("extract", 2, lambda _, seconds: seconds)
        self.create_function("pg_notify", 2, lambda _, sender: self._senders.append(sender))

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        """Run one statement of the journal; its notifications are sent with the commit."""
        _check_link()
        done = super().execute(sql.replace(DATABASE_TIME, "clock_timestamp()"), *args)
        if self._senders and not self.in_transaction:
            senders, self._senders = self._senders, []
            if sql != "rollback":
                for sender in senders:
                    self._database.notify(sender)
        return done

    def executemany(self, sql: str, *args: Any) -> sqlite3.Cursor:
        """Run one statement several times."""
        _check_link()
        return super().executemany(sql, *args)

    def cursor(self, factory: Any = None) -> Any:
        """Return a cursor whose statements need the link."""
        return super().cursor(factory or _linked_cursor(type(super().cursor())))


class _LinkedCursor(sqlite3.Cursor):
    """A cursor of `LinkedConnection`."""

    def execute(self, sql: str, *args: Any) -> Self:
        _check_link()
        return super().execute(sql.replace(_EPOCH_IN_SQLITE, "clock_timestamp()"), *args)

    def executemany(self, sql: str, *args: Any) -> Self:
        _check_link()
        return super().executemany(sql, *args)


_CLASSES: dict[type, type] = {}
"""The classes of linked connections and cursors, by those that the package names."""


def _linked(factory: type[sqlite3.Connection]) -> type[LinkedConnection]:
    return _CLASSES.setdefault(factory, type("Connection", (LinkedConnection, factory), {}))


def _linked_cursor(factory: type[sqlite3.Cursor]) -> type[sqlite3.Cursor]:
    return _CLASSES.setdefault(factory, type("Cursor", (_LinkedCursor, factory), {}))


def _check_link() -> None:
    process = PROCESS.get(None)
    if process is not None and process.link is not None:
        process.link.check()


class SimLease(ExecutorLease):
    """
    A lease that the loop extends, in the process in which it was made.

    Attributes:
        process: The process.
        link: The way to the database.
        context: The context of the process.
    """

    def __init__(
        self, database: SimDatabase, process: SimProcess, link: Link, file: Path, executor_id: str, clock: SteadyClock,
        expect_key: Callable[[str | None], None],
    ) -> None:  # fmt: skip
        super().__init__(
            executor_id,
            clock,
            corrects_clock=True,
            lease_s=LEASE_S,
            monotonic=database.loop.time,
            expect_key=expect_key,
        )
        self.process, self.link, self.context = process, link, copy_context()
        self._database = database
        self._connection = connect(file)
        self._is_connected = True
        self._is_closed = False

    def start(self, origin: str) -> None:
        """Insert the executor's row, and extend its lease from now on."""
        self._connection.execute("begin immediate")
        OwnershipStatements(self._executor_id, origin).register_executor(self._connection)
        self.register(self._connection, self._executor_id)
        self._connection.execute("commit")
        self._database.leases.append(self)
        self._beat()

    def receive(self, sender: str) -> None:
        """Take a notification."""
        super().receive(sender)
        self.process.has_others = self.has_others

    def follow(self, executor_id: str) -> None:
        """Extend the lease of *executor_id* from now on."""
        super().follow(executor_id)
        self.process.leases += 1
        self.process.lease_ends_at = self._extended_at + LEASE_S

    def close(self) -> None:
        """Stop to extend the lease."""
        if not self._is_closed:
            self._is_closed = True
            self._database.leases.remove(self)
            self._connection.close()

    def _beat(self) -> None:
        if self._is_closed:
            return
        if self.link.is_down:
            self._is_connected, pause_s = False, max(self.link.wait_s(retries=False), 0.5)
        else:
            self.extend(self._connection)
            self.process.has_others = self.has_others
            query = "select lease_until from executors where id = ? and alive"
            row = self._connection.execute(query, (self._executor_id,)).fetchone()
            if row is not None:
                self.process.lease_ends_at = row[0] - EPOCH.timestamp()
            pause_s = BEAT_S
            if not self._is_connected:  # notifications may have been missed
                self._is_connected = True
                self.call_back()
        self._database.loop.call_later(pause_s, self._beat)


class SharedBackend(FaultyBackend):
    """
    A journal in the simulated database.

    Args:
        database: The database.
        link: The way to it.
        project: The project.
        process: The process that opens it.
        disk: The disk of the database.
        kill: Ends the process at once.
    """

    is_shared = True

    def __init__(
        self,
        database: SimDatabase,
        link: Link,
        project: Project,
        process: SimProcess,
        disk: Disk,
        kill: Callable[[], None],
    ) -> None:
        assert project.sqlite_path is not None
        super().__init__(project.sqlite_path, {}, process, disk, database.loop, kill, max_inline_commit_s=0.0)
        self.lease: SimLease | None = None
        self._database, self._link, self._project = database, link, project

    def enter(self, executor_id: str, origin: str, clock: SteadyClock) -> SimLease:
        """Begin the lease of an executor."""
        self.lease = SimLease(
            self._database, self._process, self._link, self._file, executor_id, clock, self._project.expect_key
        )
        self.lease.start(origin)
        return self.lease

    def open_transactions(self) -> SharedTransactions:
        """Open a connection for writes."""
        return SharedTransactions(self, self._link, self._file, self._process, self._disk, self._loop, self._kill)


class SharedTransactions(FaultyTransactions):
    """The commits of one process on a link that can be cut."""

    def __init__(self, backend: SharedBackend, link: Link, *settings: Any) -> None:
        super().__init__(*settings)
        self._backend, self._link = backend, link

    def commit(self, batch: Sequence[Write], *, begun: bool) -> float | None:
        """Commit *batch*; if the link is cut then, the outcome is unknown to the process until the link heals, or its lease ends."""
        seconds = super().commit(batch, begun=begun)
        cut_s, self._link.cut_after_commit_s = self._link.cut_after_commit_s, 0.0
        lease = self._backend.lease
        if seconds is None or not cut_s or lease is None:
            self._link.cut_after_commit_s = cut_s
            return seconds
        self._link.cut(cut_s, hangs=True)
        self._loop.reply_delay_s = cut_s
        if cut_s > LEASE_S and lease.has_others:
            self._loop.reply_delay_s = LEASE_S
            self._loop.call_later(LEASE_S, lease.mark_lost)
            for write in batch:
                write.fault = DatabaseUnreachableError("The simulated database has not answered a commit.")
        return seconds


class SharedProject(Project):
    """A project in the simulated database."""

    is_shared = True

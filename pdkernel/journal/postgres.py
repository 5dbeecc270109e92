"""
A Postgres database that holds a journal; executors of several hosts may open it.

Each transaction reads its own id. If the connection is lost during a commit, a new connection asks the server by that id
whether the transaction was committed.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import groupby
from operator import attrgetter
from typing import Any, TypeVar

import psycopg
from psycopg.errors import DeadlockDetected, SerializationFailure

from pdkernel.common.blocking import IS_BLOCKING_FORBIDDEN, check_may_block
from pdkernel.common.clock import ManualClock, SteadyClock
from pdkernel.errors import ProjectError
from pdkernel.journal.backend import Connection, Cursor, Parameters, Write
from pdkernel.journal.lease import (
    IS_LAPSED,
    ExecutorLease,
    LeaseThread,
    Retries,
    refuse_asynchronous_commits,
    refuse_pooler,
)
from pdkernel.journal.ownership import CONTINUED_ORIGIN, OwnershipStatements
from pdkernel.journal.schema import JOURNAL_SCHEMA
from pdkernel.storage import Project
from pdkernel.storage.postgres import unreachable_error

T = TypeVar("T")

LEASE_S = 10.0
"""Seconds after which an executor that does not extend its lease is taken for dead."""

BEAT_S = 1.0
"""Seconds between two extensions of the lease."""

_CONFLICT_TRIES = 10
"""Tries of a transaction that the server ends because of a concurrent one."""

_LOST_CONNECTION_STATES = ("08", "25006", "25P03", "53300", "57P")
"""SQL states: connection, not the primary server any more, idle in a transaction, too many connections, and shutdown or start."""

_PARAMETER = re.compile(r"\?|(?<!:):([a-z_]+)")
_POSTGRES_ONLY = re.compile(r"/\*postgres (.*?)\*/", re.DOTALL)


@cache
def translate_sql(sql: str) -> Any:
    """Return the journal's SQL with the parameters of psycopg, and with the parts for Postgres only."""
    text = _POSTGRES_ONLY.sub(r"\1", sql)
    return _PARAMETER.sub(lambda found: f"%({found[1]})s" if found[1] else "%s", text)


class _CheckedConnection(psycopg.Connection[Any]):
    """A connection that may not block an event loop."""

    def wait(self, *args: Any, **settings: Any) -> Any:
        check_may_block("a statement of the journal")
        return super().wait(*args, **settings)


class PostgresConnection:
    """`Connection` on a connection of psycopg in autocommit mode."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def execute(self, sql: str, parameters: Parameters = (), /) -> Cursor:
        """Run one statement."""
        return self._connection.execute(translate_sql(sql), parameters)

    def executemany(self, sql: str, parameters: Iterable[Parameters], /) -> Cursor:
        """Run one statement with each of *parameters*, which are sent together."""
        cursor = self._connection.cursor()
        cursor.executemany(translate_sql(sql), parameters)
        return cursor


class PostgresBackend:
    """
    `Backend` for the Postgres database of a project.

    Args:
        project: The project.
        lease_s: The seconds after which an executor that does not extend its lease is taken for dead.
        beat_s: The seconds between two extensions.
        corrects_clock: Whether time stamps have the time of the database; None corrects every clock that runs by itself.
        monotonic: Returns the seconds by which this process measures leases and retries.

    Attributes:
        arguments: What psycopg needs for a connection.
    """

    is_shared = True
    max_inline_commit_s = inline_retry_s = 0.0

    def __init__(
        self,
        project: Project,
        *,
        lease_s: float = LEASE_S,
        beat_s: float = BEAT_S,
        corrects_clock: bool | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        engine = project.sqlalchemy_engine
        self.location = project.location
        self.lease_s = lease_s
        self.monotonic = monotonic
        self._project = project
        self._beat_s = beat_s
        self._corrects_clock = corrects_clock
        self._presence: ExecutorLease | None = None
        half_a_lease_ms = round(lease_s * 500)
        self.arguments: dict[str, Any] = {
            "connect_timeout": max(2, round(lease_s / 2)),
            # a connection whose other end is silent, and locks of a frozen process, end before a lease does
            "tcp_user_timeout": half_a_lease_ms,
            "keepalives_idle": 2,
            "keepalives_interval": 1,
            "keepalives_count": 3,
            "application_name": "pdkernel",
            **engine.dialect.create_connect_args(engine.url)[1],
        }
        self._settings = (
            f"set idle_in_transaction_session_timeout = {half_a_lease_ms}; set lock_timeout = {2 * half_a_lease_ms}"
        )

    def connect(self) -> psycopg.Connection[Any]:
        """Open a connection in autocommit mode. Raises `psycopg.Error`."""
        if IS_BLOCKING_FORBIDDEN:
            check_may_block("connect")
        kind = _CheckedConnection if IS_BLOCKING_FORBIDDEN else psycopg.Connection
        connection = kind.connect(autocommit=True, **self.arguments)
        try:
            connection.execute(self._settings)
        except BaseException:
            connection.close()
            raise
        return connection

    def create_tables(self) -> None:
        """Create missing tables, or change earlier ones. Raises `ProjectError` if they are newer, or tables of others."""
        self._project.create_tables(JOURNAL_SCHEMA, "journal_schema_version")

    def enter(self, executor_id: str, origin: str, clock: SteadyClock) -> ExecutorLease:
        """Insert the row of an executor, and begin to extend its lease in a thread."""
        is_manual = isinstance(clock.source, ManualClock)
        lease = LeaseThread(
            self.connect,
            PostgresConnection,
            executor_id,
            clock,
            corrects_clock=not is_manual if self._corrects_clock is None else self._corrects_clock,
            lease_s=self.lease_s,
            beat_s=self._beat_s,
            monotonic=self.monotonic,
            expect_key=self._project.expect_key,
        )
        try:
            refuse_pooler(lease.listen(), self.connect, self.location)
            refuse_asynchronous_commits(lease.listen(), self.location)
            with lease.listen().transaction():
                connection = PostgresConnection(lease.listen())
                OwnershipStatements(executor_id, origin).register_executor(connection)
                lease.register(connection, executor_id)
            lease.start()
        except BaseException as fault:
            lease.close()
            if isinstance(fault, psycopg.Error):
                raise self.translate_error(fault) from fault
            raise
        self._presence = lease
        return lease

    def end_interrupted(self, now: float) -> None:
        """End the runs of commands and notebooks whose lease has lapsed."""
        try:
            with self.connect() as connection, connection.transaction():
                found = PostgresConnection(connection).execute(
                    f"select id from executors where origin <> ? and {IS_LAPSED} /*postgres for update skip locked*/",  # noqa: S608
                    (CONTINUED_ORIGIN,),
                )
                dead = [executor for (executor,) in found]
                if dead:
                    OwnershipStatements("", "").bury(PostgresConnection(connection), dead, now)
        except psycopg.Error as fault:
            raise self.translate_error(fault) from fault

    def open_transactions(self) -> PostgresTransactions:
        """Open a connection for writes."""
        return PostgresTransactions(self)

    def open_snapshots(self) -> PostgresSnapshots:
        """Open a connection for reads."""
        return PostgresSnapshots(self)

    def release_space(self, connection: Connection) -> bool:  # noqa: ARG002
        """Do nothing: the server vacuums its tables by itself."""
        return False

    @property
    def has_others(self) -> bool:
        """Whether another executor may continue the runs of this one."""
        return self._presence is None or self._presence.has_others

    def mark_lost(self) -> None:
        """Let this executor give up its runs: the outcome of a write is unknown."""
        if self._presence is not None:
            self._presence.mark_lost()

    def translate_error(self, fault: psycopg.Error) -> ProjectError:
        """Return the error for a person."""
        if is_lost_connection(fault):
            return unreachable_error(self.location, fault, self._project.sqlalchemy_engine.url)
        reason = str(fault).strip().splitlines() or [type(fault).__name__]
        return ProjectError(
            f"The project's database {self.location} refused a statement: {reason[0]}",
            fix="Read the log of the Postgres server. Nothing was stored by this statement.",
        )


def is_lost_connection(fault: BaseException) -> bool:
    """Return whether the connection is lost or cannot be opened; a statement's own error keeps the connection."""
    if not isinstance(fault, psycopg.Error):
        return False
    if fault.sqlstate is None:
        return isinstance(fault, psycopg.OperationalError | psycopg.InterfaceError)
    return fault.sqlstate.startswith(_LOST_CONNECTION_STATES)


class _UnknownOutcomeError(Exception):
    """The connection was lost during the commit of a transaction."""

    def __init__(self, transaction_id: str) -> None:
        super().__init__(transaction_id)
        self.transaction_id = transaction_id


class PostgresTransactions:
    """
    `Transactions` on Postgres.

    A transaction whose connection is lost is run again on a new connection, for as long as a lease, unless the server has
    committed it. A transaction that the server ends because of a concurrent one is run again.
    """

    def __init__(self, backend: PostgresBackend) -> None:
        self._backend = backend
        self._connection: psycopg.Connection[Any] | None = None
        self._is_hurried = threading.Event()
        try:
            self._connection = backend.connect()
        except psycopg.Error as fault:
            raise backend.translate_error(fault) from fault

    def try_begin(self) -> bool:
        """Return False: a statement waits for the network, so the thread commits."""
        return False

    def commit(self, batch: Sequence[Write], *, begun: bool) -> float | None:  # noqa: ARG002 - never begun
        """Commit *batch* in as few transactions as possible; if a write fails, each has a transaction of its own."""
        began = time.monotonic()
        for is_contended, group in groupby(batch, attrgetter("is_contended")):
            writes = list(group)
            if is_contended or not self._commit_together(writes):
                for write in writes:
                    self._commit_together([write])
        return None if any(write.fault is not None for write in batch) else time.monotonic() - began

    @property
    def is_unmarked(self) -> bool:
        """False: a server finds out by itself that its log is missing or damaged."""
        return False

    def hurry(self) -> None:
        """Stop waiting for a database that cannot be reached."""
        self._is_hurried.set()

    def close(self) -> None:
        """Close the connection."""
        self._disconnect()

    def _commit_together(self, writes: Sequence[Write]) -> bool:
        """Commit *writes* in one transaction. Return False if a write fails and there are others."""
        retries = Retries(self._backend.lease_s, self._is_hurried, self._backend.monotonic)
        conflicts = 0
        while True:
            for write in writes:
                write.fault = None
            try:
                self._run(writes)
            except _UnknownOutcomeError as unknown:
                if self._was_committed(unknown, retries, writes):
                    return True
                continue
            except Exception as fault:  # noqa: BLE001 - the thread must go on; the callers' futures get the error
                if is_lost_connection(fault):
                    self._disconnect()
                    if retries.pause():
                        continue
                elif not self._roll_back():
                    continue
                elif len(writes) > 1:
                    return False
                elif isinstance(fault, DeadlockDetected | SerializationFailure) and conflicts < _CONFLICT_TRIES:
                    conflicts += 1
                    time.sleep(random.random() * 0.01 * conflicts)
                    continue
                self._fail(writes, fault)
            return True

    def _run(self, writes: Sequence[Write]) -> None:
        if self._connection is None:
            self._connection = self._backend.connect()
        raw = self._connection
        cursor = raw.execute("begin; select pg_current_xact_id()", prepare=False)
        cursor.nextset()
        transaction_id = str(cursor.fetchone()[0])  # type: ignore[index]  # one row
        connection = PostgresConnection(raw)
        for write in writes:
            write.result = write.act(connection)
        try:
            ended = raw.execute("commit", prepare=False).statusmessage
        except psycopg.Error as fault:
            if is_lost_connection(fault):
                raise _UnknownOutcomeError(transaction_id) from fault
            raise
        if ended != "COMMIT":  # the server rolls back a transaction in which a statement has failed
            raise psycopg.InternalError("the transaction ended early")

    def _was_committed(self, unknown: _UnknownOutcomeError, retries: Retries, writes: Sequence[Write]) -> bool:
        """
        Return whether the server has committed the transaction.

        If the server does not answer in time, the writes fail, and this executor gives up its runs: the server may have
        committed the writes. If no other executor could continue them, it waits for the server instead.
        """
        while True:
            self._disconnect()
            try:
                self._connection = self._backend.connect()
                row = self._connection.execute("select pg_xact_status(%s::xid8)", (unknown.transaction_id,)).fetchone()
                if row is not None and row[0] in ("committed", "aborted"):
                    return bool(row[0] == "committed")
            except psycopg.Error as fault:
                # a server that was restored from a copy does not know the transaction
                if not is_lost_connection(fault):
                    return False
            if not retries.pause():
                if not self._backend.has_others and not self._is_hurried.is_set():
                    retries = Retries(self._backend.lease_s, self._is_hurried, self._backend.monotonic)
                    continue
                self._backend.mark_lost()
                self._fail(writes, unknown.__cause__ or unknown)
                return True

    def _roll_back(self) -> bool:
        """Roll back; return False if the connection is lost."""
        try:
            assert self._connection is not None
            self._connection.execute("rollback", prepare=False)
        except psycopg.Error:
            self._disconnect()
            return False
        return True

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _fail(self, writes: Sequence[Write], fault: BaseException) -> None:
        for write in writes:
            if isinstance(fault, psycopg.Error):
                write.fault = self._backend.translate_error(fault)
                write.fault.__cause__ = fault
            else:
                write.fault = fault if isinstance(fault, Exception) else RuntimeError(str(fault))


class PostgresSnapshots:
    """`Snapshots` on Postgres."""

    def __init__(self, backend: PostgresBackend) -> None:
        self._backend = backend
        self._connection: psycopg.Connection[Any] | None = None

    def read(self, query: Callable[[Connection], T]) -> T:
        """Return the result of *query*, which reads one snapshot."""

        def snapshot(connection: psycopg.Connection[Any]) -> T:
            connection.execute("begin isolation level repeatable read read only", prepare=False)
            try:
                return query(PostgresConnection(connection))
            finally:
                connection.execute("rollback", prepare=False)

        return self._run(snapshot)

    def version(self) -> str:
        """Return the transactions that are visible: any commit changes them, also one that does not concern the journal."""
        return str(self._run(lambda connection: connection.execute("select pg_current_snapshot()").fetchone()))

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()

    def _run(self, query: Callable[[psycopg.Connection[Any]], T]) -> T:
        """Return the result of *query*; if the connection is lost, *query* runs again on a new one."""
        is_new = False
        while True:
            try:
                if self._connection is None:
                    is_new = True
                    self._connection = self._backend.connect()
                return query(self._connection)
            except psycopg.Error as fault:
                if not is_lost_connection(fault):
                    raise self._backend.translate_error(fault) from fault
                self.close()
                self._connection = None
                if is_new:
                    raise self._backend.translate_error(fault) from fault

"""
The lease of an executor in the database. `LeaseThread` extends one on Postgres, and receives the notifications of other processes.

A lease compares times of the database only; the monotonic clock of this process decides whether its own extension is late.
Before its lease ends, an executor starts nothing new and gives up what it runs, so that no step runs twice at a time. Without
another executor that could continue its runs, it keeps them, so a failover of the database does not interrupt them.
"""

from __future__ import annotations

import logging
import select
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import psycopg

from pdkernel.common.clock import SteadyClock
from pdkernel.errors import ProjectError
from pdkernel.journal.backend import Connection
from pdkernel.journal.ownership import CONTINUED_ORIGIN
from pdkernel.journal.schema import JOURNAL_SCHEMA
from pdkernel.storage.migration import expect_version

CHANNEL = "pdkernel_journal"
"""The channel of the notifications; each carries the id of the executor that sent it."""

_VERSION = "select value from meta where name = 'journal_schema_version'"
DATABASE_TIME = "cast(extract(epoch from clock_timestamp()) as double precision)"
"""The time of the database, in seconds since 1970."""
IS_LAPSED = f"(not alive or lease_until < {DATABASE_TIME})"
_LIVES = f"exists (select 1 from executors where id = :me and alive and lease_until > {DATABASE_TIME})"  # noqa: S608 - constants only
"""The condition on which this executor may take others for dead: its own lease is valid."""

_MARGIN = 0.7
"""The part of a lease after which an executor that could not extend it starts nothing new; the rest is for ending its steps."""
_GRACE_S = 3.0
"""
Seconds, at most the rest of a lease after `_MARGIN`, for which an executor must have held its lease before it takes others for dead.

After an outage of the database that is longer than a lease, all leases have lapsed, and the executor that reaches the database first must
not take the runs of those that have kept theirs. Executors that have ended in order, or were taken for dead, need no such time.
"""
_OTHER_SERVES = (
    f"exists (select 1 from executors as other where other.id <> executors.id and other.alive and other.lease_until > {DATABASE_TIME}"  # noqa: S608
    f" and other.origin = '{CONTINUED_ORIGIN}')"
)
"""Whether another executor could continue the runs of the updated one, or end them."""

_CLOSING_RETRY_S = 1.0
"""Seconds for which a journal that is closed tries to reach the database."""
_RETRY_PAUSES_S = (0.05, 0.5)
"""The first and the longest pause between two tries to reach the database."""

_log = logging.getLogger(__name__)


class Retries:
    """Pauses between tries, which grow, until a time has passed."""

    def __init__(self, seconds: float, is_hurried: threading.Event, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._ends = monotonic() + seconds
        self._is_hurried = is_hurried
        self._pause_s, self._longest_s = _RETRY_PAUSES_S

    def pause(self) -> bool:
        """Pause; return False if there is no time for another try."""
        if self._is_hurried.is_set():
            self._ends = min(self._ends, self._monotonic() + _CLOSING_RETRY_S)
            self._is_hurried = threading.Event()
        if self._monotonic() + self._pause_s > self._ends:
            return False
        self._is_hurried.wait(self._pause_s)
        self._pause_s = min(2 * self._pause_s, self._longest_s)
        return True


class ExecutorLease(ABC):
    """
    `Presence` by a lease, which a subclass extends with `extend`.

    Args:
        executor_id: The executor.
        clock: The clock of this process.
        corrects_clock: Whether each extension sets *clock* to the time of the database.
        lease_s: The seconds after which an executor that does not extend its lease is taken for dead.
        monotonic: Returns the seconds by which this process measures its lease.
        expect_key: Raises `RequestError` if its argument is not the fingerprint of the key.
    """

    def __init__(
        self,
        executor_id: str,
        clock: SteadyClock,
        *,
        corrects_clock: bool,
        lease_s: float,
        monotonic: Callable[[], float],
        expect_key: Callable[[str | None], None],
    ) -> None:
        self.clock = clock
        self._corrects_clock = corrects_clock
        self._monotonic = monotonic
        self._expect_key = expect_key
        self.lease_s: float | None = lease_s
        self._seconds = lease_s
        self._executor_id = executor_id
        self._extended_at = self._held_since = self._registered_at = self._monotonic()
        self._is_refused = False
        self._version = str(JOURNAL_SCHEMA.version)  # of the tables
        self._has_others = False
        self._callbacks: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    @property
    def is_lost(self) -> bool:
        """Whether this executor was taken for dead, or could not extend its lease while others lived; true until `follow`."""
        if self._has_others and self._is_late:
            self._is_refused = True  # a later extension does not bring the runs back that were given up
        return self._is_refused

    def steady_time(self) -> float:
        """Return the time of the database in seconds, which its processes share."""
        return self.clock.now().timestamp()

    @property
    def may_start(self) -> bool:
        """Whether this executor may start something new: it is not lost, and its lease does not end soon."""
        return not self.is_lost and not self._is_late

    @property
    def has_others(self) -> bool:
        """Whether another executor that could continue the runs of this one lived at the last extension."""
        return self._has_others

    @property
    def _is_late(self) -> bool:
        return self._monotonic() > self._extended_at + _MARGIN * self._seconds

    def extend(self, connection: Connection) -> None:
        """Extend the lease, unless others have taken this executor for dead. Raises the errors of *connection*."""
        with self._lock:
            executor_id = self._executor_id
        began, local = self._monotonic(), self.clock.now().timestamp()
        row = connection.execute(
            f"update executors set lease_until = {DATABASE_TIME} + :lease_s where id = :id and alive"  # noqa: S608
            f" returning {DATABASE_TIME}, ({_VERSION}), {_OTHER_SERVES}",
            {"lease_s": self._seconds, "id": executor_id},
        ).fetchone()
        seconds = self._monotonic() - began
        if row is not None and self._corrects_clock:
            self.clock.adjust(row[0] - (local + seconds / 2), seconds / 2)
        with self._lock:
            if executor_id != self._executor_id:
                return
            was_refused = self._is_refused
            if row is not None:
                if began > self._extended_at + self._seconds:
                    self._held_since = began
                self._extended_at = began
                self._version = row[1]
                self._has_others = row[2]
            else:
                self._is_refused = True
        if row is None and not was_refused:
            self.call_back()

    def receive(self, sender: str) -> None:
        """Take a notification of the executor *sender*."""
        if sender != self._executor_id:
            self._has_others = True  # until the next extension knows better
            self.call_back()

    def call_back(self) -> None:
        """Inform who has asked for it by `on_change`."""
        for callback in self._callbacks:
            try:
                callback()
            except Exception:  # noqa: BLE001 - the lease is extended whatever the callback does
                _log.exception("A callback of the journal failed")

    @property
    def grace_s(self) -> float:
        """The seconds until this executor takes others for dead whose lease has lapsed."""
        return max(0.0, self._held_since + min(_GRACE_S, (1 - _MARGIN) * self._seconds) - self._monotonic())

    @property
    def _is_dead(self) -> str:
        """The condition on which this executor takes another one for dead at the moment."""
        return "not alive" if self.grace_s else IS_LAPSED

    def has_lapsed(self, connection: Connection) -> bool:
        """Return whether the lease of another executor that has not ended has lapsed."""
        lapsed = f"select 1 from executors where id <> :me and alive and {IS_LAPSED}"  # noqa: S608 - constants only
        return connection.execute(lapsed, {"me": self._executor_id}).fetchone() is not None

    def find_dead(self, connection: Connection) -> Sequence[str]:
        """Return executors whose lease has lapsed, and owners of runs that are not executors any more."""
        if not self.may_start:  # an executor whose own lease lapses does not take others for dead
            return ()
        rows = connection.execute(
            f"select id from executors where id <> :me and {self._is_dead} and {_LIVES}"  # noqa: S608 - constants only
            " union select owner from runs where status = 'running'"
            f" and not exists (select 1 from executors where id = owner and alive) and {_LIVES}",
            {"me": self._executor_id},
        )
        return [executor for (executor,) in rows]

    def confirm_dead(self, connection: Connection, executors: Sequence[str]) -> Sequence[str]:  # noqa: ARG002
        """Return the executors whose lease has lapsed, and lock their rows: an executor may extend its lease at this moment."""
        rows = connection.execute(
            f"select id from executors where id <> :me and {self._is_dead} and {_LIVES}"  # noqa: S608 - constants only
            " /*postgres for update skip locked*/",
            {"me": self._executor_id},
        )
        return [executor for (executor,) in rows]

    def has_living(self, connection: Connection, origin: str) -> bool:
        """Return whether another executor of that origin has a lease."""
        row = connection.execute(
            f"select 1 from executors where id <> :me and origin = :origin and not {IS_LAPSED}",  # noqa: S608
            {"me": self._executor_id, "origin": origin},
        ).fetchone()
        return row is not None

    def announce(self, connection: Connection) -> None:
        """Notify other processes after the commit."""
        connection.execute(f"select pg_notify('{CHANNEL}', :me)", {"me": self._executor_id})

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call *callback* where the lease is extended after notifications of others, and when this executor was taken for dead."""
        self._callbacks.append(callback)

    def check_version(self, connection: Connection, *, exactly: bool) -> None:
        """Raise `ProjectError` if a newer version has changed the tables, until now or (not *exactly*) the last extension."""
        if exactly:
            self._version = connection.execute(_VERSION).fetchone()[0]
        expect_version(int(self._version), "the project's database", supported=JOURNAL_SCHEMA.version)

    def register(self, connection: Connection, executor_id: str) -> None:
        """
        Begin the lease of an executor whose row was inserted in the same transaction.

        Raises `RequestError` if the key was replaced: a rotation locks the table, so it had ended before the row was inserted,
        or it will find the executor.
        """
        row = connection.execute("select value from meta where name = 'key_fingerprint'").fetchone()
        self._expect_key(None if row is None else row[0])
        self._registered_at = self._monotonic()
        connection.execute(
            f"update executors set lease_until = {DATABASE_TIME} + :lease_s where id = :id",  # noqa: S608 - constants only
            {"lease_s": self._seconds, "id": executor_id},
        )
        connection.execute(
            f"select pg_notify('{CHANNEL}', :id)", {"id": executor_id}
        )  # others get to know that they have one

    def expire(self, connection: Connection) -> None:
        """End the lease of this executor, so that others continue its runs at once."""
        connection.execute("update executors set alive = false where id = :me", {"me": self._executor_id})

    def follow(self, executor_id: str) -> None:
        """Extend the lease of *executor_id* from now on. It has begun with `register`, perhaps long before the commit was answered."""
        with self._lock:
            self._executor_id = executor_id
            self._extended_at, self._held_since = self._registered_at, self._monotonic()
            self._is_refused = False

    def mark_lost(self) -> None:
        """Let this executor give up its runs."""
        self._is_refused = True
        self.call_back()

    @abstractmethod
    def close(self) -> None:
        """Stop to extend the lease, which then lapses."""


class LeaseThread(ExecutorLease):
    """
    A lease that a thread extends on Postgres.

    Args:
        connect: Opens a connection in autocommit mode.
        adapt: Makes a connection of the journal from it.
        executor_id: The executor.
        clock: The clock of this process.
        beat_s: The seconds between two extensions.
        settings: Other arguments of `ExecutorLease`.
    """

    def __init__(
        self,
        connect: Callable[[], psycopg.Connection[Any]],
        adapt: Callable[[psycopg.Connection[Any]], Connection],
        executor_id: str,
        clock: SteadyClock,
        *,
        beat_s: float,
        **settings: Any,
    ) -> None:
        super().__init__(executor_id, clock, **settings)
        self._connect = connect
        self._adapt = adapt
        self._beat_s = beat_s
        self._connection: psycopg.Connection[Any] | None = None
        self._wakes, self._waker = socket.socketpair()
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="pdkernel-lease", daemon=True)

    def start(self) -> None:
        """Extend the lease, and continue in a thread. Raises `psycopg.Error`."""
        self.extend(self._adapt(self.listen()))
        self._thread.start()

    def close(self) -> None:
        """End the thread; the lease lapses unless the executor's row is gone. A second call does nothing."""
        self._is_closed = True
        self._waker.close()
        if self._thread.is_alive():
            self._thread.join()
        self._disconnect()
        self._wakes.close()

    def _work(self) -> None:
        has_failed = False
        while not self._is_closed:
            try:
                connection = self.listen()
                self.extend(self._adapt(connection))
                has_failed = False
                self._wait(self._beat_s, connection)
            except Exception as fault:  # noqa: BLE001 - without this thread, every lease of the process would lapse
                if not has_failed:
                    is_expected = isinstance(fault, psycopg.Error | OSError)
                    _log.warning(
                        "The lease of this process cannot be extended at the moment: %s",
                        str(fault).strip(),
                        exc_info=None if is_expected else fault,
                    )
                has_failed = True
                self._disconnect()
                self._wait(min(self._beat_s, 0.5), None)

    def listen(self) -> psycopg.Connection[Any]:
        """Return the connection, which receives notifications. Raises `psycopg.Error`."""
        if self._connection is not None:
            return self._connection
        self._connection = connection = self._connect()
        # notifications that arrive with the answer to a statement
        connection.add_notify_handler(lambda notification: self.receive(notification.payload))
        connection.execute(f"listen {CHANNEL}")
        self.call_back()  # notifications may have been missed since the last connection
        return connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _wait(self, seconds: float, connection: psycopg.Connection[Any] | None) -> None:
        """Wait for the next extension, and receive notifications meanwhile."""
        poll = select.poll()
        poll.register(self._wakes, select.POLLIN)
        if connection is not None:
            poll.register(connection.fileno(), select.POLLIN)
        ends = self._monotonic() + seconds
        while not self._is_closed and (left := ends - self._monotonic()) > 0:
            if poll.poll(left * 1000) and connection is not None and not self._is_closed:
                connection.pgconn.consume_input()
                while notification := connection.pgconn.notifies():
                    self.receive(notification.extra.decode())


def refuse_pooler(
    connection: psycopg.Connection[Any], connect: Callable[[], psycopg.Connection[Any]], location: str
) -> None:
    """
    Check that *connection* and another one have processes of their own at the server.

    Raises:
        ProjectError: A pooler gives the process to each transaction anew, so settings and notifications would be lost.
    """
    query = "select pg_backend_pid()"
    with connect() as other:
        is_shared = connection.execute(query).fetchone() == other.execute(query).fetchone()
    if is_shared:
        raise ProjectError(
            f"The database {location} is behind a pooler that gives each transaction another connection (PgBouncer with "
            "pool_mode = transaction). pdkernel needs connections of its own, for notifications and locks.",
            fix="Name the address of the PostgreSQL server itself in --database, or set pool_mode = session.",
        )


def refuse_asynchronous_commits(connection: psycopg.Connection[Any], location: str) -> None:
    """
    Check that the server writes a commit to its disk before it confirms the commit.

    Raises:
        ProjectError: `synchronous_commit` is off, so a crash of the server would lose events that callers take for accepted.
    """
    row = connection.execute("show synchronous_commit").fetchone()
    if row is not None and row[0] == "off":
        raise ProjectError(
            f"The database {location} has synchronous_commit = off: a crash of its server would lose events that were accepted.",
            fix="Turn it on for this database: alter database NAME set synchronous_commit = on. Then start again.",
        )

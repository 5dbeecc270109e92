"""What the journal needs of its database: `sqlite` and `postgres` implement these protocols."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from pdkernel.common.clock import SteadyClock

T = TypeVar("T")

Parameters = Sequence[Any] | Mapping[str, Any]


class Cursor(Protocol):
    """The result of a statement."""

    @property
    def rowcount(self) -> int:
        """The number of rows that the statement wrote."""
        ...

    def fetchone(self) -> Any:
        """Return the next row, or None."""
        ...

    def fetchall(self) -> list[Any]:
        """Return the remaining rows."""
        ...

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the remaining rows."""
        ...


class Connection(Protocol):
    """
    A connection that runs the journal's SQL, whose parameters are `?` or `:name`.

    SQL in a comment that begins with the word `postgres` is run on Postgres only: `select ... /*postgres for update*/`. On
    SQLite one connection writes at a time, so no statement locks rows.
    """

    def execute(self, sql: str, parameters: Parameters = ..., /) -> Cursor:
        """Run one statement."""
        ...

    def executemany(self, sql: str, parameters: Iterable[Parameters], /) -> Cursor:
        """Run one statement with each of *parameters*."""
        ...


@dataclass(slots=True)
class Write:
    """
    One write of a caller.

    Attributes:
        act: Runs the statements; it may run again if the transaction was rolled back.
        is_compound: Whether there are several statements.
        is_contended: Whether it locks rows that are not this executor's own. On Postgres it has a transaction of its own: two
            transactions that lock several such rows could wait for each other.
        future: Gets the result, or None.
        result: The result of *act*.
        fault: Why the write failed.
    """

    act: Callable[[Connection], Any]
    is_compound: bool
    is_contended: bool
    future: asyncio.Future[Any] | None
    result: Any = None
    fault: BaseException | None = None


class Transactions(Protocol):
    """Commits writes on a connection of its own; one thread at a time calls the methods."""

    def try_begin(self) -> bool:
        """Begin a transaction without waiting; return False if another process writes. Raises `ProjectError`."""
        ...

    def commit(self, batch: Sequence[Write], *, begun: bool) -> float | None:
        """
        Commit *batch*, and set the result or the fault of each write.

        Args:
            batch: The writes; a failed write does not affect the others.
            begun: Whether `try_begin` has begun the transaction.

        Returns:
            The seconds that the commit itself took; None if nothing was committed.
        """
        ...

    @property
    def is_unmarked(self) -> bool:
        """Whether an empty transaction should follow now, because nothing shows yet that the last one is not lost."""
        ...

    def hurry(self) -> None:
        """Stop waiting for a database that cannot be reached, because the journal is being closed. Any thread may call this."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


class Snapshots(Protocol):
    """Reads on a connection of its own; one thread at a time calls the methods."""

    def read(self, query: Callable[[Connection], T]) -> T:
        """Return the result of *query*, which reads one snapshot. Raises `ProjectError`."""
        ...

    def version(self) -> str:
        """Return a text that differs whenever another connection has changed the database. Raises `ProjectError`."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


class Presence(Protocol):
    """
    Shows other executors that this executor lives, and which of them live.

    Attributes:
        clock: The clock of the journal's time stamps.
        lease_s: The seconds after which a silent executor is taken for dead; None if the end of its process shows that it is dead.
    """

    clock: SteadyClock
    lease_s: float | None

    @property
    def is_lost(self) -> bool:
        """Whether this executor was taken for dead, or could not extend its lease in time."""
        ...

    @property
    def may_start(self) -> bool:
        """Whether this executor may start something new: it is not lost, and will not be soon."""
        ...

    def steady_time(self) -> float:
        """Return seconds that all processes of the database share, and that no wall clock of theirs can move, for short intervals."""
        ...

    def find_dead(self, connection: Connection) -> Sequence[str]:
        """Return the ids of dead executors."""
        ...

    def confirm_dead(self, connection: Connection, executors: Sequence[str]) -> Sequence[str]:
        """Return which of *executors* are still dead, in the transaction that ends them."""
        ...

    def has_living(self, connection: Connection, origin: str) -> bool:
        """Return whether another living executor has that origin."""
        ...

    @property
    def grace_s(self) -> float:
        """The seconds until this executor takes others for dead that have only been silent."""
        ...

    def has_lapsed(self, connection: Connection) -> bool:
        """Return whether another executor has been silent for so long that this one takes it for dead after `grace_s`."""
        ...

    def announce(self, connection: Connection) -> None:
        """Inform other processes, after the commit, that runs became ready or were cancelled."""
        ...

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call *callback* in a thread when another process made runs ready or cancelled runs."""
        ...

    def check_version(self, connection: Connection, *, exactly: bool) -> None:
        """Raise `ProjectError` if a newer version has changed the tables, until now or (not *exactly*) a second ago."""
        ...

    def register(self, connection: Connection, executor_id: str) -> None:
        """Begin the lease of an executor whose row was inserted in the same transaction."""
        ...

    def expire(self, connection: Connection) -> None:
        """End the lease of this executor, which closes and still owns runs."""
        ...

    def follow(self, executor_id: str) -> None:
        """Keep the executor *executor_id* alive from now on, and no other."""
        ...

    def close(self) -> None:
        """End the presence."""
        ...


class ExecutorLiveness(Protocol):
    """Shows other processes of this machine that an executor lives."""

    def hold(self, executor_id: str) -> None:
        """
        Show that this executor lives, until `release` or the end of the process.

        Raises:
            BlockingIOError: Another process holds that id.
        """
        ...

    def release(self, executor_id: str) -> None:
        """Show that this executor has ended."""
        ...

    def is_alive(self, executor_id: str) -> bool:
        """Return whether that executor, of this or another process, lives."""
        ...


class Backend(Protocol):
    """
    A database that holds a journal.

    Attributes:
        location: The database, for messages.
        is_shared: Whether several servers may use the database.
        max_inline_commit_s: While commits take fewer seconds, the event loop commits; 0 for always in a thread.
        inline_retry_s: Seconds after which the event loop commits again.
    """

    location: str
    is_shared: bool
    max_inline_commit_s: float
    inline_retry_s: float

    def create_tables(self) -> None:
        """Create missing tables, or change those of an earlier version. Raises `ProjectError`."""
        ...

    def enter(self, executor_id: str, origin: str, clock: SteadyClock) -> Presence:
        """Insert the row of an executor, and show that the executor lives. Raises `ProjectError` or `RequestError`."""
        ...

    def end_interrupted(self, now: float) -> None:
        """
        End the runs of commands and notebooks whose process has ended; those of a server are left to the next server.

        Raises `ProjectError`.
        """
        ...

    def open_transactions(self) -> Transactions:
        """Open a connection for writes. Raises `ProjectError`."""
        ...

    def release_space(self, connection: Connection) -> bool:
        """Give a part of the space that removed rows have left back to the file system; return whether there is more to give back."""
        ...

    def open_snapshots(self) -> Snapshots:
        """Open a connection for reads. Raises `ProjectError`."""
        ...

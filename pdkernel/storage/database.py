"""The project's database: opens, creates and migrates it, runs transactions, and translates errors."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Generic, TypeVar

from sqlalchemy import (
    Connection,
    Engine,
    QueuePool,
    bindparam,
    create_engine,
    event,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry

from pdkernel.errors import PdkernelError, ProjectError, RequestError
from pdkernel.storage import postgres, sqlite
from pdkernel.storage.migration import Ask, Schema, count_locked_files, permit_migration
from pdkernel.storage.schema import PROJECT_SCHEMA, meta, metadata
from pdkernel.storage.statements import CompiledQuery

_READ_ONLY_OPTION = "pdkernel_reads"
_FACTS = CompiledQuery(select(meta.c.name, meta.c.value))
_FINGERPRINT = CompiledQuery(select(meta.c.value).where(meta.c.name == bindparam("name")))

T = TypeVar("T")


class Database:
    """
    The database of a project, which several processes use at once.

    Attributes:
        engine: SQLAlchemy's engine; on SQLite its transactions take the write lock when they begin.
        sqlite_path: The SQLite file, or None on Postgres.
        location: The file, or the URL without its password.
        key_fingerprint: The fingerprint of the key with which this process encrypts values; None before it is known.
        ask: Asks whether tables may be changed while other processes use the database; None refuses.
    """

    def __init__(self, engine: Engine, *, sqlite_path: Path | None, where: str) -> None:
        self.engine = engine
        self.sqlite_path = sqlite_path
        self.location = where
        self.key_fingerprint: str | None = None
        self.ask: Ask | None = None
        self._permits_migration = False
        self._thread_state = threading.local()
        # on Postgres, autocommit: a connection between two reads is in no transaction, which would keep old rows alive
        isolation = {} if sqlite_path else {"isolation_level": "AUTOCOMMIT"}
        self._reads = engine.execution_options(**{_READ_ONLY_OPTION: True}, **isolation)
        self._idle_connections: list[Connection] = []  # one at most
        self._closed = False
        self._pinger: postgres.Pinger | sqlite.Pinger | None = None
        event.listen(engine, "checkin", self._close_returned)

    def __repr__(self) -> str:
        return f"Database({self.location})"

    @classmethod
    def open(cls, folder: Path, url: str | None) -> Database:
        """
        Return the database at *url*, or `project.db` in *folder*. Nothing is read or created yet.

        Raises:
            ProjectError: The URL is invalid, or its driver is not installed.
        """
        if url is None:
            return _sqlite(folder / "project.db")
        try:
            parsed = make_url(url)
        except (ArgumentError, ValueError):
            # the text is not shown, because it may contain a password
            raise ProjectError("The value of --database (PDKERNEL_DATABASE) is not a URL.", fix=_URLS) from None
        match parsed.get_backend_name():
            case "sqlite" if parsed.database and parsed.database != ":memory:":
                return _sqlite(Path(parsed.database).absolute())
            case "postgresql" | "postgres":
                engine, location = postgres.open_engine(parsed)
                return cls(engine, sqlite_path=None, where=location)
            case backend:
                raise ProjectError(f"A project cannot be stored in {backend} at this URL.", fix=_URLS)

    def read(self) -> AbstractContextManager[Connection]:
        """Return a context with a connection for reading, which never waits for writers."""
        shared: Connection | None = getattr(self._thread_state, "connection", None)
        return self._pooled_connection() if shared is None else _TranslateErrors(self, shared)

    @contextmanager
    def shared_read_connection(self) -> Iterator[None]:
        """Let all reads of this thread share one connection, because opening a connection is slow."""
        if hasattr(self._thread_state, "connection"):
            yield
            return
        with self._pooled_connection() as connection:
            self._thread_state.connection = connection
            try:
                yield
            finally:
                del self._thread_state.connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """
        A context with a connection in a transaction, which is rolled back by an exception, or if the key was replaced.

        In a block of `one_transaction`, it is the transaction of the block.
        """
        if (joined := getattr(self._thread_state, "writing", None)) is not None:
            with _TranslateErrors(self, joined):
                yield joined
            return
        with self.transaction() as connection:
            yield connection
            if self.key_fingerprint is not None:
                # at the end: on Postgres, a rotation of the key has waited for this transaction, or is visible here
                self.check_key(connection)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """
        `write` for the transaction that replaces the key.

        If the connection to Postgres is lost during the commit, the server is asked whether the transaction was committed: an error
        means that nothing was written, unless the server cannot be reached for longer than `postgres.OUTCOME_WAIT_S`.
        """
        transaction_id = None
        with _TranslateErrors(self, None):
            try:
                with self.engine.begin() as connection:
                    yield connection
                    if self.sqlite_path is None:
                        transaction_id = postgres.read_transaction_id(connection)
            except DBAPIError as fault:
                is_unknown = transaction_id is not None and fault.connection_invalidated
                if not is_unknown or not postgres.was_committed(self._reads, str(transaction_id)):
                    raise

    def lock(self, connection: Connection, name: str) -> None:
        """
        Let one transaction at a time go on from here, of those that pass the same *name*.

        On SQLite every transaction has the write lock already.
        """
        if self.sqlite_path is None:
            query = text("select pg_advisory_xact_lock(hashtextextended(:name, 0))")
            connection.execute(query, {"name": f"pdkernel/{name}"})

    @contextmanager
    def one_transaction(self, name: str | None = None) -> Iterator[None]:
        """
        A block whose reads and writes in this thread are one transaction: a crash or an exception leaves all of them undone.

        Blocks with the same *name* run one after the other, in all processes.
        """
        with self.write() as connection:
            if name is not None:
                self.lock(connection, name)
            before = dict(vars(self._thread_state))
            self._thread_state.writing = self._thread_state.connection = connection
            try:
                yield
            finally:
                vars(self._thread_state).clear()
                vars(self._thread_state).update(before)

    def _close_returned(self, _: object, record: ConnectionPoolEntry) -> None:
        if self._closed:  # the pool of an engine that was disposed of would keep the connection open
            record.invalidate()

    def check_key(self, connection: Connection) -> None:
        """Raise `RequestError` if the key of the database is not the one with `key_fingerprint` any more."""
        row = _FINGERPRINT.fetch_first(connection, name="key_fingerprint")
        self.expect_key(None if row is None else row.value)

    def expect_key(self, fingerprint: str | None) -> None:
        """Raise `RequestError` if *fingerprint*, which the caller has read, is not that of `key_fingerprint`."""
        if fingerprint != self.key_fingerprint:
            raise RequestError(
                f"The key of the project in {self.location} was replaced (`pdkernel keys rotate`) after this process had "
                "opened the project. Nothing was written.",
                fix="Start this process again; in a notebook, restart the kernel.",
            )

    @contextmanager
    def _read_connection(self) -> Iterator[Connection]:
        with _TranslateErrors(self, None), self._reads.connect() as connection:
            yield connection

    @contextmanager
    def _pooled_connection(self) -> Iterator[Connection]:
        """
        A context with a connection for reading; on SQLite the previous connection and its statement cache are reused.

        On Postgres, the pool has checked each connection, which the server may have closed.
        """
        if self.sqlite_path is None:
            with self._read_connection() as connection:
                yield connection
            return
        with _TranslateErrors(self, None):
            try:
                connection = self._idle_connections.pop()
            except IndexError:
                connection = self._reads.connect()
            try:
                yield connection
            except BaseException:
                connection.close()
                raise
            if connection.in_transaction():
                connection.rollback()
            if self._closed or self._idle_connections:
                connection.close()
            else:
                self._idle_connections.append(connection)

    def translate_error(self, fault: BaseException) -> PdkernelError | None:
        """Return the error for a person that explains *fault*; None if *fault* is not a database error."""
        if self.sqlite_path is None:
            return postgres.translate_error(fault, self.location, self.engine.url)
        cause = fault.orig if isinstance(fault, DBAPIError) else fault
        # `CompiledQuery` raises the driver's errors
        if not isinstance(cause, sqlite3.Error) or (cause is not fault and isinstance(cause, sqlite3.IntegrityError)):
            return None
        return sqlite.translate_error(cause, self.sqlite_path)

    def ping(self) -> int | None:
        """
        Ask the database for an answer, on a connection of its own; one thread at a time calls this.

        Returns:
            On SQLite, a number that differs after a change by any process; None on Postgres.

        Raises:
            ProjectError: There is no answer.
        """
        if self._pinger is None:
            path = self.sqlite_path
            self._pinger = postgres.Pinger(self.engine, self.location) if path is None else sqlite.Pinger(path)
        return self._pinger.ping()

    def read_meta(self) -> Mapping[str, str] | None:
        """Return the values of the table `meta`, or None if the database does not contain a project yet."""
        with self.read() as connection:
            return _facts(connection)

    def create(self, meta_values: Mapping[str, str]) -> bool:
        """
        Create the tables and write *meta_values*, in one transaction; False if another process was first.

        Raises:
            ProjectError: The database has a foreign table with one of pdkernel's names.
        """
        with self.write() as connection:
            self.lock(connection, "schema")
            if "meta" in _table_names(connection) and _facts(connection) is not None:
                return False
            self._refuse_foreign_tables(connection, set(metadata.tables))
            if self.sqlite_path is None:
                PROJECT_SCHEMA.create(connection)
            else:
                for statement in sqlite.creation_statements(metadata):
                    connection.exec_driver_sql(statement)
            connection.execute(insert(meta), [{"name": name, "value": value} for name, value in meta_values.items()])
        return True

    def permit_migration(self) -> None:
        """Raise `RequestError` if tables must not be changed now, because other processes use the database; a person is asked once."""
        if not self._permits_migration:
            permit_migration(self.location, self._count_processes(), self.ask)
            self._permits_migration = True

    def _count_processes(self) -> int:
        """Return how many executors of the journal live."""
        if self.sqlite_path is not None:
            # a server has a lock for its origin, too
            folder = self.sqlite_path.with_name(f"executors-{self.sqlite_path.stem}")
            return count_locked_files(folder, "exec_*")
        with self.read() as connection:
            if (
                connection.exec_driver_sql("select 1 from to_regclass('executors') t where t is not null").first()
                is None
            ):
                return 0
            living = (
                "select count(*) from executors where alive and lease_until > extract(epoch from clock_timestamp())"
            )
            return int(connection.exec_driver_sql(living).scalar_one())

    def migrate(self, schema: Schema = PROJECT_SCHEMA) -> None:
        """
        Change the tables of an older project to *schema*, in one transaction and without loss.

        Raises `ProjectError` as `create` does, and as `permit_migration`.
        """
        self.create_tables(schema, "schema_version")

    def create_tables(self, schema: Schema, name: str) -> None:
        """
        Create the tables of *schema*, or change those of an earlier version; the row *name* of `meta` has the version.

        Raises:
            ProjectError: The database has a foreign table with one of the names, or its tables cannot be opened.
            RequestError: Tables must not be changed now.
        """
        known = (self.read_meta() or {}).get(name)
        if known == str(schema.version):
            return
        if known is not None:
            schema.check(int(known), self.location)
            self.permit_migration()
        with self.write() as connection:
            self.lock(connection, "schema")
            known = (_facts(connection) or {}).get(name)  # another process may have been first
            if known is None:
                self._refuse_foreign_tables(connection, set(schema.metadata.tables))
                schema.create(connection)
                connection.execute(insert(meta), {"name": name, "value": str(schema.version)})
                return
            schema.check(int(known), self.location)
            for statement in schema.statements_after(int(known)):
                connection.exec_driver_sql(statement)
            connection.execute(update(meta).where(meta.c.name == name).values(value=str(schema.version)))

    def close(self) -> None:
        """Close every connection, and later those that other threads use now."""
        self._closed = True
        self.disconnect()

    def disconnect(self) -> None:
        """Close the connections that are not in use; a later call opens new ones."""
        while self._idle_connections:
            self._idle_connections.pop().close()
        if self._pinger is not None:
            self._pinger.close()
        self.engine.dispose()

    def _refuse_foreign_tables(self, connection: Connection, names: set[str]) -> None:
        taken = sorted(_table_names(connection) & names)
        if taken:
            raise ProjectError(
                f"The database {self.location} is not a project of pdkernel, but it has tables with the same names: "
                f"{', '.join(taken)}. The database was not changed.",
                fix="Use a separate database for the project.",
            )


class _TranslateErrors(Generic[T]):
    """A context whose value is *value*, and which translates database errors. It is a class because a generator is slower."""

    def __init__(self, database: Database, value: T) -> None:
        self._database = database
        self._value = value

    def __enter__(self) -> T:
        return self._value

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if fault is not None and (readable := self._database.translate_error(fault)) is not None:
            raise readable from fault


_URLS = "Use sqlite:////absolute/path.db or postgresql://user@server/name."


def _facts(connection: Connection) -> dict[str, str] | None:
    is_sqlite = connection.dialect.name == "sqlite"
    tables = (
        "sqlite_master where type = 'table' and name = 'meta'"
        if is_sqlite
        else "to_regclass('meta') t where t is not null"
    )
    if connection.exec_driver_sql(f"select 1 from {tables}").first() is None:  # noqa: S608 - one of these two texts
        return None
    facts = {row.name: row.value for row in _FACTS.fetch_all(connection)}
    return facts if "schema_version" in facts else None


def _table_names(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names())


def _sqlite(path: Path) -> Database:
    engine = create_engine(
        "sqlite://",
        creator=lambda: sqlite.connect(path),
        poolclass=QueuePool,
        max_overflow=60,  # threads of one process; opening a connection takes a tenth of a millisecond
        hide_parameters=True,
    )
    event.listen(engine, "begin", _begin)
    return Database(engine, sqlite_path=path, where=str(path))


def _begin(connection: Connection) -> None:
    # If another process writes between a transaction's first read and its first write, SQLite fails without waiting. So a
    # transaction takes the write lock at its beginning. Reads need no transaction.
    if not connection.get_execution_options().get(_READ_ONLY_OPTION):
        connection.exec_driver_sql("begin immediate")

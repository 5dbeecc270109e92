"""
Opens the project's SQLite file, for the project's tables and for the journal's writer.

It sets the pragmas, retries if several processes start at once, and translates SQLite's errors.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Sequence
from errno import EISDIR
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pdkernel.common.blocking import IS_BLOCKING_FORBIDDEN, check_may_block
from pdkernel.errors import ProjectError
from pdkernel.storage.folder import folder_error

if TYPE_CHECKING:
    from sqlalchemy import MetaData

BUSY_TIMEOUT_S = 10.0
"""Seconds to wait for another process's write."""

_CHECKPOINT_PAGES = 4000
"""Pages in the -wal file (16 MB) after which a commit copies them to the database: runs change the same pages again and again."""

_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_READ_ONLY = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH})
_DAMAGED = frozenset({sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT})


class _CheckedConnection(sqlite3.Connection):
    """A connection whose statements may not block an event loop."""

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        check_may_block(sql)
        return super().execute(sql, *args)

    def executemany(self, sql: str, *args: Any) -> sqlite3.Cursor:
        check_may_block(sql)
        return super().executemany(sql, *args)

    def cursor(self, factory: Any = None) -> Any:
        return super().cursor(factory or _CheckedCursor)


class _CheckedCursor(sqlite3.Cursor):
    """A cursor of `_CheckedConnection`."""

    def execute(self, sql: str, *args: Any) -> Self:
        check_may_block(sql)
        return super().execute(sql, *args)

    def executemany(self, sql: str, *args: Any) -> Self:
        check_may_block(sql)
        return super().executemany(sql, *args)


def connect(path: Path) -> sqlite3.Connection:
    """
    Open a connection in autocommit mode, with WAL, commits that are synced to disk, and a busy timeout.

    Any thread may use the connection, but only one at a time.

    Raises:
        ProjectError: The file cannot be opened, or is not a database.
    """
    try:
        # A new file is created here, because SQLite gives the -wal and -shm files the mode of the database. An existing file
        # is not opened here: closing its descriptor would drop this process's locks. Another process would then believe that
        # it is the last one, and remove the -wal file while this process writes.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        if path.is_dir():
            raise folder_error(path.parent, IsADirectoryError(EISDIR, os.strerror(EISDIR), str(path))) from None
        if not os.access(path, os.R_OK | os.W_OK):
            raise _read_only(path) from None
    except PermissionError as fault:
        raise _read_only(path) from fault
    except OSError as fault:
        raise folder_error(path.parent, fault) from fault
    is_new = path.stat().st_size == 0
    connection = sqlite3.connect(
        path,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
        factory=_CheckedConnection if IS_BLOCKING_FORBIDDEN else sqlite3.Connection,
    )
    try:
        configure(connection, is_new=is_new)
    except sqlite3.Error as fault:
        connection.close()
        raise translate_error(fault, path) from fault
    return connection


def configure(connection: sqlite3.Connection, *, is_new: bool) -> None:
    """Let *connection* write to a log, and sync each commit to disk; *is_new* is whether its file has no page. Raises `sqlite3.Error`."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            if is_new:  # only a file without a page can get it, and setting it is a write
                connection.execute("pragma auto_vacuum = incremental")
            # Switching to WAL needs exclusive access, and SQLite does not call its busy handler for it
            connection.execute("pragma journal_mode = wal").fetchone()
            break
        except sqlite3.OperationalError as fault:
            if not is_busy(fault) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    connection.execute("pragma synchronous = full")
    connection.execute(f"pragma wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    connection.execute("pragma foreign_keys = on")


class Pinger:
    """
    Asks a file whether it can be read, and whether it has changed.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def ping(self) -> int:
        """Return a number that differs after a change by any other connection. Raises `ProjectError`."""
        if self._connection is None:
            self._connection = connect(self._path)
        try:
            return int(self._connection.execute("pragma data_version").fetchone()[0])
        except sqlite3.Error as fault:
            self.close()
            raise translate_error(fault, self._path) from fault

    def close(self) -> None:
        """Close the connection; the next `ping` opens another one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


@cache  # compiling the statements takes longer than executing them
def creation_statements(tables: MetaData) -> Sequence[str]:
    """Return the SQL statements that create *tables* and their indexes."""
    # imported here because only the creation of tables needs SQLAlchemy
    from sqlalchemy.dialects import sqlite
    from sqlalchemy.schema import CreateIndex, CreateTable

    statements: list[CreateTable | CreateIndex] = [CreateTable(table) for table in tables.sorted_tables]
    statements += [CreateIndex(index) for table in tables.sorted_tables for index in table.indexes]
    return [str(statement.compile(dialect=sqlite.dialect())) for statement in statements]


def is_busy(fault: sqlite3.Error) -> bool:
    """Return whether *fault* means that another connection is writing."""
    return _primary_code(fault) in _BUSY


def translate_error(fault: sqlite3.Error, path: Path) -> ProjectError:
    """Return the error for a person that explains *fault*."""
    code = _primary_code(fault)
    if code in _DAMAGED:
        return ProjectError(
            f"The project's database {path} is damaged or is not a database ({fault}). The file was not changed.",
            fix=f"Restore the file from a copy. Or rename it (mv {path} {path}.damaged) and run pdkernel project restore: the next "
            "command creates a new project, in which accounts and variables must be added again.",
        )
    if code in _READ_ONLY:
        return _read_only(path)
    if code in _BUSY:
        return ProjectError(
            f"The project's database {path} was locked by another process for {BUSY_TIMEOUT_S:.0f} seconds.",
            fix="End the process that uses it (a stopped debugger, a database browser), and run the command again.",
        )
    if code == sqlite3.SQLITE_FULL:
        return ProjectError(
            f"The project's database {path} cannot grow, because the disk is full. Stored data is not lost.",
            fix="Free some space, and run the command again.",
        )
    return ProjectError(
        f"The project's database {path} cannot be used: {fault}.",
        fix="Run `pdkernel doctor`, or choose another project: --project FOLDER (PDKERNEL_PROJECT).",
    )


def _read_only(path: Path) -> ProjectError:
    return ProjectError(
        f"The project's database {path} cannot be written: permission is denied, or its folder is read-only.",
        fix=f"Make {path.parent} and the files in it writable, or choose another folder: --project FOLDER (PDKERNEL_PROJECT).",
    )


def _primary_code(fault: sqlite3.Error) -> int:
    """Return the primary result code of SQLite, which is the low byte of an extended code."""
    return getattr(fault, "sqlite_errorcode", 0) & 0xFF

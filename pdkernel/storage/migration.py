"""The versions of tables, and whether those of an earlier one may be changed: processes of that version would hang in the middle of their runs."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pdkernel.errors import ProjectError, RequestError, TablesChangedError

if TYPE_CHECKING:
    from sqlalchemy import Connection, MetaData

Ask = Callable[[str], bool]
"""Asks a person a question; returns whether the answer is yes."""


@dataclass(frozen=True)
class Schema:
    """
    Tables with a version, which increases with every change to one of them.

    Attributes:
        metadata: The tables.
        version: Their version.
        changes: For each version after the earliest one that can be opened, SQL that changes the tables of the version before;
            semicolons divide statements.
        completion: SQL that completes new tables on Postgres.
    """

    metadata: MetaData
    version: int
    changes: Mapping[int, str] = field(default_factory=dict)
    completion: Sequence[str] = ()

    def check(self, version: int, location: object) -> None:
        """Raise `ProjectError` if tables of *version*, which are in the database *location*, cannot be opened or changed."""
        earliest = self.version - len(self.changes)
        if version > self.version:
            raise ProjectError(
                f"The project's database {location} cannot be opened: a newer version of pdkernel has written it (schema version "
                f"{version}; this version supports up to {self.version}). The database was not changed.",
                fix="Install the newer version of pdkernel, from the same place as this one.",
            )
        if version < earliest:
            raise ProjectError(
                f"The project's database {location} cannot be opened: a version of pdkernel before its first release has written it "
                f"(schema version {version}; this version supports {earliest} and later). The database was not changed.",
                fix="Go on with the version that has written it. Or move the database away (on SQLite: the folder .pdkernel), run the "
                "command again, which creates a new project, and add accounts and variables to it.",
            )

    def create(self, connection: Connection) -> None:
        """Create the tables and their indexes; a partial index of SQLite is also partial on Postgres."""
        if connection.dialect.name == "postgresql":
            # not declared with the tables, because that loads SQLAlchemy's dialect of Postgres at the start of every command
            for table in self.metadata.sorted_tables:
                for index in table.indexes:
                    index.dialect_options["postgresql"]["where"] = index.dialect_options["sqlite"]["where"]
        self.metadata.create_all(connection, checkfirst=False)
        for statement in self.completion:
            connection.exec_driver_sql(statement)

    def statements_after(self, version: int) -> Sequence[str]:
        """Return the SQL statements that change tables of *version* to these."""
        newer = range(version + 1, self.version + 1)
        return [statement for each in newer for statement in self.changes[each].split(";")]


def permit_migration(location: object, processes: int, ask: Ask | None) -> None:
    """
    Raise `RequestError` unless no other process uses the database, or a person permits the change.

    Args:
        location: The database.
        processes: The number of other processes.
        ask: Asks the person; None without a person.
    """
    found = (
        f"The tables of {location} are those of an earlier version of pdkernel, and {processes} other "
        f"process{'es use' if processes > 1 else ' uses'} the database (a server, a notebook or a command)"
    )
    if processes == 0 or (ask is not None and ask(f"{found}. Change the tables, after which these must be restarted")):
        return
    raise RequestError(
        f"{found}. The tables were not changed, because these processes could not continue their runs.",
        fix="Stop them, make a backup, and run the command again (on PostgreSQL, a process that was killed counts for ten seconds).",
    )


def expect_version(version: int, location: object, *, supported: int) -> None:
    """
    Check that the tables that this process uses were not changed since it opened them.

    Raises:
        TablesChangedError: A newer version has changed the tables from schema version *supported* to *version*.
    """
    if version > supported:
        raise TablesChangedError(
            f"A newer version of pdkernel has changed the tables of {location} (schema version {version}; this process supports up "
            f"to {supported}), so this process starts no more runs. They wait in the database.",
            fix="Stop this process, and start it again with the newer version, which continues its runs.",
        )


def count_locked_files(folder: Path, pattern: str) -> int:
    """Return how many files in *folder* with such a name other processes, or other parts of this one, have locked."""
    locked = 0
    for file in folder.glob(pattern):
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            locked += 1
        finally:
            os.close(descriptor)
    return locked

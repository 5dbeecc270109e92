"""
The mark of a SQLite project: a file beside the key with the project's id, and how far its journal has come.

SQLite itself does not notice that its `-wal` file is missing, and it ends a damaged one before the first damaged page. Without the
mark a project would be made anew, or lose accepted runs, in silence. The number in the file is written after the commit of the
same number in the database, so a database that has a lower number has lost commits.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from pdkernel.errors import ProjectError

MARK_INTERVAL_S = 0.05
"""Seconds of commits that the mark may not cover while the journal is busy."""
ROW = "journal_mark"
"""The row of `meta` with the number of the last mark."""

_NEXT = (
    "insert into meta (name, value) values (?, '1') on conflict (name) do update set value = cast(value as integer) + 1"
    " returning cast(value as integer)"
)
_RESTORE = "pdkernel project restore"


@dataclass(frozen=True, slots=True)
class Mark:
    """
    The content of the file.

    Attributes:
        project_id: The id of the project.
        number: The number of the last mark.
    """

    project_id: str
    number: int


class JournalMark:
    """
    The mark of one project.

    Args:
        key_file: The project's key file; the mark is beside it.
        database: The SQLite file.
        project_id: The id of the project.

    Attributes:
        file: The file.
        is_behind: Whether the mark does not cover the last commit.
    """

    def __init__(self, key_file: Path, database: Path, project_id: str) -> None:
        self.file = find_mark(key_file, database)
        self._project_id = project_id
        self._next = 0.0
        self._number: int | None = None
        self.is_behind = False

    @property
    def is_due(self) -> bool:
        """Whether the next commit gets a mark."""
        return time.monotonic() >= self._next

    def advance(self, connection: sqlite3.Connection, *, always: bool = False) -> None:
        """Count the mark in the transaction of *connection*, if it is time; call `store` after the commit."""
        self.is_behind = True
        if always or self.is_due:
            self._number = connection.execute(_NEXT, (ROW,)).fetchone()[0]

    def store(self) -> None:
        """Write the number of the transaction that was committed, if it has one. A failure leaves an earlier mark."""
        if self._number is None:
            return
        self._next = time.monotonic() + MARK_INTERVAL_S
        self.is_behind = False
        number, self._number = self._number, None
        self.write(number)

    def forget(self) -> None:
        """Forget the number of a transaction that was rolled back."""
        self._number = None

    def write(self, number: int) -> None:
        """Write *number* in place; there is no sync, because an earlier mark is right, too."""
        content = json.dumps({"project_id": self._project_id, "journal": number}).ljust(120) + "\n"
        with contextlib.suppress(OSError):  # a folder that cannot be written has no mark
            descriptor = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.pwrite(descriptor, content.encode(), 0)
            finally:
                os.close(descriptor)


def find_mark(key_file: Path, database: Path) -> Path:
    """Return the file with the mark of *database*, which is beside *key_file*; the two may be moved together."""
    place = os.path.relpath(database, key_file.parent)
    return key_file.with_name(f"{key_file.name}.{hashlib.sha256(place.encode()).hexdigest()[:8]}.mark")


def read_mark(key_file: Path, database: Path) -> Mark | None:
    """Return the mark, or None if there is none, or only a part of one after a crash of the machine."""
    try:
        content = json.loads(find_mark(key_file, database).read_bytes())
        return Mark(str(content["project_id"]), int(content["journal"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def check_mark(mark: Mark, key_file: Path, database: Path) -> None:
    """
    Check that the database has all that *mark* covers, and change neither the database nor its `-wal` file.

    Raises:
        ProjectError: It has not.
    """
    facts = _read_facts(database)
    if facts is None:
        problem = f"The database {database} of the project {mark.project_id} is missing or empty"
    elif facts and facts.get("project_id") != mark.project_id:
        problem = (
            f"The database {database} is not that of the project {mark.project_id}, but of {facts.get('project_id')}"
        )
    elif not facts:  # it is damaged or locked, which is an error when it is opened
        return
    elif int(facts.get(ROW, 0)) < mark.number:
        problem = (
            f"The database {database} has lost commits, for example accepted runs: it ends before the mark "
            f"({facts.get(ROW, 0)} of {mark.number})"
        )
    else:
        return
    raise ProjectError(
        f"{problem}, as {find_mark(key_file, database)} shows. A file ({database.name}-wal) was removed or damaged, or a copy was put "
        "in its place. Nothing was changed.",
        fix=f"Put {database.name}-wal back, or restore a backup. To continue with the database as it is, or with a new one: {_RESTORE}",
    )


def _read_facts(database: Path) -> Mapping[str, str] | None:
    """Return the values of `meta`; None without a project; empty if the database cannot be read."""
    if not database.exists():  # otherwise SQLite would remove its `-wal` file
        return None
    try:
        # a connection that only reads does not copy the `-wal` file to the database and remove it when it is closed
        with closing(sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True)) as connection:
            if connection.execute("select 1 from sqlite_master where name = 'meta'").fetchone() is None:
                return None
            return dict(connection.execute("select name, value from meta"))
    except sqlite3.Error:
        return {}


def remove_mark(key_file: Path, database: Path) -> bool:
    """Remove the mark, so that the database is accepted as it is; return whether there was one."""
    try:
        find_mark(key_file, database).unlink()
    except FileNotFoundError:
        return False
    return True

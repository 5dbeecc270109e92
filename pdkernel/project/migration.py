"""Whether the tables of an earlier version may be changed: processes of that version would hang in the middle of their runs."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from pdkernel.errors import RequestError, TablesChangedError

Ask = Callable[[str], bool]
"""Asks a person a question; returns whether the answer is yes."""


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

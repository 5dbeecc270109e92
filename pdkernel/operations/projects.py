"""The local project of a command or a notebook: found by its folder or by settings, opened or created."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pdkernel.common.clock import RANDOM_IDS, SYSTEM_CLOCK, Clock, IdGenerator
from pdkernel.errors import RequestError
from pdkernel.storage import Project, find_project
from pdkernel.storage.folder import KEY_NAME
from pdkernel.storage.journal_mark import remove_mark
from pdkernel.storage.migration import Ask


def open_project(
    start: Path,
    environ: Mapping[str, str],
    *,
    folder: str | None = None,
    database_url: str | None = None,
    clock: Clock = SYSTEM_CLOCK,
    ids: IdGenerator = RANDOM_IDS,
    ask: Ask | None = None,
) -> Project:
    """
    Open the local project, or create it.

    Args:
        start: The folder in which the search begins if no folder is named.
        environ: Environment variables: `PDKERNEL_PROJECT`, `PDKERNEL_DATABASE` and `PDKERNEL_KEY_FILE`.
        folder: The project's folder, which wins over `PDKERNEL_PROJECT`.
        database_url: The URL of the database, which wins over `PDKERNEL_DATABASE`.
        clock: The clock for time stamps.
        ids: The source of new ids.
        ask: Asks whether tables of an earlier version may be changed while other processes use them; None refuses.

    Raises:
        ProjectError: Folder, key or database cannot be used.
        RequestError: Tables of an earlier version must not be changed now.
    """
    place, key_file = _find(start, environ, folder)
    return Project.open(
        place,
        database_url=database_url or environ.get("PDKERNEL_DATABASE"),
        key_file=key_file,
        clock=clock,
        ids=ids,
        ask=ask,
    )


def accept_database(
    start: Path, environ: Mapping[str, str], *, folder: str | None = None, database_url: str | None = None
) -> Path:
    """
    Accept the database of a project on SQLite as it is, although it is not the one that the project had, or has lost commits.

    Returns:
        The database, with which the next command continues, or in which it creates a new project.

    Raises:
        RequestError: The project is on PostgreSQL, or the database has lost nothing.
    """
    place, key_file = _find(start, environ, folder)
    database = Project.find_sqlite(place, database_url or environ.get("PDKERNEL_DATABASE"))
    if database is None or not remove_mark((key_file or place / KEY_NAME).absolute(), database):
        raise RequestError(
            "There is nothing to accept: the project is on PostgreSQL, or no command has refused its database.",
            fix="pdkernel project show",
        )
    return database


def _find(start: Path, environ: Mapping[str, str], folder: str | None) -> tuple[Path, Path | None]:
    """Return the folder of the project, and its key file if it is not in that."""
    key = environ.get("PDKERNEL_KEY_FILE")
    return find_project(start, named=folder or environ.get("PDKERNEL_PROJECT")), Path(key) if key else None

"""The local project of a command or a notebook: found by its folder or by settings, opened or created."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pdkernel.clock import RANDOM_IDS, SYSTEM_CLOCK, Clock, IdGenerator
from pdkernel.project import Project, find_project
from pdkernel.project.migration import Ask


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
    key = environ.get("PDKERNEL_KEY_FILE")
    return Project.open(
        find_project(start, named=folder or environ.get("PDKERNEL_PROJECT")),
        database_url=database_url or environ.get("PDKERNEL_DATABASE"),
        key_file=Path(key) if key else None,
        clock=clock,
        ids=ids,
        ask=ask,
    )

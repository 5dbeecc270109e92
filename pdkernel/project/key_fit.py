"""Whether the key in the key file is the key of the database, when a project is opened."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pdkernel.errors import ProjectError
from pdkernel.project.database import Database
from pdkernel.project.folder import ensure_key, read_key
from pdkernel.project.vault import Vault


def create_key(path: Path, database: Database) -> bytes:
    """
    A new key in *path*, unless the database holds values that were encrypted with another key.

    Raises:
        ProjectError: The database has values, or the file cannot be written.
    """
    facts = database.read_meta()
    if facts is None:
        return ensure_key(path)
    key = read_key(path)  # read again: another new process creates the key first, then the database
    if key is None:
        raise ProjectError(
            f"The project's key file {path} is missing. The database {database.location} contains values that were encrypted "
            "with it, so no new key was created.",
            fix="Restore the key file, or name it in PDKERNEL_KEY_FILE. If the key is lost, "
            + ("use an empty database" if database.sqlite_path is None else "move the database to another folder")
            + ": the next command creates a new project, in which accounts and variables must be added again.",
        )
    return key


def fits_database(key: bytes | None, facts: Mapping[str, str]) -> bool:
    """Whether *key* is the key of the database with these values of `meta`."""
    return key is not None and Vault(key).fingerprint == facts["key_fingerprint"]


def check_key(vault: Vault, fingerprint: str, path: Path, where: str) -> None:
    """Raise `ProjectError` if the key in *path*, whose vault is *vault*, is not the one of the database *where*."""
    if vault.fingerprint != fingerprint:
        raise ProjectError(
            f"The database {where} was created with another key than the one in {path}. Neither was changed.",
            fix="Name the key file of this project in PDKERNEL_KEY_FILE, or choose the project of this key: --project FOLDER. "
            "If `pdkernel keys rotate` ran on another host, copy the key file of that host.",
        )

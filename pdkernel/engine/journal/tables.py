"""Creates the journal's tables in a SQLite file, or changes those of an earlier version."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

from pdkernel.engine.journal.text_columns import hash_definition
from pdkernel.project.database import check_schema_version
from pdkernel.project.sqlite import creation_statements


def create_tables(connection: sqlite3.Connection, path: Path, permit_migration: Callable[[], object]) -> None:
    """
    Create the tables, or change those of an earlier version, in one transaction, which ends with *connection* if it fails.

    *permit_migration* raises an error if tables must not be changed now.
    """
    from pdkernel.engine.journal.schema import MIGRATIONS, SCHEMA_VERSION, metadata

    version = connection.execute("pragma user_version").fetchone()[0]
    if version == SCHEMA_VERSION:
        return
    check_schema_version(version, path, supported=SCHEMA_VERSION)
    if version > 0:
        permit_migration()
    connection.create_function("hash_definition", 1, _hash_or_none, deterministic=True)
    connection.execute("begin immediate")
    version = connection.execute("pragma user_version").fetchone()[0]  # another process may have been first
    statements = (
        creation_statements(metadata)
        if version == 0
        else [each for newer in range(version + 1, SCHEMA_VERSION + 1) for each in MIGRATIONS[newer].split(";")]
    )
    for statement in statements:
        connection.execute(statement)
    connection.execute(f"pragma user_version = {SCHEMA_VERSION}")
    connection.execute("commit")


def _hash_or_none(content: str | None) -> str | None:
    return None if content is None else hash_definition(content)

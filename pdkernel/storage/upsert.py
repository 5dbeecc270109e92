"""Statements for SQLite and Postgres that SQLAlchemy does not have: inserts with conflict handling, and times that are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, func
from sqlalchemy.dialects import postgresql, sqlite


def upsert_row(connection: Connection, table: Table, *key: str, **values: Any) -> None:
    """Insert the row, or update the row with the same *key* columns."""
    upsert_rows(connection, table, *key, rows=[values])


def upsert_rows(connection: Connection, table: Table, *key: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert *rows*, which have the same columns, in order; a row with the *key* columns of an earlier row replaces it."""
    if rows:
        insert = _insert(connection, table)
        others = {name: insert.excluded[name] for name in rows[0] if name not in key}
        connection.execute(insert.on_conflict_do_update(index_elements=key, set_=others), rows)


def insert_if_absent(connection: Connection, table: Table, **values: Any) -> None:
    """Insert the row, unless a row with the same key exists."""
    connection.execute(_insert(connection, table).values(**values).on_conflict_do_nothing())


def _insert(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    return insert(table)


def is_moment(column: ColumnElement[Any], moment: datetime) -> ColumnElement[bool]:
    """The condition that *column*, in seconds since 1970, holds *moment*, which was read from it and is rounded to microseconds."""
    return func.abs(column - moment.timestamp()) < 1e-5

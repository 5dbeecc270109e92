"""Insert statements with conflict handling, for SQLite and Postgres; SQLAlchemy has no common statement for both."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite


def upsert_row(connection: Connection, table: Table, *key: str, **values: Any) -> None:
    """Insert the row, or update the row with the same *key* columns."""
    others = {name: value for name, value in values.items() if name not in key}
    connection.execute(_insert(connection, table, values).on_conflict_do_update(index_elements=key, set_=others))


def insert_if_absent(connection: Connection, table: Table, **values: Any) -> None:
    """Insert the row, unless a row with the same key exists."""
    connection.execute(_insert(connection, table, values).on_conflict_do_nothing())


def _insert(connection: Connection, table: Table, values: dict[str, Any]) -> sqlite.Insert | postgresql.Insert:
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    return insert(table).values(**values)

"""
Statements for SQLite and Postgres that SQLAlchemy does not have or is slow with: upserts, times that are compared, hot queries.

A `CompiledQuery`, which every run or an idle server executes again and again, is compiled once and on SQLite passed to the
driver directly: SQLAlchemy needs a tenth of a millisecond for a row that SQLite finds in a few microseconds.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from sqlite3 import Connection as SqliteConnection
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import ColumnElement, Connection, Select, Table, func
from sqlalchemy.dialects import sqlite

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql


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
    if connection.dialect.name != "postgresql":
        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql  # slow to import, and a local project uses SQLite

    return postgresql.insert(table)


def is_moment(column: ColumnElement[Any], moment: datetime) -> ColumnElement[bool]:
    """Return the condition that *column*, in seconds since 1970, holds *moment*, which was read from it and is rounded to microseconds."""
    return func.abs(column - moment.timestamp()) < 1e-5


_DIALECT = sqlite.dialect(paramstyle="named")


class CompiledQuery:
    """
    A query that is executed often.

    Rows have the driver's types: on SQLite, true is 1. Pass a list as the value of an expanding parameter.
    """

    def __init__(self, statement: Select[Any]) -> None:
        self._statement = statement
        self._row = _row_type([str(column.key) for column in statement.selected_columns])
        self._text = lru_cache(maxsize=64)(self._compile)

    def fetch_all(self, connection: Connection, **values: Any) -> Sequence[Any]:
        """Return the rows, as named tuples of their columns."""
        lengths: list[tuple[str, int | None]] = []
        parameters: dict[str, Any] = {}
        for name, value in values.items():
            if isinstance(value, list):
                lengths.append((name, len(value)))
                parameters.update((f"{name}_{number}", item) for number, item in enumerate(value, 1))
            else:
                lengths.append((name, None))
                parameters[name] = value
        if connection.dialect.name != "sqlite" or (0 in [length for _, length in lengths]):
            return connection.execute(self._statement, values).all()
        driver = cast("SqliteConnection", connection.connection.driver_connection)
        return [self._row(*row) for row in driver.execute(self._text(tuple(lengths)), parameters)]

    def fetch_first(self, connection: Connection, **values: Any) -> Any | None:
        """Return the first row, or None."""
        found = self.fetch_all(connection, **values)
        return found[0] if found else None

    def _compile(self, lengths: tuple[tuple[str, int | None], ...]) -> str:
        filled = self._statement.params({name: length and list(range(length)) for name, length in lengths})
        return str(filled.compile(dialect=_DIALECT, compile_kwargs={"render_postcompile": True}))


def _row_type(names: list[str]) -> Callable[..., Any]:
    """Return a named tuple class for rows with the columns *names*."""
    return namedtuple("_Row", names)  # noqa: PYI024 - each statement has its own

"""
Statements that every run reads with: compiled once, and on SQLite given to its driver as they are.

SQLAlchemy takes a tenth of a millisecond for a row that SQLite finds in a few microseconds. Knows how the two write parameters,
and nothing of tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from sqlite3 import Connection as SqliteConnection
from types import SimpleNamespace
from typing import Any, cast

from sqlalchemy import Connection, Select
from sqlalchemy.dialects import sqlite

_DIALECT = sqlite.dialect(paramstyle="named")


class Prepared:
    """
    A statement, to be read with again and again.

    Columns come as the driver has them: on SQLite true is 1. Values that are lists stand where the statement has an
    expanding parameter.
    """

    def __init__(self, statement: Select[Any]) -> None:
        self._statement = statement
        self._names = [str(column.key) for column in statement.selected_columns]
        self._text = lru_cache(maxsize=64)(self._compile)

    def all(self, connection: Connection, **values: Any) -> Sequence[Any]:
        """The rows, by the names of their columns."""
        lists = {name: value for name, value in values.items() if isinstance(value, list)}
        if connection.dialect.name != "sqlite" or not all(lists.values()):
            return connection.execute(self._statement, values).all()
        text = self._text(tuple((name, len(lists[name]) if name in lists else None) for name in values))
        given = {name: value for name, value in values.items() if name not in lists}
        for name, value in lists.items():
            given.update((f"{name}_{number}", item) for number, item in enumerate(value, 1))
        driver = cast("SqliteConnection", connection.connection.driver_connection)
        return [SimpleNamespace(**dict(zip(self._names, row, strict=True))) for row in driver.execute(text, given)]

    def first(self, connection: Connection, **values: Any) -> Any | None:
        """The first row, or None."""
        found = self.all(connection, **values)
        return found[0] if found else None

    def _compile(self, lengths: tuple[tuple[str, int | None], ...]) -> str:
        filled = self._statement.params({name: length and list(range(length)) for name, length in lengths})
        return str(filled.compile(dialect=_DIALECT, compile_kwargs={"render_postcompile": True}))

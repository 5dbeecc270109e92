"""Views of the project's data stores. `storage` stores the records, `render.stores` draws the views."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from pdkernel.common.clock import format_iso
from pdkernel.common.redaction import Redactor
from pdkernel.render.stores import RecordRow, StoreSummary

if TYPE_CHECKING:
    from pdkernel.storage import DataStoreTable, ScratchCopy


TOTAL_KEY = "total"
"""The key of the last line of a file with a whole store: the number of its records."""


@dataclass(frozen=True, slots=True)
class StoreView:
    """
    The records of a data store.

    Attributes:
        name: The store's name.
        rows: The records, in the order in which their keys were first set.
        total: The number of all records of the store.
    """

    name: str
    rows: tuple[RecordRow, ...]
    total: int


def list_stores(table: DataStoreTable | ScratchCopy) -> list[StoreSummary]:
    """The data stores of a project, or those that a scratch copy changes, by name."""
    return [StoreSummary(store.name, store.record_count, store.characters) for store in table.list_stores()]


def view_store(
    table: DataStoreTable | ScratchCopy, name: str, *, limit: int | None = None, redactor: Redactor | None = None
) -> StoreView:
    """
    The records of the data store *name*.

    Args:
        table: The data stores of a project, or a scratch copy.
        name: The store's name.
        limit: The maximum number of rows; None for all records.
        redactor: Redacts keys and values; None shows the records as they are.

    Raises:
        StoreNotFoundError: The project has no such store.
    """
    table.require(name)
    rows = [
        RecordRow(
            redactor.redact_text(record.key) if redactor else record.key,
            redactor.redact_value(record.value) if redactor else record.value,
            format_iso(record.expires) if record.expires else "",
        )
        for record in islice(table.iter_records(name), limit)
    ]
    return StoreView(name, tuple(rows), len(rows) if limit is None else table.count(name))

"""
The project's data stores: their records read, set, removed, imported and exported. `storage` stores them, `render.stores` draws the views.

Format of exported files: one JSON object a line with `key`, `value` and, for a record that expires, `expires_at`.
An import followed by an export gives the same bytes. A store that `pdkernel migrate data` downloaded ends with a line
`{"total": N}`.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from pdkernel.common.clock import format_iso
from pdkernel.common.redaction import Redactor
from pdkernel.errors import EventError, RequestError
from pdkernel.event import parse_json
from pdkernel.render.stores import RecordRow, StoreSummary
from pdkernel.storage import StoreRecord, check_key

if TYPE_CHECKING:
    from pdkernel.storage import DataStoreTable, Project, ScratchCopy
    from pdkernel.storage.data_stores import DataStoreSummary


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
    """Return the data stores of a project, or those that a scratch copy changes, by name."""
    return [StoreSummary(store.name, store.record_count, store.characters) for store in table.list_stores()]


def view_store(
    table: DataStoreTable | ScratchCopy, name: str, *, limit: int | None = None, redactor: Redactor | None = None
) -> StoreView:
    """
    Return the records of the data store *name*.

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


@dataclass(frozen=True, slots=True)
class StoreImport:
    """
    The result of an import.

    Attributes:
        imported: The number of records that were stored.
        expired: The number of records that were left out because they had expired.
        stored: The number of records of the store after the import.
    """

    imported: int
    expired: int
    stored: int


def get_record(table: DataStoreTable, name: str, key: str) -> StoreRecord:
    """Return the record of *key* in the store *name*. Raises `RequestError` if there is no such store or key."""
    record = table.find(name, key)
    if record is None:
        table.require(name)
        raise RequestError(
            f"The data store {name} has no key {key!r}.", fix=f"See: pdkernel store list {shlex.quote(name)}"
        )
    return record


def set_record(
    table: DataStoreTable, name: str, key: str, text: str, *, is_json: bool, ttl: float | None = None
) -> StoreRecord:
    """
    Store a value under *key* in the store *name*, which is created with its first record, and return the record.

    Args:
        table: The data stores of a project.
        name: The store's name.
        key: The record's key.
        text: The value as a person typed it.
        is_json: Whether *text* is JSON; otherwise, it is the value itself.
        ttl: The lifetime of the record in seconds; None for no limit.

    Raises:
        RequestError: The text is not JSON, or the name, the key or the lifetime is invalid.
    """
    try:
        value = parse_json(text, label="VALUE") if is_json else text
    except EventError as fault:
        raise RequestError(fault.message, fix="To store it as a string, pass --text.") from None
    table.set(name, key, value, ttl=ttl)
    return get_record(table, name, key)


def count_records(table: DataStoreTable, name: str) -> int:
    """Return the number of records of the store *name* that have not expired. Raises `StoreNotFoundError`."""
    table.require(name)
    return next(each.record_count for each in table.list_stores() if each.name == name)


def remove_records(table: DataStoreTable, name: str, key: str | None) -> None:
    """Remove *key* from the store *name*, or the whole store if *key* is None. Nothing happens if it is gone already."""
    if key is None:
        table.remove(name)
    else:
        table.delete(name, key)


def encode_record(record: StoreRecord) -> dict[str, Any]:
    """Return a record as JSON: `{"key", "value"}`, and "expires_at" if it expires. Values are not redacted."""
    ends = {"expires_at": format_iso(record.expires)} if record.expires else {}
    return {"key": record.key, "value": record.value, **ends}


def encode_store(store: DataStoreSummary) -> dict[str, Any]:
    """Return a store as JSON: `{"name", "keys", "characters", "created_at"}`."""
    return {
        "name": store.name,
        "keys": store.record_count,
        "characters": store.characters,
        "created_at": format_iso(store.created),
    }


def export_records(table: DataStoreTable, name: str) -> Iterator[str]:
    """Yield the line of each record of the store *name*. Raises `StoreNotFoundError` at the first."""
    table.require(name)
    for record in table.iter_records(name):
        yield json.dumps(encode_record(record), separators=(",", ":")) + "\n"


def import_records(project: Project, name: str, records: list[StoreRecord], *, clear_first: bool) -> StoreImport:
    """
    Store *records* in the store *name*, without those that have expired.

    Args:
        project: The project.
        name: The store's name.
        records: The records of a file, as `parse_records` returns them.
        clear_first: Whether to remove all earlier records, in the same transaction.
    """
    now = project.clock.now()
    alive = [record for record in records if record.expires is None or record.expires > now]
    project.data_stores.put_records(name, alive, clear_first=clear_first)
    return StoreImport(len(alive), len(records) - len(alive), project.data_stores.count(name))


def parse_records(data: bytes, source: str) -> tuple[list[StoreRecord], int | None]:
    """
    Return the records of a file, and the number that Pipedream counted, which the last line of a downloaded store has.

    Args:
        data: The content of the file.
        source: The name of the file for messages.

    Raises:
        RequestError: A line is not a record. The message has its number.
    """
    records: list[StoreRecord] = []
    total: int | None = None
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        where = f"{source}, line {number},"
        try:
            value = parse_json(line, label=where)
        except EventError as fault:
            raise RequestError(
                fault.message.replace("at line 1, column", "at column"), fix=_RECORD_FORMAT_HINT
            ) from None
        if isinstance(value, dict) and value.keys() == {TOTAL_KEY} and isinstance(value[TOTAL_KEY], int):
            total = value[TOTAL_KEY]
            continue
        keys = value.keys() if isinstance(value, dict) and isinstance(value.get("key"), str) else set()
        if not isinstance(value, dict) or not {"key", "value"} <= keys <= {"key", "value", "expires_at"}:
            raise RequestError(f"{where} is not a record of a data store.", fix=_RECORD_FORMAT_HINT)
        try:
            check_key(value["key"])
        except RequestError as fault:
            raise RequestError(f"{where} is not a record of a data store. {fault.message}", fix=fault.fix) from None
        ends = value.get("expires_at")
        try:
            expires = datetime.fromisoformat(ends) if ends is not None else None
        except (TypeError, ValueError):
            expires = datetime.min  # noqa: DTZ901 - has no zone, so the check below refuses it
        if expires is not None and expires.tzinfo is None:
            raise RequestError(
                f"{where} has an expires_at that is not a time with a zone: {ends!r:.60}.", fix=_RECORD_FORMAT_HINT
            )
        records.append(StoreRecord(value["key"], value["value"], expires))
    return records, total


_RECORD_FORMAT_HINT = (
    'Write one record a line: {"key": "a", "value": 1}, optionally with "expires_at": "2026-11-24T10:00:00.000Z".'
)

"""
`pdkernel store`: the project's data stores.

Format of exported files: one JSON object a line with `key`, `value` and, for a record that expires, `expires_at`.
An import followed by an export gives the same bytes. A store that `pdkernel migrate data` downloaded ends with a line
`{"total": N}`. Values are printed without redaction.
"""

from __future__ import annotations

import json
import shlex
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import cloup

from pdkernel.cli.app import EXIT_STATUSES, PROJECT, CliContext, command, group, json_option, yes_option
from pdkernel.cli.terminal import confirm, print_json, read_input
from pdkernel.errors import RequestError, format_count

if TYPE_CHECKING:
    from pdkernel.storage.data_stores import DataStoreSummary, DataStoreTable, StoreRecord


@group(section=PROJECT)
def store() -> None:
    """
    Read and change data stores.

    A store holds JSON values by key; all workflows of the project share the stores.
    """


@command(store, name="list", examples=("pdkernel store list", "pdkernel store list customers"))
@cloup.argument("name", required=False)
@json_option
def list_stores(state: CliContext, name: str | None, as_json: bool) -> int:
    """List the data stores, or the records of the store NAME."""
    from pdkernel.operations import stores as operations
    from pdkernel.render import stores as stores_view

    table = state.open_project().data_stores
    if name is None:
        if as_json:
            print_json([_summary(each) for each in table.list_stores()])
        else:
            click.echo(stores_view.render_stores_text(operations.list_stores(table)), nl=False)
        return 0
    if as_json:
        table.require(name)
        print_json([_record(record) for record in table.iter_records(name)])
    else:
        shown = operations.view_store(table, name)
        click.echo(stores_view.render_records_text(shown.name, shown.rows, total=shown.total), nl=False)
    return 0


@command(store, name="get", examples=("pdkernel store get customers ada",))
@cloup.argument("name")
@cloup.argument("key")
@json_option
def get_value(state: CliContext, name: str, key: str, as_json: bool) -> int:
    """
    Print the value of KEY in the store NAME as JSON.

    With --json, prints the record: key, value and, if it expires, the time.
    """
    table = state.open_project().data_stores
    record = table.find(name, key)
    if record is None:
        raise _missing(table, name, key)
    print_json(_record(record) if as_json else record.value)
    return 0


@command(
    store,
    name="set",
    examples=(
        'pdkernel store set customers ada \'{"plan": "pro"}\'',
        "pdkernel store set cache token abc --text --ttl 3600",
    ),
)
@cloup.argument("name")
@cloup.argument("key")
@cloup.argument("value")
@cloup.option("--ttl", type=float, metavar="SECONDS", help="Lifetime of the record in seconds; default: unlimited.")
@cloup.option("--text", is_flag=True, help="Store VALUE as a string instead of JSON.")
@json_option
def set_value(state: CliContext, name: str, key: str, value: str, ttl: float | None, text: bool, as_json: bool) -> int:
    """
    Store VALUE under KEY in the store NAME.

    VALUE is JSON, or - to read JSON from standard input.
    """
    from pdkernel.errors import EventError
    from pdkernel.event import parse_json

    given = sys.stdin.read() if value == "-" else value
    if not text:
        try:
            parsed = parse_json(given, label="VALUE")
        except EventError as fault:
            raise RequestError(fault.message, fix="To store it as a string, pass --text.") from None
    table = state.open_project().data_stores
    table.set(name, key, given if text else parsed, ttl=ttl)
    if as_json:
        record = table.find(name, key)
        assert record is not None, "it was set"
        print_json(_record(record))
    else:
        click.echo(f"Stored {key} in {name}.")
    return 0


@command(
    store, name="remove", examples=("pdkernel store remove cache token --yes", "pdkernel store remove cache --yes")
)
@cloup.argument("name")
@cloup.argument("key", required=False)
@yes_option
@json_option
def remove(state: CliContext, name: str, key: str | None, yes: bool, as_json: bool) -> int:
    """Remove KEY from the store NAME, or the whole store."""
    table = state.open_project().data_stores
    if key is not None:
        if table.find(name, key) is None:
            raise _missing(table, name, key)
        confirm(f"Remove {key} from the store {name}", yes=yes)
        table.delete(name, key)
    else:
        table.require(name)
        records = next(each.record_count for each in table.list_stores() if each.name == name)
        confirm(f"Remove the store {name} with {format_count(records, 'record')}", yes=yes)
        table.remove(name)
    if as_json:
        print_json({"name": name, "key": key, "removed": True})
    else:
        click.echo(f"Removed {key} from {name}." if key is not None else f"Removed the store {name}.")
    return 0


@command(store, name="export", examples=("pdkernel store export customers --to customers.jsonl",))
@cloup.argument("name")
@cloup.option("--to", metavar="FILE", type=click.Path(path_type=Path), help="Write to FILE instead of standard output.")
@json_option
def export_store(state: CliContext, name: str, to: Path | None, as_json: bool) -> int:
    """
    Export the records of the store NAME.

    Writes one record a line, as JSON; with --json, prints one list.
    """
    table = state.open_project().data_stores
    table.require(name)
    if as_json and to is None:
        print_json([_record(record) for record in table.iter_records(name)])
        return 0
    lines = [json.dumps(_record(record), separators=(",", ":")) + "\n" for record in table.iter_records(name)]
    if to is None:
        sys.stdout.writelines(lines)
        return 0
    try:
        to.write_text("".join(lines), encoding="utf-8")
    except OSError as fault:
        raise RequestError(f"Cannot write {to}: {fault.strerror}.", fix="Name a file in a writable folder.") from None
    if as_json:
        print_json({"name": name, "file": str(to), "records": len(lines)})
    else:
        click.echo(f"Wrote {format_count(len(lines), 'record')} to {to}.")
    return 0


@command(
    store,
    name="import",
    examples=(
        "pdkernel store import customers customers.jsonl",
        "pdkernel store import ds_4kPq7a rescued/stores/ds_4kPq7a.jsonl --clear --yes",
    ),
    exit_statuses={**EXIT_STATUSES, 1: "imported, but the number of records is not the number that Pipedream counted"},
)
@cloup.argument("name")
@cloup.argument("file", metavar="FILE|-")
@cloup.option("--clear", is_flag=True, help="Remove all records of the store first; asks for a confirmation.")
@yes_option
@json_option
def import_store(state: CliContext, name: str, file: str, clear: bool, yes: bool, as_json: bool) -> int:
    """
    Import records into the store NAME.

    FILE is the output of `pdkernel store export`, or a store that `pdkernel migrate data` downloaded. If a record is
    wrong, no record is imported. For a downloaded store, the number of records here is compared with the number that
    Pipedream counted.
    """
    records, counted = _read(read_input(file), "standard input" if file == "-" else file)
    if clear:
        confirm(f"Remove all records of the store {name}", yes=yes)
    project = state.open_project()
    alive = [record for record in records if record.expires is None or record.expires > project.clock.now()]
    project.data_stores.put_records(name, alive, clear_first=clear)
    expired = len(records) - len(alive)
    stored = project.data_stores.count(name)
    if as_json:
        compared = {} if counted is None else {"counted": counted, "stored": stored}
        print_json({"name": name, "records": len(alive), "expired": expired, **compared})
    else:
        skipped = f" (skipped {format_count(expired, 'expired record')})" if expired else ""
        click.echo(f"Imported {format_count(len(alive), 'record')} into {name}{skipped}.")
        if counted is not None:
            click.echo(_compare_counts(name, counted, stored))
    return 0 if counted in (None, stored) else 1


def _compare_counts(name: str, counted: int, stored: int) -> str:
    here = f"Pipedream counted {format_count(counted, 'record')}, and {name} has {stored:,}"
    if counted == stored:
        return f"{here}: equal."
    return (
        f"{here}: not equal. The store had other records before (--clear), or records changed during the download "
        "(turn off the workflows that write them, and download again)."
    )


def _summary(each: DataStoreSummary) -> dict[str, Any]:
    from pdkernel.common.clock import format_iso

    return {
        "name": each.name,
        "keys": each.record_count,
        "characters": each.characters,
        "created_at": format_iso(each.created),
    }


def _record(record: StoreRecord) -> dict[str, Any]:
    from pdkernel.common.clock import format_iso

    ends = {"expires_at": format_iso(record.expires)} if record.expires else {}
    return {"key": record.key, "value": record.value, **ends}


def _read(data: bytes, name: str) -> tuple[list[StoreRecord], int | None]:
    """The records of a file, and the number that Pipedream counted, which the last line of a downloaded store has."""
    from pdkernel.errors import EventError
    from pdkernel.event import parse_json
    from pdkernel.operations.stores import TOTAL_KEY
    from pdkernel.storage import StoreRecord, check_key

    records: list[StoreRecord] = []
    total: int | None = None
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        where = f"{name}, line {number},"
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


def _missing(table: DataStoreTable, name: str, key: str) -> Exception:
    table.require(name)
    return RequestError(
        f"The data store {name} has no key {key!r}.", fix=f"See: pdkernel store list {shlex.quote(name)}"
    )

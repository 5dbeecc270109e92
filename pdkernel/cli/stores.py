"""
`pdkernel store`: the project's data stores. Values are printed without redaction.

Options and output of the commands. The operations, and the format of files, are in `operations.stores`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
import cloup

from pdkernel.cli.app import EXIT_STATUSES, PROJECT, CliContext, command, group, json_option, yes_option
from pdkernel.cli.terminal import confirm, print_json, read_input
from pdkernel.errors import RequestError, format_count


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
            print_json([operations.encode_store(each) for each in table.list_stores()])
        else:
            click.echo(stores_view.render_stores_text(operations.list_stores(table)), nl=False)
        return 0
    if as_json:
        table.require(name)
        print_json([operations.encode_record(record) for record in table.iter_records(name)])
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
    from pdkernel.operations.stores import encode_record, get_record

    record = get_record(state.open_project().data_stores, name, key)
    print_json(encode_record(record) if as_json else record.value)
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
    from pdkernel.operations.stores import encode_record, set_record

    given = sys.stdin.read() if value == "-" else value
    record = set_record(state.open_project().data_stores, name, key, given, is_json=not text, ttl=ttl)
    if as_json:
        print_json(encode_record(record))
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
    from pdkernel.operations.stores import count_records, get_record, remove_records

    table = state.open_project().data_stores
    if key is not None:
        get_record(table, name, key)
        confirm(f"Remove {key} from the store {name}", yes=yes)
    else:
        records = format_count(count_records(table, name), "record")
        confirm(f"Remove the store {name} with {records}", yes=yes)
    remove_records(table, name, key)
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
    from pdkernel.operations.stores import export_records

    lines = list(export_records(state.open_project().data_stores, name))
    if as_json and to is None:
        print_json([json.loads(line) for line in lines])
        return 0
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
    from pdkernel.operations.stores import import_records, parse_records

    records, counted = parse_records(read_input(file), "standard input" if file == "-" else file)
    if clear:
        confirm(f"Remove all records of the store {name}", yes=yes)
    done = import_records(state.open_project(), name, records, clear_first=clear)
    if as_json:
        compared = {} if counted is None else {"counted": counted, "stored": done.stored}
        print_json({"name": name, "records": done.imported, "expired": done.expired, **compared})
    else:
        skipped = f" (skipped {format_count(done.expired, 'expired record')})" if done.expired else ""
        click.echo(f"Imported {format_count(done.imported, 'record')} into {name}{skipped}.")
        if counted is not None:
            click.echo(_compare_counts(name, counted, done.stored))
    return 0 if counted in (None, done.stored) else 1


def _compare_counts(name: str, counted: int, stored: int) -> str:
    here = f"Pipedream counted {format_count(counted, 'record')}, and {name} has {stored:,}"
    if counted == stored:
        return f"{here}: equal."
    return (
        f"{here}: not equal. The store had other records before (--clear), or records changed during the download "
        "(turn off the workflows that write them, and download again)."
    )

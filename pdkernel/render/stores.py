"""View of data stores: the list of stores, and the records of one store."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from pdkernel.errors import format_count
from pdkernel.model import JSON
from pdkernel.render import formatting
from pdkernel.render.markup import (
    BORDER_STYLE,
    CONTAINER_STYLE,
    Html,
    code_block,
    escape_control_characters,
    join_lines,
    muted,
    tag,
)

_CELL = "text-align:left;vertical-align:top;padding:2px 12px 2px 0"
_KEY_WIDTH = 32
_ONE_LINE = 80
_NO_STORES = 'No data store yet. A step creates a store by writing to it: --data-store PROP=NAME, then pd.inputs["PROP"] or this.PROP.'


@dataclass(frozen=True, slots=True)
class StoreSummary:
    """A store: its name, its number of records, and the length of all values as JSON."""

    name: str
    record_count: int
    character_count: int


@dataclass(frozen=True, slots=True)
class RecordRow:
    """A record: key, value, and expiry as an ISO time (the empty string: never)."""

    key: str
    value: JSON
    expires: str = ""


def render_stores_text(stores: Sequence[StoreSummary]) -> str:
    """Render *stores* as text."""
    if not stores:
        return f"{_NO_STORES}\n"
    width = min(_KEY_WIDTH, max(len(store.name) for store in stores))
    return escape_control_characters(
        "".join(f"{formatting.truncate_line(store.name, _KEY_WIDTH):<{width}}  {_size(store)}\n" for store in stores)
    )


def render_stores_html(stores: Sequence[StoreSummary]) -> str:
    """Render *stores* as an HTML table."""
    if not stores:
        return tag("div", _NO_STORES, style=CONTAINER_STYLE, class_="pd-view pd-stores")
    rows = [_row(tag("strong", store.name), muted(_size(store))) for store in stores]
    return tag("div", _table(("store", "content"), rows), style=CONTAINER_STYLE, class_="pd-view pd-stores")


def render_records_text(store: str, records: Sequence[RecordRow], *, total: int) -> str:
    """Render the first *records* of *total* in *store* as text, a line each."""
    lines = [_title(store, total)]
    width = max((min(_KEY_WIDTH, len(record.key)) for record in records), default=0)
    for record in records:
        ends = f"  (until {formatting.format_timestamp(record.expires)})" if record.expires else ""
        value = formatting.truncate_line(
            formatting.format_json_line(record.value), formatting.TEXT_COLUMNS - width - 4 - len(ends)
        )
        lines.append(f"  {formatting.truncate_line(record.key, _KEY_WIDTH):<{width}}  {value}{ends}")
    if left_out := _left_out(store, total - len(records)):
        lines.append(f"  {left_out}")
    return escape_control_characters("".join(f"{line}\n" for line in lines))


def render_records_html(store: str, records: Sequence[RecordRow], *, total: int) -> str:
    """Render the first *records* of *total* in *store* as an HTML table."""
    parts = [tag("strong", _title(store, total))]
    if records:
        rows = [
            _row(
                tag("code", record.key),
                _value(record.value),
                muted(formatting.format_timestamp(record.expires) if record.expires else "never"),
            )
            for record in records
        ]
        parts.append(_table(("key", "value", "expires"), rows))
    if left_out := _left_out(store, total - len(records)):
        parts.append(tag("div", left_out))
    return tag("div", join_lines(parts), style=CONTAINER_STYLE, class_="pd-view pd-store")


def _value(value: JSON) -> Html:
    """Render a short value in one line, a long value in a block."""
    short = formatting.format_json_line(value)
    return tag("code", short) if len(short) <= _ONE_LINE else code_block(formatting.format_json(value, max_lines=20))


def _size(store: StoreSummary) -> str:
    return f"{format_count(store.record_count, 'record')}, {format_count(store.character_count, 'character')}"


def _title(store: str, total: int) -> str:
    return f"Data store {store}: {format_count(total, 'record') if total else 'empty'}"


def _left_out(store: str, hidden: int) -> str:
    return f"… {format_count(hidden, 'more record')}: pdkernel store export {shlex.quote(store)}" if hidden > 0 else ""


def _table(heads: Sequence[str], rows: Sequence[Html]) -> Html:
    head = tag("tr", *(tag("th", text, style=f"{_CELL};{BORDER_STYLE};border-width:0 0 1px 0") for text in heads))
    return tag("table", join_lines([head, *rows]), style="border-collapse:collapse;margin:4px 0")


def _row(*cells: Html) -> Html:
    return tag("tr", *(tag("td", cell, style=_CELL) for cell in cells))

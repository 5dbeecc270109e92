"""
Data stores as tables: which there are, and what is in one.

Knows plain values that have been through redaction. Reads no store.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pdkernel.model import JSON
from pdkernel.render import words
from pdkernel.render.markup import BORDER, VIEW, Html, code_block, lines, printable, quiet, tag

_CELL = "text-align:left;vertical-align:top;padding:2px 12px 2px 0"
_KEY_WIDTH = 32
_ONE_LINE = 80
_NO_STORES = (
    'No data store yet. A step makes one by writing to it: --data-store PROP=NAME, then pd.inputs["PROP"] or this.PROP.'
)


@dataclass(frozen=True, slots=True)
class StoreLine:
    """A store: its name, how many records it holds, and the characters of their values as JSON."""

    name: str
    keys: int
    characters: int


@dataclass(frozen=True, slots=True)
class RecordLine:
    """A record: key, value, and when its time is over as an ISO time (the empty string: never)."""

    key: str
    value: JSON
    expires: str = ""


def stores_text(stores: Sequence[StoreLine]) -> str:
    """*stores* as text."""
    if not stores:
        return f"{_NO_STORES}\n"
    width = min(_KEY_WIDTH, max(len(store.name) for store in stores))
    return printable("".join(f"{words.clipped(store.name, _KEY_WIDTH):<{width}}  {_size(store)}\n" for store in stores))


def stores_html(stores: Sequence[StoreLine]) -> str:
    """*stores* as a table."""
    if not stores:
        return tag("div", _NO_STORES, style=VIEW, class_="pd-view pd-stores")
    rows = [_row(tag("strong", store.name), quiet(_size(store))) for store in stores]
    return tag("div", _table(("store", "holds"), rows), style=VIEW, class_="pd-view pd-stores")


def records_text(store: str, records: Sequence[RecordLine], *, total: int) -> str:
    """The first *records* of *total* in *store* as text, one a line."""
    made = [_title(store, total)]
    width = max((min(_KEY_WIDTH, len(record.key)) for record in records), default=0)
    for record in records:
        ends = f"  (until {words.moment(record.expires)})" if record.expires else ""
        value = words.clipped(words.one_line(record.value), words.WIDTH - width - 4 - len(ends))
        made.append(f"  {words.clipped(record.key, _KEY_WIDTH):<{width}}  {value}{ends}")
    if left_out := _left_out(store, total - len(records)):
        made.append(f"  {left_out}")
    return printable("".join(f"{line}\n" for line in made))


def records_html(store: str, records: Sequence[RecordLine], *, total: int) -> str:
    """The first *records* of *total* in *store* as a table: key, value, expires."""
    parts = [tag("strong", _title(store, total))]
    if records:
        rows = [
            _row(
                tag("code", record.key),
                _value(record.value),
                quiet(words.moment(record.expires) if record.expires else "never"),
            )
            for record in records
        ]
        parts.append(_table(("key", "value", "expires"), rows))
    if left_out := _left_out(store, total - len(records)):
        parts.append(tag("div", left_out))
    return tag("div", lines(parts), style=VIEW, class_="pd-view pd-store")


def _value(value: JSON) -> Html:
    """A short value in one line, a long one in a block."""
    short = words.one_line(value)
    return tag("code", short) if len(short) <= _ONE_LINE else code_block(words.pretty(value, max_lines=20))


def _size(store: StoreLine) -> str:
    return f"{words.counted(store.keys, 'record')}, {words.counted(store.characters, 'character')}"


def _title(store: str, total: int) -> str:
    return f"Data store {store}: {words.counted(total, 'record') if total else 'empty'}"


def _left_out(store: str, hidden: int) -> str:
    return f"… {words.counted(hidden, 'more record')}: pdkernel store export {store}" if hidden > 0 else ""


def _table(heads: Sequence[str], rows: Sequence[Html]) -> Html:
    head = tag("tr", *(tag("th", text, style=f"{_CELL};{BORDER};border-width:0 0 1px 0") for text in heads))
    return tag("table", lines([head, *rows]), style="border-collapse:collapse;margin:4px 0")


def _row(*cells: Html) -> Html:
    return tag("tr", *(tag("td", cell, style=_CELL) for cell in cells))

"""
The caller's contract, and what it says of events: as text and as HTML.

Knows plain values. A click on a path copies it, as in the shape.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pdkernel.contract import Compared, Contract, Drift, Field, Finding, Place, Reader, Use, order_of, path_of
from pdkernel.model import JSON
from pdkernel.render import words
from pdkernel.render.markup import MARGIN_WARN, QUIET, VIEW, Html, code_block, folded, lines, pill, printable, tag
from pdkernel.render.shape import ROOT
from pdkernel.render.view import View
from pdkernel.shape import node_path

MAX_ROWS = 300
MAX_LINES = 4
_CELL = "padding:2px 8px;text-align:left;vertical-align:top"
_TYPES = {"numeric": "number, or text that is one"}


class _Row(NamedTuple):
    """A line of the contract: what it is, the path, its types, who reads it, and the path to copy."""

    kind: str
    path: str
    said: str
    readers: str
    copied: str


def view(
    contract: Contract, *, name: str, compared: Sequence[Compared] = (), example: JSON = None, most: int = MAX_ROWS
) -> View:
    """The contract of the workflow *name*, what it says of events, and an *example*."""
    given = (contract, name, compared, example, most)
    return View(text(*given), html(*given))


def text(
    contract: Contract, name: str, compared: Sequence[Compared] = (), example: JSON = None, most: int = MAX_ROWS
) -> str:
    """As text."""
    rows = list(_rows(contract))
    shown = rows[:most]
    widths = [min(48, max((len(row[place]) for row in shown), default=0)) for place in range(3)]
    made = [_title(contract, name)]
    for row in shown:
        columns = zip(row[:3], widths, strict=True)
        made.append("  " + "  ".join([*(f"{said:<{width}}" for said, width in columns), row.readers]))
    made += [f"  … {words.counted(len(rows) - most, 'more line')} not shown"] if len(rows) > most else []
    made += [f"  {_not_read(reader)}" for reader in contract.unread]
    for names, said in _together(compared):
        made += _event_lines(names, said)
    if example is not None:
        made += ["An event that keeps it:", words.pretty(example)]
    return printable("".join(f"{line.rstrip()}\n" for line in made))


def html(
    contract: Contract, name: str, compared: Sequence[Compared] = (), example: JSON = None, most: int = MAX_ROWS
) -> str:
    """As a table, events and the example below it."""
    rows = list(_rows(contract))
    parts = [tag("strong", _title(contract, name))]
    if rows:
        parts.append(tag("table", lines(_tr(row) for row in rows[:most])))
    if len(rows) > most:
        parts.append(tag("div", f"… {words.counted(len(rows) - most, 'more line')} not shown", style=QUIET))
    parts += [tag("div", _not_read(reader)) for reader in contract.unread]
    parts += [_event_html(names, said) for names, said in _together(compared)]
    if example is not None:
        parts.append(folded(tag("span", "An event that keeps it"), code_block(words.pretty(example))))
    return tag("div", lines(parts), style=f"{VIEW};overflow-x:auto", class_="pd-view pd-contract")


def event_view(compared: Compared) -> View | None:
    """What is wrong with one event, or None where nothing is."""
    if compared.holds:
        return None
    said = sentences(compared)
    body = lines([_event_html(compared.name, said)])
    return View(
        "\n".join(_event_lines(compared.name, said)), tag("div", body, style=MARGIN_WARN, class_="pd-view pd-drift")
    )


def sentences(compared: Compared) -> list[str]:
    """What is wrong with one event, a sentence for each field."""
    drifted: dict[tuple[str, Place], list[Drift]] = {}
    for drift in compared.drifts:
        drifted.setdefault((drift.kind, drift.at), []).append(drift)
    told = {place for _, place in drifted}
    found = [finding for finding in compared.findings if finding.place not in told]
    return [*(_drift_said(place, drifts) for (_, place), drifts in drifted.items()), *map(_finding_said, found)]


def _title(contract: Contract, name: str) -> str:
    required = len(contract.required)
    optional = len(contract.fields) - required
    if not contract.fields and not contract.whole and not contract.unknown:
        return f"{name}: no step reads the event."
    has = (
        f"has {words.counted(required, 'field')} that the steps count on"
        if required
        else "has no field that it must have"
    )
    more = f", and may have {optional} more" if optional else ""
    return f"{name}: its event {has}{more}. No code was run."


def _not_read(reader: Reader) -> str:
    return f"Not read: {reader}. Its code is not read as a whole; it may need more of the event."


def _rows(contract: Contract) -> Iterator[_Row]:
    yield from (_field_row(each) for each in contract.fields if each.required)
    yield from (_field_row(each) for each in contract.fields if not each.required)
    yield from (_use_row("whole", "given on as it is", use) for use in contract.whole)
    yield from (_use_row("unknown", "keys that only a run knows", use) for use in contract.unknown)


def _field_row(field: Field) -> _Row:
    types = " or ".join(_TYPES.get(name, name) for name in field.types)
    need = "required" if field.required else "optional"
    return _Row(need, field.path, types, readers(field.readers), node_path((*ROOT, *field.place)))


def _use_row(kind: str, said: str, use: Use) -> _Row:
    return _Row(kind, use.path, said, readers(use.readers), node_path((*ROOT, *use.place)))


def readers(found: Sequence[Reader]) -> str:
    """Steps that read a field, each with its cell and its lines."""
    by_place: dict[tuple[str, int | None, str, str], list[str]] = {}
    for reader in found:
        at = by_place.setdefault((reader.step, reader.cell, reader.file, reader.prop), [])
        at += [str(reader.line)] if reader.line is not None else []
    said = []
    for (step, cell, file, prop), at in by_place.items():
        where = [f"cell {cell}"] if cell is not None else []
        where += [file] if file else []
        where += [f"prop {prop}"] if prop else []
        where += [_lines(list(dict.fromkeys(at)))] if at else []
        said.append(f"{step} ({', '.join(where)})" if where else step)
    return "; ".join(said)


def _lines(numbers: Sequence[str]) -> str:
    more = f" and {len(numbers) - MAX_LINES} more" if len(numbers) > MAX_LINES else ""
    return f"line{'s' if len(numbers) > 1 else ''} {', '.join(numbers[:MAX_LINES])}{more}"


def _tr(row: _Row) -> Html:
    tone = {"required": "busy", "optional": "quiet", "unknown": "warn"}.get(row.kind, "quiet")
    path = tag(
        "code", row.path, style="cursor:pointer", class_="pd-k", role="button", tabindex="0", title=f"Copy {row.copied}"
    )
    cells = [pill(row.kind, tone), path, row.said, tag("span", row.readers, style=QUIET)]  # type: ignore[arg-type]
    return tag("tr", *(tag("td", cell, style=_CELL) for cell in cells))


def _together(compared: Sequence[Compared]) -> Iterator[tuple[str, list[str]]]:
    """What is said of each event; those of which the same is wrong stand together."""
    names: dict[tuple[str, ...], list[str]] = {}
    for each in compared:
        said = tuple(sentences(each))
        if said:
            names.setdefault(said, []).append(each.name)
        else:
            yield each.name, []
    yield from ((", ".join(found), list(said)) for said, found in names.items())


def _event_lines(names: str, said: Sequence[str]) -> list[str]:
    if not said:
        return [f"✓ {names} keeps it."]
    return [f"! {names}:", *(f"  {line}" for line in said)]


def _event_html(names: str, said: Sequence[str]) -> Html:
    if not said:
        return tag("div", f"✓ {names} keeps it.")
    items = [tag("li", line) for line in said]
    return tag("div", tag("strong", f"! {names}"), tag("ul", lines(items), style="margin:0"))


def _drift_said(place: Place, drifts: Sequence[Drift]) -> str:
    drift = drifts[0]
    who = readers(sorted({reader for each in drifts for reader in each.readers}, key=order_of))
    if drift.kind == "gone":
        inside = [each.path for each in drifts if each.place != place]
        more = f", and with it {words.listed(inside)}" if inside else ""
        return f"{path_of(place)} is gone{more}: the events before had it. Read by {who}."
    before, after = " or ".join(drift.before), " or ".join(drift.after)
    return f"{path_of(place)} is now {after}, and was {before}. Read by {who}."


def _finding_said(finding: Finding) -> str:
    who = readers(finding.readers)
    if finding.kind == "missing":
        return f"{finding.path} is missing. Read by {who}."
    expected = " or ".join(_TYPES.get(name, name) for name in finding.expected)
    return f"{finding.path} is {finding.found}; the steps take it for {expected}. Read by {who}."

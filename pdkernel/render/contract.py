"""View of a workflow's contract, and of events that were checked against it. A click on a path copies the path."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pdkernel.errors import format_count
from pdkernel.language.analysis import FieldPath
from pdkernel.language.analysis.contract import (
    Contract,
    ContractViolation,
    Drift,
    EventComparison,
    Field,
    format_path,
    reader_sort_key,
)
from pdkernel.language.analysis.step_reads import FieldReader
from pdkernel.language.shape import EVENT_PATH, format_node_path
from pdkernel.model import JSON
from pdkernel.render import formatting
from pdkernel.render.markup import (
    CELL_STYLE,
    MUTED_STYLE,
    WARNING_MARGIN_STYLE,
    Html,
    RichOutput,
    code_block,
    collapsible,
    copyable,
    escape_control_characters,
    join_lines,
    pill,
    scrolling_region,
    tag,
)

MAX_ROWS = 300
MAX_READER_LINES = 4
_TYPES = {"numeric": "number or numeric text"}


class _Row(NamedTuple):
    """A row of the table: kind (`required`, `optional`, `whole`, `unknown`), path, types, readers, and the path to copy."""

    kind: str
    path: str
    description: str
    readers: str
    copy_path: str


def render_output(
    contract: Contract,
    *,
    name: str,
    comparisons: Sequence[EventComparison] = (),
    example: JSON = None,
) -> RichOutput:
    """Render the contract of the workflow *name*, the result for each checked event, and an *example* event."""
    arguments = (contract, name, comparisons, example)
    return RichOutput(render_text(*arguments), render_html(*arguments))


def render_text(
    contract: Contract,
    name: str,
    comparisons: Sequence[EventComparison] = (),
    example: JSON = None,
) -> str:
    """Render the contract as text."""
    rows = list(_rows(contract))
    shown = rows[:MAX_ROWS]
    widths = [min(48, max((len(row[place]) for row in shown), default=0)) for place in range(3)]
    lines = [_title(contract, name)]
    for row in shown:
        columns = zip(row[:3], widths, strict=True)
        lines.append("  " + "  ".join([*(f"{text:<{width}}" for text, width in columns), row.readers]))
    lines += [f"  … {format_count(len(rows) - MAX_ROWS, 'more line')} not shown"] if len(rows) > MAX_ROWS else []
    lines += [f"  {_format_unread(reader)}" for reader in contract.unparsed_steps]
    for names, violations in _group_by_violations(comparisons):
        lines += _event_lines(names, violations)
    if example is not None:
        lines += ["An event that fulfils the contract:", formatting.format_json(example)]
    return escape_control_characters("".join(f"{line.rstrip()}\n" for line in lines))


def render_html(
    contract: Contract,
    name: str,
    comparisons: Sequence[EventComparison] = (),
    example: JSON = None,
) -> str:
    """Render the contract as an HTML table, with events and the example below."""
    rows = list(_rows(contract))
    parts = [tag("strong", _title(contract, name))]
    if rows:
        parts.append(tag("table", join_lines(_tr(row) for row in rows[:MAX_ROWS])))
    if len(rows) > MAX_ROWS:
        parts.append(tag("div", f"… {format_count(len(rows) - MAX_ROWS, 'more line')} not shown", style=MUTED_STYLE))
    parts += [tag("div", _format_unread(reader)) for reader in contract.unparsed_steps]
    parts += [_event_html(names, violations) for names, violations in _group_by_violations(comparisons)]
    if example is not None:
        parts.append(
            collapsible(tag("span", "An event that fulfils the contract"), code_block(formatting.format_json(example)))
        )
    return tag("div", join_lines(parts), class_="pd-view pd-contract", **scrolling_region("Contract"))


def render_event_output(comparison: EventComparison) -> RichOutput | None:
    """Render the violations of one event; None if there are none."""
    if comparison.is_compatible:
        return None
    violations = describe_violations(comparison)
    body = join_lines([_event_html(comparison.name, violations)])
    return RichOutput(
        "\n".join(_event_lines(comparison.name, violations)),
        tag("div", body, style=WARNING_MARGIN_STYLE, class_="pd-view pd-drift"),
    )


def describe_violations(comparison: EventComparison) -> list[str]:
    """Describe the violations of one event: a sentence or two for each field."""
    drifted: dict[tuple[str, FieldPath], list[Drift]] = {}
    for drift in comparison.drifts:
        drifted.setdefault((drift.kind, drift.changed_segments), []).append(drift)
    drifted_paths = {place for _, place in drifted}
    found = [finding for finding in comparison.violations if finding.segments not in drifted_paths]
    return [*(_describe_drift(place, drifts) for (_, place), drifts in drifted.items()), *map(_describe_finding, found)]


def _title(contract: Contract, name: str) -> str:
    required = len(contract.required_fields)
    optional = len(contract.fields) - required
    if not contract.fields and not contract.passed_on and not contract.dynamic:
        return f"{name}: no step reads the event."
    has = f"has {format_count(required, 'field')} that the steps require" if required else "has no required field"
    more = f", and may have {optional} more" if optional else ""
    return f"{name}: its event {has}{more}. No code was run."


def _format_unread(reader: FieldReader) -> str:
    return f"Not analyzed: {reader}. The code cannot be analyzed completely, so the step may read further fields."


def _rows(contract: Contract) -> Iterator[_Row]:
    for is_required, kind in ((True, "required"), (False, "optional")):
        for field in contract.fields:
            if field.required == is_required:
                yield _row(kind, field, " or ".join(_TYPES.get(name, name) for name in field.types))
    yield from (_row("whole", use, "passed on unchanged") for use in contract.passed_on)
    yield from (_row("unknown", use, "keys known only at run time") for use in contract.dynamic)


def _row(kind: str, field: Field, description: str) -> _Row:
    copied = format_node_path((*EVENT_PATH, *field.segments))
    return _Row(kind, field.path, description, format_readers(field.readers), copied)


def format_readers(found: Sequence[FieldReader]) -> str:
    """Format the steps that read a field, with the lines in the step's cell or file."""
    by_place: dict[tuple[str, str | None, str | None], list[str]] = {}
    for reader in found:
        at = by_place.setdefault((reader.step, reader.file, reader.prop), [])
        at += [str(reader.line)] if reader.line is not None else []
    readers = []
    for (step, file, prop), at in by_place.items():
        where = [file] if file else []
        where += [f"prop {prop}"] if prop else []
        where += [_lines(list(dict.fromkeys(at)))] if at else []
        readers.append(f"{step} ({', '.join(where)})" if where else step)
    return "; ".join(readers)


def _lines(numbers: Sequence[str]) -> str:
    more = f" and {len(numbers) - MAX_READER_LINES} more" if len(numbers) > MAX_READER_LINES else ""
    return f"line{'s' if len(numbers) > 1 else ''} {', '.join(numbers[:MAX_READER_LINES])}{more}"


def _tr(row: _Row) -> Html:
    tone = {"required": "busy", "optional": "quiet", "unknown": "warn"}.get(row.kind, "quiet")
    path = copyable(row.path, row.copy_path)
    cells = [pill(row.kind, tone), path, row.description, tag("span", row.readers, style=MUTED_STYLE)]  # type: ignore[arg-type]
    return tag("tr", *(tag("td", cell, style=CELL_STYLE) for cell in cells))


def _group_by_violations(compared: Sequence[EventComparison]) -> Iterator[tuple[str, list[str]]]:
    """Yield the names of the events that have the same violations, with these violations."""
    names: dict[tuple[str, ...], list[str]] = {}
    for each in compared:
        violations = tuple(describe_violations(each))
        if violations:
            names.setdefault(violations, []).append(each.name)
        else:
            yield each.name, []
    yield from ((", ".join(found), list(violations)) for violations, found in names.items())


def _event_lines(names: str, violations: Sequence[str]) -> list[str]:
    if not violations:
        return [f"✓ {names} fulfils the contract."]
    return [f"! {names}:", *(f"  {line}" for line in violations)]


def _event_html(names: str, violations: Sequence[str]) -> Html:
    if not violations:
        return tag("div", f"✓ {names} fulfils the contract.")
    items = [tag("li", line) for line in violations]
    return tag("div", tag("strong", f"! {names}"), tag("ul", join_lines(items), style="margin:0"))


def _describe_drift(place: FieldPath, drifts: Sequence[Drift]) -> str:
    drift = drifts[0]
    who = format_readers(sorted({reader for each in drifts for reader in each.readers}, key=reader_sort_key))
    if drift.kind == "gone":
        inside = [each.path for each in drifts if each.segments != place]
        more = f", and with it {formatting.format_list(inside)}" if inside else ""
        return f"{format_path(place)} is missing{more}. Earlier events had it. Read by {who}."
    before, after = " or ".join(drift.types_before), " or ".join(drift.types_after)
    return f"{format_path(place)} is now {after}; in earlier events it was {before}. Read by {who}."


def _describe_finding(finding: ContractViolation) -> str:
    who = format_readers(finding.readers)
    if finding.kind == "missing":
        return f"{finding.path} is missing. Read by {who}."
    expected = " or ".join(_TYPES.get(name, name) for name in finding.expected_types)
    return f"{finding.path} is {finding.actual_type}; the steps expect {expected}. Read by {who}."

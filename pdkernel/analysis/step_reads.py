"""
What one step reads of the event: its code by its language's reader, its props as expressions.

Knows which reader reads which language, and what notes of a walk add up to. Knows nothing of other steps but what
they export.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pdkernel.analysis.abstract_values import LIST_ITEM, FieldPath, ValueSet
from pdkernel.analysis.access_tracker import EVENT_CONTAINERS, AccessKind, KnownExports, PathAccess
from pdkernel.analysis.contract import FieldReader
from pdkernel.analysis.trace import StepTracer
from pdkernel.errors import ExpressionError
from pdkernel.expression import add_missing_braces, iter_templates
from pdkernel.model import Step

_VALUE_USES: frozenset[AccessKind] = frozenset({"uses", "whole", "hands", "unknown"})
_SCALARS = frozenset({"string", "number", "numeric", "boolean"})


@dataclass(slots=True)
class PathReads:
    """
    What one step does with one place.

    Attributes:
        is_required: It fails without it.
        is_optional: Somewhere it looks first, or goes on without it.
        is_value_used: It uses the value, and not only what is in it.
        passed_on_by: Where it gives the object on.
        dynamic_in: Where it reads keys that only a run knows.
        has_mixed_types: It takes several types.
        types: What it takes the value for.
        readers: Where.
    """

    is_required: bool = False
    is_optional: bool = False
    is_value_used: bool = False
    passed_on_by: set[FieldReader] = field(default_factory=set)
    dynamic_in: set[FieldReader] = field(default_factory=set)
    has_mixed_types: bool = False
    types: set[str] = field(default_factory=set)
    readers: set[FieldReader] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class StepReads:
    """What a step reads, by place; *exports* where they can be followed; *is_parsed* unless its code cannot be read."""

    by_path: dict[FieldPath, PathReads]
    exports: dict[str, ValueSet]
    is_parsed: bool = True


def collect_step_reads(step: Step, exports_above: KnownExports) -> StepReads:
    """What *step* reads of the event; *exports_above* is what steps above export."""
    notes: list[tuple[PathAccess, FieldReader]] = []
    cell = step.cell_index + 1 if step.cell_index is not None else None
    try:
        walk, is_read = _trace_code(step, exports_above)
    except RecursionError:  # code that is nested deeper than anybody writes
        walk, is_read = None, False
    if walk is not None:
        notes += [(note, FieldReader(step.name, cell, note.line + step.line_offset)) for note in walk.accesses]
    notes += _prop_notes(step, exports_above, cell)
    exports = {name: values[0] for name, values in walk.exports.items() if len(values) == 1} if walk else {}
    return StepReads(_summarize_accesses(notes), exports, is_read)


def _trace_code(step: Step, known: KnownExports) -> tuple[StepTracer | None, bool]:
    """The walk through the step's code, and whether it can be read."""
    if step.uses:
        return None, True
    match step.language:
        case "python":
            from pdkernel.analysis import python_trace

            walk: StepTracer | None = python_trace.trace_module(step.source, known)
            return walk, walk is not None
        case "node":
            from pdkernel.analysis import node_trace
            from pdkernel.expression import javascript

            return node_trace.trace_module(step.source, known), not javascript.parse_source(step.source).has_error
        case "bash" | "go":
            return None, False


def _prop_notes(step: Step, known: KnownExports, cell: int | None) -> Iterator[tuple[PathAccess, FieldReader]]:
    from pdkernel.analysis import node_trace

    for name, value in step.props.items():
        written = add_missing_braces(value) if step.language == "node" and step.uses is None else value
        try:
            found = list(iter_templates({name: written}))
        except ExpressionError:
            continue  # running the step says it better
        for path, template in found:
            reader = FieldReader(
                step.name, cell, _line_of(step, path), prop=".".join(map(str, path)), file=step.props_file or ""
            )
            for expression in template.expressions:
                for note in node_trace.trace_expression(expression.source, known).accesses:
                    yield note, reader


def _line_of(step: Step, path: tuple[str | int, ...]) -> int | None:
    """The line of the cell, or of the folder's file, that holds the prop at *path*."""
    if step.props_file is None:
        return step.locate_prop(*path)[0]
    lines = (step.prop_lines.get(path[:length]) for length in range(len(path), 0, -1))
    return next((line for line in lines if line is not None), None)


# ── what notes add up to ───────────────────────────────────────────────────────────


def _summarize_accesses(notes: Iterable[tuple[PathAccess, FieldReader]]) -> dict[FieldPath, PathReads]:
    by_place: dict[FieldPath, list[tuple[PathAccess, FieldReader]]] = defaultdict(list)
    for note, reader in notes:
        by_place[note.path].append((note, reader))
    _resolve_key_checks(by_place)
    _resolve_item_loops(by_place)
    inner = {place[:length] for place in by_place for length in range(len(place))}
    return {place: _read(place, found, is_inner=place in inner, by_place=by_place) for place, found in by_place.items()}


def _resolve_key_checks(by_place: dict[FieldPath, list[tuple[PathAccess, FieldReader]]]) -> None:
    """`"x" in value` looks for a key if *value* has keys; in a text or a list it looks for a part."""
    for place in list(by_place):
        kinds = {note.kind for note, _ in by_place[place]}
        above = place[:-1]
        if "looks" not in kinds or "reads" in kinds or not place or above in EVENT_CONTAINERS:
            continue
        siblings = (other for other in by_place if len(other) == len(place) and other[:-1] == above and other != place)
        if not any(
            note.kind == "reads" and other[-1] != LIST_ITEM for other in siblings for note, _ in by_place[other]
        ):
            by_place[above] += [
                (PathAccess("uses", above, note.line), reader)
                for note, reader in by_place.pop(place)
                if note.kind == "looks"
            ]


def _resolve_item_loops(by_place: dict[FieldPath, list[tuple[PathAccess, FieldReader]]]) -> None:
    """A loop over an object goes over its keys."""
    for place in [place for place in by_place if place and place[-1] == LIST_ITEM]:
        above = place[:-1]
        if above not in by_place or any(len(other) > len(place) and other[: len(place)] == place for other in by_place):
            continue
        is_unknown = any(note.kind == "unknown" for note, _ in by_place[above])
        if not is_unknown and above not in EVENT_CONTAINERS:
            continue
        if not is_unknown:
            at = [
                (PathAccess("unknown", above, note.line), reader)
                for note, reader in by_place[place]
                if note.kind == "reads"
            ]
            by_place[above] += at
        del by_place[place]
        by_place[above] = [pair for pair in by_place[above] if pair[0].types != ("array",)]


def _read(
    place: FieldPath,
    notes: list[tuple[PathAccess, FieldReader]],
    *,
    is_inner: bool,
    by_place: dict[FieldPath, list[tuple[PathAccess, FieldReader]]],
) -> PathReads:
    read = PathReads()
    for note, _ in notes:
        read.is_required |= note.kind == "needs"
        read.is_optional |= note.kind == "copes"
        read.has_mixed_types |= note.kind == "untyped"
        read.types.update(note.types)
    is_object = (place in EVENT_CONTAINERS or is_inner) and (read.has_mixed_types or not read.types & _SCALARS)
    is_list = (*place, LIST_ITEM) in by_place
    for note, reader in notes:
        if note.kind == "unknown" or (is_object and note.kind == "hands"):
            read.dynamic_in.add(reader)
        elif is_object and (note.kind == "whole" or (note.kind == "uses" and not read.has_mixed_types and not is_list)):
            read.passed_on_by.add(reader)
        read.is_value_used |= note.kind in _VALUE_USES
    read.is_value_used |= not is_inner
    telling: set[AccessKind] = {"reads", "looks", "uses", "whole", "hands", "unknown"}
    read.readers = {reader for note, reader in notes if note.kind in telling}
    if is_inner:
        read.types.add("array" if is_list else "object")
        read.types -= {"object"} if "array" in read.types else set()
    return read

"""
What a step reads: the paths of the event and of earlier exports, each with the places of the code and of props that read it.

The trace of a step's language records the accesses; this module summarizes them per path. If a step returns or exports the event
or a part of it, the reads of later steps from that export count too. Other results of a step are not followed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pdkernel.common.encode import JsonStruct
from pdkernel.errors import ExpressionError, did_you_mean
from pdkernel.language.analysis.abstract_values import LIST_ITEM, FieldPath, PathValue, ValueSet
from pdkernel.language.analysis.trace import EVENT_CONTAINERS, AccessKind, KnownExports, PathAccess, StepTracer
from pdkernel.language.expression import add_missing_braces, iter_templates
from pdkernel.model import JSON, Step

_VALUE_USES: frozenset[AccessKind] = frozenset({"uses", "passes_on", "escapes", "dynamic"})
_SCALARS = frozenset({"string", "number", "numeric", "boolean"})


class FieldReader(JsonStruct, frozen=True):
    """
    The place in a step that reads a field.

    Attributes:
        step: The name of the step.
        cell: The number of its cell, from 1; None for a synced folder.
        line: The line of the cell, or of the folder's entry file; None for a prop on the directive line.
        prop: The prop whose `{{ }}` reads it; None for code.
        file: For a synced folder, the file that contains the prop; None for code.
    """

    step: str
    cell: int | None = None
    line: int | None = None
    prop: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        where = [self.file] if self.file else []
        where += [f"prop {self.prop}"] if self.prop else []
        where += [f"line {self.line}"] if self.line is not None else []
        return f"{self.step} ({', '.join(where)})" if where else self.step


@dataclass(slots=True)
class PathReads:
    """
    The accesses of one step to one path.

    Attributes:
        is_required: Whether the step fails without the value.
        is_optional: Whether the step checks the value first somewhere, or continues without it.
        is_value_used: Whether the step uses the value itself, and not only its members.
        passed_on_by: The places that pass on the object.
        dynamic_in: The places that read computed keys.
        has_mixed_types: Whether the step accepts several types.
        types: The types that the step expects.
        readers: All places that read the path.
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
    """The reads of a step by path; *exports* are the known exports; *is_parsed* is False if its code is not understood."""

    by_path: dict[FieldPath, PathReads]
    exports: dict[str, ValueSet]
    is_parsed: bool = True


def collect_step_reads(step: Step, exports_above: KnownExports) -> StepReads:
    """Return the event fields that *step* reads; *exports_above* are the known exports of earlier steps."""
    accesses: list[tuple[PathAccess, FieldReader]] = []
    cell = step.cell_index + 1 if step.cell_index is not None else None
    try:
        tracer, is_read = _trace_code(step, exports_above)
    except RecursionError:  # extremely deep nesting
        tracer, is_read = None, False
    if tracer is not None:
        accesses += [
            (access, FieldReader(step.name, cell, access.line + step.line_offset)) for access in tracer.accesses
        ]
    accesses += _trace_props(step, exports_above, cell)
    exports = {name: values[0] for name, values in tracer.exports.items() if len(values) == 1} if tracer else {}
    return StepReads(_summarize_accesses(accesses), exports, is_read)


def suggest_key(step: Step, missing: str, values: Mapping[str, JSON]) -> str:
    """
    Return a sentence that suggests the key that *step* meant, by the names of keys only; empty if no key is near.

    Args:
        step: The step, which failed because of a missing key.
        missing: For Python, the missing key. For JavaScript, the key that the step read from `undefined`.
        values: The values below `steps` that the step could read.
    """
    known = {
        (name, export): (PathValue((name, export)),)
        for name, exports in values.items()
        for export in (exports if isinstance(exports, Mapping) and name != "trigger" else ())
    }
    try:
        tracer, _ = _trace_code(step, known)
        expressions = [each.source for _, template in iter_templates(step.props) for each in template.expressions]
    except (RecursionError, ExpressionError):
        return ""
    paths = set() if tracer is None else set(tracer.paths)
    for source in expressions:
        paths |= _trace_expression(source, known).paths
    for path in sorted(paths, key=str):
        value: Any = values
        for place, key in enumerate(path):
            if isinstance(value, Mapping) and isinstance(key, str) and key not in value:
                near = did_you_mean(key, value, lists_all=False)
                if near and missing in (key, *path[place + 1 : place + 2]):
                    return near
                break
            try:
                value = value[key]
            except (KeyError, IndexError, TypeError):
                break
    return ""


def _trace_code(step: Step, known: KnownExports) -> tuple[StepTracer | None, bool]:
    """Return the trace of the step's code, and whether the code can be parsed."""
    if step.uses:
        return None, True
    tree, is_parsed = None, False
    if step.language == "python":
        from pdkernel.language.analysis import python_tree

        tree = python_tree.translate_module(step.source)
        is_parsed = tree is not None
    elif step.language == "node":
        from pdkernel.language.analysis import node_tree

        tree, is_parsed = node_tree.translate_module(step.source)
    if tree is None:
        return None, False
    tracer = StepTracer(known, is_python=step.language == "python")
    tracer.trace(tree)
    return tracer, is_parsed


def _trace_expression(source: str, known: KnownExports) -> StepTracer:
    """Return the trace of an expression, whose value the prop passes on."""
    from pdkernel.language.analysis import node_tree

    tracer = StepTracer(known)
    with suppress(RecursionError):  # extremely deep nesting
        tree = node_tree.translate_expression(source)
        if tree is not None:
            tracer.trace(tree, "passes_on")
    return tracer


def _trace_props(step: Step, known: KnownExports, cell: int | None) -> Iterator[tuple[PathAccess, FieldReader]]:
    for name, value in step.props.items():
        written = add_missing_braces(value) if step.language == "node" and step.uses is None else value
        try:
            found = list(iter_templates({name: written}))
        except ExpressionError:
            continue  # the run of the step reports the error
        for path, template in found:
            reader = FieldReader(
                step.name, cell, _line_of(step, path), prop=".".join(map(str, path)), file=step.props_file
            )
            for expression in template.expressions:
                for access in _trace_expression(expression.source, known).accesses:
                    yield access, reader


def _line_of(step: Step, path: tuple[str | int, ...]) -> int | None:
    """Return the line of the cell, or of the folder's file, that contains the prop at *path*."""
    if step.props_file is None:
        return step.locate_prop(*path)[0]
    lines = (step.prop_lines.get(path[:length]) for length in range(len(path), 0, -1))
    return next((line for line in lines if line is not None), None)


# ── summary per path ───────────────────────────────────────────────────────────


def _summarize_accesses(accesses: Iterable[tuple[PathAccess, FieldReader]]) -> dict[FieldPath, PathReads]:
    by_place: dict[FieldPath, list[tuple[PathAccess, FieldReader]]] = defaultdict(list)
    for access, reader in accesses:
        by_place[access.path].append((access, reader))
    _resolve_key_checks(by_place)
    _resolve_item_loops(by_place)
    inner = {place[:length] for place in by_place for length in range(len(place))}
    return {place: _read(place, found, is_inner=place in inner, by_place=by_place) for place, found in by_place.items()}


def _resolve_key_checks(by_place: dict[FieldPath, list[tuple[PathAccess, FieldReader]]]) -> None:
    """Interpret `"x" in value`: the check of a key if the step reads another key of the value, else a search in a text or list."""
    for place in list(by_place):
        kinds = {access.kind for access, _ in by_place[place]}
        above = place[:-1]
        if "checks" not in kinds or "reads" in kinds or not place or above in EVENT_CONTAINERS:
            continue
        siblings = (other for other in by_place if len(other) == len(place) and other[:-1] == above and other != place)
        if not any(
            access.kind == "reads" and other[-1] != LIST_ITEM for other in siblings for access, _ in by_place[other]
        ):
            by_place[above] += [
                (PathAccess("uses", above, access.line), reader)
                for access, reader in by_place.pop(place)
                if access.kind == "checks"
            ]


def _resolve_item_loops(by_place: dict[FieldPath, list[tuple[PathAccess, FieldReader]]]) -> None:
    """Interpret loops over objects as loops over their keys."""
    for place in [place for place in by_place if place and place[-1] == LIST_ITEM]:
        above = place[:-1]
        if above not in by_place or any(len(other) > len(place) and other[: len(place)] == place for other in by_place):
            continue
        is_unknown = any(access.kind == "dynamic" for access, _ in by_place[above])
        if not is_unknown and above not in EVENT_CONTAINERS:
            continue
        if not is_unknown:
            at = [
                (PathAccess("dynamic", above, access.line), reader)
                for access, reader in by_place[place]
                if access.kind == "reads"
            ]
            by_place[above] += at
        del by_place[place]
        by_place[above] = [pair for pair in by_place[above] if pair[0].types != ("array",)]


def _read(
    place: FieldPath,
    accesses: list[tuple[PathAccess, FieldReader]],
    *,
    is_inner: bool,
    by_place: dict[FieldPath, list[tuple[PathAccess, FieldReader]]],
) -> PathReads:
    read = PathReads()
    for access, _ in accesses:
        read.is_required |= access.kind == "requires"
        read.is_optional |= access.kind == "tolerates"
        read.has_mixed_types |= access.kind == "mixed_type"
        read.types.update(access.types)
    is_object = (place in EVENT_CONTAINERS or is_inner) and (read.has_mixed_types or not read.types & _SCALARS)
    is_list = (*place, LIST_ITEM) in by_place
    for access, reader in accesses:
        if access.kind == "dynamic" or (is_object and access.kind == "escapes"):
            read.dynamic_in.add(reader)
        elif is_object and (
            access.kind == "passes_on" or (access.kind == "uses" and not read.has_mixed_types and not is_list)
        ):
            read.passed_on_by.add(reader)
        read.is_value_used |= access.kind in _VALUE_USES
    read.is_value_used |= not is_inner
    read_kinds: set[AccessKind] = {"reads", "checks", "uses", "passes_on", "escapes", "dynamic"}
    read.readers = {reader for access, reader in accesses if access.kind in read_kinds}
    if is_inner:
        read.types.add("array" if is_list else "object")
        read.types -= {"object"} if "array" in read.types else set()
    return read

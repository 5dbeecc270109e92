"""
What one step reads of the event: its code by its language's reader, its props as expressions.

Knows which reader reads which language, and what notes of a walk add up to. Knows nothing of other steps but what
they export.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pdkernel.contract.lookups import CONTAINERS, Exports, Kind, Note
from pdkernel.contract.trace import Trace
from pdkernel.contract.values import ITEM, Place, Value
from pdkernel.contract.words import Reader
from pdkernel.errors import ExpressionError
from pdkernel.expression import braced, templates_in
from pdkernel.model import Step

_ENDS: frozenset[Kind] = frozenset({"uses", "whole", "hands", "unknown"})
_SCALARS = frozenset({"string", "number", "numeric", "boolean"})


@dataclass(slots=True)
class Read:
    """
    What one step does with one place.

    Attributes:
        needs: It fails without it.
        copes: Somewhere it looks first, or goes on without it.
        ends: It uses the value, and not only what is in it.
        whole: Where it gives the object on.
        unknown: Where it reads keys that only a run knows.
        untyped: It takes several types.
        types: What it takes the value for.
        readers: Where.
    """

    needs: bool = False
    copes: bool = False
    ends: bool = False
    whole: set[Reader] = field(default_factory=set)
    unknown: set[Reader] = field(default_factory=set)
    untyped: bool = False
    types: set[str] = field(default_factory=set)
    readers: set[Reader] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class StepReads:
    """What a step reads, by place; *exports* where they can be followed; *is_read* unless its code cannot be read."""

    places: dict[Place, Read]
    exports: dict[str, Value]
    is_read: bool = True


def reads_of(step: Step, known: Exports) -> StepReads:
    """What *step* reads of the event; *known* is what steps above export."""
    notes: list[tuple[Note, Reader]] = []
    cell = step.cell + 1 if step.cell is not None else None
    try:
        walk, is_read = _walk(step, known)
    except RecursionError:  # code that is nested deeper than anybody writes
        walk, is_read = None, False
    if walk is not None:
        notes += [(note, Reader(step.name, cell, note.line + step.line_offset)) for note in walk.notes]
    notes += _prop_notes(step, known, cell)
    exports = {name: values[0] for name, values in walk.exports.items() if len(values) == 1} if walk else {}
    return StepReads(_summed(notes), exports, is_read)


def _walk(step: Step, known: Exports) -> tuple[Trace | None, bool]:
    """The walk through the step's code, and whether it can be read."""
    if step.uses:
        return None, True
    match step.language:
        case "python":
            from pdkernel.contract import python_reader

            walk: Trace | None = python_reader.read(step.source, known)
            return walk, walk is not None
        case "node":
            from pdkernel.contract import node_reader
            from pdkernel.expression import javascript

            return node_reader.read(step.source, known), not javascript.parse(step.source).has_error
        case "bash" | "go":
            return None, False


def _prop_notes(step: Step, known: Exports, cell: int | None) -> Iterator[tuple[Note, Reader]]:
    from pdkernel.contract import node_reader

    for name, value in step.props.items():
        written = braced(value) if step.language == "node" and step.uses is None else value
        try:
            found = list(templates_in({name: written}))
        except ExpressionError:
            continue  # running the step says it better
        for path, template in found:
            reader = Reader(
                step.name, cell, _line_of(step, path), prop=".".join(map(str, path)), file=step.props_in or ""
            )
            for expression in template.expressions:
                for note in node_reader.read_expression(expression.source, known).notes:
                    yield note, reader


def _line_of(step: Step, path: tuple[str | int, ...]) -> int | None:
    """The line of the cell, or of the folder's file, that holds the prop at *path*."""
    if step.props_in is None:
        return step.place_of_prop(*path)[0]
    lines = (step.prop_lines.get(path[:length]) for length in range(len(path), 0, -1))
    return next((line for line in lines if line is not None), None)


# ── what notes add up to ───────────────────────────────────────────────────────────


def _summed(notes: Iterable[tuple[Note, Reader]]) -> dict[Place, Read]:
    by_place: dict[Place, list[tuple[Note, Reader]]] = defaultdict(list)
    for note, reader in notes:
        by_place[note.place].append((note, reader))
    _settle_looks(by_place)
    _settle_items(by_place)
    inner = {place[:length] for place in by_place for length in range(len(place))}
    return {place: _read(place, found, is_inner=place in inner, by_place=by_place) for place, found in by_place.items()}


def _settle_looks(by_place: dict[Place, list[tuple[Note, Reader]]]) -> None:
    """`"x" in value` looks for a key if *value* has keys; in a text or a list it looks for a part."""
    for place in list(by_place):
        kinds = {note.kind for note, _ in by_place[place]}
        above = place[:-1]
        if "looks" not in kinds or "reads" in kinds or not place or above in CONTAINERS:
            continue
        siblings = (other for other in by_place if len(other) == len(place) and other[:-1] == above and other != place)
        if not any(note.kind == "reads" and other[-1] != ITEM for other in siblings for note, _ in by_place[other]):
            by_place[above] += [
                (Note("uses", above, note.line), reader) for note, reader in by_place.pop(place) if note.kind == "looks"
            ]


def _settle_items(by_place: dict[Place, list[tuple[Note, Reader]]]) -> None:
    """A loop over an object goes over its keys."""
    for place in [place for place in by_place if place and place[-1] == ITEM]:
        above = place[:-1]
        if above not in by_place or any(len(other) > len(place) and other[: len(place)] == place for other in by_place):
            continue
        is_unknown = any(note.kind == "unknown" for note, _ in by_place[above])
        if not is_unknown and above not in CONTAINERS:
            continue
        if not is_unknown:
            at = [
                (Note("unknown", above, note.line), reader) for note, reader in by_place[place] if note.kind == "reads"
            ]
            by_place[above] += at
        del by_place[place]
        by_place[above] = [pair for pair in by_place[above] if pair[0].types != ("array",)]


def _read(
    place: Place,
    notes: list[tuple[Note, Reader]],
    *,
    is_inner: bool,
    by_place: dict[Place, list[tuple[Note, Reader]]],
) -> Read:
    read = Read()
    for note, _ in notes:
        read.needs |= note.kind == "needs"
        read.copes |= note.kind == "copes"
        read.untyped |= note.kind == "untyped"
        read.types.update(note.types)
    is_object = (place in CONTAINERS or is_inner) and (read.untyped or not read.types & _SCALARS)
    is_list = (*place, ITEM) in by_place
    for note, reader in notes:
        if note.kind == "unknown" or (is_object and note.kind == "hands"):
            read.unknown.add(reader)
        elif is_object and (note.kind == "whole" or (note.kind == "uses" and not read.untyped and not is_list)):
            read.whole.add(reader)
        read.ends |= note.kind in _ENDS
    read.ends |= not is_inner
    telling: set[Kind] = {"reads", "looks", "uses", "whole", "hands", "unknown"}
    read.readers = {reader for note, reader in notes if note.kind in telling}
    if is_inner:
        read.types.add("array" if is_list else "object")
        read.types -= {"object"} if "array" in read.types else set()
    return read

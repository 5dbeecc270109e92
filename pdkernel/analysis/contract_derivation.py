"""
The caller's contract of a workflow, from what its steps read.

Knows how the reads of several steps go together. A step that returns the event, or a part of it, hands it on to the
steps below; what a step makes of it otherwise is not followed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pdkernel.analysis.abstract_values import LIST_ITEM, FieldPath, ValueSet
from pdkernel.analysis.access_tracker import EVENT_CONTAINERS
from pdkernel.analysis.contract import Contract, Field, FieldReader, ObjectUse, PathExpectation, reader_sort_key
from pdkernel.analysis.step_reads import PathReads, collect_step_reads
from pdkernel.model import Workflow


def derive_contract(workflow: Workflow) -> Contract:
    """Which fields the events of *workflow* must have; its disabled steps read nothing."""
    exports: dict[tuple[str, str], ValueSet] = {}
    found: dict[FieldPath, list[PathReads]] = {}
    unread: list[FieldReader] = []
    for step in workflow.steps:
        if step.disabled:
            continue
        reads = collect_step_reads(step, exports)
        if not reads.is_parsed:
            unread.append(FieldReader(step.name, step.cell_index + 1 if step.cell_index is not None else None))
        for place, read in reads.by_path.items():
            found.setdefault(place, []).append(read)
        exports.update(((step.name, name), value) for name, value in reads.exports.items())
    return _contract(found, tuple(unread))


def _contract(found: dict[FieldPath, list[PathReads]], unread: tuple[FieldReader, ...]) -> Contract:
    places = {
        place: _merge_expectation(place, reads) for place, reads in sorted(found.items(), key=_path_sort_key) if place
    }
    fields = [
        Field(
            place,
            _is_required(place, places),
            expected.types,
            _sort_readers(r for read in found[place] if read.is_value_used for r in read.readers),
        )
        for place, expected in places.items()
        if _is_field(place, found[place])
    ]
    return Contract(
        fields=tuple(fields),
        passed_on=_build_object_uses({place: [read.passed_on_by for read in reads] for place, reads in found.items()}),
        dynamic=_build_object_uses({place: [read.dynamic_in for read in reads] for place, reads in found.items()}),
        expectations=places,
        unparsed_steps=unread,
    )


def _path_sort_key(item: tuple[FieldPath, object]) -> list[str]:
    return [str(segment) for segment in item[0]]


def _merge_expectation(place: FieldPath, reads: list[PathReads]) -> PathExpectation:
    needed = any(read.is_required for read in reads) or (
        place[-1] != LIST_ITEM and not any(read.is_optional for read in reads)
    )
    return PathExpectation(needed, _types(reads), _sort_readers(reader for read in reads for reader in read.readers))


def _types(reads: list[PathReads]) -> tuple[str, ...]:
    if any(read.has_mixed_types for read in reads):
        return ()
    types = {name for read in reads for name in read.types}
    return tuple(sorted(types - {"numeric"} if "number" in types else types))


def _is_required(place: FieldPath, places: dict[FieldPath, PathExpectation]) -> bool:
    """
    Whether the field must be there: it is needed, and so is everything around it.

    A list may be empty. A step that leaves when there is no body at all still counts on what must be in one.
    """
    above = (place[:length] for length in range(1, len(place) + 1))
    free = (each for each in above if each[-1] != LIST_ITEM and (each not in EVENT_CONTAINERS or each == place))
    return all(each not in places or places[each].is_required for each in free)


def _is_field(place: FieldPath, reads: list[PathReads]) -> bool:
    if place in EVENT_CONTAINERS:
        types = {name for read in reads if read.is_value_used and not read.has_mixed_types for name in read.types}
        return bool(types - {"object", "array"})
    return any(read.is_value_used for read in reads)


def _sort_readers(readers: Iterable[FieldReader]) -> tuple[FieldReader, ...]:
    return tuple(sorted(set(readers), key=reader_sort_key))


def _build_object_uses(found: Mapping[FieldPath, list[set[FieldReader]]]) -> tuple[ObjectUse, ...]:
    uses = (
        (place, _sort_readers(set().union(*readers))) for place, readers in sorted(found.items(), key=_path_sort_key)
    )
    return tuple(ObjectUse(place, readers) for place, readers in uses if readers)

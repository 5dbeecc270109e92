"""
The contract of a workflow: the event fields that its steps read, their readers, and paths with unknown keys.

It is derived from `step_reads` of all steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from pdkernel.common.encode import JsonStruct
from pdkernel.language.analysis.abstract_values import LIST_ITEM, FieldPath, ValueSet
from pdkernel.language.analysis.step_reads import FieldReader, PathReads, collect_step_reads
from pdkernel.language.analysis.trace import EVENT_CONTAINERS
from pdkernel.language.shape import format_node_path
from pdkernel.model import Workflow


@dataclass(frozen=True, slots=True)
class Field:
    """
    A field that steps read.

    Attributes:
        segments: The path below the event; an item of a list is 0.
        required: Whether a step fails without the field, or continues with an undefined value.
        types: The types that steps expect, as JSON Schema names, or `numeric`: a number or a numeric text. Empty if the code
            does not show a type.
        readers: The places that read the field.
    """

    segments: FieldPath
    required: bool
    types: tuple[str, ...] = ()
    readers: tuple[FieldReader, ...] = ()

    @property
    def path(self) -> str:
        """The path as text: `body.labels[].name`."""
        return format_path(self.segments)


@dataclass(frozen=True, slots=True)
class ObjectUse:
    """An object of the event that *readers* pass on as a whole, or read with computed keys."""

    segments: FieldPath
    readers: tuple[FieldReader, ...] = ()

    @property
    def path(self) -> str:
        """The path as text: `body`, or `event` for the event itself."""
        return format_path(self.segments) or "event"


@dataclass(frozen=True, slots=True)
class PathExpectation:
    """The expected value at a path of a field or its container; *is_required* applies if the container is present."""

    is_required: bool
    types: tuple[str, ...] = ()
    readers: tuple[FieldReader, ...] = ()


class Contract(JsonStruct, frozen=True, dict=True):
    """
    The fields that an event must have, as far as the code of the steps shows.

    Attributes:
        fields: The fields, in the order of their paths.
        passed_on: Objects that steps pass on as a whole: send, export or log.
        dynamic: Paths that steps read with computed keys, or pass to code that is not followed.
        expectations: The fields and their containers, by path.
        unparsed_steps: Steps with code that cannot be parsed, or in a language that is not followed.
    """

    fields: tuple[Field, ...] = ()
    passed_on: tuple[ObjectUse, ...] = ()
    dynamic: tuple[ObjectUse, ...] = ()
    expectations: Mapping[FieldPath, PathExpectation] = {}
    unparsed_steps: tuple[FieldReader, ...] = ()

    @cached_property
    def child_paths(self) -> Mapping[FieldPath, tuple[FieldPath, ...]]:
        """The expected paths directly below each path."""
        below: dict[FieldPath, list[FieldPath]] = {}
        for place in self.expectations:
            below.setdefault(place[:-1], []).append(place)
        return {place: tuple(found) for place, found in below.items()}

    @property
    def required_fields(self) -> tuple[Field, ...]:
        """The fields that are required."""
        return tuple(each for each in self.fields if each.required)

    def readers_below(self, path: FieldPath) -> tuple[FieldReader, ...]:
        """The readers of *path* and of the paths below it."""
        fields = {r for each in self.fields if each.segments[: len(path)] == path for r in each.readers}
        whole = {r for each in self.passed_on if each.segments[: len(path)] == path for r in each.readers}
        found = fields | whole
        return tuple(sorted(found, key=reader_sort_key)) or self.expectations[path].readers

    def json_form(self) -> object:
        """`{"fields", "whole", "unknown", "unread"}`; paths are texts."""
        return {
            "fields": [
                {"path": each.path, "required": each.required, "types": each.types, "readers": each.readers}
                for each in self.fields
            ],
            "whole": [{"path": use.path, "readers": use.readers} for use in self.passed_on],
            "unknown": [{"path": use.path, "readers": use.readers} for use in self.dynamic],
            "unread": self.unparsed_steps,
        }


def derive_contract(workflow: Workflow) -> Contract:
    """The contract of the enabled steps of *workflow*."""
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
    Whether the field is required: the field and all its containers are.

    A list may be empty. If a step ends early without a body, the required fields of the body stay required.
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


def reader_sort_key(reader: FieldReader) -> tuple[int, str, str, int]:
    """The sort key of readers: by cell, then by line."""
    return (reader.cell or 0, reader.step, reader.prop or "", reader.line or 0)


def format_path(path: FieldPath) -> str:
    """*path* as text: `body.labels[].name`, `headers["user-agent"]`."""
    return "".join(_parts(path))


def _parts(place: FieldPath) -> Iterator[str]:
    for index, segment in enumerate(place):
        if segment == LIST_ITEM:
            yield "[]"
        else:
            written = format_node_path((segment,))
            yield written if not index or written.startswith("[") else f".{written}"

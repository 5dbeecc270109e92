"""
The contract of a workflow: the event fields that its steps read, their readers, and paths with unknown keys.

It is derived from `step_reads` of all steps. Events are checked against it and compared with earlier ones; example events
and a JSON Schema are built from it. Fields that no step reads are ignored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from msgspec.structs import replace

from pdkernel.common.encode import JsonStruct
from pdkernel.event import JSON_POST
from pdkernel.language.analysis.abstract_values import LIST_ITEM, FieldPath, ValueSet
from pdkernel.language.analysis.step_reads import FieldReader, PathReads, collect_step_reads
from pdkernel.language.analysis.step_references import build_condition_step
from pdkernel.language.analysis.trace import EVENT_CONTAINERS
from pdkernel.language.shape import format_node_path
from pdkernel.language.shape.inference import get_type_name
from pdkernel.model import JSON, Block, Workflow

EventData = Mapping[str, JSON]


@dataclass(frozen=True, slots=True)
class Field:
    """
    A field that steps read, or an object that they pass on as a whole or read with computed keys.

    Attributes:
        segments: The path below the event; an item of a list is 0.
        required: Whether a step fails without the field, or continues with an undefined value.
        types: The types that steps expect, as JSON Schema names, or `numeric`: a number or a numeric text. Empty if the code
            does not show a type.
        readers: The places that read the field.
    """

    segments: FieldPath
    required: bool = False
    types: tuple[str, ...] = ()
    readers: tuple[FieldReader, ...] = ()

    @property
    def path(self) -> str:
        """The path as text: `body.labels[].name`, or `event` for the event itself."""
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
    passed_on: tuple[Field, ...] = ()
    dynamic: tuple[Field, ...] = ()
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
        """Return the readers of *path* and of the paths below it."""
        below = (each for each in (*self.fields, *self.passed_on) if each.segments[: len(path)] == path)
        return _sort_readers(reader for each in below for reader in each.readers) or self.expectations[path].readers

    def json_form(self) -> object:
        """`{"fields", "whole", "unknown", "unread"}`; paths are texts."""
        fields = [
            {"path": each.path, "required": each.required, "types": each.types, "readers": each.readers}
            for each in self.fields
        ]
        whole, unknown = (
            [{"path": each.path, "readers": each.readers} for each in uses] for uses in (self.passed_on, self.dynamic)
        )
        return {"fields": fields, "whole": whole, "unknown": unknown, "unread": self.unparsed_steps}


def derive_contract(workflow: Workflow) -> Contract:
    """
    Return the contract of the enabled steps and of the conditions of *workflow*.

    A field that steps read only in branches that some runs leave out is not required.
    """
    exports: dict[tuple[str, str], ValueSet] = {}
    found: dict[FieldPath, list[PathReads]] = {}
    conditional: dict[FieldPath, list[PathReads]] = {}
    unread: list[FieldReader] = []
    for entry in workflow.all_entries:
        step = build_condition_step(entry) if isinstance(entry, Block) else entry
        if step.disabled:
            continue
        reads = collect_step_reads(step, exports)
        if not reads.is_parsed:
            unread.append(FieldReader(step.name, step.cell_index + 1 if step.cell_index is not None else None))
        target = conditional if workflow.is_conditional(entry.name) else found
        for place, read in reads.by_path.items():
            target.setdefault(place, []).append(read)
        exports.update(((step.name, name), value) for name, value in reads.exports.items())
    for place, others in conditional.items():
        is_optional = place not in found
        found.setdefault(place, []).extend(
            dataclasses.replace(read, is_required=False, is_optional=is_optional) for read in others
        )
    return _contract(found, tuple(unread))


def _contract(found: dict[FieldPath, list[PathReads]], unread: tuple[FieldReader, ...]) -> Contract:
    found = dict(sorted(found.items(), key=lambda item: list(map(str, item[0]))))
    expected = {place: _merge_expectation(place, reads) for place, reads in found.items() if place}
    fields = (
        Field(
            place,
            _is_required(place, expected),
            expected[place].types,
            _sort_readers(reader for read in reads if read.is_value_used for reader in read.readers),
        )
        for place, reads in found.items()
        if place and _is_field(place, reads)
    )
    passed_on, dynamic = (
        tuple(
            Field(place, readers=readers)
            for place, reads in found.items()
            if (readers := _sort_readers(reader for read in reads for reader in getattr(read, attribute)))
        )
        for attribute in ("passed_on_by", "dynamic_in")
    )
    return Contract(tuple(fields), passed_on, dynamic, expected, unread)


def _merge_expectation(place: FieldPath, reads: list[PathReads]) -> PathExpectation:
    is_checked = place[-1] == LIST_ITEM or any(read.is_optional for read in reads)
    types = {name for read in reads for name in read.types}
    types -= types if any(read.has_mixed_types for read in reads) else {"numeric"} if "number" in types else set()
    readers = _sort_readers(reader for read in reads for reader in read.readers)
    return PathExpectation(any(read.is_required for read in reads) or not is_checked, tuple(sorted(types)), readers)


def _is_required(place: FieldPath, places: Mapping[FieldPath, PathExpectation]) -> bool:
    """
    Return whether the field is required: the field and all its containers are.

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


def reader_sort_key(reader: FieldReader) -> tuple[int, str, str, int]:
    """Return the sort key of readers: by cell, then by line."""
    return (reader.cell or 0, reader.step, reader.prop or "", reader.line or 0)


def format_path(path: FieldPath) -> str:
    """Return *path* as text: `body.labels[].name`, `headers["user-agent"]`."""
    parts = ["[]" if each == LIST_ITEM else format_node_path((each,)) for each in path]
    return "".join(f".{part}" if index and not part.startswith("[") else part for index, part in enumerate(parts))


class _AtPath(JsonStruct, frozen=True):
    """Something at a path below the event."""

    kind: Literal["missing", "gone", "type"]
    segments: FieldPath

    @property
    def path(self) -> str:
        """The path as text: `body.labels[].name`."""
        return format_path(self.segments)


class ContractViolation(_AtPath, frozen=True):
    """
    A violation of a contract by an event.

    Attributes:
        kind: `missing`, or `type`: the value has another type than the steps expect.
        segments: The path below the event.
        expected_types: The types that the steps expect.
        actual_type: The type of the value; empty if the value is missing.
        readers: The readers of the path and of the paths below it.
    """

    expected_types: tuple[str, ...]
    actual_type: str
    readers: tuple[FieldReader, ...]

    def json_form(self) -> object:
        """`{"kind", "path", "expected", "found", "readers"}`."""
        return {
            "kind": self.kind,
            "path": self.path,
            "expected": self.expected_types,
            "found": self.actual_type or None,
            "readers": self.readers,
        }


def check_event(contract: Contract, event: EventData) -> tuple[ContractViolation, ...]:
    """Return the violations of *contract* by *event*, the data of an event; each path once."""
    found: dict[tuple[str, FieldPath], ContractViolation] = {}
    for finding in _check_children(contract, (), dict(event)):
        found.setdefault((finding.kind, finding.segments), finding)
    return tuple(found.values())


def _check_children(contract: Contract, place: FieldPath, value: JSON) -> Iterator[ContractViolation]:
    for child in contract.child_paths.get(place, ()):
        expected = contract.expectations[child]
        key = child[-1]
        if key == LIST_ITEM and isinstance(value, list):
            for item in value:
                yield from _check_value(contract, child, item)
            if not value and expected.is_required:
                yield _finding(contract, "missing", child, "")
        elif isinstance(key, str) and isinstance(value, dict):
            if key in value:
                yield from _check_value(contract, child, value[key])
            elif expected.is_required:
                yield _finding(contract, "missing", child, "")


def _check_value(contract: Contract, place: FieldPath, value: JSON) -> Iterator[ContractViolation]:
    expected = contract.expectations[place]
    if value is None:
        if expected.is_required and expected.types and place[-1] != LIST_ITEM:
            yield _finding(contract, "type", place, "null")
        return
    if expected.types and not any(is_of_type(value, name) for name in expected.types):
        yield _finding(contract, "type", place, get_type_name(value))
        return
    yield from _check_children(contract, place, value)


def is_of_type(value: JSON, expected_type: str) -> bool:
    """Return whether *value* has the type *expected_type*."""
    kind = get_type_name(value)
    if expected_type == "numeric" and isinstance(value, str):
        with suppress(ValueError):
            float(value)
            return True
    return kind == expected_type or (expected_type in {"number", "numeric"} and kind in {"integer", "number"})


def _finding(contract: Contract, kind: Literal["missing", "type"], place: FieldPath, found: str) -> ContractViolation:
    return ContractViolation(kind, place, contract.expectations[place].types, found, contract.readers_below(place))


class Drift(_AtPath, frozen=True):
    """
    A field that differs from earlier events.

    Attributes:
        kind: `gone`: every earlier event had the field. `type`: no earlier event had the type.
        segments: The path of the field below the event.
        types_before: The earlier types at *changed_segments*.
        types_after: The new types at *changed_segments*; empty if the value is gone.
        required: Whether a step fails without the field.
        readers: The readers of the field.
        changed_segments: The path that differs: the field, or a container that is gone or has another type.
    """

    types_before: tuple[str, ...]
    types_after: tuple[str, ...]
    required: bool
    readers: tuple[FieldReader, ...]
    changed_segments: FieldPath

    def json_form(self) -> object:
        """`{"kind", "path", "at", "before", "after", "required", "readers"}`."""
        return {
            "kind": self.kind,
            "path": self.path,
            "at": format_path(self.changed_segments),
            "before": self.types_before,
            "after": self.types_after,
            "required": self.required,
            "readers": self.readers,
        }


def detect_drift(contract: Contract, earlier_events: Sequence[EventData], new_event: EventData) -> tuple[Drift, ...]:
    """
    Compare the fields of *contract* in *new_event* with those in *earlier_events*.

    Args:
        contract: The contract of the workflow.
        earlier_events: The data of earlier events, at least one. Differences among them are not drift.
        new_event: The data of the new event.
    """
    found = (_detect_drift(field, earlier_events, new_event) for field in contract.fields)
    return tuple(drift for drift in found if drift is not None)


def _detect_drift(field: Field, earlier_events: Sequence[EventData], new_event: EventData) -> Drift | None:
    def collect(place: FieldPath) -> tuple[set[str], set[str]]:
        before = (_collect_types(event, place)[0] for event in earlier_events)
        return set().union(*before), _collect_types(new_event, place)[0]

    place, missing = field.segments, _collect_types(new_event, field.segments)[1]
    before, after = collect(place)
    if not before:
        return None
    kind: Literal["gone", "type"] = "type"
    if missing is not None and all(has_path(event, place) for event in earlier_events):
        place = missing[:-1]
        before_around, after_around = collect(place)
        if not place or after_around & before_around:
            kind, place, after = "gone", missing, set()
        else:
            before, after = before_around, after_around
    elif not after - before or before == {"null"}:
        return None
    types = tuple(sorted(before)), tuple(sorted(after))
    return Drift(kind, field.segments, *types, field.required, field.readers, place)


def has_path(event: EventData, path: FieldPath) -> bool:
    """Return whether *event* has a value at *path*; an empty list counts as a value for the paths of its items."""
    return _collect_types(event, path)[1] is None


def _collect_types(event: EventData, place: FieldPath) -> tuple[set[str], FieldPath | None]:
    """Return the types at *place*, with the items of a list taken together, and the first prefix that is missing in some value."""
    values: list[Any] = [dict(event)]
    missing: FieldPath | None = None
    for depth, key in enumerate(place, start=1):
        below: list[Any] = []
        for value in values:
            if key == LIST_ITEM and isinstance(value, list):
                below += value
            elif isinstance(key, str) and isinstance(value, dict) and key in value:
                below.append(value[key])
            else:
                missing = missing or place[:depth]
        values = below
    # steps do not distinguish integers from numbers
    return {"number" if (name := get_type_name(value)) == "integer" else name for value in values}, missing


class EventComparison(JsonStruct, frozen=True):
    """
    The result for one event.

    Attributes:
        name: The name of the event.
        violations: The violations of the contract.
        drifts: The differences from earlier events.
        earlier_count: The number of earlier events that were compared.
    """

    name: str
    violations: tuple[ContractViolation, ...] = ()
    drifts: tuple[Drift, ...] = ()
    earlier_count: int = 0

    @property
    def is_compatible(self) -> bool:
        """Whether there are no violations and no drifts."""
        return not self.violations and not self.drifts

    def json_form(self) -> object:
        """`{"event", "findings", "drift", "earlier"}`."""
        return {
            "event": self.name,
            "findings": [violation.json_form() for violation in self.violations],
            "drift": [drift.json_form() for drift in self.drifts],
            "earlier": self.earlier_count,
        }


def compare_event(
    contract: Contract, name: str, event: EventData, earlier_events: Mapping[str, EventData]
) -> EventComparison:
    """
    Compare *event* with *contract* and with earlier events.

    Args:
        contract: The contract of the workflow.
        name: The name of the event; an earlier event of this name is ignored.
        event: The data of the event.
        earlier_events: The data of earlier events by name. Equal events are ignored, and so are events of another kind,
            which have less than half of the required fields.
    """
    required = [field.segments for field in contract.required_fields]
    others = (data for other, data in earlier_events.items() if other != name and dict(data) != dict(event))
    before = [data for data in others if 2 * sum(has_path(data, place) for place in required) >= len(required)]
    return EventComparison(name, check_event(contract, event), detect_drift(contract, before, event), len(before))


JSON_SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def build_example_event(
    contract: Contract,
    saved_events: Sequence[Mapping[str, JSON]] = (),
    *,
    is_http: bool = True,
    only_required: bool = False,
) -> dict[str, JSON]:
    """
    Build an event with every required field.

    Args:
        contract: The contract of the workflow.
        saved_events: Masked data of saved events. Values come from the first event without violations. Optional fields
            come from saved events only.
        is_http: Whether the event is an HTTP request.
        only_required: True leaves out the optional fields.
    """
    sources: list[Any] = sorted(map(dict, saved_events), key=lambda event: len(check_event(contract, event)))
    contract = _required_of(contract) if only_required else contract
    made = _object(contract, (), sources)
    if isinstance(headers := made.get("headers"), dict) and "content-type" not in headers and is_http:
        made["headers"] = {"content-type": "application/json", **headers}
    return {**_request(contract, sources[0] if sources else {}), **made} if is_http else made


def _request(contract: Contract, saved: Mapping[str, Any]) -> dict[str, JSON]:
    """Return the method, path, query and headers of a request, from *saved* and the fields that steps read."""
    base: dict[str, JSON] = {key: saved.get(key, value) for key, value in JSON_POST.items()}
    headers = base["headers"] if isinstance(base["headers"], dict) else {}
    # of the other headers only the content type matters
    kept = {name: value for name, value in headers.items() if name.lower() == "content-type"}
    for key, written in (("query", {}), ("headers", kept)):
        base[key] = {**written, **_object(contract, (key,), [saved[key]] if key in saved else [])}
    return base


def build_example_body(
    contract: Contract, saved_events: Sequence[Mapping[str, JSON]] = (), *, only_required: bool = False
) -> JSON:
    """Build the body of the example event."""
    return build_example_event(contract, saved_events, only_required=only_required).get("body")


def _required_of(contract: Contract) -> Contract:
    """Return *contract* with its required fields only."""
    fields = [field.segments for field in contract.required_fields]
    kept = {place[:length] for place in fields for length in range(1, len(place) + 1)}
    kept |= {place for place, expected in contract.expectations.items() if expected.is_required and len(place) == 1}
    return replace(
        contract, expectations={place: contract.expectations[place] for place in contract.expectations if place in kept}
    )


def _object(contract: Contract, place: FieldPath, sources: list[Any]) -> dict[str, JSON]:
    made: dict[str, JSON] = {}
    for child in contract.child_paths.get(place, ()):
        key = child[-1]
        if not isinstance(key, str):
            continue
        having = [source[key] for source in sources if isinstance(source, dict) and key in source]
        if having or contract.expectations[child].is_required:
            made[key] = _value(contract, child, having)
    return made


def _value(contract: Contract, place: FieldPath, sources: list[Any]) -> JSON:
    children = contract.child_paths.get(place, ())
    if not children:
        return sources[0] if sources else _invent_value(place, contract.expectations[place].types)
    if any(child[-1] == LIST_ITEM for child in children):
        items = [item for source in sources if isinstance(source, list) for item in source]
        return [_value(contract, (*place, LIST_ITEM), items)]
    if sources and not any(isinstance(source, dict) for source in sources):
        return sources[0] if "object" not in contract.expectations[place].types else _object(contract, place, [])
    return _object(contract, place, sources)


def _invent_value(place: FieldPath, types: tuple[str, ...]) -> JSON:
    kind = types[0] if types else "object" if place in EVENT_CONTAINERS else "string"
    made: dict[str, JSON] = {"number": 1, "numeric": 1, "boolean": True, "array": [], "object": {}}
    if kind in made:
        return made[kind]
    key = next((str(segment) for segment in reversed(place) if segment != LIST_ITEM), "value")
    if "email" in key.lower():
        return "ada@example.com"
    return "https://example.com" if key.lower().endswith(("url", "uri", "link")) else key


def build_contract_schema(contract: Contract) -> dict[str, Any]:
    """Return the JSON Schema of events that satisfy *contract*."""
    return {"$schema": JSON_SCHEMA_DIALECT, **_schema(contract, (), ("object",))}


def _schema(contract: Contract, place: FieldPath, types: tuple[str, ...]) -> dict[str, Any]:
    names = [name for each in types for name in (("number", "string") if each == "numeric" else (each,))]
    made: dict[str, Any] = {"type": names[0] if len(names) == 1 else names} if names else {}
    for child in contract.child_paths.get(place, ()):
        expected, key = contract.expectations[child], str(child[-1])
        below = _schema(contract, child, expected.types)
        if child[-1] == LIST_ITEM:
            made |= {"items": below, "minItems": 1} if expected.is_required else {"items": below}
            continue
        made.setdefault("properties", {})[key] = below
        if expected.is_required:
            made.setdefault("required", []).append(key)
    return made

"""
The comparison of an event with a contract and with earlier events.

Drift is a field that steps read and that is gone, or has another type than in earlier events. Fields that no step reads
are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pdkernel.common.encode import JsonStruct
from pdkernel.language.analysis.abstract_values import LIST_ITEM, FieldPath
from pdkernel.language.analysis.contract import Contract, Field, format_path
from pdkernel.language.analysis.contract_check import ContractViolation, check_event
from pdkernel.language.analysis.step_reads import FieldReader
from pdkernel.language.shape.inference import get_type_name
from pdkernel.model import JSON

EventData = Mapping[str, JSON]


class Drift(JsonStruct, frozen=True):
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

    kind: Literal["gone", "type"]
    segments: FieldPath
    types_before: tuple[str, ...]
    types_after: tuple[str, ...]
    required: bool
    readers: tuple[FieldReader, ...]
    changed_segments: FieldPath

    @property
    def path(self) -> str:
        """The path as text: `body.labels[].name`."""
        return format_path(self.segments)

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


@dataclass(frozen=True, slots=True)
class _PathTypes:
    """The types at a path, and the first prefix of the path that is missing in some value."""

    types: frozenset[str]
    missing: FieldPath | None = None


def detect_drift(contract: Contract, earlier_events: Sequence[EventData], new_event: EventData) -> tuple[Drift, ...]:
    """
    Compare the fields of *contract* in *new_event* with those in *earlier_events*.

    Args:
        contract: The contract of the workflow.
        earlier_events: The data of earlier events, at least one. Differences among them are not drift.
        new_event: The data of the new event.
    """
    found: list[Drift] = []
    for field in contract.fields:
        earlier = [_collect_types(event, field.segments) for event in earlier_events]
        now = _collect_types(new_event, field.segments)
        types = frozenset[str]().union(*(seen.types for seen in earlier))
        if not types:
            continue
        if now.missing is not None and all(seen.missing is None for seen in earlier):
            found.append(_build_missing_drift(field, now.missing, types, earlier_events, new_event))
        elif now.types - types and types != {"null"}:
            types_now = tuple(sorted(now.types))
            found.append(
                Drift(
                    "type",
                    field.segments,
                    tuple(sorted(types)),
                    types_now,
                    field.required,
                    field.readers,
                    field.segments,
                )
            )
    return tuple(found)


def _build_missing_drift(
    field: Field, missing: FieldPath, types: frozenset[str], before: Sequence[EventData], after: EventData
) -> Drift:
    """The drift of a missing field: the field is gone, or its container has another type."""
    around = missing[:-1]
    held = frozenset().union(*(_collect_types(event, around).types for event in before))
    holds = _collect_types(after, around).types
    if around and not holds & held:
        return Drift(
            "type", field.segments, tuple(sorted(held)), tuple(sorted(holds)), field.required, field.readers, around
        )
    return Drift("gone", field.segments, tuple(sorted(types)), (), field.required, field.readers, missing)


def has_path(event: EventData, path: FieldPath) -> bool:
    """Whether *event* has a value at *path*; an empty list counts as a value for the paths of its items."""
    return _collect_types(event, path).missing is None


def _collect_types(event: EventData, place: FieldPath) -> _PathTypes:
    """The types at *place* in *event*, with the items of a list taken together."""
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
    return _PathTypes(
        frozenset("number" if get_type_name(value) == "integer" else get_type_name(value) for value in values), missing
    )


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
    before = [
        data
        for other, data in earlier_events.items()
        if other != name and dict(data) != dict(event) and _is_same_kind(contract, data)
    ]
    return EventComparison(name, check_event(contract, event), detect_drift(contract, before, event), len(before))


def _is_same_kind(contract: Contract, event: EventData) -> bool:
    required = [field.segments for field in contract.required_fields]
    return 2 * sum(has_path(event, place) for place in required) >= len(required)

"""
Drift: what steps read of an event has another type than before, or is gone.

Pure. Knows JSON. Says nothing of fields that no step reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pdkernel.analysis.abstract_values import LIST_ITEM, FieldPath
from pdkernel.analysis.contract import Contract, Field, FieldReader, format_path
from pdkernel.model import JSON
from pdkernel.shape.inference import get_type_name

EventData = Mapping[str, JSON]


@dataclass(frozen=True, slots=True)
class Drift:
    """
    A field that steps read and that is not as it was.

    Attributes:
        kind: `gone`: it was in every earlier event. `type`: it never had that type.
        segments: Below the event.
        types_before: Types that stood at *changed_segments*.
        types_after: Types that stand there; empty where it is gone.
        required: Whether a step fails without it.
        readers: Who reads it.
        changed_segments: Where the event differs: the place itself, or what is gone, or of another type, around it.
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
        """`body.labels[].name`."""
        return format_path(self.segments)

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "kind": self.kind,
            "path": self.path,
            "at": format_path(self.changed_segments),
            "before": list(self.types_before),
            "after": list(self.types_after),
            "required": self.required,
            "readers": [reader.to_json() for reader in self.readers],
        }


@dataclass(frozen=True, slots=True)
class _PathTypes:
    """The types at a place, and the first place on the way there that is missing somewhere."""

    types: frozenset[str]
    missing: FieldPath | None = None


def detect_drift(contract: Contract, earlier_events: Sequence[EventData], new_event: EventData) -> tuple[Drift, ...]:
    """
    What *contract*'s steps read in *new_event* that is not as in *earlier_events*.

    Args:
        contract: What steps read.
        earlier_events: Earlier events' data, at least one; of several, what differs among them is not drift.
        new_event: The new event's data.
    """
    found: list[Drift] = []
    for field in contract.fields:
        earlier = [_collect_types(event, field.segments) for event in earlier_events]
        now = _collect_types(new_event, field.segments)
        types = frozenset().union(*(seen.types for seen in earlier)) if earlier else frozenset()
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
    """The drift of a field that is not there: it is gone, or what held it is something else now."""
    around = missing[:-1]
    held = frozenset().union(*(_collect_types(event, around).types for event in before))
    holds = _collect_types(after, around).types
    if around and not holds & held:
        return Drift(
            "type", field.segments, tuple(sorted(held)), tuple(sorted(holds)), field.required, field.readers, around
        )
    return Drift("gone", field.segments, tuple(sorted(types)), (), field.required, field.readers, missing)


def has_path(event: EventData, path: FieldPath) -> bool:
    """Whether *event* has something at *path*; of a list that is empty, that it is there."""
    return _collect_types(event, path).missing is None


def _collect_types(event: EventData, place: FieldPath) -> _PathTypes:
    """What stands at *place* in *event*; the items of a list together."""
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
    # a whole number is a number to every step
    return _PathTypes(
        frozenset("number" if get_type_name(value) == "integer" else get_type_name(value) for value in values), missing
    )

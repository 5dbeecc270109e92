"""
Drift: what steps read of an event has another type than before, or is gone.

Pure. Knows JSON. Says nothing of fields that no step reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pdkernel.contract.values import ITEM, Place
from pdkernel.contract.words import Contract, Field, Reader, path_of
from pdkernel.model import JSON
from pdkernel.shape.tree import type_name

EventData = Mapping[str, JSON]


@dataclass(frozen=True, slots=True)
class Drift:
    """
    A field that steps read and that is not as it was.

    Attributes:
        kind: `gone`: it was in every earlier event. `type`: it never had that type.
        place: Below the event.
        before: Types that stood at *at*.
        after: Types that stand there; empty where it is gone.
        required: Whether a step fails without it.
        readers: Who reads it.
        at: Where the event differs: the place itself, or what is gone, or of another type, around it.
    """

    kind: Literal["gone", "type"]
    place: Place
    before: tuple[str, ...]
    after: tuple[str, ...]
    required: bool
    readers: tuple[Reader, ...]
    at: Place

    @property
    def path(self) -> str:
        """`body.labels[].name`."""
        return path_of(self.place)

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "kind": self.kind,
            "path": self.path,
            "at": path_of(self.at),
            "before": list(self.before),
            "after": list(self.after),
            "required": self.required,
            "readers": [reader.to_json() for reader in self.readers],
        }


@dataclass(frozen=True, slots=True)
class _Seen:
    """The types at a place, and the first place on the way there that is missing somewhere."""

    types: frozenset[str]
    missing: Place | None = None


def drift(contract: Contract, before: Sequence[EventData], after: EventData) -> tuple[Drift, ...]:
    """
    What *contract*'s steps read in *after* that is not as in *before*.

    Args:
        contract: What steps read.
        before: Earlier events' data, at least one; of several, what differs among them is not drift.
        after: The new event's data.
    """
    found: list[Drift] = []
    for field in contract.fields:
        earlier = [_look(event, field.place) for event in before]
        now = _look(after, field.place)
        types = frozenset().union(*(seen.types for seen in earlier)) if earlier else frozenset()
        if not types:
            continue
        if now.missing is not None and all(seen.missing is None for seen in earlier):
            found.append(_gone(field, now.missing, types, before, after))
        elif now.types - types and types != {"null"}:
            types_now = tuple(sorted(now.types))
            found.append(
                Drift("type", field.place, tuple(sorted(types)), types_now, field.required, field.readers, field.place)
            )
    return tuple(found)


def _gone(field: Field, missing: Place, types: frozenset[str], before: Sequence[EventData], after: EventData) -> Drift:
    """The drift of a field that is not there: it is gone, or what held it is something else now."""
    around = missing[:-1]
    held = frozenset().union(*(_look(event, around).types for event in before))
    holds = _look(after, around).types
    if around and not holds & held:
        return Drift(
            "type", field.place, tuple(sorted(held)), tuple(sorted(holds)), field.required, field.readers, around
        )
    return Drift("gone", field.place, tuple(sorted(types)), (), field.required, field.readers, missing)


def has(event: EventData, place: Place) -> bool:
    """Whether *event* has something at *place*; of a list that is empty, that it is there."""
    return _look(event, place).missing is None


def _look(event: EventData, place: Place) -> _Seen:
    """What stands at *place* in *event*; the items of a list together."""
    values: list[Any] = [dict(event)]
    missing: Place | None = None
    for depth, key in enumerate(place, start=1):
        below: list[Any] = []
        for value in values:
            if key == ITEM and isinstance(value, list):
                below += value
            elif isinstance(key, str) and isinstance(value, dict) and key in value:
                below.append(value[key])
            else:
                missing = missing or place[:depth]
        values = below
    # a whole number is a number to every step
    return _Seen(
        frozenset("number" if type_name(value) == "integer" else type_name(value) for value in values), missing
    )

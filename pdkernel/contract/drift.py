"""
Drift: what steps read of an event has another type than before, or is gone.

Pure. Knows JSON. Says nothing of fields that no step reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pdkernel.contract.values import ITEM, Place
from pdkernel.contract.words import Contract, Reader, path_of
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
        before: Types that it had.
        after: Types that it has; empty where it is gone.
        required: Whether a step fails without it.
        readers: Who reads it.
    """

    kind: Literal["gone", "type"]
    place: Place
    before: tuple[str, ...]
    after: tuple[str, ...]
    required: bool
    readers: tuple[Reader, ...]

    @property
    def path(self) -> str:
        """`body.labels[].name`."""
        return path_of(self.place)

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "kind": self.kind,
            "path": self.path,
            "before": list(self.before),
            "after": list(self.after),
            "required": self.required,
            "readers": [reader.to_json() for reader in self.readers],
        }


@dataclass(frozen=True, slots=True)
class _Seen:
    types: frozenset[str]
    lacks: bool


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
        kind: Literal["gone", "type"]
        if now.lacks and not any(seen.lacks for seen in earlier):
            kind = "gone"
        elif now.types - types and types != {"null"}:
            kind = "type"
        else:
            continue
        after_types = tuple(sorted(now.types)) if kind == "type" else ()
        found.append(Drift(kind, field.place, tuple(sorted(types)), after_types, field.required, field.readers))
    return tuple(found)


def _look(event: EventData, place: Place) -> _Seen:
    """The types at *place*, and whether it is missing somewhere that could have it."""
    values: list[Any] = [dict(event)]
    lacks = False
    for key in place:
        below: list[Any] = []
        for value in values:
            if key == ITEM and isinstance(value, list):
                below += value
            elif isinstance(key, str) and isinstance(value, dict) and key in value:
                below.append(value[key])
            else:
                lacks = True
        values = below
    # a whole number is a number to every step
    return _Seen(frozenset("number" if type_name(value) == "integer" else type_name(value) for value in values), lacks)

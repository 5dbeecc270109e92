"""
A contract and an event: what is missing, what is of another type.

Knows JSON. Says nothing of fields that no step reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pdkernel.contract.values import ITEM, Place
from pdkernel.contract.words import Contract, Reader, path_of
from pdkernel.model import JSON
from pdkernel.shape.tree import type_name


@dataclass(frozen=True, slots=True)
class Finding:
    """
    What is wrong with an event.

    Attributes:
        kind: `missing`, or `type`: something else stands there than the steps take it for.
        place: Below the event.
        expected: Types that the steps take it for.
        found: The type that stands there; empty where nothing does.
        readers: Who reads it, or what is in it.
    """

    kind: Literal["missing", "type"]
    place: Place
    expected: tuple[str, ...]
    found: str
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
            "expected": list(self.expected),
            "found": self.found or None,
            "readers": [reader.to_json() for reader in self.readers],
        }


def check(contract: Contract, event: Mapping[str, JSON]) -> tuple[Finding, ...]:
    """What in *event*, an event's data, the steps will not find; each place once."""
    found: dict[tuple[str, Place], Finding] = {}
    for finding in _below(contract, (), dict(event)):
        found.setdefault((finding.kind, finding.place), finding)
    return tuple(found.values())


def _below(contract: Contract, place: Place, value: JSON) -> Iterator[Finding]:
    for child in contract.children.get(place, ()):
        expected = contract.places[child]
        key = child[-1]
        if key == ITEM and isinstance(value, list):
            for item in value:
                yield from _at(contract, child, item)
            if not value and expected.needed:
                yield _finding(contract, "missing", child, "")
        elif isinstance(key, str) and isinstance(value, dict):
            if key in value:
                yield from _at(contract, child, value[key])
            elif expected.needed:
                yield _finding(contract, "missing", child, "")


def _at(contract: Contract, place: Place, value: JSON) -> Iterator[Finding]:
    expected = contract.places[place]
    if value is None:
        if expected.needed and expected.types and place[-1] != ITEM:
            yield _finding(contract, "type", place, "null")
        return
    if expected.types and not any(fits(value, name) for name in expected.types):
        yield _finding(contract, "type", place, type_name(value))
        return
    yield from _below(contract, place, value)


def fits(value: JSON, name: str) -> bool:
    """Whether *value* is what steps take it for."""
    kind = type_name(value)
    if name == "numeric":
        return kind in {"integer", "number"} or (isinstance(value, str) and _is_numeric(value))
    return kind == name or (name == "number" and kind == "integer")


def _is_numeric(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _finding(contract: Contract, kind: Literal["missing", "type"], place: Place, found: str) -> Finding:
    return Finding(kind, place, contract.places[place].types, found, contract.readers_below(place))

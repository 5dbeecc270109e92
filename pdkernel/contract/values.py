"""
What a name in a step's code may stand for, as far as the event is concerned.

A value is a tuple of what it may be: a place in `steps`, a literal, an object or a list that the code writes, a
function. The empty tuple is anything else. Knows no language.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from pdkernel.shape import Segment

Place: TypeAlias = tuple[Segment, ...]
"""Below `steps`; the items of a list share the segment 0, as in a shape."""

ITEM = 0
EVENT: Place = ("trigger", "event")

State = Literal["plain", "soft", "default", "maybe"]


@dataclass(frozen=True, slots=True)
class At:
    """
    What stands at a place.

    Attributes:
        place: The place.
        state: `plain`: the code counts on it. `soft`: it may be nothing, and getting it did not fail. `default`: in
            its place stands something else if it is nothing. `maybe`: the value may come from elsewhere.
    """

    place: Place
    state: State = "plain"


@dataclass(frozen=True, slots=True)
class Literally:
    """A text or a whole number that the code writes."""

    value: str | int


@dataclass(frozen=True, slots=True, eq=False)
class Object:
    """An object that the code writes, with keys that are not known under marks; *bases* are spread into it."""

    items: Mapping[Any, Value] = field(default_factory=dict)
    bases: Value = ()


@dataclass(frozen=True, slots=True, eq=False)
class Several:
    """A list that the code writes or makes: each item is one of these."""

    of: Value = ()


@dataclass(frozen=True, slots=True, eq=False)
class Text:
    """JSON text of a value."""

    of: Value


@dataclass(frozen=True, slots=True)
class Shaped:
    """A value that was read into a type that the code declares; *kind* is the type's syntax."""

    of: Value
    kind: Any


@dataclass(frozen=True, slots=True, eq=False)
class Routine:
    """A function of the step's own: its syntax and the scope it was written in."""

    node: Any
    scope: Scope
    name: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """Something of the platform's: `pd`, `$`, `this`."""

    name: str


Atom: TypeAlias = "At | Literally | Object | Several | Text | Shaped | Routine | Known"
Value: TypeAlias = "tuple[Atom, ...]"
NOTHING: Value = ()


class Scope:
    """Names and what they stand for; what is not here is looked up outside."""

    __slots__ = ("names", "outer")

    def __init__(self, outer: Scope | None = None) -> None:
        self.names: dict[str, Value] = {}
        self.outer = outer

    def find(self, name: str) -> Value | None:
        """What *name* stands for; None if it is nobody's."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.outer
        return None

    def owner(self, name: str) -> Scope | None:
        """The scope that has *name*."""
        scope: Scope | None = self
        while scope is not None and name not in scope.names:
            scope = scope.outer
        return scope


def either(*values: Value) -> Value:
    """What is one of *values*."""
    return tuple(dict.fromkeys(atom for value in values for atom in value))

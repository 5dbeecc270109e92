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

FieldPath: TypeAlias = tuple[Segment, ...]
"""Below `steps`; the items of a list share the segment 0, as in a shape."""

LIST_ITEM = 0
EVENT_PATH: FieldPath = ("trigger", "event")

Presence = Literal["plain", "soft", "default", "maybe"]


@dataclass(frozen=True, slots=True)
class PathValue:
    """
    What stands at a place.

    Attributes:
        path: The place.
        presence: `plain`: the code counts on it. `soft`: it may be nothing, and getting it did not fail. `default`: in
            its place stands something else if it is nothing. `maybe`: the value may come from elsewhere.
    """

    path: FieldPath
    presence: Presence = "plain"


@dataclass(frozen=True, slots=True)
class LiteralValue:
    """A text or a whole number that the code writes."""

    value: str | int


@dataclass(frozen=True, slots=True, eq=False)
class ObjectValue:
    """An object that the code writes, with keys that are not known under marks; *spread* are spread into it."""

    items: Mapping[Any, ValueSet] = field(default_factory=dict)
    spread: ValueSet = ()


@dataclass(frozen=True, slots=True, eq=False)
class ListValue:
    """A list that the code writes or makes: each item is one of these."""

    item: ValueSet = ()


@dataclass(frozen=True, slots=True, eq=False)
class JsonTextValue:
    """JSON text of a value."""

    parsed: ValueSet


@dataclass(frozen=True, slots=True)
class Shaped:
    """A value that was read into a type that the code declares; *kind* is the type's syntax."""

    of: ValueSet
    kind: Any


@dataclass(frozen=True, slots=True, eq=False)
class FunctionValue:
    """A function of the step's own: its syntax and the scope it was written in."""

    node: Any
    scope: Scope
    name: str = ""


@dataclass(frozen=True, slots=True)
class PlatformValue:
    """Something of the platform's: `pd`, `$`, `this`."""

    name: str


AbstractValue: TypeAlias = (
    "PathValue | LiteralValue | ObjectValue | ListValue | JsonTextValue | Shaped | FunctionValue | PlatformValue"
)
ValueSet: TypeAlias = "tuple[AbstractValue, ...]"
UNTRACKED: ValueSet = ()


class Scope:
    """Names and what they stand for; what is not here is looked up outside."""

    __slots__ = ("names", "parent")

    def __init__(self, outer: Scope | None = None) -> None:
        self.names: dict[str, ValueSet] = {}
        self.parent = outer

    def find(self, name: str) -> ValueSet | None:
        """What *name* stands for; None if it is nobody's."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.parent
        return None

    def find_scope(self, name: str) -> Scope | None:
        """The scope that has *name*."""
        scope: Scope | None = self
        while scope is not None and name not in scope.names:
            scope = scope.parent
        return scope


def union(*values: ValueSet) -> ValueSet:
    """What is one of *values*."""
    return tuple(dict.fromkeys(atom for value in values for atom in value))

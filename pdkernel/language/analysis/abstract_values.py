"""
The abstract values that a trace follows through the code of a step.

A value set is a tuple of the possible values of a name: a path below `steps`, a literal, an object or a list of the code, or a
function. The empty tuple is any other value.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar

from pdkernel.language.analysis.code_tree import Function
from pdkernel.language.shape import Segment

FieldPath: TypeAlias = tuple[Segment, ...]
"""A path below `steps`; the items of a list share the segment 0, as in a shape."""

LIST_ITEM = 0

Presence = Literal["plain", "optional", "default", "maybe"]


@dataclass(frozen=True, slots=True)
class PathValue:
    """
    The value at a path of the event.

    Attributes:
        path: The path.
        presence: `plain`: the code requires the value. `optional`: the value may be missing, and the lookup did not fail.
            `default`: a default replaces a missing value. `maybe`: the value may come from another expression.
    """

    path: FieldPath
    presence: Presence = "plain"


@dataclass(frozen=True, slots=True)
class LiteralValue:
    """A text or an integer of the code."""

    value: str | int


@dataclass(frozen=True, slots=True, eq=False)
class ObjectValue:
    """An object literal of the code. Computed keys get generated names; *spread* are the values that are spread into it."""

    items: dict[Any, ValueSet] = field(default_factory=dict)
    spread: ValueSet = ()


@dataclass(frozen=True, slots=True, eq=False)
class ListValue:
    """A list that the code builds; each item is one of *items*."""

    item: ValueSet = ()


@dataclass(frozen=True, slots=True, eq=False)
class JsonTextValue:
    """JSON text of a value."""

    parsed: ValueSet


@dataclass(frozen=True, slots=True, eq=False)
class FunctionValue:
    """A function of the step and its enclosing scope."""

    node: Function
    scope: Scope


@dataclass(frozen=True, slots=True)
class PlatformValue:
    """An object of the platform (`pd`, `$`, `this`), or `index`: the index of a counting loop."""

    name: str


AbstractValue: TypeAlias = (
    "PathValue | LiteralValue | ObjectValue | ListValue | JsonTextValue | FunctionValue | PlatformValue"
)
ValueSet: TypeAlias = "tuple[AbstractValue, ...]"
UNTRACKED: ValueSet = ()
_Kind = TypeVar("_Kind")


class Scope:
    """The names of a scope and their values, with a link to the enclosing scope."""

    __slots__ = ("names", "parent")

    def __init__(self, outer: Scope | None = None) -> None:
        self.names: dict[str, ValueSet] = {}
        self.parent = outer

    def find(self, name: str) -> ValueSet | None:
        """Return the value set of *name* in this or an enclosing scope; None if the name is not bound."""
        scope = self.find_scope(name)
        return None if scope is None else scope.names[name]

    def find_scope(self, name: str) -> Scope | None:
        """Return the nearest scope that binds *name*, or None."""
        scope: Scope | None = self
        while scope is not None and name not in scope.names:
            scope = scope.parent
        return scope


def select(value: ValueSet, kind: type[_Kind]) -> tuple[_Kind, ...]:
    """Return the values in *value* of the class *kind*."""
    return tuple(atom for atom in value if isinstance(atom, kind))


def exclude(value: ValueSet, *kinds: type) -> ValueSet:
    """Return *value* without the values of the classes *kinds*."""
    return tuple(atom for atom in value if not isinstance(atom, kinds))


def with_presence(value: ValueSet, presence: Presence) -> ValueSet:
    """Return *value* with another presence of its paths."""
    return tuple(PathValue(atom.path, presence) if isinstance(atom, PathValue) else atom for atom in value)


def get_paths(value: ValueSet) -> frozenset[FieldPath]:
    """Return the paths in *value*."""
    return frozenset(atom.path for atom in select(value, PathValue))


def union(*values: ValueSet) -> ValueSet:
    """Return the union of *values*."""
    return tuple(dict.fromkeys(atom for value in values for atom in value))

"""
Lookups of keys in values of the event, and the record of these accesses.

Languages differ in whether a missing key fails at once. The uses of a value are in `trace`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from pdkernel.analysis.abstract_values import (
    EVENT_PATH,
    LIST_ITEM,
    UNTRACKED,
    FieldPath,
    ListValue,
    LiteralValue,
    ObjectValue,
    PathValue,
    Presence,
    ValueSet,
    exclude,
    select,
    union,
)
from pdkernel.shape import Segment

AccessKind = Literal[
    "requires", "tolerates", "reads", "uses", "passes_on", "escapes", "dynamic", "mixed_type", "type", "checks"
]
"""
How code accesses a path. It fails without the value (`requires`) or does not (`tolerates`), reads it (`reads`), checks
its presence (`checks`), uses its value (`uses`), passes it on unchanged (`passes_on`), passes it to code that is not
followed (`escapes`), reads computed keys (`dynamic`), accepts several types (`mixed_type`), or expects a type (`type`).
"""

EVENT_CONTAINERS = frozenset({(), ("body",), ("headers",), ("query",)})
"""Paths below the event that are always objects on the platform."""

ConditionPaths: TypeAlias = tuple[frozenset[FieldPath], frozenset[FieldPath]]
"""The paths that are present if a condition is true, and those that are present if it is false."""
NO_PATHS: frozenset[FieldPath] = frozenset()

KnownExports = Mapping[tuple[str, str], ValueSet]


@dataclass(frozen=True, slots=True)
class PathAccess:
    """One access to a path below the event; *line* counts from 1."""

    kind: AccessKind
    path: FieldPath
    line: int
    types: tuple[str, ...] = ()


class AccessTracker(ABC):
    """
    The state of a trace: the paths that are known to be present, and the accesses so far.

    Args:
        exports_above: The known exports of earlier steps.

    Attributes:
        accesses: The accesses to the event.
        paths: All paths below `steps` that are accessed.
    """

    fails_on_missing_key: ClassVar[bool] = False
    """Whether the lookup of a missing key fails at once (Python) or only the use of its value (JavaScript)."""

    def __init__(self, exports_above: KnownExports | None = None) -> None:
        self.accesses: list[PathAccess] = []
        self.paths: set[FieldPath] = set()
        self.line = 1
        self.mixed_type_paths: set[FieldPath] = set()
        self._exports_above = exports_above or {}
        self._present: frozenset[FieldPath] = frozenset()
        self._caught_depth = 0
        self._branches: list[set[FieldPath]] = []

    @abstractmethod
    def add_use(self, value: ValueSet, kind: AccessKind = "uses") -> None:
        """Record a use of *value* of *kind*."""

    # ── accesses ──────────────────────────────────────────────────────────────────────

    def add_access(self, kind: AccessKind, path: FieldPath, types: tuple[str, ...] = ()) -> None:
        """Record an access to *path* below `steps`."""
        self.paths.add(path)
        if kind == "mixed_type":
            self.mixed_type_paths.add(path)
        if path[:2] == EVENT_PATH:
            self.accesses.append(PathAccess(kind, path[2:], self.line, types))
        elif path in ((), EVENT_PATH[:1]) and kind in {"passes_on", "escapes", "dynamic"}:
            self.accesses.append(PathAccess(kind, (), self.line))

    def require_path(self, path: FieldPath, *, is_indexed: bool = False) -> None:
        """
        Record that the code fails if *path* is missing, unless the code has checked the path before.

        A list may be empty, unless the code looks up an item by its index (*is_indexed*).
        """
        if (
            (path[-1:] == (LIST_ITEM,) and not is_indexed)
            or self._caught_depth
            or any(known[: len(path)] == path for known in self._present)
        ):
            self.add_access("tolerates", path)
        elif self._branches:
            self._branches[-1].add(path)
            self.add_access("tolerates", path)
        else:
            self.add_access("requires", path)

    def expect_type(self, value: ValueSet, *types: str) -> ValueSet:
        """Record that the code expects one of *types*; return *value*."""
        for atom in value:
            if isinstance(atom, PathValue):
                self.add_access("type", atom.path, types)
        return value

    # ── lookups ─────────────────────────────────────────────────────────────────

    def get_member(
        self, value: ValueSet, key: Segment, *, is_optional: bool = False, default: bool = False, chained: bool = False
    ) -> ValueSet:
        """
        The value of *key* in *value*.

        Args:
            value: An object or a list.
            key: A key, or `LIST_ITEM`.
            is_optional: The lookup of a missing key does not fail, and the code continues without the value.
            default: A default replaces a missing value.
            chained: If *value* is null or undefined, so is the result (`?.`).
        """
        found: list[ValueSet] = []
        for atom in value:
            if isinstance(atom, PathValue):
                found.append(self._get_path_member(atom, key, soft=is_optional, default=default, chained=chained))
            elif isinstance(atom, ObjectValue):
                inner = atom.items.get(key)
                found.append(
                    self.get_member(atom.spread, key, is_optional=is_optional, default=default)
                    if inner is None
                    else inner
                )
            elif isinstance(atom, ListValue) and isinstance(key, int):
                found.append(atom.item)
        return union(*found)

    def _get_path_member(self, at: PathValue, key: Segment, *, soft: bool, default: bool, chained: bool) -> ValueSet:
        place = (*at.path, key)
        if len(place) == 2 and place[0] != EVENT_PATH[0]:
            return self._exports_above.get((str(place[0]), str(key)), UNTRACKED)
        self._require_container(at, chained=chained)
        if soft or at.presence == "maybe":
            self.add_access("tolerates", place)
        elif self.fails_on_missing_key:
            if at.presence == "default":
                self.require_path(at.path)
            self.require_path(place, is_indexed=True)
        elif at.presence == "plain" and not chained and key == LIST_ITEM:
            self.require_path(place, is_indexed=True)
        elif self._branches or self._caught_depth:
            self.add_access("tolerates", place)
        self.add_access("reads", place)
        lax = soft or chained or (at.presence != "plain" and not self.fails_on_missing_key)
        state: Presence = (
            "maybe" if at.presence == "maybe" else "default" if default else "optional" if lax else "plain"
        )
        return (PathValue(place, state),)

    def _require_container(self, at: PathValue, *, chained: bool) -> None:
        """Record whether the lookup of a key in the value *at* fails if that value is missing."""
        if chained or at.presence == "maybe":
            self.add_access("tolerates", at.path)
        elif at.presence == "optional" or (at.presence == "plain" and not self.fails_on_missing_key):
            self.require_path(at.path)

    def get_dynamic_member(self, value: ValueSet) -> ValueSet:
        """The value of a computed key in *value*."""
        found: list[ValueSet] = []
        for atom in value:
            if isinstance(atom, PathValue):
                self.add_access("dynamic", atom.path)
            elif isinstance(atom, ObjectValue):
                found += [*atom.items.values(), self.get_dynamic_member(atom.spread)]
            elif isinstance(atom, ListValue):
                found.append(atom.item)
        return union(*found)

    def get_members(
        self,
        value: ValueSet,
        keys: ValueSet,
        *,
        is_optional: bool = False,
        default: bool = False,
        chained: bool = False,
    ) -> ValueSet:
        """The values in *value* of the possible *keys*; a key that is not a literal is a computed key."""
        literal = [atom.value for atom in keys if isinstance(atom, LiteralValue)]
        if len(literal) != len(keys) or not keys:
            self.add_use(keys)
            return self.get_dynamic_member(value)
        return union(
            *(
                self.get_member(
                    value,
                    LIST_ITEM if isinstance(key, int) else key,
                    is_optional=is_optional,
                    default=default,
                    chained=chained,
                )
                for key in literal
            )
        )

    def get_position(self, value: ValueSet, index: int) -> ValueSet:
        """The item at *index* in a destructuring of *value*. The index counts for a list literal; another list has any item there."""
        return union(self.get_member(select(value, ObjectValue), index), self.get_item(exclude(value, ObjectValue)))

    def get_item(self, value: ValueSet, *, is_optional: bool = False) -> ValueSet:
        """An item of *value*, which the code uses as a list; with *is_optional* the code continues without an item."""
        found: list[ValueSet] = []
        for atom in value:
            if isinstance(atom, PathValue):
                if atom.path in (EVENT_PATH, (*EVENT_PATH, "headers"), (*EVENT_PATH, "query")):
                    self.add_access("dynamic", atom.path)
                    continue
                self.add_access("type", atom.path, ("array",))
                self._require_container(atom, chained=is_optional)
                place = (*atom.path, LIST_ITEM)
                self.add_access("tolerates", place)
                self.add_access("reads", place)
                found.append((PathValue(place, "maybe" if atom.presence == "maybe" else "plain"),))
            elif isinstance(atom, ListValue):
                found.append(atom.item)
            elif isinstance(atom, ObjectValue):
                found += list(atom.items.values())
        return union(*found)

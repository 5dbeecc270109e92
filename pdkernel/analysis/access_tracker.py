"""
Looking keys up in values that come from the event, and the notes that are taken of it.

Knows when a missing key makes code fail, which differs between languages. What is done with a value is `trace`'s.
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
    union,
)
from pdkernel.shape import Segment

AccessKind = Literal["needs", "copes", "reads", "uses", "whole", "hands", "unknown", "untyped", "type", "looks"]
"""
What code does with a place: it fails without it (`needs`) or does not (`copes`), looks it up (`reads`) or looks
whether it is there (`looks`), uses its value, gives it on as it is (`whole`), hands it to code that is not followed
(`hands`), reads keys that only a run knows (`unknown`), or tells its type.
"""

EVENT_CONTAINERS = frozenset({(), ("body",), ("headers",), ("query",)})
"""Places below the event that are objects for the platform."""

ConditionPaths: TypeAlias = tuple[frozenset[FieldPath], frozenset[FieldPath]]
"""What is there if a test is true, and what if it is false."""
NO_PATHS: frozenset[FieldPath] = frozenset()

KnownExports = Mapping[tuple[str, str], ValueSet]


@dataclass(frozen=True, slots=True)
class PathAccess:
    """One thing that code does with a place, below the event; *line* counts from 1."""

    kind: AccessKind
    path: FieldPath
    line: int
    types: tuple[str, ...] = ()


class AccessTracker(ABC):
    """
    What is known at one point of a walk, and the notes of the way there.

    Args:
        exports_above: What steps above export, where that could be followed.
    """

    fails_on_missing_key: ClassVar[bool] = False
    """Whether looking up a missing key fails at once (Python), and not only when its value is used."""

    def __init__(self, exports_above: KnownExports | None = None) -> None:
        self.accesses: list[PathAccess] = []
        self.line = 1
        self.mixed_type_paths: set[FieldPath] = set()
        self._exports_above = exports_above or {}
        self._present: frozenset[FieldPath] = frozenset()
        self._caught_depth = 0
        self._branches: list[set[FieldPath]] = []

    @abstractmethod
    def add_use(self, value: ValueSet, kind: AccessKind = "uses") -> None:
        """The code uses *value*; *kind* says how."""

    # ── notes ──────────────────────────────────────────────────────────────────────

    def add_access(self, kind: AccessKind, path: FieldPath, types: tuple[str, ...] = ()) -> None:
        """Note something about *path*, a place below `steps`."""
        if kind == "untyped":
            self.mixed_type_paths.add(path)
        if path[:2] == EVENT_PATH:
            self.accesses.append(PathAccess(kind, path[2:], self.line, types))
        elif path in ((), EVENT_PATH[:1]) and kind in {"whole", "hands", "unknown"}:
            self.accesses.append(PathAccess(kind, (), self.line))

    def require_path(self, path: FieldPath, *, is_indexed: bool = False) -> None:
        """
        The code fails where there is nothing at *path*, unless it has looked before.

        A list may be empty unless an item of it is looked up by its *is_indexed*.
        """
        if (
            (path[-1:] == (LIST_ITEM,) and not is_indexed)
            or self._caught_depth
            or any(known[: len(path)] == path for known in self._present)
        ):
            self.add_access("copes", path)
        elif self._branches:
            self._branches[-1].add(path)
            self.add_access("copes", path)
        else:
            self.add_access("needs", path)

    def expect_type(self, value: ValueSet, *types: str) -> ValueSet:
        """*value*, which the code takes for one of *types*."""
        for atom in value:
            if isinstance(atom, PathValue):
                self.add_access("type", atom.path, types)
        return value

    # ── looking up ─────────────────────────────────────────────────────────────────

    def get_member(
        self, value: ValueSet, key: Segment, *, is_optional: bool = False, default: bool = False, chained: bool = False
    ) -> ValueSet:
        """
        What *value* has under *key*.

        Args:
            value: An object or a list.
            key: A key, or `ITEM`.
            is_optional: Looking it up does not fail where it is missing, and the code goes on without it.
            default: Something else stands in its place then.
            chained: Where *value* is nothing, so is the result (`?.`).
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
            self.add_access("copes", place)
        elif self.fails_on_missing_key:
            if at.presence == "default":
                self.require_path(at.path)
            self.require_path(place, is_indexed=True)
        elif at.presence == "plain" and not chained and key == LIST_ITEM:
            self.require_path(place, is_indexed=True)
        elif self._branches or self._caught_depth:
            self.add_access("copes", place)
        self.add_access("reads", place)
        lax = soft or chained or (at.presence != "plain" and not self.fails_on_missing_key)
        state: Presence = "maybe" if at.presence == "maybe" else "default" if default else "soft" if lax else "plain"
        return (PathValue(place, state),)

    def _require_container(self, at: PathValue, *, chained: bool) -> None:
        """A key is looked up in what stands at a place."""
        if chained or at.presence == "maybe":
            self.add_access("copes", at.path)
        elif at.presence == "soft" or (at.presence == "plain" and not self.fails_on_missing_key):
            self.require_path(at.path)

    def get_dynamic_member(self, value: ValueSet) -> ValueSet:
        """A key that only a run knows is looked up in *value*."""
        found: list[ValueSet] = []
        for atom in value:
            if isinstance(atom, PathValue):
                self.add_access("unknown", atom.path)
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
        """What *value* has under a key that is itself a value."""
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

    def get_item(self, value: ValueSet, *, is_optional: bool = False) -> ValueSet:
        """An item of *value*, which the code takes for a list; *is_optional* where it goes on without one."""
        found: list[ValueSet] = []
        for atom in value:
            if isinstance(atom, PathValue):
                if atom.path in (EVENT_PATH, (*EVENT_PATH, "headers"), (*EVENT_PATH, "query")):
                    self.add_access("unknown", atom.path)
                    continue
                self.add_access("type", atom.path, ("array",))
                self._require_container(atom, chained=is_optional)
                place = (*atom.path, LIST_ITEM)
                self.add_access("copes", place)
                self.add_access("reads", place)
                found.append((PathValue(place, "maybe" if atom.presence == "maybe" else "plain"),))
            elif isinstance(atom, ListValue):
                found.append(atom.item)
            elif isinstance(atom, ObjectValue):
                found += list(atom.items.values())
        return union(*found)

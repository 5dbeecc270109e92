"""
Looking keys up in values that come from the event, and the notes that are taken of it.

Knows when a missing key makes code fail, which differs between languages. What is done with a value is `trace`'s.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from pdkernel.contract.values import (
    EVENT,
    ITEM,
    NOTHING,
    At,
    Literally,
    Object,
    Place,
    Several,
    State,
    Value,
    either,
)
from pdkernel.shape import Segment

Kind = Literal["needs", "copes", "reads", "uses", "whole", "hands", "unknown", "untyped", "type", "looks"]
"""
What code does with a place: it fails without it (`needs`) or does not (`copes`), looks it up (`reads`) or looks
whether it is there (`looks`), uses its value, gives it on as it is (`whole`), hands it to code that is not followed
(`hands`), reads keys that only a run knows (`unknown`), or tells its type.
"""

CONTAINERS = frozenset({(), ("body",), ("headers",), ("query",)})
"""Places below the event that are objects for the platform."""

Tested: TypeAlias = tuple[frozenset[Place], frozenset[Place]]
"""What is there if a test is true, and what if it is false."""
NONE: frozenset[Place] = frozenset()

Exports = Mapping[tuple[str, str], Value]


@dataclass(frozen=True, slots=True)
class Note:
    """One thing that code does with a place, below the event; *line* counts from 1."""

    kind: Kind
    place: Place
    line: int
    types: tuple[str, ...] = ()


class Lookups(ABC):
    """
    What is known at one point of a walk, and the notes of the way there.

    Args:
        known: What steps above export, where that could be followed.
    """

    fails_at_once: ClassVar[bool] = False
    """Whether looking up a missing key fails at once (Python), and not only when its value is used."""

    def __init__(self, known: Exports | None = None) -> None:
        self.notes: list[Note] = []
        self.line = 1
        self.untyped: set[Place] = set()
        self._known = known or {}
        self._present: frozenset[Place] = frozenset()
        self._tolerant = 0
        self._branches: list[set[Place]] = []

    @abstractmethod
    def use(self, value: Value, kind: Kind = "uses") -> None:
        """The code uses *value*; *kind* says how."""

    # ── notes ──────────────────────────────────────────────────────────────────────

    def note(self, kind: Kind, place: Place, types: tuple[str, ...] = ()) -> None:
        """Note something about *place*, a place below `steps`."""
        if kind == "untyped":
            self.untyped.add(place)
        if place[:2] == EVENT:
            self.notes.append(Note(kind, place[2:], self.line, types))
        elif place in ((), EVENT[:1]) and kind in {"whole", "hands", "unknown"}:
            self.notes.append(Note(kind, (), self.line))

    def need(self, place: Place, *, index: bool = False) -> None:
        """
        The code fails where there is nothing at *place*, unless it has looked before.

        A list may be empty unless an item of it is looked up by its *index*.
        """
        if (
            (place[-1:] == (ITEM,) and not index)
            or self._tolerant
            or any(known[: len(place)] == place for known in self._present)
        ):
            self.note("copes", place)
        elif self._branches:
            self._branches[-1].add(place)
            self.note("copes", place)
        else:
            self.note("needs", place)

    def typed(self, value: Value, *types: str) -> Value:
        """*value*, which the code takes for one of *types*."""
        for atom in value:
            if isinstance(atom, At):
                self.note("type", atom.place, types)
        return value

    # ── looking up ─────────────────────────────────────────────────────────────────

    def member(
        self, value: Value, key: Segment, *, soft: bool = False, default: bool = False, chained: bool = False
    ) -> Value:
        """
        What *value* has under *key*.

        Args:
            value: An object or a list.
            key: A key, or `ITEM`.
            soft: Looking it up does not fail where it is missing, and the code goes on without it.
            default: Something else stands in its place then.
            chained: Where *value* is nothing, so is the result (`?.`).
        """
        found: list[Value] = []
        for atom in value:
            if isinstance(atom, At):
                found.append(self._below(atom, key, soft=soft, default=default, chained=chained))
            elif isinstance(atom, Object):
                inner = atom.items.get(key)
                found.append(self.member(atom.bases, key, soft=soft, default=default) if inner is None else inner)
            elif isinstance(atom, Several) and isinstance(key, int):
                found.append(atom.of)
        return either(*found)

    def _below(self, at: At, key: Segment, *, soft: bool, default: bool, chained: bool) -> Value:
        place = (*at.place, key)
        if len(place) == 2 and place[0] != EVENT[0]:
            return self._known.get((str(place[0]), str(key)), NOTHING)
        self._stand_on(at, chained=chained)
        if soft or at.state == "maybe":
            self.note("copes", place)
        elif self.fails_at_once:
            if at.state == "default":
                self.need(at.place)
            self.need(place, index=True)
        elif at.state == "plain" and not chained and key == ITEM:
            self.need(place, index=True)
        elif self._branches or self._tolerant:
            self.note("copes", place)
        self.note("reads", place)
        lax = soft or chained or (at.state != "plain" and not self.fails_at_once)
        state: State = "maybe" if at.state == "maybe" else "default" if default else "soft" if lax else "plain"
        return (At(place, state),)

    def _stand_on(self, at: At, *, chained: bool) -> None:
        """A key is looked up in what stands at a place."""
        if chained or at.state == "maybe":
            self.note("copes", at.place)
        elif at.state == "soft" or (at.state == "plain" and not self.fails_at_once):
            self.need(at.place)

    def dynamic(self, value: Value) -> Value:
        """A key that only a run knows is looked up in *value*."""
        found: list[Value] = []
        for atom in value:
            if isinstance(atom, At):
                self.note("unknown", atom.place)
            elif isinstance(atom, Object):
                found += [*atom.items.values(), self.dynamic(atom.bases)]
            elif isinstance(atom, Several):
                found.append(atom.of)
        return either(*found)

    def at_keys(
        self, value: Value, keys: Value, *, soft: bool = False, default: bool = False, chained: bool = False
    ) -> Value:
        """What *value* has under a key that is itself a value."""
        literal = [atom.value for atom in keys if isinstance(atom, Literally)]
        if len(literal) != len(keys) or not keys:
            self.use(keys)
            return self.dynamic(value)
        return either(
            *(
                self.member(value, ITEM if isinstance(key, int) else key, soft=soft, default=default, chained=chained)
                for key in literal
            )
        )

    def iterate(self, value: Value, *, soft: bool = False) -> Value:
        """An item of *value*, which the code takes for a list; *soft* where it goes on without one."""
        found: list[Value] = []
        for atom in value:
            if isinstance(atom, At):
                if atom.place in (EVENT, (*EVENT, "headers"), (*EVENT, "query")):
                    self.note("unknown", atom.place)
                    continue
                self.note("type", atom.place, ("array",))
                self._stand_on(atom, chained=soft)
                place = (*atom.place, ITEM)
                self.note("copes", place)
                self.note("reads", place)
                found.append((At(place, "maybe" if atom.state == "maybe" else "plain"),))
            elif isinstance(atom, Several):
                found.append(atom.of)
            elif isinstance(atom, Object):
                found += list(atom.items.values())
        return either(*found)

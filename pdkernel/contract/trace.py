"""
Following values from the event through a step's code: what is shared by all languages.

Knows what it means to look up a key, to use a value, to test one first. Each language's reader says where that
happens. Guesses nothing: what cannot be followed is noted as such.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

from pdkernel.contract.values import (
    EVENT,
    ITEM,
    NOTHING,
    At,
    Atom,
    Literally,
    Object,
    Place,
    Routine,
    Scope,
    Several,
    Shaped,
    State,
    Text,
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

MAX_CALLS = 400
MAX_DEPTH = 12
Exports = Mapping[tuple[str, str], Value]


@dataclass(frozen=True, slots=True)
class Note:
    """One thing that code does with a place, below the event; *line* counts from 1."""

    kind: Kind
    place: Place
    line: int
    types: tuple[str, ...] = ()


class Trace(ABC):
    """
    A walk through one step.

    Args:
        known: What steps above export, where that could be followed.
    """

    fails_at_once: ClassVar[bool] = False
    """Whether looking up a missing key fails at once (Python), and not only when its value is used."""

    def __init__(self, known: Exports | None = None) -> None:
        self.notes: list[Note] = []
        self.exports: dict[str, list[Value]] = {}
        self.scope = Scope()
        self.line = 1
        self._known = known or {}
        self._present: frozenset[Place] = frozenset()
        self._absent: frozenset[Place] = frozenset()
        self._tolerant = 0
        self.untyped: set[Place] = set()
        self._branches: list[set[Place]] = []
        self._returned: list[tuple[list[Value], int]] = []
        self._calls = 0
        self._active: set[Any] = set()

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

    # ── using ──────────────────────────────────────────────────────────────────────

    def use(self, value: Value, kind: Kind = "uses") -> None:
        """The code uses *value*; *kind* says how."""
        for atom in value:
            self._use(atom, kind)

    def _use(self, atom: Atom, kind: Kind) -> None:
        match atom:
            case At(place=place, state=state):
                if state == "plain" and not self.fails_at_once:
                    self.need(place)
                elif state != "plain":
                    self.note("copes", place)
                self.note(kind, place)
            case Object(items=items, bases=bases):
                inner: Kind = "whole" if kind in {"uses", "hands"} else kind
                for value in [*items.values(), bases]:
                    self.use(value, inner)
            case Several(of=of):
                self.use(of, "whole" if kind in {"uses", "hands"} else kind)
            case Text(of=of):
                self.use(of, "hands")
            case Shaped(of=of):
                self.use(of, kind)
            case Routine() if kind != "whole":
                self.call(atom, ())

    def handed(self, value: Value) -> Value:
        """*value* where something else stands in its place if it is nothing."""
        return tuple(At(atom.place, "default") if isinstance(atom, At) else atom for atom in value)

    def perhaps(self, value: Value) -> Value:
        """*value* where the code may have taken another; of one that it takes in several types that is the same."""
        return tuple(
            At(atom.place, "maybe") if isinstance(atom, At) and atom.place not in self.untyped else atom
            for atom in value
        )

    def softened(self, value: Value) -> Value:
        """*value* where the code goes on without it."""
        return tuple(
            At(atom.place, "soft") if isinstance(atom, At) and atom.state == "plain" else atom for atom in value
        )

    def glance(self, value: Value) -> frozenset[Place]:
        """The code looks whether *value* is there, and uses no more of it; the places."""
        places = frozenset(atom.place for atom in value if isinstance(atom, At))
        for place in places:
            self.note("copes", place)
            self.note("looks", place)
        return places

    def looked_for(self, value: Value, key: str) -> frozenset[Place]:
        """The code looks whether *value* has *key*."""
        found: set[Place] = set()
        for atom in value:
            if isinstance(atom, At):
                place = (*atom.place, key)
                self.note("looks", place)
                self.note("copes", place)
                found.add(place)
        return frozenset(found)

    # ── flow ───────────────────────────────────────────────────────────────────────

    @contextmanager
    def given(self, present: frozenset[Place], absent: frozenset[Place] = frozenset()) -> Iterator[None]:
        """Code that runs only where there is something at *present*, and nothing at *absent*."""
        before = self._present, self._absent
        self._present, self._absent = (self._present | present) - absent, self._absent | absent
        try:
            yield
        finally:
            self._present, self._absent = before

    def learn(self, present: frozenset[Place]) -> None:
        """From here on there is something at *present*: the code went another way otherwise."""
        self._present |= present

    @contextmanager
    def copes(self) -> Iterator[None]:
        """Code around which failures are caught."""
        self._tolerant += 1
        try:
            yield
        finally:
            self._tolerant -= 1

    @contextmanager
    def whole_function(self) -> Iterator[None]:
        """What the code finds out in a function holds in that function."""
        before = self._present
        try:
            yield
        finally:
            self._present = before

    def branches(self, *ways: tuple[frozenset[Place], frozenset[Place], Callable[[], Value]]) -> Value:
        """
        One of *ways* is taken; each has what is present and absent on it.

        What all of them need is needed.
        """
        needed: list[set[Place]] = []
        results: list[Value] = []
        for present, absent, act in ways:
            self._branches.append(set())
            try:
                with self.given(present, absent):
                    results.append(self.perhaps(act()))
            finally:
                needed.append(self._branches.pop())
        for place in set.intersection(*needed):
            self.need(place)
        return either(*results)

    def alone(self, present: frozenset[Place], absent: frozenset[Place], act: Callable[[], Value]) -> Value:
        """A way that may not be taken."""
        return self.branches((present, absent, act), (frozenset(), frozenset(), lambda: NOTHING))

    def both(self, *tests: Callable[[], Tested], is_and: bool) -> Tested:
        """Follow `a and b`, `a or b`: each test is made only where those before it did not decide."""
        known = NONE
        for index, test in enumerate(tests):
            found: list[Tested] = []

            def act(test: Callable[[], Tested] = test, found: list[Tested] = found) -> Value:
                found.append(test())
                return NOTHING

            if index:
                self.alone(known, NONE, act)
            else:
                act()
            known |= found[0][0 if is_and else 1]
        return (known, NONE) if is_and else (NONE, known)

    def in_any_type(self, value: Value) -> frozenset[Place]:
        """The code asks of what type *value* is; the places."""
        places = self.glance(value)
        for place in places:
            self.note("untyped", place)
        return places

    def bind(self, name: str, value: Value, *, new: bool = False) -> None:
        """*name* stands for *value* from here on; in a branch, or for what it was before."""
        owner = self.scope if new else (self.scope.owner(name) or self.scope)
        before = owner.names.get(name)
        if before is not None and self._branches and not new:
            kept = tuple(
                At(atom.place, "default") if isinstance(atom, At) and atom.place in self._absent else atom
                for atom in before
            )
            value = either(kept, self.perhaps(value))
        owner.names[name] = value

    # ── functions ──────────────────────────────────────────────────────────────────

    def call(self, function: Routine, arguments: Sequence[Value], named: Mapping[str, Value] | None = None) -> Value:
        """What *function* returns for *arguments*; a call that was followed already is not followed again."""
        key = (id(function.node), tuple(arguments), tuple(sorted((named or {}).items(), key=lambda pair: pair[0])))
        if key in self._active or len(self._returned) >= MAX_DEPTH or self._calls >= MAX_CALLS:
            for value in [*arguments, *(named or {}).values()]:
                self.use(value, "hands")
            return NOTHING
        self._calls += 1
        self._active.add(key)
        outer, self.scope = self.scope, Scope(function.scope)
        line = self.line
        self._returned.append(([], len(self._branches)))
        try:
            with self.whole_function():
                self.run_function(function, arguments, named or {})
        finally:
            self.scope, self.line = outer, line
            self._active.discard(key)
            returned, _ = self._returned.pop()
        return either(*returned)

    @abstractmethod
    def run_function(self, function: Routine, arguments: Sequence[Value], named: Mapping[str, Value]) -> None:
        """Bind the parameters and follow the body."""

    @property
    def is_entry(self) -> bool:
        """Whether the function that is followed is the step's entry point."""
        return len(self._returned) == 1

    def returns(self, value: Value) -> None:
        """The function that is followed returns *value*."""
        if self._returned:
            values, branches = self._returned[-1]
            values.append(self.perhaps(value) if len(self._branches) > branches else value)

    def calls(self, called: Value, arguments: Sequence[Value], named: Mapping[str, Value] | None = None) -> Value:
        """What those of *called* that are functions of the step return."""
        return either(*(self.call(atom, arguments, named) for atom in called if isinstance(atom, Routine)))

    def export(self, name: str, value: Value) -> None:
        """The step exports *value*."""
        self.exports.setdefault(name, []).append(value)
        self.use(value, "whole")

"""
Following values from the event through a step's code: what is shared by all languages.

Knows what it means to look up a key, to use a value, to test one first. Each language's reader says where that
happens. Guesses nothing: what cannot be followed is noted as such.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pdkernel.contract.lookups import NONE, Exports, Kind, Lookups, Tested
from pdkernel.contract.values import (
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
    Text,
    Value,
    either,
)

MAX_CALLS = 400
MAX_DEPTH = 12


class Trace(Lookups):
    """
    A walk through one step.

    Args:
        known: What steps above export, where that could be followed.
    """

    def __init__(self, known: Exports | None = None) -> None:
        super().__init__(known)
        self.exports: dict[str, list[Value]] = {}
        self.scope = Scope()
        self._absent: frozenset[Place] = frozenset()
        self._returned: list[tuple[list[Value], int]] = []
        self._calls = 0
        self._descended: list[tuple[Place, Scope, str]] = []
        self._active: set[Any] = set()

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

    def loop(self, items: Value, act: Callable[[], object]) -> None:
        """Follow the body of a loop; one that goes down from key to key reads what only a run knows."""
        if sum(isinstance(atom, Literally) for atom in items) < 2:
            act()
            return
        count, outer, self._descended = len(self.notes), self._descended, []
        try:
            act()
            descended = self._descended
        finally:
            self._descended = outer
        if descended:
            del self.notes[count:]
        for place, scope, name in descended:
            self.note("unknown", place)
            scope.names[name] = NOTHING

    def bind(self, name: str, value: Value, *, new: bool = False) -> None:
        """*name* stands for *value* from here on; in a branch, or for what it was before."""
        owner = self.scope if new else (self.scope.owner(name) or self.scope)
        before = owner.names.get(name)
        if before is not None and not new:
            places = [atom.place for atom in value if isinstance(atom, At)]
            outer = [at.place for at in before if isinstance(at, At) and any(_is_in(p, at.place) for p in places)]
            self._descended += [(place, owner, name) for place in outer]
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


def _is_in(place: Place, outer: Place) -> bool:
    return len(place) > len(outer) and place[: len(outer)] == outer


__all__ = ["NONE", "Exports", "Kind", "Tested", "Trace"]

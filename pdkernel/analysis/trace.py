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

from pdkernel.analysis.abstract_values import (
    UNTRACKED,
    AbstractValue,
    FieldPath,
    FunctionValue,
    JsonTextValue,
    ListValue,
    LiteralValue,
    ObjectValue,
    PathValue,
    Scope,
    Shaped,
    ValueSet,
    union,
)
from pdkernel.analysis.access_tracker import NO_PATHS, AccessKind, AccessTracker, ConditionPaths, KnownExports

MAX_TRACED_CALLS = 400
MAX_CALL_DEPTH = 12


class StepTracer(AccessTracker):
    """
    A walk through one step.

    Args:
        exports_above: What steps above export, where that could be followed.
    """

    def __init__(self, exports_above: KnownExports | None = None) -> None:
        super().__init__(exports_above)
        self.exports: dict[str, list[ValueSet]] = {}
        self.scope = Scope()
        self._absent: frozenset[FieldPath] = frozenset()
        self._returned: list[tuple[list[ValueSet], int]] = []
        self._calls = 0
        self._descents: list[tuple[FieldPath, Scope, str]] = []
        self._active: set[Any] = set()

    # ── using ──────────────────────────────────────────────────────────────────────

    def add_use(self, value: ValueSet, kind: AccessKind = "uses") -> None:
        """The code uses *value*; *kind* says how."""
        for atom in value:
            self._add_use(atom, kind)

    def _add_use(self, atom: AbstractValue, kind: AccessKind) -> None:
        match atom:
            case PathValue(path=place, presence=state):
                if state == "plain" and not self.fails_on_missing_key:
                    self.require_path(place)
                elif state != "plain":
                    self.add_access("copes", place)
                self.add_access(kind, place)
            case ObjectValue(items=items, spread=bases):
                inner: AccessKind = "whole" if kind in {"uses", "hands"} else kind
                for value in [*items.values(), bases]:
                    self.add_use(value, inner)
            case ListValue(item=of):
                self.add_use(of, "whole" if kind in {"uses", "hands"} else kind)
            case JsonTextValue(parsed=of):
                self.add_use(of, "hands")
            case Shaped(of=of):
                self.add_use(of, kind)
            case FunctionValue() if kind != "whole":
                self.trace_call(atom, ())

    def with_default(self, value: ValueSet) -> ValueSet:
        """*value* where something else stands in its place if it is nothing."""
        return tuple(PathValue(atom.path, "default") if isinstance(atom, PathValue) else atom for atom in value)

    def maybe(self, value: ValueSet) -> ValueSet:
        """*value* where the code may have taken another; of one that it takes in several types that is the same."""
        return tuple(
            PathValue(atom.path, "maybe")
            if isinstance(atom, PathValue) and atom.path not in self.mixed_type_paths
            else atom
            for atom in value
        )

    def optional(self, value: ValueSet) -> ValueSet:
        """*value* where the code goes on without it."""
        return tuple(
            PathValue(atom.path, "soft") if isinstance(atom, PathValue) and atom.presence == "plain" else atom
            for atom in value
        )

    def presence_check(self, value: ValueSet) -> frozenset[FieldPath]:
        """The code looks whether *value* is there, and uses no more of it; the places."""
        places = frozenset(atom.path for atom in value if isinstance(atom, PathValue))
        for place in places:
            self.add_access("copes", place)
            self.add_access("looks", place)
        return places

    def key_check(self, value: ValueSet, key: str) -> frozenset[FieldPath]:
        """The code looks whether *value* has *key*."""
        found: set[FieldPath] = set()
        for atom in value:
            if isinstance(atom, PathValue):
                place = (*atom.path, key)
                self.add_access("looks", place)
                self.add_access("copes", place)
                found.add(place)
        return frozenset(found)

    # ── flow ───────────────────────────────────────────────────────────────────────

    @contextmanager
    def assuming(self, present: frozenset[FieldPath], absent: frozenset[FieldPath] = frozenset()) -> Iterator[None]:
        """Code that runs only where there is something at *present*, and nothing at *absent*."""
        before = self._present, self._absent
        self._present, self._absent = (self._present | present) - absent, self._absent | absent
        try:
            yield
        finally:
            self._present, self._absent = before

    def assume(self, present: frozenset[FieldPath]) -> None:
        """From here on there is something at *present*: the code went another way otherwise."""
        self._present |= present

    @contextmanager
    def catching_errors(self) -> Iterator[None]:
        """Code around which failures are caught."""
        self._caught_depth += 1
        try:
            yield
        finally:
            self._caught_depth -= 1

    @contextmanager
    def function_scope(self) -> Iterator[None]:
        """What the code finds out in a function holds in that function."""
        before = self._present
        try:
            yield
        finally:
            self._present = before

    def trace_branches(
        self, *branches: tuple[frozenset[FieldPath], frozenset[FieldPath], Callable[[], ValueSet]]
    ) -> ValueSet:
        """
        One of *branches* is taken; each has what is present and absent on it.

        What all of them need is needed.
        """
        needed: list[set[FieldPath]] = []
        results: list[ValueSet] = []
        for present, absent, act in branches:
            self._branches.append(set())
            try:
                with self.assuming(present, absent):
                    results.append(self.maybe(act()))
            finally:
                needed.append(self._branches.pop())
        for place in set.intersection(*needed):
            self.require_path(place)
        return union(*results)

    def trace_optional_branch(
        self, present: frozenset[FieldPath], absent: frozenset[FieldPath], trace: Callable[[], ValueSet]
    ) -> ValueSet:
        """A way that may not be taken."""
        return self.trace_branches((present, absent, trace), (frozenset(), frozenset(), lambda: UNTRACKED))

    def trace_logical(self, *tests: Callable[[], ConditionPaths], is_and: bool) -> ConditionPaths:
        """Follow `a and b`, `a or b`: each test is made only where those before it did not decide."""
        known = NO_PATHS
        for index, test in enumerate(tests):
            found: list[ConditionPaths] = []

            def act(test: Callable[[], ConditionPaths] = test, found: list[ConditionPaths] = found) -> ValueSet:
                found.append(test())
                return UNTRACKED

            if index:
                self.trace_optional_branch(known, NO_PATHS, act)
            else:
                act()
            known |= found[0][0 if is_and else 1]
        return (known, NO_PATHS) if is_and else (NO_PATHS, known)

    def type_check(self, value: ValueSet) -> frozenset[FieldPath]:
        """The code asks of what type *value* is; the places."""
        places = self.presence_check(value)
        for place in places:
            self.add_access("untyped", place)
        return places

    def trace_loop(self, items: ValueSet, trace: Callable[[], object]) -> None:
        """Follow the body of a loop; one that goes down from key to key reads what only a run knows."""
        if sum(isinstance(atom, LiteralValue) for atom in items) < 2:
            trace()
            return
        count, outer, self._descents = len(self.accesses), self._descents, []
        try:
            trace()
            descended = self._descents
        finally:
            self._descents = outer
        if descended:
            del self.accesses[count:]
        for place, scope, name in descended:
            self.add_access("unknown", place)
            scope.names[name] = UNTRACKED

    def bind(self, name: str, value: ValueSet, *, new: bool = False) -> None:
        """*name* stands for *value* from here on; in a branch, or for what it was before."""
        owner = self.scope if new else (self.scope.find_scope(name) or self.scope)
        before = owner.names.get(name)
        if before is not None and not new:
            places = [atom.path for atom in value if isinstance(atom, PathValue)]
            outer = [
                at.path for at in before if isinstance(at, PathValue) and any(_is_below(p, at.path) for p in places)
            ]
            self._descents += [(place, owner, name) for place in outer]
        if before is not None and self._branches and not new:
            kept = tuple(
                PathValue(atom.path, "default") if isinstance(atom, PathValue) and atom.path in self._absent else atom
                for atom in before
            )
            value = union(kept, self.maybe(value))
        owner.names[name] = value

    # ── functions ──────────────────────────────────────────────────────────────────

    def trace_call(
        self, function: FunctionValue, arguments: Sequence[ValueSet], named: Mapping[str, ValueSet] | None = None
    ) -> ValueSet:
        """What *function* returns for *arguments*; a call that was followed already is not followed again."""
        key = (id(function.node), tuple(arguments), tuple(sorted((named or {}).items(), key=lambda pair: pair[0])))
        if key in self._active or len(self._returned) >= MAX_CALL_DEPTH or self._calls >= MAX_TRACED_CALLS:
            for value in [*arguments, *(named or {}).values()]:
                self.add_use(value, "hands")
            return UNTRACKED
        self._calls += 1
        self._active.add(key)
        outer, self.scope = self.scope, Scope(function.scope)
        line = self.line
        self._returned.append(([], len(self._branches)))
        try:
            with self.function_scope():
                self.trace_function(function, arguments, named or {})
        finally:
            self.scope, self.line = outer, line
            self._active.discard(key)
            returned, _ = self._returned.pop()
        return union(*returned)

    @abstractmethod
    def trace_function(
        self, function: FunctionValue, arguments: Sequence[ValueSet], named: Mapping[str, ValueSet]
    ) -> None:
        """Bind the parameters and follow the body."""

    @property
    def is_in_entry_point(self) -> bool:
        """Whether the function that is followed is the step's entry point."""
        return len(self._returned) == 1

    def add_return(self, value: ValueSet) -> None:
        """The function that is followed returns *value*."""
        if self._returned:
            values, branches = self._returned[-1]
            values.append(self.maybe(value) if len(self._branches) > branches else value)

    def trace_calls(
        self, called: ValueSet, arguments: Sequence[ValueSet], named: Mapping[str, ValueSet] | None = None
    ) -> ValueSet:
        """What those of *called* that are functions of the step return."""
        return union(*(self.trace_call(atom, arguments, named) for atom in called if isinstance(atom, FunctionValue)))

    def add_export(self, name: str, value: ValueSet) -> None:
        """The step exports *value*."""
        self.exports.setdefault(name, []).append(value)
        self.add_use(value, "whole")


def _is_below(place: FieldPath, outer: FieldPath) -> bool:
    return len(place) > len(outer) and place[: len(outer)] == outer


__all__ = ["NO_PATHS", "AccessKind", "ConditionPaths", "KnownExports", "StepTracer"]

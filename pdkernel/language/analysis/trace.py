"""
The trace of event values through the code of a step, shared by all languages, and the abstract values that it follows.

A value set is a tuple of the possible values of a name: a path below `steps`, a literal, an object or a list of the code, or a
function. The empty tuple is any other value. The base class of a trace defines lookups, uses, checks and branches, and records the
accesses to the event; the subclass of each language calls them. Languages differ in whether a missing key fails at once. Values
that cannot be followed are recorded as dynamic.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar

from pdkernel.execution import RETURN_VALUE
from pdkernel.language.shape import Segment

FieldPath: TypeAlias = tuple[Segment, ...]
"""A path below `steps`; the items of a list share the segment 0, as in a shape."""

LIST_ITEM = 0
EVENT_PATH: FieldPath = ("trigger", "event")

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
    """A string or integer literal of the code."""

    value: str | int


@dataclass(frozen=True, slots=True, eq=False)
class ObjectValue:
    """An object literal of the code. Computed keys get generated names; *spread* are the values that are spread into it."""

    items: Mapping[Any, ValueSet] = field(default_factory=dict)
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
    """A function of the step: its syntax node and its enclosing scope."""

    node: Any
    scope: Scope
    name: str = ""


@dataclass(frozen=True, slots=True)
class PlatformValue:
    """An object of the platform: `pd`, `$`, `this`."""

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


def get_paths(value: ValueSet) -> frozenset[FieldPath]:
    """Return the paths in *value*."""
    return frozenset(atom.path for atom in select(value, PathValue))


def union(*values: ValueSet) -> ValueSet:
    """Return the union of *values*."""
    return tuple(dict.fromkeys(atom for value in values for atom in value))


MAX_TRACED_CALLS = 400
MAX_CALL_DEPTH = 12

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


class StepTracer(ABC):
    """
    A trace of one step: the paths that are known to be present, and the accesses so far.

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
        self.exports: dict[str, list[ValueSet]] = {}
        self.scope = Scope()
        self._exports_above = exports_above or {}
        self._present: frozenset[FieldPath] = frozenset()
        self._absent: frozenset[FieldPath] = frozenset()
        self._caught_depth = 0
        self._branches: list[set[FieldPath]] = []
        self._returned: list[tuple[list[ValueSet], int]] = []
        self._calls = 0
        self._descents: list[tuple[FieldPath, Scope, str]] = []
        self._active: set[Any] = set()

    @abstractmethod
    def evaluate(self, node: Any) -> ValueSet:
        """Return the value set of *node*, a node of the language or None; its accesses are recorded."""

    def evaluate_silently(self, node: Any) -> ValueSet:
        """Return the value set of *node*, without recording its accesses a second time."""
        count = len(self.accesses)
        value = self.evaluate(node)
        del self.accesses[count:]
        return value

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
        """Return the value of a computed key in *value*."""
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
        """Return the values in *value* of the possible *keys*; a key that is not a literal is a computed key."""
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
        """Return the item at *index* in a destructuring of *value*. The index counts for a list literal; another list has any item there."""
        return union(self.get_member(select(value, ObjectValue), index), self.get_item(exclude(value, ObjectValue)))

    def get_item(self, value: ValueSet, *, is_optional: bool = False) -> ValueSet:
        """Return an item of *value*, which the code uses as a list; with *is_optional* the code continues without an item."""
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

    # ── uses ──────────────────────────────────────────────────────────────────────

    def add_use(self, value: ValueSet, kind: AccessKind = "uses") -> None:
        """Record a use of *value* of *kind*."""
        for atom in value:
            self._add_use(atom, kind)

    def _add_use(self, atom: AbstractValue, kind: AccessKind) -> None:
        match atom:
            case PathValue(path=place, presence=state):
                if state == "plain" and not self.fails_on_missing_key:
                    self.require_path(place)
                elif state != "plain":
                    self.add_access("tolerates", place)
                self.add_access(kind, place)
            case ObjectValue(items=items, spread=bases):
                inner: AccessKind = "passes_on" if kind in {"uses", "escapes"} else kind
                for value in [*items.values(), bases]:
                    self.add_use(value, inner)
            case ListValue(item=of):
                self.add_use(of, "passes_on" if kind in {"uses", "escapes"} else kind)
            case JsonTextValue(parsed=of):
                self.add_use(of, "escapes")
            case FunctionValue() if kind != "passes_on":
                self.trace_call(atom, ())

    def with_default(self, value: ValueSet) -> ValueSet:
        """Return *value* with a default for a missing value."""
        return tuple(PathValue(atom.path, "default") if isinstance(atom, PathValue) else atom for atom in value)

    def maybe(self, value: ValueSet) -> ValueSet:
        """Return *value* as one of several alternatives; paths with mixed types stay unchanged."""
        return tuple(
            PathValue(atom.path, "maybe")
            if isinstance(atom, PathValue) and atom.path not in self.mixed_type_paths
            else atom
            for atom in value
        )

    def optional(self, value: ValueSet) -> ValueSet:
        """Return *value* as an optional value."""
        return tuple(
            PathValue(atom.path, "optional") if isinstance(atom, PathValue) and atom.presence == "plain" else atom
            for atom in value
        )

    def presence_check(self, value: ValueSet) -> frozenset[FieldPath]:
        """Record a check that *value* is present; return the checked paths."""
        places = get_paths(value)
        for place in places:
            self.add_access("tolerates", place)
            self.add_access("checks", place)
        return places

    def truth_check(self, value: ValueSet) -> frozenset[FieldPath]:
        """Record a use of *value* as a condition; return the checked paths."""
        places = self.presence_check(value)
        self.add_use(exclude(value, PathValue, FunctionValue))
        return places

    def key_check(self, value: ValueSet, key: str) -> frozenset[FieldPath]:
        """Record a check that *value* has *key*; return the checked paths."""
        found: set[FieldPath] = set()
        for atom in value:
            if isinstance(atom, PathValue):
                place = (*atom.path, key)
                self.add_access("checks", place)
                self.add_access("tolerates", place)
                found.add(place)
        return frozenset(found)

    # ── flow ───────────────────────────────────────────────────────────────────────

    @contextmanager
    def assuming(self, present: frozenset[FieldPath], absent: frozenset[FieldPath] = frozenset()) -> Iterator[None]:
        """Trace, in a `with` block, code that runs only if the paths *present* exist and the paths *absent* do not."""
        before = self._present, self._absent
        self._present, self._absent = (self._present | present) - absent, self._absent | absent
        try:
            yield
        finally:
            self._present, self._absent = before

    def assume(self, present: frozenset[FieldPath], *, required: bool = False) -> None:
        """Trace the code below with the paths *present*: without them it does not run. If *required*, the step then fails."""
        for place in present if required else ():
            self.require_path(place)
        self._present |= present

    @contextmanager
    def catching_errors(self) -> Iterator[None]:
        """A context for code whose errors are caught: the body of a `try` with a handler."""
        self._caught_depth += 1
        try:
            yield
        finally:
            self._caught_depth -= 1

    @contextmanager
    def function_scope(self) -> Iterator[None]:
        """Limit assumptions about paths to the body of a function."""
        before = self._present
        try:
            yield
        finally:
            self._present = before

    def trace_branches(
        self, *branches: tuple[frozenset[FieldPath], frozenset[FieldPath], Callable[[], ValueSet]]
    ) -> ValueSet:
        """
        Trace alternative *branches*, each with its present and absent paths.

        Paths that all branches require are required.
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
        """Trace a branch that may not run."""
        return self.trace_branches((present, absent, trace), (frozenset(), frozenset(), lambda: UNTRACKED))

    def trace_logical(self, *tests: Callable[[], ConditionPaths], is_and: bool) -> ConditionPaths:
        """Trace `a and b` or `a or b`: each test runs only if the tests before it do not decide."""
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
        """Record a check of the type of *value*; return the checked paths."""
        places = self.presence_check(value)
        for place in places:
            self.add_access("mixed_type", place)
        return places

    def trace_loop(self, items: ValueSet, trace: Callable[[], object]) -> None:
        """Trace the body of a loop; a loop that descends by computed keys makes the paths dynamic."""
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
            self.add_access("dynamic", place)
            scope.names[name] = UNTRACKED

    def bind(self, name: str, value: ValueSet, *, new: bool = False) -> None:
        """Bind *name* to *value*; in a branch, to the union with its earlier value."""
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
        """Return the return value of *function* for *arguments*; each call is traced once."""
        key = (id(function.node), tuple(arguments), tuple(sorted((named or {}).items(), key=lambda pair: pair[0])))
        if key in self._active or len(self._returned) >= MAX_CALL_DEPTH or self._calls >= MAX_TRACED_CALLS:
            for value in [*arguments, *(named or {}).values()]:
                self.add_use(value, "escapes")
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
        """Bind the parameters and trace the body."""

    @property
    def is_in_entry_point(self) -> bool:
        """Whether the current function is the entry point of the step."""
        return len(self._returned) == 1

    def add_return(self, value: ValueSet) -> None:
        """Record that the current function returns *value*; the entry point passes its value on."""
        if self.is_in_entry_point:
            self.add_use(value, "passes_on")
        if self._returned:
            values, branches = self._returned[-1]
            values.append(self.maybe(value) if len(self._branches) > branches else value)

    def trace_calls(
        self, called: ValueSet, arguments: Sequence[ValueSet], named: Mapping[str, ValueSet] | None = None
    ) -> ValueSet:
        """Return the return values of the functions of the step in *called*."""
        return union(*(self.trace_call(function, arguments, named) for function in select(called, FunctionValue)))

    def trace_entry_point(self, functions: ValueSet, argument: ValueSet) -> None:
        """Trace a call of *functions* by the platform; the return values are exports."""
        for function in select(functions, FunctionValue):
            self.exports.setdefault(RETURN_VALUE, []).append(self.trace_call(function, [argument]))

    def parse_json(self, value: ValueSet) -> ValueSet:
        """Return the value behind JSON text that the code has encoded; JSON text in the event is not followed."""
        self.add_use(self.expect_type(select(value, PathValue), "string"))
        return union(*(text.parsed for text in select(value, JsonTextValue)))

    def add_export(self, name: str, value: ValueSet) -> None:
        """Record that the step exports *value* as *name*."""
        self.exports.setdefault(name, []).append(value)
        self.add_use(value, "passes_on")


def _is_below(place: FieldPath, outer: FieldPath) -> bool:
    return len(place) > len(outer) and place[: len(outer)] == outer

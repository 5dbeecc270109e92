"""
The trace of event values through the code of a step.

The trace evaluates the tree of `code_tree`: the statements of the module, then a call of the entry point. It follows calls of the step's
own functions, and records the accesses to the event. The body of a function without a call is ignored, and values that are passed to
any other function are not followed. Values that cannot be followed are recorded as dynamic. No code runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from pdkernel.execution import RETURN_VALUE
from pdkernel.language.analysis import code_builtins, code_tree
from pdkernel.language.analysis.abstract_values import (
    LIST_ITEM,
    UNTRACKED,
    FieldPath,
    FunctionValue,
    JsonTextValue,
    ListValue,
    LiteralValue,
    ObjectValue,
    PathValue,
    PlatformValue,
    Scope,
    ValueSet,
    exclude,
    get_paths,
    select,
    union,
    with_presence,
)
from pdkernel.language.shape import Segment

EVENT_PATH: FieldPath = ("trigger", "event")
MAX_TRACED_CALLS = 400
MAX_CALL_DEPTH = 12
MAX_STEPS = 200_000
"""The number of evaluated nodes and of uses of values after which a trace ends with an error."""
MAX_DEPTH = 100
"""The number of keys of a path below which keys count as computed."""
MAX_KEYS = 500
"""The number of possible members of one lookup above which the keys count as computed."""

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


LookupMode = Literal["plain", "optional", "default", "chained"]
"""How code looks up a key: it may be missing, a default replaces it, or the result is undefined if its owner is (`?.`)."""

Paths: TypeAlias = frozenset[FieldPath]
NO_PATHS: Paths = frozenset()
KnownExports = Mapping[tuple[str, str], ValueSet]
_INDEX: ValueSet = (PlatformValue("index"),)
_CONDITIONS = frozenset({"not", "===", "==", "<", ">", "in", "typeof", "length", "length?", "and", "or", "??"})


@dataclass(frozen=True, slots=True)
class PathAccess:
    """One access to a path below the event; *line* counts from 1."""

    kind: AccessKind
    path: FieldPath
    line: int
    types: tuple[str, ...] = ()


class Tested(NamedTuple):
    """The value of a condition, and the paths that are present if it is true, and if it is false."""

    value: ValueSet = UNTRACKED
    present: Paths = NO_PATHS
    otherwise: Paths = NO_PATHS


class StepTracer:
    """
    A trace of one step: the paths that are known to be present, and the accesses so far.

    Args:
        is_python: Whether the lookup of a missing key fails at once (Python) or only the use of its value (JavaScript).
        exports_above: The known exports of earlier steps.

    Attributes:
        accesses: The accesses to the event.
        paths: All paths below `steps` that are accessed.
        exports: The values of each export of the step.
    """

    def __init__(self, exports_above: KnownExports | None = None, *, is_python: bool = False) -> None:
        self.accesses: list[PathAccess] = []
        self.paths: set[FieldPath] = set()
        self.exports: dict[str, list[ValueSet]] = {}
        self._is_python = is_python
        self._number = "number" if is_python else "numeric"
        self._exports_above = exports_above or {}
        self._line = 1
        self._scope = Scope()
        self._scope.names |= {code_tree.ALL_STEPS: (PathValue(()),), code_tree.LOOP_INDEX: _INDEX}
        self._context: dict[Any, ValueSet] = {"steps": (PathValue(()),), "$": (PlatformValue("$"),)}
        if not is_python:
            self._scope.names |= {**self._context, "this": (PlatformValue("this"),)}
        self._methods: ValueSet = UNTRACKED
        self._mixed_type_paths: set[FieldPath] = set()
        self._present = self._absent = NO_PATHS
        self._caught_depth = 0
        self._branches: list[set[FieldPath]] = []
        self._returned: list[tuple[list[ValueSet], int]] = []
        self._calls = self._steps = 0
        self._descents: list[tuple[FieldPath, Scope, str]] = []
        self._active: set[Any] = set()

    def trace(self, tree: code_tree.Node, kind: AccessKind = "uses") -> None:
        """Trace *tree*, whose value is used as *kind*; raise `RecursionError` if the code is too deep or too large."""
        self._add_use(self.evaluate(tree), kind)

    def _count_step(self) -> None:
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise RecursionError("The code has too many values to follow.")

    # ── accesses ────────────────────────────────────────────────────────────────────────

    def _add_access(self, kind: AccessKind, path: FieldPath, types: tuple[str, ...] = ()) -> None:
        """Record an access to *path* below `steps`."""
        self.paths.add(path)
        if kind == "mixed_type":
            self._mixed_type_paths.add(path)
        if path[:2] == EVENT_PATH:
            self.accesses.append(PathAccess(kind, path[2:], self._line, types))
        elif path in ((), EVENT_PATH[:1]) and kind in {"passes_on", "escapes", "dynamic"}:
            self.accesses.append(PathAccess(kind, (), self._line))

    def _require_path(self, path: FieldPath, *, is_indexed: bool = False) -> None:
        """
        Record that the code fails if *path* is missing, unless the code has checked the path before.

        A list may be empty, unless the code looks up an item by its index (*is_indexed*).
        """
        may_be_empty = path[-1:] == (LIST_ITEM,) and not is_indexed
        if may_be_empty or self._caught_depth or any(known[: len(path)] == path for known in self._present):
            self._add_access("tolerates", path)
        elif self._branches:
            self._branches[-1].add(path)
            self._add_access("tolerates", path)
        else:
            self._add_access("requires", path)

    def _expect_type(self, value: ValueSet, *types: str) -> ValueSet:
        """Record that the code expects one of *types*; return *value*."""
        for atom in select(value, PathValue) if types else ():
            self._add_access("type", atom.path, types)
        return value

    def _require_containers(self, owner: ValueSet) -> None:
        """Record whether the lookup of a key in *owner* fails if that value is missing."""
        for atom in select(owner, PathValue):
            if atom.presence == "maybe":
                self._add_access("tolerates", atom.path)
            elif atom.presence == "optional" or (atom.presence == "plain" and not self._is_python):
                self._require_path(atom.path)

    def _add_use(self, value: ValueSet, kind: AccessKind = "uses") -> None:
        """Record a use of *value* of *kind*; the parts of an object are passed on with it."""
        inner: AccessKind = "passes_on" if kind in {"uses", "escapes"} else kind
        for atom in value:
            self._count_step()
            match atom:
                case PathValue(path=path, presence=presence):
                    if presence == "plain" and not self._is_python:
                        self._require_path(path)
                    elif presence != "plain":
                        self._add_access("tolerates", path)
                    self._add_access(kind, path)
                case ObjectValue(items=items, spread=spread):
                    for each in [*items.values(), spread]:
                        self._add_use(each, inner)
                case ListValue(item=item):
                    self._add_use(item, inner)
                case JsonTextValue(parsed=parsed):
                    self._add_use(parsed, "escapes")
                case FunctionValue() if kind != "passes_on":
                    self._trace_call(atom, ())

    def _chain(self, owner: ValueSet) -> ValueSet:
        """Return *owner* of a lookup or call that does not run if the owner is missing (`?.`)."""
        for path in get_paths(owner):
            self._add_access("tolerates", path)
        return with_presence(owner, "maybe")

    def _check_presence(self, value: ValueSet) -> Paths:
        """Record a check that *value* is present; return the checked paths."""
        paths = get_paths(value)
        for path in paths:
            self._add_access("tolerates", path)
            self._add_access("checks", path)
        return paths

    # ── lookups ─────────────────────────────────────────────────────────────────────────

    def _get_member(self, value: ValueSet, key: Segment, mode: LookupMode = "plain") -> ValueSet:
        """Return the value of *key*, a key or an index, in *value*."""
        found: list[ValueSet] = []
        for atom in value:
            self._count_step()
            if isinstance(atom, PathValue):
                found.append(self._get_path_member(atom, LIST_ITEM if isinstance(key, int) else key, mode))
            elif isinstance(atom, ObjectValue):
                inner = atom.items.get(key)
                found.append(self._get_member(atom.spread, key, mode) if inner is None else inner)
            elif isinstance(atom, ListValue) and isinstance(key, int):
                found.append(atom.item)
        return union(*found)

    def _get_path_member(self, at: PathValue, key: Segment, mode: LookupMode) -> ValueSet:
        path = (*at.path, key)
        if len(path) == 2 and path[0] != EVENT_PATH[0]:
            return self._exports_above.get((str(path[0]), str(key)), UNTRACKED)
        if len(path) > MAX_DEPTH:
            return self._get_dynamic_member((at,))
        self._require_containers((at,) if mode != "chained" else self._chain((at,)))
        if mode in {"optional", "default"} or at.presence == "maybe":
            self._add_access("tolerates", path)
        elif self._is_python:
            if at.presence == "default":
                self._require_path(at.path)
            self._require_path(path, is_indexed=True)
        elif at.presence == "plain" and mode == "plain" and key == LIST_ITEM:
            self._require_path(path, is_indexed=True)
        elif self._branches or self._caught_depth:
            self._add_access("tolerates", path)
        self._add_access("reads", path)
        if at.presence == "maybe" or mode == "default":
            return (PathValue(path, "maybe" if at.presence == "maybe" else "default"),)
        is_lax = mode != "plain" or (at.presence != "plain" and not self._is_python)
        return (PathValue(path, "optional" if is_lax else "plain"),)

    def _get_dynamic_member(self, value: ValueSet) -> ValueSet:
        """Return the value of a computed key in *value*."""
        for path in get_paths(value):
            self._add_access("dynamic", path)
        found = [each for atom in select(value, ObjectValue) for each in atom.items.values()]
        found += [self._get_dynamic_member(atom.spread) for atom in select(value, ObjectValue)]
        return union(*found, *(atom.item for atom in select(value, ListValue)))

    def _get_members(self, value: ValueSet, keys: ValueSet, mode: LookupMode = "plain") -> ValueSet:
        """Return the values in *value* of the possible *keys*; a key that is not a literal is a computed key."""
        literals = select(keys, LiteralValue)
        if not keys or len(literals) != len(keys) or len(keys) * len(value) > MAX_KEYS:
            self._add_use(keys)
            return self._get_dynamic_member(value)
        return union(*(self._get_member(value, key.value, mode) for key in literals))

    def _get_item(self, value: ValueSet) -> ValueSet:
        """Return an item of *value*, which the code uses as a list."""
        found: list[ValueSet] = []
        for atom in value:
            if isinstance(atom, PathValue):
                if atom.path in (EVENT_PATH, (*EVENT_PATH, "headers"), (*EVENT_PATH, "query")):
                    self._add_access("dynamic", atom.path)
                    continue
                self._expect_type((atom,), "array")
                self._require_containers((atom,))
                path = (*atom.path, LIST_ITEM)
                self._add_access("tolerates", path)
                self._add_access("reads", path)
                found.append((PathValue(path, "maybe" if atom.presence == "maybe" else "plain"),))
            elif isinstance(atom, ListValue):
                found.append(atom.item)
            elif isinstance(atom, ObjectValue):
                found += list(atom.items.values())
        return union(*found)

    # ── branches ────────────────────────────────────────────────────────────────────────

    @contextmanager
    def _in_branch(self, present: Paths = NO_PATHS, absent: Paths = NO_PATHS) -> Iterator[set[FieldPath]]:
        """Trace, in a `with` block, a branch that runs only with *present* and without *absent*; yield what it requires."""
        before = self._present, self._absent
        self._present, self._absent = (self._present | present) - absent, self._absent | absent
        required: set[FieldPath] = set()
        self._branches.append(required)
        try:
            yield required
        finally:
            self._branches.pop()
            self._present, self._absent = before

    def _maybe(self, value: ValueSet) -> ValueSet:
        """Return *value* as one of several alternatives; paths with mixed types stay unchanged."""
        return tuple(
            each
            for atom in value
            for each in ((atom,) if get_paths((atom,)) & self._mixed_type_paths else with_presence((atom,), "maybe"))
        )

    def _branch(self, node: code_tree.Branch) -> ValueSet:
        tested = self.test(node.test)
        with self._in_branch(tested.present, tested.otherwise) as first:
            value = self._maybe(self.evaluate(node.body))
        with self._in_branch(tested.otherwise, tested.present) as second:
            other = self._maybe(self.evaluate(node.other))
        for path in first & second:
            self._require_path(path)
        for branch, known in ((node.body, tested.otherwise), (node.other, tested.present)):
            if (found := code_tree.get_exit(branch)) is not None:
                for path in known if found.kind == "raise" else ():
                    self._require_path(path)
                self._present |= known
        return union(value, other)

    def _loop(self, node: code_tree.Loop) -> ValueSet:
        """Trace a loop; one that descends by the keys of a list of literals makes the paths dynamic."""
        items = self._get_item(self.evaluate(node.items))
        self._bind_pattern(node.target, items, is_new=True)
        count, outer, self._descents = len(self.accesses), self._descents, []
        try:
            self.evaluate(node.body)
            descended = self._descents if len(select(items, LiteralValue)) > 1 else []
        finally:
            self._descents = outer
        if descended:
            del self.accesses[count:]
        for path, scope, name in descended:
            self._add_access("dynamic", path)
            scope.names[name] = UNTRACKED
        return UNTRACKED

    def _switch(self, node: code_tree.Switch) -> ValueSet:
        subject = self.evaluate(node.subject)
        kinds = {pattern.types for pattern, _, _ in node.cases if isinstance(pattern, code_tree.Literal)}
        self._expect_type(subject, *kinds.pop() if len(kinds) == 1 else ())
        for pattern, guard, body in node.cases:
            self._bind_pattern(pattern, subject, is_new=True)
            with self._in_branch():
                self._present |= self.test(guard).present
                self.evaluate(body)
        return UNTRACKED

    def _try(self, node: code_tree.Try) -> ValueSet:
        self._caught_depth += node.is_caught
        try:
            self.evaluate(node.body)
        finally:
            self._caught_depth -= node.is_caught
        for handler in node.handlers:
            with self._in_branch():
                self.evaluate(handler)
        return UNTRACKED

    def _exit(self, node: code_tree.Exit) -> ValueSet:
        value = self.evaluate(node.value)
        if node.kind == "return":
            self._add_return(value)
        else:
            self._add_use(value)
        return UNTRACKED

    def _block(self, node: code_tree.Block) -> ValueSet:
        for statement in node.statements:
            value = self.evaluate(statement)
            if not isinstance(statement, code_tree.Assign):
                self._add_use(exclude(value, FunctionValue))
        return UNTRACKED

    def _entry(self, node: code_tree.Entry) -> ValueSet:
        """Trace a call of the component by the platform; the return values are exports."""
        argument: ValueSet = (PlatformValue("pd") if self._is_python else ObjectValue(self._context),)
        for atom in self.evaluate(node.component):
            run: ValueSet = (atom,)
            if isinstance(atom, ObjectValue):
                self._methods = atom.items.get("methods", UNTRACKED)
                run = atom.items.get("run", UNTRACKED)
            for function in select(run, FunctionValue):
                self.exports.setdefault(RETURN_VALUE, []).append(self._trace_call(function, [argument]))
        return UNTRACKED

    # ── expressions ─────────────────────────────────────────────────────────────────────

    def evaluate(self, node: code_tree.Node) -> ValueSet:
        """Return the value set of *node*; its accesses are recorded."""
        self._count_step()
        self._line = node.line or self._line
        act: Callable[[Any], ValueSet] | None = getattr(self, f"_{type(node).__name__.lower()}", None)
        return UNTRACKED if act is None else act(node)  # a pattern in the place of an expression: a syntax error

    def _name(self, node: code_tree.Name) -> ValueSet:
        return self._scope.find(node.name) or UNTRACKED

    def _literal(self, node: code_tree.Literal) -> ValueSet:
        return UNTRACKED if node.value is None else (LiteralValue(node.value),)

    def _function(self, node: code_tree.Function) -> ValueSet:
        return (FunctionValue(node, self._scope),)

    def _member(self, node: code_tree.Member) -> ValueSet:
        owner, keys = self.evaluate(node.owner), self.evaluate(node.key)
        self._line = node.line or self._line
        for atom in select(owner, PlatformValue):
            return self._get_platform_member(atom, keys)
        if node.is_attribute:
            self._add_use(exclude(owner, FunctionValue))
            return UNTRACKED
        mode: LookupMode = "chained" if node.is_chained else "plain"
        if keys == _INDEX:
            return self._get_item(self._chain(owner) if node.is_chained else owner)
        if _is_calculation(node.key):
            paths = self._expect_type(select(owner, PathValue), "array")
            others = self._get_dynamic_member(exclude(owner, PathValue))
            return union(self._get_member(paths, LIST_ITEM, mode), others)
        if any(isinstance(key.value, int) for key in select(keys, LiteralValue)):
            self._expect_type(owner, "array")
        return self._get_members(owner, keys, mode)

    def _get_platform_member(self, atom: PlatformValue, keys: ValueSet) -> ValueSet:
        name = next((str(key.value) for key in select(keys, LiteralValue)), "")
        if (atom.name, name) == ("pd", "steps"):
            return (PathValue(()),)
        method = self._get_member(self._methods, name) if atom.name == "this" else UNTRACKED
        return method or (PlatformValue(f"{atom.name}.{name}"),)

    def _object(self, node: code_tree.Object) -> ValueSet:
        items: dict[Any, ValueSet] = {}
        spread: list[ValueSet] = []
        for key, each in node.entries:
            names = UNTRACKED if key is None else self.evaluate(key)
            value = self.evaluate(each)
            if key is None:
                spread.append(value)
            elif len(names) == 1 and isinstance(names[0], LiteralValue):
                items[names[0].value] = value
            else:
                self._add_use(names)
                items[key] = value
        return (ObjectValue(items, union(*spread)),)

    def _array(self, node: code_tree.Array) -> ValueSet:
        items = self._evaluate_items(node.items)
        return (ObjectValue(dict(enumerate(items))) if node.is_tuple else ListValue(union(*items)),)

    def _evaluate_items(self, nodes: Sequence[code_tree.Node]) -> list[ValueSet]:
        return [
            self._get_item(self.evaluate(node.value)) if isinstance(node, code_tree.Spread) else self.evaluate(node)
            for node in nodes
        ]

    def _comprehension(self, node: code_tree.Comprehension) -> ValueSet:
        present = self._present
        self._trace_clauses(node)
        if node.key is not None:
            self._add_use(self.evaluate(node.key))
        value = self.evaluate(node.element)
        self._present = present
        return (ListValue(value) if node.key is None else ObjectValue({node: value}),)

    def _trace_clauses(self, node: code_tree.Comprehension) -> None:
        for target, items, condition in node.clauses:
            self._bind_pattern(target, self._get_item(self.evaluate(items)), is_new=True)
            self._present |= self.test(condition).present

    # ── operations and conditions ───────────────────────────────────────────────────────

    def _operation(self, node: code_tree.Operation) -> ValueSet:
        if node.sign in _CONDITIONS:
            return self._test_operation(node, is_condition=False).value
        values = [self.evaluate(each) for each in node.operands]
        self._line = node.line or self._line
        for value, other in zip(values, reversed(node.operands), strict=True):
            self._add_use(self._expect_type(value, *self._get_operand_types(node.sign, other)))
        return UNTRACKED

    def _get_operand_types(self, sign: str, other: code_tree.Node) -> tuple[str, ...]:
        """Return the types of an operand of a calculation with *other*."""
        types = code_tree.get_literal_types(other)
        if sign == "+":
            return types if self._is_python else ()
        if self._is_python and (sign == "%" or (sign == "*" and types != ("number",))):
            return ()
        return (self._number,) if sign in {"-", "*", "/", "%"} else ()

    def test(self, node: code_tree.Node) -> Tested:
        """Evaluate a condition."""
        self._line = node.line or self._line
        match node:
            case code_tree.Operation(sign=sign) if sign in _CONDITIONS:
                return self._test_operation(node, is_condition=True)
            case code_tree.Call(function=code_tree.Name(name="all"), arguments=(code_tree.Comprehension() as each,)):
                before = self._present
                self._trace_clauses(each)
                tested, self._present = self.test(each.element), before
                return tested
        value = self.evaluate(node)
        paths = self._check_presence(value)
        self._add_use(exclude(value, PathValue, FunctionValue))
        return Tested(value, paths)

    def _test_operation(self, node: code_tree.Operation, *, is_condition: bool) -> Tested:
        self._count_step()
        match node.sign:
            case "and" | "or" | "??":
                return self._test_logical(node, is_condition=is_condition)
            case "not":
                tested = self.test(node.operands[0])
                return Tested(present=tested.otherwise, otherwise=tested.present)
            case "typeof":
                paths = self._check_presence(self.evaluate(node.operands[0]))
                for path in paths:
                    self._add_access("mixed_type", path)
                return Tested(present=paths)
            case "length" | "length?":
                owner = self.evaluate(node.operands[0])
                self._require_containers(self._chain(owner) if node.sign == "length?" else owner)
                return Tested(present=get_paths(owner))
            case "in":
                return Tested(present=self._test_key(*node.operands))
        return self._test_comparison(node.sign, *node.operands)

    def _test_logical(self, node: code_tree.Operation, *, is_condition: bool) -> Tested:
        """Trace `and`, `or` and `??`: each operand is evaluated only if those before it do not decide."""
        known, values = NO_PATHS, UNTRACKED
        for index, operand in enumerate(node.operands):
            is_last = index == len(node.operands) - 1
            is_tested = is_condition if is_last else node.sign != "??"
            with self._in_branch(known) if index else nullcontext():
                tested = self.test(operand) if is_tested else Tested(self.evaluate(operand))
                value = self._maybe(tested.value) if index else tested.value
            known |= tested.present if node.sign == "and" else tested.otherwise
            if is_last:
                values = union(values, value)
            elif node.sign != "and":
                values = union(values, with_presence(value, "default"))
                if node.sign == "??":
                    self._check_presence(value)
                if not self._is_python:
                    self._expect_type(value, *code_tree.get_default_types(node.operands[-1]))
        return Tested(values, known) if node.sign == "and" else Tested(values, NO_PATHS, known)

    def _test_key(self, left: code_tree.Node, right: code_tree.Node) -> Paths:
        """Trace `key in value`, where the value may also be a text or a list."""
        keys, value = self.evaluate(left), self.evaluate(right)
        self._line = left.line or self._line
        names = [key.value for key in select(keys, LiteralValue) if isinstance(key.value, str)]
        paths = {(*path, name) for path in get_paths(value) for name in names if len(names) == len(keys)}
        for path in paths:
            self._add_access("checks", path)
            self._add_access("tolerates", path)
        if not paths:
            items = right.items if isinstance(right, code_tree.Array) else ()
            kinds = {code_tree.get_literal_types(each) for each in items}
            self._add_use(self._expect_type(keys, *kinds.pop() if len(kinds) == 1 else ()))
            if self._is_python:
                self._add_use(value)
            else:
                self._get_dynamic_member(value)
        return frozenset(paths)

    def _test_comparison(self, sign: str, left: code_tree.Node, right: code_tree.Node) -> Tested:
        is_equality = sign in {"===", "=="}
        for each, other in ((left, right), (right, left)):
            if is_equality and isinstance(other, code_tree.Literal) and not other.types:
                return Tested(otherwise=self._check_presence(self.evaluate(each)))
        present = NO_PATHS
        for each, other in ((left, right), (right, left)):
            if isinstance(each, code_tree.Operation) and each.sign in {"length", "length?"}:
                paths = self._test_operation(each, is_condition=True).present
                present |= paths if sign == ">" and each is left else NO_PATHS
                continue
            value, types = self.evaluate(each), code_tree.get_literal_types(other)
            if is_equality:
                self._expect_type(value, *types if sign == "===" or types == ("string",) else ())
            elif types == ("number",):
                self._expect_type(value, self._number)
            self._add_use(value)
        return Tested(present=present)

    # ── assignments ─────────────────────────────────────────────────────────────────────

    def _assign(self, node: code_tree.Assign) -> ValueSet:
        value = self.evaluate(node.value)
        self._bind_pattern(node.target, value, is_new=node.is_new)
        return value

    def _bind_pattern(self, pattern: code_tree.Node, value: ValueSet, *, is_new: bool) -> None:
        """Assign *value* to the names of *pattern*."""
        self._line = pattern.line or self._line
        match pattern:
            case code_tree.Name(name=name):
                self._bind(name, value, is_new=is_new)
            case code_tree.Targets(targets=targets):
                for each in targets:
                    self._bind_pattern(each, value, is_new=is_new)
            case code_tree.Array(items=items):
                for index, each in enumerate(items):
                    self._bind_pattern(each, self._get_position(value, index, each), is_new=is_new)
            case code_tree.Object(entries=entries):
                for key, each in entries:
                    self._bind_pattern(each, self._get_entry(value, key, each), is_new=is_new)
            case code_tree.Spread(value=target):
                self._bind_pattern(target, (ListValue(value),), is_new=is_new)
            case code_tree.Default(target=target, default=default):
                with self._in_branch():
                    other = self._maybe(self.evaluate(default))
                self._bind_pattern(target, union(with_presence(value, "default"), other), is_new=is_new)
            case code_tree.Member():
                self._store(pattern, value)
            case _:
                self._add_use(union(value, self.evaluate(pattern)))

    def _get_position(self, value: ValueSet, index: int, pattern: code_tree.Node) -> ValueSet:
        """Return the item at *index* of *value*; only a tuple has another item at each index."""
        if isinstance(pattern, code_tree.Spread):
            return self._get_item(value)
        return union(self._get_member(select(value, ObjectValue), index), self._get_item(exclude(value, ObjectValue)))

    def _get_entry(self, value: ValueSet, key: code_tree.Node | None, pattern: code_tree.Node) -> ValueSet:
        """Return the value of *key* that an entry of an object's pattern takes from *value*; without a key, the remaining keys."""
        if key is None:
            return (ObjectValue({}, value),)
        if not isinstance(pattern, code_tree.Default):
            return self._get_members(value, self.evaluate(key))
        found = self._get_members(value, self.evaluate(key), "default")
        return self._expect_type(found, *code_tree.get_default_types(pattern.default))

    def _store(self, target: code_tree.Member, value: ValueSet) -> None:
        owner, keys = self.evaluate(target.owner), self.evaluate(target.key)
        objects = select(owner, ObjectValue)
        key = keys[0].value if len(keys) == 1 and isinstance(keys[0], LiteralValue) else None
        for each in objects if key is not None else ():
            each.items[key] = union(each.items.get(key, UNTRACKED), value) if self._branches else value
        if not objects or key is None:
            self._add_use(keys)
            self._add_use(value, "passes_on")

    def _bind(self, name: str, value: ValueSet, *, is_new: bool) -> None:
        """Bind *name* to *value*; in a branch, to the union with its earlier value."""
        owner = self._scope if is_new else (self._scope.find_scope(name) or self._scope)
        before = owner.names.get(name)
        if before is not None and not is_new:
            paths = get_paths(value)
            self._descents += [
                (outer, owner, name)
                for outer in get_paths(before)
                if any(len(path) > len(outer) and path[: len(outer)] == outer for path in paths)
            ]
            if self._branches:
                kept = (
                    with_presence((atom,), "default") if get_paths((atom,)) & self._absent else (atom,)
                    for atom in before
                )
                value = union(*kept, self._maybe(value))
        owner.names[name] = value

    # ── functions of the step ───────────────────────────────────────────────────────────

    def _trace_call(
        self, function: FunctionValue, arguments: Sequence[ValueSet], named: ObjectValue | None = None
    ) -> ValueSet:
        """Return the return value of *function* for *arguments*; a call within the same call is not traced."""
        by_name = {} if named is None else {str(name): value for name, value in named.items.items()}
        key = (function.node, tuple(arguments), tuple(sorted(by_name.items(), key=lambda pair: pair[0])))
        if key in self._active or len(self._returned) >= MAX_CALL_DEPTH or self._calls >= MAX_TRACED_CALLS:
            for value in [*arguments, *by_name.values()]:
                self._add_use(value, "escapes")
            return UNTRACKED
        self._calls += 1
        self._active.add(key)
        outer, self._scope = self._scope, Scope(function.scope)
        line, present = self._line, self._present
        self._returned.append(([], len(self._branches)))
        try:
            self._bind_parameters(function.node.parameters, arguments, by_name)
            value = self.evaluate(function.node.body)
            if not isinstance(function.node.body, code_tree.Block):
                self._add_return(value)
        finally:
            self._scope, self._line, self._present = outer, line, present
            self._active.discard(key)
            returned, _ = self._returned.pop()
        return union(*returned)

    def _bind_parameters(
        self, patterns: Sequence[code_tree.Node], arguments: Sequence[ValueSet], by_name: Mapping[str, ValueSet]
    ) -> None:
        given = list(arguments)
        for pattern in patterns:
            target = pattern.target if isinstance(pattern, code_tree.Default) else pattern
            value = UNTRACKED
            if isinstance(pattern, code_tree.Spread):
                value, given = union(*given), []
            elif given:
                target, value = target if self._is_python else pattern, given.pop(0)
            elif isinstance(target, code_tree.Name) and target.name in by_name:
                value = by_name[target.name]
            elif isinstance(pattern, code_tree.Default):
                value = self.evaluate(pattern.default)
            self._bind_pattern(target, value, is_new=True)

    def _add_return(self, value: ValueSet) -> None:
        """Record that the current function returns *value*; the entry point passes its value on."""
        if len(self._returned) == 1:
            self._add_use(value, "passes_on")
        if self._returned:
            values, branches = self._returned[-1]
            values.append(self._maybe(value) if len(self._branches) > branches else value)

    def _trace_calls(
        self, called: ValueSet, arguments: Sequence[ValueSet], named: ObjectValue | None = None
    ) -> ValueSet:
        """Return the return values of the functions of the step in *called*."""
        return union(*(self._trace_call(function, arguments, named) for function in select(called, FunctionValue)))

    # ── calls ───────────────────────────────────────────────────────────────────────────

    def _call(self, node: code_tree.Call) -> ValueSet:
        function, name = node.function, code_tree.get_dotted_name(node.function)
        if name and self._scope.find(name.partition(".")[0]) is None:
            arguments, named = self._evaluate_arguments(node)
            return self._call_builtin(node, code_builtins.FUNCTIONS.get(name, ""), name, arguments, named)
        if isinstance(function, code_tree.Member) and isinstance(function.key, code_tree.Literal):
            return self._call_method(node, function, str(function.key.value))
        return self._call_own(node, self.evaluate(function))

    def _evaluate_arguments(self, node: code_tree.Call) -> tuple[list[ValueSet], ObjectValue]:
        arguments = self._evaluate_items(node.arguments)
        (named,) = select(self._object(node.named), ObjectValue)
        return arguments, named

    def _call_own(self, node: code_tree.Call, called: ValueSet) -> ValueSet:
        """Trace a call of the functions in *called*."""
        arguments, named = self._evaluate_arguments(node)
        if not select(called, FunctionValue):
            self._pass_arguments(node, arguments, named, is_sent=bool(select(called, PlatformValue)))
        self._add_use(named.spread, "escapes")
        return self._trace_calls(called, arguments, named)

    def _pass_arguments(
        self, node: code_tree.Call, arguments: Sequence[ValueSet], named: ObjectValue, *, is_sent: bool
    ) -> None:
        """Record that a function whose code is not followed gets the arguments; if it sends or stores them, they are passed on."""
        lines = [each.line for each in (*node.arguments, *(value for _, value in node.named.entries))]
        for value, line in zip((*arguments, *named.items.values(), named.spread), [*lines, 0], strict=False):
            self._line = line or self._line
            self._add_use(value, "passes_on" if is_sent else "escapes")
            if is_sent:
                self._trace_calls(value, ())

    def _call_method(self, node: code_tree.Call, function: code_tree.Member, name: str) -> ValueSet:
        owner = self.evaluate(function.owner)
        own = union(*(each.items.get(name, UNTRACKED) for each in select(owner, ObjectValue)))
        if PlatformValue("this") in owner:
            own = self._get_member(self._methods, name)
        if select(own, FunctionValue):
            return self._call_own(node, own)
        arguments, named = self._evaluate_arguments(node)
        for atom in select(owner, PlatformValue):
            if name == "export" and atom.name in {"pd", "$"}:
                return self._call_builtin(node, "export", name, arguments, named)
            is_sent = not atom.name.startswith("this") or name in {"set", "push", "put"}
            self._pass_arguments(node, arguments, named, is_sent=is_sent)
            return UNTRACKED
        kind = code_builtins.METHODS.get(name, "")
        if node.is_chained or function.is_chained:
            owner = self._chain(owner)
        default = node.arguments[1] if kind == "get" and len(node.arguments) > 1 else None
        found = self._call_builtin(node, f"method_{kind}", name, [owner, *arguments], named)
        return self._expect_type(found, *code_tree.get_default_types(default))

    def _call_builtin(
        self, node: code_tree.Call, kind: str, name: str, arguments: list[ValueSet], named: ObjectValue
    ) -> ValueSet:
        """Trace a call of a function that the code does not bind, or of a method, whose owner is the first argument."""
        subject = arguments[0] if arguments else UNTRACKED
        match kind:
            case "loop" | "method_loop":
                return self._call_loop(name, arguments, named)
            case "method_reduce" | "path" | "zip" | "keys" | "export" | "encode" | "decode":
                act: Callable[[str, list[ValueSet]], ValueSet] = getattr(self, f"_call_{kind}")
                return act(name, arguments) if arguments else UNTRACKED
            case "same":
                return union(*arguments, (named,) if named.items or named.spread else UNTRACKED)
            case "method_join":
                items = self._get_item(union(*arguments[1:]) if self._is_python else subject)
                self._add_use(self._expect_type(items, *("string",) * self._is_python))
                return UNTRACKED
            case "index" | "scalar" | "number":
                types = (self._number,) if kind == "number" else ()
                self._add_use((*self._expect_type(union(*arguments), *types), named))
                return (ListValue(_INDEX),) if kind == "index" else UNTRACKED
            case "method_get" if len(arguments) > 1 and exclude(subject, ListValue, JsonTextValue):
                return self._call_get(name, arguments)
            case "method_entries" if len(arguments) == 1:
                return self._call_entries(name, subject)
        if kind.startswith("method_"):
            return self._call_other_method(node, kind.removeprefix("method_"), name, arguments, named)
        self._pass_arguments(node, arguments, named, is_sent=name.startswith(code_builtins.SENDERS))
        return UNTRACKED

    def _call_other_method(
        self, node: code_tree.Call, kind: str, name: str, arguments: list[ValueSet], named: ObjectValue
    ) -> ValueSet:
        owner, *rest = arguments
        paths = select(owner, PathValue)
        self._expect_type(paths, *code_builtins.TYPES.get(name, "").split())
        self._require_containers(paths)
        is_sender = code_tree.get_dotted_name(node.function).startswith(code_builtins.SENDERS)
        self._pass_arguments(node, rest, named, is_sent=bool(paths) or kind in {"store", "text"} or is_sender)
        if kind == "same":
            return owner
        if kind in {"item", "get"}:
            return self._get_member(owner, LIST_ITEM)
        self._add_use(exclude(owner, FunctionValue, ObjectValue, ListValue))
        return UNTRACKED

    def _call_get(self, name: str, arguments: list[ValueSet]) -> ValueSet:
        owner, keys, *default = arguments
        mode: LookupMode = "default" if default else "optional" if name == "get" else "plain"
        return union(self._get_members(owner, keys, mode), *default)

    def _call_entries(self, name: str, owner: ValueSet) -> ValueSet:
        if self._is_python or not select(owner, PathValue):
            return self._get_dynamic_member(owner)
        items = self._get_item(owner)  # only lists have these methods in Node.js
        pair: ValueSet = (ObjectValue({0: _INDEX, 1: items}),)
        return (ListValue({"keys": _INDEX, "values": items}.get(name, pair)),)

    def _call_loop(self, name: str, arguments: list[ValueSet], named: ObjectValue) -> ValueSet:
        """Trace a function or method that goes over the items of its subject and may call a function for each."""
        subject, *rest = arguments or [UNTRACKED]
        items = self._get_item(subject)
        functions: ValueSet = select(union(*rest, named.items.get("key", UNTRACKED)), FunctionValue)
        second = items if "ort" in name else _INDEX
        found = self._trace_calls(functions, [items, second, subject])
        if not functions and name not in code_builtins.LOOPS_WITHOUT_USE:
            self._add_use(self._expect_type(items, *("number",) * (name == "sum")))
        if name in code_builtins.TESTS:
            self._check_presence(found)
        match code_builtins.LOOP_RESULTS.get(name):
            case "results":
                return (ListValue(found),)
            case "items":
                return (ListValue(items),)
            case "item":
                self._add_use(exclude(union(*rest), FunctionValue))
                return (
                    with_presence(items, "optional") if name.startswith("find") or (name == "next" and rest) else items
                )
        match name:
            case "flatMap":
                return (ListValue(self._get_item(found)),)
            case "Array.from":
                return (ListValue(found if functions else items),)
        return subject if "ort" in name else UNTRACKED

    def _call_method_reduce(self, _: str, arguments: list[ValueSet]) -> ValueSet:
        owner, function, *start = [*arguments, UNTRACKED][: max(2, len(arguments))]
        items = self._get_item(owner)
        before = union(*start) if start else items
        if get_paths(before) and select(items, LiteralValue):
            return self._get_dynamic_member(before)  # descends by computed keys
        return union(before, self._trace_calls(function, [before, items, _INDEX, owner]))

    def _call_path(self, _: str, arguments: list[ValueSet]) -> ValueSet:
        owner, keys, *default = arguments if len(arguments) > 1 else [*arguments, UNTRACKED]
        if len(keys) != 1 or not isinstance(keys[0], LiteralValue):
            return union(self._get_members(owner, keys), *default)
        for key in str(keys[0].value).replace("[", ".").replace("]", "").split("."):
            owner = self._get_member(self._chain(owner), LIST_ITEM if key.isdigit() else key)
        return union(owner, *default)

    def _call_zip(self, name: str, arguments: list[ValueSet]) -> ValueSet:
        items = [self._get_item(each) for each in arguments]
        return (ListValue((ObjectValue(dict(enumerate([_INDEX, *items] if name == "enumerate" else items))),)),)

    def _call_keys(self, name: str, arguments: list[ValueSet]) -> ValueSet:
        self._require_containers(arguments[0])
        found: ValueSet = (ListValue(self._get_dynamic_member(arguments[0])),)
        return found if name == "Object.values" else (ListValue(found),) if name == "Object.entries" else UNTRACKED

    def _call_export(self, _: str, arguments: list[ValueSet]) -> ValueSet:
        for name in select(arguments[0], LiteralValue) if len(arguments) == 2 else ():
            self.exports.setdefault(str(name.value), []).append(arguments[1])
        for value in arguments:
            self._add_use(value, "passes_on")
        return UNTRACKED

    def _call_encode(self, _: str, arguments: list[ValueSet]) -> ValueSet:
        return (JsonTextValue(arguments[0]),)

    def _call_decode(self, _: str, arguments: list[ValueSet]) -> ValueSet:
        """Return the value behind JSON text that the code has encoded; JSON text in the event is not followed."""
        self._add_use(self._expect_type(select(arguments[0], PathValue), "string"))
        return union(*(text.parsed for text in select(arguments[0], JsonTextValue)))


def _is_calculation(node: code_tree.Node) -> bool:
    """Return whether *node* can only be a number: `i + 1`, `-1`, `len(x) - 1`."""
    if not isinstance(node, code_tree.Operation):
        return False
    return node.sign in {"+", "-"} and code_tree.get_literal_types(node.operands[-1]) == ("number",)

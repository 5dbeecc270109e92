"""
Tracing of Python expressions with `ast`: lookups, operators, conditions and assignments.

Calls are in `python_calls`, statements in `python_trace`.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

from pdkernel.analysis.abstract_values import (
    LIST_ITEM,
    UNTRACKED,
    FieldPath,
    FunctionValue,
    ListValue,
    LiteralValue,
    ObjectValue,
    PathValue,
    PlatformValue,
    ValueSet,
    exclude,
    select,
    union,
)
from pdkernel.analysis.trace import NO_PATHS, ConditionPaths, StepTracer


class PythonExpressionTracer(StepTracer):
    """A trace of Python expressions."""

    fails_on_missing_key: ClassVar[bool] = True

    def evaluate(self, node: ast.expr | None) -> ValueSet:
        """The value set of *node*; its accesses are recorded."""
        if node is None:
            return UNTRACKED
        self.line = getattr(node, "lineno", self.line)
        act: Callable[[Any], ValueSet] | None = getattr(self, f"_{type(node).__name__.lower()}", None)
        if act is not None:
            return act(node)
        self._use_children(node)
        return UNTRACKED

    def _use_children(self, node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.add_use(self.evaluate(child))
            elif isinstance(child, ast.keyword | ast.FormattedValue):
                self._use_children(child)

    # ── names and keys ─────────────────────────────────────────────────────────────

    def _name(self, node: ast.Name) -> ValueSet:
        return self.scope.find(node.id) or UNTRACKED

    def _constant(self, node: ast.Constant) -> ValueSet:
        if isinstance(node.value, bool) or not isinstance(node.value, str | int):
            return UNTRACKED
        return (LiteralValue(node.value),)

    def _attribute(self, node: ast.Attribute) -> ValueSet:
        value = self.evaluate(node.value)
        if PlatformValue("pd") in value:
            return (PathValue(()),) if node.attr == "steps" else (PlatformValue(f"pd.{node.attr}"),)
        if any(isinstance(atom, PlatformValue) and atom.name == "self" for atom in value):
            return self.get_member(value, node.attr)
        self.add_use(exclude(value, FunctionValue))
        return UNTRACKED

    def _subscript(self, node: ast.Subscript) -> ValueSet:
        value = self.evaluate(node.value)
        if isinstance(node.slice, ast.Slice):
            self._use_children(node.slice)
            return value
        keys = self.evaluate(node.slice)
        self.line = node.lineno
        minus = isinstance(node.slice, ast.UnaryOp) and isinstance(node.slice.operand, ast.Constant)
        if minus or (keys and all(isinstance(atom, LiteralValue) and isinstance(atom.value, int) for atom in keys)):
            return self._item(value, None if minus else keys)
        if not keys and _is_calculation(node.slice):
            return self._item(value, None)
        return self.get_members(value, keys)

    def _item(self, value: ValueSet, keys: ValueSet | None) -> ValueSet:
        places = select(value, PathValue)
        self.expect_type(places, "array")
        written = exclude(value, PathValue)
        exact = self.get_members(written, keys) if keys else self.get_dynamic_member(written)
        tuples = union(
            *(
                atom.items.get(key.value, UNTRACKED)
                for atom in written
                for key in keys or ()
                if isinstance(atom, ObjectValue) and isinstance(key, LiteralValue)
            )
        )
        return union(self.get_member(places, LIST_ITEM), exact, tuples)

    def _starred(self, node: ast.Starred) -> ValueSet:
        return (ListValue(self.get_item(self.evaluate(node.value))),)

    def _await(self, node: ast.Await) -> ValueSet:
        return self.evaluate(node.value)

    def _namedexpr(self, node: ast.NamedExpr) -> ValueSet:
        value = self.evaluate(node.value)
        self.bind(node.target.id, value)
        return value

    # ── literals ────────────────────────────────────────────────────────────

    def _dict(self, node: ast.Dict) -> ValueSet:
        items: dict[Any, ValueSet] = {}
        bases: list[ValueSet] = []
        for key, each in zip(node.keys, node.values, strict=True):
            value = self.evaluate(each)
            if key is None:
                bases.append(value)
                continue
            names = self.evaluate(key)
            if len(names) == 1 and isinstance(names[0], LiteralValue):
                items[names[0].value] = value
            else:
                self.add_use(names)
                items[("?", id(key))] = value
        return (ObjectValue(items, union(*bases)),)

    def _list(self, node: ast.List | ast.Set) -> ValueSet:
        return (ListValue(union(*(self._item_of(each) for each in node.elts))),)

    _set = _list

    def _item_of(self, node: ast.expr) -> ValueSet:
        if isinstance(node, ast.Starred):
            return self.get_item(self.evaluate(node.value))
        return self.evaluate(node)

    def _tuple(self, node: ast.Tuple) -> ValueSet:
        if any(isinstance(each, ast.Starred) for each in node.elts):
            return (ListValue(union(*(self._item_of(each) for each in node.elts))),)
        return (ObjectValue({index: self.evaluate(each) for index, each in enumerate(node.elts)}),)

    def _joinedstr(self, node: ast.JoinedStr) -> ValueSet:
        self._use_children(node)
        return UNTRACKED

    def _lambda(self, node: ast.Lambda) -> ValueSet:
        return (FunctionValue(node, self.scope),)

    def _listcomp(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp) -> ValueSet:
        return (ListValue(self._evaluate_comprehension(node.generators, lambda: self.evaluate(node.elt))),)

    _setcomp = _generatorexp = _listcomp

    def _dictcomp(self, node: ast.DictComp) -> ValueSet:
        def act() -> ValueSet:
            self.add_use(self.evaluate(node.key))
            return self.evaluate(node.value)

        return (ObjectValue({("?", id(node)): self._evaluate_comprehension(node.generators, act)}),)

    def _evaluate_comprehension(self, generators: Sequence[ast.comprehension], act: Callable[[], ValueSet]) -> ValueSet:
        if not generators:
            return act()
        first, *rest = generators
        self.assign(first.target, self.get_item(self.evaluate(first.iter)), new=True)
        present = NO_PATHS
        for condition in first.ifs:
            with self.assuming(present):
                present |= self.evaluate_condition(condition)[0]
        with self.assuming(present):
            return self._evaluate_comprehension(rest, act)

    # ── operators ──────────────────────────────────────────────────────────────────

    def _binop(self, node: ast.BinOp) -> ValueSet:
        left, right = self.evaluate(node.left), self.evaluate(node.right)
        self.line = node.lineno
        if isinstance(node.op, ast.Mod) and isinstance(node.left, ast.Constant | ast.JoinedStr):
            self.add_use(right)
            return UNTRACKED
        for value, other in ((left, node.right), (right, node.left)):
            if isinstance(node.op, ast.Add):
                types = _get_literal_types(other)
                if types:
                    self.expect_type(value, *types)
            elif not isinstance(node.op, ast.BitOr | ast.BitAnd | ast.Mult | ast.Mod) or (
                isinstance(node.op, ast.Mult) and _is_number(other)
            ):
                self.expect_type(value, "number")
            self.add_use(value)
        return UNTRACKED

    def _boolop(self, node: ast.BoolOp) -> ValueSet:
        found: list[ValueSet] = []
        present = NO_PATHS
        for index, each in enumerate(node.values):
            last = index == len(node.values) - 1

            def act(each: ast.expr = each, last: bool = last) -> ValueSet:
                nonlocal present
                if last:
                    return self.evaluate(each)
                tested = self.evaluate_condition(each)
                present |= tested[0 if isinstance(node.op, ast.And) else 1]
                return self.evaluate_silently(each)

            value = act() if index == 0 else self.trace_optional_branch(present, NO_PATHS, act)
            if isinstance(node.op, ast.Or) and not last:
                value = self.with_default(value)
            if isinstance(node.op, ast.Or) or last:
                found.append(value)
        return union(*found)

    def _ifexp(self, node: ast.IfExp) -> ValueSet:
        there, missing = self.evaluate_condition(node.test)
        return self.trace_branches(
            (there, missing, lambda: self.evaluate(node.body)), (missing, there, lambda: self.evaluate(node.orelse))
        )

    def _unaryop(self, node: ast.UnaryOp) -> ValueSet:
        if isinstance(node.op, ast.Not):
            self.evaluate_condition(node)
            return UNTRACKED
        self.add_use(self.expect_type(self.evaluate(node.operand), "number"))
        return UNTRACKED

    def _compare(self, node: ast.Compare) -> ValueSet:
        self.evaluate_condition(node)
        return UNTRACKED

    # ── conditions ──────────────────────────────────────────────────────────────────────

    def evaluate_condition(self, node: ast.expr) -> ConditionPaths:
        """Trace a condition."""
        self.line = getattr(node, "lineno", self.line)
        match node:
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                there, missing = self.evaluate_condition(operand)
                return missing, there
            case ast.BoolOp(op=op, values=values):
                return self._test_all(values, isinstance(op, ast.And))
            case ast.Compare():
                return self._test_comparison(node)
            case ast.Call(func=ast.Name(id="isinstance"), args=[value, _]):
                return self.type_check(self.evaluate(value)), NO_PATHS
            case ast.Call(func=ast.Name(id="len" | "bool"), args=[value]):
                return self.evaluate_condition(value)[0], NO_PATHS
            case ast.Call(func=ast.Name(id="all"), args=[ast.GeneratorExp() | ast.ListComp() as each]):
                return self._evaluate_all(each), NO_PATHS
            case ast.NamedExpr():
                return self.presence_check(self.evaluate(node)), NO_PATHS
        return self.truth_check(self.evaluate(node)), NO_PATHS

    def _evaluate_all(self, node: ast.GeneratorExp | ast.ListComp) -> frozenset[FieldPath]:
        found: list[frozenset[FieldPath]] = []

        def act() -> ValueSet:
            found.append(self.evaluate_condition(node.elt)[0])
            return UNTRACKED

        self._evaluate_comprehension(node.generators, act)
        return NO_PATHS.union(*found)

    def _test_all(self, values: Sequence[ast.expr], is_and: bool) -> ConditionPaths:
        return self.trace_logical(*(partial(self.evaluate_condition, each) for each in values), is_and=is_and)

    def _test_comparison(self, node: ast.Compare) -> ConditionPaths:
        left, operator, right = node.left, node.ops[0], node.comparators[0]
        if len(node.ops) > 1:
            for each in (left, *node.comparators):
                self.add_use(self.expect_type(self.evaluate(each), "number"))
            return NO_PATHS, NO_PATHS
        if isinstance(operator, ast.In | ast.NotIn):
            places = self._test_in(left, right)
            return (places, NO_PATHS) if isinstance(operator, ast.In) else (NO_PATHS, places)
        if isinstance(right, ast.Constant) and (right.value is None or right.value == ""):
            places = self.presence_check(self.evaluate(left))
            return (NO_PATHS, places) if isinstance(operator, ast.Is | ast.Eq) else (places, NO_PATHS)
        for each, other in ((left, right), (right, left)):
            value = self.evaluate(each)
            types = _get_literal_types(other)
            if types and isinstance(operator, ast.Eq | ast.NotEq | ast.Is | ast.IsNot):
                self.expect_type(value, *types)
            elif _is_number(other):
                self.expect_type(value, "number")
            self.add_use(value)
        return NO_PATHS, NO_PATHS

    def _test_in(self, left: ast.expr, right: ast.expr) -> frozenset[FieldPath]:
        keys, value = self.evaluate(left), self.evaluate(right)
        self.line = left.lineno
        names = [atom.value for atom in keys if isinstance(atom, LiteralValue) and isinstance(atom.value, str)]
        if names and len(names) == len(keys) and select(value, PathValue):
            return frozenset().union(*(self.key_check(value, name) for name in names))
        if isinstance(right, ast.Tuple | ast.List | ast.Set) and right.elts:
            kinds = {_get_literal_types(each) for each in right.elts}
            if len(kinds) == 1 and (types := kinds.pop()):
                self.expect_type(keys, *types)
        self.add_use(keys)
        self.add_use(value)
        return NO_PATHS

    # ── assignments ──────────────────────────────────────────────────────────────────

    def assign(self, target: ast.expr, value: ValueSet, *, new: bool = False) -> None:
        """Assign *value* to *target*."""
        match target:
            case ast.Name(id=name):
                self.bind(name, value, new=new)
            case ast.Tuple(elts=targets) | ast.List(elts=targets):
                for index, each in enumerate(targets):
                    self.assign(each, self.get_position(value, index), new=new)
            case ast.Starred(value=inner):
                self.assign(inner, (ListValue(value),), new=new)
            case ast.Subscript(value=owner, slice=key):
                self._store(self.evaluate(owner), self.evaluate(key), value)
            case ast.Attribute(value=owner, attr=name):
                self._store(self.evaluate(owner), (LiteralValue(name),), value)

    def _store(self, owner: ValueSet, keys: ValueSet, value: ValueSet) -> None:
        key = keys[0].value if len(keys) == 1 and isinstance(keys[0], LiteralValue) else None
        objects = [atom.items for atom in owner if isinstance(atom, ObjectValue) and isinstance(atom.items, dict)]
        for items in objects if key is not None else ():
            items[key] = value
        if not objects or key is None:
            self.add_use(value, "passes_on")


def _is_calculation(node: ast.expr) -> bool:
    """Whether *node* can only be a number: `i + 1`, `len(x) - 1`."""
    return isinstance(node, ast.BinOp) and _is_number(node.right)


def _is_number(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool)


def _get_literal_types(node: ast.expr) -> tuple[str, ...]:
    """The types of the literal *node*; a value that is compared with it, or added to it, has these types."""
    match node:
        case ast.JoinedStr():
            return ("string",)
        case ast.Constant(value=bool()):
            return ("boolean",)
        case ast.Constant(value=str()):
            return ("string",)
        case ast.Constant(value=int() | float()):
            return ("number",)
        case ast.List():
            return ("array",)
    return ()


def get_dotted_name(node: ast.expr) -> str:
    """The dotted name `a.b.c` of *node*, else empty."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    return ".".join(reversed([*parts, node.id]))

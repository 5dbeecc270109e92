"""
Python expressions, followed through `ast`.

Knows how Python looks a key up, tests and calls. Statements are `python_reader`'s.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

from pdkernel.contract.trace import NONE, Tested, Trace
from pdkernel.contract.values import (
    ITEM,
    NOTHING,
    At,
    Known,
    Literally,
    Object,
    Place,
    Routine,
    Several,
    Value,
    either,
)


class PythonExpressions(Trace):
    """A walk through Python expressions."""

    fails_at_once: ClassVar[bool] = True

    def of(self, node: ast.expr | None) -> Value:
        """What *node* stands for; what it reads on the way is noted."""
        if node is None:
            return NOTHING
        self.line = getattr(node, "lineno", self.line)
        act: Callable[[Any], Value] | None = getattr(self, f"_{type(node).__name__.lower()}", None)
        if act is not None:
            return act(node)
        self._use_below(node)
        return NOTHING

    def _use_below(self, node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.use(self.of(child))
            elif isinstance(child, ast.keyword | ast.FormattedValue):
                self._use_below(child)

    # ── names and keys ─────────────────────────────────────────────────────────────

    def _name(self, node: ast.Name) -> Value:
        return self.scope.find(node.id) or NOTHING

    def _constant(self, node: ast.Constant) -> Value:
        if isinstance(node.value, bool) or not isinstance(node.value, str | int):
            return NOTHING
        return (Literally(node.value),)

    def _attribute(self, node: ast.Attribute) -> Value:
        value = self.of(node.value)
        if Known("pd") in value:
            return (At(()),) if node.attr == "steps" else (Known(f"pd.{node.attr}"),)
        if any(isinstance(atom, Known) and atom.name == "self" for atom in value):
            return self.member(value, node.attr)
        self.use(tuple(atom for atom in value if not isinstance(atom, Routine)))
        return NOTHING

    def _subscript(self, node: ast.Subscript) -> Value:
        value = self.of(node.value)
        if isinstance(node.slice, ast.Slice):
            self._use_below(node.slice)
            return value
        keys = self.of(node.slice)
        self.line = node.lineno
        minus = isinstance(node.slice, ast.UnaryOp) and isinstance(node.slice.operand, ast.Constant)
        if minus or (keys and all(isinstance(atom, Literally) and isinstance(atom.value, int) for atom in keys)):
            return self._item(value, None if minus else keys)
        if not keys and _counts(node.slice):
            return self._item(value, None)
        return self.at_keys(value, keys)

    def _item(self, value: Value, keys: Value | None) -> Value:
        places = tuple(atom for atom in value if isinstance(atom, At))
        self.typed(places, "array")
        written = tuple(atom for atom in value if not isinstance(atom, At))
        exact = self.at_keys(written, keys) if keys else self.dynamic(written)
        tuples = either(
            *(
                atom.items.get(key.value, NOTHING)
                for atom in written
                for key in keys or ()
                if isinstance(atom, Object) and isinstance(key, Literally)
            )
        )
        return either(self.member(places, ITEM), exact, tuples)

    def _starred(self, node: ast.Starred) -> Value:
        return (Several(self.iterate(self.of(node.value))),)

    def _await(self, node: ast.Await) -> Value:
        return self.of(node.value)

    def _namedexpr(self, node: ast.NamedExpr) -> Value:
        value = self.of(node.value)
        self.bind(node.target.id, value)
        return value

    # ── what is written ────────────────────────────────────────────────────────────

    def _dict(self, node: ast.Dict) -> Value:
        items: dict[Any, Value] = {}
        bases: list[Value] = []
        for key, each in zip(node.keys, node.values, strict=True):
            value = self.of(each)
            if key is None:
                bases.append(value)
                continue
            names = self.of(key)
            if len(names) == 1 and isinstance(names[0], Literally):
                items[names[0].value] = value
            else:
                self.use(names)
                items[("?", id(key))] = value
        return (Object(items, either(*bases)),)

    def _list(self, node: ast.List | ast.Set) -> Value:
        return (Several(either(*(self._item_of(each) for each in node.elts))),)

    _set = _list

    def _item_of(self, node: ast.expr) -> Value:
        if isinstance(node, ast.Starred):
            return self.iterate(self.of(node.value))
        return self.of(node)

    def _tuple(self, node: ast.Tuple) -> Value:
        if any(isinstance(each, ast.Starred) for each in node.elts):
            return (Several(either(*(self._item_of(each) for each in node.elts))),)
        return (Object({index: self.of(each) for index, each in enumerate(node.elts)}),)

    def _joinedstr(self, node: ast.JoinedStr) -> Value:
        self._use_below(node)
        return NOTHING

    def _lambda(self, node: ast.Lambda) -> Value:
        return (Routine(node, self.scope),)

    def _listcomp(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp) -> Value:
        return (Several(self._comprehended(node.generators, lambda: self.of(node.elt))),)

    _setcomp = _generatorexp = _listcomp

    def _dictcomp(self, node: ast.DictComp) -> Value:
        def act() -> Value:
            self.use(self.of(node.key))
            return self.of(node.value)

        return (Object({("?", id(node)): self._comprehended(node.generators, act)}),)

    def _comprehended(self, generators: Sequence[ast.comprehension], act: Callable[[], Value]) -> Value:
        if not generators:
            return act()
        first, *rest = generators
        self.assign(first.target, self.iterate(self.of(first.iter)), new=True)
        present = NONE
        for condition in first.ifs:
            with self.given(present):
                present |= self.test(condition)[0]
        with self.given(present):
            return self._comprehended(rest, act)

    # ── operators ──────────────────────────────────────────────────────────────────

    def _binop(self, node: ast.BinOp) -> Value:
        left, right = self.of(node.left), self.of(node.right)
        self.line = node.lineno
        if isinstance(node.op, ast.Mod) and isinstance(node.left, ast.Constant | ast.JoinedStr):
            self.use(right)
            return NOTHING
        for value, other in ((left, node.right), (right, node.left)):
            if isinstance(node.op, ast.Add):
                types = _type_of_text(other)
                if types:
                    self.typed(value, *types)
            elif not isinstance(node.op, ast.BitOr | ast.BitAnd | ast.Mult | ast.Mod) or (
                isinstance(node.op, ast.Mult) and _is_number(other)
            ):
                self.typed(value, "number")
            self.use(value)
        return NOTHING

    def _boolop(self, node: ast.BoolOp) -> Value:
        found: list[Value] = []
        present = NONE
        for index, each in enumerate(node.values):
            last = index == len(node.values) - 1

            def act(each: ast.expr = each, last: bool = last) -> Value:
                nonlocal present
                if last:
                    return self.of(each)
                tested = self.test(each)
                present |= tested[0 if isinstance(node.op, ast.And) else 1]
                return self._quietly(each)

            value = act() if index == 0 else self.alone(present, NONE, act)
            if isinstance(node.op, ast.Or) and not last:
                value = self.handed(value)
            if isinstance(node.op, ast.Or) or last:
                found.append(value)
        return either(*found)

    def _quietly(self, node: ast.expr) -> Value:
        """What *node* stands for, without the notes: it was read already."""
        count = len(self.notes)
        value = self.of(node)
        del self.notes[count:]
        return value

    def _ifexp(self, node: ast.IfExp) -> Value:
        there, missing = self.test(node.test)
        return self.branches(
            (there, missing, lambda: self.of(node.body)), (missing, there, lambda: self.of(node.orelse))
        )

    def _unaryop(self, node: ast.UnaryOp) -> Value:
        if isinstance(node.op, ast.Not):
            self.test(node)
            return NOTHING
        self.use(self.typed(self.of(node.operand), "number"))
        return NOTHING

    def _compare(self, node: ast.Compare) -> Value:
        self.test(node)
        return NOTHING

    # ── tests ──────────────────────────────────────────────────────────────────────

    def test(self, node: ast.expr) -> Tested:
        """Follow a test."""
        self.line = getattr(node, "lineno", self.line)
        match node:
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                there, missing = self.test(operand)
                return missing, there
            case ast.BoolOp(op=op, values=values):
                return self._test_all(values, isinstance(op, ast.And))
            case ast.Compare():
                return self._test_comparison(node)
            case ast.Call(func=ast.Name(id="isinstance"), args=[value, _]):
                return self.in_any_type(self.of(value)), NONE
            case ast.Call(func=ast.Name(id="len" | "bool"), args=[value]):
                return self.test(value)[0], NONE
            case ast.Call(func=ast.Name(id="all"), args=[ast.GeneratorExp() | ast.ListComp() as each]):
                return self._test_each(each), NONE
            case ast.NamedExpr():
                return self.glance(self.of(node)), NONE
        found = self.of(node)
        places = self.glance(found)
        self.use(tuple(atom for atom in found if not isinstance(atom, At | Routine)))
        return places, NONE

    def _test_each(self, node: ast.GeneratorExp | ast.ListComp) -> frozenset[Place]:
        found: list[frozenset[Place]] = []

        def act() -> Value:
            found.append(self.test(node.elt)[0])
            return NOTHING

        self._comprehended(node.generators, act)
        return NONE.union(*found)

    def _test_all(self, values: Sequence[ast.expr], is_and: bool) -> Tested:
        return self.both(*(partial(self.test, each) for each in values), is_and=is_and)

    def _test_comparison(self, node: ast.Compare) -> Tested:
        left, operator, right = node.left, node.ops[0], node.comparators[0]
        if len(node.ops) > 1:
            for each in (left, *node.comparators):
                self.use(self.typed(self.of(each), "number"))
            return NONE, NONE
        if isinstance(operator, ast.In | ast.NotIn):
            places = self._test_in(left, right)
            return (places, NONE) if isinstance(operator, ast.In) else (NONE, places)
        if isinstance(right, ast.Constant) and (right.value is None or right.value == ""):
            places = self.glance(self.of(left))
            return (NONE, places) if isinstance(operator, ast.Is | ast.Eq) else (places, NONE)
        for each, other in ((left, right), (right, left)):
            value = self.of(each)
            types = _type_of_text(other)
            if types and isinstance(operator, ast.Eq | ast.NotEq | ast.Is | ast.IsNot):
                self.typed(value, *types)
            elif _is_number(other):
                self.typed(value, "number")
            self.use(value)
        return NONE, NONE

    def _test_in(self, left: ast.expr, right: ast.expr) -> frozenset[Place]:
        keys, value = self.of(left), self.of(right)
        self.line = left.lineno
        names = [atom.value for atom in keys if isinstance(atom, Literally) and isinstance(atom.value, str)]
        if names and len(names) == len(keys) and any(isinstance(atom, At) for atom in value):
            return frozenset().union(*(self.looked_for(value, name) for name in names))
        if isinstance(right, ast.Tuple | ast.List | ast.Set) and right.elts:
            kinds = {_type_of_text(each) for each in right.elts}
            if len(kinds) == 1 and (types := kinds.pop()):
                self.typed(keys, *types)
        self.use(keys)
        self.use(value)
        return NONE

    # ── assigning ──────────────────────────────────────────────────────────────────

    def assign(self, target: ast.expr, value: Value, *, new: bool = False) -> None:
        """*target* stands for *value* from here on."""
        match target:
            case ast.Name(id=name):
                self.bind(name, value, new=new)
            case ast.Tuple(elts=targets) | ast.List(elts=targets):
                for index, each in enumerate(targets):
                    self.assign(each, self._nth(value, index), new=new)
            case ast.Starred(value=inner):
                self.assign(inner, (Several(value),), new=new)
            case ast.Subscript(value=owner, slice=key):
                self._store(self.of(owner), self.of(key), value)
            case ast.Attribute(value=owner, attr=name):
                self._store(self.of(owner), (Literally(name),), value)

    def _nth(self, value: Value, index: int) -> Value:
        tuples = tuple(atom for atom in value if isinstance(atom, Object))
        others = tuple(atom for atom in value if not isinstance(atom, Object))
        return either(self.member(tuples, index), self.iterate(others))

    def _store(self, owner: Value, keys: Value, value: Value) -> None:
        key = keys[0].value if len(keys) == 1 and isinstance(keys[0], Literally) else None
        objects = [atom.items for atom in owner if isinstance(atom, Object) and isinstance(atom.items, dict)]
        for items in objects if key is not None else ():
            items[key] = value
        if not objects or key is None:
            self.use(value, "whole")


def _counts(node: ast.expr) -> bool:
    """Whether *node* can only be a number: `i + 1`, `len(x) - 1`."""
    return isinstance(node, ast.BinOp) and _is_number(node.right)


def _is_number(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool)


def _type_of_text(node: ast.expr) -> tuple[str, ...]:
    """What a literal tells of what it is compared with or added to."""
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


def dotted(node: ast.expr) -> str:
    """`a.b.c` as it is written, else nothing."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    return ".".join(reversed([*parts, node.id]))

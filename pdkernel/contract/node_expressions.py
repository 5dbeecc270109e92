"""
JavaScript expressions, followed through tree-sitter.

Knows how JavaScript looks a key up, takes apart, tests and puts defaults. Calls are `node_calls`', statements
`node_reader`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from tree_sitter import Node

from pdkernel.contract.node_syntax import default_type, named, part, text_of
from pdkernel.contract.node_tests import ARITHMETIC, EQUALS, NodeTests
from pdkernel.contract.trace import NONE
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
from pdkernel.expression import javascript


class NodeExpressions(NodeTests):
    """A walk through JavaScript expressions."""

    methods: Value = NOTHING
    first_line = 1

    def of(self, node: Node | None) -> Value:
        """What *node* stands for; what it reads on the way is noted."""
        if node is None:
            return NOTHING
        self.at(node)
        act: Callable[[Node], Value] | None = getattr(self, f"_{node.type}", None)
        if act is not None:
            return act(node)
        for child in named(node):
            self.use(self.of(child))
        return NOTHING

    def at(self, node: Node) -> None:
        """The walk is at *node*."""
        self.line = node.start_point[0] + self.first_line

    # ── names and keys ─────────────────────────────────────────────────────────────

    def _identifier(self, node: Node) -> Value:
        return self.scope.find(text_of(node)) or NOTHING

    def _this(self, _: Node) -> Value:
        return (Known("this"),)

    def _string(self, node: Node) -> Value:
        value = javascript.string_value(node)
        return NOTHING if value is None else (Literally(value),)

    def _number(self, node: Node) -> Value:
        return (Literally(int(text_of(node))),) if text_of(node).isdigit() else NOTHING

    def _template_string(self, node: Node) -> Value:
        substitutions = [child for child in node.named_children if child.type == "template_substitution"]
        for each in substitutions:
            for inner in named(each):
                self.use(self.of(inner))
        return NOTHING if substitutions else self._string(node)

    def _parenthesized_expression(self, node: Node) -> Value:
        return either(*(self.of(child) for child in named(node)))

    _await_expression = _parenthesized_expression

    def _sequence_expression(self, node: Node) -> Value:
        values = [self.of(child) for child in named(node)]
        return values[-1] if values else NOTHING

    def _member_expression(self, node: Node) -> Value:
        owner, name = self.of(part(node, "object")), text_of(part(node, "property"))
        self.at(node)
        chained = part(node, "optional_chain") is not None
        known = self._platform_member(owner, name)
        if known is not None:
            return known
        if name == "length":
            self.count_on(owner, chained=chained)
            return NOTHING
        return self.member(owner, name, chained=chained)

    def _platform_member(self, owner: Value, name: str) -> Value | None:
        for atom in owner:
            if isinstance(atom, Known):
                method = self.member(self.methods, name) if atom.name == "this" else NOTHING
                return method or (Known(f"{atom.name}.{name}"),)
        return None

    def _subscript_expression(self, node: Node) -> Value:
        owner, keys = self.of(part(node, "object")), self.of(part(node, "index"))
        self.at(node)
        chained = part(node, "optional_chain") is not None
        if len(keys) == 1 and isinstance(keys[0], Literally) and isinstance(keys[0].value, str):
            known = self._platform_member(owner, keys[0].value)
            if known is not None:
                return known
        if keys == (Known("index"),):
            return self.iterate(owner, soft=chained)
        if keys and all(isinstance(atom, Literally) and isinstance(atom.value, int) for atom in keys):
            self.typed(owner, "array")
            return self.member(owner, ITEM, chained=chained)
        return self.at_keys(owner, keys, chained=chained)

    def count_on(self, owner: Value, *, chained: bool) -> None:
        """The code looks something of *owner* up that only JavaScript gives: nothing has none."""
        for atom in owner:
            if isinstance(atom, At):
                self._stand_on(atom, chained=chained)

    # ── what is written ────────────────────────────────────────────────────────────

    def _object(self, node: Node) -> Value:
        items: dict[Any, Value] = {}
        bases: list[Value] = []
        for child in named(node):
            if child.type == "spread_element":
                bases += [self.of(inner) for inner in named(child)]
            elif child.type == "shorthand_property_identifier":
                items[text_of(child)] = self._identifier(child)
            elif child.type == "method_definition":
                items[javascript.key_of(child) or ("?", child.id)] = (Routine(child, self.scope),)
            elif child.type == "pair":
                key = part(child, "key")
                if key is not None and key.type == "computed_property_name":
                    self.use(self.of(key))
                items[javascript.key_of(child) or ("?", child.id)] = self.of(part(child, "value"))
        return (Object(items, either(*bases)),)

    def _array(self, node: Node) -> Value:
        return (Several(either(*self.listed(named(node)))),)

    def listed(self, nodes: Iterable[Node]) -> list[Value]:
        """What each of *nodes* stands for, lists that are spread among them."""
        found: list[Value] = []
        for node in nodes:
            if node.type == "spread_element":
                found += [self.iterate(self.of(inner)) for inner in named(node)]
            else:
                found.append(self.of(node))
        return found

    def _arrow_function(self, node: Node) -> Value:
        return (Routine(node, self.scope),)

    _function_expression = _generator_function = _arrow_function

    def _class(self, _: Node) -> Value:
        return NOTHING

    _class_declaration = _import_statement = _comment = _class

    # ── taking apart ───────────────────────────────────────────────────────────────

    def assign(self, pattern: Node | None, value: Value, *, new: bool = True) -> None:
        """*pattern* stands for *value* from here on."""
        if pattern is None:
            return
        self.at(pattern)
        match pattern.type:
            case "identifier" | "shorthand_property_identifier_pattern":
                self.bind(text_of(pattern), value, new=new)
            case "object_pattern":
                self._take_apart(pattern, value, new=new)
            case "array_pattern":
                for index, child in enumerate(named(pattern)):
                    if child.type == "rest_pattern":
                        self.assign(named(child)[0], (Several(self.iterate(value)),), new=new)
                    else:
                        self.assign(child, self._nth(value, index), new=new)
            case "assignment_pattern":
                default = part(pattern, "right")
                self.assign(part(pattern, "left"), either(self.handed(value), self._default(default)), new=new)
            case "member_expression" | "subscript_expression":
                self._store(pattern, value)

    def _nth(self, value: Value, index: int) -> Value:
        pairs = tuple(atom for atom in value if isinstance(atom, Object))
        others = tuple(atom for atom in value if not isinstance(atom, Object))
        return either(self.member(pairs, index), self.iterate(others))

    def _take_apart(self, pattern: Node, value: Value, *, new: bool) -> None:
        if not named(pattern):
            return
        for child in named(pattern):
            self.at(child)
            if child.type == "shorthand_property_identifier_pattern":
                self.bind(text_of(child), self.member(value, text_of(child)), new=new)
            elif child.type == "object_assignment_pattern":
                name, default = part(child, "left"), part(child, "right")
                self.bind(text_of(name), self._defaulted(value, text_of(name), default), new=new)
            elif child.type == "pair_pattern":
                self._take_pair(child, value, new=new)
            elif child.type == "rest_pattern":
                self.bind(text_of(named(child)[0]), (Object({}, value),), new=new)

    def _take_pair(self, pair: Node, value: Value, *, new: bool) -> None:
        key, inner = javascript.key_of(pair), part(pair, "value")
        if key is None:
            self.dynamic(value)
            self.assign(inner, NOTHING, new=new)
        elif inner is not None and inner.type == "assignment_pattern":
            self.assign(part(inner, "left"), self._defaulted(value, key, part(inner, "right")), new=new)
        else:
            self.assign(inner, self.member(value, key), new=new)

    def _defaulted(self, value: Value, key: str, default: Node | None) -> Value:
        found = self.member(value, key, soft=True, default=True)
        return either(self.typed(found, *default_type(default)), self._default(default))

    def _default(self, node: Node | None) -> Value:
        """What a default stands for; it is looked at only where the value is missing."""
        return self.alone(NONE, NONE, partial(self.of, node))

    def _store(self, target: Node, value: Value) -> None:
        owner = self.of(part(target, "object"))
        name = javascript.member_name(target)
        kept = False
        for atom in owner:
            if isinstance(atom, Object) and isinstance(atom.items, dict) and name is not None:
                atom.items[name] = either(atom.items.get(name, NOTHING), value) if self._branches else value
                kept = True
        if not kept:
            self.use(value, "whole")

    def _assignment_expression(self, node: Node) -> Value:
        value = self.of(part(node, "right"))
        self.assign(part(node, "left"), value, new=False)
        return value

    def _augmented_assignment_expression(self, node: Node) -> Value:
        left, sign = part(node, "left"), text_of(part(node, "operator"))
        before, value = self.of(left), self.of(part(node, "right"))
        if sign in {"||=", "??="}:
            self.glance(before)
            self.assign(left, either(self.handed(before), value), new=False)
        else:
            self.use(before)
            self.use(value)
        return NOTHING

    # ── operators ──────────────────────────────────────────────────────────────────

    def _binary_expression(self, node: Node) -> Value:
        sign = text_of(part(node, "operator"))
        if sign in {"&&", "||", "??"}:
            return self._either_side(node, sign)
        if sign in EQUALS or sign in {"in", "instanceof"} or sign in ARITHMETIC:
            self.test(node)
            return NOTHING
        for side in ("left", "right"):
            self.use(self.of(part(node, side)))
        return NOTHING

    def _either_side(self, node: Node, sign: str) -> Value:
        left, right = part(node, "left"), part(node, "right")
        assert left is not None
        if sign == "??":
            value = self.of(left)
            self.glance(value)
            there: frozenset[Place] = NONE
            missing = frozenset(atom.place for atom in value if isinstance(atom, At))
        else:
            there, missing = self.test(left)
            value = self.quietly(left)
        if sign == "&&":
            return self.softened(self.alone(there, missing, lambda: self.of(right)))
        self.typed(value, *default_type(right))
        return either(self.handed(value), self.alone(missing, there, lambda: self.of(right)))

    def _ternary_expression(self, node: Node) -> Value:
        there, missing = self.test(part(node, "condition"))
        return self.branches(
            (there, missing, lambda: self.of(part(node, "consequence"))),
            (missing, there, lambda: self.of(part(node, "alternative"))),
        )

    def _unary_expression(self, node: Node) -> Value:
        sign, value = text_of(part(node, "operator")), part(node, "argument")
        if sign == "!":
            self.test(node)
        elif sign == "typeof":
            self.glance(self.of(value))
        else:
            self.use(self.typed(self.of(value), "numeric") if sign in {"-", "+"} else self.of(value))
        return NOTHING

"""
Tracing of JavaScript expressions with tree-sitter: lookups, destructuring, operators and defaults.

Calls are in `node_calls`, statements in `node_trace`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from tree_sitter import Node

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
    get_paths,
    union,
)
from pdkernel.analysis.node_conditions import EQUALITY_OPERATORS, NUMERIC_OPERATORS, NodeConditionTracer
from pdkernel.analysis.node_syntax import get_code_children, get_field, get_source, infer_default_type
from pdkernel.analysis.trace import NO_PATHS
from pdkernel.expression import javascript


class NodeExpressionTracer(NodeConditionTracer):
    """A trace of JavaScript expressions."""

    methods: ValueSet = UNTRACKED
    first_line = 1

    def evaluate(self, node: Node | None) -> ValueSet:
        """The value set of *node*; its accesses are recorded."""
        if node is None:
            return UNTRACKED
        self.set_line(node)
        act: Callable[[Node], ValueSet] | None = getattr(self, f"_{node.type}", None)
        if act is not None:
            return act(node)
        for child in get_code_children(node):
            self.add_use(self.evaluate(child))
        return UNTRACKED

    def set_line(self, node: Node) -> None:
        """Set the current line to that of *node*."""
        self.line = node.start_point[0] + self.first_line

    # ── names and keys ─────────────────────────────────────────────────────────────

    def _identifier(self, node: Node) -> ValueSet:
        return self.scope.find(get_source(node)) or UNTRACKED

    def _this(self, _: Node) -> ValueSet:
        return (PlatformValue("this"),)

    def _string(self, node: Node) -> ValueSet:
        value = javascript.get_string_literal(node)
        return UNTRACKED if value is None else (LiteralValue(value),)

    def _number(self, node: Node) -> ValueSet:
        return (LiteralValue(int(get_source(node))),) if get_source(node).isdigit() else UNTRACKED

    def _template_string(self, node: Node) -> ValueSet:
        substitutions = [child for child in node.named_children if child.type == "template_substitution"]
        for each in substitutions:
            for inner in get_code_children(each):
                self.add_use(self.evaluate(inner))
        return UNTRACKED if substitutions else self._string(node)

    def _parenthesized_expression(self, node: Node) -> ValueSet:
        return union(*(self.evaluate(child) for child in get_code_children(node)))

    _await_expression = _parenthesized_expression

    def _sequence_expression(self, node: Node) -> ValueSet:
        values = [self.evaluate(child) for child in get_code_children(node)]
        return values[-1] if values else UNTRACKED

    def _member_expression(self, node: Node) -> ValueSet:
        owner, name = self.evaluate(get_field(node, "object")), get_source(get_field(node, "property"))
        self.set_line(node)
        chained = get_field(node, "optional_chain") is not None
        known = self._platform_member(owner, name)
        if known is not None:
            return known
        if name == "length":
            self.require_value(owner, chained=chained)
            return UNTRACKED
        return self.get_member(owner, name, chained=chained)

    def _platform_member(self, owner: ValueSet, name: str) -> ValueSet | None:
        for atom in owner:
            if isinstance(atom, PlatformValue):
                method = self.get_member(self.methods, name) if atom.name == "this" else UNTRACKED
                return method or (PlatformValue(f"{atom.name}.{name}"),)
        return None

    def _subscript_expression(self, node: Node) -> ValueSet:
        owner, keys = self.evaluate(get_field(node, "object")), self.evaluate(get_field(node, "index"))
        self.set_line(node)
        chained = get_field(node, "optional_chain") is not None
        if len(keys) == 1 and isinstance(keys[0], LiteralValue) and isinstance(keys[0].value, str):
            known = self._platform_member(owner, keys[0].value)
            if known is not None:
                return known
        if keys == (PlatformValue("index"),):
            return self.get_item(owner, is_optional=chained)
        if keys and all(isinstance(atom, LiteralValue) and isinstance(atom.value, int) for atom in keys):
            self.expect_type(owner, "array")
            return self.get_member(owner, LIST_ITEM, chained=chained)
        return self.get_members(owner, keys, chained=chained)

    def require_value(self, owner: ValueSet, *, chained: bool) -> None:
        """Record a lookup of a built-in member of *owner*, which fails for null and undefined."""
        for atom in owner:
            if isinstance(atom, PathValue):
                self._require_container(atom, chained=chained)

    # ── literals ────────────────────────────────────────────────────────────

    def _object(self, node: Node) -> ValueSet:
        items: dict[Any, ValueSet] = {}
        bases: list[ValueSet] = []
        for child in get_code_children(node):
            if child.type == "spread_element":
                bases += [self.evaluate(inner) for inner in get_code_children(child)]
            elif child.type == "shorthand_property_identifier":
                items[get_source(child)] = self._identifier(child)
            elif child.type == "method_definition":
                items[javascript.get_key(child) or ("?", child.id)] = (FunctionValue(child, self.scope),)
            elif child.type == "pair":
                key = get_field(child, "key")
                if key is not None and key.type == "computed_property_name":
                    self.add_use(self.evaluate(key))
                items[javascript.get_key(child) or ("?", child.id)] = self.evaluate(get_field(child, "value"))
        return (ObjectValue(items, union(*bases)),)

    def _array(self, node: Node) -> ValueSet:
        return (ListValue(union(*self.evaluate_list(get_code_children(node)))),)

    def evaluate_list(self, nodes: Iterable[Node]) -> list[ValueSet]:
        """The value set of each of *nodes*, with spread lists."""
        found: list[ValueSet] = []
        for node in nodes:
            if node.type == "spread_element":
                found += [self.get_item(self.evaluate(inner)) for inner in get_code_children(node)]
            else:
                found.append(self.evaluate(node))
        return found

    def _arrow_function(self, node: Node) -> ValueSet:
        return (FunctionValue(node, self.scope),)

    _function_expression = _generator_function = _arrow_function

    def _class(self, _: Node) -> ValueSet:
        return UNTRACKED

    _class_declaration = _import_statement = _comment = _class

    # ── destructuring ───────────────────────────────────────────────────────────────

    def assign(self, pattern: Node | None, value: ValueSet, *, new: bool = True) -> None:
        """Assign *value* to *pattern*."""
        if pattern is None:
            return
        self.set_line(pattern)
        match pattern.type:
            case "identifier" | "shorthand_property_identifier_pattern":
                self.bind(get_source(pattern), value, new=new)
            case "object_pattern":
                self._destructure(pattern, value, new=new)
            case "array_pattern":
                for index, child in enumerate(get_code_children(pattern)):
                    if child.type == "rest_pattern":
                        self.assign(get_code_children(child)[0], (ListValue(self.get_item(value)),), new=new)
                    else:
                        self.assign(child, self.get_position(value, index), new=new)
            case "assignment_pattern":
                default = get_field(pattern, "right")
                self.assign(
                    get_field(pattern, "left"),
                    union(self.with_default(value), self._evaluate_default(default)),
                    new=new,
                )
            case "member_expression" | "subscript_expression":
                self._store(pattern, value)

    def _destructure(self, pattern: Node, value: ValueSet, *, new: bool) -> None:
        if not get_code_children(pattern):
            return
        for child in get_code_children(pattern):
            self.set_line(child)
            if child.type == "shorthand_property_identifier_pattern":
                self.bind(get_source(child), self.get_member(value, get_source(child)), new=new)
            elif child.type == "object_assignment_pattern":
                name, default = get_field(child, "left"), get_field(child, "right")
                self.bind(get_source(name), self._get_member_or_default(value, get_source(name), default), new=new)
            elif child.type == "pair_pattern":
                self._destructure_pair(child, value, new=new)
            elif child.type == "rest_pattern":
                self.bind(get_source(get_code_children(child)[0]), (ObjectValue({}, value),), new=new)

    def _destructure_pair(self, pair: Node, value: ValueSet, *, new: bool) -> None:
        key, inner = javascript.get_key(pair), get_field(pair, "value")
        if key is None:
            self.get_dynamic_member(value)
            self.assign(inner, UNTRACKED, new=new)
        elif inner is not None and inner.type == "assignment_pattern":
            self.assign(
                get_field(inner, "left"), self._get_member_or_default(value, key, get_field(inner, "right")), new=new
            )
        else:
            self.assign(inner, self.get_member(value, key), new=new)

    def _get_member_or_default(self, value: ValueSet, key: str, default: Node | None) -> ValueSet:
        found = self.get_member(value, key, is_optional=True, default=True)
        return union(self.expect_type(found, *infer_default_type(default)), self._evaluate_default(default))

    def _evaluate_default(self, node: Node | None) -> ValueSet:
        """The value set of a default, which the code evaluates only if the value is missing."""
        return self.trace_optional_branch(NO_PATHS, NO_PATHS, partial(self.evaluate, node))

    def _store(self, target: Node, value: ValueSet) -> None:
        owner = self.evaluate(get_field(target, "object"))
        name = javascript.get_member_name(target)
        kept = False
        for atom in owner:
            if isinstance(atom, ObjectValue) and isinstance(atom.items, dict) and name is not None:
                atom.items[name] = union(atom.items.get(name, UNTRACKED), value) if self._branches else value
                kept = True
        if not kept:
            self.add_use(value, "passes_on")

    def _assignment_expression(self, node: Node) -> ValueSet:
        value = self.evaluate(get_field(node, "right"))
        self.assign(get_field(node, "left"), value, new=False)
        return value

    def _augmented_assignment_expression(self, node: Node) -> ValueSet:
        left, sign = get_field(node, "left"), get_source(get_field(node, "operator"))
        before, value = self.evaluate(left), self.evaluate(get_field(node, "right"))
        if sign in {"||=", "??="}:
            self.presence_check(before)
            self.assign(left, union(self.with_default(before), value), new=False)
        else:
            self.add_use(before)
            self.add_use(value)
        return UNTRACKED

    # ── operators ──────────────────────────────────────────────────────────────────

    def _binary_expression(self, node: Node) -> ValueSet:
        sign = get_source(get_field(node, "operator"))
        if sign in {"&&", "||", "??"}:
            return self._evaluate_logical_value(node, sign)
        if sign in EQUALITY_OPERATORS or sign in {"in", "instanceof"} or sign in NUMERIC_OPERATORS:
            self.evaluate_condition(node)
            return UNTRACKED
        for side in ("left", "right"):
            self.add_use(self.evaluate(get_field(node, side)))
        return UNTRACKED

    def _evaluate_logical_value(self, node: Node, sign: str) -> ValueSet:
        left, right = get_field(node, "left"), get_field(node, "right")
        assert left is not None
        if sign == "??":
            value = self.evaluate(left)
            self.presence_check(value)
            there: frozenset[FieldPath] = NO_PATHS
            missing = get_paths(value)
        else:
            there, missing = self.evaluate_condition(left)
            value = self.evaluate_silently(left)
        if sign == "&&":
            return self.optional(self.trace_optional_branch(there, missing, lambda: self.evaluate(right)))
        self.expect_type(value, *infer_default_type(right))
        return union(self.with_default(value), self.trace_optional_branch(missing, there, lambda: self.evaluate(right)))

    def _ternary_expression(self, node: Node) -> ValueSet:
        there, missing = self.evaluate_condition(get_field(node, "condition"))
        return self.trace_branches(
            (there, missing, lambda: self.evaluate(get_field(node, "consequence"))),
            (missing, there, lambda: self.evaluate(get_field(node, "alternative"))),
        )

    def _unary_expression(self, node: Node) -> ValueSet:
        sign, value = get_source(get_field(node, "operator")), get_field(node, "argument")
        if sign == "!":
            self.evaluate_condition(node)
        elif sign == "typeof":
            self.presence_check(self.evaluate(value))
        else:
            self.add_use(
                self.expect_type(self.evaluate(value), "numeric") if sign in {"-", "+"} else self.evaluate(value)
            )
        return UNTRACKED

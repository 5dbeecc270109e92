"""
Tracing of JavaScript conditions: the paths that a condition checks, and those that are present if it is true.

Operands are evaluated in `node_expressions`.
"""

from __future__ import annotations

from abc import abstractmethod
from functools import partial

from tree_sitter import Node

from pdkernel.analysis import node_builtins as words
from pdkernel.analysis.abstract_values import FieldPath, LiteralValue, ValueSet, get_paths
from pdkernel.analysis.node_syntax import (
    get_arguments,
    get_field,
    get_member_object,
    get_source,
    infer_literal_type,
    unwrap,
)
from pdkernel.analysis.trace import NO_PATHS, ConditionPaths, StepTracer
from pdkernel.expression import javascript

EQUALITY_OPERATORS = frozenset({"===", "==", "!==", "!="})
NUMERIC_OPERATORS = frozenset({"-", "*", "/", "%", "**", "<", ">", "<=", ">="})


class NodeConditionTracer(StepTracer):
    """A trace of JavaScript conditions."""

    @abstractmethod
    def set_line(self, node: Node) -> None:
        """Set the current line to that of *node*."""

    # ── conditions ──────────────────────────────────────────────────────────────────────

    def evaluate_condition(self, node: Node | None) -> ConditionPaths:
        """Trace a condition; return the paths that are present if it is true and if it is false."""
        if node is None:
            return NO_PATHS, NO_PATHS
        node = unwrap(node)
        self.set_line(node)
        if node.type == "unary_expression" and get_source(get_field(node, "operator")) == "!":
            there, missing = self.evaluate_condition(get_field(node, "argument"))
            return missing, there
        if node.type == "binary_expression":
            sign = get_source(get_field(node, "operator"))
            if sign in {"&&", "||"}:
                return self._test_both(node, is_and=sign == "&&")
            if sign in EQUALITY_OPERATORS:
                return self._test_equal(node, sign)
            if sign == "in":
                return self._check_key_in(
                    self.evaluate(get_field(node, "right")), self.evaluate(get_field(node, "left"))
                ), NO_PATHS
            if sign == "instanceof":
                return self.type_check(self.evaluate(get_field(node, "left"))), NO_PATHS
            if sign in NUMERIC_OPERATORS:
                return self._test_order(node, sign)
        if node.type == "call_expression" and (found := self._test_call(node)) is not None:
            return found, NO_PATHS
        if node.type == "member_expression" and get_source(get_field(node, "property")) == "length":
            self.evaluate(node)
            return get_paths(self.evaluate_silently(get_member_object(node))), NO_PATHS
        return self.truth_check(self.evaluate(node)), NO_PATHS

    def _test_both(self, node: Node, *, is_and: bool) -> ConditionPaths:
        sides = (partial(self.evaluate_condition, get_field(node, side)) for side in ("left", "right"))
        return self.trace_logical(*sides, is_and=is_and)

    def _test_equal(self, node: Node, sign: str) -> ConditionPaths:
        left, right = get_field(node, "left"), get_field(node, "right")
        assert left is not None
        assert right is not None
        for each, other in ((left, right), (right, left)):
            each_bare = unwrap(each)
            if each_bare.type == "unary_expression" and get_source(get_field(each_bare, "operator")) == "typeof":
                places = self.type_check(self.evaluate(get_field(each_bare, "argument")))
                positive = (sign[0] == "=") != (javascript.get_string_literal(other) == "undefined")
                return (places, NO_PATHS) if positive else (NO_PATHS, places)
            if get_source(other) in words.EMPTY_LITERALS:
                places = self.presence_check(self.evaluate(each))
                return (NO_PATHS, places) if sign[0] == "=" else (places, NO_PATHS)
        for each, other in ((left, right), (right, left)):
            self.add_use(
                self.expect_type(self.evaluate(each), *infer_literal_type(other))
                if len(sign) == 3 or infer_literal_type(other) == ("string",)
                else self.evaluate(each)
            )
        return NO_PATHS, NO_PATHS

    def _test_order(self, node: Node, sign: str) -> ConditionPaths:
        left, right = get_field(node, "left"), get_field(node, "right")
        assert left is not None
        assert right is not None
        places = NO_PATHS
        owner = get_member_object(unwrap(left))
        if sign[0] in "<>" and get_source(get_field(unwrap(left), "property")) == "length":
            places = get_paths(self.evaluate_silently(owner))
        for each, other in ((left, right), (right, left)):
            value = self.evaluate(each)
            numeric = sign[0] not in "<>" or infer_literal_type(other) == ("number",)
            self.add_use(self.expect_type(value, "numeric") if numeric else value)
        return (places, NO_PATHS) if sign[0] == ">" else (NO_PATHS, NO_PATHS)

    def _check_key_in(self, value: ValueSet, keys: ValueSet) -> frozenset[FieldPath]:
        found: frozenset[FieldPath] = NO_PATHS
        for atom in keys:
            if isinstance(atom, LiteralValue) and isinstance(atom.value, str):
                found |= self.key_check(value, atom.value)
        if not found:
            self.add_use(keys)
            self.get_dynamic_member(value)
        return found

    def _test_call(self, node: Node) -> frozenset[FieldPath] | None:
        function = get_field(node, "function")
        given = get_arguments(node)
        name = get_source(function)
        if name == "Array.isArray" and given:
            return self.type_check(self.evaluate(given[0]))
        if name == "Boolean" and given:
            return self.evaluate_condition(given[0])[0]
        if name in {"Object.hasOwn", "Object.prototype.hasOwnProperty.call", "_.has"} and len(given) == 2:
            return self._check_key_in(self.evaluate(given[0]), self.evaluate(given[1]))
        if function is not None and get_source(get_field(function, "property")) == "hasOwnProperty" and given:
            return self._check_key_in(self.evaluate(get_field(function, "object")), self.evaluate(given[0]))
        return None

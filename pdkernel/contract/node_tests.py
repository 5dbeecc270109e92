"""
Tests in JavaScript: what a condition looks for, and what is there if it holds.

Knows conditions. What stands in them is `node_expressions`'.
"""

from __future__ import annotations

from abc import abstractmethod
from functools import partial

from tree_sitter import Node

from pdkernel.contract import node_words as words
from pdkernel.contract.node_syntax import argument_nodes, bare, owner_of, part, text_of, type_of
from pdkernel.contract.trace import NONE, Tested, Trace
from pdkernel.contract.values import (
    At,
    Literally,
    Place,
    Routine,
    Value,
)
from pdkernel.expression import javascript

EQUALS = frozenset({"===", "==", "!==", "!="})
ARITHMETIC = frozenset({"-", "*", "/", "%", "**", "<", ">", "<=", ">="})


class NodeTests(Trace):
    """A walk through JavaScript's conditions."""

    @abstractmethod
    def of(self, node: Node | None) -> Value:
        """What *node* stands for; what it reads on the way is noted."""

    @abstractmethod
    def at(self, node: Node) -> None:
        """The walk is at *node*."""

    def quietly(self, node: Node) -> Value:
        """What *node* stands for, without the notes: it was read already."""
        count = len(self.notes)
        value = self.of(node)
        del self.notes[count:]
        return value

    # ── tests ──────────────────────────────────────────────────────────────────────

    def test(self, node: Node | None) -> Tested:
        """Follow a test: what is there if it is true, and what if it is false."""
        if node is None:
            return NONE, NONE
        node = bare(node)
        self.at(node)
        if node.type == "unary_expression" and text_of(part(node, "operator")) == "!":
            there, missing = self.test(part(node, "argument"))
            return missing, there
        if node.type == "binary_expression":
            sign = text_of(part(node, "operator"))
            if sign in {"&&", "||"}:
                return self._test_both(node, is_and=sign == "&&")
            if sign in EQUALS:
                return self._test_equal(node, sign)
            if sign == "in":
                return self._looks_in(self.of(part(node, "right")), self.of(part(node, "left"))), NONE
            if sign == "instanceof":
                return self.in_any_type(self.of(part(node, "left"))), NONE
            if sign in ARITHMETIC:
                return self._test_order(node, sign)
        if node.type == "call_expression" and (found := self._test_call(node)) is not None:
            return found, NONE
        if node.type == "member_expression" and text_of(part(node, "property")) == "length":
            self.of(node)
            return frozenset(at.place for at in self.quietly(owner_of(node)) if isinstance(at, At)), NONE
        value = self.of(node)
        places = self.glance(value)
        self.use(tuple(atom for atom in value if not isinstance(atom, At | Routine)))
        return places, NONE

    def _test_both(self, node: Node, *, is_and: bool) -> Tested:
        sides = (partial(self.test, part(node, side)) for side in ("left", "right"))
        return self.both(*sides, is_and=is_and)

    def _test_equal(self, node: Node, sign: str) -> Tested:
        left, right = part(node, "left"), part(node, "right")
        assert left is not None
        assert right is not None
        for each, other in ((left, right), (right, left)):
            each_bare = bare(each)
            if each_bare.type == "unary_expression" and text_of(part(each_bare, "operator")) == "typeof":
                places = self.in_any_type(self.of(part(each_bare, "argument")))
                positive = (sign[0] == "=") != (javascript.string_value(other) == "undefined")
                return (places, NONE) if positive else (NONE, places)
            if text_of(other) in words.NOTHING_WORDS:
                places = self.glance(self.of(each))
                return (NONE, places) if sign[0] == "=" else (places, NONE)
        for each, other in ((left, right), (right, left)):
            self.use(
                self.typed(self.of(each), *type_of(other))
                if len(sign) == 3 or type_of(other) == ("string",)
                else self.of(each)
            )
        return NONE, NONE

    def _test_order(self, node: Node, sign: str) -> Tested:
        left, right = part(node, "left"), part(node, "right")
        assert left is not None
        assert right is not None
        places = NONE
        owner = owner_of(bare(left))
        if sign[0] in "<>" and text_of(part(bare(left), "property")) == "length":
            places = frozenset(at.place for at in self.quietly(owner) if isinstance(at, At))
        for each, other in ((left, right), (right, left)):
            value = self.of(each)
            numeric = sign[0] not in "<>" or type_of(other) == ("number",)
            self.use(self.typed(value, "numeric") if numeric else value)
        return (places, NONE) if sign[0] == ">" else (NONE, NONE)

    def _looks_in(self, value: Value, keys: Value) -> frozenset[Place]:
        found: frozenset[Place] = NONE
        for atom in keys:
            if isinstance(atom, Literally) and isinstance(atom.value, str):
                found |= self.looked_for(value, atom.value)
        if not found:
            self.use(keys)
            self.dynamic(value)
        return found

    def _test_call(self, node: Node) -> frozenset[Place] | None:
        function = part(node, "function")
        given = argument_nodes(node)
        name = text_of(function)
        if name == "Array.isArray" and given:
            return self.in_any_type(self.of(given[0]))
        if name == "Boolean" and given:
            return self.test(given[0])[0]
        if name in {"Object.hasOwn", "Object.prototype.hasOwnProperty.call", "_.has"} and len(given) == 2:
            return self._looks_in(self.of(given[0]), self.of(given[1]))
        if function is not None and text_of(part(function, "property")) == "hasOwnProperty" and given:
            return self._looks_in(self.of(part(function, "object")), self.of(given[0]))
        return None

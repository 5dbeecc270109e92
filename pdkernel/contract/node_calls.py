"""
Calls in JavaScript: methods of what comes from the event, JavaScript's own functions, the step's.

Knows what each does with its arguments. What is handed to any other function is not followed.
"""

from __future__ import annotations

from collections.abc import Sequence

from tree_sitter import Node

from pdkernel.contract import node_words as words
from pdkernel.contract.node_expressions import NodeExpressions
from pdkernel.contract.node_syntax import argument_nodes, part, text_of
from pdkernel.contract.values import (
    ITEM,
    NOTHING,
    At,
    Known,
    Literally,
    Object,
    Routine,
    Several,
    Text,
    Value,
    either,
)


class NodeCalls(NodeExpressions):
    """A walk through JavaScript expressions, calls among them."""

    def _call_expression(self, node: Node) -> Value:
        function = part(node, "function")
        if function is None:
            return NOTHING
        if function.type in {"parenthesized_expression", "arrow_function", "function_expression"}:
            return self._own(node, self.of(function))
        name = text_of(function).replace("?.", ".").replace(" ", "")
        if function.type == "member_expression":
            first = name.partition(".")[0]
            chained = part(function, "optional_chain") is not None or part(node, "optional_chain") is not None
            if (
                name.startswith("this.")
                or not first.isidentifier()
                or self.scope.find(first) is not None
                or first == "$"
            ):
                owner = self.of(part(function, "object"))
                return self._method(node, owner, text_of(part(function, "property")), chained=chained)
            if "(" not in name and "[" not in name:
                return self._function(node, name)
            return self._method(
                node, self.of(part(function, "object")), text_of(part(function, "property")), chained=chained
            )
        if function.type == "identifier" and self.scope.find(name) is None:
            return self._function(node, name)
        return self._own(node, self.of(function))

    def _own(self, node: Node, called: Value) -> Value:
        given = self.listed(argument_nodes(node))
        if not any(isinstance(atom, Routine) for atom in called):
            self._hand(given, sent=any(isinstance(atom, Known) for atom in called))
        return self.calls(called, given)

    def _hand(self, values: Sequence[Value], *, sent: bool) -> None:
        for value in values:
            self.use(value, "whole" if sent else "hands")
            if sent:
                self.calls(value, ())

    def _new_expression(self, node: Node) -> Value:
        made = text_of(part(node, "constructor"))
        for value in self.listed(argument_nodes(node)):
            self.use(value, "uses" if made.rpartition(".")[2] in words.MADE_OF else "hands")
        return NOTHING

    # ── methods ────────────────────────────────────────────────────────────────────

    def _method(self, node: Node, owner: Value, name: str, *, chained: bool) -> Value:
        if any(isinstance(atom, Known) for atom in owner):
            return self._platform(node, owner, name)
        if name in words.EACH_METHODS and argument_nodes(node):
            return self._each(node, owner, name, chained=chained)
        inner = self.member(tuple(atom for atom in owner if isinstance(atom, Object)), name)
        if any(isinstance(atom, Routine) for atom in inner):
            return self._own(node, inner)
        self.at(node)
        places = tuple(atom for atom in owner if isinstance(atom, At))
        if name == "hasOwnProperty":
            self.test(node)
            return NOTHING
        if name in {"keys", "values", "entries"} and places:  # of a list: objects have no such methods
            items = self.iterate(owner, soft=chained)
            pair = (Object({0: NOTHING, 1: items}),)
            return NOTHING if name == "keys" else (Several(items if name == "values" else pair),)
        return self._plain_method(node, owner, places, name, chained=chained)

    def _plain_method(self, node: Node, owner: Value, places: tuple[At, ...], name: str, *, chained: bool) -> Value:
        if name in words.TEXT_METHODS:
            self.typed(places, "string")
        elif name in words.NUMBER_METHODS:
            self.typed(places, "number")
        elif name in words.LIST_METHODS:
            self.typed(places, "array")
        self.count_on(owner, chained=chained)
        given = self.listed(argument_nodes(node))
        grows = name in {"push", "unshift", "set", "append", "add"}
        self._hand(given, sent=grows or bool(places) or text_of(part(node, "function")).startswith(words.SENDERS))
        self.at(node)
        if name in words.FIRST_METHODS and owner:
            return self.member(owner, ITEM, chained=chained)
        if name in {"slice", "reverse", "flat", "concat", "splice"} and owner:
            return self.softened(owner) if chained else owner
        if name == "join":
            self.use(self.iterate(owner, soft=chained))
            return NOTHING
        used = tuple(atom for atom in owner if not isinstance(atom, Routine))
        self.use(self.softened(used) if chained else used)
        return NOTHING

    def _each(self, node: Node, owner: Value, name: str, *, chained: bool) -> Value:
        given = self.listed(argument_nodes(node))
        self.at(node)
        items = self.iterate(owner, soft=chained)
        callback, rest = given[0], given[1:]
        if name.startswith("reduce"):
            before = rest[0] if rest else items
            descends = any(isinstance(atom, At) for atom in before)
            if descends and any(isinstance(atom, Literally) for atom in items):
                return self.dynamic(before)  # goes down from key to key
            return either(before, self.calls(callback, [before, items, NOTHING, owner]))
        if name in {"sort", "toSorted"}:
            self.calls(callback, [items, items])
            return owner
        found = self.calls(callback, [items, NOTHING, owner])
        if not any(isinstance(atom, Routine) for atom in callback):
            self.use(items)
        if name == "map":
            return (Several(found),)
        if name == "flatMap":
            return (Several(self.iterate(found)),)
        if name != "forEach":
            self.glance(found)
        if name == "filter":
            return (Several(items),)
        return self.softened(items) if name in {"find", "findLast"} else NOTHING

    def _platform(self, node: Node, owner: Value, name: str) -> Value:
        nodes = argument_nodes(node)
        if Known("this") in owner and (methods := self.member(self.methods, name)):
            return self._own(node, methods)
        given = self.listed(nodes)
        if Known("$") in owner and name == "export" and len(given) == 2:
            for atom in given[0]:
                if isinstance(atom, Literally):
                    self.export(str(atom.value), given[1])
                    return NOTHING
        known = next(atom for atom in owner if isinstance(atom, Known))
        self._hand(given, sent=known.name.startswith("$") or name in {"set", "push", "put"})
        return NOTHING

    # ── functions ──────────────────────────────────────────────────────────────────

    def _function(self, node: Node, name: str) -> Value:
        nodes = argument_nodes(node)
        if name in {"Array.isArray", "Object.hasOwn", "Object.prototype.hasOwnProperty.call", "_.has"}:
            self.test(node)
            return NOTHING
        given = self.listed(nodes)
        first = given[0] if given else NOTHING
        self.at(node)
        if name == "JSON.stringify":
            return (Text(first),)
        if name in {"JSON.parse", "qs.parse", "querystring.parse"}:
            self.use(self.typed(tuple(atom for atom in first if isinstance(atom, At)), "string"))
            return either(*(atom.of for atom in first if isinstance(atom, Text)))
        if name in words.KEYS:
            self.count_on(first, chained=False)
            return self._keys(name, first)
        if name == "Object.assign":
            return (Object({}, either(*given)),)
        if name in words.SAME or name == "defineComponent":
            return first
        if name == "Array.from":
            items = self.iterate(first)
            return (Several(self.calls(given[1], [items]) if len(given) > 1 else items),)
        if name in words.GET and len(given) > 1 and (found := self._path(given)) is not None:
            return found
        if name in words.PLAIN or name.startswith("Math."):
            for value in given:
                self.use(self.typed(value, "numeric") if name.startswith("Math.") else value)
            return NOTHING
        self._hand(given, sent=name.startswith((*words.SENDERS, *words.LOGS)))
        return NOTHING

    def _keys(self, name: str, value: Value) -> Value:
        found = self.dynamic(value)
        if name == "Object.keys":
            return NOTHING
        return (Several(found),) if name == "Object.values" else (Several((Several(found),)),)

    def _path(self, given: Sequence[Value]) -> Value | None:
        """`_.get(object, "a.b[0]", default)`; None if the path is no literal."""
        keys = given[1]
        if len(keys) != 1 or not isinstance(keys[0], Literally) or not isinstance(keys[0].value, str):
            return None
        value = given[0]
        segments = keys[0].value.replace("[", ".").replace("]", "").split(".")
        for index, segment in enumerate(segments):
            last = index == len(segments) - 1
            key = ITEM if segment.isdigit() else segment
            value = self.member(value, key, soft=True, default=last and len(given) > 2, chained=True)
        return either(value, *given[2:])

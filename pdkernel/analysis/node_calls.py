"""
Tracing of JavaScript calls: methods of event values, built-in functions, and functions of the step.

Values that are passed to any other function are not followed.
"""

from __future__ import annotations

from collections.abc import Sequence

from tree_sitter import Node

from pdkernel.analysis import node_builtins as words
from pdkernel.analysis.abstract_values import (
    LIST_ITEM,
    UNTRACKED,
    FunctionValue,
    JsonTextValue,
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
from pdkernel.analysis.node_expressions import NodeExpressionTracer
from pdkernel.analysis.node_syntax import get_arguments, get_field, get_source


class NodeCallTracer(NodeExpressionTracer):
    """A trace of JavaScript expressions with calls."""

    def _call_expression(self, node: Node) -> ValueSet:
        function = get_field(node, "function")
        if function is None:
            return UNTRACKED
        if function.type in {"parenthesized_expression", "arrow_function", "function_expression"}:
            return self._trace_own_call(node, self.evaluate(function))
        name = get_source(function).replace("?.", ".").replace(" ", "")
        if function.type == "member_expression":
            first = name.partition(".")[0]
            chained = get_field(function, "optional_chain") is not None or get_field(node, "optional_chain") is not None
            if (
                name.startswith("this.")
                or not first.isidentifier()
                or self.scope.find(first) is not None
                or first == "$"
            ):
                owner = self.evaluate(get_field(function, "object"))
                return self._trace_method(node, owner, get_source(get_field(function, "property")), chained=chained)
            if "(" not in name and "[" not in name:
                return self._function(node, name)
            return self._trace_method(
                node,
                self.evaluate(get_field(function, "object")),
                get_source(get_field(function, "property")),
                chained=chained,
            )
        if function.type == "identifier" and self.scope.find(name) is None:
            return self._function(node, name)
        return self._trace_own_call(node, self.evaluate(function))

    def _trace_own_call(self, node: Node, called: ValueSet) -> ValueSet:
        given = self.evaluate_list(get_arguments(node))
        if not select(called, FunctionValue):
            self._pass_values(given, sent=bool(select(called, PlatformValue)))
        return self.trace_calls(called, given)

    def _pass_values(self, values: Sequence[ValueSet], *, sent: bool) -> None:
        for value in values:
            self.add_use(value, "passes_on" if sent else "escapes")
            if sent:
                self.trace_calls(value, ())

    def _new_expression(self, node: Node) -> ValueSet:
        made = get_source(get_field(node, "constructor"))
        for value in self.evaluate_list(get_arguments(node)):
            self.add_use(value, "uses" if made.rpartition(".")[2] in words.VALUE_CONSTRUCTORS else "escapes")
        return UNTRACKED

    # ── methods ────────────────────────────────────────────────────────────────────

    def _trace_method(self, node: Node, owner: ValueSet, name: str, *, chained: bool) -> ValueSet:
        if select(owner, PlatformValue):
            return self._trace_platform_call(node, owner, name)
        if name in words.CALLBACK_METHODS and get_arguments(node):
            return self._trace_callback_method(node, owner, name, chained=chained)
        inner = self.get_member(select(owner, ObjectValue), name)
        if select(inner, FunctionValue):
            return self._trace_own_call(node, inner)
        self.set_line(node)
        places = select(owner, PathValue)
        if name == "hasOwnProperty":
            self.evaluate_condition(node)
            return UNTRACKED
        if name in {"keys", "values", "entries"} and places:  # methods of lists only
            items = self.get_item(owner, is_optional=chained)
            pair = (ObjectValue({0: UNTRACKED, 1: items}),)
            return UNTRACKED if name == "keys" else (ListValue(items if name == "values" else pair),)
        return self._plain_method(node, owner, places, name, chained=chained)

    def _plain_method(
        self, node: Node, owner: ValueSet, places: tuple[PathValue, ...], name: str, *, chained: bool
    ) -> ValueSet:
        if name in words.TEXT_METHODS:
            self.expect_type(places, "string")
        elif name in words.NUMBER_METHODS:
            self.expect_type(places, "number")
        elif name in words.LIST_METHODS:
            self.expect_type(places, "array")
        self.require_value(owner, chained=chained)
        given = self.evaluate_list(get_arguments(node))
        grows = name in {"push", "unshift", "set", "append", "add"}
        self._pass_values(
            given,
            sent=grows
            or bool(places)
            or get_source(get_field(node, "function")).startswith(words.HTTP_CLIENT_PREFIXES),
        )
        self.set_line(node)
        if name in words.ITEM_METHODS and owner:
            return self.get_member(owner, LIST_ITEM, chained=chained)
        if name in {"slice", "reverse", "flat", "concat", "splice"} and owner:
            return self.optional(owner) if chained else owner
        if name == "join":
            self.add_use(self.get_item(owner, is_optional=chained))
            return UNTRACKED
        used = exclude(owner, FunctionValue)
        self.add_use(self.optional(used) if chained else used)
        return UNTRACKED

    def _trace_callback_method(self, node: Node, owner: ValueSet, name: str, *, chained: bool) -> ValueSet:
        given = self.evaluate_list(get_arguments(node))
        self.set_line(node)
        items = self.get_item(owner, is_optional=chained)
        callback, rest = given[0], given[1:]
        if name.startswith("reduce"):
            before = rest[0] if rest else items
            descends = bool(select(before, PathValue))
            if descends and select(items, LiteralValue):
                return self.get_dynamic_member(before)  # descends by computed keys
            return union(before, self.trace_calls(callback, [before, items, UNTRACKED, owner]))
        if name in {"sort", "toSorted"}:
            self.trace_calls(callback, [items, items])
            return owner
        found = self.trace_calls(callback, [items, UNTRACKED, owner])
        if not select(callback, FunctionValue):
            self.add_use(items)
        if name == "map":
            return (ListValue(found),)
        if name == "flatMap":
            return (ListValue(self.get_item(found)),)
        if name != "forEach":
            self.presence_check(found)
        if name == "filter":
            return (ListValue(items),)
        return self.optional(items) if name in {"find", "findLast"} else UNTRACKED

    def _trace_platform_call(self, node: Node, owner: ValueSet, name: str) -> ValueSet:
        nodes = get_arguments(node)
        if PlatformValue("this") in owner and (methods := self.get_member(self.methods, name)):
            return self._trace_own_call(node, methods)
        given = self.evaluate_list(nodes)
        if PlatformValue("$") in owner and name == "export" and len(given) == 2:
            for atom in given[0]:
                if isinstance(atom, LiteralValue):
                    self.add_export(str(atom.value), given[1])
                    return UNTRACKED
        known = next(atom for atom in owner if isinstance(atom, PlatformValue))
        self._pass_values(given, sent=known.name.startswith("$") or name in {"set", "push", "put"})
        return UNTRACKED

    # ── functions ──────────────────────────────────────────────────────────────────

    def _function(self, node: Node, name: str) -> ValueSet:
        nodes = get_arguments(node)
        if name in {"Array.isArray", "Object.hasOwn", "Object.prototype.hasOwnProperty.call", "_.has"}:
            self.evaluate_condition(node)
            return UNTRACKED
        given = self.evaluate_list(nodes)
        first = given[0] if given else UNTRACKED
        self.set_line(node)
        if name == "JSON.stringify":
            return (JsonTextValue(first),)
        if name in {"JSON.parse", "qs.parse", "querystring.parse"}:
            return self.parse_json(first)
        if name in words.KEY_FUNCTIONS:
            self.require_value(first, chained=False)
            return self._trace_key_function(name, first)
        if name == "Object.assign":
            return (ObjectValue({}, union(*given)),)
        if name in words.IDENTITY_FUNCTIONS or name == "defineComponent":
            return first
        if name == "Array.from":
            items = self.get_item(first)
            return (ListValue(self.trace_calls(given[1], [items]) if len(given) > 1 else items),)
        if name in words.PATH_GET_FUNCTIONS and len(given) > 1 and (found := self._get_by_path(given)) is not None:
            return found
        if name in words.SCALAR_FUNCTIONS or name.startswith("Math."):
            for value in given:
                self.add_use(self.expect_type(value, "numeric") if name.startswith("Math.") else value)
            return UNTRACKED
        self._pass_values(given, sent=name.startswith((*words.HTTP_CLIENT_PREFIXES, *words.LOG_PREFIXES)))
        return UNTRACKED

    def _trace_key_function(self, name: str, value: ValueSet) -> ValueSet:
        found = self.get_dynamic_member(value)
        if name == "Object.keys":
            return UNTRACKED
        return (ListValue(found),) if name == "Object.values" else (ListValue((ListValue(found),)),)

    def _get_by_path(self, given: Sequence[ValueSet]) -> ValueSet | None:
        """The value of `_.get(object, "a.b[0]", default)`; None if the path is not a literal."""
        keys = given[1]
        if len(keys) != 1 or not isinstance(keys[0], LiteralValue) or not isinstance(keys[0].value, str):
            return None
        value = given[0]
        segments = keys[0].value.replace("[", ".").replace("]", "").split(".")
        for index, segment in enumerate(segments):
            last = index == len(segments) - 1
            key = LIST_ITEM if segment.isdigit() else segment
            value = self.get_member(value, key, is_optional=True, default=last and len(given) > 2, chained=True)
        return union(value, *given[2:])

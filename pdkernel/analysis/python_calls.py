"""
Tracing of Python calls: methods of event values, built-in functions, and functions of the step.

Values that are passed to any other function are not followed.
"""

from __future__ import annotations

import ast

from pdkernel.analysis import python_builtins as words
from pdkernel.analysis.abstract_values import (
    UNTRACKED,
    FunctionValue,
    JsonTextValue,
    ListValue,
    LiteralValue,
    ObjectValue,
    PathValue,
    PlatformValue,
    ValueSet,
    select,
    union,
)
from pdkernel.analysis.python_expressions import PythonExpressionTracer, get_dotted_name


class PythonCallTracer(PythonExpressionTracer):
    """A trace of Python expressions with calls."""

    def _call(self, node: ast.Call) -> ValueSet:
        if isinstance(node.func, ast.Attribute):
            name = get_dotted_name(node.func)
            first = name.partition(".")[0]
            if not first or self.scope.find(first) is not None:
                return self._method(node, self.evaluate(node.func.value), node.func.attr)
            return self._function(node, name)
        if isinstance(node.func, ast.Name) and self.scope.find(node.func.id) is None:
            return self._function(node, node.func.id)
        called = self.evaluate(node.func)
        found = self.trace_calls(called, self._arguments(node), self._evaluate_keywords(node))
        if not select(called, FunctionValue):
            self._pass_arguments(node, "escapes")
        return found

    def _arguments(self, node: ast.Call) -> list[ValueSet]:
        return [
            (ListValue(self.get_item(self.evaluate(each.value))),)
            if isinstance(each, ast.Starred)
            else self.evaluate(each)
            for each in node.args
        ]

    def _evaluate_keywords(self, node: ast.Call) -> dict[str, ValueSet]:
        for each in node.keywords:
            if each.arg is None:
                self.add_use(self.evaluate(each.value), "escapes")
        return {each.arg: self.evaluate(each.value) for each in node.keywords if each.arg is not None}

    def _pass_arguments(self, node: ast.Call, kind: str) -> None:
        for value in self._arguments(node):
            self.add_use(value, "passes_on" if kind == "passes_on" else "escapes")
        for each in node.keywords:
            sent = kind == "passes_on" or each.arg in words.PAYLOAD_ARGUMENTS
            self.add_use(self.evaluate(each.value), "passes_on" if sent else "escapes")

    # ── methods ────────────────────────────────────────────────────────────────────

    def _method(self, node: ast.Call, owner: ValueSet, name: str) -> ValueSet:
        self.line = node.lineno
        if select(owner, PlatformValue):
            return self._platform(node, owner, name)
        if name in {"get", "pop", "setdefault", "__getitem__"} and node.args:
            return self._get_by_method(node, owner, name)
        if name in words.KEY_METHODS and not node.args:
            return self.get_dynamic_member(owner)
        if name == "copy":
            return owner
        places = select(owner, PathValue)
        if name in words.TEXT_METHODS and places:
            self.expect_type(places, "string")
        elif name in words.LIST_METHODS:
            self.expect_type(places, "array")
        self._count_on(places)
        self.add_use(places)
        if name in {"append", "extend", "update", "add", "insert"} or (not places and name in words.LOG_METHODS):
            self._pass_arguments(node, "passes_on")
        elif name == "join" and len(node.args) == 1:
            self.add_use(self.expect_type(self.get_item(self.evaluate(node.args[0])), "string"))
        elif name in {"map", "apply"}:
            self._pass_arguments(node, "escapes")
        else:
            sent = name in words.TEXT_METHODS or get_dotted_name(node.func).startswith(words.HTTP_CLIENT_PREFIXES)
            self._pass_arguments(node, "passes_on" if sent else "escapes")
        if name in {"split", "splitlines", "rsplit"}:
            return UNTRACKED
        return select(owner, ObjectValue) if name == "update" else UNTRACKED

    def _count_on(self, places: tuple[PathValue, ...]) -> None:
        """Record a method call that fails for None."""
        for at in places:
            if at.presence == "optional":
                self.require_path(at.path)

    def _get_by_method(self, node: ast.Call, owner: ValueSet, name: str) -> ValueSet:
        keys = self.evaluate(node.args[0])
        given = len(node.args) > 1 and not (isinstance(node.args[1], ast.Constant) and node.args[1].value is None)
        other = self.evaluate(node.args[1]) if len(node.args) > 1 else UNTRACKED
        soft = name == "get" or len(node.args) > 1
        self.line = node.lineno
        found = self.get_members(owner, keys, is_optional=soft, default=soft and given)
        if given and found and (types := _default_type(node.args[1])):
            self.expect_type(found, *types)
        return union(found, other)

    def _platform(self, node: ast.Call, owner: ValueSet, name: str) -> ValueSet:
        if PlatformValue("pd") in owner and name == "export" and len(node.args) == 2:
            names, value = self.evaluate(node.args[0]), self.evaluate(node.args[1])
            for atom in names:
                if isinstance(atom, LiteralValue):
                    self.add_export(str(atom.value), value)
                    return UNTRACKED
            self.add_use(value, "passes_on")
            return UNTRACKED
        self._pass_arguments(node, "passes_on")
        return UNTRACKED

    # ── functions ──────────────────────────────────────────────────────────────────

    def _function(self, node: ast.Call, name: str) -> ValueSet:
        self.line = node.lineno
        if name in {"map", "filter"} and len(node.args) == 2:
            items = self.get_item(self.evaluate(node.args[1]))
            found = self._apply_to_items(self.evaluate(node.args[0]), items)
            return (ListValue(found if name == "map" else items),)
        if name in {"any", "all", "sum"} and len(node.args) == 1:
            items = self.get_item(self.evaluate(node.args[0]))
            self.add_use(self.expect_type(items, "number") if name == "sum" else items)
            return UNTRACKED
        if name in {"enumerate", "zip"}:
            items_of = [self.get_item(value) for value in self._arguments(node)]
            pair = [UNTRACKED, *items_of[:1]] if name == "enumerate" else items_of
            return (ListValue((ObjectValue(dict(enumerate(pair))),)),)
        if name in words.IDENTITY_FUNCTIONS or name in {"min", "max", "next"}:
            return self._trace_identity_function(node, name)
        if name in {"json.dumps", "dumps"} and node.args:
            self._evaluate_options(node)
            return (JsonTextValue(self.evaluate(node.args[0])),)
        if name in {"json.loads", "loads", "json.load"} and node.args:
            return self.parse_json(self.evaluate(node.args[0]))
        if name == "export" and len(node.args) == 2 and isinstance(node.args[0], ast.Constant):
            self.add_export(str(node.args[0].value), self.evaluate(node.args[1]))
            return UNTRACKED
        if name in words.SCALAR_FUNCTIONS or name == "isinstance":
            self.evaluate_condition(node) if name == "isinstance" else self._use_arguments(node)
            return UNTRACKED
        logs = name.startswith(words.LOG_PREFIXES)
        self._pass_arguments(node, "passes_on" if logs or name.startswith(words.HTTP_CLIENT_PREFIXES) else "escapes")
        return UNTRACKED

    def _use_arguments(self, node: ast.Call) -> None:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name == "len":
            self._count_on(
                tuple(atom for value in self._arguments(node) for atom in value if isinstance(atom, PathValue))
            )
            return
        for value in [*self._arguments(node), *self._evaluate_keywords(node).values()]:
            self.add_use(self.expect_type(value, "number") if name in {"abs", "round"} else value)

    def _evaluate_options(self, node: ast.Call) -> None:
        for each in node.keywords:
            self.evaluate(each.value)

    def _apply_to_items(self, function: ValueSet, items: ValueSet) -> ValueSet:
        if not select(function, FunctionValue):
            self.add_use(items)
        return self.trace_calls(function, [items])

    def _trace_identity_function(self, node: ast.Call, name: str) -> ValueSet:
        named = self._evaluate_keywords(node)
        if name == "dict" and not node.args:
            return (
                ObjectValue(named, union(*(self.evaluate(each.value) for each in node.keywords if each.arg is None))),
            )
        if not node.args:
            return (ListValue(),)
        value = self.evaluate(node.args[0])
        if name in {"dict", "copy.copy", "copy.deepcopy", "deepcopy", "iter"}:
            return value
        if name == "next":
            items = self.get_item(value)
            return union(self.optional(items) if len(node.args) > 1 else items, *map(self.evaluate, node.args[1:]))
        items = self.get_item(value)
        if "key" in named:
            self.trace_calls(named["key"], [items])
        elif name in {"sorted", "set", "frozenset", "min", "max"}:
            self.add_use(items)
        if name in {"min", "max"}:
            self.add_use(union(*map(self.evaluate, node.args[1:])))
            return items
        return (ListValue(items),)


def _default_type(node: ast.expr) -> tuple[str, ...]:
    """The types of a value that a default reveals."""
    match node:
        case ast.Constant(value=bool()):
            return ("boolean",)
        case ast.Constant(value=str(text)) if text:
            return ("string",)
        case ast.Constant(value=int() | float()):
            return ("numeric",)
        case ast.List():
            return ("array",)
        case ast.Dict():
            return ("object",)
    return ()

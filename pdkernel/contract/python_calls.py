"""
Calls in Python: methods of what comes from the event, Python's own functions, the step's.

Knows what each does with its arguments. What is handed to any other function is not followed.
"""

from __future__ import annotations

import ast

from pdkernel.contract import python_words as words
from pdkernel.contract.python_expressions import PythonExpressions, dotted
from pdkernel.contract.values import (
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


class PythonCalls(PythonExpressions):
    """A walk through Python expressions, calls among them."""

    def _call(self, node: ast.Call) -> Value:
        if isinstance(node.func, ast.Attribute):
            name = dotted(node.func)
            first = name.partition(".")[0]
            if not first or self.scope.find(first) is not None:
                return self._method(node, self.of(node.func.value), node.func.attr)
            return self._function(node, name)
        if isinstance(node.func, ast.Name) and self.scope.find(node.func.id) is None:
            return self._function(node, node.func.id)
        called = self.of(node.func)
        found = self.calls(called, self._arguments(node), self._named(node))
        if not any(isinstance(atom, Routine) for atom in called):
            self._hand_all(node, "hands")
        return found

    def _arguments(self, node: ast.Call) -> list[Value]:
        return [
            (Several(self.iterate(self.of(each.value))),) if isinstance(each, ast.Starred) else self.of(each)
            for each in node.args
        ]

    def _named(self, node: ast.Call) -> dict[str, Value]:
        for each in node.keywords:
            if each.arg is None:
                self.use(self.of(each.value), "hands")
        return {each.arg: self.of(each.value) for each in node.keywords if each.arg is not None}

    def _hand_all(self, node: ast.Call, kind: str) -> None:
        for value in self._arguments(node):
            self.use(value, "whole" if kind == "whole" else "hands")
        for each in node.keywords:
            sent = kind == "whole" or each.arg in words.SENT_AS
            self.use(self.of(each.value), "whole" if sent else "hands")

    # ── methods ────────────────────────────────────────────────────────────────────

    def _method(self, node: ast.Call, owner: Value, name: str) -> Value:
        self.line = node.lineno
        if any(isinstance(atom, Known) for atom in owner):
            return self._platform(node, owner, name)
        if name in {"get", "pop", "setdefault", "__getitem__"} and node.args:
            return self._looked_up(node, owner, name)
        if name in words.KEY_METHODS and not node.args:
            return self.dynamic(owner)
        if name == "copy":
            return owner
        places = tuple(atom for atom in owner if isinstance(atom, At))
        if name in words.TEXT_METHODS and places:
            self.typed(places, "string")
        elif name in words.LIST_METHODS:
            self.typed(places, "array")
        self._count_on(places)
        self.use(places)
        if name in {"append", "extend", "update", "add", "insert"} or (not places and name in words.LOG_METHODS):
            self._hand_all(node, "whole")
        elif name == "join" and len(node.args) == 1:
            self.use(self.typed(self.iterate(self.of(node.args[0])), "string"))
        elif name in {"map", "apply"}:
            self._hand_all(node, "hands")
        else:
            sent = name in words.TEXT_METHODS or dotted(node.func).startswith(words.SENDERS)
            self._hand_all(node, "whole" if sent else "hands")
        if name in {"split", "splitlines", "rsplit"}:
            return NOTHING
        return tuple(atom for atom in owner if isinstance(atom, Object)) if name == "update" else NOTHING

    def _count_on(self, places: tuple[At, ...]) -> None:
        """Nothing has no such method."""
        for at in places:
            if at.state == "soft":
                self.need(at.place)

    def _looked_up(self, node: ast.Call, owner: Value, name: str) -> Value:
        keys = self.of(node.args[0])
        given = len(node.args) > 1 and not (isinstance(node.args[1], ast.Constant) and node.args[1].value is None)
        other = self.of(node.args[1]) if len(node.args) > 1 else NOTHING
        soft = name == "get" or len(node.args) > 1
        self.line = node.lineno
        found = self.at_keys(owner, keys, soft=soft, default=soft and given)
        if given and found and (types := _default_type(node.args[1])):
            self.typed(found, *types)
        return either(found, other)

    def _platform(self, node: ast.Call, owner: Value, name: str) -> Value:
        if Known("pd") in owner and name == "export" and len(node.args) == 2:
            names, value = self.of(node.args[0]), self.of(node.args[1])
            for atom in names:
                if isinstance(atom, Literally):
                    self.export(str(atom.value), value)
                    return NOTHING
            self.use(value, "whole")
            return NOTHING
        self._hand_all(node, "whole")
        return NOTHING

    # ── functions ──────────────────────────────────────────────────────────────────

    def _function(self, node: ast.Call, name: str) -> Value:
        self.line = node.lineno
        if name in {"map", "filter"} and len(node.args) == 2:
            items = self.iterate(self.of(node.args[1]))
            found = self._applied(self.of(node.args[0]), items)
            return (Several(found if name == "map" else items),)
        if name in {"any", "all", "sum"} and len(node.args) == 1:
            items = self.iterate(self.of(node.args[0]))
            self.use(self.typed(items, "number") if name == "sum" else items)
            return NOTHING
        if name in {"enumerate", "zip"}:
            items_of = [self.iterate(value) for value in self._arguments(node)]
            pair = [NOTHING, *items_of[:1]] if name == "enumerate" else items_of
            return (Several((Object(dict(enumerate(pair))),)),)
        if name in words.SAME or name in {"min", "max", "next"}:
            return self._passed_through(node, name)
        if name in {"json.dumps", "dumps"} and node.args:
            self._quiet_options(node)
            return (Text(self.of(node.args[0])),)
        if name in {"json.loads", "loads", "json.load"} and node.args:
            return self._parsed(self.of(node.args[0]))
        if name == "export" and len(node.args) == 2 and isinstance(node.args[0], ast.Constant):
            self.export(str(node.args[0].value), self.of(node.args[1]))
            return NOTHING
        if name in words.PLAIN or name == "isinstance":
            self.test(node) if name == "isinstance" else self._plainly(node)
            return NOTHING
        logs = name.startswith(words.LOGS)
        self._hand_all(node, "whole" if logs or name.startswith(words.SENDERS) else "hands")
        return NOTHING

    def _plainly(self, node: ast.Call) -> None:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name == "len":
            self._count_on(tuple(atom for value in self._arguments(node) for atom in value if isinstance(atom, At)))
            return
        for value in [*self._arguments(node), *self._named(node).values()]:
            self.use(self.typed(value, "number") if name in {"abs", "round"} else value)

    def _quiet_options(self, node: ast.Call) -> None:
        for each in node.keywords:
            self.of(each.value)

    def _parsed(self, value: Value) -> Value:
        """What was JSON text of the code's own is what it was made of; JSON text in the event is not followed."""
        places = tuple(atom for atom in value if isinstance(atom, At))
        self.use(self.typed(places, "string"))
        return either(*(atom.of for atom in value if isinstance(atom, Text)))

    def _applied(self, function: Value, items: Value) -> Value:
        if not any(isinstance(atom, Routine) for atom in function):
            self.use(items)
        return self.calls(function, [items])

    def _passed_through(self, node: ast.Call, name: str) -> Value:
        named = self._named(node)
        if name == "dict" and not node.args:
            return (Object(named, either(*(self.of(each.value) for each in node.keywords if each.arg is None))),)
        if not node.args:
            return (Several(),)
        value = self.of(node.args[0])
        if name in {"dict", "copy.copy", "copy.deepcopy", "deepcopy", "iter"}:
            return value
        if name == "next":
            items = self.iterate(value)
            return either(self.softened(items) if len(node.args) > 1 else items, *map(self.of, node.args[1:]))
        items = self.iterate(value)
        if "key" in named:
            self.calls(named["key"], [items])
        elif name in {"sorted", "set", "frozenset", "min", "max"}:
            self.use(items)
        if name in {"min", "max"}:
            self.use(either(*map(self.of, node.args[1:])))
            return items
        return (Several(items),)


def _default_type(node: ast.expr) -> tuple[str, ...]:
    """What a default tells of the value in whose place it stands."""
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

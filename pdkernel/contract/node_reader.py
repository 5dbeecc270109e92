"""
What a Node.js step, or an expression of a prop, reads of the event.

Knows JavaScript's statements and a component. Starts at `run` and follows the step's own functions and methods; code
that nothing calls reads nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from tree_sitter import Node

from pdkernel.contract import node_words as words
from pdkernel.contract.node_calls import NodeCalls
from pdkernel.contract.node_syntax import named, part, text_of, type_of
from pdkernel.contract.trace import NONE, Exports
from pdkernel.contract.values import NOTHING, At, Known, Object, Place, Routine, Value
from pdkernel.execution import RETURN_VALUE
from pdkernel.expression import javascript

_SIMPLE = frozenset({"expression_statement", "return_statement", "lexical_declaration", "variable_declaration"})


class NodeReader(NodeCalls):
    """A walk through a Node.js step."""

    def walk(self, root: Node) -> None:
        """Follow the step from its entry point."""
        self.bind("steps", (At(()),), new=True)
        self.bind("$", (Known("$"),), new=True)
        self.of(root)

    def _start(self, component: Value) -> None:
        context: Value = (Object({"steps": (At(()),), "$": (Known("$"),)}),)
        for atom in component:
            if isinstance(atom, Object):
                self.methods = atom.items.get("methods", NOTHING)
                run = atom.items.get("run", NOTHING)
            else:
                run = (atom,)
            for function in run:
                if isinstance(function, Routine):
                    returned = self.call(function, [context])
                    self.exports.setdefault(RETURN_VALUE, []).append(returned)

    def run_function(self, function: Routine, arguments: Sequence[Value], _: Mapping[str, Value]) -> None:
        """Bind the parameters and follow the body."""
        node = function.node
        single = part(node, "parameter")
        patterns = [single] if single is not None else named(part(node, "parameters") or node)
        for index, pattern in enumerate(patterns):
            value = arguments[index] if index < len(arguments) else NOTHING
            if pattern.type == "rest_pattern":
                self.use(tuple(atom for rest in arguments[index:] for atom in rest), "hands")
            elif pattern.type == "assignment_pattern" and value:
                self.assign(part(pattern, "left"), value)
            else:
                self.assign(pattern, value)
        body = part(node, "body")
        if body is None or body.type == "statement_block":
            self.of(body)
        else:
            self._give(self.of(body))

    def _give(self, value: Value) -> None:
        if self.is_entry:
            self.use(value, "whole")
        self.returns(value)

    # ── statements ─────────────────────────────────────────────────────────────────

    def _program(self, node: Node) -> Value:
        for child in node.named_children:
            if child.type == "function_declaration":
                self.bind(text_of(part(child, "name")), (Routine(child, self.scope),), new=True)
        for child in node.named_children:
            self.of(child)
        return NOTHING

    _statement_block = _program

    def _function_declaration(self, node: Node) -> Value:
        self.bind(text_of(part(node, "name")), (Routine(node, self.scope),), new=True)
        return NOTHING

    def _export_statement(self, node: Node) -> Value:
        value = part(node, "value")
        declared = part(node, "declaration")
        is_default = any(child.type == "default" for child in node.children)
        if is_default and declared is not None:
            self._start((Routine(declared, self.scope),))
        elif declared is not None:
            self.of(declared)
        elif value is not None:
            self._start(self.of(value))
        return NOTHING

    def _expression_statement(self, node: Node) -> Value:
        for child in named(node):
            if child.type == "assignment_expression" and text_of(part(child, "left")) in {
                "module.exports",
                "exports.default",
            }:
                self._start(self.of(part(child, "right")))
                continue
            value = self.of(child)
            if child.type not in {"assignment_expression", "augmented_assignment_expression"}:
                self.use(tuple(atom for atom in value if not isinstance(atom, Routine)))
        return NOTHING

    def _lexical_declaration(self, node: Node) -> Value:
        for child in named(node):
            if child.type == "variable_declarator":
                self.assign(part(child, "name"), self.of(part(child, "value")))
        return NOTHING

    _variable_declaration = _lexical_declaration

    def _return_statement(self, node: Node) -> Value:
        for child in named(node):
            self._give(self.of(child))
        return NOTHING

    def _if_statement(self, node: Node) -> Value:
        there, missing = self.test(part(node, "condition"))
        body, other = part(node, "consequence"), part(node, "alternative")
        self.branches((there, missing, lambda: self.of(body)), (missing, there, lambda: self.of(other)))
        for branch, known in ((body, missing), (other, there)):
            self._leave(branch, known)
        return NOTHING

    def _leave(self, branch: Node | None, known: frozenset[Place]) -> None:
        last = _last(branch)
        if last is None or last.type not in words.LEAVES:
            return
        if last.type == "throw_statement":
            for place in known:
                self.need(place)
        self.learn(known)

    def _else_clause(self, node: Node) -> Value:
        for child in named(node):
            self.of(child)
        return NOTHING

    def _for_in_statement(self, node: Node) -> Value:
        value = self.of(part(node, "right"))
        if text_of(part(node, "operator")) == "in":
            self.dynamic(value)
            self.assign(part(node, "left"), NOTHING)
        else:
            items = self.iterate(value)
            self.assign(part(node, "left"), items)
            self.loop(items, lambda: self.of(part(node, "body")))
            return NOTHING
        return self.of(part(node, "body"))

    def _for_statement(self, node: Node) -> Value:
        self.of(part(node, "initializer"))
        condition = part(node, "condition")
        for child in named(condition) if condition is not None and condition.type == "expression_statement" else ():
            self.test(child)
        if condition is not None and condition.type != "expression_statement":
            self.test(condition)
        self.count(node)
        self.of(part(node, "body"))
        return self.of(part(node, "increment"))

    def count(self, node: Node) -> None:
        """The variable of a counting loop is an index."""
        declared = part(node, "initializer")
        for child in named(declared) if declared is not None else ():
            if child.type == "variable_declarator" and type_of(part(child, "value")) == ("number",):
                self.assign(part(child, "name"), (Known("index"),))

    def _while_statement(self, node: Node) -> Value:
        there, missing = self.test(part(node, "condition"))
        return self.alone(there, missing, lambda: self.of(part(node, "body")))

    def _do_statement(self, node: Node) -> Value:
        self.of(part(node, "body"))
        self.test(part(node, "condition"))
        return NOTHING

    def _try_statement(self, node: Node) -> Value:
        body, handler = part(node, "body"), part(node, "handler")
        statements = named(body) if body is not None else []
        last = _last(part(handler, "body")) if handler is not None else None
        simple = len(statements) == 1 and statements[0].type in _SIMPLE
        if handler is not None and simple and (last is None or last.type != "throw_statement"):
            with self.copes():
                self.of(body)
        else:
            self.of(body)
        if handler is not None:
            self.alone(NONE, NONE, lambda: self.of(part(handler, "body")))
        return self.of(part(node, "finalizer"))

    def _finally_clause(self, node: Node) -> Value:
        return self.of(part(node, "body"))

    def _switch_statement(self, node: Node) -> Value:
        value, body = self.of(part(node, "value")), part(node, "body")
        cases = named(body) if body is not None else []
        kinds = {type_of(part(case, "value")) for case in cases if case.type == "switch_case"}
        self.use(self.typed(value, *kinds.pop()) if len(kinds) == 1 else value)
        for case in cases:
            self.alone(NONE, NONE, partial(self._case, case))
        return NOTHING

    def _case(self, case: Node) -> Value:
        for child in named(case):
            self.of(child)
        return NOTHING

    def _break_statement(self, _: Node) -> Value:
        return NOTHING

    _continue_statement = _break_statement


def _last(branch: Node | None) -> Node | None:
    """The last statement of *branch*."""
    while branch is not None and branch.type in {"statement_block", "else_clause"}:
        children = named(branch)
        branch = children[-1] if children else None
    return branch


def read(source: str, known: Exports | None = None) -> NodeReader:
    """The walk through the module *source*."""
    reader = NodeReader(known)
    reader.walk(javascript.parse(source))
    return reader


def read_expression(source: str, known: Exports | None = None) -> NodeReader:
    """The walk through the expression *source*, whose value is given on."""
    reader = NodeReader(known)
    reader.bind("steps", (At(()),), new=True)
    node = javascript.expression_in(source)
    if node is not None:
        reader.use(reader.of(node), "whole")
    return reader

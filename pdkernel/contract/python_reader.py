"""
What a Python step reads of the event.

Knows Python's statements and a step's entry point. Starts at `handler`, or at the top for steps of the old kind, and
follows the step's own functions; code that nothing calls reads nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from pdkernel.contract import python_words as words
from pdkernel.contract.python_calls import PythonCalls
from pdkernel.contract.trace import NONE, Exports
from pdkernel.contract.values import NOTHING, At, Known, Object, Routine, Several, Value
from pdkernel.execution import RETURN_VALUE
from pdkernel.inspection import python_code

_FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef


class PythonReader(PythonCalls):
    """A walk through a Python step."""

    def walk(self, tree: ast.Module) -> None:
        """Follow the step from its entry point."""
        self._body(tree.body)
        for atom in self.scope.find(python_code.ENTRY) or NOTHING:
            if isinstance(atom, Routine):
                returned = self.call(atom, [(Known("pd"),)])
                self.exports.setdefault(RETURN_VALUE, []).append(returned)

    def run_function(self, function: Routine, arguments: Sequence[Value], named: Mapping[str, Value]) -> None:
        """Bind the parameters and follow the body."""
        given = function.node.args
        parameters = [*given.posonlyargs, *given.args]
        values = list(arguments)
        if parameters and parameters[0].arg in {"self", "cls"}:
            values.insert(0, (Known("self"),))
        defaults = dict(
            zip([p.arg for p in parameters][len(parameters) - len(given.defaults) :], given.defaults, strict=True)
        )
        for index, parameter in enumerate([*parameters, *given.kwonlyargs]):
            if index < len(values) and index < len(parameters):
                value = values[index]
            elif parameter.arg in named:
                value = named[parameter.arg]
            else:
                value = self.of(defaults.get(parameter.arg))
            self.bind(parameter.arg, value, new=True)
        for rest in values[len(parameters) :]:
            self.use(rest, "hands")
        if isinstance(function.node, ast.Lambda):
            self.returns(self.of(function.node.body))
        else:
            self._body(function.node.body)

    # ── statements ─────────────────────────────────────────────────────────────────

    def _body(self, body: Sequence[ast.stmt]) -> Value:
        for statement in body:
            if isinstance(statement, _FUNCTIONS):
                self.bind(statement.name, (Routine(statement, self.scope, statement.name),), new=True)
        for statement in body:
            self._statement(statement)
        return NOTHING

    def _statement(self, node: ast.stmt) -> None:
        self.line = node.lineno
        act: Callable[[Any], object] | None = getattr(self, f"_on_{type(node).__name__.lower()}", None)
        if act is not None:
            act(node)

    def _on_assign(self, node: ast.Assign) -> None:
        found = self.of(node.value)
        for target in node.targets:
            self.assign(target, found)

    def _on_annassign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.assign(node.target, self.of(node.value))

    def _on_augassign(self, node: ast.AugAssign) -> None:
        added = self.of(node.value)
        kept = self.of(node.target) if isinstance(node.target, ast.Name) else NOTHING
        if isinstance(node.op, ast.BitOr) or any(isinstance(atom, Object | Several) for atom in kept):
            self.use(added, "whole")
            return
        self.use(added)
        self.use(kept)

    def _on_return(self, node: ast.Return) -> None:
        found = self.of(node.value)
        if self.is_entry:
            self.use(found, "whole")
        self.returns(found)

    def _on_expr(self, node: ast.Expr) -> None:
        self.use(tuple(atom for atom in self.of(node.value) if not isinstance(atom, Routine)))

    def _on_for(self, node: ast.For | ast.AsyncFor) -> None:
        items = self.iterate(self.of(node.iter))
        self.assign(node.target, items)
        self.loop(items, lambda: self._body(node.body))
        self._body(node.orelse)

    _on_asyncfor = _on_for

    def _on_while(self, node: ast.While) -> None:
        there, missing = self.test(node.test)
        self.alone(there, missing, lambda: self._body(node.body))

    def _on_with(self, node: ast.With | ast.AsyncWith) -> None:
        for item in node.items:
            opened = self.of(item.context_expr)
            if item.optional_vars is not None:
                self.assign(item.optional_vars, opened)
        self._body(node.body)

    _on_asyncwith = _on_with

    def _on_assert(self, node: ast.Assert) -> None:
        there, _ = self.test(node.test)
        for place in there:
            self.need(place)
        self.learn(there)

    def _on_importfrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names if node.module == python_code.OLD_HELPERS else ():
            if alias.name == "steps":
                self.bind(alias.asname or alias.name, (At(()),), new=True)

    def _on_classdef(self, node: ast.ClassDef) -> None:
        # methods are not followed: a class is nobody's function
        self.bind(node.name, NOTHING, new=True)

    def _on_raise(self, node: ast.Raise) -> None:
        self.use(self.of(node.exc))

    def _on_if(self, node: ast.If) -> None:
        there, missing = self.test(node.test)
        self.branches(
            (there, missing, lambda: self._body(node.body)), (missing, there, lambda: self._body(node.orelse))
        )
        for body, known in ((node.body, missing), (node.orelse, there)):
            if _raises(body):
                for place in known:
                    self.need(place)
            if _leaves(body):
                self.learn(known)

    def _on_try(self, node: ast.Try | ast.TryStar) -> None:
        if any(_copes(handler, node.body) for handler in node.handlers):
            with self.copes():
                self._body(node.body)
        else:
            self._body(node.body)
        for handler in node.handlers:
            self.alone(NONE, NONE, partial(self._body, handler.body))
        self._body(node.orelse)
        self._body(node.finalbody)

    _on_trystar = _on_try

    def _on_match(self, node: ast.Match) -> None:
        subject = self.of(node.subject)
        patterns = [case.pattern for case in node.cases]
        if any(isinstance(pattern, ast.MatchValue) for pattern in patterns):
            self.use(self.typed(subject, *_value_types(patterns)))
        for case in node.cases:
            self._pattern(case.pattern, subject)
            there = self.test(case.guard)[0] if case.guard is not None else NONE
            self.alone(there, NONE, partial(self._body, case.body))

    def _pattern(self, pattern: ast.pattern, subject: Value) -> None:
        match pattern:
            case ast.MatchMapping(keys=keys, patterns=patterns):
                for key, below in zip(keys, patterns, strict=True):
                    self._pattern(below, self.at_keys(subject, self.of(key), soft=True, default=True))
            case ast.MatchAs(pattern=inner, name=name):
                if inner is not None:
                    self._pattern(inner, subject)
                if name is not None:
                    self.bind(name, subject, new=True)
            case ast.MatchOr(patterns=patterns):
                for each in patterns:
                    self._pattern(each, subject)
            case ast.MatchSequence(patterns=patterns):
                for each in patterns:
                    self._pattern(each, self.iterate(subject))
            case ast.MatchValue():
                self.use(subject)


def _leaves(body: Sequence[ast.stmt]) -> bool:
    """Whether what stands after *body* is not reached from it."""
    if not body:
        return False
    last = body[-1]
    if isinstance(last, ast.If):
        return _leaves(last.body) and _leaves(last.orelse)
    exits = (
        isinstance(last, ast.Expr)
        and isinstance(last.value, ast.Call)
        and ast.unparse(last.value.func) in {"sys.exit", "exit", "quit", "os._exit"}
    )
    return exits or isinstance(last, ast.Return | ast.Raise | ast.Continue | ast.Break)


def _raises(body: Sequence[ast.stmt]) -> bool:
    return bool(body) and isinstance(body[-1], ast.Raise)


def _copes(handler: ast.ExceptHandler, body: Sequence[ast.stmt]) -> bool:
    """Whether *handler* goes on where a key is missing in *body*."""
    if _raises(handler.body):
        return False
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    names = {kind.id for kind in kinds if isinstance(kind, ast.Name)}
    if names & words.COPES_WITH:
        return True
    # what catches everything around a whole step is there for other failures
    simple = len(body) == 1 and not isinstance(body[0], ast.If | ast.For | ast.With | ast.Try | ast.While)
    return simple and (handler.type is None or bool(names & words.COPES_WITH_ALL))


def _value_types(patterns: Sequence[ast.pattern]) -> tuple[str, ...]:
    values = [pattern.value for pattern in patterns if isinstance(pattern, ast.MatchValue)]
    texts = [isinstance(value, ast.Constant) and isinstance(value.value, str) for value in values]
    return ("string",) if texts and all(texts) else ()


def read(source: str, known: Exports | None = None) -> PythonReader | None:
    """The walk through *source*, or None if it cannot be read."""
    tree = python_code.tree_of(source)
    if tree is None:
        return None
    reader = PythonReader(known)
    reader.walk(tree)
    return reader

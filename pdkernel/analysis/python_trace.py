"""
The event fields that a Python step reads.

The trace reads the statements of the module, then a call of `handler`, and follows calls of the step's own functions. The body of
a function without a call is ignored.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from pdkernel.analysis import python_builtins as words
from pdkernel.analysis import python_code
from pdkernel.analysis.abstract_values import (
    UNTRACKED,
    FunctionValue,
    ListValue,
    ObjectValue,
    PathValue,
    PlatformValue,
    ValueSet,
    exclude,
)
from pdkernel.analysis.python_calls import PythonCallTracer
from pdkernel.analysis.trace import NO_PATHS, KnownExports

_FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef


class PythonStepTracer(PythonCallTracer):
    """A trace of a Python step."""

    def trace_step(self, tree: ast.Module) -> None:
        """Trace the step from its entry point."""
        self._body(tree.body)
        self.trace_entry_point(self.scope.find(python_code.ENTRY_FUNCTION) or UNTRACKED, (PlatformValue("pd"),))

    def trace_function(
        self, function: FunctionValue, arguments: Sequence[ValueSet], named: Mapping[str, ValueSet]
    ) -> None:
        """Bind the parameters and trace the body."""
        given = function.node.args
        parameters = [*given.posonlyargs, *given.args]
        values = list(arguments)
        if parameters and parameters[0].arg in {"self", "cls"}:
            values.insert(0, (PlatformValue("self"),))
        defaults: dict[str, ast.expr | None] = dict(
            zip([p.arg for p in parameters][len(parameters) - len(given.defaults) :], given.defaults, strict=True)
        )
        defaults |= zip([p.arg for p in given.kwonlyargs], given.kw_defaults, strict=True)
        for index, parameter in enumerate([*parameters, *given.kwonlyargs]):
            if index < len(values) and index < len(parameters):
                value = values[index]
            elif parameter.arg in named:
                value = named[parameter.arg]
            else:
                value = self.evaluate(defaults.get(parameter.arg))
            self.bind(parameter.arg, value, new=True)
        for rest in values[len(parameters) :]:
            self.add_use(rest, "escapes")
        if isinstance(function.node, ast.Lambda):
            self.add_return(self.evaluate(function.node.body))
        else:
            self._body(function.node.body)

    # ── statements ─────────────────────────────────────────────────────────────────

    def _body(self, body: Sequence[ast.stmt]) -> ValueSet:
        for statement in body:
            if isinstance(statement, _FUNCTIONS):
                self.bind(statement.name, (FunctionValue(statement, self.scope, statement.name),), new=True)
        for statement in body:
            self._statement(statement)
        return UNTRACKED

    def _statement(self, node: ast.stmt) -> None:
        self.line = node.lineno
        act: Callable[[Any], object] | None = getattr(self, f"_on_{type(node).__name__.lower()}", None)
        if act is not None:
            act(node)

    def _on_assign(self, node: ast.Assign) -> None:
        found = self.evaluate(node.value)
        for target in node.targets:
            self.assign(target, found)

    def _on_annassign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.assign(node.target, self.evaluate(node.value))

    def _on_augassign(self, node: ast.AugAssign) -> None:
        added = self.evaluate(node.value)
        kept = self.evaluate(node.target) if isinstance(node.target, ast.Name) else UNTRACKED
        if isinstance(node.op, ast.BitOr) or any(isinstance(atom, ObjectValue | ListValue) for atom in kept):
            self.add_use(added, "passes_on")
            return
        self.add_use(added)
        self.add_use(kept)

    def _on_return(self, node: ast.Return) -> None:
        self.add_return(self.evaluate(node.value))

    def _on_expr(self, node: ast.Expr) -> None:
        self.add_use(exclude(self.evaluate(node.value), FunctionValue))

    def _on_for(self, node: ast.For | ast.AsyncFor) -> None:
        items = self.get_item(self.evaluate(node.iter))
        self.assign(node.target, items)
        self.trace_loop(items, lambda: self._body(node.body))
        self._body(node.orelse)

    _on_asyncfor = _on_for

    def _on_while(self, node: ast.While) -> None:
        there, missing = self.evaluate_condition(node.test)
        self.trace_optional_branch(there, missing, lambda: self._body(node.body))

    def _on_with(self, node: ast.With | ast.AsyncWith) -> None:
        for item in node.items:
            opened = self.evaluate(item.context_expr)
            if item.optional_vars is not None:
                self.assign(item.optional_vars, opened)
        self._body(node.body)

    _on_asyncwith = _on_with

    def _on_assert(self, node: ast.Assert) -> None:
        there, _ = self.evaluate_condition(node.test)
        self.assume(there, required=True)

    def _on_importfrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names if node.module == python_code.LEGACY_HELPER_MODULE else ():
            if alias.name == "steps":
                self.bind(alias.asname or alias.name, (PathValue(()),), new=True)

    def _on_classdef(self, node: ast.ClassDef) -> None:
        # methods of classes are not followed
        self.bind(node.name, UNTRACKED, new=True)

    def _on_raise(self, node: ast.Raise) -> None:
        self.add_use(self.evaluate(node.exc))

    def _on_if(self, node: ast.If) -> None:
        there, missing = self.evaluate_condition(node.test)
        self.trace_branches(
            (there, missing, lambda: self._body(node.body)), (missing, there, lambda: self._body(node.orelse))
        )
        for body, known in ((node.body, missing), (node.orelse, there)):
            if _is_exit(body):
                self.assume(known, required=_is_raise(body))

    def _on_try(self, node: ast.Try | ast.TryStar) -> None:
        if any(_handles_missing_key(handler, node.body) for handler in node.handlers):
            with self.catching_errors():
                self._body(node.body)
        else:
            self._body(node.body)
        for handler in node.handlers:
            self.trace_optional_branch(NO_PATHS, NO_PATHS, partial(self._body, handler.body))
        self._body(node.orelse)
        self._body(node.finalbody)

    _on_trystar = _on_try

    def _on_match(self, node: ast.Match) -> None:
        subject = self.evaluate(node.subject)
        patterns = [case.pattern for case in node.cases]
        if any(isinstance(pattern, ast.MatchValue) for pattern in patterns):
            self.add_use(self.expect_type(subject, *_value_types(patterns)))
        for case in node.cases:
            self._pattern(case.pattern, subject)
            self.trace_optional_branch(NO_PATHS, NO_PATHS, partial(self._case, case))

    def _case(self, case: ast.match_case) -> ValueSet:
        there = self.evaluate_condition(case.guard)[0] if case.guard is not None else NO_PATHS
        with self.assuming(there):
            return self._body(case.body)

    def _pattern(self, pattern: ast.pattern, subject: ValueSet) -> None:
        match pattern:
            case ast.MatchMapping(keys=keys, patterns=patterns):
                for key, below in zip(keys, patterns, strict=True):
                    self._pattern(below, self.get_members(subject, self.evaluate(key), is_optional=True, default=True))
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
                    self._pattern(each, self.get_item(subject))
            case ast.MatchValue():
                self.add_use(subject)


def _is_exit(body: Sequence[ast.stmt]) -> bool:
    """Whether *body* always ends with a return, an error, or the end of its loop or process: the code below does not run."""
    if not body:
        return False
    last = body[-1]
    if isinstance(last, ast.If):
        return _is_exit(last.body) and _is_exit(last.orelse)
    exits = (
        isinstance(last, ast.Expr)
        and isinstance(last.value, ast.Call)
        and ast.unparse(last.value.func) in {"sys.exit", "exit", "quit", "os._exit"}
    )
    return exits or isinstance(last, ast.Return | ast.Raise | ast.Continue | ast.Break)


def _is_raise(body: Sequence[ast.stmt]) -> bool:
    return bool(body) and isinstance(body[-1], ast.Raise)


def _handles_missing_key(handler: ast.ExceptHandler, body: Sequence[ast.stmt]) -> bool:
    """Whether *handler* handles a missing key in *body*."""
    if _is_raise(handler.body):
        return False
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    names = {kind.id for kind in kinds if isinstance(kind, ast.Name)}
    if names & words.MISSING_KEY_ERRORS:
        return True
    # a handler for every exception around the whole step is for other failures
    simple = len(body) == 1 and not isinstance(body[0], ast.If | ast.For | ast.With | ast.Try | ast.While)
    return simple and (handler.type is None or bool(names & words.CATCH_ALL_ERRORS))


def _value_types(patterns: Sequence[ast.pattern]) -> tuple[str, ...]:
    values = [pattern.value for pattern in patterns if isinstance(pattern, ast.MatchValue)]
    texts = [isinstance(value, ast.Constant) and isinstance(value.value, str) for value in values]
    return ("string",) if texts and all(texts) else ()


def trace_module(source: str, exports_above: KnownExports | None = None) -> PythonStepTracer | None:
    """The trace of *source*, or None after a syntax error."""
    tree = python_code.parse_source(source)
    if tree is None:
        return None
    tracer = PythonStepTracer(exports_above)
    tracer.trace_step(tree)
    return tracer

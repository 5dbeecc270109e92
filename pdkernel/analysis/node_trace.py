"""
The event fields that a Node.js step, or an expression of a prop, reads.

The trace starts at `run` and follows the functions and methods of the step. Code that is never called is ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from tree_sitter import Node

from pdkernel.analysis import node_builtins as words
from pdkernel.analysis.abstract_values import (
    UNTRACKED,
    FieldPath,
    FunctionValue,
    ObjectValue,
    PathValue,
    PlatformValue,
    ValueSet,
    exclude,
)
from pdkernel.analysis.node_calls import NodeCallTracer
from pdkernel.analysis.node_syntax import (
    SIMPLE_STATEMENTS,
    get_code_children,
    get_field,
    get_source,
    infer_literal_type,
)
from pdkernel.analysis.trace import NO_PATHS, KnownExports
from pdkernel.expression import javascript


class NodeStepTracer(NodeCallTracer):
    """A trace of a Node.js step."""

    def trace_step(self, root: Node) -> None:
        """Trace the step from its entry point."""
        self.bind("steps", (PathValue(()),), new=True)
        self.bind("$", (PlatformValue("$"),), new=True)
        self.evaluate(root)

    def _trace_component(self, component: ValueSet) -> None:
        context: ValueSet = (ObjectValue({"steps": (PathValue(()),), "$": (PlatformValue("$"),)}),)
        for atom in component:
            run: ValueSet = (atom,)
            if isinstance(atom, ObjectValue):
                self.methods = atom.items.get("methods", UNTRACKED)
                run = atom.items.get("run", UNTRACKED)
            self.trace_entry_point(run, context)

    def trace_function(self, function: FunctionValue, arguments: Sequence[ValueSet], _: Mapping[str, ValueSet]) -> None:
        """Bind the parameters and trace the body."""
        node = function.node
        single = get_field(node, "parameter")
        patterns = [single] if single is not None else get_code_children(get_field(node, "parameters") or node)
        for index, pattern in enumerate(patterns):
            value = arguments[index] if index < len(arguments) else UNTRACKED
            if pattern.type == "rest_pattern":
                self.add_use(tuple(atom for rest in arguments[index:] for atom in rest), "escapes")
            elif pattern.type == "assignment_pattern" and value:
                self.assign(get_field(pattern, "left"), value)
            else:
                self.assign(pattern, value)
        body = get_field(node, "body")
        if body is None or body.type == "statement_block":
            self.evaluate(body)
        else:
            self.add_return(self.evaluate(body))

    # ── statements ─────────────────────────────────────────────────────────────────

    def _program(self, node: Node) -> ValueSet:
        for child in node.named_children:
            if child.type == "function_declaration":
                self.bind(get_source(get_field(child, "name")), (FunctionValue(child, self.scope),), new=True)
        for child in node.named_children:
            self.evaluate(child)
        return UNTRACKED

    _statement_block = _program

    def _function_declaration(self, node: Node) -> ValueSet:
        self.bind(get_source(get_field(node, "name")), (FunctionValue(node, self.scope),), new=True)
        return UNTRACKED

    def _export_statement(self, node: Node) -> ValueSet:
        value = get_field(node, "value")
        declared = get_field(node, "declaration")
        is_default = any(child.type == "default" for child in node.children)
        if is_default and declared is not None:
            self._trace_component((FunctionValue(declared, self.scope),))
        elif declared is not None:
            self.evaluate(declared)
        elif value is not None:
            self._trace_component(self.evaluate(value))
        return UNTRACKED

    def _expression_statement(self, node: Node) -> ValueSet:
        for child in get_code_children(node):
            if child.type == "assignment_expression" and get_source(get_field(child, "left")) in {
                "module.exports",
                "exports.default",
            }:
                self._trace_component(self.evaluate(get_field(child, "right")))
                continue
            value = self.evaluate(child)
            if child.type not in {"assignment_expression", "augmented_assignment_expression"}:
                self.add_use(exclude(value, FunctionValue))
        return UNTRACKED

    def _lexical_declaration(self, node: Node) -> ValueSet:
        for child in get_code_children(node):
            if child.type == "variable_declarator":
                self.assign(get_field(child, "name"), self.evaluate(get_field(child, "value")))
        return UNTRACKED

    _variable_declaration = _lexical_declaration

    def _return_statement(self, node: Node) -> ValueSet:
        for child in get_code_children(node):
            self.add_return(self.evaluate(child))
        return UNTRACKED

    def _if_statement(self, node: Node) -> ValueSet:
        there, missing = self.evaluate_condition(get_field(node, "condition"))
        body, other = get_field(node, "consequence"), get_field(node, "alternative")
        self.trace_branches(
            (there, missing, lambda: self.evaluate(body)), (missing, there, lambda: self.evaluate(other))
        )
        for branch, known in ((body, missing), (other, there)):
            self._assume_after_exit(branch, known)
        return UNTRACKED

    def _assume_after_exit(self, branch: Node | None, known: frozenset[FieldPath]) -> None:
        last = _last(branch)
        if last is not None and last.type in words.EXIT_STATEMENTS:
            self.assume(known, required=last.type == "throw_statement")

    def _else_clause(self, node: Node) -> ValueSet:
        for child in get_code_children(node):
            self.evaluate(child)
        return UNTRACKED

    def _for_in_statement(self, node: Node) -> ValueSet:
        value = self.evaluate(get_field(node, "right"))
        if get_source(get_field(node, "operator")) == "in":
            self.get_dynamic_member(value)
            self.assign(get_field(node, "left"), UNTRACKED)
        else:
            items = self.get_item(value)
            self.assign(get_field(node, "left"), items)
            self.trace_loop(items, lambda: self.evaluate(get_field(node, "body")))
            return UNTRACKED
        return self.evaluate(get_field(node, "body"))

    def _for_statement(self, node: Node) -> ValueSet:
        self.evaluate(get_field(node, "initializer"))
        condition = get_field(node, "condition")
        for child in (
            get_code_children(condition) if condition is not None and condition.type == "expression_statement" else ()
        ):
            self.evaluate_condition(child)
        if condition is not None and condition.type != "expression_statement":
            self.evaluate_condition(condition)
        self.bind_loop_index(node)
        self.evaluate(get_field(node, "body"))
        return self.evaluate(get_field(node, "increment"))

    def bind_loop_index(self, node: Node) -> None:
        """Bind the variable of a counting loop as an index."""
        declared = get_field(node, "initializer")
        for child in get_code_children(declared) if declared is not None else ():
            if child.type == "variable_declarator" and infer_literal_type(get_field(child, "value")) == ("number",):
                self.assign(get_field(child, "name"), (PlatformValue("index"),))

    def _while_statement(self, node: Node) -> ValueSet:
        there, missing = self.evaluate_condition(get_field(node, "condition"))
        return self.trace_optional_branch(there, missing, lambda: self.evaluate(get_field(node, "body")))

    def _do_statement(self, node: Node) -> ValueSet:
        self.evaluate(get_field(node, "body"))
        self.evaluate_condition(get_field(node, "condition"))
        return UNTRACKED

    def _try_statement(self, node: Node) -> ValueSet:
        body, handler = get_field(node, "body"), get_field(node, "handler")
        statements = get_code_children(body) if body is not None else []
        last = _last(get_field(handler, "body")) if handler is not None else None
        simple = len(statements) == 1 and statements[0].type in SIMPLE_STATEMENTS
        if handler is not None and simple and (last is None or last.type != "throw_statement"):
            with self.catching_errors():
                self.evaluate(body)
        else:
            self.evaluate(body)
        if handler is not None:
            self.trace_optional_branch(NO_PATHS, NO_PATHS, lambda: self.evaluate(get_field(handler, "body")))
        return self.evaluate(get_field(node, "finalizer"))

    def _finally_clause(self, node: Node) -> ValueSet:
        return self.evaluate(get_field(node, "body"))

    def _switch_statement(self, node: Node) -> ValueSet:
        value, body = self.evaluate(get_field(node, "value")), get_field(node, "body")
        cases = get_code_children(body) if body is not None else []
        kinds = {infer_literal_type(get_field(case, "value")) for case in cases if case.type == "switch_case"}
        self.add_use(self.expect_type(value, *kinds.pop()) if len(kinds) == 1 else value)
        for case in cases:
            self.trace_optional_branch(NO_PATHS, NO_PATHS, partial(self._case, case))
        return UNTRACKED

    def _case(self, case: Node) -> ValueSet:
        for child in get_code_children(case):
            self.evaluate(child)
        return UNTRACKED

    def _break_statement(self, _: Node) -> ValueSet:
        return UNTRACKED

    _continue_statement = _break_statement


def _last(branch: Node | None) -> Node | None:
    """The last statement of *branch*."""
    while branch is not None and branch.type in {"statement_block", "else_clause"}:
        children = get_code_children(branch)
        branch = children[-1] if children else None
    return branch


def trace_module(source: str, exports_above: KnownExports | None = None) -> NodeStepTracer:
    """The trace of the module *source*."""
    tracer = NodeStepTracer(exports_above)
    tracer.trace_step(javascript.parse_source(source))
    return tracer


def trace_expression(source: str, exports_above: KnownExports | None = None) -> NodeStepTracer:
    """The trace of the expression *source*, whose value the prop passes on."""
    tracer = NodeStepTracer(exports_above)
    tracer.bind("steps", (PathValue(()),), new=True)
    node = javascript.parse_expression(source)
    if node is not None:
        tracer.add_use(tracer.evaluate(node), "passes_on")
    return tracer

"""
The steps that send a workflow's custom response.

Paths through the code are not followed: a call inside a condition, a loop or a `try` counts as possible.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tree_sitter import Node

from pdkernel.language.analysis import bash_code, go_code
from pdkernel.language.analysis.imported_files import iter_sources
from pdkernel.language.analysis.python_code import ENTRY_FUNCTION, parse_source
from pdkernel.language.analysis.source_locations import find_run_function
from pdkernel.language.expression import javascript
from pdkernel.language.expression.javascript import SIMPLE_STATEMENTS
from pdkernel.model import Block, Entry, Step, Workflow

Responds = Literal["always", "maybe", "never"]

_RESPOND_ACTION = "http-return-http-response"
_ENDING_ACTIONS = frozenset(
    {"filter-continue-based-on-condition", "filter-end-based-on-condition", "filter-end-workflow"}
)
_LATER = (ast.Lambda, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_COMPOUND = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.Try, ast.TryStar, ast.Match)
_CONDITIONAL = frozenset({"ternary_expression", "binary_expression", "arrow_function", "function_expression"})


@dataclass(frozen=True, slots=True)
class MissingResponse:
    """
    A reason why a workflow may not send its custom response.

    Attributes:
        step: The step that may prevent the response; None if no step sends a response.
        ends: Whether *step* may end the workflow before a step below responds.
    """

    step: Step | None
    ends: bool = False


def responds(step: Step) -> Responds:
    """Return whether *step* sends a custom response always, possibly, or never."""
    if step.uses:
        key = step.uses.rpartition("@")[0]
        return "always" if key == _RESPOND_ACTION else "maybe" if key.startswith("@") else "never"
    match step.language:
        case "python" | "node":
            found = (_python_responds if step.language == "python" else _node_responds)(step.source)
            is_possible = any("respond" in source for _, source in iter_sources(step))
            return "maybe" if found == "never" and is_possible else found
        case "bash":
            return "maybe" if bash_code.is_variable_read(step.source, "PIPEDREAM_RESPONSE") else "never"
        case "go":
            return "maybe" if go_code.has_response_call(step.source) else "never"


def missing_responses(workflow: Workflow) -> Iterator[MissingResponse]:
    """
    Yield the reasons why *workflow* may not send the custom response that a trigger waits for.

    Empty if no trigger waits for one, or if an unsupported entry may respond.
    """
    if workflow.unsupported_entries or not any(
        each.type == "http" and each.response == "custom" for each in workflow.triggers
    ):
        return
    steps = [step for step in workflow.steps if not step.disabled]
    responding = [step for step in steps if responds(step) != "never"]
    if not responding:
        yield MissingResponse(None)
        return
    for step in steps[: steps.index(responding[0]) + 1]:
        if _may_end(step):
            yield MissingResponse(step, ends=True)
    if not _always_responds(workflow) and all(
        step.language in {"python", "node"} and not step.uses for step in responding
    ):
        yield MissingResponse(responding[-1])


def _always_responds(workflow: Workflow) -> bool:
    """Return whether *workflow* always responds: in a step, in all branches of an if or switch block with a last one, or in one that always runs."""
    answers: dict[str, bool] = {}

    def is_certain(entries: Sequence[Entry]) -> bool:
        return any(
            answers[each.name] if isinstance(each, Block) else not each.disabled and responds(each) == "always"
            for each in entries
        )

    for block in reversed(workflow.blocks):  # the inner ones first
        found = {each.name: is_certain(workflow.entries(f"{block.name}.{each.name}")) for each in block.branches}
        is_one_certain = any(found[each.name] for each in block.branches if each.runs == "always")
        answers[block.name] = is_one_certain and (block.type == "parallel" or all(found.values()))
    return is_certain(workflow.entries())


def _may_end(step: Step) -> bool:
    if step.uses:
        return step.uses.rpartition("@")[0] in _ENDING_ACTIONS
    return step.language in {"python", "node"} and any("flow.exit" in source for _, source in iter_sources(step))


def _python_responds(source: str) -> Responds:
    if "respond" not in source:
        return "never"
    tree = parse_source(source)
    handlers = (
        [
            node
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == ENTRY_FUNCTION
        ]
        if tree
        else []
    )
    return "always" if handlers and any(map(_calls_respond, _python_statements(handlers[-1].body))) else "maybe"


def _python_statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements that always run, with those of `with` and `finally`."""
    for statement in body:
        if isinstance(statement, ast.With | ast.AsyncWith):
            yield from _python_statements(statement.body)
        elif isinstance(statement, ast.Try | ast.TryStar):
            yield from _python_statements(statement.finalbody)
        elif not isinstance(statement, (*_COMPOUND, *_LATER)):
            yield statement


def _calls_respond(node: ast.AST) -> bool:
    if isinstance(node, (*_LATER, ast.IfExp, ast.BoolOp)):
        return False
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "respond":
        return True
    return any(map(_calls_respond, ast.iter_child_nodes(node)))


def _node_responds(source: str) -> Responds:
    if "respond" not in source:
        return "never"
    run = find_run_function(javascript.parse_source(source))
    body = run.child_by_field_name("body") if run is not None else None
    statements = [] if body is None else body.named_children if body.type == "statement_block" else [body]
    direct = (node for node in statements if node is body or node.type in SIMPLE_STATEMENTS)
    return "always" if any(map(_node_calls_respond, direct)) else "maybe"


def _node_calls_respond(node: Node) -> bool:
    if node.type in _CONDITIONAL:
        return False
    if node.type == "call_expression":
        function = node.child_by_field_name("function")
        if function is not None and function.type == "member_expression":
            name = function.child_by_field_name("property")
            if name is not None and javascript.get_source(name) == "respond":
                return True
    return any(map(_node_calls_respond, node.named_children))

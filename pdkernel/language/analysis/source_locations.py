"""
Line numbers for error messages: the `return` of a step, the declaration of a prop.

If there are several candidates, no line is returned.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tree_sitter import Node

from pdkernel.language.analysis import python_code
from pdkernel.language.expression import javascript
from pdkernel.model import Step


def find_return_line(step: Step) -> int | None:
    """The line of the only `return` with a value in the function that *step* runs; None if there are several."""
    if step.uses:
        return None
    if step.language == "python":
        lines = set(_python_returns(step.source))
    elif step.language == "node":
        lines = set(_node_returns(step.source))
    else:
        return None
    return lines.pop() + step.line_offset if len(lines) == 1 else None


def locate_missing_prop(step: Step, prop: str) -> tuple[int | None, str]:
    """
    The place to set a value of *prop*, in the form of `Step.locate_prop`.

    For code of a synced folder, this is the line of its entry file that declares the prop.
    """
    line, where = step.locate_prop(prop)
    if step.props_file is not None and not step.uses and step.language == "node":
        line = _declaration_line(step.source, prop)
    return line, where


def _python_returns(source: str) -> Iterator[int]:
    tree = python_code.parse_source(source)
    for statement in tree.body if tree else ():
        if (
            isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef)
            and statement.name == python_code.ENTRY_FUNCTION
        ):
            yield from _returns_in(statement.body)


def _returns_in(body: list[ast.stmt]) -> Iterator[int]:
    waiting: list[ast.AST] = list(body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            continue
        if isinstance(node, ast.Return) and node.value is not None:
            yield node.lineno
        waiting.extend(ast.iter_child_nodes(node))


def _node_returns(source: str) -> Iterator[int]:
    run = find_run_function(javascript.parse_source(source))
    body = None if run is None else run.child_by_field_name("body")
    if body is None:
        return
    if body.type != "statement_block":  # run: async () => value
        yield body.start_point[0] + 1
        return
    waiting = [body]
    while waiting:
        node = waiting.pop()
        if node.type == "return_statement" and node.named_children:
            yield node.start_point[0] + 1
        waiting.extend(child for child in node.named_children if child.type not in javascript.FUNCTION_NODE_TYPES)


def find_run_function(root: Node) -> Node | None:
    """The first function called `run` that is a member of an object in the tree of *root*."""
    return next((function for node in javascript.iter_nodes(root) if (function := _run_of(node))), None)


def _run_of(node: Node) -> Node | None:
    """The function of *node*, a member of an object, if its name is `run`."""
    if node.type == "method_definition" and javascript.get_key(node) == "run":
        return node
    if node.type == "pair" and javascript.get_key(node) == "run":
        value = node.child_by_field_name("value")
        return value if value is not None and value.type in javascript.FUNCTION_NODE_TYPES else None
    return None


def _declaration_line(source: str, prop: str) -> int | None:
    for node in javascript.iter_nodes(javascript.parse_source(source)):
        if node.type == "pair" and javascript.get_key(node) == "props":
            props = node.child_by_field_name("value")
            for member in props.named_children if props is not None else ():
                if member.type in {"pair", "shorthand_property_identifier"} and _name_of(member) == prop:
                    return member.start_point[0] + 1
    return None


def _name_of(member: Node) -> str | None:
    return javascript.get_key(member) if member.type == "pair" else javascript.get_source(member)

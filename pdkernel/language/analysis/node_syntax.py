"""Helpers that read JavaScript syntax trees of tree-sitter."""

from __future__ import annotations

from collections.abc import Sequence

from tree_sitter import Node

from pdkernel.language.analysis import node_builtins as words
from pdkernel.language.expression import javascript

SIMPLE_STATEMENTS = frozenset(
    {"expression_statement", "return_statement", "lexical_declaration", "variable_declaration"}
)
"""Types of statements that contain no other statement."""


def get_code_children(node: Node) -> list[Node]:
    """The named children of *node* without comments."""
    return [child for child in node.named_children if child.type != "comment"]


def get_field(node: Node, field: str) -> Node | None:
    """The child of *node* in *field* of the grammar."""
    return node.child_by_field_name(field)


def get_source(node: Node | None) -> str:
    """The source of *node*."""
    return "" if node is None else javascript.get_source(node)


def get_last_statement(branch: Node | None) -> Node | None:
    """The last statement of *branch*."""
    while branch is not None and branch.type in {"statement_block", "else_clause"}:
        children = get_code_children(branch)
        branch = children[-1] if children else None
    return branch


def unwrap(node: Node) -> Node:
    """*node* without parentheses and `await`."""
    while node.type in {"parenthesized_expression", "await_expression"} and get_code_children(node):
        node = get_code_children(node)[0]
    return node


def get_member_object(node: Node) -> Node:
    """The object of the member expression *node*."""
    return get_field(node, "object") or node


def get_operands(node: Node) -> tuple[Node, Node]:
    """The left and the right operand of the binary expression *node*."""
    left, right = get_field(node, "left"), get_field(node, "right")
    assert left is not None
    assert right is not None
    return left, right


def infer_default_type(node: Node | None) -> tuple[str, ...]:
    """The types of a value that a default reveals; for a number also numeric text."""
    return tuple("numeric" if name == "number" else name for name in infer_literal_type(node))


def infer_literal_type(node: Node | None) -> tuple[str, ...]:
    """The types of a value that is compared with a literal or replaced by it."""
    if node is None:
        return ()
    kind = unwrap(node).type
    if kind == "string":
        return ("string",) if get_source(node) not in words.EMPTY_LITERALS else ()
    kinds = {
        "template_string": "string",
        "number": "number",
        "true": "boolean",
        "false": "boolean",
        "array": "array",
        "object": "object",
    }
    return (kinds[kind],) if kind in kinds else ()


def get_arguments(node: Node) -> Sequence[Node]:
    """The arguments of a call."""
    given = get_field(node, "arguments")
    return [] if given is None else [given] if given.type == "template_string" else get_code_children(given)

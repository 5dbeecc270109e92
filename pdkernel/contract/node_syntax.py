"""
Small questions about JavaScript's syntax trees.

Knows tree-sitter's names for nodes. Follows nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from tree_sitter import Node

from pdkernel.contract import node_words as words
from pdkernel.expression import javascript


def named(node: Node) -> list[Node]:
    """The children of *node* that say something."""
    return [child for child in node.named_children if child.type != "comment"]


def part(node: Node, name: str) -> Node | None:
    """A part of *node* by its name in the grammar."""
    return node.child_by_field_name(name)


def text_of(node: Node | None) -> str:
    """The source of *node*."""
    return "" if node is None else javascript.text_of(node)


def bare(node: Node) -> Node:
    """*node* without parentheses and `await`."""
    while node.type in {"parenthesized_expression", "await_expression"} and named(node):
        node = named(node)[0]
    return node


def owner_of(node: Node) -> Node:
    """What the member *node* is looked up in."""
    return part(node, "object") or node


def default_type(node: Node | None) -> tuple[str, ...]:
    """What a default tells of the value in whose place it stands; a number may be written as text."""
    return tuple("numeric" if name == "number" else name for name in type_of(node))


def type_of(node: Node | None) -> tuple[str, ...]:
    """What a literal tells of the value that it is compared with or stands in for."""
    if node is None:
        return ()
    kind = bare(node).type
    if kind == "string":
        return ("string",) if text_of(node) not in words.NOTHING_WORDS else ()
    kinds = {
        "template_string": "string",
        "number": "number",
        "true": "boolean",
        "false": "boolean",
        "array": "array",
        "object": "object",
    }
    return (kinds[kind],) if kind in kinds else ()


def argument_nodes(node: Node) -> Sequence[Node]:
    """The arguments of a call."""
    given = part(node, "arguments")
    return [] if given is None else [given] if given.type == "template_string" else named(given)

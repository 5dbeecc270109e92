"""JavaScript syntax trees: parsing with tree-sitter and helpers that read its nodes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import tree_sitter_javascript
from tree_sitter import Language, Node, Parser

FUNCTION_NODE_TYPES = frozenset(
    {
        "arrow_function",
        "function_declaration",
        "function_expression",
        "generator_function",
        "generator_function_declaration",
        "method_definition",
    }
)
"""Kinds of nodes that are functions."""


@lru_cache(maxsize=1)
def _parser() -> Parser:
    return Parser(Language(tree_sitter_javascript.language()))


def parse_source(source: str) -> Node:
    """Return the root node of the syntax tree of *source*; a syntax error becomes an `ERROR` node."""
    return _parser().parse(source.encode("utf-8", "surrogatepass")).root_node


def get_source(node: Node | None) -> str:
    """Return the source of *node*; empty for None."""
    return "" if node is None or node.text is None else node.text.decode("utf-8", "replace")


def iter_nodes(node: Node) -> Iterator[Node]:
    """Yield *node* and every named node under it, in source order, without recursion."""
    stack = [node]
    while stack:
        current = stack.pop()
        yield current
        stack.extend(reversed(current.named_children))


def parse_expression(source: str) -> Node | None:
    """
    Return the tree of *source* if it is exactly one expression, else None.

    The source is parsed in parentheses, so that `{a: 1}` is an object. The line break before the closing
    parenthesis ends a trailing `//` comment.
    """
    root = parse_source(f"({source}\n)")
    if root.has_error:
        return None
    statements = [child for child in root.named_children if child.type != "comment"]
    if len(statements) != 1 or statements[0].type != "expression_statement":
        return None
    inner = [child for child in statements[0].named_children if child.type != "comment"]
    # The outermost parentheses must be the added ones: `a) + (b` closes them early.
    if len(inner) != 1 or inner[0].type != "parenthesized_expression" or inner[0].end_byte < root.end_byte:
        return None
    content = [child for child in inner[0].named_children if child.type != "comment"]
    return content[0] if len(content) == 1 else None


def has_await(node: Node) -> bool:
    """Return whether *node* has an `await` of its own, outside any function in it."""
    stack = [node]
    while stack:
        current = stack.pop()
        if current.type == "await_expression":
            return True
        stack.extend(child for child in current.named_children if child.type not in FUNCTION_NODE_TYPES)
    return False


def get_string_literal(node: Node | None) -> str | None:
    """Return the text of a string literal without escapes or substitutions, else None."""
    if node is None or node.type not in {"string", "template_string"}:
        return None
    if any(child.type in {"escape_sequence", "template_substitution"} for child in node.named_children):
        return None
    return "".join(get_source(child) for child in node.named_children)


def get_key(pair: Node) -> str | None:
    """Return the literal key of an object's `pair` or `method_definition`, else None."""
    key = pair.child_by_field_name("key") or pair.child_by_field_name("name")
    if key is None:
        return None
    if key.type in {"property_identifier", "identifier"}:
        return get_source(key)
    return get_string_literal(key)


def get_member_name(node: Node) -> str | None:
    """`name` of `x.name` or `x["name"]`, else None."""
    if node.type == "member_expression":
        prop = node.child_by_field_name("property")
        return get_source(prop) if prop is not None and prop.type == "property_identifier" else None
    if node.type == "subscript_expression":
        return get_string_literal(node.child_by_field_name("index"))
    return None


SIMPLE_STATEMENTS = frozenset(
    {"expression_statement", "return_statement", "lexical_declaration", "variable_declaration"}
)
"""Types of statements that contain no other statement."""

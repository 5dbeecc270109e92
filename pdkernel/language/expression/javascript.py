"""JavaScript syntax trees: parsing with tree-sitter and helpers that read its nodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    The tree of *source* if it is exactly one expression, else None.

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


EMPTY_LITERALS = frozenset({"undefined", "null", '""', "''", "``"})
SIMPLE_STATEMENTS = frozenset(
    {"expression_statement", "return_statement", "lexical_declaration", "variable_declaration"}
)
"""Types of statements that contain no other statement."""


def get_code_children(node: Node) -> list[Node]:
    """Return the named children of *node* without comments."""
    return [child for child in node.named_children if child.type != "comment"]


def get_field(node: Node, field: str) -> Node | None:
    """Return the child of *node* in *field* of the grammar."""
    return node.child_by_field_name(field)


def get_last_statement(branch: Node | None) -> Node | None:
    """Return the last statement of *branch*."""
    while branch is not None and branch.type in {"statement_block", "else_clause"}:
        children = get_code_children(branch)
        branch = children[-1] if children else None
    return branch


def unwrap(node: Node) -> Node:
    """Return *node* without parentheses and `await`."""
    while node.type in {"parenthesized_expression", "await_expression"} and get_code_children(node):
        node = get_code_children(node)[0]
    return node


def get_member_object(node: Node) -> Node:
    """Return the object of the member expression *node*."""
    return get_field(node, "object") or node


def get_operands(node: Node) -> tuple[Node, Node]:
    """Return the left and the right operand of the binary expression *node*."""
    left, right = get_field(node, "left"), get_field(node, "right")
    assert left is not None
    assert right is not None
    return left, right


def infer_default_type(node: Node | None) -> tuple[str, ...]:
    """Return the types of a value that a default reveals; for a number also numeric text."""
    return tuple("numeric" if name == "number" else name for name in infer_literal_type(node))


def infer_literal_type(node: Node | None) -> tuple[str, ...]:
    """Return the types of a value that is compared with a literal or replaced by it."""
    if node is None:
        return ()
    kind = unwrap(node).type
    if kind == "string":
        return ("string",) if get_source(node) not in EMPTY_LITERALS else ()
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
    """Return the arguments of a call."""
    given = get_field(node, "arguments")
    return [] if given is None else [given] if given.type == "template_string" else get_code_children(given)

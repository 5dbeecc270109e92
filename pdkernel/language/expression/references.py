"""
The steps that a piece of JavaScript reads.

Recognises `steps.NAME`, `steps["NAME"]` and `const { NAME } = steps`. Aliases and computed names are not followed.
"""

from __future__ import annotations

from collections.abc import Iterator

from tree_sitter import Node

from pdkernel.language.expression import javascript

STEPS_VARIABLE = "steps"
_OBJECT_METHODS = frozenset({"hasOwnProperty", "toString", "valueOf", "constructor", "isPrototypeOf"})


def find_javascript_references(source: str) -> set[str]:
    """
    Names of the steps that *source*, an expression or a module, reads by a literal name.

    The result is empty if the source declares its own variable `steps`.
    """
    return set(find_reference_lines(source))


def find_reference_lines(source: str) -> dict[str, int]:
    """As `find_javascript_references`, with the line of *source* (from 1) that first reads each step."""
    root = javascript.parse_expression(source) or javascript.parse_source(source)
    lines: dict[str, int] = {}
    for node in javascript.iter_nodes(root):
        if _declares_steps(node):
            return {}
        for name in _read_by(node):
            lines.setdefault(name, node.start_point.row + 1)
    return {name: line for name, line in lines.items() if name not in _OBJECT_METHODS}


def _read_by(node: Node) -> Iterator[str]:
    if node.type in {"member_expression", "subscript_expression"}:
        if _is_steps(node.child_by_field_name("object")) and (name := javascript.get_member_name(node)) is not None:
            yield name
    elif node.type == "variable_declarator" and _is_steps(node.child_by_field_name("value")):
        pattern = node.child_by_field_name("name")
        if pattern is not None and pattern.type == "object_pattern":
            yield from get_pattern_keys(pattern)


def get_pattern_keys(pattern: Node) -> Iterator[str]:
    """The keys that an object pattern takes without a default: `a` and `b` of `{ a, b: c, d = 1 }`."""
    for child in pattern.named_children:
        if child.type == "shorthand_property_identifier_pattern":
            yield javascript.get_source(child)
        elif child.type == "pair_pattern" and (key := javascript.get_key(child)) is not None:
            value = child.child_by_field_name("value")
            if value is None or value.type != "assignment_pattern":
                yield key


def _is_steps(node: Node | None) -> bool:
    return node is not None and node.type == "identifier" and javascript.get_source(node) == STEPS_VARIABLE


def _declares_steps(node: Node) -> bool:
    """Whether *node* binds the plain name `steps`. The parameter of `run({ steps })` is the platform's and does not count."""
    if node.type == "variable_declarator":
        return _is_steps(node.child_by_field_name("name"))
    if node.type == "formal_parameters":
        return any(_is_steps(child) for child in node.named_children)
    return node.type == "arrow_function" and _is_steps(node.child_by_field_name("parameter"))

"""
Node.js step code and expressions, read through a syntax tree.

Knows the default export, `process.env` and app props. Code with a syntax error has an entry point as far
as this module is concerned: running it gives the better message.
"""

from __future__ import annotations

from tree_sitter import Node

from pdkernel.expression import javascript, reference_lines
from pdkernel.inspection.variables import Variables

TEMPLATE = "export default defineComponent({\n  async run({ steps, $ }) {\n    return steps.trigger.event;\n  },\n});"
_COMPARISONS = frozenset({"===", "!==", "==", "!=", "in"})


def has_entry_point(source: str) -> bool:
    """Whether *source* has a default export or sets `module.exports`, or cannot be read."""
    root = javascript.parse(source)
    return root.has_error or any(_exports(node) for node in javascript.walk(root))


def _exports(node: Node) -> bool:
    if node.type == "export_statement":
        return any(child.type == "default" for child in node.children)
    if node.type == "export_specifier":
        alias = node.child_by_field_name("alias")
        return alias is not None and javascript.text_of(alias) == "default"
    if node.type == "assignment_expression":
        left = node.child_by_field_name("left")
        return left is not None and javascript.text_of(left).startswith(("module.exports", "exports.default"))
    return False


def steps_read(source: str) -> dict[str, int]:
    """Steps that *source* reads by a literal name, each with the line where it first does."""
    return reference_lines(source)


def variables(source: str) -> Variables:
    """
    Environment variables that *source*, a module or an expression, reads.

    One that has a default, is tested or compared is optional; any other is required, since an
    undefined one breaks the step later and in silence.
    """
    root = javascript.expression_in(source) or javascript.parse(source)
    required: set[str] = set()
    optional: set[str] = set()
    assigned: set[str] = set()
    for node in javascript.walk(root):
        if _is_env(node.child_by_field_name("object")) and (name := javascript.member_name(node)) is not None:
            if _is_target(node):
                assigned.add(name)
            else:
                (optional if _copes(node) else required).add(name)
        elif node.type == "variable_declarator" and _is_env(node.child_by_field_name("value")):
            needed, defaulted = _taken_apart(node.child_by_field_name("name"))
            required |= needed
            optional |= defaulted
    return Variables(frozenset(required - assigned - optional), frozenset(optional))


def _is_env(node: Node | None) -> bool:
    return (
        node is not None
        and node.type == "member_expression"
        and javascript.text_of(node).replace("?.", ".").replace(" ", "") == "process.env"
    )


def _is_target(node: Node) -> bool:
    parent = node.parent
    return parent is not None and parent.type == "assignment_expression" and parent.child_by_field_name("left") == node


def _copes(node: Node) -> bool:
    """Whether the code around *node* says what happens without it."""
    parent = node.parent
    while parent is not None and parent.type == "parenthesized_expression":
        node, parent = parent, parent.parent
    if parent is None:
        return False
    if parent.type == "binary_expression":
        operator = parent.child_by_field_name("operator")
        sign = "" if operator is None else javascript.text_of(operator)
        return sign in _COMPARISONS or (sign in {"??", "||", "&&"} and parent.child_by_field_name("left") == node)
    if parent.type in {"if_statement", "ternary_expression", "while_statement"}:
        return parent.child_by_field_name("condition") == node
    if parent.type in {"member_expression", "subscript_expression", "call_expression"}:
        return any(child.type == "optional_chain" for child in parent.children)
    return parent.type == "unary_expression" or (
        parent.type == "augmented_assignment_expression" and parent.child_by_field_name("left") == node
    )


def _taken_apart(pattern: Node | None) -> tuple[set[str], set[str]]:
    """Names of `const { A, B = 1 } = process.env`: those without and those with a default."""
    needed: set[str] = set()
    defaulted: set[str] = set()
    for child in pattern.named_children if pattern is not None and pattern.type == "object_pattern" else ():
        if child.type == "shorthand_property_identifier_pattern":
            needed.add(javascript.text_of(child))
        elif child.type == "object_assignment_pattern" and (left := child.child_by_field_name("left")) is not None:
            defaulted.add(javascript.text_of(left))
        elif child.type == "pair_pattern" and (key := javascript.key_of(child)) is not None:
            value = child.child_by_field_name("value")
            (defaulted if value is not None and value.type == "assignment_pattern" else needed).add(key)
    return needed, defaulted


def apps(source: str) -> dict[str, str]:
    """App props that *source* declares with literals under `props`: prop to the app's slug."""
    found: dict[str, str] = {}
    for node in javascript.walk(javascript.parse(source)):
        if node.type == "pair" and javascript.key_of(node) == "props":
            props = node.child_by_field_name("value")
            for pair in props.named_children if props is not None and props.type == "object" else ():
                prop = javascript.key_of(pair) if pair.type == "pair" else None
                slug = _app_of(pair.child_by_field_name("value"))
                if prop is not None and slug is not None:
                    found.setdefault(prop, slug)
    return found


def _app_of(definition: Node | None) -> str | None:
    if definition is None or definition.type != "object":
        return None
    fields = {
        javascript.key_of(pair): javascript.string_value(pair.child_by_field_name("value"))
        for pair in definition.named_children
        if pair.type == "pair"
    }
    return fields.get("app") if fields.get("type") == "app" else None

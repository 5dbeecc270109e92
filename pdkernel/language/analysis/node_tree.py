"""The translation of Node.js code, and of the expressions of props, into the tree of `code_tree`."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tree_sitter import Node as SyntaxNode

from pdkernel.language.analysis.code_tree import (
    LOOP_INDEX,
    Array,
    Assign,
    Block,
    Branch,
    Call,
    Default,
    Entry,
    Exit,
    Function,
    Literal,
    Loop,
    Member,
    Name,
    Node,
    Object,
    Operation,
    Spread,
    Switch,
    Try,
    negate,
)
from pdkernel.language.expression import javascript
from pdkernel.language.expression.javascript import SIMPLE_STATEMENTS, get_source

_SIGNS = {"&&": "and", "||": "or", "??": "??", "in": "in", "===": "===", "==": "==", "instanceof": "typeof"}
_SIGNS |= {"-": "-", "*": "*", "/": "/", "%": "%", "**": "/", "<": "<", "<=": "<", ">": ">", ">=": ">"}
_UNARY_SIGNS = {"!": "not", "-": "-", "+": "-", "typeof": "typeof"}
_NEGATED = {"!==": "===", "!=": "=="}
_EXPORTS = frozenset({"module.exports", "exports.default"})
_KEY_CHECKS = frozenset({"Object.hasOwn", "Object.prototype.hasOwnProperty.call", "_.has"})
_MAX_DIGITS = 15


def translate_module(source: str) -> tuple[Node, bool]:
    """Return the tree of *source*, and whether it has no syntax error."""
    root = javascript.parse_source(source)
    return _node(root), not root.has_error


def translate_expression(source: str) -> Node | None:
    """Return the tree of the expression *source*, or None after a syntax error."""
    node = javascript.parse_expression(source)
    return None if node is None else _node(node)


def _node(node: SyntaxNode | None) -> Node:
    """Return the translation of a statement, an expression, a pattern or None."""
    if node is None:
        return Block()
    found = _TRANSLATIONS.get(node.type, _use)(node)
    found.line = found.line or node.start_point[0] + 1
    return found


def _nodes(nodes: Iterable[SyntaxNode]) -> tuple[Node, ...]:
    return tuple(map(_node, nodes))


def _children(node: SyntaxNode | None) -> list[SyntaxNode]:
    """Return the named children of *node* without comments."""
    return [] if node is None else [child for child in node.named_children if child.type != "comment"]


def _inner(node: SyntaxNode) -> Node:
    """Return the first child of *node*."""
    return _node(next(iter(_children(node)), None))


def _field(node: SyntaxNode, field: str) -> Node:
    return _node(node.child_by_field_name(field))


def _text(node: SyntaxNode, field: str) -> str:
    return get_source(node.child_by_field_name(field))


def _is_chained(node: SyntaxNode) -> bool:
    return node.child_by_field_name("optional_chain") is not None


def _use(node: SyntaxNode) -> Node:
    return Operation("", _nodes(_children(node)))


def _block(node: SyntaxNode) -> Node:
    return Block(_nodes(sorted(_children(node), key=lambda child: "function_declaration" not in child.type)))


def _tested(condition: Node) -> Node:
    """Return a statement that evaluates *condition* only."""
    return Branch(condition, Block(), Block())


def _export(node: SyntaxNode) -> Node:
    declared = node.child_by_field_name("declaration")
    if node.child_by_field_name("value") is not None:
        return Entry(_field(node, "value"))
    is_default = declared is not None and any(child.type == "default" for child in node.children)
    return Entry(_function(declared)) if declared is not None and is_default else _node(declared)


def _statement(node: SyntaxNode) -> Node:
    (child,) = _children(node)[:1] or [node]
    is_export = child.type == "assignment_expression" and _text(child, "left") in _EXPORTS
    return Entry(_field(child, "right")) if is_export else _inner(node)


def _declaration(node: SyntaxNode) -> Node:
    declared = [child for child in _children(node) if child.type == "variable_declarator"]
    return Block(tuple(Assign(_field(child, "name"), _field(child, "value"), is_new=True) for child in declared))


def _for_in(node: SyntaxNode) -> Node:
    items = _field(node, "right")
    if _text(node, "operator") == "in":
        items = Call(Name("Object.keys"), (items,))
    return Loop(_field(node, "left"), items, _field(node, "body"))


def _for(node: SyntaxNode) -> Node:
    index = tuple(
        Assign(_field(child, "name"), Name(LOOP_INDEX), is_new=True)
        for child in _children(node.child_by_field_name("initializer"))
        if child.type == "variable_declarator" and _text(child, "value").isdigit()
    )
    start, condition = _field(node, "initializer"), _tested(_field(node, "condition"))
    return Block((start, condition, *index, _field(node, "body"), _field(node, "increment")))


def _try(node: SyntaxNode) -> Node:
    caught = node.child_by_field_name("handler")
    if caught is None:
        return Block((_field(node, "body"), _field(node, "finalizer")))
    statements = _children(node.child_by_field_name("body"))
    is_simple = len(statements) == 1 and statements[0].type in SIMPLE_STATEMENTS
    last = _children(caught.child_by_field_name("body"))[-1:]
    is_caught = is_simple and all(each.type != "throw_statement" for each in last)
    return Block((Try(_field(node, "body"), is_caught, (_field(caught, "body"),)), _field(node, "finalizer")))


def _switch(node: SyntaxNode) -> Node:
    cases: list[tuple[Node, Node, Node]] = []
    for case in _children(node.child_by_field_name("body")):
        value = case.child_by_field_name("value")
        pattern = _node(value)
        body = Block(_nodes(child for child in _children(case) if child != value))
        cases.append((pattern if isinstance(pattern, Literal) else Operation("", (pattern,)), Block(), body))
    return Switch(_field(node, "value"), tuple(cases))


def _string(node: SyntaxNode) -> Node:
    parts = [child for child in node.named_children if child.type == "template_substitution"]
    value = javascript.get_string_literal(node)
    return Operation("text", _nodes(parts)) if parts else Literal(value, () if value == "" else ("string",))


def _number(node: SyntaxNode) -> Node:
    digits = get_source(node)
    return Literal(int(digits) if digits.isdigit() and len(digits) <= _MAX_DIGITS else None, ("number",))


def _member(node: SyntaxNode) -> Node:
    owner, is_chained = _field(node, "object"), _is_chained(node)
    if _text(node, "property") == "length":
        return Operation("length?" if is_chained else "length", (owner,))
    return Member(owner, Literal(_text(node, "property"), ("string",)), is_chained)


def _entry(node: SyntaxNode) -> tuple[Node | None, Node]:
    """Return the key and the value of an entry of an object or of its pattern; no key if it is spread."""
    match node.type:
        case "spread_element" | "rest_pattern":
            return None, _inner(node)
        case "method_definition":
            return _field(node, "name"), _function(node)
        case "pair" | "pair_pattern":
            return _field(node, "key"), _field(node, "value")
        case "object_assignment_pattern":
            return Literal(_text(node, "left"), ("string",)), Default(_field(node, "left"), _field(node, "right"))
    return Literal(get_source(node), ("string",)), _node(node)


def _function(node: SyntaxNode) -> Node:
    single = node.child_by_field_name("parameter")
    patterns = _children(node.child_by_field_name("parameters")) if single is None else [single]
    return Function(_nodes(patterns), _field(node, "body"))


def _augmented(node: SyntaxNode) -> Node:
    left, right = _field(node, "left"), _field(node, "right")
    if _text(node, "operator") in {"||=", "??="}:
        return Assign(left, Branch(left, left, right))
    return Operation("", (left, right))


def _binary(node: SyntaxNode) -> Node:
    left, right, sign = _field(node, "left"), _field(node, "right"), _text(node, "operator")
    if sign in {"==", "===", "!=", "!=="}:
        found = _equal(_NEGATED.get(sign, sign), left, right)
        return negate(found) if sign in _NEGATED else found
    sign = _SIGNS.get(sign, "")
    is_longer = sign in {"and", "or", "??"} and isinstance(left, Operation) and left.sign == sign
    return Operation(sign, (*left.operands, right) if isinstance(left, Operation) and is_longer else (left, right))


def _equal(sign: str, left: Node, right: Node) -> Node:
    """Return a comparison; `typeof x == "text"` checks a type."""
    for each, other in ((left, right), (right, left)):
        if isinstance(each, Operation) and each.sign == "typeof":
            is_undefined = isinstance(other, Literal) and other.value == "undefined"
            return negate(each) if is_undefined else each
    return Operation(sign, (left, right))


def _call(node: SyntaxNode) -> Node:
    name, function, given = _text(node, "function"), _field(node, "function"), node.child_by_field_name("arguments")
    is_template = given is not None and given.type == "template_string"
    arguments = (_node(given),) if is_template else _nodes(_children(given))
    if name == "Array.isArray" and arguments:
        return Operation("typeof", arguments[:1])
    if name == "Boolean" and arguments:
        return negate(negate(arguments[0]))
    if name in _KEY_CHECKS and len(arguments) == 2:
        return Operation("in", arguments[::-1])
    if name.endswith(".hasOwnProperty") and isinstance(function, Member) and arguments:
        return Operation("in", (arguments[0], function.owner))
    return Call(function, arguments, is_chained=_is_chained(node))


def _new(node: SyntaxNode) -> Node:
    name = _text(node, "constructor").rpartition(".")[2]
    return Call(Name(f"new {name}"), _nodes(_children(node.child_by_field_name("arguments"))))


_TRANSLATIONS: dict[str, Callable[[SyntaxNode], Node]] = {
    **dict.fromkeys(("class", "class_declaration", "import_statement", "regex"), lambda _: Block()),
    # statements
    **dict.fromkeys(("program", "statement_block", "else_clause", "finally_clause"), _block),
    **dict.fromkeys(
        ("function_declaration", "generator_function_declaration"),
        lambda node: Assign(Name(_text(node, "name")), _function(node), is_new=True),
    ),
    **dict.fromkeys(("lexical_declaration", "variable_declaration"), _declaration),
    "expression_statement": _statement,
    "export_statement": _export,
    "return_statement": lambda node: Exit("return", _inner(node)),
    "throw_statement": lambda node: Exit("raise", _inner(node)),
    **dict.fromkeys(("break_statement", "continue_statement"), lambda _: Exit("jump", Block())),
    **dict.fromkeys(
        ("if_statement", "ternary_expression"),
        lambda node: Branch(_field(node, "condition"), _field(node, "consequence"), _field(node, "alternative")),
    ),
    "labeled_statement": lambda node: _field(node, "body"),
    "for_in_statement": _for_in,
    "for_statement": _for,
    "while_statement": lambda node: Branch(_field(node, "condition"), Block((_field(node, "body"), Block())), Block()),
    "do_statement": lambda node: Block((_field(node, "body"), _tested(_field(node, "condition")))),
    "try_statement": _try,
    "switch_statement": _switch,
    # names, members and literals
    **dict.fromkeys(
        ("identifier", "shorthand_property_identifier", "shorthand_property_identifier_pattern", "this"),
        lambda node: Name(get_source(node)),
    ),
    "property_identifier": lambda node: Literal(get_source(node), ("string",)),
    **dict.fromkeys(("string", "template_string"), _string),
    "number": _number,
    **dict.fromkeys(("true", "false"), lambda _: Literal(None, ("boolean",))),
    **dict.fromkeys(("null", "undefined"), lambda _: Literal(None, ())),
    **dict.fromkeys(("parenthesized_expression", "await_expression"), _inner),
    "member_expression": _member,
    "subscript_expression": lambda node: Member(_field(node, "object"), _field(node, "index"), _is_chained(node)),
    **dict.fromkeys(("object", "object_pattern"), lambda node: Object(tuple(map(_entry, _children(node))))),
    **dict.fromkeys(("array", "array_pattern"), lambda node: Array(_nodes(_children(node)))),
    **dict.fromkeys(("spread_element", "rest_pattern"), lambda node: Spread(_inner(node))),
    "assignment_pattern": lambda node: Default(_field(node, "left"), _field(node, "right")),
    **dict.fromkeys(("arrow_function", "function_expression", "generator_function"), _function),
    # operators and calls
    "assignment_expression": lambda node: Assign(_field(node, "left"), _field(node, "right")),
    "augmented_assignment_expression": _augmented,
    "binary_expression": _binary,
    "unary_expression": lambda node: Operation(
        _UNARY_SIGNS.get(_text(node, "operator"), ""), (_field(node, "argument"),)
    ),
    "call_expression": _call,
    "new_expression": _new,
}

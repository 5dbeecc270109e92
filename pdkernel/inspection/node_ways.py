"""
On which ways through `run` a Node.js step calls `$.respond`.

Knows JavaScript's statements through a syntax tree. Takes both sides of every condition as possible; an error that is
thrown is no way: the platform answers that by itself. What it cannot follow, it says.
"""

from __future__ import annotations

from collections.abc import Iterable

from tree_sitter import Node

from pdkernel.expression import javascript
from pdkernel.inspection.places import run_function
from pdkernel.inspection.ways import NEVER, UNKNOWN, Answering, Places, UnknownWaysError, Ways, answering

_LOOPS = frozenset({"for_statement", "for_in_statement", "while_statement", "do_statement"})
_LOGICAL = frozenset({"&&", "||", "??"})
_AXIOS = "axios"
"""The platform's own client takes `$` to export what it was answered, and sends no response."""


def node_answering(source: str) -> Answering:
    """How the step with the code *source* answers."""
    root = javascript.parse(source)
    run = run_function(root)
    if root.has_error or run is None:
        return UNKNOWN if "respond" in source else NEVER
    body = run.child_by_field_name("body")
    dollar = _dollar_of(run)
    if body is None or dollar is None:
        return UNKNOWN if "respond" in source else NEVER
    if dollar == "":
        return NEVER if "respond" not in source else UNKNOWN
    try:
        start = {False: _line(body)}
        follower = _Follower(dollar)
        ways = follower.statement(body, start) if body.type == "statement_block" else follower.expression(body, start)
        return answering(ways)
    except (UnknownWaysError, RecursionError):
        return UNKNOWN


def _dollar_of(run: Node) -> str | None:
    """What the function calls its `$`, or `opts.$`; empty if it takes none; None if that cannot be told."""
    parameters = run.child_by_field_name("parameters") or run.child_by_field_name("parameter")
    if parameters is None or not parameters.named_children:
        return (
            ""
            if parameters is None or parameters.type == "formal_parameters"
            else f"{javascript.text_of(parameters)}.$"
        )
    first = parameters.named_children[0] if parameters.type == "formal_parameters" else parameters
    if first.type == "identifier":
        return f"{javascript.text_of(first)}.$"
    if first.type != "object_pattern":
        return None
    for member in first.named_children:
        if member.type == "shorthand_property_identifier_pattern" and javascript.text_of(member) == "$":
            return "$"
        if member.type == "pair_pattern" and javascript.key_of(member) == "$":
            value = member.child_by_field_name("value")
            return javascript.text_of(value) if value is not None and value.type == "identifier" else None
        if member.type == "rest_pattern":
            return None
    return ""


class _Follower:
    def __init__(self, dollar: str) -> None:
        self._dollar = dollar

    def _block(self, nodes: Iterable[Node], start: Places) -> Ways:
        ways = Ways(on=start)
        for node in nodes:
            if not ways.on:
                break
            ways = ways.then(self.statement(node, ways.on))
        return ways

    def statement(self, node: Node, start: Places) -> Ways:
        """The ways through a statement."""
        if node.type in _LOOPS:
            return self._loop(node, start)
        match node.type:
            case "statement_block" | "else_clause" | "finally_clause":
                return self._block(node.named_children, start)
            case "if_statement":
                return self._if(node, start)
            case "switch_statement":
                return self._switch(node, start)
            case "try_statement":
                return self._try(node, start)
            case "return_statement":
                before = self._expressions(node.named_children, start)
                return before.then(Ways(back=dict.fromkeys(before.on, _line(node))))
            case "throw_statement":
                return Ways()
            case "break_statement" | "continue_statement":
                return Ways(broken=dict.fromkeys(start, _line(node)))
            case "labeled_statement":
                raise UnknownWaysError
        return self._expressions(node.named_children, start)

    def _if(self, node: Node, start: Places) -> Ways:
        before = self._field(node, "condition", start)
        other = node.child_by_field_name("alternative")
        without = self.statement(other, before.on) if other is not None else Ways(on=before.on)
        consequence = node.child_by_field_name("consequence")
        within = self.statement(consequence, before.on) if consequence is not None else Ways(on=before.on)
        return before.then(within | without)

    def _switch(self, node: Node, start: Places) -> Ways:
        before = self._field(node, "value", start)
        body = node.child_by_field_name("body")
        cases = body.named_children if body is not None else []
        whole, falling, has_default = Ways(), Places(), False
        for case in cases:
            if case.type not in {"switch_case", "switch_default"}:
                continue
            has_default = has_default or case.type == "switch_default"
            value = case.child_by_field_name("value")
            statements = [child for child in case.named_children if value is None or child.id != value.id]
            ways = self._block(statements, {**before.on, **falling})
            falling = ways.on
            whole = Ways() | whole | Ways(back=ways.back, out=ways.out, on=ways.broken)
        on = {**whole.on, **falling, **({} if has_default else before.on)}
        return before.then(Ways(on, whole.back, whole.out))

    def _loop(self, node: Node, start: Places) -> Ways:
        body = node.child_by_field_name("body")
        if body is None:
            raise UnknownWaysError
        parts = [child for child in node.named_children if child.id != body.id]
        before = Ways(on=start) if node.type == "do_statement" else self._expressions(parts, start)
        once = self.statement(body, before.on)
        through = once | self.statement(body, {**once.on, **before.on})
        condition = node.child_by_field_name("condition")
        for_ever = condition is not None and javascript.text_of(condition).strip("()") == "true"
        never_skipped = node.type == "do_statement"
        over = {} if for_ever else through.on if never_skipped else {**through.on, **before.on}
        return before.then(Ways({**over, **through.broken}, through.back, through.out))

    def _try(self, node: Node, start: Places) -> Ways:
        body, handler = node.child_by_field_name("body"), node.child_by_field_name("handler")
        finalizer = node.child_by_field_name("finalizer")
        if body is None:
            raise UnknownWaysError
        whole = self.statement(body, start)
        if handler is not None:
            caught = dict(start)
            statements = body.named_children
            for count in range(1, len(statements) + 1):
                caught |= self._block(statements[:count], start).on
            inside = handler.child_by_field_name("body")
            whole = whole | (self.statement(inside, caught) if inside is not None else Ways(on=caught))
        if finalizer is None:
            return whole
        ending = self.statement(finalizer, {False: _line(finalizer)})
        if False not in ending.on and ending.on and not ending.back and not ending.out:
            return whole.all_sent()
        return whole.then(self.statement(finalizer, whole.on)) if whole.on else whole

    def _field(self, node: Node, name: str, start: Places) -> Ways:
        child = node.child_by_field_name(name)
        return self.expression(child, start) if child is not None else Ways(on=start)

    def _expressions(self, nodes: Iterable[Node], start: Places) -> Ways:
        ways = Ways(on=start)
        for node in nodes:
            ways = ways.then(self.expression(node, ways.on))
        return ways

    def expression(self, node: Node, start: Places) -> Ways:
        """The ways through an expression."""
        if node.type in javascript.FUNCTIONS or node.type in {"class", "class_declaration"}:
            self._refuse(node)
            return Ways(on=start)
        match node.type:
            case "ternary_expression":
                before = self._field(node, "condition", start)
                return before.then(
                    self._field(node, "consequence", before.on) | self._field(node, "alternative", before.on)
                )
            case "binary_expression" if self._operator(node) in _LOGICAL:
                before = self._field(node, "left", start)
                return before.then(self._field(node, "right", before.on) | Ways(on=before.on))
            case "call_expression":
                return self._call(node, start)
            case "member_expression" | "subscript_expression" if self._is_dollar(node.child_by_field_name("object")):
                if javascript.member_name(node) in {"respond", None}:
                    raise UnknownWaysError
                return Ways(on=start)
        if self._is_dollar(node) or (
            node.type == "shorthand_property_identifier" and javascript.text_of(node) == self._dollar
        ):
            raise UnknownWaysError
        return self._expressions(node.named_children, start)

    @staticmethod
    def _operator(node: Node) -> str:
        operator = node.child_by_field_name("operator")
        return "" if operator is None else javascript.text_of(operator)

    def _call(self, node: Node, start: Places) -> Ways:
        function, arguments = node.child_by_field_name("function"), node.child_by_field_name("arguments")
        given = list(arguments.named_children) if arguments is not None else []
        called = javascript.text_of(function).replace("?.", ".") if function is not None else ""
        if called == f"{self._dollar}.respond":
            before = self._expressions(given, start)
            return before.then(Ways(on={True: _line(node)} if before.on else {}))
        if called == f"{self._dollar}.flow.exit":
            return Ways(out=dict.fromkeys(start, _line(node)))
        if called == _AXIOS and given and self._is_dollar(given[0]):
            return self._expressions(given[1:], start)
        return self._expressions([*([function] if function is not None else []), *given], start)

    def _is_dollar(self, node: Node | None) -> bool:
        return (
            node is not None
            and node.type in {"identifier", "member_expression"}
            and javascript.text_of(node) == self._dollar
        )

    def _refuse(self, node: Node) -> None:
        """Code that runs later, or no one knows how often, must not send the response."""
        for each in javascript.walk(node):
            parent = each.parent
            if self._is_dollar(each) and not (
                parent is not None
                and parent.type == "member_expression"
                and javascript.member_name(parent) not in {"respond", "flow", None}
            ):
                raise UnknownWaysError


def _line(node: Node) -> int:
    return node.start_point[0] + 1

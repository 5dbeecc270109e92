"""
What a Go step reads of the event.

Knows Go's statements. Starts at `main` and follows the step's own functions; code that nothing calls reads nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from tree_sitter import Node

from pdkernel.contract.go_expressions import GoExpressions
from pdkernel.contract.go_types import json_types, resolved, text_of
from pdkernel.contract.trace import NONE, Exports, Trace
from pdkernel.contract.values import (
    NOTHING,
    At,
    Known,
    Literally,
    Object,
    Routine,
    Shaped,
    Value,
    either,
)
from pdkernel.inspection import go_code

_LEAVES = frozenset({"return_statement", "continue_statement", "break_statement", "goto_statement"})
_FAILS = ("panic", "log.Fatal", "log.Fatalf", "log.Fatalln", "os.Exit")
_WHOLE = ("fmt.Print", "fmt.Fprint", "log.", "http.", "pd.")
_TEXT = ("strings.", "strconv.Atoi", "strconv.Parse", "url.Parse", "url.QueryEscape", "html.")


class GoReader(GoExpressions):
    """A walk through a Go step."""

    def walk(self, root: Node) -> None:
        """Follow the program from `main`."""
        for node in _all(root):
            if node.type == "type_spec" and (kind := node.child_by_field_name("type")) is not None:
                self._types[text_of(node.child_by_field_name("name"))] = kind
        for child in root.named_children:
            if child.type == "function_declaration":
                name = text_of(child.child_by_field_name("name"))
                self.bind(name, (Routine(child, self.scope, name),), new=True)
        for child in root.named_children:
            if child.type == "var_declaration":
                self.of(child)
        for name in ("init", "main"):
            self.calls(self.scope.find(name) or NOTHING, [])

    def run_function(self, function: Routine, arguments: Sequence[Value], _: Mapping[str, Value]) -> None:
        """Bind the parameters and follow the body."""
        values = list(arguments)
        parameters = function.node.child_by_field_name("parameters")
        for child in parameters.named_children if parameters is not None else ():
            for name in child.children_by_field_name("name"):
                value = values.pop(0) if values else NOTHING
                kind = child.child_by_field_name("type")
                plain = any(isinstance(atom, At) for atom in value)
                self.bind(text_of(name), self._shaped(value, kind) if plain and kind is not None else value, new=True)
        for value in values:
            self.use(value, "hands")
        self.of(function.node.child_by_field_name("body"))

    # ── statements ─────────────────────────────────────────────────────────────────

    def _block(self, node: Node) -> Value:
        for child in node.named_children:
            value = self.of(child)
            if child.type == "expression_statement":
                self.use(tuple(atom for atom in value if not isinstance(atom, Routine)))
        return NOTHING

    _statement_list = _block

    def _expression_list(self, node: Node) -> Value:
        return either(*(self.of(child) for child in node.named_children))

    def _expression_statement(self, node: Node) -> Value:
        return either(*(self.of(child) for child in node.named_children))

    def _short_var_declaration(self, node: Node) -> Value:
        left, right = node.child_by_field_name("left"), node.child_by_field_name("right")
        is_new = node.type == "short_var_declaration"
        targets = left.named_children if left is not None else []
        values = right.named_children if right is not None else []
        if len(targets) == 2 and len(values) == 1:
            self._both(targets, values[0], new=is_new)
            return NOTHING
        found = [self.of(value) for value in values]
        for target, value in zip(targets, found, strict=False):
            self._assign(target, value, new=is_new)
        return NOTHING

    _assignment_statement = _short_var_declaration

    def _both(self, targets: Sequence[Node], value: Node, *, new: bool) -> None:
        """`v, ok := m["k"]`: *ok* says whether there is a *v*."""
        if value.type == "index_expression":
            found = self._indexed(value, soft=True)
        elif value.type == "type_assertion_expression":
            found = self._asserted(value, soft=True)
        else:
            found = self.of(value)
            self._assign(targets[0], found, new=new)
            self._assign(targets[1], NOTHING, new=new)
            return
        self._assign(targets[0], found, new=new)
        self._assign(targets[1], self._without_types(found)[0], new=new)

    def _assign(self, target: Node, value: Value, *, new: bool) -> None:
        if target.type == "identifier":
            if text_of(target) != "_":
                self.bind(text_of(target), value, new=new)
            return
        owner = self.of(target.child_by_field_name("operand"))
        keys = self.of(target.child_by_field_name("index"))
        for atom in owner:
            if (
                isinstance(atom, Object)
                and isinstance(atom.items, dict)
                and len(keys) == 1
                and isinstance(keys[0], Literally)
            ):
                atom.items[keys[0].value] = value
                return
        self.use(value, "whole")

    def _var_declaration(self, node: Node) -> Value:
        for spec in _all(node):
            if spec.type != "var_spec":
                continue
            kind, value = spec.child_by_field_name("type"), self.of(spec.child_by_field_name("value"))
            for name in spec.children_by_field_name("name"):
                self.bind(text_of(name), value, new=True)
                if kind is not None:
                    self.bind(f"type of {text_of(name)}", (Shaped(NOTHING, kind),), new=True)
        return NOTHING

    def _return_statement(self, node: Node) -> Value:
        for child in node.named_children:
            values = child.named_children if child.type == "expression_list" else [child]
            found = [self.of(value) for value in values]
            self.returns(either(*found[:1]))
            for rest in found[1:]:
                self.use(rest)
        return NOTHING

    def _if_statement(self, node: Node) -> Value:
        self.of(node.child_by_field_name("initializer"))
        there, missing = self._test(node.child_by_field_name("condition"))
        body, other = node.child_by_field_name("consequence"), node.child_by_field_name("alternative")
        self.branches((there, missing, lambda: self.of(body)), (missing, there, lambda: self.of(other)))
        for branch, known in ((body, missing), (other, there)):
            last = _last(branch)
            if last is None:
                continue
            fails = (
                last.type == "expression_statement"
                and text_of(last).startswith(_FAILS)
                and not text_of(last).startswith("os.Exit(0")
            )
            if fails:
                for place in known:
                    self.need(place)
            if fails or last.type in _LEAVES or text_of(last).startswith("os.Exit"):
                self.learn(known)
        return NOTHING

    def _for_statement(self, node: Node) -> Value:
        for child in node.named_children:
            if child.type == "range_clause":
                self._range(child)
            elif child.type == "for_clause":
                self._count(child)
            elif child.type != "block":
                self._test(child)
        return self.of(node.child_by_field_name("body"))

    def _count(self, node: Node) -> None:
        initializer = node.child_by_field_name("initializer")
        left = initializer.child_by_field_name("left") if initializer is not None else None
        for name in left.named_children if left is not None else ():
            self.bind(text_of(name), (Known("index"),), new=True)
        self._test(node.child_by_field_name("condition"))

    def _range(self, node: Node) -> None:
        plain, kinds = self._without_types(self.of(node.child_by_field_name("right")))
        left = node.child_by_field_name("left")
        names = [text_of(name) for name in left.named_children] if left is not None else []
        if any(
            resolved(kind, self._types) is not None and json_types(kind, self._types) == ("object",) for kind in kinds
        ):
            self.dynamic(plain)
            return
        item = self._shaped_item(self.iterate(plain), kinds)
        if names:
            self.bind(names[0], (Known("index"),), new=True)
        if len(names) > 1:
            self.bind(names[1], item, new=True)

    def _expression_switch_statement(self, node: Node) -> Value:
        self.of(node.child_by_field_name("initializer"))
        self.use(self.of(node.child_by_field_name("value")))
        return self._cases(node)

    def _type_switch_statement(self, node: Node) -> Value:
        value = self.of(node.child_by_field_name("value"))
        self.in_any_type(value)
        alias = node.child_by_field_name("alias")
        for name in alias.named_children if alias is not None else ():
            self.bind(text_of(name), self.softened(value), new=True)
        return self._cases(node)

    def _all_of(self, nodes: Sequence[Node]) -> Value:
        return either(*map(self.of, nodes))

    def _cases(self, node: Node) -> Value:
        for child in node.named_children:
            if child.type in {"expression_case", "type_case", "default_case"}:
                inner = [
                    each
                    for each in child.named_children
                    if each.type == "statement_list" or each.type.endswith(("statement", "declaration"))
                ]
                self.alone(NONE, NONE, partial(self._all_of, inner))
        return NOTHING


def _all(node: Node) -> list[Node]:
    found, waiting = [], [node]
    while waiting:
        each = waiting.pop()
        found.append(each)
        waiting.extend(reversed(each.named_children))
    return found


def _last(branch: Node | None) -> Node | None:
    while branch is not None and branch.type in {"block", "statement_list"}:
        branch = branch.named_children[-1] if branch.named_children else None
    return branch


def read(source: str, known: Exports | None = None) -> tuple[Trace, bool]:
    """The walk through *source*, and whether all of it can be read."""
    root = go_code.root(source)
    reader = GoReader(known, helper=go_code.imports(source).get(go_code.HELPER, "pd"))
    reader.walk(root)
    return reader, not root.has_error

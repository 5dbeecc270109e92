"""
What a Bash step reads of the event.

Knows how a script gets at `$PIPEDREAM_STEPS`: through jq, with its text carried in variables, pipes and functions of the
script's own. What another program reads of the file is unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial

import tree_sitter_bash
from tree_sitter import Language, Node, Parser

from pdkernel.contract.bash_commands import FILE, STEPS, BashCommands, name_of, text_of
from pdkernel.contract.trace import NONE, Exports, Tested, Trace
from pdkernel.contract.values import NOTHING, Literally, Routine, Value, either


@lru_cache(maxsize=1)
def _language() -> Language:
    return Language(tree_sitter_bash.language())


class BashReader(BashCommands):
    """A walk through a Bash step; the value of a text is the value that it is the JSON of."""

    def walk(self, root: Node) -> None:
        """Follow the script."""
        self.bind(STEPS, (FILE,), new=True)
        for child in root.named_children:
            printed = self.run(child, NOTHING)
            self.line = child.start_point[0] + 1
            self.use(self.held(printed), "whole")

    def run(self, node: Node | None, given: Value) -> Value:
        """What *node* prints, with *given* as its input."""
        if node is None:
            return NOTHING
        self.line = node.start_point[0] + 1
        act: Callable[[Node, Value], Value] | None = getattr(self, f"_run_{node.type}", None)
        if act is not None:
            return act(node, given)
        return self._all([child for child in node.named_children if child.type != "comment"], given)

    def _run_pipeline(self, node: Node, given: Value) -> Value:
        for child in node.named_children:
            given = self.run(child, given)
        return given

    def _run_variable_assignment(self, node: Node, _: Value) -> Value:
        self.bind(text_of(node.child_by_field_name("name")), self.value(node.child_by_field_name("value")))
        return NOTHING

    def _run_declaration_command(self, node: Node, given: Value) -> Value:
        for child in node.named_children:
            if child.type == "variable_assignment":
                self.run(child, given)
        return NOTHING

    def _run_while_statement(self, node: Node, given: Value) -> Value:
        self.condition(node.child_by_field_name("condition"), given)
        return self.run(node.child_by_field_name("body"), NOTHING)

    def _run_function_definition(self, node: Node, _: Value) -> Value:
        name = text_of(node.child_by_field_name("name"))
        self.bind(f"{name}()", (Routine(node.child_by_field_name("body"), self.scope, name),), new=True)
        return NOTHING

    def _run_test_command(self, node: Node, given: Value) -> Value:
        self.condition(node, given)
        return NOTHING

    _run_negated_command = _run_test_command

    def run_function(self, function: Routine, arguments: Sequence[Value], _: Mapping[str, Value]) -> None:
        """Bind `$1` and the others, and follow the body."""
        given, *rest = arguments
        for index, value in enumerate(rest, start=1):
            self.bind(str(index), value, new=True)
        self.bind("@", either(*rest), new=True)
        self.returns(self.run(function.node, given))

    # ── flow ───────────────────────────────────────────────────────────────────────

    def condition(self, node: Node | None, given: Value) -> Tested:
        """Follow a command for whether it succeeds."""
        if node is None:
            return NONE, NONE
        self.line = node.start_point[0] + 1
        if node.type == "negated_command":
            there, missing = self.condition(node.named_children[0], given)
            return missing, there
        if node.type == "test_command":
            return self._tested(node.named_children[0]) if node.named_children else (NONE, NONE)
        if node.type == "list":
            return self._list_tested(node, given)
        if node.type == "command" and name_of(node) == "test":
            words = node.children_by_field_name("argument")
            if len(words) == 2 and text_of(words[0]) in {"-z", "-n"}:
                places = self.glance(self.held(self.value(words[1])))
                return (places, NONE) if text_of(words[0]) == "-n" else (NONE, places)
        self.run(node, given)
        return NONE, NONE

    def _list_tested(self, node: Node, given: Value) -> Tested:
        sides = (node.named_children[0], node.named_children[-1])
        is_and = any(child.type == "&&" for child in node.children)
        return self.both(*(partial(self.condition, side, given) for side in sides), is_and=is_and)

    def _tested(self, node: Node) -> Tested:
        if node.type == "unary_expression":
            operator = text_of(node.child_by_field_name("operator")) or text_of(node)[:2]
            if operator == "!":
                there, missing = self._tested(node.named_children[-1])
                return missing, there
            places = self.glance(self.held(self.value(node.named_children[-1])))
            return (NONE, places) if operator == "-z" else (places, NONE)
        if node.type == "parenthesized_expression":
            return self._tested(node.named_children[0])
        if node.type == "binary_expression":
            return self._compared(node)
        return self.glance(self.held(self.value(node))), NONE

    def _compared(self, node: Node) -> Tested:
        left, right = node.child_by_field_name("left"), node.child_by_field_name("right")
        sign = text_of(node.child_by_field_name("operator"))
        if left is None or right is None:
            return NONE, NONE
        if sign in {"&&", "||", "-a", "-o"}:
            return self.both(partial(self._tested, left), partial(self._tested, right), is_and=sign in {"&&", "-a"})
        value, against = self.held(self.value(left)), self.value(right)
        nothing = not against and not right.named_children
        if nothing or any(isinstance(atom, Literally) and atom.value in {"null", ""} for atom in against):
            places = self.glance(value)
            return (places, NONE) if sign == "!=" else (NONE, places)
        self.use(value)
        self.use(self.held(against))
        return NONE, NONE

    def _run_list(self, node: Node, given: Value) -> Value:
        left, right = node.named_children[0], node.named_children[-1]
        is_and = any(child.type == "&&" for child in node.children)
        tests = left.type in {"test_command", "negated_command", "list"} or name_of(left) == "test"
        if not tests:
            return either(self.run(left, given), self.run(right, given))
        there, missing = self.condition(left, given)
        taken, other = (there, missing) if is_and else (missing, there)
        printed = self.alone(taken, other, lambda: self.run(right, given))
        self._leave(right, other)
        return printed

    def _run_if_statement(self, node: Node, given: Value) -> Value:
        conditions = node.children_by_field_name("condition")
        there, missing = NONE, NONE
        for condition in conditions:
            if condition.is_named:
                there, missing = self.condition(condition, given)
        bodies = [child for child in node.named_children if child not in conditions]
        then = [child for child in bodies if child.type not in {"else_clause", "elif_clause"}]
        others = [child for child in bodies if child.type in {"else_clause", "elif_clause"}]
        printed = self.branches(
            (there, missing, lambda: either(*(self.run(child, given) for child in then))),
            (missing, there, lambda: either(*(self._clause(child, given) for child in others))),
        )
        if then:
            self._leave(then[-1], missing)
        return printed

    def _clause(self, node: Node, given: Value) -> Value:
        children = list(node.named_children)
        there, missing = NONE, NONE
        if node.type == "elif_clause" and children:
            there, missing = self.condition(children.pop(0), given)
        return self.alone(there, missing, lambda: either(*(self.run(child, given) for child in children)))

    def _leave(self, last: Node, known: frozenset[tuple[str | int, ...]]) -> None:
        while last.type in {"compound_statement", "list"} and last.named_children:
            last = last.named_children[-1]
        if last.type != "command" or name_of(last) not in {"exit", "return"}:
            return
        status = "".join(text_of(word) for word in last.children_by_field_name("argument"))
        if status not in {"", "0"}:
            for place in known:
                self.need(place)
        self.learn(known)

    def _run_for_statement(self, node: Node, given: Value) -> Value:
        values = [self.value(child) for child in node.children_by_field_name("value")]
        self.bind(text_of(node.child_by_field_name("variable")), self.held(either(*values)))
        return self.run(node.child_by_field_name("body"), given)

    def _all(self, nodes: Sequence[Node], given: Value) -> Value:
        return either(*(self.run(node, given) for node in nodes))

    def _run_case_statement(self, node: Node, given: Value) -> Value:
        self.use(self.held(self.value(node.child_by_field_name("value"))))
        for child in node.named_children:
            if child.type == "case_item":
                inner = [each for each in child.named_children if each not in child.children_by_field_name("value")]
                self.alone(NONE, NONE, partial(self._all, inner, given))
        return NOTHING


def read(source: str, known: Exports | None = None) -> tuple[Trace, bool]:
    """The walk through *source*, and whether all of it can be read."""
    root = Parser(_language()).parse(source.encode("utf-8", "replace")).root_node
    reader = BashReader(known)
    reader.walk(root)
    return reader, not root.has_error

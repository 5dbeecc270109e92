"""
What a Bash step reads of the event.

Knows how a script gets at `$PIPEDREAM_STEPS`: through jq, with its text carried in variables, pipes and functions of the
script's own. What another program reads of the file is unknown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial

import tree_sitter_bash
from tree_sitter import Language, Node, Parser

from pdkernel.contract import jq_syntax
from pdkernel.contract.jq_reader import JqReader
from pdkernel.contract.trace import NONE, Exports, Tested, Trace
from pdkernel.contract.values import NOTHING, At, Known, Literally, Routine, Several, Value, either

STEPS = "PIPEDREAM_STEPS"
_FILE = Known("the file of steps")
_SENDERS = frozenset(
    ["curl", "wget", "http", "https", "aws", "gcloud", "echo", "printf", "tee", "mail", "sendmail", "logger"]
)
_THROUGH = frozenset(["tr", "head", "tail", "sort", "uniq", "base64", "xargs", "tac", "sed"])
_OTHERS = re.compile(r"(python|node|perl|ruby|php|awk|gawk|grep|egrep|yq|deno|bun|cut|wc|gron|fx)[\d.]*\Z")
_VALUED = frozenset({"--arg", "--argjson", "--slurpfile", "--rawfile", "--indent", "-f", "--from-file", "-L"})


@lru_cache(maxsize=1)
def _language() -> Language:
    return Language(tree_sitter_bash.language())


def _text(node: Node | None) -> str:
    return (node.text or b"").decode("utf-8", "replace") if node is not None else ""


class BashReader(JqReader):
    """A walk through a Bash step; the value of a text is the value that it is the JSON of."""

    def walk(self, root: Node) -> None:
        """Follow the script."""
        self.bind(STEPS, (_FILE,), new=True)
        for child in root.named_children:
            printed = self.run(child, NOTHING)
            self.line = child.start_point[0] + 1
            self.use(self._text_of(printed), "whole")

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
        self.bind(_text(node.child_by_field_name("name")), self.value(node.child_by_field_name("value")))
        return NOTHING

    def _run_declaration_command(self, node: Node, given: Value) -> Value:
        for child in node.named_children:
            if child.type == "variable_assignment":
                self.run(child, given)
        return NOTHING

    def _run_while_statement(self, node: Node, given: Value) -> Value:
        self._condition(node.child_by_field_name("condition"), given)
        return self.run(node.child_by_field_name("body"), NOTHING)

    def _run_function_definition(self, node: Node, _: Value) -> Value:
        name = _text(node.child_by_field_name("name"))
        self.bind(f"{name}()", (Routine(node.child_by_field_name("body"), self.scope, name),), new=True)
        return NOTHING

    def _run_test_command(self, node: Node, given: Value) -> Value:
        self._condition(node, given)
        return NOTHING

    _run_negated_command = _run_test_command

    def run_function(self, function: Routine, arguments: Sequence[Value], _: Mapping[str, Value]) -> None:
        """Bind `$1` and the others, and follow the body."""
        given, *rest = arguments
        for index, value in enumerate(rest, start=1):
            self.bind(str(index), value, new=True)
        self.bind("@", either(*rest), new=True)
        self.returns(self.run(function.node, given))

    # ── texts ──────────────────────────────────────────────────────────────────────

    def value(self, node: Node | None) -> Value:
        """What the word *node* holds; a text with more in it than one value is a text of its own."""
        if node is None:
            return NOTHING
        match node.type:
            case "word" | "number":
                return (Literally(_text(node).replace("\\", "")),)
            case "raw_string":
                return (Literally(_text(node)[1:-1]),)
            case "simple_expansion" | "expansion":
                return self._expanded(node)
            case "command_substitution" | "process_substitution":
                return either(*(self.run(child, NOTHING) for child in node.named_children))
            case "string" | "concatenation":
                return self._joined(node)
        for child in node.named_children:
            self.use(self._text_of(self.value(child)))
        return NOTHING

    def _joined(self, node: Node) -> Value:
        parts = [child for child in node.named_children if child.type != "comment"]
        if not parts:
            return (Literally(_text(node).strip('"')),)
        values = [self.value(part) if part.type != "string_content" else (Literally(_said(part)),) for part in parts]
        if len(values) == 1:
            return values[0]
        if all(len(value) == 1 and isinstance(value[0], Literally) for value in values):
            return (
                Literally(
                    "".join(str(atom.value) for value in values for atom in value if isinstance(atom, Literally))
                ),
            )
        for value in values:
            if _FILE not in value:
                self.use(self._text_of(value), "whole")
        return (_FILE,) if any(_FILE in value for value in values) else NOTHING

    def _expanded(self, node: Node) -> Value:
        names = [child for child in node.named_children if child.type in {"variable_name", "special_variable_name"}]
        found = self.scope.find(_text(names[0])) or NOTHING if names else NOTHING
        rest = _text(node)[2:-1].removeprefix(_text(names[0])) if names and node.type == "expansion" else ""
        if rest.startswith((":-", "-", ":=", "=", ":+", "+")):
            self.glance(found)
            return self.handed(found)
        if rest.startswith((":?", "?")):
            for atom in found:
                if isinstance(atom, At):
                    self.need(atom.place)
        return found

    def _text_of(self, value: Value) -> Value:
        """The value of a text that may be the file's name; the file holds `steps`."""
        return tuple(At(()) if atom == _FILE else atom for atom in value if not isinstance(atom, Routine))

    # ── commands ───────────────────────────────────────────────────────────────────

    def _run_redirected_statement(self, node: Node, given: Value) -> Value:
        writes = False
        for child in node.named_children:
            if child.type == "file_redirect":
                destination = child.child_by_field_name("destination")
                value = self.value(destination)
                if "<" in _text(child)[:2]:
                    given = self._text_of(value)
                elif not _text(child).startswith(("2>", "&>")):
                    writes = True
            elif child.type == "herestring_redirect":
                given = self._text_of(self.value(child.named_children[0]))
            elif child.type == "heredoc_redirect":
                given = self._document(child, given)
        body = node.child_by_field_name("body")
        if body is not None and STEPS in _text(node) and _OTHERS.match(_name(body)):
            self.note("unknown", ())
            return NOTHING
        printed = self.run(body, given)
        if writes:
            self.use(self._text_of(printed), "whole")
            return NOTHING
        return printed

    def _document(self, node: Node, given: Value) -> Value:
        for child in node.named_children:
            if child.type == "heredoc_body":
                values = [self.value(part) for part in child.named_children if part.type != "heredoc_content"]
                if len(values) == 1 and len(child.named_children) == 1:
                    return self._text_of(values[0])
                for value in values:
                    self.use(self._text_of(value), "whole")
            elif child.type in {"pipeline", "command"}:
                given = self.run(child, given)
        return NOTHING

    def _run_command(self, node: Node, given: Value) -> Value:
        name = _name(node)
        words = node.children_by_field_name("argument")
        for child in node.named_children:
            if child.type == "variable_assignment":
                self.run(child, NOTHING)
            elif child.type == "herestring_redirect":
                given = self._text_of(self.value(child.named_children[0]))
        if own := self.scope.find(f"{name}()"):
            return self.calls(own, [given, *map(self.value, words)])
        if name == "jq":
            return self._jq(words, given)
        if name in {"[", "[[", "test"}:
            self._condition(node, given)
            return NOTHING
        if name in {"read", "mapfile", "readarray"}:
            names = [_text(word) for word in words if not _text(word).startswith("-") and word.type == "word"]
            for each in names:
                self.bind(each, given if name == "read" else (Several(given),))
            return NOTHING
        values = [self.value(word) for word in words]
        if name == "cat":
            return self._text_of(either(*values)) if words else given
        if name in {"echo", "printf"}:
            return self._printed(words, values)
        return self._other(node, name, values, given)

    def _printed(self, words: Sequence[Node], values: Sequence[Value]) -> Value:
        told = [value for word, value in zip(words, values, strict=True) if not _text(word).startswith("-")]
        places = [value for value in told if not all(isinstance(atom, Literally) for atom in value)]
        if len(places) == 1 and (len(told) == 1 or _text(words[0]).strip("'\"") in {"%s", "%s\\n", "%b"}):
            return places[0]
        for value in places:
            self.use(self._text_of(value), "whole")
        return told[0] if len(told) == 1 else NOTHING

    def _other(self, node: Node, name: str, values: Sequence[Value], given: Value) -> Value:
        if _OTHERS.match(name):
            if any(_FILE in value for value in values) or STEPS in _text(node):
                self.note("unknown", ())
            for value in [*values, given]:
                self.use(tuple(atom for atom in self._text_of(value) if atom != At(())), "hands")
                if At(()) in self._text_of(value):
                    self.note("unknown", ())
            return NOTHING
        for value in values:
            self.use(self._text_of(value), "whole" if name in _SENDERS else "hands")
        if name in _THROUGH:
            return given
        self.use(self._text_of(given), "whole" if name in _SENDERS else "hands")
        return NOTHING

    def _jq(self, words: Sequence[Node], given: Value) -> Value:
        options = self._jq_options(words)
        if options is None:
            self.note("unknown", ())
            return NOTHING
        source, files, no_input, slurps = options
        value = self._text_of(either(*files)) if files else self._text_of(given)
        if no_input:
            value = NOTHING
        if slurps:
            value = (Several(value),)
        try:
            tree = jq_syntax.parse(source)
        except jq_syntax.JqError:
            self.dynamic(value)
            return NOTHING
        line = self.line
        found = self.apply(tree, value)
        self.line = line
        return found

    def _jq_options(self, words: Sequence[Node]) -> tuple[str, list[Value], bool, bool] | None:
        """Filter, files, whether there is no input, whether all input is one list; None for a filter that is not there."""
        source: str | None = None
        files: list[Value] = []
        flags = ""
        waiting = list(words)
        while waiting:
            word = waiting.pop(0)
            said = _text(word)
            if said in {"--arg", "--argjson"} and len(waiting) > 1:
                name, value = _text(waiting.pop(0)).strip("\"'"), self.value(waiting.pop(0))
                self.bind(f"${name}", self._text_of(value), new=True)
            elif said in _VALUED:
                taken = [
                    self.value(waiting.pop(0))
                    for _ in range(1 if said in {"--indent", "-f", "-L", "--from-file"} else 2)
                    if waiting
                ]
                if said in {"-f", "--from-file"} and taken:
                    return None
                if said in {"--slurpfile", "--rawfile"} and len(taken) == 2:
                    names = [str(atom.value) for atom in taken[0] if isinstance(atom, Literally)]
                    for name in names:
                        self.bind(f"${name}", (Several(self._text_of(taken[1])),), new=True)
            elif said.startswith("-") and len(said) > 1:
                flags += {"--null-input": "n", "--slurp": "s"}.get(said, "" if said.startswith("--") else said[1:])
            elif source is None:
                value = self.value(word)
                if len(value) != 1 or not isinstance(value[0], Literally):
                    return None
                source = str(value[0].value)
            else:
                files.append(self.value(word))
        return (source or ".", files, "n" in flags, "s" in flags)

    # ── flow ───────────────────────────────────────────────────────────────────────

    def _condition(self, node: Node | None, given: Value) -> Tested:
        """Follow a command for whether it succeeds."""
        if node is None:
            return NONE, NONE
        self.line = node.start_point[0] + 1
        if node.type == "negated_command":
            there, missing = self._condition(node.named_children[0], given)
            return missing, there
        if node.type == "test_command":
            return self._tested(node.named_children[0]) if node.named_children else (NONE, NONE)
        if node.type == "list":
            return self._list_tested(node, given)
        if node.type == "command" and _name(node) == "test":
            words = node.children_by_field_name("argument")
            if len(words) == 2 and _text(words[0]) in {"-z", "-n"}:
                places = self.glance(self._text_of(self.value(words[1])))
                return (places, NONE) if _text(words[0]) == "-n" else (NONE, places)
        self.run(node, given)
        return NONE, NONE

    def _list_tested(self, node: Node, given: Value) -> Tested:
        sides = (node.named_children[0], node.named_children[-1])
        is_and = any(child.type == "&&" for child in node.children)
        return self.both(*(partial(self._condition, side, given) for side in sides), is_and=is_and)

    def _tested(self, node: Node) -> Tested:
        if node.type == "unary_expression":
            operator = _text(node.child_by_field_name("operator")) or _text(node)[:2]
            if operator == "!":
                there, missing = self._tested(node.named_children[-1])
                return missing, there
            places = self.glance(self._text_of(self.value(node.named_children[-1])))
            return (NONE, places) if operator == "-z" else (places, NONE)
        if node.type == "parenthesized_expression":
            return self._tested(node.named_children[0])
        if node.type == "binary_expression":
            return self._compared(node)
        return self.glance(self._text_of(self.value(node))), NONE

    def _compared(self, node: Node) -> Tested:
        left, right = node.child_by_field_name("left"), node.child_by_field_name("right")
        sign = _text(node.child_by_field_name("operator"))
        if left is None or right is None:
            return NONE, NONE
        if sign in {"&&", "||", "-a", "-o"}:
            return self.both(partial(self._tested, left), partial(self._tested, right), is_and=sign in {"&&", "-a"})
        value, against = self._text_of(self.value(left)), self.value(right)
        nothing = not against and not right.named_children
        if nothing or any(isinstance(atom, Literally) and atom.value in {"null", ""} for atom in against):
            places = self.glance(value)
            return (places, NONE) if sign == "!=" else (NONE, places)
        self.use(value)
        self.use(self._text_of(against))
        return NONE, NONE

    def _run_list(self, node: Node, given: Value) -> Value:
        left, right = node.named_children[0], node.named_children[-1]
        is_and = any(child.type == "&&" for child in node.children)
        tests = left.type in {"test_command", "negated_command", "list"} or _name(left) == "test"
        if not tests:
            return either(self.run(left, given), self.run(right, given))
        there, missing = self._condition(left, given)
        taken, other = (there, missing) if is_and else (missing, there)
        printed = self.alone(taken, other, lambda: self.run(right, given))
        self._leave(right, other)
        return printed

    def _run_if_statement(self, node: Node, given: Value) -> Value:
        conditions = node.children_by_field_name("condition")
        there, missing = NONE, NONE
        for condition in conditions:
            if condition.is_named:
                there, missing = self._condition(condition, given)
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
            there, missing = self._condition(children.pop(0), given)
        return self.alone(there, missing, lambda: either(*(self.run(child, given) for child in children)))

    def _leave(self, last: Node, known: frozenset[tuple[str | int, ...]]) -> None:
        while last.type in {"compound_statement", "list"} and last.named_children:
            last = last.named_children[-1]
        if last.type != "command" or _name(last) not in {"exit", "return"}:
            return
        status = "".join(_text(word) for word in last.children_by_field_name("argument"))
        if status not in {"", "0"}:
            for place in known:
                self.need(place)
        self.learn(known)

    def _run_for_statement(self, node: Node, given: Value) -> Value:
        values = [self.value(child) for child in node.children_by_field_name("value")]
        self.bind(_text(node.child_by_field_name("variable")), self._text_of(either(*values)))
        return self.run(node.child_by_field_name("body"), given)

    def _all(self, nodes: Sequence[Node], given: Value) -> Value:
        return either(*(self.run(node, given) for node in nodes))

    def _run_case_statement(self, node: Node, given: Value) -> Value:
        self.use(self._text_of(self.value(node.child_by_field_name("value"))))
        for child in node.named_children:
            if child.type == "case_item":
                inner = [each for each in child.named_children if each not in child.children_by_field_name("value")]
                self.alone(NONE, NONE, partial(self._all, inner, given))
        return NOTHING


def _said(node: Node) -> str:
    """What a part of a double-quoted text says."""
    return re.sub(r"\\([\\\"$`\n])", r"\1", _text(node))


def _name(node: Node) -> str:
    name = _text(node.child_by_field_name("name")) if node.type == "command" else ""
    return name.rpartition("/")[2]


def read(source: str, known: Exports | None = None) -> tuple[Trace, bool]:
    """The walk through *source*, and whether all of it can be read."""
    root = Parser(_language()).parse(source.encode("utf-8", "replace")).root_node
    reader = BashReader(known)
    reader.walk(root)
    return reader, not root.has_error

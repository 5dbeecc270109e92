"""
Words and commands of Bash, followed through tree-sitter.

Knows how a script gets at `$PIPEDREAM_STEPS`: through jq, with its text carried in variables, pipes and functions of the
script's own. What another program reads of the file is unknown.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence

from tree_sitter import Node

from pdkernel.contract import jq_syntax
from pdkernel.contract.jq_reader import JqReader
from pdkernel.contract.trace import Tested
from pdkernel.contract.values import NOTHING, At, Known, Literally, Routine, Several, Value, either

STEPS = "PIPEDREAM_STEPS"
FILE = Known("the file of steps")
_SENDERS = frozenset(
    ["curl", "wget", "http", "https", "aws", "gcloud", "echo", "printf", "tee", "mail", "sendmail", "logger"]
)
_THROUGH = frozenset(["tr", "head", "tail", "sort", "uniq", "base64", "xargs", "tac", "sed"])
_OTHERS = re.compile(r"(python|node|perl|ruby|php|awk|gawk|grep|egrep|yq|deno|bun|cut|wc|gron|fx)[\d.]*\Z")
_VALUED = frozenset({"--arg", "--argjson", "--slurpfile", "--rawfile", "--indent", "-f", "--from-file", "-L"})


def text_of(node: Node | None) -> str:
    """The source of *node*."""
    return (node.text or b"").decode("utf-8", "replace") if node is not None else ""


class BashCommands(JqReader):
    """A walk through Bash's commands; the value of a text is the value that it is the JSON of."""

    @abstractmethod
    def run(self, node: Node | None, given: Value) -> Value:
        """What *node* prints, with *given* as its input."""

    @abstractmethod
    def condition(self, node: Node | None, given: Value) -> Tested:
        """Follow a command for whether it succeeds."""

    # ── texts ──────────────────────────────────────────────────────────────────────

    def value(self, node: Node | None) -> Value:
        """What the word *node* holds; a text with more in it than one value is a text of its own."""
        if node is None:
            return NOTHING
        match node.type:
            case "word" | "number":
                return (Literally(text_of(node).replace("\\", "")),)
            case "raw_string":
                return (Literally(text_of(node)[1:-1]),)
            case "simple_expansion" | "expansion":
                return self._expanded(node)
            case "command_substitution" | "process_substitution":
                return either(*(self.run(child, NOTHING) for child in node.named_children))
            case "string" | "concatenation":
                return self._joined(node)
        for child in node.named_children:
            self.use(self.held(self.value(child)))
        return NOTHING

    def _joined(self, node: Node) -> Value:
        parts = [child for child in node.named_children if child.type != "comment"]
        if not parts:
            return (Literally(text_of(node).strip('"')),)
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
            if FILE not in value:
                self.use(self.held(value), "whole")
        return (FILE,) if any(FILE in value for value in values) else NOTHING

    def _expanded(self, node: Node) -> Value:
        names = [child for child in node.named_children if child.type in {"variable_name", "special_variable_name"}]
        found = self.scope.find(text_of(names[0])) or NOTHING if names else NOTHING
        rest = text_of(node)[2:-1].removeprefix(text_of(names[0])) if names and node.type == "expansion" else ""
        if rest.startswith((":-", "-", ":=", "=", ":+", "+")):
            self.glance(found)
            return self.handed(found)
        if rest.startswith((":?", "?")):
            for atom in found:
                if isinstance(atom, At):
                    self.need(atom.place)
        return found

    def held(self, value: Value) -> Value:
        """The value of a text that may be the file's name; the file holds `steps`."""
        return tuple(At(()) if atom == FILE else atom for atom in value if not isinstance(atom, Routine))

    # ── commands ───────────────────────────────────────────────────────────────────

    def _run_redirected_statement(self, node: Node, given: Value) -> Value:
        writes = False
        for child in node.named_children:
            if child.type == "file_redirect":
                destination = child.child_by_field_name("destination")
                value = self.value(destination)
                if "<" in text_of(child)[:2]:
                    given = self.held(value)
                elif not text_of(child).startswith(("2>", "&>")):
                    writes = True
            elif child.type == "herestring_redirect":
                given = self.held(self.value(child.named_children[0]))
            elif child.type == "heredoc_redirect":
                given = self._document(child, given)
        body = node.child_by_field_name("body")
        if body is not None and STEPS in text_of(node) and _OTHERS.match(name_of(body)):
            self.note("unknown", ())
            return NOTHING
        printed = self.run(body, given)
        if writes:
            self.use(self.held(printed), "whole")
            return NOTHING
        return printed

    def _document(self, node: Node, given: Value) -> Value:
        for child in node.named_children:
            if child.type == "heredoc_body":
                values = [self.value(part) for part in child.named_children if part.type != "heredoc_content"]
                if len(values) == 1 and len(child.named_children) == 1:
                    return self.held(values[0])
                for value in values:
                    self.use(self.held(value), "whole")
            elif child.type in {"pipeline", "command"}:
                given = self.run(child, given)
        return NOTHING

    def _run_command(self, node: Node, given: Value) -> Value:
        name = name_of(node)
        words = node.children_by_field_name("argument")
        for child in node.named_children:
            if child.type == "variable_assignment":
                self.run(child, NOTHING)
            elif child.type == "herestring_redirect":
                given = self.held(self.value(child.named_children[0]))
        if own := self.scope.find(f"{name}()"):
            return self.calls(own, [given, *map(self.value, words)])
        if name == "jq":
            return self._jq(words, given)
        if name in {"[", "[[", "test"}:
            self.condition(node, given)
            return NOTHING
        if name in {"read", "mapfile", "readarray"}:
            names = [text_of(word) for word in words if not text_of(word).startswith("-") and word.type == "word"]
            for each in names:
                self.bind(each, given if name == "read" else (Several(given),))
            return NOTHING
        values = [self.value(word) for word in words]
        if name == "cat":
            return self.held(either(*values)) if words else given
        if name in {"echo", "printf"}:
            return self._printed(words, values)
        return self._other(node, name, values, given)

    def _printed(self, words: Sequence[Node], values: Sequence[Value]) -> Value:
        told = [value for word, value in zip(words, values, strict=True) if not text_of(word).startswith("-")]
        places = [value for value in told if not all(isinstance(atom, Literally) for atom in value)]
        if len(places) == 1 and (len(told) == 1 or text_of(words[0]).strip("'\"") in {"%s", "%s\\n", "%b"}):
            return places[0]
        for value in places:
            self.use(self.held(value), "whole")
        return told[0] if len(told) == 1 else NOTHING

    def _other(self, node: Node, name: str, values: Sequence[Value], given: Value) -> Value:
        if _OTHERS.match(name):
            if any(FILE in value for value in values) or STEPS in text_of(node):
                self.note("unknown", ())
            for value in [*values, given]:
                self.use(tuple(atom for atom in self.held(value) if atom != At(())), "hands")
                if At(()) in self.held(value):
                    self.note("unknown", ())
            return NOTHING
        for value in values:
            self.use(self.held(value), "whole" if name in _SENDERS else "hands")
        if name in _THROUGH:
            return given
        self.use(self.held(given), "whole" if name in _SENDERS else "hands")
        return NOTHING

    def _jq(self, words: Sequence[Node], given: Value) -> Value:
        options = self._jq_options(words)
        if options is None:
            self.note("unknown", ())
            return NOTHING
        source, files, no_input, slurps = options
        value = self.held(either(*files)) if files else self.held(given)
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
            said = text_of(word)
            if said in {"--arg", "--argjson"} and len(waiting) > 1:
                name, value = text_of(waiting.pop(0)).strip("\"'"), self.value(waiting.pop(0))
                self.bind(f"${name}", self.held(value), new=True)
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
                        self.bind(f"${name}", (Several(self.held(taken[1])),), new=True)
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


def _said(node: Node) -> str:
    """What a part of a double-quoted text says."""
    return re.sub(r"\\([\\\"$`\n])", r"\1", text_of(node))


def name_of(node: Node) -> str:
    """The name of a command, without its folder."""
    name = text_of(node.child_by_field_name("name")) if node.type == "command" else ""
    return name.rpartition("/")[2]

"""
Steps that are written for the first version of Pipedream's workflows, and their translation.

In that version (v1, before 2022) a step was a function of `(event, steps, params, auths)` with `$end`, `$respond`, `$send` and
`$checkpoint`. Today a step is a component. What has one meaning in both is rewritten; the rest is listed with what to write.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tree_sitter import Node

from pdkernel.language.expression import javascript

OLD_VERSION = "the first version of Pipedream's workflows (v1, before 2022)"
_FUNCTIONS = javascript.FUNCTION_NODE_TYPES
_OLD_NAMES = frozenset({"$end", "$respond", "$send", "$checkpoint", "params", "auths"})
_COMPONENT_KEYS = frozenset({"steps", "$"})
_PATTERNS = frozenset({"identifier", "shorthand_property_identifier_pattern"})


@dataclass(frozen=True, slots=True)
class OldUse:
    """
    A use of v1 in a step.

    Attributes:
        name: What is used: `$end`, `params`, `(event, steps)`.
        line: The line of the code, from 1.
        instead: What to write instead.
    """

    name: str
    line: int
    instead: str


@dataclass(frozen=True, slots=True)
class ModernCode:
    """
    A step's code after its translation.

    Attributes:
        source: The code; unchanged if nothing could be rewritten.
        left: The uses of v1 that are still in it, with the lines of *source*.
    """

    source: str
    left: tuple[OldUse, ...] = ()


def find_old_uses(source: str) -> tuple[OldUse, ...]:
    """Return the uses of v1 in *source*, a Node.js step, in the order of its lines; names that the code declares itself do not count."""
    if not any(name in source for name in ("event", *_OLD_NAMES)):
        return ()
    root = javascript.parse_source(source)
    main = _find_old_function(root)
    declared = _find_declared(root, main)
    found = [OldUse(name, node.start_point[0] + 1, _describe(name, node)) for name, node in _iter_uses(root, declared)]
    if main is not None:
        names = ", ".join(_get_parameters(main) or ())
        found.append(
            OldUse(
                f"({names})",
                main.start_point[0] + 1,
                "export default defineComponent({ async run({ steps, $ }) { const event = steps.trigger.event; ... } })",
            )
        )
    first = {use.name: use for use in sorted(found, key=lambda use: -use.line)}
    return tuple(sorted(first.values(), key=lambda use: use.line))


def has_old_function(source: str) -> bool:
    """Return whether the step is a function of v1, whose arguments a run of today does not have."""
    return "event" in source and _find_old_function(javascript.parse_source(source)) is not None


def format_old_uses(uses: Iterable[OldUse]) -> str:
    """Return the lines to write instead of *uses*."""
    return "\n".join(f"line {use.line}, instead of {use.name}: {use.instead}" for use in uses)


def modernize(source: str) -> ModernCode:
    """Rewrite what is mechanical in *source*, a Node.js step of v1; any other code is returned unchanged."""
    root = javascript.parse_source(source)
    uses = find_old_uses(source)
    if not uses or root.has_error:
        return ModernCode(source, uses)
    written = _Translation(source, root).write()
    if javascript.parse_source(written).has_error:
        return ModernCode(source, uses)
    return ModernCode(written, find_old_uses(written))


def _describe(name: str, node: Node) -> str:
    text = " ".join(javascript.get_source(node).split())
    match name:
        case "$end":
            return f"return $.flow.exit{text.removeprefix('$end')}"
        case "$respond":
            return f"await $.respond{text.removeprefix('$respond')}"
        case "$send":
            return f"$.send{text.removeprefix('$send')}"
        case "params":
            return (
                f'this{text.removeprefix("params")}, with `props: {{ {_get_first_key(node)}: {{ type: "string" }} }}`'
            )
        case "auths":
            app = _get_first_key(node)
            return f'this.{app}.$auth, with `props: {{ {app}: {{ type: "app", app: "{app}" }} }}`'
    return (
        'a data store: `props: { data: { type: "data_store" } }`, `await this.data.get("checkpoint")` and '
        '`await this.data.set("checkpoint", value)`'
    )


def _get_first_key(node: Node) -> str:
    return javascript.get_member_name(node) or "NAME"


def _iter_uses(root: Node, declared: frozenset[str]) -> Iterator[tuple[str, Node]]:
    """Yield the uses of names of v1: each name with the call or the member access."""
    for node in javascript.iter_nodes(root):
        if node.type == "call_expression":
            called = node.child_by_field_name("function")
            name = javascript.get_source(called) if called is not None and called.type == "identifier" else ""
            if name in ("$end", "$respond") and name not in declared:
                yield name, node
        elif node.type in ("member_expression", "subscript_expression"):
            owner = node.child_by_field_name("object")
            name = javascript.get_source(owner) if owner is not None else ""
            if (
                owner is not None
                and owner.type == "identifier"
                and name in ("$send", "params", "auths")
                and name not in declared
            ):
                yield name, node
            elif name == "this" and javascript.get_member_name(node) == "$checkpoint":
                yield "this.$checkpoint", node
        elif (
            node.type == "identifier" and javascript.get_source(node) == "$checkpoint" and "$checkpoint" not in declared
        ):
            yield "$checkpoint", node


def _find_old_function(root: Node) -> Node | None:
    """Return the function of v1 that is the step: the default export, `module.exports`, or the only expression of the code."""
    for node in root.named_children:
        value = node.child_by_field_name("value") if node.type == "export_statement" else None
        if node.type == "export_statement" and value is None:
            value = node.child_by_field_name("declaration")
        if node.type == "expression_statement" and node.named_children:
            value = node.named_children[0]
            if value.type == "assignment_expression":
                left = value.child_by_field_name("left")
                is_export = left is not None and javascript.get_source(left) == "module.exports"
                value = value.child_by_field_name("right") if is_export else None
        while value is not None and value.type == "parenthesized_expression" and value.named_children:
            value = value.named_children[0]
        names = _get_parameters(value) if value is not None else None
        if value is None or not names or names[0] != "event":
            continue
        if len(names) > 1 or _reads_event(value):
            return value
    return None


def _get_parameters(function: Node) -> list[str] | None:
    """Return the parameters of *function*; None if it is not a function with plain names as parameters."""
    if function.type not in _FUNCTIONS:
        return None
    single = function.child_by_field_name("parameter")
    given = function.child_by_field_name("parameters")
    nodes = [single] if single is not None else list(given.named_children) if given is not None else []
    nodes = [node for node in nodes if node.type != "comment"]
    return [javascript.get_source(node) for node in nodes] if all(node.type == "identifier" for node in nodes) else None


def _reads_event(function: Node) -> bool:
    """Return whether *function* reads something of `event` that the argument of a component's `run` does not have."""
    for node in javascript.iter_nodes(function):
        owner = node.child_by_field_name("object") if node.type == "member_expression" else None
        if owner is not None and owner.type == "identifier" and javascript.get_source(owner) == "event":
            return javascript.get_member_name(node) not in _COMPONENT_KEYS
    return False


def _find_declared(root: Node, main: Node | None) -> frozenset[str]:
    """Return the names that the code declares anywhere, without the parameters of *main*."""
    found: set[str] = set()
    for node in javascript.iter_nodes(root):
        if main is not None and node == main:
            continue
        match node.type:
            case (
                "variable_declarator" | "function_declaration" | "class_declaration" | "generator_function_declaration"
            ):
                places = [node.child_by_field_name("name")]
            case "import_specifier":
                places = [node.child_by_field_name("alias") or node.child_by_field_name("name")]
            case "import_clause" | "namespace_import":
                places = [child for child in node.named_children if child.type == "identifier"]
            case "catch_clause" | "arrow_function":
                places = [node.child_by_field_name("parameter")]
            case _:
                places = []
        if node.type in _FUNCTIONS:
            places.append(node.child_by_field_name("parameters"))
        for place in places:
            if place is not None:
                found |= {
                    javascript.get_source(each) for each in javascript.iter_nodes(place) if each.type in _PATTERNS
                }
    return frozenset(found)


@dataclass
class _Translation:
    """The translation of one step: edits of its text, and the imports and props that the component needs."""

    source: str
    root: Node
    edits: list[tuple[int, int, str]] = field(default_factory=list)
    imports: dict[str, str] = field(default_factory=dict)
    props: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.main = _find_old_function(self.root)
        self.is_component = self.main is None and any(
            node.type == "export_statement" or javascript.get_source(node).startswith("module.exports")
            for node in self.root.named_children
        )
        self.declared = _find_declared(self.root, self.main)

    def write(self) -> str:
        for name, node in _iter_uses(self.root, self.declared):
            self._rewrite_use(name, node)
        if self.is_component:
            return self._cut(0, len(self._bytes))
        for node in javascript.iter_nodes(self.root):
            self._rewrite_export(node)
            self._rewrite_require(node)
        return self._write_component()

    @property
    def _bytes(self) -> bytes:
        return self.source.encode("utf-8", "surrogatepass")

    def _rewrite_use(self, name: str, node: Node) -> None:
        statement = node.parent if node.parent is not None and node.parent.type == "expression_statement" else None
        own = statement is not None and self._is_in_step(node)
        match name:
            case "$end" | "$respond":
                is_returned = (
                    node.parent is not None and node.parent.type == "return_statement" and self._is_in_step(node)
                )
                if name == "$end" and not own and not is_returned:
                    return  # a function in the step: the step has to return, too
                called = node.child_by_field_name("function")
                word = ("return " if name == "$end" else "await ") if own else ""
                self._edit(called, word + ("$.flow.exit" if name == "$end" else "$.respond"))
            case "$send":
                self._edit(node.child_by_field_name("object"), "$.send")
            case "params" | "auths" if not self.is_component and self._has_own_this(node):
                key = javascript.get_member_name(node)
                if key is None or not re.fullmatch(r"\w+", key):
                    return
                self._edit(node, f"this.{key}" if name == "params" else f"this.{key}.$auth")
                self.props[key] = '{ type: "any" }' if name == "params" else f'{{ type: "app", app: "{key}" }}'

    def _rewrite_export(self, node: Node) -> None:
        """`this.NAME = value` of v1 exports the value."""
        if node.type != "expression_statement" or not node.named_children or not self._has_own_this(node):
            return
        inner = node.named_children[0]
        left = inner.child_by_field_name("left") if inner.type == "assignment_expression" else None
        right = inner.child_by_field_name("right")
        owner = left.child_by_field_name("object") if left is not None and left.type == "member_expression" else None
        if left is None or right is None or owner is None or owner.type != "this":
            return
        key = javascript.get_member_name(left)
        if key is None or key == "$checkpoint":
            return
        self.edits.append((inner.start_byte, inner.start_byte, f"$.export({json.dumps(key)}, "))
        self.edits.append((right.end_byte, right.end_byte, ")"))

    def _rewrite_require(self, node: Node) -> None:
        """`require` does not exist in a module: its packages are imported."""
        called = node.child_by_field_name("function") if node.type == "call_expression" else None
        given = node.child_by_field_name("arguments")
        package = (
            javascript.get_string_literal(given.named_children[0])
            if given is not None and given.named_children
            else None
        )
        if (
            called is None
            or javascript.get_source(called) != "require"
            or package is None
            or "require" in self.declared
        ):
            return
        declarator = node.parent
        name = (
            declarator.child_by_field_name("name")
            if declarator is not None and declarator.type == "variable_declarator"
            else None
        )
        declaration = declarator.parent if name is not None and declarator is not None else None
        if (
            name is not None
            and name.type == "identifier"
            and declaration is not None
            and len(declaration.named_children) == 1
            and self._is_in_step(node)
        ):
            self.imports[javascript.get_source(name)] = package
            line = self._bytes.rfind(b"\n", 0, declaration.start_byte) + 1
            start = declaration.start_byte if self._bytes[line : declaration.start_byte].strip() else line
            end = declaration.end_byte
            self.edits.append((start, end + (start == line and self._bytes[end : end + 1] == b"\n"), ""))
            return
        alias = f"{re.sub(r'[^A-Za-z0-9]+', '_', package).strip('_')}_module"
        self.imports[alias] = package
        self._edit(node, alias)

    def _write_component(self) -> str:
        text = self._bytes
        statement = self.main
        while statement is not None and statement.parent is not None and statement.parent != self.root:
            statement = statement.parent
        if self.main is None or statement is None:
            above, code, below = "", self._cut(0, len(text)), ""
        else:
            above, below = self._cut(0, statement.start_byte), self._cut(statement.end_byte, len(text))
            body = self.main.child_by_field_name("body")
            assert body is not None, "a function has a body"
            if body.type == "statement_block":
                code = self._cut(body.start_byte + 1, body.end_byte - 1)
            else:
                code = f"    return {self._cut(body.start_byte, body.end_byte)};"
        lines = [f"import {name} from {json.dumps(package)};" for name, package in self.imports.items()]
        if above.strip():
            lines.append(above.strip("\n"))
        lines += [""] if lines else []
        lines.append("export default defineComponent({")
        if self.props:
            lines += ["  props: {", *(f"    {name}: {prop}," for name, prop in self.props.items()), "  },"]
        lines.append("  async run({ steps, $ }) {")
        if re.search(r"(?<![\w$.])event\b(?!\s*:)", code):
            lines.append("    const event = steps.trigger.event;")
        lines += [code.strip("\n").rstrip(), "  },", "});"]
        rest = below.strip().removeprefix(";").strip()
        return "\n".join([*lines, *([rest] if rest else [])]) + "\n"

    def _edit(self, node: Node | None, text: str) -> None:
        if node is not None:
            self.edits.append((node.start_byte, node.end_byte, text))

    def _cut(self, start: int, end: int) -> str:
        """Return the text from *start* to *end*, in bytes, with its edits; an edit inside of another one is left out."""
        text, at, parts = self._bytes, start, list[bytes]()
        for first, last, new in sorted(self.edits):
            if first < at or last > end:
                continue
            parts += [text[at:first], new.encode()]
            at = last
        return b"".join([*parts, text[at:end]]).decode("utf-8", "surrogatepass")

    def _iter_functions_above(self, node: Node) -> Iterator[Node]:
        above = node.parent
        while above is not None:
            if above.type in _FUNCTIONS:
                if above == self.main:
                    return
                yield above
            above = above.parent

    def _is_in_step(self, node: Node) -> bool:
        """Return whether *node* belongs to the step's own function, and not to a function in it."""
        above = list(self._iter_functions_above(node))
        return not above or (self.is_component and len(above) == 1 and above[0].type == "method_definition")

    def _has_own_this(self, node: Node) -> bool:
        """Return whether `this` at *node* is the component."""
        return all(each.type == "arrow_function" for each in self._iter_functions_above(node))

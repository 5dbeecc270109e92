"""
Templates: text with `{{ }}` expressions, split into literal text and expressions, and the steps that an expression names.

A JavaScript parser decides where an expression ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from tree_sitter import Node

from pdkernel.errors import ExpressionError
from pdkernel.language.expression import javascript
from pdkernel.model import JSON, MAX_PROP_BYTES

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
    """Yield the keys that an object pattern takes without a default: `a` and `b` of `{ a, b: c, d = 1 }`."""
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
    """Return whether *node* binds the plain name `steps`. The parameter of `run({ steps })` is the platform's and does not count."""
    if node.type == "variable_declarator":
        return _is_steps(node.child_by_field_name("name"))
    if node.type == "formal_parameters":
        return any(_is_steps(child) for child in node.named_children)
    return node.type == "arrow_function" and _is_steps(node.child_by_field_name("parameter"))


OPENING_BRACES = "{{"
CLOSING_BRACES = "}}"
_MAX_FAILED_CHARS = 32 * 1024
ValuePath: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Expression:
    """
    One `{{ }}`.

    Attributes:
        source: The JavaScript between the braces, with its leading and trailing blanks.
        offset: Where *source* starts in the text, in characters.
    """

    source: str
    offset: int


@dataclass(frozen=True, slots=True)
class Template:
    """A text and its parts, in order: literal text and expressions."""

    text: str
    parts: tuple[str | Expression, ...]

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """The expressions, in order."""
        return tuple(part for part in self.parts if isinstance(part, Expression))

    @property
    def sole_expression(self) -> Expression | None:
        """The expression if it is the whole text, else None. Its result then keeps its type."""
        # parity[expression-blanks]: with blanks around the braces the result is text; the platform does not document this.
        if len(self.parts) == 1 and isinstance(self.parts[0], Expression):
            return self.parts[0]
        return None


def find_closing_braces(text: str, start: int, *, unescape: Callable[[str], str] = str) -> int | None:
    """
    Return the index of the `}}` that ends the expression whose source starts at *start*, or None.

    This is the first `}}` before which the text, after *unescape*, is one expression. So objects,
    template literals and strings may contain `}}`. The search ends after a prop's size, or after as many characters that are
    not an expression: each try parses everything from *start*, so many of them would take quadratic time.
    """
    end = text.find(CLOSING_BRACES, start)
    failed_chars = 0
    while end != -1 and end - start <= MAX_PROP_BYTES and failed_chars <= _MAX_FAILED_CHARS:
        if javascript.parse_expression(unescape(text[start:end])) is not None:
            return end
        failed_chars += end - start
        end = text.find(CLOSING_BRACES, end + 1)
    return None


def parse_template(text: str) -> Template:
    """
    Split *text* into literal text and expressions.

    Raises:
        ExpressionError: A `{{` is not closed, does not contain an expression, or its expression uses `await`.
    """
    parts: list[str | Expression] = []
    position = 0
    while (opening := text.find(OPENING_BRACES, position)) != -1:
        if opening > position:
            parts.append(text[position:opening])
        start = opening + len(OPENING_BRACES)
        end = find_closing_braces(text, start)
        if end is None:
            raise build_template_error(text, start)
        source = text[start:end]
        node = javascript.parse_expression(source)
        if node is not None and javascript.has_await(node):
            raise ExpressionError(
                f"{OPENING_BRACES}{_shorten(source)}{CLOSING_BRACES} uses await. Expressions are synchronous.",
                fix="Use await in an earlier step and read the export of that step.",
            )
        parts.append(Expression(source, start))
        position = end + len(CLOSING_BRACES)
    if position < len(text):
        parts.append(text[position:])
    return Template(text, tuple(parts))


def build_template_error(text: str, start: int) -> ExpressionError:
    """Return the error for the `{{` before *start* if `find_closing_braces` found no end."""
    end = text.find(CLOSING_BRACES, start)
    if end == -1:
        return ExpressionError(
            f"{OPENING_BRACES}{_shorten(text[start:])} is not closed.", fix=f"Close it with {CLOSING_BRACES}."
        )
    if not text[start:end].strip():
        return ExpressionError(
            f"{OPENING_BRACES} {CLOSING_BRACES} is empty.", fix="Write an expression between the braces."
        )
    return ExpressionError(
        f"{OPENING_BRACES}{_shorten(text[start:end])}{CLOSING_BRACES} does not contain exactly one JavaScript expression.",
        fix="Write what could follow an equals sign, without statements and semicolons.",
    )


def add_missing_braces(value: JSON) -> JSON:
    """
    Return the value of an `any` or `object` prop with missing braces added: `{ "photos": steps.x.photos }` is JavaScript.

    Any other value is returned unchanged.
    """
    # parity[bare-javascript]: synced workflows contain such objects that read steps; any other text stays text
    if (
        not isinstance(value, str)
        or OPENING_BRACES in value
        or not value.lstrip().startswith(("{", "["))
        or not find_javascript_references(value)
    ):
        return value
    node = javascript.parse_expression(value)
    if node is None or node.type not in {"object", "array"} or javascript.has_await(node):
        return value
    return f"{OPENING_BRACES} {value.strip()} {CLOSING_BRACES}"


def iter_templates(value: JSON | Mapping[str, JSON], path: ValuePath = ()) -> Iterator[tuple[ValuePath, Template]]:
    """
    Every text in *value* that contains an expression, with its path, in order.

    Raises:
        ExpressionError: A text is not a valid template; the message starts with its path.
    """
    if isinstance(value, str):
        if OPENING_BRACES in value:
            try:
                yield path, parse_template(value)
            except ExpressionError as error:
                where = ".".join(map(str, path))
                raise ExpressionError(
                    f"{where}: {error.message}" if where else error.message, fix=error.fix, path=path
                ) from None
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from iter_templates(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from iter_templates(item, (*path, index))


def _shorten(source: str, limit: int = 60) -> str:
    line = " ".join(source.split())
    return line if len(line) <= limit else line[: limit - 3] + "..."

"""
Text with `{{ }}` in it, cut into text and expressions.

Knows where an expression ends, by asking a JavaScript grammar. Knows nothing of what one evaluates to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from pdkernel.errors import ExpressionError
from pdkernel.expression import javascript
from pdkernel.expression.references import references
from pdkernel.model import JSON

OPEN = "{{"
CLOSE = "}}"
Path: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Expression:
    """
    One `{{ }}`.

    Attributes:
        source: The JavaScript between the braces, blanks and all.
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
    def whole(self) -> Expression | None:
        """The expression, if it is all of the text: then its value keeps its type."""
        # parity[expression-blanks]: blanks around it make it text; the platform's rule for that is not documented.
        if len(self.parts) == 1 and isinstance(self.parts[0], Expression):
            return self.parts[0]
        return None


def find_end(text: str, start: int, *, read: Callable[[str], str] = str) -> int | None:
    """
    The index of the `}}` that ends the expression whose source starts at *start*, or None.

    It is the first one up to which the text, as *read* gives it, is one expression: so objects,
    template literals and strings may hold `}}`.
    """
    end = text.find(CLOSE, start)
    while end != -1:
        if javascript.expression_in(read(text[start:end])) is not None:
            return end
        end = text.find(CLOSE, end + 1)
    return None


def parse_template(text: str) -> Template:
    """
    Cut *text* into text and expressions.

    Raises:
        ExpressionError: A `{{` is never closed, holds no expression, or awaits.
    """
    parts: list[str | Expression] = []
    position = 0
    while (opening := text.find(OPEN, position)) != -1:
        if opening > position:
            parts.append(text[position:opening])
        start = opening + len(OPEN)
        end = find_end(text, start)
        if end is None:
            raise fault(text, start)
        source = text[start:end]
        node = javascript.expression_in(source)
        if node is not None and javascript.awaits(node):
            raise ExpressionError(
                f"{OPEN}{_short(source)}{CLOSE} awaits, and an expression cannot wait.",
                fix="Await it in a step above and read that step's export.",
            )
        parts.append(Expression(source, start))
        position = end + len(CLOSE)
    if position < len(text):
        parts.append(text[position:])
    return Template(text, tuple(parts))


def fault(text: str, start: int) -> ExpressionError:
    """The error for the `{{` before *start*, whose end `find_end` did not find."""
    end = text.find(CLOSE, start)
    if end == -1:
        return ExpressionError(f"{OPEN}{_short(text[start:])} is never closed.", fix=f"Close it with {CLOSE}.")
    if not text[start:end].strip():
        return ExpressionError(f"{OPEN} {CLOSE} is empty.", fix="Write an expression between the braces.")
    return ExpressionError(
        f"{OPEN}{_short(text[start:end])}{CLOSE} does not hold one JavaScript expression.",
        fix="An expression is what can stand to the right of an equals sign: no statements, no semicolon.",
    )


def braced(text: JSON) -> JSON:
    """
    The value of an `any` or `object` prop with the braces that it lacks: `{ "photos": steps.x.photos }` is JavaScript.

    Any other value, text of other kinds among it, is returned as it is.
    """
    # parity[bare-javascript]: seen in synced workflows as objects that read steps; any other text is taken as text
    if not isinstance(text, str) or OPEN in text or not text.lstrip().startswith(("{", "[")) or not references(text):
        return text
    node = javascript.expression_in(text)
    if node is None or node.type not in {"object", "array"} or javascript.awaits(node):
        return text
    return f"{OPEN} {text.strip()} {CLOSE}"


def templates_in(value: JSON | Mapping[str, JSON], path: Path = ()) -> Iterator[tuple[Path, Template]]:
    """
    Every text in *value* that holds an expression, with its path, in order.

    Raises:
        ExpressionError: One cannot be read; the message starts with the path.
    """
    if isinstance(value, str):
        if OPEN in value:
            try:
                yield path, parse_template(value)
            except ExpressionError as error:
                where = ".".join(map(str, path))
                raise ExpressionError(
                    f"{where}: {error.message}" if where else error.message, fix=error.fix, path=path
                ) from None
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from templates_in(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from templates_in(item, (*path, index))


def _short(source: str, limit: int = 60) -> str:
    line = " ".join(source.split())
    return line if len(line) <= limit else line[: limit - 3] + "..."

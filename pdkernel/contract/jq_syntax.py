r"""
The syntax of jq, as trees.

Knows jq 1.6's grammar: precedence, paths, constructions, texts with `\(...)` in them. Knows nothing of what a filter does.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

_TOKEN = re.compile(
    r"""\s+ | \#[^\n]*
      | (?P<field>\.[A-Za-z_]\w*)
      | (?P<recurse>\.\.)
      | (?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|\.\d+)
      | (?P<variable>\$(?:__loc__|[A-Za-z_]\w*(?:::\w+)*))
      | (?P<format>@[A-Za-z0-9]+)
      | (?P<name>[A-Za-z_]\w*(?:::\w+)*)
      | (?P<operator>\?//=?|//=|\|=|\+=|-=|\*=|/=|%=|==|!=|<=|>=|//|[|,()\[\]{}:;.?=<>+\-*/%])
      | (?P<text>")""",
    re.VERBOSE,
)
_BINARY = {
    "//": 3, "=": 4, "|=": 4, "+=": 4, "-=": 4, "*=": 4, "/=": 4, "%=": 4, "//=": 4, "or": 5, "and": 6,
    "==": 7, "!=": 7, "<": 7, "<=": 7, ">": 7, ">=": 7, "+": 8, "-": 8, "*": 9, "/": 9, "%": 9,
}  # fmt: skip
_RIGHT = frozenset({"//"})
MAX_DEPTH = 100


class JqError(ValueError):
    """The text is no jq filter that can be read."""


@dataclass(frozen=True, slots=True)
class Filter:
    """
    A filter.

    Attributes:
        kind: `identity`, `recurse`, `field`, `index`, `slice`, `each`, `maybe`, `literal`, `text`, `object`, `array`,
            `variable`, `format`, `call`, `pipe`, `comma`, `binary`, `negate`, `if`, `try`, `bind`, `reduce`, `define`.
        parts: What it is made of, by kind: filters, names, literals.
    """

    kind: str
    parts: tuple[Any, ...] = ()


IDENTITY = Filter("identity")


def parse(text: str) -> Filter:
    """
    Read *text*.

    Raises:
        JqError: It is no filter.
    """
    parser = _Parser(text)
    found = parser.pipe()
    if parser.kind:
        raise JqError(f"{parser.word!r} is not expected.")
    return found


class _Parser:
    def __init__(self, text: str, start: int = 0) -> None:
        self.text = text
        self.end = start
        self.depth = 0
        self.kind = ""
        self.word = ""
        self.step()

    def step(self) -> str:
        """Go to the next word; the one that it was on."""
        before = self.word
        while True:
            if self.end >= len(self.text):
                self.kind = self.word = ""
                return before
            match = _TOKEN.match(self.text, self.end)
            if match is None:
                raise JqError(f"{self.text[self.end]!r} is not expected.")
            self.end = match.end()
            if match.lastgroup is not None:
                self.kind, self.word = match.lastgroup, match[0]
                return before

    def takes(self, word: str) -> bool:
        """Go on if the next word is *word*."""
        if self.word != word or self.kind == "text":
            return False
        self.step()
        return True

    def expect(self, word: str) -> None:
        """Go on, over *word*."""
        if not self.takes(word):
            raise JqError(f"{word!r} is expected, not {self.word!r}.")

    def pipe(self) -> Filter:
        """Filters one after the other."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise JqError("It is nested too deeply.")
        try:
            if self.takes("def"):
                return self._definition()
            left = self._comma()
            if self.takes("as"):
                patterns = [self._pattern()]
                while self.takes("?//"):
                    patterns.append(self._pattern())
                self.expect("|")
                return Filter("bind", (left, tuple(patterns), self.pipe()))
            return Filter("pipe", (left, self.pipe())) if self.takes("|") else left
        finally:
            self.depth -= 1

    def _definition(self) -> Filter:
        name, parameters = self.step(), []
        if self.takes("("):
            parameters.append(self.step())
            while self.takes(";"):
                parameters.append(self.step())
            self.expect(")")
        self.expect(":")
        body = self.pipe()
        self.expect(";")
        return Filter("define", (name, tuple(parameters), body, self.pipe()))

    def _comma(self) -> Filter:
        left = self._binary(0)
        while self.takes(","):
            left = Filter("comma", (left, self._binary(0)))
        return left

    def _binary(self, least: int) -> Filter:
        left = self._postfix()
        while self.kind in {"operator", "name"} and (power := _BINARY.get(self.word, 0)) > least:
            sign = self.step()
            left = Filter("binary", (sign, left, self._binary(power - (sign in _RIGHT))))
        return left

    def _postfix(self) -> Filter:
        found = self._term()
        while True:
            if self.kind == "field":
                found = Filter("field", (found, self.step()[1:]))
            elif self.word == "." and self.kind == "operator":
                self.step()
                if self.kind == "text":
                    found = Filter("index", (found, self._text()))
                elif self.word != "[":
                    raise JqError("A key is expected after the dot.")
            elif self.word == "[":
                found = self._bracket(found)
            elif self.takes("?"):
                found = Filter("maybe", (found,))
            else:
                return found

    def _bracket(self, owner: Filter) -> Filter:
        self.expect("[")
        if self.takes("]"):
            return Filter("each", (owner,))
        if self.takes(":"):
            self.pipe()
            self.expect("]")
            return Filter("slice", (owner,))
        key = self.pipe()
        if self.takes(":"):
            if self.word != "]":
                self.pipe()
            self.expect("]")
            return Filter("slice", (owner,))
        self.expect("]")
        return Filter("index", (owner, key))

    def _term(self) -> Filter:
        kind, word = self.kind, self.word
        if kind == "text":
            return self._text()
        if kind == "number":
            self.step()
            return Filter("literal", (float(word) if "." in word or "e" in word.lower() else int(word),))
        if kind == "field":
            self.step()
            return Filter("field", (IDENTITY, word[1:]))
        if kind == "recurse":
            self.step()
            return Filter("recurse")
        if kind == "variable":
            self.step()
            return Filter("variable", (word[1:],))
        if kind == "format":
            self.step()
            return self._text(word) if self.kind == "text" else Filter("format", (word,))
        if kind == "name":
            return self._word()
        return self._sign()

    def _sign(self) -> Filter:
        if self.takes("."):
            if self.kind == "text":
                return Filter("index", (IDENTITY, self._text()))
            return IDENTITY
        if self.takes("("):
            found = self.pipe()
            self.expect(")")
            return found
        if self.takes("-"):
            return Filter("negate", (self._postfix(),))
        if self.takes("["):
            if self.takes("]"):
                return Filter("array", ())
            found = Filter("array", (self.pipe(),))
            self.expect("]")
            return found
        if self.takes("{"):
            return self._object()
        raise JqError(f"{self.word or 'the end'!r} is not expected.")

    def _word(self) -> Filter:
        if self.takes("if"):
            return self._condition()
        if self.takes("try"):
            body = self._postfix()
            return Filter("try", (body, self._postfix() if self.takes("catch") else None))
        if self.word in {"reduce", "foreach"}:
            self.step()
            source = self._postfix()
            self.expect("as")
            pattern = self._pattern()
            self.expect("(")
            parts = [self.pipe()]
            while self.takes(";"):
                parts.append(self.pipe())
            self.expect(")")
            return Filter("reduce", (source, pattern, tuple(parts)))
        name = self.step()
        if name in {"null", "true", "false"}:
            return Filter("literal", ({"null": None, "true": True, "false": False}[name],))
        arguments: list[Filter] = []
        if self.takes("("):
            arguments.append(self.pipe())
            while self.takes(";"):
                arguments.append(self.pipe())
            self.expect(")")
        return Filter("call", (name, tuple(arguments)))

    def _condition(self) -> Filter:
        test = self.pipe()
        self.expect("then")
        then = self.pipe()
        if self.takes("elif"):
            return Filter("if", (test, then, self._condition()))
        other = self.pipe() if self.takes("else") else IDENTITY
        self.expect("end")
        return Filter("if", (test, then, other))

    def _object(self) -> Filter:
        pairs: list[tuple[Filter, Filter | None]] = []
        while not self.takes("}"):
            key: Filter
            if self.kind == "text":
                key = self._text()
            elif self.takes("("):
                key = self.pipe()
                self.expect(")")
            elif self.kind == "variable":
                name = self.step()[1:]
                pairs.append((Filter("literal", (name,)), Filter("variable", (name,))))
                self.takes(",")
                continue
            else:
                key = Filter("literal", (self.step(),))
            value = self._object_value() if self.takes(":") else None
            pairs.append((key, value))
            if not self.takes(",") and self.word != "}":
                raise JqError(f"{self.word or 'the end'!r} is not expected in an object.")
        return Filter("object", tuple(pairs))

    def _object_value(self) -> Filter:
        left = self._binary(0)
        while self.takes("|"):
            left = Filter("pipe", (left, self._binary(0)))
        return left

    def _pattern(self) -> Filter:
        """`$x`, `[$x, $y]` or `{a: $x, $b}`, as a filter whose variables are bound."""
        found = self._postfix()
        if found.kind not in {"variable", "array", "object"}:
            raise JqError("A name like $x is expected after `as`.")
        return found

    def _text(self, written_as: str = "") -> Filter:
        """The text that starts at the quote just read; texts with filters in them keep those."""
        letters: list[str] = []
        inner: list[Filter] = []
        while self.end < len(self.text):
            letter = self.text[self.end]
            self.end += 1
            if letter == '"':
                self.step()
                said = "".join(letters)
                if inner or written_as:
                    return Filter("text", tuple(inner))
                return Filter("literal", (_unescaped(said),))
            if letter == "\\" and self.text[self.end : self.end + 1] == "(":
                below = _Parser(self.text, self.end + 1)
                inner.append(below.pipe())
                if below.word != ")":
                    raise JqError("A \\( is never closed.")
                self.end = below.end
            elif letter == "\\":
                letters.append(letter + self.text[self.end : self.end + 1])
                self.end += 1
            else:
                letters.append(letter)
        raise JqError("A text is never closed.")


def _unescaped(said: str) -> str:
    try:
        return str(json.loads(f'"{said}"', strict=False))
    except ValueError:
        return said

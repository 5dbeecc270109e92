"""
`{{ }}` in YAML, hidden from YAML and put back.

Knows the three ways in which an expression stands in YAML: bare, in double and in single quotes.
In quotes YAML's own escapes count, so that a line copied from `workflow.yaml` means the same here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from pdkernel.errors import DefinitionError
from pdkernel.expression import find_closing_braces
from pdkernel.expression.template import CLOSING_BRACES, OPENING_BRACES, build_template_error

_PRIVATE_USE_CODES = range(0xE000, 0xF8FF)
"""Characters that Unicode gives no meaning to; YAML takes them as text."""


@dataclass(frozen=True)
class TokenizedYaml:
    """
    YAML with its expressions hidden.

    Attributes:
        text: The YAML to parse.
        sources: What each stand-in hides: the braces and all between them, as written.
        errors: Stand-ins for a `{{` that cannot be read, and why.
        dropped_breaks: Line breaks that each line of *text* (first is 1) has lost.
    """

    text: str
    sources: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[str, DefinitionError] = field(default_factory=dict)
    dropped_breaks: Mapping[int, int] = field(default_factory=dict)
    token_pattern: re.Pattern[str] | None = None

    @classmethod
    def without_expressions(cls, text: str) -> Self:
        """*text* as it is."""
        return cls(text)

    @classmethod
    def tokenize(cls, text: str) -> Self:
        """Hide every expression of *text*."""
        if OPENING_BRACES not in text:
            return cls(text)
        left, right = (chr(code) for code in _unused(text))
        hidden: dict[str, str] = {}
        faults: dict[str, DefinitionError] = {}
        dropped: dict[int, int] = {}
        parts: list[str] = []
        position = 0
        line = 1
        while (opening := text.find(OPENING_BRACES, position)) != -1:
            parts.append(text[position:opening])
            line += text.count("\n", position, opening)
            if _in_comment(text, opening):
                parts.append(OPENING_BRACES)
                position = opening + len(OPENING_BRACES)
                continue
            stand_in = f"{left}{len(hidden) + len(faults)}{right}"
            start = opening + len(OPENING_BRACES)
            end = _find_end(text, start)
            if end is None:
                faults[stand_in] = build_template_error(text, start)
                position = start
            else:
                position = end + len(CLOSING_BRACES)
                hidden[stand_in] = text[opening:position]
                if breaks := text.count("\n", opening, position):
                    dropped[line] = dropped.get(line, 0) + breaks
            parts.append(stand_in)
        parts.append(text[position:])
        pattern = re.compile(f"{left}\\d+{right}")
        return cls("".join(parts), hidden, faults, dropped, pattern)

    def original_line(self, line: int) -> int:
        """The line, in the text before hiding, of line *line* after it."""
        return line + sum(breaks for at, breaks in self.dropped_breaks.items() if at < line)

    def restore(self, text: str, *, style: str | None, line: int) -> str | DefinitionError:
        """*text*, a scalar that YAML has read in *style* at *line*, with its expressions; or why one cannot be read."""
        if self.token_pattern is None:
            return text
        for stand_in in self.token_pattern.findall(text):
            if stand_in in self.errors:
                return self.errors[stand_in]
        indent = self._block_indent(text, line) if style in {"|", ">"} else 0
        return self.token_pattern.sub(lambda match: _as_read(self.sources[match[0]], style, indent), text)

    def _block_indent(self, value: str, line: int) -> int:
        """How far the block whose `|` or `>` stands in *line* is indented, from the first line that says anything."""
        below = self.text.split("\n")[line:]
        raw = next((text for text in below if text.strip()), "")
        read = next((text for text in value.split("\n") if text.strip()), "")
        return len(raw) - len(read) if raw.endswith(read) else len(raw) - len(raw.lstrip())


def _as_read(source: str, style: str | None, indent: int) -> str:
    if style in {'"', "'"}:
        return _unquoted(source, style)
    if indent:
        first, *rest = source.split("\n")
        return "\n".join([first, *(text[indent:] if not text[:indent].strip() else text for text in rest)])
    return source


def _unquoted(source: str, quote: str) -> str:
    """*source*, which stands in quotes, as YAML reads it; as it is if it could not stand there."""
    from ruamel.yaml import YAML  # takes a third of the extension's load time: only who reads YAML pays it
    from ruamel.yaml.error import YAMLError

    try:
        value = YAML(typ="safe", pure=True).load(f"{quote}{source}{quote}")
    except YAMLError:
        return source
    return value if isinstance(value, str) else source


def _find_end(text: str, start: int) -> int | None:
    # Bare first; then as it would read in quotes, where `\"` and `''` stand for one mark.
    for read in (str, lambda source: _unquoted(source, '"'), lambda source: _unquoted(source, "'")):
        end = find_closing_braces(text, start, unescape=read)
        if end is not None:
            return end
    return None


def _in_comment(text: str, position: int) -> bool:
    """Whether only blanks stand between the line's start and a `#` that comes before *position*."""
    start = text.rfind("\n", 0, position) + 1
    return text[start:position].lstrip().startswith("#")


def _unused(text: str) -> tuple[int, int]:
    used = set(text)
    free = (code for code in _PRIVATE_USE_CODES if chr(code) not in used)
    return next(free), next(free)

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
from pdkernel.expression import find_end
from pdkernel.expression.template import CLOSE, OPEN, fault

_PRIVATE = range(0xE000, 0xF8FF)
"""Characters that Unicode gives no meaning to; YAML takes them as text."""


@dataclass(frozen=True)
class Embedded:
    """
    YAML with its expressions hidden.

    Attributes:
        text: The YAML to parse.
        hidden: What each stand-in hides: the braces and all between them, as written.
        faults: Stand-ins for a `{{` that cannot be read, and why.
        dropped: Line breaks that each line of *text* (first is 1) has lost.
    """

    text: str
    hidden: Mapping[str, str] = field(default_factory=dict)
    faults: Mapping[str, DefinitionError] = field(default_factory=dict)
    dropped: Mapping[int, int] = field(default_factory=dict)
    pattern: re.Pattern[str] | None = None

    @classmethod
    def none(cls, text: str) -> Self:
        """*text* as it is."""
        return cls(text)

    @classmethod
    def find(cls, text: str) -> Self:
        """Hide every expression of *text*."""
        if OPEN not in text:
            return cls(text)
        left, right = (chr(code) for code in _unused(text))
        hidden: dict[str, str] = {}
        faults: dict[str, DefinitionError] = {}
        dropped: dict[int, int] = {}
        parts: list[str] = []
        position = 0
        line = 1
        while (opening := text.find(OPEN, position)) != -1:
            parts.append(text[position:opening])
            line += text.count("\n", position, opening)
            if _in_comment(text, opening):
                parts.append(OPEN)
                position = opening + len(OPEN)
                continue
            stand_in = f"{left}{len(hidden) + len(faults)}{right}"
            start = opening + len(OPEN)
            end = _find_end(text, start)
            if end is None:
                faults[stand_in] = fault(text, start)
                position = start
            else:
                position = end + len(CLOSE)
                hidden[stand_in] = text[opening:position]
                if breaks := text.count("\n", opening, position):
                    dropped[line] = dropped.get(line, 0) + breaks
            parts.append(stand_in)
        parts.append(text[position:])
        pattern = re.compile(f"{left}\\d+{right}")
        return cls("".join(parts), hidden, faults, dropped, pattern)

    def original_line(self, line: int) -> int:
        """The line, in the text before hiding, of line *line* after it."""
        return line + sum(breaks for at, breaks in self.dropped.items() if at < line)

    def restore(self, text: str, *, style: str | None, line: int) -> str | DefinitionError:
        """*text*, a scalar that YAML has read in *style* at *line*, with its expressions; or why one cannot be read."""
        if self.pattern is None:
            return text
        for stand_in in self.pattern.findall(text):
            if stand_in in self.faults:
                return self.faults[stand_in]
        indent = self._block_indent(text, line) if style in {"|", ">"} else 0
        return self.pattern.sub(lambda match: _as_read(self.hidden[match[0]], style, indent), text)

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
        end = find_end(text, start, read=read)
        if end is not None:
            return end
    return None


def _in_comment(text: str, position: int) -> bool:
    """Whether only blanks stand between the line's start and a `#` that comes before *position*."""
    start = text.rfind("\n", 0, position) + 1
    return text[start:position].lstrip().startswith("#")


def _unused(text: str) -> tuple[int, int]:
    used = set(text)
    free = (code for code in _PRIVATE if chr(code) not in used)
    return next(free), next(free)

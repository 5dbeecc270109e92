"""
`{{ }}` on a `%%pdstep` line, hidden from the shell's quoting and put back.

Knows that a bare expression keeps its own quotes and blanks, while in quotes the shell's rules count.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from pdkernel.expression import find_closing_braces
from pdkernel.expression.template import CLOSING_BRACES, OPENING_BRACES

_LEFT, _RIGHT = "\ue000", "\ue001"
_STAND_IN = re.compile(f"{_LEFT}\\d+{_RIGHT}")
_QUOTED = re.compile(r"\\.|'[^']*'|\"(?:\\.|[^\"\\])*\"")


@dataclass(frozen=True)
class TokenizedLine:
    """A line to split into words, and what each stand-in in it hides."""

    text: str
    expressions: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def tokenize_unquoted(cls, line: str) -> Self:
        """Hide every expression of *line* that does not stand in quotes."""
        if OPENING_BRACES not in line or _LEFT in line:
            return cls(line)
        parts: list[str] = []
        expressions: dict[str, str] = {}
        position = 0
        while position < len(line):
            end = (
                find_closing_braces(line, position + len(OPENING_BRACES))
                if line.startswith(OPENING_BRACES, position)
                else None
            )
            if end is not None:
                stand_in = f"{_LEFT}{len(expressions)}{_RIGHT}"
                expressions[stand_in] = line[position : end + len(CLOSING_BRACES)]
                parts.append(stand_in)
                position = end + len(CLOSING_BRACES)
                continue
            quoted = _QUOTED.match(line, position)
            stop = quoted.end() if quoted else position + 1
            parts.append(line[position:stop])
            position = stop
        return cls("".join(parts), expressions)

    def restore(self, word: str) -> str:
        """*word* with its expressions."""
        return _STAND_IN.sub(lambda match: self.expressions.get(match[0], match[0]), word)

"""
The position of the directive in a cell, and the cell's source as written.

IPython recognizes a cell magic only in a cell's first line. It passes a body that its clean-up has changed (whitespace
lines emptied, prompts removed), without the lines above. A step's code must stay byte for byte as written, and its line
numbers must be the cell's. The input transformer therefore runs before all others, moves the directive above leading
comments and blank lines, and stores the whole source.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass

DIRECTIVE_PATTERN = re.compile(
    r"(?P<above>(?:[ \t]*(?:(?:\#|//)[^\n]*)?\n)*)"
    r"[ \t]*(?P<whole>%%(?P<magic>pdstep|pdworkflow)(?:[ \t]+(?P<line>[^\n]*))?)(?P<body>\n.*)?\Z",
    re.DOTALL,
)
MAX_CACHED_CELLS = 32
"""Number of stored sources: a running cell needs one, the others are for cells checked in between."""


@dataclass(frozen=True, slots=True)
class DirectiveCell:
    """
    The parts of a cell with a directive.

    Attributes:
        magic: `pdstep` or `pdworkflow`.
        line: The text after the magic's name, without surrounding blanks.
        body: The text below the directive's line, unchanged.
        preamble: Comment and blank lines above the directive's line, unchanged.
        start: Offset of the directive's first character.
        end: Offset of the end of the directive's line, without the newline.
    """

    magic: str
    line: str
    body: str
    preamble: str
    start: int
    end: int


def find_directive(text: str) -> DirectiveCell | None:
    """The directive of a cell's *text*, below comment (`#`, `//`) and blank lines only; else None."""
    found = DIRECTIVE_PATTERN.match(text)
    if found is None:
        return None
    return DirectiveCell(
        magic=found["magic"],
        line=(found["line"] or "").strip(),
        body=(found["body"] or "")[1:],
        preamble=found["above"],
        start=found.start("whole"),
        end=found.end("whole"),
    )


class CellSourceCache:
    """
    The sources of the latest cells, by the arguments of their magic calls.

    Two cells that differ only above the directive have the same key. The later cell wins: a cell is transformed directly
    before it runs.
    """

    def __init__(self) -> None:
        self._texts: OrderedDict[tuple[str, str, str], str] = OrderedDict()

    def store(self, cell: DirectiveCell, text: str) -> None:
        """Store *text* for the magic call of *cell*."""
        key = (cell.magic, cell.line, build_magic_body(cell))
        self._texts[key] = text
        self._texts.move_to_end(key)
        while len(self._texts) > MAX_CACHED_CELLS:
            self._texts.popitem(last=False)

    def get_source(self, magic: str, line: str, body: str) -> str:
        """
        The source of the cell that became the call `%%magic line` with *body*.

        For a direct call (`ip.run_cell_magic(...)`) the source is built from the arguments.
        """
        return self._texts.get((magic, line, body), f"%%{magic} {line}".rstrip() + "\n" + body)


class DirectiveTransformer:
    """The input transformer: turns a cell with a directive into a call of its magic."""

    has_side_effects = True
    """IPython does not call the transformer when it checks whether a cell is complete."""

    def __init__(self, texts: CellSourceCache) -> None:
        self.texts = texts

    def __call__(self, lines: list[str]) -> list[str]:
        """The magic call for a cell with a directive; other cells unchanged."""
        text = "".join(lines)
        cell = find_directive(text)
        if cell is None:
            return lines
        self.texts.store(cell, text)
        return [f"get_ipython().run_cell_magic({cell.magic!r}, {cell.line!r}, {build_magic_body(cell)!r})\n"]


def build_magic_body(cell: DirectiveCell) -> str:
    """The body argument of the magic call: a newline if empty, because IPython rejects an empty body itself."""
    return cell.body or "\n"


CELL_SOURCES = CellSourceCache()
"""One cache per process, as each kernel has one shell."""


def get_cell_source(magic: str, line: str, body: str) -> str:
    """The source, as written, of the cell that IPython passed to a magic as *line* and *body*."""
    return CELL_SOURCES.get_source(magic, line, body)

"""
Where the directive stands in a cell, and the cell as its author wrote it.

IPython takes a cell magic only from a cell's first line, hands it a body that has been through its
clean-up (whitespace-only lines emptied, prompts removed), and tells it nothing of the lines above.
A step's code must stay byte for byte what the author wrote, and its line numbers must be the
cell's; so the input transformer here runs before all others, lifts the directive above leading
comments and blank lines, and remembers the whole text. Knows no option of any directive.
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
"""Texts kept; one is enough for a cell that runs, the rest is for cells checked in between."""


@dataclass(frozen=True, slots=True)
class DirectiveCell:
    """
    A cell with a directive, taken apart.

    Attributes:
        magic: `pdstep` or `pdworkflow`.
        line: What follows the magic's name, without surrounding blanks.
        body: Everything below the directive's line, exactly.
        preamble: Comment and blank lines above the directive's line, exactly.
        start: Offset in the text of the directive's first character.
        end: Offset of the end of the directive's line, its newline not included.
    """

    magic: str
    line: str
    body: str
    preamble: str
    start: int
    end: int


def find_directive(text: str) -> DirectiveCell | None:
    """The directive of a cell's *text*, below comment (`#`, `//`) and blank lines only; None without one."""
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
    The texts of the cells that were handed to IPython last, by what the magic is given of them.

    Two cells that differ only above the directive have one key; the later one wins, which is the
    one that runs, because a cell is transformed directly before it runs.
    """

    def __init__(self) -> None:
        self._texts: OrderedDict[tuple[str, str, str], str] = OrderedDict()

    def store(self, cell: DirectiveCell, text: str) -> None:
        """Keep *text* for the magic call that *cell* will become."""
        key = (cell.magic, cell.line, build_magic_body(cell))
        self._texts[key] = text
        self._texts.move_to_end(key)
        while len(self._texts) > MAX_CACHED_CELLS:
            self._texts.popitem(last=False)

    def get_source(self, magic: str, line: str, body: str) -> str:
        """
        The whole cell that became the call `%%magic line` with *body*.

        A call that did not come through a cell (`ip.run_cell_magic(...)`) is put together again.
        """
        return self._texts.get((magic, line, body), f"%%{magic} {line}".rstrip() + "\n" + body)


class DirectiveTransformer:
    """The input transformer: a cell with a directive becomes the call of its magic, whatever stands above."""

    has_side_effects = True
    """Keeps IPython from calling it to ask whether a cell is complete, which a terminal does at each Enter."""

    def __init__(self, texts: CellSourceCache) -> None:
        self.texts = texts

    def __call__(self, lines: list[str]) -> list[str]:
        """The cell's lines; one line of Python for a cell with a directive, all others untouched."""
        text = "".join(lines)
        cell = find_directive(text)
        if cell is None:
            return lines
        self.texts.store(cell, text)
        return [f"get_ipython().run_cell_magic({cell.magic!r}, {cell.line!r}, {build_magic_body(cell)!r})\n"]


def build_magic_body(cell: DirectiveCell) -> str:
    """The body as the magic is called with it: IPython refuses an empty one before the magic could say what is wrong."""
    return cell.body or "\n"


CELL_SOURCES = CellSourceCache()
"""One a process, as there is one shell a kernel."""


def get_cell_source(magic: str, line: str, body: str) -> str:
    """The whole text, as written, of the cell that IPython handed to a magic as *line* and *body*."""
    return CELL_SOURCES.get_source(magic, line, body)

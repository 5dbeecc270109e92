"""Finds the cells that set the outbound policy (`%pdegress`), so that commands obey them without running the notebook."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

from pdkernel.egress import PolicyCell
from pdkernel.notebook.cells import NotebookCell, enumerate_cells

_IPYTHON_CELL_MAGICS = ("%%capture", "%%prun", "%%time", "%%timeit")
"""Cell magics whose body IPython runs; the body of any other cell magic is a step, a file or another language."""
_MAGIC = re.compile(
    r"^(?P<indent>[^\S\n]*)"
    r"(?:(?P<magic>%pdegress\b)|(?P<automagic>pdegress(?=[^\S\n]+[a-z-]+(?:=|[^\S\n]|$)))|(?P<call>.*\bpdegress\b))"
    r"(?P<text>.*)$",
    re.MULTILINE,
)
_CALL = re.compile(r"=\s*%pdegress\b|run_(?:line_)?magic\(")
_STRINGS = re.compile(
    r"#[^\n]*|(?P<long>'''(?:\\.|[^\\])*?'''|\"\"\"(?:\\.|[^\\])*?\"\"\")"
    r"|'(?:\\[^\n]|[^'\\\n])*'|\"(?:\\[^\n]|[^\"\\\n])*\"",
    re.DOTALL,
)


def find_policy_cells(cells: Iterable[NotebookCell], folder: Path) -> Iterator[PolicyCell]:
    """
    Yield the outbound policies that *cells* set, in order.

    A policy whose line is indented, or that a call of IPython sets, depends on code: its text is None.

    Args:
        cells: All cells of a notebook.
        folder: The notebook's folder.
    """
    for index, cell in enumerate_cells(cells):
        if cell.type != "code" or "pdegress" not in cell.source:
            continue
        source = cell.source.lstrip()
        if source.startswith("%%") and not source.startswith(_IPYTHON_CELL_MAGICS):
            continue
        for text in _find_policies(cell.source):
            yield PolicyCell(index + 1, text, folder)


def _find_policies(source: str) -> Iterator[str | None]:
    """The policies that the lines of *source* set; None for one that depends on code."""
    strings = [found.span() for found in _STRINGS.finditer(source) if found["long"]]
    for line in _MAGIC.finditer(source):
        if any(begin < line.start("indent") < end for begin, end in strings):
            continue
        if line["call"] is not None:
            if _CALL.search(line[0].partition("#")[0]):
                yield None
            continue
        if text := _join_words(line["text"]):
            yield None if line["indent"] else text


def _join_words(text: str) -> str:
    """The arguments of the magic as it reads them: words without the quotes around blanks."""
    lexer = shlex.shlex(text, posix=False)
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        words = list(lexer)
    except ValueError:  # a quote without an end
        words = text.split()
    return " ".join(word[1:-1] if len(word) > 1 and word[0] == word[-1] in ("'", '"') else word for word in words)

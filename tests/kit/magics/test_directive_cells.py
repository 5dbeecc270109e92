"""Directives below comments, and the unchanged text of a cell."""

from __future__ import annotations

from typing import Any

import pytest

import pdkernel
from pdkernel.kit.magics.directive_cells import (
    MAX_CACHED_CELLS,
    CellSourceCache,
    DirectiveTransformer,
    find_directive,
    get_cell_source,
)


@pytest.mark.parametrize(
    ("text", "magic", "line", "body", "above"),
    [
        ("%%pdstep a\nx\n", "pdstep", "a", "x\n", ""),
        ("%%pdstep", "pdstep", "", "", ""),
        ("%%pdstep\ta  \n", "pdstep", "a", "", ""),
        ("# one\n\n  // two\n%%pdstep a --lang node\n\nx", "pdstep", "a --lang node", "\nx", "# one\n\n  // two\n"),
        ("  %%pdstep a\n  x", "pdstep", "a", "  x", ""),
        ("\n%%pdworkflow\nname: x", "pdworkflow", "", "name: x", "\n"),
    ],
)
def test_directive_is_found(text: str, magic: str, line: str, body: str, above: str) -> None:
    """A directive is on the first line that is neither a comment nor blank."""
    cell = find_directive(text)

    assert cell is not None
    assert (cell.magic, cell.line, cell.body, cell.preamble) == (magic, line, body, above)
    assert text[cell.start : cell.end].startswith(f"%%{magic}")


@pytest.mark.parametrize("text", ["", "x = 1\n%%pdstep a", "%%pdstepx", "%%pdstep?", "%pdstep a", "# only"])
def test_no_directive(text: str) -> None:
    """Code above the magic, another magic's name and a question mark after the name are not directives."""
    assert find_directive(text) is None


def test_cell_below_a_comment_runs(shell: Any) -> None:
    """A comment above the directive does not turn the cell into Python."""
    calls: list[tuple[str, str]] = []
    shell.register_magic_function(lambda line, cell: calls.append((line, cell)), "cell", "pdstep")
    text = "# what it does\n%%pdstep build --lang node\nexport default 1\n"

    result = shell.run_cell(text)

    assert result.success
    assert calls == [("build --lang node", "export default 1\n")]
    assert get_cell_source("pdstep", *calls[0]) == text


def test_code_is_not_cleaned_up(shell: Any) -> None:
    """Blanks on empty lines, prompts and a common indent reach the step unchanged."""
    calls: list[str] = []
    shell.register_magic_function(lambda line, cell: calls.append(cell), "cell", "pdstep")
    body = "  `a\n   \n  b`\n>>> x\nIn [1]: y\n"

    shell.run_cell("\n%%pdstep build\n" + body)

    assert calls == [body]


def test_other_cells_are_unchanged(shell: Any) -> None:
    """Lines of other cells pass unchanged."""
    lines = ["# c\n", "%%bash\n", "ls\n"]

    assert DirectiveTransformer(CellSourceCache())(lines) is lines


def test_a_second_load_changes_nothing(shell: Any) -> None:
    """A second load adds no second transformer or matcher; unloading removes both."""
    before = (len(shell.input_transformers_cleanup), len(shell.Completer.custom_matchers))

    pdkernel.load_ipython_extension(shell)
    twice = (len(shell.input_transformers_cleanup), len(shell.Completer.custom_matchers))
    pdkernel.unload_ipython_extension(shell)

    assert twice == before
    assert len(shell.input_transformers_cleanup) == before[0] - 1
    assert len(shell.Completer.custom_matchers) == before[1] - 1


def test_a_call_by_a_program_gets_a_cell() -> None:
    """A magic called by a program gets the equivalent cell."""
    assert CellSourceCache().get_source("pdworkflow", "", "name: x\n") == "%%pdworkflow\nname: x\n"


def test_only_the_last_cells_are_kept() -> None:
    """Stored texts do not accumulate in a long session."""
    texts = CellSourceCache()
    lift = DirectiveTransformer(texts)
    for number in range(MAX_CACHED_CELLS + 1):
        lift(["# c\n", f"%%pdstep s{number}\n", "x"])

    assert texts.get_source("pdstep", "s0", "x") == "%%pdstep s0\nx"
    assert texts.get_source("pdstep", "s1", "x") == "# c\n%%pdstep s1\nx"
    lift(["# again\n", "%%pdstep s1\n", "x"])
    lift(["# c\n", "%%pdstep last\n", "x"])
    assert texts.get_source("pdstep", "s1", "x") == "# again\n%%pdstep s1\nx"

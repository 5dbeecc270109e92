"""Outbound policies that the cells of a notebook set."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdkernel.files.notebook import NotebookCell, find_policy_cells

FOLDER = Path("/notebooks")


def find(*sources: str) -> list[tuple[int, str | None]]:
    """The numbers and texts of the policy cells among code cells."""
    cells = find_policy_cells([NotebookCell(source) for source in sources], FOLDER)
    return [(cell.number, cell.text) for cell in cells]


@pytest.mark.parametrize(
    ("source", "texts"),
    [
        ("%pdegress stand-in=slack", ["stand-in=slack"]),
        ("%pduser ada\n%pdegress   deny\n", ["deny"]),
        ("%pdegress 'replay=my calls.jsonl'", ["replay=my calls.jsonl"]),
        ("%pdegress live via=http://proxy.test:1", ["live via=http://proxy.test:1"]),
        ("pdegress deny", ["deny"]),
        ("%%capture\n%pdegress deny", ["deny"]),
        ("%pdegress deny\nx = 1\n%pdegress live", ["deny", "live"]),
        ("%pdegress", []),
        ("pdegress = 3", []),
        ("# %pdegress live", []),
        ('"""\n%pdegress live\n"""', []),
        ("print('%pdegress live')", []),
        ("s = 'it\\'s'\n%pdegress deny", ["deny"]),
        ("!echo don't\n%pdegress deny", ["deny"]),
        ("%%pdstep a\n%pdegress live", []),
        ("%%bash\n%pdegress live", []),
        ("%%writefile a.py\n%pdegress live", []),
    ],
)
def test_the_lines_that_set_a_policy_are_found(source: str, texts: list[str]) -> None:
    """A line of IPython sets the policy; text in a string, a comment, a step or another language does not."""
    assert [text for _, text in find(source)] == texts


@pytest.mark.parametrize(
    "source",
    ["if True:\n    %pdegress live", "get_ipython().run_line_magic('pdegress', 'live')", "shown = %pdegress live"],
)
def test_a_policy_that_depends_on_code_has_no_text(source: str) -> None:
    """A command does not run the cell, so that it cannot know whether the line runs."""
    assert find(source) == [(1, None)]


def test_cells_are_numbered_by_their_position() -> None:
    """The number is the position among all cells of the notebook, from 1."""
    cells = [NotebookCell("# Title", "markdown"), NotebookCell("x = 1"), NotebookCell("%pdegress deny")]

    found = list(find_policy_cells(cells, FOLDER))

    assert [(cell.number, cell.folder, cell.origin) for cell in found] == [(3, FOLDER, "cell 3 (%pdegress)")]


def test_text_cells_set_nothing() -> None:
    """Markdown and raw cells do not run."""
    cells = [NotebookCell("%pdegress live", "markdown"), NotebookCell("%pdegress live", "raw")]

    assert list(find_policy_cells(cells, FOLDER)) == []

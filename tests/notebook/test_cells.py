"""Cells of a notebook file: which files are notebooks, cells without ids, hashes of cells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pdkernel.notebook.cells import (
    NotebookCell,
    build_output_metadata,
    enumerate_cells,
    hash_cell,
    is_notebook_file,
    read_cells,
    read_output_hash,
)


@pytest.mark.parametrize(
    ("text", "is_notebook"),
    [
        ("# %%\n# %%pdstep a\n", True),
        ("# %%\r\n# %%pdstep a\r\n", True),
        ("\ufeff# %% first\n# a comment\n\n#%%pdworkflow\n", True),
        ("# %%\nx = 1\n# %%pdstep a\n", False),
        ("# %%\n# %%pdsteps\n", False),
        ("# %%pdstep a\n", False),
        ("# %%\nx = 1\n", False),
        ("# %%\n# %%\n# %%pdstep a\n", True),
        ("# %%\n" + "\n" * 10_000 + "x = 1\n", False),
        ("# %%\n" + "\n" * 10_000 + "# %%pdstep a\n", True),
        ("# %%\n# a\n" * 50_000, False),
    ],
    ids=[
        "step",
        "CRLF",
        "header",
        "code first",
        "other magic",
        "no cell",
        "no step",
        "empty cell",
        "blank",
        "blank and step",
        "cells",
    ],
)
def test_a_python_file_with_steps_is_a_notebook(tmp_path: Path, text: str, is_notebook: bool) -> None:
    """A Python file is a notebook if a cell in percent format begins with a step or a header, below comments."""
    path = tmp_path / "a.py"
    path.write_bytes(text.encode())

    assert is_notebook_file(path) == is_notebook


def test_files_that_are_not_notebooks(tmp_path: Path) -> None:
    """A folder, a file of another type, one that is missing and one that is not UTF-8 are not notebooks."""
    (tmp_path / "a.ipynb").mkdir()
    (tmp_path / "b.ipynb").write_text("not read")
    (tmp_path / "c.txt").write_text("# %%\n# %%pdstep a\n")
    (tmp_path / "d.py").write_bytes(b"# %%\n# %%pdstep a\n\xe9")

    found = [is_notebook_file(tmp_path / name) for name in ("a.ipynb", "b.ipynb", "c.txt", "d.py", "e.py")]

    assert found == [False, True, False, False, False]


@pytest.mark.parametrize(("size", "is_notebook"), [(10 << 20, True), ((10 << 20) + 1, False)])
def test_a_large_python_file_is_not_searched(tmp_path: Path, size: int, is_notebook: bool) -> None:
    """A Python file of more than 10 MB is not a notebook."""
    path = tmp_path / "a.py"
    begin = b"# %%\n# %%pdstep a\n"
    path.write_bytes(begin + b"\n" * (size - len(begin)))

    assert is_notebook_file(path) == is_notebook


def test_the_parts_of_a_cell(tmp_path: Path) -> None:
    """A cell has its text, type, id, metadata and place; an unknown type is raw, and wrong metadata count as empty."""
    cells: list[dict[str, Any]] = [
        {
            "cell_type": "code",
            "source": ["a\n", "b"],
            "id": "x",
            "metadata": {"pdkernel": {"n": 1}},
            "outputs": [5, {}],
        },
        {"cell_type": "heading", "source": "c", "metadata": [], "outputs": None},
        {"cell_type": "markdown", "metadata": {"pdkernel": 5}},
    ]
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": cells, "nbformat": 4}))

    first, second, third = read_cells(tmp_path / "a.ipynb")

    assert (first.source, first.type, first.id, first.index, first.outputs) == ("a\nb", "code", "x", 0, ({},))
    assert first.pdkernel_metadata == {"n": 1}
    assert (second.type, second.id, second.metadata, second.outputs, second.index) == ("raw", None, {}, (), 1)
    assert (third.source, third.type, third.pdkernel_metadata) == ("", "markdown", {})


def test_a_cell_of_a_python_file_has_its_line(tmp_path: Path) -> None:
    """The line of a step's cell is that of its first line, above the comments over the directive; cells have no ids."""
    text = "# %% [markdown]\n# Title\n\n# %%\n# Says hello\n\n# %%pdstep a\ny = 2\n\n# %%\nx = 1\n\n# %%\n# %%pdstep b\ny = 2\n"
    (tmp_path / "a.py").write_text(text)

    cells = read_cells(tmp_path / "a.py")

    assert [cell.file_line for cell in cells] == [None, 5, None, 14]
    assert {cell.id for cell in cells} == {None}


def test_the_hash_of_a_cell() -> None:
    """Line ends, blanks at line ends and outer blank lines do not count; other characters do."""
    same = {hash_cell(text) for text in ("a\nb", "a\r\nb", "\n\na  \nb\n\n", "a\nb\n")}

    assert len(same) == 1
    assert not same & {hash_cell("a\n\nb"), hash_cell("a\n b"), hash_cell("A\nb")}
    assert len(same.pop()) == 16


@pytest.mark.parametrize(
    "output",
    [
        {},
        {"metadata": 5},
        {"metadata": {"pdkernel": 5}},
        {"metadata": {"pdkernel": {}}},
        {"metadata": {"pdkernel": {"cell": 5}}},
    ],
)
def test_an_output_without_a_hash(output: dict[str, Any]) -> None:
    """An output whose metadata have another form has no hash."""
    assert read_output_hash(output) is None
    assert read_output_hash({"metadata": build_output_metadata("a")}) == hash_cell("a")


def test_a_cell_without_an_index_follows_the_one_before() -> None:
    """Cells count from 0; a cell with an index restarts the count."""
    cells = [NotebookCell("a"), NotebookCell("b"), NotebookCell("c", index=7), NotebookCell("d")]

    assert [place for place, _ in enumerate_cells(cells)] == [0, 1, 7, 8]

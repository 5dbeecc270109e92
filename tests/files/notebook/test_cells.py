"""Cells of a notebook file: which files are notebooks, cells without ids, hashes of cells."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pdkernel.errors import NotebookError
from pdkernel.files.notebook.cells import (
    NotebookCell,
    build_output_metadata,
    build_step_cell,
    decode_mapping,
    encode_mapping,
    enumerate_cells,
    hash_cell,
    is_notebook_file,
    merge_stored_values,
    read_cells,
    read_output_hash,
    restore_source,
    restore_step,
)
from pdkernel.model import JSON, Step, StoreBinding
from tests.growth import assert_linear
from tests.notebook_files import notebook_of


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


def large_notebook(path: Path, megabytes: int, **more: Any) -> Path:
    """A notebook at *path* with outputs of that size in one cell."""
    output = {"output_type": "stream", "name": "stdout", "text": ["x" * 1024] * 1024 * megabytes}
    cell = {"id": "a", "metadata": {"m": 1}, "source": ["%%pdstep a\n", "1"], "outputs": [output]}
    return notebook_of(path, cell, **more)


def test_the_cells_of_a_large_notebook(tmp_path: Path) -> None:
    """A notebook whose outputs have 50 MB is read without them, unless they are asked for."""
    path = large_notebook(tmp_path / "a.ipynb", 50)
    (cell,) = read_cells(path)
    (whole,) = read_cells(large_notebook(tmp_path / "b.ipynb", 3), with_outputs=True)

    assert (cell.source, cell.id, cell.metadata, cell.outputs) == ("%%pdstep a\n1", "a", {"m": 1}, ())
    assert len(whole.outputs) == 1


def test_a_large_notebook_does_not_stop_other_threads(tmp_path: Path) -> None:
    """While another thread reads 50 MB, this thread is never stopped for as long as parsing takes."""
    path = large_notebook(tmp_path / "a.ipynb", 50)
    with ThreadPoolExecutor() as pool:
        reading, stops = pool.submit(read_cells, path), []
        while not reading.done():
            began = time.perf_counter()
            time.sleep(0.001)
            stops.append(time.perf_counter() - began)

    assert len(reading.result()) == 1
    assert sorted(stops)[len(stops) * 9 // 10] < 0.05
    assert max(stops) < 0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b" " * (64 * 1024**2 + 1)), "has 64 MB, and a notebook may have 64 MB"),
        (
            lambda path: path.write_bytes(b"[" * 3 * 1024**2),
            "cannot be read: it has 3.0 MB, and its outputs cannot be left out",
        ),
        (lambda path: path.write_bytes(b"9" * 3 * 1024**2), "cannot be read: it has 3.0 MB"),
        (lambda path: large_notebook(path, 1, metadata={"a": "x" * 3 * 1024**2}), "may have 2 MB"),
    ],
)
def test_a_large_file_that_is_refused(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    """A file beyond the limit, a large file that is not a notebook, and one with large cells are refused with the reason."""
    make(tmp_path / "a.ipynb")

    with pytest.raises(NotebookError, match=message):
        read_cells(tmp_path / "a.ipynb")


def test_the_time_to_find_a_long_number_grows_with_the_size(tmp_path: Path) -> None:
    """Numbers that are nearly too long before one that is do not take quadratic time."""

    def read(text: str) -> None:
        (tmp_path / "a.ipynb").write_text(text)
        with suppress(NotebookError):
            read_cells(tmp_path / "a.ipynb")

    numbers = "9" * 4299 + ","
    assert_linear(read, lambda size: "[" + numbers * (size // len(numbers)) + "9" * 5000 + "]", size=32 * 1024)


@pytest.mark.parametrize(
    ("value", "kept"),
    [({"a": 1, "b": 2}, {"a": 1, "b": 2}), ({"b": 1, "a": 2}, '{"b": 1, "a": 2}'), ({"a": {"d": 1, "c": 2}}, None)],
)
def test_an_order_that_jupyter_would_lose_is_kept_as_text(value: dict[str, JSON], kept: JSON) -> None:
    """A mapping with sorted keys stays a mapping; any other, at any depth, is text; both read back in their order."""
    encoded = encode_mapping(value)

    assert isinstance(encoded, str) if kept is None else encoded == kept
    assert repr(decode_mapping(encoded)) == repr(value)


@pytest.mark.parametrize("kept", [None, 5, [], "{", "[1]"])
def test_metadata_that_is_not_a_mapping(kept: JSON) -> None:
    """A value that is not a mapping, as text or not, is ignored."""
    assert decode_mapping(kept) is None


@pytest.mark.parametrize(
    ("body", "stored", "source"),
    [
        ("a\nb\n", "a\r\nb\r\n", "a\r\nb\r\n"),
        ("a\nb\n", "\ufeffa\nb\n", "\ufeffa\nb\n"),
        ("a\nc\n", "a\r\nb\r\n", "a\r\nc\r\n"),
        ("x\na\n", "\ufeffa\n", "\ufeffx\na\n"),
        ("a\nb\nx\n", "a\r\nb\n", "a\r\nb\nx\n"),
        ("a\nb\n", None, "a\nb\n"),
        ("a\nb\n", "", "a\nb\n"),
        ("a\nb\n", 5, "a\nb\n"),
    ],
    ids=["line ends", "mark", "changed line", "new line", "half of the lines", "none", "empty", "number"],
)
def test_the_original_form_of_code(body: str, stored: object, source: str) -> None:
    """Unchanged lines have their line ends, and new lines those of more than half of the lines."""
    assert restore_source(body, stored) == source


def test_the_cells_text_wins() -> None:
    """A value and a store that the cell shows win over the metadata; the order of props is that of the metadata."""
    stored = {"values": {"b": 1, "a": 1}, "order": ["c", "b", "gone", "a"]}

    assert list(merge_stored_values({"a": 2, "c": 3, "new": 4}, stored).items()) == [
        ("c", 3),
        ("b", 1),
        ("a", 2),
        ("new", 4),
    ]
    assert merge_stored_values({"a": 2}, {"order": ["a"]}) == {"a": 2}
    step = restore_step(Step("s", stores=(StoreBinding("db", "ds_1"),)), {"stores": [["db", "ds_2"], ["other", None]]})
    assert step.stores == (StoreBinding("other", None), StoreBinding("db", "ds_1"))


@pytest.mark.parametrize(
    ("metadata", "note", "notes"),
    [({"notes": "a"}, None, "a"), ({"notes": "a"}, "b", "b"), ({"notes": "a"}, "", ""), ({"notes": 5}, None, None)],
)
def test_the_note_of_a_cell_wins(metadata: dict[str, JSON], note: str | None, notes: str | None) -> None:
    """The Markdown cell wins over the metadata, also if it is empty."""
    assert restore_step(Step("s"), metadata, note=note).notes == notes


def test_an_action_has_no_code() -> None:
    """The code in the metadata is ignored for an action, whose cell has props."""
    assert restore_step(Step("s", uses="a-b@1.0.0"), {"source": "\ufeffx\n"}).source == ""


def test_a_plain_step_needs_no_metadata() -> None:
    """A step that its cell shows completely has no metadata; a note, line ends and extra keys are kept."""
    plain = Step("s", source="a\n", props={"n": 1})
    assert build_step_cell(plain)[1] == {}

    odd = Step("s", source="a\r\n", notes="n", extra={"b": 1, "a": 2})
    assert build_step_cell(odd)[1] == {"notes": "n", "extra": '{"b": 1, "a": 2}', "source": "a\r\n"}


def test_a_prop_that_a_line_cannot_hold_is_kept_with_the_order() -> None:
    """Only the value that the cell cannot hold is in the metadata, with the order of all values."""
    step = Step("s", props={"z": 1, "a b": 2, "c": 3})
    text, metadata = build_step_cell(step)

    assert metadata == {"props": {"values": {"a b": 2}, "order": ["z", "a b", "c"]}}
    assert "--prop z=1 --prop c=3" in text
    assert list(merge_stored_values({"z": 1, "c": 3}, metadata["props"])) == ["z", "a b", "c"]

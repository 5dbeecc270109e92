"""Entry files and the files that they import: which may be read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pdkernel.files.definition.entry_file import (
    MAX_ENTRY_FILE_BYTES,
    EntryFileError,
    build_file_reader,
    read_entry_file,
    slugify,
)
from pdkernel.language.analysis import StepFileError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A workflow's folder with a step."""
    (tmp_path / "flow" / "step" / "lib").mkdir(parents=True)
    for name in ("entry.js", "lib/a.js"):
        (tmp_path / "flow" / "step" / name).write_bytes(b"a\r\n\xc3\xa9")
    (tmp_path / "secret.js").write_text("s")
    for name in ("workflow.yaml", "pdkernel.yaml", ".workflow.state"):
        (tmp_path / "flow" / name).write_text("name: a")
    return tmp_path / "flow"


def test_an_entry_file_is_read_byte_for_byte(folder: Path) -> None:
    """The text keeps its line ends; a missing file, also below a file, has no text."""
    assert read_entry_file(folder, "step/entry.js") == "a\r\né"
    assert read_entry_file(folder, "step/other.js") is None
    assert read_entry_file(folder, "step/entry.js/x") is None


@pytest.mark.parametrize(
    ("uses", "why"), [("../secret.js", "outside the folder"), ("step", "not a file"), ("a\0b", "cannot be read")]
)
def test_an_entry_file_that_is_refused(folder: Path, uses: str, why: str) -> None:
    """A path outside the folder, a folder and a name with NUL are refused with the reason."""
    with pytest.raises(EntryFileError, match=why):
        read_entry_file(folder, uses)


def test_a_link_to_an_entry_file(folder: Path) -> None:
    """A link may lead to a file in the folder, but not out of it."""
    (folder / "inside.js").symlink_to(folder / "step" / "entry.js")
    (folder / "outside.js").symlink_to(folder.parent / "secret.js")

    assert read_entry_file(folder, "inside.js") == "a\r\né"
    with pytest.raises(EntryFileError, match="outside the folder"):
        read_entry_file(folder, "outside.js")


def test_the_size_of_an_entry_file(folder: Path) -> None:
    """A file of the maximum size is read, one byte more is refused; the maximum is 32 MB."""
    path = folder / "big.js"
    with path.open("wb") as file:
        file.truncate(MAX_ENTRY_FILE_BYTES)
    text = read_entry_file(folder, "big.js")
    assert text is not None
    assert len(text) == 32 * 1024 * 1024
    with path.open("wb") as file:
        file.truncate(MAX_ENTRY_FILE_BYTES + 1)
    with pytest.raises(EntryFileError, match="has 33554433 bytes, more than the 33554432"):
        read_entry_file(folder, "big.js")


def test_a_file_that_is_not_utf_8_names_the_line(folder: Path) -> None:
    """The message names the line of the first byte that is not UTF-8."""
    (folder / "latin.js").write_bytes(b"a\nb\n\xe9\n")
    with pytest.raises(EntryFileError, match="its line 3"):
        read_entry_file(folder, "latin.js")


def test_an_imported_file_is_in_the_workflows_folder(folder: Path) -> None:
    """An import may go up to the workflow's folder, not above it; the definition's own files and folders are not modules."""
    (folder / "shared.js").write_text("shared")
    read = build_file_reader(folder, "step")

    assert (read("lib/a.js"), read("../shared.js"), read("../step/./entry.js")) == ("a\r\né", "shared", "a\r\né")
    assert [read(path) for path in ("../workflow.yaml", "../pdkernel.yaml", "../.workflow.state", "lib")] == [None] * 4
    with pytest.raises(StepFileError, match="outside of the workflow's folder"):
        read("../../secret.js")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("pipe.js", "which is not a file"),
        ("latin.js", r"which is not UTF-8 text \(its line 2\)"),
        ("big.js", "which has 33554433 bytes, more than the 33554432"),
        ("a\0b", r"which cannot be read \("),
        ("n" * 300, r"which cannot be read \(File name too long\)"),
    ],
)
def test_an_imported_file_that_cannot_be_read(folder: Path, name: str, why: str) -> None:
    """A pipe, other bytes, a large file and an impossible name are refused with the reason."""
    os.mkfifo(folder / "step" / "pipe.js")
    (folder / "step" / "latin.js").write_bytes(b"\n// caf\xe9")
    with (folder / "step" / "big.js").open("wb") as file:
        file.truncate(MAX_ENTRY_FILE_BYTES + 1)

    with pytest.raises(StepFileError, match=why):
        build_file_reader(folder, "step")(name)


def test_an_imported_link_is_refused(folder: Path) -> None:
    """A link, also to a folder above the file and also inside, is not followed."""
    (folder / "step" / "link").symlink_to(folder / "step" / "lib")
    (folder / "step" / "file.js").symlink_to(folder / "step" / "entry.js")
    read = build_file_reader(folder, "step")

    for path in ("link/a.js", "file.js"):
        with pytest.raises(StepFileError, match="which is a link"):
            read(path)


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Random Album Cover (Mastodon)", "random-album-cover-mastodon"),
        ("a_b  -  c", "a_b-c"),
        ("- a -", "a"),
        ("Ärger", "rger"),
        ("v1.2", "v12"),
        ("", "workflow"),
        ("!?", "workflow"),
        (" - ", "workflow"),
    ],
)
def test_a_slug(name: str, slug: str) -> None:
    """Punctuation is dropped, blanks and dashes are one dash, underscores stay; an empty slug is `workflow`."""
    assert slugify(name) == slug

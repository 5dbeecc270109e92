"""The files of a saved test, and those that are not overwritten."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from pdkernel.annex.snapshot_tests.saver import write_test_files
from pdkernel.errors import RequestError

TEXT = "x = 1\n"


def attachments(folder: Path, content: bytes = b"1") -> Mapping[Path, bytes]:
    """The recorded calls and the event of a test in a folder that does not exist yet."""
    return {
        folder / "work" / "tests" / "recorded" / "a.jsonl": content,
        folder / "work" / "events" / "a.json": content,
    }


def save(folder: Path, content: bytes = b"1", *, text: str = TEXT) -> tuple[Path, ...]:
    """Save the test and its files."""
    return write_test_files(folder / "work" / "tests" / "test_a.py", text, attachments(folder, content))


def test_a_test_names_its_files(tmp_path: Path) -> None:
    """The test is the first of the written files, and ends with the checksums of all, by their paths from its folder."""
    written = save(tmp_path)

    test, *others = written
    lines = test.read_text().splitlines()
    assert others == list(attachments(tmp_path))
    assert [path.read_bytes() for path in others] == [b"1", b"1"]
    assert lines[0] == "x = 1"
    assert [line.split(maxsplit=2)[2] for line in lines[-3:]] == ["recorded/a.jsonl", "../events/a.json", "this file"]


def test_unchanged_files_are_overwritten(tmp_path: Path) -> None:
    """Saving again replaces all files, more than once."""
    for content, text in ((b"1", TEXT), (b"2", "x = 2\n"), (b"3", "x = 3\n")):
        test, *others = save(tmp_path, content, text=text)

        assert test.read_text().startswith(text)
        assert {path.read_bytes() for path in others} == {content}


def test_a_file_with_the_same_content_is_used(tmp_path: Path) -> None:
    """A test is saved if a file of a person already has the content."""
    for path, content in attachments(tmp_path).items():
        path.parent.mkdir(parents=True)
        path.write_bytes(content)

    assert all(path.is_file() for path in save(tmp_path))


@pytest.mark.parametrize("changed", [0, 1, 2])
def test_a_changed_file_keeps_all_files(tmp_path: Path, changed: int) -> None:
    """If one of the files was changed after saving, it is named, and none is written."""
    written = save(tmp_path)
    with written[changed].open("a") as file:
        file.write("# mine\n")
    before = [path.read_bytes() for path in written]

    with pytest.raises(RequestError, match="was changed since; no file was written") as refused:
        save(tmp_path, b"2", text="x = 2\n")

    assert str(written[changed]) in refused.value.message
    assert [path.read_bytes() for path in written] == before


def test_a_removed_file_is_written_again(tmp_path: Path) -> None:
    """A file that was removed after saving is not a changed file."""
    removed = save(tmp_path)[1]
    removed.unlink()

    save(tmp_path, b"2")

    assert removed.read_bytes() == b"2"

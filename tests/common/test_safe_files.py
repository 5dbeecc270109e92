"""Reading and writing untrusted files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pdkernel.common.safe_files import is_file, open_inside, read_file, write_inside


def test_a_regular_file_is_read(tmp_path: Path) -> None:
    """A regular file is read, also through a link."""
    (tmp_path / "a").write_bytes(b"text")
    (tmp_path / "link").symlink_to("a")

    assert (read_file(tmp_path / "a"), read_file(tmp_path / "link")) == (b"text", b"text")


@pytest.mark.parametrize("kind", ["fifo", "folder", "device"])
def test_special_files_are_refused(tmp_path: Path, kind: str) -> None:
    """A FIFO without a writer, a folder and a device are refused at once."""
    path = tmp_path / "odd"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path = Path("/dev/zero")

    with pytest.raises(OSError, match=r"Not a regular file|Is a directory"):
        read_file(path)


def test_a_text_that_is_too_long_for_a_name_is_not_a_file(tmp_path: Path) -> None:
    """A file is a file; a folder, a missing file and a text longer than a file name are not."""
    (tmp_path / "a").write_bytes(b"text")

    assert [is_file(tmp_path / name) for name in ("a", ".", "b", "x" * 5000)] == [True, False, False, False]


def test_a_file_inside_a_folder_is_read(tmp_path: Path) -> None:
    """A file in the folder is read by its name."""
    (tmp_path / "a").write_bytes(b"text")

    with open_inside(tmp_path, "a") as stream:
        assert stream.read() == b"text"


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "..", ".", "", "a\0b", "link", "fifo", "below/a", "gone"])
def test_a_path_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    """A path, a link, a FIFO and a missing name are refused."""
    folder = tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "a").write_text("below")
    (tmp_path / "secret").write_text("secret")
    (folder / "link").symlink_to("../secret")
    os.mkfifo(folder / "fifo")

    with pytest.raises(OSError):  # noqa: PT011  # what the system says differs from case to case
        open_inside(folder, name)


def test_a_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    """A folder that is a link is refused."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").write_text("text")
    (tmp_path / "link").symlink_to("real")

    with pytest.raises(OSError):  # noqa: PT011
        open_inside(tmp_path / "link", "a")


def test_a_file_is_written_in_the_place_of_a_link(tmp_path: Path) -> None:
    """A link with the file's name is replaced, its target is unchanged, and no temporary file is left."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "outside").write_text("as it was")
    (folder / "a").symlink_to("../outside")

    write_inside(folder, "a", b"new")

    assert [path.name for path in folder.iterdir()] == ["a"]
    assert ((folder / "a").read_text(), (tmp_path / "outside").read_text()) == ("new", "as it was")


@pytest.mark.parametrize("name", ["../a", "/a", "..", ""])
def test_nothing_is_written_outside_of_the_folder(tmp_path: Path, name: str) -> None:
    """A path as a name is refused."""
    with pytest.raises(OSError, match="Not the name of a file"):
        write_inside(tmp_path, name, b"new")


def test_a_written_file_has_the_usual_mode(tmp_path: Path) -> None:
    """A file has the mode that a file which an editor creates has: other users may read it as the umask allows."""
    (tmp_path / "usual").touch()

    write_inside(tmp_path, "a", b"new")

    assert (tmp_path / "a").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    """A failed write leaves no temporary file."""
    (tmp_path / "a").mkdir()

    with pytest.raises(IsADirectoryError):
        write_inside(tmp_path, "a", b"new")

    assert [path.name for path in tmp_path.iterdir()] == ["a"]

"""Reading files that other people wrote."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pdkernel.files import read_file, read_inside


def test_a_regular_file_is_read(tmp_path: Path) -> None:
    """A file is read, through a link too."""
    (tmp_path / "a").write_bytes(b"text")
    (tmp_path / "link").symlink_to("a")

    assert (read_file(tmp_path / "a"), read_file(tmp_path / "link")) == (b"text", b"text")


@pytest.mark.parametrize("kind", ["fifo", "folder", "device"])
def test_what_is_not_a_regular_file_is_refused(tmp_path: Path, kind: str) -> None:
    """A FIFO that has no writer, a folder and a device are refused at once."""
    path = tmp_path / "odd"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path = Path("/dev/zero")

    with pytest.raises(OSError, match=r"Not a regular file|Is a directory"):
        read_file(path)


def test_a_file_inside_a_folder_is_read(tmp_path: Path) -> None:
    """A name in the folder is read."""
    (tmp_path / "a").write_bytes(b"text")

    assert read_inside(tmp_path, "a") == b"text"


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "..", ".", "", "a\0b", "link", "fifo", "below/a", "gone"])
def test_what_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    """A path, a link, a FIFO and a name that is not there are refused."""
    folder = tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "a").write_text("below")
    (tmp_path / "secret").write_text("secret")
    (folder / "link").symlink_to("../secret")
    os.mkfifo(folder / "fifo")

    with pytest.raises(OSError):  # noqa: PT011  # what the system says differs from case to case
        read_inside(folder, name)


def test_a_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    """The folder itself is not a link either."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").write_text("text")
    (tmp_path / "link").symlink_to("real")

    with pytest.raises(OSError):  # noqa: PT011
        read_inside(tmp_path / "link", "a")

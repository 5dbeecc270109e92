"""Reading the `workflow.yaml` and the id of a synced folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pdkernel.common.safe_files import BYTE_ORDER_MARK
from pdkernel.errors import NotebookError, UnsupportedError
from pdkernel.files.definition.workflow_document import MAX_WORKFLOW_FILE_BYTES, read_document


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a `workflow.yaml`."""
    folder = tmp_path / "flow"
    folder.mkdir()
    (folder / "workflow.yaml").write_text("name: W\n")
    return folder


def test_the_text_is_read_byte_for_byte(folder: Path) -> None:
    """The text has its line breaks; a byte order mark is separate."""
    (folder / "workflow.yaml").write_bytes(f"{BYTE_ORDER_MARK}name: W # a\r\n".encode())

    document = read_document(folder)

    assert (document.byte_order_mark, document.text) == (BYTE_ORDER_MARK, "name: W # a\r\n")
    assert (document.data, document.folder) == ({"name": "W"}, folder)


@pytest.mark.parametrize(
    ("content", "kind", "line", "says"),
    [
        (b"# a list\n- 1\n", NotebookError, None, "is not a workflow: it is not a mapping of keys (line 2)."),
        (b"", NotebookError, None, "is not a workflow: it is not a mapping of keys (line 1)."),
        (b"\na: [", NotebookError, 2, "is not YAML"),
        (b"a: 1\nname: \xff\n", NotebookError, 2, "is not UTF-8 text (byte 12, line 2)."),
        (b"name: W\nx: {{ steps }}\n", NotebookError, 2, "has a key that is not text"),
        (b"name: W\nschema: workflow/2030.01", UnsupportedError, 2, "has the schema 'workflow/2030.01', and this version reads 'workflow/2022.04' (line 2)."),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read(
    folder: Path, content: bytes, kind: type[NotebookError | UnsupportedError], line: int | None, says: str
) -> None:
    """An invalid file is refused with its name and line."""
    (folder / "workflow.yaml").write_bytes(content)

    with pytest.raises(kind) as caught:
        read_document(folder)

    assert caught.value.message.startswith(str(folder / "workflow.yaml"))
    assert (says in caught.value.message, caught.value.line) == (True, line)


def test_the_text_is_read_as_the_platform_reads_it(folder: Path) -> None:
    """An unquoted `yes` is true, and an unquoted `0899` is text."""
    (folder / "workflow.yaml").write_text("flag: yes\ncode: 0899\n")

    assert read_document(folder).data == {"flag": True, "code": "0899"}


def test_a_folder_without_a_workflow(folder: Path) -> None:
    """A folder, a file and a missing folder without a `workflow.yaml` are refused."""
    with pytest.raises(NotebookError, match=r"workflow\.yaml cannot be read: File name too long\."):
        read_document(folder / ("n" * 300))
    for place in (folder.parent, folder / "workflow.yaml", folder / "missing"):
        with pytest.raises(NotebookError, match=r" is not a workflow's folder: it has no workflow\.yaml\.$"):
            read_document(place)


def test_a_pipe_and_a_folder_are_not_read(folder: Path) -> None:
    """A `workflow.yaml` that is not a file is refused."""
    path = folder / "workflow.yaml"
    path.unlink()
    for make in (os.mkfifo, os.mkdir):
        make(path)
        with pytest.raises(NotebookError, match=r"workflow\.yaml is not a file\."):
            read_document(folder)
        path.rename(folder / make.__name__)


def test_the_size_of_the_file(folder: Path) -> None:
    """A file of the maximum size is read, and one byte more is refused."""
    content = b"name: W\n#"
    (folder / "workflow.yaml").write_bytes(content.ljust(MAX_WORKFLOW_FILE_BYTES, b"#"))

    assert read_document(folder).data == {"name": "W"}
    with (folder / "workflow.yaml").open("ab") as stream:
        stream.write(b"#")
    with pytest.raises(NotebookError, match=r"has 4194305 bytes; the limit is 4194304 bytes\."):
        read_document(folder)


def test_a_link_that_leads_out_of_the_folder(folder: Path) -> None:
    """The link is not followed, and the message repeats nothing of its target; a link inside the folder is followed."""
    (folder.parent / "outside.yaml").write_text("name: secret\n")
    (folder / "workflow.yaml").rename(folder / "real.yaml")
    (folder / "workflow.yaml").symlink_to("real.yaml")

    assert read_document(folder).data == {"name": "W"}
    (folder / "workflow.yaml").unlink()
    (folder / "workflow.yaml").symlink_to("../outside.yaml")
    with pytest.raises(NotebookError, match=r"workflow\.yaml is a link that leads out of its folder") as caught:
        read_document(folder)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("state", "id_"),
    [
        ("# DO NOT EDIT\n---\nschema: workflow.state/2022.04\nid: p_1a\n", "p_1a"),
        ("id: 'p_1a'\n", "p_1a"),
        ('id: "p_1a"\n', "p_1a"),
        ("parent:\n  id: p_1a\n", None),
        ("id: x_1\n", None),
        ("", None),
    ],
)
def test_the_id_of_the_workflow(folder: Path, state: str, id_: str | None) -> None:
    """The id is that of `.workflow.state`, with or without quotes."""
    (folder / ".workflow.state").write_text(state)

    assert read_document(folder).id == id_


def test_a_state_that_is_a_link_outside_is_ignored(folder: Path) -> None:
    """The id is not read from a file outside the folder, and a missing or unreadable state has no id."""
    (folder.parent / "state").write_text("id: p_secret\n")

    assert read_document(folder).id is None
    (folder / ".workflow.state").symlink_to("../state")
    assert read_document(folder).id is None
    (folder / ".workflow.state").unlink()
    (folder / ".workflow.state").mkdir()
    assert read_document(folder).id is None

"""Invalid folders: a clear error with file and line, or a faithful notebook; no crash."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pdkernel.errors import PdkernelError
from pdkernel.importer import ImportResult
from tests.definition.builders import synced
from tests.importer.import_helpers import HEAD, check_round_trip, import_one

CODE = '- namespace: a\n  runtime: python3.12\n  uses: "./a/entry.py"\n'
LINE = 8
"""The line of the first step in HEAD."""


def refused(folder: Path, notebook: Path) -> PdkernelError:
    """The error of importing *folder*; nothing was written."""
    imported: ImportResult = import_one(folder, notebook)
    assert imported.error is not None
    assert not notebook.exists()
    return imported.error


@pytest.mark.parametrize(
    ("yaml", "says", "line"),
    [
        ("- 1\n- 2\n", "not a mapping of keys", 1),
        ("name: a\nname: b\n", "has the key 'name' twice", 2),
        ("name: a\n\ttriggers: []\n", "is not YAML", 2),
        ("schema: workflow/2031.01\nname: a\n", "has the schema 'workflow/2031.01'", 1),
        (f"{HEAD}- namespace: a/b\n  uses: k-x@1.0.0\n", "'a/b' cannot be a step's name", LINE),
        (f"{HEAD}{CODE}- namespace: a\n  uses: k-x@1.0.0\n", "two steps are called 'a', the other in line 8", LINE + 3),
        (HEAD + CODE.replace("./a/", "../other/"), "outside the folder", LINE),
        (HEAD + CODE.replace("./a/", "/etc/"), "outside the folder", LINE),
        (HEAD + CODE.replace("./a/", "./a/../../other/"), "outside the folder", LINE),
        (HEAD + '- namespace: a\n  uses: "./a\\0/entry.py"\n', "cannot be read", LINE),
        (f"{HEAD}- namespace: [a]\n  uses: k-x@1.0.0\n", "has no namespace", LINE),
        (f"{HEAD}- namespace: a\n  uses: k-x@1.0.0\n  props: [1]\n", "are not a mapping", LINE),
        (f"{HEAD}- just text\n", "steps is not a list of mappings", 7),
        ("a: &a [*a]\n", "refers to itself", 1),
        (f"{HEAD}- namespace: a\n  uses: !ruby/object:Foo x\n", "Foo", LINE + 1),
    ],
)
def test_a_clear_error(yaml: str, says: str, line: int, tmp_path: Path) -> None:
    """The message names the file, the line and the problem; the exit status is that of an invalid workflow."""
    error = refused(synced(tmp_path / "w", yaml), tmp_path / "n.ipynb")

    assert "workflow.yaml" in error.message
    assert says in error.message
    assert f"line {line}" in error.message
    assert error.exit_status == 2


def test_text_that_is_not_utf_8(tmp_path: Path) -> None:
    """The error for workflow.yaml and for code names the line of the first invalid byte."""
    of_yaml = synced(tmp_path / "yaml", HEAD)
    (of_yaml / "workflow.yaml").write_bytes(HEAD.encode() + b"# caf\xe9\n")
    of_code = synced(tmp_path / "code", HEAD + CODE)
    (of_code / "a").mkdir()
    (of_code / "a/entry.py").write_bytes(b"one\ntwo\xff\n")

    assert "not UTF-8 text (byte 112, line 8)" in refused(of_yaml, tmp_path / "n.ipynb").message.replace(
        f"byte {len(HEAD) + 6}", "byte 112"
    )
    assert (
        "./a/entry.py, which is not UTF-8 text (its line 2) (line 8)" in refused(of_code, tmp_path / "n.ipynb").message
    )


def test_no_file_in_its_place(tmp_path: Path) -> None:
    """A FIFO, a folder, or a link out of the folder is refused without waiting."""
    (tmp_path / "secret.py").write_text("SECRET")
    folder = synced(tmp_path / "w", HEAD + CODE)
    (folder / "a").mkdir()
    entry = folder / "a/entry.py"

    os.mkfifo(entry)
    pipe = refused(folder, tmp_path / "n.ipynb").message
    entry.unlink()
    entry.mkdir()
    directory = refused(folder, tmp_path / "n.ipynb").message
    entry.rmdir()
    entry.symlink_to(tmp_path / "secret.py")
    link = refused(folder, tmp_path / "n.ipynb").message
    entry.unlink()
    entry.symlink_to(entry)
    loop = refused(folder, tmp_path / "n.ipynb").message

    assert "which is not a file (line 8)" in pipe
    assert "which is not a file (line 8)" in directory
    assert "outside the folder (line 8)" in link
    assert "cannot be read" in loop


@pytest.mark.parametrize("name", ["workflow.yaml", "pdkernel.yaml"])
def test_a_pipe_in_the_place_of_a_definition(name: str, tmp_path: Path) -> None:
    """A FIFO is refused, because it is not a file."""
    folder = synced(tmp_path / "w", HEAD)
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)

    assert f"{name} is not a file" in refused(folder, tmp_path / "n.ipynb").message


def test_anchors_and_aliases(tmp_path: Path) -> None:
    """An alias is read as the value of its anchor."""
    yaml = f"{HEAD}- namespace: a\n  uses: k-x@1.0.0\n  props:\n    one: &x\n      k: v\n    two: *x\n"

    back = check_round_trip(synced(tmp_path / "w", yaml), tmp_path / "n.ipynb")

    assert back.steps[0].props == {"one": {"k": "v"}, "two": {"k": "v"}}


def test_other_line_ends_and_a_byte_order_mark(tmp_path: Path) -> None:
    """A workflow.yaml with a byte order mark and CRLF is read."""
    folder = synced(tmp_path / "w", HEAD)
    (folder / "workflow.yaml").write_bytes(b"\xef\xbb\xbf" + (HEAD + CODE).replace("\n", "\r\n").encode())

    assert [step.name for step in check_round_trip(folder, tmp_path / "n.ipynb").steps] == ["a"]


def test_large_files(tmp_path: Path) -> None:
    """20 MB of code are imported; a workflow.yaml of 20 MB is refused before it is read."""
    of_code = synced(tmp_path / "code", HEAD + CODE)
    (of_code / "a").mkdir()
    (of_code / "a/entry.py").write_text("# a line of forty characters, no more...\n" * 500_000)
    of_yaml = synced(tmp_path / "yaml", HEAD + "# a line of forty characters, no more...\n" * 500_000)

    back = check_round_trip(of_code, tmp_path / "n.ipynb")

    assert len(back.steps[0].source) == 20_500_000
    assert "bytes; the limit is" in refused(of_yaml, tmp_path / "m.ipynb").message


def test_aliases_of_aliases(tmp_path: Path) -> None:
    """A small file that expands to billions of values is refused."""
    levels = "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]\n" for n in range(1, 10))

    assert "is too large" in refused(synced(tmp_path / "w", f"l0: &l0 x\n{levels}"), tmp_path / "n.ipynb").message


def test_code_that_is_missing(tmp_path: Path) -> None:
    """Missing code is reported at its step, and an export writes no file for it until the cell has code."""
    folder = synced(tmp_path / "w", HEAD + CODE)

    imported = import_one(folder, tmp_path / "n.ipynb")
    back = check_round_trip(folder, tmp_path / "m.ipynb")

    assert imported.report is not None
    assert [(item.name, item.why) for item in imported.report.cannot] == [
        ("a", "has no code: its entry file is missing")
    ]
    assert "**No code:** the entry file of `a`" in (tmp_path / "n.ipynb").read_text()
    assert back.steps[0].is_code_missing
    assert not (folder / "a").exists()

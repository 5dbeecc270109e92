"""Variables of the project and of a `.env` file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pdkernel.engine.variables import check_variables, load_variables
from pdkernel.errors import RequestError
from pdkernel.storage import Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project without variables."""
    return Project.open(tmp_path / ".pdkernel")


def test_a_value_without_interpolation(project: Project, tmp_path: Path) -> None:
    """Quoted values, comments and exports are read unchanged, and a name without a value sets nothing."""
    (tmp_path / ".env").write_text(
        "\ufeffZ=0\n# note\nA=1\nexport B='two words'\nC=\"x\\ny\"\nD=${A}\nE\nF=\n", encoding="utf-8"
    )

    assert load_variables(project, tmp_path) == {
        "Z": "0",
        "A": "1",
        "B": "two words",
        "C": "x\ny",
        "D": "${A}",
        "F": "",
    }


def test_the_file_takes_precedence(project: Project, tmp_path: Path) -> None:
    """A name of both has the value of the file, also an empty value."""
    for name in ("ONE", "TWO", "THREE"):
        project.variables.set(name, "project")
    (tmp_path / ".env").write_text("TWO=file\nTHREE=\nFOUR=file\n")

    assert load_variables(project, tmp_path) == {"ONE": "project", "TWO": "file", "THREE": "", "FOUR": "file"}


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"A=1\n=2\n", 2),
        (b"A=1\nB='s3cret\n", 2),
        (b"A=1\n\nB=\xff\n", 3),
        (b"A=a\0b\n", 1),
        ("A=1\n".encode("utf-16"), 1),
    ],
)
def test_a_broken_line_is_named(project: Project, tmp_path: Path, content: bytes, line: int) -> None:
    """A line that is not `NAME=VALUE` is refused with file and line, without its text."""
    (tmp_path / ".env").write_bytes(content)

    with pytest.raises(RequestError, match=rf"\.env, line {line}, is not ") as caught:
        load_variables(project, tmp_path)

    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("kind", ["folder", "fifo", "link to nothing"])
def test_a_special_file_is_refused(project: Project, tmp_path: Path, kind: str) -> None:
    """A `.env` that is not a regular file is refused by name."""
    path = tmp_path / ".env"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("gone")

    with pytest.raises(RequestError, match=r"\.env cannot be read"):
        load_variables(project, tmp_path)


def test_values_of_a_caller_are_texts() -> None:
    """A number or null is refused by its name; the variables themselves are returned."""
    given = {"A": "1", "B": ""}

    assert check_variables(given) is given
    for value in (1, None, True):
        with pytest.raises(RequestError, match="The variable C is not a string"):
            check_variables({**given, "C": value})  # type: ignore[dict-item]  # what a caller may pass

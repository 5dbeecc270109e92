"""The project's folder, its modes and its key file."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from pdkernel.errors import ProjectError
from pdkernel.storage import Project, find_project
from pdkernel.storage.folder import decode_key, encode_key, ensure_key, read_key
from pdkernel.storage.journal_mark import find_mark


def mode(path: Path) -> int:
    """Permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


def test_nearest_folder_above_is_found(tmp_path: Path) -> None:
    """The project of a deep folder is the nearest `.pdkernel` above it."""
    (tmp_path / ".pdkernel").mkdir()
    deep = tmp_path / "a" / "b"
    (deep / "c").mkdir(parents=True)
    (tmp_path / "a" / ".pdkernel").mkdir()

    assert find_project(deep / "c") == find_project(tmp_path / "a") == tmp_path / "a" / ".pdkernel"


def test_a_new_project_is_in_the_start_folder(tmp_path: Path) -> None:
    """Without a `.pdkernel` in a parent, the project's path is in the start folder."""
    assert find_project(tmp_path / "new") == tmp_path / "new" / ".pdkernel"


def test_a_file_of_that_name_is_not_a_project(tmp_path: Path) -> None:
    """A file named `.pdkernel` does not count as a project."""
    (tmp_path / ".pdkernel").mkdir()
    inner = tmp_path / "a"
    inner.mkdir()
    (inner / ".pdkernel").write_text("")

    assert find_project(inner) == tmp_path / ".pdkernel"


def test_folder_is_for_its_owner_only(sqlite_project: Project) -> None:
    """Other users cannot read the folder, the key, or the database with its logs."""
    sqlite_project.variables.set("A", "1")

    assert mode(sqlite_project.folder) == 0o700
    assert {path.name: mode(path) for path in sqlite_project.folder.iterdir() if path.name != ".gitignore"} == {
        "key": 0o600,
        find_mark(sqlite_project.key_file, sqlite_project.folder / "project.db").name: 0o600,
        "project.db": 0o600,
        "project.db-wal": 0o600,
        "project.db-shm": 0o600,
    }


def test_git_ignores_the_folder(tmp_path: Path) -> None:
    """Git ignores the folder; an existing `.gitignore` is left unchanged."""
    ignored = tmp_path / ".pdkernel" / ".gitignore"
    Project.open(ignored.parent).close()
    written = ignored.read_text()
    ignored.write_text("# mine\n*\n")

    Project.open(ignored.parent).close()

    assert (written, ignored.read_text()) == ("*\n", "# mine\n*\n")


def test_key_file_may_be_elsewhere(tmp_path: Path) -> None:
    """With a separate key file, the folder holds no key."""
    key_file = tmp_path / "keys" / "project.key"

    Project.open(tmp_path / ".pdkernel", key_file=key_file).close()

    assert mode(key_file) == 0o600
    assert not (tmp_path / ".pdkernel" / "key").exists()


def test_an_existing_key_is_kept(tmp_path: Path) -> None:
    """`ensure_key` returns an existing key and leaves no draft behind; a file with another character has no key."""
    first = ensure_key(tmp_path / "key")

    assert ensure_key(tmp_path / "key") == first
    assert read_key(tmp_path / "key") == first
    assert (decode_key(encode_key(first)), decode_key(encode_key(first)[:-1] + b"!")) == (first, None)
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_a_named_project_is_its_folder_or_the_folder_above(tmp_path: Path) -> None:
    """A name that is not `.pdkernel` is the folder in which the project's folder is."""
    assert find_project(tmp_path, named="other") == Path("other/.pdkernel")
    assert find_project(tmp_path, named="other/.pdkernel") == Path("other/.pdkernel")


def test_a_key_file_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    """If a part of the key's path is a file, the error names the path and the fix, and leaves no draft."""
    (tmp_path / "keys").write_text("")

    with pytest.raises(ProjectError, match=r"key file .*keys/key cannot be written: .* is a file") as caught:
        ensure_key(tmp_path / "keys" / "key")

    assert "PDKERNEL_KEY_FILE" in caught.value.fix
    assert [path.name for path in tmp_path.iterdir()] == ["keys"]

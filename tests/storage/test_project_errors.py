"""Errors when folder, key or database cannot be used; nothing is overwritten."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pdkernel.errors import ProjectError
from pdkernel.storage import Project
from pdkernel.storage.folder import ensure_key
from pdkernel.storage.schema import PROJECT_SCHEMA
from pdkernel.storage.sqlite import translate_error
from tests.privileges import run_unprivileged

OPEN_AND_WRITE = """
import sys
from pathlib import Path
from pdkernel.errors import ProjectError
from pdkernel.storage import Project
folder = Path(sys.argv[1])
try:
    with Project.open(folder) as project:
        project.variables.set("A", "2")
except ProjectError as error:
    print(error.message)
    print(error.fix)
else:
    print("no error")
"""


@pytest.fixture
def existing(tmp_path: Path) -> Path:
    """The folder of a project with one variable."""
    folder = tmp_path / ".pdkernel"
    with Project.open(folder) as project:
        project.variables.set("A", "1")
    return folder


def without_privilege(folder: Path) -> str:
    """The error message of a process that opens *folder* and writes; file modes apply to it, even as root."""
    return run_unprivileged(sys.executable, "-c", OPEN_AND_WRITE, folder).stdout


def refusal(folder: Path, key_file: Path | None = None) -> ProjectError:
    """The error of opening *folder*."""
    with pytest.raises(ProjectError) as caught:
        Project.open(folder, key_file=key_file)
    return caught.value


def test_folder_that_cannot_be_created(tmp_path: Path) -> None:
    """The error for a folder that cannot be created gives permission as the reason and names --project."""
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o555)

    message = without_privilege(closed / ".pdkernel")

    assert message == (
        f"The project folder {closed}/.pdkernel cannot be used: permission is denied.\n"
        "Make it a writable folder, or choose another folder: --project FOLDER (PDKERNEL_PROJECT).\n"
    )


def test_folder_that_is_read_only(existing: Path) -> None:
    """A project that is read-only is refused and left unchanged."""
    existing.chmod(0o555)
    for path in existing.iterdir():
        path.chmod(0o444)
    before = (existing / "project.db").read_bytes()

    message = without_privilege(existing)

    assert message.startswith(f"The project's database {existing}/project.db cannot be written: permission is denied")
    assert f"Make {existing} and the files in it writable" in message
    assert (existing / "project.db").read_bytes() == before


def test_folder_that_turns_read_only(existing: Path) -> None:
    """A write to a file that became read-only after opening has the same error."""
    with Project.open(existing) as project, project.sqlalchemy_engine.connect() as connection:
        connection.exec_driver_sql("pragma query_only = on")
        connection.close()

        with pytest.raises(ProjectError, match="cannot be written: permission is denied, or its folder is read-only"):
            project.variables.set("A", "2")


def test_unreadable_key(existing: Path) -> None:
    """The error names a key file that cannot be read."""
    (existing / "key").chmod(0)

    message = without_privilege(existing)

    assert message == (
        f"The project's key file {existing}/key cannot be read: permission is denied.\n"
        "Make the file readable, or name another key file in PDKERNEL_KEY_FILE.\n"
    )


def test_file_in_the_folders_place(tmp_path: Path) -> None:
    """The error names a file in the place of the folder, or above it, and the file is kept."""
    (tmp_path / ".pdkernel").write_text("mine")

    error = refusal(tmp_path / ".pdkernel")

    assert error.message == (
        f"The project folder {tmp_path}/.pdkernel cannot be used: {tmp_path}/.pdkernel or a part of its path is a file."
    )
    assert (tmp_path / ".pdkernel").read_text() == "mine"
    below = refusal(tmp_path / ".pdkernel" / ".pdkernel")
    assert "or a part of its path is a file" in below.message
    assert "--project FOLDER" in below.fix


def test_folder_in_the_databases_place(tmp_path: Path) -> None:
    """A folder named project.db is reported and not removed."""
    (tmp_path / ".pdkernel" / "project.db").mkdir(parents=True)

    error = refusal(tmp_path / ".pdkernel")

    assert "cannot be used: is a directory" in error.message


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda _: b"not a database, whatever it is called\n" * 500, "file is not a database"),
        (lambda data: data[: len(data) // 2], "database disk image is malformed"),
        (lambda data: data[:4096] + b"\xff" * (len(data) - 4096), "database disk image is malformed"),
    ],
    ids=["garbage", "cut short", "damaged pages"],
)
def test_damaged_database(existing: Path, damage: Callable[[bytes], bytes], reason: str) -> None:
    """A file that is not a whole database is refused with a fix when it is opened, and left unchanged."""
    path = existing / "project.db"
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)

    error = refusal(existing)

    assert error.message == (
        f"The project's database {path} is damaged or is not a database ({reason}). The file was not changed."
    )
    assert f"mv {path} {path}.damaged" in error.fix
    assert path.read_bytes() == damaged


def test_wrong_key(existing: Path, tmp_path: Path) -> None:
    """A database of another key is refused; key and database are kept."""
    ensure_key(tmp_path / "other")

    error = refusal(existing, key_file=tmp_path / "other")

    assert error.message == (
        f"The database {existing}/project.db was created with another key than the one in {tmp_path}/other. "
        "Neither was changed."
    )
    assert existing / "project.db" not in [each.resolve() for each in Path("/proc/self/fd").iterdir()]
    with Project.open(existing) as project:
        assert project.variables.values() == {"A": "1"}


def test_missing_key(existing: Path) -> None:
    """An existing database without its key is refused, and no new key is created."""
    (existing / "key").rename(existing / "kept")

    error = refusal(existing)

    assert error.message.startswith(f"The project's key file {existing}/key is missing")
    assert "PDKERNEL_KEY_FILE" in error.fix
    assert not (existing / "key").exists()


@pytest.mark.parametrize("content", ["", "c2hvcnQ=", "not base64 !!"])
def test_file_that_is_not_a_key(existing: Path, content: str) -> None:
    """A key file without a key is refused and kept; its content is not shown."""
    (existing / "key").write_text(content)

    error = refusal(existing)

    assert error.message == (
        f"{existing}/key is not a key file of pdkernel: it does not contain 32 bytes in base64. The file was not changed."
    )
    assert (existing / "key").read_text() == content


def test_newer_database(existing: Path) -> None:
    """A database of a newer version is refused with the command to upgrade."""
    with sqlite3.connect(existing / "project.db") as connection:
        connection.execute("update meta set value = '99' where name = 'schema_version'")
    connection.close()

    error = refusal(existing)

    assert error.message == (
        f"The project's database {existing}/project.db cannot be opened: a newer version of pdkernel has written it "
        f"(schema version 99; this version supports up to {PROJECT_SCHEMA.version}). The database was not changed."
    )
    assert error.fix == "Install the newer version of pdkernel, from the same place as this one."


def test_foreign_database(tmp_path: Path) -> None:
    """A database with foreign tables under pdkernel's names is refused."""
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as connection:
        connection.execute("create table accounts (iban text)")
    connection.close()

    with pytest.raises(ProjectError) as caught:
        Project.open(tmp_path / ".pdkernel", database_url=f"sqlite:///{path}")

    assert "is not a project of pdkernel, but it has tables with the same names: accounts" in caught.value.message


def test_a_locked_database_is_named(existing: Path) -> None:
    """The error of a database that another process has locked for too long names the file, and how to go on."""
    path = existing / "project.db"
    with sqlite3.connect(path, timeout=0) as first, sqlite3.connect(path, timeout=0) as second:
        first.execute("begin immediate")
        with pytest.raises(sqlite3.OperationalError) as caught:
            second.execute("begin immediate")

    error = translate_error(caught.value, path)

    assert f"{path} was locked by another process" in error.message
    assert "End the process that uses it" in error.fix


def test_row_that_was_moved(existing: Path) -> None:
    """An encrypted value that was copied to another name cannot be decrypted there."""
    with Project.open(existing) as project:
        project.variables.set("B", "2")
        with project.sqlalchemy_engine.begin() as connection:
            connection.exec_driver_sql(
                "update variables set sealed_value = (select sealed_value from variables where name = 'A')"
            )

        with pytest.raises(ProjectError, match=r"A stored value cannot be decrypted \(variables/B/value\)"):
            project.variables.values()

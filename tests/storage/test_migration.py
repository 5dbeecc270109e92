"""Tables of an earlier version while other processes use the database. `test_protocol` of the journal has what these do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from pdkernel.errors import ProjectError, RequestError
from pdkernel.journal import open_journal
from pdkernel.journal.schema import JOURNAL_SCHEMA
from pdkernel.journal.sqlite import ExecutorLocks, SqliteBackend
from pdkernel.storage import Project
from pdkernel.storage.database import Database
from pdkernel.storage.migration import Ask
from pdkernel.storage.schema import PROJECT_SCHEMA
from pdkernel.storage.sqlite import connect

EXECUTOR = "exec_" + 15 * "0"


NEXT = PROJECT_SCHEMA.version + 1
CHANGED = replace(PROJECT_SCHEMA, version=NEXT, changes={NEXT: "create table moods (name text); select 1"})
"""Tables of a version after this one, for which a project of this version is an earlier one."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a project."""
    folder = tmp_path / ".pdkernel"
    Project.open(folder).close()
    return folder


@pytest.fixture
def running(folder: Path) -> Iterator[ExecutorLocks]:
    """The locks of another process that uses the project."""
    locks = ExecutorLocks(folder / "executors-project")
    locks.hold(EXECUTOR)
    yield locks
    locks.release(EXECUTOR)


def stored_version(folder: Path) -> str:
    """The version of the project's tables."""
    with closing(connect(folder / "project.db")) as connection:
        return str(connection.execute("select value from meta where name = 'schema_version'").fetchone()[0])


def change(folder: Path, ask: Ask | None = None) -> None:
    """Open the project as a version with other tables does."""
    with closing(Database.open(folder, None)) as database:
        database.ask = ask
        database.migrate(CHANGED)
        database.permit_migration()  # for the tables of the journal


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("answer", [None, False])
def test_tables_in_use_are_not_changed(folder: Path, answer: bool | None) -> None:
    """While another process uses an earlier database, its tables stay as they are, and the error says what to do."""
    questions = list[str]()

    def ask(question: str) -> bool:
        questions.append(question)
        return bool(answer)

    with pytest.raises(RequestError, match="1 other process uses") as caught:
        change(folder, None if answer is None else ask)

    assert "Stop them" in str(caught.value.fix)
    assert stored_version(folder) == str(PROJECT_SCHEMA.version)
    assert len(questions) == (0 if answer is None else 1)


def test_tables_without_users_are_changed(folder: Path, running: ExecutorLocks) -> None:
    """After the other process has ended, no question is asked."""
    running.release(EXECUTOR)

    change(folder)

    assert stored_version(folder) == str(NEXT)


@pytest.mark.usefixtures("running")
def test_a_person_permits_the_change_once(folder: Path) -> None:
    """A person who answers yes is asked once for all tables, those of the journal, too."""
    questions = list[str]()

    def agree(question: str) -> bool:
        questions.append(question)
        return True

    change(folder, agree)

    assert len(questions) == 1
    assert stored_version(folder) == str(NEXT)


def test_a_foreign_table_stops_the_change(folder: Path) -> None:
    """A database in which a change fails is left unchanged."""
    with closing(connect(folder / "project.db")) as connection:
        connection.execute("create table moods (mine text)")

    with pytest.raises(ProjectError):
        change(folder)

    assert stored_version(folder) == str(PROJECT_SCHEMA.version)


def test_a_project_of_a_version_that_was_not_released_is_refused(folder: Path) -> None:
    """A project from before the first release is refused with what to do, and not changed."""
    with closing(connect(folder / "project.db")) as connection:
        connection.execute("update meta set value = '8' where name = 'schema_version'")

    with pytest.raises(ProjectError, match=r"before its first release has written it \(schema version 8;") as caught:
        Project.open(folder)

    assert "creates a new project" in str(caught.value.fix)
    assert stored_version(folder) == "8"


@pytest.mark.usefixtures("running")
def test_the_tables_of_the_journal_in_use_are_not_changed(folder: Path) -> None:
    """A command that opens an earlier journal refuses to change it while a server runs."""
    version = JOURNAL_SCHEMA.version + 1
    changed = replace(JOURNAL_SCHEMA, version=version, changes={version: "create table moods (name text)"})
    with Project.open(folder) as project:
        SqliteBackend(folder / "project.db").create_tables()
        backend = SqliteBackend(folder / "project.db", permit_migration=project.permit_migration, schema=changed)

        with pytest.raises(RequestError, match="1 other process uses"):
            backend.create_tables()


async def test_a_server_that_runs_on_postgres_keeps_its_tables(tmp_path: Path, postgres_url: str) -> None:
    """The lease of a server shows that it runs; after its orderly end the tables may be changed."""
    version = JOURNAL_SCHEMA.version + 1
    changed = replace(JOURNAL_SCHEMA, version=version, changes={version: "create table moods (name text)"})
    with Project.open(tmp_path / ".pdkernel", database_url=postgres_url) as project:
        journal = open_journal(project, origin="serve")
        with pytest.raises(RequestError, match="1 other process uses"):
            project.create_tables(changed, "journal_schema_version")
        await journal.close()
        project.create_tables(changed, "journal_schema_version")

"""Tables of an earlier version while other processes use the database. `test_protocol` of the journal has what these do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pdkernel.engine.journal import open_journal
from pdkernel.engine.journal.sqlite import ExecutorLocks
from pdkernel.errors import RequestError
from pdkernel.project import Project
from pdkernel.project.database import Database
from pdkernel.project.schema import SCHEMA_VERSION
from pdkernel.project.sqlite import connect

EXECUTOR = "exec_" + 15 * "0"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a project with tables of an earlier version."""
    folder = tmp_path / ".pdkernel"
    Project.open(folder).close()
    with closing(connect(folder / "project.db")) as connection:
        connection.execute("update meta set value = '1' where name = 'schema_version'")
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


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("answer", [None, False])
def test_tables_in_use_are_not_changed(folder: Path, answer: bool | None) -> None:
    """While another process uses an earlier database, its tables stay as they are, and the error says what to do."""
    questions = list[str]()

    def ask(question: str) -> bool:
        questions.append(question)
        return bool(answer)

    with pytest.raises(RequestError, match="1 other process uses") as caught:
        Project.open(folder, ask=None if answer is None else ask)

    assert "Stop them" in str(caught.value.fix)
    assert stored_version(folder) == "1"
    assert len(questions) == (0 if answer is None else 1)


def test_tables_without_users_are_changed(folder: Path, running: ExecutorLocks) -> None:
    """After the other process has ended, no question is asked."""
    running.release(EXECUTOR)
    drop_added_tables(folder)

    Project.open(folder).close()

    assert stored_version(folder) == str(SCHEMA_VERSION)


@pytest.mark.usefixtures("running")
def test_a_person_permits_the_change_once(folder: Path) -> None:
    """A person who answers yes is asked once for all tables, those of the journal, too."""
    drop_added_tables(folder)
    questions = list[str]()

    def agree(question: str) -> bool:
        questions.append(question)
        return True

    with Project.open(folder, ask=agree) as project:
        project.permit_migration()

    assert len(questions) == 1
    assert stored_version(folder) == str(SCHEMA_VERSION)


@pytest.mark.usefixtures("running")
async def test_the_tables_of_the_journal_in_use_are_not_changed(tmp_path: Path) -> None:
    """A command that opens an earlier journal refuses to change it while a server runs."""
    with Project.open(tmp_path / "other" / ".pdkernel") as project:
        await open_journal(project).close()
        assert project.sqlite_path is not None
        with closing(connect(project.sqlite_path)) as connection:
            connection.execute("pragma user_version = 7")
        locks = ExecutorLocks(project.folder / "executors-project")
        locks.hold(EXECUTOR)
        with pytest.raises(RequestError, match="1 other process uses"):
            open_journal(project)
        locks.release(EXECUTOR)


async def test_a_server_that_runs_on_postgres_keeps_its_tables(tmp_path: Path, postgres_url: str) -> None:
    """The lease of a server shows that it runs; after its orderly end the tables may be changed."""
    with Project.open(tmp_path / ".pdkernel", database_url=postgres_url) as project:
        journal = open_journal(project, origin="serve")
        database = Database.open(tmp_path, postgres_url)
        with closing(database), database.write() as connection:
            connection.exec_driver_sql("update meta set value = '1' where name = 'journal_schema_version'")
        with pytest.raises(RequestError, match="1 other process uses"):
            open_journal(project)
        await journal.close()
        project.permit_migration()


def drop_added_tables(folder: Path) -> None:
    """Drop the tables that versions after the first have added."""
    from pdkernel.project.schema import INTRODUCED_IN, metadata

    with closing(connect(folder / "project.db")) as connection:
        for name, table in metadata.tables.items():
            if table.info.get(INTRODUCED_IN, 1) > 1:
                connection.execute(f"drop table {name}")

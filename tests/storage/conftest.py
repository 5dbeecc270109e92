"""A project in a temporary folder, on each of the two databases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from pdkernel.common.clock import ManualClock, SequentialIds
from pdkernel.storage import Project
from pdkernel.storage.schema import metadata
from tests.postgres import PostgresServer

_CLEARED = "".join(f"delete from {table.name};" for table in reversed(metadata.sorted_tables) if table.name != "meta")
_CLEARED += "update meta set value = 'business' where name = 'plan'"


@pytest.fixture
def clock() -> ManualClock:
    """A clock that the test controls."""
    return ManualClock()


@pytest.fixture(scope="session")
def shared_database(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A database on Postgres with the tables of a project, and its key file, for the tests of this process."""
    folder = tmp_path_factory.mktemp("postgres-project")
    with postgres.new_database() as url:
        Project.open(folder, database_url=url, ids=SequentialIds()).close()
        yield url, folder / "key"


@dataclass(frozen=True)
class Location:
    """Where a project is: arguments of `Project.open`."""

    folder: Path
    database_url: str | None = None
    key_file: Path | None = None

    def open(self, **arguments: Any) -> Project:
        """Open the project, or open it once more."""
        return Project.open(self.folder, database_url=self.database_url, key_file=self.key_file, **arguments)


@pytest.fixture(params=["sqlite", "postgres"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """The location of a project without rows, on each database."""
    if request.param == "sqlite":
        return Location(tmp_path / ".pdkernel")
    return Location(tmp_path / ".pdkernel", *request.getfixturevalue("shared_database"))


def remove_rows(project: Project) -> None:
    """Remove the rows of a project in the shared database, for the next test."""
    with project.sqlalchemy_engine.begin() as connection:
        connection.execute(text(_CLEARED))


@pytest.fixture
def project(location: Location, clock: ManualClock) -> Iterator[Project]:
    """A project without rows, on each database."""
    with location.open(clock=clock, ids=SequentialIds()) as project:
        yield project
        if location.database_url is not None:
            remove_rows(project)


@pytest.fixture
def sqlite_project(tmp_path: Path, clock: ManualClock) -> Iterator[Project]:
    """A new project on SQLite, for a test of its files."""
    with Project.open(tmp_path / ".pdkernel", clock=clock, ids=SequentialIds()) as project:
        yield project

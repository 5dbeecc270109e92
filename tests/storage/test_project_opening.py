"""Opening a project: creation, plan, database, closing."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import text

from pdkernel.common.clock import SequentialIds
from pdkernel.errors import ProjectError, RequestError
from pdkernel.storage import Project
from tests.storage.conftest import Location


def test_the_first_opening_creates_the_project(tmp_path: Path) -> None:
    """`is_new` is true only for the call that created the project."""
    with Project.open(tmp_path / "deep" / ".pdkernel") as first, Project.open(first.folder) as second:
        assert (first.is_new, second.is_new) == (True, False)
        assert first.project_id == second.project_id


def test_project_has_an_id(project: Project) -> None:
    """A project's id has the platform's form."""
    assert project.project_id == "proj_0000001"


def test_database_is_durable(sqlite_project: Project) -> None:
    """A database on SQLite is in WAL mode and syncs at every commit."""
    with sqlite_project.sqlalchemy_engine.connect() as connection:
        assert connection.execute(text("pragma journal_mode")).scalar() == "wal"
        assert connection.execute(text("pragma synchronous")).scalar() == 2  # FULL


def test_plan_is_business_until_it_is_set(project: Project, location: Location) -> None:
    """The plan of a new project is business; a change is visible to projects that were opened before."""
    with location.open() as other:
        before = other.plan

        project.set_plan("free")

        assert (before, other.plan) == ("business", "free")


def test_unknown_plan_is_refused(project: Project) -> None:
    """A plan other than free and business is refused."""
    with pytest.raises(RequestError, match="'gold' is not a plan"):
        project.set_plan("gold")


def test_database_may_be_another_file(tmp_path: Path) -> None:
    """With a database URL the folder holds no database."""
    url = f"sqlite:///{tmp_path}/elsewhere.db"

    with Project.open(tmp_path / ".pdkernel", database_url=url) as project:
        assert project.sqlite_path == tmp_path / "elsewhere.db"
        assert not (project.folder / "project.db").exists()


def test_two_folders_may_share_a_database(tmp_path: Path) -> None:
    """Two folders with one database and one key are one project."""
    url, key = f"sqlite:///{tmp_path}/shared.db", tmp_path / "key"

    with (
        Project.open(tmp_path / "a" / ".pdkernel", database_url=url, key_file=key) as one,
        Project.open(tmp_path / "b" / ".pdkernel", database_url=url, key_file=key) as two,
    ):
        one.variables.set("A", "1")

        assert two.project_id == one.project_id
        assert two.variables.values() == {"A": "1"}


def test_a_project_can_be_closed_twice(tmp_path: Path) -> None:
    """A second close does nothing, and the stored values are there at the next opening."""
    project = Project.open(tmp_path / ".pdkernel", ids=SequentialIds())
    project.variables.set("A", "1")

    project.close()
    project.close()

    with Project.open(tmp_path / ".pdkernel") as reopened:
        assert reopened.variables.values() == {"A": "1"}


@pytest.mark.parametrize("url", ["mysql://u:pw-4711@host/db", "sqlite://", "sqlite:///:memory:", "no url, pw-4711"])
def test_other_databases_are_refused(tmp_path: Path, url: str) -> None:
    """An unsupported database is refused; the message names the two supported kinds and shows no password."""
    with pytest.raises(ProjectError) as caught:
        Project.open(tmp_path / ".pdkernel", database_url=url)

    assert caught.value.fix == "Use sqlite:////absolute/path.db or postgresql://user@server/name."
    assert "pw-4711" not in str(caught.value)

"""The tables on Postgres, and the migration of older tables."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import update
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from pdkernel.errors import ProjectError
from pdkernel.project import Project
from pdkernel.project.schema import INTRODUCED_IN, accounts, meta, metadata


def test_tables_compile_for_postgres() -> None:
    """Every table and index compiles for Postgres, encrypted columns as bytea."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]

    ddl = {table.name: str(CreateTable(table).compile(dialect=dialect)) for table in metadata.sorted_tables}
    indexes = [
        str(CreateIndex(index).compile(dialect=dialect))
        for table in metadata.tables.values()
        for index in table.indexes
    ]

    assert set(ddl) >= {"meta", "external_users", "accounts", "variables", "notebooks", "sent", "settings", "stores"}
    assert "number BIGSERIAL NOT NULL" in ddl["accounts"]
    assert "created DOUBLE PRECISION NOT NULL" in ddl["accounts"]
    assert "sealed_credentials BYTEA NOT NULL" in ddl["accounts"]
    assert "number BIGSERIAL NOT NULL" in ddl["store_records"]
    assert any(
        "accounts_newest ON accounts (external_user, environment, app, created, number)" in each for each in indexes
    )


def test_the_index_finds_the_newest_account() -> None:
    """The index for the newest account starts with the columns that a run filters by."""
    index = next(index for index in accounts.indexes if index.name == "accounts_newest")

    assert [column.name for column in index.columns] == ["external_user", "environment", "app", "created", "number"]


def test_an_older_project_gets_the_new_tables(tmp_path: Path) -> None:
    """A project of the first version is migrated when it is opened, without loss."""
    folder = tmp_path / ".pdkernel"
    with Project.open(folder) as project:
        project.variables.set("KEPT", "1")
        with project.sqlalchemy_engine.begin() as connection:
            for table in reversed(metadata.sorted_tables):
                if table.info.get(INTRODUCED_IN, 1) > 1:
                    table.drop(connection)
            connection.execute(update(meta).where(meta.c.name == "schema_version").values(value="1"))

    with Project.open(folder) as project:
        project.data_stores.set("new", "key", 1)

        assert project.variables.values() == {"KEPT": "1"}
        assert project.data_stores.names() == ["new"]


def test_a_foreign_table_stops_the_migration(tmp_path: Path) -> None:
    """A database that has a foreign table under a new table's name is left unchanged."""
    folder = tmp_path / ".pdkernel"
    with Project.open(folder) as project, project.sqlalchemy_engine.begin() as connection:
        for table in reversed(metadata.sorted_tables):
            if table.info.get(INTRODUCED_IN, 1) > 1:
                table.drop(connection)
        connection.exec_driver_sql("create table stores (mine text)")
        connection.execute(update(meta).where(meta.c.name == "schema_version").values(value="1"))

    with pytest.raises(ProjectError, match="has tables with the same names: stores"):
        Project.open(folder)

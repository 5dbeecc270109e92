"""The tables on Postgres."""

from __future__ import annotations

from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from pdkernel.storage.schema import accounts, metadata


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

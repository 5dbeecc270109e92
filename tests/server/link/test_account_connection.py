"""Connections of accounts that are interrupted between two writes."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from pdkernel.accounts.oauth import OAuthTokens
from pdkernel.server.link.account_connection import connect_by_oauth
from pdkernel.storage import ConnectToken
from pdkernel.storage.short_lived_tokens import TokenTerms, hash_token
from tests.server.served import served


@pytest.mark.parametrize("table", ["accounts", "account_grants"])
async def test_a_crash_during_a_connection_leaves_the_token_unused(tmp_path: Path, table: str) -> None:
    """If account or refresh token cannot be stored, there is no account, and the user can use the link again."""
    async with served(tmp_path) as site:
        now = site.clock.now()
        token = ConnectToken(
            hash_token("ctok_1"), "ada", "development", now, now + timedelta(hours=1), TokenTerms("session")
        )
        site.project.connect_tokens.add(token)
        with site.project.sqlalchemy_engine.begin() as connection:
            connection.exec_driver_sql(
                f"create trigger crash before insert on {table} begin select raise(rollback, 'crash'); end"
            )
        tokens = OAuthTokens("access-7c1d", "refresh-7c1d", 3600)
        with pytest.raises(Exception, match=r"crash|exists already"):  # the error of a constraint
            connect_by_oauth(site.context, token, token_text="ctok_1", app="slack", tokens=tokens)
        found = site.project.connect_tokens.find("ctok_1")
        users = site.directory.users("development")
        with site.project.sqlalchemy_engine.begin() as connection:
            connection.exec_driver_sql("drop trigger crash")
        account = connect_by_oauth(site.context, token, token_text="ctok_1", app="slack", tokens=tokens)
        grant = site.project.grants.find(account.id)

    assert found is not None
    assert (found.used_at, list(users)) == (None, [])
    assert grant is not None
    assert grant.refresh_token == "refresh-7c1d"

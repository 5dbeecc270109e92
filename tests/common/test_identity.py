"""Environments, ids of external users, owners of accounts, and credentials that do not show."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pdkernel.common.identity import Account, Credentials, ProxyAccess, check_external_user_id, parse_environment
from pdkernel.errors import RequestError


@pytest.mark.parametrize(
    ("text", "environment"),
    [(None, "development"), ("", "development"), ("Development", "development"), ("PRODUCTION", "production")],
)
def test_an_environment(text: str | None, environment: str) -> None:
    """A missing environment is development; upper and lower case are the same."""
    assert parse_environment(text) == environment


@pytest.mark.parametrize("text", ["prod", " development", "staging"])
def test_another_environment_is_refused(text: str) -> None:
    """Only the two environments exist."""
    with pytest.raises(RequestError):
        parse_environment(text)


@pytest.mark.parametrize("text", ["a", " a ", "é" * 250])
def test_an_external_user_id(text: str) -> None:
    """An id has up to 250 characters and is not changed."""
    assert check_external_user_id(text) == text


@pytest.mark.parametrize("text", ["", " \t", "a\0", "\ud800", "a" * 251])
def test_an_invalid_external_user_id_is_refused(text: str) -> None:
    """A blank or long id, and an id that a database cannot store, is refused."""
    with pytest.raises(RequestError):
        check_external_user_id(text)


def test_the_owner_of_an_account() -> None:
    """An account without an external user is the author's own; by default it is healthy and has its credentials."""
    own = Account("apn_1", "slack", "Mine", None, "development", datetime(2026, 1, 1, tzinfo=UTC))
    theirs = Account("apn_2", "slack", "Ada's", "ada", "production", datetime(2026, 1, 1, tzinfo=UTC))

    assert (own.owner, theirs.owner) == ("own", "external_user")
    assert (own.healthy, own.withheld, own.credential_fields) == (True, False, ())


def test_credentials_show_names_only() -> None:
    """The texts of credentials and of access to the proxy have no value; the mapping is complete."""
    proxy = ProxyAccess("https://x/proxy", "apn_1", "ada", "development", lambda: "a-token-0123456789")
    for credentials in (
        Credentials({"token": "a-secret-0123456789", "team": "T1"}),
        Credentials({"token": "a-secret-0123456789", "team": "T1"}, withheld_names=["key"], proxy=proxy),
    ):
        assert dict(credentials) == {"token": "a-secret-0123456789", "team": "T1"}
        assert (len(credentials), list(credentials)) == (2, ["token", "team"])
        assert repr(credentials) == str(credentials) == "Credentials(token, team)"
    assert (credentials.withheld_names, credentials.proxy) == (("key",), proxy)
    assert "fetch_token" not in repr(proxy)

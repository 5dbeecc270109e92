"""Refresh of access tokens, against an OAuth 2 provider on a socket."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from pdkernel.accounts import LocalDirectory, token_refresh
from pdkernel.accounts.oauth_providers import PROVIDERS_SETTING
from pdkernel.common.clock import ManualClock
from pdkernel.common.identity import AccountGoneError
from pdkernel.storage import Project
from tests.oauth_provider import Provider, connect_account, oauth_provider, register

DUE_S = 3590
"""Seconds after which the first access token, which lasts an hour, is due for a refresh."""


@pytest.fixture
def provider() -> Iterator[Provider]:
    """An app's OAuth provider."""
    with oauth_provider() as running:
        yield running


@pytest.fixture
def account(home: Project, provider: Provider) -> str:
    """The id of an account that ada connected by OAuth."""
    return connect_account(home, provider)


@pytest.fixture
def directory(home: Project) -> LocalDirectory:
    """The directory of the project."""
    return LocalDirectory(home)


def token_of(directory: LocalDirectory, account: str) -> str:
    """The account's current access token."""
    return directory.credentials(account)["oauth_access_token"]


def tokens_of_eight_callers(directory: LocalDirectory, account: str) -> set[str]:
    """The access tokens that eight threads get at the same time."""
    with ThreadPoolExecutor(8) as threads:
        return set(threads.map(lambda _: token_of(directory, account), range(8)))


def grant_types(provider: Provider) -> list[str]:
    """The grant types of the requests to the provider."""
    return [form["grant_type"] for form in provider.requests]


def test_a_token_is_refreshed_five_minutes_before_it_expires(
    directory: LocalDirectory, account: str, provider: Provider, moving: ManualClock
) -> None:
    """Each refresh uses the newest refresh token."""
    first = token_of(directory, account)

    moving.advance(3299)
    early = token_of(directory, account)
    moving.advance(2)
    second = token_of(directory, account)
    moving.advance(3600)
    third = token_of(directory, account)

    assert early == first
    assert len({first, second, third}) == 3
    assert grant_types(provider) == ["refresh_token", "refresh_token"]


def test_a_refresh_token_that_is_not_replaced_is_used_again(
    directory: LocalDirectory, account: str, provider: Provider, moving: ManualClock
) -> None:
    """Many providers issue one refresh token for good (RFC 6749, section 6)."""
    provider.rotates = False
    tokens = [token_of(directory, account)]
    for _ in range(2):
        moving.advance(3600)
        tokens.append(token_of(directory, account))

    assert len(set(tokens)) == 3
    assert len({form["refresh_token"] for form in provider.requests}) == 1


def test_a_token_with_a_short_lifetime_is_refreshed_in_the_last_fifth(
    home: Project, directory: LocalDirectory, provider: Provider, moving: ManualClock
) -> None:
    """A lifetime of ten minutes has a margin of two minutes instead of five."""
    provider.expires_in = 600
    account = connect_account(home, provider)
    first = token_of(directory, account)

    moving.advance(479)
    early = token_of(directory, account)
    moving.advance(2)

    assert early == first
    assert token_of(directory, account) != first


def test_a_token_that_an_app_rejected_is_refreshed(
    directory: LocalDirectory, account: str, moving: ManualClock
) -> None:
    """After a reported 401 the next call gets a new token; the report of an account without a grant returns False."""
    first = token_of(directory, account)

    assert directory.report_unauthorized(account, moving.now())
    second = token_of(directory, account)

    assert second != first
    assert token_of(directory, account) == second
    assert not directory.report_unauthorized("apn_unknown", moving.now())


def test_two_reports_of_the_same_token_cause_one_refresh(
    directory: LocalDirectory, account: str, provider: Provider, moving: ManualClock
) -> None:
    """The second report returns True, and the second caller gets the new token of the first refresh."""
    since = moving.now()
    moving.advance(1)

    assert directory.report_unauthorized(account, since)
    first = token_of(directory, account)
    assert directory.report_unauthorized(account, since)
    second = token_of(directory, account)

    assert first == second
    assert len(provider.requests) == 1


def test_concurrent_callers_send_one_refresh(
    directory: LocalDirectory, account: str, provider: Provider, moving: ManualClock
) -> None:
    """A provider takes a repeated refresh token for stolen: eight concurrent callers send the token once."""
    moving.advance(DUE_S)

    found = tokens_of_eight_callers(directory, account)

    assert len(found) == 1
    assert found <= provider.tokens
    assert len(provider.requests) == 1


def test_a_provider_that_is_down_leaves_the_token(
    directory: LocalDirectory, account: str, provider: Provider, moving: ManualClock
) -> None:
    """The old token stays, the account stays healthy, and the next call tries again."""
    first = token_of(directory, account)
    moving.advance(DUE_S)

    provider.down = True
    meanwhile = token_of(directory, account)
    provider.down = False
    after = token_of(directory, account)

    found = directory.find_account(account)
    assert found is not None
    assert found.healthy
    assert meanwhile == first
    assert after != first


def test_concurrent_callers_wait_only_until_the_refresh_has_failed(
    directory: LocalDirectory, account: str, provider: Provider, moving: ManualClock
) -> None:
    """Waiting callers continue with the old token as soon as the provider has failed."""
    moving.advance(DUE_S)
    provider.down = True

    began = time.monotonic()
    found = tokens_of_eight_callers(directory, account)

    assert len(found) == 1
    assert time.monotonic() - began < token_refresh._MAX_WAIT_S  # the time that they wait for a refresh without an end


def test_a_wrong_client_secret_can_be_corrected(
    directory: LocalDirectory, account: str, home: Project, provider: Provider, moving: ManualClock
) -> None:
    """A rejected client secret leaves the account healthy; after the correction the token is refreshed."""
    first = token_of(directory, account)
    moving.advance(DUE_S)

    register(home, provider, secret="an-old-secret")
    meanwhile = token_of(directory, account)
    found = directory.find_account(account)
    register(home, provider)
    after = token_of(directory, account)

    assert found is not None
    assert found.healthy
    assert meanwhile == first
    assert after != first


def test_a_rejected_refresh_token_marks_the_account_unhealthy(
    directory: LocalDirectory, account: str, provider: Provider, moving: ManualClock
) -> None:
    """The provider gets one request; later calls do not repeat it."""
    provider.refresh_tokens.clear()
    moving.advance(DUE_S)

    token_of(directory, account)
    token_of(directory, account)

    found = directory.find_account(account)
    assert found is not None
    assert not found.healthy
    assert directory.reconnect_account(account, {"oauth_access_token": "new"}).healthy
    renewed = directory.find_account(account)
    assert renewed is not None
    assert renewed.healthy
    assert len(provider.requests) == 1


def test_a_token_that_is_not_due_any_more_is_left(home: Project, account: str, provider: Provider) -> None:
    """A process that finds the token already refreshed sends nothing, and leaves the next refresh to any process."""
    before = home.accounts.credentials(account)

    assert token_refresh.refresh_credentials(home, account, before) == before
    assert not home.grants.is_renewing(account)
    assert provider.requests == []


def test_a_token_of_an_app_without_a_client_is_left(
    home: Project, directory: LocalDirectory, account: str, moving: ManualClock
) -> None:
    """If the project has no OAuth client of the app any more, the token stays, and no other process waits for a refresh."""
    before = token_of(directory, account)
    home.settings.remove(PROVIDERS_SETTING)

    moving.advance(DUE_S)

    assert token_of(directory, account) == before
    assert not home.grants.is_renewing(account)


def test_credentials_that_a_person_enters_are_not_refreshed(
    directory: LocalDirectory, account: str, provider: Provider, moving: ManualClock
) -> None:
    """Credentials in place of those of a sign-in stay, also when the token of the sign-in would be due."""
    directory.reconnect_account(account, {"oauth_access_token": "entered"})

    moving.advance(DUE_S)

    assert token_of(directory, account) == "entered"
    assert provider.requests == []


def test_removing_an_account_removes_its_refresh_token(
    directory: LocalDirectory, account: str, home: Project, provider: Provider
) -> None:
    """The refresh token is deleted with the account, and with the external user."""
    other = connect_account(home, provider)
    assert home.grants.find(account) is not None

    directory.remove_account(account)
    directory.delete_user("ada", "development")

    assert (home.grants.find(account), home.grants.find(other)) == (None, None)


def test_a_refresh_of_a_removed_account_reports_that(
    home: Project, directory: LocalDirectory, account: str, provider: Provider
) -> None:
    """If the account is removed after its credentials were read, the refresh sends no request and names the account."""
    before = directory.credentials(account)
    directory.remove_account(account)

    with pytest.raises(AccountGoneError, match=account):
        token_refresh.refresh_credentials(home, account, before)

    assert provider.requests == []


def test_a_crash_between_token_and_refresh_token_leaves_both(
    home: Project, directory: LocalDirectory, account: str, provider: Provider, moving: ManualClock
) -> None:
    """If the new refresh token cannot be stored, the new access token is not stored either."""
    before = token_of(directory, account)
    moving.advance(DUE_S)
    with home.sqlalchemy_engine.begin() as connection:
        connection.exec_driver_sql(
            "create trigger crash before update of sealed_refresh_token on account_grants"
            " begin select raise(rollback, 'crash'); end"
        )
    with pytest.raises(Exception, match="crash"):
        token_of(directory, account)

    assert home.accounts.credentials(account)["oauth_access_token"] == before


def test_a_crash_of_a_reconnection_leaves_the_earlier_account(
    home: Project, directory: LocalDirectory, account: str
) -> None:
    """If the new credentials cannot be stored, the account keeps its credentials and its refresh token."""
    before = token_of(directory, account)
    with home.sqlalchemy_engine.begin() as connection:
        connection.exec_driver_sql(
            "create trigger crash before update of sealed_credentials on accounts begin select raise(rollback, 'crash'); end"
        )
    with pytest.raises(Exception, match="crash"):
        directory.reconnect_account(account, {"api_key": "another"})

    grant = home.grants.find(account)
    assert home.accounts.credentials(account)["oauth_access_token"] == before
    assert grant is not None
    assert grant.refresh_token is not None

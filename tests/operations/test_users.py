"""Connecting an account with typed credentials."""

from __future__ import annotations

import pytest

from pdkernel.accounts import LocalDirectory
from pdkernel.accounts.remote import RemoteDirectory
from pdkernel.accounts.sdk import Sdk
from pdkernel.common.identity import parse_environment
from pdkernel.errors import RequestError
from pdkernel.operations.users import connect_account, connect_test_account
from pdkernel.storage import Project
from pdkernel.storage.accounts import AccountExistsError
from pdkernel.storage.login import Login


def test_an_account_of_an_external_user(directory: LocalDirectory) -> None:
    """The account has the credentials, and the external user is created."""
    account = connect_account(
        directory, "slack", [("token", "t"), ("bot", "b")], external_user_id="ada", environment="production"
    )

    assert dict(directory.credentials(account.id)) == {"token": "t", "bot": "b"}
    assert [user.external_id for user in directory.users("production")] == ["ada"]


def test_an_account_of_your_own_has_its_id_and_name(directory: LocalDirectory) -> None:
    """Without an external user the account is your own; a second account with the id is refused."""
    account = connect_account(
        directory,
        "slack",
        [("token", "t")],
        external_user_id=None,
        environment="development",
        account_id="apn_abc1234",
        name="Mine",
    )

    assert (account.id, account.name, account.owner) == ("apn_abc1234", "Mine", "own")
    with pytest.raises(AccountExistsError):
        connect_account(
            directory,
            "slack",
            [("token", "t")],
            external_user_id=None,
            environment="development",
            account_id="apn_abc1234",
        )


@pytest.mark.parametrize(
    ("credentials", "user", "message"),
    [
        ([("", "v-secret")], "ada", "A credential has no name"),
        ([("k", "v-secret"), ("k", "w")], "ada", "The credential k is given twice"),
        ([("k", " ")], "ada", "The value of k is blank"),
        ([("k", "v-secret")], " ", "cannot be blank"),
    ],
)
def test_invalid_input_connects_no_account(
    directory: LocalDirectory, credentials: list[tuple[str, str]], user: str, message: str
) -> None:
    """A nameless, doubled or blank credential and a blank user are errors that contain no value."""
    with pytest.raises(RequestError, match=message) as caught:
        connect_account(directory, "slack", credentials, external_user_id=user, environment="development")

    assert "v-secret" not in str(caught.value)
    assert directory.accounts() == []


def test_a_test_account_is_made_once(directory: LocalDirectory) -> None:
    """A user without an account of the app gets one with made-up credentials; a second call changes nothing."""
    made = connect_test_account(directory, "slack", external_user_id="ada", environment="development")
    again = connect_test_account(directory, "slack", external_user_id="ada", environment="development")

    assert made is not None
    assert dict(directory.credentials(made.id)) == {"oauth_access_token": "test-account-oauth_access_token"}
    assert again is None


def test_a_test_account_is_of_one_environment(directory: LocalDirectory) -> None:
    """A user with an account in development has none in production, where the test account is then made."""
    for environment in ("development", "production"):
        made = connect_test_account(
            directory, "slack", external_user_id="ada", environment=parse_environment(environment)
        )

        assert made is not None
        assert (made.external_user_id, made.environment) == ("ada", environment)


def test_a_test_account_needs_a_local_project(project: Project) -> None:
    """In a real project, whose accounts are at Pipedream, no account is made up."""
    directory = RemoteDirectory(project, Sdk(Login("c", "s", "proj_x", base_url="http://127.0.0.1:9")))

    with pytest.raises(RequestError, match="A test account is for a local project"):
        connect_test_account(directory, "slack", external_user_id="ada", environment="development")

"""Users and accounts of a directory at one moment, and the commands that connect missing accounts."""

from __future__ import annotations

import pytest

from pdkernel.accounts import LocalDirectory
from pdkernel.common.identity import Environment
from pdkernel.engine.directory_snapshot import DirectorySnapshot, format_connect_account_command
from pdkernel.model import AppBinding


def snapshot(directory: LocalDirectory, environment: Environment = "development", *users: str) -> DirectorySnapshot:
    """A snapshot of the Slack accounts of *users*, by default ada."""
    return DirectorySnapshot(directory, environment, users or ("ada",), ("slack",))


def add(directory: LocalDirectory, user: str | None, account_id: str, app: str = "slack", **more: str) -> None:
    """Connect an account."""
    directory.add_account(
        app=app,
        credentials={"oauth_access_token": "x"},
        external_user_id=user,
        account_id=account_id,
        environment="production" if more.get("environment") == "production" else "development",
    )


def test_accounts_of_a_user(directory: LocalDirectory) -> None:
    """A user's accounts of an app are the newest first, and no account of another user, app or environment."""
    add(directory, "ada", "apn_1")
    add(directory, "ada", "apn_2")
    add(directory, "bob", "apn_3")
    add(directory, "ada", "apn_4", app="github")
    add(directory, "ada", "apn_5", environment="production")

    found = snapshot(directory)

    assert {each.id for each in found.accounts("ada", "slack")} == {"apn_1", "apn_2"}
    assert [each.id for each in found.candidates("ada", "slack")] == [
        each.id for each in found.accounts("ada", "slack")
    ]
    assert found.accounts("bob", "slack") == ()
    assert found.accounts("ada", "github") == ()
    assert [each.id for each in snapshot(directory, "production").accounts("ada", "slack")] == ["apn_5"]


def test_a_snapshot_does_not_change(directory: LocalDirectory) -> None:
    """An account that is removed or connected later is not in the snapshot; an own account is read once."""
    add(directory, "ada", "apn_1")
    add(directory, None, "apn_own")
    found = snapshot(directory)
    before = [found.find_account("apn_own"), found.find_account("apn_gone"), found.has_user("bob")]
    directory.remove_account("apn_own")
    add(directory, "ada", "apn_2")
    add(directory, "bob", "apn_3")
    add(directory, None, "apn_gone")

    assert [found.find_account("apn_own"), found.find_account("apn_gone"), found.has_user("bob")] == before
    assert before[0] is not None
    assert before[1:] == [None, False]
    assert [each.id for each in found.accounts("ada", "slack")] == ["apn_1"]


@pytest.mark.parametrize(
    ("environment", "users"),
    [("development", (True, False, True, False)), ("production", (False, True, False, True))],
)
def test_users_of_both_environments(
    directory: LocalDirectory, environment: Environment, users: tuple[bool, ...]
) -> None:
    """A user exists in an environment with an account there, of any app."""
    add(directory, "ada", "apn_1", app="github")
    add(directory, "bob", "apn_2", environment="production")

    found = snapshot(directory, environment, "ada", "bob")

    assert (
        found.has_user("ada"),
        found.has_user("bob"),
        found.has_user_in_other_environment("bob"),
        found.has_user_in_other_environment("ada"),
    ) == users
    assert not found.has_user("eve")


@pytest.mark.parametrize(
    ("count", "ending"),
    [(0, "development has no external users yet."), (1, "development: u00."), (10, "u08, u09."), (11, "u09 and more.")],
)
def test_known_users_are_named(directory: LocalDirectory, count: int, ending: str) -> None:
    """A sentence names ten users, and reports whether there are more."""
    for number in range(count):
        add(directory, f"u{number:02}", f"apn_{number}")

    assert snapshot(directory).describe_known_users("zoe").endswith(ending)


def test_a_mistyped_user_is_named_first(directory: LocalDirectory) -> None:
    """The sentence begins with the user whose id is near the unknown one, wherever that user is in the list."""
    for number, user in enumerate(("ada", "bob", "grace")):
        add(directory, user, f"apn_{number}")

    assert snapshot(directory).describe_known_users("grcae") == (
        "Did you mean grace? External users in development: ada, bob, grace."
    )


def test_commands_that_connect_accounts(directory: LocalDirectory) -> None:
    """The command names user, app, environment and the credentials that the app is known to have."""
    development, production = snapshot(directory), snapshot(directory, "production")
    directory.add_account(app="hub", credentials={"key": "x", "host": "y"}, external_user_id="bob")

    assert development.format_connect_command("hub", "o'hara") == (
        "pdkernel accounts add --external-user 'o'\"'\"'hara' --app hub --credential key --credential host"
    )
    assert production.format_connect_command("rare_app", "ada") == (
        "pdkernel accounts add --external-user ada --app rare_app --environment production --credential oauth_access_token"
    )
    assert development.format_own_account_command(AppBinding("chat", "rare_app", "apn_9")) == (
        "pdkernel accounts add --own --app rare_app --id apn_9 --credential oauth_access_token"
    )
    assert format_connect_account_command("rare_app", "ada", "production", directory) == (
        production.format_connect_command("rare_app", "ada")
    )


def test_a_token_is_asked_alone(directory: LocalDirectory) -> None:
    """An app with a token has further fields, which most steps do not need."""
    add(directory, "bob", "apn_1")

    assert snapshot(directory).format_connect_command("slack", "ada").endswith(" --credential oauth_access_token")

"""The directory of a local project."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pdkernel.clock import ManualClock, SequentialIds
from pdkernel.connect import LocalDirectory
from pdkernel.connect.registered_apps import register_app
from pdkernel.errors import RequestError
from pdkernel.identity import Account, Directory, ExternalUser, WouldBlockError
from pdkernel.project import Grant, Project
from pdkernel.project.accounts import AccountExistsError

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def clock() -> ManualClock:
    """A clock that a test moves."""
    return ManualClock(START)


@pytest.fixture
def project(tmp_path: Path, clock: ManualClock) -> Iterator[Project]:
    """A fresh project."""
    with Project.open(tmp_path / ".pdkernel", clock=clock, ids=SequentialIds()) as project:
        yield project


@pytest.fixture
def directory(project: Project) -> Directory:
    """Its directory, as the rest of the package knows it."""
    return LocalDirectory(project)


def connect(directory: Directory, user: str | None, app: str = "slack", **more: str) -> Account:
    """An account with one credential."""
    return directory.add_account(
        app=app,
        credentials={"oauth_access_token": "token"},
        external_user_id=user,
        environment="production" if more.pop("environment", "") == "production" else "development",
        account_id=more.get("account_id"),
    )


def test_directory_is_the_projects(directory: Directory, project: Project) -> None:
    """The directory names its project and follows its plan."""
    project.set_plan("free")

    assert (directory.project_id, directory.plan) == (project.project_id, "free")


def test_account_comes_back(directory: Directory) -> None:
    """An account is found again by its id, with the names of its credentials and never their values."""
    account = directory.add_account(
        app="postgresql",
        credentials={"host": "db", "password": "pw"},
        external_user_id="ada",
        environment="production",
        name="Orders",
    )

    assert account == Account(
        id="apn_0000001",
        app="postgresql",
        name="Orders",
        external_user_id="ada",
        environment="production",
        created_at=START,
        healthy=True,
        credential_fields=("host", "password"),
    )
    assert directory.find_account("apn_0000001") == account
    assert directory.find_account("apn_0000002") is None


def test_credentials_come_back(directory: Directory) -> None:
    """The account's credentials are what was typed, in that order."""
    account = directory.add_account(app="x", credentials={"b": "1", "a": "é\ud800"}, external_user_id="ada")

    assert list(directory.credentials(account.id).items()) == [("b", "1"), ("a", "é\ud800")]


def test_at_hand_it_gives_what_it_has(directory: Directory) -> None:
    """Who cannot wait gets the same accounts and credentials, as long as no token has to be renewed."""
    account = connect(directory, "ada")

    with directory.nonblocking() as at_hand:
        assert at_hand is not None
        assert at_hand.newest_account("ada", "development", "slack") == account
        assert at_hand.credentials(account.id) == directory.credentials(account.id)


def test_at_hand_no_provider_is_waited_for(directory: Directory, project: Project, clock: ManualClock) -> None:
    """Where the token is due, who cannot wait is told so, instead of being made to wait for the app's provider."""
    account = connect(directory, "ada")
    project.grants.set(account.id, Grant("refresh-0123456789", clock.now(), clock.now()))

    with directory.nonblocking() as at_hand:
        assert at_hand is not None
        with pytest.raises(WouldBlockError):
            at_hand.credentials(account.id)


def test_credentials_of_nobody(directory: Directory) -> None:
    """Credentials of an unknown account are an error, not an empty mapping."""
    with pytest.raises(LookupError, match="apn_none"):
        directory.credentials("apn_none")


def test_user_exists_from_first_account(directory: Directory, clock: ManualClock) -> None:
    """A user exists from the first account on, in that environment only, and keeps the time of the first."""
    assert directory.find_user("ada", "development") is None

    connect(directory, "ada")
    clock.advance(60)
    connect(directory, "ada", app="github")

    assert directory.find_user("ada", "development") == ExternalUser("ada", "development", START)
    assert directory.find_user("ada", "production") is None
    assert directory.users("production") == []


def test_users_are_listed_by_id(directory: Directory) -> None:
    """The users of an environment are listed by id."""
    for user in ("linus", "ada", "Grace"):
        connect(directory, user)

    assert [user.external_id for user in directory.users("development")] == ["Grace", "ada", "linus"]


def test_user_stays_without_accounts(directory: Directory) -> None:
    """A user whose last account is removed still exists."""
    account = connect(directory, "ada")

    assert directory.remove_account(account.id)

    assert directory.find_user("ada", "development") is not None
    assert directory.accounts() == []


def test_deleting_a_user_takes_the_accounts(directory: Directory) -> None:
    """A deleted user's accounts are gone in that environment; the other one and other users keep theirs."""
    connect(directory, "ada")
    kept = [connect(directory, "ada", environment="production"), connect(directory, "grace"), connect(directory, None)]

    assert directory.delete_user("ada", "development")

    assert {account.id for account in directory.accounts()} == {account.id for account in kept}
    assert directory.find_user("ada", "development") is None
    assert directory.find_user("ada", "production") is not None


def test_deleting_nobody(directory: Directory) -> None:
    """Deleting a user that does not exist says so."""
    assert not directory.delete_user("ada", "development")


def test_newest_account_wins(directory: Directory, clock: ManualClock) -> None:
    """Of several accounts of an app, the one most recently created is the user's."""
    connect(directory, "ada", account_id="apn_old")
    clock.advance(1)
    connect(directory, "ada", account_id="apn_new")
    clock.advance(-2)
    connect(directory, "ada", account_id="apn_clock_went_back")

    newest = directory.newest_account("ada", "development", "slack")

    assert newest is not None
    assert newest.id == "apn_new"


def test_last_connected_wins_a_tie(directory: Directory) -> None:
    """Of accounts created in the same instant, the last one connected is the user's."""
    for account_id in ("apn_b", "apn_c", "apn_a"):
        connect(directory, "ada", account_id=account_id)

    newest = directory.newest_account("ada", "development", "slack")

    assert newest is not None
    assert newest.id == "apn_a"
    assert [account.id for account in directory.accounts()] == ["apn_a", "apn_c", "apn_b"]


@pytest.mark.parametrize(
    ("user", "environment", "app"),
    [("grace", "development", "slack"), ("ada", "production", "slack"), ("ada", "development", "github")],
)
def test_newest_account_is_nobody_elses(directory: Directory, user: str, environment: str, app: str) -> None:
    """Another user, another environment or another app has none of this account, nor of one of your own."""
    connect(directory, "ada")
    connect(directory, None)

    assert directory.newest_account(user, "production" if environment == "production" else "development", app) is None


def test_newest_accounts_of_many_are_those_of_each(directory: Directory, clock: ManualClock) -> None:
    """Asked for several users and apps at once, it gives what `newest_account` chooses, and at most so many of each."""
    for app in ("slack", "github"):
        for user in ("ada", "grace"):
            for _ in range(3):
                clock.advance(1)
                connect(directory, user, app)
    connect(directory, "ada", environment="production")
    connect(directory, None)

    found = directory.newest_accounts(["ada", "grace", "joan"], "development", ["slack", "github"], limit=2)

    of_each: dict[tuple[str | None, str], list[Account]] = {}
    for account in found:
        of_each.setdefault((account.external_user_id, account.app), []).append(account)
    assert all(len(theirs) == 2 for theirs in of_each.values())
    assert {key: theirs[0] for key, theirs in of_each.items()} == {
        (user, app): directory.newest_account(user, "development", app)
        for user in ("ada", "grace")
        for app in ("slack", "github")
    }


def test_first_users_are_by_id(directory: Directory) -> None:
    """A limit gives the first users by id, of that environment only."""
    for user in ("grace", "ada", "joan"):
        connect(directory, user)
    connect(directory, "aaron", environment="production")

    assert [user.external_id for user in directory.users("development", limit=2)] == ["ada", "grace"]


def test_own_accounts_belong_to_no_user(directory: Directory) -> None:
    """An account of your own makes no user, and carries development whatever was asked."""
    account = connect(directory, None, environment="production")

    assert (account.owner, account.environment) == ("own", "development")
    assert directory.users("development") == []


def test_accounts_match_everything_given(directory: Directory) -> None:
    """Accounts are picked by user, environment, app and owner; your own are valid in both environments."""
    connect(directory, "ada", account_id="apn_1")
    connect(directory, "ada", "github", account_id="apn_2", environment="production")
    connect(directory, None, account_id="apn_3")

    def ids(accounts: object) -> list[str]:
        assert isinstance(accounts, list)
        return [account.id for account in accounts]

    assert ids(directory.accounts()) == ["apn_3", "apn_2", "apn_1"]
    assert ids(directory.accounts(own=True)) == ["apn_3"]
    assert ids(directory.accounts(own=False)) == ["apn_2", "apn_1"]
    assert ids(directory.accounts(external_user_id="ada")) == ["apn_2", "apn_1"]
    assert ids(directory.accounts(external_user_id="ada", environment="development")) == ["apn_1"]
    assert ids(directory.accounts(environment="production")) == ["apn_3", "apn_2"]
    assert ids(directory.accounts(app="slack")) == ["apn_3", "apn_1"]
    assert ids(directory.accounts(app="slack", own=False, environment="production")) == []


def test_taken_id_is_refused(directory: Directory) -> None:
    """An account id can be used once; the account that has it is kept as it was."""
    account = connect(directory, "ada", account_id="apn_1")

    with pytest.raises(AccountExistsError, match="There is an account apn_1 already"):
        connect(directory, "grace", account_id="apn_1")

    assert directory.find_account("apn_1") == account
    assert directory.find_user("grace", "development") is None


def test_removing_twice(directory: Directory) -> None:
    """Removing says whether there was an account."""
    account = connect(directory, "ada")

    assert (directory.remove_account(account.id), directory.remove_account(account.id)) == (True, False)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"app": "Google Sheets"}, "'Google Sheets' is not an app's slug"),
        ({"external_user_id": " "}, "An external user's id cannot be blank"),
        ({"external_user_id": "x" * 251}, "at most 250 characters"),
        ({"account_id": "apn_a/b"}, "'apn_a/b' is not a valid account id"),
        ({"account_id": "acc_1"}, "'acc_1' is not a valid account id"),
        ({"credentials": {}}, "needs at least one credential"),
        ({"credentials": {" ": "pw-4711"}}, "has no name"),
    ],
)
def test_what_cannot_be_connected(directory: Directory, wrong: dict[str, object], message: str) -> None:
    """What cannot be an account is refused by name, without showing a credential."""
    given: dict[str, object] = {"app": "slack", "external_user_id": "ada", "credentials": {"t": "pw-4711"}}

    with pytest.raises(RequestError) as caught:
        directory.add_account(**(given | wrong))  # type: ignore[arg-type]

    assert message in str(caught.value)
    assert "pw-4711" not in str(caught.value)
    assert directory.accounts() == []


@pytest.mark.parametrize(
    ("app", "fields"),
    [
        ("slack", ["oauth_access_token"]),
        ("openai", ["api_key"]),
        ("postgresql", ["host", "port", "user", "password", "database"]),
        ("never_heard_of", ["oauth_access_token", "api_key"]),
    ],
)
def test_known_fields(directory: Directory, app: str, fields: list[str]) -> None:
    """A form asks for what accounts of that app usually hold."""
    assert list(directory.credential_fields(app)) == fields


def test_fields_of_the_newest_account_are_asked_for(directory: Directory, clock: ManualClock) -> None:
    """An app that has accounts is asked for what the newest of them holds."""
    directory.add_account(app="slack", credentials={"bot_token": "1", "team": "2"}, external_user_id="ada")
    clock.advance(timedelta(days=1).total_seconds())
    directory.add_account(app="slack", credentials={"bot_token": "1"}, external_user_id=None)

    assert list(directory.credential_fields("slack")) == ["bot_token"]


def test_a_field_that_was_left_empty_is_asked_for_again(directory: Directory) -> None:
    """An account that holds less than accounts of that app usually do takes no field from the form."""
    directory.add_account(app="supabase", credentials={"subdomain": "acme"}, external_user_id="ada")

    assert list(directory.credential_fields("supabase")) == ["subdomain", "service_key"]


def test_what_was_told_of_an_app_is_asked_for(directory: Directory, project: Project) -> None:
    """What the project was told that an account holds goes before what the newest account does."""
    register_app(project, "my_crm", ["subdomain", "api_key"])
    directory.add_account(app="my_crm", credentials={"subdomain": "acme"}, external_user_id="ada")

    assert list(directory.credential_fields("my_crm")) == ["subdomain", "api_key"]


def test_ids_and_apps_of_accounts(directory: Directory, clock: ManualClock) -> None:
    """The ids are those of the accounts in their order, whatever is asked for; the apps are theirs."""
    for user, app in (("ada", "slack"), ("bob", "github"), (None, "slack"), ("ada", "slack")):
        clock.advance(1)
        directory.add_account(app=app, credentials={"api_key": "k-12345678"}, external_user_id=user)
    for asked in ({}, {"environment": "development"}, {"external_user_id": "ada"}, {"app": "slack"}, {"own": False}):
        found = directory.accounts(**asked)
        assert found
        assert list(directory.account_ids(**asked)) == [account.id for account in found]
    assert set(directory.connected_apps()) == {account.app for account in directory.accounts()}

"""The directory of a local project."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pdkernel.accounts import LocalDirectory
from pdkernel.accounts.apps import register_app
from pdkernel.common.clock import ManualClock, SequentialIds
from pdkernel.common.identity import Account, Directory, ExternalUser, WouldBlockError
from pdkernel.errors import RequestError
from pdkernel.storage import Grant, Project
from pdkernel.storage.accounts import AccountExistsError

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def clock() -> ManualClock:
    """A clock that a test advances."""
    return ManualClock(START)


@pytest.fixture
def project(tmp_path: Path, clock: ManualClock) -> Iterator[Project]:
    """A new project."""
    with Project.open(tmp_path / ".pdkernel", clock=clock, ids=SequentialIds()) as project:
        yield project


@pytest.fixture
def directory(project: Project) -> Directory:
    """The project's directory, by its protocol."""
    return LocalDirectory(project)


def connect(directory: Directory, user: str | None, app: str = "slack", **more: str) -> Account:
    """Connect an account with one credential."""
    return directory.add_account(
        app=app,
        credentials={"oauth_access_token": "token"},
        external_user_id=user,
        environment="production" if more.pop("environment", "") == "production" else "development",
        account_id=more.get("account_id"),
    )


def test_the_directory_has_the_projects_id_and_plan(directory: Directory, project: Project) -> None:
    """A change of the project's plan is visible in the directory."""
    project.set_plan("free")

    assert (directory.project_id, directory.plan) == (project.project_id, "free")


def test_an_account_is_found_by_its_id(directory: Directory) -> None:
    """The account has the names of its credentials, and not the values."""
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


def test_credentials_are_returned_unchanged(directory: Directory) -> None:
    """The credentials have the given values in the given order."""
    account = directory.add_account(app="x", credentials={"b": "1", "a": "é\ud800"}, external_user_id="ada")

    assert list(directory.credentials(account.id).items()) == [("b", "1"), ("a", "é\ud800")]


def test_the_nonblocking_view_has_the_same_accounts(directory: Directory) -> None:
    """The view has the same accounts and credentials if no token is due for a refresh."""
    account = connect(directory, "ada")

    with directory.nonblocking() as view:
        assert view is not None
        assert view.newest_account("ada", "development", "slack") == account
        assert view.credentials(account.id) == directory.credentials(account.id)


def test_the_nonblocking_view_does_not_refresh_tokens(
    directory: Directory, project: Project, clock: ManualClock
) -> None:
    """If a token is due, the view raises `WouldBlockError` instead of calling the provider."""
    account = connect(directory, "ada")
    project.grants.set(account.id, Grant("refresh-0123456789", clock.now(), clock.now()))

    with directory.nonblocking() as view:
        assert view is not None
        with pytest.raises(WouldBlockError):
            view.credentials(account.id)


def test_credentials_of_an_unknown_account(directory: Directory) -> None:
    """The credentials of an unknown account raise an error."""
    with pytest.raises(LookupError, match="apn_none"):
        directory.credentials("apn_none")


def test_a_user_exists_from_the_first_account_on(directory: Directory, clock: ManualClock) -> None:
    """A user exists in the environment of their first account, and keeps its creation time."""
    assert directory.find_user("ada", "development") is None

    connect(directory, "ada")
    clock.advance(60)
    connect(directory, "ada", app="github")

    assert directory.find_user("ada", "development") == ExternalUser("ada", "development", START)
    assert directory.find_user("ada", "production") is None
    assert directory.users("production") == []


def test_users_are_listed_by_id(directory: Directory) -> None:
    """The users of an environment are sorted by id."""
    for user in ("linus", "ada", "Grace"):
        connect(directory, user)

    assert [user.external_id for user in directory.users("development")] == ["Grace", "ada", "linus"]


def test_a_user_stays_without_accounts(directory: Directory) -> None:
    """A user whose last account is removed still exists."""
    account = connect(directory, "ada")

    assert directory.remove_account(account.id)

    assert directory.find_user("ada", "development") is not None
    assert directory.accounts() == []


def test_a_deleted_user_loses_their_accounts(directory: Directory) -> None:
    """The accounts of that environment are deleted; other accounts stay."""
    connect(directory, "ada")
    kept = [connect(directory, "ada", environment="production"), connect(directory, "grace"), connect(directory, None)]

    assert directory.delete_user("ada", "development")

    assert {account.id for account in directory.accounts()} == {account.id for account in kept}
    assert directory.find_user("ada", "development") is None
    assert directory.find_user("ada", "production") is not None


def test_deleting_an_unknown_user(directory: Directory) -> None:
    """Deleting an unknown user returns False."""
    assert not directory.delete_user("ada", "development")


def test_the_account_created_last_is_the_newest(directory: Directory, clock: ManualClock) -> None:
    """The newest account is the account with the latest creation time."""
    connect(directory, "ada", account_id="apn_old")
    clock.advance(1)
    connect(directory, "ada", account_id="apn_new")
    clock.advance(-2)
    connect(directory, "ada", account_id="apn_clock_went_back")

    newest = directory.newest_account("ada", "development", "slack")

    assert newest is not None
    assert newest.id == "apn_new"


def test_the_newest_of_accounts_created_at_the_same_time(directory: Directory) -> None:
    """Of accounts with the same creation time, the last connected one is the newest."""
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
def test_the_newest_account_is_of_that_user_and_app(
    directory: Directory, user: str, environment: str, app: str
) -> None:
    """Another user, environment or app has no newest account; an account of your own does not count."""
    connect(directory, "ada")
    connect(directory, None)

    assert directory.newest_account(user, "production" if environment == "production" else "development", app) is None


def test_newest_accounts_of_several_users_and_apps(directory: Directory, clock: ManualClock) -> None:
    """The result has at most *limit* accounts of each user and app, with the newest account first."""
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
    assert all(len(group) == 2 for group in of_each.values())
    assert {key: group[0] for key, group in of_each.items()} == {
        (user, app): directory.newest_account(user, "development", app)
        for user in ("ada", "grace")
        for app in ("slack", "github")
    }
    for (owner, app), group in of_each.items():
        assert directory.newest_accounts([owner or ""], "development", [app], limit=2) == group


def test_a_limited_list_of_users(directory: Directory) -> None:
    """A limit returns the first users by id in that environment."""
    for user in ("grace", "ada", "joan"):
        connect(directory, user)
    connect(directory, "aaron", environment="production")

    assert [user.external_id for user in directory.users("development", limit=2)] == ["ada", "grace"]


def test_own_accounts_belong_to_no_user(directory: Directory) -> None:
    """An account of your own creates no user, and has the environment development."""
    account = connect(directory, None, environment="production")

    assert (account.owner, account.environment) == ("own", "development")
    assert directory.users("development") == []


def test_accounts_match_all_filters(directory: Directory) -> None:
    """Accounts are filtered by user, environment, app and owner; your own match both environments."""
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


def test_an_account_id_is_used_once(directory: Directory) -> None:
    """A second account with the same id is refused, and the first stays unchanged."""
    account = connect(directory, "ada", account_id="apn_1")

    with pytest.raises(AccountExistsError, match="The account apn_1 exists already"):
        connect(directory, "grace", account_id="apn_1")

    assert directory.find_account("apn_1") == account
    assert directory.find_user("grace", "development") is None


def test_an_unknown_account_is_not_reconnected(directory: Directory) -> None:
    """The error names the id, and the account is not created."""
    with pytest.raises(RequestError, match="There is no account 'apn_none'"):
        directory.reconnect_account("apn_none", {"oauth_access_token": "t"})

    assert directory.find_account("apn_none") is None


def test_removing_an_account_twice(directory: Directory) -> None:
    """The second removal returns False."""
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
def test_an_invalid_account_is_refused(directory: Directory, wrong: dict[str, object], message: str) -> None:
    """The error names the invalid field, and does not show a credential."""
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
        ("unlisted_app", ["oauth_access_token", "api_key"]),
    ],
)
def test_usual_credential_fields(directory: Directory, app: str, fields: list[str]) -> None:
    """A form has the usual credentials of the app."""
    assert list(directory.credential_fields(app)) == fields


def test_fields_of_the_newest_account(directory: Directory, clock: ManualClock) -> None:
    """A form has the credentials of the app's newest account."""
    directory.add_account(app="slack", credentials={"bot_token": "1", "team": "2"}, external_user_id="ada")
    clock.advance(timedelta(days=1).total_seconds())
    directory.add_account(app="slack", credentials={"bot_token": "1"}, external_user_id=None)

    assert list(directory.credential_fields("slack")) == ["bot_token"]


def test_an_omitted_field_stays_in_the_form(directory: Directory) -> None:
    """A newest account with fewer credentials than usual does not remove fields from the form."""
    directory.add_account(app="supabase", credentials={"subdomain": "acme"}, external_user_id="ada")

    assert list(directory.credential_fields("supabase")) == ["subdomain", "service_key"]


def test_registered_fields_come_first(directory: Directory, project: Project) -> None:
    """Registered fields of an app replace the fields of its newest account."""
    register_app(project, "my_crm", ["subdomain", "api_key"])
    directory.add_account(app="my_crm", credentials={"subdomain": "acme"}, external_user_id="ada")

    assert list(directory.credential_fields("my_crm")) == ["subdomain", "api_key"]


def test_account_ids_match_accounts(directory: Directory, clock: ManualClock) -> None:
    """`account_ids` returns the ids of `accounts` in the same order; `connected_apps` returns their apps."""
    for user, app in (("ada", "slack"), ("bob", "github"), (None, "slack"), ("ada", "slack")):
        clock.advance(1)
        directory.add_account(app=app, credentials={"api_key": "k-12345678"}, external_user_id=user)
    for filters in ({}, {"environment": "development"}, {"external_user_id": "ada"}, {"app": "slack"}, {"own": False}):
        found = directory.accounts(**filters)
        assert found
        assert list(directory.account_ids(**filters)) == [account.id for account in found]
    assert set(directory.connected_apps()) == {account.app for account in directory.accounts()}


def test_the_name_of_an_account(directory: Directory) -> None:
    """Without a name, an account is named after its user, and an account of your own after its app."""
    accounts = [connect(directory, user, app="github") for user in ("ada", None)]

    assert [account.name for account in accounts] == ["ada", "github"]
    assert [account.name for account in directory.accounts()] == ["github", "ada"]


def test_fields_that_components_read(directory: Directory, project: Project, tmp_path: Path) -> None:
    """The form of an app has the fields that its components read, then those that its newest account has besides."""
    (tmp_path / "components" / "twilio" / "actions").mkdir(parents=True)
    (tmp_path / "components" / "twilio" / "twilio.app.mjs").write_text(
        "export default { methods: { client() { return f(this.$auth.Sid, this.$auth.Secret); } } };"
    )
    project.settings.set("actions", [str(tmp_path)])
    before = list(directory.credential_fields("twilio"))

    directory.add_account(external_user_id="ada", app="twilio", credentials={"Secret": "s", "region": "ie1"})

    assert before == ["Sid", "Secret"]
    assert list(directory.credential_fields("twilio")) == ["Sid", "Secret", "region"]
    assert list(directory.credential_fields("mysql")) == ["host", "port", "username", "password", "database"]

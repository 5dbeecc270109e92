"""Accounts: filters, order, credentials that a renewal replaces, and the removal of a user."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pdkernel.common.clock import ManualClock
from pdkernel.common.identity import Account, AccountFilters, Environment, fold_text
from pdkernel.storage import Project
from pdkernel.storage.accounts import RENEWAL_CLAIM_S, AccountExistsError, Grant
from tests.storage.test_deployed_triggers import add_trigger


def add_account(
    project: Project,
    account_id: str,
    *,
    app: str = "slack",
    user: str | None = "ada",
    environment: Environment = "development",
    age_s: float = 0,
    name: str | None = None,
) -> Account:
    """Store an account that is *age_s* seconds old, with the credential `token`."""
    created = project.clock.now() - timedelta(seconds=age_s)
    account = Account(account_id, app, name or account_id, user, environment, created, credential_fields=("token",))
    project.accounts.add(account, {"token": f"secret of {account_id}"})
    return account


@pytest.fixture
def accounts(sqlite_project: Project) -> None:
    """Six accounts; an id that sorts first is the oldest or newest of none."""
    add_account(sqlite_project, "apn_2", age_s=2)
    add_account(sqlite_project, "apn_1", age_s=1)
    add_account(sqlite_project, "apn_3", app="github", age_s=3)
    add_account(sqlite_project, "apn_4", user="bob", age_s=4)
    add_account(sqlite_project, "apn_5", environment="production", age_s=5)
    add_account(sqlite_project, "apn_6", user=None, age_s=6)


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, "123456"),
        ({"external_user_id": "ada"}, "1235"),
        ({"external_user_id": "ada", "environment": "development"}, "123"),
        ({"environment": "production"}, "56"),
        ({"app": "github"}, "3"),
        ({"own": True}, "6"),
        ({"own": True, "environment": "production"}, "6"),
        ({"own": False}, "12345"),
        ({"own": False, "environment": "production"}, "5"),
        ({"own": False, "app": "slack", "environment": "development"}, "124"),
        ({"external_user_id": "eve"}, ""),
    ],
)
@pytest.mark.usefixtures("accounts")
def test_filters_of_accounts(sqlite_project: Project, filters: AccountFilters, found: str) -> None:
    """Accounts match all filters, newest first; an environment alone lists your own accounts too."""
    expected = [f"apn_{number}" for number in found]

    assert [account.id for account in sqlite_project.accounts.list_accounts(**filters)] == expected
    assert sqlite_project.accounts.account_ids(**filters) == expected


@pytest.mark.usefixtures("accounts")
def test_the_newest_accounts_of_one_or_several_users(sqlite_project: Project) -> None:
    """The limit counts for each user and app, and the query of one user finds the same accounts as that of several."""
    table = sqlite_project.accounts

    def ids(users: list[str], apps: list[str], limit: int) -> list[str]:
        return [account.id for account in table.newest_accounts(users, "development", apps, limit=limit)]

    assert ids(["ada"], ["slack"], 1) == ["apn_1"]
    assert ids(["ada"], ["slack"], 2) == ["apn_1", "apn_2"]
    assert ids(["ada", "bob"], ["slack", "github"], 1) == ["apn_1", "apn_3", "apn_4"]
    assert ids(["ada", "bob"], ["slack"], 2) == ["apn_1", "apn_2", "apn_4"]
    assert ids(["ada"], [], 1) == []
    assert table.connected_apps() == {"slack", "github"}


def test_a_renewal_without_its_claim_changes_nothing(sqlite_project: Project, clock: ManualClock) -> None:
    """With a claim, credentials and health change only while the grant has that claim."""
    table, grants = sqlite_project.accounts, sqlite_project.grants
    add_account(sqlite_project, "apn_1")
    grants.set("apn_1", Grant("refresh", None, clock.now()))
    claim = grants.claim_renewal("apn_1")
    assert claim is not None

    assert not table.replace_credentials("apn_1", {"new": "x"}, renewal_claim=claim + 1)
    assert not table.mark_unhealthy("apn_1", renewal_claim=claim + 1)
    assert (dict(table.credentials("apn_1")), table.list_accounts()[0].healthy) == ({"token": "secret of apn_1"}, True)
    assert table.mark_unhealthy("apn_1", renewal_claim=claim)
    assert not table.list_accounts()[0].healthy
    assert table.replace_credentials("apn_1", {"new": "x"}, renewal_claim=claim)
    found = table.find("apn_1")
    assert found is not None
    assert (found.healthy, found.credential_fields) == (True, ("new",))
    assert (dict(table.credentials("apn_1")), table.credentials_and_grant("apn_1")[1]) == ({"new": "x"}, True)
    assert not table.replace_credentials("apn_2", {"new": "x"})


def test_an_account_that_exists_keeps_its_credentials(sqlite_project: Project) -> None:
    """A second account with the same id is refused, and its user is not created; a removed one leaves no grant."""
    add_account(sqlite_project, "apn_1")
    sqlite_project.grants.set("apn_1", Grant("refresh", None, sqlite_project.clock.now()))
    with pytest.raises(AccountExistsError, match="apn_1 exists already"):
        add_account(sqlite_project, "apn_1", user="bob")

    assert sqlite_project.accounts.find_user("bob", "development") is None
    assert (sqlite_project.accounts.remove("apn_1"), sqlite_project.accounts.remove("apn_1")) == (True, False)
    assert sqlite_project.grants.find("apn_1") is None
    assert sqlite_project.accounts.find_user("ada", "development") is not None


def test_a_user_exists_from_the_first_account(sqlite_project: Project, clock: ManualClock) -> None:
    """A user has the time of their first account, in one environment; users are sorted by id, within the limit."""
    table, first = sqlite_project.accounts, clock.now()
    for account_id, user in (("apn_1", "bob"), ("apn_2", "ada"), ("apn_3", "bob")):
        add_account(sqlite_project, account_id, user=user)
        clock.advance(1)

    users = table.users("development")
    assert [(user.external_id, user.created_at) for user in users] == [
        ("ada", first + timedelta(seconds=1)),
        ("bob", first),
    ]
    assert [user.external_id for user in table.users("development", limit=1)] == ["ada"]
    assert table.users("production") == []
    assert table.find_user("bob", "production") is None


def test_deleting_a_user_leaves_the_other_environment(sqlite_project: Project) -> None:
    """A user is deleted with their accounts and sources in one environment; other users and environments keep theirs."""
    table, states = sqlite_project.accounts, [json.dumps([trigger_id, "source"]) for trigger_id in ("dc_1", "dc_2")]
    add_trigger(sqlite_project, "dc_1")
    add_trigger(sqlite_project, "dc_2", user="bob")
    for key in states:
        sqlite_project.source_states.update(key, lambda state: state.update(db={}))
    add_account(sqlite_project, "apn_1")
    add_account(sqlite_project, "apn_2", environment="production")
    add_account(sqlite_project, "apn_3", user="bob")
    for account_id in ("apn_1", "apn_2"):
        sqlite_project.grants.set(account_id, Grant("refresh", None, sqlite_project.clock.now()))

    assert (table.delete_user("ada", "development"), table.delete_user("ada", "development")) == (True, False)

    assert sorted(table.account_ids()) == ["apn_2", "apn_3"]
    assert [sqlite_project.source_states.load(key) for key in states] == [{}, {"db": {}}]
    assert sqlite_project.grants.find("apn_1") is None
    assert sqlite_project.grants.find("apn_2") is not None


# ── search ──────────────────────────────────────────────────────────────


def search(project: Project, text: str, **options: Any) -> list[str]:
    """The ids of the users in development that match *text*, in order."""
    options = {"limit": 20, "last_runs": {}, **options}
    return [user.external_id for user in project.accounts.search_users("development", text, **options).users]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ["ada", "Bob", "eve_1", "eve%2"]),
        ("bob", ["Bob"]),
        (" ADA ", ["ada"]),
        ("%", ["eve%2"]),
        ("_", ["eve_1"]),
        (".", ["Bob"]),
        ("acme", ["Bob"]),
        ("ÉMILE", ["ada"]),
        ("other", []),  # the name of an account in production, and of your own account
        ("nobody", []),
        ("a\0", []),
        ("\ud800", []),
    ],
)
def test_users_are_found_by_id_and_account_name(project: Project, text: str, found: list[str]) -> None:
    """A user of the environment matches by id or by the name of an account there, in any case; no character is a wildcard."""
    names = {"ada": "Émile's", "Bob": "ACME Inc.", "eve_1": "eve", "eve%2": "eve"}
    for age, (user, name) in enumerate(names.items()):
        add_account(project, f"apn_{user}", user=user, name=name, age_s=age)
    add_account(project, "apn_there", user="ada", name="other", environment="production")
    add_account(project, "apn_own", user=None, name="other")

    assert search(project, text) == found


def test_the_most_recently_active_users_come_first(project: Project) -> None:
    """A run and a connected account are activity; of more users than the limit, the search reports the number of the others."""
    for age, user in enumerate(["ada", "bob", "cyd", "dee"]):
        add_account(project, f"apn_{user}", user=user, age_s=100 * age)
    add_account(project, "apn_new", user="cyd", age_s=50)
    now = project.clock.now().timestamp()

    found = project.accounts.search_users(
        "development", "", limit=3, last_runs={"dee": now - 10, "bob": now - 1000, "gone": now}
    )

    assert [(user.external_id, now - user.active_at.timestamp()) for user in found.users] == [
        ("ada", 0),
        ("dee", 10),
        ("cyd", 50),
    ]
    assert found.more == 1


def test_found_users_have_their_accounts(project: Project) -> None:
    """A found user has the accounts of the environment, newest first; a user without an account has none."""
    old = add_account(project, "apn_old", age_s=9)
    new = add_account(project, "apn_new", app="github")
    add_account(project, "apn_there", environment="production")
    add_account(project, "apn_bob", user="bob", age_s=20)
    project.accounts.remove("apn_bob")

    found = project.accounts.search_users("development", "", limit=20, last_runs={})

    assert [(user.external_id, user.accounts) for user in found.users] == [("ada", (new, old)), ("bob", ())]


@pytest.mark.parametrize(
    ("user", "text"),
    [
        ("Straße", "STRASSE"),
        ("STRASSE", "straße"),
        ("Σίσυφος", "ΣΊΣΥΦΟΣ"),
        ("ﬁne", "FI"),
        ("a%b", "%"),
        ("cafe\u0301", "CAFÉ"),
    ],
)
def test_both_databases_fold_the_same_letters(project: Project, user: str, text: str) -> None:
    """Case does not count, also where one letter has a capital of two, and a text is not a pattern."""
    add_account(project, "apn_found", user=user)
    add_account(project, "apn_other", user="other")

    assert search(project, text) == [user]


storable = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(user=storable.filter(str.strip), name=storable, text=storable)
@example(user="a%b", name="x", text="a_b")
@example(user="İstanbul", name="x", text="istanbul")
@example(user="Straße", name="x", text="STRASSE")
@example(user="cafe\u0301", name="x", text="CAFÉ")
def test_a_search_finds_what_contains_the_text(sqlite_project: Project, user: str, name: str, text: str) -> None:
    """A user is found exactly if the folded id or name contains the folded text, whatever its characters are."""
    with sqlite_project.one_transaction():
        account_id = f"apn_{hash((user, name))}"
        add_account(sqlite_project, account_id, user=user, name=name)
        found = search(sqlite_project, text)
        sqlite_project.accounts.delete_user(user, "development")

    expected = fold_text(text.strip()) in fold_text(user) or fold_text(text.strip()) in fold_text(name)
    assert found == ([user] if expected else [])
    assert search(sqlite_project, text) == []


@pytest.fixture
def grant(sqlite_project: Project, clock: ManualClock) -> Grant:
    """The stored grant of the account `apn_1`."""
    now = clock.now()
    grant = Grant(refresh_token="refresh-1", expires_at=now + timedelta(hours=1), renewed_at=now)
    sqlite_project.grants.set("apn_1", grant)
    return grant


def test_a_claim_is_free_again_after_its_time(sqlite_project: Project, clock: ManualClock, grant: Grant) -> None:
    """Another process may claim a renewal when the first claim is `RENEWAL_CLAIM_S` seconds old, not before."""
    assert sqlite_project.grants.find("apn_1") == grant
    assert sqlite_project.grants.claim_renewal("apn_1") is not None
    clock.advance(RENEWAL_CLAIM_S - 1)
    assert sqlite_project.grants.claim_renewal("apn_1") is None
    clock.advance(1)
    assert sqlite_project.grants.claim_renewal("apn_1") is not None


def test_only_the_last_claim_finishes(sqlite_project: Project, clock: ManualClock, grant: Grant) -> None:
    """A process whose claim was taken over cannot store its result; the last one can, once."""
    first = sqlite_project.grants.claim_renewal("apn_1")
    clock.advance(RENEWAL_CLAIM_S)
    second = sqlite_project.grants.claim_renewal("apn_1")
    assert first is not None
    assert second is not None
    new = replace(grant, refresh_token="refresh-2")

    assert not sqlite_project.grants.finish_renewal("apn_1", first, new)
    assert sqlite_project.grants.find("apn_1") == grant
    assert sqlite_project.grants.is_renewing("apn_1")
    assert sqlite_project.grants.finish_renewal("apn_1", second, new)
    assert sqlite_project.grants.find("apn_1") == new
    assert not sqlite_project.grants.is_renewing("apn_1")
    assert not sqlite_project.grants.finish_renewal("apn_1", second, grant)


def test_a_new_grant_ends_a_renewal(sqlite_project: Project, grant: Grant) -> None:
    """A user who connects the account again takes the claim away."""
    claim = sqlite_project.grants.claim_renewal("apn_1")
    assert claim is not None

    sqlite_project.grants.set("apn_1", replace(grant, refresh_token=None))

    assert not sqlite_project.grants.is_renewing("apn_1")
    assert not sqlite_project.grants.finish_renewal("apn_1", claim, grant)
    found = sqlite_project.grants.find("apn_1")
    assert found is not None
    assert found.refresh_token is None


def test_a_refusal_of_an_older_token_is_ignored(sqlite_project: Project, grant: Grant) -> None:
    """A 401 counts for the token that was valid then: one renewed later is not refused, one of that moment is."""
    table = sqlite_project.grants

    assert table.mark_refused("apn_1", grant.renewed_at - timedelta(seconds=1))
    assert table.find("apn_1") == grant
    assert table.mark_refused("apn_1", grant.renewed_at)
    assert table.find("apn_1") == replace(grant, is_refused=True)
    assert not table.mark_refused("apn_2", grant.renewed_at)


def test_a_grant_belongs_to_one_account(sqlite_project: Project, grant: Grant) -> None:
    """An account without a grant cannot be claimed, and removing one grant leaves the others."""
    sqlite_project.grants.set("apn_2", replace(grant, error="denied", expires_at=None))

    assert sqlite_project.grants.claim_renewal("apn_3") is None
    sqlite_project.grants.remove("apn_1")
    assert sqlite_project.grants.find("apn_1") is None
    assert sqlite_project.grants.find("apn_2") == replace(grant, error="denied", expires_at=None)

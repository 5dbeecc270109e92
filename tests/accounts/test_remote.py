"""The directory of a real project, with an API in another process."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from pdkernel.accounts import LocalDirectory, open_directory
from pdkernel.accounts.remote import CACHE_TTL_S, LISTING_TTL_S, SEARCH_TTL_S, RemoteDirectory
from pdkernel.accounts.sdk import Sdk
from pdkernel.actions.source_settings import ActionSettings, format_sources
from pdkernel.common.clock import ManualClock, SequentialIds
from pdkernel.common.identity import AccountGoneError, Directory, UserSearchResult
from pdkernel.engine.account_lookup import RunIdentity
from pdkernel.engine.account_resolution import resolve_accounts
from pdkernel.errors import ConnectSettingsError, PdkernelError, ProjectError, RequestError
from pdkernel.model import AppBinding
from pdkernel.storage import Batch, Login, Project
from tests.accounts.upstream import CLIENT_ID, CLIENT_SECRET, PROJECT, SLACK_TOKEN, TOKEN, Upstream


@pytest.fixture
def directory(home: Project, upstream: Upstream) -> Directory:
    """The directory of the real project, by its protocol."""
    return RemoteDirectory(home, Sdk(upstream.login))


def test_the_projects_id_is_pipedreams(directory: Directory) -> None:
    """The directory has Pipedream's id of the project."""
    assert directory.project_id == PROJECT


def test_users_of_each_environment(directory: Directory) -> None:
    """Each environment has its own users, who are found in it only."""
    names = [[user.external_id for user in directory.users(where)] for where in ("development", "production")]
    found = directory.find_user("ada", "development")

    assert names == [["ada", "bob"], ["eve"]]
    assert found is not None
    assert found.external_id == "ada"
    assert directory.find_user("ada", "production") is None


def test_a_user_exists_since_their_first_account(directory: Directory) -> None:
    """The time of a user is that of the oldest of their accounts."""
    user = directory.find_user("ada", "development")
    accounts = directory.accounts(external_user_id="ada", environment="development")

    assert [account.id for account in accounts] == ["apn_held", "apn_new", "apn_old"]
    assert user is not None
    assert user.created_at == accounts[-1].created_at


def test_the_account_created_last_is_the_newest(directory: Directory) -> None:
    """Of two Slack accounts the newest one is used."""
    account = directory.newest_account("ada", "development", "slack")

    assert account is not None
    assert (account.id, account.app, account.owner, account.healthy) == ("apn_new", "slack", "external_user", True)


def test_accounts_of_several_pages(directory: Directory) -> None:
    """All pages are requested: the API returns three accounts per page."""
    ids = [account.id for account in directory.accounts(environment="development")]

    assert ids == ["apn_keys", "apn_held", "apn_new", "apn_old"]


def test_an_account_is_found_in_either_environment(directory: Directory) -> None:
    """An account's id does not have the environment, so both are searched."""
    account = directory.find_account("apn_prod")

    assert account is not None
    assert (account.environment, account.external_user_id) == ("production", "eve")
    assert directory.find_account("apn_none") is None


def test_credentials_come_from_connect(directory: Directory) -> None:
    """The step's `$auth` has the credentials that Connect returns."""
    assert dict(directory.credentials("apn_new")) == {"oauth_access_token": SLACK_TOKEN, "oauth_uid": "U1"}


def test_withheld_credentials_name_the_proxy(directory: Directory, upstream: Upstream) -> None:
    """If Connect withholds a token, the result has the missing names and the access to the proxy."""
    credentials = directory.credentials("apn_held")

    assert credentials.proxy is not None
    assert (dict(credentials), credentials.withheld_names) == ({}, ("oauth_access_token",))
    assert credentials.proxy.url == f"{upstream.url}/v1/connect/{PROJECT}/proxy"
    assert credentials.proxy.fetch_token() == TOKEN
    assert TOKEN not in repr(credentials.proxy)


def test_a_run_causes_one_request(directory: Directory, upstream: Upstream, moving: ManualClock) -> None:
    """User and accounts of a run cause one request, besides the request for a token; another one is sent after the cache's lifetime."""
    directory.find_user("ada", "development")
    directory.newest_account("ada", "development", "slack")
    directory.newest_account("ada", "development", "github")
    before = [each["path"].rpartition("/")[2] for each in upstream.asked]
    moving.advance(CACHE_TTL_S + 1)
    directory.newest_account("ada", "development", "slack")

    assert before == ["token", "accounts"]
    assert [each["path"].rpartition("/")[2] for each in upstream.asked] == [*before, "accounts"]


def test_own_accounts_are_local(directory: Directory, home: Project, upstream: Upstream) -> None:
    """An account of your own is stored, reconnected and removed in the local project, without a request."""
    made = directory.add_account(
        app="slack",
        credentials={"oauth_access_token": "mine"},
        external_user_id=None,
        account_id="apn_mine",
        name="Mine",
    )

    assert (made.id, made.name) == ("apn_mine", "Mine")
    assert dict(directory.credentials(made.id)) == {"oauth_access_token": "mine"}
    assert [account.id for account in directory.accounts(own=True)] == [made.id]
    assert [account.id for account in LocalDirectory(home).accounts()] == [made.id]
    directory.reconnect_account(made.id, {"oauth_access_token": "newer"})
    assert dict(LocalDirectory(home).credentials(made.id)) == {"oauth_access_token": "newer"}
    assert directory.remove_account(made.id)
    assert LocalDirectory(home).accounts() == []
    assert upstream.asked == []


def test_a_key_based_account_is_connected_at_pipedream(directory: Directory) -> None:
    """The account is created at Pipedream, and is found afterwards."""
    directory.users("development")
    made = directory.add_account(app="openai", credentials={"api_key": "sk-1"}, external_user_id="cyd")

    assert directory.newest_account("cyd", "development", "openai") == replace(made, credential_fields=())
    assert [user.external_id for user in directory.users("development")] == ["ada", "bob", "cyd"]


def test_an_account_is_reconnected(directory: Directory, upstream: Upstream) -> None:
    """The account keeps its id and creation time, and is healthy; the next request gets the new credentials, although the old ones are cached."""
    upstream.accounts["development"][3]["healthy"] = False
    old = directory.find_account("apn_keys")
    assert dict(directory.credentials("apn_keys")) != {"api_key": "sk-a-newer-key-0123456789"}

    made = directory.reconnect_account("apn_keys", {"api_key": "sk-a-newer-key-0123456789"})

    assert old is not None
    assert (old.healthy, made.healthy) == (False, True)
    assert (made.id, made.created_at, made.credential_fields) == ("apn_keys", old.created_at, ("api_key",))
    assert dict(directory.credentials("apn_keys")) == {"api_key": "sk-a-newer-key-0123456789"}
    with pytest.raises(RequestError, match="There is no account 'apn_none'"):
        directory.reconnect_account("apn_none", {"api_key": "sk-a-newer-key-0123456789"})


def test_an_account_of_a_user_is_pipedreams(home: Project, directory: Directory) -> None:
    """Since the login, an external user's account of the local project is not used in place of Pipedream's of the same id."""
    local = LocalDirectory(home)
    local.add_account(
        app="openai", credentials={"api_key": "sk-local-0123456789"}, external_user_id="ada", account_id="apn_keys"
    )

    found = directory.find_account("apn_keys")

    assert found is not None
    assert found.external_user_id == "bob"
    assert dict(directory.credentials("apn_keys")) == {"api_key": "sk-planted-real-key-0123456789"}


def test_an_account_that_pipedream_does_not_reconnect(directory: Directory, upstream: Upstream) -> None:
    """The error has Pipedream's reason and a fix, and not the credential; the old credentials stay."""
    fault = {"path": "/accounts", "method": "POST", "kind": "status", "status": 400, "error": "no such field"}
    upstream.set(fault=fault)

    with pytest.raises(RequestError) as caught:
        directory.reconnect_account("apn_keys", {"api_key": "planted-0123"})

    assert "The openai account was not reconnected at Pipedream" in caught.value.message
    assert "no such field" in caught.value.message
    assert "Connect Link" in caught.value.fix
    assert "planted-0123" not in str(caught.value)
    assert dict(directory.credentials("apn_keys")) == {"api_key": "sk-planted-real-key-0123456789"}


def test_an_oauth_account_is_not_connected_with_keys(directory: Directory) -> None:
    """The error has Pipedream's reason and a fix, and not the credential."""
    with pytest.raises(RequestError) as caught:
        directory.add_account(app="github", credentials={"oauth_access_token": "planted-0123"}, external_user_id="ada")

    assert "github accounts are connected with OAuth" in caught.value.message
    assert "Connect Link" in caught.value.fix
    assert "planted-0123" not in str(caught.value)


def test_pipedream_chooses_the_ids_of_accounts(directory: Directory, upstream: Upstream) -> None:
    """An account of an external user cannot have an id of the caller's choice."""
    with pytest.raises(RequestError, match="creates the ids of its accounts itself"):
        directory.add_account(app="openai", credentials={"api_key": "k"}, external_user_id="cyd", account_id="apn_1")

    assert upstream.asked == []


def test_an_account_that_is_removed_after_the_listing(directory: Directory, upstream: Upstream) -> None:
    """The error names the account, the cached lists that still have it are loaded again, and a run uses the newest account that still exists."""
    assert directory.newest_account("ada", "development", "slack") == directory.find_account("apn_new")
    httpx.delete(
        f"{upstream.url}/v1/connect/{PROJECT}/accounts/apn_new", headers=HEADERS, timeout=60
    ).raise_for_status()

    found = resolve_accounts(BINDINGS, RunIdentity("ada", "development"), directory=directory)
    with pytest.raises(AccountGoneError, match="apn_new"):
        directory.credentials("apn_new")
    newest = directory.newest_account("ada", "development", "slack")

    assert found.error is None
    assert [use.id for use in found.for_step("notify").uses] == ["apn_old"]
    assert newest is not None
    assert newest.id == "apn_old"


@pytest.mark.parametrize("status", [400, 403, 500])
def test_an_error_has_no_credential(directory: Directory, upstream: Upstream, status: int) -> None:
    """If Pipedream repeats the request in its error, the credentials are masked."""
    key = "sk-planted-key-0123456789"
    # the key is where the message is cut, and is masked before that
    error = f"{'This is the reason. ' * 7}ctok_1 has a bad cfmap_json {json.dumps(json.dumps({'api_key': key}))}"
    upstream.set(fault={"path": "/accounts", "method": "POST", "kind": "status", "status": status, "error": error})

    with pytest.raises(PdkernelError) as caught:
        directory.add_account(app="openai", credentials={"api_key": key}, external_user_id="zoe")

    assert "This is the reason." in str(caught.value)
    assert not any(piece in str(caught.value) for piece in ("sk-pl", "ctok_1"))


def test_a_removed_account_is_not_cached(directory: Directory) -> None:
    """After a removal the next account is the newest."""
    directory.newest_account("ada", "development", "slack")

    assert directory.remove_account("apn_new")
    newest = directory.newest_account("ada", "development", "slack")
    assert newest is not None
    assert newest.id == "apn_old"


def test_a_form_sees_a_new_account_at_once(home: Project, upstream: Upstream) -> None:
    """The ids of a user's accounts are those that Pipedream has now; other readers keep the cached list."""
    directory = RemoteDirectory(home, Sdk(upstream.login))
    before = directory.account_ids(external_user_id="ada", environment="development")
    upstream.set(held=[("apn_newest", "ada", "slack"), ("apn_bob", "bob", "slack")])

    assert directory.fetch_account_ids("slack", "ada", "development") == {"apn_newest", "apn_new", "apn_old"}
    assert directory.account_ids(external_user_id="ada", environment="development") == before


def test_a_deleted_user_is_not_cached(directory: Directory) -> None:
    """The user is deleted at Pipedream, and is not found afterwards."""
    assert directory.delete_user("ada", "development")

    assert directory.find_user("ada", "development") is None
    assert not directory.delete_user("ada", "development")


def test_a_deleted_user_is_forgotten_here(home: Project, directory: Directory) -> None:
    """What the local project has stored about the user is deleted with the user at Pipedream."""
    batch = Batch("batch_1", "p_1", "schedule", "Report", "development", home.clock.now())
    home.batches.add(batch)
    home.batches.record_page(batch, "bob", {"ada": ("slack",), "bob": ("slack",)})

    assert directory.delete_user("ada", "development")

    assert list(home.batches.list_skips(batch.id)) == ["bob"]


def test_a_response_that_the_sdk_cannot_parse(directory: Directory, upstream: Upstream) -> None:
    """If a response lacks a field that the SDK requires, its JSON is used."""
    upstream.set(scope_profiles=False)

    assert len(directory.accounts(environment="development")) == 4
    assert dict(directory.credentials("apn_keys")) == {"api_key": "sk-planted-real-key-0123456789"}


FAULTS = [
    (
        {"kind": "status", "status": 401},
        ConnectSettingsError,
        f"Pipedream rejects the OAuth client {CLIENT_ID} (401). Pipedream's message: made to fail",
        "log in with its id and secret: pdkernel login",
    ),
    (
        {"kind": "status", "status": 403},
        ConnectSettingsError,
        f"The OAuth client {CLIENT_ID} lacks a permission in the project {PROJECT} (403). Pipedream's message: made to fail",
        "Check the client's scopes",
    ),
    (
        {"kind": "status", "status": 404},
        ConnectSettingsError,
        f"found nothing at this URL in the project {PROJECT} (404). Pipedream's message: made to fail",
        "Check the project's id and environment",
    ),
    (
        {"kind": "status", "status": 429, "headers": {"Retry-After": "17"}},
        ProjectError,
        "The project has reached Pipedream's rate limit (429). Pipedream's message: made to fail",
        "Try again in 17 s.",
    ),
    (
        {"kind": "status", "status": 500},
        ProjectError,
        "Pipedream reports a server error (500). Pipedream's message: made to fail",
        "Try again. If the error persists",
    ),
    ({"kind": "held"}, ProjectError, "did not answer within 3 s.", "Try again. If the error persists"),
    ({"kind": "cut"}, ProjectError, "closed the connection too early", "Check the network"),
    ({"kind": "html"}, ProjectError, "sent a response that the SDK cannot parse", "Check the API's URL"),
]


@pytest.mark.parametrize("path", ["token", "accounts"])
@pytest.mark.parametrize(("fault", "kind", "message", "fix"), FAULTS, ids=lambda each: str(each)[:40])
def test_faults_of_the_api(
    home: Project,
    upstream: Upstream,
    path: str,
    fault: dict[str, object],
    kind: type[PdkernelError],
    message: str,
    fix: str,
) -> None:
    """Each fault is an error with a cause and a fix, and without a secret."""
    directory = RemoteDirectory(home, Sdk(upstream.login, timeout_s=3.0 if fault["kind"] == "held" else 60.0))
    upstream.set(fault={"path": path, **fault})

    with pytest.raises(kind) as caught:
        directory.newest_account("ada", "development", "slack")
    upstream.proceed.set()

    assert message in caught.value.message
    assert fix in caught.value.fix
    assert not any(secret in str(caught.value) for secret in (CLIENT_SECRET, TOKEN))
    assert len(upstream.asked) == (1 if path == "token" else 2)


def test_an_unreachable_api(home: Project) -> None:
    """The error names the address that is unreachable."""
    directory = RemoteDirectory(home, Sdk(Login("c", CLIENT_SECRET, PROJECT, base_url="http://127.0.0.1:9")))

    with pytest.raises(ProjectError, match=r"Pipedream Connect at 127\.0\.0\.1:9 is unreachable"):
        directory.users("development")


def test_a_revoked_token_is_replaced(directory: Directory, upstream: Upstream, moving: ManualClock) -> None:
    """After a rejected token, one new token is requested."""
    directory.users("development")
    moving.advance(60)
    httpx.post(f"{upstream.url}/v1/oauth/revoke", json={"token": TOKEN}, timeout=60)

    assert [user.external_id for user in directory.users("development")] == ["ada", "bob"]
    assert [each["path"] for each in upstream.asked].count("/v1/oauth/token") == 2


def test_a_failure_is_not_cached(directory: Directory, upstream: Upstream) -> None:
    """After a fault the next call sends a new request."""
    upstream.set(fault={"path": "accounts", "kind": "status", "status": 500})
    with pytest.raises(ProjectError):
        directory.find_user("ada", "development")
    upstream.set()

    assert directory.find_user("ada", "development") is not None


def test_the_login_selects_the_directory(home: Project, upstream: Upstream) -> None:
    """Without a login the directory is local, with a login it is remote; no request is sent yet."""
    before = open_directory(home, {})
    home.login.save(upstream.login)
    after = open_directory(home, {})

    assert [type(each).__name__ for each in (before, after)] == ["LocalDirectory", "RemoteDirectory"]
    assert after.project_id == PROJECT
    assert upstream.asked == []


def test_a_login_from_environment_variables(home: Project, upstream: Upstream) -> None:
    """The environment variables are enough for a login."""
    assert open_directory(home, upstream.environ).project_id == PROJECT


def test_environment_variables_of_the_sdk_are_ignored(
    home: Project, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variables that the SDK would read do not change the token or the environment."""
    monkeypatch.setenv("PIPEDREAM_ACCESS_TOKEN", "another-token")
    monkeypatch.setenv("PIPEDREAM_PROJECT_ENVIRONMENT", "production")
    directory = RemoteDirectory(home, Sdk(upstream.login))

    assert [user.external_id for user in directory.users("development")] == ["ada", "bob"]


def test_the_default_source_of_actions(home: Project, upstream: Upstream, tmp_path: Path) -> None:
    """With a login the default source of actions is Connect; a chosen source stays."""
    home.login.save(upstream.login)
    default = format_sources(ActionSettings(home.settings).sources)
    ActionSettings(home.settings).set_sources(["builtin"], base=tmp_path)

    assert (default, format_sources(ActionSettings(home.settings).sources)) == ("connect", "builtin")


HEADERS = {"authorization": f"Bearer {TOKEN}", "x-pd-environment": "development"}
BINDINGS = {"notify": (AppBinding("slack", "slack"),)}


def test_an_account_that_is_listed_but_missing(directory: Directory, upstream: Upstream) -> None:
    """The run ends with an error that names the account."""
    upstream.set(fault={"within": "/accounts/apn", "kind": "status", "status": 404})

    found = resolve_accounts(BINDINGS, RunIdentity("ada", "development"), directory=directory)

    assert found.error is not None
    assert found.error.message == "The account apn_new was removed while the run started."


def test_account_ids_match_accounts(directory: Directory) -> None:
    """`account_ids` returns the ids of `accounts` in the same order; `connected_apps` returns their apps."""
    for filters in ({}, {"environment": "development"}, {"external_user_id": "ada"}, {"app": "slack"}, {"own": False}):
        found = directory.accounts(**filters)
        assert found
        assert list(directory.account_ids(**filters)) == [account.id for account in found]
    assert set(directory.connected_apps()) == {account.app for account in directory.accounts()}


@pytest.mark.parametrize(
    ("held", "users", "apps", "limit", "newest"),
    [
        (
            [("apn_newest", "ada", "slack")],
            ["ada"],
            ["slack", "github"],
            2,
            [("apn_newest", True), ("apn_held", True), ("apn_new", False)],
        ),
        (
            [("apn_bob", "bob", "slack"), ("apn_cyd", "cyd", "slack")],
            ["ada", "bob"],
            ["slack"],
            1,
            [("apn_bob", True), ("apn_new", False)],
        ),
    ],
    ids=["one user", "several users"],
)
def test_the_newest_accounts_of_users(
    directory: Directory, upstream: Upstream, held: Any, users: list[str], apps: list[str], limit: int, newest: Any
) -> None:
    """The accounts of these users and apps are newest first, within the limit of each app; an account is marked if it is withheld."""
    upstream.set(held=held)

    found = directory.newest_accounts(users, "development", apps, limit=limit)

    assert [(account.id, account.withheld) for account in found] == newest


def test_a_cleared_cache_is_loaded_again(directory: Directory, upstream: Upstream) -> None:
    """Every kind of response comes from the cache until the cache is cleared, and from Pipedream after that."""
    assert isinstance(directory, RemoteDirectory)

    def responses() -> tuple[object, ...]:
        found = directory.find_account("apn_new")
        newest = directory.newest_accounts(["ada", "bob"], "development", ["slack"], limit=1)
        return (
            [user.external_id for user in directory.users("development")],
            [account.id for account in directory.accounts(external_user_id="ada", environment="development")],
            found and found.name,
            [account.withheld for account in newest],
            dict(directory.credentials("apn_new")),
        )

    before = responses()
    upstream.set(held=[("apn_cyd", "cyd", "slack"), ("apn_more", "ada", "gitlab")])
    account = next(each for each in upstream.accounts["development"] if each["id"] == "apn_new")
    account |= {"name": "renamed", "credentials": None}

    cached = responses()
    directory.clear_cache()
    after = responses()

    assert cached == before
    assert after == (["ada", "bob", "cyd"], ["apn_more", "apn_held", "apn_new", "apn_old"], "renamed", [True], {})


def test_an_account_changes_in_its_own_environment(directory: Directory) -> None:
    """An account of production is reconnected and removed there, although the login's environment is development."""
    directory.reconnect_account("apn_prod", {"oauth_access_token": "entered"})
    assert dict(directory.credentials("apn_prod")) == {"oauth_access_token": "entered"}
    assert len(directory.accounts()) == 5

    assert directory.remove_account("apn_prod")
    assert not directory.remove_account("apn_prod")
    assert directory.delete_user("bob", "development")
    assert [account.id for account in directory.accounts()] == ["apn_held", "apn_new", "apn_old"]


def slack_account(number: int, user: str, name: str) -> dict[str, Any]:
    """An account of Slack, as the API shows it."""
    return {
        "id": f"apn_{number}",
        "name": name,
        "external_id": user,
        "healthy": True,
        "dead": False,
        "app": {"id": "app_slack", "name_slug": "slack", "name": "Slack", "auth_type": "oauth", "img_src": "", "custom_fields_json": "[]", "categories": [], "featured_weight": 1},
        "created_at": "2026-01-01T00:00:00.000Z",
        "updated_at": "2026-01-01T00:00:00.000Z",
        "credentials": None,
    }  # fmt: skip


@pytest.fixture
def clock() -> ManualClock:
    """A clock that a test advances."""
    return ManualClock()


@pytest.fixture
def searched(upstream: Upstream, tmp_path: Path, clock: ManualClock) -> Iterator[RemoteDirectory]:
    """The directory of the Connect project."""
    with Project.open(tmp_path / ".pdkernel", clock=clock, ids=SequentialIds()) as project:
        yield RemoteDirectory(project, Sdk(upstream.login))


@pytest.fixture
def thousands(upstream: Upstream) -> Upstream:
    """The API with 1,000 users in production, each with a Slack account, in pages of 100."""
    upstream.page_size = 100
    upstream.accounts["production"] = [
        slack_account(number, f"user-{number:04}", f"Company {number}") for number in range(1000)
    ]
    return upstream


def asked(upstream: Upstream) -> Counter[str]:
    """The number of requests for users, for pages of all accounts, and for accounts of one user, since the last call."""
    kinds = Counter(
        "user's accounts" if "external_user_id" in each["query"] else each["path"].rpartition("/")[2]
        for each in upstream.asked
        if not each["path"].endswith("/token")
    )
    upstream.asked.clear()
    return kinds


def ids(result: UserSearchResult) -> list[str]:
    """The ids of the found users."""
    return [each.external_id for each in result.users]


def test_a_small_project_needs_two_requests(searched: RemoteDirectory, upstream: Upstream) -> None:
    """If one page has all users and one page all accounts, further texts and the names of accounts need no request."""
    upstream.page_size = 100

    found = [ids(searched.search_users("development", text)) for text in ("", "AD", "openai", "bo", "nobody")]

    assert found == [["bob", "ada"], ["ada"], ["bob"], ["bob"], []]
    assert asked(upstream) == {"users": 1, "accounts": 1}


def test_a_large_project_is_not_listed(searched: RemoteDirectory, thousands: Upstream) -> None:
    """Of 1,000 users twenty are shown, after one request; their accounts follow, and the others are only counted."""
    partial: list[UserSearchResult] = []

    found = searched.search_users("production", "", report=partial.append)

    assert (len(found.users), found.more) == (20, 980)
    assert {len(each.accounts or ()) for each in found.users} == {1}
    assert [(len(each.users), each.more, each.users[0].accounts) for each in partial] == [(20, 980, None)]
    assert asked(thousands) == {"users": 1, "accounts": 1, "user's accounts": 20}


def test_a_typed_text_is_one_request(searched: RemoteDirectory, thousands: Upstream) -> None:
    """The API filters by the id; accounts are requested for users that were not shown before, and not again when the text returns."""
    searched.search_users("production", "")
    asked(thousands)

    narrow = searched.search_users("production", "R-004")
    first = asked(thousands)
    narrower = searched.search_users("production", "r-0041")
    searched.search_users("production", "R-004")

    assert (ids(narrow), narrow.more) == ([f"user-004{digit}" for digit in range(10)], 0)
    assert ids(narrower) == ["user-0041"]
    assert first == {"users": 1, "user's accounts": 10}
    assert asked(thousands) == {}


def test_names_are_read_page_by_page(searched: RemoteDirectory, thousands: Upstream) -> None:
    """A text that no id contains is searched in the names of accounts, with progress, until enough users match."""
    partial: list[UserSearchResult] = []

    found = searched.search_users("production", "company 1", report=partial.append)
    requests = asked(thousands)
    again = searched.search_users("production", "company 120")

    assert len(found.users) == 20
    assert all("Company 1" in (each.accounts or ())[0].name for each in found.users)
    assert partial[0].progress == "Reading the names of accounts: 100 of 1,000 ..."
    assert requests["accounts"] < 10
    assert ids(again)[0] == "user-0120"
    assert set(asked(thousands)) == {"accounts"}  # further pages: no id contains the shorter text


def test_a_text_without_a_match_ends(searched: RemoteDirectory, thousands: Upstream) -> None:
    """All names are read once; another text without a match then needs one request."""
    assert searched.search_users("production", "nowhere") == UserSearchResult(())
    first = asked(thousands)
    assert searched.search_users("production", "nobody") == UserSearchResult(())

    assert first == {"users": 1, "accounts": 10}
    assert asked(thousands) == {"users": 1}


def test_active_users_come_first(searched: RemoteDirectory, thousands: Upstream) -> None:
    """A user with a recent run is first even if the API lists the user on a later page; a removed user is not shown."""
    runs = {"user-0999": 2e9, "user-0003": 1.9e9, "removed": 2.1e9}

    found = searched.search_users("production", "", last_runs=runs)
    matching = searched.search_users("production", "user-09", last_runs=runs)

    assert ids(found)[:3] == ["user-0999", "user-0003", "user-0000"]
    assert (len(found.users), found.more) == (20, 980)
    assert ids(matching)[0] == "user-0999"
    assert found.users[0].active_at.timestamp() == 2e9


def test_all_users_with_their_accounts(searched: RemoteDirectory, thousands: Upstream) -> None:
    """Without a limit, users and accounts are listed page by page, with no request for a single user."""
    found = searched.search_users("production", "", limit=10**9)

    assert (len(found.users), found.more) == (1000, 0)
    assert all(each.accounts for each in found.users)
    assert asked(thousands) == {"users": 10, "accounts": 10}


def test_cached_results_expire(searched: RemoteDirectory, upstream: Upstream, clock: ManualClock) -> None:
    """Users appear after a minute, accounts after five, and both at once after a change by this directory."""
    upstream.page_size = 100
    searched.search_users("development", "")
    upstream.accounts["development"].append(slack_account(1, "cyd", "Cyd"))
    cached = ids(searched.search_users("development", "cy"))
    clock.advance(SEARCH_TTL_S + 1)
    fresh = searched.search_users("development", "cy")
    clock.advance(LISTING_TTL_S)
    later = searched.search_users("development", "cy")
    upstream.accounts["development"].append(slack_account(2, "cyn", "Cyn"))
    searched.remove_account("apn_old")

    assert (cached, ids(fresh), fresh.users[0].accounts) == ([], ["cyd"], ())
    assert [len(each.accounts or ()) for each in later.users] == [1]
    assert ids(searched.search_users("development", "cy")) == ["cyd", "cyn"]


def test_a_search_works_again_after_a_failure(searched: RemoteDirectory, thousands: Upstream) -> None:
    """An error of the API is raised; the next search reads the names from the first page on."""
    searched.search_users("production", "user-0000")
    thousands.set(fault={"kind": "status", "status": 500, "path": "/accounts"})
    with pytest.raises(ProjectError, match="server error"):
        searched.search_users("production", "Company 9")
    thousands.set()

    assert len(searched.search_users("production", "Company 99").users) == 11


def test_an_api_that_does_not_filter(searched: RemoteDirectory, thousands: Upstream) -> None:
    """Pages whose users do not match are read on until enough users match."""
    request = searched._client.iter_user_pages
    searched._client.iter_user_pages = lambda environment, text="": request(environment)  # type: ignore[method-assign]

    found = searched.search_users("production", "user-09")

    assert (len(found.users), ids(found)[0]) == (20, "user-0900")
    assert asked(thousands)["users"] == 10

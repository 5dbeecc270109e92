"""The search for external users of a Connect project: few requests, lazy pages, caches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pdkernel.accounts.remote import RemoteDirectory
from pdkernel.accounts.sdk import Sdk
from pdkernel.accounts.user_search import LISTING_TTL_S, SEARCH_TTL_S
from pdkernel.common.clock import ManualClock, SequentialIds
from pdkernel.common.identity import UserSearchResult
from pdkernel.errors import ProjectError
from pdkernel.storage import Project
from tests.accounts.upstream import Upstream


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
def directory(upstream: Upstream, tmp_path: Path, clock: ManualClock) -> Iterator[RemoteDirectory]:
    """The directory of the Connect project."""
    with Project.open(tmp_path / ".pdkernel", clock=clock, ids=SequentialIds()) as project:
        yield RemoteDirectory(project, Sdk(upstream.login))


@pytest.fixture
def thousands(upstream: Upstream) -> Upstream:
    """The API with 3,000 users in production, each with a Slack account, in pages of 100."""
    upstream.page_size = 100
    upstream.accounts["production"] = [
        slack_account(number, f"user-{number:04}", f"Company {number}") for number in range(3000)
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


def test_a_small_project_needs_two_requests(directory: RemoteDirectory, upstream: Upstream) -> None:
    """If one page has all users and one page all accounts, further texts and the names of accounts need no request."""
    upstream.page_size = 100

    found = [ids(directory.search_users("development", text)) for text in ("", "AD", "openai", "bo", "nobody")]

    assert found == [["bob", "ada"], ["ada"], ["bob"], ["bob"], []]
    assert asked(upstream) == {"users": 1, "accounts": 1}


def test_a_large_project_is_not_listed(directory: RemoteDirectory, thousands: Upstream) -> None:
    """Of 3,000 users twenty are shown, after one request; their accounts follow, and the others are only counted."""
    partial: list[UserSearchResult] = []

    found = directory.search_users("production", "", report=partial.append)

    assert (len(found.users), found.more) == (20, 2980)
    assert {len(each.accounts or ()) for each in found.users} == {1}
    assert [(len(each.users), each.more, each.users[0].accounts) for each in partial] == [(20, 2980, None)]
    assert asked(thousands) == {"users": 1, "accounts": 1, "user's accounts": 20}


def test_a_typed_text_is_one_request(directory: RemoteDirectory, thousands: Upstream) -> None:
    """The API filters by the id; accounts are requested for users that were not shown before, and not again when the text returns."""
    directory.search_users("production", "")
    asked(thousands)

    narrow = directory.search_users("production", "R-004")
    first = asked(thousands)
    narrower = directory.search_users("production", "r-0041")
    directory.search_users("production", "R-004")

    assert (ids(narrow), narrow.more) == ([f"user-004{digit}" for digit in range(10)], 0)
    assert ids(narrower) == ["user-0041"]
    assert first == {"users": 1, "user's accounts": 10}
    assert asked(thousands) == {}


def test_names_are_read_page_by_page(directory: RemoteDirectory, thousands: Upstream) -> None:
    """A text that no id contains is searched in the names of accounts, with progress, until enough users match."""
    partial: list[UserSearchResult] = []

    found = directory.search_users("production", "company 12", report=partial.append)
    requests = asked(thousands)
    again = directory.search_users("production", "company 120")

    assert len(found.users) == 20
    assert all("Company 12" in (each.accounts or ())[0].name for each in found.users)
    assert partial[0].progress == "Reading the names of accounts: 100 of 3,000 ..."
    assert requests["accounts"] < 20
    assert ids(again)[0] == "user-0120"
    assert set(asked(thousands)) == {"accounts"}  # further pages: no id contains the shorter text


def test_a_text_without_a_match_ends(directory: RemoteDirectory, thousands: Upstream) -> None:
    """All names are read once; another text without a match then needs one request."""
    assert directory.search_users("production", "nowhere") == UserSearchResult(())
    first = asked(thousands)
    assert directory.search_users("production", "nobody") == UserSearchResult(())

    assert first == {"users": 1, "accounts": 30}
    assert asked(thousands) == {"users": 1}


def test_active_users_come_first(directory: RemoteDirectory, thousands: Upstream) -> None:
    """A user with a recent run is first even if the API lists the user on a later page; a removed user is not shown."""
    runs = {"user-2999": 2e9, "user-0003": 1.9e9, "removed": 2.1e9}

    found = directory.search_users("production", "", last_runs=runs)
    searched = directory.search_users("production", "user-2", last_runs=runs)

    assert ids(found)[:3] == ["user-2999", "user-0003", "user-0000"]
    assert (len(found.users), found.more) == (20, 2980)
    assert ids(searched)[0] == "user-2999"
    assert found.users[0].active_at.timestamp() == 2e9


def test_all_users_with_their_accounts(directory: RemoteDirectory, thousands: Upstream) -> None:
    """Without a limit, users and accounts are listed page by page, with no request for a single user."""
    found = directory.search_users("production", "", limit=10**9)

    assert (len(found.users), found.more) == (3000, 0)
    assert all(each.accounts for each in found.users)
    assert asked(thousands) == {"users": 30, "accounts": 30}


def test_cached_results_expire(directory: RemoteDirectory, upstream: Upstream, clock: ManualClock) -> None:
    """Users appear after a minute, accounts after five, and both at once after a change by this directory."""
    upstream.page_size = 100
    directory.search_users("development", "")
    upstream.accounts["development"].append(slack_account(1, "cyd", "Cyd"))
    cached = ids(directory.search_users("development", "cy"))
    clock.advance(SEARCH_TTL_S + 1)
    fresh = directory.search_users("development", "cy")
    clock.advance(LISTING_TTL_S)
    later = directory.search_users("development", "cy")
    upstream.accounts["development"].append(slack_account(2, "cyn", "Cyn"))
    directory.remove_account("apn_old")

    assert (cached, ids(fresh), fresh.users[0].accounts) == ([], ["cyd"], ())
    assert [len(each.accounts or ()) for each in later.users] == [1]
    assert ids(directory.search_users("development", "cy")) == ["cyd", "cyn"]


def test_a_search_works_again_after_a_failure(directory: RemoteDirectory, thousands: Upstream) -> None:
    """An error of the API is raised; the next search reads the names from the first page on."""
    directory.search_users("production", "user-0000")
    thousands.set(fault={"kind": "status", "status": 500, "path": "/accounts"})
    with pytest.raises(ProjectError, match="server error"):
        directory.search_users("production", "Company 29")
    thousands.set()

    assert len(directory.search_users("production", "Company 299").users) == 11


def test_an_api_that_does_not_filter(directory: RemoteDirectory, thousands: Upstream) -> None:
    """Pages whose users do not match are read on until enough users match."""
    request = directory._client.iter_user_pages
    directory._client.iter_user_pages = lambda environment, text="": request(environment)  # type: ignore[method-assign]

    found = directory.search_users("production", "user-29")

    assert (len(found.users), ids(found)[0]) == (20, "user-2900")
    assert asked(thousands)["users"] == 30

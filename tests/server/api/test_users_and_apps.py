"""Users, apps and the project over HTTP; lists in pages."""

from __future__ import annotations

import json

import pytest

from tests.server.served import Served


def connect(site: Served, *users: str, environment: str = "development") -> None:
    """An account for each."""
    for user in users:
        site.directory.add_account(
            app="slack",
            credentials={"oauth_access_token": "t-1234567"},
            external_user_id=user,
            environment=environment,  # type: ignore[arg-type]
        )


async def ids(site: Served, **params: str) -> tuple[list[str], dict[str, object]]:
    """The users of a page, and what is said of the page."""
    answer = (await site.call("GET", "/users", params=params)).json()
    return [user["external_id"] for user in answer["data"]], answer["page_info"]


async def test_users_in_pages(site: Served) -> None:
    """Pages follow each other without a gap; the last one has no cursor to go on from."""
    names = [f"user-{number:02}" for number in range(23)]
    connect(site, *names)
    found: list[str] = []
    cursor: str | None = ""
    sizes = []
    while cursor is not None:
        page, info = await ids(site, **({"after": cursor} if cursor else {}))
        found += page
        sizes.append(len(page))
        cursor = info["end_cursor"]  # type: ignore[assignment]

    assert found == names
    assert sizes == [10, 10, 3]
    assert info["total_count"] == 23


async def test_a_page_of_a_certain_size(site: Served) -> None:
    """`limit` says how many; more than 100 are never sent; exactly all are the last page."""
    connect(site, *[f"user-{number:03}" for number in range(120)])

    some, info = await ids(site, limit="120")
    rest, last = await ids(site, limit="20", after=str(info["end_cursor"]))

    assert (len(some), len(rest), last["end_cursor"]) == (100, 20, None)
    for limit in ("0", "-1", "x", "1" * 50):
        assert (await site.call("GET", "/users", params={"limit": limit})).status_code == 400


async def test_a_page_after_one_that_is_gone(site: Served) -> None:
    """A user who is deleted between two pages makes nobody else fall out."""
    connect(site, "a", "b", "c", "d")
    _, info = await ids(site, limit="2")
    site.directory.delete_user("b", "development")

    rest, _ = await ids(site, limit="2", after=str(info["end_cursor"]))

    assert rest == ["c", "d"]


async def test_the_page_before(site: Served) -> None:
    """`before` gives the items just before a cursor."""
    connect(site, "a", "b", "c", "d")
    _, info = await ids(site, limit="2", after=str((await ids(site, limit="2"))[1]["end_cursor"]))

    assert (await ids(site, limit="1", before=str(info["start_cursor"])))[0] == ["b"]


@pytest.mark.parametrize("cursor", ["x", "!!!!", "WyJhIiwgMV0", "e30", "W10", "OTk5"])
async def test_a_cursor_that_is_none(site: Served, cursor: str) -> None:
    """A cursor that this API did not make is refused."""
    assert (await site.call("GET", "/users", params={"after": cursor})).status_code == 400


async def test_users_are_searched(site: Served) -> None:
    """`q` is a part of the id; the other environment's users are not there."""
    connect(site, "ada", "grace")
    connect(site, "adam", environment="production")

    assert (await ids(site, q="AD"))[0] == ["ada"]


async def test_a_user_is_deleted(site: Served) -> None:
    """Deleting a user takes the accounts of that environment only."""
    connect(site, "ada", "grace")
    connect(site, "ada", environment="production")

    answer = await site.call("DELETE", "/users/ada")

    assert answer.status_code == 204
    assert (await ids(site))[0] == ["grace"]
    assert len(site.directory.accounts(external_user_id="ada")) == 1
    assert (await site.call("DELETE", "/users/ada")).status_code == 404


@pytest.mark.parametrize("prefix", ["/v1/connect/apps", "/v1/apps"])
async def test_apps(site: Served, prefix: str) -> None:
    """Apps are found by a word of theirs, by both paths, complete enough for every SDK."""
    found = (await site.call("GET", prefix, params={"q": "sheets"})).json()["data"]
    one = (await site.call("GET", f"{prefix}/slack")).json()["data"]
    by_id = (await site.call("GET", f"{prefix}/{one['id']}")).json()["data"]

    assert [app["name_slug"] for app in found] == ["google_sheets"]
    assert by_id == one
    assert {"name_slug", "name", "img_src", "categories", "featured_weight", "scope_profiles"} <= set(one)
    assert one["auth_type"] == "oauth"
    assert (await site.call("GET", f"{prefix}/no_such_app_here")).status_code == 404


async def test_fields_of_a_key_based_app(site: Served) -> None:
    """What an account of such an app holds is JSON inside a text, as the platform writes it."""
    app = (await site.call("GET", "/v1/connect/apps/twilio")).json()["data"]

    assert app["auth_type"] == "keys"
    assert [field["name"] for field in json.loads(app["custom_fields_json"])] == ["AccountSid", "AuthToken"]


async def test_apps_that_have_actions(depot: Served) -> None:
    """Only apps of which components are known; JS 1.x writes 1, the others true."""
    for yes in ("1", "true"):
        found = (await depot.call("GET", "/v1/connect/apps", params={"has_triggers": yes})).json()["data"]
        assert [app["name_slug"] for app in found] == ["depot"]
    without = (await depot.call("GET", "/v1/connect/apps", params={"has_actions": "0", "limit": "100"})).json()["data"]
    assert "depot" not in [app["name_slug"] for app in without]
    assert "slack" in [app["name_slug"] for app in without]


async def test_the_project(site: Served) -> None:
    """The project tells its apps, and is the only one."""
    info = (await site.call("GET", "/projects/info")).json()
    listed = (await site.call("GET", "/v1/connect/projects")).json()["data"]
    one = (await site.call("GET", f"/v1/connect/projects/{site.project.project_id}")).json()

    assert {"slack", "github"} <= {app["name_slug"] for app in info["apps"]}
    assert [project["id"] for project in listed] == [one["id"]] == [site.project.project_id]
    assert (await site.call("GET", "/v1/connect/projects/proj_other")).status_code == 404


async def test_categories(site: Served) -> None:
    """Apps have no categories here."""
    assert (await site.call("GET", "/v1/connect/app_categories")).json() == []
    assert (await site.call("GET", "/v1/connect/app_categories/x")).status_code == 404


async def test_fields_of_an_app_that_nobody_told_of(site: Served) -> None:
    """An app whose accounts here hold keys is key-based, with those as its fields."""
    site.directory.add_account(app="depot", credentials={"api_key": "dk-12345678"}, external_user_id="ada")

    app = (await site.call("GET", "/v1/connect/apps/depot")).json()["data"]

    assert app["auth_type"] == "keys"
    assert [field["name"] for field in json.loads(app["custom_fields_json"])] == ["api_key"]

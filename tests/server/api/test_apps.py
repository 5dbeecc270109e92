"""Routes of apps."""

from __future__ import annotations

import json

import pytest

from pdkernel.accounts.apps import OAuthProvider, register_app, register_provider
from pdkernel.render.apps import format_app_name
from tests.server.served import Served


@pytest.mark.parametrize("prefix", ["/v1/connect/apps", "/v1/apps"])
async def test_apps_are_searched(site: Served, prefix: str) -> None:
    """Apps are found at both paths, by slug, by name and by id, with every field that SDKs require."""
    found = (await site.call("GET", prefix, params={"q": "sheets"})).json()["data"]
    by_name = (await site.call("GET", prefix, params={"q": "Google SHEETS"})).json()["data"]
    one = (await site.call("GET", f"{prefix}/slack")).json()["data"]
    by_id = (await site.call("GET", f"{prefix}/{one['id']}")).json()["data"]

    assert [app["name_slug"] for app in found] == ["google_sheets"]
    assert by_name == found
    assert by_id == one
    assert {"name_slug", "name", "img_src", "categories", "featured_weight", "scope_profiles"} <= set(one)
    assert one["auth_type"] == "oauth"
    assert (await site.call("GET", f"{prefix}/no_such_app_here")).status_code == 404


async def test_fields_of_a_key_based_app(site: Served) -> None:
    """`custom_fields_json` is JSON in a string, as on the platform."""
    app = (await site.call("GET", "/v1/connect/apps/twilio")).json()["data"]

    assert app["auth_type"] == "keys"
    assert [field["name"] for field in json.loads(app["custom_fields_json"])] == [
        "AccountSid",
        "AuthToken",
        "Sid",
        "Secret",
    ]


async def test_the_types_of_fields(site: Served) -> None:
    """A form shows a host and a user in plain text, and hides every other credential."""
    register_app(site.project, "my_database", ["host", "user", "secret_word"])
    app = (await site.call("GET", "/v1/connect/apps/my_database")).json()["data"]

    types = {field["name"]: field["type"] for field in json.loads(app["custom_fields_json"])}
    assert types == {"host": "string", "user": "string", "secret_word": "password"}


async def test_an_app_with_a_provider(site: Served) -> None:
    """An app for which an OAuth provider is registered is listed; it has a sign-in and no fields."""
    register_provider(site.project, "my_mail", OAuthProvider("https://a.example/auth", "https://a.example/token", "id"))
    app = (await site.call("GET", "/v1/connect/apps/my_mail")).json()["data"]

    listed = (await site.call("GET", "/v1/connect/apps", params={"q": "my_mail"})).json()["data"]
    assert (app["auth_type"], app["custom_fields_json"]) == ("oauth", "[]")
    assert listed == [app]


async def test_apps_are_sorted(site: Served) -> None:
    """Apps are sorted by slug, or by name, in both directions; another key is answered 400, and no app has a category."""
    for app in ("zz_last", "aa_first"):
        register_app(site.project, app, ["api_key"])

    async def listed(**params: str) -> list[str]:
        answer = await site.call("GET", "/v1/connect/apps", params={"limit": "100", **params})
        assert answer.status_code == 200, answer.text
        return [app["name_slug"] for app in answer.json()["data"]]

    up, down = await listed(), await listed(sort_direction="desc")
    by_name = await listed(sort_key="name")

    assert (up[0], up) == ("aa_first", sorted(up))
    assert down == up[::-1]
    assert by_name == sorted(up, key=format_app_name)
    assert by_name != up
    assert await listed(category_ids="c_1") == []
    assert (await site.call("GET", "/v1/connect/apps", params={"sort_key": "size"})).status_code == 400


async def test_apps_are_filtered_by_components(depot: Served) -> None:
    """`has_triggers` and `has_actions` may be `1` (JS SDK 1.x) or `true`."""
    for yes in ("1", "true"):
        found = (await depot.call("GET", "/v1/connect/apps", params={"has_triggers": yes})).json()["data"]
        assert [app["name_slug"] for app in found] == ["depot"]
    without = (await depot.call("GET", "/v1/connect/apps", params={"has_actions": "0", "limit": "100"})).json()["data"]
    assert "depot" not in [app["name_slug"] for app in without]
    assert "slack" in [app["name_slug"] for app in without]


async def test_apps_have_no_categories(site: Served) -> None:
    """The list of categories is empty."""
    assert (await site.call("GET", "/v1/connect/app_categories")).json() == []
    assert (await site.call("GET", "/v1/connect/app_categories/x")).status_code == 404


async def test_fields_of_an_unlisted_app(site: Served) -> None:
    """The fields of an app that is not listed are the credentials of its newest account."""
    site.connect("ada", "depot", {"api_key": "dk-12345678"})

    app = (await site.call("GET", "/v1/connect/apps/depot")).json()["data"]

    assert app["auth_type"] == "keys"
    assert [field["name"] for field in json.loads(app["custom_fields_json"])] == ["api_key"]


async def test_the_project_and_its_apps(site: Served) -> None:
    """The server has exactly one project; `info` has its apps."""
    info = (await site.call("GET", "/projects/info")).json()
    listed = (await site.call("GET", "/v1/connect/projects")).json()["data"]
    one = (await site.call("GET", f"/v1/connect/projects/{site.project.project_id}")).json()

    assert {"slack", "github"} <= {app["name_slug"] for app in info["apps"]}
    assert [project["id"] for project in listed] == [one["id"]] == [site.project.project_id]
    assert (await site.call("GET", "/v1/connect/projects/proj_other")).status_code == 404

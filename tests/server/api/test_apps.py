"""Routes of apps."""

from __future__ import annotations

import json

import pytest

from tests.server.served import Served


@pytest.mark.parametrize("prefix", ["/v1/connect/apps", "/v1/apps"])
async def test_apps_are_searched(site: Served, prefix: str) -> None:
    """Apps are found at both paths, by slug and by id, with every field that SDKs require."""
    found = (await site.call("GET", prefix, params={"q": "sheets"})).json()["data"]
    one = (await site.call("GET", f"{prefix}/slack")).json()["data"]
    by_id = (await site.call("GET", f"{prefix}/{one['id']}")).json()["data"]

    assert [app["name_slug"] for app in found] == ["google_sheets"]
    assert by_id == one
    assert {"name_slug", "name", "img_src", "categories", "featured_weight", "scope_profiles"} <= set(one)
    assert one["auth_type"] == "oauth"
    assert (await site.call("GET", f"{prefix}/no_such_app_here")).status_code == 404


async def test_fields_of_a_key_based_app(site: Served) -> None:
    """`custom_fields_json` is JSON in a string, as on the platform."""
    app = (await site.call("GET", "/v1/connect/apps/twilio")).json()["data"]

    assert app["auth_type"] == "keys"
    assert [field["name"] for field in json.loads(app["custom_fields_json"])] == ["AccountSid", "AuthToken"]


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
    site.directory.add_account(app="depot", credentials={"api_key": "dk-12345678"}, external_user_id="ada")

    app = (await site.call("GET", "/v1/connect/apps/depot")).json()["data"]

    assert app["auth_type"] == "keys"
    assert [field["name"] for field in json.loads(app["custom_fields_json"])] == ["api_key"]

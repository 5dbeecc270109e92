"""Accounts over HTTP: who sees which, and who sees credentials."""

from __future__ import annotations

import json
from datetime import timedelta

from pdkernel.project import Grant
from pdkernel.server.link.tokens import create_token, parse_terms
from tests.server.served import Served

SECRET = "xoxb-7d1e90c2a4"


def connect(site: Served, user: str | None = "ada", app: str = "slack", **choices: str) -> str:
    """Connect an account with a marked credential."""
    account = site.directory.add_account(
        app=app,
        credentials={"oauth_access_token": SECRET},
        external_user_id=user,
        **choices,  # type: ignore[arg-type]
    )
    return account.id


def connect_token(site: Served, user: str = "ada", **terms: object) -> str:
    """A Connect token of that user."""
    agreed, lasts_s = parse_terms(site.context, terms)
    made = create_token(
        site.context, external_user_id=user, environment="development", terms=agreed, lifetime_s=lasts_s
    )
    return made.text


def bearer(text: str) -> dict[str, str]:
    """The header of a token."""
    return {"Authorization": f"Bearer {text}"}


async def test_accounts_newest_first(site: Served) -> None:
    """The list of a user's accounts begins with the one that a run would use, without credentials."""
    first, second = connect(site), connect(site)
    connect(site, "grace")

    answer = (await site.call("GET", "/accounts", params={"external_user_id": "ada", "app": "slack"})).json()

    assert [account["id"] for account in answer["data"]] == [second, first]
    assert answer["page_info"]["total_count"] == 2
    assert answer["page_info"]["end_cursor"] is None
    assert answer["data"][0]["app"]["name_slug"] == "slack"
    assert answer["data"][0]["app"]["scope_profiles"] == []
    assert answer["data"][0]["external_id"] == "ada"
    assert answer["data"][0]["created_at"].endswith("Z")
    assert "credentials" not in answer["data"][0]


async def test_credentials_on_request(site: Served) -> None:
    """Credentials come when they are asked for, as Python and JS write it, and only then."""
    account = connect(site)

    for asked in ("true", "1"):
        answer = (await site.call("GET", f"/accounts/{account}", params={"include_credentials": asked})).json()
        assert answer["credentials"] == {"oauth_access_token": SECRET}
    for params in ({}, {"include_credentials": "false"}, {"include_credentials": "0"}):
        assert SECRET not in (await site.call("GET", f"/accounts/{account}", params=params)).text


async def test_renewal_of_an_account_by_oauth(site: Served) -> None:
    """With the credentials comes when the token ends, when it was got and when it is got anew."""
    account, now = connect(site), site.context.clock.now()
    site.project.grants.set(account, Grant("refresh-0123456789", now + timedelta(hours=1), now))

    answer = (await site.call("GET", f"/accounts/{account}", params={"include_credentials": "true"})).json()

    times = {name: answer[name] for name in ("last_refreshed_at", "next_refresh_at", "expires_at")}
    assert times == {
        "last_refreshed_at": "2026-01-01T00:00:00.000Z",
        "next_refresh_at": "2026-01-01T00:55:00.000Z",
        "expires_at": "2026-01-01T01:00:00.000Z",
    }


async def test_a_list_of_a_user_is_bare(site: Served) -> None:
    """The list below a user is no page; the user's id may hold a slash."""
    account = connect(site, "team/ada")

    answer = await site.call("GET", "/users/team%2Fada/accounts")

    assert [each["id"] for each in answer.json()] == [account]


async def test_environments_are_apart(site: Served) -> None:
    """An account of production is not there for development, by any route."""
    account = connect(site, environment="production")

    listed = await site.call("GET", "/accounts")
    there = await site.call("GET", f"/accounts/{account}", environment="production")

    assert listed.json()["data"] == []
    assert (await site.call("GET", f"/accounts/{account}")).status_code == 404
    assert (await site.call("DELETE", f"/accounts/{account}")).status_code == 404
    assert there.status_code == 200


async def test_accounts_of_ones_own_are_no_ones(site: Served) -> None:
    """An account of your own is not one of an external user."""
    own = connect(site, None)

    assert (await site.call("GET", "/accounts")).json()["data"] == []
    assert (await site.call("GET", f"/accounts/{own}", params={"include_credentials": "true"})).status_code == 404


async def test_an_account_is_removed(site: Served) -> None:
    """A removed account is gone, and the user stays."""
    account = connect(site)

    answer = await site.call("DELETE", f"/accounts/{account}")

    assert (answer.status_code, answer.content) == (204, b"")
    assert (await site.call("GET", f"/accounts/{account}")).status_code == 404
    assert [user["external_id"] for user in (await site.call("GET", "/users")).json()["data"]] == ["ada"]


async def test_accounts_of_an_app_are_removed(site: Served) -> None:
    """All accounts of an app go by its slug, its id, or JS 1.x's path; others and those of production stay."""
    for path in ("/apps/slack/accounts", "/accounts/app/slack", None):
        connect(site)
        kept = [connect(site, app="github"), connect(site, environment="production")]
        app = (await site.call("GET", "/v1/connect/apps/slack")).json()["data"]["id"]

        answer = await site.call("DELETE", path or f"/apps/{app}/accounts")

        assert answer.status_code == 204
        assert (await site.call("GET", "/accounts", params={"app": "slack"})).json()["data"] == []
        assert all(site.directory.find_account(each) for each in kept)


async def test_an_account_is_connected_with_a_token(site: Served) -> None:
    """A key-based account comes of a Connect token, once."""
    body = {
        "app_slug": "stripe",
        "cfmap_json": json.dumps({"api_key": SECRET}),
        "connect_token": connect_token(site),
        "name": "Ada's",
    }

    made = await site.call("POST", "/accounts", json=body)
    again = await site.call("POST", "/accounts", json=body)

    assert made.status_code == 200
    assert made.json()["external_id"] == "ada"
    assert SECRET not in made.text
    assert site.directory.credentials(made.json()["id"])["api_key"] == SECRET
    assert again.status_code == 400


async def test_an_account_is_connected_again(site: Served) -> None:
    """With `account_id` the account keeps its id; nobody else's can be taken so."""
    mine, others = connect(site, app="stripe"), connect(site, "grace", app="stripe")
    body = {"app_slug": "stripe", "cfmap_json": '{"api_key": "k-1234567"}', "connect_token": connect_token(site)}

    refused = [
        await site.call("POST", "/accounts", json={**body, "account_id": each}) for each in (others, "apn_none", 7)
    ]
    made = await site.call("POST", "/accounts", json={**body, "account_id": mine})

    assert [answer.status_code for answer in refused] == [400, 400, 400]
    assert (made.status_code, made.json()["id"]) == (200, mine)
    assert dict(site.directory.credentials(mine)) == {"api_key": "k-1234567"}
    assert dict(site.directory.credentials(others)) == {"oauth_access_token": SECRET}


async def test_what_cannot_be_connected(site: Served) -> None:
    """A token that is none, fields that are none and an odd slug are the caller's fault; the token stays good."""
    good = {"app_slug": "stripe", "cfmap_json": '{"api_key": "k-1234567"}', "connect_token": connect_token(site)}
    for change in (
        {"connect_token": "ctok_" + "0" * 32},
        {"connect_token": None},
        {"connect_token": 7},
        {"cfmap_json": "[]"},
        {"cfmap_json": "{"},
        {"app_slug": "No App"},
        {"app_slug": None},
        {"name": 7},
    ):
        answer = await site.call("POST", "/accounts", json={**good, **change})
        assert answer.status_code == 400, change
    assert (await site.call("POST", "/accounts", json=good, environment="production")).status_code == 400
    assert (await site.call("POST", "/accounts", json=good)).status_code == 200


async def test_a_browser_sees_its_users_accounts(site: Served) -> None:
    """With a Connect token the project may be left out, credentials never come, and others are not there."""
    mine, others = connect(site), connect(site, "grace")
    token = bearer(connect_token(site))

    for path in ("/v1/connect/accounts", "/accounts"):
        listed = await site.call("GET", path, headers=token, params={"include_credentials": "true"})
        assert [account["id"] for account in listed.json()["data"]] == [mine]
        assert SECRET not in listed.text
    assert (await site.call("GET", f"/accounts/{others}", headers=token)).status_code == 404
    assert (await site.call("GET", "/accounts", headers=token, params={"external_user_id": "grace"})).status_code == 403
    assert (await site.call("GET", "/users/grace/accounts", headers=token)).status_code == 403
    assert (await site.call("DELETE", f"/accounts/{others}", headers=token)).status_code == 404
    assert (await site.call("DELETE", "/apps/slack/accounts", headers=token)).status_code == 403
    assert (await site.call("GET", "/users", headers=token)).status_code == 403


async def test_a_connect_token_reads_as_far_as_its_scope(site: Served) -> None:
    """A token that was made for reading connects and removes nothing."""
    account = connect(site)
    token = bearer(connect_token(site, scope="connect:accounts:read"))

    assert (await site.call("GET", f"/accounts/{account}", headers=token)).status_code == 200
    assert (await site.call("DELETE", f"/accounts/{account}", headers=token)).status_code == 403
    assert site.directory.find_account(account)


async def test_a_path_without_the_project(site: Served) -> None:
    """With a Connect token SDKs leave the project out, or its place empty (the proxy of JS 2.x and 3.x)."""
    account = connect(site)
    token = bearer(connect_token(site))

    for path in ("/v1/connect/accounts", "/v1/connect//accounts"):
        answer = await site.call("GET", path, headers=token)
        assert [each["id"] for each in answer.json()["data"]] == [account]
    for path in ("/v1/connect/proxy/x", "/v1/connect//proxy/x"):
        assert (await site.call("GET", path, headers=token)).status_code == 400

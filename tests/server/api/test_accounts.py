"""Routes of accounts: visibility, credentials, connecting and deleting."""

from __future__ import annotations

import json
from datetime import timedelta

from pdkernel.server.authorization import AuthorizedClient
from pdkernel.server.link.tokens import create_token, parse_terms
from pdkernel.storage import Grant
from tests.server.api.test_api_call import ids
from tests.server.served import Served

SECRET = "xoxb-7d1e90c2a4"


def connect(site: Served, user: str | None = "ada", app: str = "slack", **choices: str) -> str:
    """Connect an account with a known credential; returns its id."""
    return site.connect(user, app, {"oauth_access_token": SECRET}, **choices)


def connect_token(site: Served, user: str = "ada", **terms: object) -> str:
    """A new Connect token of that user."""
    client = AuthorizedClient(site.client.client.id, site.project.project_id, ("*",))
    parsed_terms, lifetime_s = parse_terms(site.context, terms, client)
    made = create_token(
        site.context, external_user_id=user, environment="development", terms=parsed_terms, lifetime_s=lifetime_s
    )
    return made.text


def bearer(text: str) -> dict[str, str]:
    """The Authorization header with *text*."""
    return {"Authorization": f"Bearer {text}"}


async def test_accounts_are_listed_newest_first(site: Served) -> None:
    """The first account is the account that a run would use; the list has no credentials."""
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


async def test_accounts_are_filtered_by_app(site: Served) -> None:
    """The app is named by slug or by id; an account never belongs to a custom OAuth client."""
    slack, github = connect(site), connect(site, app="github")
    app_id = (await site.call("GET", "/v1/connect/apps/slack")).json()["data"]["id"]
    found = [
        [each["id"] for each in (await site.call("GET", "/accounts", params=params)).json()["data"]]
        for params in ({}, {"app": "slack"}, {"app": app_id}, {"app": "gitlab"}, {"oauth_app_id": "oa_1"})
    ]

    assert found == [[github, slack], [slack], [slack], [], []]


async def test_credentials_are_returned_on_request(site: Served) -> None:
    """`include_credentials` may be `true` (Python) or `1` (JS); without it, there are no credentials."""
    account = connect(site)

    for flag in ("true", "1"):
        answer = (await site.call("GET", f"/accounts/{account}", params={"include_credentials": flag})).json()
        assert answer["credentials"] == {"oauth_access_token": SECRET}
    for params in ({}, {"include_credentials": "false"}, {"include_credentials": "0"}):
        assert SECRET not in (await site.call("GET", f"/accounts/{account}", params=params)).text


async def test_refresh_times_of_an_oauth_account(site: Served) -> None:
    """With credentials, the response has the expiry and the refresh times of the token."""
    account, now = connect(site), site.context.clock.now()
    site.project.grants.set(account, Grant("refresh-0123456789", now + timedelta(hours=1), now))

    answer = (await site.call("GET", f"/accounts/{account}", params={"include_credentials": "true"})).json()

    times = {name: answer[name] for name in ("last_refreshed_at", "next_refresh_at", "expires_at")}
    assert times == {
        "last_refreshed_at": "2026-01-01T00:00:00.000Z",
        "next_refresh_at": "2026-01-01T00:55:00.000Z",
        "expires_at": "2026-01-01T01:00:00.000Z",
    }


async def test_the_list_below_a_user_has_no_pages(site: Served) -> None:
    """The response is a list; the user's id in the path may have a slash."""
    account = connect(site, "team/ada")

    answer = await site.call("GET", "/users/team%2Fada/accounts")

    assert [each["id"] for each in answer.json()] == [account]


async def test_an_account_is_visible_in_its_environment_only(site: Served) -> None:
    """An account of production is not visible for development at any route."""
    account = connect(site, environment="production")

    listed = await site.call("GET", "/accounts")
    there = await site.call("GET", f"/accounts/{account}", environment="production")

    assert listed.json()["data"] == []
    assert (await site.call("GET", f"/accounts/{account}")).status_code == 404
    assert (await site.call("DELETE", f"/accounts/{account}")).status_code == 404
    assert there.status_code == 200


async def test_own_accounts_are_not_visible(site: Served) -> None:
    """An account of your own is not listed and not found."""
    own = connect(site, None)

    assert (await site.call("GET", "/accounts")).json()["data"] == []
    assert (await site.call("GET", f"/accounts/{own}", params={"include_credentials": "true"})).status_code == 404


async def test_an_account_is_removed(site: Served) -> None:
    """The account is deleted, and the user stays."""
    account = connect(site)

    answer = await site.call("DELETE", f"/accounts/{account}")

    assert (answer.status_code, answer.content) == (204, b"")
    assert (await site.call("GET", f"/accounts/{account}")).status_code == 404
    assert [user["external_id"] for user in (await site.call("GET", "/users")).json()["data"]] == ["ada"]


async def test_accounts_of_an_app_are_removed(site: Served) -> None:
    """The app is named by slug, by id, or in JS SDK 1.x's path; other apps and production stay."""
    for path in ("/apps/slack/accounts", "/accounts/app/slack", None):
        connect(site)
        kept = [connect(site, app="github"), connect(site, environment="production")]
        app = (await site.call("GET", "/v1/connect/apps/slack")).json()["data"]["id"]

        answer = await site.call("DELETE", path or f"/apps/{app}/accounts")

        assert answer.status_code == 204
        assert (await site.call("GET", "/accounts", params={"app": "slack"})).json()["data"] == []
        assert all(site.directory.find_account(each) for each in kept)


async def test_an_account_is_connected_with_a_token(site: Served) -> None:
    """A Connect token connects one key-based account."""
    body = {
        "app_slug": "stripe",
        "cfmap_json": json.dumps({"api_key": SECRET, "port": 8080, "tls": True}),
        "connect_token": connect_token(site),
        "name": "Ada's",
    }

    made = await site.call("POST", "/accounts", json=body)
    again = await site.call("POST", "/accounts", json=body)

    assert made.status_code == 200
    assert made.json()["external_id"] == "ada"
    assert SECRET not in made.text
    assert dict(site.directory.credentials(made.json()["id"])) == {"api_key": SECRET, "port": "8080", "tls": "true"}
    assert again.status_code == 400


async def test_an_account_is_reconnected(site: Served) -> None:
    """With `account_id` the user's account gets new credentials; another user's account is rejected."""
    own, others = connect(site, app="stripe"), connect(site, "grace", app="stripe")
    body = {"app_slug": "stripe", "cfmap_json": '{"api_key": "k-1234567"}', "connect_token": connect_token(site)}

    refused = [
        await site.call("POST", "/accounts", json={**body, "account_id": each}) for each in (others, "apn_none", 7)
    ]
    made = await site.call("POST", "/accounts", json={**body, "account_id": own})

    assert [answer.status_code for answer in refused] == [400, 400, 400]
    assert (made.status_code, made.json()["id"]) == (200, own)
    assert dict(site.directory.credentials(own)) == {"api_key": "k-1234567"}
    assert dict(site.directory.credentials(others)) == {"oauth_access_token": SECRET}


async def test_a_token_stays_valid_after_invalid_credentials(site: Served) -> None:
    """If the account cannot be stored, its token connects an account with other credentials."""
    token = bearer(connect_token(site))
    answers = [
        await site.call("POST", "/accounts", json={"app_slug": "stripe", "cfmap_json": fields}, headers=token)
        for fields in ('{" ": "k-1234567"}', '{"api_key": "k-1234567"}')
    ]

    assert [answer.status_code for answer in answers] == [400, 200]
    assert len(site.directory.accounts()) == 1


async def test_an_account_whose_token_was_rejected(site: Served) -> None:
    """An account that has to be connected again is not healthy, and is dead in the words of older SDKs."""
    account = connect(site)
    before = (await site.call("GET", f"/accounts/{account}")).json()
    site.project.accounts.mark_unhealthy(account)
    after = (await site.call("GET", f"/accounts/{account}")).json()

    assert [(shown["healthy"], shown["dead"]) for shown in (before, after)] == [(True, False), (False, True)]


async def test_a_page_connects_an_account_with_its_token(site: Served) -> None:
    """With a Connect token as the bearer token, the account is of the token's user; one of another user in the body is refused."""
    body, token = {"app_slug": "stripe", "cfmap_json": '{"api_key": "k-1234567"}'}, bearer(connect_token(site, "grace"))
    other = {**body, "connect_token": connect_token(site, "ada")}
    refused = await site.call("POST", "/accounts", json=other, headers=token)
    answer = await site.call("POST", "/accounts", json=body, headers=token)

    (account,) = site.directory.accounts()
    assert (refused.status_code, answer.status_code, answer.json()["id"]) == (403, 200, account.id)
    assert (account.app, account.external_user_id) == ("stripe", "grace")


async def test_invalid_accounts_are_rejected(site: Served) -> None:
    """An invalid token, field or slug is answered 400, and the Connect token stays unused."""
    good = {"app_slug": "stripe", "cfmap_json": '{"api_key": "k-1234567"}', "connect_token": connect_token(site)}
    for change in (
        {"connect_token": "ctok_" + "0" * 32},
        {"connect_token": None},
        {"connect_token": 7},
        {"cfmap_json": "[]"},
        {"cfmap_json": "{"},
        {"cfmap_json": '{" ": "k-1234567"}'},
        {"app_slug": "No App"},
        {"app_slug": None},
        {"name": 7},
    ):
        answer = await site.call("POST", "/accounts", json={**good, **change})
        assert answer.status_code == 400, change
    assert (await site.call("POST", "/accounts", json=good, environment="production")).status_code == 400
    assert (await site.call("POST", "/accounts", json=good)).status_code == 200


async def test_a_connect_token_sees_its_users_accounts(site: Served) -> None:
    """The responses never have credentials, and accounts of other users are not visible."""
    own, others = connect(site), connect(site, "grace")
    token = bearer(connect_token(site))

    for path in ("/v1/connect/accounts", "/accounts"):
        listed = await site.call("GET", path, headers=token, params={"include_credentials": "true"})
        assert [account["id"] for account in listed.json()["data"]] == [own]
        assert SECRET not in listed.text
    assert (await site.call("GET", f"/accounts/{others}", headers=token)).status_code == 404
    assert (await site.call("GET", "/accounts", headers=token, params={"external_user_id": "grace"})).status_code == 403
    assert (await site.call("GET", "/users/grace/accounts", headers=token)).status_code == 403
    assert (await site.call("DELETE", f"/accounts/{others}", headers=token)).status_code == 404
    assert (await site.call("DELETE", "/apps/slack/accounts", headers=token)).status_code == 403
    assert (await site.call("GET", "/users", headers=token)).status_code == 403


async def test_the_scope_of_a_connect_token(site: Served) -> None:
    """A token with a scope for reading does not delete an account."""
    account = connect(site)
    token = bearer(connect_token(site, scope="connect:accounts:read"))

    assert (await site.call("GET", f"/accounts/{account}", headers=token)).status_code == 200
    assert (await site.call("DELETE", f"/accounts/{account}", headers=token)).status_code == 403
    assert site.directory.find_account(account)


async def test_users_are_searched(site: Served) -> None:
    """`q` is a part of the id; users of the other environment are not listed."""
    connect(site)
    connect(site, "grace")
    connect(site, "adam", environment="production")

    assert (await ids(site, q="AD"))[0] == ["ada"]


async def test_a_user_is_deleted(site: Served) -> None:
    """The user's accounts of that environment are deleted too."""
    connect(site)
    connect(site, "grace")
    connect(site, "ada", environment="production")

    answer = await site.call("DELETE", "/users/ada")

    assert answer.status_code == 204
    assert (await ids(site))[0] == ["grace"]
    assert len(site.directory.accounts(external_user_id="ada")) == 1
    assert (await site.call("DELETE", "/users/ada")).status_code == 404

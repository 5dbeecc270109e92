"""Connect tokens: made, looked up, ended."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pdkernel.clock import ManualClock
from pdkernel.server.link.tokens import create_link, find_token
from tests.server.link.conftest import Visitor, make, token_of
from tests.server.served import Served, served


def moved(site: Served) -> ManualClock:
    """The clock of the project."""
    assert isinstance(site.context.clock, ManualClock)
    return site.context.clock


async def test_a_token_is_made(site: Served) -> None:
    """The answer is what SDKs require: the token, when it expires, and the link."""
    made = await make(site)

    assert set(made) == {"token", "expires_at", "connect_link_url"}
    assert made["token"].startswith("ctok_")
    assert len(made["token"]) == len("ctok_") + 32
    assert made["expires_at"] == "2026-01-01T04:00:00.000Z"
    assert made["connect_link_url"] == (
        f"http://127.0.0.1:4000/_static/connect.html?token={made['token']}&connectLink=true"
    )


async def test_js_1_sends_both_names_of_the_user(site: Served) -> None:
    """`external_id` is taken where `external_user_id` is missing."""
    answer = await site.call("POST", "/tokens", json={"external_id": "ada"})

    found = find_token(site.context, answer.json()["token"])
    assert found is not None
    assert found.external_user_id == "ada"


async def test_a_token_is_for_its_environment(site: Served) -> None:
    """The header decides; without it the token is for development."""
    production = await site.call("POST", "/tokens", json={"external_user_id": "ada"}, environment="production")
    silent = await site.call("POST", "/tokens", json={"external_user_id": "ada"}, environment=None)

    environments = [find_token(site.context, answer.json()["token"]) for answer in (production, silent)]
    assert [each and each.environment for each in environments] == ["production", "development"]


async def test_the_token_is_nowhere_in_the_project(site: Served, tmp_path: Path) -> None:
    """A copy of the database connects nobody, and shows no URL that the token was made with."""
    hook = "https://hooks.example.com/T0P-SECRET"
    made = await make(site, webhook_uri=hook)

    site.project.close()
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"external_users" in kept  # the database is among them
    assert made["token"].encode() not in kept
    assert b"T0P-SECRET" not in kept


async def test_a_token_ends(site: Served) -> None:
    """After its time it is not found any more."""
    made = await make(site, expires_in=60)

    moved(site).advance(59)
    assert find_token(site.context, made["token"]) is not None
    moved(site).advance(1)
    assert find_token(site.context, made["token"]) is None


async def test_an_unknown_token_is_not_found(site: Served) -> None:
    """Neither a token that nobody made nor what is none."""
    assert find_token(site.context, "ctok_" + "0" * 32) is None
    assert find_token(site.context, "\ud800") is None


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({}, "external_user_id is missing"),
        ({"external_user_id": 7}, "external_user_id is missing"),
        ({"external_user_id": " "}, "cannot be blank"),
        ({"external_user_id": "a" * 251}, "at most 250 characters"),
        ({"external_user_id": "ada", "expires_in": 14401}, "from 1 to 14400"),
        ({"external_user_id": "ada", "expires_in": True}, "from 1 to 14400"),
        ({"external_user_id": "ada", "expires_in": "soon"}, "from 1 to 14400"),
        (
            {"external_user_id": "ada", "success_redirect_uri": "javascript:alert(1)"},
            "success_redirect_uri is not an http or https URL",
        ),
        (
            {"external_user_id": "ada", "error_redirect_uri": "https://a b"},
            "error_redirect_uri is not an http or https URL",
        ),
        ({"external_user_id": "ada", "webhook_uri": "ftp://example.com"}, "webhook_uri is not an http or https URL"),
        ({"external_user_id": "ada", "webhook_uri": ["https://example.com"]}, "webhook_uri must be a string"),
        ({"external_user_id": "ada", "allowed_origins": "https://example.com"}, "allowed_origins must be a list"),
        (
            {"external_user_id": "ada", "allowed_origins": ["https://x; script-src *"]},
            "allowed_origins is not an http or https URL",
        ),
        (
            {"external_user_id": "ada", "allowed_origins": ["https://[::1"]},
            "allowed_origins is not an http or https URL",
        ),
        (["ada"], "not a JSON object"),
    ],
)
async def test_a_wrong_request_is_refused(site: Served, body: Any, problem: str) -> None:
    """The answer is 400 and says which field is wrong."""
    answer = await site.call("POST", "/tokens", json=body)

    assert answer.status_code == 400
    assert problem in answer.json()["error"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000])
async def test_what_is_no_json_is_refused(site: Served, content: bytes) -> None:
    """Neither a broken body nor a deep or empty one is an error of ours."""
    answer = await site.call("POST", "/tokens", content=content)

    assert answer.status_code == 400


async def test_a_wrong_environment_is_refused(site: Served) -> None:
    """There are two."""
    answer = await site.call("POST", "/tokens", json={"external_user_id": "ada"}, environment="staging")

    assert (answer.status_code, "'staging' is not an environment" in answer.json()["error"]) == (400, True)


@pytest.mark.parametrize("headers", [{}, {"authorization": ""}, {"authorization": "Bearer nonsense"}])
async def test_nobody_makes_tokens_without_one(site: Served, headers: Mapping[str, str]) -> None:
    """The API's own access token is needed."""
    url = f"/v1/connect/{site.project.project_id}/tokens"

    answer = await site.http.post(url, json={"external_user_id": "ada"}, headers=headers)

    assert answer.status_code == 401


async def test_a_client_for_other_things_makes_no_tokens(site: Served) -> None:
    """A token of narrower scope is refused."""
    url = f"/v1/connect/{site.project.project_id}/tokens"
    narrow = site.headers("connect:accounts:read")

    answer = await site.http.post(url, json={"external_user_id": "ada"}, headers=narrow)

    assert (answer.status_code, "connect:tokens:create" in answer.json()["error"]) == (403, True)


async def test_another_project_is_not_here(site: Served) -> None:
    """The project in the path is ours or none."""
    answer = await site.call("POST", "/v1/connect/proj_other/tokens", json={"external_user_id": "ada"})

    assert answer.status_code == 404


async def test_validate(site: Served) -> None:
    """The page's own question: whose token it is, and the app in full, as SDKs require it."""
    made = await make(site, success_redirect_uri="https://example.com/ok")

    answer = await site.http.get(f"/v1/connect/tokens/{made['token']}/validate", params={"app_id": "slack"})

    told = answer.json()
    assert told["success"] is True
    assert (told["project_id"], told["project_environment"]) == (site.project.project_id, "development")
    assert told["success_redirect_uri"] == "https://example.com/ok"
    assert {"name_slug", "name", "img_src", "categories", "featured_weight", "scope_profiles"} <= set(told["app"])
    assert told["app"] == (await site.call("GET", "/v1/connect/apps/slack")).json()["data"]


async def test_an_app_by_its_id(site: Served, visitor: Visitor) -> None:
    """The id that the API tells of an app names it here, too."""
    app = (await site.call("GET", "/v1/connect/apps/slack")).json()["data"]["id"]
    made = await make(site)

    told = (await site.http.get(f"/v1/connect/tokens/{made['token']}/validate", params={"app_id": app})).json()
    page = await visitor.open(made["connect_link_url"], app=app)

    assert told["app"]["name_slug"] == "slack"
    assert "Connect your slack account" in page.words
    assert page.hidden["app"] == "slack"


async def test_validate_says_what_is_wrong(site: Served) -> None:
    """In the platform's words; the status is 200, as its model has it."""
    made = await make(site, expires_in=60)
    url = f"/v1/connect/tokens/{made['token']}/validate"

    unknown = await site.http.get("/v1/connect/tokens/ctok_0/validate")
    no_app = await site.http.get(url, params={"app_id": "No App!"})
    moved(site).advance(61)
    late = await site.http.get(url)

    assert [answer.status_code for answer in (unknown, no_app, late)] == [200, 200, 200]
    assert unknown.json() == {
        "success": False,
        "error": "The Pipedream Connect token is invalid. Please generate a new one and try again.",
    }
    assert no_app.json() == {"success": False, "error": "App not found. Please check your app id."}
    assert late.json()["error"].startswith("This link has expired.")


async def test_validate_an_account_to_be_connected_again(site: Served) -> None:
    """The token is good for an account of its user's, and for no other."""
    for user in ("ada", "bob"):
        site.directory.add_account(
            app="slack", credentials={"api_key": "k"}, external_user_id=user, account_id=f"apn_{user}"
        )
    url = f"/v1/connect/tokens/{(await make(site))['token']}/validate"

    mine, others = [
        (await site.http.get(url, params={"app_id": "slack", "account_id": each})).json()
        for each in ("apn_ada", "apn_bob")
    ]

    assert mine["success"] is True
    assert others["success"] is False
    assert "no slack account apn_bob of this user" in others["error"]


async def test_rate_limit(tmp_path: Path) -> None:
    """Where rate limits are applied, a user gets 100 tokens a minute; others are not concerned."""
    async with served(tmp_path, applies_rate_limits=True) as site:
        answers = [await site.call("POST", "/tokens", json={"external_user_id": "ada"}) for _ in range(101)]
        other = await site.call("POST", "/tokens", json={"external_user_id": "bob"})
        moved(site).advance(61)
        later = await site.call("POST", "/tokens", json={"external_user_id": "ada"})

    assert [answer.status_code for answer in answers] == [200] * 100 + [429]
    assert answers[-1].json() == {"error": "Throttled"}
    assert answers[-1].headers["retry-after"] == "60"
    assert (other.status_code, later.status_code) == (200, 200)


async def test_a_link_for_the_notebook(site: Served) -> None:
    """A link can be had without the API, for one app."""
    url = create_link(site.context, external_user_id="ada", environment="production", app="slack").url

    found = find_token(site.context, token_of(url))
    assert url.endswith("&connectLink=true&app=slack")
    assert found is not None
    assert (found.external_user_id, found.environment) == ("ada", "production")

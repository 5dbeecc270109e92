"""Creation, lookup and validation of Connect tokens."""

from __future__ import annotations

import html
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pdkernel.server.link.tokens import INVALID_MESSAGE, LinkRequest, create_link, find_token
from tests.server.link.visitor import Visitor, make, token_of
from tests.server.served import Served, served


async def test_the_response_has_what_sdks_require(site: Served) -> None:
    """The response has the token, its expiry and the link."""
    answer = await site.call("POST", "/tokens", json={"external_user_id": "ada"})

    made = answer.json()
    assert answer.headers["cache-control"] == "no-store"
    assert set(made) == {"token", "expires_at", "connect_link_url"}
    assert made["token"].startswith("ctok_")
    assert len(made["token"]) == len("ctok_") + 32
    assert made["expires_at"] == "2026-01-01T04:00:00.000Z"
    assert made["connect_link_url"] == (
        f"http://127.0.0.1:4000/_static/connect.html?token={made['token']}&connectLink=true"
    )


async def test_external_id_is_accepted(site: Served) -> None:
    """`external_id`, which JS SDK 1.x sends, counts if `external_user_id` is missing."""
    answer = await site.call("POST", "/tokens", json={"external_id": "ada"})

    found = find_token(site.context, answer.json()["token"])
    assert found is not None
    assert found.external_user_id == "ada"


async def test_the_environment_of_a_token(site: Served) -> None:
    """The header sets the environment; the default is development."""
    production = await site.call("POST", "/tokens", json={"external_user_id": "ada"}, environment="production")
    silent = await site.call("POST", "/tokens", json={"external_user_id": "ada"}, environment=None)

    environments = [find_token(site.context, answer.json()["token"]) for answer in (production, silent)]
    assert [each and each.environment for each in environments] == ["production", "development"]


async def test_the_project_does_not_store_the_token(site: Served, tmp_path: Path) -> None:
    """The database files contain neither the token nor the webhook's URL in plain text."""
    hook = "https://hooks.example.com/T0P-SECRET"
    made = await make(site, webhook_uri=hook)

    site.project.close()
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"external_users" in kept  # the database is among them
    assert made["token"].encode() not in kept
    assert b"T0P-SECRET" not in kept


async def test_a_token_expires(site: Served) -> None:
    """A token is not found after its lifetime."""
    made = await make(site, expires_in=60)

    site.clock.advance(59)
    assert find_token(site.context, made["token"]) is not None
    site.clock.advance(1)
    assert find_token(site.context, made["token"]) is None


async def test_an_unknown_token_is_not_found(site: Served) -> None:
    """An unknown token and a text that is not a token are not found."""
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
        ({"external_user_id": "ada", "expires_in": 0}, "from 1 to 14400"),
        ({"external_user_id": "ada", "allowed_origins": ["https://a.example"] * 51}, "has at most 50 entries"),
        (
            {"external_user_id": "ada", "webhook_uri": "https://a.example/".ljust(2001, "x")},
            "webhook_uri is not an http or https URL of at most 2000 characters",
        ),
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
async def test_an_invalid_request_names_the_field(site: Served, body: Any, problem: str) -> None:
    """The response is 400 and names the invalid field."""
    answer = await site.call("POST", "/tokens", json=body)

    assert answer.status_code == 400
    assert problem in answer.json()["error"]


async def test_the_limits_of_a_request_are_accepted(site: Served) -> None:
    """The shortest and the longest lifetime, 50 origins, and URLs of 2000 characters are valid."""
    origins = [f"https://a{number}.example" for number in range(50)]
    longest = {name: "https://a.example/".ljust(2000, "x") for name in ("success_redirect_uri", "error_redirect_uri")}

    for lifetime_s in (1, 14400):
        made = await make(site, expires_in=lifetime_s, allowed_origins=origins, **longest)
        found = find_token(site.context, made["token"])
        assert found is not None
        assert (found.expires_at - found.created_at).total_seconds() == lifetime_s
        assert found.terms.allowed_origins == tuple(origins)
        assert found.terms.error_redirect_uri == longest["error_redirect_uri"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000])
async def test_an_invalid_body_is_rejected(site: Served, content: bytes) -> None:
    """An empty, broken or deeply nested body is answered 400."""
    answer = await site.call("POST", "/tokens", content=content)

    assert answer.status_code == 400


async def test_an_unknown_environment_is_rejected(site: Served) -> None:
    """An environment other than development and production is answered 400."""
    answer = await site.call("POST", "/tokens", json={"external_user_id": "ada"}, environment="staging")

    assert (answer.status_code, "'staging' is not an environment" in answer.json()["error"]) == (400, True)


@pytest.mark.parametrize("headers", [{}, {"authorization": ""}, {"authorization": "Bearer nonsense"}])
async def test_an_access_token_is_required(site: Served, headers: Mapping[str, str]) -> None:
    """A request without a valid access token is answered 401."""
    url = f"/v1/connect/{site.project.project_id}/tokens"

    answer = await site.http.post(url, json={"external_user_id": "ada"}, headers=headers)

    assert answer.status_code == 401


async def test_the_scope_is_required(site: Served) -> None:
    """An access token without the scope is answered 403."""
    url = f"/v1/connect/{site.project.project_id}/tokens"
    narrow = site.headers("connect:accounts:read")

    answer = await site.http.post(url, json={"external_user_id": "ada"}, headers=narrow)

    assert (answer.status_code, "connect:tokens:create" in answer.json()["error"]) == (403, True)


@pytest.mark.parametrize(
    ("held", "requested", "granted"),
    [
        (("*",), None, ["connect:*"]),
        (("*",), "*", ["connect:*"]),
        (("*",), "connect:accounts:read connect:proxy", ["connect:accounts:read", "connect:proxy"]),
        (("connect:tokens:create",), None, ["connect:tokens:create"]),
        (("connect:tokens:create",), "*", ["connect:tokens:create"]),
        (("connect:tokens:create",), "connect:*", ["connect:tokens:create"]),
        (("connect:tokens:create", "connect:accounts:*"), "connect:accounts:read", ["connect:accounts:read"]),
        (("connect:tokens:create",), "connect:accounts:read", None),
        (("connect:tokens:create", "connect:accounts:read"), "connect:accounts:*", None),
        (("*",), "other:thing", None),
    ],
)
async def test_a_token_has_at_most_the_scopes_of_its_client(
    site: Served, held: tuple[str, ...], requested: str | None, granted: list[str] | None
) -> None:
    """The scopes are those of Connect that the access token has; another scope is answered 400."""
    url, body = f"/v1/connect/{site.project.project_id}/tokens", {"external_user_id": "ada", "scope": requested}
    answer = await site.http.post(url, json=body, headers=site.headers(*held))

    assert answer.status_code == (400 if granted is None else 200), answer.text
    if granted is not None:
        found = find_token(site.context, answer.json()["token"])
        assert found is not None
        assert (found.terms.scope or "").split() == granted


async def test_a_narrow_client_cannot_act_for_a_user(site: Served) -> None:
    """A Connect token of a client that may only create tokens opens no route of the API."""
    url = f"/v1/connect/{site.project.project_id}/tokens"
    made = await site.http.post(
        url, json={"external_user_id": "ada", "scope": "*"}, headers=site.headers("connect:tokens:create")
    )
    bearer = {"authorization": f"Bearer {made.json()['token']}"}
    answers = [await site.http.get(f"/v1/connect/{path}", headers=bearer) for path in ("accounts", "apps")]

    assert [answer.status_code for answer in answers] == [403, 403]


async def test_a_token_ends_with_its_client(site: Served, visitor: Visitor) -> None:
    """After its OAuth client was removed, a token opens neither the API nor the page, also in a process that knew it."""
    made = await make(site)
    bearer = {"authorization": f"Bearer {made['token']}"}
    before = await site.http.get("/v1/connect/accounts", headers=bearer)
    site.project.oauth_clients.remove(site.client.client.id)
    after = await site.http.get("/v1/connect/accounts", headers=bearer)
    validated = await site.http.get(f"/v1/connect/tokens/{made['token']}/validate")
    page = await visitor.http.get(made["connect_link_url"])

    assert (before.status_code, after.status_code) == (200, 401)
    assert validated.json() == {"success": False, "error": INVALID_MESSAGE}
    assert INVALID_MESSAGE in html.unescape(page.text)


async def test_a_link_of_the_owner_has_no_client(site: Served) -> None:
    """A link that the project's owner makes stays valid when an OAuth client is removed."""
    link = create_link(site.context, external_user_id="ada", environment="development")
    site.project.oauth_clients.remove(site.client.client.id)

    assert find_token(site.context, token_of(link.url)) is not None


async def test_another_project_is_not_found(site: Served) -> None:
    """A path with the id of another project is answered 404."""
    answer = await site.call("POST", "/v1/connect/proj_other/tokens", json={"external_user_id": "ada"})

    assert answer.status_code == 404


async def test_a_valid_token(site: Served) -> None:
    """The response has the token's project and environment, and the app with every field of the API."""
    made = await make(site, success_redirect_uri="https://example.com/ok")

    answer = await site.http.get(f"/v1/connect/tokens/{made['token']}/validate", params={"app_id": "slack"})

    result = answer.json()
    assert result["success"] is True
    assert (result["project_id"], result["project_environment"]) == (site.project.project_id, "development")
    assert result["success_redirect_uri"] == "https://example.com/ok"
    assert {"name_slug", "name", "img_src", "categories", "featured_weight", "scope_profiles"} <= set(result["app"])
    assert result["app"] == (await site.call("GET", "/v1/connect/apps/slack")).json()["data"]


async def test_an_app_is_named_by_its_id(site: Served, visitor: Visitor) -> None:
    """The validation and the page accept the app's id instead of the slug."""
    app = (await site.call("GET", "/v1/connect/apps/slack")).json()["data"]["id"]
    made = await make(site)

    result = (await site.http.get(f"/v1/connect/tokens/{made['token']}/validate", params={"app_id": app})).json()
    page = await visitor.open(made["connect_link_url"], app=app)

    assert result["app"]["name_slug"] == "slack"
    assert "Connect Slack" in page.words
    assert page.hidden["app"] == "slack"


async def test_an_invalid_token_is_answered_200_with_the_reason(site: Served) -> None:
    """The platform's response has status 200 and its own messages."""
    made = await make(site, expires_in=60)
    url = f"/v1/connect/tokens/{made['token']}/validate"

    unknown = await site.http.get("/v1/connect/tokens/ctok_0/validate")
    no_app = await site.http.get(url, params={"app_id": "No App!"})
    site.clock.advance(61)
    late = await site.http.get(url)

    assert [answer.status_code for answer in (unknown, no_app, late)] == [200, 200, 200]
    assert unknown.json() == {
        "success": False,
        "error": "The Pipedream Connect token is invalid. Please generate a new one and try again.",
    }
    assert no_app.json() == {"success": False, "error": "App not found. Please check your app id."}
    assert late.json()["error"].startswith("This link has expired.")


async def test_an_account_to_reconnect_must_belong_to_the_user(site: Served) -> None:
    """The validation accepts an account of the token's user, and no other account."""
    for user in ("ada", "bob"):
        site.connect(user, "slack", {"api_key": "k"}, account_id=f"apn_{user}")
    url = f"/v1/connect/tokens/{(await make(site))['token']}/validate"

    own, others = [
        (await site.http.get(url, params={"app_id": "slack", "account_id": each})).json()
        for each in ("apn_ada", "apn_bob")
    ]

    assert own["success"] is True
    assert others["success"] is False
    assert "no Slack account apn_bob of this user" in others["error"]


async def test_the_rate_limit_of_new_tokens(tmp_path: Path) -> None:
    """If rate limits apply, a user gets 100 tokens a minute in an environment; other users are not affected."""
    async with served(tmp_path, applies_rate_limits=True) as site:
        answers = [await site.call("POST", "/tokens", json={"external_user_id": "ada"}) for _ in range(101)]
        other = await site.call("POST", "/tokens", json={"external_user_id": "bob"})
        live = await site.call("POST", "/tokens", json={"external_user_id": "ada"}, environment="production")
        site.clock.advance(61)
        later = await site.call("POST", "/tokens", json={"external_user_id": "ada"})

    assert [answer.status_code for answer in answers] == [200] * 100 + [429]
    assert answers[-1].json() == {"error": "Throttled"}
    assert answers[-1].headers["retry-after"] == "60"
    assert (other.status_code, live.status_code, later.status_code) == (200, 200, 200)


async def test_a_link_is_created_without_the_api(site: Served) -> None:
    """`create_link` returns a link for one app, with a token that is valid for the given time."""
    link = create_link(site.context, external_user_id="ada", environment="production", app="slack", lifetime_s=60)

    found = find_token(site.context, token_of(link.url))
    site.clock.advance(60)
    assert link.url.endswith("&connectLink=true&app=slack")
    assert found is not None
    assert (found.external_user_id, found.environment, found.digest) == ("ada", "production", link.digest)
    assert find_token(site.context, token_of(link.url)) is None


async def test_a_link_to_reconnect_is_created_without_the_api(site: Served, visitor: Visitor) -> None:
    """`create_link` returns a link whose page connects the given account again."""
    site.connect("ada", "slack", {"api_key": "k"}, account_id="apn_1")

    link = create_link(site.context, external_user_id="ada", environment="development", app="slack", account_id="apn_1")

    assert "Connect Slack again" in (await visitor.open(link.url)).words


async def test_a_user_id_that_cannot_be_stored_is_rejected(site: Served) -> None:
    """A lone surrogate and NUL in the user's id are answered 400."""
    for user in ("\ud800", "a\0b"):
        content = json.dumps({"external_user_id": user})
        answer = await site.call("POST", "/tokens", content=content, headers={"content-type": "application/json"})
        assert answer.status_code == 400


@pytest.mark.parametrize(("size", "status"), [(1 << 16, 200), ((1 << 16) + 1, 400)])
async def test_a_body_in_chunks_is_limited(site: Served, size: int, status: int) -> None:
    """A body of 64 KB is read; a longer one is answered 400, however small its chunks are."""
    text = json.dumps({"external_user_id": "ada"}).ljust(size).encode()

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, size, 4096):
            yield text[start : start + 4096]

    answer = await site.call("POST", "/tokens", content=chunks())

    assert answer.status_code == status
    assert (status == 200) is ("has more than 65536 bytes" not in answer.text)


async def test_a_token_is_not_cached(site: Served) -> None:
    """Neither the token nor its validation may be stored by a cache; a page of any origin may validate a token."""
    created = await site.call("POST", "/tokens", json={"external_user_id": "ada"})
    valid = await site.http.get(f"/v1/connect/tokens/{created.json()['token']}/validate")
    invalid = await site.http.get("/v1/connect/tokens/ctok_0/validate")

    assert [each.headers["cache-control"] for each in (created, valid, invalid)] == ["no-store"] * 3
    assert [each.headers["access-control-allow-origin"] for each in (valid, invalid)] == ["*"] * 2


@pytest.mark.parametrize(
    ("params", "request_"),
    [
        ({}, LinkRequest("", "")),
        ({"token": "t", "app": "slack"}, LinkRequest("t", "slack")),
        ({"token": "t", "app": "slack", "accountId": "apn_1"}, LinkRequest("t", "slack", "apn_1")),
        ({"accountId": "", "hideClose": "1", "framed": "True"}, LinkRequest("", "")),
        ({"hideClose": "true"}, LinkRequest("", "", hides_close_button=True)),
        ({"framed": "true"}, LinkRequest("", "", is_framed=True)),
    ],
)
def test_parameters(params: dict[str, str], request_: LinkRequest) -> None:
    """Each parameter is read, and the form's fields read back as the same request."""
    assert LinkRequest.from_params(params) == request_
    assert LinkRequest.from_params(request_.to_form_fields()) == request_


def test_fields_of_a_form() -> None:
    """A form has the token, the app and the field of its script; other fields only with a value."""
    assert LinkRequest("t", "slack").to_form_fields() == {"token": "t", "app": "slack", "framed": ""}
    assert LinkRequest("t", "slack", "apn_1", hides_close_button=True, is_framed=True).to_form_fields() == {
        "token": "t",
        "app": "slack",
        "accountId": "apn_1",
        "hideClose": "true",
        "framed": "true",
    }
    assert "t0ken" not in repr(LinkRequest("t0ken", "slack"))

"""Who gets in, and how the API says that something is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from pdkernel.server.rate_limits import MAX_REQUESTS_PER_WINDOW
from tests.server.served import Served, served


async def test_without_a_token(site: Served) -> None:
    """Without a good token there is nothing, and the answer says so in the API's shape."""
    for headers in ({}, {"Authorization": ""}, {"Authorization": "Bearer x"}, {"Authorization": "Bearer ctok_x"}):
        answer = await site.http.get(f"/v1/connect/{site.project.project_id}/users", headers=headers)
        assert answer.status_code == 401
        assert set(answer.json()) == {"error"}
        assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "/users", "connect:users:read"),
        ("DELETE", "/users/ada", "connect:users:write"),
        ("GET", "/accounts", "connect:accounts:read"),
        ("DELETE", "/accounts/apn_1", "connect:accounts:write"),
        ("POST", "/actions/run", "connect:actions:run"),
        ("GET", "/triggers", "connect:triggers:list"),
        ("GET", "/proxy/aHR0cHM6Ly9hLmI", "connect:proxy"),
        ("GET", "/v1/connect/apps", "connect:apps:*"),
        ("GET", "/v1/apps/slack", "connect:apps:*"),
        ("GET", "/v1/connect/app_categories", "connect:apps:*"),
        ("GET", "/projects/info", "connect:projects:read"),
        ("GET", "/v1/connect/projects", "connect:projects:read"),
        ("GET", "/components", "connect:actions:list"),
        ("GET", "/components", "connect:triggers:*"),
        ("GET", "/components/a-b", "connect:triggers:retrieve"),
        ("POST", "/components/configure", "connect:actions:configure"),
        ("POST", "/components/props", "connect:actions:*"),
        ("POST", "/triggers/deploy", "connect:triggers:deploy"),
        ("GET", "/deployed-triggers", "connect:deployed_triggers:read"),
        ("DELETE", "/deployed-triggers/dc_1", "connect:deployed_triggers:write"),
    ],
)
async def test_scopes(site: Served, method: str, path: str, scope: str) -> None:
    """A token without the scope is refused; with it, or one that stands for it, it is let in."""
    other = site.headers("connect:tokens:create")
    right, wider = site.headers(scope), site.headers("connect:*")

    assert (await site.call(method, path, headers=other)).status_code == 403
    assert (await site.call(method, path, headers=right)).status_code != 403
    assert (await site.call(method, path, headers=wider)).status_code != 403


async def test_another_project(site: Served) -> None:
    """A project that is not this one is not there."""
    answer = await site.call("GET", "/v1/connect/proj_other/users")

    assert answer.status_code == 404
    assert site.project.project_id in answer.json()["error"]


async def test_an_environment_that_is_none(site: Served) -> None:
    """Another word than the two is refused; a missing one means development, and case does not matter."""
    assert (await site.call("GET", "/users", environment="staging")).status_code == 400
    assert (await site.call("GET", "/users", environment=None)).status_code == 200
    assert (await site.call("GET", "/users", environment="Production")).status_code == 200


@pytest.mark.parametrize("body", [b"{", b"[]", b"1", b'"\\ud800"', b'{"id": "\\ud800"}', b"[" * 50_000, b"\xff"])
async def test_bodies_that_are_none(site: Served, body: bytes) -> None:
    """Whatever is no JSON object of real text is the caller's fault."""
    answer = await site.call("POST", "/actions/run", content=body, headers={"Content-Type": "application/json"})

    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("GET", "/oauth_apps", "oauth_apps"),
        ("POST", "/app_overrides", "app_overrides"),
        ("GET", "/v1/connect/usage", "usage"),
        ("GET", "/file_stash/download", "file_stash"),
        ("PUT", "/webhook", "webhook"),
        ("POST", "/v1/connect/rate_limits", "rate_limits"),
        ("POST", "/v1/connect/projects", "POST /v1/connect/projects"),
        ("GET", "/v1/workspaces/o_1", "GET /v1/workspaces/o_1"),
    ],
)
async def test_what_is_not_served(site: Served, method: str, path: str, name: str) -> None:
    """What pdkernel does not emulate says so, by name."""
    answer = await site.call(method, path)

    assert answer.status_code == 501
    assert answer.json()["route"] == name


async def test_rate_limits_are_a_switch(tmp_path: Any) -> None:
    """Only where they are switched on is the request after the last answered 429, with the platform's headers."""
    async with served(tmp_path / "on", applies_rate_limits=True) as site, served(tmp_path / "off") as other:
        for _ in range(MAX_REQUESTS_PER_WINDOW["accounts"]):
            assert (await site.call("GET", "/accounts/apn_1")).status_code == 404
        answer = await site.call("GET", "/accounts/apn_1")

        assert (answer.status_code, answer.json()) == (429, {"error": "Throttled"})
        assert answer.headers["x-ratelimit-remaining"] == "0"
        assert answer.headers["x-ratelimit-limit"] == str(MAX_REQUESTS_PER_WINDOW["accounts"])
        now = site.context.clock.now().timestamp()
        site.context.clock.advance(0.5)  # type: ignore[attr-defined]
        later = (await site.call("GET", "/accounts/apn_1")).headers
        # whoever waits as long as it is told comes after the end of the window
        assert int(later["retry-after"]) >= 300 - 0.5
        assert int(later["x-ratelimit-reset"]) >= now + 300
        site.context.clock.advance(301)  # type: ignore[attr-defined]
        assert (await site.call("GET", "/accounts/apn_1")).status_code == 404
        assert (await other.call("GET", "/accounts/apn_1")).status_code == 404


async def test_a_page_uses_its_token(site: Served) -> None:
    """A page of an origin that the token names may call, and its browser may read the answer, an error as well."""
    page = {"Origin": "https://product.example"}
    right = await token_for(site, "https://product.example/")
    other = await token_for(site, "https://elsewhere.example")
    path = f"/v1/connect/{site.project.project_id}/accounts"

    asked = await site.http.options(path, headers={**page, "Access-Control-Request-Headers": "x-pd-environment"})
    read = await site.http.get(path, headers={**page, "Authorization": f"Bearer {right}"})
    missing = await site.http.get(f"{path}/apn_1", headers={**page, "Authorization": f"Bearer {right}"})
    refused = await site.http.get(path, headers={**page, "Authorization": f"Bearer {other}"})
    backend = await site.call("GET", "/accounts", headers=page)

    assert (asked.status_code, asked.headers["access-control-allow-headers"]) == (204, "x-pd-environment")
    assert (read.status_code, missing.status_code, refused.status_code) == (200, 404, 403)
    assert read.headers["access-control-allow-origin"] == "https://product.example"
    assert missing.headers["access-control-allow-origin"] == "https://product.example"
    assert "access-control-allow-origin" not in refused.headers
    assert "access-control-allow-origin" not in backend.headers


async def test_a_token_without_origins_serves_no_page(site: Served) -> None:
    """A page may not use a token that names no origins; a backend may use the token."""
    made = (await site.call("POST", "/tokens", json={"external_user_id": "ada"})).json()
    path = f"/v1/connect/{site.project.project_id}/accounts"
    bearer = {"Authorization": f"Bearer {made['token']}"}

    from_page = await site.http.get(path, headers={**bearer, "Origin": "https://product.example"})
    from_backend = await site.http.get(path, headers=bearer)

    assert (from_page.status_code, from_backend.status_code) == (403, 200)


async def token_for(site: Served, origin: str) -> str:
    """A Connect token of ada's for pages of that origin."""
    made = await site.call("POST", "/tokens", json={"external_user_id": "ada", "allowed_origins": [origin]})
    return str(made.json()["token"])


async def test_a_page_learns_that_its_token_is_no_good(site: Served) -> None:
    """A Connect token that has expired or is none is answered 401 where the page can read it, and not as a failed fetch."""
    page = {"Origin": "https://product.example"}
    expired = await token_for(site, "https://product.example")
    site.context.clock.advance(4 * 3600)  # type: ignore[attr-defined]

    for text in (expired, "ctok_" + "0" * 32):
        answer = await site.call("GET", "/accounts", headers={**page, "Authorization": f"Bearer {text}"})
        assert answer.status_code == 401
        assert answer.headers["access-control-allow-origin"] == "https://product.example"
    other = await site.http.get("/v1/connect/accounts", headers={**page, "Authorization": "Bearer x"})
    assert (other.status_code, "access-control-allow-origin" in other.headers) == (401, False)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/accounts/apn%2F1"),
        ("DELETE", "/accounts/apn%2F1"),
        ("GET", "/v1/connect/apps/no%2Fapp"),
        ("GET", "/v1/apps/no%2Fapp"),
        ("GET", "/v1/connect/app_categories/a%2Fb"),
        ("GET", "/v1/connect/projects/proj_%2F"),
        ("GET", "/deployed-triggers/dc%2F1?external_user_id=ada"),
        ("PUT", "/deployed-triggers/dc%2F1?external_user_id=ada"),
        ("DELETE", "/deployed-triggers/dc%2F1?external_user_id=ada"),
        ("GET", "/deployed-triggers/dc%2F1/events?external_user_id=ada"),
        ("PUT", "/deployed-triggers/dc%2F1/pipelines?external_user_id=ada"),
        ("GET", "/deployed-triggers/dc%2F1/webhooks/wh%2F1?external_user_id=ada"),
    ],
)
async def test_an_id_with_a_slash(site: Served, method: str, path: str) -> None:
    """An id that holds a slash is one that nothing has: 404, and not a route that is not served, which SDKs repeat."""
    assert (await site.call(method, path)).status_code == 404

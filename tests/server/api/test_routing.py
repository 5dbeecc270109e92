"""The routes of the API: their paths and scopes, and the routes that are not supported."""

from __future__ import annotations

import re
from pathlib import Path

import pipedream
import pytest

from tests.server.api.test_accounts import bearer, connect_token
from tests.server.served import Served


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
async def test_each_route_requires_a_scope(shared_site: Served, method: str, path: str, scope: str) -> None:
    """A token without the scope is answered 403; the scope, or a wider one, is accepted."""
    other = shared_site.headers("connect:tokens:create")
    right, wider = shared_site.headers(scope), shared_site.headers("connect:*")

    assert (await shared_site.call(method, path, headers=other)).status_code == 403
    assert (await shared_site.call(method, path, headers=right)).status_code != 403
    assert (await shared_site.call(method, path, headers=wider)).status_code != 403


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/users"),
        ("DELETE", "/users/ada"),
        ("DELETE", "/accounts/app/slack"),
        ("DELETE", "/apps/slack/accounts"),
        ("GET", "/v1/connect/projects"),
        ("GET", "/v1/connect/projects/proj_1"),
    ],
)
async def test_a_route_of_the_back_end_rejects_a_connect_token(shared_site: Served, method: str, path: str) -> None:
    """A Connect token with every scope is answered 403 by the routes that list or delete more than its user's accounts."""
    answer = await shared_site.call(method, path, headers=bearer(connect_token(shared_site, scope="connect:*")))

    assert answer.status_code == 403
    assert "not a Connect token" in answer.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("GET", "/oauth_apps", "oauth_apps"),
        ("POST", "/app_overrides", "app_overrides"),
        ("GET", "/v1/connect/usage", "usage"),
        ("GET", "/file_stash/download", "file_stash"),
        ("PUT", "/webhook", "webhook"),
        ("POST", "/v1/connect/rate_limits", "rate_limits"),
        ("POST", "/v1/connect/projects", "projects"),
        ("GET", "/v1/workspaces/o_1", "GET /v1/workspaces/o_1"),
    ],
)
async def test_an_unsupported_route_is_answered_501(shared_site: Served, method: str, path: str, name: str) -> None:
    """The response names the route."""
    answer = await shared_site.call(method, path)

    assert answer.status_code == 501
    assert answer.json()["route"] == name


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
async def test_an_id_with_a_slash_is_not_found(shared_site: Served, method: str, path: str) -> None:
    """An id with a slash is answered 404, and not 501, after which SDKs would repeat the request."""
    assert (await shared_site.call(method, path)).status_code == 404


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/accounts", 200),
        ("/accounts/apn_1", 404),
        ("/actions", 200),
        ("/deployed-triggers", 200),
        ("/projects/info", 200),
    ],
)
async def test_a_connect_token_needs_no_project_in_the_path(shared_site: Served, path: str, status: int) -> None:
    """With a Connect token, the path may have the project, omit it, or have an empty segment in its place."""
    token = bearer(connect_token(shared_site, scope="connect:*"))

    answers = [
        await shared_site.http.get(f"/v1/connect{project}{path}", headers=token)
        for project in (f"/{shared_site.project.project_id}", "", "/")
    ]

    assert [answer.status_code for answer in answers] == [status] * 3


def list_sdk_routes() -> list[tuple[str, str]]:
    """Method and path of each route that the installed SDK calls, with `x` for each id."""
    folder = Path(pipedream.__file__).parent
    texts = [file.read_text(encoding="utf-8") for file in sorted(folder.rglob("raw_client.py"))]
    found = re.findall(r'f?"(v1/[^"]+)",\s*(?:base_url=[^,]+,\s*)?method="([A-Z]+)"', "\n".join(texts))
    routes = {(method, re.sub(r"\{encode_path_param\(self[^)]*\)\}", "PROJECT", path)) for path, method in found}
    return sorted((method, re.sub(r"\{[^}]*\}", "x", path)) for method, path in routes)


async def test_each_route_of_the_sdk_is_served_or_listed(shared_site: Served) -> None:
    """Each route that the newest SDK calls exists, or is answered 501 under its own name."""
    routes = list_sdk_routes()
    assert len(routes) > 50
    unlisted = []
    for method, path in routes:
        place = f"/{path}".replace("PROJECT", shared_site.project.project_id)
        answer = await shared_site.call(method, place)
        if answer.status_code == 405 or (answer.status_code == 501 and answer.json()["route"].startswith(method)):
            unlisted.append((method, path))

    assert unlisted == []

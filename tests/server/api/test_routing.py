"""The routes of the API: their paths and scopes, and the routes that are not supported."""

from __future__ import annotations

import re
from pathlib import Path

import pipedream

from tests.server.api.test_accounts import bearer, connect_token
from tests.server.served import Served


async def test_each_route_requires_a_scope(shared_site: Served) -> None:
    """A token without the scope is answered 403; the scope, or a wider one, is accepted."""
    other, wider = shared_site.headers("connect:tokens:create"), shared_site.headers("connect:*")
    for method, path, scope in (
        ("GET", "/users", "users:read"),
        ("DELETE", "/users/ada", "users:write"),
        ("GET", "/accounts", "accounts:read"),
        ("DELETE", "/accounts/apn_1", "accounts:write"),
        ("POST", "/actions/run", "actions:run"),
        ("GET", "/triggers", "triggers:list"),
        ("GET", "/proxy/aHR0cHM6Ly9hLmI", "proxy"),
        ("GET", "/v1/connect/apps", "apps:*"),
        ("GET", "/v1/apps/slack", "apps:*"),
        ("GET", "/v1/connect/app_categories", "apps:*"),
        ("GET", "/projects/info", "projects:read"),
        ("GET", "/v1/connect/projects", "projects:read"),
        ("GET", "/components", "actions:list"),
        ("GET", "/components", "triggers:*"),
        ("GET", "/components/a-b", "triggers:retrieve"),
        ("POST", "/components/configure", "actions:configure"),
        ("POST", "/components/props", "actions:*"),
        ("POST", "/triggers/deploy", "triggers:deploy"),
        ("GET", "/deployed-triggers", "deployed_triggers:read"),
        ("DELETE", "/deployed-triggers/dc_1", "deployed_triggers:write"),
    ):
        right = shared_site.headers(f"connect:{scope}")

        assert (await shared_site.call(method, path, headers=other)).status_code == 403, path
        assert (await shared_site.call(method, path, headers=right)).status_code != 403, path
        assert (await shared_site.call(method, path, headers=wider)).status_code != 403, path


async def test_a_route_of_the_back_end_rejects_a_connect_token(shared_site: Served) -> None:
    """A Connect token with every scope is answered 403 by the routes that list or delete more than its user's accounts."""
    token = bearer(connect_token(shared_site, scope="connect:*"))
    listing = (("GET", path) for path in ("/users", "/v1/connect/projects", "/v1/connect/projects/proj_1"))
    removing = (("DELETE", path) for path in ("/users/ada", "/accounts/app/slack", "/apps/slack/accounts"))
    for method, path in (*listing, *removing):
        answer = await shared_site.call(method, path, headers=token)

        assert answer.status_code == 403, path
        assert "not a Connect token" in answer.json()["error"]


async def test_an_unsupported_route_is_answered_501(shared_site: Served) -> None:
    """The response names the route."""
    for method, path, name in (
        ("GET", "/oauth_apps", "oauth_apps"),
        ("POST", "/app_overrides", "app_overrides"),
        ("GET", "/v1/connect/usage", "usage"),
        ("GET", "/file_stash/download", "file_stash"),
        ("PUT", "/webhook", "webhook"),
        ("POST", "/v1/connect/rate_limits", "rate_limits"),
        ("POST", "/v1/connect/projects", "projects"),
        ("GET", "/v1/workspaces/o_1", "GET /v1/workspaces/o_1"),
    ):
        answer = await shared_site.call(method, path)

        assert (answer.status_code, answer.json()["route"]) == (501, name)


async def test_an_id_with_a_slash_is_not_found(shared_site: Served) -> None:
    """An id with a slash is answered 404, and not 501, after which SDKs would repeat the request."""
    trigger, user = "/deployed-triggers/dc%2F1", "?external_user_id=ada"
    for method, path in (
        *(("GET", "/accounts/apn%2F1"), ("DELETE", "/accounts/apn%2F1")),
        *(("GET", "/v1/connect/apps/no%2Fapp"), ("GET", "/v1/apps/no%2Fapp")),
        *(("GET", "/v1/connect/app_categories/a%2Fb"), ("GET", "/v1/connect/projects/proj_%2F")),
        *((method, f"{trigger}{user}") for method in ("GET", "PUT", "DELETE")),
        *(("GET", f"{trigger}/events{user}"), ("PUT", f"{trigger}/pipelines{user}")),
        ("GET", f"{trigger}/webhooks/wh%2F1{user}"),
    ):
        assert (await shared_site.call(method, path)).status_code == 404, path


LISTS = ("/accounts", "/actions", "/deployed-triggers", "/projects/info")


async def test_a_connect_token_needs_no_project_in_the_path(shared_site: Served) -> None:
    """With a Connect token, the path may have the project, omit it, or have an empty segment in its place."""
    token = bearer(connect_token(shared_site, scope="connect:*"))
    for path, status in {"/accounts/apn_1": 404, "/proxy/x": 400, **dict.fromkeys(LISTS, 200)}.items():
        for project in (f"/{shared_site.project.project_id}", "", "/"):
            answer = await shared_site.http.get(f"/v1/connect{project}{path}", headers=token)

            assert answer.status_code == status, path


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

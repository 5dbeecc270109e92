"""
Which path of the API is whose.

Knows paths, the scope that each asks for, and the names of what is not served. With a Connect token a path may do without
the project: SDKs leave it out then.
"""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from pdkernel.actions.component import ComponentKind
from pdkernel.server.api import (
    accounts,
    actions,
    apps,
    components,
    deployed_triggers,
    projects,
    proxy,
    trigger_deployment,
    users,
)
from pdkernel.server.api.api_call import ApiHandler, Endpoint, authenticated_endpoint
from pdkernel.server.api.cors import preflight
from pdkernel.server.api.rate_limits import Bucket, RateLimiter
from pdkernel.server.path_params import path_segment, rest_of_path

CONNECT_PATH = "/v1/connect"
PROJECT_PATH = f"/v1/connect/{path_segment('project_id')}"
"""Of a project; JS SDKs' proxy leaves its place empty, with a Connect token."""


@dataclass(frozen=True)
class _RouteSpec:
    """
    A route.

    Attributes:
        method: `GET`, or several with blanks between.
        path: Below the project; one that begins with /v1 stands by itself.
        handler: What answers.
        scopes: What a token must be good for, one of them; none for any token.
        backend: Whether Connect tokens are refused.
        bucket: Which rate limit counts.
    """

    method: str
    path: str
    handler: ApiHandler
    scopes: tuple[str, ...] = ()
    backend: bool = False
    bucket: Bucket | None = None

    def routes(self, rates: RateLimiter) -> list[BaseRoute]:
        """The route, and the one without a project."""
        endpoint = authenticated_endpoint(
            self.handler, scopes=self.scopes, backend_only=self.backend, rate_limiter=rates, bucket=self.bucket
        )
        if self.path.startswith("/v1"):
            return [self._route(self.path, endpoint)]
        return [self._route(PROJECT_PATH + self.path, endpoint), self._route(CONNECT_PATH + self.path, endpoint)]

    def _route(self, path: str, endpoint: Endpoint) -> Route:
        return Route(path, endpoint, methods=self.method.split())


# an id that holds a slash is one that nothing has, not another route: what follows one stands first
_USER, _KEY, _URL = rest_of_path("external_user_id"), rest_of_path("key"), rest_of_path("url_64")
_ACCOUNT, _APP = rest_of_path("account_id"), rest_of_path("app_id")
_READ, _WRITE = ("connect:accounts:read",), ("connect:accounts:write",)
_ACCOUNTS = (
    _RouteSpec("GET", f"/users/{_USER}/accounts", accounts.list_user_accounts, _READ, bucket="accounts"),
    _RouteSpec("GET", "/accounts", accounts.list_accounts, _READ, bucket="accounts"),
    _RouteSpec("POST", "/accounts", accounts.create, _WRITE, bucket="accounts"),
    _RouteSpec("GET", f"/accounts/{_ACCOUNT}", accounts.retrieve, _READ, bucket="accounts"),
    _RouteSpec(
        "DELETE", f"/accounts/app/{_APP}", accounts.delete_app_accounts, _WRITE, backend=True, bucket="accounts"
    ),
    _RouteSpec("DELETE", f"/accounts/{_ACCOUNT}", accounts.delete, _WRITE, bucket="accounts"),
    _RouteSpec(
        "DELETE", f"/apps/{_APP}/accounts", accounts.delete_app_accounts, _WRITE, backend=True, bucket="accounts"
    ),
    _RouteSpec("GET", "/users", users.list_users, ("connect:users:read",), backend=True),
    _RouteSpec("DELETE", f"/users/{_USER}", users.delete_user, ("connect:users:write",), backend=True),
)
_APPS = tuple(
    # the platform has no narrower scope for these (its staff, in its forum)
    _RouteSpec("GET", path, handler, ("connect:apps:*",))
    for path, handler in (
        ("/v1/connect/apps", apps.list_apps),
        (f"/v1/connect/apps/{_APP}", apps.retrieve),
        ("/v1/apps", apps.list_apps),
        (f"/v1/apps/{_APP}", apps.retrieve),
        ("/v1/connect/app_categories", apps.list_categories),
        (f"/v1/connect/app_categories/{rest_of_path('category_id')}", apps.retrieve_category),
    )
)
_PROJECTS_READ = ("connect:projects:read",)
_PROJECTS = (
    _RouteSpec("GET", "/v1/connect/projects", projects.list_projects, _PROJECTS_READ, backend=True),
    _RouteSpec("GET", "/projects/info", projects.info, _PROJECTS_READ),
    _RouteSpec(
        "GET", f"/v1/connect/projects/{rest_of_path('wanted')}", projects.retrieve, _PROJECTS_READ, backend=True
    ),
)
_KINDS: tuple[tuple[str, ComponentKind | None], ...] = (
    ("components", None),
    ("actions", "action"),
    ("triggers", "source"),
)
_COMPONENTS = tuple(
    entry
    for name, kind in _KINDS
    for entry in (
        _RouteSpec(
            "GET",
            f"/{name}",
            components.list_handler(kind),
            components.required_scopes(kind, "list"),
            bucket="components",
        ),
        _RouteSpec(
            "POST",
            f"/{name}/configure",
            components.configure_handler(kind),
            components.required_scopes(kind, "configure"),
            bucket="runs",
        ),
        _RouteSpec(
            "POST",
            f"/{name}/props",
            components.reload_props_handler(kind),
            components.required_scopes(kind, "props"),
            bucket="runs",
        ),
        _RouteSpec(
            "GET",
            f"/{name}/{_KEY}",
            components.retrieve_handler(kind),
            components.required_scopes(kind, "retrieve"),
            bucket="components",
        ),
    )
)
_RUNS = (
    _RouteSpec("POST", "/actions/run", actions.run, ("connect:actions:run",), bucket="runs"),
    _RouteSpec(" ".join(proxy.METHODS), f"/proxy/{_URL}", proxy.proxy, ("connect:proxy",), bucket="proxy"),
)

_ONE, _WEBHOOK = f"/deployed-triggers/{rest_of_path('trigger_id')}", rest_of_path("webhook_id")
_SEEN, _CHANGED = ("connect:deployed_triggers:read",), ("connect:deployed_triggers:write",)
_DEPLOYED = (
    _RouteSpec("POST", "/triggers/deploy", trigger_deployment.deploy, ("connect:triggers:deploy",), bucket="runs"),
    *(
        _RouteSpec(method, path, handler, _SEEN if method == "GET" else _CHANGED)
        for method, path, handler in (
            ("GET", "/deployed-triggers", deployed_triggers.list_triggers),
            ("GET", f"{_ONE}/events", deployed_triggers.list_events),
            ("GET", f"{_ONE}/pipelines", deployed_triggers.list_workflows),
            ("PUT", f"{_ONE}/pipelines", deployed_triggers.update_workflows),
            ("GET", f"{_ONE}/webhooks", deployed_triggers.list_webhooks),
            ("PUT", f"{_ONE}/webhooks", deployed_triggers.update_webhooks),
            ("GET", f"{_ONE}/webhooks/{_WEBHOOK}", deployed_triggers.retrieve_webhook),
            ("POST", f"{_ONE}/webhooks/{_WEBHOOK}/regenerate_signing_key", deployed_triggers.regenerate_key),
            ("POST", f"{_ONE}/webhooks/{_WEBHOOK}/reset_delivery_state", deployed_triggers.reset_delivery_state),
            ("GET", _ONE, deployed_triggers.retrieve),
            ("PUT", _ONE, deployed_triggers.update),
            ("DELETE", _ONE, deployed_triggers.delete),
        )
    ),
)

_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
_UNSUPPORTED_PATHS = (
    ("webhook", f"/webhook{rest_of_path()}"),
    ("oauth_apps", f"/oauth_apps{rest_of_path()}"),
    ("app_overrides", f"/app_overrides{rest_of_path()}"),
    ("file_stash", f"/file_stash{rest_of_path()}"),
    ("usage", "/usage"),
    ("rate_limits", "/rate_limits"),
)


def routes() -> list[BaseRoute]:
    """This room's routes; handlers find `Serving` in `request.app.state.context`."""
    rates = RateLimiter()
    entries = (*_PROJECTS, *_APPS, *_ACCOUNTS, *_RUNS, *_DEPLOYED, *_COMPONENTS)
    asked_first = [
        Route(path, preflight, methods=["OPTIONS"])
        for path in (f"/v1/connect/{rest_of_path()}", f"/v1/apps{rest_of_path()}")
    ]
    return [*asked_first, *(route for entry in entries for route in entry.routes(rates))]


def unsupported_routes() -> list[BaseRoute]:
    """Everything else under /v1: 501 with the route's name. It comes after every other route under /v1."""
    named = [
        Route(prefix + path, _unsupported_endpoint(name), methods=_METHODS)
        for name, path in _UNSUPPORTED_PATHS
        for prefix in (PROJECT_PATH, CONNECT_PATH)
    ]
    return [*named, Route(f"/v1/{rest_of_path()}", _unsupported_endpoint(None), methods=_METHODS)]


def _unsupported_endpoint(name: str | None) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        what = name or f"{request.method} {request.url.path[:200]}"
        text = f"{what} is a part of Connect's API that pdkernel does not serve."
        return JSONResponse({"error": text, "route": what}, status_code=501)

    return endpoint

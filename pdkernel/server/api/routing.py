"""
The table of the API's routes: paths, scopes, and unsupported routes.

With a Connect token, SDKs omit the project from the path, so each route exists with and without the project.
"""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from pdkernel.actions.component import ComponentKind
from pdkernel.server.api import accounts, apps, components, deployed_triggers, proxy
from pdkernel.server.api.api_call import ApiHandler, Endpoint, authenticated_endpoint, preflight
from pdkernel.server.path_params import path_segment, rest_of_path
from pdkernel.server.rate_limits import Bucket

CONNECT_PATH = "/v1/connect"
PROJECT_PATH = f"/v1/connect/{path_segment('project_id')}"
"""Path of a project. With a Connect token, the proxy of JS SDKs leaves the project's segment empty."""


@dataclass(frozen=True)
class _RouteSpec:
    """
    A route.

    Attributes:
        method: HTTP methods, separated by spaces.
        path: Path below the project, or an absolute path that begins with /v1.
        handler: The handler.
        scopes: Scopes of which a token requires one; empty for any token.
        backend: Whether to reject Connect tokens.
        bucket: The rate limit that applies.
    """

    method: str
    path: str
    handler: ApiHandler
    scopes: tuple[str, ...] = ()
    backend: bool = False
    bucket: Bucket | None = None

    def routes(self) -> list[BaseRoute]:
        """Return the route with and without a project."""
        endpoint = authenticated_endpoint(
            self.handler, scopes=self.scopes, backend_only=self.backend, bucket=self.bucket
        )
        if self.path.startswith("/v1"):
            return [self._route(self.path, endpoint)]
        return [self._route(PROJECT_PATH + self.path, endpoint), self._route(CONNECT_PATH + self.path, endpoint)]

    def _route(self, path: str, endpoint: Endpoint) -> Route:
        return Route(path, endpoint, methods=self.method.split())


# longer paths come first, so that an id with a slash does not match the route of another id
_USER, _KEY, _URL = rest_of_path("external_user_id"), rest_of_path("key"), rest_of_path("url_64")
_ACCOUNT, _APP = rest_of_path("account_id"), rest_of_path("app_id")
_ACCOUNTS_READ, _ACCOUNTS_WRITE = ("connect:accounts:read",), ("connect:accounts:write",)
_ACCOUNTS = (
    _RouteSpec("GET", f"/users/{_USER}/accounts", accounts.list_user_accounts, _ACCOUNTS_READ, bucket="accounts"),
    _RouteSpec("GET", "/accounts", accounts.list_accounts, _ACCOUNTS_READ, bucket="accounts"),
    _RouteSpec("POST", "/accounts", accounts.create, _ACCOUNTS_WRITE, bucket="accounts"),
    _RouteSpec("GET", f"/accounts/{_ACCOUNT}", accounts.retrieve, _ACCOUNTS_READ, bucket="accounts"),
    _RouteSpec(
        "DELETE",
        f"/accounts/app/{_APP}",
        accounts.delete_app_accounts,
        _ACCOUNTS_WRITE,
        backend=True,
        bucket="accounts",
    ),
    _RouteSpec("DELETE", f"/accounts/{_ACCOUNT}", accounts.delete, _ACCOUNTS_WRITE, bucket="accounts"),
    _RouteSpec(
        "DELETE",
        f"/apps/{_APP}/accounts",
        accounts.delete_app_accounts,
        _ACCOUNTS_WRITE,
        backend=True,
        bucket="accounts",
    ),
    _RouteSpec("GET", "/users", accounts.list_users, ("connect:users:read",), backend=True),
    _RouteSpec("DELETE", f"/users/{_USER}", accounts.delete_user, ("connect:users:write",), backend=True),
)
_APPS = tuple(
    # the platform has no narrower scope for these routes (its staff, in its forum)
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
    _RouteSpec("GET", "/v1/connect/projects", apps.list_projects, _PROJECTS_READ, backend=True),
    _RouteSpec("GET", "/projects/info", apps.list_project_apps, _PROJECTS_READ),
    _RouteSpec(
        "GET",
        f"/v1/connect/projects/{rest_of_path('requested_id')}",
        apps.retrieve_project,
        _PROJECTS_READ,
        backend=True,
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
    _RouteSpec("POST", "/actions/run", components.run_action, ("connect:actions:run",), bucket="runs"),
    _RouteSpec(" ".join(proxy.METHODS), f"/proxy/{_URL}", proxy.proxy, ("connect:proxy",), bucket="proxy"),
)

_TRIGGER_PATH, _WEBHOOK = f"/deployed-triggers/{rest_of_path('trigger_id')}", rest_of_path("webhook_id")
_TRIGGERS_READ, _TRIGGERS_WRITE = ("connect:deployed_triggers:read",), ("connect:deployed_triggers:write",)
_DEPLOYED = (
    _RouteSpec("POST", "/triggers/deploy", deployed_triggers.deploy, ("connect:triggers:deploy",), bucket="runs"),
    *(
        _RouteSpec(method, path, handler, _TRIGGERS_READ if method == "GET" else _TRIGGERS_WRITE)
        for method, path, handler in (
            ("GET", "/deployed-triggers", deployed_triggers.list_triggers),
            ("GET", f"{_TRIGGER_PATH}/events", deployed_triggers.list_events),
            ("GET", f"{_TRIGGER_PATH}/pipelines", deployed_triggers.list_workflows),
            ("PUT", f"{_TRIGGER_PATH}/pipelines", deployed_triggers.update_workflows),
            ("GET", f"{_TRIGGER_PATH}/webhooks", deployed_triggers.list_webhooks),
            ("PUT", f"{_TRIGGER_PATH}/webhooks", deployed_triggers.update_webhooks),
            ("GET", f"{_TRIGGER_PATH}/webhooks/{_WEBHOOK}", deployed_triggers.retrieve_webhook),
            ("POST", f"{_TRIGGER_PATH}/webhooks/{_WEBHOOK}/regenerate_signing_key", deployed_triggers.regenerate_key),
            (
                "POST",
                f"{_TRIGGER_PATH}/webhooks/{_WEBHOOK}/reset_delivery_state",
                deployed_triggers.reset_delivery_state,
            ),
            ("GET", _TRIGGER_PATH, deployed_triggers.retrieve),
            ("PUT", _TRIGGER_PATH, deployed_triggers.update),
            ("DELETE", _TRIGGER_PATH, deployed_triggers.delete),
        )
    ),
)

_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
_UNSUPPORTED_PATHS = (
    ("webhook", f"/webhook{rest_of_path()}"),
    ("oauth_apps", f"/oauth_apps{rest_of_path()}"),
    ("app_overrides", f"/app_overrides{rest_of_path()}"),
    ("file_stash", f"/file_stash{rest_of_path()}"),
    ("projects", f"/projects{rest_of_path()}"),
    ("usage", "/usage"),
    ("rate_limits", "/rate_limits"),
)


def routes() -> list[BaseRoute]:
    """Return the routes of the API."""
    entries = (*_PROJECTS, *_APPS, *_ACCOUNTS, *_RUNS, *_DEPLOYED, *_COMPONENTS)
    preflight_routes = [
        Route(path, preflight, methods=["OPTIONS"])
        for path in (f"/v1/connect/{rest_of_path()}", f"/v1/apps{rest_of_path()}")
    ]
    return [*preflight_routes, *(route for entry in entries for route in entry.routes())]


def unsupported_routes() -> list[BaseRoute]:
    """Return all other routes under /v1: they respond with 501 and the route's name. They must come last under /v1."""
    named = [
        Route(prefix + path, _unsupported_endpoint(name), methods=_METHODS)
        for name, path in _UNSUPPORTED_PATHS
        for prefix in (PROJECT_PATH, CONNECT_PATH)
    ]
    return [*named, Route(f"/v1/{rest_of_path()}", _unsupported_endpoint(None), methods=_METHODS)]


def _unsupported_endpoint(name: str | None) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        what = name or f"{request.method} {request.url.path[:200]}"
        text = f"{what} is a part of Connect's API that pdkernel does not support."
        return JSONResponse({"error": text, "route": what}, status_code=501)

    return endpoint

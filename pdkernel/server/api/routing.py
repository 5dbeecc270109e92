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

from pdkernel.actions.component import Kind
from pdkernel.server.api import accounts, actions, apps, components, deployed, projects, proxy, triggers, users
from pdkernel.server.api.browsers import preflight
from pdkernel.server.api.door import Endpoint, Handler, door
from pdkernel.server.api.rates import Bucket, Rates
from pdkernel.server.paths import part, rest

PREFIX = "/v1/connect"
PROJECT = f"/v1/connect/{part('project_id')}"
"""Of a project; JS SDKs' proxy leaves its place empty, with a Connect token."""


@dataclass(frozen=True)
class _Entry:
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
    handler: Handler
    scopes: tuple[str, ...] = ()
    backend: bool = False
    bucket: Bucket | None = None

    def routes(self, rates: Rates) -> list[BaseRoute]:
        """The route, and the one without a project."""
        endpoint = door(self.handler, scopes=self.scopes, backend=self.backend, rates=rates, bucket=self.bucket)
        if self.path.startswith("/v1"):
            return [self._route(self.path, endpoint)]
        return [self._route(PROJECT + self.path, endpoint), self._route(PREFIX + self.path, endpoint)]

    def _route(self, path: str, endpoint: Endpoint) -> Route:
        return Route(path, endpoint, methods=self.method.split())


# an id that holds a slash is one that nothing has, not another route: what follows one stands first
_USER, _KEY, _URL = rest("external_user_id"), rest("key"), rest("url_64")
_ACCOUNT, _APP = rest("account_id"), rest("app_id")
_READ, _WRITE = ("connect:accounts:read",), ("connect:accounts:write",)
_ACCOUNTS = (
    _Entry("GET", f"/users/{_USER}/accounts", accounts.list_of_user, _READ, bucket="accounts"),
    _Entry("GET", "/accounts", accounts.list_accounts, _READ, bucket="accounts"),
    _Entry("POST", "/accounts", accounts.create, _WRITE, bucket="accounts"),
    _Entry("GET", f"/accounts/{_ACCOUNT}", accounts.retrieve, _READ, bucket="accounts"),
    _Entry("DELETE", f"/accounts/app/{_APP}", accounts.delete_of_app, _WRITE, backend=True, bucket="accounts"),
    _Entry("DELETE", f"/accounts/{_ACCOUNT}", accounts.delete, _WRITE, bucket="accounts"),
    _Entry("DELETE", f"/apps/{_APP}/accounts", accounts.delete_of_app, _WRITE, backend=True, bucket="accounts"),
    _Entry("GET", "/users", users.list_users, ("connect:users:read",), backend=True),
    _Entry("DELETE", f"/users/{_USER}", users.delete_user, ("connect:users:write",), backend=True),
)
_APPS = tuple(
    # the platform has no narrower scope for these (its staff, in its forum)
    _Entry("GET", path, handler, ("connect:apps:*",))
    for path, handler in (
        ("/v1/connect/apps", apps.list_apps),
        (f"/v1/connect/apps/{_APP}", apps.retrieve),
        ("/v1/apps", apps.list_apps),
        (f"/v1/apps/{_APP}", apps.retrieve),
        ("/v1/connect/app_categories", apps.list_categories),
        (f"/v1/connect/app_categories/{rest('category_id')}", apps.retrieve_category),
    )
)
_PROJECTS_READ = ("connect:projects:read",)
_PROJECTS = (
    _Entry("GET", "/v1/connect/projects", projects.list_projects, _PROJECTS_READ, backend=True),
    _Entry("GET", "/projects/info", projects.info, _PROJECTS_READ),
    _Entry("GET", f"/v1/connect/projects/{rest('wanted')}", projects.retrieve, _PROJECTS_READ, backend=True),
)
_KINDS: tuple[tuple[str, Kind | None], ...] = (("components", None), ("actions", "action"), ("triggers", "source"))
_COMPONENTS = tuple(
    entry
    for name, kind in _KINDS
    for entry in (
        _Entry("GET", f"/{name}", components.listing(kind), components.scopes(kind, "list"), bucket="components"),
        _Entry(
            "POST",
            f"/{name}/configure",
            components.configuring(kind),
            components.scopes(kind, "configure"),
            bucket="runs",
        ),
        _Entry("POST", f"/{name}/props", components.reloading(kind), components.scopes(kind, "props"), bucket="runs"),
        _Entry(
            "GET",
            f"/{name}/{_KEY}",
            components.retrieving(kind),
            components.scopes(kind, "retrieve"),
            bucket="components",
        ),
    )
)
_RUNS = (
    _Entry("POST", "/actions/run", actions.run, ("connect:actions:run",), bucket="runs"),
    _Entry(" ".join(proxy.METHODS), f"/proxy/{_URL}", proxy.proxy, ("connect:proxy",), bucket="proxy"),
)

_ONE, _WEBHOOK = f"/deployed-triggers/{rest('trigger_id')}", rest("webhook_id")
_SEEN, _CHANGED = ("connect:deployed_triggers:read",), ("connect:deployed_triggers:write",)
_DEPLOYED = (
    _Entry("POST", "/triggers/deploy", triggers.deploy, ("connect:triggers:deploy",), bucket="runs"),
    *(
        _Entry(method, path, handler, _SEEN if method == "GET" else _CHANGED)
        for method, path, handler in (
            ("GET", "/deployed-triggers", deployed.list_triggers),
            ("GET", f"{_ONE}/events", deployed.list_events),
            ("GET", f"{_ONE}/pipelines", deployed.list_workflows),
            ("PUT", f"{_ONE}/pipelines", deployed.update_workflows),
            ("GET", f"{_ONE}/webhooks", deployed.list_webhooks),
            ("PUT", f"{_ONE}/webhooks", deployed.update_webhooks),
            ("GET", f"{_ONE}/webhooks/{_WEBHOOK}", deployed.retrieve_webhook),
            ("POST", f"{_ONE}/webhooks/{_WEBHOOK}/regenerate_signing_key", deployed.regenerate_key),
            ("POST", f"{_ONE}/webhooks/{_WEBHOOK}/reset_delivery_state", deployed.reset_delivery_state),
            ("GET", _ONE, deployed.retrieve),
            ("PUT", _ONE, deployed.update),
            ("DELETE", _ONE, deployed.delete),
        )
    ),
)

_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
_UNSERVED = (
    ("webhook", f"/webhook{rest()}"),
    ("oauth_apps", f"/oauth_apps{rest()}"),
    ("app_overrides", f"/app_overrides{rest()}"),
    ("file_stash", f"/file_stash{rest()}"),
    ("usage", "/usage"),
    ("rate_limits", "/rate_limits"),
)


def routes() -> list[BaseRoute]:
    """This room's routes; handlers find `Serving` in `request.app.state.serving`."""
    rates = Rates()
    entries = (*_PROJECTS, *_APPS, *_ACCOUNTS, *_RUNS, *_DEPLOYED, *_COMPONENTS)
    asked_first = [
        Route(path, preflight, methods=["OPTIONS"]) for path in (f"/v1/connect/{rest()}", f"/v1/apps{rest()}")
    ]
    return [*asked_first, *(route for entry in entries for route in entry.routes(rates))]


def unserved() -> list[BaseRoute]:
    """Everything else under /v1: 501 with the route's name. It comes after every other route under /v1."""
    named = [
        Route(prefix + path, _not_served(name), methods=_METHODS)
        for name, path in _UNSERVED
        for prefix in (PROJECT, PREFIX)
    ]
    return [*named, Route(f"/v1/{rest()}", _not_served(None), methods=_METHODS)]


def _not_served(name: str | None) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        what = name or f"{request.method} {request.url.path[:200]}"
        text = f"{what} is a part of Connect's API that pdkernel does not serve."
        return JSONResponse({"error": text, "route": what}, status_code=501)

    return endpoint

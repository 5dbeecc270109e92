"""The ASGI application: its routes in order, its middleware and its state."""

from __future__ import annotations

from functools import cache
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from pdkernel.common.blocking import run_blocking
from pdkernel.engine.dispatch import POLL_INTERVAL_S
from pdkernel.server import api, console, endpoint, link, oauth, run_pages
from pdkernel.server.access_log import AccessLogMiddleware, find_route_words
from pdkernel.server.answered_requests import AnsweredRequests
from pdkernel.server.app_context import AppContext, LinkOnlyContext
from pdkernel.server.app_state import AppState, get_state, set_link_context, set_state
from pdkernel.server.authorization import parse_bearer_token
from pdkernel.server.batches import Batches
from pdkernel.server.console_sessions import ConsoleSessions
from pdkernel.server.database_probe import INTERVAL_S, DatabaseProbe
from pdkernel.server.host_names import HostNames
from pdkernel.server.middleware import (
    DatabaseErrorMiddleware,
    EndpointRoutingMiddleware,
    HostCheckMiddleware,
    StepCallMiddleware,
)
from pdkernel.server.path_params import rest_of_path
from pdkernel.server.rate_limits import ApiRateLimiter, EndpointRateLimiter
from pdkernel.server.run_registry import RunRegistry
from pdkernel.server.trigger_events import TriggerEvents
from pdkernel.server.trigger_runner import DeployedTriggers
from pdkernel.server.uploads import UploadFolder
from pdkernel.server.workflow_triggers import WorkflowTriggers

_FORWARDED_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_WRONG_SERVER_MESSAGE = (
    "This server issued this access token, and the token opens workflow endpoints only. Pipedream answers Connect's routes: "
    "use a token of an OAuth client of your Pipedream workspace."
)


def create_link_app(context: LinkOnlyContext) -> Starlette:
    """Create the application that serves only the pages of Connect Link."""
    app = Starlette(
        routes=link.pages(), middleware=[Middleware(HostCheckMiddleware, names=HostNames(context.settings))]
    )
    set_link_context(app, context)
    return app


def create_app(context: AppContext) -> Starlette:
    """Create the application that serves *context*; the caller opens and closes the context's resources."""
    own_server = context.engine.gateway.own_server
    own_server.announce(
        context.settings.base_url,
        context.project.vault.sign("calls of steps").hex().encode(),
        local_url=context.settings.local_url,
    )
    # several servers of one database inform each other of changes
    interval_s = INTERVAL_S if context.project.sqlite_path is None else POLL_INTERVAL_S
    probe = DatabaseProbe(context.project.ping, context.clock, interval_s=interval_s)
    middleware = [
        Middleware(DatabaseErrorMiddleware, probe=probe),
        Middleware(StepCallMiddleware, own_server=own_server),
        Middleware(EndpointRoutingMiddleware, context=context, endpoint=endpoint.Endpoint()),
    ]
    routes = _list_routes(forwards_connect=context.passthrough is not None)
    if context.write_line is not None:
        log = Middleware(AccessLogMiddleware, write_line=context.write_line, words=find_route_words(routes))
        middleware.insert(0, log)
    app = Starlette(
        routes=routes,
        middleware=middleware,
        exception_handlers={ClientDisconnect: _on_client_disconnect},
    )
    runs = RunRegistry(context)
    events = TriggerEvents(context, runs)
    batches = Batches(context, runs)
    triggers, deployed = WorkflowTriggers(context, runs, events, batches), DeployedTriggers(context, runs, events)
    state = AppState(
        context=context,
        runs=runs,
        names=HostNames(context.settings),
        uploads=UploadFolder(context.project.folder / "uploads", context.settings.base_url, context.clock),
        rate_limiter=EndpointRateLimiter(context.clock),
        api_rate_limiter=ApiRateLimiter(),
        console=ConsoleSessions(
            context.project,
            admin_token_hash=context.settings.admin_token_hash,
            print_code=context.print_login_code,
            on_code_used=context.on_console_code_used,
        ),
        events=events,
        batches=batches,
        triggers=triggers,
        deployed_triggers=deployed,
        answered=AnsweredRequests(context, runs, triggers, deployed),
        database=probe,
    )
    set_state(app, state)
    return app


@cache  # the same for every application, and slow to build
def _list_routes(*, forwards_connect: bool) -> tuple[BaseRoute, ...]:
    """Return the routes of an application; *forwards_connect*: Pipedream answers the routes of Connect."""
    connect = (
        [Route(f"/v1/{rest_of_path()}", forward_to_pipedream, methods=_FORWARDED_METHODS)]
        if forwards_connect
        else [*api.routes(), *link.routes(), *api.unsupported_routes()]
    )
    return (*run_pages.routes(), *console.routes(), *oauth.routes(), *connect, *endpoint.routes())


async def forward_to_pipedream(request: Request) -> Response:
    """Answer every route of Connect with a real project: by Pipedream, except for a token that this server issued."""
    context = get_state(request.app).context
    token = parse_bearer_token(request.headers.get("authorization"))
    if token is not None and await run_blocking(context.project.access_tokens.verify, token) is not None:
        return JSONResponse({"error": _WRONG_SERVER_MESSAGE}, status_code=401)
    assert context.passthrough is not None
    return await context.passthrough.forward(request)


async def _on_client_disconnect(*_: Any) -> Response:
    """Return the response after the caller disconnected while sending the body; it is never sent."""
    return Response(status_code=400)

"""The ASGI application: its routes in order, its middleware and its state."""

from __future__ import annotations

from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from pdkernel.server import api, endpoint, link, oauth, passthrough_routes, run_pages
from pdkernel.server.access_log import AccessLogMiddleware
from pdkernel.server.app_context import AppContext, LinkOnlyContext
from pdkernel.server.endpoint.throttle import Throttle
from pdkernel.server.endpoint.uploads import UploadFolder
from pdkernel.server.host_names import HostNames
from pdkernel.server.middleware import EndpointRoutingMiddleware, HostCheckMiddleware
from pdkernel.server.run_registry import RunRegistry


def create_link_app(context: LinkOnlyContext) -> Starlette:
    """The application that serves only the pages of Connect Link."""
    app = Starlette(
        routes=link.pages(), middleware=[Middleware(HostCheckMiddleware, names=HostNames(context.settings))]
    )
    app.state.context = context
    return app


def create_app(context: AppContext) -> Starlette:
    """
    The application that serves *context*; the caller opens and closes the context's resources.

    Handlers read `app.state`: `context`, `runs` (runs in progress), `names`, `uploads`, `throttle`, and `stopping` (set at shutdown).
    """
    middleware = [Middleware(EndpointRoutingMiddleware, context=context, endpoint=endpoint.Endpoint())]
    if context.write_line is not None:
        middleware.insert(0, Middleware(AccessLogMiddleware, write_line=context.write_line))
    connect = (
        passthrough_routes.routes()
        if context.passthrough
        else [*api.routes(), *link.routes(), *api.unsupported_routes()]
    )
    app = Starlette(
        routes=[*run_pages.routes(), *oauth.routes(), *connect, *endpoint.routes()],
        middleware=middleware,
        exception_handlers={ClientDisconnect: _on_client_disconnect},
    )
    app.state.context = context
    app.state.runs = RunRegistry(context)
    app.state.names = HostNames(context.settings)
    app.state.uploads = UploadFolder(context.project.folder / "uploads", context.settings.base_url, context.clock)
    app.state.throttle = Throttle(context.clock)
    app.state.stopping = False
    return app


async def _on_client_disconnect(*_: Any) -> Response:
    """The response after the caller disconnected while sending the body; it is never sent."""
    return Response(status_code=400)

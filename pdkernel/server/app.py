"""
The application, as a value: no socket, no global.

Knows which rooms answer, and in which order they are asked. What they answer is theirs.
"""

from __future__ import annotations

from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from pdkernel.server import api, endpoint, link, oauth, passthrough, runs
from pdkernel.server.endpoint.throttle import Throttle
from pdkernel.server.endpoint.uploads import Uploads
from pdkernel.server.guard import Guard, HostCheck, Lines
from pdkernel.server.hosts import HostNames
from pdkernel.server.running import Runs
from pdkernel.server.serving import LinkSite, Serving


def create_link_app(site: LinkSite) -> Starlette:
    """The application that serves the pages of Connect Link, and nothing else."""
    app = Starlette(routes=link.pages(), middleware=[Middleware(HostCheck, names=HostNames(site.settings))])
    app.state.serving = site
    return app


def create_app(serving: Serving) -> Starlette:
    """
    The application that serves *serving*; it opens and closes nothing.

    What handlers find in `app.state`: `serving`; `runs`, the runs under way; `stopping`, whether the server is told to stop.
    """
    middleware = [Middleware(Guard, serving=serving, endpoint=endpoint.Endpoint())]
    if serving.say is not None:
        middleware.insert(0, Middleware(Lines, say=serving.say))
    connect = passthrough.routes() if serving.pipedream else [*api.routes(), *link.routes(), *api.unserved()]
    app = Starlette(
        routes=[*runs.routes(), *oauth.routes(), *connect, *endpoint.routes()],
        middleware=middleware,
        exception_handlers={ClientDisconnect: _gone},
    )
    app.state.serving = serving
    app.state.runs = Runs(serving)
    app.state.names = HostNames(serving.settings)
    app.state.uploads = Uploads(serving.project.folder / "uploads", serving.settings.url, serving.clock)
    app.state.throttle = Throttle(serving.clock)
    app.state.stopping = False
    return app


async def _gone(*_: Any) -> Response:
    """For a caller who went away before the body was whole; nobody reads it."""
    return Response(status_code=400)

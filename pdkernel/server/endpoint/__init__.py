"""
Requests that start workflows or invoke deployed triggers.

    handler          handles a request: workflow, trigger's auth, run, response
    trigger_handler  requests to deployed triggers
    request_body     queries, bodies of every media type, forms with files
    responses        responses to the caller
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from pdkernel.server.app_state import get_state
from pdkernel.server.endpoint import responses
from pdkernel.server.endpoint.handler import Endpoint
from pdkernel.server.path_params import rest_of_path
from pdkernel.server.uploads import UPLOADS_PATH


def routes() -> list[BaseRoute]:
    """Return the routes of the package. They must come last: any path may name an endpoint."""
    return [
        Route(f"{UPLOADS_PATH}/{{name}}", serve_upload, methods=["GET"]),
        # a browser sends the console's cookie with these paths, so steps must not read their requests
        Route("/-/" + rest_of_path(), _UNKNOWN_PAGE),
        Route("/" + rest_of_path("path"), Endpoint()),
    ]


async def serve_upload(request: Request) -> Response:
    """Answer GET `/-/uploads/{name}`: a stored file of a request."""
    return await get_state(request.app).uploads.respond(request.path_params["name"])


_UNKNOWN_PAGE = responses.refusal_response(404, "There is no such page.")

__all__ = ["Endpoint", "routes"]

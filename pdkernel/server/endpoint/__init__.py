"""
Requests that start workflows or invoke deployed triggers.

    handler          handles a request from route to response
    endpoint_route   finds the workflow by path or host
    trigger_auth     the trigger's auth
    trigger_handler  requests to deployed triggers
    request_body     bodies of every media type
    multipart        forms with files
    uploads          files and large bodies, stored for 30 minutes
    throttle         the platform's rate limit
    responses        responses to the caller
"""

from __future__ import annotations

from starlette.routing import BaseRoute, Route

from pdkernel.server.endpoint.handler import Endpoint
from pdkernel.server.endpoint.uploads import UPLOADS_PATH, serve_upload
from pdkernel.server.path_params import rest_of_path


def routes() -> list[BaseRoute]:
    """Routes of the package. They must come last: any path may name an endpoint."""
    return [
        Route(f"{UPLOADS_PATH}/{{name}}", serve_upload, methods=["GET"]),
        Route("/" + rest_of_path("path"), Endpoint()),
    ]


__all__ = ["Endpoint", "routes"]

"""
Requests that start workflows, or wake deployed triggers.

    invoke       the order of things
    address      which workflow, by path, by host, by the path that some SDKs make
    access       the trigger's auth
    waking       a deployed trigger's source, woken
    bodies       the body, of every media type
    forms        a form with files
    uploads      files and large bodies, kept for half an hour
    throttle     the platform's limit of requests
    answers      what the caller gets
"""

from __future__ import annotations

from starlette.routing import BaseRoute, Route

from pdkernel.server.endpoint.handler import Endpoint
from pdkernel.server.endpoint.uploads import UPLOADS_PATH, serve_upload
from pdkernel.server.path_params import rest_of_path


def routes() -> list[BaseRoute]:
    """This room's routes, to be asked last: any path may name an endpoint."""
    return [
        Route(f"{UPLOADS_PATH}/{{name}}", serve_upload, methods=["GET"]),
        Route("/" + rest_of_path("path"), Endpoint()),
    ]


__all__ = ["Endpoint", "routes"]

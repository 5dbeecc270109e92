"""
Cross-origin requests: a Connect token lists the origins whose pages may use the token.

A preflight request has no token, so every page passes the preflight; the origin is checked with the request itself.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from pdkernel.storage import ConnectToken

_PREFLIGHT = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, POST, PUT, PATCH, DELETE",
    "Access-Control-Max-Age": "600",
}


async def preflight(request: Request) -> Response:
    """The response to a preflight request; allows every page."""
    requested = request.headers.get("access-control-request-headers", "authorization, content-type")
    return Response(status_code=204, headers={**_PREFLIGHT, "Access-Control-Allow-Headers": requested})


def is_origin_allowed(token: ConnectToken, origin: str | None) -> bool:
    """Whether a page of *origin* may use *token*; None for a client other than a browser."""
    return origin is None or origin.rstrip("/") in token.terms.allowed_origins


def allow_origin(response: Response, origin: str | None) -> Response:
    """Allow pages of *origin* to read *response*."""
    if origin is not None:
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers.add_vary_header("Origin")
    return response

"""
Calls from a web page: which pages may use a Connect token, and what their browser is told.

Knows that a token says of which origins pages may use it. A page asks first without its token, so that whatever it may
do is answered only with the request itself.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from pdkernel.project import ConnectToken

_PREFLIGHT = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, POST, PUT, PATCH, DELETE",
    "Access-Control-Max-Age": "600",
}


async def preflight(request: Request) -> Response:
    """What a browser asks before a page's request: any page may try."""
    asked = request.headers.get("access-control-request-headers", "authorization, content-type")
    return Response(status_code=204, headers={**_PREFLIGHT, "Access-Control-Allow-Headers": asked})


def is_origin_allowed(token: ConnectToken, origin: str | None) -> bool:
    """Whether a page of *origin* may use *token*; None is no page."""
    return origin is None or origin.rstrip("/") in token.terms.allowed_origins


def allow_origin(response: Response, origin: str | None) -> Response:
    """*response*, readable by pages of *origin*."""
    if origin is not None:
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers.add_vary_header("Origin")
    return response

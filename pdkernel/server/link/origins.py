"""
Pages of the product that call the API with a Connect token: which may, as far as browsers are concerned.

Knows CORS for Connect's routes. A page may read an answer if its origin is one that the token was made for; with no
token of ours, or for another origin, the browser keeps the answer from the page. Programs that are no browser send no
`Origin` and are not concerned.
"""

from __future__ import annotations

import asyncio
import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pdkernel.server.link.tokens import find_token
from pdkernel.server.oauth.access import bearer_token
from pdkernel.server.serving import Serving

PATHS = ("/v1/connect", "/v1/apps")
_METHODS = "GET, POST, PUT, PATCH, DELETE"
_HEADERS = "authorization, content-type, x-pd-environment, x-pd-external-user-id, x-pd-sdk-version"
_KEPT_S = "600"
_OF_SDKS = re.compile(r"\bx-fern-[a-z-]+")


class Origins:
    """
    The check of `Origin` for requests with a Connect token.

    Args:
        app: Whoever answers.
        serving: What is served.
    """

    def __init__(self, app: ASGIApp, serving: Serving) -> None:
        self._app = app
        self._serving = serving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a preflight, or hand on."""
        headers = Headers(scope=scope) if scope["type"] == "http" and scope["path"].startswith(PATHS) else Headers()
        origin = headers.get("origin")
        if origin is None:
            await self._app(scope, receive, send)
        elif scope["method"] == "OPTIONS":
            await _preflight(origin, headers)(scope, receive, send)
        else:
            await self._with_origin(scope, receive, send, origin, headers)

    async def _with_origin(self, scope: Scope, receive: Receive, send: Send, origin: str, headers: Headers) -> None:
        bearer = bearer_token(headers.get("authorization")) or ""
        token = await asyncio.to_thread(find_token, self._serving, bearer) if bearer.startswith("ctok_") else None
        if token is None:
            await self._app(scope, receive, send)
            return
        if origin not in token.terms.allowed_origins:
            await _REFUSED(scope, receive, send)
            return

        async def readable(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update({"access-control-allow-origin": origin, "vary": "Origin"})
            await send(message)

        await self._app(scope, receive, readable)


def _preflight(origin: str, headers: Headers) -> Response:
    """What a browser asks first; it cannot send the token with that, so that any origin may ask."""
    asked = headers.get("access-control-request-headers", "")
    more = "".join(f", {name}" for name in _OF_SDKS.findall(asked.lower()))
    return Response(
        status_code=204,
        headers={
            "access-control-allow-origin": origin,
            "access-control-allow-methods": _METHODS,
            "access-control-allow-headers": _HEADERS + more,
            "access-control-max-age": _KEPT_S,
            "vary": "Origin, Access-Control-Request-Headers",
        },
    )


_REFUSED = JSONResponse(
    {"error": "The Connect token was not made for this origin. Name it in allowed_origins when the token is made."},
    status_code=403,
)

"""
With a real project: Connect's routes, which Pipedream answers, and tokens that Pipedream has issued.

Knows what of a request and an answer belongs to a connection and not to a message; all else goes through unchanged, as it comes.
Endpoints, and tokens of clients that this project has made, are answered here.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING

from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from pdkernel.clock import Clock
from pdkernel.egress.message import end_to_end
from pdkernel.identity import Environment
from pdkernel.project import Login
from pdkernel.server.paths import rest

if TYPE_CHECKING:
    import httpx

_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_TIMEOUT_S = 330.0
"""Longer than anything that Connect does; a caller gives up sooner."""
_GOOD_S, _BAD_S = 60.0, 5.0
_MOST = 1000


class Pipedream:
    """
    The API of the real project. One event loop's.

    Args:
        login: Which project.
        clock: Tells for how long a token is known to be good.
    """

    def __init__(self, login: Login, clock: Clock) -> None:
        self.login = login
        self._clock = clock
        self._made: httpx.AsyncClient | None = None
        self._tokens: dict[bytes, tuple[float, bool]] = {}

    async def answer(self, request: Request) -> Response:
        """Pipedream's own answer to *request*, or a 502 that says why there is none."""
        import httpx

        raw_path = request.scope.get("raw_path") or request.url.path.encode()
        query = request.scope.get("query_string", b"")
        target = raw_path.partition(b"?")[0] + (b"?" + query if query else b"")
        headers = [(name, value) for name, value in end_to_end(request.headers.raw) if name.lower() != b"host"]
        framed = any(name.lower() in (b"content-length", b"transfer-encoding") for name, _ in request.headers.raw)
        url = httpx.URL(self.login.base_url)
        outgoing = self._client.build_request(
            request.method,
            url.copy_with(raw_path=url.raw_path.rstrip(b"/") + target),
            content=_body(request) if framed else None,
        )
        outgoing.headers = httpx.Headers([(b"host", url.netloc), *headers, *_chunked(request, framed=framed)])
        try:
            got = await self._client.send(outgoing, stream=True)
        except (httpx.HTTPError, ClientDisconnect, OSError) as fault:
            return self._unreachable(fault)
        answer = StreamingResponse(_content(got), status_code=got.status_code, background=BackgroundTask(got.aclose))
        answer.raw_headers = [(name.lower(), value) for name, value in end_to_end(got.headers.raw)]
        return answer

    async def knows(self, token: str, environment: Environment) -> bool | None:
        """
        Whether *token* is one that Pipedream has issued and that is good for the project; None if it cannot be asked.

        A browser's token for one user (`ctok_...`) is none: it opens Connect, not endpoints.
        """
        import httpx

        if token.startswith("ctok_") or not token.isascii():
            return False
        key = hashlib.sha256(token.encode()).digest()
        until, good = self._tokens.get(key, (0.0, False))
        if until > self._clock.monotonic():
            return good
        try:
            answer = await self._client.get(
                f"{self.login.base_url}/v1/connect/{self.login.project_id}/accounts",
                params={"limit": "1"},
                headers={"authorization": f"Bearer {token}", "x-pd-environment": environment},
                timeout=20.0,
            )
        except (httpx.HTTPError, OSError):
            return None
        if answer.status_code not in (200, 401, 403, 404):
            return None
        good = answer.status_code == 200
        self._tokens[key] = (self._clock.monotonic() + (_GOOD_S if good else _BAD_S), good)
        while len(self._tokens) > _MOST:
            self._tokens.pop(next(iter(self._tokens)))
        return good

    async def close(self) -> None:
        """Give up the connections."""
        if self._made is not None:
            await self._made.aclose()

    @property
    def _client(self) -> httpx.AsyncClient:
        if self._made is None:
            import httpx

            # one caller's cookies are not the next one's
            nobodys = CookieJar(policy=DefaultCookiePolicy(allowed_domains=[]))
            self._made = httpx.AsyncClient(timeout=httpx.Timeout(_TIMEOUT_S, connect=20.0), cookies=nobodys)
        return self._made

    def _unreachable(self, fault: Exception) -> Response:
        from urllib.parse import urlsplit

        where = urlsplit(self.login.base_url).netloc
        return JSONResponse(
            {"error": f"Pipedream Connect at {where} gives no answer ({type(fault).__name__}). Try again."},
            status_code=502,
        )


def routes() -> list[BaseRoute]:
    """Every route of Connect; handlers find `Serving`, whose `pipedream` is there, in `request.app.state.serving`."""
    return [Route(f"/v1/{rest()}", _pass_on, methods=_METHODS)]


async def _pass_on(request: Request) -> Response:
    pipedream: Pipedream = request.app.state.serving.pipedream
    return await pipedream.answer(request)


async def _body(request: Request) -> AsyncIterator[bytes]:
    async for chunk in request.stream():
        if chunk:
            yield chunk


def _chunked(request: Request, *, framed: bool) -> list[tuple[bytes, bytes]]:
    """The framing of a body without a length."""
    return [(b"transfer-encoding", b"chunked")] if framed and "content-length" not in request.headers else []


async def _content(got: httpx.Response) -> AsyncIterator[bytes]:
    """The answer's bytes as they came, encoded as they were; one that breaks off breaks off here, too."""
    async for chunk in got.aiter_raw():
        yield chunk

"""
With a real project: Connect's routes, which Pipedream answers.

Knows what of a request and an answer belongs to a connection and not to a message; all else goes through unchanged, as it
comes, a piece at a time. Nothing of ours is sent along: no cookie of this host, no token that we have given out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from pdkernel.clock import Clock
from pdkernel.egress.message import end_to_end_headers
from pdkernel.project import Login
from pdkernel.project.pipedream_tokens import PipedreamTokenTable
from pdkernel.server.access_log import add_access_log_note
from pdkernel.server.http_protocol import filter_response_headers
from pdkernel.server.pipedream_tokens import PipedreamTokenVerifier, parse_json_object

if TYPE_CHECKING:
    import httpx

READ_TIMEOUT_S = 330.0
"""Seconds between two pieces of an answer: longer than anything that Connect does; a caller gives up sooner."""
CONNECT_TIMEOUT_S = 20.0
MAX_CONNECTIONS = 200
"""Requests under way; one more waits for `CONNECT_S` seconds at most."""
# cookies are this host's, whoever set them; the server says `date` itself, and has asked for the body already
_NOT_SENT = frozenset({b"host", b"cookie", b"expect"})
_NOT_RETURNED = frozenset({b"date"})
_MAX_PARSED_BYTES = 1 << 18


class PipedreamPassthrough:
    """
    The API of the real project. One event loop's.

    Args:
        login: Which project.
        token_table: Tokens that were given out through us.
        clock: Tells for how long a token is known to be good.
        timeout_s: Seconds that pass between two pieces of an answer at most.

    Attributes:
        tokens: Which of its tokens open endpoints here.
    """

    def __init__(
        self, login: Login, token_table: PipedreamTokenTable, clock: Clock, *, timeout_s: float = READ_TIMEOUT_S
    ) -> None:
        self.login = login
        self.tokens = PipedreamTokenVerifier(self, token_table, clock)
        self._timeout_s = timeout_s
        self._made: httpx.AsyncClient | None = None

    async def forward(self, request: Request) -> Response:
        """Pipedream's own answer to *request*, or a 502 that says why there is none."""
        got = await self._send(request)
        return got if isinstance(got, Response) else _UpstreamResponse(got)

    async def forward_and_parse(self, request: Request) -> tuple[Response, dict[str, Any]]:
        """As `answer`, and the JSON object in it; an answer that is large is not looked into."""
        import httpx

        got = await self._send(request)
        if isinstance(got, Response):
            return got, {}
        raw = bytearray()
        try:
            async for chunk in got.aiter_raw():
                raw += chunk
                if len(raw) > _MAX_PARSED_BYTES:
                    return JSONResponse({"error": "Pipedream's answer is too large."}, status_code=502), {}
        except httpx.HTTPError as fault:
            return self._unreachable(fault), {}
        finally:
            await got.aclose()
        answer = Response(bytes(raw), status_code=got.status_code)
        answer.raw_headers = _headers_of(got)
        try:
            plain = httpx.Response(got.status_code, headers=got.headers, content=bytes(raw)).content
        except httpx.DecodingError:
            plain = b""
        return answer, parse_json_object(plain)

    async def probe_accounts(self, token: str, *, timeout_s: float) -> int | None:
        """The status with which Pipedream lists the project's accounts to the holder of *token*; None if it says none."""
        import httpx

        try:
            answer = await self._client.get(
                f"{self.login.base_url}/v1/connect/{self.login.project_id}/accounts",
                params={"limit": "1"},
                headers={"authorization": f"Bearer {token}", "x-pd-environment": self.login.environment},
                timeout=timeout_s,
            )
        except (httpx.HTTPError, OSError):
            return None
        return answer.status_code

    async def fetch_own_token(self, *, timeout_s: float) -> str | None:
        """A token of the login's client, or None if there is none to be had."""
        import httpx

        asked = {
            "grant_type": "client_credentials",
            "client_id": self.login.client_id,
            "client_secret": self.login.client_secret,
        }
        try:
            answer = await self._client.post(f"{self.login.base_url}/v1/oauth/token", json=asked, timeout=timeout_s)
        except (httpx.HTTPError, OSError):
            return None
        token = parse_json_object(answer.content).get("access_token") if answer.status_code == 200 else None
        return token if isinstance(token, str) else None

    async def close(self) -> None:
        """Give up the connections."""
        if self._made is not None:
            await self._made.aclose()

    async def _send(self, request: Request) -> httpx.Response | Response:
        """The answer, its body still to come; ours if there is none. A caller who goes away ends it."""
        import httpx

        read = asyncio.Event()
        sending = asyncio.ensure_future(self._client.send(self._outgoing(request, read), stream=True))
        gone = asyncio.ensure_future(_wait_for_disconnect(request, read))
        try:
            await asyncio.wait([sending, gone], return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                return Response(status_code=499)  # nobody reads it
            return sending.result()
        except (httpx.HTTPError, ClientDisconnect, OSError) as fault:
            return self._unreachable(fault)
        finally:
            gone.cancel()
            if not sending.done():
                sending.cancel()
            await asyncio.gather(gone, sending, return_exceptions=True)

    def _outgoing(self, request: Request, read: asyncio.Event) -> httpx.Request:
        import httpx

        raw_path = request.scope.get("raw_path") or request.url.path.encode()
        query = request.scope.get("query_string", b"")
        target = raw_path.partition(b"?")[0] + (b"?" + query if query else b"")
        headers = [
            (name, value) for name, value in end_to_end_headers(request.headers.raw) if name.lower() not in _NOT_SENT
        ]
        framed = any(name.lower() in (b"content-length", b"transfer-encoding") for name, _ in request.headers.raw)
        if not framed:
            read.set()
        url = httpx.URL(self.login.base_url)
        made = self._client.build_request(
            request.method,
            url.copy_with(raw_path=url.raw_path.rstrip(b"/") + target),
            content=_body(request, read) if framed else None,
        )
        made.headers = httpx.Headers([(b"host", url.netloc), *headers, *_chunked(request, framed=framed)])
        return made

    @property
    def _client(self) -> httpx.AsyncClient:
        if self._made is None:
            import httpx

            # one caller's cookies are not the next one's
            nobodys = CookieJar(policy=DefaultCookiePolicy(allowed_domains=[]))
            self._made = httpx.AsyncClient(
                timeout=httpx.Timeout(self._timeout_s, connect=CONNECT_TIMEOUT_S, pool=CONNECT_TIMEOUT_S),
                limits=httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=20),
                cookies=nobodys,
            )
        return self._made

    def _unreachable(self, fault: Exception) -> Response:
        where = urlsplit(self.login.base_url).netloc
        return JSONResponse(
            {"error": f"Pipedream Connect at {where} gives no answer ({type(fault).__name__}). Try again."},
            status_code=502,
        )


class _UpstreamResponse(StreamingResponse):
    """An answer as it comes, encoded as it was; one that breaks off breaks off here, too."""

    def __init__(self, got: httpx.Response) -> None:
        super().__init__(got.aiter_raw(), status_code=got.status_code)
        self.raw_headers = _headers_of(got)
        self._got = got

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass it on; the connection is let go whatever becomes of it."""
        import httpx

        try:
            await super().__call__(scope, receive, send)
        except* httpx.HTTPError:
            add_access_log_note(scope, "Pipedream's answer broke off")
        finally:
            await asyncio.shield(self._got.aclose())


async def _wait_for_disconnect(request: Request, read: asyncio.Event) -> None:
    """Return when the caller has gone away; what it sends is for somebody else to read first."""
    await read.wait()
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _body(request: Request, read: asyncio.Event) -> AsyncIterator[bytes]:
    async for chunk in request.stream():
        if chunk:
            yield chunk
    read.set()


def _chunked(request: Request, *, framed: bool) -> list[tuple[bytes, bytes]]:
    """The framing of a body without a length."""
    return [(b"transfer-encoding", b"chunked")] if framed and "content-length" not in request.headers else []


def _headers_of(got: httpx.Response) -> list[tuple[bytes, bytes]]:
    return filter_response_headers(end_to_end_headers(got.headers.raw), status=got.status_code, excluded=_NOT_RETURNED)

"""
Forwards requests to Pipedream's API, for a server with a real project, and streams the responses.

Headers of the connection are not forwarded; the other headers and the body stay unchanged. Cookies of this host and tokens
that this server issued are never sent.
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

from pdkernel.common.clock import Clock
from pdkernel.egress.message import end_to_end_headers
from pdkernel.server.access_log import add_access_log_note
from pdkernel.server.http_protocol import filter_response_headers
from pdkernel.server.pipedream_tokens import PipedreamTokenVerifier, parse_json_object
from pdkernel.storage import Login
from pdkernel.storage.short_lived_tokens import PipedreamTokenTable

if TYPE_CHECKING:
    import httpx

READ_TIMEOUT_S = 330.0
"""Seconds between two chunks of a response; longer than any operation of Connect."""
CONNECT_TIMEOUT_S = 20.0
MAX_CONNECTIONS = 200
"""Limit of concurrent requests; a further request waits up to `CONNECT_TIMEOUT_S` seconds."""
# cookies belong to this host; the server sets `date` itself and has already requested the body
_NOT_SENT = frozenset({b"host", b"cookie", b"expect"})
_NOT_RETURNED = frozenset({b"date"})
_MAX_PARSED_BYTES = 1 << 18


class PipedreamPassthrough:
    """
    The API of the real project. Belongs to one event loop.

    Args:
        login: Login at the project.
        token_table: Tokens that Pipedream issued through this server.
        clock: For the age of token checks.
        timeout_s: Maximum seconds between two chunks of a response.

    Attributes:
        tokens: Checks which tokens open endpoints of this server.
    """

    def __init__(
        self, login: Login, token_table: PipedreamTokenTable, clock: Clock, *, timeout_s: float = READ_TIMEOUT_S
    ) -> None:
        self.login = login
        self.tokens = PipedreamTokenVerifier(self, token_table, clock)
        self._timeout_s = timeout_s
        self._http: httpx.AsyncClient | None = None

    async def forward(self, request: Request) -> Response:
        """Return Pipedream's response to *request*, or a 502 with the reason."""
        upstream = await self._send(request)
        return upstream if isinstance(upstream, Response) else _UpstreamResponse(upstream)

    async def forward_and_parse(self, request: Request) -> tuple[Response, dict[str, Any]]:
        """As `forward`, with the JSON object in the response; an empty object if the body is too large or not JSON."""
        import httpx

        upstream = await self._send(request)
        if isinstance(upstream, Response):
            return upstream, {}
        raw = bytearray()
        try:
            async for chunk in upstream.aiter_raw():
                raw += chunk
                if len(raw) > _MAX_PARSED_BYTES:
                    return JSONResponse({"error": "Pipedream's answer is too large."}, status_code=502), {}
        except httpx.HTTPError as fault:
            return self._unreachable(fault), {}
        finally:
            await upstream.aclose()
        answer = Response(bytes(raw), status_code=upstream.status_code)
        answer.raw_headers = _headers_of(upstream)
        try:
            plain = httpx.Response(upstream.status_code, headers=upstream.headers, content=bytes(raw)).content
        except httpx.DecodingError:
            plain = b""
        return answer, parse_json_object(plain)

    async def probe_accounts(self, token: str, *, timeout_s: float) -> int | None:
        """Return the status of a request for the project's accounts with *token*; None if Pipedream does not respond."""
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
        """Return a new token for the client of the login, or None if Pipedream does not issue a token."""
        import httpx

        form = {
            "grant_type": "client_credentials",
            "client_id": self.login.client_id,
            "client_secret": self.login.client_secret,
        }
        try:
            answer = await self._client.post(f"{self.login.base_url}/v1/oauth/token", json=form, timeout=timeout_s)
        except (httpx.HTTPError, OSError):
            return None
        token = parse_json_object(answer.content).get("access_token") if answer.status_code == 200 else None
        return token if isinstance(token, str) else None

    async def close(self) -> None:
        """Close the connections."""
        if self._http is not None:
            await self._http.aclose()

    async def _send(self, request: Request) -> httpx.Response | Response:
        """Return the response with its body unread, or an error response. A disconnect of the caller cancels the request."""
        import httpx

        read = asyncio.Event()
        sending = asyncio.ensure_future(self._client.send(self._outgoing(request, read), stream=True))
        gone = asyncio.ensure_future(_wait_for_disconnect(request, read))
        try:
            await asyncio.wait([sending, gone], return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                return Response(status_code=499)  # the caller has disconnected
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
        if self._http is None:
            import httpx

            # cookies are not shared between callers
            no_cookies = CookieJar(policy=DefaultCookiePolicy(allowed_domains=[]))
            self._http = httpx.AsyncClient(
                timeout=httpx.Timeout(self._timeout_s, connect=CONNECT_TIMEOUT_S, pool=CONNECT_TIMEOUT_S),
                limits=httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=20),
                cookies=no_cookies,
            )
        return self._http

    def _unreachable(self, fault: Exception) -> Response:
        where = urlsplit(self.login.base_url).netloc
        return JSONResponse(
            {"error": f"Pipedream Connect at {where} does not respond ({type(fault).__name__}). Try again."},
            status_code=502,
        )


class _UpstreamResponse(StreamingResponse):
    """Streams a response with its encoding unchanged. If Pipedream closes the connection early, so does this server."""

    def __init__(self, upstream: httpx.Response) -> None:
        super().__init__(upstream.aiter_raw(), status_code=upstream.status_code)
        self.raw_headers = _headers_of(upstream)
        self._upstream = upstream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream the response, and always release the connection."""
        import httpx

        try:
            await super().__call__(scope, receive, send)
        except* httpx.HTTPError:
            add_access_log_note(scope, "Pipedream closed the connection too early")
        finally:
            await asyncio.shield(self._upstream.aclose())


async def _wait_for_disconnect(request: Request, read: asyncio.Event) -> None:
    """Wait until the body has been read, and then until the caller has disconnected."""
    await read.wait()
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _body(request: Request, read: asyncio.Event) -> AsyncIterator[bytes]:
    async for chunk in request.stream():
        if chunk:
            yield chunk
    read.set()


def _chunked(request: Request, *, framed: bool) -> list[tuple[bytes, bytes]]:
    """Return the framing of a body without a length."""
    return [(b"transfer-encoding", b"chunked")] if framed and "content-length" not in request.headers else []


def _headers_of(upstream: httpx.Response) -> list[tuple[bytes, bytes]]:
    return filter_response_headers(
        end_to_end_headers(upstream.headers.raw), status=upstream.status_code, excluded=_NOT_RETURNED
    )

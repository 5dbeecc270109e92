"""
The way out: a request to the host itself or to a stand-in, with TLS verified.

Knows httpcore and whom to trust. Knows nothing of modes, tickets or ledgers. Nothing is resolved or dialled before `send` or
`connect` is called. httpcore and not httpx: every byte of target and headers leaves as the step wrote it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from pdkernel.egress.message import Body, Headers, header
from pdkernel.egress.tls.certificates import upstream_context

if TYPE_CHECKING:
    import httpcore

Resolve = Mapping[tuple[str, int], tuple[str, int]]

_TIMEOUT = {"connect": 30.0, "read": 750.0, "write": 750.0, "pool": None}
_CONNECT_S = 30.0


class UpstreamError(Exception):
    """A host gave no answer; the text says why, for people."""


@dataclass(frozen=True, slots=True)
class Destination:
    """Where to send: *server_name* is what TLS verifies."""

    scheme: str
    host: str
    port: int
    server_name: str | None = None


@dataclass(frozen=True, eq=False)
class UpstreamAnswer:
    """A host's answer; *body* is what came over the wire, and must be read to its end or closed."""

    status: int
    reason: bytes
    headers: Headers
    body: AsyncIterator[bytes]


class Upstream:
    """Connections to hosts, kept for the next request."""

    def __init__(self, *, environ: Mapping[str, str], resolve: Resolve, extra_ca: Path | None) -> None:
        self._environ = environ
        self._resolve = resolve
        self._extra_ca = extra_ca
        self._context: ssl.SSLContext | None = None
        self._pools: dict[str | None, httpcore.AsyncConnectionPool] = {}

    async def send(
        self, to: Destination, method: str, target: bytes, headers: Headers, body: Body, *, via: str | None
    ) -> UpstreamAnswer:
        """
        Send a request and wait for the head of the answer.

        Raises:
            UpstreamError: Nothing answered.
        """
        import httpcore

        # A body is there if it has a length or comes in pieces; httpcore sends what it is given and adds nothing.
        has_body = header(headers, b"content-length") is not None or header(headers, b"transfer-encoding") is not None
        extensions: dict[str, Any] = {"timeout": _TIMEOUT}
        if to.server_name:
            extensions["sni_hostname"] = to.server_name
        request = httpcore.Request(
            method.encode("ascii"),
            httpcore.URL(scheme=to.scheme.encode(), host=to.host.encode("ascii"), port=to.port, target=target),
            headers=headers,
            content=body.stream() if has_body else None,
            extensions=extensions,
        )
        try:
            response = await self._pool(via).handle_async_request(request)
        except _failures() as error:
            raise UpstreamError(_why(error)) from error
        return UpstreamAnswer(
            response.status,
            bytes(response.extensions.get("reason_phrase", b"")),
            list(response.headers),
            _chunks(response),
        )

    async def connect(
        self, to: Destination, *, tls: bool, protocols: list[str] | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """
        Open a connection, for what is passed through unread.

        Raises:
            UpstreamError: It cannot be opened.
        """
        context = None
        if tls:
            context = upstream_context(self._environ, self._extra_ca)
            context.set_alpn_protocols(protocols or [])
        host, port = self._resolve.get((to.host, to.port), (to.host, to.port))
        try:
            async with asyncio.timeout(_CONNECT_S):
                return await asyncio.open_connection(
                    host, port, ssl=context, server_hostname=(to.server_name or to.host) if tls else None
                )
        except (OSError, TimeoutError) as error:
            raise UpstreamError(_why(error)) from error

    async def close(self) -> None:
        """Close what is kept."""
        for pool in self._pools.values():
            await pool.aclose()
        self._pools.clear()

    def _pool(self, via: str | None) -> httpcore.AsyncConnectionPool:
        pool = self._pools.get(via)
        if pool is None:
            import httpcore

            from pdkernel.egress.dialling import Dialling

            if self._context is None:
                self._context = upstream_context(self._environ, self._extra_ca)
            pool = httpcore.AsyncConnectionPool(
                ssl_context=self._context,
                proxy=_proxy(via) if via else None,
                max_connections=256,
                max_keepalive_connections=64,
                keepalive_expiry=5.0,
                network_backend=Dialling(self._resolve),
            )
            self._pools[via] = pool
        return pool


def _proxy(url: str) -> httpcore.Proxy:
    """An upstream proxy; name and password stand in its URL."""
    import httpcore

    parts = urlsplit(url)
    auth = (unquote(parts.username or ""), unquote(parts.password or "")) if parts.username is not None else None
    return httpcore.Proxy(parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(), auth=auth)


async def _chunks(response: httpcore.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in response.aiter_stream():
            yield chunk
    except _failures() as error:
        raise UpstreamError(_why(error)) from error
    finally:
        await response.aclose()


def _failures() -> tuple[type[Exception], ...]:
    import httpcore

    return (
        httpcore.NetworkError,
        httpcore.TimeoutException,
        httpcore.ProtocolError,
        httpcore.ProxyError,
        httpcore.UnsupportedProtocol,
        OSError,
    )


def _why(error: BaseException) -> str:
    """A failure in words, the innermost cause first: httpcore's own texts are often empty."""
    cause = error
    while cause.__cause__ is not None or cause.__context__ is not None:
        cause = cause.__cause__ or cause.__context__ or cause
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({cause.verify_message})."
    text = str(error) or str(cause)
    return f"{text or type(error).__name__}."

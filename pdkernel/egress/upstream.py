"""
Connections to hosts and stand-ins, with TLS verified.

Nothing is resolved or connected before `send`, `open` or `connect`. The library is httpcore and not httpx, because every
byte of target and headers must be sent as the step wrote it.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from pdkernel.egress.message import Body, Headers, get_header
from pdkernel.egress.public_addresses import Lookup, places, public_addresses
from pdkernel.egress.refusals import REFUSAL_HEADER
from pdkernel.egress.tls.certificates import upstream_context

if TYPE_CHECKING:
    import httpcore

    from pdkernel.egress.network_backend import HostOverrideBackend, Opened

HostOverrides = Mapping[tuple[str, int], tuple[str, int]]

_TIMEOUT = {"connect": 30.0, "read": 750.0, "write": 750.0, "pool": None}
_CONNECT_S = 30.0


# OpenSSL's codes (x509_vfy.h) and the names that Node.js has for them
_UNTRUSTED = {
    10: "CERT_HAS_EXPIRED",
    18: "DEPTH_ZERO_SELF_SIGNED_CERT",
    19: "SELF_SIGNED_CERT_IN_CHAIN",
    20: "UNABLE_TO_GET_ISSUER_CERT_LOCALLY",
    21: "UNABLE_TO_VERIFY_LEAF_SIGNATURE",
    62: "ERR_TLS_CERT_ALTNAME_INVALID",
}


class UpstreamError(Exception):
    """
    A host sent no complete response; the message has the cause.

    Attributes:
        code: The cause as Node.js names it: `ENOTFOUND`, `ECONNREFUSED`, `CERT_HAS_EXPIRED`.
        host: The host, or "".
        port: Port of the host, or 0.
        sent: Whether a part of the request may have reached the host.
    """

    def __init__(
        self, why: str, *, code: str = "ECONNRESET", host: str = "", port: int = 0, sent: bool = False
    ) -> None:
        super().__init__(why)
        self.code = code
        self.host = host
        self.port = port
        self.sent = sent


@dataclass(frozen=True, slots=True)
class Destination:
    """The destination of a request; TLS verifies *server_name*, or *host* if it is None."""

    scheme: str
    host: str
    port: int
    server_name: str | None = None


@dataclass(frozen=True, eq=False)
class UpstreamResponse:
    """A host's response. *body* yields the bytes as received; read it to its end, or close it."""

    status: int
    reason: bytes
    headers: Headers
    body: AsyncIterator[bytes]


class Upstream:
    """
    Connections to hosts, pooled.

    Where only public addresses are allowed, the host is resolved and checked first, and the connection uses a checked
    address: a later, different reply of the name server has no effect.
    """

    def __init__(
        self, *, environ: Mapping[str, str], host_overrides: HostOverrides, extra_cas: Sequence[Path], lookup: Lookup
    ) -> None:
        self._environ = environ
        self._resolve = host_overrides
        self._lookup = lookup
        self._extra_cas = extra_cas
        self._context: ssl.SSLContext | None = None
        self._pools: dict[tuple[str | None, bool], httpcore.AsyncConnectionPool] = {}
        self._backends: dict[bool, HostOverrideBackend] = {}

    async def send(
        self,
        to: Destination,
        method: str,
        target: bytes,
        headers: Headers,
        body: Body,
        *,
        via: str | None,
        public_only: bool = False,
    ) -> UpstreamResponse:
        """
        Send a request and wait for the head of the response.

        Raises:
            UpstreamError: There is no response.
            NotPublicError: *public_only* is set, and the host has an address that is not public.
        """
        import httpcore

        if via is not None and public_only:
            to = await self._public(to)

        # A request has a body if it has a length or is chunked; httpcore adds no headers.
        has_body = (
            get_header(headers, b"content-length") is not None or get_header(headers, b"transfer-encoding") is not None
        )
        extensions: dict[str, Any] = {"timeout": _TIMEOUT}
        if to.server_name and via is None:
            extensions["sni_hostname"] = to.server_name
        request = httpcore.Request(
            method.encode("ascii"),
            httpcore.URL(scheme=to.scheme.encode(), host=to.host.encode("ascii"), port=to.port, target=target),
            headers=headers,
            content=body.stream() if has_body else None,
            extensions=extensions,
        )
        try:
            response = await self._pool_for(to, via, public_only=public_only).handle_async_request(request)
        except _failures() as error:
            raise _failure(error, to) from error
        return UpstreamResponse(
            response.status,
            bytes(response.extensions.get("reason_phrase", b"")),
            # a host cannot mark its response as a refusal of the gateway
            [(name, value) for name, value in response.headers if name.lower() != REFUSAL_HEADER],
            _chunks(response, to),
        )

    async def open(self, to: Destination, *, public_only: bool = False) -> Opened | None:
        """
        Connect to *to* with TLS for the next request to the host. Returns None if a pooled connection is idle.

        Raises:
            UpstreamError: The host is unreachable.
            NotPublicError: As `send`.
        """
        import httpcore

        origin = httpcore.Origin(to.scheme.encode(), to.host.encode("ascii"), to.port)
        for pooled in self._pool(None, public_only=public_only).connections:
            if pooled.can_handle_request(origin) and pooled.is_idle() and not pooled.has_expired():
                return None
        assert self._context is not None, "creating the pool sets the context"
        try:
            return await self._backend(public_only=public_only).open(
                to.host, to.port, self._context, server_name=to.server_name or to.host, timeout_s=_CONNECT_S
            )
        except _failures() as error:
            raise _failure(error, to) from error

    async def connect(
        self, to: Destination, *, tls: bool, protocols: list[str] | None = None, public_only: bool = False
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """
        Open a connection that is passed through unread.

        Raises:
            UpstreamError: The connection cannot be opened.
            NotPublicError: As `send`.
        """
        context = None
        if tls:
            context = upstream_context(self._environ, self._extra_cas)
            context.set_alpn_protocols(protocols or [])
        name = (to.server_name or to.host) if tls else None
        failure: OSError | UnicodeError | None = None
        try:
            async with asyncio.timeout(_CONNECT_S):
                for host, port in await places(to.host, to.port, self._resolve, self._lookup if public_only else None):
                    try:
                        return await asyncio.open_connection(host, port, ssl=context, server_hostname=name)
                    except (OSError, UnicodeError) as error:
                        failure = error
        except (OSError, UnicodeError) as error:
            failure = error
        failure = failure or OSError(f"{to.host} has no address")
        raise _failure(failure, to) from failure

    async def close(self) -> None:
        """Close all pooled connections."""
        for pool in self._pools.values():
            await pool.aclose()
        self._pools.clear()

    async def _public(self, to: Destination) -> Destination:
        """*to* with its checked address: an upstream proxy would resolve the name itself."""
        try:
            address = (await public_addresses(to.host, to.port, self._lookup))[0]
        except OSError as error:
            failure = _failure(error, to)
            failure.sent = False
            raise failure from error
        return replace(to, host=f"[{address}]" if ":" in address else address, server_name=to.server_name or to.host)

    def _pool_for(self, to: Destination, via: str | None, *, public_only: bool) -> httpcore.AsyncConnectionPool:
        """The pool for a request to *to*; a new one for TLS through a proxy with a name that is not the host of the URL."""
        name = to.server_name
        if via is None or to.scheme != "https" or name is None or name == to.host:
            return self._pool(via, public_only=public_only)
        from pdkernel.egress.network_backend import TunnelBackend

        has_proxy_tls = urlsplit(via).scheme == "https"
        backend = TunnelBackend(self._backend(public_only=False), name, has_proxy_tls=has_proxy_tls)
        # no connection is kept: httpcore identifies it by the host, which several names may share
        return self._build_pool(via, backend, max_idle=0)

    def _pool(self, via: str | None, *, public_only: bool) -> httpcore.AsyncConnectionPool:
        pool = self._pools.get((via, public_only))
        if pool is None:
            pool = self._build_pool(via, self._backend(public_only=public_only and not via), max_idle=64)
            self._pools[via, public_only] = pool
        return pool

    def _build_pool(
        self, via: str | None, backend: httpcore.AsyncNetworkBackend, *, max_idle: int
    ) -> httpcore.AsyncConnectionPool:
        import httpcore

        if self._context is None:
            self._context = upstream_context(self._environ, self._extra_cas)
        return httpcore.AsyncConnectionPool(
            ssl_context=self._context,
            proxy=_proxy(via, self._context) if via else None,
            max_connections=256,
            max_keepalive_connections=max_idle,
            keepalive_expiry=5.0,
            network_backend=backend,
        )

    def _backend(self, *, public_only: bool) -> HostOverrideBackend:
        """The network backend, one for each value of *public_only*: a connection that `open` made belongs to one pool."""
        from pdkernel.egress.network_backend import HostOverrideBackend

        if public_only not in self._backends:
            self._backends[public_only] = HostOverrideBackend(self._resolve, self._lookup if public_only else None)
        return self._backends[public_only]


def _proxy(url: str, context: ssl.SSLContext) -> httpcore.Proxy:
    """An upstream proxy; its URL may contain user name and password, and *context* verifies an https proxy."""
    import httpcore

    parts = urlsplit(url)
    auth = (unquote(parts.username or ""), unquote(parts.password or "")) if parts.username is not None else None
    plain = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return httpcore.Proxy(plain, auth=auth, ssl_context=context if parts.scheme == "https" else None)


async def _chunks(response: httpcore.Response, to: Destination) -> AsyncIterator[bytes]:
    try:
        async for chunk in response.aiter_stream():
            yield chunk
    except _failures() as error:
        raise _failure(error, to) from error
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
        UnicodeError,  # a name that IDNA cannot encode
    )


def _failure(error: BaseException, to: Destination) -> UpstreamError:
    """*error* as an `UpstreamError`, described by its innermost cause: httpcore's messages are often empty."""
    import httpcore

    cause = error
    while (deeper := cause.__cause__ or cause.__context__) is not None:
        cause = deeper.exceptions[0] if isinstance(deeper, BaseExceptionGroup) else deeper
    place = f"{to.host}:{to.port}"
    # other errors of httpcore may occur after a part of the request was sent
    before = (httpcore.ConnectError, httpcore.ConnectTimeout, httpcore.PoolTimeout, httpcore.ProxyError)
    sent = isinstance(error, httpcore.NetworkError | httpcore.TimeoutException | httpcore.ProtocolError | OSError)
    sent = sent and not isinstance(error, (*before, httpcore.LocalProtocolError, socket.gaierror))
    match cause:
        case socket.gaierror(errno=socket.EAI_AGAIN):
            code, why = "EAI_AGAIN", f"{to.host} cannot be resolved: no name server answers"
        case socket.gaierror() | UnicodeError():
            code, why = "ENOTFOUND", f"{to.host} was not found"
        case ssl.SSLCertVerificationError():
            code = _UNTRUSTED.get(cause.verify_code, "ERR_TLS_CERT_UNTRUSTED")
            why = f"the certificate of {place} is not trusted, {cause.verify_message}"
        case ssl.SSLError():
            code, why = "EPROTO", f"TLS with {place} failed, {cause.reason or cause}"
        case ConnectionRefusedError():
            code, why = "ECONNREFUSED", f"{place} refused the connection"
        case ConnectionError() | EOFError():
            code, why = "ECONNRESET", f"{place} closed the connection"
        case TimeoutError():
            code, why = "ETIMEDOUT", f"{place} did not answer in time"
        case OSError(errno=int(number)) if number in errno.errorcode:
            code, why = errno.errorcode[number], f"{place} cannot be reached, {cause.strerror}"
        case _ if isinstance(error, httpcore.TimeoutException):
            code, why = "ETIMEDOUT", f"{place} did not answer in time"
        case _:
            code, why = "ECONNRESET", f"{place}: {str(error) or str(cause) or type(error).__name__}".rstrip(".")
    return UpstreamError(f"{why} ({code}).", code=code, host=to.host, port=to.port, sent=sent)

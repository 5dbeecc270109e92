"""
Connections to hosts, stand-ins and Connect's proxy, with TLS verified.

Nothing is resolved or connected before `send`, `open` or `connect`. Sockets and TLS are httpcore's; the requests are written by
`http1`, because every byte of target and headers must be sent as the step wrote it, and because a connection of one user
must never carry a request of another.

Connect's proxy sends calls with accounts whose credentials Connect does not give out. The request format is in the Connect
documentation, "API proxy". The proxy's response is the host's own response.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import socket
import ssl
import weakref
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from pdkernel.common.identity import ProxyAccess
from pdkernel.egress.caller_tokens import CallContext
from pdkernel.egress.certificates import upstream_context
from pdkernel.egress.message import DEFAULT_PORTS, Body, Headers, Request, end_to_end_headers, format_origin, get_header
from pdkernel.egress.outbound_policy import Lookup, places, public_addresses
from pdkernel.egress.own_server import OwnServer
from pdkernel.egress.refusals import REFUSAL_HEADER

if TYPE_CHECKING:
    import httpcore

    from pdkernel.egress.http1 import Http1ClientConnection

HostOverrides = Mapping[tuple[str, int], tuple[str, int]]

_CONNECT_S = 30.0
IDLE_S = 5.0
"""Seconds after which an unused connection is closed."""
MAX_IDLE = 64
"""Unused connections of a gateway; the one that was unused for the longest time is closed first."""
MAX_ACTIVE = 128
"""Requests of one owner at the same time; others wait."""


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


@dataclass(frozen=True, slots=True)
class _Route:
    """
    What two requests have in common that one connection may carry.

    Attributes:
        owner: Whose requests the connection carries.
        to: The host.
        via: URL of the upstream proxy, or None.
        public_only: Whether the address of the host was checked.
    """

    owner: str
    to: Destination
    via: str | None
    public_only: bool


class Upstream:
    """
    Connections to hosts, which are kept for later requests of the same owner.

    A connection never carries requests of two owners: a request or a response that its two ends read differently could reach
    another user otherwise. TLS sessions are not resumed, so that a host cannot connect two owners either.

    Where only public addresses are allowed, the host is resolved and checked first, and the connection uses a checked
    address: a later, different reply of the name server has no effect.

    A connection that reaches the port of *own_server* is closed, unless it is for requests that have the mark: passed through
    unread, or by another name of this machine, a step's request would look like that of another client.
    """

    def __init__(
        self,
        *,
        environ: Mapping[str, str],
        host_overrides: HostOverrides,
        extra_cas: Sequence[Path],
        lookup: Lookup,
        own_server: OwnServer,
    ) -> None:
        self._own_server = own_server
        self._environ = environ
        self._resolve = host_overrides
        self._lookup = lookup
        self._extra_cas = extra_cas
        self._context: ssl.SSLContext | None = None
        self._idle: dict[Http1ClientConnection, tuple[_Route, float]] = {}  # the oldest first, with the time of its end
        self._active: weakref.WeakValueDictionary[str, asyncio.Semaphore] = weakref.WeakValueDictionary()
        self._expiry: asyncio.TimerHandle | None = None
        self._closing: set[asyncio.Task[None]] = set()

    async def send(
        self,
        owner: str,
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

        Args:
            owner: Whose connections are used: requests of different owners share none.
            to: The host.
            method: The HTTP method.
            target: Path and query, as they are sent.
            headers: All headers, with the framing of the body.
            body: The body; it is sent if *headers* have its length or chunked transfer coding.
            via: URL of the upstream proxy, or None.
            public_only: Whether only public addresses are allowed.

        Raises:
            UpstreamError: There is no response.
            NotPublicError: *public_only* is set, and the host has an address that is not public.
        """
        if via is not None and public_only:
            to = await self._public(to)
        route = _Route(owner, to, via, public_only and via is None)
        active = self._active.setdefault(owner, asyncio.Semaphore(MAX_ACTIVE))
        has_body = get_header(headers, b"content-length") or get_header(headers, b"transfer-encoding")
        target, headers = _for_proxy(route, target, headers)
        await active.acquire()
        connection = None
        try:
            connection = self._take(route) or await self._connect(route)
            response = await connection.send(method, target, headers, body.stream() if has_body else None)
        except BaseException as error:
            active.release()
            if connection is not None:
                await connection.close()
            if isinstance(error, _failures()):
                raise _failure(error, to) from error
            raise
        return UpstreamResponse(
            response.status_code,
            bytes(response.reason),
            # a host cannot mark its response as a refusal of the gateway
            [(name, value) for name, value in response.headers.raw_items() if name.lower() != REFUSAL_HEADER],
            self._body(connection, route, active),
        )

    async def open(self, owner: str, to: Destination, *, public_only: bool = False) -> None:
        """
        Connect to *to* for the next request of *owner* to the host; nothing happens if a connection is unused.

        Raises:
            UpstreamError: The host is unreachable.
            NotPublicError: As `send`.
        """
        route = _Route(owner, to, None, public_only)
        try:
            self._keep(self._take(route) or await self._connect(route), route)
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
                        streams = await asyncio.open_connection(host, port, ssl=context, server_hostname=name)
                    except (OSError, UnicodeError) as error:
                        failure = error
                        continue
                    if not self._own_server.is_at(*streams[1].get_extra_info("peername")[:2]):
                        return streams
                    streams[1].transport.abort()
                    raise ConnectionRefusedError
        except (OSError, UnicodeError) as error:
            failure = error
        failure = failure or OSError(f"{to.host} has no address")
        raise _failure(failure, to) from failure

    async def close(self) -> None:
        """Close all connections that no request uses."""
        if self._expiry is not None:
            self._expiry.cancel()
        for connection in self._idle:
            self._close_later(connection)
        self._idle.clear()
        await asyncio.gather(*self._closing)

    async def _body(
        self, connection: Http1ClientConnection, route: _Route, active: asyncio.Semaphore
    ) -> AsyncIterator[bytes]:
        """Yield the body of the response; the connection is kept if the body was read to its end, otherwise it is closed."""
        is_kept = False
        try:
            async for chunk in connection.body():
                yield chunk
            if is_kept := connection.finish():
                self._keep(connection, route)
        except _failures() as error:
            raise _failure(error, route.to) from error
        finally:
            active.release()
            if not is_kept:
                await connection.close()

    def _take(self, route: _Route) -> Http1ClientConnection | None:
        """Return the connection for *route* that was used last, or None."""
        for connection in [each for each, (its_route, _) in reversed(self._idle.items()) if its_route == route]:
            del self._idle[connection]
            if connection.is_usable:
                return connection
            self._close_later(connection)
        return None

    def _keep(self, connection: Http1ClientConnection, route: _Route) -> None:
        loop = asyncio.get_running_loop()
        self._idle[connection] = route, loop.time() + IDLE_S
        if len(self._idle) > MAX_IDLE:
            oldest = next(iter(self._idle))
            del self._idle[oldest]
            self._close_later(oldest)
        if self._expiry is None:
            self._expiry = loop.call_later(IDLE_S, self._close_expired)

    def _close_expired(self) -> None:
        """Close the connections that were unused for `IDLE_S`, and continue as long as there are others."""
        loop = asyncio.get_running_loop()
        self._expiry = None
        for connection, (_, end) in list(self._idle.items()):
            if end > loop.time():
                self._expiry = loop.call_at(end, self._close_expired)
                break
            del self._idle[connection]
            self._close_later(connection)

    def _close_later(self, connection: Http1ClientConnection) -> None:
        closing = asyncio.ensure_future(connection.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def _connect(self, route: _Route) -> Http1ClientConnection:
        """Open a connection, with TLS if the host has TLS. Raises httpcore's errors, and `NotPublicError`."""
        from pdkernel.egress.http1 import Http1ClientConnection

        if self._context is None:
            self._context = upstream_context(self._environ, self._extra_cas)
            self._context.set_alpn_protocols(["http/1.1"])
        to, first = route.to, route.to
        if route.via is not None:
            parts = urlsplit(route.via)
            first = Destination(parts.scheme, parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme])
        stream = await self._connect_tcp(first, self._lookup if route.public_only else None)
        try:
            if self._own_server.is_at(*stream.get_extra_info("server_addr")[:2]) and not self._own_server.is_called(
                first.scheme, first.host, first.port
            ):
                raise ConnectionRefusedError
            if first.scheme == "https":
                stream = await stream.start_tls(self._context, first.server_name or first.host, _CONNECT_S)
            if route.via is not None and to.scheme == "https":
                where = f"{to.host}:{to.port}".encode("ascii")
                headers = [(b"host", where), (b"accept", b"*/*"), *_proxy_authorization(route.via)]
                stream = await Http1ClientConnection(stream).open_tunnel(where, headers)
                stream = await stream.start_tls(self._context, to.server_name or to.host, _CONNECT_S)
        except BaseException:
            await stream.aclose()
            raise
        return Http1ClientConnection(stream)

    async def _connect_tcp(self, to: Destination, lookup: Lookup | None) -> httpcore.AsyncNetworkStream:
        """Connect to the first address of *to* that answers."""
        import httpcore

        failure: Exception | None = None
        try:
            found = await places(to.host, to.port, self._resolve, lookup)
        except OSError as error:  # a failed lookup: unlike another OSError, nothing was sent
            raise httpcore.ConnectError(str(error)) from error
        for address, port in found:
            try:
                return await httpcore.AnyIOBackend().connect_tcp(address, port, _CONNECT_S)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure or httpcore.ConnectError(f"{to.host} has no address")

    async def _public(self, to: Destination) -> Destination:
        """Return *to* with its checked address: an upstream proxy would resolve the name itself."""
        try:
            address = (await public_addresses(to.host, to.port, self._lookup))[0]
        except OSError as error:
            failure = _failure(error, to)
            failure.sent = False
            raise failure from error
        return replace(to, host=f"[{address}]" if ":" in address else address, server_name=to.server_name or to.host)


def _for_proxy(route: _Route, target: bytes, headers: Headers) -> tuple[bytes, Headers]:
    """Target and headers of a request; one that an upstream proxy forwards has the whole URL and the proxy's password."""
    if route.via is None or route.to.scheme == "https":
        return target, headers
    origin = f"{route.to.scheme}://{route.to.host}:{route.to.port}".encode("ascii")
    return origin + target, [*headers, *_proxy_authorization(route.via)]


def _proxy_authorization(url: str) -> Headers:
    """Return the header with the user name and the password in the *url* of a proxy, if it has them."""
    parts = urlsplit(url)
    if parts.username is None:
        return []
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return [(b"proxy-authorization", b"Basic " + base64.b64encode(pair.encode()))]


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
    """Return *error* as an `UpstreamError`, described by its innermost cause: httpcore's messages are often empty."""
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


PROXY_TIMEOUT_S = 30
"""Seconds that the proxy waits for the host (Connect documentation) before it responds with 504."""
CLIENT_TIMEOUT_S = PROXY_TIMEOUT_S + 10.0
"""Seconds to wait for the proxy."""
HEADER_PREFIX = b"x-pd-proxy-"
_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})
# the proxy refuses these headers and sets its own
_DROPPED_HEADERS = frozenset(
    {b"accept-encoding", b"content-length", b"cookie", b"date", b"expect", b"host", b"origin", b"referer", b"user-agent",
     b"via"}
)  # fmt: skip
_DROPPED_HEADER_PREFIXES = (b"proxy-", b"sec-", HEADER_PREFIX)


@dataclass(frozen=True)
class ProxyRequest:
    """A request to the proxy, without its body."""

    destination: Destination
    target: bytes
    headers: Headers


def find_proxy_access(context: CallContext, request: Request) -> ProxyAccess | None:
    """Return the proxy for the account whose credential *request* carries, or None; only the first 64 KB of a body are searched."""
    if not context.proxy_by_secret_ref:
        return None
    return next((context.proxy_by_secret_ref[ref] for ref in _find_secret_refs(context, _text_of(request))), None)


def unsupported_reason(context: CallContext, request: Request) -> str | None:
    """Return why the proxy does not support *request*, as the end of a sentence; None if it supports the request."""
    if request.wants_websocket:
        return "the proxy does not support WebSockets."
    if b"text/event-stream" in (get_header(request.headers, b"accept") or b"").lower():
        return "the proxy does not support event streams."
    if request.method not in _METHODS:
        return f"the proxy does not support {request.method}."
    if len({context.proxy_by_secret_ref[ref].account_id for ref in _find_secret_refs(context, _text_of(request))}) > 1:
        return "the proxy sends a request with one account: this request carries the credentials of several."
    if _find_secret_refs(context, f"{request.host}{request.path}"):
        return "the proxy adds the credential itself: the credential must not be in the host's name or in the path."
    if _find_secret_refs(context, request.body.prefix.decode("utf-8", "replace")):
        return "the proxy adds the credential itself: the credential must not be in the request's body."
    return None


def _text_of(request: Request) -> str:
    values = (value.decode("latin-1") for _, value in request.headers)
    return "\n".join((request.url, *values, request.body.prefix.decode("utf-8", "replace")))


def build_proxy_request(context: CallContext, access: ProxyAccess, token: str, request: Request) -> ProxyRequest:
    """Return the proxy's request for *request*, without the header or parameter of the credential: the proxy adds the credential."""
    parts = urlsplit(access.url)
    url = format_origin(request.scheme, request.host, request.port) + _target(context, request)
    coded = base64.urlsafe_b64encode(url.encode("latin-1")).decode().rstrip("=")
    whose = f"external_user_id={quote(access.external_user_id, safe='')}&account_id={quote(access.account_id, safe='')}"
    headers: Headers = [
        (b"host", parts.netloc.encode("ascii")),
        (b"authorization", b"Bearer " + token.encode("ascii")),
        (b"x-pd-environment", access.environment.encode()),
    ]
    for name, value in end_to_end_headers(request.headers):
        lower = name.lower()
        if (
            lower in _DROPPED_HEADERS
            or lower.startswith(_DROPPED_HEADER_PREFIXES)
            or _find_secret_refs(context, value.decode("latin-1"))
        ):
            continue
        if lower == b"content-type":
            headers.append((name, value))
        headers.append((HEADER_PREFIX + name, value))
    if _has_body(request):
        headers.append((b"content-length", str(request.body.byte_count).encode()))
    to = Destination(parts.scheme, parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme])
    return ProxyRequest(to, f"{parts.path}/{coded}?{whose}".encode("ascii"), headers)


def format_call_note(access: ProxyAccess, status: int) -> str:
    """Return the note in the record of a call through the proxy."""
    text = f"sent through Connect's proxy, with the account {access.account_id}"
    if status == 504:
        return f"{text}, which waits at most {PROXY_TIMEOUT_S} s for the host"
    if status in (400, 403):
        return f"{text}, which allows only hosts of the account's app"
    return text


def _target(context: CallContext, request: Request) -> str:
    path, mark, query = request.target.decode("latin-1").partition("?")
    return path + mark + "&".join(part for part in query.split("&") if not _find_secret_refs(context, part))


def _has_body(request: Request) -> bool:
    return request.body.byte_count > 0 or request.method in ("POST", "PUT", "PATCH")


def _find_secret_refs(context: CallContext, text: str) -> list[str]:
    return [ref for ref in context.redactor.find_secrets(text) if ref in context.proxy_by_secret_ref]

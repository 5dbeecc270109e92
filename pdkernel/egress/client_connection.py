"""
One client connection, from its first byte to its last.

Knows the order of things: the door, what is spoken behind it, the requests. What becomes of each is `desk`'s to decide.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from urllib.parse import urlsplit

import h11

from pdkernel.egress import refusals
from pdkernel.egress.caller_tokens import CallerToken, CallerTokens
from pdkernel.egress.http1 import Http1ServerConnection
from pdkernel.egress.message import Body, Request, Response, format_origin, get_header
from pdkernel.egress.outbound_policy import is_ip_address, is_loopback
from pdkernel.egress.pending_call import CallResult
from pdkernel.egress.protocol_sniff import peek, peek_until
from pdkernel.egress.proxy_target import PER_REQUEST_TARGET, ProxyTarget, parse_proxy_token, read_proxy_target
from pdkernel.egress.public_addresses import NotPublicError
from pdkernel.egress.router import CallRouter
from pdkernel.egress.tls.certificates import CertificateAuthority
from pdkernel.egress.tls.client_hello import hello_is_complete, parse_client_hello
from pdkernel.egress.tunnels import close_writer, encode_websocket_request, pipe_both_ways
from pdkernel.egress.upstream import Destination, UpstreamError
from pdkernel.egress.wire_protocols import WireProtocol, detect_protocol, is_conclusive, sniff_timeout
from pdkernel.model import JSON

_PROTOCOL_LABELS = {
    "http2": "An HTTP/2 connection",
    "raw": "A connection that does not speak HTTP",
    "tls": "A TLS connection",
}
_HANDSHAKE_S = 30.0
_AT_ONCE = struct.pack("ii", 1, 0)
"""Of SO_LINGER: closing resets the connection."""

_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class ClientConnection:
    """Serves one client."""

    def __init__(
        self,
        sock: socket.socket,
        tokens: CallerTokens,
        router: CallRouter,
        authority: CertificateAuthority,
        resolve_name: Callable[[str], str],
    ) -> None:
        """*resolve_name* gives the name that an address of our own name server stands for, and any other host as it is."""
        self._name_of = resolve_name
        self._sock = sock
        self._tickets = tokens
        self._desk = router
        self._authority = authority
        self._upstream = router.upstream

    async def serve(self) -> None:
        """Serve until the client leaves."""
        self._sock.setblocking(False)
        door = await read_proxy_target(self._sock, lambda token: self._tickets.find(token) is not None, self._failure)
        if door is None:
            return
        if door is not PER_REQUEST_TARGET:
            door = replace(door, host=self._name_of(door.host))
        ticket = self._tickets.find(door.token)
        self._port = self._sock.getpeername()[1]
        if ticket is not None:
            ticket.forget_failure(self._port)
        with _tracked_by_token(ticket):
            if door is PER_REQUEST_TARGET:
                await self._http(await self._streams(), door)
            elif is_loopback(door.host) and not (ticket is not None and ticket.public_only):
                if ticket is not None:
                    streams = await self._streams()
                    try:
                        await self._pipe_to_host(streams, door, tls=door.client_expects_tls)
                    except UpstreamError as error:
                        self._drop(streams[1], ticket, error)
            else:
                await self._serve_target(door, ticket)

    async def _serve_target(self, door: ProxyTarget, ticket: CallerToken | None) -> None:
        """Find out what is spoken behind the door."""
        seen = await peek(self._sock, timeout_s=sniff_timeout(door.port))
        if seen == b"":
            return
        if seen is not None and not is_conclusive(seen):
            seen = await peek_until(self._sock, is_conclusive)
        kind = detect_protocol(seen) if seen else "raw"
        if kind == "http1":
            await self._http(await self._streams(), door)
        elif kind == "tls" and not door.client_expects_tls:
            await self._tls(door, ticket)
        else:
            await self._tunnel_opaque(await self._streams(), door, ticket, kind, tls=door.client_expects_tls)

    async def _tls(self, door: ProxyTarget, ticket: CallerToken | None) -> None:
        """Open the client's TLS, unless it is to stay closed."""
        hello = parse_client_hello(await peek_until(self._sock, hello_is_complete))
        if hello.server_name and is_ip_address(door.host):
            # Looked up by the client itself: the address may be another tomorrow, and a list of hosts or a recording has names.
            door = replace(door, host=hello.server_name)
        bound = ticket.step_binding if ticket is not None else None
        if bound is not None and bound.context.policy.passes_tls_through(door.host):
            await self._tunnel_opaque(await self._streams(), door, ticket, "tls", tls=False, encrypted=True)
            return
        if not hello.speaks_http1:
            kind: WireProtocol = "http2" if "h2" in hello.protocols else "tls"
            await self._tunnel_opaque(await self._streams(), door, ticket, kind, tls=False, encrypted=True)
            return
        name = hello.server_name or door.host
        door = replace(door, client_expects_tls=True, server_name=hello.server_name)
        to = Destination("https", door.host, door.port, hello.server_name)
        try:
            opened = await self._desk.open_first(ticket, to)
        except UpstreamError as error:
            self._refuse_tls(ticket, error)
            return
        try:
            await self._inside_tls(door, ticket, name)
        finally:
            if opened is not None:
                await opened.discard()

    async def _inside_tls(self, door: ProxyTarget, ticket: CallerToken | None, name: str) -> None:
        """Show the client a certificate for *name*, and find out what it speaks then."""
        try:
            context = self._authority.server_context(name)
        except ValueError as fault:
            error = UpstreamError(
                f"{name} was not found: it is not a host name, {fault} (ENOTFOUND).", code="ENOTFOUND", host=name
            )
            if ticket is not None and ticket.step_binding is not None:
                self._desk.unreached(ticket.step_binding, Destination("https", door.host, door.port), error)
            self._refuse_tls(ticket, error)
            return
        try:
            streams = await self._streams(context)
        except ssl.SSLError:
            self._desk.report_rejected_certificate(ticket, door.host, door.port)
            return
        try:
            async with asyncio.timeout(sniff_timeout(door.port)):
                first = await streams[0].read(1 << 16)
        except TimeoutError:
            first = None
        except asyncio.CancelledError:
            streams[1].transport.abort()  # the gateway closes before anything was said here
            raise
        if first == b"":
            await close_writer(streams[1])
        elif first is not None and detect_protocol(first) == "http1":
            await self._http(streams, door, first)
        else:
            await self._tunnel_opaque(streams, door, ticket, "raw", tls=True, first=first or b"")

    async def _http(self, streams: _Streams, door: ProxyTarget, first: bytes = b"") -> None:
        """Serve HTTP/1.1 requests, one after another."""
        client = Http1ServerConnection(*streams, first)
        try:
            while (head := await client.next_request()) is not None:
                if not await self._request(client, door, head):
                    return
        except h11.RemoteProtocolError as error:
            client.send_error(error.error_status_hint)
        except UpstreamError:
            # The answer broke off; so must this one, or the client would take it for whole.
            streams[1].transport.abort()
        finally:
            await close_writer(streams[1])

    async def _request(self, client: Http1ServerConnection, door: ProxyTarget, head: h11.Request) -> bool:
        """Serve one request; False if the connection has become something else."""
        request = _build_request(head, door, Body(client.body()))
        token = door.token
        if door is PER_REQUEST_TARGET:
            token = parse_proxy_token(get_header(request.headers, b"proxy-authorization"))
        ticket = self._tickets.find(token)
        try:
            answer = await self._answer(client, door, ticket, request)
            if answer is not None:
                await client.send(answer)
        finally:
            request.body.release()
        return answer is not None

    async def _answer(
        self, client: Http1ServerConnection, door: ProxyTarget, ticket: CallerToken | None, request: Request
    ) -> Response | None:
        """The answer to *request*; None if the connection has become something else, or was dropped for want of an answer."""
        try:
            if request.method == "CONNECT" or (
                door is not PER_REQUEST_TARGET and not request.target.startswith((b"/", b"*"))
            ):
                return await self._desk.refuse(ticket, request, refusals.step_uses_proxy(request.method, _origin(door)))
            if request.wants_websocket:
                return await self._websocket(client, ticket, request)
            return await self._desk.route(ticket, request)
        except UpstreamError as error:
            self._drop(client.writer, ticket, error)
            return None

    async def _websocket(
        self, client: Http1ServerConnection, ticket: CallerToken | None, request: Request
    ) -> Response | None:
        """Pass a WebSocket through; an answer if it may not pass. Raises `UpstreamError` if the host cannot be reached."""
        if ticket is None or ticket.step_binding is None:
            return refusals.no_step().to_response()
        policy = ticket.step_binding.context.policy
        if not policy.allows_tunnel(request.host) or policy.via is not None:
            not_http = refusals.opaque_protocol("A WebSocket", request.url, policy.mode_text)
            return await self._desk.refuse(ticket, request, not_http)
        binding = ticket.step_binding.context
        refusal = self._desk.not_public(binding, request) or self._desk.find_proxy_refusal(binding, request)
        if refusal is not None:
            return await self._desk.refuse(ticket, request, refusal)
        call = self._desk.open_tunnel_call(ticket, "A WebSocket", request.url, request.host, method=request.method)
        assert call is not None, "the mode lets it through"
        to = Destination(request.scheme, request.host, request.port, request.server_name)
        try:
            server = await self._upstream.connect(
                to, tls=request.scheme == "https", protocols=["http/1.1"], public_only=policy.public_only
            )
        except UpstreamError as error:
            call.fail(str(error))
            raise
        except NotPublicError:
            return call.refuse(refusals.not_public(request.method, call.url))
        server[1].write(encode_websocket_request(request))
        status_line = await server[0].readline()
        word = status_line.split(b" ")[1:2]
        call.finish(
            CallResult("sent", int(word[0]) if word and word[0].isdigit() else None, note="passed through unread")
        )
        client.writer.write(status_line)
        await pipe_both_ways((client.reader, client.writer), server, client.trailing_data())
        return None

    async def _tunnel_opaque(
        self,
        streams: _Streams,
        door: ProxyTarget,
        ticket: CallerToken | None,
        kind: WireProtocol,
        *,
        tls: bool,
        encrypted: bool = False,
        first: bytes = b"",
    ) -> None:
        """
        Pass through what is not HTTP/1.1, if the mode lets it.

        Args:
            streams: The client's.
            door: Where it wants to go.
            ticket: Whose it is.
            kind: What it speaks.
            tls: Make TLS to the host: the client's is opened already, or it believes to speak it.
            encrypted: The client's TLS stays closed.
            first: Bytes that were read from it.
        """
        scheme = "https" if tls or encrypted else "tcp"
        call = self._desk.open_tunnel_call(
            ticket, _PROTOCOL_LABELS[kind], format_origin(scheme, door.host, door.port), door.host
        )
        if call is None:
            await close_writer(streams[1])
            return
        passed = CallResult("sent", note=f"{_PROTOCOL_LABELS[kind]}: passed through unread")
        public_only = call.context.policy.public_only
        try:
            await self._pipe_to_host(
                streams, door, tls=tls, first=first, public_only=public_only, opened=lambda: call.finish(passed)
            )
        except UpstreamError as error:
            call.fail(str(error))
            self._drop(streams[1], ticket, error)
        except NotPublicError:
            call.refuse(refusals.not_public(call.method, call.url))
            await close_writer(streams[1])

    async def _pipe_to_host(
        self,
        streams: _Streams,
        door: ProxyTarget,
        *,
        tls: bool,
        first: bytes = b"",
        public_only: bool = False,
        opened: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Connect to the host and carry bytes both ways.

        Raises:
            UpstreamError: The host cannot be reached; the client's side is open.
            NotPublicError: As `connect`; the client's side is open.
        """
        to = Destination("https" if tls else "http", door.host, door.port, door.server_name)
        try:
            server = await self._upstream.connect(to, tls=tls, protocols=list(door.protocols), public_only=public_only)
        except asyncio.CancelledError:
            await close_writer(streams[1])
            raise
        opened()
        try:
            await pipe_both_ways(streams, server, first)
        finally:
            await close_writer(streams[1])

    def _refuse_tls(self, ticket: CallerToken | None, error: UpstreamError) -> None:
        """Have the socket reset when it is closed: the client's TLS is not made."""
        self._note(ticket, error)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)

    def _drop(self, writer: asyncio.StreamWriter, ticket: CallerToken | None, error: UpstreamError) -> None:
        """Reset the client's connection: it is to see a connection that failed, and its hook may ask why."""
        self._note(ticket, error)
        # uvloop's own socket objects take no options
        with socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno())) as same:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        writer.transport.abort()

    def _note(self, ticket: CallerToken | None, error: UpstreamError) -> None:
        if ticket is not None:
            bound = ticket.step_binding
            message = bound.context.redactor.redact_text(str(error)) if bound is not None else str(error)
            why: dict[str, JSON] = {"code": error.code, "message": message, "host": error.host, "port": error.port}
            ticket.add_failure(self._port, why)

    def _failure(self, token: str, port: int) -> Mapping[str, JSON]:
        ticket = self._tickets.find(token)
        return {} if ticket is None else ticket.failure(port)

    async def _streams(self, context: ssl.SSLContext | None = None) -> _Streams:
        """
        Hand the socket to asyncio.

        It is detached: closing the accepted one later would close whatever has its descriptor by then.
        """
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=1 << 18)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol,
            socket.socket(fileno=self._sock.detach()),
            ssl=context,
            ssl_handshake_timeout=_HANDSHAKE_S if context is not None else None,
        )
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


@contextlib.contextmanager
def _tracked_by_token(ticket: CallerToken | None) -> Iterator[None]:
    """While it lasts, closing *ticket* ends this connection."""
    task = asyncio.current_task()
    if ticket is None or task is None:
        yield
        return
    ticket.connections.add(task)
    try:
        yield
    finally:
        ticket.connections.discard(task)


def _build_request(head: h11.Request, door: ProxyTarget, body: Body) -> Request:
    """The request that *head* begins, to where the door or its own absolute form says."""
    target = bytes(head.target)
    scheme, host, port = "https" if door.client_expects_tls else "http", door.host, door.port
    if door is PER_REQUEST_TARGET:
        scheme, host, port, target = _absolute(target)
    return Request(
        method=head.method.decode("ascii"),
        scheme=scheme,
        host=host,
        port=port,
        target=target,
        headers=head.headers.raw_items(),
        body=body,
        server_name=door.server_name,
    )


def _absolute(target: bytes) -> tuple[str, str, int, bytes]:
    """Scheme, host, port, and the rest exactly as it was written. A target of another form has no host."""
    scheme, separator, rest = target.partition(b"://")
    end = min((at for at in map(rest.find, (b"/", b"?")) if at >= 0), default=len(rest))
    path = rest[end:] if rest[end:].startswith(b"/") else b"/" + rest[end:]
    name = scheme.decode("ascii", "replace").lower()
    if not separator or name not in ("http", "https"):
        return "http", "", 80, target
    try:
        parts = urlsplit(f"//{rest[:end].decode('ascii')}")
        return name, parts.hostname or "", parts.port or (443 if name == "https" else 80), path
    except ValueError:
        return "http", "", 80, target


def _origin(door: ProxyTarget) -> str:
    return format_origin("https" if door.client_expects_tls else "http", door.host, door.port)

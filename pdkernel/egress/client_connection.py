"""
Serves one client connection of the gateway: finds its target and protocol, then serves its requests.

A client names the target in one of three forms: the hooks' line `PDK1 {json}`, `CONNECT host:port`, or requests in absolute
form. After the first two, the client speaks as if to the host. A hook may also query, with `dropped` (a port of the client) in
its line, why the gateway dropped a connection.

The decision about each request is in `router`. WebSockets, HTTP/2, databases, and hosts whose TLS is not terminated are passed
through unread.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import os
import socket
import ssl
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import h11

from pdkernel.egress import refusals
from pdkernel.egress.caller_tokens import CallerToken, CallerTokens, binding_of
from pdkernel.egress.certificates import CertificateAuthority
from pdkernel.egress.http1 import Http1ServerConnection
from pdkernel.egress.message import Body, Request, Response, end_to_end_headers, format_origin, get_header
from pdkernel.egress.outbound_policy import NotPublicError, is_ip_address, is_loopback
from pdkernel.egress.pending_call import CallResult
from pdkernel.egress.protocol_sniff import (
    WireProtocol,
    consume,
    detect_protocol,
    hello_is_complete,
    is_conclusive,
    parse_client_hello,
    peek,
    peek_until,
    sniff_timeout,
)
from pdkernel.egress.router import CallRouter
from pdkernel.egress.upstream import Destination, UpstreamError
from pdkernel.model import JSON

HOOK_PREAMBLE = b"PDK1 "
_CONNECT = b"CONNECT "
_END_OF_HEAD = b"\r\n\r\n"
_MAX_AUTH_CHALLENGES = 3

_CHALLENGE = (
    b"HTTP/1.1 407 Proxy Authentication Required\r\n"
    b'proxy-authenticate: Basic realm="pdkernel"\r\n'
    b"x-pdkernel-egress: no-token\r\ncontent-length: 0\r\n\r\n"
)
_BAD_REQUEST_RESPONSE = (
    b"HTTP/1.1 400 Bad Request\r\nx-pdkernel-egress: bad-request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
)
_ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


@dataclass(frozen=True, slots=True)
class ProxyTarget:
    """
    The target of a connection.

    Attributes:
        host: Name or address; empty for requests in absolute form, each of which has its own host.
        port: Port of the host.
        token: The caller token, or None if each request carries its own.
        client_expects_tls: The client sends plain HTTP and the gateway uses TLS to the host, as with the hook in Node.js.
        server_name: Server name for TLS, or None for the host.
        protocols: Protocols that the client would offer by ALPN.
    """

    host: str
    port: int
    token: str | None
    client_expects_tls: bool = False
    server_name: str | None = None
    protocols: tuple[str, ...] = ()

    @property
    def origin(self) -> str:
        """`scheme://host:port` of the target."""
        return format_origin("https" if self.client_expects_tls else "http", self.host, self.port)

    def build_request(self, head: h11.Request, body: Body) -> Request:
        """Return the request with *head* to this target, or to the URL of an absolute-form request."""
        target = bytes(head.target)
        scheme, host, port = "https" if self.client_expects_tls else "http", self.host, self.port
        if self is PER_REQUEST_TARGET:
            scheme, host, port, target = _parse_absolute_target(target)
        return Request(
            method=head.method.decode("ascii"),
            scheme=scheme,
            host=host,
            port=port,
            target=target,
            headers=head.headers.raw_items(),
            body=body,
            server_name=self.server_name,
        )


PER_REQUEST_TARGET = ProxyTarget("", 0, None)
"""The target of a connection whose requests are in absolute form."""


async def read_proxy_target(
    sock: socket.socket, is_known_token: Callable[[str | None], bool], failure: Callable[[str, int], Mapping[str, JSON]]
) -> ProxyTarget | None:
    """
    Read the target of *sock*. Returns None if the connection is malformed or was answered already.

    Args:
        sock: The client's socket.
        is_known_token: Whether a token is valid.
        failure: Returns why the connection of a token and a client's port was dropped.
    """
    first = await peek_until(sock, lambda seen: len(seen) >= len(_CONNECT) or b"\n" in seen)
    if first.startswith(HOOK_PREAMBLE):
        return await _preamble(sock, failure)
    if first.startswith(_CONNECT):
        return await _connect(sock, is_known_token)
    return PER_REQUEST_TARGET if first[:1].isalpha() else None


def parse_proxy_token(proxy_authorization: bytes | None) -> str | None:
    """Return the token in a Proxy-Authorization header: the user name."""
    kind, _, value = (proxy_authorization or b"").strip().partition(b" ")
    if kind.lower() != b"basic":
        return None
    try:
        return base64.b64decode(value, validate=True).decode("latin-1").partition(":")[0]
    except binascii.Error:
        return None


async def _preamble(sock: socket.socket, failure: Callable[[str, int], Mapping[str, JSON]]) -> ProxyTarget | None:
    seen = await peek_until(sock, lambda seen: b"\n" in seen)
    line = consume(sock, seen.find(b"\n") + 1) if b"\n" in seen else b""
    try:
        preamble = json.loads(line[len(HOOK_PREAMBLE) :])
        if "dropped" in preamble:
            answer = json.dumps(failure(str(preamble["token"]), _port(preamble["dropped"])))
            await asyncio.get_running_loop().sock_sendall(sock, answer.encode())
            return None
        return ProxyTarget(
            _host(str(preamble["host"])),
            _port(preamble["port"]),
            str(preamble["token"]),
            client_expects_tls=bool(preamble.get("tls")),
            server_name=preamble.get("servername") or None,
            protocols=tuple(map(str, preamble.get("alpn") or ())),
        )
    except (ValueError, KeyError, TypeError):
        await asyncio.get_running_loop().sock_sendall(sock, _BAD_REQUEST_RESPONSE)
        return None


async def _connect(sock: socket.socket, known: Callable[[str | None], bool]) -> ProxyTarget | None:
    loop = asyncio.get_running_loop()
    for _ in range(_MAX_AUTH_CHALLENGES):
        seen = await peek_until(sock, lambda seen: _END_OF_HEAD in seen)
        end = seen.find(_END_OF_HEAD)
        if not seen or end < 0 or not seen.startswith(_CONNECT):
            break
        head = consume(sock, end + len(_END_OF_HEAD)).split(b"\r\n")
        headers = {name.strip().lower(): value for name, _, value in (line.partition(b":") for line in head[1:])}
        name, _, number = head[0].split(b" ")[1].decode("latin-1").rpartition(":")
        try:
            host, port = _host(name), _port(number)
        except ValueError:
            break
        token = parse_proxy_token(headers.get(b"proxy-authorization"))
        if known(token):
            await loop.sock_sendall(sock, _ESTABLISHED)
            return ProxyTarget(host, port, token)
        # On the same connection: git authenticates only after a challenge.
        await loop.sock_sendall(sock, _CHALLENGE)
    else:
        return None
    if seen:
        await loop.sock_sendall(sock, _BAD_REQUEST_RESPONSE)
    return None


def _host(text: str) -> str:
    """Validate a name or an address; returns ASCII. Raises `ValueError`."""
    host = text.strip("[]").encode("idna").decode("ascii") if not text.isascii() else text.strip("[]")
    if not host or not host.isprintable() or any(sign in host for sign in " /@?#"):
        raise ValueError(text)
    return host


def _port(value: object) -> int:
    """Validate a port number. Raises `ValueError`."""
    port = int(str(value))
    if not 0 < port < 65536:
        raise ValueError(value)
    return port


def _parse_absolute_target(target: bytes) -> tuple[str, str, int, bytes]:
    """Return the scheme, host, port, and the unchanged path and query. A target that is not in absolute form has an empty host."""
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


_PROTOCOL_LABELS = {
    "http2": "An HTTP/2 connection",
    "raw": "A connection that does not use HTTP",
    "tls": "A TLS connection",
}
_HANDSHAKE_TIMEOUT_S = 30.0
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""Value of SO_LINGER: closing resets the connection."""

_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_CHUNK = 1 << 16


class ClientConnection:
    """Serves one client connection."""

    def __init__(
        self,
        sock: socket.socket,
        tokens: CallerTokens,
        router: CallRouter,
        authority: CertificateAuthority,
        resolve_name: Callable[[str | None, str], str],
        silence_s: float,
        on_identified: Callable[[asyncio.Task[None]], None],
    ) -> None:
        # resolve_name: maps an address that the sandbox's name server gave to a token to its name; any other host is returned unchanged
        # silence_s: a client that is silent for so many seconds expects the server to send first
        # on_identified: called with the task of the connection when it has a valid token
        self._resolve_name = resolve_name
        self._silence_s = silence_s
        self._sock = sock
        self._tokens = tokens
        self._router = router
        self._authority = authority
        self._upstream = router.upstream
        self._own_port = router.own_server.local_port
        self._on_identified = on_identified

    async def serve(self) -> None:
        """Serve until the client leaves."""
        self._sock.setblocking(False)
        proxy_target = await read_proxy_target(
            self._sock, lambda token: self._tokens.find(token) is not None, self._find_failure
        )
        if proxy_target is None:
            return
        if proxy_target is not PER_REQUEST_TARGET:
            proxy_target = replace(proxy_target, host=self._resolve_name(proxy_target.token, proxy_target.host))
        caller = self._tokens.find(proxy_target.token)
        self._port = self._sock.getpeername()[1]
        if caller is not None:
            caller.forget_failure(self._port)
        self._identify(caller)
        if proxy_target is PER_REQUEST_TARGET:
            await self._serve_http(await self._open_streams(), proxy_target)
        elif is_loopback(proxy_target.host) and not (caller is not None and caller.public_only):
            if caller is not None and proxy_target.port == self._own_port:
                await self._serve_target(proxy_target, caller)
            elif caller is not None:
                streams = await self._open_streams()
                try:
                    await self._pipe_to_host(streams, proxy_target, tls=proxy_target.client_expects_tls)
                except UpstreamError as error:
                    self._drop(streams[1], caller, error)
        else:
            await self._serve_target(proxy_target, caller)

    async def _serve_target(self, proxy_target: ProxyTarget, caller: CallerToken | None) -> None:
        """Detect the protocol that the client speaks to *proxy_target*, and serve it."""
        is_own = proxy_target.port == self._own_port and is_loopback(proxy_target.host)
        seen = await peek(self._sock, timeout_s=None if is_own else sniff_timeout(proxy_target.port, self._silence_s))
        if seen == b"":
            return
        if seen is not None and not is_conclusive(seen):
            seen = await peek_until(self._sock, is_conclusive)
        kind = detect_protocol(seen) if seen else "raw"
        if kind == "http1":
            await self._serve_http(await self._open_streams(), proxy_target)
        elif kind == "tls" and not proxy_target.client_expects_tls:
            await self._serve_tls(proxy_target, caller)
        else:
            await self._tunnel_opaque(
                await self._open_streams(), proxy_target, caller, kind, tls=proxy_target.client_expects_tls
            )

    async def _serve_tls(self, proxy_target: ProxyTarget, caller: CallerToken | None) -> None:
        """Terminate the client's TLS, or pass it through for an `unopened` host or a client that does not offer HTTP/1.1."""
        hello = parse_client_hello(await peek_until(self._sock, hello_is_complete))
        if hello.server_name and is_ip_address(proxy_target.host):
            # The client resolved the name itself. The address may change, and policies and recordings use names.
            proxy_target = replace(proxy_target, host=hello.server_name)
        binding = binding_of(caller)
        if binding is not None and binding.context.policy.passes_tls_through(proxy_target.host):
            await self._tunnel_opaque(
                await self._open_streams(), proxy_target, caller, "tls", tls=False, encrypted=True
            )
            return
        if not hello.speaks_http1:
            kind: WireProtocol = "http2" if "h2" in hello.protocols else "tls"
            await self._tunnel_opaque(await self._open_streams(), proxy_target, caller, kind, tls=False, encrypted=True)
            return
        name = hello.server_name or proxy_target.host
        proxy_target = replace(proxy_target, client_expects_tls=True, server_name=hello.server_name)
        to = Destination("https", proxy_target.host, proxy_target.port, hello.server_name)
        try:
            await self._router.open_first(caller, to)
        except UpstreamError as error:
            self._refuse_tls(caller, error)
            return
        await self._serve_inside_tls(proxy_target, caller, name)

    async def _serve_inside_tls(self, proxy_target: ProxyTarget, caller: CallerToken | None, name: str) -> None:
        """Present a certificate for *name*, then detect the protocol inside TLS and serve it."""
        context = self._authority.server_context(name)
        try:
            streams = await self._open_streams(context)
        except ssl.SSLError:
            self._router.report_rejected_certificate(caller, proxy_target.host, proxy_target.port)
            return
        reading = asyncio.ensure_future(streams[0].read(1 << 16))
        try:
            # not `timeout`: an event loop that is late may notice the bytes and the time together
            await asyncio.wait({reading}, timeout=sniff_timeout(proxy_target.port, self._silence_s))
            first = reading.result() if reading.done() else None
        except asyncio.CancelledError:
            streams[1].transport.abort()  # the gateway closes before the client sent anything
            raise
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        if first == b"":
            await close_writer(streams[1])
        elif first is not None and detect_protocol(first) == "http1":
            await self._serve_http(streams, proxy_target, first)
        else:
            await self._tunnel_opaque(streams, proxy_target, caller, "raw", tls=True, first=first or b"")

    async def _serve_http(self, streams: _Streams, proxy_target: ProxyTarget, first: bytes = b"") -> None:
        """Serve HTTP/1.1 requests, one after another."""
        client = Http1ServerConnection(*streams, first)
        try:
            while (head := await client.next_request()) is not None:
                if not await self._serve_request(client, proxy_target, head):
                    return
        except h11.RemoteProtocolError as error:
            client.send_error(error.error_status_hint)
        except (UpstreamError, h11.LocalProtocolError):
            # The host's response broke off, or is not HTTP. A clean end would look like a complete response to the client.
            streams[1].transport.abort()
        finally:
            await close_writer(streams[1])

    async def _serve_request(self, client: Http1ServerConnection, proxy_target: ProxyTarget, head: h11.Request) -> bool:
        """Serve one request; return whether the client may send another: the connection is open and still HTTP."""
        request = proxy_target.build_request(head, Body(client.body()))
        token = proxy_target.token
        if proxy_target is PER_REQUEST_TARGET:
            token = parse_proxy_token(get_header(request.headers, b"proxy-authorization"))
        caller = self._tokens.find(token)
        self._identify(caller)
        try:
            answer = await self._respond(client, proxy_target, caller, request)
            if answer is not None:
                await client.send(answer)
        finally:
            request.body.release()
        return answer is not None

    async def _respond(
        self, client: Http1ServerConnection, proxy_target: ProxyTarget, caller: CallerToken | None, request: Request
    ) -> Response | None:
        """Return the response to *request*; None if the connection was dropped or carries another protocol now."""
        try:
            if request.method == "CONNECT" or (
                proxy_target is not PER_REQUEST_TARGET and not request.target.startswith((b"/", b"*"))
            ):
                target = request.target.decode("latin-1").partition("?")[0]
                refusal = refusals.step_uses_proxy(request.method, target, proxy_target.origin)
                return await self._router.refuse(caller, request, refusal)
            own_server = (
                self._router.own_server
            )  # it has no WebSockets, so it responds to the request without the upgrade
            if request.wants_websocket and not own_server.is_called(request.scheme, request.host, request.port):
                return await self._pass_websocket(client, caller, request)
            return await self._router.route(caller, request)
        except UpstreamError as error:
            self._drop(client.writer, caller, error)
            return None

    async def _pass_websocket(
        self, client: Http1ServerConnection, caller: CallerToken | None, request: Request
    ) -> Response | None:
        """Pass a WebSocket through; returns a response if it is refused. Raises `UpstreamError` if the host is unreachable."""
        binding = binding_of(caller)
        if binding is None:
            return refusals.no_step().to_response()
        context = binding.context
        policy = context.policy
        if not policy.allows_tunnel(request.host) or policy.via is not None:
            not_http = refusals.opaque_protocol("A WebSocket", request.url, policy.mode_text)
            return await self._router.refuse(caller, request, not_http)
        refusal = self._router.not_public(context, request) or self._router.find_proxy_refusal(context, request)
        if refusal is not None:
            return await self._router.refuse(caller, request, refusal)
        call = self._router.open_tunnel_call(caller, "A WebSocket", request.url, request.host, method=request.method)
        assert call is not None, "the policy allows the tunnel"
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
        try:
            status_line = await server[0].readline()
        except ValueError:
            server[1].transport.abort()
            call.fail(why := f"{request.host} did not respond by HTTP.")
            raise UpstreamError(why, sent=True) from None
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
        proxy_target: ProxyTarget,
        caller: CallerToken | None,
        kind: WireProtocol,
        *,
        tls: bool,
        encrypted: bool = False,
        first: bytes = b"",
    ) -> None:
        """
        Pass through a connection that is not HTTP/1.1, if the policy allows it.

        Args:
            streams: The client's reader and writer.
            proxy_target: The target of the connection.
            caller: The caller of the connection, or None.
            kind: The protocol of the connection.
            tls: Use TLS to the host: the client's TLS is terminated already, or the client left TLS to the gateway.
            encrypted: The client's TLS is passed through.
            first: Bytes that were already read from the client.
        """
        scheme = "https" if tls or encrypted else "tcp"
        call = self._router.open_tunnel_call(
            caller,
            _PROTOCOL_LABELS[kind],
            format_origin(scheme, proxy_target.host, proxy_target.port),
            proxy_target.host,
        )
        if call is None:
            await close_writer(streams[1])
            return
        passed = CallResult("sent", note=f"{_PROTOCOL_LABELS[kind]}: passed through unread")
        public_only = call.context.policy.public_only
        try:
            await self._pipe_to_host(
                streams, proxy_target, tls=tls, first=first, public_only=public_only, opened=lambda: call.finish(passed)
            )
        except UpstreamError as error:
            call.fail(str(error))
            self._drop(streams[1], caller, error)
        except NotPublicError:
            call.refuse(refusals.not_public(call.method, call.url))
            await close_writer(streams[1])

    async def _pipe_to_host(
        self,
        streams: _Streams,
        proxy_target: ProxyTarget,
        *,
        tls: bool,
        first: bytes = b"",
        public_only: bool = False,
        opened: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Connect to the host and copy bytes in both directions.

        Raises:
            UpstreamError: The host is unreachable; the client's side is still open.
            NotPublicError: As `Upstream.connect`; the client's side is still open.
        """
        to = Destination("https" if tls else "http", proxy_target.host, proxy_target.port, proxy_target.server_name)
        try:
            server = await self._upstream.connect(
                to, tls=tls, protocols=list(proxy_target.protocols), public_only=public_only
            )
        except asyncio.CancelledError:
            await close_writer(streams[1])
            raise
        opened()
        try:
            await pipe_both_ways(streams, server, first)
        finally:
            await close_writer(streams[1])

    def _refuse_tls(self, caller: CallerToken | None, error: UpstreamError) -> None:
        """Make closing reset the socket: the TLS handshake with the client does not take place."""
        self._remember_failure(caller, error)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)

    def _drop(self, writer: asyncio.StreamWriter, caller: CallerToken | None, error: UpstreamError) -> None:
        """Reset the client's connection, so that the client sees a failed connection; its hook may query the cause."""
        self._remember_failure(caller, error)
        # uvloop's socket objects do not accept options
        with socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno())) as same:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        writer.transport.abort()

    def _remember_failure(self, caller: CallerToken | None, error: UpstreamError) -> None:
        if caller is not None:
            binding = caller.step_binding
            message, host = (
                text if binding is None else binding.context.redactor.redact_text(text)
                for text in (str(error), error.host)
            )
            why: dict[str, JSON] = {"code": error.code, "message": message, "host": host, "port": error.port}
            caller.add_failure(self._port, why)

    def _find_failure(self, token: str, port: int) -> Mapping[str, JSON]:
        caller = self._tokens.find(token)
        return {} if caller is None else caller.failure(port)

    def _identify(self, caller: CallerToken | None) -> None:
        """Let revoking the token of *caller* end this connection."""
        task = asyncio.current_task()
        if caller is not None and task is not None and task not in caller.connections:
            self._on_identified(task)
            caller.connections.add(task)
            task.add_done_callback(caller.connections.discard)

    async def _open_streams(self, context: ssl.SSLContext | None = None) -> _Streams:
        """
        Open asyncio streams on the socket.

        The socket is detached: closing the accepted socket later could close another file with the same descriptor.
        """
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=1 << 18)
        protocol = asyncio.StreamReaderProtocol(reader)
        sock = socket.socket(fileno=self._sock.detach())
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol,
                sock,
                ssl=context,
                ssl_handshake_timeout=_HANDSHAKE_TIMEOUT_S if context is not None else None,
            )
        except asyncio.CancelledError:
            sock.close()
            raise
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


async def pipe_both_ways(
    client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    initial_data: bytes = b"",
) -> None:
    """Copy bytes in both directions until both sides have ended; *initial_data* was already read from the client."""
    if initial_data:
        server[1].write(initial_data)
    try:
        await asyncio.gather(_one_way(client[0], server[1]), _one_way(server[0], client[1]))
    finally:
        await close_writer(server[1])


async def close_writer(writer: asyncio.StreamWriter) -> None:
    """Close *writer*, in any state of its connection."""
    writer.close()
    try:
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    except asyncio.CancelledError:
        writer.transport.abort()  # the gateway closes after the process has ended, so no TLS close arrives
        raise


def encode_websocket_request(request: Request) -> bytes:
    """Return the upgrade request for a WebSocket, as it is sent to the host."""
    headers = [*end_to_end_headers(request.headers), (b"connection", b"Upgrade"), (b"upgrade", b"websocket")]
    lines = [request.method.encode() + b" " + request.target + b" HTTP/1.1"]
    lines += [name + b": " + value for name, value in headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"


async def _one_way(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while chunk := await reader.read(_CHUNK):
            writer.write(chunk)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
        else:
            writer.close()
    except OSError:
        writer.close()

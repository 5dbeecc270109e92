"""
Reads the target of a client's connection, and of each request on it.

A client names the target in one of three forms: the hooks' line `PDK1 {json}`, `CONNECT host:port`, or requests in absolute
form. After the first two, the client speaks as if to the host. A hook may also query, with `dropped` (a port of the client) in
its line, why the gateway dropped a connection.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import h11

from pdkernel.egress.message import Body, Request, format_origin
from pdkernel.egress.protocol_sniff import consume, peek_until
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
        """The request with *head* to this target, or to the URL of an absolute-form request."""
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
    """The token in a Proxy-Authorization header: the user name."""
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
    """Scheme, host, port, and the unchanged path and query. A target that is not in absolute form has an empty host."""
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

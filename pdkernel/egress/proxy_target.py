"""
How a client says where it wants to go: the three ways in.

Knows the first bytes of each: the hooks' line `PDK1 {json}`, `CONNECT host:port`, and a request in absolute form. With `dropped` (a
port of the client's) in its line, a hook asks why the gateway dropped that connection. Knows nothing of modes. After the first two the client speaks as if to the host itself.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pdkernel.egress.protocol_sniff import consume, peek_until
from pdkernel.model import JSON

HOOK_PREAMBLE = b"PDK1 "
_CONNECT = b"CONNECT "
_END_OF_HEAD = b"\r\n\r\n"
_MAX_AUTH_CHALLENGES = 3

_CHALLENGE = (
    b"HTTP/1.1 407 Proxy Authentication Required\r\n"
    b'proxy-authenticate: Basic realm="pdkernel"\r\n'
    b"x-pdkernel-egress: no-ticket\r\ncontent-length: 0\r\n\r\n"
)
_BAD_REQUEST_RESPONSE = (
    b"HTTP/1.1 400 Bad Request\r\nx-pdkernel-egress: bad-request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
)
_ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


@dataclass(frozen=True, slots=True)
class ProxyTarget:
    """
    Where a connection wants to go.

    Attributes:
        host: Name or address, or empty for requests in absolute form, which say so one by one.
        port: There.
        token: The ticket, or None where each request carries its own.
        client_expects_tls: The client believes that it speaks TLS, and speaks plainly: the hook in Node.js.
        server_name: What TLS is to be told, or None for the host.
        protocols: That the client would have offered by ALPN.
    """

    host: str
    port: int
    token: str | None
    client_expects_tls: bool = False
    server_name: str | None = None
    protocols: tuple[str, ...] = ()


PER_REQUEST_TARGET = ProxyTarget("", 0, None)


async def read_proxy_target(
    sock: socket.socket, is_known_token: Callable[[str | None], bool], failure: Callable[[str, int], Mapping[str, JSON]]
) -> ProxyTarget | None:
    """
    Read how *sock* begins; None if it wants to go nowhere, and has been answered.

    Args:
        sock: The client's.
        is_known_token: Whether a ticket is open.
        failure: Why the connection of a ticket and a client's port was dropped.
    """
    first = await peek_until(sock, lambda seen: len(seen) >= len(_CONNECT) or b"\n" in seen)
    if first.startswith(HOOK_PREAMBLE):
        return await _preamble(sock, failure)
    if first.startswith(_CONNECT):
        return await _connect(sock, is_known_token)
    return PER_REQUEST_TARGET if first[:1].isalpha() else None


def parse_proxy_token(proxy_authorization: bytes | None) -> str | None:
    """The ticket in a Proxy-Authorization header: the user name."""
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
        said = json.loads(line[len(HOOK_PREAMBLE) :])
        if "dropped" in said:
            answer = json.dumps(failure(str(said["ticket"]), _port(said["dropped"])))
            await asyncio.get_running_loop().sock_sendall(sock, answer.encode())
            return None
        return ProxyTarget(
            _host(str(said["host"])),
            _port(said["port"]),
            str(said["ticket"]),
            client_expects_tls=bool(said.get("tls")),
            server_name=said.get("servername") or None,
            protocols=tuple(map(str, said.get("alpn") or ())),
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
        # On the same connection: git asks first, and answers the challenge there.
        await loop.sock_sendall(sock, _CHALLENGE)
    else:
        return None
    if seen:
        await loop.sock_sendall(sock, _BAD_REQUEST_RESPONSE)
    return None


def _host(text: str) -> str:
    """A name or an address, in ASCII. Raises `ValueError` for anything else."""
    host = text.strip("[]").encode("idna").decode("ascii") if not text.isascii() else text.strip("[]")
    if not host or not host.isprintable() or any(sign in host for sign in " /@?#"):
        raise ValueError(text)
    return host


def _port(said: object) -> int:
    """A port's number. Raises `ValueError` for anything else."""
    port = int(str(said))
    if not 0 < port < 65536:
        raise ValueError(said)
    return port

"""
Routes the outbound connections of a Python process to the gateway.

The program of a worker imports it before user code. It is active if `PDK_EGRESS` (`127.0.0.1:PORT`) and `PDK_TOKEN` are in
the environment. The template of the workers imports it, and `follow_environment` is called after the fork.

- A host name is not resolved: it gets an address of 198.18.0.0/16 (reserved for tests, RFC 2544).
- A TCP connection to another machine is made to the gateway instead, and first sends one line with its target. The client then
  does TLS itself, with its own checks, and gets the project's certificate.
- Unix sockets, UDP and loopback connections are unchanged, except those to the server that runs the workflow (`PDK_OWN_PORT`):
  the gateway marks their requests.
- If the gateway has ended, connecting fails; no connection bypasses the gateway.
- If a host is unreachable, the gateway drops the connection. The hook asks the gateway for the reason, and raises the
  error that a direct connection would raise.
- Libraries that create sockets in C are not covered (libpq, gRPC, pycurl, uvloop).
"""

from __future__ import annotations

import _socket
import errno
import ipaddress
import itertools
import json
import os
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

_FIRST = int(ipaddress.IPv4Address("198.18.0.1"))
_COUNT = 65_000
_CONNECT_TIMEOUT_S = 30.0

_real_getaddrinfo = socket.getaddrinfo
_real_gethostbyname = socket.gethostbyname
_lock = threading.Lock()
_address_of: dict[str, str] = {}
_name_of: dict[str, str] = {}
_numbers = itertools.count()
_explained_kinds: set[type] = set()


class _Route:
    """Where connections to other machines go: to *gateway* with *token*, or nowhere, or, without this hook, directly."""

    gateway: tuple[str, int] | None = None
    token = ""
    is_installed = False


def _is_local(host: str) -> bool:
    """Return whether *host* is this machine."""
    name = host.strip("[]").rstrip(".").lower()
    if name in ("", "localhost") or name.endswith(".localhost"):
        return True
    address = _parse(name)
    return address is not None and (address.is_loopback or address.is_unspecified)


def _parse(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Parse *host* as an address (a mapped IPv4 address as IPv4); None if it is a name."""
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped if mapped is not None else address


def _text(host: Any) -> str:
    return host.decode("ascii") if isinstance(host, bytes | bytearray) else str(host)


def _assign_address(name: str) -> str:
    """Return the address of *name*. If all addresses are assigned, the name gets the one that was assigned first."""
    with _lock:
        known = _address_of.get(name)
        if known is None:
            known = str(ipaddress.IPv4Address(_FIRST + next(_numbers) % _COUNT))
            _address_of.pop(_name_of.get(known, ""), None)
            _address_of[name] = known
            _name_of[known] = name
        return known


def _getaddrinfo(
    host: Any,
    port: Any,
    family: int = 0,
    type: int = 0,  # noqa: A002  # its name in the standard library
    proto: int = 0,
    flags: int = 0,
) -> list[Any]:
    if (
        _Route.gateway is None
        or host is None
        or flags & socket.AI_NUMERICHOST
        or _is_local(_text(host))
        or _parse(_text(host)) is not None
    ):
        return _real_getaddrinfo(host, port, family, type, proto, flags)
    name = _text(host)
    address = _assign_address(name)
    # The real function handles port name, family and type; it sends no query for an address.
    found = _real_getaddrinfo(
        f"::ffff:{address}" if family == socket.AF_INET6 else address,
        port,
        family,
        type,
        proto,
        (flags & ~(socket.AI_CANONNAME | socket.AI_ADDRCONFIG)) | socket.AI_NUMERICHOST,
    )
    if flags & socket.AI_CANONNAME:
        return [(*entry[:3], name, entry[4]) for entry in found]
    return list(found)


def _gethostbyname(hostname: str) -> str:
    if _Route.gateway is None or _is_local(hostname) or _parse(hostname) is not None:
        return _real_gethostbyname(hostname)
    return _assign_address(hostname)


def _intended_target(address: Any) -> tuple[str, int] | None:
    """Return the host and port that *address* was assigned to; None for a direct connection to this machine."""
    host, port = _text(address[0]), int(address[1])
    if _is_local(host):
        return (host, port) if str(port) == os.environ.get("PDK_OWN_PORT") else None
    parsed = _parse(host)
    return _name_of.get(str(parsed), host) if parsed is not None else host, port


def _drop_reason(sock: socket.socket) -> OSError | None:
    """Ask the gateway why it dropped the connection of *sock*. Return the error; None if the gateway did not drop it."""
    if _Route.gateway is None:
        return None
    query_socket = _socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        query_socket.settimeout(_CONNECT_TIMEOUT_S)
        query_socket.connect(_Route.gateway)
        query = {"token": _Route.token, "dropped": sock.getsockname()[1]}
        query_socket.sendall(f"PDK1 {json.dumps(query)}\n".encode())
        received = b""
        while part := query_socket.recv(65536):
            received += part
        answer = json.loads(received)
    except (OSError, ValueError, IndexError):
        return None
    finally:
        query_socket.close()
    return _connection_error(answer["code"], answer["message"]) if answer else None


def _explained(method: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap *method* of a socket so that it raises the reason if the gateway dropped the connection."""

    def call(self: socket.socket, *args: Any, **kwargs: Any) -> Any:
        try:
            result = method(self, *args, **kwargs)
        except (ConnectionResetError, BrokenPipeError):
            cause = _drop_reason(self)
            if cause is None:
                raise
            raise cause from None
        # a TLS socket reports a reset connection as a closed one
        if method.__name__ == "read" and not result and (cause := _drop_reason(self)) is not None:
            raise cause
        return result

    return call


def _explain_tls() -> None:
    """Wrap the methods of TLS sockets, which read in C. It is done after the process has imported `ssl`, which is slow."""
    kind = getattr(sys.modules.get("ssl"), "SSLSocket", None)
    if kind is None or kind in _explained_kinds:
        return
    _explained_kinds.add(kind)
    for name in ("do_handshake", "read", "write"):
        setattr(kind, name, _explained(getattr(kind, name)))


def _connection_error(code: str, message: str) -> OSError:
    """Build Python's error for a failed connection from Node.js's error *code*."""
    if code in ("ENOTFOUND", "EAI_AGAIN"):
        return socket.gaierror(socket.EAI_NONAME if code == "ENOTFOUND" else socket.EAI_AGAIN, message)
    number = getattr(errno, code, None)
    if number is not None:
        return OSError(number, message)  # Python selects the subclass, such as ConnectionRefusedError
    import ssl

    return (ssl.SSLError if code == "EPROTO" else ssl.SSLCertVerificationError)(1, message)


def follow_environment() -> None:
    """Route connections as the environment says: to the gateway, or directly if there is none."""
    address, token = os.environ.get("PDK_EGRESS"), os.environ.get("PDK_TOKEN")
    _Route.gateway, _Route.token = None, ""
    if address and token:
        host, _, port = address.partition(":")
        _Route.gateway, _Route.token = (host, int(port)), token
        _install()


def _connect(self: socket.socket, address: Any) -> None:
    gateway = _Route.gateway
    if gateway is None:
        return _socket.socket.connect(self, address)
    _explain_tls()
    is_tcp = self.family in (socket.AF_INET, socket.AF_INET6) and self.type == socket.SOCK_STREAM
    target = _intended_target(address) if is_tcp else None
    if target is None:
        return _socket.socket.connect(self, address)
    preamble = json.dumps({"host": target[0], "port": target[1], "tls": False, "token": _Route.token})
    mapped = "::ffff:" if self.family == socket.AF_INET6 else ""
    timeout = self.gettimeout()
    # Non-blocking sockets wait too, for one hop on this machine, so that the line is sent first.
    self.settimeout(_CONNECT_TIMEOUT_S)
    try:
        _socket.socket.connect(self, (mapped + gateway[0], gateway[1]))
        # Not self.sendall: a TLS socket would encrypt the line.
        _socket.socket.sendall(self, f"PDK1 {preamble}\n".encode())
    finally:
        self.settimeout(timeout)
    return None


def _connect_ex(self: socket.socket, address: Any) -> int:
    direct = self.family not in (socket.AF_INET, socket.AF_INET6) or _intended_target(address) is None
    if _Route.gateway is None or direct:
        return _socket.socket.connect_ex(self, address)
    try:
        _connect(self, address)
    except OSError as error:
        if error.errno is None:
            raise
        return error.errno
    return 0


def _install() -> None:
    if _Route.is_installed:
        return
    _Route.is_installed = True
    # setattr: the type stubs forbid assignment
    setattr(socket, "getaddrinfo", _getaddrinfo)  # noqa: B010
    setattr(socket, "gethostbyname", _gethostbyname)  # noqa: B010
    setattr(socket.socket, "connect", _connect)  # noqa: B010
    setattr(socket.socket, "connect_ex", _connect_ex)  # noqa: B010
    for name in ("recv", "recv_into", "send", "sendall"):
        setattr(socket.socket, name, _explained(getattr(_socket.socket, name)))


follow_environment()

"""
Leads the outside connections of a Python process to the gateway for outside calls.

Knows Python's sockets and one line of protocol. Knows nothing of modes, steps or HTTP. Imported by a process's main
module before the user's code; it acts if `PDK_EGRESS` (`127.0.0.1:PORT`) and `PDK_TICKET` are in the environment.

A name is not resolved: it becomes an address of 198.18.0.0/16 (set aside for tests, RFC 2544) that stands for it.
Connecting a TCP socket to anything but this machine connects it to the gateway instead and says first, in one line, where it was
meant to go. TLS, with its checks, is then the client's own, and meets the project's certificate. Unix sockets, UDP and
loopback are left alone. If the gateway is gone, connecting fails; nothing ever goes out directly. A host that cannot be reached is
a connection that the gateway drops; the hook asks it why, and raises the error that connecting to the host would have raised.
Not covered: libraries that make their sockets in C (libpq, gRPC, pycurl, uvloop).
"""

from __future__ import annotations

import _socket
import errno
import ipaddress
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
_explained_kinds: set[type] = set()


def _is_local(host: str) -> bool:
    """Whether *host* is this machine."""
    name = host.strip("[]").rstrip(".").lower()
    if name in ("", "localhost") or name.endswith(".localhost"):
        return True
    address = _parse(name)
    return address is not None and (address.is_loopback or address.is_unspecified)


def _parse(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """*host* as an address (a mapped IPv4 address as such), or None if it is a name."""
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped if mapped is not None else address


def _text(host: Any) -> str:
    return host.decode("ascii") if isinstance(host, bytes | bytearray) else str(host)


def _assign_address(name: str) -> str:
    """The address that stands for *name*, the same each time."""
    with _lock:
        known = _address_of.get(name)
        if known is None:
            known = str(ipaddress.IPv4Address(_FIRST + len(_address_of) % _COUNT))
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
    if host is None or flags & socket.AI_NUMERICHOST or _is_local(_text(host)) or _parse(_text(host)) is not None:
        return _real_getaddrinfo(host, port, family, type, proto, flags)
    name = _text(host)
    address = _assign_address(name)
    # The port's name, the family and the kinds are left to the real function, which asks nobody about an address.
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
    if _is_local(hostname) or _parse(hostname) is not None:
        return _real_gethostbyname(hostname)
    return _assign_address(hostname)


def _intended_target(address: Any) -> tuple[str, int] | None:
    """The host and port that *address* stands for, or None if it is this machine."""
    host, port = _text(address[0]), int(address[1])
    if _is_local(host):
        return None
    parsed = _parse(host)
    return _name_of.get(str(parsed), host) if parsed is not None else host, port


def _why(gateway: tuple[str, int], ticket: str, sock: socket.socket) -> OSError | None:
    """Why the gateway dropped the connection of *sock*, as the error of a failed connection; None if it did not."""
    asking = _socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        asking.settimeout(_CONNECT_TIMEOUT_S)
        asking.connect(gateway)
        question = {"ticket": ticket, "dropped": sock.getsockname()[1]}
        asking.sendall(f"PDK1 {json.dumps(question)}\n".encode())
        said = b""
        while part := asking.recv(65536):
            said += part
        answer = json.loads(said)
    except (OSError, ValueError, IndexError):
        return None
    finally:
        asking.close()
    return _failed(answer["code"], answer["message"]) if answer else None


def _explained(method: Callable[..., Any], why: Callable[[socket.socket], OSError | None]) -> Callable[..., Any]:
    """*method* of a socket; where the gateway has dropped the connection it raises the cause."""

    def call(self: socket.socket, *args: Any, **kwargs: Any) -> Any:
        try:
            result = method(self, *args, **kwargs)
        except (ConnectionResetError, BrokenPipeError):
            cause = why(self)
            if cause is None:
                raise
            raise cause from None
        # a TLS socket takes a connection that was reset for one that has ended
        if method.__name__ == "read" and not result and (cause := why(self)) is not None:
            raise cause
        return result

    return call


def _explain_tls(why: Callable[[socket.socket], OSError | None]) -> None:
    """The same for TLS sockets, which read in C; only in a process that has them, because importing them takes time."""
    kind = getattr(sys.modules.get("ssl"), "SSLSocket", None)
    if kind is None or kind in _explained_kinds:
        return
    _explained_kinds.add(kind)
    for name in ("do_handshake", "read", "write"):
        setattr(kind, name, _explained(getattr(kind, name), why))


def _failed(code: str, message: str) -> OSError:
    """The error that Python has for a failed connection; *code* is Node.js's word for the cause."""
    if code in ("ENOTFOUND", "EAI_AGAIN"):
        return socket.gaierror(socket.EAI_NONAME if code == "ENOTFOUND" else socket.EAI_AGAIN, message)
    number = getattr(errno, code, None)
    if number is not None:
        return OSError(number, message)  # Python makes it a ConnectionRefusedError, a TimeoutError ...
    import ssl

    return (ssl.SSLError if code == "EPROTO" else ssl.SSLCertVerificationError)(1, message)


def install(address: str, token: str) -> None:
    """
    Lead outside connections to the gateway.

    Args:
        address: `host:port` of the gateway, on loopback.
        token: Says whose connections these are.
    """
    gateway_host, _, gateway_port = address.partition(":")
    real_connect = _socket.socket.connect
    real_sendall = _socket.socket.sendall

    def why(sock: socket.socket) -> OSError | None:
        return _why((gateway_host, int(gateway_port)), token, sock)

    def connect(self: socket.socket, address: Any) -> None:
        _explain_tls(why)
        outside = self.family in (socket.AF_INET, socket.AF_INET6) and self.type == socket.SOCK_STREAM
        meant = _intended_target(address) if outside else None
        if meant is None:
            return real_connect(self, address)
        preamble = json.dumps({"host": meant[0], "port": meant[1], "tls": False, "ticket": token})
        mapped = "::ffff:" if self.family == socket.AF_INET6 else ""
        timeout = self.gettimeout()
        # One hop on this machine: waited for, also by a socket that does not wait, so that the line goes first.
        self.settimeout(_CONNECT_TIMEOUT_S)
        try:
            real_connect(self, (mapped + gateway_host, int(gateway_port)))
            # Not self.sendall: a TLS socket would encrypt the line.
            real_sendall(self, f"PDK1 {preamble}\n".encode())
        finally:
            self.settimeout(timeout)
        return None

    def connect_ex(self: socket.socket, address: Any) -> int:
        if self.family not in (socket.AF_INET, socket.AF_INET6) or _intended_target(address) is None:
            return _socket.socket.connect_ex(self, address)
        try:
            connect(self, address)
        except OSError as error:
            if error.errno is None:
                raise
            return error.errno
        return 0

    # setattr: the types do not know that these may be replaced
    setattr(socket, "getaddrinfo", _getaddrinfo)  # noqa: B010
    setattr(socket, "gethostbyname", _gethostbyname)  # noqa: B010
    setattr(socket.socket, "connect", connect)  # noqa: B010
    setattr(socket.socket, "connect_ex", connect_ex)  # noqa: B010
    for name in ("recv", "recv_into", "send", "sendall"):
        setattr(socket.socket, name, _explained(getattr(_socket.socket, name), why))


if os.environ.get("PDK_EGRESS") and os.environ.get("PDK_TICKET"):
    install(os.environ["PDK_EGRESS"], os.environ["PDK_TICKET"])

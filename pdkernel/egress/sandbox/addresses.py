"""Parses socket addresses (`sockaddr`) that system calls pass to the kernel."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass

from pdkernel.egress.outbound_policy import is_loopback

_LOCAL_FAMILIES = frozenset({socket.AF_UNSPEC, socket.AF_UNIX, 16})  # 16: netlink, the kernel's own interface
_RESOLVERS = (b"/var/run/nscd/socket", b"/run/nscd/socket", b"/run/systemd/resolve/", b"/var/run/systemd/resolve/")


@dataclass(frozen=True, slots=True)
class SocketAddress:
    """An internet address and port."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether the address is this machine's."""
        return is_loopback(self.host)


def parse_sockaddr(address: bytes, *, for_datagram: bool = False) -> SocketAddress | None:
    """
    The internet address in *address*; None for a local address (Unix socket, netlink) and for a disconnection.

    Args:
        address: A `sockaddr`.
        for_datagram: The address is that of a datagram, where Linux takes an unspecified family for IPv4.

    Raises:
        ValueError: The address family is unknown.
    """
    family = int.from_bytes(address[:2], "little")
    if family == socket.AF_INET or (family == socket.AF_UNSPEC and for_datagram and len(address) >= 8):
        return SocketAddress(str(ipaddress.IPv4Address(address[4:8])), int.from_bytes(address[2:4], "big"))
    if family == socket.AF_INET6:
        six = ipaddress.IPv6Address(address[8:24])
        return SocketAddress(str(six.ipv4_mapped or six), int.from_bytes(address[2:4], "big"))
    if family not in _LOCAL_FAMILIES:
        raise ValueError(f"an address of family {family}")
    return None


def is_unix(address: bytes) -> bool:
    """Whether *address* is the address of a Unix socket."""
    return int.from_bytes(address[:2], "little") == socket.AF_UNIX


def is_resolver_socket(address: bytes) -> bool:
    """Whether *address* is the Unix socket of a service that resolves names."""
    return is_unix(address) and address[2:].startswith(_RESOLVERS)

"""Socket addresses of system calls."""

from __future__ import annotations

import ipaddress
import socket
import struct

import pytest

from pdkernel.egress.sandbox_supervisor import SocketAddress, is_resolver_socket, is_unix, parse_sockaddr


def ipv4(host: str, port: int, family: int = socket.AF_INET) -> bytes:
    """A `sockaddr_in`."""
    return struct.pack("<H", family) + struct.pack("!H", port) + ipaddress.IPv4Address(host).packed


def ipv6(host: str, port: int) -> bytes:
    """A `sockaddr_in6`."""
    return struct.pack("<H", socket.AF_INET6) + struct.pack("!HI", port, 7) + ipaddress.IPv6Address(host).packed


UNIX = struct.pack("<H", socket.AF_UNIX)


@pytest.mark.parametrize(
    ("address", "for_datagram", "host", "port"),
    [
        (ipv4("203.0.113.5", 443), False, "203.0.113.5", 443),
        (ipv4("127.0.0.1", 65535) + bytes(8), True, "127.0.0.1", 65535),
        (ipv4("203.0.113.5", 258, socket.AF_UNSPEC), True, "203.0.113.5", 258),
        (ipv6("2001:db8::1", 443), False, "2001:db8::1", 443),
        (ipv6("::1", 258), False, "::1", 258),
        (ipv6("::ffff:203.0.113.5", 8443), False, "203.0.113.5", 8443),
    ],
)
def test_internet_addresses(address: bytes, for_datagram: bool, host: str, port: int) -> None:
    """An address has its host and port; an IPv4 address in an IPv6 socket is the IPv4 address."""
    found = parse_sockaddr(address, for_datagram=for_datagram)

    assert found == SocketAddress(host, port)
    assert found.is_loopback == (host in ("127.0.0.1", "::1"))


@pytest.mark.parametrize(
    ("address", "for_datagram"),
    [
        (UNIX + b"/run/x", False),
        (struct.pack("<H", 16) + bytes(10), False),
        (ipv4("203.0.113.5", 443, socket.AF_UNSPEC), False),
        (ipv4("203.0.113.5", 443, socket.AF_UNSPEC)[:7], True),
    ],
    ids=["unix", "netlink", "disconnection", "short"],
)
def test_local_addresses(address: bytes, for_datagram: bool) -> None:
    """Unix sockets, netlink and a disconnection have no internet address."""
    assert parse_sockaddr(address, for_datagram=for_datagram) is None


def test_an_unknown_family_is_an_error() -> None:
    """An address of another family is not let through as a local one."""
    with pytest.raises(ValueError, match="family 40"):
        parse_sockaddr(struct.pack("<H", 40) + bytes(14))


@pytest.mark.parametrize(
    ("address", "unix", "resolver"),
    [
        (UNIX + b"/run/nscd/socket\0", True, True),
        (UNIX + b"/var/run/nscd/socket\0", True, True),
        (UNIX + b"/run/systemd/resolve/io.systemd.Resolve\0", True, True),
        (UNIX + b"/var/run/systemd/resolve/x\0", True, True),
        (UNIX + b"/run/other\0", True, False),
        (UNIX + b"\0/run/nscd/socket", True, False),
        (struct.pack("<H", socket.AF_INET) + b"/run/nscd/socket", False, False),
    ],
)
def test_sockets_of_resolvers(address: bytes, unix: bool, resolver: bool) -> None:
    """The sockets of services that resolve names are known by their paths."""
    assert (is_unix(address), is_resolver_socket(address)) == (unix, resolver)

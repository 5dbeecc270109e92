"""Public addresses: the check of an address, and name resolution that accepts public addresses only."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence

from pdkernel.egress.outbound_policy import is_loopback

Lookup = Callable[[str, int], Awaitable[Sequence[str]]]
"""Resolves host and port to addresses; raises `OSError` if the name has no address."""

_UNICAST = ipaddress.IPv6Network("2000::/3")
_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")  # an IPv4 address by NAT64 (RFC 6052)


class NotPublicError(Exception):
    """A host is this machine or in a private network, or its name resolves to such an address."""


def is_public(address: str) -> bool:
    """
    Whether *address*, and an IPv4 address embedded in it, belongs to the public internet.

    Raises:
        ValueError: *address* is a name.
    """
    found = ipaddress.ip_address(address.strip("[]").partition("%")[0])
    if isinstance(found, ipaddress.IPv4Address):
        return found.is_global and not found.is_multicast
    carried = found.ipv4_mapped or found.sixtofour
    if found in _TRANSLATED:
        carried = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
    if carried is not None:
        return is_public(str(carried))
    return found.is_global and found in _UNICAST


def is_inside(host: str) -> bool:
    """Whether *host* is an address that is not public, or a name of this machine. Other names are not resolved: False."""
    try:
        return not is_public(host)
    except ValueError:
        return is_loopback(host)


async def public_addresses(host: str, port: int, lookup: Lookup) -> Sequence[str]:
    """
    Resolve *host* to public addresses; the caller connects to one of them without resolving again.

    Raises:
        NotPublicError: An address of the host is not public.
        OSError: The name has no address.
    """
    found = await lookup(host, port)
    if is_inside(host) or not all(map(is_public, found)):
        raise NotPublicError(host)
    return found


async def places(
    host: str, port: int, resolve: Mapping[tuple[str, int], tuple[str, int]], lookup: Lookup | None
) -> Sequence[tuple[str, int]]:
    """
    Addresses and ports to try for a connection to *host*, in order.

    Args:
        host: Name or address.
        port: Port of the host.
        resolve: Overrides of (host, port), for tests.
        lookup: Resolves the host; every address must be public. None: the name is returned unresolved.

    Raises:
        NotPublicError: An address of the host is not public.
        OSError: The name has no address.
    """
    if lookup is None or (host, port) in resolve:
        return [resolve.get((host, port), (host, port))]
    return [resolve.get((each, port), (each, port)) for each in await public_addresses(host, port, lookup)]


async def system_lookup(host: str, port: int) -> Sequence[str]:
    """Resolve *host* with the system's resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))

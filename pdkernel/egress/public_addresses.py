"""
Public addresses: which there are, and the lookup of a name that must lead to nothing else.

What a Connect token starts may reach these only. Which calls that concerns is `policy`'s to say.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence

from pdkernel.egress.outbound_policy import is_loopback

Lookup = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of a host; raises `OSError` if it has none."""

_UNICAST = ipaddress.IPv6Network("2000::/3")
_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")  # an IPv4 address by NAT64 (RFC 6052)


class NotPublicError(Exception):
    """A host is this machine or in a private network, or its name leads there."""


def is_public(address: str) -> bool:
    """
    Whether *address* is one of the public internet, and so is an IPv4 address that it carries.

    Raises:
        ValueError: It is a name.
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
    """Whether *host* is an address that is not public or a name of this machine; no name is looked up."""
    try:
        return not is_public(host)
    except ValueError:
        return is_loopback(host)


async def public_addresses(host: str, port: int, lookup: Lookup) -> Sequence[str]:
    """
    The addresses of *host*, all of them public: the caller connects to one of these and looks nothing up again.

    Raises:
        NotPublicError: One of them is not public.
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
    Where to connect for *host*, in order.

    Args:
        host: Name or address.
        port: There.
        resolve: Hosts that a test has put somewhere else.
        lookup: Resolves the host, of which every address must be public; None leaves it to whoever connects.

    Raises:
        NotPublicError: One of them is not public.
        OSError: The name has no address.
    """
    if lookup is None or (host, port) in resolve:
        return [resolve.get((host, port), (host, port))]
    return [resolve.get((each, port), (each, port)) for each in await public_addresses(host, port, lookup)]


async def system_lookup(host: str, port: int) -> Sequence[str]:
    """The system's resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))

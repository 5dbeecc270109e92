"""
Who is at the other end: the client's address behind proxies that are trusted, and whether it is this machine.

Knows `X-Forwarded-For`. An address in it is believed only as far as each hop behind it is trusted.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import lru_cache

from starlette.datastructures import Headers
from starlette.types import Scope

from pdkernel.errors import RequestError
from pdkernel.server.host_names import is_loopback_name

FORWARDING_HEADERS = ("x-forwarded-for", "x-forwarded-host", "x-real-ip", "forwarded", "via")


def resolve_client_ip(scope: Scope, headers: Headers, trusted: Sequence[str]) -> str:
    """The client's address, as far as the *trusted* networks (CIDR) vouch for it."""
    peer = _peer(scope)
    if not trusted or not _within(peer, tuple(trusted)):
        return peer
    hops = [hop.strip() for line in headers.getlist("x-forwarded-for") for hop in line.split(",") if hop.strip()]
    for hop in map(_address, reversed(hops)):
        if not _is_address(hop):
            return peer
        peer = hop
        if not _within(hop, tuple(trusted)):
            break
    return peer


def resolve_scheme(scope: Scope, headers: Headers, trusted: Sequence[str]) -> str:
    """`http` or `https`: as the client said it, where a trusted proxy tells."""
    if trusted and _within(_peer(scope), tuple(trusted)):
        told = headers.get("x-forwarded-proto", "").partition(",")[0].strip().lower()
        if told in ("http", "https"):
            return told
    return str(scope.get("scheme", "http"))


def is_from_this_machine(scope: Scope, headers: Headers) -> bool:
    """Whether the request was made on this machine, and not handed on by a proxy on it."""
    peer = _peer(scope)
    here = _is_address(peer) and ipaddress.ip_address(peer).is_loopback
    return (
        here and is_loopback_name(headers.get("host", "")) and not any(name in headers for name in FORWARDING_HEADERS)
    )


def parse_networks(networks: Sequence[str]) -> tuple[str, ...]:
    """
    *networks*, if each is one.

    Raises:
        RequestError: One is not a network in CIDR notation.
    """
    for network in networks:
        try:
            ipaddress.ip_network(network, strict=False)
        except ValueError:
            raise RequestError(
                f"--trusted-proxy {network!r} is no network.", fix="Write it as CIDR: 10.0.0.0/8, or 192.0.2.1/32."
            ) from None
    return tuple(networks)


def _peer(scope: Scope) -> str:
    """The address at the other end; one of IPv4 as such, also where it comes in over IPv6."""
    return _unmap_ipv4(str(scope["client"][0])) if scope.get("client") else ""


def _address(hop: str) -> str:
    """The address in a part of `X-Forwarded-For`, to which some proxies add the port."""
    if hop.startswith("["):
        return _unmap_ipv4(hop[1:].partition("]")[0])
    return _unmap_ipv4(hop.partition(":")[0] if hop.count(":") == 1 else hop)


@lru_cache(maxsize=256)
def _unmap_ipv4(address: str) -> str:
    mapped = getattr(ipaddress.ip_address(address), "ipv4_mapped", None) if _is_address(address) else None
    return str(mapped) if mapped else address


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


@lru_cache(maxsize=256)
def _within(address: str, networks: tuple[str, ...]) -> bool:
    if not _is_address(address):
        return False
    found = ipaddress.ip_address(address)
    return any(found in ipaddress.ip_network(network, strict=False) for network in networks)

"""
The client's address and scheme behind trusted proxies.

An address in `X-Forwarded-For` counts only if every hop after that address is trusted.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import lru_cache

from starlette.datastructures import Headers
from starlette.types import Scope

from pdkernel.errors import RequestError


def resolve_client_ip(scope: Scope, headers: Headers, trusted: Sequence[str]) -> str:
    """Return the client's address, from `X-Forwarded-For` as far as the hops are in *trusted* networks (CIDR)."""
    peer = _peer(scope)
    if not trusted or not _within(peer, tuple(trusted)):
        return peer
    hops = [hop.strip() for line in headers.getlist("x-forwarded-for") for hop in line.split(",") if hop.strip()]
    for hop in map(_address, reversed(hops)):
        if not is_address(hop):
            return peer
        peer = hop
        if not _within(hop, tuple(trusted)):
            break
    return peer


def resolve_scheme(scope: Scope, headers: Headers, trusted: Sequence[str]) -> str:
    """Return `http` or `https`, from `X-Forwarded-Proto` if a trusted proxy sets it."""
    if trusted and _within(_peer(scope), tuple(trusted)):
        forwarded = headers.get("x-forwarded-proto", "").partition(",")[0].strip().lower()
        if forwarded in ("http", "https"):
            return forwarded
    return str(scope.get("scheme", "http"))


def parse_networks(networks: Sequence[str]) -> tuple[str, ...]:
    """
    Return *networks* if each is in CIDR notation.

    Raises:
        RequestError: A network is not in CIDR notation.
    """
    for network in networks:
        try:
            ipaddress.ip_network(network, strict=False)
        except ValueError:
            raise RequestError(
                f"--trusted-proxy {network!r} is not a network.", fix="Use CIDR notation: 10.0.0.0/8, or 192.0.2.1/32."
            ) from None
    return tuple(networks)


def is_address(text: str) -> bool:
    """Return whether *text* is an IP address, without brackets."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _peer(scope: Scope) -> str:
    """Return the peer's address; an IPv4 address mapped to IPv6 is returned as IPv4."""
    return _unmap_ipv4(str(scope["client"][0])) if scope.get("client") else ""


def _address(hop: str) -> str:
    """Return the address in an entry of `X-Forwarded-For`, without the port that some proxies add."""
    if hop.startswith("["):
        return _unmap_ipv4(hop[1:].partition("]")[0])
    return _unmap_ipv4(hop.partition(":")[0] if hop.count(":") == 1 else hop)


@lru_cache(maxsize=256)
def _unmap_ipv4(address: str) -> str:
    mapped = getattr(ipaddress.ip_address(address), "ipv4_mapped", None) if is_address(address) else None
    return str(mapped) if mapped else address


@lru_cache(maxsize=256)
def _within(address: str, networks: tuple[str, ...]) -> bool:
    if not is_address(address):
        return False
    found = ipaddress.ip_address(address)
    return any(found in ipaddress.ip_network(network, strict=False) for network in networks)

"""
An HTTP client of our own whose calls are treated as a step's: a delivery after a run, a call through the proxy.

Knows the way through the gateway. What is called, and for whom, is in the binding.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Literal, Protocol
from urllib.parse import urlsplit

from pdkernel.egress.caller_tokens import CallContext
from pdkernel.egress.outbound_policy import is_loopback

if TYPE_CHECKING:
    import httpx


class GatewayAddress(Protocol):
    """The way out (`Gateway`)."""

    def issue_token(self, *, public_only: bool = False) -> str:
        """A new ticket."""
        ...

    def bind(self, token: str, context: CallContext) -> None:
        """Calls with *token* are *context*'s from now on."""
        ...

    def unbind(self, token: str) -> None:
        """They are nobody's."""
        ...

    def revoke_token(self, token: str) -> None:
        """Forget *token*."""
        ...

    def build_environment(self, token: str, language: Literal["bash"]) -> dict[str, str]:
        """The variables that lead a program there."""
        ...


@contextlib.asynccontextmanager
async def open_client(
    url: str, gateway: GatewayAddress | None, context: CallContext, *, timeout_s: float
) -> AsyncIterator[httpx.AsyncClient]:
    """
    A client for calls to the host of *url*.

    Args:
        url: What is to be called; loopback is called without the gateway, since it is never outside, unless only public
            addresses may be reached.
        gateway: Where calls go through, or None for none, which only calls to any address can do without.
        context: How they are treated.
        timeout_s: Seconds that one may take.
    """
    import httpx

    public_only = context.policy.public_only
    if not public_only and (gateway is None or is_loopback(urlsplit(url).hostname or "")):
        async with httpx.AsyncClient(timeout=timeout_s, trust_env=False) as client:
            yield client
        return
    assert gateway is not None, "what may reach public addresses only has a gateway that sees to it"
    ticket = gateway.issue_token(public_only=public_only)
    gateway.bind(ticket, context)
    try:
        way = gateway.build_environment(ticket, "bash")
        verify = ssl.create_default_context(cafile=way["SSL_CERT_FILE"])
        async with httpx.AsyncClient(
            timeout=timeout_s, trust_env=False, proxy=way["https_proxy"], verify=verify
        ) as client:
            yield client
    finally:
        gateway.unbind(ticket)
        gateway.revoke_token(ticket)

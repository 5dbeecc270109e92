"""An HTTP client whose calls go through the gateway like a step's: deliveries after a run, calls of the API proxy."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from pdkernel.egress.caller_tokens import CallContext
from pdkernel.egress.outbound_policy import is_loopback
from pdkernel.egress.own_server import OwnServer

if TYPE_CHECKING:
    import httpx


class GatewayAddress(Protocol):
    """The part of `Gateway` that the client needs."""

    def issue_token(self, *, public_only: bool = False) -> str:
        """A new token."""
        ...

    def bind(self, token: str, context: CallContext) -> None:
        """Bind *token* to *context*."""
        ...

    def unbind(self, token: str) -> None:
        """Remove the binding of *token*."""
        ...

    def revoke_token(self, token: str) -> None:
        """Delete *token*."""
        ...

    def open_transport(self, token: str) -> httpx.AsyncBaseTransport:
        """A transport whose calls go through the gateway with *token*."""
        ...


class ServerGateway(GatewayAddress, Protocol):
    """The part of `Gateway` that a server needs."""

    @property
    def own_server(self) -> OwnServer:
        """The server whose workflows use the gateway."""
        ...

    async def leads_inside(self, host: str, port: int) -> bool:
        """Whether *host* resolves to an address that is not public; False if the name cannot be resolved."""
        ...

    async def close(self) -> None:
        """End every connection."""
        ...


@contextlib.asynccontextmanager
async def open_client(
    url: str, gateway: GatewayAddress | None, context: CallContext, *, timeout_s: float
) -> AsyncIterator[httpx.AsyncClient]:
    """
    Open a client for calls to the host of *url*.

    Args:
        url: The URL to call. A loopback URL is called without the gateway, unless only public addresses are allowed.
        gateway: The gateway, or None to call directly. Required if only public addresses are allowed.
        context: The policy and the redactor of the calls.
        timeout_s: Seconds that a call may take.
    """
    import httpx

    public_only = context.policy.public_only
    if not public_only and (gateway is None or is_loopback(urlsplit(url).hostname or "")):
        async with httpx.AsyncClient(timeout=timeout_s, trust_env=False) as client:
            yield client
        return
    assert gateway is not None, "a policy of public addresses only needs the gateway"
    token = gateway.issue_token(public_only=public_only)
    gateway.bind(token, context)
    try:
        transport = gateway.open_transport(token)
        async with httpx.AsyncClient(timeout=timeout_s, trust_env=False, transport=transport) as client:
            yield client
    finally:
        gateway.unbind(token)
        gateway.revoke_token(token)

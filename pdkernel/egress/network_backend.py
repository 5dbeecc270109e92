"""httpcore's network backend for upstream connections: resolves names, checks addresses, applies host overrides."""

from __future__ import annotations

import ssl
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import httpcore

from pdkernel.egress.public_addresses import Lookup, places


class HostOverrideBackend(httpcore.AsyncNetworkBackend):
    """
    Opens connections to hosts.

    Args:
        host_overrides: Maps (host, port) to another (host, port): for tests.
        lookup: Resolves names; every address must be public. None: the system resolves, and every address is allowed.
    """

    def __init__(self, host_overrides: Mapping[tuple[str, int], tuple[str, int]], lookup: Lookup | None) -> None:
        self._resolve = host_overrides
        self._lookup = lookup
        self._real = httpcore.AnyIOBackend()
        self._opened: defaultdict[tuple[str, int], list[Opened]] = defaultdict(list)

    async def open(
        self, host: str, port: int, context: ssl.SSLContext, *, server_name: str, timeout_s: float
    ) -> Opened:
        """
        Connect to *host* with TLS; the next `connect_tcp` to the host returns this connection.

        Raises httpcore's errors, and `NotPublicError` as `connect_tcp` does.

        Args:
            host: Name or address.
            port: Port of the host.
            context: TLS context of a client.
            server_name: The name that TLS verifies.
            timeout_s: Seconds for connecting, and again for TLS.
        """
        plain = await self.connect_tcp(host, port, timeout_s)
        try:
            secure = await plain.start_tls(context, server_name, timeout_s)
        except BaseException:
            await plain.aclose()
            raise
        opened = Opened(secure, server_name, self._opened[host, port])
        self._opened[host, port].append(opened)
        return opened

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """
        Connect to *host* or to its override; a connection that `open` made earlier is returned first.

        Raises:
            NotPublicError: The host has an address that is not public, and only public addresses are allowed.
        """
        if waiting := self._opened.get((host, port)):
            return waiting.pop(0)
        failure: Exception | None = None
        for address, number in await places(host, port, self._resolve, self._lookup):
            try:
                return await self._real.connect_tcp(address, number, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure or httpcore.ConnectError(f"{host} has no address")

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.AsyncNetworkStream:
        """Connect to a Unix socket."""
        return await self._real.connect_unix_socket(path, timeout, socket_options)

    async def sleep(self, seconds: float) -> None:
        """Wait for *seconds*."""
        await self._real.sleep(seconds)


class Opened(httpcore.AsyncNetworkStream):
    """A connection with TLS already established; its `start_tls` only returns the encrypted stream."""

    def __init__(self, secure: httpcore.AsyncNetworkStream, server_name: str, waiting: list[Opened]) -> None:
        self._secure = secure
        self._server_name = server_name
        self._waiting = waiting

    async def discard(self) -> None:
        """Close the connection if no request uses it."""
        if self in self._waiting:
            self._waiting.remove(self)
            await self.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,  # noqa: ARG002  # the connection was opened with the same context
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> httpcore.AsyncNetworkStream:
        """The encrypted stream."""
        if server_hostname != self._server_name:
            await self.aclose()
            raise httpcore.ConnectError(f"the connection was opened for {self._server_name}")
        return self._secure

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read at most *max_bytes*."""
        return await self._secure.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write *buffer*."""
        await self._secure.write(buffer, timeout)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._secure.aclose()

    def get_extra_info(self, info: str) -> Any:
        """Return information of the transport: `socket`, `ssl_object`."""
        return self._secure.get_extra_info(info)

"""httpcore's network backends for upstream connections: name resolution, check of addresses, TLS through a proxy."""

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
        try:
            found = await places(host, port, self._resolve, self._lookup)
        except OSError as error:  # a failed lookup: unlike another OSError, nothing was sent
            raise httpcore.ConnectError(str(error)) from error
        for address, number in found:
            try:
                return await self._real.connect_tcp(address, number, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure or httpcore.ConnectError(f"{host} has no address")


class TunnelBackend(httpcore.AsyncNetworkBackend):
    """
    Opens connections to an upstream proxy.

    TLS with the host behind the proxy is established for *server_name*. httpcore takes the host of the URL, which may be an
    address, and would take the extension `sni_hostname` for TLS with the proxy.

    Args:
        backend: Opens the connections.
        server_name: The name that TLS with the host verifies.
        has_proxy_tls: Whether TLS with the proxy comes first.
    """

    def __init__(self, backend: httpcore.AsyncNetworkBackend, server_name: str, *, has_proxy_tls: bool) -> None:
        self._backend = backend
        self._server_name = server_name
        self._has_proxy_tls = has_proxy_tls

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the proxy."""
        plain = await self._backend.connect_tcp(host, port, timeout, local_address, socket_options)
        return _TunnelStream(plain, self._server_name, has_proxy_tls=self._has_proxy_tls)


class _WrappedStream(httpcore.AsyncNetworkStream):
    """A stream that differs from *stream* in `start_tls` only."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read at most *max_bytes*."""
        return await self._stream.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write *buffer*."""
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._stream.aclose()

    def get_extra_info(self, info: str) -> Any:
        """Return information of the transport: `socket`, `ssl_object`."""
        return self._stream.get_extra_info(info)


class _TunnelStream(_WrappedStream):
    """A connection to an upstream proxy, or through it; the arguments are those of `TunnelBackend`."""

    def __init__(self, stream: httpcore.AsyncNetworkStream, server_name: str, *, has_proxy_tls: bool) -> None:
        super().__init__(stream)
        self._server_name = server_name
        self._has_proxy_tls = has_proxy_tls

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        """Establish TLS with the proxy, if TLS with the proxy comes first; otherwise with the host."""
        name = server_hostname if self._has_proxy_tls else self._server_name
        secure = await self._stream.start_tls(ssl_context, name, timeout)
        return _TunnelStream(secure, self._server_name, has_proxy_tls=False)


class Opened(_WrappedStream):
    """A connection with TLS already established; its `start_tls` only returns the encrypted stream."""

    def __init__(self, secure: httpcore.AsyncNetworkStream, server_name: str, waiting: list[Opened]) -> None:
        super().__init__(secure)
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
        return self._stream

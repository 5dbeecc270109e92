"""
How the way out opens its sockets: by name, or where a test says that name lives.

Knows httpcore's network backend; imported with it, at the first request that goes out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import httpcore


class Dialling(httpcore.AsyncNetworkBackend):
    """Connects to hosts, some of which are somewhere else."""

    def __init__(self, resolve: Mapping[tuple[str, int], tuple[str, int]]) -> None:
        self._resolve = resolve
        self._real = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to *host*, or to where it is said to live."""
        host, port = self._resolve.get((host, port), (host, port))
        return await self._real.connect_tcp(host, port, timeout, local_address, socket_options)

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.AsyncNetworkStream:
        """Connect to a Unix socket."""
        return await self._real.connect_unix_socket(path, timeout, socket_options)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await self._real.sleep(seconds)

"""
The one place that opens sockets: binding, TLS, and uvicorn's life from its first request to its last.

Knows signals and seconds of grace. What is answered is the application's.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from ssl import SSLContext
from typing import Any

import uvicorn
from starlette.applications import Starlette

from pdkernel.errors import RequestError
from pdkernel.server.http_protocol import Pace, StrictHttpProtocol
from pdkernel.server.trigger_runner import run_due_triggers

BACKLOG = 2048
SHUTDOWN_GRACE_S = 10.0
"""Seconds that runs have to end once the server is told to stop."""


def listen(host: str, port: int) -> socket.socket:
    """
    A socket that listens there; port 0 takes any.

    Raises:
        RequestError: It cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        opened = socket.socket(family, kind, protocol)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind(address)
            opened.listen(BACKLOG)
            opened.setblocking(False)
        except BaseException:
            opened.close()
            raise
    except OSError as fault:
        raise RequestError(
            f"{host}, port {port}, cannot be had: {fault.strerror or fault}.",
            fix="Another server may have it. Choose another with --port N, or any free one with --port 0.",
        ) from None
    return opened


def local_url(listener: socket.socket, host: str, *, tls: bool) -> str:
    """The URL that leads to *listener* from this machine."""
    port = listener.getsockname()[1]
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"{'https' if tls else 'http'}://{name}:{port}"


class UvicornServer(uvicorn.Server):
    """uvicorn on sockets that are open already, for an application without runs; signals are ours."""

    def __init__(
        self, app: Starlette, *, tls: SSLContext | None = None, pace: Pace | None = None, on_ready: Callable[[], None]
    ) -> None:
        config = uvicorn.Config(
            app,
            access_log=False,
            log_config=None,
            lifespan="off",
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=None,
            ws="none",
            http=functools.partial(StrictHttpProtocol, pace=pace or Pace()),  # type: ignore[arg-type]  # a class, as far as it is used
        )
        config.load()
        config.ssl = tls
        super().__init__(config)
        self._app = app
        self._on_ready = on_ready

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """None: `serve_until_told` has them."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Take requests, and say so."""
        await super().startup(sockets)
        if self.started:
            self._started()
            self._on_ready()

    def stop(self) -> None:
        """Take no more requests."""
        self.should_exit = True

    def _started(self) -> None:
        """What begins with the first request."""


class Server(UvicornServer):
    """The same for an application with runs."""

    _triggers: asyncio.Task[None] | None = None

    def stop(self) -> None:
        """Take no more requests; what is under way has `GRACE_S` to end."""
        self._app.state.stopping = True
        super().stop()

    async def close(self) -> None:
        """End what is under way."""
        await self._app.state.runs.close(0)

    def _started(self) -> None:
        state = self._app.state
        self._triggers = asyncio.create_task(run_due_triggers(state.context, state.runs))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End runs first, since callers wait for their answers, then connections."""
        for listening in self.servers:
            listening.close()
        for opened in sockets or []:
            opened.close()
        if self._triggers is not None:
            self._triggers.cancel()
            await asyncio.gather(self._triggers, return_exceptions=True)
        runs = self._app.state.runs
        ending = asyncio.ensure_future(runs.close(0 if self.force_exit else SHUTDOWN_GRACE_S))
        while not ending.done():
            await asyncio.wait([ending], timeout=0.1)
            if self.force_exit:
                await runs.close(0)
        self.config.timeout_graceful_shutdown = 2
        await super().shutdown(sockets)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """libuv's, which does in C what asyncio's does in Python; asyncio's own where there is none (Windows)."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


async def serve_until_signalled(server: Server, opened: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM; a second one ends what is under way at once."""
    loop = asyncio.get_running_loop()

    def told() -> None:
        if server.should_exit:
            server.force_exit = True
        server.stop()

    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, told)
    try:
        await server.serve(sockets=[opened])
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


def silence_uvicorn_logs() -> None:
    """What uvicorn says of its own start and stop is ours to say; what it warns of stays."""
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.WARNING)


def build_tls_context(folder: Path, hosts: list[str], environ: Any) -> tuple[SSLContext, Path, Path]:
    """
    TLS with a certificate of the project's own authority for *hosts*.

    Returns:
        The server's side; the authority's certificate (for `NODE_EXTRA_CA_CERTS`), and the same beside public roots (for
        `SSL_CERT_FILE`).
    """
    from pdkernel.egress.tls.certificates import CertificateAuthority

    authority = CertificateAuthority(folder, environ=environ)
    return authority.server_context(*hosts), authority.certificate_file, authority.bundle_file

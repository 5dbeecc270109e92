"""
Sockets, TLS, signals, and the start and shutdown of uvicorn.

Several processes may accept connections on one socket. The system gives most connections to the process that wakes first. A client
keeps its connection, so that process would do most of the work. Therefore a process leaves a connection to the others while one of
them has fewer.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import mmap
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from ssl import SSLContext
from typing import Any

import uvicorn
from starlette.applications import Starlette

from pdkernel.common.blocking import prepare_loop, run_blocking
from pdkernel.engine.dispatch import look_repeatedly
from pdkernel.errors import InternalError, RequestError
from pdkernel.journal import Journal
from pdkernel.operations.batches import remove_expired_batches
from pdkernel.operations.run_history import RETENTION_DAYS, remove_expired
from pdkernel.server.app_state import AppState, get_state
from pdkernel.server.http_protocol import MAX_CONNECTIONS, Pace, StrictHttpProtocol, UnsentResponses
from pdkernel.storage import Project

YIELD_S = 0.002
"""Seconds for which a process leaves a connection to the others."""
MAX_YIELDS = 5
"""After so many times, the process accepts the connection: the other processes may be busy."""
FULL_PAUSE_S = 1.0
"""Seconds until the next try if the process may not open more files."""
_NOT_ACCEPTING = -1
_NEW_OBJECTS_PER_COLLECTION = 50_000


@dataclass(frozen=True)
class ConnectionShare:
    """
    The connections of one process, beside those of the others, in memory that all of them share.

    Attributes:
        counts: The number of open connections of each process, or -1 for a process that accepts none.
        index: The number of the process.
    """

    counts: memoryview[int]
    index: int

    def publish(self, count: int) -> None:
        """Set the number of connections of this process, which accepts more."""
        self.counts[self.index] = count

    def leave(self) -> None:
        """This process accepts no more connections."""
        self.counts[self.index] = _NOT_ACCEPTING

    @property
    def is_largest(self) -> bool:
        """Whether another process that accepts connections has fewer."""
        own = self.counts[self.index]
        return any(_NOT_ACCEPTING < count < own for count in self.counts)


def share_connections(processes: int) -> list[ConnectionShare]:
    """Return the shares of *processes* that this process forks; none of them accepts connections yet."""
    counts = memoryview(mmap.mmap(-1, processes * 4)).cast("i")
    shares = [ConnectionShare(counts, index) for index in range(processes)]
    for share in shares:
        share.leave()
    return shares


class SharedListener:
    """
    The listening socket in one of the processes. Belongs to one event loop.

    Args:
        listening: The socket, which does not block.
        share: The connections of the processes.
        connect: Serves an accepted connection; ends when the connection is open.
        count_open: Returns the number of open connections of this process.
    """

    def __init__(
        self,
        listening: socket.socket,
        share: ConnectionShare,
        connect: Callable[[socket.socket], Coroutine[Any, Any, object]],
        count_open: Callable[[], int],
    ) -> None:
        self._listening = listening
        self._share = share
        self._connect = connect
        self._count_open = count_open
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[object]] = set()
        self._yields = 0
        self._is_closed = False
        self._pause: asyncio.TimerHandle | None = None
        self.update()
        self._listen()

    def update(self) -> None:
        """Publish the number of connections: one was opened or closed. After `close`, this process counts no more."""
        if not self._is_closed:
            self._share.publish(self._count_open() + len(self._opening))

    def close(self) -> None:
        """Accept no more connections."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listening)
        self._is_closed = True
        self._share.leave()

    def _listen(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listening, self._accept)

    def _wait(self, seconds: float) -> None:
        self._loop.remove_reader(self._listening)
        self._pause = self._loop.call_later(seconds, self._listen)

    def _accept(self) -> None:
        """Accept one connection, or leave it to another process."""
        if self._share.is_largest and self._yields < MAX_YIELDS:
            self._yields += 1
            self._wait(YIELD_S)
            return
        self._yields = 0
        try:
            connection, _ = self._listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):  # another process was faster
            return
        except OSError:  # too many open files
            self._wait(FULL_PAUSE_S)
            return
        connection.setblocking(False)
        task = self._loop.create_task(self._connect(connection))
        self._opening.add(task)
        task.add_done_callback(self._opened)
        self.update()

    def _opened(self, task: asyncio.Task[object]) -> None:
        self._opening.discard(task)
        if not task.cancelled():
            task.exception()  # a handshake that failed; the connection is closed
        self.update()


BACKLOG = 2048
REMOVAL_INTERVAL_S = 3600.0
"""Seconds between two removals of runs whose retention is over."""
KEEP_ALIVE_S = 75
"""Seconds after a response until an idle connection is closed: longer than clients keep one, so that no request crosses its end."""
SHUTDOWN_GRACE_S = 10.0
"""Seconds for runs or requests to end after a shutdown has begun."""
_CLOSE_INTERVAL_S = 0.01


def listen(host: str, port: int) -> socket.socket:
    """
    Open a listening socket; port 0 takes any free port.

    Raises:
        RequestError: The address is invalid or in use.
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
            f"Cannot listen on {host}, port {port}: {fault.strerror or fault}.",
            fix="If another server uses the port, choose another with --port N, or any free port with --port 0.",
        ) from None
    return opened


def local_url(listener: socket.socket, host: str, *, tls: bool) -> str:
    """Return the URL of *listener* for clients on this machine."""
    port = listener.getsockname()[1]
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"{'https' if tls else 'http'}://{name}:{port}"


class UvicornServer(uvicorn.Server):
    """
    uvicorn on open sockets, for an application without runs. `serve_until_signalled` handles signals.

    Args:
        app: The application.
        tls: TLS context, or None for plain HTTP.
        pace: Minimum speed of clients.
        unsent: The unsent responses of the process, with their limit.
        max_connections: Connections of the process at once, as for `StrictHttpProtocol`.
        on_ready: Called in a thread when the server accepts requests.
        share: The connections of this process and of others that serve the same socket; None for the only process.

    Attributes:
        response_grace_s: Seconds for responses to end after a shutdown has begun.
    """

    response_grace_s = SHUTDOWN_GRACE_S

    def __init__(
        self,
        app: Starlette,
        *,
        tls: SSLContext | None = None,
        pace: Pace | None = None,
        unsent: UnsentResponses | None = None,
        max_connections: int = MAX_CONNECTIONS,
        on_ready: Callable[[], object] = lambda: None,
        share: ConnectionShare | None = None,
    ) -> None:
        config = uvicorn.Config(
            app,
            access_log=False,
            log_config=None,
            lifespan="off",
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=None,
            ws="none",
            http=functools.partial(  # type: ignore[arg-type]  # uvicorn only calls it
                StrictHttpProtocol,
                pace=pace or Pace(),
                unsent=unsent or UnsentResponses(),
                max_connections=max_connections,
            ),
        )
        config.load()
        config.ssl = tls
        super().__init__(config)
        self._app = app
        self._on_ready = on_ready
        self._share = share
        self._shared_listener: SharedListener | None = None
        self._accepts_requests = asyncio.Event()
        self._is_stopping = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture no signals: `serve_until_signalled` handles them."""
        yield

    async def start(self, opened: socket.socket) -> asyncio.Task[None]:
        """
        Serve *opened* in the background; return the server's task as soon as the server accepts requests.

        Raises:
            InternalError: The server did not start.
        """
        serving = asyncio.create_task(self.serve(sockets=[opened]))
        ready = asyncio.create_task(self._accepts_requests.wait())
        try:
            await asyncio.wait([serving, ready], return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            serving.cancel()
            raise
        finally:
            ready.cancel()
        if self._accepts_requests.is_set():
            return serving
        fault = serving.exception()
        raise InternalError(
            f"The server did not start: {fault or 'it was stopped'}.",
            fix="Try again. If the error persists, restart the notebook's kernel.",
        ) from fault

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept requests, then call *on_ready*."""
        if self._share is None:
            await super().startup(sockets)
        else:
            await super().startup([])
            assert sockets is not None
            self._shared_listener = self._listen_with_others(sockets[0], self._share)
        if self.started:
            self._on_started()
            self._accepts_requests.set()
            await run_blocking(self._on_ready)

    async def main_loop(self) -> None:
        """Update the date of responses each second until `stop`, which takes effect at once."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._is_stopping.wait()

    def stop(self) -> None:
        """Stop accepting requests."""
        self.should_exit = True
        self._is_stopping.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop to listen, and close the connections after their responses. `force_exit` and `response_grace_s` limit the wait."""
        self._stop_listening(sockets)
        state = self.server_state
        for connection in list(state.connections):
            connection.shutdown()
        await asyncio.sleep(_CLOSE_INTERVAL_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.response_grace_s):
                while (state.connections or state.tasks) and not self.force_exit:
                    await asyncio.sleep(_CLOSE_INTERVAL_S)
        for task in state.tasks:
            task.cancel()

    def _stop_listening(self, sockets: list[socket.socket] | None) -> None:
        for listening in self.servers:
            listening.close()
        if self._shared_listener is not None:
            self._shared_listener.close()
            self._shared_listener = None
        for opened in sockets or []:
            opened.close()

    def _listen_with_others(self, opened: socket.socket, share: ConnectionShare) -> SharedListener:
        """Accept connections on a socket that other processes serve too."""
        loop = asyncio.get_running_loop()

        def make_protocol() -> asyncio.Protocol:
            state, config = self.server_state, self.config
            return config.http_protocol_class(config=config, server_state=state, app_state={}, _loop=loop)  # type: ignore[call-arg]

        async def connect(connection: socket.socket) -> None:
            await loop.connect_accepted_socket(make_protocol, connection, ssl=self.config.ssl)

        connections = _ObservedConnections()
        self.server_state.connections = connections
        listener = SharedListener(opened, share, connect, connections.__len__)
        connections.on_change = listener.update
        return listener

    def _on_started(self) -> None:
        """Called once when the server has started."""


class Server(UvicornServer):
    """
    `UvicornServer` for an application with runs.

    Attributes:
        grace_s: Seconds for runs to end after a shutdown has begun.
    """

    grace_s = SHUTDOWN_GRACE_S
    response_grace_s = 2.0  # for clients to read their responses after the runs have ended
    _tasks: tuple[asyncio.Task[None], ...] = ()

    def stop(self) -> None:
        """Stop accepting requests; runs in progress have `grace_s` seconds to end."""
        get_state(self._app).is_stopping = True
        super().stop()

    async def close(self) -> None:
        """Cancel all runs."""
        await get_state(self._app).runs.close(0)

    def _on_started(self) -> None:
        self._tasks = start_background_tasks(get_state(self._app))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the runs first, because their callers wait for responses; then close the connections."""
        self._stop_listening(sockets)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        runs = get_state(self._app).runs
        ending = asyncio.ensure_future(runs.close(0 if self.force_exit else self.grace_s))
        while not ending.done():
            await asyncio.wait([ending], timeout=0.1)
            if self.force_exit:
                await runs.close(0)
        await super().shutdown(sockets)


class _ObservedConnections(set[Any]):
    """The open connections of a server; *on_change* is called after each change."""

    on_change: Callable[[], None] = staticmethod(lambda: None)

    def add(self, connection: Any) -> None:
        super().add(connection)
        self.on_change()

    def discard(self, connection: Any) -> None:
        super().discard(connection)
        self.on_change()


def start_background_tasks(state: AppState) -> tuple[asyncio.Task[None], ...]:
    """Start what a server does beside answering requests: it continues runs, fires triggers and removes expired runs."""
    state.database.on_change = state.runs.dispatch.watch()
    tasks: tuple[asyncio.Task[None], ...] = (
        asyncio.create_task(state.database.run()),
        asyncio.create_task(state.runs.dispatch.run()),
        asyncio.create_task(state.deployed_triggers.run_due()),
        asyncio.create_task(state.events.run()),
    )
    engine = state.context.engine
    if engine.continues_runs:  # a notebook serves drafts, whose triggers do not fire
        tasks += (
            asyncio.create_task(state.triggers.run()),
            asyncio.create_task(state.batches.run()),
            asyncio.create_task(state.deployed_triggers.repair()),
            asyncio.create_task(state.answered.run()),
            asyncio.create_task(_remove_expired_runs(engine.journal, state.context.project)),
        )
    return tasks


async def _remove_expired_runs(journal: Journal, project: Project) -> None:
    """Remove runs that ended before their workflow's retention, at the start and then once an hour, until the task is cancelled."""

    async def remove() -> float:
        await remove_expired(journal)
        await remove_expired_batches(project, journal, days=RETENTION_DAYS)
        return REMOVAL_INTERVAL_S

    problem = "Runs beyond their retention cannot be removed at the moment"
    await look_repeatedly(remove, asyncio.Event(), problem=problem, retry_s=REMOVAL_INTERVAL_S)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Create the event loop of uvloop, which is faster, or of asyncio if uvloop is not installed (Windows)."""
    loop: asyncio.AbstractEventLoop
    try:
        import uvloop
    except ModuleNotFoundError:
        loop = asyncio.new_event_loop()
    else:
        loop = uvloop.new_event_loop()
    prepare_loop(loop)
    return loop


def _collect_garbage_seldom() -> None:
    """
    Let the garbage collector of this process, which only answers requests, look seldom, and never at what it has loaded.

    A run makes a few hundred objects that a collection looks at, and nearly all are freed without one. With the default threshold, each
    collection holds up the requests that are answered at the time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS_PER_COLLECTION, *gc.get_threshold()[1:])


async def serve_until_signalled(
    server: UvicornServer, opened: socket.socket, parent: socket.socket | None = None
) -> None:
    """
    Serve until SIGINT or SIGTERM; a second signal cancels all runs at once.

    *parent* is a socket to the process that started this one; the end of that process counts as a signal.
    """
    _collect_garbage_seldom()
    loop = asyncio.get_running_loop()

    def stop_on_signal() -> None:
        if server.should_exit:
            server.force_exit = True
        server.stop()

    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, stop_on_signal)

    def stop_without_parent() -> None:
        assert parent is not None
        loop.remove_reader(parent)
        stop_on_signal()

    if parent is not None:
        loop.add_reader(parent, stop_without_parent)
    try:
        await server.serve(sockets=[opened])
    finally:
        if parent is not None:
            loop.remove_reader(parent)
        for number in signals:
            loop.remove_signal_handler(number)


def silence_uvicorn_logs() -> None:
    """Hide uvicorn's start and stop messages; warnings stay."""
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.WARNING)


def build_tls_context(folder: Path, hosts: list[str], environ: Any) -> tuple[SSLContext, Path, Path]:
    """
    Configure TLS with a certificate for *hosts*, issued by the project's own authority.

    Returns:
        The server's TLS context; the authority's certificate file (for `NODE_EXTRA_CA_CERTS`); a bundle with the public roots
        (for `SSL_CERT_FILE`).
    """
    from pdkernel.egress.certificates import CertificateAuthority

    authority = CertificateAuthority(folder, environ=environ)
    return authority.server_context(*hosts), authority.certificate_file, authority.bundle_file

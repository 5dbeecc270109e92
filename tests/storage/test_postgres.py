"""The connection to a PostgreSQL server: another program that has taken its port gets no password."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from pdkernel.errors import DatabaseUnreachableError
from pdkernel.journal.postgres import PostgresBackend
from pdkernel.storage import Project
from pdkernel.storage.postgres import demand_authentication, open_engine, unreachable_error

PASSWORD = "the-owners-password"
SSL_REQUEST = 80877103
CLEARTEXT, MD5 = struct.pack("!I", 3), struct.pack("!I4s", 5, b"salt")


@contextlib.contextmanager
def thief(request: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """A program on the port of a server, which asks for authentication with *request*; yields the port and what it received."""
    received: list[bytes] = []

    def serve(sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError, struct.error):
            sock.settimeout(10)
            while True:
                (size,) = struct.unpack("!I", sock.recv(4, socket.MSG_WAITALL))
                message = sock.recv(size - 4, socket.MSG_WAITALL)
                if struct.unpack_from("!I", message)[0] != SSL_REQUEST:
                    break
                sock.sendall(b"N")
            sock.sendall(b"R" + struct.pack("!I", len(request) + 4) + request)
            while data := sock.recv(1000):
                received.append(data)

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=[listener.accept()[0]], daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1], received
        listener.shutdown(socket.SHUT_RDWR)


async def connect_engine(url: str) -> None:
    """Connect as the project's tables do."""
    engine, _ = open_engine(make_url(url))
    engine.connect()


async def connect_journal(url: str) -> None:
    """Connect as the journal and the lease do."""
    engine, location = open_engine(make_url(url))
    PostgresBackend(cast("Project", SimpleNamespace(sqlalchemy_engine=engine, location=location))).connect()


@pytest.mark.parametrize("connect", [connect_engine, connect_journal])
@pytest.mark.parametrize("request_", [CLEARTEXT, MD5], ids=["in clear", "md5"])
async def test_a_thief_of_the_port_gets_no_password(connect: Callable[[str], Any], request_: bytes) -> None:
    """A program that asks for the password in clear or as an MD5 hash gets nothing, whatever part of pdkernel connects."""
    refused = pytest.raises((OperationalError, psycopg.OperationalError), match="authentication method requirement")
    with thief(request_) as (port, received), refused:
        await connect(f"postgresql://owner:{PASSWORD}@127.0.0.1:{port}/project")

    assert b"p" not in b"".join(received)[:1]


async def test_a_thief_of_the_port_that_asks_for_nothing_is_not_the_server() -> None:
    """A program that asks for no password is not taken for the server if the URL has a password."""
    refused = pytest.raises(psycopg.OperationalError, match="authentication method requirement")
    with thief(struct.pack("!I", 0)) as (port, _), refused:
        await connect_journal(f"postgresql://owner:{PASSWORD}@localhost:{port}/project")


async def test_a_password_file_is_not_for_a_thief(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a password in the URL, the one of a password file is not sent in clear either."""
    file = tmp_path_factory.mktemp("home") / "pgpass"
    file.write_text(f"*:*:*:*:{PASSWORD}\n")
    file.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(file))
    with thief(CLEARTEXT) as (port, received), pytest.raises(psycopg.OperationalError):
        await connect_journal(f"postgresql://owner@localhost:{port}/project")

    assert received == []


@pytest.mark.parametrize(
    ("url", "environ", "expected"),
    [
        ("postgresql://a:b@127.0.0.1/p", {}, "scram-sha-256"),
        ("postgresql://a:b@127.1.2.3/p", {}, "scram-sha-256"),
        ("postgresql://a:b@localhost:5433/p", {}, "scram-sha-256"),
        ("postgresql://a:b@[::1]:5433/p", {}, "scram-sha-256"),
        ("postgresql://a:b@0.0.0.0/p", {}, "scram-sha-256"),
        ("postgresql://a:b@/p?host=192.0.2.1&host=localhost:5433", {}, "scram-sha-256"),
        ("postgresql://a:b@db.invalid/p?hostaddr=127.0.0.1", {}, "scram-sha-256"),
        ("postgresql://a:b@/p", {"PGHOST": "localhost"}, "scram-sha-256"),
        ("postgresql://a@localhost/p", {"PGPASSWORD": "b"}, "scram-sha-256"),
        ("postgresql://a:b@localhost/p?sslmode=require", {}, "scram-sha-256"),
        ("postgresql://a@localhost/p", {}, "!password,!md5"),
        ("postgresql://a:b@localhost/p?require_auth=md5", {}, "md5"),
        ("postgresql://a:b@localhost/p", {"PGREQUIREAUTH": "md5"}, None),
        ("postgresql://a:b@localhost/p?sslmode=verify-full", {}, None),
        ("postgresql://a:b@localhost/p", {"PGSSLMODE": "verify-ca"}, None),
        ("postgresql://a:b@192.0.2.1/p", {}, None),
        ("postgresql://a:b@db.invalid/p", {}, None),
        ("postgresql://a:b@/p", {}, None),
        ("postgresql://a:b@/p?host=/run/postgresql", {}, None),
    ],
)
def test_the_authentication_of_a_server(url: str, environ: dict[str, str], expected: str | None) -> None:
    """A server of this machine must prove itself, unless TLS does it or the URL names another method."""
    assert demand_authentication(make_url(url), environ).query.get("require_auth") == expected


def test_the_location_has_no_addition() -> None:
    """What a person reads is the URL that they wrote, without the password."""
    _, location = open_engine(make_url("postgresql://a:b@127.0.0.1/p"))

    assert location == "postgresql://a:***@127.0.0.1/p"


def test_the_error_names_the_setting() -> None:
    """A server with another method gets an error that names both ways out."""
    fault = 'connection failed: authentication method requirement "scram-sha-256" failed: server requested a hashed password'

    error = unreachable_error("postgresql://a@localhost/p", fault, make_url("postgresql://a:b@localhost/p"))

    assert isinstance(error, DatabaseUnreachableError)
    assert "?require_auth=md5" in str(error.fix)

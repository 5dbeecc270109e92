"""Opens the project's database on a PostgreSQL server, and translates its errors."""

from __future__ import annotations

import ipaddress
import os
import socket
import time
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from pdkernel.common.blocking import IS_BLOCKING_FORBIDDEN, check_may_block
from pdkernel.common.version import INSTALL_COMMANDS
from pdkernel.errors import DatabaseUnreachableError, PdkernelError, ProjectError, RequestError

CONNECT_TIMEOUT_S = 10
"""Seconds until a connection to the server fails."""
OUTCOME_WAIT_S = 10.0
"""Seconds for which a server is asked whether it has committed a transaction."""
_OUTCOME_RETRY_S = 0.1
_DEFAULTS = {
    "connect_timeout": CONNECT_TIMEOUT_S,
    # a server that is cut off without a word is noticed, also while a statement waits for it
    "tcp_user_timeout": 1000 * CONNECT_TIMEOUT_S,
    "keepalives_idle": CONNECT_TIMEOUT_S,
    "application_name": "pdkernel",
}
"""Settings of a connection, unless the URL has them."""
_PING_SETTINGS = {
    "connect_timeout": 2,  # the shortest that libpq has
    "tcp_user_timeout": 1000,
    "keepalives_idle": 1,
    "keepalives_interval": 1,
    "keepalives_count": 2,
    "application_name": "pdkernel",
}
"""Settings of the connection that only asks for an answer."""
_NOT_CONNECTED, _INSUFFICIENT_PRIVILEGE = "08", "42501"


_REQUIRE_AUTH_VERSION = 160000  # of libpq
_VERIFIED_TLS = ("verify-ca", "verify-full")


def open_engine(url: URL) -> tuple[Engine, str]:
    """
    Return an engine that has not connected yet, and the URL without passwords.

    The URL of the engine has all that a connection needs; code that connects without the engine takes its arguments from there.

    Raises:
        ProjectError: The driver is not installed, or too old for a server of this machine.
    """
    password = url.query.get("password")
    if password is not None:  # SQLAlchemy hides only the password before the host
        url = url.difference_update_query(["password"]).set(password=str(password))
    checked = demand_authentication(url, os.environ)
    try:
        engine = create_engine(
            checked.set(drivername="postgresql+psycopg"),
            connect_args={name: value for name, value in _DEFAULTS.items() if name not in url.query},
            hide_parameters=True,
            pool_pre_ping=True,  # a server that was restarted has closed the connections
            max_overflow=60,  # threads of one process, as on SQLite
        )
    except ModuleNotFoundError as fault:
        raise ProjectError(
            "A project on Postgres needs a driver that is not installed.", fix=INSTALL_COMMANDS["postgres"]
        ) from fault
    if IS_BLOCKING_FORBIDDEN:
        event.listen(engine, "do_connect", lambda *_: check_may_block("connect"))
        event.listen(engine, "before_cursor_execute", lambda _connection, _cursor, sql, *_: check_may_block(sql))
    if checked is not url:
        from psycopg import pq  # optional

        if pq.version() < _REQUIRE_AUTH_VERSION:
            raise ProjectError(
                "The library libpq of the driver cannot check how a server of this machine authenticates.",
                fix="Install the driver with its own libpq: pip install 'psycopg[binary]>=3.2'",
            )
    return engine, url.difference_update_query(["sslpassword"]).render_as_string(hide_password=True)


def read_transaction_id(connection: Connection) -> str | None:
    """Return the id of the transaction, or None if it has written nothing."""
    row = connection.exec_driver_sql("select pg_current_xact_id_if_assigned()").one()
    return None if row[0] is None else str(row[0])


def was_committed(reads: Engine, transaction_id: str) -> bool:
    """
    Return whether the server has committed a transaction whose connection was lost; False if it does not answer in time.

    Args:
        reads: An engine whose connections are in autocommit mode.
        transaction_id: The result of `read_transaction_id`.
    """
    ends = time.monotonic() + OUTCOME_WAIT_S
    while True:
        try:
            with reads.connect() as connection:
                query = "select pg_xact_status(%s::xid8)"
                status = connection.exec_driver_sql(query, (transaction_id,)).scalar_one()
            if status != "in progress":  # the server has not noticed yet that the connection was lost
                return bool(status == "committed")
        except OperationalError:  # the server starts again, or another one takes over
            pass
        except DBAPIError:  # a server that was restored from a copy does not know the transaction
            return False
        if time.monotonic() + _OUTCOME_RETRY_S > ends:
            return False
        time.sleep(_OUTCOME_RETRY_S)


class Pinger:
    """
    Asks a server for an answer, on a connection with short time limits.

    Args:
        engine: The engine of the database.
        location: The database, for errors.
    """

    def __init__(self, engine: Engine, location: str) -> None:
        self._url = engine.url
        self._location = location
        self._arguments = {**engine.dialect.create_connect_args(engine.url)[1], **_PING_SETTINGS}
        self._connection: Any = None

    def ping(self) -> None:
        """Wait for one answer, which does not show whether the database has changed. Raises `DatabaseUnreachableError`."""
        import psycopg  # optional

        try:
            if self._connection is None:
                self._connection = psycopg.connect(autocommit=True, **self._arguments)
            self._connection.execute("select 1")
        except psycopg.Error as fault:
            self.close()
            raise unreachable_error(self._location, fault, self._url) from fault

    def close(self) -> None:
        """Close the connection; the next `ping` opens another one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def demand_authentication(url: URL, environ: Mapping[str, str]) -> URL:
    """
    Return *url* with the authentication that a server of this machine must ask for, unless the URL or *environ* names one.

    While the server is down, any process of this machine may listen on its port, and ask for the password in clear. With SCRAM
    the server proves that it knows the password, which does not leave this process. Without a password in *url* or *environ*,
    the server may ask for none, but not for that of a password file.
    """
    if (
        "require_auth" in url.query
        or "PGREQUIREAUTH" in environ
        or url.query.get("sslmode", environ.get("PGSSLMODE")) in _VERIFIED_TLS
        or not any(map(_is_this_machine, _tcp_hosts(url, environ)))
    ):
        return url
    has_password = url.password is not None or "PGPASSWORD" in environ
    return url.update_query_dict({"require_auth": "scram-sha-256" if has_password else "!password,!md5"})


def _tcp_hosts(url: URL, environ: Mapping[str, str]) -> list[str]:
    """Return the hosts of *url*, as libpq finds them; without those that are paths of Unix sockets."""
    found: list[str] = []
    for name, variable in (("host", "PGHOST"), ("hostaddr", "PGHOSTADDR")):
        given = url.query.get(name) or (url.host if name == "host" else None) or environ.get(variable, "")
        lists = [given] if isinstance(given, str) else given
        found += [host.strip() for each in lists for host in each.split(",")]
    # SQLAlchemy permits `?host=NAME:PORT`, several times
    names = [name if name.count(":") != 1 else name.partition(":")[0] for name in found]
    return [name for name in names if name and not name.startswith(("/", "@"))]


def _is_this_machine(host: str) -> bool:
    try:
        found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        return False
    return any(_is_local(family, address) for family, _, _, _, address in found)


def _is_local(family: int, address: Any) -> bool:
    """Return whether this machine has *address*: another one cannot be bound."""
    if ipaddress.ip_address(address[0].partition("%")[0]).is_loopback:
        return True
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind(address)
    except OSError:
        return False
    return True


def translate_error(fault: BaseException, location: str, url: URL) -> PdkernelError | None:
    """Return the error for a person that explains *fault*; None if *fault* is not an error of the server or of a connection."""
    if isinstance(fault, PoolTimeoutError):
        reason, state = "all connections of this process are in use", "pool"
    elif not isinstance(fault, DBAPIError) or isinstance(fault, IntegrityError):
        return None
    else:
        reason = _first_line(fault.orig, url)
        state = str(getattr(fault.orig, "sqlstate", None) or _NOT_CONNECTED)
    if isinstance(fault, DataError) and "NUL" in reason:
        return RequestError("A text contains a NUL character, which PostgreSQL cannot store.")
    if isinstance(fault, DataError | ProgrammingError) and state != _INSUFFICIENT_PRIVILEGE:
        return None
    if state.startswith((_NOT_CONNECTED, "57P")):
        return unreachable_error(location, reason, url)
    return ProjectError(
        f"The project's database {location} cannot be used: {reason}",
        fix="Check the server and the rights of the user in --database (PDKERNEL_DATABASE), and run the command again.",
    )


def unreachable_error(location: str, fault: object, url: URL) -> DatabaseUnreachableError:
    """Return the error of a database on a server that does not answer; *fault* is the error of its driver."""
    if "authentication method requirement" in str(fault):
        return DatabaseUnreachableError(
            f"The project's database {location} is not used: {_first_line(fault, url)}. On this machine, another program could "
            "have taken the port of the server.",
            fix="Let the server use SCRAM (`password_encryption = scram-sha-256`, and a new password), or name its method in "
            "--database (PDKERNEL_DATABASE): `?require_auth=md5`, or `?require_auth=none` for `trust`.",
        )
    return DatabaseUnreachableError(
        f"The project's database {location} cannot be reached: {_first_line(fault, url)}",
        fix="Check that the server runs, and that the URL in --database (PDKERNEL_DATABASE) is correct.",
    )


def _first_line(fault: Any, url: URL) -> str:
    lines = str(fault).strip().splitlines() or ["no reason given"]
    return lines[0].replace(str(url.password), "***") if url.password else lines[0]

"""Opens the project's database on a PostgreSQL server, and translates its errors."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, create_engine
from sqlalchemy.engine import URL
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from pdkernel.errors import DatabaseUnreachableError, PdkernelError, ProjectError, RequestError
from pdkernel.version import INSTALL_COMMANDS

CONNECT_TIMEOUT_S = 10
"""Seconds until a connection to the server fails."""
_DEFAULTS = {
    "connect_timeout": CONNECT_TIMEOUT_S,
    # a server that is cut off without a word is noticed, also while a statement waits for it
    "tcp_user_timeout": 1000 * CONNECT_TIMEOUT_S,
    "keepalives_idle": CONNECT_TIMEOUT_S,
    "application_name": "pdkernel",
}
"""Settings of a connection, unless the URL has them."""
_NOT_CONNECTED, _INSUFFICIENT_PRIVILEGE = "08", "42501"


def open_engine(url: URL) -> tuple[Engine, str]:
    """
    Return an engine that has not connected yet, and the URL without passwords.

    Raises:
        ProjectError: The driver is not installed.
    """
    password = url.query.get("password")
    if password is not None:  # SQLAlchemy hides only the password before the host
        url = url.difference_update_query(["password"]).set(password=str(password))
    try:
        engine = create_engine(
            url.set(drivername="postgresql+psycopg"),
            connect_args={name: value for name, value in _DEFAULTS.items() if name not in url.query},
            hide_parameters=True,
            pool_pre_ping=True,  # a server that was restarted has closed the connections
            max_overflow=60,  # threads of one process, as on SQLite
        )
    except ModuleNotFoundError as fault:
        raise ProjectError(
            "A project on Postgres needs a driver that is not installed.", fix=INSTALL_COMMANDS["postgres"]
        ) from fault
    return engine, url.difference_update_query(["sslpassword"]).render_as_string(hide_password=True)


def translate_error(fault: BaseException, location: str, url: URL) -> PdkernelError | None:
    """The error for a person that explains *fault*; None if *fault* is not an error of the server or of a connection."""
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
    """The error of a database on a server that does not answer; *fault* is the error of its driver."""
    return DatabaseUnreachableError(
        f"The project's database {location} cannot be reached: {_first_line(fault, url)}",
        fix="Check that the server runs, and that the URL in --database (PDKERNEL_DATABASE) is correct.",
    )


def _first_line(fault: Any, url: URL) -> str:
    lines = str(fault).strip().splitlines() or ["no reason given"]
    return lines[0].replace(str(url.password), "***") if url.password else lines[0]

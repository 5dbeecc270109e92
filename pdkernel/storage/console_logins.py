"""
Logins of the console: one-time codes, and sessions of persons.

They are in the database, so that a person may log in at one server process and go on at another. Only digests are stored.
"""

from __future__ import annotations

from sqlalchemy import delete, func, insert, select

from pdkernel.common.clock import Clock
from pdkernel.storage.connect_tokens import hash_token
from pdkernel.storage.database import Database
from pdkernel.storage.schema import console_logins

_CODE, _SESSION = "code", "session"


class ConsoleLoginTable:
    """The codes and sessions that have not expired."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def add_code(self, code: str, lifetime_s: float, *, interval_s: float) -> bool:
        """Store a one-time code; False, without a change, if another code was stored in the last *interval_s* seconds."""
        now = self._clock.now().timestamp()
        newest = select(func.max(console_logins.c.created)).where(console_logins.c.kind == _CODE)
        with self._database.write() as connection:
            self._database.lock(connection, "console_logins")
            last = connection.execute(newest).scalar_one()
            if last is not None and now - last < interval_s:
                return False
            connection.execute(delete(console_logins).where(console_logins.c.expires <= now))
            row = {"digest": hash_token(code), "kind": _CODE, "created": now, "expires": now + lifetime_s}
            connection.execute(insert(console_logins).values(row))
        return True

    def use_code(self, code: str) -> bool:
        """Remove a code; False if it was not stored, was used or has expired."""
        return self._remove(code, _CODE)

    def add_session(self, token: str, lifetime_s: float) -> None:
        """Store the session of *token*."""
        now = self._clock.now().timestamp()
        row = {"digest": hash_token(token), "kind": _SESSION, "created": now, "expires": now + lifetime_s}
        with self._database.write() as connection:
            connection.execute(insert(console_logins).values(row))

    def find_session(self, token: str) -> float | None:
        """The end of the session of *token* in seconds since 1970; None if it has ended."""
        query = select(console_logins.c.expires).where(
            console_logins.c.digest == hash_token(token),
            console_logins.c.kind == _SESSION,
            console_logins.c.expires > self._clock.now().timestamp(),
        )
        with self._database.read() as connection:
            expires: float | None = connection.execute(query).scalar_one_or_none()
        return expires

    def end_session(self, token: str) -> None:
        """End the session of *token*."""
        self._remove(token, _SESSION)

    def _remove(self, text: str, kind: str) -> bool:
        table, now = console_logins, self._clock.now().timestamp()
        found = delete(table).where(table.c.digest == hash_token(text), table.c.kind == kind, table.c.expires > now)
        with self._database.write() as connection:
            return connection.execute(found).rowcount > 0

"""
Endpoint keys of workflows that no file names one for.

Knows that a key is made once and stays, so that a URL is the same after a restart. It is random: whoever does not know
it cannot call an endpoint without auth.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from sqlalchemy import select

from pdkernel.clock import Clock
from pdkernel.project.database import Database
from pdkernel.project.rows import put_once
from pdkernel.project.schema import endpoints

_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_LENGTH = 16


class EndpointTable:
    """The keys, by where a workflow comes from: relative to the project's own place, so that both may move."""

    def __init__(self, database: Database, clock: Clock, place: Path) -> None:
        self._database = database
        self._clock = clock
        self._place = place

    def key(self, source: Path) -> str:
        """The key of the workflow in *source*; made at the first call, by whichever process comes first."""
        source = source.resolve()
        place = self._place.resolve()
        name = source.relative_to(place).as_posix() if source.is_relative_to(place) else source.as_posix()
        query = select(endpoints.c.key).where(endpoints.c.source == name)
        with self._database.read() as connection:
            found: str | None = connection.execute(query).scalar_one_or_none()
        if found is not None:
            return found
        # not from `ids`: nobody guesses it, whatever ids a caller chose
        made = "eo" + "".join(secrets.choice(_LETTERS) for _ in range(_LENGTH))
        with self._database.write() as connection:
            put_once(connection, endpoints, source=name, key=made, created=self._clock.now().timestamp())
            kept: str = connection.execute(query).scalar_one()
        return kept

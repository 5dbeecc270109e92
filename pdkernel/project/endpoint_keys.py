"""
Endpoint keys of workflows that no file names one for, and of deployed triggers; ids of workflows that have none of their own.

Knows that each is made once and stays, so that a URL is the same after a restart. It is random: whoever does not know
the key cannot call an endpoint without auth. An id opens nothing.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from sqlalchemy import select

from pdkernel.clock import Clock
from pdkernel.project.database import Database
from pdkernel.project.schema import endpoints
from pdkernel.project.upsert import insert_if_absent

TRIGGER_SOURCE_PREFIX = "trigger:"
"""What a deployed trigger's id is written after, where a workflow has its path."""

_ID = "id://"
"""What a workflow's path is written after where its id is kept; no path begins so."""
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_LENGTH = 16


class EndpointKeyTable:
    """The keys, by where a workflow comes from: relative to the project's own place, so that both may move."""

    def __init__(self, database: Database, clock: Clock, base_folder: Path) -> None:
        self._database = database
        self._clock = clock
        self._place = base_folder

    def ensure_workflow_key(self, source: Path) -> str:
        """The key of the workflow in *source*; made at the first call, by whichever process comes first."""
        return self._key(self._name(source), "eo")

    def workflow_id(self, source: Path) -> str:
        """The id of the workflow in *source*, which no file names; made as its key is."""
        return self._key(f"{_ID}{self._name(source)}", "p_")

    def ensure_trigger_key(self, trigger_id: str) -> str:
        """The key of the endpoint that wakes a deployed trigger; made at the first call."""
        return self._key(format_trigger_source(trigger_id), "en")

    def find_trigger_id(self, key: str) -> str | None:
        """The id of the deployed trigger whose endpoint has that key, or None."""
        query = select(endpoints.c.source).where(endpoints.c.key == key.lower())
        with self._database.read() as connection:
            found: str | None = connection.execute(query).scalar_one_or_none()
        return (
            found.removeprefix(TRIGGER_SOURCE_PREFIX)
            if found is not None and found.startswith(TRIGGER_SOURCE_PREFIX)
            else None
        )

    def _name(self, source: Path) -> str:
        source = source.resolve()
        place = self._place.resolve()
        return source.relative_to(place).as_posix() if source.is_relative_to(place) else source.as_posix()

    def _key(self, name: str, prefix: str) -> str:
        query = select(endpoints.c.key).where(endpoints.c.source == name)
        with self._database.read() as connection:
            found: str | None = connection.execute(query).scalar_one_or_none()
        if found is not None:
            return found
        # not from `ids`: nobody guesses it, whatever ids a caller chose
        made = prefix + "".join(secrets.choice(_LETTERS) for _ in range(_LENGTH))
        with self._database.write() as connection:
            insert_if_absent(connection, endpoints, source=name, key=made, created=self._clock.now().timestamp())
            kept: str = connection.execute(query).scalar_one()
        return kept


def format_trigger_source(trigger_id: str) -> str:
    """What stands for a deployed trigger where a workflow has its path."""
    return f"{TRIGGER_SOURCE_PREFIX}{trigger_id}"

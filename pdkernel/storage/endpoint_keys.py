"""
Endpoint keys of workflows and deployed triggers, and workflow ids, unless a file sets them.

Each is created once and stored, so that a URL is the same after a restart. A key is random: an endpoint without auth can be
called only with its URL. An id gives no access.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from sqlalchemy import select

from pdkernel.common.clock import Clock
from pdkernel.storage.database import Database
from pdkernel.storage.schema import endpoints
from pdkernel.storage.statements import insert_if_absent

TRIGGER_SOURCE_PREFIX = "trigger:"
"""Prefix of a deployed trigger's id in the column `endpoints.source`."""

_ID = "id://"
"""Prefix of a workflow's path in the row of its id. No path starts with this prefix."""
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_LENGTH = 16


class EndpointKeyTable:
    """Keys by workflow path. A path is relative to the project's folder, so that both can be moved together."""

    def __init__(self, database: Database, clock: Clock, base_folder: Path) -> None:
        self._database = database
        self._clock = clock
        self._place = base_folder

    def ensure_workflow_key(self, source: Path) -> str:
        """Return the endpoint key of the workflow in *source*; the first call creates the key."""
        return self._key(self._name(source), "eo")

    def workflow_id(self, source: Path) -> str:
        """Return the id of the workflow in *source*; the first call creates the id."""
        return self._key(f"{_ID}{self._name(source)}", "p_")

    def ensure_trigger_key(self, trigger_id: str) -> str:
        """Return the key of a deployed trigger's endpoint; the first call creates the key."""
        return self._key(format_trigger_source(trigger_id), "en")

    def find_trigger_id(self, key: str) -> str | None:
        """Return the id of the deployed trigger whose endpoint has *key*, or None."""
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
        # not from `ids`: a key must be random, whatever id generator the caller passes
        created = prefix + "".join(secrets.choice(_LETTERS) for _ in range(_LENGTH))
        with self._database.write() as connection:
            insert_if_absent(connection, endpoints, source=name, key=created, created=self._clock.now().timestamp())
            stored_key: str = connection.execute(query).scalar_one()
        return stored_key


def format_trigger_source(trigger_id: str) -> str:
    """Return the value of the column `endpoints.source` for a deployed trigger."""
    return f"{TRIGGER_SOURCE_PREFIX}{trigger_id}"

"""Settings of the project by name: JSON values without secrets."""

from __future__ import annotations

import json

from sqlalchemy import delete, select

from pdkernel.model import JSON
from pdkernel.project.database import Database
from pdkernel.project.schema import settings
from pdkernel.project.upsert import upsert_row


class SettingsTable:
    """JSON values by name."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, name: str, default: JSON = None) -> JSON:
        """The setting, or *default*."""
        with self._database.read() as connection:
            text = connection.execute(select(settings.c.value).where(settings.c.name == name)).scalar_one_or_none()
        return default if text is None else _load(text)

    def set(self, name: str, value: JSON) -> None:
        """Store *value*, in place of an earlier one."""
        with self._database.write() as connection:
            upsert_row(connection, settings, "name", name=name, value=json.dumps(value))

    def remove(self, name: str) -> bool:
        """Remove the setting, so that the default applies; False if it was not set."""
        with self._database.write() as connection:
            return connection.execute(delete(settings).where(settings.c.name == name)).rowcount > 0

    def all_settings(self) -> dict[str, JSON]:
        """All stored settings, by name."""
        with self._database.read() as connection:
            rows = connection.execute(select(settings.c.name, settings.c.value).order_by(settings.c.name)).all()
        return {name: _load(text) for name, text in rows}


def _load(text: str) -> JSON:
    value: JSON = json.loads(text)
    return value

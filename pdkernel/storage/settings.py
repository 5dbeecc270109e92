"""Values of the project by name: settings, which are plain JSON, and encrypted secrets, which steps cannot read."""

from __future__ import annotations

import json

from sqlalchemy import delete, select

from pdkernel.model import JSON
from pdkernel.storage.database import Database
from pdkernel.storage.schema import secrets, settings
from pdkernel.storage.statements import insert_if_absent, upsert_row
from pdkernel.storage.vault import Vault, locate


class SettingsTable:
    """The project's settings: JSON values by name, without secrets."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, name: str, default: JSON = None) -> JSON:
        """The value of the setting *name*, or *default*."""
        with self._database.read() as connection:
            text = connection.execute(select(settings.c.value).where(settings.c.name == name)).scalar_one_or_none()
        return default if text is None else _load(text)

    def set(self, name: str, value: JSON) -> None:
        """Store *value*, in place of an earlier one."""
        with self._database.write() as connection:
            upsert_row(connection, settings, "name", name=name, value=json.dumps(value))

    def set_item(self, name: str, key: str, value: JSON) -> None:
        """Store *value* under *key* of the setting *name*, a JSON object. Items that other processes set at the same time stay."""
        query = select(settings.c.value).where(settings.c.name == name)
        with self._database.write() as connection:
            self._database.lock(connection, f"settings/{name}")
            text = connection.execute(query).scalar_one_or_none()
            stored = None if text is None else _load(text)
            items = {**(stored if isinstance(stored, dict) else {}), key: value}
            upsert_row(connection, settings, "name", name=name, value=json.dumps(items))

    def remove(self, name: str) -> bool:
        """Remove the setting, so that the default applies; False if it was not set."""
        with self._database.write() as connection:
            return connection.execute(delete(settings).where(settings.c.name == name)).rowcount > 0

    def all_settings(self) -> dict[str, JSON]:
        """All stored settings, by name."""
        with self._database.read() as connection:
            rows = connection.execute(select(settings.c.name, settings.c.value).order_by(settings.c.name)).all()
        return {name: _load(text) for name, text in rows}


class SecretTable:
    """The project's own secrets: encrypted texts by name."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault

    def get(self, name: str) -> str | None:
        """The secret *name*, or None."""
        with self._database.read() as connection:
            query = select(secrets.c.sealed_value).where(secrets.c.name == name)
            sealed = connection.execute(query).scalar_one_or_none()
        return None if sealed is None else self._vault.unseal(sealed, _vault_context(name))

    def set(self, name: str, value: str) -> None:
        """Store *value*, in place of an earlier one."""
        with self._database.write() as connection:
            upsert_row(
                connection, secrets, "name", name=name, sealed_value=self._vault.seal(value, _vault_context(name))
            )

    def get_or_set(self, name: str, value: str) -> str:
        """The secret *name*; set to *value* first if it does not exist. Processes that call at the same time get the same secret."""
        found = self.get(name)
        if found is not None:
            return found
        with self._database.write() as connection:
            insert_if_absent(connection, secrets, name=name, sealed_value=self._vault.seal(value, _vault_context(name)))
        return self.get(name) or value

    def remove(self, name: str) -> bool:
        """Remove the secret; False if it does not exist."""
        with self._database.write() as connection:
            return connection.execute(delete(secrets).where(secrets.c.name == name)).rowcount > 0


def _load(text: str) -> JSON:
    value: JSON = json.loads(text)
    return value


def _vault_context(name: str) -> str:
    return locate(secrets.c.sealed_value, name=name)

"""
Values of the project by name: settings, secrets, environment variables with values of secret props, and states of notebooks.

Settings are plain JSON; all others are encrypted. Steps cannot read secrets; the engine decides which variables a step gets. The
state of a notebook's session survives a restart of the kernel; an event or an export in it may contain secrets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TypeVar

from sqlalchemy import delete, select

from pdkernel.common.clock import Clock
from pdkernel.errors import RequestError
from pdkernel.model import JSON, VARIABLE_NAME
from pdkernel.storage.database import Database
from pdkernel.storage.schema import notebooks, secrets, settings, variables
from pdkernel.storage.statements import CompiledQuery, insert_if_absent, upsert_row
from pdkernel.storage.vault import Vault, locate

T = TypeVar("T")


class NotebookStateTable:
    """A JSON object for each notebook; a later `save` overwrites an earlier one."""

    def __init__(self, database: Database, vault: Vault, clock: Clock) -> None:
        self._database = database
        self._vault = vault
        self._clock = clock

    def exists(self, notebook_key: str) -> bool:
        """Return whether a state of the notebook *notebook_key* is saved."""
        with self._database.read() as connection:
            query = select(notebooks.c.notebook).where(notebooks.c.notebook == notebook_key)
            return connection.execute(query).first() is not None

    def load(self, notebook_key: str, kind: type[T]) -> T | None:
        """Return the saved state of the notebook *notebook_key*, or None. Raises `ProjectError` if it does not fit *kind*."""
        query = select(notebooks.c.sealed_state).where(notebooks.c.notebook == notebook_key)
        with self._database.read() as connection:
            sealed = connection.execute(query).scalar_one_or_none()
        return None if sealed is None else self._vault.unseal_json(sealed, _state_context(notebook_key), kind)

    def save(self, notebook_key: str, state: object) -> None:
        """Save *state*, a value with a JSON form, for the notebook *notebook_key*."""
        sealed = self._vault.seal_json(state, _state_context(notebook_key))
        now = self._clock.now().timestamp()
        with self._database.write() as connection:
            upsert_row(connection, notebooks, "notebook", notebook=notebook_key, sealed_state=sealed, updated=now)


def _state_context(notebook_key: str) -> str:
    return locate(notebooks.c.sealed_state, notebook=notebook_key)


MAX_VALUE_BYTES = 64 * 1024
"""Size limit of a variable's value in UTF-8 (platform documentation of environment variables)."""
RESERVED_PREFIX = "PIPEDREAM_"
_SECRET_PROP_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\.[^\0]+\Z")
_ALL = CompiledQuery(select(variables.c.name, variables.c.sealed_value))


class VariableTable:
    """Environment variables by name, and values of secret props by `STEP.PROP` or their key (`analysis.SecretProp`)."""

    def __init__(self, database: Database, vault: Vault, clock: Clock) -> None:
        self._database = database
        self._vault = vault
        self._clock = clock

    def set(self, name: str, value: str) -> None:
        """
        Store *value* under *name*, in place of an earlier one.

        Raises:
            RequestError: The name is invalid or reserved, or the value contains NUL or is too long.
        """
        check_variable(name, value)
        sealed = self._vault.seal(value, _variable_context(name))
        with self._database.write() as connection:
            upsert_row(
                connection, variables, "name", name=name, sealed_value=sealed, updated=self._clock.now().timestamp()
            )

    def remove(self, name: str) -> bool:
        """Remove the variable; False if it does not exist."""
        with self._database.write() as connection:
            return connection.execute(delete(variables).where(variables.c.name == name)).rowcount > 0

    def list(self) -> Sequence[str]:
        """Return the names of all environment variables, sorted."""
        return [name for name in self._list_names() if not is_secret_prop_name(name)]

    def list_secret_props(self) -> Sequence[str]:
        """Return the names of all secret props that have a value, sorted."""
        return [name for name in self._list_names() if is_secret_prop_name(name)]

    def _list_names(self) -> Sequence[str]:
        with self._database.read() as connection:
            return list(connection.execute(select(variables.c.name).order_by(variables.c.name)).scalars())

    def values(self) -> dict[str, str]:
        """Return every variable and every secret prop with its value."""
        with self._database.read() as connection:
            rows = _ALL.fetch_all(connection)
        return {name: self._vault.unseal(sealed, _variable_context(name)) for name, sealed in rows}


def is_secret_prop_name(name: str) -> bool:
    """Return whether *name* is that of a secret prop, and not of an environment variable."""
    return _SECRET_PROP_NAME.match(name) is not None


def format_variable_ref(name: str) -> str:
    """Return the reference that replaces the value of *name* in redacted text: `env/NAME`, or `prop/STEP/PROP/KEY...`."""
    return f"prop/{name.partition('#')[0].replace('.', '/')}" if is_secret_prop_name(name) else f"env/{name}"


def check_variable(name: str, value: str) -> None:
    """
    Refuse an invalid environment variable or secret prop. The error's message never contains the value.

    Raises:
        RequestError: The name is invalid or reserved, or the value contains NUL or is too long.
    """
    if not VARIABLE_NAME.match(name) and not is_secret_prop_name(name):
        raise RequestError(
            f"{name!r} is not a valid name of an environment variable.",
            fix="Use letters, digits and underscores, with a letter or an underscore first.",
        )
    if name.upper().startswith(RESERVED_PREFIX):
        raise RequestError(
            f"{name} cannot be set, because the platform reserves names that begin with {RESERVED_PREFIX}.",
            fix="Choose another name.",
        )
    if "\0" in value:
        raise RequestError(
            f"The value of {name} contains a NUL character, which an environment variable cannot contain."
        )
    size = len(value.encode("utf-8", "surrogatepass"))
    if size > MAX_VALUE_BYTES:
        raise RequestError(
            f"The value of {name} has {size} bytes; the maximum is {MAX_VALUE_BYTES} bytes.",
            fix="Store the value in a file, and the path of the file in the variable.",
        )


def _variable_context(name: str) -> str:
    return locate(variables.c.sealed_value, name=name)


class SettingsTable:
    """The project's settings: JSON values by name, without secrets."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, name: str, default: JSON = None) -> JSON:
        """Return the value of the setting *name*, or *default*."""
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
        """Return all stored settings, by name."""
        with self._database.read() as connection:
            rows = connection.execute(select(settings.c.name, settings.c.value).order_by(settings.c.name)).all()
        return {name: _load(text) for name, text in rows}


class SecretTable:
    """The project's own secrets: encrypted texts by name."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault

    def get(self, name: str) -> str | None:
        """Return the secret *name*, or None."""
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
        """Return the secret *name*; set to *value* first if it does not exist. Processes that call at the same time get the same secret."""
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

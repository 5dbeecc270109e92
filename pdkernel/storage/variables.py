"""
Environment variables and values of secret props of the project, encrypted in the database.

This module checks names and sizes. The engine decides which values a step gets.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sqlalchemy import delete, select

from pdkernel.common.clock import Clock
from pdkernel.errors import RequestError
from pdkernel.model import VARIABLE_NAME
from pdkernel.storage.database import Database
from pdkernel.storage.schema import variables
from pdkernel.storage.statements import CompiledQuery, upsert_row
from pdkernel.storage.vault import Vault, locate

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
        sealed = self._vault.seal(value, _vault_context(name))
        with self._database.write() as connection:
            upsert_row(
                connection, variables, "name", name=name, sealed_value=sealed, updated=self._clock.now().timestamp()
            )

    def remove(self, name: str) -> bool:
        """Remove the variable; False if it does not exist."""
        with self._database.write() as connection:
            return connection.execute(delete(variables).where(variables.c.name == name)).rowcount > 0

    def list(self) -> Sequence[str]:
        """The names of all environment variables, sorted."""
        return [name for name in self._list_names() if not is_secret_prop_name(name)]

    def list_secret_props(self) -> Sequence[str]:
        """The names of all secret props that have a value, sorted."""
        return [name for name in self._list_names() if is_secret_prop_name(name)]

    def _list_names(self) -> Sequence[str]:
        with self._database.read() as connection:
            return list(connection.execute(select(variables.c.name).order_by(variables.c.name)).scalars())

    def values(self) -> dict[str, str]:
        """Every variable and every secret prop with its value."""
        with self._database.read() as connection:
            rows = _ALL.fetch_all(connection)
        return {name: self._vault.unseal(sealed, _vault_context(name)) for name, sealed in rows}


def is_secret_prop_name(name: str) -> bool:
    """Whether *name* is that of a secret prop, and not of an environment variable."""
    return _SECRET_PROP_NAME.match(name) is not None


def format_variable_ref(name: str) -> str:
    """The reference that replaces the value of *name* in redacted text: `env/NAME`, or `prop/STEP/PROP/KEY...`."""
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


def _vault_context(name: str) -> str:
    return locate(variables.c.sealed_value, name=name)

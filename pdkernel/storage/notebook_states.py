"""
The state of each notebook's session, which survives a restart of the kernel: last event, external user, exports, pins.

The whole state is encrypted, because an event or an export may contain secrets.
"""

from __future__ import annotations

from typing import TypeVar

from sqlalchemy import select

from pdkernel.common.clock import Clock
from pdkernel.storage.database import Database
from pdkernel.storage.schema import notebooks
from pdkernel.storage.statements import upsert_row
from pdkernel.storage.vault import Vault, locate

T = TypeVar("T")


class NotebookStateTable:
    """A JSON object for each notebook; a later `save` overwrites an earlier one."""

    def __init__(self, database: Database, vault: Vault, clock: Clock) -> None:
        self._database = database
        self._vault = vault
        self._clock = clock

    def exists(self, notebook_key: str) -> bool:
        """Whether a state of the notebook *notebook_key* is saved."""
        with self._database.read() as connection:
            query = select(notebooks.c.notebook).where(notebooks.c.notebook == notebook_key)
            return connection.execute(query).first() is not None

    def load(self, notebook_key: str, kind: type[T]) -> T | None:
        """The saved state of the notebook *notebook_key*, or None. Raises `ProjectError` if it does not fit *kind*."""
        query = select(notebooks.c.sealed_state).where(notebooks.c.notebook == notebook_key)
        with self._database.read() as connection:
            sealed = connection.execute(query).scalar_one_or_none()
        return None if sealed is None else self._vault.unseal_json(sealed, _vault_context(notebook_key), kind)

    def save(self, notebook_key: str, state: object) -> None:
        """Save *state*, a value with a JSON form, for the notebook *notebook_key*."""
        sealed = self._vault.seal_json(state, _vault_context(notebook_key))
        now = self._clock.now().timestamp()
        with self._database.write() as connection:
            upsert_row(connection, notebooks, "notebook", notebook=notebook_key, sealed_state=sealed, updated=now)


def _vault_context(notebook_key: str) -> str:
    return locate(notebooks.c.sealed_state, notebook=notebook_key)

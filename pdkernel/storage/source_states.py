"""
The state of event sources between their runs: `$.service.db`, and the events that were emitted.

The whole state is encrypted, because sources store tokens in it. A source's key is a JSON list whose first item is the owner: a
workflow or a deployed trigger. The engine builds the key and recognises events that were emitted before.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection, delete, select

from pdkernel.common.clock import Clock
from pdkernel.storage.database import Database
from pdkernel.storage.schema import source_state
from pdkernel.storage.sealed_columns import locate
from pdkernel.storage.upsert import upsert_row
from pdkernel.storage.vault import Vault

T = TypeVar("T")


class SourceStateTable:
    """A JSON object for each source, by a key that the caller chooses."""

    def __init__(self, database: Database, vault: Vault, clock: Clock) -> None:
        self._database = database
        self._vault = vault
        self._clock = clock

    def load(self, state_key: str) -> dict[str, Any]:
        """The state of the source *state_key*; empty before the first update."""
        with self._database.read() as connection:
            return self._load(connection, state_key)

    def update(
        self,
        state_key: str,
        change: Callable[[dict[str, Any]], T],
        store_result: Callable[[Connection, T], object] = lambda _connection, _result: None,
    ) -> T:
        """
        Change the state of a source in one transaction.

        Args:
            state_key: The source.
            change: Changes the state in place; `update` returns its result.
            store_result: Stores that result in the same transaction.
        """
        with self._database.write() as connection:
            self._database.lock(connection, f"source_state/{state_key}")
            state = self._load(connection, state_key)
            result = change(state)
            store_result(connection, result)
            sealed = self._vault.seal_json(state, _vault_context(state_key))
            now = self._clock.now().timestamp()
            upsert_row(connection, source_state, "source", source=state_key, sealed_state=sealed, updated=now)
        return result

    def remove(self, source: str) -> bool:
        """Remove the state of *source*; False if it does not exist."""
        with self._database.write() as connection:
            return connection.execute(delete(source_state).where(source_state.c.source == source)).rowcount > 0

    def _load(self, connection: Connection, source: str) -> dict[str, Any]:
        query = select(source_state.c.sealed_state).where(source_state.c.source == source)
        sealed = connection.execute(query).scalar_one_or_none()
        return {} if sealed is None else self._vault.unseal_json(sealed, _vault_context(source), dict[str, Any])


def delete_source_states(connection: Connection, owner: str) -> None:
    """Remove the states of all sources of *owner* (a workflow or a deployed trigger), in the caller's transaction."""
    begin = f"{json.dumps([owner])[:-1]}, "
    connection.execute(delete(source_state).where(source_state.c.source.startswith(begin, autoescape=True)))


def _vault_context(source: str) -> str:
    return locate(source_state.c.sealed_state, source=source)

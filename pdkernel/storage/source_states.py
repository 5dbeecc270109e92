"""
The state of event sources between their runs: `$.service.db`, the events that were emitted, and which server runs a source now.

The whole state is encrypted, because sources store tokens in it. A source's key is a JSON list whose first item is the owner: a
workflow or a deployed trigger. The engine builds the key and recognises events that were emitted before.

Two runs of a source at a time would overwrite each other's state, so a server takes the turn of a source. A turn has a lease by the
database's clock: the turn of a server that dies or freezes ends by itself. Only a project on Postgres has several servers.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, and_, delete, func, or_, select

from pdkernel.common.clock import Clock
from pdkernel.errors import ProjectError
from pdkernel.storage.database import Database
from pdkernel.storage.schema import source_state, source_turns
from pdkernel.storage.statements import upsert_row
from pdkernel.storage.vault import Vault, locate

TURN_LEASE_S = 10.0
"""Seconds until a turn that is not extended ends."""

_NOW = func.extract("epoch", func.clock_timestamp())


class SourceTurnTable:
    """
    The turns of sources. A turn is taken by an *owner*, an id that is new for each turn.

    Attributes:
        lease_s: Seconds until a turn that is not extended ends.
    """

    def __init__(self, database: Database, *, lease_s: float = TURN_LEASE_S) -> None:
        self._database = database
        self.lease_s = lease_s

    def take(self, source: str, owner: str) -> bool:
        """Take the turn of *source*, or extend it; False if another owner has it."""
        from sqlalchemy.dialects.postgresql import insert  # slow to import; only servers on PostgreSQL take turns

        values = {"owner": owner, "until": _NOW + self.lease_s}
        is_free = or_(source_turns.c.owner == owner, source_turns.c.until < _NOW)
        taken = insert(source_turns).values(source=source, **values)
        query = taken.on_conflict_do_update(index_elements=["source"], set_=values, where=is_free)
        with self._database.write() as connection:
            return connection.execute(query.returning(source_turns.c.owner)).first() is not None

    def release(self, source: str, owner: str) -> None:
        """End the turn, unless another owner has it."""
        with self._database.write() as connection:
            connection.execute(delete(source_turns).where(_is(source, owner)))

    @staticmethod
    def check(connection: Connection, source: str, owner: str) -> None:
        """Raise `ProjectError` if another owner may have had the turn, which cannot change before *connection* commits."""
        if connection.execute(select(1).where(_is(source, owner)).with_for_update()).first() is None:
            raise ProjectError(
                f"Another server runs the source {source} now, because this one could not reach the database in time. "
                "The events of this run were not stored.",
                fix="No action is needed: the other server continues with the state before this run.",
            )


def _is(source: str, owner: str) -> ColumnElement[bool]:
    return and_(source_turns.c.source == source, source_turns.c.owner == owner)


T = TypeVar("T")


class SourceStateTable:
    """A JSON object for each source, by a key that the caller chooses."""

    def __init__(self, database: Database, vault: Vault, clock: Clock) -> None:
        self._database = database
        self._vault = vault
        self._clock = clock

    def load(self, state_key: str) -> dict[str, Any]:
        """Return the state of the source *state_key*; empty before the first update."""
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

"""
Which server runs an event source now. Two runs of a source at a time would overwrite each other's state.

A turn has a lease by the database's clock: the turn of a server that dies or freezes ends by itself. Only a project on Postgres
has several servers.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, and_, delete, func, or_, select
from sqlalchemy.dialects.postgresql import insert

from pdkernel.errors import ProjectError
from pdkernel.storage.database import Database
from pdkernel.storage.schema import source_turns

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

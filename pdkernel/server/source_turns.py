"""One run of an event source at a time: by a lock in this process, and by the database over all servers on Postgres."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from weakref import WeakValueDictionary

from sqlalchemy import Connection

from pdkernel.blocking import run_blocking
from pdkernel.clock import IdGenerator
from pdkernel.engine.event_sources import SourceEvent, SourceRequest
from pdkernel.errors import PdkernelError
from pdkernel.project.source_turns import SourceTurnTable

Guard = Callable[[SourceRequest], SourceRequest]
"""Returns the request, whose state is stored only if no other server has taken the turn."""

_RETRY_INTERVAL_S = 0.25


class SourceTurns:
    """
    The turns of sources that this server runs. Belongs to one event loop.

    Args:
        table: The turns of all servers, or None if this server is the only one.
        ids: For the owners of turns.
    """

    def __init__(self, table: SourceTurnTable | None, ids: IdGenerator) -> None:
        self._table = table
        self._ids = ids
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def is_taken(self, source: str) -> bool:
        """Whether this server runs the source, or waits for it."""
        lock = self._locks.get(source)
        return lock is not None and lock.locked()

    @asynccontextmanager
    async def take(self, source: str) -> AsyncIterator[Guard]:
        """Wait for the turn of *source*, which ends with the block."""
        lock = self._locks.get(source)
        if lock is None:
            lock = self._locks[source] = asyncio.Lock()
        async with lock:
            if self._table is None:
                yield lambda request: request
                return
            owner = self._ids.new("", 20)
            while not await run_blocking(self._table.take, source, owner):
                await asyncio.sleep(_RETRY_INTERVAL_S)
            extending = asyncio.create_task(_extend(self._table, source, owner))
            try:
                yield lambda request: _guard(request, source, owner)
            finally:
                extending.cancel()
                with contextlib.suppress(PdkernelError):  # an unreadable database: the lease ends the turn
                    await asyncio.shield(run_blocking(self._table.release, source, owner))


def _guard(request: SourceRequest, source: str, owner: str) -> SourceRequest:
    def store_events(connection: Connection, events: Sequence[SourceEvent]) -> None:
        SourceTurnTable.check(connection, source, owner)
        request.store_events(connection, events)

    return replace(request, store_events=store_events)


async def _extend(table: SourceTurnTable, source: str, owner: str) -> None:
    """Extend the turn until the task is cancelled, or until another server has the turn."""
    is_owner = True
    while is_owner:
        await asyncio.sleep(table.lease_s / 4)
        with contextlib.suppress(PdkernelError):  # an unreadable database is tried again
            is_owner = await run_blocking(table.take, source, owner)

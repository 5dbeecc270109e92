"""
One run of an event source at a time: by a lock in this process, and by the database over all servers on Postgres.

A source runs for an occasion: a request, or a tick of its timer. The occasion ends in the transaction that stores the source's
state and events, so a run that is interrupted takes place again, and a run that was completed does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from weakref import WeakValueDictionary

from sqlalchemy import Connection

from pdkernel.common.blocking import run_blocking
from pdkernel.common.clock import Clock, IdGenerator
from pdkernel.engine.event_sources import SourceEvent, SourceRequest, SourceResult, SourceRunner
from pdkernel.engine.http_response import HttpResponse
from pdkernel.errors import DamagedRecordError, PdkernelError, ProjectError
from pdkernel.model import JSON
from pdkernel.storage.source_states import SourceTurnTable

Guard = Callable[[SourceRequest], SourceRequest]
"""Returns the request, whose state is stored only if no other server has taken the turn."""

_RETRY_INTERVAL_S = 0.25
MAX_TICK_TRIES = 3
"""How often the process of a source may be ended in one tick of its timer; then the source runs at the next tick."""
TICK_RETRY_S = 15.0
"""Seconds until a tick or an activation that has left no result is tried again."""


@dataclass(frozen=True)
class SourceOccasion:
    """
    What a source runs for: a request, or a tick of its timer.

    Attributes:
        event: The request; None for a tick.
        on_respond: As in `SourceRequest`.
        is_due: Called in a thread when the source's turn has come; False if another process has dealt with the occasion.
        settle: Ends the occasion in the transaction of the source's state; False, so that nothing is stored, if another
            process was first.
    """

    event: JSON = None
    on_respond: Callable[[HttpResponse], Awaitable[object]] | None = None
    is_due: Callable[[], bool] = lambda: True
    settle: Callable[[Connection], bool] = lambda _: True


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
        """Return whether this server runs the source, or waits for it."""
        lock = self._locks.get(source)
        return lock is not None and lock.locked()

    async def run(
        self, source: str, runner: SourceRunner, request: SourceRequest, occasion: SourceOccasion
    ) -> SourceResult | None:
        """
        Run *source* for *occasion* in its turn; return None if another process has dealt with the occasion meanwhile.

        Raises:
            ProjectError: The result could not be stored. The occasion is still due.
            PdkernelError: The source cannot run; see `SourceRunner.run`.
        """

        def store_events(connection: Connection, events: Sequence[SourceEvent]) -> None:
            if not occasion.settle(connection):
                raise ProjectError(
                    f"The source {source} was changed while it ran, or another process has run it. Nothing of this run was stored.",
                    fix="No action is needed: a request is sent again by its sender, and a timer has its next time.",
                )
            request.store_events(connection, events)

        async with self.take(source) as guard:
            if not await run_blocking(occasion.is_due):
                return None
            bound = replace(request, event=occasion.event, on_respond=occasion.on_respond, store_events=store_events)
            return await runner.run(guard(bound))

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


def is_of_database(fault: PdkernelError) -> bool:
    """Return whether *fault* of a source is that the database could not be read or written: then the source runs again soon."""
    return isinstance(fault, ProjectError) and not isinstance(fault, DamagedRecordError)


class TimerTicks:
    """
    The ticks of sources' timers that one server runs. A tick is due until its result is stored.

    A tick whose result cannot be stored is tried again after `TICK_RETRY_S`, and so is one whose process was ended, up to
    `MAX_TICK_TRIES` times.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._retry_at: dict[str, float] = {}
        self._deaths: Counter[str] = Counter()

    def may_run(self, source: str) -> bool:
        """Return whether a tick of *source* that is due may run now."""
        return self._retry_at.get(source, -math.inf) <= self._clock.monotonic()

    def postpone(self, source: str) -> None:
        """Let nothing of *source* run before `TICK_RETRY_S` have passed."""
        self._retry_at[source] = self._clock.monotonic() + TICK_RETRY_S

    async def run(
        self, source: str, tick: Callable[[], Awaitable[SourceResult | None]], skip: Callable[[], object]
    ) -> None:
        """
        Run *tick* unless one of *source* runs or waits for its next try.

        If a tick must not be tried again, *skip* is called in a thread, which moves the timer to its next time.

        Raises:
            PdkernelError: As `SourceTurns.run`.
        """
        if not self.may_run(source):
            return
        self._retry_at[source] = math.inf
        is_over = False
        try:
            try:
                ran = await tick()
            except PdkernelError as fault:
                if not is_of_database(fault):
                    await run_blocking(skip)
                    is_over = True
                raise
            is_over = ran is None or ran.is_stored
            if not is_over:
                self._deaths[source] += 1
                if self._deaths[source] >= MAX_TICK_TRIES:
                    await run_blocking(skip)
                    is_over = True
        finally:
            if is_over:
                del self._retry_at[source]
                self._deaths.pop(source, None)
            else:
                self.postpone(source)

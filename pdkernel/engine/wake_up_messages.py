"""
Messages of PgQueuer that wake one of the processes on a PostgreSQL database when a pause ends.

A message carries nothing and its handler runs nothing: PgQueuer cancels handlers when its connection is lost, and delivers
some messages twice. A message may be lost; the dispatches look for runs without messages too. The module needs the extra
`postgres`.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import psycopg
from pgqueuer.db import PsycopgDriver
from pgqueuer.models import Job
from pgqueuer.qm import QueueManager
from pgqueuer.queries import Queries

from pdkernel.clock import Clock

ENTRYPOINT = "pdkernel_due"
"""The name of the messages in PgQueuer's tables, dashboard and metrics."""
MAX_RETRY_S = 5.0
"""Maximum seconds until a lost connection is opened again."""
HISTORY_DAYS = 7
"""Days after which PgQueuer's log and statistics of messages are removed."""

_MIN_RETRY_S = 0.25
_PRUNE_INTERVAL_S = 3600.0

_log = logging.getLogger(__name__)
# what PgQueuer reports are the errors of its connections, which `WakeUpMessages.run` reports once
logging.getLogger("pgqueuer").setLevel(logging.CRITICAL)


class _Driver(PsycopgDriver):
    """Listens on one connection and queries on the other, because psycopg runs no query on a connection while it listens."""

    def __init__(self, listening: psycopg.AsyncConnection[Any], querying: psycopg.AsyncConnection[Any]) -> None:
        super().__init__(listening)
        self._querying = PsycopgDriver(querying)
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._listening: asyncio.Task[None] | None = None
        self._has_listener = asyncio.Event()

    async def add_listener(self, channel: str, callback: Callable[[str | bytes | bytearray], None]) -> None:
        await super().add_listener(channel, callback)
        self._has_listener.set()

    async def notify(self, channel: str, payload: str) -> None:
        # PgQueuer starts to probe its listener before it listens, and a lost probe ends its loop after ten seconds
        await self._has_listener.wait()
        await super().notify(channel, payload)

    async def fetch(self, query: str, *args: object) -> list[dict[str, object]]:
        return await self._querying.fetch(query, *args)

    async def execute(self, query: str, *args: object) -> str:
        return await self._querying.execute(query, *args)

    async def watch_notifies(self) -> None:
        self._listening = asyncio.current_task()
        try:
            await super().watch_notifies()
        except psycopg.Error as fault:
            self._lost.set_exception(fault)

    def stop_listening(self) -> None:
        """Stop listening at once; PgQueuer would wait a second for a notification."""
        if self._listening is not None:
            self._listening.cancel()

    async def wait_until_lost(self) -> None:
        """Raise the error that ends the listening."""
        await self._lost


class WakeUpMessages:
    """
    Sends and receives messages on connections of its own.

    Args:
        arguments: What psycopg needs for a connection.
        clock: The clock of the pauses.
    """

    def __init__(self, arguments: Mapping[str, Any], clock: Clock) -> None:
        self._arguments = arguments
        self._clock = clock
        self._second = -1
        self._has_request = asyncio.Event()
        self._is_installed = False
        self._retry_s = 0.0

    def send(self, due: float) -> None:
        """Wake one process in the second of *due*, a time in seconds since 1970. There is one message for each second."""
        second = math.floor(due)
        if second != self._second:
            self._second = second
            self._has_request.set()

    async def run(self, on_message: Callable[[], None]) -> None:
        """Send messages and call *on_message* for each one that arrives, until the task is cancelled."""
        while True:
            try:
                await self._serve(on_message)
            except Exception as fault:  # noqa: BLE001  # the driver's errors, or PgQueuer's
                if not self._retry_s:
                    reason = str(fault).strip().partition("\n")[0] or type(fault).__name__
                    _log.warning("PgQueuer does not work at the moment, so pauses end up to a second late: %s", reason)
            self._retry_s = min(max(_MIN_RETRY_S, 2 * self._retry_s), MAX_RETRY_S)
            await asyncio.sleep(self._retry_s)

    async def _serve(self, on_message: Callable[[], None]) -> None:
        """Send and receive messages until a connection is lost."""
        async with await self._connect() as listening, await self._connect() as querying:
            driver = _Driver(listening, querying)
            queries = Queries(driver)
            await self._install(queries)
            manager = QueueManager(queries)

            @manager.entrypoint(ENTRYPOINT)
            async def wake(_: Job) -> None:
                on_message()

            self._retry_s = 0.0
            if self._second > self._clock.now().timestamp():
                self._has_request.set()  # the connection may have been lost before the message was sent
            tasks = (
                asyncio.create_task(manager.run(shutdown_on_listener_failure=True)),
                asyncio.create_task(driver.wait_until_lost()),
                asyncio.create_task(self._send_requested(queries)),
                asyncio.create_task(self._prune_history(queries)),
            )
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                driver.stop_listening()
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        return await psycopg.AsyncConnection.connect(autocommit=True, **self._arguments)

    async def _install(self, queries: Queries) -> None:
        """Create PgQueuer's tables, or change them for a newer version of PgQueuer; one process at a time."""
        if self._is_installed:
            return
        async with queries.schema_lock():
            if await queries.schema_is_installed():
                await queries.upgrade()
            else:
                await queries.install()
        self._is_installed = True

    async def _send_requested(self, queries: Queries) -> None:
        while True:
            await self._has_request.wait()
            self._has_request.clear()
            second = self._second
            await queries.enqueue(
                ENTRYPOINT,
                None,
                execute_after=timedelta(seconds=max(second - self._clock.now().timestamp(), 0.0)),
                dedupe_key=f"due:{second}",
                on_conflict="skip",
            )

    async def _prune_history(self, queries: Queries) -> None:
        names = queries.qbe.settings.qualified
        while True:
            for table, condition in ((names.queue_table_log, "aggregated and"), (names.statistics_table, "")):
                await queries.driver.execute(
                    f"delete from {table} where {condition} created < now() - interval '{HISTORY_DAYS} days'"  # noqa: S608  # names of PgQueuer
                )
            await asyncio.sleep(_PRUNE_INTERVAL_S)

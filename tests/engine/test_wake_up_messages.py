"""PgQueuer's tables in the project's database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import psycopg

from pdkernel.clock import SYSTEM_CLOCK
from pdkernel.engine.wake_up_messages import HISTORY_DAYS, WakeUpMessages


@asynccontextmanager
async def receiving(url: str, count: int) -> AsyncIterator[tuple[list[WakeUpMessages], list[int]]]:
    """Processes that send and receive messages, and the numbers of those that were woken."""
    some = [WakeUpMessages({"conninfo": url}, SYSTEM_CLOCK) for _ in range(count)]
    woken: list[int] = []
    tasks = [asyncio.create_task(each.run(partial(woken.append, number))) for number, each in enumerate(some)]
    try:
        yield some, woken
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def rows(url: str, sql: Any) -> list[tuple[Any, ...]]:
    """The rows of a statement."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        done = await connection.execute(sql)
        return await done.fetchall() if done.description else []


async def wait_for(url: str, sql: str) -> list[tuple[Any, ...]]:
    """The rows of a query, as soon as there are any."""
    async with asyncio.timeout(20):
        while not (found := await rows(url, sql)):
            await asyncio.sleep(0.05)
        return found


async def test_processes_that_start_together_create_the_tables_once(postgres_url: str, caplog: Any) -> None:
    """On an empty database, one of several processes creates PgQueuer's tables; a message of each wakes one of them."""
    async with receiving(postgres_url, 4) as (some, woken):
        for each in some:
            each.send(SYSTEM_CLOCK.now().timestamp() - 1)
        async with asyncio.timeout(20):
            while not woken:
                await asyncio.sleep(0.02)

    assert caplog.messages == []


async def test_old_messages_are_forgotten(postgres_url: str) -> None:
    """PgQueuer's log and statistics keep the messages of some days."""
    async with receiving(postgres_url, 1):
        await wait_for(postgres_url, "select 1 where to_regclass('pgqueuer_log') is not null")
    for days in (HISTORY_DAYS - 1, HISTORY_DAYS + 1):
        at = f"now() - interval '{days} days', 'successful', 0, 'pdkernel_due'"
        await rows(
            postgres_url,
            f"insert into pgqueuer_log (job_id, aggregated, created, status, priority, entrypoint) values ({days}, true, {at})",
        )
        await rows(
            postgres_url,
            f"insert into pgqueuer_statistics (count, created, status, priority, entrypoint) values ({days}, {at})",
        )
    async with receiving(postgres_url, 1):
        await wait_for(postgres_url, "select 1 where (select count(*) from pgqueuer_statistics) < 2")
    left = await rows(postgres_url, "select job_id from pgqueuer_log union all select count from pgqueuer_statistics")

    assert left == [(HISTORY_DAYS - 1,)] * 2

"""One run of a source at a time, over two servers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from pdkernel.clock import RANDOM_IDS
from pdkernel.egress import parse_policy
from pdkernel.engine.event_sources import SourceRequest
from pdkernel.errors import ProjectError
from pdkernel.model import Trigger
from pdkernel.project.database import Database
from pdkernel.project.schema import metadata
from pdkernel.project.source_turns import SourceTurnTable
from pdkernel.server.source_turns import SourceTurns

LEASE_S = 4.0


@pytest.fixture
def database(tmp_path: Path, postgres_url: str) -> Iterator[Database]:
    """A database with the table of turns."""
    database = Database.open(tmp_path, postgres_url)
    metadata.create_all(database.engine, tables=[metadata.tables["source_turns"]])
    yield database
    database.close()


async def test_two_servers_take_turns(database: Database) -> None:
    """The second server waits until the first one has ended its turn, whose lease is extended meanwhile."""
    first, second = (SourceTurns(SourceTurnTable(database, lease_s=LEASE_S), RANDOM_IDS) for _ in range(2))
    events: list[str] = []
    may_end = asyncio.Event()

    async def run(turns: SourceTurns, name: str) -> None:
        async with turns.take("source"):
            events.append(f"{name} begins")
            await may_end.wait()
            events.append(f"{name} ends")

    def leases() -> list[float]:
        with database.engine.connect() as connection:
            return [float(until) for (until,) in connection.exec_driver_sql("select until from source_turns")]

    running = asyncio.create_task(run(first, "first"))
    while not events:
        await asyncio.sleep(0.01)
    waiting = asyncio.create_task(run(second, "second"))
    (ends,) = leases()
    async with asyncio.timeout(60):
        while leases() == [ends]:
            await asyncio.sleep(0.02)
    taken = first.is_taken("source"), second.is_taken("source"), first.is_taken("other")
    (extended,) = leases()
    may_end.set()
    await asyncio.gather(running, waiting)

    assert taken == (True, True, False)
    assert ends < extended
    assert events == ["first begins", "first ends", "second begins", "second ends"]


async def test_an_ended_turn_is_not_extended(database: Database) -> None:
    """After its end, nothing takes a turn again: another server may run the source."""
    before = asyncio.all_tasks()
    async with SourceTurns(SourceTurnTable(database, lease_s=LEASE_S), RANDOM_IDS).take("source"):
        during = asyncio.all_tasks() - before
    after = asyncio.all_tasks() - before

    assert (len(during), after) == (1, set())


async def test_a_server_that_lost_its_turn_stores_nothing(database: Database) -> None:
    """The guard of a turn that another server has taken refuses the transaction with the source's state."""
    table, stored = SourceTurnTable(database, lease_s=LEASE_S), list[object]()
    request = SourceRequest(
        Trigger("source"), "owner", parse_policy("live"), store_events=lambda _, events: stored.append(events)
    )
    async with SourceTurns(table, RANDOM_IDS).take("source") as guard:
        with database.write() as connection:
            guard(request).store_events(connection, [])
            connection.exec_driver_sql("update source_turns set owner = 'another'")
        with pytest.raises(ProjectError), database.write() as connection:
            guard(request).store_events(connection, [])

    assert stored == [[]]


async def test_one_server_needs_no_database() -> None:
    """Without a table of turns, runs of a source in one process wait for each other."""
    turns = SourceTurns(None, RANDOM_IDS)
    async with turns.take("source"):
        waiting = asyncio.create_task(turns.take("source").__aenter__())
        done, _ = await asyncio.wait([waiting], timeout=0.05)
        is_taken = turns.is_taken("source")

    assert not done
    assert is_taken
    await waiting

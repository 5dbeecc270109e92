"""One run of a source at a time, over two servers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from pdkernel.common.clock import RANDOM_IDS, ManualClock
from pdkernel.egress import parse_policy
from pdkernel.engine.event_sources import SourceRequest, SourceResult
from pdkernel.errors import DamagedRecordError, PdkernelError, ProjectError, RequestError
from pdkernel.model import Trigger
from pdkernel.server.source_turns import MAX_TICK_TRIES, TICK_RETRY_S, SourceTurns, TimerTicks
from pdkernel.storage.database import Database
from pdkernel.storage.schema import metadata
from pdkernel.storage.source_states import SourceTurnTable

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


async def run_tick(ticks: TimerTicks, outcome: bool | Exception | None) -> tuple[bool, bool]:
    """Run a tick whose result is (not) stored, is missing, or an error; return whether it ran, and whether it was given up."""
    ran, skipped = list[int](), list[int]()

    async def tick() -> SourceResult | None:
        ran.append(1)
        if isinstance(outcome, Exception):
            raise outcome
        return None if outcome is None else cast("SourceResult", SimpleNamespace(is_stored=outcome))

    with suppress(PdkernelError):
        await ticks.run("source", tick, lambda: skipped.append(1))
    return bool(ran), bool(skipped)


async def test_a_tick_whose_process_ends_is_tried_three_times() -> None:
    """Each try waits for the one before, and a tick that is stored begins the count anew."""
    clock = ManualClock()
    ticks = TimerTicks(clock)
    outcomes = [await run_tick(ticks, False), await run_tick(ticks, False)]
    clock.advance(TICK_RETRY_S)
    outcomes.append(await run_tick(ticks, True))
    for _ in range(MAX_TICK_TRIES):
        outcomes.append(await run_tick(ticks, False))
        clock.advance(TICK_RETRY_S)

    assert outcomes == [(True, False), (False, False), (True, False), (True, False), (True, False), (True, True)]


@pytest.mark.parametrize(
    ("fault", "is_given_up"),
    [
        (ProjectError("the disk is full"), False),
        (RequestError("no account"), True),
        (DamagedRecordError("damaged"), True),
        (None, False),
    ],
)
async def test_a_tick_that_cannot_be_stored_is_tried_again(fault: Exception | None, is_given_up: bool) -> None:
    """A database that cannot be written delays the tick; another reason is the same at each try, so the tick is given up."""
    clock = ManualClock()
    ticks = TimerTicks(clock)
    first = await run_tick(ticks, fault)
    at_once = ticks.may_run("source")
    clock.advance(TICK_RETRY_S)

    assert first == (True, is_given_up)
    assert (at_once, ticks.may_run("source")) == (is_given_up or fault is None, True)


async def test_ticks_of_a_source_do_not_overlap() -> None:
    """While a tick runs, another one of the same source has no effect."""
    ticks, may_end = TimerTicks(ManualClock()), asyncio.Event()

    async def tick() -> None:
        await may_end.wait()

    first = asyncio.create_task(ticks.run("source", tick, list))
    await asyncio.sleep(0)
    second = await run_tick(ticks, True)
    may_end.set()
    await first

    assert second == (False, False)
    assert ticks.may_run("source")

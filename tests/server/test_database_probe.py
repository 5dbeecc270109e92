"""A probe finds out whether a database answers, and reports its changes."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

from pdkernel.common.clock import SYSTEM_CLOCK
from pdkernel.errors import ProjectError
from pdkernel.server.database_probe import DatabaseProbe
from pdkernel.storage import Project
from tests.waiting import until


@asynccontextmanager
async def probing(ping: Callable[[], object]) -> AsyncIterator[tuple[DatabaseProbe, list[bool]]]:
    """A running probe, and a list that grows with each change that it reports."""
    probe, changes = DatabaseProbe(ping, SYSTEM_CLOCK, interval_s=0.01), list[bool]()
    probe.on_change = lambda: changes.append(probe.answers)
    task = asyncio.create_task(probe.run())
    try:
        yield probe, changes
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_change_by_another_process_is_reported_once(tmp_path: Path) -> None:
    """A commit on another connection is reported, and checks after it report nothing more."""
    with Project.open(tmp_path / ".pdkernel") as project:
        assert project.sqlite_path is not None
        checks = list[int]()

        def ping() -> object:
            checks.append(1)
            return project.ping()

        async with probing(ping) as (_, changes):
            await until(lambda: len(changes) == 1)  # the first answer differs from none
            with closing(sqlite3.connect(project.sqlite_path)) as other, other:
                other.execute("create table changed (number integer)")
            await until(lambda: len(changes) == 2)
            seen = len(checks)
            await until(lambda: len(checks) > seen + 5)

        assert len(changes) == 2


async def test_the_end_of_an_outage_is_reported() -> None:
    """Who waits for changes looks again after the database did not answer, whatever it says then."""
    fails = [False, True, False]

    def ping() -> int:
        if fails.pop(0) if fails else False:
            raise ProjectError("The database does not answer.")
        return 7

    async with probing(ping) as (probe, changes):
        await until(lambda: len(changes) == 2)

        assert (probe.answers, changes) == (True, [True, True])


async def test_an_unexpected_error_of_a_check_does_not_end_the_checks() -> None:
    """A check that fails by an error of ours means that the database does not answer, until another check succeeds."""
    faults = [LookupError("a bug")]

    def ping() -> int:
        if faults:
            raise faults.pop()
        return 7

    async with probing(ping) as (probe, changes):
        await until(lambda: not probe.answers)
        await until(lambda: probe.answers)

        assert not faults
        assert changes

"""A wall clock that is moved by an hour while a server has runs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pdkernel.common.clock import ManualClock
from pdkernel.engine.dispatch import POLL_INTERVAL_S
from pdkernel.journal import Journal, SqliteBackend
from tests.builders import Gate, a_workflow, python_step
from tests.server.site import Site, site_of
from tests.waiting import until_awaited

HOUR_S = 3600.0


async def statuses(site: Site) -> dict[str, tuple[str, int]]:
    """The status and the attempt of each run by workflow."""
    runs = await site.context.engine.journal.list_executions()
    return {run.workflow: (run.status, run.attempt) for run in runs}


async def statuses_after_a_look(site: Site) -> dict[str, tuple[str, int]]:
    """The same, after the server has looked for due runs twice."""
    await asyncio.sleep(2.5 * POLL_INTERVAL_S)
    return await statuses(site)


async def wait_for(site: Site, workflow: str, status: str) -> None:
    """Wait until the run of a workflow has the status."""
    await until_awaited(lambda: has_status(site, workflow, status))


async def has_status(site: Site, workflow: str, status: str) -> bool:
    """Whether the run of a workflow has the status."""
    return (await statuses(site))[workflow][0] == status


@pytest.mark.parametrize("first_s", [HOUR_S, -HOUR_S])
async def test_delays_follow_the_wall_clock_and_no_run_is_taken_over(tmp_path: Path, first_s: float) -> None:
    """A pause ends when the wall clock reaches its end; a run in progress keeps its owner, whatever the clock shows."""
    clock, gate = ManualClock(), Gate(tmp_path)
    nap = python_step("nap", f"pd.flow.delay({int(1.5 * HOUR_S * 1000)})")
    workflows = a_workflow(nap, name="Nap"), a_workflow(python_step("held", gate.code), name="Held")
    async with site_of(tmp_path, *workflows, clock=clock) as site:
        await asyncio.gather(*(site.http.post(site.path(each.name)) for each in workflows))
        await gate.wait_until_reached()
        assert site.context.project.sqlite_path is not None
        other = Journal.open(SqliteBackend(site.context.project.sqlite_path), clock=clock)
        await wait_for(site, "Nap", "paused")
        before = await statuses_after_a_look(site)
        clock.advance(first_s)
        moved = await statuses_after_a_look(site)
        clock.advance(-first_s)
        moved_back = await statuses_after_a_look(site)
        reaped = await other.reap_dead()
        clock.advance(1.6 * HOUR_S)
        await wait_for(site, "Nap", "success")
        due = await statuses(site)
        gate.open()
        runs = {run.workflow: run for run in await site.runs()}
        await other.close()

    assert before == moved == moved_back == {"Nap": ("paused", 1), "Held": ("executing", 1)}
    assert reaped == 0
    assert due == {"Nap": ("success", 1), "Held": ("executing", 1)}
    assert (runs["Held"].status, runs["Held"].attempt) == ("success", 1)

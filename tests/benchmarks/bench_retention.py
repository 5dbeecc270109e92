"""
A server beside the removal of expired runs: requests, and the journal's writes of a run, with the removal and without it.

Each request is a complete run of a Python step. Requests follow one another, as the writes do, so a removal that holds the database or
the event loop shows in the slowest of them.

Prints figures and ratios of one run. `python tests/benchmarks/bench_retention.py [RUNS]`
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from sqlalchemy import insert

from pdkernel.common.clock import RANDOM_IDS
from pdkernel.execution import StepResult
from pdkernel.journal import Journal, encode_event, encode_output, encode_step, open_journal
from pdkernel.journal.schema import runs, steps
from pdkernel.operations.run_history import remove_expired
from pdkernel.storage import Project
from tests.benchmarks.bench_journal import WORKFLOW, run_once
from tests.builders import a_workflow, python_step
from tests.postgres import shared_postgres
from tests.server.site import site_of

EXPIRED = 20_000
KEPT = 2_000
STEPS = 3
WARM_UP_CALLS = 300
ALONE_S = 5.0
"""Seconds of calls without a removal."""
DAY_S = 24 * 60 * 60
SERVED = a_workflow(python_step(), name="Served")


async def fill(project: Project, journal: Journal, count: int) -> None:
    """Record *count* expired runs, and others that have not expired."""
    definition = await journal.store_definition(WORKFLOW)
    for number, age_days in ((count, 40), (KEPT, 1)):
        add_runs(project, definition, number, age_days)


def add_runs(project: Project, definition: str, count: int, age_days: float) -> None:
    """Record *count* runs that ended before that many days, a second after one another."""
    event = encode_event({"body": {"text": "x" * 500}}, {"id": "x"})
    data = encode_step(StepResult("s", "success", exports={"$return_value": "y" * 300}))
    ended = time.time() - age_days * DAY_S
    common = {
        "trace_id": "t", "workflow": WORKFLOW.name, "definition": definition, "event": event, "environment": "development",
        "status": "success", "fence": 1, "attempt": 1, "output": encode_output(), "origin": "serve", "begun": 1, "lost_tasks": 0,
    }  # fmt: skip
    ids = [RANDOM_IDS.new_in_order() for _ in range(count)]
    times = [ended - count + number for number in range(count)]
    rows = [{"id": run_id, "created": at, "ended": at, **common} for run_id, at in zip(ids, times, strict=True)]
    step_rows = [
        {"run_id": run_id, "path": f"s{number}", "iteration": 0, "seq": number, "name": "s", "fence": 1, "data": data, "at": at,
         "attempt": 1}
        for run_id, at in zip(ids, times, strict=True)
        for number in range(STEPS)
    ]  # fmt: skip
    with project.sqlalchemy_engine.begin() as connection:
        connection.execute(insert(runs), rows)
        connection.execute(insert(steps), step_rows)


async def time_calls(call: Callable[[list[float]], Awaitable[object]], is_over: Callable[[], bool]) -> list[float]:
    """The milliseconds that *call* adds, call after call, until *is_over*."""
    times: list[float] = []
    while not is_over():
        await call(times)
    return [1000 * seconds for seconds in times]


async def compare(name: str, journal: Journal, call: Callable[[list[float]], Awaitable[object]]) -> None:
    """Print the median and the slowest call with the removal and without it."""
    ends = time.perf_counter() + ALONE_S
    alone = await time_calls(call, lambda: time.perf_counter() > ends)
    began = time.perf_counter()
    removal = asyncio.create_task(remove_expired(journal))
    beside = await time_calls(call, removal.done)
    seconds, removed = time.perf_counter() - began, await removal
    print(f"{name}: {removed:,} runs removed in {seconds:.1f} s")
    for text, part in (
        ("median", statistics.median),
        ("99 %", lambda times: sorted(times)[len(times) * 99 // 100]),
        ("slowest", max),
    ):
        print(
            f"  {text:8} {part(alone):7.2f} ms alone, {part(beside):7.2f} ms beside it; ratio {part(beside) / part(alone):.2f}"
        )


async def compare_requests(folder: Path, count: int) -> None:
    """Requests of a server on SQLite; prints how far the file shrinks, too."""
    async with site_of(folder, SERVED) as site:
        project, path = site.context.project, site.path(SERVED.name)

        async def call(times: list[float]) -> None:
            began = time.perf_counter()
            assert (await site.http.post(path, json={"name": "Ada"})).status_code == 200
            times.append(time.perf_counter() - began)

        for _ in range(WARM_UP_CALLS):  # the server's own removal finds nothing meanwhile
            await call([])
        await fill(project, site.journal, count)
        pages = pages_of(project)
        await compare("requests, SQLite", site.journal, call)
        print(f"  the file has {pages_of(project) / pages:.2f} of its pages")


def pages_of(project: Project) -> int:
    """The pages of the project's file."""
    with project.sqlalchemy_engine.connect() as connection:
        return int(connection.exec_driver_sql("pragma page_count").scalar_one())


async def compare_writes(name: str, project: Project, count: int) -> None:
    """Writes of runs, one after another."""
    with contextlib.closing(project):
        journal = open_journal(project)
        definition = await journal.store_definition(WORKFLOW)
        await fill(project, journal, count)

        async def call(times: list[float]) -> None:
            began = time.perf_counter()
            await run_once(journal, definition, RANDOM_IDS.new_in_order(), [])
            times.append(time.perf_counter() - began)

        await compare(f"runs without steps' work, {name}", journal, call)
        await journal.close()


def main(count: int = EXPIRED) -> None:
    """Print the figures."""
    with (
        tempfile.TemporaryDirectory(prefix="pdk-", dir=Path.home()) as place,
        shared_postgres(Path(place) / "server") as server,
        server.new_database() as url,
    ):
        server.execute("alter system set fsync = on")  # commits are on disk, as on SQLite
        server.execute("select pg_reload_conf()")
        folder = Path(place)
        asyncio.run(compare_requests(folder / "site", count))
        asyncio.run(compare_writes("SQLite", Project.open(folder / "sqlite" / ".pdkernel"), count))
        asyncio.run(
            compare_writes("Postgres", Project.open(folder / "postgres" / ".pdkernel", database_url=url), count)
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

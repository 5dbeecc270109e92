"""
The journal on SQLite and on Postgres: writes a second of one and of many concurrent runs, and the time of one write.

Prints figures and ratios of one run. `python tests/benchmarks/bench_journal.py`
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable
from pathlib import Path

from pdkernel.execution import StepResult
from pdkernel.journal import Claim, Journal, NewRun, StepRow, encode_event, encode_output, encode_step, open_journal
from pdkernel.model import Step, Workflow
from pdkernel.storage import Project
from tests.postgres import shared_postgres

STEPS = 3
WRITES = STEPS + 2
ROUND_S = 2.0
CONCURRENT = 32
WORKFLOW = Workflow("Bench", steps=tuple(Step(f"s{number}") for number in range(STEPS)))
EVENT = encode_event({"body": {"text": "x" * 500}}, {"id": "x"})


async def run_once(journal: Journal, definition: str, run_id: str, times: list[float]) -> None:
    """Write one run as an engine does, and add the seconds of each write to *times*."""

    async def timed(write: Awaitable[bool]) -> None:
        began = time.perf_counter()
        assert await write
        times.append(time.perf_counter() - began)

    claim = Claim.first(run_id)
    await timed(journal.accept_run(NewRun(run_id, run_id, WORKFLOW.name, definition, EVENT)))
    for number in range(STEPS):
        data = encode_step(StepResult(f"s{number}", "success", exports={"$return_value": "y" * 300}))
        await timed(journal.append_step(claim, StepRow(number, f"s{number}", data, f"s{number}")))
    await timed(journal.finish(claim, "success", encode_output()))


async def measure(project: Project, concurrent: int) -> tuple[float, float]:
    """Return the writes a second and the median milliseconds of a write, of that many concurrent runs."""
    journal = open_journal(project)
    definition = await journal.store_definition(WORKFLOW)
    times: list[float] = []
    began = time.perf_counter()

    async def work(name: int) -> None:
        number = 0
        while time.perf_counter() < began + ROUND_S:
            await run_once(journal, definition, f"{journal.executor_id}-{name}-{number}", times)
            number += 1

    await asyncio.gather(*(work(name) for name in range(concurrent)))
    seconds = time.perf_counter() - began
    await journal.close()
    return len(times) / seconds, statistics.median(times) * 1000


def main() -> None:
    """Print the figures."""
    with (
        tempfile.TemporaryDirectory(prefix="pdk-") as folder,
        shared_postgres(Path(folder) / "server") as server,
        server.new_database() as url,
    ):
        server.execute("alter system set fsync = on")  # commits are on disk, as on SQLite
        server.execute("select pg_reload_conf()")
        projects = {
            "SQLite": Project.open(Path(folder) / "sqlite" / ".pdkernel"),
            "Postgres": Project.open(Path(folder) / "postgres" / ".pdkernel", database_url=url),
        }
        for concurrent in (1, CONCURRENT):
            figures = {name: asyncio.run(measure(project, concurrent)) for name, project in projects.items()}
            for name, (rate, median) in figures.items():
                print(f"{name:9} {concurrent:3} runs at once: {rate:8.0f} writes/s, median {median:6.2f} ms a write")
            print(f"ratio SQLite / Postgres: {figures['SQLite'][0] / figures['Postgres'][0]:.2f} writes/s")
        for project in projects.values():
            project.close()


if __name__ == "__main__":
    main()

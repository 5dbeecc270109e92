"""
The console's pages of workflows and of runs in a project with 100,000 runs, most of them of the last day, and in one with 1,000.

    python tests/benchmarks/bench_console.py
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import tempfile
import time
from contextlib import AsyncExitStack, closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from pdkernel.journal import encode_event, encode_output
from pdkernel.server.console_sessions import hash_admin_token
from tests.builders import a_workflow, python_step
from tests.server.site import Site, site_of

ADMIN = "7QmV2kXwP9tRb4ZsYc6LhN8d"
WORKFLOWS = [a_workflow(python_step(), name=f"Workflow {number}") for number in range(10)]
SMALL, LARGE = 1_000, 100_000
FAILED_EVERY = 200
"""One of so many runs has failed."""
MAX_MS = 20.0
ROUNDS = 100
PATHS = {
    "/-/": (10, 5.0),  # it counts the runs of a day
    "/-/runs": (50, 1.2),
    "/-/runs?workflow=Workflow+3": (50, 1.2),
    "/-/runs?since=1h": (50, 1.2),
    "/-/runs?status=error": (50, 3.0),  # the small project has five such runs
    "/-/runs?status=error&workflow=Workflow+3": (0, 1.2),
    "/-/runs?status=cancelled": (0, 1.2),
    "/-/runs?status=executing": (0, 1.2),
    "/-/runs?status=paused&workflow=Workflow+3": (0, 1.2),
}
"""The number of items of each page in the large project, and the most that its time may be of the time in the small one."""


def fill(journal_file: Path, count: int) -> None:
    """Record *count* finished runs."""
    event, output = encode_event({"body": {"name": "Ada"}}, {}), encode_output()
    rows = [
        (
            f"{number:027d}",
            WORKFLOWS[number % len(WORKFLOWS)].name,
            event,
            time.time() - count + number,
            output,
            "success" if number % FAILED_EVERY else "error",
        )
        for number in range(count)
    ]
    with closing(sqlite3.connect(journal_file)) as connection, connection:
        connection.executemany(
            "insert into runs (id, trace_id, workflow, definition, event, external_user, environment, status, fence, attempt,"
            " created, ended, output, origin)"
            " values (?1, 't', ?2, '', ?3, 'ada', 'development', ?6, 1, 1, ?4, ?4, ?5, 'serve')",
            rows,
        )


async def open_console(stack: AsyncExitStack, count: int) -> Site:
    """A project with *count* runs, whose HTTP client is logged in to its console."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    token = hash_admin_token(ADMIN)
    site = await stack.enter_async_context(site_of(folder, *WORKFLOWS, admin_token_hash=token))
    for workflow in WORKFLOWS:
        await site.context.engine.journal.store_definition(workflow)
    assert site.context.project.sqlite_path is not None
    fill(site.context.project.sqlite_path, count)
    await site.http.post("/-/login", data={"secret": ADMIN})
    return site


async def measure() -> dict[str, list[float]]:
    """The time in ms of each page in the small and in the large project: the fastest tenth, as the machine may be busy."""
    async with AsyncExitStack() as stack:
        sites = [await open_console(stack, count) for count in (SMALL, LARGE)]
        found = {}
        for path, (items, _) in PATHS.items():
            times: list[list[float]] = [[], []]
            for _ in range(ROUNDS):
                for site, measured in zip(sites, times, strict=True):
                    began = time.perf_counter()
                    answer = await site.http.get(path, headers={"accept": "text/html"})
                    measured.append((time.perf_counter() - began) * 1e3)
                    assert site is sites[0] or answer.text.count("<li ") == items, answer.text
            found[path] = [sorted(measured)[ROUNDS // 10] for measured in times]
        return found


def main() -> int:
    """Print the figures; the exit status is 1 if a ratio is too large."""
    has_failed = False
    for path, (small, large) in asyncio.run(measure()).items():
        has_failed |= large / small > PATHS[path][1] or large > MAX_MS
        print(f"{path}: {small:.1f} ms with {SMALL:,} runs, {large:.1f} ms with {LARGE:,}; ratio {large / small:.2f}")
    return int(has_failed)


if __name__ == "__main__":
    sys.exit(main())

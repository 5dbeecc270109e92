"""
Runs a warm workflow of three steps when it is asked to; `against.py` asks two checkouts in turns.

Each line on standard input starts `RUNS` runs, and their median time in ms is a line on standard output. A first empty line says
that the workers are warm.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from pdkernel.accounts import LocalDirectory
from pdkernel.egress import parse_policy
from pdkernel.engine.run_request import RunRequest
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.files.source import load_source
from pdkernel.storage import Project
from tests.benchmarks.bench_serve import STEPS, WORKFLOW
from tests.builders import an_event
from tests.notebook_files import notebook_of

RUNS = 25
WARM_UP_RUNS = 300


async def answer(project: Project, notebook: Path, policy: str) -> None:
    """Run the workflow of *notebook* for each line of standard input."""
    source = load_source(notebook)
    request = RunRequest(
        source.workflow, an_event(), parse_policy(policy), external_user_id="ada", folder=notebook.parent, test=False
    )
    async with await WorkflowEngine.start(project, LocalDirectory(project)) as engine:

        async def run() -> float:
            began = time.perf_counter()
            execution = await engine.run(replace(request))
            took = (time.perf_counter() - began) * 1000
            assert execution.status == "success", execution.error
            return took

        for _ in range(WARM_UP_RUNS):
            await run()
        print(flush=True)
        while sys.stdin.readline():
            print(statistics.median([await run() for _ in range(RUNS)]), flush=True)


def main(policy: str, settings: str) -> None:
    """Make the project, and answer."""
    with tempfile.TemporaryDirectory(prefix="pdkernel-bench-", dir=Path.home()) as place:
        notebook = Path(place) / "bench.ipynb"
        notebook_of(notebook, f"{WORKFLOW}{settings}\n", *STEPS)
        with Project.open(Path(place) / ".pdkernel") as project:
            LocalDirectory(project).add_account(
                app="slack", credentials={"oauth_access_token": "xoxb-0123456789"}, external_user_id="ada"
            )
            asyncio.run(answer(project, notebook, policy))


if __name__ == "__main__":
    main(*sys.argv[1:])

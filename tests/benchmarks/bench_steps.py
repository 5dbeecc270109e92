"""
Warm steps beside the same code run in place, the first Node.js step, and a recorded run of three steps.

Prints figures and ratios of one run. `python tests/benchmarks/bench_steps.py`
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from pdkernel.connect import LocalDirectory
from pdkernel.egress import parse_mode
from pdkernel.engine.request import RunRequest
from pdkernel.engine.runtime import Runtime
from pdkernel.project import Project
from tests.builders import a_workflow, an_event, node_step, python_step

WORK = "total = sum(n * n for n in range(2000))\nreturn total"
RUNS = 300


def in_place() -> float:
    """p50 of the Python code without a step around it, in ms."""
    times = []
    for _ in range(RUNS):
        began = time.perf_counter()
        sum(n * n for n in range(2000))
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


async def p50(runtime: Runtime, request: RunRequest) -> tuple[float, list[str]]:
    """p50 of a run in ms, and the ids of the runs."""
    times, ids = [], []
    for _ in range(RUNS):
        began = time.perf_counter()
        execution = await runtime.run(request)
        times.append((time.perf_counter() - began) * 1000)
        assert execution.status == "success", execution.error
        ids.append(execution.id)
    return statistics.median(times[10:]), ids


async def main() -> None:
    """Measure and print."""
    plain = in_place()
    with tempfile.TemporaryDirectory() as folder:
        project = Project.open(Path(folder) / ".pdkernel")
        directory = LocalDirectory(project)

        def request(*steps: object) -> RunRequest:
            return RunRequest(a_workflow(*steps), an_event(), parse_mode("deny"), folder=Path(folder))  # type: ignore[arg-type]

        node = node_step("node", "let t = 0; for (let n = 0; n < 2000; n++) t += n * n; return t;")
        async with await Runtime.start(project, directory) as runtime:
            began = time.perf_counter()
            await runtime.run(request(node))
            first_node = (time.perf_counter() - began) * 1000
            python_ms, _ = await p50(runtime, request(python_step("one", WORK)))
            node_ms, _ = await p50(runtime, request(node))
            empty_ms, _ = await p50(runtime, request())
            three = request(python_step("one", WORK), node, python_step("two", WORK))
            three_ms, ids = await p50(runtime, three)
        async with await Runtime.start(project, directory) as reopened:
            kept = [await reopened.journal.execution(run_id) for run_id in ids]
        complete = sum(
            each is not None and each.status == "success" and all(step.status == "success" for step in each.steps)
            for each in kept
        )
        project.close()
    print(f"plain Python code                     {plain:7.2f} ms")
    print(f"run without steps, recorded           {empty_ms:7.2f} ms")
    print(
        f"run of one warm Python step           {python_ms:7.2f} ms   {python_ms - plain:+.2f} ms over plain (goal <= 5)"
    )
    print(f"run of one warm Node.js step          {node_ms:7.2f} ms")
    print(f"first Node.js step, process and all   {first_node:7.1f} ms   (goal <= 250)")
    print(
        f"run of Python, Node.js, Python        {three_ms:7.2f} ms   (goal p50 <= 5), {three_ms / plain:.1f} x plain code"
    )
    print(f"complete in the reopened database     {complete} of {len(ids)}")


if __name__ == "__main__":
    asyncio.run(main())

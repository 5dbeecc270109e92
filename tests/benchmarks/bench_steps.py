"""
Warm steps compared with the same code outside a step, the first Node.js step, and a recorded run of three steps.

The run of three steps is compared with two forms of one new process per step, without a record. The first form is a
new worker (hooked outbound calls, logs, exports, errors with the cell's line). The second is the minimum: `python -c`
and `node -e`, which read the exports as JSON and write the return value.

Prints figures and ratios of one run. `python tests/benchmarks/bench_steps.py`
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from pdkernel.accounts import LocalDirectory
from pdkernel.egress import parse_policy
from pdkernel.engine.run_request import RunRequest
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.model import JSON
from pdkernel.storage import Project
from pdkernel.workers import RunSetup, StepCall, StepRecorder, WorkerPool, find_node
from tests.builders import a_workflow, an_event, node_step, python_step

NODE_WORK = "let t = 0; for (let n = 0; n < 2000; n++) t += n * n; return t;"
WORK = "total = sum(n * n for n in range(2000))\nreturn total"
RUNS = 300
PROCESS_RUNS = 30


def in_place() -> float:
    """The median time of the Python code outside a step, in ms."""
    times = []
    for _ in range(RUNS):
        began = time.perf_counter()
        sum(n * n for n in range(2000))
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


def in_new_processes() -> float:
    """The median time of Python, Node.js and Python in new processes, in ms."""
    function = "\n".join(["def handler(steps):", *(f"    {line}" for line in WORK.splitlines())])
    python = [
        sys.executable,
        "-c",
        f"import json, sys\n{function}\njson.dump(handler(json.load(sys.stdin)), sys.stdout)",
    ]
    node = [
        str(find_node()),
        "-e",
        f"const steps = JSON.parse(require('fs').readFileSync(0)); console.log(JSON.stringify((() => {{ {NODE_WORK} }})()))",
    ]
    times = []
    for _ in range(PROCESS_RUNS):
        began = time.perf_counter()
        steps = {"trigger": {"event": dict(an_event().data), "context": {}}}
        for name, command in (("one", python), ("node", node), ("two", python)):
            done = subprocess.run(command, input=json.dumps(steps), capture_output=True, text=True, check=True)
            steps[name] = {"$return_value": json.loads(done.stdout)}
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


async def in_new_workers(folder: Path) -> float:
    """The median time of the same three steps, each in a new worker, in ms."""
    trigger: dict[str, JSON] = {"event": dict(an_event().data), "context": {}}
    times = []
    for _ in range(PROCESS_RUNS):
        began = time.perf_counter()
        exports: dict[str, Mapping[str, JSON]] = {}
        for step in (python_step("one", WORK), node_step("node", NODE_WORK), python_step("two", WORK)):
            pool = WorkerPool()
            workers = await pool.open_run(RunSetup("run", "bench@1", trigger, {}, folder))
            outcome = await workers.run_step(StepCall(step, exports), StepRecorder())
            assert outcome.error is None, outcome.error
            exports[step.name] = outcome.exports
            await workers.release()
            await pool.close()
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


async def p50(runtime: WorkflowEngine, request: RunRequest) -> tuple[float, list[str]]:
    """The median time of a run in ms, and the ids of the runs."""
    times, ids = [], []
    for _ in range(RUNS):
        began = time.perf_counter()
        execution = await runtime.run(request)
        times.append((time.perf_counter() - began) * 1000)
        assert execution.status == "success", execution.error
        ids.append(execution.id)
    return statistics.median(times[10:]), ids


async def main() -> None:
    """Measure and print the figures."""
    plain = in_place()
    processes_ms = in_new_processes()
    with tempfile.TemporaryDirectory() as folder:
        project = Project.open(Path(folder) / ".pdkernel")
        directory = LocalDirectory(project)

        def request(*steps: object) -> RunRequest:
            return RunRequest(a_workflow(*steps), an_event(), parse_policy("deny"), folder=Path(folder))  # type: ignore[arg-type]

        ours_ms = await in_new_workers(Path(folder))
        node = node_step("node", NODE_WORK)
        async with await WorkflowEngine.start(project, directory) as runtime:
            began = time.perf_counter()
            await runtime.run(request(node))
            first_node = (time.perf_counter() - began) * 1000
            python_ms, _ = await p50(runtime, request(python_step("one", WORK)))
            node_ms, _ = await p50(runtime, request(node))
            empty_ms, _ = await p50(runtime, request())
            three = request(python_step("one", WORK), node, python_step("two", WORK))
            three_ms, ids = await p50(runtime, three)
        async with await WorkflowEngine.start(project, directory) as reopened:
            kept = [await reopened.journal.get_execution(run_id) for run_id in ids]
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
    print(
        f"a new process of ours for each step   {ours_ms:7.2f} ms   {ours_ms / three_ms:.1f} x the warm run (goal >= 20)"
    )
    print(
        f"a bare new process for each step      {processes_ms:7.2f} ms   {processes_ms / three_ms:.1f} x the warm run"
    )
    print(f"complete in the reopened database     {complete} of {len(ids)}")


if __name__ == "__main__":
    asyncio.run(main())

"""
What blocks cost: an if block with rules against a durable step, and eight parallel branches against one.

Runs of each pair are in turns. Prints ratios of one run. `python tests/benchmarks/bench_blocks.py`
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from pdkernel.accounts import LocalDirectory
from pdkernel.egress import parse_policy
from pdkernel.engine.run_request import RunRequest
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.model import Block, Step
from pdkernel.storage import Project
from tests.builders import a_block, a_workflow, an_event, python_step

RUNS, WARM_UP_RUNS = 200, 30
BLOCKS = 5
"""How many blocks or steps a run has more than the run that it is compared with, so that the difference is not noise."""
WAIT = "import time\ntime.sleep(0.1)\nreturn 1"
WAITS, WARM_UP_WAITS = 20, 3
BRANCHES = 8


def a_branch(number: int) -> tuple[Block, Step]:
    """An if block with a rule that holds, and a branch with one step."""
    block = a_block(f"%%pdif if{number}\nyes: {{a: {{{{steps.first.$return_value}}}}, op: num=, b: 1}}\nelse:")
    return block, python_step(f"in{number}", options=f"--in if{number}.yes")


async def medians(
    engine: WorkflowEngine, requests: Mapping[str, RunRequest], runs: int, warm_up: int
) -> dict[str, float]:
    """The median time in ms of a run of each request, in turns."""
    times: dict[str, list[float]] = {name: [] for name in requests}
    for _ in range(warm_up + runs):
        for name, request in requests.items():
            began = time.perf_counter()
            execution = await engine.run(request)
            times[name].append((time.perf_counter() - began) * 1000)
            assert execution.status == "success", execution.error
            assert all(step.status == "success" for step in execution.steps), [step.status for step in execution.steps]
    return {name: statistics.median(found[warm_up:]) for name, found in times.items()}


async def main() -> None:
    """Measure and print the ratios."""
    with tempfile.TemporaryDirectory() as folder:
        project = Project.open(Path(folder) / ".pdkernel")

        def request(*entries: Step | Block) -> RunRequest:
            return RunRequest(a_workflow(*entries), an_event(), parse_policy("deny"), folder=Path(folder), test=False)

        first = python_step("first")
        in_blocks = [entry for number in range(BLOCKS) for entry in a_branch(number)]
        steps = [python_step(f"step{number}") for number in range(2 * BLOCKS)]
        branches = "\n".join(f"b{number}:" for number in range(BRANCHES))
        waits = [python_step(f"wait{number}", WAIT, options=f"--in all.b{number}") for number in range(BRANCHES)]
        async with await WorkflowEngine.start(project, LocalDirectory(project)) as engine:
            of_blocks = await medians(
                engine,
                {
                    "one step": request(first),
                    "half": request(first, *steps[:BLOCKS]),
                    "steps": request(first, *steps),
                    "blocks": request(first, *in_blocks),
                },
                RUNS,
                WARM_UP_RUNS,
            )
            of_branches = await medians(
                engine,
                {
                    "one": request(python_step("wait", WAIT)),
                    "parallel": request(a_block(f"%%pdparallel all\n{branches}"), *waits),
                },
                WAITS,
                WARM_UP_WAITS,
            )
        project.close()
    step_ms = (of_blocks["steps"] - of_blocks["one step"]) / (2 * BLOCKS)
    block_ms = (of_blocks["blocks"] - of_blocks["half"]) / BLOCKS
    print(f"a further durable step                {step_ms:7.2f} ms")
    print(f"an if block with a rule               {block_ms:7.2f} ms   {block_ms / step_ms:.2f} x a step (goal <= 1.2)")
    print(f"one step of 100 ms                    {of_branches['one']:7.1f} ms")
    ratio = of_branches["parallel"] / of_branches["one"]
    print(
        f"{BRANCHES} parallel branches of 100 ms         {of_branches['parallel']:7.1f} ms   {ratio:.2f} x one (goal <= 1.5)"
    )


if __name__ == "__main__":
    asyncio.run(main())

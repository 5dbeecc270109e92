"""
Go steps: an unchanged step compared with the bare program, an edited step compared with `go build`.

Prints figures and ratios of one run. `python tests/benchmarks/bench_go.py`
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pdkernel.accounts import LocalDirectory
from pdkernel.egress import parse_policy
from pdkernel.engine.run_request import RunRequest
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.storage import Project
from pdkernel.workers import find_go
from tests.builders import a_workflow, an_event, bash_step, go_step

RUNS = 50
EDITS = 15


def timed(work: Callable[[], object]) -> float:
    """The duration of *work* in ms."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


class PlainGo:
    """A plain Go project with the same program and its own cache, without pdkernel."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._go = find_go()
        folder.mkdir()
        folder.joinpath("go.mod").write_text("module plain\n\ngo 1.21\n")
        self._environment = {
            **os.environ,
            "GOCACHE": str(folder / "cache"),
            "GOROOT": str(self._go.root),
            "GOTOOLCHAIN": "local",
            "CGO_ENABLED": "0",
        }

    def build(self, number: int) -> None:
        """Write a changed program and compile it."""
        self._folder.joinpath("main.go").write_text(
            'package main\n\nimport ("encoding/json"; "os")\n\n'
            f'func main() {{ json.NewEncoder(os.Stderr).Encode(map[string]int{{"n": {number}}}) }}\n'
        )
        subprocess.run(
            [self._go.command, "build", "-o", "plain", "."], cwd=self._folder, env=self._environment, check=True
        )

    def run(self) -> None:
        """Start the program and wait for it."""
        subprocess.run([self._folder / "plain"], check=True, stderr=subprocess.DEVNULL)


async def main() -> None:
    """Measure and print the figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        project = Project.open(folder / ".pdkernel")
        plain = PlainGo(folder / "plain")
        first_plain = timed(lambda: plain.build(0))
        bare = statistics.median(timed(plain.run) for _ in range(RUNS))

        async with await WorkflowEngine.start(project, LocalDirectory(project)) as runtime:

            async def run(step: object) -> float:
                request = RunRequest(a_workflow(step), an_event(), parse_policy("deny"), folder=folder)  # type: ignore[arg-type]
                began = time.perf_counter()
                execution = await runtime.run(request)
                assert execution.status == "success", execution.error
                return (time.perf_counter() - began) * 1000

            def edit(number: int) -> object:
                return go_step("one", f'pd.Export("n", {number})')

            first = await run(edit(0))
            unchanged = statistics.median([await run(edit(0)) for _ in range(RUNS)])
            bash = statistics.median([await run(bash_step("one", "true")) for _ in range(RUNS)])
            builds, edits = [], []
            for number in range(1, EDITS + 1):  # in turns, so that a busy machine slows both
                builds.append(timed(lambda number=number: plain.build(number)))  # type: ignore[misc]
                edits.append(await run(edit(number)))
        project.close()
    build, edited = statistics.median(builds), statistics.median(edits)
    print(f"first build: go build                 {first_plain:7.0f} ms")
    print(f"first build: step                     {first:7.0f} ms   {first / first_plain:.2f} x go build")
    print(f"bare program                          {bare:7.1f} ms")
    print(f"run of an unchanged Go step, recorded {unchanged:7.1f} ms   (goal <= 20)")
    print(f"run of a Bash step, recorded          {bash:7.1f} ms")
    print(f"edited: go build                      {build:7.0f} ms")
    print(f"edited: build and run of the step     {edited:7.0f} ms   {edited / build:.2f} x go build (goal <= 1.2)")


if __name__ == "__main__":
    asyncio.run(main())

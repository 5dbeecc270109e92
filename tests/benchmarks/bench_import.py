"""
The first import of a package in a step, compared with a plain `import()` in a new Node.js.

Prints figures and the ratio of one run. `python tests/benchmarks/bench_import.py`
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from pdkernel.model import JSON, Step
from pdkernel.packages import NpmTree
from pdkernel.workers import RunSetup, StepCall, StepRecorder, WorkerPool, find_node

RUNS = 15
FILES = 300
"""The number of modules of each kind in the package; slack's action loads about as many."""

EMPTY = "export default { run() {} }"


def make_package(folder: Path) -> None:
    """A package of many small files, half of them modules and half CommonJS."""
    package = folder / "node_modules" / "big"
    package.mkdir(parents=True)
    (package / "package.json").write_text('{"name": "big", "exports": "./index.mjs"}')
    for number in range(FILES):
        body = "\n".join(f"function f{line}(x) {{ return x + {line}; }}" for line in range(40))
        (package / f"m{number}.mjs").write_text(f"{body}\nexport default f0({number});\n")
        (package / f"c{number}.cjs").write_text(f"{body}\nmodule.exports = f0({number});\n")
    lines = [f"import m{n} from './m{n}.mjs';\nimport c{n} from './c{n}.cjs';" for n in range(FILES)]
    (package / "index.mjs").write_text("\n".join([*lines, "export default m1 + c1;"]))
    (folder / "plain.mjs").write_text(
        "const began = performance.now(); await import('big'); console.log(performance.now() - began)"
    )


async def in_a_step(tree: NpmTree, scratch: Path) -> float:
    """Milliseconds from the request to the end of the step, in a running worker."""
    pool = WorkerPool()
    trigger: dict[str, JSON] = {"event": {}, "context": {}}
    setup = RunSetup("run", "bench@1", trigger, {}, scratch, node_packages={"work": tree})
    workers = await pool.open_run(setup)
    await workers.run_step(StepCall(Step("first", "node", EMPTY)), StepRecorder())
    began = time.perf_counter()
    outcome = await workers.run_step(
        StepCall(Step("work", "node", f"import big from 'big@1';\n{EMPTY}")), StepRecorder()
    )
    taken = (time.perf_counter() - began) * 1000
    assert outcome.error is None, outcome.error
    await workers.release()
    await pool.close()
    return taken


def main() -> None:
    """Measure and print the figures."""
    plain, ours = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_package(folder)
        tree = NpmTree(folder, {"big@1": "big"})
        for _ in range(RUNS):
            done = subprocess.run([find_node(), folder / "plain.mjs"], capture_output=True, text=True, check=True)
            plain.append(float(done.stdout))
            ours.append(asyncio.run(in_a_step(tree, folder)))
    ratio = statistics.median(ours) / statistics.median(plain)
    print(f"plain import()          {statistics.median(plain):7.1f} ms")
    print(f"first import in a step  {statistics.median(ours):7.1f} ms   {ratio:.2f} x (goal <= 1.2)")


if __name__ == "__main__":
    main()

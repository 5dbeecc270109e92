"""
An action from npm: its first load compared with plain `import()`, and a warm call compared with a direct call of `run`.

`python tests/benchmarks/bench_components.py FOLDER`, with the folder in which `make actions` has installed the slack
package. The benchmark is skipped without the package, which has its own licence.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pdkernel.model import Step
from pdkernel.workers import ComponentFile, RunSetup, RunWorkers, StepCall, StepRecorder, WorkerPool, find_node

PACKAGE = Path("node_modules/@pipedream/slack")
ACTION = PACKAGE / "actions/verify-slack-signature/verify-slack-signature.mjs"
ROUNDS = 9
CALLS = 300
PLAIN = "const t = performance.now(); await import(process.argv[1]); console.log(performance.now() - t)"
WARM = 'export default { key: "bench-one", version: "1", type: "action", props: { a: "string" }, async run() { return this.a } };'


def plain_import(action: Path) -> float:
    """Milliseconds of plain `import()` in a fresh Node.js."""
    argv = [str(find_node()), "--input-type=module", "-e", PLAIN, action.as_uri()]
    return float(subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout)


async def opened(pool: WorkerPool, folder: Path, user: str) -> RunWorkers:
    """A run with a started Node.js worker, which no other user has."""
    workers = await pool.open_run(
        RunSetup("run", "bench", {"event": {}, "context": {}}, {}, folder, external_user_id=user)
    )
    await workers.evaluate(["1"], {})
    return workers


async def main(folder: Path) -> None:
    """Measure and print the figures."""
    action = (folder / ACTION).resolve()
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        pool = WorkerPool()
        if action.is_file():
            file = ComponentFile(action, "slack-verify-slack-signature", "0.0.17", "action", "npm")
            plain, ours = [], []
            for number in range(ROUNDS):  # in turn, so that both meet the same machine
                plain.append(plain_import(action))
                workers = await opened(pool, folder, f"user{number}")
                began = time.perf_counter()
                await workers.describe_here(file, timeout_s=30)
                ours.append((time.perf_counter() - began) * 1000)
                await workers.release()
            ratio = statistics.median(ours) / statistics.median(plain)
            print(f"plain import() of a slack action      {statistics.median(plain):7.1f} ms")
            print(
                f"its first load in a fresh worker       {statistics.median(ours):7.1f} ms   {ratio:.2f} x (goal <= 1.2)"
            )
        else:
            print(f"{PACKAGE} is not in {folder}: the first load is not measured (`make actions` installs it)")
        one = scratch / "one.mjs"
        one.write_text(WARM)
        workers = await opened(pool, scratch, "warm")
        call = StepCall(
            Step("one", "node", uses="bench-one@1"),
            component=ComponentFile(one, "bench-one", "1", "action", "npm"),
            props={"a": "x"},
        )
        times = []
        for _ in range(CALLS):
            began = time.perf_counter()
            await workers.run_step(call, StepRecorder())
            times.append((time.perf_counter() - began) * 1000)
        print(f"warm call of an action that does nothing {statistics.median(times[10:]):4.2f} ms   (goal <= 1)")
        await workers.release()
        await pool.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1] if len(sys.argv) > 1 else ".venv/actions")))

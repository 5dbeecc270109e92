"""
Two server processes against one, on the same PostgreSQL: workflows whose step waits 50 ms, as a call of an API does.

Each client keeps its connection. One process executes eight runs at once, so it is the wait that limits it, unless the
processor of the machine does. The processor time is that of all processes of the server, but not of the database.

Prints figures and ratios of one run. `python tests/benchmarks/bench_processes.py`
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from tests.benchmarks.bench_serve import together
from tests.notebook_files import notebook_of
from tests.postgres import PostgresServer, shared_postgres

CLIENTS = 32
CALLS_EACH = 25
ROUNDS = 3
WORKFLOW = "%%pdworkflow\nname: Bench\ntrigger:\n  type: http\n  response: custom\n"
STEP = """%%pdstep wait
import time
def handler(pd):
    time.sleep(0.05)
    pd.respond({"status": 200, "body": {"ok": True}})
"""


def processor_s(process: psutil.Process) -> float:
    """The processor time of a process and of all that it has started and that run."""
    total = 0.0
    for each in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            total += times.user + times.system
    return total


def measure(folder: Path, database: str, processes: int) -> tuple[float, float]:
    """The runs per second, and the processor time per run in ms."""
    environ = {**os.environ, "PDKERNEL_EGRESS": "deny", "PDKERNEL_DATABASE": database}
    command = [sys.executable, "-m", "pdkernel", "serve", "bench.ipynb", "--port", "0", "--json"]
    with subprocess.Popen(
        [*command, "--server-processes", str(processes)],
        cwd=folder,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        assert server.stdout
        url = json.loads(server.stdout.readline())["workflows"][0]["url"]
        together(url, {}, 4, CLIENTS)  # the workers start
        seen = psutil.Process(server.pid)
        before = processor_s(seen)
        rate = together(url, {}, CALLS_EACH, CLIENTS)
        used = processor_s(seen) - before
        server.send_signal(signal.SIGTERM)
    return rate, used * 1000 / (CLIENTS * CALLS_EACH)


def compare(folder: Path, postgres: PostgresServer) -> tuple[tuple[float, float], tuple[float, float]]:
    """The medians of one and of two processes, measured in turns."""
    found: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    with postgres.new_database() as database:
        for _ in range(ROUNDS):
            for processes, results in found.items():
                results.append(measure(folder, database, processes))
    one, two = (
        (statistics.median(rates), statistics.median(used))
        for rates, used in (zip(*each, strict=True) for each in found.values())
    )
    return one, two


def main() -> None:
    """Measure and print the figures."""
    with (
        tempfile.TemporaryDirectory(prefix="pdkernel-bench-", dir=Path.home()) as place,
        shared_postgres(Path(tempfile.gettempdir()) / f"pdk-bench-{os.getpid()}") as postgres,
    ):
        notebook_of(Path(place) / "bench.ipynb", WORKFLOW, STEP)
        one, two = compare(Path(place), postgres)
    print(f"one process, {CLIENTS} clients       {one[0]:6.0f} runs/s   {one[1]:6.2f} ms of processor time a run")
    print(f"two processes, {CLIENTS} clients     {two[0]:6.0f} runs/s   {two[1]:6.2f} ms of processor time a run")
    print(
        f"two / one                      {two[0] / one[0]:6.2f} runs/s (goal >= 1.7)   {two[1] / one[1]:6.2f} processor time (goal <= 1.2)"
    )


if __name__ == "__main__":
    main()

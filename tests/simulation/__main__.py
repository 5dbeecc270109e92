"""
Runs the scenarios of some seeds, and prints those that break a promise: `python -m tests.simulation COUNT FIRST PROCESSES HOSTS`.

Of several that break it in the same way, it shows the operations of the first one, without those that do not matter. The order of
sets must be fixed (`PYTHONHASHSEED=0`), so that a seed does the same in each process.
"""

from __future__ import annotations

import gc
import multiprocessing
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from tests.simulation.scenario import find_failure, kind_of, make_scenario, shrink
from tests.simulation.template import make_template

CHUNK = 10
"""Seeds that a process takes at a time."""


def main(count: int = 200, first: int = 0, processes: int = 1, hosts: int = 1) -> int:
    """Run the scenarios, in several processes if wanted; return the exit status. Failures are printed in the order of the seeds."""
    began, shown = time.monotonic(), set[str]()
    seeds = range(first, first + count)
    with tempfile.TemporaryDirectory(prefix="pdk-sim-") as place, multiprocessing.Pool(processes, gc.freeze) as pool:
        template = make_template(Path(place))
        failures = pool.imap(partial(_find_failure, template, hosts), seeds, chunksize=CHUNK)
        for seed, failure in zip(seeds, failures, strict=True):
            if failure is None:
                continue
            print(f"seed {seed}: {failure}", flush=True)
            if kind_of(failure) not in shown:
                shown.add(kind_of(failure))
                scenario = make_scenario(seed, hosts)
                kept, message = shrink(scenario, template, failure)
                print(f"  {len(kept.operations)} of {len(scenario.operations)} operations are enough: {message}")
                print("\n".join(f"    {each}" for each in kept.operations), flush=True)
    seconds = time.monotonic() - began
    print(f"{count} seeds, {seconds:.1f} s, {count / seconds:.1f} seeds/s")
    return 1 if shown else 0


def _find_failure(template: Path, hosts: int, seed: int) -> str | None:
    return find_failure(make_scenario(seed, hosts), template)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))

"""
Runs the scenarios of some seeds, and prints those that break a promise: `python -m tests.simulation COUNT FIRST`.

Of several that break it in the same way, it shows the operations of the first one, without those that do not matter. The order of
sets must be fixed (`PYTHONHASHSEED=0`), so that a seed does the same in each process.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from tests.simulation.scenario import find_failure, kind_of, make_scenario, shrink
from tests.simulation.template import make_template


def main(count: int = 200, first: int = 0) -> int:
    """Run the scenarios; return the exit status."""
    began, shown = time.monotonic(), set[str]()
    with tempfile.TemporaryDirectory(prefix="pdk-sim-") as place:
        template = make_template(Path(place))
        for seed in range(first, first + count):
            scenario = make_scenario(seed)
            failure = find_failure(scenario, template)
            if failure is None:
                continue
            print(f"seed {seed}: {failure}", flush=True)
            if kind_of(failure) not in shown:
                shown.add(kind_of(failure))
                kept, message = shrink(scenario, template, failure)
                print(f"  {len(kept.operations)} of {len(scenario.operations)} operations are enough: {message}")
                print("\n".join(f"    {each}" for each in kept.operations), flush=True)
    print(f"{count} seeds, {time.monotonic() - began:.1f} s")
    return 1 if shown else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))

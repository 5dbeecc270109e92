"""
The time of importing the package and loading the extension, compared with a bare interpreter and a bare IPython.

Prints figures and ratios of one run. `python tests/benchmarks/bench_start.py`
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

RUNS = 7


def median_ms(code: str) -> float:
    """Median wall time of a new interpreter that runs *code*."""
    times = []
    for _ in range(RUNS):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


def main() -> None:
    """Measure and print the figures."""
    shell = "from IPython.core.interactiveshell import InteractiveShell; ip = InteractiveShell.instance(); "
    bare = median_ms("pass")
    imported = median_ms("import pdkernel")
    ipython = median_ms(shell)
    loaded = median_ms(shell + "ip.run_line_magic('load_ext', 'pdkernel')")
    print(f"bare interpreter        {bare:7.0f} ms")
    print(f"import pdkernel         {imported:7.0f} ms   {imported - bare:+.0f} ms, {imported / bare:.1f} x bare")
    print(f"bare IPython shell      {ipython:7.0f} ms")
    print(
        f"%load_ext pdkernel      {loaded:7.0f} ms   {loaded - ipython:+.0f} ms (goal <= 300), {loaded / ipython:.2f} x bare"
    )


if __name__ == "__main__":
    main()

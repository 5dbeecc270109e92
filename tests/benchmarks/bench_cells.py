"""
A step's cell compared with the same code in a plain cell, in one IPython shell.

Prints figures of one run. `python tests/benchmarks/bench_cells.py`
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from traitlets.config import Config

RUNS = 60
PLAIN = "sum(n * n for n in range(2000))"
CELLS = {
    "Python": f"%%pdstep one\ndef handler(pd):\n    return {PLAIN}\n",
    "Node.js": "%%pdstep two --lang node\nexport default defineComponent({ run() {\n"
    "  let t = 0; for (let n = 0; n < 2000; n++) t += n * n; return t; } });\n",
}


def median_ms(shell: Any, cell: str) -> float:
    """The median time of running *cell*, after a warm-up."""
    times = []
    for _ in range(RUNS):
        with capture_output():
            began = time.perf_counter()
            result = shell.run_cell(cell)
            times.append((time.perf_counter() - began) * 1000)
        result.raise_error()
    return statistics.median(times[5:])


def main() -> None:
    """Measure and print the figures."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["PDKERNEL_EGRESS"] = "deny"
        Path("hello.json").write_text('{"body": {}}')
        shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
        with capture_output():
            shell.run_line_magic("load_ext", "pdkernel")
            shell.run_line_magic("pdevent", "hello.json")
        plain = median_ms(shell, PLAIN)
        print(f"plain cell                    {plain:7.2f} ms")
        for language, cell in CELLS.items():
            warm = median_ms(shell, cell)
            print(
                f"warm {language + ' step':<24} {warm:7.2f} ms   {warm - plain:+.2f} ms (goal <= 5), {warm / plain:.1f} x"
            )
        with capture_output():
            shell.run_line_magic("unload_ext", "pdkernel")
        os.chdir("/")


if __name__ == "__main__":
    main()

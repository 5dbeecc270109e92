"""
The time of importing the package, loading the extension and exporting, compared with the same process without them.

The figures are CPU time, which other programs on the machine change least.
Prints figures and ratios of one run. `python tests/benchmarks/bench_start.py`
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

RUNS = 7
NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "01_quickstart.ipynb"


def median_ms(*commands: list[str]) -> list[float]:
    """Median CPU time of an interpreter with each of the arguments; they take turns, and the first runs are not counted."""
    times: list[list[float]] = [[] for _ in commands]
    for _ in range(RUNS + 1):
        for command, taken in zip(commands, times, strict=True):
            before = os.times()
            subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
            after = os.times()
            seconds = after.children_user + after.children_system - before.children_user - before.children_system
            taken.append(seconds * 1000)
    return [statistics.median(taken[1:]) for taken in times]


def export_times(folder: Path) -> list[float]:
    """The times of `--help`, of an export, and of an export beside a `NAME.pdkernel.yaml`."""
    notebooks = [folder / "alone" / NOTEBOOK.name, folder / "beside" / NOTEBOOK.name]
    for notebook in notebooks:
        notebook.parent.mkdir()
        shutil.copy(NOTEBOOK, notebook)
    shutil.copy(NOTEBOOK.with_suffix(".pdkernel.yaml"), folder / "beside")
    exports = [
        ["-m", "pdkernel", "export", str(path), "--to", str(path.parent / "flow"), "--dry-run"] for path in notebooks
    ]
    return median_ms(["-m", "pdkernel", "--help"], *exports)


def main() -> None:
    """Measure and print the figures."""
    shell = "from IPython.core.interactiveshell import InteractiveShell; ip = InteractiveShell.instance(); "
    load = f"{shell}ip.run_line_magic('load_ext', 'pdkernel')"
    bare, imported, ipython, loaded = median_ms(*(["-c", code] for code in ("pass", "import pdkernel", shell, load)))
    print(f"bare interpreter        {bare:7.0f} ms")
    print(f"import pdkernel         {imported:7.0f} ms   {imported - bare:+.0f} ms, {imported / bare:.1f} x bare")
    print(f"bare IPython shell      {ipython:7.0f} ms")
    print(
        f"%load_ext pdkernel      {loaded:7.0f} ms   {loaded - ipython:+.0f} ms (goal <= 300), {loaded / ipython:.2f} x bare"
    )
    with tempfile.TemporaryDirectory() as name:
        listed, exported, with_sidecar = export_times(Path(name))
    print(f"pdkernel --help         {listed:7.0f} ms")
    print(f"pdkernel export         {exported:7.0f} ms   {exported / listed:.2f} x --help (goal <= 3)")
    print(f"  with pdkernel.yaml    {with_sidecar:7.0f} ms   {with_sidecar / exported:.2f} x without (goal <= 1.1)")


if __name__ == "__main__":
    main()

"""
A benchmark of this checkout against the same benchmark of another commit, in turns: `python tests/benchmarks/against.py COMMIT`.

Prints the median of each figure of `bench_serve.py` (or of the script that is named second) and its ratio. The other commit
runs in a work tree of its own with the packages of this environment.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 4
FIGURE = re.compile(r"^(?P<name>\S.*?) {2,}(?P<value>[\d,.]+) (?P<unit>ms|s|MB|runs/s)\b", re.MULTILINE)


@contextmanager
def work_tree(commit: str) -> Iterator[Path]:
    """A folder with the files of *commit*."""
    with tempfile.TemporaryDirectory(prefix="pdkernel-base-") as name:
        folder = Path(name) / "base"
        subprocess.run(["git", "worktree", "add", "-q", "--detach", folder, commit], cwd=ROOT, check=True)
        try:
            yield folder
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", folder], cwd=ROOT, check=True)


def measure(tree: Path, script: str) -> Mapping[str, tuple[float, str]]:
    """The figures that the script prints, each with its unit."""
    environ = {**os.environ, "PYTHONPATH": str(tree)}  # before the installed package
    printed = subprocess.run(
        [sys.executable, tree / "tests" / "benchmarks" / script],
        cwd=tree,
        env=environ,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    return {
        found["name"]: (float(found["value"].replace(",", "")), found["unit"]) for found in FIGURE.finditer(printed)
    }


def main(commit: str, script: str = "bench_serve.py") -> None:
    """Measure in turns, and print medians and ratios."""
    with work_tree(commit) as base:
        trees = (base, ROOT)
        rounds = []
        for turn in range(
            ROUNDS
        ):  # the first place changes: the machine may be faster or slower at the start of a round
            figures = {tree: measure(tree, script) for tree in (trees if turn % 2 == 0 else reversed(trees))}
            rounds.append((figures[base], figures[ROOT]))
    common = set.intersection(*(set(figures) for each in rounds for figures in each))
    units = {name: unit for name, (_, unit) in rounds[0][1].items() if name in common}
    print(f"{script}: medians of {ROUNDS} rounds, {commit} / this checkout")
    for name, unit in units.items():
        earlier, now = (statistics.median(each[side][name][0] for each in rounds) for side in (0, 1))
        print(f"  {name:<40} {earlier:8.2f} {now:8.2f} {unit:<7} {now / earlier:5.2f} x")


if __name__ == "__main__":
    main(*sys.argv[1:])

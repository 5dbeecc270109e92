"""
A benchmark of this checkout against the same benchmark of another commit, in turns: `python tests/benchmarks/against.py COMMIT`.

First, warm runs of both are timed in turns of a fraction of a second, so that the ratio does not depend on a machine whose speed
changes. Then it prints the median of each figure of `bench_serve.py` (or of the script that is named second) and its ratio. The other commit
runs in a work tree of its own with the packages of this environment.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 4
TURNS = 40
WARM_RUNS = ("live", ""), ("deny", ""), ("live", "settings: {lambda_memory: 512}")
"""The policy, and more of the workflow's cell."""
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


@contextmanager
def warm_runs(tree: Path, policy: str, settings: str) -> Iterator[Callable[[], float]]:
    """A function that returns the median time in ms of some warm runs of the code in *tree*."""
    command = [sys.executable, str(ROOT / "tests" / "benchmarks" / "warm_runs.py"), policy, settings]
    environ = {**os.environ, "PYTHONPATH": str(tree)}
    with subprocess.Popen(
        command, cwd=tree, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        assert process.stdin
        assert process.stdout
        answers, asked = process.stdout, process.stdin
        answers.readline()

        def run() -> float:
            asked.write("\n")
            return float(answers.readline())

        yield run
        asked.close()


def compare_warm_runs(base: Path, policy: str, settings: str) -> tuple[float, float]:
    """The median time in ms of a warm run of the other commit, and the median ratio of this checkout to it."""
    with warm_runs(base, policy, settings) as earlier, warm_runs(ROOT, policy, settings) as now:
        pairs = []
        for turn in range(TURNS):
            first, second = (earlier, now) if turn % 2 == 0 else (now, earlier)
            pair = first(), second()
            pairs.append(pair if turn % 2 == 0 else pair[::-1])
    return statistics.median(each for each, _ in pairs), statistics.median(after / before for before, after in pairs)


def main(commit: str, script: str = "bench_serve.py") -> None:
    """Measure in turns, and print medians and ratios."""
    with work_tree(commit) as base:
        print(f"warm runs in {TURNS} turns, this checkout / {commit}")
        for policy, settings in WARM_RUNS:
            earlier, ratio = compare_warm_runs(base, policy, settings)
            print(f"  {f'{policy} {settings}':<40} {earlier:8.2f} ms {ratio:5.3f} x")
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

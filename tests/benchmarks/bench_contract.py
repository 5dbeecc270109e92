"""
The contract of a workflow of twenty steps in two languages, compared with parsing the code alone.

    python tests/benchmarks/bench_contract.py
"""

from __future__ import annotations

import ast
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from pdkernel.language.analysis.contract import derive_contract
from pdkernel.language.expression import javascript
from pdkernel.model import Step, Workflow
from tests.language.analysis.labelled import LANGUAGES, cases

STEPS = 20
ROUNDS = 5


def a_workflow() -> Workflow:
    """Steps of the labelled set, as many in Python as in Node.js."""
    found = [cases(LANGUAGES[index % len(LANGUAGES)])[index] for index in range(STEPS)]
    return Workflow("bench", steps=tuple(Step(f"s{n}", case.language, case.code) for n, case in enumerate(found)))


def parse(step: Step) -> object:
    """The tree of the code of *step*."""
    return ast.parse(step.source) if step.language == "python" else javascript.parse_source(step.source)


def best(act: Callable[[], object]) -> float:
    """Milliseconds of the fastest round."""
    found = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        act()
        found.append((time.perf_counter() - start) * 1000)
    return min(found)


def main() -> None:
    """Print the figures."""
    workflow = a_workflow()
    whole = best(lambda: derive_contract(workflow))
    parsed = best(lambda: [parse(step) for step in workflow.steps])
    print(f"contract of {STEPS} steps: {whole:.1f} ms, {whole / parsed:.1f} x parsing them alone")


if __name__ == "__main__":
    main()

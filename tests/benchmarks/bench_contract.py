"""
The contract of a workflow of twenty steps in four languages, compared with parsing the code alone.

    python tests/benchmarks/bench_contract.py
"""

from __future__ import annotations

import ast
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import tree_sitter_bash
import tree_sitter_go
import tree_sitter_javascript
from tree_sitter import Language, Parser

from pdkernel.language.analysis.contract import derive_contract
from pdkernel.model import Step, Workflow
from tests.language.analysis.labelled import cases

STEPS = 20
ROUNDS = 5
_PARSERS = {
    "node": Parser(Language(tree_sitter_javascript.language())),
    "bash": Parser(Language(tree_sitter_bash.language())),
    "go": Parser(Language(tree_sitter_go.language())),
}


def a_workflow() -> Workflow:
    """Steps of the labelled set, Python and Node.js twice as often as Bash and Go."""
    kinds = ("python", "node", "python", "node", "bash", "go")
    found = [cases(kinds[index % len(kinds)])[index % 12] for index in range(STEPS)]
    return Workflow("bench", steps=tuple(Step(f"s{n}", case.language, case.code) for n, case in enumerate(found)))


def parse(step: Step) -> object:
    """The tree of the code of *step*."""
    return ast.parse(step.source) if step.language == "python" else _PARSERS[step.language].parse(step.source.encode())


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

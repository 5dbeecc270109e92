"""
Comparison of two runs, step by step.

Compares status, exports, error, accounts and requests of a step; not its logs and duration.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pdkernel.annex.proof.report import WHOLE_RUN
from pdkernel.annex.proof.side_runner import SideRun
from pdkernel.annex.proof.value_differences import MISSING, ValueDifference, find_differences
from pdkernel.execution import Execution, StepResult

RunDifferences = dict[str, list[ValueDifference]]
"""Differences by step; the key `WHOLE_RUN` is the run itself."""


def compare_runs(notebook: SideRun, files: SideRun) -> RunDifferences:
    """Compare two runs; a step without differences has an empty list."""
    one = {step.name: step for step in notebook.execution.steps}
    other = {step.name: step for step in files.execution.steps}
    found: RunDifferences = {}
    for name in dict.fromkeys((*one, *other)):
        found[name] = list(find_differences("", _step(one.get(name)), _step(other.get(name))))
    found[WHOLE_RUN] = list(find_differences("", _run_fields(notebook), _run_fields(files)))
    return found


def separate_flaky(differences: RunDifferences, flaky: RunDifferences) -> tuple[RunDifferences, dict[str, list[str]]]:
    """
    Separate stable differences from places that differ between two runs of the same side.

    Args:
        differences: Differences between notebook and files.
        flaky: Differences between two runs of the notebook.

    Returns:
        The stable differences, and the paths of flaky places by step.
    """
    stable: RunDifferences = {}
    flaky_paths: dict[str, list[str]] = {}
    for name, differing in differences.items():
        unstable = [place.path for place in flaky.get(name, ())]
        for place in differing:
            if any(_overlaps(place.path, path) for path in unstable):
                flaky_paths.setdefault(name, []).append(place.path)
            else:
                stable.setdefault(name, []).append(place)
        stable.setdefault(name, [])
    return stable, flaky_paths


def is_refused_before_start(execution: Execution) -> bool:
    """Whether the run was refused before its first step."""
    return execution.error is not None and all(step.status in ("not_run", "disabled") for step in execution.steps)


def _overlaps(path: str, other: str) -> bool:
    """Whether one path equals the other or is inside it."""
    outer, inner = sorted((path, other), key=len)
    return inner == outer or inner.startswith((f"{outer}.", f"{outer}[", f"{outer} "))


def _step(step: StepResult | None) -> Any:
    if step is None:
        return MISSING
    return {
        "status": step.status,
        "exports": dict(step.exports),
        "error": _error(step.error),
        "accounts": {use.prop: {"app": use.app, "id": use.id, "owner": use.owner} for use in step.accounts},
        "requests": sorted(_requests(step)),
        "attempt": step.attempt,
    }


def _requests(step: StepResult) -> Iterator[str]:
    # sorted: concurrent requests may end in any order
    for call in step.requests:
        yield f"{call.method} {call.url} {call.status} {call.outcome}"


def _error(error: Any) -> Mapping[str, str] | None:
    return None if error is None else {"code": error.code, "name": error.name, "message": error.message}


def _run_fields(ran: SideRun) -> dict[str, Any]:
    execution = ran.execution
    return {
        "status": execution.status,
        "response": execution.response.to_json() if execution.response else None,
        "error": _error(execution.error),
        "sends": [[send.step, send.kind, send.outcome, send.to, send.status, send.payload] for send in execution.sends],
        "stores": dict(ran.stores),
    }

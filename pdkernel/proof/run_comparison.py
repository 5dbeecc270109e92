"""
What two runs did, compared step by step.

Knows what of a step counts: status, exports, error, accounts, the requests asked for. What it printed and how long it took do not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pdkernel.execution import Execution, StepResult
from pdkernel.proof.side_runner import SideRun
from pdkernel.proof.value_differences import MISSING, ValueDifference, find_differences
from pdkernel.render.proof import WHOLE_RUN

RunDifferences = dict[str, list[ValueDifference]]
"""Places that differ, by step; `WHOLE` for the run itself."""


def compare_runs(notebook: SideRun, files: SideRun) -> RunDifferences:
    """Where the two runs differ; steps that are the same on both sides have an empty list."""
    one = {step.name: step for step in notebook.execution.steps}
    other = {step.name: step for step in files.execution.steps}
    found: RunDifferences = {}
    for name in dict.fromkeys((*one, *other)):
        found[name] = list(find_differences("", _step(one.get(name)), _step(other.get(name))))
    found[WHOLE_RUN] = list(find_differences("", _run_fields(notebook), _run_fields(files)))
    return found


def separate_flaky(differences: RunDifferences, flaky: RunDifferences) -> tuple[RunDifferences, dict[str, list[str]]]:
    """
    *differences* without places that differ from run to run of one side, and those places by step.

    Args:
        differences: Notebook and files compared.
        flaky: The notebook compared with itself.
    """
    kept: RunDifferences = {}
    moving: dict[str, list[str]] = {}
    for name, differing in differences.items():
        restless_here = [place.path for place in flaky.get(name, ())]
        for place in differing:
            if any(_overlaps(place.path, path) for path in restless_here):
                moving.setdefault(name, []).append(place.path)
            else:
                kept.setdefault(name, []).append(place)
        kept.setdefault(name, [])
    return kept, moving


def is_refused_before_start(execution: Execution) -> bool:
    """Whether the run was refused before its first step."""
    return execution.error is not None and all(step.status in ("not_run", "disabled") for step in execution.steps)


def _overlaps(path: str, other: str) -> bool:
    """Whether one place is the other, or inside it."""
    one, two = sorted((path, other), key=len)
    return two == one or two.startswith((f"{one}.", f"{one}[", f"{one} "))


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
    # in no order: of requests that are made at once, either may end first
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

"""
What two runs did, compared step by step.

Knows what of a step counts: status, exports, error, accounts, the requests asked for. What it printed and how long it took do not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pdkernel.execution import Execution, StepResult
from pdkernel.proof.bench import Ran
from pdkernel.proof.values import NOTHING, Place, places
from pdkernel.render.proof import WHOLE

Found = dict[str, list[Place]]
"""Places that differ, by step; `WHOLE` for the run itself."""


def compare_runs(notebook: Ran, files: Ran) -> Found:
    """Where the two runs differ; steps that are the same on both sides have an empty list."""
    one = {step.name: step for step in notebook.execution.steps}
    other = {step.name: step for step in files.execution.steps}
    found: Found = {}
    for name in dict.fromkeys((*one, *other)):
        found[name] = list(places("", _step(one.get(name)), _step(other.get(name))))
    found[WHOLE] = list(places("", _whole(notebook), _whole(files)))
    return found


def without_restless(found: Found, restless: Found) -> tuple[Found, dict[str, list[str]]]:
    """
    *found* without places that differ from run to run of one side, and those places by step.

    Args:
        found: Notebook and files compared.
        restless: The notebook compared with itself.
    """
    kept: Found = {}
    moving: dict[str, list[str]] = {}
    for name, differing in found.items():
        restless_here = [place.path for place in restless.get(name, ())]
        for place in differing:
            if any(_touches(place.path, path) for path in restless_here):
                moving.setdefault(name, []).append(place.path)
            else:
                kept.setdefault(name, []).append(place)
        kept.setdefault(name, [])
    return kept, moving


def never_ran(execution: Execution) -> bool:
    """Whether the run was refused before its first step."""
    return execution.error is not None and all(step.status in ("not_run", "disabled") for step in execution.steps)


def _touches(path: str, other: str) -> bool:
    """Whether one place is the other, or inside it."""
    one, two = sorted((path, other), key=len)
    return two == one or two.startswith((f"{one}.", f"{one}[", f"{one} "))


def _step(step: StepResult | None) -> Any:
    if step is None:
        return NOTHING
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


def _whole(ran: Ran) -> dict[str, Any]:
    execution = ran.execution
    return {
        "status": execution.status,
        "response": execution.response.to_json() if execution.response else None,
        "error": _error(execution.error),
        "sends": [[send.step, send.kind, send.outcome, send.to, send.status, send.payload] for send in execution.sends],
        "stores": dict(ran.stores),
    }

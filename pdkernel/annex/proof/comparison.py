"""
Comparison of two workflow definitions, of two runs, and of two JSON values. The values 1, 1.0 and true are different.

Of a definition, all parts count that an export must preserve, also those that do not affect a run. Of a run's step, status, exports,
error, accounts and requests count; its logs and its duration do not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pdkernel.annex.proof.report import WHOLE_RUN, Difference
from pdkernel.annex.proof.side_runner import SideRun
from pdkernel.common.redaction import Redactor
from pdkernel.execution import Execution, StepResult
from pdkernel.files.definition import Sidecar
from pdkernel.files.definition.control_flow import build_control_flow
from pdkernel.files.definition.sidecar import FILE_FIELDS
from pdkernel.language.analysis import find_app_bindings, find_workflow_variables
from pdkernel.model import ROUND_TRIP_KEY, Step, Trigger, Workflow

_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_$-")


class _Missing:
    """Marks a place where one side has no value."""


MISSING: Final = _Missing()


@dataclass(frozen=True, slots=True)
class ValueDifference:
    """A place where two values differ: its path and the value of each side (`MISSING` for no value)."""

    path: str
    notebook: Any
    files: Any

    def to_difference(self, redactor: Redactor) -> Difference:
        """Return the difference as redacted JSON texts."""
        return Difference(redactor.redact_text(self.path), _text(self.notebook, redactor), _text(self.files, redactor))


def find_differences(path: str, notebook: Any, files: Any) -> Iterator[ValueDifference]:
    """
    Yield every place below *path* where *notebook* and *files* differ.

    For texts of several lines, only the first differing line is reported.
    """
    match notebook, files:
        case Mapping(), Mapping():
            for key in dict.fromkeys((*notebook, *files)):
                yield from find_differences(_child_path(path, key), notebook.get(key, MISSING), files.get(key, MISSING))
        case list(), list():
            for index in range(max(len(notebook), len(files))):
                yield from find_differences(f"{path}[{index}]", _item(notebook, index), _item(files, index))
        case str(), str() if "\n" in notebook or "\n" in files:
            yield from _lines(path, notebook, files)
        case _ if type(notebook) is not type(files) or notebook != files:
            yield ValueDifference(path, notebook, files)


def _lines(path: str, notebook: str, files: str) -> Iterator[ValueDifference]:
    if notebook == files:
        return
    one, other = notebook.splitlines(keepends=True), files.splitlines(keepends=True)
    for number in range(max(len(one), len(other))):
        notebook_line, files_line = _item(one, number), _item(other, number)
        if notebook_line != files_line:
            yield ValueDifference(f"{path} line {number + 1}", notebook_line, files_line)
            return


def _item(values: list[Any], index: int) -> Any:
    return values[index] if index < len(values) else MISSING


def _child_path(path: str, key: object) -> str:
    name = str(key)
    if name and set(name) <= _WORD:
        return f"{path}.{name}" if path else name
    return f"{path}[{json.dumps(name, ensure_ascii=False)}]"


def _text(value: Any, redactor: Redactor) -> str | None:
    return None if value is MISSING else redactor.redact_text(json.dumps(value, ensure_ascii=False))


def compare_workflows(
    notebook: Workflow,
    files: Workflow,
    *,
    notebook_sidecar: Sidecar | None = None,
    folder_sidecar: Sidecar | None = None,
    is_patched: bool = False,
) -> Iterator[ValueDifference]:
    """
    Yield every place where the two workflows differ.

    Args:
        notebook: The exported workflow.
        files: The workflow read back from the files.
        notebook_sidecar: The `pdkernel.yaml` beside the notebook, or None.
        folder_sidecar: The `pdkernel.yaml` in the folder, or None, which skips its comparison.
        is_patched: Whether the export updated a synced folder, which keeps ids, settings and keys that the notebook lacks.
    """
    one_text = _workflow(notebook, new="schema" not in notebook.extra and not is_patched)
    other_text = _workflow(files, new=False)
    yield from find_differences("", one_text, _restrict_to_keys(one_text, other_text) if is_patched else other_text)
    one = {step.name: step for step in notebook.steps}
    other = {step.name: step for step in files.steps}
    for name, step in one.items():
        if name in other:
            notebook_step, files_step = _step_definition(step), _step_definition(other[name])
            yield from find_differences(
                f"steps.{name}",
                notebook_step,
                _restrict_to_keys(notebook_step, files_step) if is_patched else files_step,
            )
    if folder_sidecar is not None:
        fields = _sidecar_fields(notebook_sidecar or Sidecar())
        # an export keeps keys that only the folder's file contains
        yield from find_differences(
            "pdkernel.yaml",
            fields,
            {key: value for key, value in _sidecar_fields(folder_sidecar).items() if key in fields},
        )


def _restrict_to_keys(notebook: dict[str, Any], files: dict[str, Any]) -> dict[str, Any]:
    """Return *files* without the keys that *notebook* lacks, at the top level, in settings and in triggers."""
    known = {key: value for key, value in files.items() if key in notebook}
    if "triggers" in known:
        known["triggers"] = [
            {
                key: value
                for key, value in trigger.items()
                if index >= len(notebook["triggers"]) or key in notebook["triggers"][index]
            }
            for index, trigger in enumerate(known["triggers"])
        ]
        known["settings"] = {key: value for key, value in known["settings"].items() if key in notebook["settings"]}
        known["kept"] = [entry for entry in known["kept"] if entry in notebook["kept"]]
    return known


def _workflow(workflow: Workflow, *, new: bool) -> dict[str, Any]:
    left_out = {"schema", "triggers", ROUND_TRIP_KEY}
    # an export of a notebook writes the platform's default for a missing key
    settings = {**({"error_notification": True} if new else {}), **workflow.settings}
    return {
        "name": workflow.name,
        "triggers": [_trigger(trigger) for trigger in workflow.triggers],
        "settings": settings,
        "steps": [workflow.path(step.name) for step in workflow.steps],
        "blocks": list(build_control_flow(workflow)),
        "kept": [[entry.after_step, dict(entry.entry)] for entry in workflow.unsupported_entries],
        "variables": sorted({*workflow.variables, *find_workflow_variables(workflow)}),
        **{key: value for key, value in workflow.extra.items() if key not in left_out},
    }


def _trigger(trigger: Trigger) -> dict[str, Any]:
    request = {"auth": trigger.auth, "token_env": trigger.token_env, "response": trigger.response}
    return {"type": trigger.type, **(request if trigger.type == "http" else {}), **trigger.config}


def _step_definition(step: Step) -> dict[str, Any]:
    return {
        "language": step.language,
        "uses": step.uses,
        "disabled": step.disabled,
        "notes": step.notes,
        "timeout": step.timeout_s,
        "accounts": {
            app.prop: {"app": app.app, "account": app.account or "external_user"} for app in find_app_bindings(step)
        },
        "stores": {store.prop: store.store for store in step.stores},
        "props": dict(step.props),
        "picked": step.picked_options,
        "code": step.source,
        "files": dict(step.files),
        **{key: value for key, value in step.extra.items() if key != ROUND_TRIP_KEY},
    }


def _sidecar_fields(sidecar: Sidecar) -> dict[str, Any]:
    fields = {_KEYS.get(name, name): getattr(sidecar, name) for name in FILE_FIELDS}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in fields.items() if value}


_KEYS = {"naming_callers": "child_runs.may_name_external_user"}
"""Keys of `pdkernel.yaml` by the field of `Sidecar`, where the two differ."""


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
    """Return whether the run was refused before its first step."""
    return execution.error is not None and all(step.status in ("not_run", "disabled") for step in execution.steps)


def _overlaps(path: str, other: str) -> bool:
    """Return whether one path equals the other or is inside it."""
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

"""
Comparison of two workflow definitions: names, order, code, props, accounts, limits.

Covers all parts that an export must preserve, also those that do not affect a run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pdkernel.annex.proof.value_differences import ValueDifference, find_differences
from pdkernel.files.definition import Sidecar
from pdkernel.language.analysis import find_app_bindings, find_workflow_variables
from pdkernel.model import ROUND_TRIP_KEY, Step, Trigger, Workflow


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
            notebook_step, files_step = _step(step), _step(other[name])
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
    """*files* without the keys that *notebook* lacks, at the top level, in settings and in triggers."""
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
        "steps": [step.name for step in workflow.steps],
        "kept": [[entry.after_step, dict(entry.entry)] for entry in workflow.unsupported_entries],
        "variables": sorted({*workflow.variables, *find_workflow_variables(workflow)}),
        **{key: value for key, value in workflow.extra.items() if key not in left_out},
    }


def _trigger(trigger: Trigger) -> dict[str, Any]:
    request = {"auth": trigger.auth, "token_env": trigger.token_env, "response": trigger.response}
    return {"type": trigger.type, **(request if trigger.type == "http" else {}), **trigger.config}


def _step(step: Step) -> dict[str, Any]:
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
    fields = {
        "endpoint": sidecar.endpoint,
        "actions": list(sidecar.actions),
        "test_users": list(sidecar.test_users),
        "test_events": list(sidecar.test_events),
        "control_flow": list(sidecar.control_flow),
    }
    return {key: value for key, value in fields.items() if value}

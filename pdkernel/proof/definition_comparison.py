"""
A workflow's text compared with another's: names, order, code, props, accounts, limits.

Knows what of a workflow an export must bring over, whether or not a run would show that it is lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pdkernel.analysis import find_app_bindings, find_workflow_variables
from pdkernel.definition import Sidecar
from pdkernel.model import ROUND_TRIP_KEY, Step, Trigger, Workflow
from pdkernel.proof.value_differences import ValueDifference, find_differences


def compare_workflows(
    notebook: Workflow,
    files: Workflow,
    *,
    notebook_sidecar: Sidecar | None = None,
    folder_sidecar: Sidecar | None = None,
    is_patched: bool = False,
) -> Iterator[ValueDifference]:
    """
    Every place where the two differ.

    Args:
        notebook: What was exported.
        files: What was read back.
        notebook_sidecar: The `pdkernel.yaml` beside the notebook, or None.
        folder_sidecar: The folder's, or None if it has none: then nothing is held against it.
        is_patched: A synced folder was patched: its own ids, settings and keys that the notebook does not know were kept.
    """
    one_text = _workflow(notebook, new="schema" not in notebook.extra and not is_patched)
    other_text = _workflow(files, new=False)
    yield from find_differences("", one_text, _restrict_to_keys(one_text, other_text) if is_patched else other_text)
    one = {step.name: step for step in notebook.steps}
    other = {step.name: step for step in files.steps}
    for name, step in one.items():
        if name in other:
            here, there = _step(step), _step(other[name])
            yield from find_differences(f"steps.{name}", here, _restrict_to_keys(here, there) if is_patched else there)
    if folder_sidecar is not None:
        said = _sidecar_fields(notebook_sidecar or Sidecar())
        # what only the folder's own file says is kept there by an export
        yield from find_differences(
            "pdkernel.yaml", said, {key: value for key, value in _sidecar_fields(folder_sidecar).items() if key in said}
        )


def _restrict_to_keys(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """*theirs* without keys that *ours* does not have: of it, its settings and its triggers."""
    known = {key: value for key, value in theirs.items() if key in ours}
    if "triggers" in known:
        known["triggers"] = [
            {
                key: value
                for key, value in trigger.items()
                if index >= len(ours["triggers"]) or key in ours["triggers"][index]
            }
            for index, trigger in enumerate(known["triggers"])
        ]
        known["settings"] = {key: value for key, value in known["settings"].items() if key in ours["settings"]}
        known["kept"] = [entry for entry in known["kept"] if entry in ours["kept"]]
    return known


def _workflow(workflow: Workflow, *, new: bool) -> dict[str, Any]:
    left_out = {"schema", "triggers", ROUND_TRIP_KEY}
    # an export of a notebook writes the platform's default where the header says nothing
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
        **{key: value for key, value in step.extra.items() if key != ROUND_TRIP_KEY},
    }


def _sidecar_fields(sidecar: Sidecar) -> dict[str, Any]:
    said = {
        "endpoint": sidecar.endpoint,
        "actions": sidecar.actions,
        "test_users": list(sidecar.test_users),
        "control_flow": list(sidecar.control_flow),
    }
    return {key: value for key, value in said.items() if value}

"""
Applies a notebook's changes to the files of a synced folder; pure, writes nothing.

The notebook decides name, settings and steps. Triggers, the folder's ids and unknown keys are kept.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from pdkernel.errors import UnsupportedError
from pdkernel.files.definition.credential_check import check_no_credentials
from pdkernel.files.definition.file_plan import (
    SIDECAR_SETTINGS,
    WORKFLOW_FILE,
    DefinitionFile,
    build_step_files,
    get_entry_path,
    get_written_uses,
    iter_step_files,
)
from pdkernel.files.definition.sidecar import Sidecar
from pdkernel.files.definition.step_matching import match_steps
from pdkernel.files.definition.step_merge import MergedStep, build_new_step, insert_key, merge_step, merge_value
from pdkernel.files.definition.synced_folder import assign_trigger_ids, build_workflow
from pdkernel.files.definition.workflow_document import WorkflowDocument
from pdkernel.language.directive import is_same_value, patch_yaml
from pdkernel.model import JSON, ROUND_TRIP_KEY, Step, Trigger, Workflow

_ORDER = ("schema", "name", "inactive", "settings", "triggers", "steps")


@dataclass(frozen=True)
class FolderPatch:
    """
    The result of a patch.

    Attributes:
        files: `workflow.yaml`, then the entry files, unchanged ones included.
        previous_entry_paths: Entry files of the folder's steps before the patch.
        unused_entry_paths: The previous entry files that no step uses any more.
        workflow: The notebook's workflow with the folder's trigger ids and unknown keys.
        kept_accounts: Account ids of the file that the notebook does not replace, by step and prop.
    """

    files: tuple[DefinitionFile, ...]
    previous_entry_paths: tuple[str, ...]
    unused_entry_paths: tuple[str, ...]
    workflow: Workflow
    kept_accounts: Mapping[tuple[str, str], str] = field(default_factory=dict)


def build_folder_patch(
    workflow: Workflow, document: WorkflowDocument, *, sidecar: Sidecar | None = None
) -> FolderPatch:
    """
    The files of the synced folder of *document*, changed to match *workflow*.

    Args:
        workflow: The notebook's workflow.
        document: The folder's `workflow.yaml`.
        sidecar: The `pdkernel.yaml` beside the notebook.

    Raises:
        DefinitionError: A prop or code contains a new credential, or the folder cannot be read.
        UnsupportedError: The folder belongs to another workflow, or a changed value has a YAML anchor.
    """
    folder_workflow = build_workflow(document, require_code=False, assumed_account="own")
    check_no_credentials(workflow, existing=folder_workflow)
    _check_same(workflow, folder_workflow, document)
    step_sidecars = sidecar.steps if sidecar is not None else {}
    complete = "schema" in workflow.extra
    places = _places(folder_workflow, document.data)
    pairs = match_steps(workflow.steps, folder_workflow.steps)
    steps: dict[str, MergedStep] = {}
    for step in workflow.steps:
        known = pairs.get(step.name)
        if known is None:
            steps[step.name] = build_new_step(step, step_sidecars.get(step.name))
        else:
            raw = _raw_steps(document.data)[places[known.name]]
            steps[step.name] = merge_step(
                step, known, raw, step_sidecar=step_sidecars.get(step.name), is_complete=complete
            )
    alignment = _alignment(workflow, pairs, places, len(_raw_steps(document.data)))
    new = _with_steps(_with_head(document.data, workflow, folder_workflow, complete=complete), steps, alignment)
    name = str(document.folder / WORKFLOW_FILE)
    sources = tuple(source for source, _ in alignment)
    text = patch_yaml(document.text, document.data, new, name=name, alignments={("steps",): sources})
    ready = replace(workflow, steps=tuple(step.step for step in steps.values()))
    files = (DefinitionFile(WORKFLOW_FILE, document.byte_order_mark + text), *build_step_files(ready))
    used = {file.path for file in files} | {_path_of(step) for step in ready.steps if not step.uses}
    before = tuple(dict.fromkeys(path for step in folder_workflow.steps for path, _ in iter_step_files(step)))
    return FolderPatch(
        files,
        before,
        tuple(path for path in before if path not in used),
        _merge_folder_facts(workflow, folder_workflow, document.data),
        {(name, prop): account for name, step in steps.items() for prop, account in step.kept_accounts.items()},
    )


def get_workflow_id(workflow: Workflow) -> str | None:
    """The id (`p_...`) of the synced workflow that *workflow* was read from, or None."""
    known = workflow.extra.get(ROUND_TRIP_KEY)
    found = known.get("id") if isinstance(known, dict) else None
    return found if isinstance(found, str) else None


def _check_same(workflow: Workflow, folder_workflow: Workflow, document: WorkflowDocument) -> None:
    if workflow.name == folder_workflow.name or (
        get_workflow_id(workflow) is not None and get_workflow_id(workflow) == document.id
    ):
        return
    ids = [{trigger.config.get("id") for trigger in each.triggers} - {None} for each in (workflow, folder_workflow)]
    if ids[0] & ids[1]:
        return
    raise UnsupportedError(
        f"{document.folder} belongs to another workflow: it is called {folder_workflow.name!r}, and this one {workflow.name!r}.",
        fix=f"Name the folder of {workflow.name!r}, or write `name: {folder_workflow.name}` into the %%pdworkflow cell.",
    )


def _raw_steps(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", data.get("steps") or [])


def _places(folder_workflow: Workflow, data: Mapping[str, Any]) -> dict[str, int]:
    """The index of every step in the file's `steps`, which also holds unsupported entries."""
    found: dict[str, int] = {}
    waiting = list(folder_workflow.steps)
    for index, raw in enumerate(_raw_steps(data)):
        if waiting and raw.get("namespace") == waiting[0].name and raw.get("uses") == get_written_uses(waiting[0]):
            found[waiting.pop(0).name] = index
    return found


def _path_of(step: Step) -> str:
    return posixpath.normpath(get_entry_path(step))


def _alignment(
    workflow: Workflow, pairs: Mapping[str, Step], places: Mapping[str, int], count: int
) -> list[tuple[int | None, str | None]]:
    """For each new entry of `steps`: the old index and the step's name; unsupported entries have no name."""
    sources = {step.name: places[pairs[step.name].name] if step.name in pairs else None for step in workflow.steps}
    surviving = {source for source in sources.values() if source is not None}
    below: dict[int, list[int]] = {}
    last = -1
    for index in range(count):
        if index in places.values():
            last = index if index in surviving else last
        else:
            below.setdefault(last, []).append(index)
    result: list[tuple[int | None, str | None]] = [(index, None) for index in below.get(-1, [])]
    for name, source in sources.items():
        result.append((source, name))
        result += [(index, None) for index in below.get(-1 if source is None else source, []) if source is not None]
    return result


def _with_steps(
    data: dict[str, Any],
    steps: Mapping[str, MergedStep],
    alignment: Sequence[tuple[int | None, str | None]],
) -> dict[str, Any]:
    entries = [
        steps[name].entry if name is not None else _raw_steps(data)[cast("int", source)] for source, name in alignment
    ]
    if not entries:
        # The platform writes no `steps` key for a workflow without steps.
        return {key: value for key, value in data.items() if key != "steps" or not value}
    return _with(data, "steps", entries)


def _with_head(
    data: Mapping[str, Any], workflow: Workflow, folder_workflow: Workflow, *, complete: bool
) -> dict[str, Any]:
    """*data* with the notebook's name and settings."""
    result = dict(data)
    if workflow.name != folder_workflow.name:
        result = _with(result, "name", workflow.name)
    # Settings that were never observed in Git are written only if the file has them.
    own_settings = {
        key: value
        for key, value in workflow.settings.items()
        if key not in SIDECAR_SETTINGS or key in folder_workflow.settings
    }
    settings = merge_value(
        dict(folder_workflow.settings),
        dict(folder_workflow.settings),
        own_settings if complete else {**folder_workflow.settings, **own_settings},
    )
    return result if is_same_value(settings, dict(folder_workflow.settings)) else _with(result, "settings", settings)


def _with(data: dict[str, Any], key: str, value: JSON) -> dict[str, Any]:
    if key in data:
        return {**data, key: value}
    above = [known for known in _ORDER[: _ORDER.index(key)] if known in data]
    return insert_key(data, key, value, above=above[-1] if above else None)


def _merge_folder_facts(workflow: Workflow, folder_workflow: Workflow, data: Mapping[str, Any]) -> Workflow:
    """*workflow* with the ids of the folder's triggers, and without the limits that the file stores."""
    ids = [str(trigger.config["id"]) for trigger in folder_workflow.triggers]
    says_nothing = workflow.triggers == (Trigger(),)
    triggers = folder_workflow.triggers if says_nothing else assign_trigger_ids(workflow.triggers, ids)
    written = data.get("settings") or {}
    return replace(
        workflow,
        triggers=tuple(triggers),
        settings={
            key: value for key, value in workflow.settings.items() if key not in SIDECAR_SETTINGS or key not in written
        },
        extra=folder_workflow.extra,
    )

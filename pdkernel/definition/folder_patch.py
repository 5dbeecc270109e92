"""
A synced folder's files with a notebook's changes made, and all else as it was; pure.

Knows what of `workflow.yaml` is the notebook's to say: name, settings, steps. Triggers, the folder's ids and keys
that nobody knows stay. Writes nothing.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from pdkernel.definition.credential_check import check_no_credentials
from pdkernel.definition.file_plan import (
    SIDECAR_SETTINGS,
    WORKFLOW_FILE,
    DefinitionFile,
    build_entry_files,
    get_entry_path,
)
from pdkernel.definition.sidecar import Sidecar
from pdkernel.definition.step_matching import match_steps
from pdkernel.definition.step_merge import MergedStep, build_new_step, insert_key, merge_step, merge_value
from pdkernel.definition.synced_folder import WorkflowDocument, build_workflow
from pdkernel.directive import is_same_value, patch_yaml
from pdkernel.errors import UnsupportedError
from pdkernel.model import JSON, ROUND_TRIP_KEY, Step, Trigger, Workflow

_ORDER = ("schema", "name", "inactive", "settings", "triggers", "steps")


@dataclass(frozen=True)
class FolderPatch:
    """
    What a patch makes of a folder.

    Attributes:
        files: `workflow.yaml`, then the entry files; those that stay as they are too.
        previous_entry_paths: Entry files of the folder's steps, as they were.
        unused_entry_paths: Those of them that no step uses any more.
        workflow: The notebook's, with what the folder knows of it: its triggers' ids, its unknown keys.
        kept_accounts: Account ids that stay in the file whatever the notebook answers, by step and prop.
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
    The files of the synced folder that *document* is of, as *workflow* would have them.

    Args:
        workflow: The notebook's.
        document: The folder's `workflow.yaml`.
        sidecar: The `pdkernel.yaml` beside the notebook.

    Raises:
        DefinitionError: A prop or code holds what looks like a new credential; or the folder cannot be read.
        UnsupportedError: The folder is of another workflow; or its YAML has an anchor where something changes.
    """
    there = build_workflow(document, require_code=False, assumed_account="own")
    check_no_credentials(workflow, existing=there)
    _check_same(workflow, there, document)
    said = sidecar.steps if sidecar is not None else {}
    complete = "schema" in workflow.extra
    places = _places(there, document.data)
    pairs = match_steps(workflow.steps, there.steps)
    steps: dict[str, MergedStep] = {}
    for step in workflow.steps:
        known = pairs.get(step.name)
        if known is None:
            steps[step.name] = build_new_step(step, said.get(step.name))
        else:
            raw = _raw_steps(document.data)[places[known.name]]
            steps[step.name] = merge_step(step, known, raw, step_sidecar=said.get(step.name), is_complete=complete)
    alignment = _alignment(workflow, pairs, places, len(_raw_steps(document.data)))
    new = _with_steps(_with_head(document.data, workflow, there, complete=complete), steps, alignment)
    name = str(document.folder / WORKFLOW_FILE)
    sources = tuple(source for source, _ in alignment)
    text = patch_yaml(document.text, document.data, new, name=name, alignments={("steps",): sources})
    ready = replace(workflow, steps=tuple(step.step for step in steps.values()))
    files = (DefinitionFile(WORKFLOW_FILE, document.byte_order_mark + text), *build_entry_files(ready))
    used = {file.path for file in files} | {_path_of(step) for step in ready.steps if not step.uses}
    before = tuple(dict.fromkeys(_path_of(step) for step in there.steps if not step.uses and not step.is_code_missing))
    return FolderPatch(
        files,
        before,
        tuple(path for path in before if path not in used),
        _merge_folder_facts(workflow, there, document.data),
        {(name, prop): account for name, step in steps.items() for prop, account in step.kept_accounts.items()},
    )


def get_workflow_id(workflow: Workflow) -> str | None:
    """The id (`p_...`) of the synced workflow that *workflow* was read from, or None."""
    known = workflow.extra.get(ROUND_TRIP_KEY)
    found = known.get("id") if isinstance(known, dict) else None
    return found if isinstance(found, str) else None


def _check_same(workflow: Workflow, there: Workflow, document: WorkflowDocument) -> None:
    if workflow.name == there.name or (
        get_workflow_id(workflow) is not None and get_workflow_id(workflow) == document.id
    ):
        return
    ids = [{trigger.config.get("id") for trigger in each.triggers} - {None} for each in (workflow, there)]
    if ids[0] & ids[1]:
        return
    raise UnsupportedError(
        f"{document.folder} is of another workflow: it is called {there.name!r}, and this one {workflow.name!r}.",
        fix=f"Name the folder of {workflow.name!r}, or write `name: {there.name}` into the %%pdworkflow cell.",
    )


def _raw_steps(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", data.get("steps") or [])


def _places(there: Workflow, data: Mapping[str, Any]) -> dict[str, int]:
    """The index of every step in the file's `steps`, in which entries of other kinds stand too."""
    found: dict[str, int] = {}
    waiting = list(there.steps)
    for index, raw in enumerate(_raw_steps(data)):
        if waiting and raw.get("namespace") == waiting[0].name and raw.get("uses") == _uses_of(waiting[0]):
            found[waiting.pop(0).name] = index
    return found


def _uses_of(step: Step) -> str:
    return step.uses or get_entry_path(step)


def _path_of(step: Step) -> str:
    return posixpath.normpath(get_entry_path(step))


def _alignment(
    workflow: Workflow, pairs: Mapping[str, Step], places: Mapping[str, int], count: int
) -> list[tuple[int | None, str | None]]:
    """For each new entry of `steps` the old one's index and the step's name; entries that are no steps have none."""
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
        # Where there are no steps, the platform writes no key.
        return {key: value for key, value in data.items() if key != "steps" or not value}
    return _with(data, "steps", entries)


def _with_head(data: Mapping[str, Any], workflow: Workflow, there: Workflow, *, complete: bool) -> dict[str, Any]:
    """*data* with the notebook's name and settings."""
    result = dict(data)
    if workflow.name != there.name:
        result = _with(result, "name", workflow.name)
    # Settings of which no key was ever seen in Git are written only where the file has them.
    mine = {
        key: value for key, value in workflow.settings.items() if key not in SIDECAR_SETTINGS or key in there.settings
    }
    settings = merge_value(dict(there.settings), dict(there.settings), mine if complete else {**there.settings, **mine})
    return result if is_same_value(settings, dict(there.settings)) else _with(result, "settings", settings)


def _with(data: dict[str, Any], key: str, value: JSON) -> dict[str, Any]:
    if key in data:
        return {**data, key: value}
    above = [known for known in _ORDER[: _ORDER.index(key)] if known in data]
    return insert_key(data, key, value, above=above[-1] if above else None)


def _merge_folder_facts(workflow: Workflow, there: Workflow, data: Mapping[str, Any]) -> Workflow:
    """*workflow* with the ids of the folder's triggers, and without limits that the file itself says."""
    ids = [trigger.config["id"] for trigger in there.triggers if "id" in trigger.config]
    mine = list(workflow.triggers)
    says_nothing = mine == [Trigger()]
    if says_nothing:
        mine = list(there.triggers)
    triggers = [
        replace(trigger, config={"id": ids[index], **trigger.config}) if index < len(ids) else trigger
        for index, trigger in enumerate(mine)
    ]
    written = data.get("settings") or {}
    return replace(
        workflow,
        triggers=tuple(triggers),
        settings={
            key: value for key, value in workflow.settings.items() if key not in SIDECAR_SETTINGS or key not in written
        },
        extra=there.extra,
    )

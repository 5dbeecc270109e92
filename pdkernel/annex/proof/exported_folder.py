"""
The written folder as a workflow: read back from its files, and normalized for a run.

Without `pdkernel.yaml` in the folder, missing settings are taken from the notebook.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pdkernel.files.definition import (
    SIDECAR_FILE_NAME,
    DefinitionFile,
    Sidecar,
    get_entry_path,
    read_folder_workflow,
    read_sidecar,
)
from pdkernel.files.definition.file_plan import SIDECAR_SETTINGS, WORKFLOW_FILE
from pdkernel.language.analysis import find_app_bindings, find_workflow_variables
from pdkernel.language.directive import parse_yaml
from pdkernel.model import AppBinding, Step, Trigger, Workflow

NO_SIDECAR_NOTE = (
    f"There is no {SIDECAR_FILE_NAME} in the folder: settings of triggers, owners of accounts and limits were not written. "
    "Both sides use the notebook's."
)


@dataclass(frozen=True, slots=True)
class ExportedFolder:
    """
    An exported folder, read back.

    Attributes:
        folder: Path of the folder.
        workflow: The workflow; settings missing for lack of a `pdkernel.yaml` come from the notebook.
        sidecar: The folder's `pdkernel.yaml`, or None.
        files: The files of the workflow.
        unquoted_texts: Keys and values in `workflow.yaml` that the platform does not read as text for lack of quotes.
    """

    folder: Path
    workflow: Workflow
    sidecar: Sidecar | None
    files: tuple[DefinitionFile, ...]
    unquoted_texts: tuple[tuple[str, str], ...] = ()


def read_exported_folder(folder: Path, notebook: Workflow, sidecar: Sidecar | None) -> ExportedFolder:
    """
    Read *folder*, written by an export of *notebook* with *sidecar*.

    Raises:
        DefinitionError: The folder cannot be read as a workflow.
        RequestError: The folder's `pdkernel.yaml` does not name the owner of an account.
    """
    folder_sidecar = read_sidecar(folder / SIDECAR_FILE_NAME)
    # a missing file is a step without code: on both sides, or a difference
    workflow = read_folder_workflow(
        folder, require_code=False, assumed_account="external_user" if folder_sidecar else "own"
    )
    if folder_sidecar is None:
        workflow = _complete_workflow(workflow, notebook, sidecar or Sidecar())
    files = tuple(_files(folder, workflow))
    return ExportedFolder(folder, workflow, folder_sidecar, files, tuple(_unquoted(files[0].text)))


def _unquoted(text: str) -> Iterator[tuple[str, str]]:
    located = parse_yaml(text, allow_expressions=False, document_name=WORKFLOW_FILE, as_psych=True)
    for path in located.ambiguous_paths:
        value: Any = located.value
        for key in path:
            value = value[key]
        yield (
            f"{WORKFLOW_FILE}: " + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)[1:],
            value,
        )


def _files(folder: Path, workflow: Workflow) -> list[DefinitionFile]:
    paths = [WORKFLOW_FILE, SIDECAR_FILE_NAME]
    paths += [posixpath.normpath(get_entry_path(step)) for step in workflow.steps if not step.uses]
    existing = [path for path in dict.fromkeys(paths) if (folder / path).is_file()]
    return [DefinitionFile(path, (folder / path).read_bytes().decode("utf-8")) for path in existing]


def _complete_workflow(workflow: Workflow, notebook: Workflow, sidecar: Sidecar) -> Workflow:
    """*workflow* with the settings of *notebook* that the folder cannot hold."""
    notebook_steps = {step.name: step for step in notebook.steps}
    limits = {key: notebook.settings[key] for key in SIDECAR_SETTINGS if key in notebook.settings}
    return replace(
        workflow,
        triggers=_complete_triggers(workflow.triggers, notebook.triggers),
        settings={**limits, **workflow.settings},
        variables=notebook.variables,
        steps=tuple(
            _complete_step(step, notebook_steps[step.name], sidecar) if step.name in notebook_steps else step
            for step in workflow.steps
        ),
    )


def _complete_triggers(triggers: Sequence[Trigger], notebook: Sequence[Trigger]) -> tuple[Trigger, ...]:
    """The *notebook*'s triggers, except for lost ones, then other *triggers* of the folder. Git holds only the ids of triggers."""
    written, known = ({trigger.config.get("id") for trigger in each} - {None} for each in (triggers, notebook))
    if not known:
        return tuple(notebook)
    kept = (trigger for trigger in notebook if trigger.config.get("id") in {None, *written})
    return (*kept, *(trigger for trigger in triggers if trigger.config.get("id") not in known))


def _complete_step(step: Step, notebook_step: Step, sidecar: Sidecar) -> Step:
    read = {app.prop: app for app in find_app_bindings(step)}
    settings = sidecar.steps.get(step.name)
    choices = settings.accounts if settings is not None else {}
    apps = dict(read)
    for app in find_app_bindings(notebook_step):
        choice = choices.get(app.prop)
        account = read[app.prop].account if app.prop in read else None
        synced = choice.synced if choice is not None else None
        # the file has the synced id or none; the notebook names the owner of the account
        if account in (app.account, synced) or app.account is None:
            apps[app.prop] = AppBinding(app.prop, app.app, app.account)
    stores = {store.prop: store for store in (*notebook_step.stores, *(each for each in step.stores if each.store))}
    return replace(step, apps=tuple(apps.values()), stores=tuple(stores.values()), timeout_s=notebook_step.timeout_s)


def normalize_for_run(workflow: Workflow, notebook: Workflow) -> Workflow:
    """
    Normalize *workflow* for a run, so that equivalent workflows become equal.

    Steps get the line numbers of *notebook*'s cells, so that messages name the same lines. Notes and notification
    settings are removed. Names of variables are derived from the code.
    """
    cells = {step.name: step for step in notebook.steps}
    return replace(
        workflow,
        origin=None,
        extra=notebook.extra,
        settings={key: value for key, value in workflow.settings.items() if key != "error_notification"},
        variables=tuple(sorted({*workflow.variables, *find_workflow_variables(workflow)})),
        steps=tuple(_step_as_run(step, cells.get(step.name, step)) for step in workflow.steps),
    )


def _step_as_run(step: Step, cell: Step) -> Step:
    return replace(
        step,
        apps=tuple(sorted(find_app_bindings(step), key=lambda app: app.prop)),
        stores=tuple(sorted(step.stores, key=lambda store: store.prop)),
        notes=None,
        debug=False,
        line_offset=cell.line_offset,
        cell_index=cell.cell_index,
        prop_lines=cell.prop_lines,
        props_file=cell.props_file,
    )

"""
The written folder as a workflow: read back as anybody would read it, and as both sides are run.

Knows what a folder without `pdkernel.yaml` does not say, and which parts of a workflow are a cell's position only.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pdkernel.analysis import find_app_bindings, find_workflow_variables
from pdkernel.definition import (
    SIDECAR_FILE_NAME,
    DefinitionFile,
    Sidecar,
    get_entry_path,
    read_folder_workflow,
    read_sidecar,
)
from pdkernel.definition.file_plan import SIDECAR_SETTINGS, WORKFLOW_FILE
from pdkernel.directive import parse_yaml
from pdkernel.model import AppBinding, Step, Trigger, Workflow

NO_SIDECAR_NOTE = (
    f"There is no {SIDECAR_FILE_NAME} in the folder: what only that file says (settings of triggers, whose account, limits) "
    "was not written, and is the notebook's on both sides."
)


@dataclass(frozen=True, slots=True)
class ExportedFolder:
    """
    The folder, read.

    Attributes:
        folder: It.
        workflow: What it holds; without a `pdkernel.yaml`, with what the notebook says in its place.
        sidecar: Its `pdkernel.yaml`, or None.
        files: What it is made of.
        unquoted_texts: Texts of `workflow.yaml`, by their keys, that the platform takes for something else: they lack quotes.
    """

    folder: Path
    workflow: Workflow
    sidecar: Sidecar | None
    files: tuple[DefinitionFile, ...]
    unquoted_texts: tuple[tuple[str, str], ...] = ()


def read_exported_folder(folder: Path, notebook: Workflow, sidecar: Sidecar | None) -> ExportedFolder:
    """
    Read *folder*, which an export of *notebook* (with *sidecar*) has written.

    Raises:
        DefinitionError: It cannot be read as a workflow.
        RequestError: Its `pdkernel.yaml` leaves unanswered whose account a step uses.
    """
    theirs = read_sidecar(folder / SIDECAR_FILE_NAME)
    # a file that is missing is a step without code: on both sides, or a difference
    workflow = read_folder_workflow(folder, require_code=False, assumed_account="external_user" if theirs else "own")
    if theirs is None:
        workflow = _complete_workflow(workflow, notebook, sidecar or Sidecar())
    files = tuple(_files(folder, workflow))
    return ExportedFolder(folder, workflow, theirs, files, tuple(_unquoted(files[0].text)))


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
    there = [path for path in dict.fromkeys(paths) if (folder / path).is_file()]
    return [DefinitionFile(path, (folder / path).read_bytes().decode("utf-8")) for path in there]


def _complete_workflow(workflow: Workflow, notebook: Workflow, sidecar: Sidecar) -> Workflow:
    """*workflow* with what its folder cannot say as *notebook* says it."""
    ours = {step.name: step for step in notebook.steps}
    limits = {key: notebook.settings[key] for key in SIDECAR_SETTINGS if key in notebook.settings}
    same = [_key(trigger) for trigger in workflow.triggers] == [_key(trigger) for trigger in notebook.triggers]
    return replace(
        workflow,
        triggers=notebook.triggers if same or not _ids(notebook) else workflow.triggers,
        settings={**limits, **workflow.settings},
        variables=notebook.variables,
        steps=tuple(
            _complete_step(step, ours[step.name], sidecar) if step.name in ours else step for step in workflow.steps
        ),
    )


def _ids(workflow: Workflow) -> list[object]:
    return [trigger.config["id"] for trigger in workflow.triggers if "id" in trigger.config]


def _key(trigger: Trigger) -> object:
    return trigger.config.get("id")


def _complete_step(step: Step, ours: Step, sidecar: Sidecar) -> Step:
    read = {app.prop: app for app in find_app_bindings(step)}
    said = sidecar.steps.get(step.name)
    choices = said.accounts if said is not None else {}
    apps = dict(read)
    for app in find_app_bindings(ours):
        choice = choices.get(app.prop)
        held = read[app.prop].account if app.prop in read else None
        kept = choice.synced if choice is not None else None
        # the file has the id that it was synced with, or none, where the notebook says whose account it is
        if held in (app.account, kept) or app.account is None:
            apps[app.prop] = AppBinding(app.prop, app.app, app.account)
    stores = {store.prop: store for store in (*ours.stores, *(each for each in step.stores if each.store))}
    return replace(step, apps=tuple(apps.values()), stores=tuple(stores.values()), timeout_s=ours.timeout_s)


def normalize_for_run(workflow: Workflow, notebook: Workflow) -> Workflow:
    """
    *workflow* as a side of the proof runs it: equal for two workflows that say the same in another order.

    Steps have the lines of *notebook*'s cells, so that messages name the same places; what only tells a builder something
    (notes, alarms) is left out, and so are the names of variables, which follow from the code.
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

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

from pdkernel.definition import (
    FOLDER_SIDECAR,
    DefinitionFile,
    Sidecar,
    entry_of,
    read_folder,
    read_sidecar,
)
from pdkernel.definition.plan import LIMITS, WORKFLOW_FILE
from pdkernel.directive import read_yaml
from pdkernel.inspection import apps_of, variables_read
from pdkernel.model import AppBinding, Step, Trigger, Workflow

PARTLY = (
    f"There is no {FOLDER_SIDECAR} in the folder: what only that file says (settings of triggers, whose account, limits) "
    "was not written, and is the notebook's on both sides."
)


@dataclass(frozen=True, slots=True)
class ReadBack:
    """
    The folder, read.

    Attributes:
        folder: It.
        workflow: What it holds; without a `pdkernel.yaml`, with what the notebook says in its place.
        sidecar: Its `pdkernel.yaml`, or None.
        files: What it is made of.
        unquoted: Texts of `workflow.yaml`, by their keys, that the platform takes for something else: they lack quotes.
    """

    folder: Path
    workflow: Workflow
    sidecar: Sidecar | None
    files: tuple[DefinitionFile, ...]
    unquoted: tuple[tuple[str, str], ...] = ()


def read_back(folder: Path, notebook: Workflow, sidecar: Sidecar | None) -> ReadBack:
    """
    Read *folder*, which an export of *notebook* (with *sidecar*) has written.

    Raises:
        DefinitionError: It cannot be read as a workflow.
        RequestError: Its `pdkernel.yaml` leaves unanswered whose account a step uses.
    """
    theirs = read_sidecar(folder / FOLDER_SIDECAR)
    # a file that is missing is a step without code: on both sides, or a difference
    workflow = read_folder(folder, require_code=False, accounts="external_user" if theirs else "own")
    if theirs is None:
        workflow = _completed(workflow, notebook, sidecar or Sidecar())
    files = tuple(_files(folder, workflow))
    return ReadBack(folder, workflow, theirs, files, tuple(_unquoted(files[0].text)))


def _unquoted(text: str) -> Iterator[tuple[str, str]]:
    located = read_yaml(text, expressions=False, name=WORKFLOW_FILE, psych=True)
    for path in located.unquoted:
        value: Any = located.value
        for key in path:
            value = value[key]
        yield (
            f"{WORKFLOW_FILE}: " + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)[1:],
            value,
        )


def _files(folder: Path, workflow: Workflow) -> list[DefinitionFile]:
    paths = [WORKFLOW_FILE, FOLDER_SIDECAR]
    paths += [posixpath.normpath(entry_of(step)) for step in workflow.steps if not step.uses]
    there = [path for path in dict.fromkeys(paths) if (folder / path).is_file()]
    return [DefinitionFile(path, (folder / path).read_bytes().decode("utf-8")) for path in there]


def _completed(workflow: Workflow, notebook: Workflow, sidecar: Sidecar) -> Workflow:
    """*workflow* with what its folder cannot say as *notebook* says it."""
    ours = {step.name: step for step in notebook.steps}
    limits = {key: notebook.settings[key] for key in LIMITS if key in notebook.settings}
    same = [_key(trigger) for trigger in workflow.triggers] == [_key(trigger) for trigger in notebook.triggers]
    return replace(
        workflow,
        triggers=notebook.triggers if same or not _ids(notebook) else workflow.triggers,
        settings={**limits, **workflow.settings},
        variables=notebook.variables,
        steps=tuple(
            _completed_step(step, ours[step.name], sidecar) if step.name in ours else step for step in workflow.steps
        ),
    )


def _ids(workflow: Workflow) -> list[object]:
    return [trigger.config["id"] for trigger in workflow.triggers if "id" in trigger.config]


def _key(trigger: Trigger) -> object:
    return trigger.config.get("id")


def _completed_step(step: Step, ours: Step, sidecar: Sidecar) -> Step:
    read = {app.prop: app for app in apps_of(step)}
    said = sidecar.steps.get(step.name)
    choices = said.accounts if said is not None else {}
    apps = dict(read)
    for app in apps_of(ours):
        choice = choices.get(app.prop)
        held = read[app.prop].account if app.prop in read else None
        kept = choice.synced if choice is not None else None
        # the file has the id that it was synced with, or none, where the notebook says whose account it is
        if held in (app.account, kept) or app.account is None:
            apps[app.prop] = AppBinding(app.prop, app.app, app.account)
    stores = {store.prop: store for store in (*ours.stores, *(each for each in step.stores if each.store))}
    return replace(step, apps=tuple(apps.values()), stores=tuple(stores.values()), timeout_s=ours.timeout_s)


def as_run(workflow: Workflow, notebook: Workflow) -> Workflow:
    """
    *workflow* as a side of the proof runs it: equal for two workflows that say the same in another order.

    Steps have the lines of *notebook*'s cells, so that messages name the same places; what only tells a builder something
    (notes, alarms) is left out, and so are the names of variables, which follow from the code.
    """
    cells = {step.name: step for step in notebook.steps}
    return replace(
        workflow,
        source=None,
        extra=notebook.extra,
        settings={key: value for key, value in workflow.settings.items() if key != "error_notification"},
        variables=tuple(sorted({*workflow.variables, *variables_read(workflow)})),
        steps=tuple(_step_as_run(step, cells.get(step.name, step)) for step in workflow.steps),
    )


def _step_as_run(step: Step, cell: Step) -> Step:
    return replace(
        step,
        apps=tuple(sorted(apps_of(step), key=lambda app: app.prop)),
        stores=tuple(sorted(step.stores, key=lambda store: store.prop)),
        notes=None,
        debug=False,
        line_offset=cell.line_offset,
        cell=cell.cell,
        prop_lines=cell.prop_lines,
        props_in=cell.props_in,
    )

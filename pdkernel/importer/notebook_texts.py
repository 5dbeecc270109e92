"""
One workflow's folder, read, and made into the texts of a notebook and its `pdkernel.yaml`.

Knows what goes into which. Writes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pdkernel.definition import (
    AccountChoice,
    Sidecar,
    StepSidecar,
    SyncedFolder,
    assume_trigger,
    dump_sidecar,
    read_synced_folder,
)
from pdkernel.importer.account_questions import (
    AccountAnswer,
    AccountQuestion,
    PropLocation,
    apply_choices,
    build_choices,
    build_questions,
    find_known_choices,
)
from pdkernel.model import Trigger, Workflow
from pdkernel.notebook import format_notebook
from pdkernel.render.import_report import ImportReport, render_markdown

_WORDS = ("builtin", "npm", "connect")

_CELLS = (
    "One cell below is one step, and holds its file's text as it is; `pdkernel.yaml` beside this notebook says whose "
    "accounts the steps use."
)

AskTrigger = Callable[[Trigger], Trigger | None]
"""Asked for each trigger whose settings nobody knows; None leaves it as it is assumed."""


@dataclass(frozen=True)
class ImportSource:
    """
    A folder as it was read for an import.

    Attributes:
        folder: Where.
        synced: What it holds.
        known_choices: Whose account is meant where that is answered already.
        questions: The questions that are left.
        assumed_triggers: Ids of the triggers whose settings are not in Git and nowhere else.
        is_state_missing: Whether the folder lacks the file by which Pipedream knows it.
    """

    folder: Path
    synced: SyncedFolder
    known_choices: Mapping[PropLocation, AccountChoice] = field(default_factory=dict)
    questions: tuple[AccountQuestion, ...] = ()
    assumed_triggers: tuple[str, ...] = ()
    is_state_missing: bool = False

    @property
    def workflow(self) -> Workflow:
        """The workflow, as the folder has it."""
        return self.synced.workflow

    def with_triggers(self, ask: AskTrigger) -> ImportSource:
        """The same with what *ask* says of the triggers whose settings are assumed."""
        assumed = list(self.assumed_triggers)
        triggers = []
        for trigger in self.workflow.triggers:
            told = ask(trigger) if trigger.config.get("id") in assumed else None
            if told is not None:
                assumed.remove(str(trigger.config["id"]))
            triggers.append(told or trigger)
        workflow = replace(self.workflow, triggers=tuple(triggers))
        return replace(self, synced=replace(self.synced, workflow=workflow), assumed_triggers=tuple(assumed))


@dataclass(frozen=True)
class NotebookTexts:
    """What an import writes: the notebook, its `pdkernel.yaml`, and the workflow that the two read back as."""

    notebook: str
    sidecar: str
    workflow: Workflow
    choices: Mapping[str, Mapping[str, AccountChoice]]


def read_for_import(folder: Path, *, earlier_sidecar: Sidecar | None = None) -> ImportSource:
    """
    Read *folder* as far as it can be without asking anybody.

    Args:
        folder: The workflow's.
        earlier_sidecar: The `pdkernel.yaml` of an earlier import of it, whose answers count.

    Raises:
        DefinitionError: It cannot be read; the message names file and line.
    """
    synced = read_synced_folder(folder, require_code=False, assumed_account="external_user", unanswered_policy="keep")
    synced = replace(synced, workflow=_with_triggers_of(synced.workflow, earlier_sidecar))
    known = find_known_choices(synced, earlier_sidecar)
    told = synced.sidecar is not None and bool(synced.sidecar.triggers)
    assumed = (
        () if told else tuple(filter(None, (_assumed(each, synced.workflow) for each in synced.workflow.triggers)))
    )
    state = (folder / ".workflow.state").exists()
    return ImportSource(folder, synced, known, build_questions(synced, known), assumed, is_state_missing=not state)


def _assumed(trigger: Trigger, workflow: Workflow) -> str | None:
    """The id of *trigger* if nothing is known of it but its kind."""
    held = trigger.config.get("id")
    plain = replace(assume_trigger(trigger.type, workflow.steps), config={"id": held})
    return str(held) if held and trigger == plain else None


def _with_triggers_of(workflow: Workflow, earlier: Sidecar | None) -> Workflow:
    """*workflow* with the settings that *earlier* has of its triggers, by position."""
    said = earlier.triggers if earlier is not None else ()
    triggers = [
        replace(known, config={**({"id": trigger.config["id"]} if "id" in trigger.config else {}), **known.config})
        if (known := said[index] if index < len(said) else None) is not None and known.type == trigger.type
        else trigger
        for index, trigger in enumerate(workflow.triggers)
    ]
    return replace(workflow, triggers=tuple(triggers))


def build_notebook_texts(
    source: ImportSource,
    answers: Mapping[tuple[str, str], AccountAnswer],
    *,
    notebook_folder: Path,
    build_report: Callable[[Workflow, Mapping[str, Mapping[str, AccountChoice]]], ImportReport],
    earlier_sidecar: Sidecar | None = None,
) -> tuple[NotebookTexts, ImportReport]:
    """
    The files of the import of *source*.

    Args:
        source: The folder.
        answers: Whose account is meant, by app and id.
        notebook_folder: The folder that the notebook will stand in.
        build_report: Says what can run of the finished workflow.
        earlier_sidecar: The `pdkernel.yaml` of an earlier import.
    """
    made = build_choices(source.synced, source.known_choices, answers)
    workflow = apply_choices(source.workflow, made)
    told = build_report(workflow, made)
    notebook = format_notebook(workflow, about=_about(source), report=render_markdown(told))
    sidecar = _sidecar(source, made, workflow, place=notebook_folder, earlier=earlier_sidecar)
    return NotebookTexts(notebook, dump_sidecar(sidecar), workflow, made), told


def _about(read: ImportSource) -> str:
    name = read.folder.resolve().name.replace("`", "'")
    lines = [f"Imported from the synced folder `{name}`. {_CELLS}"]
    if read.workflow.extra.get("inactive") is True:
        lines.append("On Pipedream this workflow is turned off.")
    return "\n\n".join(lines)


def _sidecar(
    read: ImportSource,
    made: Mapping[str, Mapping[str, AccountChoice]],
    workflow: Workflow,
    *,
    place: Path,
    earlier: Sidecar | None,
) -> Sidecar:
    """What the folder's own file says and an earlier import's, which counts more, with the answers."""
    sources: Sequence[Sidecar] = [found for found in (earlier, read.synced.sidecar) if found is not None]
    theirs = read.synced.sidecar.actions if read.synced.sidecar is not None else None
    return Sidecar(
        workflow=workflow.name,
        endpoint=next((found.endpoint for found in sources if found.endpoint), None),
        triggers=workflow.triggers,
        steps={name: StepSidecar(accounts=accounts) for name, accounts in made.items()},
        variables=workflow.variables,
        test_users=next((found.test_users for found in sources if found.test_users), ()),
        actions=(earlier.actions if earlier else None) or _relocate_actions_setting(theirs, read.folder, place),
        control_flow=next((found.control_flow for found in sources if found.control_flow), ()),
    )


def _relocate_actions_setting(actions: str | None, folder: Path, place: Path) -> str | None:
    """The setting of *folder* for a notebook in *place*: a folder is named from there."""
    if actions is None or actions in _WORDS or Path(actions).is_absolute():
        return actions
    return os.path.relpath(folder / actions, place).replace(os.sep, "/")

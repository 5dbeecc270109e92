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
    Synced,
    assumed_trigger,
    dump_sidecar,
    read_synced,
)
from pdkernel.importing.accounts import (
    AccountQuestion,
    Answer,
    Place,
    answered,
    choices,
    known_choices,
    questions,
)
from pdkernel.model import Trigger, Workflow
from pdkernel.notebook import write_notebook
from pdkernel.render.import_report import ImportReport, markdown

_WORDS = ("builtin", "npm", "connect")

_CELLS = (
    "One cell below is one step, and holds its file's text as it is; `pdkernel.yaml` beside this notebook says whose "
    "accounts the steps use."
)

TriggerAnswers = Callable[[Trigger], Trigger | None]
"""Asked for each trigger whose settings nobody knows; None leaves it as it is assumed."""


@dataclass(frozen=True)
class ReadFolder:
    """
    A folder as it was read for an import.

    Attributes:
        folder: Where.
        synced: What it holds.
        known: Whose account is meant where that is answered already.
        asked: The questions that are left.
        assumed: Ids of the triggers whose settings are not in Git and nowhere else.
        missing_state: Whether the folder lacks the file by which Pipedream knows it.
    """

    folder: Path
    synced: Synced
    known: Mapping[Place, AccountChoice] = field(default_factory=dict)
    asked: tuple[AccountQuestion, ...] = ()
    assumed: tuple[str, ...] = ()
    missing_state: bool = False

    @property
    def workflow(self) -> Workflow:
        """The workflow, as the folder has it."""
        return self.synced.workflow

    def with_triggers(self, ask: TriggerAnswers) -> ReadFolder:
        """The same with what *ask* says of the triggers whose settings are assumed."""
        assumed = list(self.assumed)
        triggers = []
        for trigger in self.workflow.triggers:
            told = ask(trigger) if trigger.config.get("id") in assumed else None
            if told is not None:
                assumed.remove(str(trigger.config["id"]))
            triggers.append(told or trigger)
        workflow = replace(self.workflow, triggers=tuple(triggers))
        return replace(self, synced=replace(self.synced, workflow=workflow), assumed=tuple(assumed))


@dataclass(frozen=True)
class NotebookTexts:
    """What an import writes: the notebook, its `pdkernel.yaml`, and the workflow that the two read back as."""

    notebook: str
    sidecar: str
    workflow: Workflow
    choices: Mapping[str, Mapping[str, AccountChoice]]


def read_for_import(folder: Path, *, earlier: Sidecar | None = None) -> ReadFolder:
    """
    Read *folder* as far as it can be without asking anybody.

    Args:
        folder: The workflow's.
        earlier: The `pdkernel.yaml` of an earlier import of it, whose answers count.

    Raises:
        DefinitionError: It cannot be read; the message names file and line.
    """
    synced = read_synced(folder, require_code=False, accounts="external_user", unanswered="keep")
    synced = replace(synced, workflow=_with_triggers_of(synced.workflow, earlier))
    known = known_choices(synced, earlier)
    told = synced.sidecar is not None and bool(synced.sidecar.triggers)
    assumed = (
        () if told else tuple(filter(None, (_assumed(each, synced.workflow) for each in synced.workflow.triggers)))
    )
    state = (folder / ".workflow.state").exists()
    return ReadFolder(folder, synced, known, questions(synced, known), assumed, missing_state=not state)


def _assumed(trigger: Trigger, workflow: Workflow) -> str | None:
    """The id of *trigger* if nothing is known of it but its kind."""
    held = trigger.config.get("id")
    plain = replace(assumed_trigger(trigger.type, workflow.steps), config={"id": held})
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


def texts(
    read: ReadFolder,
    answers: Mapping[tuple[str, str], Answer],
    *,
    place: Path,
    report: Callable[[Workflow, Mapping[str, Mapping[str, AccountChoice]]], ImportReport],
    earlier: Sidecar | None = None,
) -> tuple[NotebookTexts, ImportReport]:
    """
    The files of the import of *read*.

    Args:
        read: The folder.
        answers: Whose account is meant, by app and id.
        place: The folder that the notebook will stand in.
        report: Says what can run of the finished workflow.
        earlier: The `pdkernel.yaml` of an earlier import.
    """
    made = choices(read.synced, read.known, answers)
    workflow = answered(read.workflow, made)
    told = report(workflow, made)
    notebook = write_notebook(workflow, about=_about(read), report=markdown(told))
    sidecar = _sidecar(read, made, workflow, place=place, earlier=earlier)
    return NotebookTexts(notebook, dump_sidecar(sidecar), workflow, made), told


def _about(read: ReadFolder) -> str:
    name = read.folder.resolve().name.replace("`", "'")
    lines = [f"Imported from the synced folder `{name}`. {_CELLS}"]
    if read.workflow.extra.get("inactive") is True:
        lines.append("On Pipedream this workflow is turned off.")
    return "\n\n".join(lines)


def _sidecar(
    read: ReadFolder,
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
        actions=(earlier.actions if earlier else None) or _actions_from(theirs, read.folder, place),
        control_flow=next((found.control_flow for found in sources if found.control_flow), ()),
    )


def _actions_from(actions: str | None, folder: Path, place: Path) -> str | None:
    """The setting of *folder* for a notebook in *place*: a folder is named from there."""
    if actions is None or actions in _WORDS or Path(actions).is_absolute():
        return actions
    return os.path.relpath(folder / actions, place).replace(os.sep, "/")

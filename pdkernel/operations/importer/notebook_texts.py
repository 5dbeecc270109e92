"""
Reads one workflow, of a folder or of Pipedream's archive, and builds the texts of a notebook and its `pdkernel.yaml`; writes nothing.

A synced file holds ids of accounts only. The same id can stand for the external user's account in one workflow and for your own account
in another, so a person must decide: the ids become questions, which the caller asks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pdkernel.errors import DefinitionError
from pdkernel.files.definition import (
    EXTERNAL_USER,
    UNANSWERED,
    AccountChoice,
    Sidecar,
    StepSidecar,
    SyncedFolder,
    assume_trigger,
    dump_sidecar,
    get_explicit_app,
    read_synced_folder,
)
from pdkernel.files.definition.api_workflow import ENDPOINT_URL_KEY
from pdkernel.files.definition.archive import ArchivedWorkflow
from pdkernel.files.definition.sidecar import merge_sidecars, parse_sidecar
from pdkernel.files.notebook import format_notebook
from pdkernel.model import JSON, ROUND_TRIP_KEY, AppBinding, Step, Trigger, Workflow
from pdkernel.operations.importer.import_report import ImportReport

AccountAnswer = str
"""`external_user`, `unanswered`, or the id of your own account."""
BulkAnswer = Literal["own", "external-user"]
PropLocation = tuple[str, str]
"""A step and its app prop."""


@dataclass(frozen=True, slots=True)
class AccountQuestion:
    """
    A question: does an account id stand for your own account or the external user's?

    Attributes:
        app: The app's slug.
        account_id: The id, `apn_...`.
        locations: The steps and props with this id.
    """

    app: str
    account_id: str
    locations: tuple[PropLocation, ...]


def find_known_choices(synced: SyncedFolder, earlier_sidecar: Sidecar | None) -> dict[PropLocation, AccountChoice]:
    """
    Choices without a question: from the folder's `pdkernel.yaml`, from an earlier import, or because the file has no id.

    A prop of the file without an id gets the external user's account, so that your own account is never assumed.
    """
    found: dict[PropLocation, AccountChoice] = {}
    for step, app in _bindings(synced.workflow):
        place = (step.name, app.prop)
        account_id = synced.accounts.get(place)
        choices = [_get_choice(sidecar, place) for sidecar in (earlier_sidecar, synced.sidecar)]
        known = next((choice for choice in choices if choice is not None and choice.account != UNANSWERED), None)
        if known is not None:
            found[place] = known
        elif place in synced.accounts and account_id is None and not any(choices):
            found[place] = AccountChoice(EXTERNAL_USER)
    return found


def _get_choice(sidecar: Sidecar | None, place: PropLocation) -> AccountChoice | None:
    step = sidecar.steps.get(place[0]) if sidecar is not None else None
    return step.accounts.get(place[1]) if step is not None else None


def build_questions(synced: SyncedFolder, known: Mapping[PropLocation, AccountChoice]) -> tuple[AccountQuestion, ...]:
    """Return one question for each app and id among the props that are not *known*."""
    locations: dict[tuple[str, str], list[PropLocation]] = {}
    for step, app in _bindings(synced.workflow):
        place = (step.name, app.prop)
        if place not in known:
            locations.setdefault((app.app, synced.accounts.get(place) or ""), []).append(place)
    return tuple(AccountQuestion(app, account_id, tuple(places)) for (app, account_id), places in locations.items())


def answer_questions(
    answer: BulkAnswer,
    questions: Iterable[AccountQuestion],
    *,
    find_own_accounts: Callable[[str], Sequence[str]] = lambda _: (),
) -> dict[tuple[str, str], AccountAnswer]:
    """
    Return the same answer for all *questions*, by app and id: the external user's account, or your own with that id.

    Without an id, your own account is the only one that *find_own_accounts* returns for the app, else it is unanswered.
    """
    found: dict[tuple[str, str], AccountAnswer] = {}
    for question in questions:
        own = question.account_id
        if not own and answer == "own":
            accounts = find_own_accounts(question.app)
            own = accounts[0] if len(accounts) == 1 else UNANSWERED
        found[question.app, question.account_id] = own if answer == "own" else EXTERNAL_USER
    return found


def build_choices(
    synced: SyncedFolder, known: Mapping[PropLocation, AccountChoice], answers: Mapping[tuple[str, str], AccountAnswer]
) -> dict[str, dict[str, AccountChoice]]:
    """Return the choices by step and prop, with the id of the synced file; without an answer a choice is `unanswered`."""
    choices: dict[str, dict[str, AccountChoice]] = {}
    for step, app in _bindings(synced.workflow):
        place = (step.name, app.prop)
        account_id = synced.accounts.get(place)
        choice = known.get(place)
        account = choice.account if choice is not None else answers.get((app.app, account_id or ""), UNANSWERED)
        kept = account_id or (choice.synced if choice is not None else None)
        slug = get_explicit_app(app, step.uses)
        choices.setdefault(step.name, {})[app.prop] = AccountChoice(account, slug, kept if kept != account else None)
    return choices


def apply_choices(workflow: Workflow, choices: Mapping[str, Mapping[str, AccountChoice]]) -> Workflow:
    """Return *workflow* with the accounts of *choices*; an unanswered prop has no account."""
    return replace(workflow, steps=tuple(_apply_to_step(step, choices.get(step.name, {})) for step in workflow.steps))


def _apply_to_step(step: Step, choices: Mapping[str, AccountChoice]) -> Step:
    apps = []
    for app in step.apps:
        choice = choices.get(app.prop)
        account = None if choice is None or choice.account in (EXTERNAL_USER, UNANSWERED) else choice.account
        apps.append(replace(app, account=account))
    return replace(step, apps=tuple(apps))


def _bindings(workflow: Workflow) -> Iterable[tuple[Step, AppBinding]]:
    return ((step, app) for step in workflow.steps for app in step.apps)


_ACTION_SOURCE_NAMES = ("builtin", "npm", "connect")

_CELLS = (
    "Each step cell below is one step and holds its file's text unchanged. `pdkernel.yaml` beside this notebook stores "
    "which accounts the steps use."
)

_NO_STATE_NOTE = (
    "The folder has no `.workflow.state`, with which Pipedream identifies the workflow: Pipedream does not deploy an "
    "export into the folder until the file exists."
)

FindApps = Callable[[Step], Sequence[AppBinding]]
"""Returns the app props of a step, those that only its code declares included."""
AskTrigger = Callable[[Trigger], Trigger | None]
"""Called for each trigger with unknown settings; None keeps the assumed settings."""


@dataclass(frozen=True)
class ImportSource:
    """
    A workflow that was read for an import.

    Attributes:
        folder: The folder's path; for a workflow of an archive, the archive's path with the name of its file.
        synced: The folder's content.
        known_choices: Account choices that need no question.
        questions: The remaining questions.
        assumed_triggers: Ids of the triggers whose settings are stored nowhere.
        earlier_sidecar: The `pdkernel.yaml` of an earlier import, or None.
        origin: Where the workflow is from, as a sentence in Markdown.
        notes: Sentences for the report.
    """

    folder: Path
    synced: SyncedFolder
    known_choices: Mapping[PropLocation, AccountChoice] = field(default_factory=dict)
    questions: tuple[AccountQuestion, ...] = ()
    assumed_triggers: tuple[str, ...] = ()
    earlier_sidecar: Sidecar | None = None
    origin: str = ""
    notes: tuple[str, ...] = ()

    @property
    def workflow(self) -> Workflow:
        """The folder's workflow."""
        return self.synced.workflow

    def with_declared_apps(self, find_apps: FindApps, *, include_undefined: bool) -> ImportSource:
        """
        Return a copy with the apps that code declares, according to *find_apps*, instead of apps that were guessed.

        *include_undefined* adds app props that only code declares, and asks for their accounts.
        """
        steps = []
        for step in self.workflow.steps:
            declared = {binding.prop: binding for binding in find_apps(step)}
            apps = [
                replace(each, app=declared[each.prop].app if each.prop in declared else each.app) for each in step.apps
            ]
            if include_undefined:
                named = {binding.prop for binding in apps}
                apps += [binding for prop, binding in declared.items() if prop not in named]
            steps.append(replace(step, apps=tuple(apps)))
        synced = replace(self.synced, workflow=replace(self.workflow, steps=tuple(steps)))
        known = find_known_choices(synced, self.earlier_sidecar)
        return replace(self, synced=synced, known_choices=known, questions=build_questions(synced, known))

    def with_triggers(self, ask: AskTrigger) -> ImportSource:
        """Return a copy with the answers of *ask* for triggers with assumed settings."""
        assumed = list(self.assumed_triggers)
        triggers = []
        for trigger in self.workflow.triggers:
            answered = ask(trigger) if trigger.config.get("id") in assumed else None
            if answered is not None:
                assumed.remove(str(trigger.config["id"]))
            triggers.append(answered or trigger)
        workflow = replace(self.workflow, triggers=tuple(triggers))
        return replace(self, synced=replace(self.synced, workflow=workflow), assumed_triggers=tuple(assumed))


@dataclass(frozen=True)
class NotebookTexts:
    """The notebook, its `pdkernel.yaml`, and the workflow that both read back as."""

    notebook: str
    sidecar: str
    workflow: Workflow
    choices: Mapping[str, Mapping[str, AccountChoice]]


def read_for_import(folder: Path, *, earlier_sidecar: Sidecar | None = None) -> ImportSource:
    """
    Read *folder*, without asking questions.

    Args:
        folder: The workflow's folder.
        earlier_sidecar: The `pdkernel.yaml` of an earlier import, whose answers are reused.

    Raises:
        DefinitionError: The folder cannot be read; the message names file and line.
    """
    synced = read_synced_folder(folder, require_code=False, assumed_account="external_user", unanswered_policy="keep")
    synced = replace(synced, workflow=_with_triggers_of(synced.workflow, earlier_sidecar))
    known = find_known_choices(synced, earlier_sidecar)
    has_settings = synced.sidecar is not None and bool(synced.sidecar.triggers)
    assumed = (
        ()
        if has_settings
        else tuple(filter(None, (_assumed(each, synced.workflow) for each in synced.workflow.triggers)))
    )
    name = folder.resolve().name.replace("`", "'")
    return ImportSource(
        folder,
        synced,
        known,
        build_questions(synced, known),
        assumed,
        earlier_sidecar,
        f"Imported from the synced folder `{name}`.",
        () if (folder / ".workflow.state").exists() else (_NO_STATE_NOTE,),
    )


def build_archive_source(
    archived: ArchivedWorkflow, archive: Path, *, earlier_sidecar: Sidecar | None = None
) -> ImportSource:
    """
    Return *archived*, a workflow of *archive*, for an import; the ids of its accounts become questions.

    Settings of a trigger that cannot be written are left out, and a note says so.
    """
    accounts = {(step.name, app.prop): app.account for step, app in _bindings(archived.workflow)}
    steps = [
        replace(step, apps=tuple(replace(app, account=None) for app in step.apps)) for step in archived.workflow.steps
    ]
    workflow, notes = _with_written_triggers(replace(archived.workflow, steps=tuple(steps)))
    workflow = _with_triggers_of(workflow, earlier_sidecar)
    synced = SyncedFolder(workflow, None, accounts)
    known = find_known_choices(synced, earlier_sidecar)
    is_answered = earlier_sidecar is not None and bool(earlier_sidecar.triggers)
    assumed = (
        str(trigger.config["id"])
        for trigger in (() if is_answered else workflow.triggers)
        if "id" in trigger.config and (trigger.type == "http" or _assumed(trigger, workflow))
    )
    file, name = (text.replace("`", "'") for text in (archived.file, archive.name))
    return ImportSource(
        archive / archived.file,
        synced,
        known,
        build_questions(synced, known),
        tuple(assumed),
        earlier_sidecar,
        f"Imported from `{file}` of the archive `{name}`.",
        (*notes, *(f"Pipedream's manifest: {warning}" for warning in archived.warnings)),
    )


def _with_written_triggers(workflow: Workflow) -> tuple[Workflow, list[str]]:
    """Return *workflow* with triggers as `pdkernel.yaml` has them, the URLs of their endpoints in `extra`, and notes."""
    triggers, notes = [], []
    endpoints: dict[str, JSON] = {}
    for trigger in workflow.triggers:
        config = {key: value for key, value in trigger.config.items() if key != ENDPOINT_URL_KEY}
        name = str(config.get("id") or trigger.type)
        if ENDPOINT_URL_KEY in trigger.config:
            endpoints[name] = trigger.config[ENDPOINT_URL_KEY]
            notes.append(f"The endpoint of the trigger `{name}` at Pipedream is `{endpoints[name]}`.")
        written = replace(trigger, config=config)
        try:
            parse_sidecar(dump_sidecar(Sidecar(triggers=(written,))))
        except DefinitionError:
            written = replace(written, config={"id": config["id"]} if "id" in config else {})
            notes.append(f"The settings of the trigger `{name}` cannot be read, and are left out.")
        triggers.append(written)
    extra = dict(workflow.extra)
    if endpoints:
        kept = extra.get(ROUND_TRIP_KEY)
        extra[ROUND_TRIP_KEY] = {**(kept if isinstance(kept, dict) else {}), "endpoints": endpoints}
    return replace(workflow, triggers=tuple(triggers), extra=extra), notes


def _assumed(trigger: Trigger, workflow: Workflow) -> str | None:
    """Return the id of *trigger* if only its type is known, else None."""
    trigger_id = trigger.config.get("id")
    plain = replace(assume_trigger(trigger.type, workflow.steps), config={"id": trigger_id})
    return str(trigger_id) if trigger_id and trigger == plain else None


def _with_triggers_of(workflow: Workflow, earlier: Sidecar | None) -> Workflow:
    """Return *workflow* with the trigger settings of *earlier*, by position."""
    earlier_triggers = earlier.triggers if earlier is not None else ()
    triggers = [
        replace(known, config={**({"id": trigger.config["id"]} if "id" in trigger.config else {}), **known.config})
        if (known := earlier_triggers[index] if index < len(earlier_triggers) else None) is not None
        and known.type in ((trigger.type, "errors") if trigger.type == "source" else (trigger.type,))
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
    Return the files of the import of *source*.

    Args:
        source: The folder's content.
        answers: Answers by app and id.
        notebook_folder: The folder of the future notebook.
        build_report: Builds the report on the finished workflow.
        earlier_sidecar: The `pdkernel.yaml` of an earlier import.
    """
    choices = build_choices(source.synced, source.known_choices, answers)
    workflow = apply_choices(source.workflow, choices)
    report = build_report(workflow, choices)
    notebook = format_notebook(workflow, about=_about(source), report=report.render_markdown())
    sidecar = _sidecar(source, choices, workflow, place=notebook_folder, earlier=earlier_sidecar)
    return NotebookTexts(notebook, dump_sidecar(sidecar), workflow, choices), report


def _about(read: ImportSource) -> str:
    lines = [f"{read.origin} {_CELLS}"]
    if read.workflow.is_inactive:
        lines.append("On Pipedream this workflow is turned off.")
    return "\n\n".join(lines)


def _sidecar(
    read: ImportSource,
    choices: Mapping[str, Mapping[str, AccountChoice]],
    workflow: Workflow,
    *,
    place: Path,
    earlier: Sidecar | None,
) -> Sidecar:
    """Return the values of an earlier import, else of the folder's own file, with the account choices."""
    sidecar = Sidecar(
        workflow=workflow.name,
        triggers=workflow.triggers,
        steps={name: StepSidecar(accounts=accounts) for name, accounts in choices.items()},
        variables=workflow.variables,
    )
    own = read.synced.sidecar
    if own is not None:
        own = replace(own, actions=tuple(_relocate_source(each, read.folder, place) for each in own.actions))
    return merge_sidecars(merge_sidecars(sidecar, earlier), own)


def _relocate_source(source: str, folder: Path, place: Path) -> str:
    """Return a source of actions of *folder* for a notebook in *place*: a relative path is adapted."""
    if source in _ACTION_SOURCE_NAMES or Path(source).is_absolute():
        return source
    return os.path.relpath(folder / source, place).replace(os.sep, "/")

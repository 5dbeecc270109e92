"""Reads a workflow's folder, written by Pipedream's Git sync, as a workflow. Unknown keys are kept."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

from pdkernel.errors import DefinitionError, DuplicateStepError, NotebookError, StepNameError
from pdkernel.files.definition.entry_file import (
    RUNTIME_NAMES,
    EntryFileError,
    build_file_reader,
    default_entry_path,
    detect_language,
    read_entry_file,
)
from pdkernel.files.definition.file_plan import WORKFLOW_FILE, WORKFLOW_SCHEMA
from pdkernel.files.definition.sidecar import (
    SIDECAR_FILE_NAME,
    Sidecar,
    StepSidecar,
    UnansweredPolicy,
    apply_sidecar,
    read_sidecar,
    resolve_account,
)
from pdkernel.files.definition.step_props import PROPS_CURSOR_KEY, parse_props
from pdkernel.files.definition.workflow_document import WorkflowDocument, read_document
from pdkernel.language.analysis import UNKNOWN_APP, find_declared_apps, responds, with_step_files
from pdkernel.language.directive import LocatedYaml, is_action_reference
from pdkernel.language.expression import RULE_FILTER, RULE_FILTER_PROP
from pdkernel.model import (
    JSON,
    ROUND_TRIP_KEY,
    AppBinding,
    Language,
    Step,
    StoreBinding,
    Trigger,
    TriggerType,
    UnsupportedEntry,
    Workflow,
)

AssumedAccount = Literal["external_user", "own"]
_FILE = ("./", "../", "/")
_STEP_KEYS = frozenset({"namespace", "uses", "props"})
_WORKFLOW_KEYS = frozenset({"name", "settings", "triggers", "steps"})
TRIGGER_TYPES: Mapping[str, TriggerType] = {
    "hi": "http",
    "ti": "schedule",
    "ei": "email",
    "dc": "source",
    "sub": "source",
}
"""The type of a trigger by the prefix of its id (`hi_...`)."""


@dataclass(frozen=True, slots=True)
class SyncedFolder:
    """
    The content of a synced folder.

    Attributes:
        workflow: The workflow, with the values of its `pdkernel.yaml`.
        sidecar: The content of `pdkernel.yaml`, or None if there is no such file.
        accounts: The account id in `workflow.yaml`, or None, by step and app prop.
    """

    workflow: Workflow
    sidecar: Sidecar | None
    accounts: Mapping[tuple[str, str], str | None]


def read_folder_workflow(
    folder: Path,
    *,
    require_code: bool = True,
    assumed_account: AssumedAccount = "external_user",
    unanswered_policy: UnansweredPolicy = "refuse",
) -> Workflow:
    """
    Return the workflow in *folder*; entries of unknown types become its unsupported entries.

    Args:
        folder: A folder with `workflow.yaml`, an entry file for each code step, and optionally `pdkernel.yaml`.
        require_code: False reads a missing entry file as empty code.
        assumed_account: The account for app props that `pdkernel.yaml` does not mention. Never `own` for a run:
            that would use your own account for the request of an external user.
        unanswered_policy: As for `apply_sidecar`.

    Raises:
        NotebookError: The folder is not a workflow's folder, or a file in it cannot be read; the message names file
            and line.
        UnsupportedError: The format is unknown to this version.
        RequestError: An account choice in `pdkernel.yaml` is unanswered.
    """
    return read_synced_folder(
        folder, require_code=require_code, assumed_account=assumed_account, unanswered_policy=unanswered_policy
    ).workflow


def read_synced_folder(
    folder: Path, *, require_code: bool, assumed_account: AssumedAccount, unanswered_policy: UnansweredPolicy
) -> SyncedFolder:
    """Return the content of *folder*; arguments and errors are those of `read_folder_workflow`."""
    document = read_document(folder)
    sidecar = read_sidecar(folder / SIDECAR_FILE_NAME)
    reader = _StepReader(
        document, sidecar, require_code=require_code, accounts=assumed_account, unanswered=unanswered_policy
    )
    workflow = _workflow(document, sidecar, reader)
    return SyncedFolder(
        apply_sidecar(workflow, sidecar, unanswered_policy=unanswered_policy), sidecar, reader.account_ids
    )


def build_workflow(
    document: WorkflowDocument,
    sidecar: Sidecar | None = None,
    *,
    require_code: bool = True,
    assumed_account: AssumedAccount = "external_user",
    unanswered_policy: UnansweredPolicy = "refuse",
) -> Workflow:
    """
    Return the workflow of *document*; arguments and errors as for `read_folder_workflow`.

    Only the account choices of *sidecar* are used.
    """
    reader = _StepReader(
        document, sidecar, require_code=require_code, accounts=assumed_account, unanswered=unanswered_policy
    )
    return _workflow(document, sidecar, reader)


def _workflow(document: WorkflowDocument, sidecar: Sidecar | None, reader: _StepReader) -> Workflow:
    data, located, folder = document.data, document.located, document.folder
    path = folder / WORKFLOW_FILE
    steps, kept = reader.read(_list(data, "steps", path, located))
    return Workflow(
        name=str(data.get("name") or folder.name),
        triggers=_triggers(_list(data, "triggers", path, located), sidecar, steps),
        steps=steps,
        settings=_settings(data, path, located),
        origin=str(folder),
        extra=_extra(data, document.id),
    ).with_unsupported_entries(kept)


def describe_assumptions(folder: Path, workflow: Workflow) -> tuple[str, ...]:
    """Return the assumptions about a synced *folder* without `pdkernel.yaml`, as sentences; empty if it has the file."""
    if (folder / SIDECAR_FILE_NAME).exists():
        return ()
    sentences = []
    if any(trigger.type == "http" for trigger in workflow.triggers):
        custom = any(trigger.response == "custom" for trigger in workflow.triggers)
        answer = "lets the workflow answer, since a step responds" if custom else "gives the default response"
        sentences.append(f"its HTTP trigger asks for no authorization and {answer}")
    props = [f"{step.name}.{app.prop}" for step in workflow.steps for app in step.apps if app.account is None]
    if props:
        sentences.append(f"the external user's account fills {', '.join(props)}, never an account of your own")
    return tuple(sentences)


def _list(data: Mapping[str, Any], key: str, path: Path, located: LocatedYaml) -> list[dict[str, Any]]:
    value = data.get(key) or []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise NotebookError(f"{path}: {key} is not a list of mappings (line {located.get_line((key,))}).")
    return value


def _settings(data: Mapping[str, Any], path: Path, located: LocatedYaml) -> dict[str, JSON]:
    settings = data.get("settings") or {}
    if not isinstance(settings, dict):
        raise NotebookError(f"{path}: settings is not a mapping (line {located.get_line(('settings',))}).")
    return settings


def _extra(data: Mapping[str, Any], state_id: str | None) -> dict[str, JSON]:
    extra = {"schema": WORKFLOW_SCHEMA, **{key: value for key, value in data.items() if key not in _WORKFLOW_KEYS}}
    if any(set(trigger) != {"id"} for trigger in data.get("triggers") or ()):
        extra["triggers"] = data["triggers"]
    if state_id is not None:
        extra[ROUND_TRIP_KEY] = {"id": state_id}
    return extra


def _triggers(raw: list[dict[str, Any]], sidecar: Sidecar | None, steps: Sequence[Step]) -> tuple[Trigger, ...]:
    """Return the triggers of both files: ids from `workflow.yaml`, configuration from `pdkernel.yaml`, by id, else by position."""
    ids = [str(trigger["id"]) for trigger in raw if trigger.get("id")]
    result = assign_trigger_ids(sidecar.triggers if sidecar is not None else (), ids)
    known = {trigger.config.get("id") for trigger in result}
    result += [
        replace(assume_trigger(TRIGGER_TYPES.get(id_.partition("_")[0], "source"), steps), config={"id": id_})
        for id_ in ids
        if id_ not in known
    ]
    return tuple(result)


def assign_trigger_ids(triggers: Sequence[Trigger], ids: Sequence[str]) -> list[Trigger]:
    """Return *triggers*; those without an id get, in order, the *ids* that the others do not have."""
    named = {trigger.config.get("id") for trigger in triggers}
    left = [id_ for id_ in ids if id_ not in named]
    return [
        replace(trigger, config={"id": left.pop(0), **trigger.config})
        if left and "id" not in trigger.config
        else trigger
        for trigger in triggers
    ]


def assume_trigger(type_: TriggerType, steps: Sequence[Step]) -> Trigger:
    """Return the assumed trigger where only the type is known; the response is custom if one of *steps* may respond."""
    # the code of a private action is unknown, so it does not count as a step that responds
    custom = type_ == "http" and any(
        not step.disabled and responds(step) != "never" and not (step.uses or "").startswith("@") for step in steps
    )
    return Trigger(type_, response="custom" if custom else "default")


def is_rule_filter_props(props: object) -> bool:
    """Return whether a step without code and with these *props* is the builder's Filter step, of which Git has no file."""
    return isinstance(props, dict) and RULE_FILTER_PROP in props


def _is_step_attribute(key: str, value: Any, raw: Mapping[str, Any]) -> bool:
    """Return whether an attribute of the step holds the value of *key*."""
    match key:
        case "disabled":
            return value is True
        case "notes":
            return isinstance(value, str)
        case "note":
            return isinstance(value, str) and "notes" not in raw
    return key in _STEP_KEYS


class _StepReader:
    """Reads the steps of one folder."""

    def __init__(
        self,
        document: WorkflowDocument,
        sidecar: Sidecar | None,
        *,
        require_code: bool,
        accounts: AssumedAccount,
        unanswered: UnansweredPolicy,
    ) -> None:
        self._folder = document.folder
        self._located = document.located
        self._sidecar = sidecar
        self._require_code = require_code
        self._accounts = accounts
        self._unanswered: UnansweredPolicy = unanswered
        self.account_ids: dict[tuple[str, str], str | None] = {}
        self._app_by_account: dict[str, str] = {}

    def read(self, raw_steps: list[dict[str, Any]]) -> tuple[tuple[Step, ...], list[UnsupportedEntry]]:
        """Return the steps, and the unsupported entries."""
        steps: dict[str, Step] = {}
        places: dict[str, int] = {}
        kept: list[UnsupportedEntry] = []
        for index, raw in enumerate(raw_steps):
            if not self._is_step(raw):
                kept.append(UnsupportedEntry(next(reversed(steps), None), raw))
                continue
            step = self._step(index, raw)
            if step.name in steps:
                first = self._located.get_line(("steps", places[step.name]))
                raise self._fault(
                    DuplicateStepError,
                    index,
                    f"two steps are called {step.name!r}, the other in line {first}: steps.{step.name} would be ambiguous",
                    step.name,
                )
            places[step.name] = index
            steps[step.name] = step
        return tuple(map(self._with_known_apps, steps.values())), kept

    def _with_known_apps(self, step: Step) -> Step:
        """Return *step* with the app of each account that another step of the file uses for a known app."""
        if all(app.app != UNKNOWN_APP for app in step.apps):
            return step
        ids = {app.prop: self.account_ids.get((step.name, app.prop)) for app in step.apps}
        apps = (replace(app, app=self._app_by_account.get(ids[app.prop] or "", app.app)) for app in step.apps)
        return replace(step, apps=tuple(apps))

    def _is_step(self, raw: Mapping[str, Any]) -> bool:
        """Return whether *raw* is code in a known language, or an action with its version."""
        uses = raw.get("uses")
        if not isinstance(uses, str):
            return False
        if uses.startswith(_FILE):
            return self._language(uses, raw.get("namespace")) is not None
        return is_action_reference(uses)

    def _step(self, index: int, raw: Mapping[str, Any]) -> Step:
        """Return the step that *raw*, item *index* of `steps`, describes."""
        name = raw.get("namespace")
        if not isinstance(name, str):
            raise self._fault(NotebookError, index, "a step has no namespace")
        uses = str(raw["uses"])
        is_file = uses.startswith(_FILE)
        language = (self._language(uses, name) if is_file else None) or "node"
        kept: dict[str, JSON] = {}
        code = self._code(uses, index, name, raw.get("props")) if is_file else ""
        is_rule_filter = code is None and is_rule_filter_props(raw.get("props"))
        if code is None and not is_rule_filter:
            kept["missing"] = True
        notes = raw.get("notes", raw.get("note"))
        try:
            step = Step(
                name=name,
                language=language,
                source=code or "",
                uses=RULE_FILTER if is_rule_filter else None if is_file else uses,
                disabled=raw.get("disabled") is True,
                notes=notes if isinstance(notes, str) else None,
                extra=self._extra(raw, language),
            )
        except StepNameError as error:
            raise self._fault(StepNameError, index, error.message.removesuffix("."), name) from None
        if is_rule_filter:
            if uses != f"./{default_entry_path(name, language)}":
                kept["entry"] = uses
        elif is_file:
            entry = posixpath.normpath(uses)
            entry_folder = posixpath.dirname(entry)
            step = with_step_files(
                replace(step, file=str(self._folder / entry), file_line=1),
                build_file_reader(self._folder, entry_folder),
                depth=len(Path(entry_folder).parts),
                place=str(self._folder / entry),
            )
            # a renamed step still imports the files of its folder
            if step.files or uses != f"./{default_entry_path(name, language)}":
                kept["entry"] = uses
        return self._with_props(step, raw.get("props") or {}, index, kept)

    def _fault(self, kind: type[DefinitionError], index: int, what: str, step: str | None = None) -> DefinitionError:
        line = self._located.get_line(("steps", index))
        return kind(f"{self._folder / WORKFLOW_FILE}: {what} (line {line}).", step=step, line=line)

    def _language(self, uses: str, name: object) -> Language | None:
        language = self._get_step_sidecar(name).language if isinstance(name, str) else None
        return language or detect_language(uses)

    def _get_step_sidecar(self, name: str) -> StepSidecar:
        steps = self._sidecar.steps if self._sidecar is not None else {}
        return steps.get(name, StepSidecar())

    def _code(self, uses: str, index: int, name: str, props: object) -> str | None:
        """Return the code of the file that *uses* names; None if the file is missing, as it is for the builder's Filter step."""
        try:
            code = read_entry_file(self._folder, uses)
        except EntryFileError as error:
            raise self._fault(NotebookError, index, f"step {name} uses {uses}, {error}", name) from None
        if code is None and self._require_code and not is_rule_filter_props(props):
            what = f"step {name} uses {uses}, and there is no such file"
            raise self._fault(NotebookError, index, what, name)
        return code

    @staticmethod
    def _extra(raw: Mapping[str, Any], language: Language) -> dict[str, JSON]:
        extra = {key: value for key, value in raw.items() if not _is_step_attribute(key, value, raw)}
        if extra.get("runtime") == RUNTIME_NAMES.get(language):
            extra.pop("runtime", None)
        return extra

    def _with_props(self, step: Step, raw: Any, index: int, kept: Mapping[str, JSON]) -> Step:
        if not isinstance(raw, dict):
            raise self._fault(NotebookError, index, f"the props of step {step.name} are not a mapping", step.name)
        slugs = {app.prop: app.app for app in find_declared_apps(step)}
        props = parse_props(raw, slugs=slugs, action=step.uses)
        self.account_ids |= {(step.name, app.prop): app.account for app in props.apps}
        self._app_by_account |= {app.account: app.app for app in props.apps if app.account and app.app != UNKNOWN_APP}
        kept = {**props.bookkeeping, **kept, **({"cursor_of": step.uses} if PROPS_CURSOR_KEY in step.extra else {})}
        extra = {**step.extra, ROUND_TRIP_KEY: cast("JSON", kept)} if kept else step.extra
        return replace(
            step,
            apps=tuple(self._resolve_account(step, app) for app in props.apps),
            stores=self._stores(step, props.stores),
            props=props.values,
            prop_lines=self._prop_lines.get(index, {}),
            props_file=WORKFLOW_FILE,
            extra=extra,
        )

    @cached_property
    def _prop_lines(self) -> dict[str | int, dict[tuple[str | int, ...], int]]:
        """The lines of each step's props, by the step's number."""
        found: dict[str | int, dict[tuple[str | int, ...], int]] = {}
        for path, line in self._located.lines.items():
            if len(path) > 3 and path[0] == "steps" and path[2] == "props":
                found.setdefault(path[1], {})[path[3:]] = line
        return found

    def _stores(self, step: Step, stores: Sequence[StoreBinding]) -> tuple[StoreBinding, ...]:
        named = self._get_step_sidecar(step.name).stores
        return tuple(replace(store, store=named.get(store.prop, store.store)) for store in stores)

    def _resolve_account(self, step: Step, app: AppBinding) -> AppBinding:
        """Return *app* with the account of `pdkernel.yaml`, or the assumed account."""
        choice = self._get_step_sidecar(step.name).accounts.get(app.prop)
        if choice is not None and self._sidecar is not None:
            account = resolve_account(
                choice, step=step, prop=app.prop, sidecar=self._sidecar, unanswered_policy=self._unanswered
            )
            return AppBinding(app.prop, choice.app or app.app, account)
        return app if self._accounts == "own" else replace(app, account=None)

"""
`pdkernel.yaml`: workflow data that Git sync does not store, such as account choices; its YAML, and its application to a workflow.

A value in the notebook wins over the file. The file holds no secret, only ids and names of variables. It is checked against its
JSON Schema, which is package data.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast

from pdkernel.errors import DefinitionError, NotebookError, RequestError, did_you_mean
from pdkernel.files.definition.control_flow import apply_control_flow
from pdkernel.files.definition.entry_file import get_error_line, is_outside
from pdkernel.language.analysis import find_app_bindings
from pdkernel.language.directive import LocatedYaml, build_trigger_mapping, dump_yaml, parse_trigger, parse_yaml
from pdkernel.model import JSON, AppBinding, Language, Step, StoreBinding, Trigger, Workflow

SIDECAR_FILE_NAME = "pdkernel.yaml"
EXTERNAL_USER = "external_user"
UNANSWERED = "unanswered"
UnansweredPolicy = Literal["refuse", "keep"]
"""What an unanswered app prop does: `refuse` raises an error; `keep` leaves it (for callers that run nothing)."""


@dataclass(frozen=True, slots=True)
class AccountChoice:
    """
    The choice of account for an app prop.

    Attributes:
        account: `external_user`, `unanswered`, or the id of an account of your own.
        app: The app's slug, or None if it equals the prop's name.
        synced: The account id in the synced file, which is written back there. None if the file holds none, or
            if *account* is that id.
    """

    account: str
    app: str | None = None
    synced: str | None = None


@dataclass(frozen=True, slots=True)
class StepSidecar:
    """The file's entry for one step; in `stores`, None is the project's default store."""

    language: Language | None = None
    timeout_s: float | None = None
    accounts: Mapping[str, AccountChoice] = field(default_factory=dict)
    stores: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sidecar:
    """
    The file as a value.

    Attributes:
        workflow: The name of the workflow, or None.
        endpoint: The key of its HTTP endpoint, or None.
        triggers: The triggers' configuration, in order.
        steps: Entries of steps by name.
        limits: Settings without a known key in `workflow.yaml`.
        variables: Names of environment variables.
        test_users: Ids of external users.
        test_events: Names of the saved events that belong to the workflow; empty for all.
        actions: Where pre-built actions run, in the order in which they are looked up; empty for the project's setting.
        naming_callers: The workflows that may start this one for an external user whom they name.
        control_flow: The blocks, as `control_flow` reads and builds them; of a notebook, its cells have them.
        path: The file's path for messages, or None.
    """

    workflow: str | None = None
    endpoint: str | None = None
    triggers: tuple[Trigger, ...] = ()
    steps: Mapping[str, StepSidecar] = field(default_factory=dict)
    limits: Mapping[str, JSON] = field(default_factory=dict)
    variables: tuple[str, ...] = ()
    test_users: tuple[str, ...] = ()
    test_events: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    naming_callers: tuple[str, ...] = ()
    control_flow: tuple[JSON, ...] = ()
    path: Path | None = None


FILE_FIELDS = ("endpoint", "test_users", "test_events", "actions", "naming_callers")
"""The fields of `Sidecar` that are stored in `pdkernel.yaml` alone: an import, an export and a proof take all of them along."""


def get_notebook_sidecar_path(notebook: Path) -> Path:
    """Return the path of *notebook*'s file: `NAME.pdkernel.yaml` beside `NAME.ipynb`."""
    return notebook.with_name(f"{notebook.stem}.{SIDECAR_FILE_NAME}")


def merge_sidecars(sidecar: Sidecar, existing: Sidecar | None) -> Sidecar:
    """Return *sidecar* with the values that only *existing*, the folder's file, holds."""
    if existing is None:
        return sidecar
    return replace(sidecar, **{name: getattr(sidecar, name) or getattr(existing, name) for name in FILE_FIELDS})


def apply_sidecar(
    workflow: Workflow, sidecar: Sidecar | None, *, unanswered_policy: UnansweredPolicy = "refuse"
) -> Workflow:
    """
    *workflow* with the values of *sidecar*; a value of the workflow itself wins.

    Args:
        workflow: The workflow of a notebook or `workflow.yaml`.
        sidecar: The content of `pdkernel.yaml`, or None if there is no such file.
        unanswered_policy: `keep` leaves an unanswered app prop without an account: for export and doctor, never for a
            run.

    Raises:
        RequestError: An app prop is unanswered, and the policy is `refuse`.
        NotebookError: The blocks do not fit the steps.
    """
    if sidecar is None:
        return workflow
    says_nothing = workflow.triggers == (Trigger(),)
    if sidecar.control_flow and not workflow.blocks:
        file = SIDECAR_FILE_NAME if sidecar.path is None else str(sidecar.path)
        workflow = apply_control_flow(workflow, sidecar.control_flow, file=file)
    return replace(
        workflow,
        triggers=sidecar.triggers if says_nothing and sidecar.triggers else workflow.triggers,
        steps=tuple(_apply_to_step(step, sidecar, unanswered_policy) for step in workflow.steps),
        settings={**sidecar.limits, **workflow.settings},
        variables=tuple(dict.fromkeys((*workflow.variables, *sidecar.variables))),
    )


def _apply_to_step(step: Step, sidecar: Sidecar, unanswered: UnansweredPolicy) -> Step:
    step_sidecar = sidecar.steps.get(step.name)
    if step_sidecar is None:
        return step
    return replace(
        step,
        apps=_apps(step, step_sidecar, sidecar, unanswered),
        stores=(*step.stores, *_new_stores(step, step_sidecar)),
        timeout_s=step_sidecar.timeout_s if step.timeout_s is None else step.timeout_s,
    )


def _apps(
    step: Step, step_sidecar: StepSidecar, sidecar: Sidecar, unanswered: UnansweredPolicy
) -> tuple[AppBinding, ...]:
    """Return the directive's apps, then the file's choices for props that the directive does not name."""
    apps = {binding.prop: binding for binding in step.apps}
    declared = {binding.prop: binding.app for binding in find_app_bindings(step)}
    for prop, choice in step_sidecar.accounts.items():
        if prop in apps:
            continue
        app = choice.app or declared.get(prop, prop)
        account = resolve_account(choice, step=step, prop=prop, sidecar=sidecar, unanswered_policy=unanswered)
        apps[prop] = AppBinding(prop, app, account)
    return tuple(apps.values())


def _new_stores(step: Step, step_sidecar: StepSidecar) -> tuple[StoreBinding, ...]:
    known = {binding.prop for binding in step.stores}
    return tuple(StoreBinding(prop, store) for prop, store in step_sidecar.stores.items() if prop not in known)


def resolve_account(
    choice: AccountChoice, *, step: Step, prop: str, sidecar: Sidecar, unanswered_policy: UnansweredPolicy = "refuse"
) -> str | None:
    """
    Return the id of your own account in *choice*, or None for the external user's account.

    Raises:
        RequestError: The choice is unanswered, the policy is `refuse`, and the step is not disabled.
    """
    if choice.account == UNANSWERED and unanswered_policy == "refuse" and not step.disabled:
        where = SIDECAR_FILE_NAME if sidecar.path is None else str(sidecar.path)
        raise RequestError(
            f"{where}: steps.{step.name}.accounts.{prop} is {UNANSWERED}: the owner of the account is not set.",
            fix=f"Write {EXTERNAL_USER}, or the id of an account of your own (apn_...), in its place.",
        )
    return None if choice.account in {EXTERNAL_USER, UNANSWERED} else choice.account


SIDECAR_SCHEMA = "pdkernel/1"


@lru_cache(maxsize=1)
def load_sidecar_schema() -> Mapping[str, Any]:
    """Return the JSON Schema of `pdkernel.yaml`."""
    text = Path(__file__).with_name("pdkernel.schema.json").read_text(encoding="utf-8")
    return cast("Mapping[str, Any]", json.loads(text))


def read_sidecar(path: Path) -> Sidecar | None:
    """
    Return the file at *path*, or None if there is no such file.

    Raises:
        NotebookError: The file is not a valid `pdkernel.yaml`; the message names the key's path and the line.
    """
    try:
        found = path.stat()
        if path.name == SIDECAR_FILE_NAME and is_outside(path, path.parent):
            raise NotebookError(f"{path} is a link that leads out of its folder.", fix="Put the file itself there.")
        if not stat.S_ISREG(found.st_mode):
            raise NotebookError(f"{path} is not a file.")
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnicodeDecodeError as fault:
        line = get_error_line(fault)
        raise NotebookError(f"{path} is not UTF-8 text (byte {fault.start + 1}, line {line}).", line=line) from None
    except OSError as fault:
        raise NotebookError(f"{path} cannot be read: {fault.strerror}.") from None
    return parse_sidecar(text, path=path)


def parse_sidecar(text: str, *, path: Path | None = None) -> Sidecar:
    """
    Read the file's text.

    Args:
        text: The file's text.
        path: The file's path, for messages.

    Raises:
        NotebookError: The text is not YAML or does not match the schema; the message names path and line.
    """
    name = str(path) if path is not None else SIDECAR_FILE_NAME
    located = parse_yaml(text, allow_expressions=False, error_class=NotebookError, document_name=name)
    if located.value is None:
        return Sidecar(path=path)
    _validate(located, name)
    data = cast("dict[str, Any]", located.value)
    try:
        count = len(data.get("triggers", ()))
        triggers = tuple(
            parse_trigger(located, ("triggers", n), document_name=name, is_definition=True) for n in range(count)
        )
    except DefinitionError as error:
        raise NotebookError(error.message, fix=error.fix, line=error.line) from None
    return Sidecar(
        workflow=data.get("workflow"),
        endpoint=data.get("endpoint"),
        triggers=triggers,
        steps={step: _step(step_sidecar) for step, step_sidecar in data.get("steps", {}).items()},
        limits=data.get("limits", {}),
        variables=tuple(data.get("variables", ())),
        test_users=tuple(data.get("test_users", ())),
        test_events=tuple(data.get("test_events", ())),
        actions=(actions,) if isinstance(actions := data.get("actions", ()), str) else tuple(actions),
        naming_callers=tuple(data.get("child_runs", {}).get("may_name_external_user", ())),
        control_flow=tuple(data.get("control_flow", ())),
        path=path,
    )


def _validate(located: LocatedYaml, name: str) -> None:
    schema = load_sidecar_schema()
    if _fulfils(located.value, schema, schema):
        return
    # imported for a wrong file only: with the extras that JupyterLab installs, the import compiles grammars for over a second
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    error = best_match(Draft202012Validator(schema).iter_errors(located.value))
    if error is None:
        return
    path = tuple(error.absolute_path)
    fix = ""
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        known = list(error.schema.get("properties", ()))
        unknown = next(key for key in error.instance if key not in known)
        path, fix = (*path, unknown), did_you_mean(unknown, known)
    line = located.get_line(path)
    where = ".".join(map(str, path)) or "the file"
    raise NotebookError(f"{name}: {where}: {error.message} (line {line}).", fix=fix, line=line)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: _is_number(value) and not isinstance(value, float),
    "number": _is_number,
    "null": lambda value: value is None,
}
_KEYWORDS: Mapping[str, Callable[[Any, Any], bool]] = {
    "$schema": lambda _value, _rule: True,
    "$defs": lambda _value, _rule: True,
    "title": lambda _value, _rule: True,
    "description": lambda _value, _rule: True,
    "type": lambda value, rule: any(_TYPES[kind](value) for kind in ([rule] if isinstance(rule, str) else rule)),
    "const": lambda value, rule: isinstance(value, str) and value == rule,
    "enum": lambda value, rule: isinstance(value, str) and value in rule,
    "required": lambda value, rule: not isinstance(value, dict) or all(key in value for key in rule),
    "uniqueItems": lambda value, _rule: (
        not isinstance(value, list) or (all(isinstance(item, str) for item in value) and len(set(value)) == len(value))
    ),
    "pattern": lambda value, rule: not isinstance(value, str) or re.search(rule, value) is not None,
    "minLength": lambda value, rule: not isinstance(value, str) or len(value) >= rule,
    "maxLength": lambda value, rule: not isinstance(value, str) or len(value) <= rule,
    "minimum": lambda value, rule: not _is_number(value) or value >= rule,
    "exclusiveMinimum": lambda value, rule: not _is_number(value) or value > rule,
    "maximum": lambda value, rule: not _is_number(value) or value <= rule,
}
"""Keywords of the schema that do not check the parts of a value: each returns whether a value fulfils a rule."""


def _fulfils(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any]) -> bool:
    """
    Return whether *value* certainly fulfils *schema*; False if only jsonschema can decide.

    Args:
        value: The value to check.
        schema: *root* or a part of it.
        root: The schema with the definitions.
    """
    for keyword, rule in schema.items():
        match keyword:
            case "$ref":
                fulfilled = _fulfils(value, root["$defs"][rule.removeprefix("#/$defs/")], root)
            case "anyOf":
                fulfilled = any(_fulfils(value, part, root) for part in rule)
            case "properties" if isinstance(value, dict):
                fulfilled = all(_fulfils(value[key], part, root) for key, part in rule.items() if key in value)
            case "additionalProperties" if isinstance(value, dict):
                others = value.keys() - schema.get("properties", {}).keys()
                fulfilled = not others if rule is False else all(_fulfils(value[key], rule, root) for key in others)
            case "items" if isinstance(value, list):
                fulfilled = all(_fulfils(item, rule, root) for item in value)
            case _:
                check = _KEYWORDS.get(keyword)
                fulfilled = check is not None and check(value, rule)
        if not fulfilled:
            return False
    return True


def _step(step_sidecar: Mapping[str, Any]) -> StepSidecar:
    return StepSidecar(
        language=step_sidecar.get("language"),
        timeout_s=step_sidecar.get("timeout"),
        accounts={prop: _account(choice) for prop, choice in step_sidecar.get("accounts", {}).items()},
        stores=step_sidecar.get("stores", {}),
    )


def _account(choice: str | Mapping[str, str]) -> AccountChoice:
    if isinstance(choice, str):
        return AccountChoice(choice)
    return AccountChoice(choice["account"], choice.get("app"), choice.get("synced"))


def dump_sidecar(sidecar: Sidecar, *, inferred_steps: Sequence[str] = ()) -> str:
    """Return the file's text; the arguments are those of `build_sidecar_mapping`."""
    return dump_yaml(build_sidecar_mapping(sidecar, inferred_steps=inferred_steps))


def build_sidecar_mapping(sidecar: Sidecar, *, inferred_steps: Sequence[str] = ()) -> dict[str, JSON]:
    """
    Return the file's content as a mapping.

    Args:
        sidecar: The values to write.
        inferred_steps: Steps whose form in `workflow.yaml` was never observed in a synced repository.
    """
    data: dict[str, JSON] = {"schema": SIDECAR_SCHEMA}
    optional: dict[str, JSON] = {
        "workflow": sidecar.workflow,
        "endpoint": sidecar.endpoint,
        "triggers": _triggers(sidecar.triggers),
        "steps": {
            name: mapping
            for name, step_sidecar in sidecar.steps.items()
            if (mapping := _step_mapping(step_sidecar, inferred=name in inferred_steps))
        },
        "control_flow": list(sidecar.control_flow),
        "limits": dict(sidecar.limits),
        "variables": list(sidecar.variables),
        "test_users": list(sidecar.test_users),
        "test_events": list(sidecar.test_events),
        "actions": sidecar.actions[0] if len(sidecar.actions) == 1 else list(sidecar.actions),
        "child_runs": {"may_name_external_user": list(sidecar.naming_callers)} if sidecar.naming_callers else None,
    }
    data.update({key: value for key, value in optional.items() if value not in (None, [], {})})
    return data


def _triggers(triggers: Sequence[Trigger]) -> list[JSON]:
    """Return the triggers in the order of `workflow.yaml`; if only some have an id there, those carry it."""
    with_ids = ["id" in trigger.config for trigger in triggers]
    some = any(with_ids) and not all(with_ids)
    return [
        {**build_trigger_mapping(trigger, with_id=False), **({"id": trigger.config["id"]} if some and has_id else {})}
        for trigger, has_id in zip(triggers, with_ids, strict=True)
    ]


def _step_mapping(step_sidecar: StepSidecar, *, inferred: bool) -> dict[str, JSON]:
    mapping: dict[str, JSON] = {}
    if step_sidecar.language is not None:
        mapping["language"] = step_sidecar.language
    if inferred:
        mapping["inferred"] = True
    if step_sidecar.timeout_s is not None:
        mapping["timeout"] = step_sidecar.timeout_s
    if step_sidecar.accounts:
        mapping["accounts"] = {prop: _account_mapping(choice) for prop, choice in step_sidecar.accounts.items()}
    if step_sidecar.stores:
        mapping["stores"] = dict(step_sidecar.stores)
    return mapping


def _account_mapping(choice: AccountChoice) -> JSON:
    if choice.app is None and choice.synced is None:
        return choice.account
    fields = {"app": choice.app, "account": choice.account, "synced": choice.synced}
    return {key: value for key, value in fields.items() if value is not None}

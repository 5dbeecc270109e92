"""Reads and writes `pdkernel.yaml`; a file is checked against its JSON Schema, which is package data."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from pdkernel.errors import DefinitionError, NotebookError, did_you_mean
from pdkernel.files.definition.entry_file import get_error_line, is_outside
from pdkernel.files.definition.sidecar import SIDECAR_FILE_NAME, AccountChoice, Sidecar, StepSidecar
from pdkernel.language.directive import LocatedYaml, build_trigger_mapping, dump_yaml, parse_trigger, parse_yaml
from pdkernel.model import JSON, Trigger

SIDECAR_SCHEMA = "pdkernel/1"


@lru_cache(maxsize=1)
def load_sidecar_schema() -> Mapping[str, Any]:
    """The JSON Schema of `pdkernel.yaml`."""
    text = Path(__file__).with_name("pdkernel.schema.json").read_text(encoding="utf-8")
    return cast("Mapping[str, Any]", json.loads(text))


def read_sidecar(path: Path) -> Sidecar | None:
    """
    The file at *path*, or None if there is no such file.

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
    """The file's text; the arguments are those of `build_sidecar_mapping`."""
    return dump_yaml(build_sidecar_mapping(sidecar, inferred_steps=inferred_steps))


def build_sidecar_mapping(sidecar: Sidecar, *, inferred_steps: Sequence[str] = ()) -> dict[str, JSON]:
    """
    The file's content as a mapping.

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
    """Triggers in the order of `workflow.yaml`; if only some have an id there, those carry it."""
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

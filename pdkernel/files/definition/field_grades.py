"""
Grades each field of a definition's files by how well its meaning to the platform is known.

`documented`: in the platform's documentation. `observed`: seen in synced repositories. `inferred`: never seen.
`ours`: only pdkernel reads the field.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Literal

from pdkernel.common.encode import JsonStruct
from pdkernel.files.definition.entry_file import INFERRED_LANGUAGES, detect_language
from pdkernel.files.definition.file_plan import WORKFLOW_FILE, DefinitionFile, get_entry_path
from pdkernel.files.definition.sidecar import SIDECAR_FILE_NAME
from pdkernel.files.definition.step_props import CONFIGURABLE_PROPS_KEY, LABELLED_VALUE_KEY, STORE_KEY
from pdkernel.language.directive import parse_yaml
from pdkernel.model import ACCOUNT_KEY, ROUND_TRIP_KEY, Step, Workflow

Grade = Literal["documented", "observed", "inferred", "ours"]
GRADES: tuple[Grade, ...] = ("documented", "observed", "inferred", "ours")

_TOP = frozenset({"schema", "name", "inactive", "settings", "triggers", "steps"})
_SETTINGS = frozenset(
    {
        "error_notification",
        "lambda_timeout",
        "lambda_memory",
        "network",
        "rate_limit",
        "rate_limit_bucket_size_seconds",
        "max_event_queue_size",
    }
)
_TRIGGER = frozenset({"id"})
_STEP = frozenset({"namespace", "disabled", "note", "notes", "runtime", "_props_cursor", "props"})
_DEFINED = frozenset({"app", "name", "type", "authType", "appId"})


class GradedField(JsonStruct, frozen=True):
    """
    A field of the written files, with the evidence for its format.

    Attributes:
        file: `workflow.yaml`, `pdkernel.yaml`, or the name of an entry file.
        field: Keys of the field, `steps[].uses`; empty for a whole file.
        grade: The evidence for the format: documented, observed in a synced folder, inferred, or ours (defined by pdkernel).
        steps: The steps with this field, in order; empty for a field of the workflow.
    """

    file: str
    field: str
    grade: Grade
    steps: tuple[str, ...] = ()


def grade_fields(files: Sequence[DefinitionFile], workflow: Workflow) -> tuple[GradedField, ...]:
    """
    Every field of *files* with its grade; equal fields of several steps are merged.

    Args:
        files: The files of a definition.
        workflow: The source of *files*; keys that it kept from a synced file count as observed.

    Raises:
        LookupError: A key has no grade: a plan must write graded keys only.
        NotebookError: A file cannot be read.
    """
    found: dict[tuple[str, str, Grade], dict[str, None]] = {}
    for file in files:
        for field, grade, step in _fields(file, workflow):
            name = PurePosixPath(file.path).name
            found.setdefault((name, field, grade), {}).update({step: None} if step else {})
    return tuple(GradedField(file, field, grade, tuple(steps)) for (file, field, grade), steps in found.items())


_Field = tuple[str, Grade, str]
"""A field, its grade, and its step or the empty string."""


def _fields(file: DefinitionFile, workflow: Workflow) -> Iterator[_Field]:
    match file.path:
        case _ if file.path == WORKFLOW_FILE:
            yield from _workflow(
                parse_yaml(file.text, allow_expressions=False, document_name=file.path, as_psych=True).value, workflow
            )
        case _ if file.path == SIDECAR_FILE_NAME:
            value = parse_yaml(file.text, allow_expressions=False, document_name=file.path).value
            yield from ((key, "ours", "") for key in (value if isinstance(value, dict) else {}))
        case _:
            steps = [
                each
                for each in workflow.steps
                if not each.uses and posixpath.normpath(get_entry_path(each)) == file.path
            ]
            if not steps:
                raise LookupError(f"{file.path} has no grade")
            yield from (
                ("", "inferred" if step.language in INFERRED_LANGUAGES else "observed", step.name) for step in steps
            )


def _workflow(data: Any, workflow: Workflow) -> Iterator[_Field]:
    for key, value in data.items():
        yield key, _grade_key(key, _TOP, workflow.extra, WORKFLOW_FILE), ""
        match key:
            case "settings":
                kept = workflow.settings if "schema" in workflow.extra else {}
                for name in value or {}:
                    yield f"settings.{name}", _grade_key(name, _SETTINGS, kept, key), ""
            case "triggers":
                kept = {name: 1 for trigger in _maps(workflow.extra.get("triggers")) for name in trigger}
                for name in dict.fromkeys(name for trigger in value or () for name in trigger):
                    yield f"triggers[].{name}", _grade_key(name, _TRIGGER, kept, key), ""
            case "steps":
                steps = {step.name: step for step in workflow.steps}
                kept_entries = [dict(entry.entry) for entry in workflow.unsupported_entries]
                for raw in value or ():
                    if raw in kept_entries:
                        yield "steps[], as it was read", "observed", ""
                    else:
                        yield from _step(raw, steps.get(raw["namespace"]))


def _step(raw: Mapping[str, Any], step: Step | None) -> Iterator[_Field]:
    name = str(raw["namespace"])
    kept = step.extra if step is not None else {}
    for key, value in raw.items():
        if key == "uses":
            yield "steps[].uses", _grade_uses(str(value)), name
            continue
        yield f"steps[].{key}", _grade_key(key, _STEP, kept, "steps[]"), name
        if key == "props":
            for field, grade in _props(value or {}, step):
                yield f"steps[].props{field}", grade, name


def _grade_uses(value: str) -> Grade:
    if value.startswith("@"):
        return "documented"  # private components: `@<workspace>/<key>@<version>`
    return "inferred" if value.startswith("./") and detect_language(value) in INFERRED_LANGUAGES else "observed"


def _props(props: Mapping[str, Any], step: Step | None) -> Iterator[tuple[str, Grade]]:
    for prop, value in props.items():
        if prop == CONFIGURABLE_PROPS_KEY:
            yield f".{CONFIGURABLE_PROPS_KEY}", "observed"
            yield from _grade_definitions(value, step)
        elif isinstance(value, dict) and ACCOUNT_KEY in value:
            yield f".*.{ACCOUNT_KEY}", "observed"
        elif isinstance(value, dict) and STORE_KEY in value:
            yield f".*.{STORE_KEY}", "observed"
        elif isinstance(value, dict) and LABELLED_VALUE_KEY in value:
            yield f".*.{LABELLED_VALUE_KEY}", "observed"
        else:
            # prop values were observed for Node.js steps and actions only
            yield ".*", "observed" if step is None or step.uses or step.language == "node" else "inferred"


def _grade_definitions(definitions: Any, step: Step | None) -> Iterator[tuple[str, Grade]]:
    bookkeeping = step.extra.get(ROUND_TRIP_KEY) if step is not None else None
    kept = _maps(bookkeeping.get("configurable") if isinstance(bookkeeping, dict) else None)
    for item in definitions:
        for key in item:
            grade = "observed" if item in kept else _grade_key(key, _DEFINED, {}, CONFIGURABLE_PROPS_KEY)
            # a definition of a data store was never observed
            yield (
                f".{CONFIGURABLE_PROPS_KEY}[].{key}",
                grade if item in kept or item.get("type") == "app" else "inferred",
            )


def _grade_key(key: str, seen: frozenset[str], kept: Mapping[str, Any], where: str) -> Grade:
    """`observed` if the key is in *seen*, or in the file that was read (*kept*)."""
    if key in seen or key in kept:
        return "observed"
    raise LookupError(f"{where}: {key} has no grade")


def _maps(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []

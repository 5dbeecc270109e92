"""
The `%%pdworkflow` cell: name, triggers, settings.

Knows their keys and what each may hold. Knows nothing of what they make the platform do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from pdkernel.directive.cell import cut_workflow_cell
from pdkernel.directive.checks import Check, check_keys
from pdkernel.directive.settings import SETTINGS, THROTTLE
from pdkernel.directive.triggers import read_trigger
from pdkernel.directive.yaml_text import LocatedYaml, Path, read_yaml
from pdkernel.errors import DirectiveError
from pdkernel.model import JSON, Trigger

MAGIC = "%%pdworkflow"
KEYS = ("name", "trigger", "triggers", "settings")


@dataclass(frozen=True, slots=True)
class WorkflowHeader:
    """
    What a `%%pdworkflow` cell says.

    Attributes:
        name: The workflow's, or None: then it is called like its file.
        triggers: At least one.
        settings: As written.
    """

    name: str | None = None
    triggers: tuple[Trigger, ...] = (Trigger(),)
    settings: Mapping[str, JSON] = field(default_factory=dict)


def parse_workflow_cell(text: str) -> WorkflowHeader:
    """
    Read the header's whole cell.

    Raises:
        DirectiveError: It is none, or a key or value is wrong; the message and `line` say where.
    """
    found = cut_workflow_cell(text)
    if found is None:
        raise DirectiveError(f"This is not a workflow's header: it does not start with {MAGIC}.", line=1)
    if found.rest:
        raise DirectiveError(
            f"{MAGIC} takes nothing on its line, and this one says {found.rest!r}.",
            fix="Write it below, as YAML: name, trigger or triggers, settings.",
            line=found.body_offset,
        )
    located = read_yaml(found.body, expressions=True, line_offset=found.body_offset, name=MAGIC)
    if located.value is None:
        return WorkflowHeader()
    check = Check(located, DirectiveError, MAGIC)
    data = check.mapping(())
    check_keys(check, (), KEYS)
    return WorkflowHeader(
        name=check.text(("name",)).strip() if data.get("name") is not None else None,
        triggers=_triggers(check, data),
        settings=read_settings(located),
    )


def _triggers(check: Check, data: Mapping[str, JSON]) -> tuple[Trigger, ...]:
    if "trigger" in data and "triggers" in data:
        raise check.fault(("triggers",), "has both trigger and triggers", fix="Keep one of the two.")
    if "trigger" in data:
        return (read_trigger(check.located, ("trigger",)),)
    if data.get("triggers") is None:
        return (Trigger(),)
    count = len(check.list(("triggers",)))
    if count == 0:
        raise check.fault(("triggers",), "has no trigger under triggers", fix="Remove triggers for a plain HTTP one.")
    return tuple(read_trigger(check.located, ("triggers", index)) for index in range(count))


def read_settings(located: LocatedYaml, path: Path = ("settings",), *, name: str = MAGIC) -> dict[str, JSON]:
    """
    The settings at *path*, checked; empty if there are none.

    Raises:
        DirectiveError: An unknown key (the message has the nearest), or a value that the key cannot hold.
    """
    check = Check(located, DirectiveError, name)
    if check.find(path) is None:
        return {}
    settings = check.mapping(path)
    check_keys(check, path, SETTINGS)
    for key, value in settings.items():
        if not SETTINGS[key].accepts(value):
            raise check.fault((*path, key), f"has {key}: {check.shown(value)}, and it is {SETTINGS[key].what}")
        if key == "throttle":
            _check_throttle(check, (*path, key))
    return cast("dict[str, JSON]", dict(settings))


def _check_throttle(check: Check, path: Path) -> None:
    throttle = check.mapping(path)
    check_keys(check, path, THROTTLE)
    for key, rule in THROTTLE.items():
        if key not in throttle:
            raise check.fault(path, f"has a throttle without {key}", fix="Write limit and interval, in seconds.")
        if not rule.accepts(throttle[key]):
            raise check.fault((*path, key), f"has {key}: {check.shown(throttle[key])}, and it is {rule.what}")

"""Parses the `%%pdworkflow` cell: name, triggers, settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import cast

from pdkernel.errors import DirectiveError
from pdkernel.language.directive.cell import split_workflow_cell
from pdkernel.language.directive.located_yaml import LocatedYaml, parse_yaml
from pdkernel.language.directive.setting_rules import BOOLEAN_RULE, SETTING_RULES, THROTTLE_RULES
from pdkernel.language.directive.triggers import parse_trigger
from pdkernel.language.directive.yaml_checks import YamlChecker, check_keys
from pdkernel.language.expression import ValuePath
from pdkernel.model import JSON, Trigger

WORKFLOW_MAGIC = "%%pdworkflow"
_PROTECTIVE_SETTINGS = ("network", "share_workers")
_ALIKE = 0.8
"""Least likeness, from 0 to 1, of a word to a setting's name that it may have been meant for."""
HEADER_KEYS = ("name", "inactive", "trigger", "triggers", "settings")


@dataclass(frozen=True, slots=True)
class WorkflowHeader:
    """
    The content of a `%%pdworkflow` cell.

    Attributes:
        name: The workflow's name, or None for the file's name.
        is_inactive: Whether the workflow is turned off on Pipedream.
        triggers: The triggers.
        settings: The settings, unchanged.
    """

    name: str | None = None
    is_inactive: bool = False
    triggers: tuple[Trigger, ...] = (Trigger(),)
    settings: Mapping[str, JSON] = field(default_factory=dict)


def parse_workflow_cell(text: str) -> WorkflowHeader:
    """
    Parse the header's whole cell.

    Raises:
        DirectiveError: The cell is not a header, or a key or value is invalid; the message and `line` give the place.
    """
    found = split_workflow_cell(text)
    if found is None:
        raise DirectiveError(f"This is not a workflow's header: it does not start with {WORKFLOW_MAGIC}.", line=1)
    if found.line:
        raise DirectiveError(
            f"{WORKFLOW_MAGIC} takes no text on its line: {found.line!r}.",
            fix="Write the settings below, as YAML: name, trigger or triggers, settings.",
            line=found.body_offset,
        )
    located = parse_yaml(
        found.body, allow_expressions=True, line_offset=found.body_offset, document_name=WORKFLOW_MAGIC
    )
    if located.value is None:
        return WorkflowHeader()
    check = YamlChecker(located, DirectiveError, WORKFLOW_MAGIC)
    data = check.require_mapping(())
    check_keys(check, (), HEADER_KEYS)
    return WorkflowHeader(
        name=check.require_text(("name",)).strip() if data.get("name") is not None else None,
        is_inactive=_is_inactive(check, data),
        triggers=_triggers(check, data),
        settings=parse_settings(located),
    )


def names_protective_setting(text: str) -> bool:
    """Whether *text*, a cell that cannot be read, may set the network or the sharing of workers, misspelt or not."""
    words = re.findall(r"\w+", text.lower())
    return any(
        word.startswith("net_") or get_close_matches(word, _PROTECTIVE_SETTINGS, cutoff=_ALIKE) for word in words
    )


def _is_inactive(check: YamlChecker, data: Mapping[str, JSON]) -> bool:
    value = data.get("inactive", False)
    if not BOOLEAN_RULE.is_valid(value):
        raise check.build_error(
            ("inactive",), f"has inactive: {check.format_value(value)}; expected {BOOLEAN_RULE.description}"
        )
    return value is True


def _triggers(check: YamlChecker, data: Mapping[str, JSON]) -> tuple[Trigger, ...]:
    if "trigger" in data and "triggers" in data:
        raise check.build_error(("triggers",), "has both trigger and triggers", fix="Keep one of the two.")
    if "trigger" in data:
        return (parse_trigger(check.document, ("trigger",)),)
    if data.get("triggers") is None:
        return (Trigger(),)
    count = len(check.require_list(("triggers",)))
    return tuple(parse_trigger(check.document, ("triggers", index)) for index in range(count))


def parse_settings(
    located: LocatedYaml, path: ValuePath = ("settings",), *, document_name: str = WORKFLOW_MAGIC
) -> dict[str, JSON]:
    """
    The settings at *path*, checked; may be empty.

    Raises:
        DirectiveError: A key is unknown (the message suggests the nearest), or a value is invalid.
    """
    check = YamlChecker(located, DirectiveError, document_name)
    if check.get_value(path) is None:
        return {}
    settings = check.require_mapping(path)
    check_keys(check, path, SETTING_RULES)
    for key, value in settings.items():
        if not SETTING_RULES[key].is_valid(value):
            raise check.build_error(
                (*path, key), f"has {key}: {check.format_value(value)}; expected {SETTING_RULES[key].description}"
            )
        if key == "throttle":
            _check_throttle(check, (*path, key))
    return cast("dict[str, JSON]", dict(settings))


def _check_throttle(check: YamlChecker, path: ValuePath) -> None:
    throttle = check.require_mapping(path)
    check_keys(check, path, THROTTLE_RULES)
    for key, rule in THROTTLE_RULES.items():
        if key not in throttle:
            raise check.build_error(path, f"has a throttle without {key}", fix="Write limit and interval, in seconds.")
        if not rule.is_valid(throttle[key]):
            raise check.build_error(
                (*path, key), f"has {key}: {check.format_value(throttle[key])}; expected {rule.description}"
            )

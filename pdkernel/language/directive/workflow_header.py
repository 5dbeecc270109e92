"""Parses the `%%pdworkflow` cell: name, settings within the platform's limits, and triggers with their keys and valid combinations."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, cast, get_args
from zoneinfo import ZoneInfo, available_timezones

from pdkernel.common.identity import ALL_USERS, ENVIRONMENTS
from pdkernel.errors import DefinitionError, DirectiveError, did_you_mean
from pdkernel.language.directive.cell import split_workflow_cell
from pdkernel.language.directive.located_yaml import LocatedYaml, parse_yaml
from pdkernel.language.expression import ValuePath
from pdkernel.model import FOR_EACH_USER, JSON, VARIABLE_NAME, HttpAuth, ResponseMode, Trigger, TriggerType


@dataclass(frozen=True, slots=True)
class SettingRule:
    """The values that a key may have, as a predicate and as a phrase (`a whole number from 1 to 750`)."""

    is_valid: Callable[[JSON], bool]
    description: str


def integer_range(low: int, high: int, unit: str = "") -> SettingRule:
    """Return a whole number from *low* to *high*."""
    return SettingRule(
        lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high,
        f"a whole number{' of ' + unit if unit else ''} from {low} to {high}",
    )


PORT_RULE = integer_range(1024, 65_535)

BOOLEAN_RULE = SettingRule(lambda value: isinstance(value, bool), "true or false")

SETTING_RULES: dict[str, SettingRule] = {
    "lambda_timeout": integer_range(1, 750, "seconds"),
    "lambda_memory": integer_range(256, 10_240, "megabytes"),
    "memory": integer_range(256, 10_240, "megabytes"),
    "concurrency": SettingRule(
        lambda value: isinstance(value, dict) or integer_range(1, 10_000).is_valid(value),
        "a whole number from 1 to 10000",
    ),
    "throttle": SettingRule(lambda value: isinstance(value, dict), "a mapping of limit and interval"),
    "queue": integer_range(1, 10_000, "events"),
    "rate_limit": integer_range(0, 10_000),
    "rate_limit_bucket_size_seconds": integer_range(1, 10_000 * 3600, "seconds"),
    "max_event_queue_size": integer_range(1, 10_000, "events"),
    "network": SettingRule(lambda value: isinstance(value, str), "the id of a network (net_...)"),
    "auto_retry": BOOLEAN_RULE,
    "retention": integer_range(1, 3650, "days"),
    "error_notification": BOOLEAN_RULE,
    "resume_on_get": BOOLEAN_RULE,
    "share_workers": SettingRule(lambda value: value in ("never", "always"), "never or always"),
    "listen": SettingRule(
        lambda value: isinstance(value, list) and all(map(PORT_RULE.is_valid, value)),
        "a list of ports, each a whole number from 1024 to 65535",
    ),
}
"""
Source of the ranges: the platform's settings and limits pages. `concurrency` has no documented maximum, and is a mapping in
synced files; the platform has neither `share_workers` nor `listen`. Synced repositories have `lambda_memory`, `rate_limit` with its
`rate_limit_bucket_size_seconds`, and `max_event_queue_size`, which mean the same as `memory`, `throttle` and `queue`.
"""

THROTTLE_RULES: dict[str, SettingRule] = {
    "limit": integer_range(0, 10_000),
    "interval": integer_range(1, 10_000 * 3600, "seconds"),
}


@dataclass(frozen=True, slots=True)
class YamlChecker:
    """
    A document being checked.

    Attributes:
        document: The document.
        error_class: The class of error to raise.
        document_name: The name of the document in messages.
    """

    document: LocatedYaml
    error_class: type[DefinitionError]
    document_name: str

    def build_error(self, path: ValuePath, problem: str, *, fix: str = "") -> DefinitionError:
        """Return an error with *problem* and the line of *path*."""
        line = self.document.get_line(path)
        where = "" if line is None else f" (line {line})"
        return self.error_class(f"{self.document_name} {problem}{where}.", fix=fix, line=line)

    def get_value(self, path: ValuePath) -> JSON:
        """Return the value at *path*, or None."""
        value: Any = self.document.value
        for key in path:
            if isinstance(value, dict):
                value = value.get(key)
            elif isinstance(value, list) and isinstance(key, int) and key < len(value):
                value = value[key]
            else:
                return None
        return value  # type: ignore[no-any-return]

    def require_mapping(self, path: ValuePath) -> dict[str, JSON]:
        """Return the mapping at *path*, or an error."""
        value = self.get_value(path)
        if not isinstance(value, dict):
            raise self.build_error(
                path, f"has {self._where(path)}{self.format_value(value)}; expected a mapping of keys"
            )
        return value

    def require_list(self, path: ValuePath) -> list[JSON]:
        """Return the list at *path*, or an error."""
        value = self.get_value(path)
        if not isinstance(value, list):
            raise self.build_error(path, f"has {self._where(path)}{self.format_value(value)}; expected a list")
        return value

    def require_text(self, path: ValuePath) -> str:
        """Return the text at *path*, not blank, or an error."""
        value = self.get_value(path)
        if not isinstance(value, str) or not value.strip():
            raise self.build_error(path, f"has {self._where(path)}{self.format_value(value)}; expected text")
        return value

    @staticmethod
    def format_value(value: JSON) -> str:
        """Return *value* for a message, shortened to 60 characters."""
        text = json.dumps(value, ensure_ascii=False)
        return text if len(text) <= 60 else f"{text[:57]}..."

    @staticmethod
    def _where(path: ValuePath) -> str:
        return f"{'.'.join(map(str, path))}: " if path else ""


def check_keys(check: YamlChecker, path: ValuePath, known: Iterable[str] | Mapping[str, object]) -> None:
    """
    Refuse unknown keys of the mapping at *path*; the error suggests the nearest known keys.

    Raises:
        DefinitionError: A key is not *known*; of the checker's error class.
    """
    names = list(known)
    for key in check.require_mapping(path):
        if key not in names:
            under = f" under {'.'.join(map(str, path))}" if path else ""
            raise check.build_error((*path, key), f"has an unknown key {key!r}{under}", fix=did_you_mean(key, names))


KEYS_BY_TYPE: Mapping[TriggerType, tuple[str, ...]] = {
    "http": ("type", "auth", "token_env", "response"),
    "schedule": ("type", "cron", "interval_seconds", "timezone", "for_each"),
    "email": ("type",),
    "source": ("type", "uses", "app", "props"),
    "errors": ("type", "workflows"),
    "emit": ("type", "workflows", "channel"),
}
_FOR_EACH_KEYS = ("external_user", "having", "except", "environment", "at_once")
_FOR_EACH_FIX = "Write for_each: external_user, or for_each: {external_user: [ada, grace], at_once: 3}."
_AT_ONCE_RULE = integer_range(1, 1000)
_CRON = re.compile(r"\S+(?:\s+\S+){4,5}\Z")


def parse_trigger(
    document: LocatedYaml, path: ValuePath, *, document_name: str = "%%pdworkflow", is_definition: bool = False
) -> Trigger:
    """
    Return the trigger at *path*: a mapping, or only its type as text.

    Args:
        document: The document.
        path: The trigger's path in the document.
        document_name: The name of the document in messages.
        is_definition: Whether the document is a definition. There, and in a trigger with an `id` (created in the
            builder), settings that only the platform stores may be missing.

    Raises:
        DirectiveError: A key or a value is invalid; the message and `line` give the place.
    """
    check = YamlChecker(document, DirectiveError, document_name)
    value = check.get_value(path)
    if isinstance(value, str):
        return _read(check, path, {"type": value}, _type(check, path, value), complete=not is_definition)
    data = check.require_mapping(path)
    if "type" not in data:
        raise check.build_error(path, "has a trigger without type", fix=f"Write type: {', '.join(KEYS_BY_TYPE)}.")
    kind = _type(check, (*path, "type"), data["type"])
    check_keys(check, path, (*KEYS_BY_TYPE[kind], "id"))
    if "id" in data:
        check.require_text((*path, "id"))
    return _read(check, path, data, kind, complete=not is_definition and "id" not in data)


def _type(check: YamlChecker, path: ValuePath, value: JSON) -> TriggerType:
    return cast("TriggerType", _one_of(check, path, "type", value, tuple(KEYS_BY_TYPE)))


def build_trigger_mapping(trigger: Trigger, *, with_id: bool = True) -> dict[str, JSON]:
    """Return *trigger* as the mapping that `parse_trigger` reads; *with_id* includes its id in a definition, if any."""
    mapping: dict[str, JSON] = {"type": trigger.type}
    if with_id and "id" in trigger.config:
        mapping["id"] = trigger.config["id"]
    if trigger.type == "http":
        mapping["auth"] = trigger.auth
        if trigger.token_env is not None:
            mapping["token_env"] = trigger.token_env
        mapping["response"] = trigger.response
    return {**mapping, **{key: value for key, value in trigger.config.items() if key != "id"}}


def describe_emitters(trigger: Trigger) -> str:
    """Return the workflows that fire *trigger*, of type `errors` or `emit`."""
    names = trigger.config.get("workflows")
    return ", ".join(map(str, names)) if isinstance(names, list) else "all workflows"


def _one_of(check: YamlChecker, path: ValuePath, key: str, value: JSON, known: tuple[str, ...]) -> str:
    if isinstance(value, str) and value in known:
        return value
    fix = did_you_mean(value, known) if isinstance(value, str) else ""
    raise check.build_error(
        path, f"has {key}: {check.format_value(value)}; expected one of {', '.join(known)}", fix=fix
    )


def _read(
    check: YamlChecker, path: ValuePath, data: Mapping[str, JSON], kind: TriggerType, *, complete: bool
) -> Trigger:
    config = {key: value for key, value in data.items() if key == "id" or key not in KEYS_BY_TYPE["http"]}
    match kind:
        case "http":
            return _http(check, path, data, config)
        case "schedule":
            _check_schedule(check, path, data, complete=complete)
        case "source":
            _check_source(check, path, data, complete=complete)
        case "errors":
            _check_workflows(check, path, data)
        case "emit":
            _check_emit(check, path, data, complete=complete)
        case "email":
            pass
    return Trigger(type=kind, config=config)


def _http(check: YamlChecker, path: ValuePath, data: Mapping[str, JSON], config: Mapping[str, JSON]) -> Trigger:
    auth = _one_of(check, (*path, "auth"), "auth", data.get("auth", "none"), get_args(HttpAuth))
    response = _one_of(check, (*path, "response"), "response", data.get("response", "default"), get_args(ResponseMode))
    token_env = data.get("token_env")
    if auth == "bearer" and token_env is None:
        raise check.build_error(
            path,
            "has auth: bearer without token_env",
            fix="Write token_env: NAME, the environment variable that holds the token.",
        )
    if token_env is not None:
        if auth != "bearer":
            raise check.build_error((*path, "token_env"), "has token_env, which only auth: bearer uses")
        if not isinstance(token_env, str) or not VARIABLE_NAME.match(token_env):
            # The value is not repeated: it may be the token itself.
            raise check.build_error(
                (*path, "token_env"),
                "has a token_env that is not an environment variable's name",
                fix="Write the variable's name here and set it with `pdkernel env set NAME`.",
            )
    return Trigger(
        auth=cast("HttpAuth", auth), token_env=token_env, response=cast("ResponseMode", response), config=config
    )


def _check_schedule(check: YamlChecker, path: ValuePath, data: Mapping[str, JSON], *, complete: bool) -> None:
    given = ("cron" in data) + ("interval_seconds" in data)
    if given > 1 or (given == 0 and complete):
        raise check.build_error(path, "has a schedule that needs either cron or interval_seconds")
    if "cron" in data and not _CRON.match(check.require_text((*path, "cron")).strip()):
        raise check.build_error(
            (*path, "cron"),
            f"has cron: {check.format_value(data['cron'])}, which is not a cron expression",
            fix="Write five fields: minute, hour, day, month, weekday. Quote one that starts with *.",
        )
    seconds = data.get("interval_seconds", 1)
    if not isinstance(seconds, int) or isinstance(seconds, bool) or seconds < 1:
        raise check.build_error(
            (*path, "interval_seconds"),
            f"has interval_seconds: {check.format_value(seconds)}; expected a whole number of seconds, 1 or more",
        )
    if "timezone" in data:
        _check_timezone(check, (*path, "timezone"))
    if "for_each" in data:
        _check_for_each(check, (*path, "for_each"), data["for_each"])


def _check_for_each(check: YamlChecker, path: ValuePath, setting: JSON) -> None:
    if setting == FOR_EACH_USER:
        return
    if not isinstance(setting, dict):
        problem = f"has for_each: {check.format_value(setting)}; expected external_user, or a mapping"
        raise check.build_error(path, problem, fix=_FOR_EACH_FIX)
    check_keys(check, path, _FOR_EACH_KEYS)
    users = setting.get("external_user")
    if users != ALL_USERS and not _is_name_list(users):
        problem = f"has external_user: {check.format_value(users)}; expected {ALL_USERS}, or a list of ids"
        raise check.build_error(
            (*path, "external_user") if "external_user" in setting else path, problem, fix=_FOR_EACH_FIX
        )
    for key, of in (("having", "apps, as [slack]"), ("except", "ids of external users")):
        if key in setting and not _is_name_list(setting[key]):
            raise check.build_error(
                (*path, key), f"has {key}: {check.format_value(setting[key])}; expected a list of {of}"
            )
    if "environment" in setting:
        _one_of(check, (*path, "environment"), "environment", setting["environment"], ENVIRONMENTS)
    if "at_once" in setting and not _AT_ONCE_RULE.is_valid(setting["at_once"]):
        shown = check.format_value(setting["at_once"])
        raise check.build_error((*path, "at_once"), f"has at_once: {shown}; expected {_AT_ONCE_RULE.description}")


def _is_name_list(value: JSON) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(each, str) and each.strip() and each.isprintable() for each in value)
    )


def _check_timezone(check: YamlChecker, path: ValuePath) -> None:
    name = check.require_text(path)
    try:
        ZoneInfo(name)
    except (ValueError, OSError, LookupError):
        known = sorted(available_timezones())
        if known:  # skipped on a machine without the time zone table
            cities = {zone.rpartition("/")[2].lower(): zone for zone in known}
            fix = did_you_mean(name, known, aliases=cities) or "Write one like Europe/Berlin or UTC."
            problem = f"has timezone: {check.format_value(name)}, which is not a known time zone"
            raise check.build_error(path, problem, fix=fix) from None


def _check_source(check: YamlChecker, path: ValuePath, data: Mapping[str, JSON], *, complete: bool) -> None:
    if "uses" not in data and complete:
        raise check.build_error(
            path, "has a source without uses", fix="Write uses: KEY@VERSION, the source's component."
        )
    for key in ("uses", "app"):
        if key in data:
            check.require_text((*path, key))
    if data.get("props") is not None:
        check.require_mapping((*path, "props"))


def _check_workflows(check: YamlChecker, path: ValuePath, data: Mapping[str, JSON]) -> None:
    names = data.get("workflows")
    if "workflows" in data and not _is_name_list(names):
        raise check.build_error(
            (*path, "workflows"),
            f"has workflows: {check.format_value(names)}; expected a list of names",
            fix="List workflows by name, id or path.",
        )


def _check_emit(check: YamlChecker, path: ValuePath, data: Mapping[str, JSON], *, complete: bool) -> None:
    if "workflows" not in data and complete:
        raise check.build_error(
            path, "has emit without workflows", fix="Write workflows: [NAME], the workflows that call $.send.emit."
        )
    _check_workflows(check, path, data)
    if "channel" in data:
        check.require_text((*path, "channel"))


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
    """Return whether *text*, a cell that cannot be read, may set the network or the sharing of workers, misspelt or not."""
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
    Return the settings at *path*, checked; may be empty.

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

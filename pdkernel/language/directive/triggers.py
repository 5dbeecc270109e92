"""A trigger in YAML: the keys of each type, the combinations that are valid, and the mapping that is written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import cast, get_args
from zoneinfo import ZoneInfo, available_timezones

from pdkernel.common.identity import ALL_USERS, ENVIRONMENTS
from pdkernel.errors import DirectiveError, did_you_mean
from pdkernel.language.directive.located_yaml import LocatedYaml
from pdkernel.language.directive.setting_rules import integer_range
from pdkernel.language.directive.yaml_checks import YamlChecker, check_keys
from pdkernel.language.expression import ValuePath
from pdkernel.model import FOR_EACH_USER, JSON, VARIABLE_NAME, HttpAuth, ResponseMode, Trigger, TriggerType

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
    The trigger at *path*: a mapping, or only its type as text.

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
    """The workflows that fire *trigger*, of type `errors` or `emit`."""
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

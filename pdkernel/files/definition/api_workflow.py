"""Reads the workflow object of the platform's REST API (`GET /workflows/{id}`) as a workflow. Git sync is not involved."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from pdkernel.errors import RequestError
from pdkernel.files.definition.file_plan import WORKFLOW_SCHEMA
from pdkernel.files.definition.step_props import CONFIGURABLE_PROPS_KEY, parse_props
from pdkernel.files.definition.synced_folder import TRIGGER_TYPES, assume_trigger, is_rule_filter_props
from pdkernel.language.analysis import find_declared_apps
from pdkernel.language.expression import RULE_FILTER
from pdkernel.model import ACCOUNT_KEY, JSON, ROUND_TRIP_KEY, Language, Step, Trigger, UnsupportedEntry, Workflow

ENDPOINT_URL_KEY = "endpoint_url"
"""The key of `Trigger.config` for the URL of the trigger's endpoint at Pipedream."""
_LANGUAGES: Mapping[str, Language] = {"nodejs": "node", "python": "python", "golang": "go", "go": "go", "bash": "bash"}


def read_api_workflow(item: Mapping[str, Any], workflow_id: str) -> Workflow:
    """
    Return the workflow in *item*.

    An entry without code and without a component is an unsupported entry. An account is one of the workspace.

    Raises:
        RequestError: *item* is not a workflow.
    """
    raw_steps, raw_triggers = item.get("steps"), item.get("triggers")
    if not isinstance(raw_steps, list) or not isinstance(raw_triggers, list):
        raise RequestError(f"Pipedream's response for {workflow_id} is not a workflow: it has no steps or no triggers.")
    steps: list[Step] = []
    kept: list[UnsupportedEntry] = []
    for raw in filter(_is_mapping, raw_steps):
        step = _read_step(raw)
        if step is None:
            kept.append(UnsupportedEntry(steps[-1].name if steps else None, raw))
        else:
            steps.append(step)
    settings = item.get("settings")
    return Workflow(
        name=str(item.get("name") or (settings or {}).get("name") or workflow_id),
        triggers=tuple(_read_trigger(raw, steps) for raw in filter(_is_mapping, raw_triggers)),
        steps=tuple(steps),
        settings=settings if isinstance(settings, dict) else {},
        origin=workflow_id,
        extra={
            "schema": WORKFLOW_SCHEMA,
            ROUND_TRIP_KEY: {"id": workflow_id},
            **({"inactive": True} if item.get("active") is False or item.get("inactive") is True else {}),
        },
    ).with_unsupported_entries(kept)


def _is_mapping(value: object) -> bool:
    return isinstance(value, dict)


def _read_step(raw: Mapping[str, Any]) -> Step | None:
    name, component = raw.get("namespace"), raw.get("savedComponent")
    if not isinstance(name, str):
        return None
    saved: Mapping[str, Any] = component if isinstance(component, dict) else {}
    key, version = raw.get("component_key") or saved.get("key"), saved.get("version")
    code = saved.get("code", raw.get("code"))
    language = next((found for prefix, found in _LANGUAGES.items() if str(raw.get("lang")).startswith(prefix)), None)
    if not key and not isinstance(code, str) and not saved:
        return None
    uses = f"{key}@{version}" if key and version else key or None
    values = _read_props(raw)
    if uses is None and not isinstance(code, str) and is_rule_filter_props(values):
        uses = RULE_FILTER
    step = Step(
        name=name,
        language="node" if uses else language or "node",
        source="" if uses or not isinstance(code, str) else code,
        uses=uses,
        disabled=raw.get("disabled") is True,
        extra={} if uses or isinstance(code, str) else {ROUND_TRIP_KEY: {"missing": True}},
    )
    definitions = [each for each in saved.get("configurableProps") or () if isinstance(each, dict)]
    props = parse_props(
        {CONFIGURABLE_PROPS_KEY: definitions, **values},
        slugs={app.prop: app.app for app in find_declared_apps(step)},
        action=uses,
    )
    return replace(step, apps=props.apps, stores=props.stores, props=props.values)


def _read_props(raw: Mapping[str, Any]) -> dict[str, JSON]:
    """Return the values of the props, with an account for each prop in `authProvisionIdMap`."""
    props: dict[str, JSON] = {}
    for field in ("params_json", "configured_props_json", "configured_props"):
        props |= _read_object(raw.get(field))
    for prop, account in _read_object(raw.get("authProvisionIdMap")).items():
        props.setdefault(prop, {ACCOUNT_KEY: account})
    return props


def _read_object(value: object) -> dict[str, JSON]:
    """Return *value* if it is an object, or JSON text of one; else an empty object."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return {}
    return value if isinstance(value, dict) else {}


def _read_trigger(raw: Mapping[str, Any], steps: list[Step]) -> Trigger:
    trigger_id = str(raw.get("id") or "")
    trigger = assume_trigger(TRIGGER_TYPES.get(trigger_id.partition("_")[0], "source"), steps)
    custom = raw.get("custom_response")
    if isinstance(custom, bool):
        trigger = replace(trigger, response="custom" if custom else "default")
    return replace(trigger, config=dict(_read_trigger_settings(raw, trigger_id)))


def _read_trigger_settings(raw: Mapping[str, Any], trigger_id: str) -> Iterator[tuple[str, JSON]]:
    yield "id", trigger_id
    if isinstance(url := raw.get("endpoint_url"), str) and url:
        yield ENDPOINT_URL_KEY, url
    props = _read_object(raw.get("configured_props")) | _read_object(raw.get("configured_props_json"))
    timer = next((value for value in props.values() if isinstance(value, dict) and _is_timer(value)), {})
    for name, key in (("cron", "cron"), ("intervalSeconds", "interval_seconds"), ("timezone", "timezone")):
        if name in timer:
            yield key, timer[name]
    component = raw.get("component_key")
    if isinstance(component, str) and component:
        yield "uses", component


def _is_timer(value: Mapping[str, JSON]) -> bool:
    return bool({"cron", "intervalSeconds"} & value.keys())

"""
Routes of components, actions and triggers: list, retrieve, options of props, dynamic props, and the run of an action.

The component's own code runs for options and dynamic props. The run of an action is recorded like any other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, TypeVar

from pdkernel.actions import ActionReference, Component
from pdkernel.actions.component import COMPONENT_KINDS, ComponentKind
from pdkernel.engine.run_request import RunRequest
from pdkernel.errors import StepError
from pdkernel.event import Event
from pdkernel.execution import RETURN_VALUE, UNFINISHED_STATUSES, ErrorRecord, StepResult
from pdkernel.model import JSON, Workflow
from pdkernel.server.api.api_call import ApiCall, ApiError, ApiHandler, public_message
from pdkernel.server.api.component_request import (
    ACTION_STEP_NAME,
    ComponentRequest,
    find_component,
    parse_component_request,
)
from pdkernel.server.api.component_serializers import API_COMPONENT_TYPES, serialize_component, serialize_props
from pdkernel.server.api.pagination import Page
from pdkernel.server.run_registry import LOST_MESSAGE
from pdkernel.workers import ComponentDescription

T = TypeVar("T")

_NAMES: dict[ComponentKind, str] = {"action": "actions", "source": "triggers"}

_REGISTRIES = ("public", "private", "all")
_MAX_LISTED = 100_000
_OBSERVATION_KINDS = {"stdout": "console.log", "stderr": "console.error"}
_NOT_FOUND = frozenset({"action_not_found", "action_version"})


def required_scopes(kind: ComponentKind | None, act: str) -> tuple[str, ...]:
    """Scopes of which a token requires one for *act* on components of *kind*."""
    return tuple(f"connect:{name}:{act}" for each, name in _NAMES.items() if kind in (None, each))


def list_handler(kind: ComponentKind | None) -> ApiHandler:
    """`GET .../{components,actions,triggers}`."""

    async def list_components(call: ApiCall) -> JSON:
        kinds = _kinds(call, kind)
        if kind is None:  # each kind has its own scope
            kinds = tuple(each for each in kinds if call.has_scope(*required_scopes(each, "list")))
        if call.query_param("registry") not in (None, *_REGISTRIES):
            raise ApiError(400, f"registry must be one of {', '.join(_REGISTRIES)}.")
        catalog = call.context.engine.catalog
        found: list[Component] = []
        if call.query_param("registry") != "private":  # private components of a workspace exist at Pipedream only
            for each in kinds:
                found += await catalog.search(
                    call.query_param("q") or "", app=call.query_param("app"), kind=each, limit=_MAX_LISTED
                )
        page = Page(call, found, lambda component: component.key)
        return page.to_json([serialize_component(each, await _describe_if_loaded(call, each)) for each in page.items])

    return list_components


def retrieve_handler(kind: ComponentKind | None) -> ApiHandler:
    """`GET .../{components,actions,triggers}/{key}`."""

    async def retrieve(call: ApiCall) -> JSON:
        uses, found = await find_component(call, call.path_param("key"), call.query_param("version"), kind)
        call.check_scope(*required_scopes(found.kind, "retrieve"))
        component, description = await call.context.forms.describe(uses)
        return {"data": serialize_component(component, description)}

    return retrieve


def configure_handler(kind: ComponentKind | None) -> ApiHandler:
    """`POST .../configure`: a page of the options of a prop."""

    async def configure(call: ApiCall) -> JSON:
        body = await call.read_json()
        configured = await parse_component_request(call, body, kind, whole=False)
        call.check_scope(*required_scopes(configured.component.kind, "configure"))
        prop, page, query = body.get("prop_name"), body.get("page", 0), body.get("query")
        if not isinstance(prop, str):
            raise ApiError(400, "prop_name is missing. Send the name of the prop.")
        if prop not in {each.name for each in configured.description.props} and not configured.description.additional:
            raise ApiError(400, f"{configured.component.uses} has no prop {prop[:80]!r} with options.")
        # Python's SDK sends a float, 1.0
        if (
            not isinstance(page or 0, int | float)
            or (page or 0) % 1
            or (query is not None and not isinstance(query, str))
        ):
            raise ApiError(400, "page must be a number, and query a string.")
        load_options = call.context.forms.load_options
        found, errors = await _call_component(
            lambda: load_options(
                configured.to_form_request(call),
                prop,
                page=int(page or 0),
                context=body.get("prev_context") or None,
                query=query,
            )
        )
        if found is None:
            return {"options": [], "stringOptions": None, "observations": [], "context": None, "errors": errors}
        return {
            "options": [{"label": option.label, "value": option.value} for option in found.options],
            "stringOptions": None,
            "observations": [],
            "context": found.context if isinstance(found.context, dict) else None,
            "errors": [found.empty_reason] if found.empty_reason else [],
        }

    return configure


def reload_props_handler(kind: ComponentKind | None) -> ApiHandler:
    """`POST .../props`: the props for the given values."""

    async def reload(call: ApiCall) -> JSON:
        configured = await parse_component_request(call, await call.read_json(), kind, whole=False)
        call.check_scope(*required_scopes(configured.component.kind, "props"))
        added, errors = await _call_component(
            lambda: call.context.forms.load_additional_props(configured.to_form_request(call))
        )
        props = serialize_props(configured.description, added or ())
        # a run computes dynamic props again; the id only identifies this result
        digest = hashlib.sha256(json.dumps([configured.component.uses, props], sort_keys=True).encode()).hexdigest()
        return {
            "observations": [],
            "errors": errors,
            "dynamicProps": {"id": f"dyp_{digest[:7]}", "configurableProps": props},
        }

    return reload


async def _call_component(call_component: Callable[[], Awaitable[T]]) -> tuple[T | None, list[str]]:
    """Return the component's result and an empty list, or None and the message of its error."""
    try:
        return await call_component(), []
    except StepError as fault:
        return None, [public_message(fault)]


async def _describe_if_loaded(call: ApiCall, component: Component) -> ComponentDescription | None:
    """The description of *component* if it is installed; None if it cannot be loaded."""
    if component.file is None:
        return None
    try:
        _, description = await call.context.forms.describe(ActionReference(component.key, component.version))
    except StepError:
        return None
    return description


def _kinds(call: ApiCall, kind: ComponentKind | None) -> tuple[ComponentKind, ...]:
    given = call.query_param("component_type")
    if kind is not None:
        return (kind,)
    if given is None:
        return COMPONENT_KINDS
    found: Any = tuple(each for each, name in API_COMPONENT_TYPES.items() if given in (each, name))
    if not found:
        raise ApiError(400, "component_type must be action or trigger.")
    return tuple(found)


async def run_action(call: ApiCall) -> JSON:
    """`POST .../actions/run`: run an action once. An error of the action is in `os`, with status 200, as on the platform."""
    body = await call.read_json()
    if body.get("stash_id"):
        # parity[file-stash]: the platform stores files that actions write, and passes them to later actions
        raise ApiError(400, "pdkernel does not store files of actions: omit stash_id.")
    configured = await parse_component_request(call, body, "action")
    execution = await call.state.runs.run(_build_run_request(call, configured))
    if execution.status in UNFINISHED_STATUSES:
        raise ApiError(400, LOST_MESSAGE)
    step = execution.step(ACTION_STEP_NAME)
    if step.status == "not_run":
        raise _build_run_error(execution.error)
    exports = dict(step.exports)
    value = exports.pop(RETURN_VALUE, None)
    # parity[redacted-return]: in the return value of an action, a secret is a placeholder
    return {"exports": exports, "os": _build_observations(step), "ret": value, "stash_id": None}


def _build_run_request(call: ApiCall, configured: ComponentRequest) -> RunRequest:
    name = f"action {configured.component.key}"
    return RunRequest(
        workflow=Workflow(name=name, steps=(configured.to_step(),)),
        event=Event(configured.event_data, is_http=False),
        policy=call.policy,
        variables=configured.secret_variables,
        external_user_id=configured.external_user_id,
        environment=call.environment,
        folder=call.context.project.folder.parent,
        test=False,
        source=name,
        interface="http",
        account_overrides=configured.accounts,
    )


def _build_run_error(error: ErrorRecord | None) -> ApiError:
    if error is None:
        return ApiError(400, "The action did not run.")
    # only the first line: the fix is for the server's owner
    text = error.message.splitlines()[0] if error.message else error.name
    return ApiError(404 if error.code in _NOT_FOUND else 400, text)


def _build_observations(step: StepResult) -> list[dict[str, Any]]:
    at = _milliseconds(step.started_at)
    found: list[dict[str, Any]] = [
        {"k": _OBSERVATION_KINDS[log.stream], "msg": log.text, "ts": at} for log in step.logs
    ]
    if step.error is not None:
        error = {"name": step.error.name, "message": step.error.message, "stack": step.error.stack or ""}
        found.append({"k": "error", "err": error, "ts": at + (step.duration_ms or 0)})
    return found


def _milliseconds(iso_time: str | None) -> float:
    return datetime.fromisoformat(iso_time).timestamp() * 1000 if iso_time else 0.0

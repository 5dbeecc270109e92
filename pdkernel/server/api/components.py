"""
Routes of components, actions and triggers: list, retrieve, options of props, dynamic props, and the run of an action.

The component's own code runs for options and dynamic props. The run of an action is recorded like any other.
Values of props are data: an expression in a value stays text. An account must belong to the external user.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from pdkernel.actions import ActionReference, Component
from pdkernel.actions.component import COMPONENT_KINDS, ComponentKind
from pdkernel.common.blocking import run_blocking
from pdkernel.engine.data_store_service import DATA_STORE_PROP_TYPE
from pdkernel.engine.run_request import RunRequest
from pdkernel.errors import ActionNotFoundError, StepError
from pdkernel.event import Event
from pdkernel.execution import RETURN_VALUE, UNFINISHED_STATUSES, ErrorRecord, StepResult
from pdkernel.model import ACCOUNT_KEY, JSON, AppBinding, Step, Workflow
from pdkernel.operations.actions import FormRequest
from pdkernel.server.api.accounts import find_account
from pdkernel.server.api.api_call import ApiCall, ApiError, ApiHandler, Page, public_message
from pdkernel.server.run_registry import LOST_MESSAGE
from pdkernel.storage import DEFAULT_DATA_STORE
from pdkernel.workers import ComponentDescription, OptionsQuery, PropDeclaration

ACTION_STEP_NAME = "action"


@dataclass(frozen=True)
class ComponentRequest:
    """
    A component, and the external user, accounts and values for a call.

    Attributes:
        component: The component.
        description: Declarations of the component.
        external_user_id: The external user.
        accounts: Chosen accounts by app.
        values: Values of the other props.
        uses: Key and version in the request.
        account_props: Values of app props.
    """

    component: Component
    description: ComponentDescription
    external_user_id: str
    accounts: Mapping[str, str]
    values: Mapping[str, JSON] = field(repr=False)
    uses: ActionReference
    account_props: Mapping[str, JSON]

    @property
    def event_data(self) -> dict[str, JSON]:
        """The event of the run; the step's expressions read the values from the event."""
        return {"props": list(self.values.values())}

    @property
    def props(self) -> dict[str, JSON]:
        """Props of the step without accounts; each is an expression on the event's values."""
        # the value of a data store prop is a name, not an expression
        stores = {prop.name for prop in self.description.props if prop.type == DATA_STORE_PROP_TYPE}
        return {
            name: value if name in stores else f"{{{{steps.trigger.event.props[{number}]}}}}"
            for number, (name, value) in enumerate(self.values.items())
        }

    @property
    def secret_variables(self) -> dict[str, str]:
        """Values of secret props, under names that code cannot read as environment variables."""
        secret = {prop.name for prop in self.description.props if prop.definition.get("secret")}
        return {
            f"props.{name}": value for name, value in self.values.items() if name in secret and isinstance(value, str)
        }

    def to_step(self) -> Step:
        """Return a step that uses the component."""
        return Step(ACTION_STEP_NAME, "node", uses=str(self.uses), props=self.props)

    def to_form_request(self, call: ApiCall) -> FormRequest:
        """Return the request for a form of the component's props."""
        remote = self.component.file is None
        # Pipedream evaluates no expressions in values of components that it runs itself
        values = dict(self.values) if remote else self.props
        return FormRequest(
            step=Step(ACTION_STEP_NAME, "node", uses=str(self.uses), props={**values, **self.account_props}),
            policy=call.policy,
            external_user_id=self.external_user_id,
            environment=call.environment,
            event={} if remote else self.event_data,
            folder=call.context.project.folder.parent,
        )


async def _find_component(
    call: ApiCall, key: object, version: object, kind: ComponentKind | None
) -> tuple[ActionReference, Component]:
    """
    Find the component with that key.

    Raises:
        ApiError: The key or the version is missing or invalid.
        ActionNotFoundError: The component does not exist, or is of another kind.
    """
    if isinstance(key, dict):
        key = key.get("key")
    if not isinstance(key, str) or not key:
        raise ApiError(400, "id is missing: the component's key, for example slack-send-message.")
    if version is not None and not isinstance(version, str):
        raise ApiError(400, "version must be a string, for example 0.0.20.")
    uses = ActionReference.parse(f"{key}@{version}" if version else key)
    component = await call.context.engine.catalog.resolve_or_install(uses)
    if kind is not None and component.kind != kind:
        raise ActionNotFoundError(f"{component.key} is {'an action' if component.kind == 'action' else 'a trigger'}.")
    return uses, component


async def parse_component_request(
    call: ApiCall, body: Mapping[str, Any], kind: ComponentKind | None, *, whole: bool = True
) -> ComponentRequest:
    """
    Parse *body*.

    Args:
        call: The API request.
        body: The JSON body.
        kind: Required kind of component, or None.
        whole: Whether the values are complete. If so, a data store without a value is the project's default store.

    Raises:
        ApiError: A field is missing or wrong, an account is not the user's, or a data store is not open to Connect tokens.
        ActionNotFoundError: The component does not exist.
        StepError: The component's module cannot be loaded.
    """
    user = call.resolve_user(body.get("external_user_id", body.get("external_id")))
    uses, component = await _find_component(call, body.get("id"), body.get("version"), kind)
    _, description = await call.context.forms.describe(uses)
    given = body.get("configured_props") or {}
    if not isinstance(given, dict):
        raise ApiError(400, "configured_props must be an object with values by prop.")
    await run_blocking(_check_stores, call, description, given, whole=whole)
    apps = {binding.prop: binding.app for binding in description.apps}
    accounts: dict[str, str] = {}
    account_props: dict[str, JSON] = {}
    for prop, app in apps.items():
        chosen = _account(prop, given.get(prop))
        if chosen is None:
            continue
        account = await find_account(call, chosen)
        if account.external_user_id != user or account.app != app:
            raise ApiError(404, f"There is no {app} account {chosen[:80]!r} of this external user.")
        accounts[app] = chosen
        account_props[prop] = {ACCOUNT_KEY: chosen}
    values = {name: value for name, value in given.items() if name not in apps and value is not None}
    return ComponentRequest(component, description, user, accounts, values, uses, account_props)


def _check_stores(call: ApiCall, description: ComponentDescription, given: Mapping[str, JSON], *, whole: bool) -> None:
    """
    Raise `ApiError` if a Connect token would use a data store that the project has not opened to Connect tokens.

    A data store belongs to the project and has data of all users. An OAuth client, the product's back end, may use every
    data store.
    """
    names = {
        prop.name: _store(prop.name, given.get(prop.name))
        for prop in description.props
        if prop.type == DATA_STORE_PROP_TYPE
    }
    if call.token is None or not names:
        return
    allowed = call.context.project.connect_data_stores
    for prop, name in names.items():
        store = name or (DEFAULT_DATA_STORE if whole else None)
        if store is not None and store not in allowed:
            raise ApiError(
                403,
                f"The data store {store[:80]!r} (prop {prop}) is not open to Connect tokens. Add it to the project's setting "
                "connect_data_stores (pdkernel project set), or use the access token of an OAuth client.",
            )


def _store(prop: str, value: JSON) -> str | None:
    """Return the name of the data store in *value*, or None."""
    if isinstance(value, dict):
        value = value.get("storeId")
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise ApiError(400, f"{prop} must be the name of a data store, a string.")
    return value


def _account(prop: str, value: object) -> str | None:
    if isinstance(value, dict) and value.get(ACCOUNT_KEY) is not None:
        value = value[ACCOUNT_KEY]
    if value is None or value == {}:
        return None
    if not isinstance(value, str):
        raise ApiError(400, f'{prop} must be an account: {{"authProvisionId": "apn_..."}}.')
    return value


_DYNAMIC = "dynamic"
_API_COMPONENT_TYPES = {"action": "action", "source": "trigger"}
"""The API's name of each kind."""


def _serialize_component(component: Component, description: ComponentDescription | None) -> dict[str, Any]:
    """Serialize a component; without *description* (module not loaded yet), the list of props is empty."""
    return {
        "key": component.key,
        "name": component.name,
        "version": component.version,
        "description": component.description,
        "component_type": _API_COMPONENT_TYPES[component.kind],
        "configurable_props": serialize_props(description) if description is not None else [],
    }


def serialize_props(
    description: ComponentDescription, dynamic_props: Iterable[PropDeclaration] = ()
) -> list[dict[str, Any]]:
    """Serialize all props, apps first; *dynamic_props* are added or replace props with the same name."""
    props = {prop.name: prop for prop in description.props} | {prop.name: prop for prop in dynamic_props}
    return [*map(_app_prop, description.apps), *map(_prop, props.values())]


def _app_prop(binding: AppBinding) -> dict[str, Any]:
    return {"name": binding.prop, "type": "app", "app": binding.app}


def _prop(prop: PropDeclaration) -> dict[str, Any]:
    definition = {name: value for name, value in prop.definition.items() if name != _DYNAMIC}
    shown: dict[str, Any] = {"name": prop.name, **definition, "type": prop.type}
    if prop.definition.get(_DYNAMIC):
        shown["remoteOptions"] = True
    if prop.optional:
        shown["optional"] = True
    return shown


T = TypeVar("T")

_NAMES: dict[ComponentKind, str] = {"action": "actions", "source": "triggers"}

_REGISTRIES = ("public", "private", "all")
_MAX_LISTED = 100_000
_OBSERVATION_KINDS = {"stdout": "console.log", "stderr": "console.error"}
_NOT_FOUND = frozenset({"action_not_found", "action_version"})


def required_scopes(kind: ComponentKind | None, act: str) -> tuple[str, ...]:
    """Return the scopes of which a token requires one for *act* on components of *kind*."""
    return tuple(f"connect:{name}:{act}" for each, name in _NAMES.items() if kind in (None, each))


def list_handler(kind: ComponentKind | None) -> ApiHandler:
    """Answer `GET .../{components,actions,triggers}`."""

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
        return page.to_json([_serialize_component(each, await _describe_if_loaded(call, each)) for each in page.items])

    return list_components


def retrieve_handler(kind: ComponentKind | None) -> ApiHandler:
    """Answer `GET .../{components,actions,triggers}/{key}`."""

    async def retrieve(call: ApiCall) -> JSON:
        uses, found = await _find_component(call, call.path_param("key"), call.query_param("version"), kind)
        call.check_scope(*required_scopes(found.kind, "retrieve"))
        component, description = await call.context.forms.describe(uses)
        return {"data": _serialize_component(component, description)}

    return retrieve


def configure_handler(kind: ComponentKind | None) -> ApiHandler:
    """Answer `POST .../configure`: a page of the options of a prop."""

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
                OptionsQuery(int(page or 0), body.get("prev_context") or None, query),
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
    """Answer `POST .../props`: the props for the given values."""

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
    """Return the description of *component* if it is installed; None if it cannot be loaded."""
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
    found: Any = tuple(each for each, name in _API_COMPONENT_TYPES.items() if given in (each, name))
    if not found:
        raise ApiError(400, "component_type must be action or trigger.")
    return tuple(found)


async def run_action(call: ApiCall) -> JSON:
    """Answer `POST .../actions/run`: run an action once. As on the platform, its error is in `os`, with status 200."""
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

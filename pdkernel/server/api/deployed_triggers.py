"""
Routes that deploy event sources for external users, and of deployed triggers, their events, workflows and webhooks.

Sources with a timer, an HTTP interface or neither can be deployed; `trigger_runner` runs them. A caller sees only triggers of the
external user and of the request's environment. Only a back end receives signing keys. Times of triggers are in milliseconds,
times of webhooks in seconds.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import Response

from pdkernel.actions import ActionReference
from pdkernel.actions.component import suggest_step_name
from pdkernel.common.blocking import run_blocking
from pdkernel.egress.outbound_policy import is_inside
from pdkernel.engine.event_sources import HTTP_INTERFACE, TIMER_INTERFACE, SourceAct, SourceEvent, timer_setting
from pdkernel.engine.run_context import derive_id
from pdkernel.errors import PdkernelError
from pdkernel.model import ACCOUNT_KEY, JSON
from pdkernel.server.api.api_call import ApiCall, ApiError, Page
from pdkernel.server.api.components import ComponentRequest, parse_component_request, serialize_props
from pdkernel.server.trigger_runner import find_workflow, trigger_endpoint_url
from pdkernel.storage import DeployedTrigger, Schedule, Webhook
from pdkernel.workers import ComponentDescription

_HOOKS: tuple[SourceAct, ...] = ("deploy", "activate")
_APPHOOK_INTERFACE = "$.interface.apphook"


async def deploy(call: ApiCall) -> JSON:
    """Deploy a trigger and run its deploy and activate hooks. If a hook fails, the trigger is removed."""
    body = await call.read_json()
    configured = await parse_component_request(call, body, "source")
    if configured.component.file is None:
        raise ApiError(400, f"{configured.component.uses} runs at Pipedream only; this server cannot run it.")
    trigger = await _resolve_schedule_and_endpoint(
        call, await _parse_trigger(call, configured, body), configured.description
    )
    # stored first: an app may call the endpoint as soon as the activate hook registers it
    await run_blocking(call.context.project.deployed_triggers.add, replace(trigger, is_deployed=False))
    try:
        emitted = [event for hook in _HOOKS for event in await _run_hook(call, trigger, hook)]
        await call.state.deployed_triggers.finish_deployment(trigger, emitted if trigger.emits_on_deploy else [])
    except BaseException:
        await asyncio.shield(run_blocking(call.context.project.deployed_triggers.remove, trigger.id))
        raise
    shown = _serialize_trigger(call, trigger, configured.description)
    keys = {"webhook_signing_key": trigger.webhooks[0].signing_key} if trigger.webhooks and call.token is None else {}
    return {"data": {**shown, **keys}}


async def _parse_trigger(call: ApiCall, configured: ComponentRequest, body: Mapping[str, Any]) -> DeployedTrigger:
    workflow, url = body.get("workflow_id"), body.get("webhook_url")
    emits = body.get("emit_on_deploy")
    if emits is not None and not isinstance(emits, bool):
        raise ApiError(400, "emit_on_deploy must be true or false.")
    context, now = call.context, call.context.clock.now()
    return DeployedTrigger(
        id=context.ids.new("dc_", 24),
        external_user_id=configured.external_user_id,
        environment=call.environment,
        key=configured.component.key,
        version=configured.component.version,
        name=configured.component.name,
        props=configured.values,
        accounts=configured.accounts,
        active=True,
        created_at=now,
        updated_at=now,
        emits_on_deploy=emits is not False,
        workflows=_parse_workflow_ids(call, [workflow]) if workflow is not None else (),
        webhooks=await _build_webhooks(call, [url]) if url is not None else (),
        public_only=call.policy.public_only,
    )


async def _resolve_schedule_and_endpoint(
    call: ApiCall, trigger: DeployedTrigger, description: ComponentDescription
) -> DeployedTrigger:
    """
    Return *trigger* with a schedule if the source has a timer, and with an endpoint if the source has an HTTP interface.

    Raises:
        ApiError: pdkernel does not support this kind of trigger.
        RequestError: The timer is invalid.
    """
    kinds = {prop.type: prop for prop in description.props}
    if _APPHOOK_INTERFACE in kinds and not kinds.keys() & {HTTP_INTERFACE, TIMER_INTERFACE}:
        # parity[deployed-wakers]: the platform registers such a source at its app, as the app's own client
        raise ApiError(400, "This trigger requires messages that its app sends to Pipedream only.")
    named = {prop.name for prop in description.props if prop.type == HTTP_INTERFACE}
    endpoint = await run_blocking(call.context.project.endpoint_keys.ensure_trigger_key, trigger.id) if named else None
    values = {name: value for name, value in trigger.props.items() if name not in named}
    timer = kinds.get(TIMER_INTERFACE)
    schedule = Schedule()
    if timer is not None:
        schedule = Schedule.from_timer(timer.name, timer_setting(timer, values), call.context.clock.now())
    base_url = call.context.settings.base_url if endpoint else None
    return replace(trigger, props=values, schedule=schedule, endpoint=endpoint, base_url=base_url)


def _parse_workflow_ids(call: ApiCall, given: object) -> tuple[str, ...]:
    """
    Check and return a list of workflow ids.

    Raises:
        ApiError: The list is invalid, or a workflow is not served.
    """
    if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
        raise ApiError(400, "workflow_ids must be a list of workflow ids.")
    for each in given:
        if find_workflow(call.context, each) is None:
            raise ApiError(404, f"The server has no workflow {each[:80]!r}.")
    return tuple(dict.fromkeys(given))


async def _build_webhooks(call: ApiCall, given: object, existing: tuple[Webhook, ...] = ()) -> tuple[Webhook, ...]:
    """
    Build the webhooks for a list of URLs. A webhook of *existing* keeps its key.

    A webhook that a Connect token set must have a public address, which each delivery checks again. A webhook that an OAuth
    client set may have any address, because it belongs to the product; this stays so if a Connect token lists the URL later.

    Raises:
        ApiError: A URL is invalid, or a Connect token sets a webhook that does not have a public address.
    """
    if not isinstance(given, list) or len(given) > 50 or not all(isinstance(each, str) for each in given):
        raise ApiError(400, "webhook_urls must be a list of at most 50 URLs.")
    existing_by_url = {hook.url: hook for hook in existing}
    public_only = call.policy.public_only
    found: list[Webhook] = []
    for url in dict.fromkeys(given):
        hook = existing_by_url.get(url)
        if hook is None:
            hook = _build_webhook(call, url)
            await _check_public(call, url)
        found.append(replace(hook, public_only=hook.public_only and public_only))
    return tuple(found)


async def _check_public(call: ApiCall, url: str) -> None:
    """Raise `ApiError` if the call may use public addresses only, and *url* has another address."""
    policy, parts = call.policy, urlsplit(url)
    host = parts.hostname or ""
    if not policy.public_only:
        return
    inside = is_inside(host)
    if not inside and policy.allows_host(host):
        port = parts.port or (443 if parts.scheme == "https" else 80)
        inside = await call.context.engine.gateway.leads_inside(host, port)
    if inside:
        raise ApiError(403, f"A Connect token cannot set the webhook {host}: the host does not have a public address.")


def _build_webhook(call: ApiCall, url: str) -> Webhook:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
        good = good and (parts.port is None or parts.port > 0) and url.isascii() and url.isprintable()
    except ValueError:
        good = False
    if not good:
        raise ApiError(400, "The URL of a webhook must be an absolute http or https URL.")
    now = call.context.clock.now().timestamp()
    return Webhook(
        call.context.ids.new("wh_", 12), url, _generate_signing_key(), now, now, public_only=call.policy.public_only
    )


def _generate_signing_key() -> str:
    """Generate the signing key of a webhook."""
    return f"whsec_{secrets.token_urlsafe(32)}"


def _serialize_trigger(
    call: ApiCall, trigger: DeployedTrigger, description: ComponentDescription | None
) -> dict[str, Any]:
    """Serialize a deployed trigger."""
    accounts: dict[str, JSON] = {}
    for app in description.apps if description is not None else ():
        if app.app in trigger.accounts:
            accounts[app.prop] = {ACCOUNT_KEY: trigger.accounts[app.app]}
    return {
        "type": "DeployedComponent",
        "id": trigger.id,
        "owner_id": derive_id("exu_", f"{trigger.environment}/{trigger.external_user_id}"),
        "component_id": derive_id("sc_", trigger.key),
        "component_key": trigger.key,
        "configurable_props": serialize_props(description) if description is not None else [],
        "configured_props": {
            **accounts,
            **_visible_props(trigger, description),
            **_interfaces(call, trigger, description),
        },
        "active": trigger.active,
        "created_at": int(trigger.created_at.timestamp() * 1000),
        "updated_at": int(trigger.updated_at.timestamp() * 1000),
        "name": trigger.name,
        "name_slug": suggest_step_name(trigger.key).replace("_", "-"),
        "callback_observations": None,
        "emit_on_deploy": trigger.emits_on_deploy,
    }


def _serialize_webhook(call: ApiCall, hook: Webhook) -> dict[str, Any]:
    """Serialize a webhook, with its signing key if the caller is a back end (Python's SDK requires the key)."""
    shown: dict[str, Any] = {
        "id": hook.id,
        "url": hook.url,
        "signing_key_set": True,
        "active": True,
        "delivery_state": {
            "state": "penalty" if hook.failures else "happy",
            "since": None if hook.failing_since is None else int(hook.failing_since),
            "last_error": hook.last_error,
            "consecutive_failures": hook.failures,
            "sheds": 0,
        },
        "created_at": int(hook.created),
        "updated_at": int(hook.key_created),
    }
    return shown if call.token is not None else {**shown, "signing_key": hook.signing_key}


def _interfaces(call: ApiCall, trigger: DeployedTrigger, description: ComponentDescription | None) -> dict[str, JSON]:
    """Return the URLs of the trigger's HTTP interfaces, by prop."""
    url = trigger_endpoint_url(call.context, trigger)
    props = description.props if description is not None and url is not None else ()
    return {prop.name: {"endpoint_url": url} for prop in props if prop.type == HTTP_INTERFACE}


def _visible_props(trigger: DeployedTrigger, description: ComponentDescription | None) -> dict[str, JSON]:
    """Configured props without secrets; none if the source cannot be loaded, because any of them may be a secret."""
    if description is None:
        return {}
    secret = {prop.name for prop in description.props if prop.definition.get("secret")}
    return {name: value for name, value in trigger.props.items() if name not in secret}


_EMITTERS = ("email", "http", "source", "timer")
_DEFAULT_EVENT_LIMIT = 20
_MAX_EVENT_LIMIT = 100


async def list_triggers(call: ApiCall) -> JSON:
    """Answer `GET .../deployed-triggers`, newest first."""
    user = call.resolve_user(call.query_param("external_user_id"))
    kind = call.query_param("emitter_type")
    if kind not in (None, *_EMITTERS):
        raise ApiError(400, f"emitter_type must be one of {', '.join(_EMITTERS)}.")
    found = await run_blocking(call.context.project.deployed_triggers.list_triggers, user, call.environment)
    page = Page(call, found if kind in (None, "source") else [], lambda trigger: trigger.id)
    return page.to_json([_serialize_trigger(call, each, await _description(call, each)) for each in page.items])


async def retrieve(call: ApiCall) -> JSON:
    """Answer `GET .../deployed-triggers/{id}`."""
    trigger = await _find(call)
    return {"data": _serialize_trigger(call, trigger, await _description(call, trigger))}


async def update(call: ApiCall) -> JSON:
    """Answer `PUT .../deployed-triggers/{id}`: `active`, `name`, `configured_props`, `emit_on_deploy`."""
    trigger, body = await _find(call), await call.read_json()
    active, name = body.get("active"), body.get("name")
    emits = body.get("emit_on_deploy")
    if not all(each is None or isinstance(each, bool) for each in (active, emits)):
        raise ApiError(400, "active and emit_on_deploy must be true or false.")
    if name is not None and not isinstance(name, str):
        raise ApiError(400, "name must be a string.")
    fields = {"active": active, "name": name or None, "emits_on_deploy": emits}
    changes: dict[str, Any] = {field: value for field, value in fields.items() if value is not None}
    if body.get("configured_props") is not None:
        request_body = {
            "id": f"{trigger.key}@{trigger.version}",
            "external_user_id": trigger.external_user_id,
            "configured_props": body["configured_props"],
        }
        given = await parse_component_request(call, request_body, "source")
        configured = await _resolve_schedule_and_endpoint(call, replace(trigger, props=given.values), given.description)
        changes |= {"accounts": given.accounts, "public_only": call.policy.public_only}
        changes |= {"props": configured.props, "schedule": configured.schedule, "endpoint": configured.endpoint}
    changed = replace(trigger, **changes)
    if changed.active != trigger.active:
        await _run_hook(call, changed, "activate" if changed.active else "deactivate")
        changes["base_url"] = call.context.settings.base_url if changed.endpoint else None
    changed = await _change(call, trigger, lambda current: replace(current, **changes))
    return {"data": _serialize_trigger(call, changed, await _description(call, changed))}


async def delete(call: ApiCall) -> Response:
    """
    Answer `DELETE .../deployed-triggers/{id}`: runs the deactivate hook, then deletes the trigger.

    If the hook fails, the trigger stays, unless `ignore_hook_errors` is set.
    """
    trigger = await _find(call)
    try:
        if trigger.active:
            await _run_hook(call, trigger, "deactivate")
    except (ApiError, PdkernelError):
        if not call.query_flag("ignore_hook_errors"):
            raise
    await run_blocking(call.context.project.deployed_triggers.remove, trigger.id)
    return Response(status_code=204)


async def list_events(call: ApiCall) -> JSON:
    """Answer `GET .../{id}/events`, the newest *n*."""
    trigger, text = await _find(call), call.query_param("n")
    if text is not None and not (text.isascii() and text.isdigit() and len(text) < 9 and int(text) > 0):
        raise ApiError(400, f"n must be a number from 1 to {_MAX_EVENT_LIMIT}.")
    most = min(int(text or _DEFAULT_EVENT_LIMIT), _MAX_EVENT_LIMIT)
    found = await run_blocking(call.context.project.deployed_triggers.list_events, trigger.id, most)
    return {"data": [dict(event) for event in found]}


async def list_workflows(call: ApiCall) -> JSON:
    """Answer `GET .../{id}/pipelines`."""
    return {"workflow_ids": list((await _find(call)).workflows)}


async def update_workflows(call: ApiCall) -> JSON:
    """Answer `PUT .../{id}/pipelines`."""
    trigger, body = await _find(call), await call.read_json()
    workflows = _parse_workflow_ids(call, body.get("workflow_ids"))
    changed = await _change(call, trigger, lambda current: replace(current, workflows=workflows))
    return {"workflow_ids": list(changed.workflows)}


async def list_webhooks(call: ApiCall) -> JSON:
    """Answer `GET .../{id}/webhooks`."""
    return _webhooks(call, await _find(call))


async def update_webhooks(call: ApiCall) -> JSON:
    """Answer `PUT .../{id}/webhooks`: replaces the URLs; an existing URL keeps its key."""
    trigger, body = await _find(call), await call.read_json()
    built = await _build_webhooks(call, body.get("webhook_urls"), trigger.webhooks)

    def set_webhooks(current: DeployedTrigger) -> DeployedTrigger:
        stored = {hook.id: hook for hook in current.webhooks}  # with the deliveries that were recorded meanwhile
        hooks = (replace(stored.get(hook.id, hook), public_only=hook.public_only) for hook in built)
        return replace(current, webhooks=tuple(hooks))

    return _webhooks(call, await _change(call, trigger, set_webhooks))


async def retrieve_webhook(call: ApiCall) -> JSON:
    """Answer `GET .../{id}/webhooks/{wid}`."""
    return {"data": _serialize_webhook(call, _find_webhook(call, await _find(call)))}


async def regenerate_key(call: ApiCall) -> JSON:
    """Answer `POST .../{id}/webhooks/{wid}/regenerate_signing_key`: creates and returns a new key."""
    trigger = await _find(call)
    old = _find_webhook(call, trigger)
    key, now = _generate_signing_key(), call.context.clock.now().timestamp()

    def set_key(current: DeployedTrigger) -> DeployedTrigger:
        hooks = (
            replace(hook, signing_key=key, key_created=now) if hook.id == old.id else hook for hook in current.webhooks
        )
        return replace(current, webhooks=tuple(hooks))

    return {"data": _serialize_webhook(call, _find_webhook(call, await _change(call, trigger, set_key)))}


async def reset_delivery_state(call: ApiCall) -> JSON:
    """Answer `POST .../{id}/webhooks/{wid}/reset_delivery_state`: resets the count of failed deliveries."""
    trigger = await _find(call)
    old = _find_webhook(call, trigger)
    await run_blocking(call.context.project.deployed_triggers.record_delivery, trigger.id, old.id, None)
    new = replace(old, failures=0, failing_since=None, last_error=None)
    return {"data": _serialize_webhook(call, new)}


async def _find(call: ApiCall) -> DeployedTrigger:
    user = call.resolve_user(call.query_param("external_user_id"))
    trigger = await run_blocking(call.context.project.deployed_triggers.find, call.path_param("trigger_id"))
    if trigger is None or trigger.external_user_id != user or trigger.environment != call.environment:
        raise _build_unknown_error(call)
    return trigger


async def _change(
    call: ApiCall, trigger: DeployedTrigger, change: Callable[[DeployedTrigger], DeployedTrigger]
) -> DeployedTrigger:
    """Store the result of *change*, which gets the trigger as it is now: other calls may have changed it since it was read."""
    changed = await run_blocking(call.context.project.deployed_triggers.update, trigger.id, change)
    if changed is None:
        raise _build_unknown_error(call)
    return changed


def _build_unknown_error(call: ApiCall) -> ApiError:
    return ApiError(404, f"There is no deployed trigger {call.path_param('trigger_id')[:80]!r} of this external user.")


def _find_webhook(call: ApiCall, trigger: DeployedTrigger) -> Webhook:
    found = next((hook for hook in trigger.webhooks if hook.id == call.path_param("webhook_id")), None)
    if found is None:
        raise ApiError(404, f"There is no webhook {call.path_param('webhook_id')[:80]!r} of this trigger.")
    return found


def _webhooks(call: ApiCall, trigger: DeployedTrigger) -> JSON:
    return {
        "webhook_urls": [hook.url for hook in trigger.webhooks],
        "webhooks": [_serialize_webhook(call, hook) for hook in trigger.webhooks],
    }


async def _run_hook(call: ApiCall, trigger: DeployedTrigger, name: SourceAct) -> Sequence[SourceEvent]:
    """Run a hook; return the events that it emits. Raises `ApiError` if the hook fails."""
    run = await call.state.deployed_triggers.run_hook(trigger, name)
    if run.record.error is not None:
        raise ApiError(400, f"The {name} hook of {trigger.key}@{trigger.version} failed: {run.record.error.message}")
    return run.events


async def _description(call: ApiCall, trigger: DeployedTrigger) -> ComponentDescription | None:
    """Return the description of the source; None if the source cannot be loaded."""
    uses = ActionReference(trigger.key, trigger.version)
    try:
        _, description = await call.context.forms.describe(uses, install=False)
    except PdkernelError:
        return None
    return description

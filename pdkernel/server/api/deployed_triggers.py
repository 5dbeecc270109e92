"""
Routes of deployed triggers, their events, workflows and webhooks.

A caller sees only triggers of the external user and of the request's environment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from starlette.responses import Response

from pdkernel.actions import ActionReference
from pdkernel.common.blocking import run_blocking
from pdkernel.engine.event_sources import SourceAct
from pdkernel.errors import PdkernelError
from pdkernel.model import JSON
from pdkernel.server.api.api_call import ApiCall, ApiError
from pdkernel.server.api.component_request import parse_component_request
from pdkernel.server.api.pagination import Page
from pdkernel.server.api.trigger_deployment import (
    build_webhooks,
    generate_signing_key,
    parse_workflow_ids,
    resolve_schedule_and_endpoint,
)
from pdkernel.server.api.trigger_serializers import serialize_trigger, serialize_webhook
from pdkernel.storage import DeployedTrigger, Webhook
from pdkernel.workers import ComponentDescription

_EMITTERS = ("email", "http", "source", "timer")
_DEFAULT_EVENT_LIMIT = 20
_MAX_EVENT_LIMIT = 100


async def list_triggers(call: ApiCall) -> JSON:
    """`GET .../deployed-triggers`, newest first."""
    user = call.resolve_user(call.query_param("external_user_id"))
    kind = call.query_param("emitter_type")
    if kind not in (None, *_EMITTERS):
        raise ApiError(400, f"emitter_type must be one of {', '.join(_EMITTERS)}.")
    found = await run_blocking(call.context.project.deployed_triggers.list_triggers, user, call.environment)
    page = Page(call, found if kind in (None, "source") else [], lambda trigger: trigger.id)
    return page.to_json([serialize_trigger(call, each, await _description(call, each)) for each in page.items])


async def retrieve(call: ApiCall) -> JSON:
    """`GET .../deployed-triggers/{id}`."""
    trigger = await _find(call)
    return {"data": serialize_trigger(call, trigger, await _description(call, trigger))}


async def update(call: ApiCall) -> JSON:
    """`PUT .../deployed-triggers/{id}`: `active`, `name`, `configured_props`, `emit_on_deploy`."""
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
        configured = await resolve_schedule_and_endpoint(call, replace(trigger, props=given.values), given.description)
        changes |= {"accounts": given.accounts, "public_only": call.policy.public_only}
        changes |= {"props": configured.props, "schedule": configured.schedule, "endpoint": configured.endpoint}
    changed = replace(trigger, **changes)
    if changed.active != trigger.active:
        await _run_hook(call, changed, "activate" if changed.active else "deactivate")
        changes["base_url"] = call.context.settings.base_url if changed.endpoint else None
    changed = await _change(call, trigger, lambda current: replace(current, **changes))
    return {"data": serialize_trigger(call, changed, await _description(call, changed))}


async def delete(call: ApiCall) -> Response:
    """
    `DELETE .../deployed-triggers/{id}`: runs the deactivate hook, then deletes the trigger.

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
    """`GET .../{id}/events`, the newest *n*."""
    trigger, text = await _find(call), call.query_param("n")
    if text is not None and not (text.isascii() and text.isdigit() and len(text) < 9 and int(text) > 0):
        raise ApiError(400, f"n must be a number from 1 to {_MAX_EVENT_LIMIT}.")
    most = min(int(text or _DEFAULT_EVENT_LIMIT), _MAX_EVENT_LIMIT)
    found = await run_blocking(call.context.project.deployed_triggers.list_events, trigger.id, most)
    return {"data": [dict(event) for event in found]}


async def list_workflows(call: ApiCall) -> JSON:
    """`GET .../{id}/pipelines`."""
    return {"workflow_ids": list((await _find(call)).workflows)}


async def update_workflows(call: ApiCall) -> JSON:
    """`PUT .../{id}/pipelines`."""
    trigger, body = await _find(call), await call.read_json()
    workflows = parse_workflow_ids(call, body.get("workflow_ids"))
    changed = await _change(call, trigger, lambda current: replace(current, workflows=workflows))
    return {"workflow_ids": list(changed.workflows)}


async def list_webhooks(call: ApiCall) -> JSON:
    """`GET .../{id}/webhooks`."""
    return _webhooks(call, await _find(call))


async def update_webhooks(call: ApiCall) -> JSON:
    """`PUT .../{id}/webhooks`: replaces the URLs; an existing URL keeps its key."""
    trigger, body = await _find(call), await call.read_json()
    built = await build_webhooks(call, body.get("webhook_urls"), trigger.webhooks)

    def set_webhooks(current: DeployedTrigger) -> DeployedTrigger:
        stored = {hook.id: hook for hook in current.webhooks}  # with the deliveries that were recorded meanwhile
        hooks = (replace(stored.get(hook.id, hook), public_only=hook.public_only) for hook in built)
        return replace(current, webhooks=tuple(hooks))

    return _webhooks(call, await _change(call, trigger, set_webhooks))


async def retrieve_webhook(call: ApiCall) -> JSON:
    """`GET .../{id}/webhooks/{wid}`."""
    return {"data": serialize_webhook(call, _webhook(call, await _find(call)))}


async def regenerate_key(call: ApiCall) -> JSON:
    """`POST .../{id}/webhooks/{wid}/regenerate_signing_key`: creates and returns a new key."""
    trigger = await _find(call)
    old = _webhook(call, trigger)
    key, now = generate_signing_key(), call.context.clock.now().timestamp()

    def set_key(current: DeployedTrigger) -> DeployedTrigger:
        hooks = (
            replace(hook, signing_key=key, key_created=now) if hook.id == old.id else hook for hook in current.webhooks
        )
        return replace(current, webhooks=tuple(hooks))

    return {"data": serialize_webhook(call, _webhook(call, await _change(call, trigger, set_key)))}


async def reset_delivery_state(call: ApiCall) -> JSON:
    """`POST .../{id}/webhooks/{wid}/reset_delivery_state`: resets the count of failed deliveries."""
    trigger = await _find(call)
    old = _webhook(call, trigger)
    await run_blocking(call.context.project.deployed_triggers.record_delivery, trigger.id, old.id, None)
    new = replace(old, failures=0, failing_since=None, last_error=None)
    return {"data": serialize_webhook(call, new)}


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


def _webhook(call: ApiCall, trigger: DeployedTrigger) -> Webhook:
    found = next((hook for hook in trigger.webhooks if hook.id == call.path_param("webhook_id")), None)
    if found is None:
        raise ApiError(404, f"There is no webhook {call.path_param('webhook_id')[:80]!r} of this trigger.")
    return found


def _webhooks(call: ApiCall, trigger: DeployedTrigger) -> JSON:
    return {
        "webhook_urls": [hook.url for hook in trigger.webhooks],
        "webhooks": [serialize_webhook(call, hook) for hook in trigger.webhooks],
    }


async def _run_hook(call: ApiCall, trigger: DeployedTrigger, name: SourceAct) -> None:
    run = await call.state.deployed_triggers.run_hook(trigger, name)
    if run.record.error is not None:
        raise ApiError(400, f"The {name} hook of {trigger.key} failed: {run.record.error.message}")


async def _description(call: ApiCall, trigger: DeployedTrigger) -> ComponentDescription | None:
    """The description of the source; None if the source cannot be loaded."""
    uses = ActionReference(trigger.key, trigger.version)
    try:
        _, description = await call.context.forms.describe(uses, install=False)
    except PdkernelError:
        return None
    return description

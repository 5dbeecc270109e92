"""
Deployed triggers: listing, reading, changing, removing; their events, workflows and webhooks.

Knows that a trigger is its user's: another user's, or one of the other environment, is not there.
"""

from __future__ import annotations

from dataclasses import replace

from starlette.responses import Response

from pdkernel.actions import Uses
from pdkernel.engine.sources import Act
from pdkernel.errors import PdkernelError
from pdkernel.hosts import Description
from pdkernel.model import JSON
from pdkernel.project import DeployedTrigger, Webhook
from pdkernel.server.api.configured import read_configured
from pdkernel.server.api.door import ApiError, Call
from pdkernel.server.api.emitting import act, source_request
from pdkernel.server.api.pages import Page
from pdkernel.server.api.trigger_shapes import trigger_json, webhook_json
from pdkernel.server.api.triggers import new_key, webhooks, woken, workflow_ids

_EMITTERS = ("email", "http", "source", "timer")
_DEFAULT_EVENTS = 20
_MOST_EVENTS = 100


async def list_triggers(call: Call) -> JSON:
    """`GET .../deployed-triggers`, newest first."""
    user = call.user(call.query("external_user_id"))
    kind = call.query("emitter_type")
    if kind not in (None, *_EMITTERS):
        raise ApiError(400, f"emitter_type is one of {', '.join(_EMITTERS)}.")
    found = await call.ask(call.serving.project.deployed_triggers.list, user, call.environment)
    page = Page(call, found if kind in (None, "source") else [], lambda trigger: trigger.id)
    return page.answer([trigger_json(call, each, await _description(call, each)) for each in page.items])


async def retrieve(call: Call) -> JSON:
    """`GET .../deployed-triggers/{id}`."""
    trigger = await _find(call)
    return {"data": trigger_json(call, trigger, await _description(call, trigger))}


async def update(call: Call) -> JSON:
    """`PUT .../deployed-triggers/{id}`: `active`, `name`, `configured_props`, `emit_on_deploy`."""
    trigger, body = await _find(call), await call.body()
    active, name = body.get("active"), body.get("name")
    emits = body.get("emit_on_deploy")
    if not all(each is None or isinstance(each, bool) for each in (active, emits)):
        raise ApiError(400, "active and emit_on_deploy are true or false.")
    if name is not None and not isinstance(name, str):
        raise ApiError(400, "name is a text.")
    changed = replace(
        trigger,
        active=trigger.active if active is None else active,
        name=name or trigger.name,
        emits_on_deploy=trigger.emits_on_deploy if emits is None else emits,
    )
    if body.get("configured_props") is not None:
        asked = {
            "id": f"{trigger.key}@{trigger.version}",
            "external_user_id": trigger.external_user_id,
            "configured_props": body["configured_props"],
        }
        given = await read_configured(call, asked, "source")
        configured = replace(changed, props=given.values, accounts=given.accounts, public_only=call.policy.public_only)
        changed = await woken(call, configured, given.description)
    if changed.active != trigger.active:
        await _hook(call, changed, "activate" if changed.active else "deactivate")
    changed = await call.ask(call.serving.project.deployed_triggers.put, changed)
    return {"data": trigger_json(call, changed, await _description(call, changed))}


async def delete(call: Call) -> Response:
    """`DELETE .../deployed-triggers/{id}`: its deactivate hook runs, and stops this if it fails, unless told otherwise."""
    trigger = await _find(call)
    try:
        if trigger.active:
            await _hook(call, trigger, "deactivate")
    except (ApiError, PdkernelError):
        if not call.flag("ignore_hook_errors"):
            raise
    project = call.serving.project
    await call.ask(project.deployed_triggers.remove, trigger.id)
    await call.ask(project.source_states.remove, source_request(call.serving, trigger, "run").key)
    return Response(status_code=204)


async def list_events(call: Call) -> JSON:
    """`GET .../{id}/events`, the newest *n*."""
    trigger, text = await _find(call), call.query("n")
    if text is not None and not (text.isascii() and text.isdigit() and len(text) < 9 and int(text) > 0):
        raise ApiError(400, f"n is a number from 1 to {_MOST_EVENTS}.")
    most = min(int(text or _DEFAULT_EVENTS), _MOST_EVENTS)
    found = await call.ask(call.serving.project.deployed_triggers.events, trigger.id, most)
    return {"data": [dict(event) for event in found]}


async def list_workflows(call: Call) -> JSON:
    """`GET .../{id}/pipelines`."""
    return {"workflow_ids": list((await _find(call)).workflows)}


async def update_workflows(call: Call) -> JSON:
    """`PUT .../{id}/pipelines`."""
    trigger, body = await _find(call), await call.body()
    changed = replace(trigger, workflows=workflow_ids(call, body.get("workflow_ids")))
    await call.ask(call.serving.project.deployed_triggers.put, changed)
    return {"workflow_ids": list(changed.workflows)}


async def list_webhooks(call: Call) -> JSON:
    """`GET .../{id}/webhooks`."""
    return _webhooks(call, await _find(call))


async def update_webhooks(call: Call) -> JSON:
    """`PUT .../{id}/webhooks`: the URLs; one that was there keeps its key."""
    trigger, body = await _find(call), await call.body()
    changed = replace(trigger, webhooks=await webhooks(call, body.get("webhook_urls"), trigger.webhooks))
    await call.ask(call.serving.project.deployed_triggers.put, changed)
    return _webhooks(call, changed)


async def retrieve_webhook(call: Call) -> JSON:
    """`GET .../{id}/webhooks/{wid}`."""
    return {"data": webhook_json(call, _webhook(call, await _find(call)))}


async def regenerate_key(call: Call) -> JSON:
    """`POST .../{id}/webhooks/{wid}/regenerate_signing_key`: the key from now on, which a back end reads here."""
    trigger = await _find(call)
    old = _webhook(call, trigger)
    new = replace(old, key=new_key(), updated=call.serving.clock.now().timestamp())
    hooks = tuple(new if hook.id == old.id else hook for hook in trigger.webhooks)
    await call.ask(call.serving.project.deployed_triggers.put, replace(trigger, webhooks=hooks))
    return {"data": webhook_json(call, new)}


async def reset_delivery_state(call: Call) -> JSON:
    """`POST .../{id}/webhooks/{wid}/reset_delivery_state`: what it did not take counts no more."""
    trigger = await _find(call)
    old = _webhook(call, trigger)
    await call.ask(call.serving.project.deployed_triggers.note_delivery, trigger.id, old.id, None)
    new = replace(old, failures=0, failing_since=None, last_error=None)
    return {"data": webhook_json(call, new)}


async def _find(call: Call) -> DeployedTrigger:
    user = call.user(call.query("external_user_id"))
    trigger = await call.ask(call.serving.project.deployed_triggers.find, call.path("trigger_id"))
    if trigger is None or trigger.external_user_id != user or trigger.environment != call.environment:
        raise ApiError(404, f"There is no deployed trigger {call.path('trigger_id')[:80]!r} of this external user.")
    return trigger


def _webhook(call: Call, trigger: DeployedTrigger) -> Webhook:
    found = next((hook for hook in trigger.webhooks if hook.id == call.path("webhook_id")), None)
    if found is None:
        raise ApiError(404, f"There is no webhook {call.path('webhook_id')[:80]!r} of this trigger.")
    return found


def _webhooks(call: Call, trigger: DeployedTrigger) -> JSON:
    return {
        "webhook_urls": [hook.url for hook in trigger.webhooks],
        "webhooks": [webhook_json(call, hook) for hook in trigger.webhooks],
    }


async def _hook(call: Call, trigger: DeployedTrigger, name: Act) -> None:
    run = await act(call.serving, call.request.app.state.runs, trigger, name)
    if run.record.error is not None:
        raise ApiError(400, f"The {name} hook of {trigger.key} failed: {run.record.error.message}")


async def _description(call: Call, trigger: DeployedTrigger) -> Description | None:
    """What its source declares; None if that cannot be loaded any more."""
    try:
        return (await call.serving.runtime.forms.describe(Uses(trigger.key, trigger.version), install=False))[1]
    except PdkernelError:
        return None

"""
Route `POST .../triggers/deploy`: deploys an event source for an external user.

Sources with a timer, an HTTP interface or neither can be deployed. Runs are in `trigger_runner`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from pdkernel.common.blocking import run_blocking
from pdkernel.egress.public_addresses import is_inside
from pdkernel.engine.event_sources import HTTP_INTERFACE, TIMER_INTERFACE, SourceAct, SourceEvent, timer_setting
from pdkernel.model import JSON
from pdkernel.server.api.api_call import ApiCall, ApiError
from pdkernel.server.api.component_request import ComponentRequest, parse_component_request
from pdkernel.server.api.trigger_serializers import serialize_trigger
from pdkernel.server.trigger_runner import find_workflow
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
    trigger = await resolve_schedule_and_endpoint(
        call, await _parse_trigger(call, configured, body), configured.description
    )
    # stored first: an app may call the endpoint as soon as the activate hook registers it
    await run_blocking(call.context.project.deployed_triggers.add, replace(trigger, is_deployed=False))
    try:
        emitted = await _run_hooks(call, trigger)
        await call.state.deployed_triggers.finish_deployment(trigger, emitted if trigger.emits_on_deploy else [])
    except BaseException:
        await asyncio.shield(run_blocking(call.context.project.deployed_triggers.remove, trigger.id))
        raise
    shown = serialize_trigger(call, trigger, configured.description)
    keys = {"webhook_signing_key": trigger.webhooks[0].signing_key} if trigger.webhooks and call.token is None else {}
    return {"data": {**shown, **keys}}


async def _run_hooks(call: ApiCall, trigger: DeployedTrigger) -> list[SourceEvent]:
    """Run the hooks; return the events that they emit."""
    emitted: list[SourceEvent] = []
    for hook in _HOOKS:
        run = await call.state.deployed_triggers.run_hook(trigger, hook)
        if run.record.error is not None:
            uses = f"{trigger.key}@{trigger.version}"
            raise ApiError(400, f"The {hook} hook of {uses} failed: {run.record.error.message}")
        emitted += run.events
    return emitted


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
        workflows=parse_workflow_ids(call, [workflow]) if workflow is not None else (),
        webhooks=await build_webhooks(call, [url]) if url is not None else (),
        public_only=call.policy.public_only,
    )


async def resolve_schedule_and_endpoint(
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


def parse_workflow_ids(call: ApiCall, given: object) -> tuple[str, ...]:
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


async def build_webhooks(call: ApiCall, given: object, existing: tuple[Webhook, ...] = ()) -> tuple[Webhook, ...]:
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
            hook = _webhook(call, url)
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


def _webhook(call: ApiCall, url: str) -> Webhook:
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
        call.context.ids.new("wh_", 12), url, generate_signing_key(), now, now, public_only=call.policy.public_only
    )


def generate_signing_key() -> str:
    """Generate the signing key of a webhook."""
    return f"whsec_{secrets.token_urlsafe(32)}"

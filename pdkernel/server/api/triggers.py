"""
`POST .../triggers/deploy`: an event source begins to run for an external user.

Knows which sources can run here: those that a timer or a request wakes, and those that nothing wakes. Running one is
`emitting`'s.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from pdkernel.egress.public import is_inside
from pdkernel.engine.sources import Act, SourceEvent
from pdkernel.hosts import Description, PropDeclaration
from pdkernel.model import JSON
from pdkernel.project import DeployedTrigger, Schedule, Webhook
from pdkernel.project.schedule import UTC_NAME, check_cron
from pdkernel.server.api.configured import Configured, read_configured
from pdkernel.server.api.door import ApiError, Call
from pdkernel.server.api.emitting import act, find_workflow, pass_on, source_request
from pdkernel.server.api.trigger_shapes import HTTP, trigger_json
from pdkernel.server.serving import Serving

DEFAULT_INTERVAL_S = 900.0
MIN_INTERVAL_S = 15.0
"""Seconds between two runs at least: a timer that asks for less gets this (ours)."""

_HOOKS: tuple[Act, ...] = ("deploy", "activate")
_TIMER = "$.interface.timer"
_APPHOOK = "$.interface.apphook"


async def deploy(call: Call) -> JSON:
    """Deploy a trigger: its deploy hook runs, then its activate hook; it is kept only if neither fails."""
    body = await call.body()
    configured = await read_configured(call, body, "source")
    if configured.component.file is None:
        raise ApiError(400, f"{configured.component.uses} runs at Pipedream, and this machine cannot run it.")
    trigger = await woken(call, await _read(call, configured, body), configured.description)
    # kept first: an app that is told of the endpoint by the activate hook may try it at once
    await call.ask(call.serving.project.deployed_triggers.add, trigger)
    try:
        told = await _begin(call, trigger)
    except BaseException:
        await asyncio.shield(call.ask(_forget, call.serving, trigger))
        raise
    if trigger.emits_on_deploy:
        await pass_on(call.serving, call.request.app.state.runs, trigger, told)
    shown = trigger_json(call, trigger, configured.description)
    keys = {"webhook_signing_key": trigger.webhooks[0].key} if trigger.webhooks and call.token is None else {}
    return {"data": {**shown, **keys}}


async def _begin(call: Call, trigger: DeployedTrigger) -> list[SourceEvent]:
    """What its hooks emit."""
    told: list[SourceEvent] = []
    for hook in _HOOKS:
        run = await act(call.serving, call.request.app.state.runs, trigger, hook)
        if run.record.error is not None:
            uses = f"{trigger.key}@{trigger.version}"
            raise ApiError(400, f"The {hook} hook of {uses} failed: {run.record.error.message}")
        told += run.events
    return told


def _forget(serving: Serving, trigger: DeployedTrigger) -> None:
    serving.project.deployed_triggers.remove(trigger.id)
    serving.project.source_states.remove(source_request(serving, trigger, "run").key)


async def _read(call: Call, configured: Configured, body: Mapping[str, Any]) -> DeployedTrigger:
    workflow, url = body.get("workflow_id"), body.get("webhook_url")
    emits = body.get("emit_on_deploy")
    if emits is not None and not isinstance(emits, bool):
        raise ApiError(400, "emit_on_deploy is true or false.")
    serving, now = call.serving, call.serving.clock.now()
    return DeployedTrigger(
        id=serving.ids.new("dc_", 24),
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
        workflows=workflow_ids(call, [workflow]) if workflow is not None else (),
        webhooks=await webhooks(call, [url]) if url is not None else (),
        public_only=call.policy.public_only,
    )


async def woken(call: Call, trigger: DeployedTrigger, description: Description) -> DeployedTrigger:
    """
    *trigger*, with what wakes it: a timer, requests to an endpoint of its own, both, or nothing.

    Raises:
        ApiError: What wakes it cannot be had here.
        RequestError: Its cron expression or time zone is none.
    """
    kinds = {prop.type: prop for prop in description.props}
    if _APPHOOK in kinds and not kinds.keys() & {HTTP, _TIMER}:
        # parity[deployed-wakers]: the platform registers such a source at its app, as the app's own client
        raise ApiError(400, "This trigger is woken by messages that its app sends to Pipedream only.")
    named = {prop.name for prop in description.props if prop.type == HTTP}
    endpoint = await call.ask(call.serving.project.endpoints.key_of_trigger, trigger.id) if named else None
    values = {name: value for name, value in trigger.props.items() if name not in named}
    timer = kinds.get(_TIMER)
    schedule = Schedule() if timer is None else _schedule(call, timer, values)
    return replace(trigger, props=values, schedule=schedule, endpoint=endpoint)


def _schedule(call: Call, timer: PropDeclaration, values: Mapping[str, JSON]) -> Schedule:
    definition = timer.definition
    given = values.get(timer.name) or definition.get("static") or definition.get("default") or {}
    if not isinstance(given, dict):
        raise ApiError(400, f'{timer.name} is a timer: {{"intervalSeconds": 900}}, or {{"cron": "0 9 * * *"}}.')
    cron, timezone = given.get("cron"), given.get("timezone") or UTC_NAME
    if cron:
        if not isinstance(cron, str) or not isinstance(timezone, str):
            raise ApiError(400, f"{timer.name}: cron and timezone are texts.")
        check_cron(cron, timezone, call.serving.clock.now())
        return Schedule(cron=cron, timezone=timezone)
    seconds = given.get("intervalSeconds", DEFAULT_INTERVAL_S)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < 1e9:
        raise ApiError(400, f"{timer.name}: intervalSeconds is a number of seconds.")
    return Schedule(interval_s=max(float(seconds), MIN_INTERVAL_S))


def workflow_ids(call: Call, given: object) -> tuple[str, ...]:
    """
    Ids of workflows that are served.

    Raises:
        ApiError: One is not.
    """
    if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
        raise ApiError(400, "workflow_ids is a list of workflows' ids.")
    for each in given:
        if find_workflow(call.serving, each) is None:
            raise ApiError(404, f"There is no workflow {each[:80]!r} that is served here.")
    return tuple(dict.fromkeys(given))


async def webhooks(call: Call, given: object, known: tuple[Webhook, ...] = ()) -> tuple[Webhook, ...]:
    """
    Webhooks for these URLs; those of *known* keep their keys.

    A Connect token names public addresses only, now and at each delivery. A URL that an OAuth client names is the product's
    own and may lead anywhere, also if a Connect token lists it later.

    Raises:
        ApiError: One is not a URL, or a Connect token names one that is not public.
    """
    if not isinstance(given, list) or len(given) > 50 or not all(isinstance(each, str) for each in given):
        raise ApiError(400, "webhook_urls is a list of at most 50 URLs.")
    there = {hook.url: hook for hook in known}
    public_only = call.policy.public_only
    found: list[Webhook] = []
    for url in dict.fromkeys(given):
        hook = there.get(url)
        if hook is None:
            hook = _webhook(call, url)
            await _check_public(call, url)
        found.append(replace(hook, public_only=hook.public_only and public_only))
    return tuple(found)


async def _check_public(call: Call, url: str) -> None:
    """Raise `ApiError` if the call may name public addresses only and *url* is another; a name may lead elsewhere later."""
    policy, parts = call.policy, urlsplit(url)
    host = parts.hostname or ""
    if not policy.public_only:
        return
    inside = is_inside(host)
    if not inside and policy.goes_out(host):
        port = parts.port or (443 if parts.scheme == "https" else 80)
        inside = await call.serving.runtime.gateway.leads_inside(host, port)
    if inside:
        raise ApiError(
            403, f"A Connect token cannot name the webhook {host}: it is not, or leads to no, public address."
        )


def _webhook(call: Call, url: str) -> Webhook:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
        good = good and (parts.port is None or parts.port > 0) and url.isascii() and url.isprintable()
    except ValueError:
        good = False
    if not good:
        raise ApiError(400, "A webhook's URL is a whole http or https URL.")
    now = call.serving.clock.now().timestamp()
    return Webhook(call.serving.ids.new("wh_", 12), url, new_key(), now, now, public_only=call.policy.public_only)


def new_key() -> str:
    """A fresh signing key."""
    return f"whsec_{secrets.token_urlsafe(32)}"

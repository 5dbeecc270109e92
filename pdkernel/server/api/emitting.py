"""
Running deployed triggers, and what becomes of their events: kept, sent to webhooks, handed to workflows.

Knows that an event is kept before it is sent, and that a webhook which does not answer stops nothing. A request to a
webhook is an outside call like a step's, so that the mode of outside calls holds for it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from pdkernel.egress import Binding
from pdkernel.egress.client import client_for
from pdkernel.egress.refusals import MARK
from pdkernel.engine.request import RunRequest
from pdkernel.engine.sources import Act, SourceEvent, SourceRequest, SourceRun
from pdkernel.errors import PdkernelError
from pdkernel.model import JSON, Trigger
from pdkernel.project import DeployedTrigger, Webhook
from pdkernel.redaction import Redactor
from pdkernel.server.link.webhooks import SIGNATURE, TIMEOUT_S, signature
from pdkernel.server.running import Runs
from pdkernel.server.serving import ServedWorkflow, Serving
from pdkernel.source import workflows_beside

LONGEST_WAIT_S = 5.0
"""Seconds after which triggers that another process deployed are seen."""

_log = logging.getLogger(__name__)


async def keep_running(serving: Serving, runs: Runs) -> None:
    """Run triggers as they become due, until this is cancelled."""
    table = serving.project.deployed_triggers
    while True:
        try:
            due = await asyncio.to_thread(table.claim_due)
            if due is not None:
                if not runs.turn(due.id).locked():  # one that still runs misses this time
                    runs.follow(_by_timer(serving, runs, due))
                continue
            upcoming = await asyncio.to_thread(table.next_due)
        except PdkernelError as fault:
            _log.warning("Deployed triggers cannot be looked up: %s", fault.message)
            upcoming = None
        wait = LONGEST_WAIT_S if upcoming is None else (upcoming - serving.clock.now()).total_seconds()
        await asyncio.sleep(min(max(wait, 0.05), LONGEST_WAIT_S))


async def _by_timer(serving: Serving, runs: Runs, trigger: DeployedTrigger) -> None:
    try:
        await wake(serving, runs, trigger)
    except PdkernelError as fault:
        _log.warning("The deployed trigger %s did not run: %s", trigger.id, fault.message)


async def wake(
    serving: Serving,
    runs: Runs,
    trigger: DeployedTrigger,
    event: JSON = None,
    on_respond: Callable[[Mapping[str, Any]], None] | None = None,
) -> SourceRun:
    """
    Run *trigger* once and pass on what is new.

    Args:
        serving: What is served.
        runs: Those under way.
        trigger: Which.
        event: The request that wakes it; None is its timer.
        on_respond: Told what the source answers to that request, when it does.

    Raises:
        PdkernelError: It cannot be run; see `Sources.run`.
    """
    request = source_request(serving, trigger, "run")
    if event is not None:
        request = replace(request, event=event, on_respond=on_respond or request.on_respond)
    async with runs.turn(trigger.id):
        ran = await serving.runtime.sources.run(request)
    if ran.record.error is not None:
        # redacted, as everything in a record
        _log.warning("The deployed trigger %s failed: %s", trigger.id, ran.record.error.message)
    await pass_on(serving, runs, trigger, ran.events)
    return ran


async def act(serving: Serving, runs: Runs, trigger: DeployedTrigger, what: Act) -> SourceRun:
    """
    Have a hook of *trigger*'s source run.

    Raises:
        PdkernelError: It cannot be run; see `Sources.run`.
    """
    async with runs.turn(trigger.id):
        return await serving.runtime.sources.run(source_request(serving, trigger, what))


def endpoint_url(serving: Serving, trigger: DeployedTrigger) -> str | None:
    """Where requests wake *trigger*, or None."""
    return f"{serving.settings.url}/{trigger.endpoint}" if trigger.endpoint else None


def source_request(serving: Serving, trigger: DeployedTrigger, what: Act) -> SourceRequest:
    """What the engine is asked for."""
    config: dict[str, JSON] = {"uses": f"{trigger.key}@{trigger.version}", "props": dict(trigger.props)}
    return SourceRequest(
        Trigger("source", config=config),
        trigger.id,
        replace(serving.settings.policy, public_only=trigger.public_only),
        act=what,
        external_user_id=trigger.external_user_id,
        environment=trigger.environment,
        folder=serving.project.folder,
        endpoint=endpoint_url(serving, trigger),
        accounts=trigger.accounts,
    )


async def pass_on(serving: Serving, runs: Runs, trigger: DeployedTrigger, events: Sequence[SourceEvent]) -> None:
    """
    Keep *events*, then send them to the trigger's webhooks and start its workflows.

    A workflow's steps are the project's own code, and reach what they reach for any other event.
    """
    if not events:
        return
    at = int(serving.clock.now().timestamp() * 1000)
    kept = [_kept(event, at, serving.ids.new("", 20)) for event in events]
    await asyncio.to_thread(serving.project.deployed_triggers.add_events, trigger.id, kept)
    for event in events:
        for workflow in trigger.workflows:
            _start(serving, runs, trigger, workflow, event)
    await asyncio.gather(*(_tell(serving, trigger, hook, kept) for hook in trigger.webhooks))


def _kept(event: SourceEvent, at: int, fresh: str) -> dict[str, JSON]:
    """An event as the API lists it."""
    told: dict[str, JSON] = {"e": dict(event.event.data), "k": "emit", "ts": at, "id": fresh}
    return told if event.summary is None else {**told, "sum": event.summary}


def find_workflow(serving: Serving, name: str) -> ServedWorkflow | None:
    """The workflow of that id, or of that endpoint key, that is served; or None."""
    return serving.workflows.find_id(name) or serving.workflows.find(name)


def _start(serving: Serving, runs: Runs, trigger: DeployedTrigger, workflow: str, event: SourceEvent) -> None:
    served = find_workflow(serving, workflow)
    if served is None:
        _log.warning("The deployed trigger %s starts the workflow %s, which is not served.", trigger.id, workflow)
        return
    runs.start(
        partial(
            RunRequest,
            workflow=served.source.workflow,
            event=event.event,
            policy=serving.settings.policy,
            external_user_id=trigger.external_user_id,
            environment=trigger.environment,
            variables=served.variables,
            folder=served.source.folder.resolve(),
            actions=served.source.sidecar.actions if served.source.sidecar else None,
            test=False,
            source=shlex.quote(str(served.source.path)),
            pauses="wait",
            base_url=serving.settings.url,
            find_workflow=workflows_beside(served.source.path),
            workflow_id=served.id,
        )
    )


async def _tell(
    serving: Serving, trigger: DeployedTrigger, hook: Webhook, events: Sequence[Mapping[str, JSON]]
) -> None:
    """Send *events* in their order; one that is not taken is in the log, and in the list of events."""
    failing = hook.failures > 0
    for event in events:
        said = await _post(serving, trigger, hook, json.dumps(event["e"]).encode())
        if said is not None or failing:
            failing = said is not None
            await asyncio.to_thread(serving.project.deployed_triggers.note_delivery, trigger.id, hook.id, said)
        if said is not None:
            _log.warning("A webhook of the deployed trigger %s did not take an event: %s", trigger.id, said)


async def _post(serving: Serving, trigger: DeployedTrigger, hook: Webhook, body: bytes) -> str | None:
    """Why the webhook did not take it, or None."""
    import httpx

    headers = {
        "content-type": "application/json",
        SIGNATURE: signature(hook.key, int(serving.clock.now().timestamp()), body),
        "x-pd-emitter-id": trigger.id,
        "x-pd-external-user-id": trigger.external_user_id,
        "user-agent": "pdkernel",
    }
    binding = Binding(
        step="webhook",
        policy=replace(serving.settings.policy, public_only=hook.public_only),
        redactor=Redactor(()),
        on_call=lambda _: None,
        on_refused=lambda _: None,
    )
    try:
        async with client_for(hook.url, serving.runtime.gateway, binding, timeout_s=TIMEOUT_S) as client:
            answer = await client.post(hook.url, content=body, headers=headers)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as fault:
        return type(fault).__name__
    if MARK.decode() in answer.headers:
        return "not sent"
    return None if answer.is_success else f"status {answer.status_code}"

"""
Runs deployed triggers, and dispatches their events to webhooks and workflows.

An event is stored before it is sent. The failure of a webhook does not affect the others. A request to a webhook is an outbound
call under the same policy as a step's call.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from pdkernel.egress import CallContext
from pdkernel.egress.gateway_client import open_client
from pdkernel.egress.refusals import REFUSAL_HEADER
from pdkernel.engine.dispatch import look_repeatedly
from pdkernel.engine.event_sources import SourceAct, SourceEvent, SourceRequest, SourceResult
from pdkernel.engine.http_response import HttpResponse
from pdkernel.errors import PdkernelError
from pdkernel.model import JSON, Trigger
from pdkernel.project import DeployedTrigger, Webhook
from pdkernel.redaction import Redactor
from pdkernel.server.app_context import AppContext, ServedWorkflow
from pdkernel.server.link.webhooks import SIGNATURE_HEADER, TIMEOUT_S, sign_body
from pdkernel.server.run_registry import RunRegistry, build_run_request

MAX_POLL_INTERVAL_S = 5.0
"""Maximum seconds until triggers deployed by another process are noticed."""

_log = logging.getLogger(__name__)


async def run_due_triggers(context: AppContext, runs: RunRegistry) -> None:
    """Run each trigger when it is due, until the task is cancelled; an unreadable database is tried again."""
    table = context.project.deployed_triggers

    async def look() -> float:
        while (due := await asyncio.to_thread(table.claim_due)) is not None:
            if not runs.source_turns.is_taken(due.id):  # a trigger that is still running skips this time
                runs.start_source(_run_by_timer(context, runs, due))
        upcoming = await asyncio.to_thread(table.next_due)
        wait_s = MAX_POLL_INTERVAL_S if upcoming is None else (upcoming - context.clock.now()).total_seconds()
        return min(max(wait_s, 0.05), MAX_POLL_INTERVAL_S)

    problem = "Deployed triggers cannot be read at the moment"
    await look_repeatedly(look, asyncio.Event(), problem=problem, retry_s=MAX_POLL_INTERVAL_S)


async def _run_by_timer(context: AppContext, runs: RunRegistry, trigger: DeployedTrigger) -> None:
    try:
        await run_trigger(context, runs, trigger)
    except PdkernelError as fault:
        _log.warning("The deployed trigger %s did not run: %s", trigger.id, fault.message)


async def run_trigger(
    context: AppContext,
    runs: RunRegistry,
    trigger: DeployedTrigger,
    event: JSON = None,
    on_respond: Callable[[HttpResponse], None] | None = None,
) -> SourceResult:
    """
    Run *trigger* once and dispatch the events that it emits.

    Args:
        context: Context of the server.
        runs: Runs in progress.
        trigger: The deployed trigger.
        event: The HTTP request that invokes the source; None for a timer.
        on_respond: Receives the source's response to that request.

    Raises:
        PdkernelError: The source cannot run; see `SourceRunner.run`.
    """
    request = build_source_request(context, trigger, "run")
    if event is not None:
        request = replace(request, event=event, on_respond=on_respond or request.on_respond)
    async with runs.source_turns.take(trigger.id) as guard:
        ran = await context.engine.source_runner.run(guard(request))
    if ran.record.error is not None:
        # the message is redacted: it comes from a record
        _log.warning("The deployed trigger %s failed: %s", trigger.id, ran.record.error.message)
    await dispatch_events(context, runs, trigger, ran.events)
    return ran


async def run_hook(context: AppContext, runs: RunRegistry, trigger: DeployedTrigger, hook: SourceAct) -> SourceResult:
    """
    Run a hook of *trigger*'s source.

    Raises:
        PdkernelError: The source cannot run; see `SourceRunner.run`.
    """
    async with runs.source_turns.take(trigger.id) as guard:
        return await context.engine.source_runner.run(guard(build_source_request(context, trigger, hook)))


def trigger_endpoint_url(context: AppContext, trigger: DeployedTrigger) -> str | None:
    """The URL of *trigger*'s endpoint, or None."""
    return f"{context.settings.base_url}/{trigger.endpoint}" if trigger.endpoint else None


def build_source_request(context: AppContext, trigger: DeployedTrigger, act: SourceAct) -> SourceRequest:
    """Build the engine's request for a source."""
    config: dict[str, JSON] = {"uses": f"{trigger.key}@{trigger.version}", "props": dict(trigger.props)}
    return SourceRequest(
        Trigger("source", config=config),
        trigger.id,
        replace(context.settings.policy, public_only=trigger.public_only),
        act=act,
        interface="http",
        external_user_id=trigger.external_user_id,
        environment=trigger.environment,
        folder=context.project.folder,
        endpoint_url=trigger_endpoint_url(context, trigger),
        account_overrides=trigger.accounts,
    )


async def dispatch_events(
    context: AppContext, runs: RunRegistry, trigger: DeployedTrigger, events: Sequence[SourceEvent]
) -> None:
    """
    Store *events*, send them to the trigger's webhooks and start the trigger's workflows.

    The steps of these workflows run under the same policy as for a request to the workflow's endpoint.
    """
    if not events:
        return
    at = int(context.clock.now().timestamp() * 1000)
    kept = [_serialize_event(event, at, context.ids.new("", 20)) for event in events]
    await asyncio.to_thread(context.project.deployed_triggers.add_events, trigger.id, kept)
    for event in events:
        for workflow in trigger.workflows:
            _start_workflow(context, runs, trigger, workflow, event)
    await asyncio.gather(*(_deliver_to_webhook(context, trigger, hook, kept) for hook in trigger.webhooks))


def _serialize_event(event: SourceEvent, at: int, fresh: str) -> dict[str, JSON]:
    """Serialize an event for the API."""
    serialized: dict[str, JSON] = {"e": dict(event.event.data), "k": "emit", "ts": at, "id": fresh}
    return serialized if event.summary is None else {**serialized, "sum": event.summary}


def find_workflow(context: AppContext, name: str) -> ServedWorkflow | None:
    """The served workflow with that id or endpoint key, or None."""
    return context.workflows.find_id(name) or context.workflows.find(name)


def _start_workflow(
    context: AppContext, runs: RunRegistry, trigger: DeployedTrigger, workflow: str, event: SourceEvent
) -> None:
    served = find_workflow(context, workflow)
    if served is None:
        _log.warning("The deployed trigger %s refers to the workflow %s, which is not served.", trigger.id, workflow)
        return
    user, environment = trigger.external_user_id, trigger.environment
    runs.start(build_run_request(context, served, event.event, external_user_id=user, environment=environment))


async def _deliver_to_webhook(
    context: AppContext, trigger: DeployedTrigger, hook: Webhook, events: Sequence[Mapping[str, JSON]]
) -> None:
    """Send *events* in order; a failed delivery is logged and recorded."""
    failing = hook.failures > 0
    for event in events:
        failure = await _post(context, trigger, hook, json.dumps(event["e"]).encode())
        if failure is not None or failing:
            failing = failure is not None
            await asyncio.to_thread(context.project.deployed_triggers.record_delivery, trigger.id, hook.id, failure)
        if failure is not None:
            _log.warning("A webhook of the deployed trigger %s rejected an event: %s", trigger.id, failure)


async def _post(context: AppContext, trigger: DeployedTrigger, hook: Webhook, body: bytes) -> str | None:
    """The reason why the delivery failed, or None."""
    import httpx

    headers = {
        "content-type": "application/json",
        SIGNATURE_HEADER: sign_body(hook.signing_key, int(context.clock.now().timestamp()), body),
        "x-pd-emitter-id": trigger.id,
        "x-pd-external-user-id": trigger.external_user_id,
        "user-agent": "pdkernel",
    }
    binding = CallContext(
        step="webhook",
        policy=replace(context.settings.policy, public_only=hook.public_only),
        redactor=Redactor(()),
        on_call_finished=lambda _: None,
        on_call_refused=lambda _: None,
    )
    try:
        async with open_client(hook.url, context.engine.gateway, binding, timeout_s=TIMEOUT_S) as client:
            answer = await client.post(hook.url, content=body, headers=headers)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as fault:
        return type(fault).__name__
    if REFUSAL_HEADER.decode() in answer.headers:
        return "not sent"
    return None if answer.is_success else f"status {answer.status_code}"

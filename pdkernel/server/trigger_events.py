"""
Hands over the stored events of triggers: starts their runs, and sends the events of deployed triggers to webhooks.

A run is started with the event's dedupe key, so a crash loses no event, and starts no run twice. A webhook receives an event at
least once, and again only if the server died before it recorded the response. A request to a webhook is an outbound call under
the same policy as a step's call.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import urlsplit

from pdkernel.common.blocking import run_blocking
from pdkernel.common.redaction import Redactor
from pdkernel.egress import CallContext, is_loopback
from pdkernel.egress.gateway import open_client
from pdkernel.egress.refusals import REFUSAL_HEADER
from pdkernel.engine.dispatch import look_repeatedly
from pdkernel.engine.http_response import HttpResponse
from pdkernel.engine.run_context import derive_emitter_id, fired_by, trigger_keys
from pdkernel.engine.run_request import RunRequest
from pdkernel.errors import PdkernelError
from pdkernel.event import Event
from pdkernel.server.app_context import AppContext, ServedWorkflow
from pdkernel.server.run_registry import RunRegistry, build_run_request
from pdkernel.server.webhooks import TIMEOUT_S, build_headers, send_stored_events
from pdkernel.storage import DeployedTrigger, EventTarget, TriggerEvent, Webhook

MAX_POLL_INTERVAL_S = 5.0
"""Maximum seconds until an event that another process has stored is noticed."""
_BATCH_SIZE = 100
_LOG = logging.getLogger(__name__)


class TriggerEvents:
    """
    The events of triggers that one server hands over. Belongs to one event loop.

    Args:
        context: The server.
        runs: The runs in progress.
    """

    def __init__(self, context: AppContext, runs: RunRegistry) -> None:
        self._context = context
        self._runs = runs
        self._table = context.project.trigger_events
        self._deployed = context.project.deployed_triggers
        self._turn = asyncio.Lock()
        self._has_events = asyncio.Event()
        context.engine.emitted_events.on_stored = self.notify

    def notify(self) -> None:
        """Let `run` look now, because events were stored."""
        self._has_events.set()

    async def run(self) -> None:
        """Hand over events when they are stored, until the task is cancelled; an unreadable database is tried again."""
        problem = "Events of triggers cannot be read at the moment"
        await look_repeatedly(self._look, self._has_events, problem=problem, retry_s=MAX_POLL_INTERVAL_S)

    async def _look(self) -> float:
        targets = await run_blocking(self._table.list_targets)
        if targets:
            await self._context.workflows.refresh()
        for each in targets:
            if each.is_webhook and not self._runs.source_turns.is_taken(each.id):
                self._runs.start_source(self.send_to_webhook(each))
            if each.is_link:
                self._runs.start_source(send_stored_events(self._context, each))
        await self.start_runs()
        return MAX_POLL_INTERVAL_S

    async def start_runs(self) -> None:
        """Start the runs of events that wait, in order, as long as the limit of runs permits."""
        async with self._turn:
            while self._runs.free_runs > 0:
                targets = [each for each in await run_blocking(self._table.list_targets) if self._serves(each)]
                events = await run_blocking(self._table.list_waiting, targets, _BATCH_SIZE) if targets else []
                for event in events:
                    if not await self._start_run(event):
                        return
                if len(events) < _BATCH_SIZE:
                    return

    def _serves(self, target: EventTarget) -> bool:
        """Return whether this server starts the runs of the target."""
        # a notebook serves drafts, whose own triggers do not fire
        is_fired = self._context.engine.continues_runs or target.deployed_trigger_id is not None
        return is_fired and self._context.workflows.find_id(target.id) is not None

    async def _start_run(self, event: TriggerEvent) -> bool:
        """Start the run of *event*, unless an earlier process has started it; return whether the event no longer waits."""
        if event.problem is not None:
            await self._give_up(event)
            return True
        run_id = await self._context.engine.journal.find_run_id(event.dedupe_key)
        if run_id is None:
            served = self._context.workflows.find_id(event.target.id)
            if served is None or self._runs.free_runs <= 0:
                return False
            request = await self._build_request(served, event)
            if request is None:
                await run_blocking(self._table.finish, event)
                return True
            if not self._runs.has_room(request.external_user_id):
                return False
            run_id = await self._record_run(request, event.dedupe_key)
        if run_id is not None:
            await run_blocking(self._table.finish, event, run_id)
        return run_id is not None

    async def _give_up(self, event: TriggerEvent) -> None:
        """Remove an event that cannot be decrypted; the reason becomes the result of its trigger."""
        _LOG.error("An event of the trigger %s was given up: %s", event.target.key, event.problem)
        await run_blocking(self._table.finish, event)

    async def _record_run(self, request: RunRequest, dedupe_key: str) -> str | None:
        """Start the run of *request*; return the id of the run with that key, or None if no run was recorded."""
        started = self._runs.start(request)
        recorded = await started.recorded
        if isinstance(recorded, HttpResponse):  # too many runs wait: wait for the record of the refused run
            await started.outcome
        elif recorded:
            return started.run_id
        return await self._context.engine.journal.find_run_id(dedupe_key)  # another server has started the run before

    async def _build_request(self, served: ServedWorkflow, event: TriggerEvent) -> RunRequest | None:
        """Build the request for the run of *event*; None if its deployed trigger was removed meanwhile."""
        user, environment, key = event.external_user_id, event.environment, event.target.deployed_trigger_id
        if key is not None:
            deployed = await run_blocking(self._deployed.find, key)
            if deployed is None:
                return None
            user, environment = deployed.external_user_id, deployed.environment
        request = build_run_request(
            self._context,
            served,
            Event(event.data, is_http=False),
            external_user_id=user,
            environment=environment,
            dedupe_key=event.dedupe_key,
        )
        workflow = served.source.workflow
        trigger = trigger_keys(workflow).get(event.target.key)
        if trigger is None:  # a deployed trigger has fired, or the trigger was removed from the workflow since
            return request
        emitter_id = derive_emitter_id(workflow, event.target.key)
        return replace(request, workflow=fired_by(workflow, trigger), emitter_id=emitter_id)

    async def send_to_webhook(self, target: EventTarget) -> None:
        """Send the events that wait for a webhook, in order; a failed delivery is recorded, and is not repeated."""
        try:
            async with self._runs.source_turns.take(target.id):
                while events := await run_blocking(self._table.list_waiting, [target], _BATCH_SIZE):
                    for event in events:
                        await self._send(event)
        except PdkernelError as fault:
            _LOG.warning("The events of the webhook %s cannot be sent at the moment: %s", target.id, fault.message)

    async def _send(self, event: TriggerEvent) -> None:
        trigger = await run_blocking(self._deployed.find, event.target.deployed_trigger_id or "")
        hooks: Sequence[Webhook] = trigger.webhooks if trigger is not None else ()
        hook = next((each for each in hooks if each.id == event.target.id), None)
        if trigger is None or hook is None:  # it was removed since
            await run_blocking(self._table.finish, event)
            return
        failure = event.problem or await self._post(trigger, hook, event)
        await run_blocking(self._deployed.record_delivery, trigger.id, hook.id, failure, event=event)
        if failure is not None:
            _LOG.warning("A webhook of the deployed trigger %s did not receive an event: %s", trigger.id, failure)

    async def _post(self, trigger: DeployedTrigger, hook: Webhook, event: TriggerEvent) -> str | None:
        """Return the reason why the delivery failed, or None."""
        import httpx

        context, body = self._context, json.dumps(event.data).encode()
        headers = {
            **build_headers(hook.signing_key, int(context.clock.now().timestamp()), body),
            "x-pd-emitter-id": trigger.id,
            "x-pd-external-user-id": trigger.external_user_id,
            "idempotency-key": event.dedupe_key,
        }
        binding = CallContext(
            step="webhook",
            policy=replace(context.settings.policy, public_only=hook.public_only),
            redactor=Redactor(()),
            external_user_id=trigger.external_user_id,
            environment=trigger.environment,
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


def has_moved(activated_url: str | None, base_url: str) -> bool:
    """
    Return whether a source must be activated again, so that its app calls the endpoint at the server of *base_url*.

    Args:
        activated_url: The base of the endpoint's URL when the source was activated; None without an endpoint.
        base_url: The base of the server's URLs. A loopback URL, which apps do not reach, replaces no other.
    """
    if activated_url is None or activated_url == base_url:
        return False
    own_host, other_host = (urlsplit(url).hostname or "" for url in (base_url, activated_url))
    return is_loopback(other_host) or not is_loopback(own_host)

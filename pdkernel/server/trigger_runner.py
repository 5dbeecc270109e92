"""
Runs deployed triggers: by their timers, for requests to their endpoints, and their hooks.

The events are stored with the state of the source. `trigger_events` hands them over to workflows and webhooks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial

from sqlalchemy import Connection

from pdkernel.common.blocking import run_blocking
from pdkernel.engine.dispatch import look_repeatedly
from pdkernel.engine.event_sources import SourceAct, SourceEvent, SourceRequest, SourceResult
from pdkernel.errors import PdkernelError, RequestError
from pdkernel.model import JSON, Trigger
from pdkernel.server.app_context import AppContext, ServedWorkflow
from pdkernel.server.run_registry import RunRegistry
from pdkernel.server.source_turns import Guard, SourceOccasion, TimerTicks
from pdkernel.server.trigger_events import MAX_POLL_INTERVAL_S, TriggerEvents, has_moved
from pdkernel.server.workflow_triggers import RETRY_INTERVAL
from pdkernel.storage import DeployedTrigger, EventTarget
from pdkernel.storage.endpoint_keys import format_trigger_source

MAX_DEPLOYMENT_S = 300.0
"""Seconds after which the hooks of a deployment have surely ended."""
_log = logging.getLogger(__name__)


class DeployedTriggers:
    """The deployed triggers that one server runs. Belongs to one event loop."""

    def __init__(self, context: AppContext, runs: RunRegistry, events: TriggerEvents) -> None:
        self._context = context
        self._runs = runs
        self._events = events
        self._table = context.project.deployed_triggers
        self._ticks = TimerTicks(context.clock)
        self._has_run = asyncio.Event()
        self._corrected_jumps = -1  # the jumps of the clock after which due times were corrected

    async def run_due(self) -> None:
        """Run each trigger when it is due, until the task is cancelled; an unreadable database is tried again."""
        problem = "Deployed triggers cannot be read at the moment"
        await look_repeatedly(self._look, self._has_run, problem=problem, retry_s=MAX_POLL_INTERVAL_S)

    async def _look(self) -> float:
        jumps = self._context.project.clock.jumps
        if jumps != self._corrected_jumps:
            await run_blocking(self._table.correct_due)
            self._corrected_jumps = jumps
        for trigger, due in await run_blocking(self._table.list_due):
            is_free = not self._runs.source_turns.is_taken(trigger.id) and self._ticks.may_run(trigger.id)
            if is_free and trigger.is_deployed:
                self._runs.start_source(self._run_tick(trigger, due))
        upcoming = await run_blocking(self._table.next_due)
        wait_s = (
            MAX_POLL_INTERVAL_S if upcoming is None else (upcoming - self._context.project.clock.now()).total_seconds()
        )
        return min(max(wait_s, 0.05), MAX_POLL_INTERVAL_S)

    async def repair(self) -> None:
        """
        Repair what an earlier server has left: sources whose endpoints had another URL, and interrupted deployments.

        The sources are activated again, so that their apps call this server. What fails is tried again until the task is
        cancelled.
        """
        problem, retry_s = "Deployed triggers cannot be activated again at the moment", RETRY_INTERVAL.total_seconds()
        await look_repeatedly(self._repair, asyncio.Event(), problem=problem, retry_s=retry_s)

    async def _repair(self) -> float:
        base_url = self._context.settings.base_url
        active = await run_blocking(self._table.list_active)
        wait_s = math.inf
        for trigger in [each for each in active if not each.is_deployed]:
            # with several servers, another one may be running the hooks
            since = (self._context.clock.now() - trigger.created_at).total_seconds()
            left_s = MAX_DEPLOYMENT_S - since if self._context.project.is_shared else 0.0
            if left_s > 0:
                wait_s = min(wait_s, left_s)
            else:
                await self._remove_interrupted(trigger)
        active = [each for each in active if each.is_deployed]
        moved = [trigger.id for trigger in active if has_moved(trigger.base_url, base_url)]
        is_done = all([await self._activate_again(each) for each in moved])
        return min(wait_s, math.inf if is_done else RETRY_INTERVAL.total_seconds())

    async def _remove_interrupted(self, trigger: DeployedTrigger) -> None:
        """Remove a trigger whose deployment was interrupted: its caller has no response, and deploys another one."""
        async with self._runs.source_turns.take(trigger.id) as guard:
            current = await run_blocking(self._table.find, trigger.id)
            if current is None or current.is_deployed:
                return
            await self._try_hook(guard, current, "deactivate")
            await run_blocking(self._table.remove, trigger.id)
        _log.warning("The deployment of the trigger %s was interrupted, so it was removed.", trigger.id)

    async def _activate_again(self, trigger_id: str) -> bool:
        """Run the hooks of a source for its endpoint at this server; False if `activate` fails, which is logged."""
        base_url = self._context.settings.base_url
        async with self._runs.source_turns.take(trigger_id) as guard:
            trigger = await run_blocking(self._table.find, trigger_id)
            if trigger is None or not trigger.active or not has_moved(trigger.base_url, base_url):
                return True  # it was removed or deactivated, or another process has done this
            await self._try_hook(guard, trigger, "deactivate")
            if not await self._try_hook(guard, trigger, "activate"):
                return False
            await run_blocking(self._table.update, trigger_id, lambda stored: replace(stored, base_url=base_url))
        return True

    async def _try_hook(self, guard: Guard, trigger: DeployedTrigger, hook: SourceAct) -> bool:
        try:
            error = (await self._run_hook(guard, trigger, hook)).record.error
            problem = None if error is None else error.message
        except PdkernelError as fault:
            problem = fault.message
        if problem is not None:
            _log.warning("The %s hook of the deployed trigger %s failed: %s", hook, trigger.id, problem)
        return problem is None

    async def _run_tick(self, trigger: DeployedTrigger, due: datetime) -> None:
        """Run *trigger* for the tick of its timer at *due*, which ends with the source's result."""
        began = self._context.project.clock.now()

        def move_due(connection: Connection | None = None) -> bool:
            now = self._context.project.clock.now()
            upcoming = trigger.schedule.next_after(began, ticked=due)
            if upcoming is not None and upcoming <= now:
                upcoming = trigger.schedule.next_after(now, ticked=due)
            return self._table.move_due(trigger.id, due, upcoming, connection)

        occasion = SourceOccasion(is_due=partial(self._table.is_due, trigger.id, due), settle=move_due)
        with contextlib.suppress(PdkernelError):  # `run` reports it
            await self._ticks.run(trigger.id, lambda: self.run(trigger, occasion), move_due)
        self._has_run.set()

    async def run(self, trigger: DeployedTrigger, occasion: SourceOccasion) -> SourceResult | None:
        """
        Run *trigger* once for *occasion* and store the events that it emits; they are handed over at once.

        Returns:
            None if another process has dealt with *occasion*.

        Raises:
            PdkernelError: As `SourceTurns.run`; the reason is logged.
        """
        request = build_source_request(self._context, trigger, "run")
        targets = self._find_targets(trigger)

        def store_events(connection: Connection, events: Sequence[SourceEvent]) -> None:
            self._store_events(connection, trigger, events, targets)

        request = replace(request, store_events=store_events)
        try:
            ran = await self._runs.source_turns.run(trigger.id, self._context.engine.source_runner, request, occasion)
        except PdkernelError as fault:
            _log.warning("The deployed trigger %s did not run: %s", trigger.id, fault.message)
            raise
        if ran is None:
            return None
        if ran.record.error is not None:
            # the message is redacted: it comes from a record
            _log.warning("The deployed trigger %s failed: %s", trigger.id, ran.record.error.message)
        if ran.events:
            self._runs.start_source(self._hand_over(trigger))
        return ran

    async def run_hook(self, trigger: DeployedTrigger, hook: SourceAct) -> SourceResult:
        """
        Run a hook of *trigger*'s source.

        Raises:
            PdkernelError: The source cannot run; see `SourceRunner.run`.
        """
        async with self._runs.source_turns.take(trigger.id) as guard:
            return await self._run_hook(guard, trigger, hook)

    async def _run_hook(self, guard: Guard, trigger: DeployedTrigger, hook: SourceAct) -> SourceResult:
        def check_trigger(connection: Connection, _: Sequence[SourceEvent]) -> None:
            self._store_events(connection, trigger, (), ())

        request = replace(build_source_request(self._context, trigger, hook), store_events=check_trigger)
        return await self._context.engine.source_runner.run(guard(request))

    async def finish_deployment(self, trigger: DeployedTrigger, events: Sequence[SourceEvent]) -> None:
        """
        Record that the hooks of *trigger*'s deployment have ended, with their *events*, and hand these over.

        Raises:
            RequestError: The trigger was removed meanwhile.
        """
        targets = self._find_targets(trigger)
        if not await run_blocking(self._table.finish_deployment, trigger.id, self._serialize(events), targets):
            raise _build_removed_error(trigger)
        if events:
            await self._hand_over(trigger)

    async def _hand_over(self, trigger: DeployedTrigger) -> None:
        """Start the runs of stored events, and send the trigger's events to its webhooks. The other events wait."""
        key = format_trigger_source(trigger.id)
        webhooks = [EventTarget(hook.id, key) for hook in trigger.webhooks]
        await asyncio.gather(self._events.start_runs(), *map(self._events.send_to_webhook, webhooks))

    def _store_events(
        self, connection: Connection, trigger: DeployedTrigger, events: Sequence[SourceEvent], targets: Sequence[str]
    ) -> None:
        """Store *events* in the transaction of the source's state. Raises `RequestError`, so that none is stored, if it was removed."""
        if not self._table.add_events(trigger.id, self._serialize(events), targets, connection=connection):
            raise _build_removed_error(trigger)

    def _serialize(self, events: Sequence[SourceEvent]) -> list[dict[str, JSON]]:
        """Serialize events for the API, each with a new id."""
        at, serialized = int(self._context.project.clock.now().timestamp() * 1000), []
        for each in events:
            fields: dict[str, JSON] = {
                "e": dict(each.event.data), "k": "emit", "ts": at, "id": self._context.ids.new("", 20)
            }  # fmt: skip
            serialized.append(fields if each.summary is None else {**fields, "sum": each.summary})
        return serialized

    def _find_targets(self, trigger: DeployedTrigger) -> Sequence[str]:
        """Find the ids of the trigger's webhooks, and of its workflows that are served."""
        found = [hook.id for hook in trigger.webhooks]
        for name in trigger.workflows:
            served = find_workflow(self._context, name)
            if served is None:
                _log.warning(
                    "The deployed trigger %s refers to the workflow %s, which is not served.", trigger.id, name
                )
            else:
                found.append(served.id)
        return found


def _build_removed_error(trigger: DeployedTrigger) -> RequestError:
    return RequestError(
        f"The deployed trigger {trigger.id} was removed while its source ran. Nothing was stored.",
        fix="Deploy the trigger again.",
    )


def trigger_endpoint_url(context: AppContext, trigger: DeployedTrigger) -> str | None:
    """Return the URL of *trigger*'s endpoint, or None."""
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
        folder=context.project.folder.parent,
        endpoint_url=trigger_endpoint_url(context, trigger),
        account_overrides=trigger.accounts,
    )


def find_workflow(context: AppContext, name: str) -> ServedWorkflow | None:
    """Return the served workflow with that id or endpoint key, or None."""
    return context.workflows.find_id(name) or context.workflows.find(name)

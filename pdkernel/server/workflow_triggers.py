"""
Fires the triggers of served workflows that are on: schedules, event sources, e-mails, errors and emitted events.

An event is stored, and `trigger_events` starts its run. Triggers that are deployed by the Connect API are in `trigger_runner`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy import Connection

from pdkernel.actions import ActionReference
from pdkernel.common.blocking import run_blocking
from pdkernel.common.clock import format_iso
from pdkernel.engine.dispatch import look_repeatedly
from pdkernel.engine.event_sources import (
    HTTP_INTERFACE,
    TIMER_INTERFACE,
    SourceAct,
    SourceEvent,
    SourceRequest,
    SourceResult,
    timer_setting,
)
from pdkernel.engine.run_context import trigger_keys
from pdkernel.errors import PdkernelError, ProjectError, RequestError, StepError, format_count
from pdkernel.event import Event
from pdkernel.model import JSON, Trigger
from pdkernel.server.app_context import AppContext, ServedWorkflow
from pdkernel.server.batches import Batches
from pdkernel.server.run_registry import RunRegistry
from pdkernel.server.source_turns import Guard, SourceOccasion, TimerTicks, is_of_database
from pdkernel.server.trigger_events import MAX_POLL_INTERVAL_S, TriggerEvents, has_moved
from pdkernel.storage import Schedule, TriggerState

RETRY_INTERVAL = timedelta(minutes=5)
"""Until a source that could not be activated is activated again."""
_LOG = logging.getLogger(__name__)


class WorkflowTriggers:
    """The triggers of the workflows of one server. Belongs to one event loop."""

    def __init__(self, context: AppContext, runs: RunRegistry, events: TriggerEvents, batches: Batches) -> None:
        self._context = context
        self._runs = runs
        self._events = events
        self._batches = batches
        self._table = context.project.workflow_triggers
        self._has_changed = asyncio.Event()
        self._ticks = TimerTicks(context.clock)
        # ids of triggers: servers with different URLs do not activate a source by turns
        self._seen: set[str] = set()
        # those whose sources this server has deactivated: another one may serve a version of the workflow that still has the trigger
        self._removed: set[str] = set()

    async def run(self) -> None:
        """Fire triggers when they are due, until the task is cancelled; an unreadable database is tried again."""
        problem = "Triggers cannot fire at the moment"
        await look_repeatedly(self.fire_due, self._has_changed, problem=problem, retry_s=MAX_POLL_INTERVAL_S)

    async def fire_due(self) -> float:
        """Fire each trigger that is due: store its event, or start its source. Return the seconds until the next look."""
        now = self._context.project.clock.now()
        wait_s = MAX_POLL_INTERVAL_S
        states = await run_blocking(self._table.list_states)
        if states:
            await self._context.workflows.refresh()
        for found in states:
            served = self._context.workflows.find_id(found.workflow_id)
            trigger = trigger_keys(served.source.workflow).get(found.key) if served else None
            if served is None or self._runs.source_turns.is_taken(found.id) or not self._ticks.may_run(found.id):
                continue
            state = found
            if trigger is None or not state.enabled:
                if state.is_active and not (trigger is None and state.id in self._removed):
                    self._runs.start_source(self._deactivate(served, state))
                    self._removed.add(state.id)
                continue
            self._removed.discard(state.id)
            if self._is_outdated(state, trigger):
                state = await self._reconfigure(served, state, trigger)
            self._seen.add(state.id)
            state = await self._correct_times(state, now)
            due = state.due
            if trigger.type == "source" and not state.is_active and (due is None or due <= now):
                self._runs.start_source(self._activate(served, state))
            elif due is not None:
                upcoming = due if due > now else await self._fire(served, state, trigger)
                wait_s = wait_s if upcoming is None else min(wait_s, (upcoming - now).total_seconds())
        return max(wait_s, 0.05)

    async def _correct_times(self, state: TriggerState, now: datetime) -> TriggerState:
        """Return *state*, whose next time is computed anew if it comes from a clock that was ahead."""
        due, since = state.due, min(state.since, now)
        if due is None:
            return state
        if state.type == "source" and not state.is_active:
            upcoming = now if due > now + RETRY_INTERVAL else due
        else:
            upcoming, schedule = due, state.schedule
            if schedule.is_too_late(due, now, since=since, ticked=state.ticked):
                upcoming = schedule.next_after(now, since=since, ticked=state.ticked) or due
        if upcoming == due:
            return state
        await run_blocking(self._table.correct_due, state, since, upcoming)
        return replace(state, since=since, due=upcoming)

    async def receive_email(self, state: TriggerState, event: Mapping[str, JSON]) -> None:
        """Store the event of an e-mail trigger; its run starts at once."""
        await run_blocking(self._table.receive, state, self._new_key(state), event)
        self._events.notify()

    async def run_source(
        self, served: ServedWorkflow, state: TriggerState, occasion: SourceOccasion
    ) -> SourceResult | None:
        """
        Run the source of a trigger once for *occasion*; return None if another process has dealt with it.

        Raises:
            PdkernelError: As `SourceTurns.run`; the reason is logged, and recorded as the trigger's result.
        """
        try:
            request = await self._build_request(served, state, "run")
            ran = await self._runs.source_turns.run(state.id, self._context.engine.source_runner, request, occasion)
        except PdkernelError as fault:
            await self._record_result(state, fault.message)
            raise
        if ran is not None:
            error = ran.record.error
            await self._record_result(state, error.message if error else None, count=len(ran.events))
        self._events.notify()
        return ran

    async def _record_result(self, state: TriggerState, error: str | None, *, count: int = 0) -> None:
        """Record the result of a source; *error* has no secret, because it comes from a redacted record, or from pdkernel."""
        if error is not None:
            _LOG.warning("The source of %r failed: %s", state.workflow_name, error)
        result = format_count(count, "new event") if error is None else f"error: {error}"
        with contextlib.suppress(PdkernelError):  # `run` reports an unreadable database
            await run_blocking(self._table.record_fired, state, result)

    async def _run_tick(self, served: ServedWorkflow, state: TriggerState) -> None:
        """Run the source of a trigger for a tick of its timer, which ends with the source's result."""
        began = self._context.project.clock.now()

        def settle(connection: Connection) -> bool:
            return self._table.move_due(connection, state, self._next_time(state, began))

        occasion = SourceOccasion(is_due=partial(self._table.is_due, state), settle=settle)
        with contextlib.suppress(PdkernelError):  # `run_source` reports it
            await self._ticks.run(
                state.id,
                lambda: self.run_source(served, state, occasion),
                lambda: self._table.fire(state, self._next_time(state, began)),
            )
        self._has_changed.set()

    def _next_time(self, state: TriggerState, began: datetime) -> datetime | None:
        """Return the first time after a tick that began at *began*; times that have passed since are skipped."""
        latest = max(began, self._context.project.clock.now())
        return state.schedule.next_after(latest, since=state.since, ticked=state.due)

    def find_endpoint(self, state: TriggerState | None) -> tuple[ServedWorkflow, Trigger] | None:
        """Return the served workflow and the trigger whose endpoint may be called now, or None."""
        if state is None or not state.enabled or not self._context.engine.continues_runs:
            return None
        served = self._context.workflows.find_id(state.workflow_id)
        trigger = trigger_keys(served.source.workflow).get(state.key) if served is not None else None
        return None if served is None or trigger is None else (served, trigger)

    async def _fire(self, served: ServedWorkflow, state: TriggerState, trigger: Trigger) -> datetime | None:
        """Fire a trigger that is due; return its next time."""
        now = self._context.project.clock.now()
        if trigger.type == "source":
            self._runs.start_source(self._run_tick(served, state))
            return self._next_time(state, now)
        assert state.due is not None, "the trigger is due"
        # after a downtime, only the last of the missed times
        missed = await run_blocking(state.schedule.latest, state.due, now)
        upcoming = state.schedule.next_after(now, since=state.since, ticked=missed)
        if trigger.for_each is not None:
            await self._fire_batch(state, trigger, missed, upcoming)
            return upcoming
        event = Event.from_schedule(trigger.config, missed)
        events = [(f"{state.id}/{format_iso(missed)}", event.data)]
        await run_blocking(partial(self._table.fire, state, upcoming, events, tick=missed))
        self._events.notify()
        return upcoming

    async def _fire_batch(self, state: TriggerState, trigger: Trigger, at: datetime, upcoming: datetime | None) -> None:
        """Store the batch of a tick; a tick before the runs of the last one have started is left out."""
        batch = await self._batches.new_batch(state, trigger, at)
        if await run_blocking(partial(self._table.fire, state, upcoming, batch=batch, tick=at)):
            result = None if batch is not None else "left out: runs of the batch before still wait"
            await run_blocking(self._table.record_fired, state, result)
        self._batches.notify()

    def _is_outdated(self, state: TriggerState, trigger: Trigger) -> bool:
        """Return whether the trigger's settings have changed, or its source was activated with the URL of an earlier server."""
        is_new = state.is_active and state.id not in self._seen
        is_elsewhere = is_new and has_moved(state.base_url, self._context.settings.base_url)
        return is_elsewhere or state.settings != trigger.config or state.type not in (None, trigger.type)

    async def _reconfigure(self, served: ServedWorkflow, state: TriggerState, trigger: Trigger) -> TriggerState:
        """Store the changed settings of a trigger; times count from now. Return the trigger's new state."""
        async with self._runs.source_turns.take(state.id) as guard:
            current = await self._reload(state)
            if not self._is_outdated(current, trigger):  # another server has stored them
                return current
            if state.is_active:
                await self._run_hook(guard, served, state, "deactivate")
            return await self._store_settings(state, trigger)

    async def _reload(self, state: TriggerState) -> TriggerState:
        """Return the state as it is now: another server may have changed it."""
        return await run_blocking(self._table.find, state.id) or state

    async def _store_settings(self, state: TriggerState, trigger: Trigger) -> TriggerState:
        schedule, due, result, now = Schedule(), None, None, self._context.project.clock.now()
        if trigger.type == "schedule":
            schedule = Schedule.from_trigger(trigger.config)
            try:
                schedule.check(now)
                due = schedule.next_after(now, ticked=state.ticked)
            except RequestError as fault:
                _LOG.warning("The schedule of %r does not fire: %s", state.workflow_name, fault.message)
                schedule, result = Schedule(), f"error: {fault.message}"
        changed = replace(
            state,
            settings=dict(trigger.config),
            schedule=schedule,
            since=now,
            due=due,
            is_active=False,
            result=result,
            type=trigger.type,
        )
        await run_blocking(self._table.configure, changed)
        return changed

    async def _activate(self, served: ServedWorkflow, state: TriggerState) -> None:
        """Run the hooks of a source that was enabled, and compute when its timer is due."""
        async with self._runs.source_turns.take(state.id) as guard:
            try:
                current = await self._reload(state)
                # otherwise another server has activated the source
                if current.enabled and not current.is_active and current.due == state.due:
                    await run_blocking(self._table.configure, await self._run_hooks(guard, served, current))
            except ProjectError as fault:
                _LOG.warning("The activation of the source of %r is not stored: %s", state.workflow_name, fault.message)
                self._ticks.postpone(state.id)
        self._events.notify()
        self._has_changed.set()

    async def _run_hooks(self, guard: Guard, served: ServedWorkflow, state: TriggerState) -> TriggerState:
        """Return the state after the activation, also one that has failed. Raises `ProjectError` if the database is the reason."""
        now = self._context.project.clock.now()
        try:
            schedule, base_url = await self._read_interfaces(state)
            request = await self._build_request(served, state, "activate")
            if not await run_blocking(self._context.project.source_states.load, request.state_key):
                # parity[source-deploy]: past events that the deploy hook emits are remembered, and start no runs
                await self._run_request(guard(await self._build_request(served, state, "deploy")))
            await self._run_request(guard(request))
        except PdkernelError as fault:
            if is_of_database(fault):
                raise
            _LOG.warning("The source of %r could not be activated: %s", state.workflow_name, fault.message)
            return replace(state, due=now + RETRY_INTERVAL, result=f"error: {fault.message}")
        due = schedule.next_after(now, since=state.since, ticked=state.ticked)
        return replace(state, schedule=schedule, due=due, is_active=True, result=None, base_url=base_url)

    async def _deactivate(self, served: ServedWorkflow, state: TriggerState) -> None:
        async with self._runs.source_turns.take(state.id) as guard:
            with contextlib.suppress(ProjectError):  # `run` reports an unreadable database
                current = await self._reload(state)
                is_off = not current.enabled or state.key not in trigger_keys(served.source.workflow)
                if is_off and current.is_active:  # otherwise another server has deactivated the source
                    await self._run_hook(guard, served, current, "deactivate")
                    await run_blocking(self._table.configure, replace(current, is_active=False, due=None))

    async def _read_interfaces(self, state: TriggerState) -> tuple[Schedule, str | None]:
        """Return the times of the source's timer and the base of its endpoint's URL. Raises `RequestError` without both."""
        _, description = await self._context.forms.describe(_uses(state))
        interfaces = {prop.type: prop for prop in description.props}
        timer = interfaces.get(TIMER_INTERFACE)
        base_url = self._context.settings.base_url if HTTP_INTERFACE in interfaces else None
        if timer is None:
            if base_url is None:
                raise RequestError(f"{_uses(state)} has no timer and no HTTP interface, so nothing runs it.")
            return Schedule(), base_url
        setting = timer_setting(timer, _props(state))
        return Schedule.from_timer(timer.name, setting, self._context.project.clock.now()), base_url

    async def _run_hook(self, guard: Guard, served: ServedWorkflow, state: TriggerState, hook: SourceAct) -> None:
        """Run a hook; a failure is logged."""
        try:
            await self._run_request(guard(await self._build_request(served, state, hook)))
        except PdkernelError as fault:
            _LOG.warning("The %s hook of the source of %r failed: %s", hook, state.workflow_name, fault.message)

    async def _run_request(self, request: SourceRequest) -> None:
        ran = await self._context.engine.source_runner.run(request)
        if ran.record.error is not None:
            raise StepError(f"The {request.act} hook of {request.uses} failed: {ran.record.error.message}")

    async def _build_request(self, served: ServedWorkflow, state: TriggerState, act: SourceAct) -> SourceRequest:
        context = self._context
        key = await run_blocking(context.project.endpoint_keys.ensure_trigger_key, state.id)

        def store_events(connection: Connection, events: Sequence[SourceEvent]) -> None:
            if act != "deploy":
                stored = [(self._new_key(state), found.event.data) for found in events]
                context.project.trigger_events.add(connection, state.target, stored)

        return SourceRequest(
            Trigger("source", config={**state.settings, "props": _props(state)}),
            state.id,
            served.policy or context.settings.policy,
            act=act,
            folder=served.folder,
            endpoint_url=f"{context.settings.base_url}/{key}",
            interface="http",
            action_sources=served.source.sidecar.actions if served.source.sidecar else (),
            store_events=store_events,
        )

    def _new_key(self, state: TriggerState) -> str:
        """Create the dedupe key of an event without a time of its own."""
        return f"{state.id}/{self._context.ids.new('', 20)}"


def _uses(state: TriggerState) -> ActionReference:
    return ActionReference.parse(str(state.settings.get("uses") or ""))


def _props(state: TriggerState) -> dict[str, JSON]:
    props = state.settings.get("props")
    return props if isinstance(props, dict) else {}

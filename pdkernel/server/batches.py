"""
Records the runs of batches: ticks of schedules with `for_each: external_user`.

One server at a time lists the users of a batch; a server that dies is followed by another one. The runs wait in the journal's
queue of their schedule, so the dispatch of every server starts them, within the limits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from hashlib import sha256

from pdkernel.common.blocking import run_blocking
from pdkernel.common.clock import format_iso
from pdkernel.common.identity import parse_environment
from pdkernel.engine.dispatch import look_repeatedly
from pdkernel.engine.queue_turns import find_limits
from pdkernel.engine.run_context import derive_emitter_id, fired_by, trigger_keys
from pdkernel.engine.run_request import UNWATCHED, RunRequest
from pdkernel.errors import PdkernelError, ProductionPlanError, RequestError
from pdkernel.event import Event
from pdkernel.execution import BatchSummary
from pdkernel.model import JSON, Trigger
from pdkernel.operations.batches import (
    PAGE_SIZE,
    UserSelection,
    build_retry,
    describe_problem,
    iterate_pages,
    summarize,
)
from pdkernel.server.app_context import AppContext, ServedWorkflow
from pdkernel.server.run_registry import RunRegistry, build_run_request
from pdkernel.server.trigger_events import MAX_POLL_INTERVAL_S
from pdkernel.storage import Batch, TriggerState

RECORDED_AT_ONCE = 20
"""Runs of a batch that are recorded in one commit, so that requests are answered between them."""
END_INTERVAL_S = 1.0
"""Seconds between two looks whether the runs of a batch have ended."""
_LOG = logging.getLogger(__name__)


class Batches:
    """
    The batches whose runs one server records. Belongs to one event loop.

    Args:
        context: The server.
        runs: The runs in progress, and the turns of batches.
    """

    def __init__(self, context: AppContext, runs: RunRegistry) -> None:
        self._context = context
        self._runs = runs
        self._table = context.project.batches
        self._journal = context.engine.journal
        self._has_changed = asyncio.Event()

    def notify(self) -> None:
        """Look now, because a batch was stored, or is to be retried."""
        self._has_changed.set()

    async def new_batch(self, state: TriggerState, trigger: Trigger, at: datetime) -> Batch | None:
        """
        Create the batch of a schedule's tick at *at*; None if runs of the schedule's batch before still wait for their start.

        Otherwise a schedule that is faster than its runs would store more and more of them.
        """
        each = trigger.for_each
        assert each is not None, "the schedule has for_each"
        newest = await run_blocking(
            partial(self._table.list_newest, workflow_id=state.workflow_id, trigger_key=state.key, limit=1)
        )
        for before in newest:
            counts = await self._journal.count_batch(before.id)
            if before.state in ("listing", "retrying") or counts.get("ready", 0):
                return None
        digest = sha256(f"{state.id}/{format_iso(at)}".encode()).hexdigest()
        environment = parse_environment(each.environment)
        return Batch(f"batch_{digest[:20]}", state.workflow_id, state.key, state.workflow_name, environment, at)

    async def run(self) -> None:
        """Record the runs of batches, until the task is cancelled; an unreadable database is tried again."""
        problem = "The runs of batches cannot be recorded at the moment"
        await look_repeatedly(self.continue_open, self._has_changed, problem=problem, retry_s=MAX_POLL_INTERVAL_S)

    async def continue_open(self) -> float:
        """Record runs of the batches that are not done, and end those whose runs have ended; return the seconds until the next look."""
        found = await run_blocking(self._table.list_open)
        if found:
            await self._context.workflows.refresh()
        wait_s = MAX_POLL_INTERVAL_S
        for batch in found:
            served = self._context.workflows.find_id(batch.workflow_id)
            if batch.state == "running":
                wait_s = END_INTERVAL_S if await self._end(batch) else wait_s
            elif served is not None and not self._runs.source_turns.is_taken(batch.id):
                self._runs.start_source(self._record(batch.id, served))
        return wait_s

    async def _record(self, batch_id: str, served: ServedWorkflow) -> None:
        """Record the runs of a batch that are not recorded yet, or those of its retry."""
        try:
            async with self._runs.source_turns.take(batch_id):
                batch = await run_blocking(
                    self._table.find, batch_id
                )  # another server may have recorded them meanwhile
                if batch is not None and batch.state == "listing":
                    await self._record_users(batch, served)
                elif batch is not None and batch.state == "retrying":
                    await self._record_retries(batch, served)
        except PdkernelError as fault:
            _LOG.warning(
                "The runs of the batch %s of %r cannot be recorded at the moment: %s",
                batch_id,
                served.source.workflow.name,
                fault.message,
            )
            return
        self.notify()

    async def _record_users(self, batch: Batch, served: ServedWorkflow) -> None:
        workflow, context = served.source.workflow, self._context
        trigger = trigger_keys(workflow).get(batch.trigger_key)
        if trigger is None or trigger.for_each is None:
            problem = "The schedule was removed from the workflow, or has no for_each any more."
            await run_blocking(partial(self._table.set_state, batch, "done", problem=problem))
            return
        event = Event.from_schedule(trigger.config, batch.at)
        selection = await run_blocking(
            UserSelection, trigger.for_each, workflow, context.directory, context.engine.catalog
        )
        try:
            await run_blocking(selection.check_plan)
        except ProductionPlanError as fault:
            await run_blocking(partial(self._table.set_state, batch, "done", problem=describe_problem(fault)))
            return
        build = partial(self._build_request, served, batch, trigger, event)
        async for page in iterate_pages(selection, batch.listed_to):
            await self._enqueue([build(user) for user in page.ready])
            if not await run_blocking(self._table.record_page, batch, page.last, page.skipped):
                return  # another server has taken over
            batch = replace(batch, listed_to=page.last)
        await run_blocking(self._table.set_state, batch, "running")

    def _build_request(
        self, served: ServedWorkflow, batch: Batch, trigger: Trigger, event: Event, external_user_id: str
    ) -> RunRequest:
        workflow = served.source.workflow
        return build_run_request(
            self._context,
            served,
            event,
            external_user_id=external_user_id,
            environment=batch.environment,
            workflow=fired_by(workflow, trigger),
            emitter_id=derive_emitter_id(workflow, batch.trigger_key),
            dedupe_key=batch.dedupe_key(external_user_id),
            batch=batch.id,
        )

    async def _record_retries(self, batch: Batch, served: ServedWorkflow) -> None:
        """Record a new run for each user whose newest run failed; calls that were sent are not sent again."""
        failed = [run for run in await self._journal.batch_runs(batch.id) if run.status == "error"]
        for start in range(0, len(failed), PAGE_SIZE):
            requests = []
            for run in failed[start : start + PAGE_SIZE]:
                try:
                    requests.append(await build_retry(self._context.engine, batch, run, served.source))
                except PdkernelError as fault:
                    _LOG.warning("The run %s of the batch %s is not retried: %s", run.id, batch.id, fault.message)
            await self._enqueue(requests)
        await run_blocking(self._table.set_state, batch, "running")

    async def _enqueue(self, requests: Sequence[RunRequest]) -> None:
        """Record runs that wait for their start. A run whose key is recorded already is not recorded again."""
        engine = self._context.engine
        for start in range(0, len(requests), RECORDED_AT_ONCE):
            some = requests[start : start + RECORDED_AT_ONCE]
            await asyncio.gather(*(engine.enqueue(each, find_limits(each), UNWATCHED) for each in some))
            self._runs.dispatch.notify()

    async def _end(self, batch: Batch) -> bool:
        """End the batch if all its runs have ended, and report those that failed; return whether it goes on."""
        counts = await self._journal.count_batch(batch.id)
        if any(counts.get(status, 0) for status in ("ready", "running", "paused")):
            return True
        if counts.get("error", 0):
            await self._report(batch)
        await run_blocking(self._table.set_state, batch, "done")
        return False

    async def _report(self, batch: Batch) -> None:
        """Send one notification about all failed runs of the batch, instead of one about each."""
        runs = await self._journal.batch_runs(batch.id)
        summary = summarize(batch, runs, await run_blocking(self._table.list_skips, batch.id))
        failed = [user for user in summary.failed if user.status == "error"]
        if failed:
            facts = _build_facts(summary, self._context.settings.base_url)
            try:
                await self._context.engine.report_batch(failed[0].run, facts, batch.round + 1)
            except RequestError as fault:  # its run cannot be restored
                _LOG.warning("The failed runs of the batch %s cannot be reported: %s", batch.id, fault.message)


MAX_REPORTED = 10
"""Failed users that a notification names."""


def _build_facts(summary: BatchSummary, base_url: str) -> dict[str, JSON]:
    return {
        "workflow": summary.workflow,
        "batch": summary.id,
        "environment": summary.environment,
        "at": summary.at,
        "users": summary.users,
        "succeeded": summary.succeeded,
        "failed": len(summary.failed),
        "skipped": len(summary.skipped),
        "first_failed": [
            {"external_user": user.external_user, "run": user.run, "error": user.error}
            for user in summary.failed[:MAX_REPORTED]
        ],
        "command": f"pdkernel runs batch {summary.id}",
        "url": f"{base_url}/-/batches/{summary.id}",
    }

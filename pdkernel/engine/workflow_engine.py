"""
Assembles and closes the parts that one process needs to run workflows.

A notebook session, the command line, a test and the server each start a `WorkflowEngine`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pdkernel.actions import Catalog
from pdkernel.common.blocking import run_blocking
from pdkernel.common.clock import RANDOM_IDS, SYSTEM_CLOCK, Clock, IdGenerator
from pdkernel.common.identity import Directory
from pdkernel.egress import Gateway, OutboundPolicy, ServerGateway
from pdkernel.engine.deliveries import MAX_TRIES, NOTIFICATION_STEP
from pdkernel.engine.dispatch import POLL_INTERVAL_S
from pdkernel.engine.emitted_events import ERRORS_CHANNEL, EmittedEvents
from pdkernel.engine.event_sources import SourceRunner
from pdkernel.engine.interpreter import Interpreter, acknowledge_cancellation
from pdkernel.engine.pauses import FlowVerb
from pdkernel.engine.queue_turns import QueueLimits, QueueTurn
from pdkernel.engine.record_writes import RunLostError, retry_unreachable
from pdkernel.engine.restored_run import (
    RestoredRun,
    restore_request,
    restore_run,
    restore_shown,
    restore_shown_request,
    seal_payload,
    unseal_message,
)
from pdkernel.engine.run_context import new_run_ids
from pdkernel.engine.run_deliveries import RunDeliveries
from pdkernel.engine.run_record import RunOutbox
from pdkernel.engine.run_request import UNWATCHED, RunRequest, RunWatcher, WorkflowFinder
from pdkernel.engine.run_state import build_unexpected_error
from pdkernel.engine.step_packages import StepPackages, go_programs, step_access
from pdkernel.engine.variables import load_variables
from pdkernel.errors import DamagedRecordError, InternalError, PdkernelError, ProjectError
from pdkernel.execution import UNFINISHED_STATUSES, Execution
from pdkernel.files.source import find_sibling_workflow
from pdkernel.journal import (
    MAX_LANES,
    ClaimedRun,
    Journal,
    NewDecision,
    OutboxRow,
    WaitKey,
    WaitResolution,
    open_journal,
)
from pdkernel.model import JSON
from pdkernel.storage import Project
from pdkernel.workers import StepPool, WorkerPool

_log = logging.getLogger(__name__)


class WorkflowEngine:
    """
    Runs workflows. Create an engine with `start`, inside a running event loop.

    Attributes:
        origin: What this process is: `serve`, `notebook`, `draft ID` (the server of a notebook), `terminal` or `python`.
        journal: The journal.
        ids: The source of run ids.
        gateway: The gateway for outbound calls.
        catalog: The pre-built actions.
        emitted_events: What runs emit for triggers of workflows.
        find_workflow: Finds workflows that steps of continued runs trigger; a server also finds those that it serves.
        base_url: The URL of the server of this process, for continued runs; or None.
        has_dispatch: Whether a server of this process starts runs that wait for the limits of their workflow.
    """

    def __init__(
        self,
        project: Project,
        directory: Directory,
        *,
        journal: Journal,
        gateway: ServerGateway,
        workers: StepPool,
        packages: StepPackages,
        environ: Mapping[str, str],
        clock: Clock,
        ids: IdGenerator,
        shares_workers: bool,
        origin: str,
        catalog: Catalog | None = None,
    ) -> None:
        self.origin = origin
        self.journal = journal
        self._project = project
        self.directory = directory
        self._clock = clock
        self.ids = ids
        self.gateway = gateway
        self.catalog = catalog or Catalog.for_project(project, environ=environ)
        self.workers = workers
        self._shares_workers = shares_workers
        self.emitted_events = EmittedEvents(project.workflow_triggers, ids)
        self.find_workflow: WorkflowFinder = find_sibling_workflow
        self.base_url: str | None = None
        self.has_dispatch = False
        self._busy_lanes: set[str] = set()  # destinations to which due messages are sent now
        self._is_claiming_deliveries = False
        emitted = self.emitted_events if self.continues_runs else None
        self._deliveries = RunDeliveries.for_project(project, directory, journal, gateway, clock, emitted)
        self._interpreter = Interpreter(
            directory=directory,
            stores=project.data_stores,
            workers=workers,
            catalog=self.catalog,
            packages=packages,
            journal=journal,
            clock=clock,
            ids=ids,
            vault=project.vault,
            root=project.folder.parent,
            file_store=project.folder / "files",
            deliveries=self._deliveries,
            claim_after_pause=self._claim_after_pause,
            watch_cancellation=self._watch_cancellation,
            has_dispatch=lambda: self.has_dispatch,
        )
        self.source_runner = SourceRunner(
            directory=directory,
            workers=workers,
            catalog=self.catalog,
            states=project.source_states,
            clock=clock,
        )

    @classmethod
    async def start(
        cls,
        project: Project,
        directory: Directory,
        *,
        clock: Clock = SYSTEM_CLOCK,
        ids: IdGenerator = RANDOM_IDS,
        max_active_runs: int | None = None,
        memory_budget: int | None = None,
        spares: int = 0,
        requires_isolation: bool = False,
        gateway: Gateway | None = None,
        workers: StepPool | None = None,
        environ: Mapping[str, str] | None = None,
        packages: StepPackages | None = None,
        python_executable: Path | None = None,
        origin: str = "terminal",
    ) -> Self:
        """
        Open the journal and the gateway; workers start when the first step needs them.

        Args:
            project: The project with the journal and the key.
            directory: Users and accounts.
            clock: For every time stamp.
            ids: For run ids.
            max_active_runs: The number of runs that execute at once, as in `WorkerPool`.
            spares: The number of slots whose workers are started ahead, as in `WorkerPool`.
            memory_budget: The bytes that all workers may use before idle workers end; None for the default.
            requires_isolation: Refuse runs whose steps would not be apart from this process, as `WorkerPool`.
            gateway: An existing gateway (tests pass one for loopback), or None to start a new one.
            workers: A worker pool with its gateway that another engine shares; `close` leaves both open.
            environ: Environment variables for package installers; `os.environ` by default.
            packages: Packages of another project, or None for the project's own.
            python_executable: An interpreter with packages for all Python steps; None for an environment per workflow.
            origin: As the attribute.
        """
        environ = os.environ if environ is None else environ
        async with contextlib.AsyncExitStack() as undo:
            journal = await run_blocking(open_journal, project, clock=clock, ids=ids, origin=origin)
            undo.push_async_callback(journal.close)
            await run_blocking(project.check_key)
            if gateway is None:
                gateway = await Gateway.start(project.folder / "egress", clock=journal.clock)
                undo.push_async_callback(gateway.close)
            engine = cls(
                project,
                directory,
                journal=journal,
                gateway=gateway,
                workers=workers
                or WorkerPool(
                    gateway=gateway,
                    max_active_runs=max_active_runs,
                    memory_budget=memory_budget,
                    spares=spares,
                    requires_isolation=requires_isolation,
                    python=python_executable,
                    go_cache=go_programs(project.folder, environ),
                    access=step_access(project.folder, gateway.certificate_files, project=project),
                ),
                packages=packages or StepPackages.for_project(project.folder, environ, python=python_executable),
                environ=environ,
                clock=journal.clock,
                ids=ids,
                shares_workers=workers is not None,
                origin=origin,
            )
            undo.pop_all()
        return engine

    @property
    def continues_runs(self) -> bool:
        """Whether the next process of this origin continues the runs that this process leaves."""
        return self.origin == "serve"

    async def run(
        self, request: RunRequest, watcher: RunWatcher = UNWATCHED, *, turn: QueueTurn | None = None
    ) -> Execution:
        """
        Run *request* and return its record; see `Interpreter.run`. Another process may cancel the run.

        With the pause mode `wait`, the record is that of the run's end; else it may be that of a pause.
        """
        run_id, trace_id = request.run_ids or new_run_ids(self.ids)
        request = request if request.run_ids else request.with_changes(run_ids=(run_id, trace_id))
        if self.journal.is_lost and not self.continues_runs:  # the dispatch of a server calls `rejoin` itself
            await self.journal.rejoin()
        execution = await self._read_cancelled(await self._interpreter.run(request, watcher, turn=turn))
        while execution.status == "paused" and request.pause_mode == "wait":
            execution = await self.continue_after_pause(run_id, watcher, request=request)
        return execution

    async def continue_after_pause(
        self,
        run_id: str,
        watcher: RunWatcher = UNWATCHED,
        *,
        request: RunRequest | None = None,
        is_ending: Callable[[], bool] = lambda: False,
    ) -> Execution:
        """
        Wait for the end of a run's pause, continue the run, and return its record at its next pause or its end.

        If another process continues the run, wait for the run's end there. If the task is cancelled, so is the run.

        Args:
            run_id: The id of the run.
            watcher: Who watches the run.
            request: The request of a run of this process, with what the journal does not store; None reads the journal.
            is_ending: Returns whether this process ends, so that a cancelled wait leaves the run paused.
        """
        claimed = None
        try:
            claimed = await self._claim_after_pause(run_id, watcher)
        except asyncio.CancelledError:
            if is_ending():
                raise
            acknowledge_cancellation()
            await self.journal.cancel(run_id)
        return await (self.continue_run(claimed, watcher, request=request) if claimed else self._recorded(run_id))

    async def _claim_after_pause(self, run_id: str, watcher: RunWatcher = UNWATCHED) -> ClaimedRun | None:
        """As `claim_after_pause` of `Interpreter`. The dispatcher of a server claims all its runs."""
        published: Execution | None = None
        while True:
            execution = await self.journal.get_execution(run_id)
            if execution is None or execution.status not in UNFINISHED_STATUSES:
                return None
            if watcher.on_change is not None and execution.status != "paused" and execution != published:
                published = execution
                watcher.on_change(execution)
            pause = execution.pause
            seconds = None
            if not self.continues_runs and execution.status == "resumed":
                if (claimed := await self.journal.claim(run_id)) is not None:
                    return claimed
            elif not self.continues_runs and pause is not None and pause.until is not None:
                seconds = (datetime.fromisoformat(pause.until) - self._clock.now()).total_seconds()
                if seconds <= 0 and await self.journal.wake_due():
                    continue
            await self._sleep_or_poll(seconds)

    async def _sleep_or_poll(self, seconds: float | None) -> None:
        """Sleep for *seconds* on the clock, but not longer than until the journal is read again."""
        waits = [asyncio.ensure_future(asyncio.sleep(POLL_INTERVAL_S))]
        if seconds is not None:  # the end in the record is rounded to milliseconds
            waits.append(asyncio.ensure_future(self._clock.sleep(max(seconds, 0.001))))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _recorded(self, run_id: str) -> Execution:
        if (execution := await self.journal.get_execution(run_id)) is None:
            raise InternalError(f"The record of the run {run_id} is gone.")
        return execution

    def _shown_request(self, claimed: ClaimedRun) -> RunRequest:
        """Build a request for the end of a claimed run whose own request cannot be restored."""
        return replace(restore_shown_request(claimed, self._project.folder.parent), base_url=self.base_url)

    def restore_request(self, claimed: ClaimedRun) -> RunRequest:
        """
        Build the request of a claimed run, with the variables of today.

        Raises:
            ProjectError: The run cannot be continued.
            RequestError: The `.env` beside the workflow cannot be read.
        """
        request, sends_once = restore_request(claimed, self._project.vault, self._project.folder.parent)
        load = partial(load_variables, self._project)
        return replace(
            request,
            variables=load(request.folder),
            load_variables=load,
            idempotency=self._project.idempotency if sends_once else None,
            find_workflow=self.find_workflow,
            base_url=self.base_url or request.base_url,
        )

    async def enter_queue(self, request: RunRequest) -> QueueTurn | None:
        """Let a run that no dispatcher starts wait for its turn; see `Interpreter.enter_queue`."""
        return await self._interpreter.enter_queue(request)

    async def enqueue(
        self, request: RunRequest, limits: QueueLimits | None, watcher: RunWatcher, *, origin: str | None = None
    ) -> bool:
        """Record the run of *request* as waiting for its start; see `Interpreter.enqueue`."""
        return await self._interpreter.enqueue(request, limits, watcher, origin=origin)

    async def deliver_due(self, policy: OutboundPolicy | None = None) -> None:
        """
        Deliver messages of served runs whose first try failed or did not take place; *policy* is as for `continue_run`.

        A destination gets its messages one after another. A call while an earlier one waits for a destination delivers to the
        others.
        """
        if self._is_claiming_deliveries:
            return
        self._is_claiming_deliveries = True
        try:
            room = MAX_LANES - len(self._busy_lanes)
            claimed = await self.journal.claim_deliveries(busy=frozenset(self._busy_lanes), lanes=room) if room else ()
            lanes: dict[str, list[tuple[str, OutboxRow, int]]] = {}
            for message in claimed:
                lanes.setdefault(message[1].lane, []).append(message)
            self._busy_lanes.update(lanes)
        finally:
            self._is_claiming_deliveries = False
        tasks = {
            asyncio.create_task(self._deliver_lane(lane, messages, policy)): lane for lane, messages in lanes.items()
        }
        for task in tasks:  # also of a task that is cancelled before it begins
            task.add_done_callback(lambda ended: self._busy_lanes.discard(tasks[ended]))
        await asyncio.gather(*tasks)

    async def _deliver_lane(
        self, lane: str, messages: Sequence[tuple[str, OutboxRow, int]], policy: OutboundPolicy | None
    ) -> None:
        try:
            while messages:
                for run_id, row, tries in messages:
                    await self._deliver_message(run_id, row, tries, policy)
                messages = await self.journal.claim_deliveries(lane=lane)
        except PdkernelError as fault:  # the messages are due again later
            _log.warning("Messages that are due cannot be delivered at the moment: %s", fault.message)

    async def _deliver_message(self, run_id: str, row: OutboxRow, tries: int, policy: OutboundPolicy | None) -> None:
        try:
            found = await self.journal.load_run(run_id)
            if found is not None:
                effect = unseal_message(row, run_id, self._project.vault)
                request = await run_blocking(self._restore_sender, found[1], row)
                request = replace(request, policy=request.policy.in_server(policy))
                await self._deliveries.deliver_again(request, run_id, row, effect, tries)
        except PdkernelError as fault:
            _log.warning("A message of the run %s could not be delivered: %s", run_id, fault.message)
            await self._record_failure(run_id, row, tries, fault)

    def _restore_sender(self, claimed: ClaimedRun, row: OutboxRow) -> RunRequest:
        """Build the request of the run that sends a message. A run that could not be continued still reports that. Raises as `restore_request`."""
        try:
            return self.restore_request(claimed)
        except PdkernelError:
            if row.path not in (ERRORS_CHANNEL, NOTIFICATION_STEP):
                raise
            return self._shown_request(claimed)

    async def _record_failure(self, run_id: str, row: OutboxRow, tries: int, fault: PdkernelError) -> None:
        """Record why a message could not be delivered, unless the database is at fault: then it is due again later."""
        is_damaged = isinstance(fault, DamagedRecordError)
        if isinstance(fault, ProjectError) and not is_damaged:
            return
        try:
            await run_blocking(self._project.check_key)  # another process may have replaced the key, and can decrypt it
            await self._deliveries.record_failure(run_id, row, MAX_TRIES if is_damaged else tries + 1, fault.message)
        except PdkernelError as unwritten:
            _log.warning("That a message failed could not be recorded: %s", unwritten.message)

    async def report_batch(self, run_id: str, facts: Mapping[str, JSON], number: int) -> None:
        """
        Queue the messages about a batch that ended with failed runs; a second call with the same *number* queues nothing.

        Args:
            run_id: The first failed run, to which the messages belong.
            facts: The summary, for the notification.
            number: 1 for the end of the batch, 2 for that of its first retry.

        Raises:
            ProjectError: The database cannot be used, or the run cannot be restored.
        """
        found = await self.journal.load_run(run_id)
        if found is None:  # it was removed meanwhile
            return
        execution, claimed = found
        request = await run_blocking(self.restore_request, claimed)
        outbox = RunOutbox(run_id, self._project.vault)
        rows = await run_blocking(self._deliveries.build_batch_messages, request, execution, facts, outbox, number)
        if rows:
            await self.journal.add_messages(run_id, rows)

    def restore_state(self, claimed: ClaimedRun) -> RestoredRun:
        """Return the recorded state of a run. Raises `ProjectError` if a row is damaged, or was encrypted with another key."""
        return restore_run(claimed, self._project.vault)

    async def resolve_wait(
        self, key: WaitKey, verb: FlowVerb, payload: JSON = None, *, decision: NewDecision | None = None
    ) -> WaitResolution:
        """Resume or cancel the run that pauses at *key*; *payload* is the body of the call that resumes it."""
        sealed = None if payload is None else seal_payload(payload, key.run_id, key.path, self._project.vault)
        return await self.journal.resolve_wait(
            key, "resumed" if verb == "resume" else "cancelled", sealed, decision=decision
        )

    async def continue_run(
        self,
        claimed: ClaimedRun,
        watcher: RunWatcher = UNWATCHED,
        *,
        policy: OutboundPolicy | None = None,
        request: RunRequest | None = None,
    ) -> Execution:
        """
        Continue a claimed run and return its record. A run that cannot be continued ends with the reason.

        Args:
            claimed: The run.
            watcher: Who watches the run.
            policy: The policy of this process; see `OutboundPolicy.in_server`.
            request: The request of a run of this process; None reads the journal.
        """
        place = self._interpreter.new_place(claimed)
        was_restored = True
        try:
            try:
                if request is None:
                    restore = partial(run_blocking, self.restore_request, claimed)
                    request = await retry_unreachable(restore, self.journal.clock, self._check_lease)
                state = self.restore_state(claimed)
            except Exception as fault:  # noqa: BLE001 - it ends like every failed run, with all who want to know of it
                if self.journal.is_lost:  # another process continues the run
                    return await self._recorded(claimed.claim.run_id)
                if not isinstance(fault, PdkernelError):
                    _log.exception("The run %s cannot be continued", claimed.claim.run_id)
                error = fault if isinstance(fault, PdkernelError) else build_unexpected_error(fault)
                was_restored = False
                request = request or self._shown_request(claimed)
                state = restore_shown(claimed, error)
            request = replace(request, policy=request.policy.in_server(policy))
            continued = await self._interpreter.continue_run(request, state, watcher, place=place)
        finally:
            place.give_back()
        if not was_restored:  # the journal shows more than this process could restore
            with contextlib.suppress(PdkernelError):
                return await self._recorded(claimed.claim.run_id)
        return await self._read_cancelled(continued)

    @property
    def executing_run_ids(self) -> Collection[str]:
        """The ids of the runs that this process executes, or will when they get their place; with child runs."""
        return self._interpreter.executing_run_ids

    @property
    def expected_places(self) -> int:
        """The number of runs that would begin to execute at once."""
        return self.workers.expected_places

    async def _check_lease(self) -> None:
        """Raise `RunLostError` if other processes may continue the runs of this one."""
        if self.journal.is_lost:
            raise RunLostError

    async def _read_cancelled(self, execution: Execution) -> Execution:
        """Return the journal's record of a run that another process has cancelled, else *execution*."""
        if execution.error is None or execution.error.code != RunLostError.code:
            return execution
        recorded = await self.journal.get_execution(execution.id)
        return recorded if recorded is not None and recorded.status == "cancelled" else execution

    def _watch_cancellation(self, run_id: str, request: RunRequest) -> Callable[[], object]:
        """As `watch_cancellation` of `Interpreter`. A server's dispatch cancels all its runs that no step has triggered."""
        if self.continues_runs and request.depth == 0:
            return lambda: None
        return asyncio.create_task(self._cancel_with(run_id, asyncio.current_task())).cancel

    async def _cancel_with(self, run_id: str, task: asyncio.Task[Any] | None) -> None:
        is_cancelled = False
        while task is not None and not is_cancelled:
            await asyncio.sleep(POLL_INTERVAL_S)
            with contextlib.suppress(PdkernelError):  # the loop reads an unreadable database again
                is_cancelled = bool(await self.journal.find_cancelled([run_id])) and task.cancel()

    async def close(self) -> None:
        """Close pool and gateway unless they are shared; close the journal."""
        if not self._shares_workers:
            await self.workers.close()
            await self.gateway.close()
        await self.journal.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

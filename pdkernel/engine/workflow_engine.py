"""
Assembles and closes the parts that one process needs to run workflows.

A notebook session, the command line, a test and the server each start a `WorkflowEngine`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pdkernel.actions import Catalog
from pdkernel.clock import RANDOM_IDS, SYSTEM_CLOCK, Clock, IdGenerator
from pdkernel.egress import Gateway, OutboundPolicy
from pdkernel.engine.action_forms import ActionForms
from pdkernel.engine.dispatch import POLL_INTERVAL_S
from pdkernel.engine.event_sources import SourceRunner
from pdkernel.engine.interpreter import Interpreter
from pdkernel.engine.journal import (
    ClaimedRun,
    Journal,
    WaitKey,
    WaitResolution,
    encode_output,
    open_journal,
)
from pdkernel.engine.mail import parse_mail_settings
from pdkernel.engine.pauses import FlowVerb
from pdkernel.engine.record_writes import RunLostError, retry_unreachable
from pdkernel.engine.restored_run import RestoredRun, restore_request, restore_run, seal_payload, unseal_message
from pdkernel.engine.run_context import new_run_ids
from pdkernel.engine.run_request import UNWATCHED, QueueLimits, RunRequest, RunWatcher
from pdkernel.engine.step_packages import StepPackages, go_programs
from pdkernel.errors import PdkernelError
from pdkernel.execution import ErrorRecord, Execution
from pdkernel.identity import Directory
from pdkernel.model import JSON
from pdkernel.project import Project
from pdkernel.runtimes.file_tree import remove_tree
from pdkernel.source import sibling_workflow_finder
from pdkernel.variables import load_variables
from pdkernel.workers import WARDEN, WorkerPool, make_scratch_folder

_log = logging.getLogger(__name__)


class WorkflowEngine:
    """
    Runs workflows. Create an engine with `start`, inside a running event loop.

    Attributes:
        origin: What this process is: `serve`, `notebook`, `terminal` or `python`.
        journal: The journal.
        ids: The source of run ids.
        gateway: The gateway for outbound calls.
        catalog: The pre-built actions.
    """

    def __init__(
        self,
        project: Project,
        directory: Directory,
        *,
        journal: Journal,
        gateway: Gateway,
        workers: WorkerPool,
        packages: StepPackages,
        environ: Mapping[str, str],
        clock: Clock,
        ids: IdGenerator,
        shares_workers: bool,
        origin: str,
    ) -> None:
        self.origin = origin
        self.journal = journal
        self._project = project
        self.ids = ids
        self.gateway = gateway
        self.catalog = Catalog.for_project(project, environ=environ)
        self._workers = workers
        self._shares_workers = shares_workers
        self._scratch = make_scratch_folder("pdkernel-")
        WARDEN.register_folder(self._scratch)  # a notebook's kernel is often killed without a chance to clean up
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
            scratch=self._scratch,
            root=project.folder.parent,
            file_store=project.folder / "files",
            mail=lambda: parse_mail_settings(project.settings.all_settings(), project.variables.values()),
            error_notification=lambda: _as_text(project.settings.get("error_notification")),
        )
        self.forms = ActionForms(directory=directory, workers=workers, catalog=self.catalog, scratch=self._scratch)
        self.source_runner = SourceRunner(
            directory=directory,
            workers=workers,
            catalog=self.catalog,
            states=project.source_states,
            clock=clock,
            scratch=self._scratch,
        )

    @classmethod
    async def start(
        cls,
        project: Project,
        directory: Directory,
        *,
        clock: Clock = SYSTEM_CLOCK,
        ids: IdGenerator = RANDOM_IDS,
        max_active_runs: int = 8,
        gateway: Gateway | None = None,
        workers: WorkerPool | None = None,
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
            max_active_runs: The maximum number of concurrent runs.
            gateway: An existing gateway (tests pass one for loopback), or None to start a new one.
            workers: A worker pool with its gateway that another engine shares; `close` leaves both open.
            environ: Environment variables for package installers; `os.environ` by default.
            packages: Packages of another project, or None for the project's own.
            python_executable: An interpreter with packages for all Python steps; None for an environment per workflow.
            origin: What this process is: `serve`, `notebook`, `terminal` or `python`.
        """
        journal = open_journal(project, clock=clock, ids=ids, origin=origin)
        gateway = gateway or await Gateway.start(project.folder / "egress", clock=clock)
        environ = os.environ if environ is None else environ
        return cls(
            project,
            directory,
            journal=journal,
            gateway=gateway,
            workers=workers
            or WorkerPool(
                gateway=gateway,
                max_active_runs=max_active_runs,
                python=python_executable,
                go_cache=go_programs(project.folder, environ),
                extra_read_folders=(project.folder,),
            ),
            packages=packages or StepPackages.for_project(project.folder, environ, python=python_executable),
            environ=environ,
            clock=journal.clock,
            ids=ids,
            shares_workers=workers is not None,
            origin=origin,
        )

    @property
    def continues_runs(self) -> bool:
        """Whether the next process of this origin continues the runs that this process leaves."""
        return self.origin == "serve"

    async def run(self, request: RunRequest, watcher: RunWatcher = UNWATCHED) -> Execution:
        """Run *request* and return its record; see `Interpreter.run`. Another process may cancel the run."""
        if request.run_ids is None:
            request = replace(request, run_ids=new_run_ids(self.ids))
        assert request.run_ids is not None
        async with self._cancellable(request.run_ids[0]):
            return await self._read_cancelled(await self._interpreter.run(request, watcher))

    def restore_request(self, claimed: ClaimedRun) -> RunRequest:
        """
        Build the request of a claimed run, with the variables of today.

        Raises:
            ProjectError: The run cannot be continued.
            RequestError: The `.env` beside the workflow cannot be read.
        """
        request, sends_once = restore_request(claimed, self._project.vault, self._project.folder.parent)
        return replace(
            request,
            variables=load_variables(self._project, request.folder),
            idempotency=self._project.idempotency if sends_once else None,
            find_workflow=None if request.source_path is None else sibling_workflow_finder(request.source_path),
        )

    async def enqueue(
        self, request: RunRequest, limits: QueueLimits | None, watcher: RunWatcher, *, origin: str | None = None
    ) -> bool:
        """Record the run of *request* as waiting for its start; see `Interpreter.enqueue`."""
        return await self._interpreter.enqueue(request, limits, watcher, origin=origin)

    async def deliver_due(self) -> None:
        """Deliver messages of served runs whose first try failed or did not take place."""
        for run_id, row, tries in await self.journal.claim_deliveries():
            try:
                found = await self.journal.load_run(run_id)
                if found is not None:
                    effect = unseal_message(row, run_id, self._project.vault)
                    await self._interpreter.deliver_again(self.restore_request(found[1]), run_id, row, effect, tries)
            except PdkernelError as fault:  # the message is due again later, and must not hold up the others
                _log.warning("A message of the run %s could not be delivered: %s", run_id, fault.message)

    def restore_state(self, claimed: ClaimedRun) -> RestoredRun:
        """Return the recorded state of a run. Raises `ProjectError` if a row is damaged, or was encrypted with another key."""
        return restore_run(claimed, self._project.vault)

    async def resolve_wait(self, key: WaitKey, verb: FlowVerb, payload: JSON = None) -> WaitResolution:
        """Resume or cancel the run that pauses at *key*; *payload* is the body of the call that resumes it."""
        sealed = None if payload is None else seal_payload(payload, key.run_id, key.path, self._project.vault)
        return await self.journal.resolve_wait(key, "resumed" if verb == "resume" else "cancelled", sealed)

    async def continue_run(
        self, claimed: ClaimedRun, watcher: RunWatcher = UNWATCHED, *, policy: OutboundPolicy | None = None
    ) -> Execution:
        """
        Continue a claimed run and return its record. A run that cannot be continued ends with the reason.

        Args:
            claimed: The run.
            watcher: Who watches the run.
            policy: The policy of this process: it replaces the run's own, unless this one is `live` or the other `deny`.
        """
        try:
            restore = partial(asyncio.to_thread, self.restore_request, claimed)
            request = await retry_unreachable(restore, self.journal.clock, self._check_lease)
            state = self.restore_state(claimed)
        except PdkernelError as fault:
            error = ErrorRecord(fault.code, type(fault).__name__, str(fault))
            await self.journal.finish(claimed.claim, "error", encode_output(error=error))
            execution = await self.journal.get_execution(claimed.claim.run_id)
            assert execution is not None, "a claimed run has a record"
            return execution
        if policy is not None and policy.mode != "live" and request.policy.mode != "deny":
            request = replace(request, policy=replace(policy, public_only=request.policy.public_only))
        async with self._cancellable(claimed.claim.run_id):
            return await self._read_cancelled(await self._interpreter.continue_run(request, state, watcher))

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

    @asynccontextmanager
    async def _cancellable(self, run_id: str) -> AsyncIterator[None]:
        """Cancel the current task when another process cancels the run; the server's dispatch does this for all its runs."""
        watching = (
            None if self.continues_runs else asyncio.create_task(self._cancel_with(run_id, asyncio.current_task()))
        )
        try:
            yield
        finally:
            if watching is not None:
                watching.cancel()

    async def _cancel_with(self, run_id: str, task: asyncio.Task[Any] | None) -> None:
        while True:
            await asyncio.sleep(POLL_INTERVAL_S)
            with contextlib.suppress(PdkernelError):  # an unreadable database is read again
                if task is not None and await self.journal.find_cancelled([run_id]):
                    task.cancel()
                    return

    async def close(self) -> None:
        """Close pool and gateway unless they are shared; close the journal; remove temporary files."""
        if not self._shares_workers:
            await self._workers.close()
            await self.gateway.close()
        await self.journal.close()
        await asyncio.to_thread(remove_tree, self._scratch)
        WARDEN.unregister_folder(self._scratch)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _as_text(value: JSON) -> str | None:
    return value if isinstance(value, str) and value else None

"""
Runs one workflow on one event.

The order is: preflight checks, packages, accounts, steps, deliveries. The record holds the failure of a step, which ends
the run, and the reason if the run is refused before its first step.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from pdkernel.actions import Catalog
from pdkernel.clock import Clock, IdGenerator
from pdkernel.engine.account_lookup import BindingsByStep, RunIdentity
from pdkernel.engine.account_override import override_accounts
from pdkernel.engine.account_props import find_account_props, may_have_app_props
from pdkernel.engine.account_resolution import (
    AccountResolution,
    credentials_read_at,
    find_unauthorized_accounts,
    resolve_accounts,
)
from pdkernel.engine.deliveries import SendDelivery
from pdkernel.engine.journal import Claim, Journal, MemoryJournal, MemoryTables
from pdkernel.engine.limits import PayloadCounter
from pdkernel.engine.mail import MailSettings
from pdkernel.engine.outbound_calls import build_call_binding
from pdkernel.engine.preflight_checks import PreflightChecks
from pdkernel.engine.prepared_packages import PreparedPackages
from pdkernel.engine.props import select_named_variables
from pdkernel.engine.run_context import build_trigger_context, new_run_ids
from pdkernel.engine.run_record import RunRecord
from pdkernel.engine.run_request import RunRequest
from pdkernel.engine.run_state import RunState, scratch_write_error
from pdkernel.engine.step_actions import StepActions
from pdkernel.engine.step_executor import StepExecutor
from pdkernel.engine.step_packages import StepPackages
from pdkernel.engine.step_scheduler import StepScheduler
from pdkernel.errors import PdkernelError
from pdkernel.execution import Execution, Status
from pdkernel.identity import Directory, WouldBlockError
from pdkernel.model import JSON
from pdkernel.project import DataStoreTable, Vault
from pdkernel.redaction import get_redactor
from pdkernel.runtimes.file_tree import remove_tree
from pdkernel.workers import WORKING_FOLDER_NAME, RunSetup, RunWorkers, WorkerPool


class Interpreter:
    """
    Runs workflows.

    Args:
        directory: Users and accounts.
        stores: Data stores.
        workers: The worker pool.
        catalog: The pre-built actions.
        packages: Packages of steps.
        journal: The journal.
        clock: For every time stamp and duration.
        ids: For run and trace ids.
        vault: Encrypts events in the journal until the accounts of their run are resolved; None for a journal in memory.
        scratch: The parent of the runs' temporary folders.
        file_store: The folder of the project's file store, or None.
        mail: Returns the settings for each `$.send.email`; None only shows the message.
    """

    def __init__(
        self,
        *,
        directory: Directory,
        stores: DataStoreTable,
        workers: WorkerPool,
        catalog: Catalog,
        packages: StepPackages,
        journal: Journal,
        clock: Clock,
        ids: IdGenerator,
        vault: Vault | None,
        scratch: Path,
        file_store: Path | None = None,
        mail: Callable[[], MailSettings | None] = lambda: None,
    ) -> None:
        self._directory = directory
        self._workers = workers
        self._catalog = catalog
        self._packages = packages
        self._journal = journal
        self._clock = clock
        self._ids = ids
        self._vault = vault
        self._scratch = scratch
        self._files = file_store
        self._mail = mail
        self._checks = PreflightChecks()
        executor = StepExecutor(clock=clock, stores=stores, run_workflow=self._execute)
        self._scheduler = StepScheduler(
            executor, clock, reopen_workers=lambda run: self._open(run.request, run.worker_setup)
        )

    async def run(self, request: RunRequest) -> Execution:
        """
        Run *request* and return its record.

        Cancelling the task ends the running step with all its processes; the record then has the status `cancelled`.
        """
        execution, _ = await self._execute(request)
        return execution

    async def _execute(self, request: RunRequest) -> tuple[Execution, Mapping[str, Mapping[str, JSON]]]:
        """Return the record, and the steps' exports without redaction."""
        run_id, trace_id = request.run_ids or new_run_ids(self._ids)
        context = build_trigger_context(
            request, project_id=self._directory.project_id, trace_id=trace_id, run_id=run_id, clock=self._clock
        )
        record = RunRecord(
            request,
            claim=Claim.first(run_id),
            trace_id=trace_id,
            context=context,
            journal=self._journal
            if request.keep_in_journal
            else MemoryJournal.open(MemoryTables(), clock=self._clock, ids=self._ids),
            clock=self._clock,
            vault=self._vault if request.keep_in_journal and may_have_app_props(request) else None,
            guard=self._workers.sandbox_kind if request.policy.guarded else "none",
        )
        record.record_start()
        scratch = self._scratch / f"run-{run_id}"
        exports: dict[str, Mapping[str, JSON]] = {}
        try:
            if request.refusal is not None:
                raise request.refusal.error
            await self._run_steps_in(request, record, scratch, exports)
        except PdkernelError as refusal:
            record.record_refusal(refusal)
        except asyncio.CancelledError:
            _acknowledge_cancellation()
            record.set_final_status("cancelled")
        except BaseException:
            remove_tree(scratch)
            raise
        if _remove_if_empty(scratch):
            return await record.finish(), exports
        # runs beside the last commit, in a thread: a disk under load takes milliseconds to remove files
        removed = asyncio.to_thread(remove_tree, scratch)
        execution, _ = await asyncio.gather(record.finish(), removed)
        return execution, exports

    async def _run_steps_in(
        self, request: RunRequest, record: RunRecord, scratch: Path, exports: dict[str, Mapping[str, JSON]]
    ) -> None:
        await asyncio.sleep(0)  # starts the record's first commit, which runs beside the following checks
        self._checks.check(request)
        if self._workers.gateway is not None:
            await self._workers.gateway.check(request.policy)
        actions = StepActions(self._catalog.with_source(request.actions_source, base=request.folder), request)
        await actions.install()
        ready = await self._packages.prepare_run(request, self._clock, record.notify)
        setup = self._setup(request, record, scratch, ready, actions)
        workers = await self._open(request, setup)
        run: RunState | None = None
        try:
            resolution = await self._resolve(request, await find_account_props(request, workers, actions))
            if resolution.complete:
                record.set_redactor(get_redactor(*resolution.secrets, *record.initial_secrets))
            if resolution.lookup is not None:
                record.set_lookup(resolution.lookup)
            if resolution.error is not None:
                raise resolution.error
            # only after all checks: the pool ends a prepared worker that runs no step
            workers.prepare_steps([step for step in request.workflow.steps if request.should_execute(step)])
            payload = PayloadCounter(request.event.data)
            run = RunState(request, workers, record, resolution, actions, payload, setup, ready, exports)
            status = await self._steps(run)
            await self._report_unauthorized(run)
            if status == "paused":
                await record.commit_pause()  # before any message leaves: a crash must not skip the pause
            if status != "cancelled":
                await self._deliver(run)
            record.set_final_status(status)
        except OSError as fault:  # from the run's own files
            raise scratch_write_error(fault) from None
        finally:
            await (workers if run is None else run.workers).release()

    async def _open(self, request: RunRequest, setup: RunSetup) -> RunWorkers:
        # a triggered run uses the slot of the step that waits for it
        return await self._workers.open_run(setup, wait_for_slot=request.depth == 0)

    def _setup(
        self, request: RunRequest, record: RunRecord, scratch: Path, ready: PreparedPackages, actions: StepActions
    ) -> RunSetup:
        return RunSetup(
            run_id=record.run_id,
            reuse_key=f"{request.workflow.name}@{request.workflow.version}",
            trigger={"event": dict(request.event.data), "context": dict(record.context)},
            variables=select_named_variables(request),
            import_folder=request.folder,
            scratch_folder=scratch,
            install=request.install,
            file_store_folder=self._files,
            node_packages=ready.node_packages,
            python=ready.python_environment.python if ready.python_environment else None,
            is_sandboxed=request.policy.guarded,
            public_only=request.policy.public_only,
            extra_code_folders=actions.files,
        )

    async def _resolve(self, request: RunRequest, bindings: BindingsByStep) -> AccountResolution:
        if not any(bindings.values()):
            return AccountResolution()
        identity = _run_identity(request)
        with contextlib.suppress(WouldBlockError), self._directory.nonblocking() as cached:
            if cached is not None:
                directory = override_accounts(cached, request.account_overrides)
                return resolve_accounts(bindings, identity, directory=directory)
        directory = override_accounts(self._directory, request.account_overrides)
        return await asyncio.to_thread(resolve_accounts, bindings, identity, directory=directory)  # may use the network

    async def _report_unauthorized(self, run: RunState) -> None:
        """Report accounts whose app answered 401, so that their credentials are renewed before the next run."""
        execution = run.record.execution
        for account in find_unauthorized_accounts(execution):
            await asyncio.to_thread(self._directory.report_unauthorized, account, credentials_read_at(execution))

    async def _deliver(self, run: RunState) -> None:
        if run.queued_sends:
            await run.record.flush()
        for step, effect in run.queued_sends:
            binding = build_call_binding(run, step, lambda _: None)
            deliveries = SendDelivery(self._workers.gateway, self._mail() if effect.kind == "email" else None)
            delivery = await deliveries.deliver(step, effect, binding=binding, redactor=run.record.redactor)
            run.record.add_delivery(delivery)

    async def _steps(self, run: RunState) -> Status:
        status: Status = "success"
        try:
            for step in run.request.workflow.steps:
                final_status = await self._scheduler.run(run, step)
                if final_status is not None:
                    status = final_status
                    break
        except asyncio.CancelledError:
            _acknowledge_cancellation()
            status = "cancelled"
        run.record.skip_remaining()
        return status


def _remove_if_empty(scratch: Path) -> bool:
    """Remove *scratch* if it is empty; return whether it does not exist now. Most runs leave it empty."""
    if not os.path.lexists(scratch):
        return True
    with contextlib.suppress(OSError):  # the folder is not empty
        with contextlib.suppress(FileNotFoundError):
            (scratch / WORKING_FOLDER_NAME).rmdir()
        scratch.rmdir()
        return True
    return False


def _run_identity(request: RunRequest) -> RunIdentity:
    """Return the external user of *request*, with the values of its event's headers."""
    return RunIdentity(
        request.external_user_id,
        request.environment,
        header=request.event.external_user_id,
        environment_header=request.event.environment,
        interface=request.interface,
    )


def _acknowledge_cancellation() -> None:
    """Clear the task's cancellation: the run returns a record instead of raising."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()

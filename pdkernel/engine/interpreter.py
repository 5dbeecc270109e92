"""
The loop: one run of a workflow on an event.

Knows the order: refuse what cannot run, make packages ready, resolve accounts, give each step its turn, deliver what
they queued. What a step's turn takes is for `step_run` and `attempt` to know. A step's failure ends the run and is in
the record; what refuses the run before any step is in the record too, as the run's error.
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
from pdkernel.engine.journal import Journal, MemoryJournal, MemoryTables
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
        workers: The processes that run steps.
        catalog: The pre-built actions.
        packages: What steps import.
        journal: The record.
        clock: For every time stamp and duration.
        ids: For run and trace ids.
        vault: Seals events in the journal until the accounts of their run are known; None for a journal in memory.
        scratch: A folder for the temporary folders of runs.
        file_store: The folder of the project's file store, or None for none.
        mail: How `$.send.email` is sent, asked at each; None from it shows the message.
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
        self._hosts = workers
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
        attempts = StepExecutor(clock=clock, stores=stores, run_workflow=self._execute)
        self._scheduler = StepScheduler(
            attempts, clock, reopen_workers=lambda run: self._open(run.request, run.worker_setup)
        )

    async def run(self, request: RunRequest) -> Execution:
        """
        Run *request* and say what every step did.

        Cancelling the task ends the running step with all its processes; the execution is then returned
        with the status `cancelled`.
        """
        execution, _ = await self._execute(request)
        return execution

    async def _execute(self, request: RunRequest) -> tuple[Execution, Mapping[str, Mapping[str, JSON]]]:
        """The record, and the steps' exports as they are."""
        run_id, trace_id = request.run_ids or new_run_ids(self._ids)
        context = build_trigger_context(
            request, project_id=self._directory.project_id, trace_id=trace_id, run_id=run_id, clock=self._clock
        )
        record = RunRecord(
            request,
            run_id=run_id,
            trace_id=trace_id,
            context=context,
            journal=self._journal
            if request.keep_in_journal
            else MemoryJournal.open(MemoryTables(), clock=self._clock, ids=self._ids),
            clock=self._clock,
            vault=self._vault if request.keep_in_journal and may_have_app_props(request) else None,
            guard=self._hosts.sandbox_kind if request.policy.guarded else "none",
        )
        record.record_start()
        scratch = self._scratch / f"run-{run_id}"
        exports: dict[str, Mapping[str, JSON]] = {}
        try:
            if request.refusal is not None:
                raise request.refusal
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
        # beside the last commit, and not in the loop's way: a disk under load takes milliseconds to remove files
        removed = asyncio.to_thread(remove_tree, scratch)
        execution, _ = await asyncio.gather(record.finish(), removed)
        return execution, exports

    async def _run_steps_in(
        self, request: RunRequest, record: RunRecord, scratch: Path, exports: dict[str, Mapping[str, JSON]]
    ) -> None:
        await asyncio.sleep(0)  # the record's first commit goes on beside what follows
        self._checks.check(request)
        if self._hosts.gateway is not None:
            await self._hosts.gateway.check(request.policy)
        actions = StepActions(self._catalog.with_source(request.actions_source, base=request.folder), request)
        await actions.install()
        ready = await self._packages.prepare_run(request, self._clock, record.notify)
        setup = self._setup(request, record, scratch, ready, actions)
        guests = await self._open(request, setup)
        run: RunState | None = None
        try:
            resolution = await self._resolve(request, await find_account_props(request, guests, actions))
            if resolution.complete:
                record.set_redactor(get_redactor(*resolution.secrets, *record.initial_secrets))
            if resolution.lookup is not None:
                record.set_lookup(resolution.lookup)
            if resolution.error is not None:
                raise resolution.error
            # after what may refuse the run: a process that is made ready for nothing is ended
            guests.prepare_steps([step for step in request.workflow.steps if request.should_execute(step)])
            payload = PayloadCounter(request.event.data)
            run = RunState(request, guests, record, resolution, actions, payload, setup, ready, exports)
            status = await self._steps(run)
            await self._refuse_tokens(run)
            if status != "cancelled":
                await self._deliver(run)
            record.set_final_status(status)
        except OSError as fault:  # of the run's own files
            raise scratch_write_error(fault) from None
        finally:
            await (guests if run is None else run.workers).release()

    async def _open(self, request: RunRequest, setup: RunSetup) -> RunWorkers:
        # a run that a step waits for has that step's place
        return await self._hosts.open_run(setup, wait_for_slot=request.depth == 0)

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
        caller = _caller(request)
        with contextlib.suppress(WouldBlockError), self._directory.nonblocking() as at_hand:
            if at_hand is not None:
                return resolve_accounts(
                    bindings, caller, directory=override_accounts(at_hand, request.account_overrides)
                )
        return await asyncio.to_thread(  # a directory may ask the network
            resolve_accounts, bindings, caller, directory=override_accounts(self._directory, request.account_overrides)
        )

    async def _refuse_tokens(self, run: RunState) -> None:
        """Have accounts that their apps took no more renewed before the next run."""
        execution = run.record.execution
        for account in find_unauthorized_accounts(execution):
            await asyncio.to_thread(self._directory.report_unauthorized, account, credentials_read_at(execution))

    async def _deliver(self, run: RunState) -> None:
        if run.queued_sends:
            await run.record.flush()
        for step, effect in run.queued_sends:
            from pdkernel.engine.deliveries import SendDelivery

            binding = build_call_binding(run, step, lambda _: None)
            deliveries = SendDelivery(self._hosts.gateway, self._mail() if effect.kind == "email" else None)
            delivery = await deliveries.deliver(step, effect, binding=binding, redactor=run.record.redactor)
            run.record.add_delivery(delivery)

    async def _steps(self, run: RunState) -> Status:
        status: Status = "success"
        try:
            for step in run.request.workflow.steps:
                ended = await self._scheduler.run(run, step)
                if ended is not None:
                    status = ended
                    break
        except asyncio.CancelledError:
            _acknowledge_cancellation()
            status = "cancelled"
        run.record.skip_remaining()
        return status


def _remove_if_empty(scratch: Path) -> bool:
    """Whether *scratch* is not there, or gone now: most runs leave nothing in it."""
    if not os.path.lexists(scratch):
        return True
    with contextlib.suppress(OSError):  # there is something in it
        with contextlib.suppress(FileNotFoundError):
            (scratch / WORKING_FOLDER_NAME).rmdir()
        scratch.rmdir()
        return True
    return False


def _caller(request: RunRequest) -> RunIdentity:
    """Whom *request* is for, and what its event's headers said of it."""
    return RunIdentity(
        request.external_user_id, request.environment, request.event.external_user_id, request.event.environment
    )


def _acknowledge_cancellation() -> None:
    """The run has dealt with its cancellation: it returns a record instead of raising."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()

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
from pdkernel.clock import Clock, Ids
from pdkernel.engine.actions import StepActions
from pdkernel.engine.app_props import app_props, may_have_app_props
from pdkernel.engine.attempt import Attempts
from pdkernel.engine.checks import Checks
from pdkernel.engine.chosen import with_chosen
from pdkernel.engine.context import build_context, new_run_ids
from pdkernel.engine.end_users import Resolution, refused_accounts, resolve_accounts, resolved_before
from pdkernel.engine.journal import Journal, MemoryJournal, MemoryStore
from pdkernel.engine.limits import Payload
from pdkernel.engine.lookup import Bindings, Caller
from pdkernel.engine.mail import Mail
from pdkernel.engine.outside_calls import binding_of
from pdkernel.engine.packages import Packages
from pdkernel.engine.props import named_variables
from pdkernel.engine.ready import Ready
from pdkernel.engine.record import RunRecord
from pdkernel.engine.request import RunRequest
from pdkernel.engine.run_state import RunState, unwritable
from pdkernel.engine.step_run import StepRuns
from pdkernel.errors import PdkernelError
from pdkernel.execution import Execution, Status
from pdkernel.guests.file_tree import remove_tree
from pdkernel.hosts import WORKING, Hosts, RunGuests, RunSetup
from pdkernel.identity import Directory, NotAtHandError
from pdkernel.model import JSON
from pdkernel.project import StoreTable, Vault
from pdkernel.redaction import redactor_of


class Interpreter:
    """
    Runs workflows.

    Args:
        directory: Users and accounts.
        stores: Data stores.
        hosts: The processes that run steps.
        catalog: The pre-built actions.
        packages: What steps import.
        journal: The record.
        clock: For every time stamp and duration.
        ids: For run and trace ids.
        vault: Seals events in the journal until the accounts of their run are known; None for a journal in memory.
        scratch: A folder for the temporary folders of runs.
        files: The folder of the project's file store, or None for none.
        mail: How `$.send.email` is sent, asked at each; None from it shows the message.
    """

    def __init__(
        self,
        *,
        directory: Directory,
        stores: StoreTable,
        hosts: Hosts,
        catalog: Catalog,
        packages: Packages,
        journal: Journal,
        clock: Clock,
        ids: Ids,
        vault: Vault | None,
        scratch: Path,
        files: Path | None = None,
        mail: Callable[[], Mail | None] = lambda: None,
    ) -> None:
        self._directory = directory
        self._hosts = hosts
        self._catalog = catalog
        self._packages = packages
        self._journal = journal
        self._clock = clock
        self._ids = ids
        self._vault = vault
        self._scratch = scratch
        self._files = files
        self._mail = mail
        self._checks = Checks()
        attempts = Attempts(clock=clock, stores=stores, run_other=self._execute)
        self._turns = StepRuns(attempts, clock, open_again=lambda run: self._open(run.request, run.setup))

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
        context = build_context(
            request, project_id=self._directory.project_id, trace_id=trace_id, run_id=run_id, clock=self._clock
        )
        record = RunRecord(
            request,
            run_id=run_id,
            trace_id=trace_id,
            context=context,
            journal=self._journal
            if request.store
            else MemoryJournal.open(MemoryStore(), clock=self._clock, ids=self._ids),
            clock=self._clock,
            vault=self._vault if request.store and may_have_app_props(request) else None,
            guard=self._hosts.guard if request.policy.guarded else "none",
        )
        record.accept()
        scratch = self._scratch / f"run-{run_id}"
        exports: dict[str, Mapping[str, JSON]] = {}
        try:
            if request.refusal is not None:
                raise request.refusal
            await self._run_in(request, record, scratch, exports)
        except PdkernelError as refusal:
            record.refuse(refusal)
        except asyncio.CancelledError:
            _stop_cancelling()
            record.end("cancelled")
        except BaseException:
            remove_tree(scratch)
            raise
        if _is_removed(scratch):
            return await record.finish(), exports
        # beside the last commit, and not in the loop's way: a disk under load takes milliseconds to remove files
        removed = asyncio.to_thread(remove_tree, scratch)
        execution, _ = await asyncio.gather(record.finish(), removed)
        return execution, exports

    async def _run_in(
        self, request: RunRequest, record: RunRecord, scratch: Path, exports: dict[str, Mapping[str, JSON]]
    ) -> None:
        await asyncio.sleep(0)  # the record's first commit goes on beside what follows
        self._checks.check(request)
        if self._hosts.gateway is not None:
            await self._hosts.gateway.check(request.policy)
        actions = StepActions(self._catalog.at(request.actions, base=request.folder), request)
        await actions.obtain()
        ready = await self._packages.ready_for(request, self._clock, record.note)
        setup = self._setup(request, record, scratch, ready, actions)
        guests = await self._open(request, setup)
        run: RunState | None = None
        try:
            resolution = await self._resolve(request, await app_props(request, guests, actions))
            if resolution.complete:
                record.knows(redactor_of(*resolution.secrets, *record.known))
            if resolution.lookup is not None:
                record.looked_up(resolution.lookup)
            if resolution.error is not None:
                raise resolution.error
            # after what may refuse the run: a process that is made ready for nothing is ended
            guests.prepare([step for step in request.workflow.steps if request.executes(step)])
            payload = Payload(request.event.data)
            run = RunState(request, guests, record, resolution, actions, payload, setup, ready, exports)
            status = await self._steps(run)
            await self._refuse_tokens(run)
            if status != "cancelled":
                await self._deliver(run)
            record.end(status)
        except OSError as fault:  # of the run's own files
            raise unwritable(fault) from None
        finally:
            await (guests if run is None else run.guests).release()

    async def _open(self, request: RunRequest, setup: RunSetup) -> RunGuests:
        # a run that a step waits for has that step's place
        return await self._hosts.open(setup, waits=request.depth == 0)

    def _setup(
        self, request: RunRequest, record: RunRecord, scratch: Path, ready: Ready, actions: StepActions
    ) -> RunSetup:
        return RunSetup(
            run_id=record.run_id,
            workflow=f"{request.workflow.name}@{request.workflow.version}",
            trigger={"event": dict(request.event.data), "context": dict(record.context)},
            variables=named_variables(request),
            folder=request.folder,
            scratch=scratch,
            install=request.install,
            files=self._files,
            node_packages=ready.node,
            python=ready.python.python if ready.python else None,
            guarded=request.policy.guarded,
            public_only=request.policy.public_only,
            kept=actions.files,
        )

    async def _resolve(self, request: RunRequest, bindings: Bindings) -> Resolution:
        if not any(bindings.values()):
            return Resolution()
        caller = _caller(request)
        with contextlib.suppress(NotAtHandError), self._directory.at_hand() as at_hand:
            if at_hand is not None:
                return resolve_accounts(bindings, caller, directory=with_chosen(at_hand, request.accounts))
        return await asyncio.to_thread(  # a directory may ask the network
            resolve_accounts, bindings, caller, directory=with_chosen(self._directory, request.accounts)
        )

    async def _refuse_tokens(self, run: RunState) -> None:
        """Have accounts that their apps took no more renewed before the next run."""
        execution = run.record.execution
        for account in refused_accounts(execution):
            await asyncio.to_thread(self._directory.refuse_token, account, resolved_before(execution))

    async def _deliver(self, run: RunState) -> None:
        if run.sends:
            await run.record.settled()
        for step, effect in run.sends:
            from pdkernel.engine.deliveries import Deliveries

            binding = binding_of(run, step, lambda _: None)
            deliveries = Deliveries(self._hosts.gateway, self._mail() if effect.kind == "email" else None)
            delivery = await deliveries.deliver(step, effect, binding=binding, redactor=run.record.redactor)
            run.record.delivered(delivery)

    async def _steps(self, run: RunState) -> Status:
        status: Status = "success"
        try:
            for step in run.request.workflow.steps:
                ended = await self._turns.take(run, step)
                if ended is not None:
                    status = ended
                    break
        except asyncio.CancelledError:
            _stop_cancelling()
            status = "cancelled"
        run.record.skip_rest()
        return status


def _is_removed(scratch: Path) -> bool:
    """Whether *scratch* is not there, or gone now: most runs leave nothing in it."""
    if not os.path.lexists(scratch):
        return True
    with contextlib.suppress(OSError):  # there is something in it
        with contextlib.suppress(FileNotFoundError):
            (scratch / WORKING).rmdir()
        scratch.rmdir()
        return True
    return False


def _caller(request: RunRequest) -> Caller:
    """Whom *request* is for, and what its event's headers said of it."""
    return Caller(
        request.external_user_id, request.environment, request.event.external_user_id, request.event.environment
    )


def _stop_cancelling() -> None:
    """The run has dealt with its cancellation: it returns a record instead of raising."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()

"""
Runs one workflow on one event.

The order is: preflight checks, packages, accounts, steps, deliveries. The record holds the failure of a step, which ends
the run, and the reason if the run is refused before its first step.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

from pdkernel.actions import Catalog
from pdkernel.common.blocking import run_blocking
from pdkernel.common.clock import Clock, IdGenerator
from pdkernel.common.identity import Directory, WouldBlockError
from pdkernel.engine.account_lookup import BindingsByStep
from pdkernel.engine.account_resolution import (
    AccountResolution,
    credentials_read_at,
    find_unauthorized_accounts,
    override_accounts,
    resolve_accounts,
)
from pdkernel.engine.blocks import end_block, start_block
from pdkernel.engine.child_runs import ExecutedRun
from pdkernel.engine.limits import PayloadCounter
from pdkernel.engine.preflight_checks import check_request
from pdkernel.engine.props import select_named_variables
from pdkernel.engine.queue_turns import QueueFullError, QueueLimits, QueueTurn, find_limits, set_limits
from pdkernel.engine.record_writes import retry_unreachable
from pdkernel.engine.restored_run import RestoredRun, restore_request, restore_run
from pdkernel.engine.run_context import build_trigger_context, new_run_ids
from pdkernel.engine.run_deliveries import RunDeliveries
from pdkernel.engine.run_packages import PackageLock, PackageLocks, PreparedPackages
from pdkernel.engine.run_record import RunRecord
from pdkernel.engine.run_request import UNWATCHED, RunRequest, RunWatcher
from pdkernel.engine.run_state import RunState, build_system_error, build_unexpected_error
from pdkernel.engine.step_actions import StepActions, find_account_props, may_have_app_props
from pdkernel.engine.step_executor import StepExecutor
from pdkernel.engine.step_packages import StepPackages
from pdkernel.errors import InternalError, PdkernelError, ProjectError, RequestError
from pdkernel.execution import BlockChoice, ErrorRecord, Execution, Status
from pdkernel.journal import Begun, Claim, ClaimedRun, RunJournal, StoredLock, UnrecordedRuns, encode_output
from pdkernel.model import JSON, Block, Entry, Step
from pdkernel.storage import DataStoreTable, ScratchByUser, ScratchCopy, Vault
from pdkernel.workers import RunPlace, RunSetup, StepPool, StepSequence

CIRCLE_CHECK_S = 1.0
"""Seconds between two looks whether a child run that waits for its turn, and the run that holds the turn, wait for each other."""
MAX_BRANCHES_AT_ONCE = 16
"""Branches of one parallel block that run at the same time; others wait for one of them to end or to pause."""
SHARED_WORKERS_MESSAGE = "share_workers: always. The processes of this run also serve other external users."

_log = logging.getLogger(__name__)


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
        vault: Encrypts what the records of runs do not show; None if no run is recorded.
        root: The project's place on this host.
        file_store: The folder of the project's file store, or None.
        deliveries: Delivers the messages of runs.
        claim_after_pause: Waits until the run with that id has ended, or goes on after its pause; returns it if this process
            must continue it, else None. None for an interpreter whose runs do not pause.
        watch_cancellation: Called with the id and the request of a run in its task. It cancels the task when another process
            cancels the run, until the function that it returns is called.
        has_dispatch: Returns whether this process starts runs that wait for the limits of their workflow.
    """

    def __init__(
        self,
        *,
        directory: Directory,
        stores: DataStoreTable,
        workers: StepPool,
        catalog: Catalog,
        packages: StepPackages,
        journal: RunJournal,
        clock: Clock,
        ids: IdGenerator,
        vault: Vault | None,
        root: Path,
        file_store: Path | None = None,
        deliveries: RunDeliveries,
        claim_after_pause: Callable[[str], Awaitable[ClaimedRun | None]] | None = None,
        watch_cancellation: Callable[[str, RunRequest], Callable[[], object]] = lambda _id, _request: lambda: None,
        has_dispatch: Callable[[], bool] = lambda: False,
    ) -> None:
        self._directory = directory
        self._workers = workers
        self._catalog = catalog
        self._packages = packages
        self._package_locks = PackageLocks()
        self._journal = journal
        self._clock = clock
        self._ids = ids
        self._vault = vault
        self._root = root
        self._files = file_store
        self._deliveries = deliveries
        self._claim_after_pause = claim_after_pause
        self._watch_cancellation = watch_cancellation
        self._has_dispatch = has_dispatch
        self._stores = stores
        self._scratch_by_user = ScratchByUser(stores, clock)
        self._executing: set[str] = set()
        self._steps = StepExecutor(
            clock=clock,
            stores=stores,
            run_workflow=self._run_child,
            load_children=self._load_children,
            count_paused=journal.count_paused,
        )

    async def run(
        self, request: RunRequest, watcher: RunWatcher = UNWATCHED, *, turn: QueueTurn | None = None
    ) -> Execution:
        """
        Run *request* and return its record.

        Cancelling the task ends the running step with all its processes; the record then has the status `cancelled`.

        Args:
            request: The request.
            watcher: Who watches the run.
            turn: The result of `enter_queue`, if the caller has called it.

        Raises:
            QueueFullError: As many runs as the limits of the workflow permit wait already.
        """
        return (await self._execute(request, watcher, turn=turn)).execution

    async def enter_queue(self, request: RunRequest) -> QueueTurn | None:
        """
        Let the run of *request*, which has ids and which no dispatcher starts, wait for its turn; None without limits.

        Raises:
            QueueFullError: As many runs as the limits of the workflow permit wait already.
            ProjectError: The database cannot be written.
        """
        limits = find_limits(request)
        if limits is None:
            return None
        assert request.run_ids is not None, "the caller has chosen ids"
        return await QueueTurn.enter(self._journal, limits, Claim.first(request.run_ids[0]), is_new=True)

    async def continue_run(
        self, request: RunRequest, state: RestoredRun, watcher: RunWatcher = UNWATCHED, *, place: RunPlace | None = None
    ) -> Execution:
        """Continue the run of *request* in *state*, which this executor has claimed, in *place*, and return its record."""
        request = request.with_changes(done_steps=state.done_steps)
        return (await self._execute(request, watcher, state, place=place)).execution

    def new_place(self, claimed: ClaimedRun) -> RunPlace:
        """Return the place of a claimed run among those that execute; the caller gives it back."""
        place = self._workers.new_place(
            claimed.external_user_id, is_alone=claimed.must_be_alone, deaths=claimed.deaths_alone
        )
        if claimed.begun:
            place.reserve()
        return place

    @property
    def executing_run_ids(self) -> Collection[str]:
        """The ids of the runs that this process executes, or will when they get their place; with child runs."""
        return self._executing

    async def enqueue(
        self, request: RunRequest, limits: QueueLimits | None, watcher: RunWatcher, *, origin: str | None = None
    ) -> bool:
        """
        Record the run of *request* as waiting for its start by a dispatcher of *origin*, or of this executor's origin.

        Returns:
            Whether the queue has room; else nothing is recorded.

        Raises:
            ProjectError: The database cannot be written.
        """
        if limits is not None:
            await set_limits(self._journal, limits)
        return await self._new_record(request, self._new_state(request), watcher).enqueue(limits, origin)

    def _scratch_copy(self, request: RunRequest, state: RestoredRun) -> ScratchCopy:
        """Return the scratch copy of the data stores for a test: one for the run, or for all requests of an external user to a test server."""
        changes = next((each.carry.scratch for each in state.pauses.values() if each.carry.scratch is not None), None)
        if request.is_served and not request.is_silent:
            return self._scratch_by_user.get(request.external_user_id, request.environment, changes)
        return ScratchCopy(self._stores, self._clock, changes)

    def _new_record(self, request: RunRequest, state: RestoredRun, watcher: RunWatcher) -> RunRecord:
        return RunRecord(
            request,
            state=state,
            watcher=watcher,
            journal=self._journal if request.keep_in_journal else UnrecordedRuns(),
            clock=self._clock,
            vault=self._vault if request.keep_in_journal else None,
            root=self._root,
            may_have_accounts=self._vault is not None and may_have_app_props(request),
            guard=self._workers.sandbox_kind if request.policy.guarded else "none",
        )

    def _new_state(self, request: RunRequest, lock: StoredLock | None = None, begun: Begun = Begun.NO) -> RestoredRun:
        run_id, trace_id = request.run_ids or new_run_ids(self._ids)
        context = build_trigger_context(
            request, project_id=self._directory.project_id, trace_id=trace_id, run_id=run_id, clock=self._clock
        )
        return RestoredRun(
            Claim.first(run_id), trace_id, context, package_lock=request.package_lock or lock, begun=begun
        )

    async def _execute(
        self,
        request: RunRequest,
        watcher: RunWatcher = UNWATCHED,
        state: RestoredRun | None = None,
        *,
        parent: RunPlace | None = None,
        place: RunPlace | None = None,
        turn: QueueTurn | None = None,
    ) -> ExecutedRun:
        """
        Execute a new run, or one that this executor has claimed in *state*. However that ends, the run does not stay in progress.

        *parent* is the place of the run whose step waits for this one; *place* is that of this run, or None for a new one.
        """
        is_new = state is None
        place = place or self._workers.new_place(request.external_user_id, parent)
        if state is None:
            begun = Begun.YES if place.reserve() else Begun.NO
            state = self._new_state(request, self._package_locks.predict(request.workflow), begun)
        run_id = state.claim.run_id
        self._executing.add(run_id)
        try:
            turn = turn or await self._find_turn(request, state, is_new=is_new)
            return await self._execute_in(place, turn, request, watcher, state, is_new=is_new)
        except QueueFullError:
            raise
        except Exception as fault:
            error = fault if isinstance(fault, PdkernelError) else build_unexpected_error(fault)
            if error is not fault:
                _log.exception("The run %s ended by an unexpected error", run_id)
            output = encode_output(error=ErrorRecord(error.code, type(error).__name__, str(error)))
            if not self._journal.is_lost:  # otherwise another process continues the run
                with contextlib.suppress(PdkernelError):  # the dispatch finds a run that is left in progress
                    await self._journal.finish(state.claim, "error", output)  # refused if the run has ended or pauses
                if turn is not None:
                    await turn.end()
            raise error from fault
        finally:
            place.give_back()
            self._executing.discard(run_id)

    async def _execute_in(
        self,
        place: RunPlace,
        turn: QueueTurn | None,
        request: RunRequest,
        watcher: RunWatcher,
        state: RestoredRun,
        *,
        is_new: bool,
    ) -> ExecutedRun:
        if request.data_stores is None and request.policy.is_test:
            request = request.with_changes(data_stores=self._scratch_copy(request, state))
        record = self._new_record(request, state, watcher)
        if is_new:
            record.record_start()
        exports: dict[str, Mapping[str, JSON]] = {}
        run: RunState | None = None
        stop_watching = self._watch_cancellation(state.claim.run_id, request)
        try:
            _raise_problem(request, state)
            kept = request.package_lock if is_new else state.package_lock
            prepare = partial(self._prepare, request, watcher, record, exports, kept, place, turn)
            retries = request.waits_for_database
            run = await (retry_unreachable(prepare, self._clock, record.flush) if retries else prepare())
            run.attempt += state.interruptions
            await self._run_steps(run, state)
        except PdkernelError as refusal:
            record.record_refusal(refusal)
        except asyncio.CancelledError:
            acknowledge_cancellation()
            if record.is_handed_over:
                return ExecutedRun(await record.hand_over(), exports, record.secrets)
            record.set_final_status("cancelled")
        except OSError as fault:
            record.record_refusal(build_system_error(fault))
        except Exception as fault:  # noqa: BLE001 - whatever is wrong, the run ends with the reason, and its queue goes on
            _log.exception("The run %s ended by an unexpected error", record.run_id)
            record.record_refusal(build_unexpected_error(fault))
        finally:
            stop_watching()  # the record of the end may say `cancelled`, too
            if turn is not None:
                await turn.end()
        if record.execution.status == "error" and request.is_served:
            with self._reported("The messages about the run %s could not be queued", record.run_id):
                await self._queue_failure(request, record)
        execution = await record.finish()
        if record.write_error is None and execution.status != "cancelled":
            with self._reported("Messages of the run %s could not be delivered, and are tried again", record.run_id):
                if run is not None:
                    await self._deliveries.deliver(run)
                else:
                    await self._deliveries.deliver_refusal(request, record)
        return ExecutedRun(record.execution, exports, record.secrets)

    async def _queue_failure(self, request: RunRequest, record: RunRecord) -> None:
        """Queue the messages about a failed run. A run that waits for its writes waits for this, too."""

        async def queue() -> None:
            if not self._journal.is_lost:  # otherwise another process continues the run
                await _complete(run_blocking(self._deliveries.queue_failure, request, record))

        try:
            await record.write_again(queue)
        except ProjectError as fault:
            _log.warning("The messages about the run %s could not be queued: %s", record.run_id, fault.message)
        except asyncio.CancelledError:
            acknowledge_cancellation()  # as in `_complete`
            _log.warning("The messages about the run %s could not be queued before its process ended", record.run_id)

    async def _find_turn(self, request: RunRequest, state: RestoredRun, *, is_new: bool) -> QueueTurn | None:
        limits = find_limits(request)
        if limits is None:
            return None
        if state.is_queued:
            return QueueTurn(self._journal, limits, state.claim, is_claimed=True)
        enter = partial(QueueTurn.enter, self._journal, limits, state.claim, is_new=is_new)
        return await (enter() if is_new else retry_unreachable(enter, self._clock, fault=ProjectError))

    @staticmethod
    @contextlib.contextmanager
    def _reported(problem: str, run_id: str) -> Iterator[None]:
        """Report an unexpected error inside of the context, and go on: it must not change how the run ends."""
        try:
            yield
        except PdkernelError:
            raise
        except Exception:  # noqa: BLE001 - as above
            _log.exception(problem, run_id)

    async def _run_child(
        self, request: RunRequest, *, exists: bool, hands_over: Callable[[], bool], sequence: StepSequence
    ) -> ExecutedRun:
        """
        Run a workflow that a step triggers, or wait for the run if an interrupted attempt at the step has started it.

        *sequence* are the steps of which one waits; the place of their run is lent.
        """
        assert request.run_ids is not None, "a child has its parent's ids"
        run_id, watcher, parent = request.run_ids[0], RunWatcher(hands_over=hands_over), sequence.place
        async with sequence.lent():
            if not exists:
                limits = find_limits(request)
                if limits is not None and request.keep_in_journal and self._has_dispatch():
                    # while the database cannot be written, the run of the step waits, as for its other writes
                    enqueue = partial(self.enqueue, request, limits, watcher)
                    if not await retry_unreachable(enqueue, self._clock, fault=ProjectError):
                        raise QueueFullError(limits)
                else:
                    run = await self._execute(request, watcher, parent=parent)
                    if run.execution.status != "paused":
                        return run
            assert self._vault is not None, "a recorded run has a key"
            while (claimed := await self._wait_for_child(request, hands_over, parent)) is not None:
                state = restore_run(claimed, self._vault)
                run = await self._execute(
                    request.with_changes(done_steps=state.done_steps), watcher, state, parent=parent
                )
                if run.execution.status != "paused":
                    return run
        load = partial(self._journal.load_run, run_id)
        found = await (retry_unreachable(load, self._clock) if request.waits_for_database else load())
        if found is None:
            raise InternalError(f"The record of the run {run_id} is gone.")
        state = restore_run(found[1], self._vault)
        exports = {step.result.name: step.exports for step in state.steps.values()}
        return ExecutedRun(found[0], exports, state.secrets)

    async def _load_children(self, run_id: str, prefix: str) -> Sequence[RunRequest]:
        """Return the requests of the recorded runs that a run has triggered and whose ids begin with *prefix*; its step waits for the database."""
        if self._vault is None:
            return ()
        children = await retry_unreachable(partial(self._journal.find_children, run_id, prefix), self._clock)
        return [restore_request(each, self._vault, self._root)[0] for each in children]

    async def _wait_for_child(
        self, request: RunRequest, hands_over: Callable[[], bool], parent: RunPlace
    ) -> ClaimedRun | None:
        """
        As `claim_after_pause`, for a child run. If its step does not wait for it any more, it is cancelled.

        Raises:
            RequestError: Its workflow and that of another run wait for each other.
        """
        assert self._claim_after_pause is not None, "a run that is not recorded does not pause"
        assert request.run_ids is not None, "a child has its parent's ids"
        run_id, limits = request.run_ids[0], find_limits(request)
        claim = partial(self._claim_after_pause, run_id)
        waits = request.waits_for_database
        waiting = asyncio.ensure_future(retry_unreachable(claim, self._clock) if waits else claim())
        try:
            with parent.sleeping():
                while limits is not None and limits.concurrency is not None:
                    if (await asyncio.wait([waiting], timeout=CIRCLE_CHECK_S))[0]:
                        break
                    await self._refuse_circle(run_id)
                return await waiting
        except (asyncio.CancelledError, RequestError):
            if not hands_over():
                with contextlib.suppress(PdkernelError):
                    await self._journal.cancel(run_id)
            raise
        finally:
            waiting.cancel()

    async def _refuse_circle(self, run_id: str) -> None:
        """Raise `RequestError` if the child run with that id waits for a run that waits for it."""
        circle: Sequence[str] = ()
        with contextlib.suppress(ProjectError):  # an unreadable database is read again
            circle = await self._journal.find_circle(run_id)
        if circle:
            names = " -> ".join(repr(name) for name in (*circle, circle[0]))
            raise RequestError(
                f"The workflow {circle[0]!r} was not started: runs of these workflows wait for each other: {names}. The setting "
                "`concurrency` lets none of their new runs start before the others have ended.",
                fix="Remove `concurrency` from the settings of one of them, or let one start the other without waiting for the result: "
                "$.send.emit with an `emit` trigger, or $.send.http to its endpoint.",
            )

    async def _prepare(
        self,
        request: RunRequest,
        watcher: RunWatcher,
        record: RunRecord,
        exports: dict[str, Mapping[str, JSON]],
        kept: StoredLock | None,
        place: RunPlace,
        turn: QueueTurn | None,
    ) -> RunState:
        """Check the request, install packages and resolve accounts; the caller releases the workers of the result."""
        await asyncio.sleep(0)  # starts the record's first commit, which runs beside the following checks
        check_request(request, has_debugger=watcher.debugger is not None)
        if self._workers.gateway is not None:
            await self._workers.gateway.check(request.policy)
        catalog = self._catalog.with_sources(request.action_sources, base=request.folder)
        locked = None if kept is None else PackageLock.decode(kept)
        actions = StepActions(catalog, request, watcher.on_progress, locked=locked.components if locked else None)
        await actions.install()
        ready = await self._packages.prepare_run(
            request, self._clock, record.notify, watcher.on_progress, locked=locked, failures=actions.failures
        )
        record.set_package_lock(self._package_locks.describe(request.workflow, ready, actions, kept))
        setup = self._setup(request, record, ready, actions)
        notes = [request.workflow.problem[1]] if request.workflow.problem else []
        if setup.share_workers and setup.external_user_id is not None:
            notes.append(SHARED_WORKERS_MESSAGE)
        if notes:
            first = next((step.name for step in request.executed_steps), "")
            ready.messages.setdefault(first, []).extend(notes)
        if turn is not None:
            with contextlib.nullcontext() if place.parent is None else place.parent.sleeping():
                await record.write_again(lambda: turn.wait(watcher.on_progress))
        if (
            not record.has_begun
        ):  # it may wait long for its place, so its caller has to know first whether it is accepted
            await record.flush()
        place.on_change = lambda: record.set_begun(_begun_of(place))
        workers = await self._workers.open_run(setup, place=place)
        try:
            resolution = await self._resolve(request, await find_account_props(request, workers, actions))
            if resolution.complete and not request.is_only_recorded:
                record.add_secrets(resolution.secrets)
            if resolution.lookup is not None:
                record.set_lookup(resolution.lookup)
            if resolution.error is not None:
                raise resolution.error
            # only after all checks: the pool ends a prepared worker that runs no step
            workers.prepare_steps(request.executed_steps)
            payload = PayloadCounter(request.event.data)
        except BaseException:
            await workers.release()
            raise
        return RunState(
            request, workers, record, resolution, actions, payload, setup, ready, exports, watcher=watcher, turn=turn
        )

    async def _run_steps(self, run: RunState, state: RestoredRun) -> None:
        try:
            status = await self._run_each(run, state)
            await self._report_unauthorized(run)
            if status == "paused":
                await run.record.commit_pause()
            run.record.set_final_status(status)
        finally:
            await run.workers.release()

    def _setup(self, request: RunRequest, record: RunRecord, ready: PreparedPackages, actions: StepActions) -> RunSetup:
        return RunSetup(
            run_id=record.run_id,
            workflow=request.workflow.name,
            workflow_version=request.workflow.version,
            environment=request.environment,
            external_user_id=request.external_user_id,
            share_workers=request.workflow.settings.get("share_workers") == "always",
            trigger={"event": dict(request.event.data), "context": dict(record.context)},
            variables=select_named_variables(request),
            import_folder=request.folder,
            install=request.install,
            file_store_folder=self._files,
            node_packages=ready.node_packages,
            go_lock=ready.go_lock,
            python=ready.python_environment.python if ready.python_environment else None,
            is_sandboxed=request.policy.guarded,
            public_only=request.policy.public_only,
            extra_code_folders=actions.files,
            listen_ports=request.prepared.listen_ports,
        )

    async def _resolve(self, request: RunRequest, bindings: BindingsByStep) -> AccountResolution:
        if not any(bindings.values()):
            return AccountResolution()
        identity = request.identity
        with contextlib.suppress(WouldBlockError), self._directory.nonblocking() as cached:
            if cached is not None:
                directory = override_accounts(cached, request.account_overrides)
                return resolve_accounts(bindings, identity, directory=directory)
        directory = override_accounts(self._directory, request.account_overrides)
        return await run_blocking(resolve_accounts, bindings, identity, directory=directory)  # may use the network

    async def _report_unauthorized(self, run: RunState) -> None:
        """Report accounts whose app answered 401, so that their credentials are renewed before the next run."""
        execution = run.record.execution
        for account in find_unauthorized_accounts(execution):
            await run_blocking(self._directory.report_unauthorized, account, credentials_read_at(execution))

    async def _run_each(self, run: RunState, state: RestoredRun) -> Status:
        status: Status = "success"
        try:
            status = await self._run_entries(run, state) or "success"
        except asyncio.CancelledError:
            if run.record.is_handed_over:
                raise
            acknowledge_cancellation()
            status = "cancelled"
        if status != "paused":
            run.record.skip_remaining()
        is_blocked = run.request.blocked_steps and any(step.status == "error" for step in run.record.execution.steps)
        return "error" if is_blocked and status in ("success", "exited") else status

    async def _run_entries(self, run: RunState, state: RestoredRun, inside: str | None = None) -> Status | None:
        """
        Run the steps and blocks of a branch in order; return a status if the run ends, or the branch pauses, in one of them.

        A loop, because blocks may nest without limit. After the end of the run in another branch, nothing starts.

        # parity[block-folder]: steps in an if or switch block have the workers, and so the folder, of the steps around it
        """
        workflow = run.request.workflow
        open_blocks: list[tuple[Block, BlockChoice]] = []
        levels: list[Iterator[Entry]] = [iter(workflow.entries(inside))]
        while levels and run.end.status is None:
            entry = next(levels[-1], None)
            status: Status | None = None
            if entry is None:
                levels.pop()
                if open_blocks:
                    end_block(run, *open_blocks.pop())
            elif isinstance(entry, Step):
                status = await self._steps.run(run, entry, state)
            else:
                choice = await start_block(run, entry, state, self._clock)
                if isinstance(choice, str):
                    status = choice
                elif choice is not None and entry.type == "parallel" and run.watcher.debugger is None:
                    status = await self._run_branches(run, entry, choice, state)
                    if status is None:
                        end_block(run, entry, choice)
                elif choice is not None:
                    open_blocks.append((entry, choice))
                    branches = [workflow.entries(f"{entry.name}.{branch}") for branch in choice.taken]
                    levels.append(chain.from_iterable(branches))
            if status == "paused":
                return status
            if status is not None:
                run.end.add(status)
        return run.end.status

    async def _run_branches(
        self, run: RunState, block: Block, choice: BlockChoice, state: RestoredRun
    ) -> Status | None:
        """
        Run the branches of a parallel block at the same time, each in workers of its own, and wait until each has ended or pauses.

        Returns:
            The status with which the run ends, `paused` if a branch waits, or None.
        """
        limit = asyncio.Semaphore(MAX_BRANCHES_AT_ONCE)

        async def run_branch(branch: str) -> tuple[Status | None, int]:
            async with limit, run.workers.sequence.branch() as sequence:
                workers = run.workers.open_branch(sequence)
                try:
                    own = run.in_branch(workers)
                    return await self._run_entries(own, state, f"{block.name}.{branch}"), own.attempt
                finally:
                    await workers.release()

        async with run.workers.sequence.split():
            branches = [asyncio.ensure_future(run_branch(branch)) for branch in choice.taken]
            try:
                if branches:
                    await asyncio.wait(branches, return_when=asyncio.FIRST_EXCEPTION)
            finally:  # after an error of the run itself, or its cancellation, no branch goes on
                for each in branches:
                    each.cancel()
                ends = await asyncio.gather(*branches, return_exceptions=True)
        faults = [each for each in ends if isinstance(each, BaseException)]
        for fault in sorted(faults, key=lambda fault: isinstance(fault, asyncio.CancelledError)):
            raise fault
        results = [each for each in ends if not isinstance(each, BaseException)]
        run.attempt = min([run.attempt, *(attempt for _, attempt in results)])
        is_paused = any(status == "paused" for status, _ in results)
        return run.end.status or ("paused" if is_paused else None)


def _raise_problem(request: RunRequest, state: RestoredRun) -> None:
    """Raise the error because of which the run ends before its first step, or before it goes on."""
    if state.problem is not None:
        raise state.problem
    if request.refusal is not None:
        raise request.refusal.error


def _begun_of(place: RunPlace) -> Begun:
    """Return how far the run of *place* is: it begins when it has its place, and lends the place to its child runs later."""
    if place.is_alone:
        return Begun.ALONE
    return Begun.YES if place.has_begun else Begun.NO


async def _complete(work: asyncio.Future[None]) -> None:
    """Wait for the end of *work* although the task is cancelled: the run has ended, and its record is still written."""
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        acknowledge_cancellation()
        await work


def acknowledge_cancellation() -> None:
    """Clear the task's cancellation: the run returns a record instead of raising."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()

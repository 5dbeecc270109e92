"""
Runs in progress that requests have started.

A run outlives its request. The registry passes the response to the caller, and each change to `AppContext.on_run`. A source has
one run at a time. With several servers on one database, the run of a request that waits may be started by another server.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shlex
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakSet

from pdkernel.common.identity import Environment
from pdkernel.egress import OutboundPolicy
from pdkernel.engine.dispatch import Dispatch, open_dispatch
from pdkernel.engine.http_response import (
    NO_RESPONSE,
    NO_RESPONSE_BEFORE_PAUSE,
    HttpResponse,
    build_response,
    build_text_response,
)
from pdkernel.engine.queue_turns import QueueFullError, QueueLimits, find_limits
from pdkernel.engine.run_context import new_run_ids
from pdkernel.engine.run_request import (
    RequestRefusal,
    RunRequest,
    RunWatcher,
)
from pdkernel.engine.variables import load_variables
from pdkernel.errors import ExecutorLostError, PdkernelError, RequestError, TablesChangedError, describe_fault
from pdkernel.event import Event
from pdkernel.execution import UNFINISHED_STATUSES, Execution
from pdkernel.files.source import WorkflowSource, find_sibling_workflow, is_workflow_called
from pdkernel.journal import ClaimedRun
from pdkernel.model import Workflow
from pdkernel.server.app_context import AppContext, ServedWorkflow
from pdkernel.server.middleware import RETRY_AFTER_S, UNAVAILABLE_MESSAGE
from pdkernel.server.source_turns import SourceTurns

MAX_UNFINISHED_RUNS = 1000
"""Limit of running and waiting runs; a request for a further run of an external user, beyond the user's share, gets status 429."""

LOST_MESSAGE = "This server could not reach the database in time. Another server continues the run; see its record."
LOST_RESPONSE = build_text_response(400, LOST_MESSAGE)
"""The response of a run that another server continues: the first server does not know how the run ends."""
UNAVAILABLE_RESPONSE = replace(
    build_text_response(503, f"{UNAVAILABLE_MESSAGE}\n"), headers=((b"retry-after", b"%d" % RETRY_AFTER_S),)
)
"""The response to an event of which nothing was stored, because others have taken this server for dead."""
_FOLLOW_INTERVAL_S = 0.5
"""Seconds between two reads of a run whose caller waits here, and which another server may have started."""

_LOG = logging.getLogger(__name__)

T = TypeVar("T")


def _new_future() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()


def _settle(future: asyncio.Future[T], value: T) -> None:
    if not future.done():
        future.set_result(value)


@dataclass(eq=False)
class StartedRun:
    """
    A started run, for the caller that waits for it.

    Attributes:
        run_id: Id of the run.
        request: The request with its ids.
        recorded: True as soon as the run is on disk; False if it is unknown whether it is; a response if the event was refused
            because too many runs wait.
        response: The response to the caller, if the request `has_response`. Done at the end of the run, at a pause, or at
            once for an immediate response.
        outcome: Text for the log; done at the end of the run or at the first pause.
    """

    run_id: str
    request: RunRequest
    recorded: asyncio.Future[bool | HttpResponse] = field(default_factory=_new_future)
    response: asyncio.Future[HttpResponse] = field(default_factory=_new_future)
    outcome: asyncio.Future[str] = field(default_factory=_new_future)

    def accept(self) -> None:
        """Report that the run is on disk."""
        _settle(self.recorded, True)

    def refuse(self, response: HttpResponse) -> None:
        """Report that the event is refused with *response*."""
        _settle(self.recorded, response)
        _settle(self.response, response)

    def respond(self, response: HttpResponse) -> None:
        """Pass *response* to the caller, unless the caller has one."""
        _settle(self.response, response)

    def pause(self) -> None:
        """Report that the run pauses."""
        _settle(self.outcome, "paused")

    def end(self, outcome: str) -> None:
        """Report that the run has ended, or was lost before it was recorded."""
        _settle(self.recorded, False)
        _settle(self.response, NO_RESPONSE_BEFORE_PAUSE)
        _settle(self.outcome, outcome)


def build_run_request(
    context: AppContext,
    served: ServedWorkflow,
    event: Event,
    *,
    external_user_id: str | None,
    environment: Environment,
    workflow: Workflow | None = None,
    test: bool = False,
    **fields: Any,
) -> RunRequest:
    """
    Build the request, with ids, for a run of a served workflow.

    Args:
        context: The server.
        served: The workflow with its settings.
        event: The event.
        external_user_id: The external user, or None.
        environment: The environment of the user's accounts.
        workflow: The workflow with the trigger that fired; None for the workflow as it is served.
        test: As in `RunRequest`.
        fields: Other fields of `RunRequest`.
    """
    sidecar = served.source.sidecar
    return RunRequest(
        workflow=workflow or served.source.workflow,
        event=event,
        policy=served.policy or context.settings.policy,
        external_user_id=external_user_id,
        environment=environment,
        variables=served.variables,
        folder=served.folder,
        action_sources=sidecar.actions if sidecar else (),
        test=test,
        source=shlex.quote(str(served.source.path)),
        source_path=served.path,
        interface="http",
        pause_mode="park",
        base_url=context.settings.base_url,
        find_workflow=context.engine.find_workflow,
        load_variables=partial(load_variables, context.project),
        workflow_id=served.id,
        run_ids=new_run_ids(context.ids),
        **fields,
    )


class RunRegistry:
    """
    The runs of one server. Belongs to one event loop.

    Attributes:
        dispatch: Continues runs.
        source_turns: The turns of sources.
    """

    def __init__(self, context: AppContext) -> None:
        self._context = context
        # after a short pause, a run has two tasks as long as the first one delivers messages
        self._tasks: dict[asyncio.Task[Execution], str] = {}
        self._users: Counter[str | None] = Counter()  # runs in progress by external user
        self._sources: set[asyncio.Task[Any]] = set()
        self._followers: set[asyncio.Task[None]] = set()
        self.source_turns = SourceTurns(context.project.source_turns, context.ids)
        self._callers: dict[str, StartedRun] = {}  # callers of the runs that wait for their start
        self._launched: dict[asyncio.Task[Execution], StartedRun] = {}  # callers of the runs in progress
        self._is_handing_over = False
        self._ending: WeakSet[asyncio.Task[Any]] = WeakSet()
        self._journal = context.engine.journal
        context.engine.find_workflow = self._find_workflow
        context.engine.base_url = context.settings.base_url
        context.engine.has_dispatch = True
        self.dispatch: Dispatch = open_dispatch(self._journal, self)

    def _find_workflow(self, name: str, source: Path | None) -> WorkflowSource | None:
        """
        Find a served workflow by its id or its name. Of several with the name, that in the folder of *source* is preferred.

        The server of a notebook serves the notebook only, so its runs find the workflows beside it as well.

        Raises:
            RequestError: Several served workflows have the name.
        """
        workflows = self._context.workflows
        served = workflows.find_id(name)
        if served is None:
            named = [each for each in workflows.list_workflows() if is_workflow_called(each.source.path, name)]
            beside = [each for each in named if source is not None and each.path.parent == source.parent]
            found = beside or named
            if len(found) > 1:
                raise RequestError(
                    f"{len(found)} of the served workflows are called {name}.",
                    fix="Name the workflow by its id: " + ", ".join(sorted(each.id for each in found)),
                )
            served = found[0] if found else None
        if served is not None:
            return replace(served.source, served_id=served.id)
        return None if self._context.engine.continues_runs else find_sibling_workflow(name, source)

    def has_room(self, external_user_id: str | None) -> bool:
        """
        Return whether a run for that external user can be started. A paused run does not count.

        A user may have as many runs in progress as the limit leaves for all others, so that one of several users has at most their
        share, and a single one half of the limit. All runs without a user have one share.
        """
        return self._users[external_user_id] < MAX_UNFINISHED_RUNS - self._in_progress

    @property
    def free_runs(self) -> int:
        """The number of stored runs that can be started now. They have half of the limit: new events find room."""
        return MAX_UNFINISHED_RUNS // 2 - self._in_progress

    @property
    def _in_progress(self) -> int:
        return len(self._tasks) + len(self._sources)

    @property
    def active_run_ids(self) -> Collection[str]:
        """The ids of the runs in progress that this registry can cancel."""
        return set(self._tasks.values())

    @property
    def executing_run_ids(self) -> Collection[str]:
        """The ids of all runs for which this process has a task: the active runs, and their child runs."""
        return {*self._tasks.values(), *self._context.engine.executing_run_ids}

    @property
    def expected_places(self) -> int:
        """The number of runs that would begin to execute at once; the others wait for a place."""
        return self._context.engine.expected_places

    async def run(self, request: RunRequest) -> Execution:
        """Run *request* and return its record, which has not ended if this server has lost the run: another server continues it."""
        watcher = RunWatcher(hands_over=lambda: self._journal.is_lost)
        return await self.start_source(self._context.engine.run(request, watcher))

    def start_source(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start *coroutine*, which is not the run of a workflow; it goes on after its caller has ended, until this server ends or is lost."""
        return self._keep(self._sources, coroutine)

    @staticmethod
    def _keep(tasks: set[asyncio.Task[Any]], coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(coroutine)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task

    def start(self, request: RunRequest) -> StartedRun:
        """Start the run of *request*, or let it wait for its workflow's limits; return at once."""
        run_ids = request.run_ids or new_run_ids(self._context.ids)
        request = request if request.run_ids else request.with_changes(run_ids=run_ids)
        run_id = run_ids[0]
        started = StartedRun(run_id, request)
        limits = find_limits(request)
        if limits is None:
            self._launch_started(started, lambda watcher: self._context.engine.run(request, watcher))
            return started
        self._callers[run_id] = started
        self.start_source(self._enqueue(started, limits) if request.keep_in_journal else self._enter_queue(started))
        return started

    async def _enqueue(self, caller: StartedRun, limits: QueueLimits) -> None:
        """Record a run that waits; a run that finds the queue full is recorded as refused."""
        run_id, request, engine = caller.run_id, caller.request, self._context.engine
        try:
            has_room = await engine.enqueue(request, limits, RunWatcher(on_recorded=caller.accept))
        except Exception as fault:  # noqa: BLE001 - the caller must not wait for a run that was not recorded
            if isinstance(fault, PdkernelError):
                _LOG.error("A run could not be recorded: %s", fault.message)
            else:
                _LOG.exception("A run could not be recorded")
            self._callers.pop(run_id, None)
            if isinstance(fault, ExecutorLostError | TablesChangedError):
                caller.refuse(UNAVAILABLE_RESPONSE)
            caller.end("lost")
            return
        if has_room:
            self.dispatch.notify()
            if self._context.project.is_shared:
                is_waiting = lambda: self._callers.get(run_id) is caller  # noqa: E731 - this server has not started the run since
                self._keep(self._followers, self._follow(caller, is_waiting))
            return
        self._callers.pop(run_id, None)
        if await self._is_recorded(request.dedupe_key):
            caller.end("lost")
            return
        self._refuse(caller, QueueFullError(limits))

    async def _is_recorded(self, dedupe_key: str | None) -> bool:
        """Return whether a run with that key is recorded, so that the queue has refused another one with the key."""
        with contextlib.suppress(PdkernelError):
            return dedupe_key is not None and await self._journal.find_run_id(dedupe_key) is not None
        return False

    async def _enter_queue(self, caller: StartedRun) -> None:
        """Start a run that is not recorded, and that waits in this process for the limits of its workflow."""
        engine = self._context.engine
        try:
            turn = await engine.enter_queue(caller.request)
        except QueueFullError as full:
            self._refuse(caller, full)
        except PdkernelError as fault:
            _LOG.error("A run could not be started: %s", fault.message)
            caller.end("lost")
        else:
            self._launch_started(caller, lambda watcher: engine.run(caller.request, watcher, turn=turn))
        finally:
            self._callers.pop(caller.run_id, None)

    def _refuse(self, caller: StartedRun, error: QueueFullError) -> None:
        request = caller.request
        refusal = RequestRefusal(error, build_text_response(429, f"{error.message}\n"))
        caller.refuse(refusal.response)
        # a caller sends a refused event again, with the same key; a trigger does not
        key = None if request.event.is_http else request.dedupe_key
        refused = replace(request, refusal=refusal, dedupe_key=key)
        self._launch_started(caller, lambda watcher: self._context.engine.run(refused, watcher))

    def _launch_started(self, caller: StartedRun, run: Callable[[RunWatcher], Coroutine[Any, Any, Execution]]) -> None:
        self._launch(caller.run_id, caller.request.external_user_id, caller, run)

    def follow(self, run_id: str, request: RunRequest) -> StartedRun:
        """Return the run with that id, which an equal *request* has started before, maybe on another server."""
        caller = StartedRun(run_id, request)
        caller.accept()
        self._keep(self._followers, self._follow(caller, lambda: True))
        return caller

    async def _follow(self, caller: StartedRun, is_waiting: Callable[[], bool]) -> None:
        """Pass the response of a run that this server may not execute to its caller, as long as *is_waiting* returns True."""
        run_id, has_failed = caller.run_id, False
        while not caller.outcome.done():
            await asyncio.sleep(_FOLLOW_INTERVAL_S)
            if not is_waiting():
                return
            try:
                found = await self._journal.load_run(run_id)
            except PdkernelError:  # the dispatch reports an unreadable database
                continue
            except Exception:  # noqa: BLE001 - the caller must not wait for ever because one read has failed
                if not has_failed:
                    _LOG.exception("The run %s, whose response a caller waits for, cannot be read", run_id)
                has_failed = True
                continue
            if not is_waiting():
                return
            execution, claimed = found or (None, None)
            if claimed is not None:
                self._respond_as_recorded(claimed, caller)
            if execution is None or execution.status == "paused" or execution.status not in UNFINISHED_STATUSES:
                if self._callers.get(run_id) is caller:
                    del self._callers[run_id]
                is_paused = execution is not None and execution.status == "paused"
                made = None if execution is None else execution.response
                default = NO_RESPONSE if made is None else build_response(made.to_json())
                caller.respond(NO_RESPONSE_BEFORE_PAUSE if is_paused else default)
                caller.end("lost" if execution is None else _outcome(execution))

    def _respond_as_recorded(self, claimed: ClaimedRun, caller: StartedRun) -> None:
        """Pass on the response that a run has made so far; a record that cannot be read has none."""
        try:
            response = self._context.engine.restore_state(claimed).response
        except Exception as fault:  # noqa: BLE001 - the caller must not wait for ever: the end of the run is read in any case
            _LOG.warning("The record of the run %s cannot be read: %s", claimed.claim.run_id, describe_fault(fault))
            return
        if response is not None:
            caller.respond(response)

    def continue_run(self, claimed: ClaimedRun) -> None:
        """Start or continue a run that this process has claimed; return at once."""

        async def go_on(watcher: RunWatcher) -> Execution:
            return await self._context.engine.continue_run(claimed, watcher, policy=self._current_policy())

        run_id = claimed.claim.run_id
        self._launch(run_id, claimed.external_user_id, self._callers.pop(run_id, None), go_on, is_claimed=True)

    def _current_policy(self) -> OutboundPolicy:
        """Return the policy of this server; that of a notebook may have changed since it is served."""
        context = self._context
        served = () if context.engine.continues_runs else context.workflows.list_workflows()
        return next((each.policy for each in served if each.policy is not None), context.settings.policy)

    def deliver_due(self) -> None:
        """Start to deliver messages that are due; returns at once."""
        self.start_source(self._deliver_due())

    async def _deliver_due(self) -> None:
        try:
            await self._context.engine.deliver_due(self._current_policy())
        except PdkernelError as fault:
            _LOG.warning("A message could not be delivered: %s", fault.message)
        except Exception:  # noqa: BLE001 - it stays due
            _LOG.exception("A message could not be delivered")

    def _launch(
        self,
        run_id: str,
        external_user_id: str | None,
        caller: StartedRun | None,
        run: Callable[[RunWatcher], Coroutine[Any, Any, Execution]],
        *,
        is_claimed: bool = False,
    ) -> None:
        """Start the task of a run; *caller* waits for it, unless the caller is gone."""
        on_run, request = self._context.on_run, None if caller is None else caller.request

        def respond(response: HttpResponse) -> None:
            if caller is not None:
                caller.respond(LOST_RESPONSE if self._journal.is_lost else response)

        watcher = RunWatcher(
            on_recorded=None if caller is None else caller.accept,
            on_respond=None if caller is None else respond,
            on_paused=None if caller is None else caller.pause,
            on_change=None if on_run is None else lambda execution: on_run(request, execution),
            hands_over=lambda: self._is_handing_over or self._journal.is_lost,
        )

        def ended(task: asyncio.Task[Execution]) -> None:
            was_full = self.free_runs <= 0
            self._tasks.pop(task, None)
            self._launched.pop(task, None)
            self._users[external_user_id] -= 1
            if not self._users[external_user_id]:
                del self._users[external_user_id]
            fault = None if task.cancelled() else task.exception()
            if fault is not None:
                _LOG.error("A run could not be recorded: %s", type(fault).__name__, exc_info=fault)
            is_paused = not task.cancelled() and fault is None and task.result().status == "paused"
            if (
                is_paused or is_claimed or was_full
            ):  # the end of a claimed run may make room for another run of its queue
                self.dispatch.notify()
            if caller is not None:
                caller.end("lost" if task.cancelled() or fault else _outcome(task.result()))

        task = asyncio.get_running_loop().create_task(run(watcher))
        self._tasks[task] = run_id
        if caller is not None:
            self._launched[task] = caller
        self._users[external_user_id] += 1
        task.add_done_callback(ended)

    async def cancel(self, run_id: str) -> bool:
        """Cancel the run with that id and wait until its end is recorded; False if there is no such run in progress."""
        tasks = [task for task, each in self._tasks.items() if each == run_id]
        await self._end(tasks)
        return bool(tasks)

    async def close(self, grace_s: float) -> None:
        """Wait up to *grace_s* seconds for the runs to end; leave the others to the next process, and cancel sources."""
        ends = asyncio.get_running_loop().time() + grace_s
        announcing = asyncio.ensure_future(self._journal.announce_end())
        announcing.add_done_callback(
            lambda done: done.cancelled() or done.exception()
        )  # an unreachable database must not delay it
        while (pending := [*self._tasks, *self._sources]) and (left := ends - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(pending, timeout=left)
            await asyncio.sleep(0)  # callbacks of the tasks remove ended tasks; a source may have started a run
        # the runs of a notebook end with its server; those of `serve` are left to the next process
        self._is_handing_over = self._context.engine.continues_runs
        for follower in self._followers:
            follower.cancel()
        while self._tasks or self._sources:  # a source that ends may start a run
            await self._end([*self._tasks, *self._sources])

    async def abandon_runs(self) -> None:
        """End the runs in progress and their workers without a record, because other servers continue them."""
        # at once: a task may wait for a database that does not answer
        for caller in [*self._callers.values(), *self._launched.values()]:
            caller.respond(LOST_RESPONSE)
            caller.end("lost")
        self._callers.clear()
        await self._end([*self._tasks, *self._sources])

    async def _end(self, tasks: Sequence[asyncio.Task[Any]]) -> None:
        """Cancel *tasks*, and wait until they have ended. Who is second waits: to cancel again would interrupt the clean-up."""
        for task in tasks:
            if task not in self._ending:
                self._ending.add(task)
                task.cancel()
        # a shield, because a gather that is cancelled cancels its tasks
        await asyncio.shield(asyncio.gather(*tasks, return_exceptions=True))
        await asyncio.sleep(0)  # callbacks of the tasks remove ended tasks


def _outcome(execution: Execution) -> str:
    """Return the run's status and, if it failed, the error's name and step, but not the message: it may have private data."""
    error = execution.error
    if error is None:
        return execution.status
    return f"{execution.status}: {error.name}" + (f" in {error.step}" if error.step else "")

"""
Runs in progress that requests have started.

A run outlives its request. The registry passes the response to the caller, and each change to `AppContext.on_run`. A source has
one run at a time.
"""

from __future__ import annotations

import asyncio
import logging
import shlex
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from pdkernel.engine.http_response import NO_RESPONSE_BEFORE_PAUSE, HttpResponse
from pdkernel.engine.run_request import RunRequest
from pdkernel.event import Event
from pdkernel.execution import Execution
from pdkernel.identity import Environment
from pdkernel.server.app_context import AppContext, ServedWorkflow
from pdkernel.source import sibling_workflow_finder

MAX_UNFINISHED_RUNS = 1000
"""Limit of running and waiting runs; a further request gets status 429."""

_LOG = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class StartedRun:
    """
    A started run.

    Attributes:
        run_id: Id of the run.
        request: The request with its ids.
        recorded: True as soon as the run is on disk; False if the run has ended without a record.
        response: The response to the caller, if the request `has_response`. Done at the end of the run, at a pause, or at
            once for an immediate response.
        outcome: Text for the log; done at the end of the run or at the first pause.
    """

    run_id: str
    request: RunRequest
    recorded: asyncio.Future[bool]
    response: asyncio.Future[HttpResponse]
    outcome: asyncio.Future[str]


def build_run_request(
    context: AppContext,
    served: ServedWorkflow,
    event: Event,
    *,
    external_user_id: str | None,
    environment: Environment,
) -> RunRequest:
    """Build the request for a run of a served workflow."""
    sidecar = served.source.sidecar
    return RunRequest(
        workflow=served.source.workflow,
        event=event,
        policy=served.policy or context.settings.policy,
        external_user_id=external_user_id,
        environment=environment,
        variables=served.variables,
        folder=served.folder,
        actions_source=sidecar.actions if sidecar else None,
        test=False,
        source=shlex.quote(str(served.source.path)),
        interface="http",
        # parity[served-pauses]: a served run waits in this process; a suspended run is cancelled at shutdown
        pause_mode="wait",
        base_url=context.settings.base_url,
        find_workflow=sibling_workflow_finder(served.source.path),
        workflow_id=served.id,
    )


class RunRegistry:
    """The runs of one server. Belongs to one event loop."""

    def __init__(self, context: AppContext) -> None:
        self._context = context
        self._tasks: dict[str, asyncio.Task[Execution]] = {}
        self._sources: set[asyncio.Task[Any]] = set()
        self._source_locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @property
    def is_full(self) -> bool:
        """Whether the limit of unfinished runs is reached."""
        return len(self._tasks) + len(self._sources) >= MAX_UNFINISHED_RUNS

    def source_lock(self, source: str) -> asyncio.Lock:
        """The lock held while that source runs: two concurrent runs would overwrite each other's state."""
        lock = self._source_locks.get(source)
        if lock is None:
            lock = self._source_locks[source] = asyncio.Lock()
        return lock

    def start_source(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start *coroutine*, the run of a source, which goes on after its caller has ended."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._sources.add(task)
        task.add_done_callback(self._sources.discard)
        return task

    def start(self, request: RunRequest) -> StartedRun:
        """Start the run of *request* with new ids and the registry's callbacks; return at once."""
        loop = asyncio.get_running_loop()
        accepted: asyncio.Future[bool] = loop.create_future()
        response: asyncio.Future[HttpResponse] = loop.create_future()
        outcome: asyncio.Future[str] = loop.create_future()
        on_run = self._context.on_run
        ids = self._context.ids

        def settle(future: asyncio.Future[T], value: T) -> None:
            if not future.done():
                future.set_result(value)

        def on_change(execution: Execution) -> None:
            assert on_run is not None
            on_run(made, execution)

        run_id = ids.new("", 27)
        made = replace(
            request,
            run_ids=(run_id, ids.new("", 27)),
            on_recorded=lambda: settle(accepted, True),
            on_respond=lambda given: settle(response, given),
            on_paused=lambda: settle(outcome, "paused"),
            on_change=None if on_run is None else on_change,
        )

        def ended(task: asyncio.Task[Execution]) -> None:
            self._tasks.pop(run_id, None)
            fault = None if task.cancelled() else task.exception()
            if fault is not None:
                _LOG.error("A run could not be recorded: %s", type(fault).__name__, exc_info=fault)
            settle(accepted, False)
            settle(response, NO_RESPONSE_BEFORE_PAUSE)  # the run was lost
            settle(outcome, "lost" if task.cancelled() or fault else _outcome(task.result()))

        task = loop.create_task(self._context.engine.run(made))
        self._tasks[run_id] = task
        task.add_done_callback(ended)
        return StartedRun(run_id, made, accepted, response, outcome)

    async def cancel(self, run_id: str) -> bool:
        """Cancel the run with that id and wait until its end is recorded; False if there is no such run in progress."""
        task = self._tasks.get(run_id)
        if task is None:
            return False
        task.cancel()
        await asyncio.wait([task])
        return True

    async def close(self, grace_s: float) -> None:
        """Wait up to *grace_s* seconds for the runs to end, then cancel the other runs. Every run is recorded."""
        if self._tasks or self._sources:
            await asyncio.wait([*self._tasks.values(), *self._sources], timeout=grace_s)
        rest = [*self._tasks.values(), *self._sources]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)


def _outcome(execution: Execution) -> str:
    """The run's status and, if it failed, the error's name and step. The message may contain private data and is omitted."""
    error = execution.error
    if error is None:
        return execution.status
    return f"{execution.status}: {error.name}" + (f" in {error.step}" if error.step else "")

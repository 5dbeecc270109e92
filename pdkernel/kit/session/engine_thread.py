"""
The project and the engine of a notebook, both opened at first use, and the paused runs that the engine continues.

The engine has a thread of its own and runs one workflow at a time. `accounts`, `actions` and the engine are imported at
first use, so that a notebook starts quickly.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from contextvars import Context
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pdkernel.common.clock import Clock, IdGenerator
from pdkernel.common.identity import Directory
from pdkernel.common.loop_thread import LoopThread, ThreadTask
from pdkernel.engine.run_request import OnChange, RunRequest, RunWatcher
from pdkernel.errors import RequestError
from pdkernel.execution import Execution, Status
from pdkernel.journal import NewDecision
from pdkernel.kit.session.step_results import RecentRuns
from pdkernel.model import JSON
from pdkernel.operations.run_history import cancel_run, end_pause, name_caller

if TYPE_CHECKING:
    from pdkernel.actions import Catalog
    from pdkernel.engine.workflow_engine import WorkflowEngine
    from pdkernel.storage import Project

T = TypeVar("T")


class LazyProject:
    """
    A notebook's project. Safe from any thread.

    Args:
        folder: The notebook's folder.
        project: The project, or None for the nearest project.
        environ: Environment variables: `PDKERNEL_PROJECT`, `PDKERNEL_DATABASE`, `PDKERNEL_KEY_FILE`, action source.
        clock: The clock for time stamps.
        ids: The source of new ids.
    """

    def __init__(
        self, folder: Path, *, project: Project | None, environ: Mapping[str, str], clock: Clock, ids: IdGenerator
    ) -> None:
        self._folder = folder
        self._environ = environ
        self._clock = clock
        self._ids = ids
        self._lock = threading.RLock()
        self._project = project
        self._directory: Directory | None = None
        self._catalog: Catalog | None = None

    @property
    def project(self) -> Project:
        """The project; opened or created at first use."""
        with self._lock:
            if self._project is None:
                from pdkernel.operations.projects import open_project

                self._project = open_project(self._folder, self._environ, clock=self._clock, ids=self._ids)
            return self._project

    @property
    def directory(self) -> Directory:
        """External users and their accounts."""
        with self._lock:
            if self._directory is None:
                from pdkernel.accounts import open_directory

                self._directory = open_directory(self.project, self._environ)
            return self._directory

    @property
    def catalog(self) -> Catalog:
        """The pre-built actions that the project can run."""
        with self._lock:
            if self._catalog is None:
                from pdkernel.actions import Catalog

                self._catalog = Catalog.for_project(self.project, environ=self._environ)
            return self._catalog

    def close(self) -> None:
        """Close the project if it is open."""
        if self._project is not None:
            self._project.close()


class EngineThread:
    """
    The engine of one session.

    Args:
        local: The notebook's project.
        clock: The clock for time stamps.
        ids: The source of run ids.

    Attributes:
        is_closing: Whether the session ends.
    """

    def __init__(self, local: LazyProject, *, clock: Clock, ids: IdGenerator) -> None:
        self._local = local
        self._clock = clock
        self._ids = ids
        self._loop = LoopThread()
        self._running = threading.Lock()
        self._followers: set[asyncio.Task[Any]] = set()
        self.is_closing = False
        self._starting = asyncio.Lock()
        self._workflow_engine: WorkflowEngine | None = None

    def start(self, operation: Callable[[WorkflowEngine], Awaitable[T]]) -> ThreadTask[T]:
        """
        Start a run and return at once.

        Raises:
            RequestError: Another run is in progress.
        """
        if not self._running.acquire(blocking=False):
            raise RequestError(
                "A run is already in progress in this notebook.", fix="Wait for its end, or interrupt the kernel."
            )

        async def run() -> T:
            try:
                return await operation(await self._start_engine())
            finally:
                self._running.release()

        try:
            return self._loop.submit(run())
        except BaseException:
            self._running.release()
            raise

    def call(self, operation: Callable[[WorkflowEngine], Awaitable[T]]) -> T:
        """Run *operation* beside any run, and return its result."""

        async def do() -> T:
            return await operation(await self._start_engine())

        return self._loop.run(do())

    def follow(self, operation: Callable[[WorkflowEngine], Awaitable[T]]) -> ThreadTask[T]:
        """Start *operation* beside any run, and return at once; `close` cancels it."""

        async def run() -> T:
            task = asyncio.current_task()
            assert task is not None, "a coroutine runs in a task"
            self._followers.add(task)
            try:
                return await operation(await self._start_engine())
            finally:
                self._followers.discard(task)

        # not in the caller's context: by that, ipykernel assigns what is drawn to the cell of the caller, which has ended
        return self._loop.submit(run(), context=Context())

    def close(self) -> None:
        """Stop every worker and the thread."""
        self.is_closing = True
        if self._followers:
            self._loop.run(self._cancel_followers())
        if self._workflow_engine is not None:
            self._loop.run(self._workflow_engine.close())
            self._workflow_engine = None
        self._loop.close()

    async def _cancel_followers(self) -> None:
        for task in self._followers:
            task.cancel()
        await asyncio.gather(*self._followers, return_exceptions=True)

    async def _start_engine(self) -> WorkflowEngine:
        async with self._starting:
            if self._workflow_engine is None:
                from pdkernel.engine.workflow_engine import WorkflowEngine

                local = self._local
                self._workflow_engine = await WorkflowEngine.start(
                    local.project,
                    local.directory,
                    clock=self._clock,
                    ids=self._ids,
                    max_active_runs=1,
                    origin="notebook",
                )
            return self._workflow_engine


class PausedRuns:
    """
    The paused runs of one session.

    Args:
        engine: The engine that continues the runs.
        recent: The latest runs of this kernel, with their requests.
        on_continued: Receives the request and the record of such a run at its next pause or end.
    """

    def __init__(
        self, engine: EngineThread, recent: RecentRuns, *, on_continued: Callable[[RunRequest, Execution], None]
    ) -> None:
        self._engine = engine
        self._recent = recent
        self._on_continued = on_continued
        self._followed: dict[str, Future[Execution | None]] = {}

    def follow(
        self,
        execution: Execution,
        *,
        on_change: OnChange | None = None,
        on_stop: Callable[[Execution | None], None] | None = None,
    ) -> ThreadTask[Execution]:
        """
        Wait for the end of the pause of *execution* and continue the run, in the background; other runs can start meanwhile.

        The task ends at the next pause or the end of the run, in this or in another process. Cancelling the task cancels
        the run; the end of the session leaves a paused run to the next kernel.

        Args:
            execution: The record of the paused run.
            on_change: Receives the execution after each change, in the engine's thread.
            on_stop: Receives the record at the next pause or the end, before the task ends; None if there is no record.
        """
        request = self._recent.find_request(execution.id)
        watcher = RunWatcher(on_change=on_change)
        stopped: Future[Execution | None] = Future()
        self._followed[execution.id] = stopped

        async def go_on(engine: WorkflowEngine) -> Execution:
            continued: Execution | None = None
            try:
                continued = await engine.continue_after_pause(
                    execution.id, watcher, request=request, is_ending=lambda: self._engine.is_closing
                )
                if request is not None:
                    self._on_continued(request, continued)
                return continued
            finally:
                if self._followed.get(execution.id) is stopped:
                    del self._followed[execution.id]
                if on_stop is not None:
                    on_stop(continued)
                stopped.set_result(continued)

        return self._engine.follow(go_on)

    def wait(self, run_id: str) -> Execution | None:
        """Wait for the next pause or the end of a run that this session follows; None if there is no record of it."""
        stopped = self._followed.get(run_id)
        while stopped is not None and not stopped.done():
            with suppress(TimeoutError):  # a wait without a timeout cannot be interrupted on some platforms
                stopped.result(timeout=0.5)
        return None if stopped is None else stopped.result()

    @property
    def newest(self) -> str | None:
        """The id of the run that this session has followed last, or None."""
        return next(reversed(self._followed), None)

    def is_followed(self, run_id: str) -> bool:
        """Return whether this session continues the run at the end of its pause."""
        return run_id in self._followed

    def end_pause(self, run_id: str, body: JSON = None, *, step: str | None = None) -> None:
        """
        End the pause of a run, which goes on in the process that follows it; *body* is what its step gets.

        Args:
            run_id: The id of the run.
            body: What its step gets, as from a call of its `resume_url`; or None.
            step: The step whose pause ends, for a run of which several branches wait; None for the only pause.

        Raises:
            RequestError: There is no such run, or it is not paused.
        """
        decision = NewDecision("resumed", name_caller("notebook"))
        self._engine.call(lambda engine: end_pause(engine, run_id, body, step=step, decision=decision))

    def cancel(self, run_id: str) -> Execution:
        """Cancel a run, and return its record. Raises `RequestError` if there is no such run, or it has ended."""
        return self._engine.call(lambda engine: cancel_run(engine.journal, run_id, by=name_caller("notebook")))

    def list_left(self, workflow: str) -> Sequence[Execution]:
        """Return the paused runs of *workflow*, by its name, that this session does not follow; newest first."""

        async def find(engine: WorkflowEngine) -> Sequence[Execution]:
            unfinished: tuple[Status, ...] = ("paused", "resumed")
            return [
                execution
                for status in unfinished
                for execution in await engine.journal.list_executions(workflow=workflow, status=status)
                if not self.is_followed(execution.id)
                if (found := await engine.journal.load_run(execution.id)) and found[1].origin == engine.origin
            ]

        return self._engine.call(find)

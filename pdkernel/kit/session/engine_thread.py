"""The engine of a notebook in a thread of its own, started at first use; one run at a time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any, TypeVar

from pdkernel.common.clock import Clock, IdGenerator
from pdkernel.common.loop_thread import LoopThread, ThreadTask
from pdkernel.errors import RequestError
from pdkernel.kit.session.lazy_project import LazyProject

if TYPE_CHECKING:
    from pdkernel.engine.workflow_engine import WorkflowEngine

T = TypeVar("T")


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
        self._runtime: WorkflowEngine | None = None

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
                return await operation(await self._engine())
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
            return await operation(await self._engine())

        return self._loop.run(do())

    def follow(self, operation: Callable[[WorkflowEngine], Awaitable[T]]) -> ThreadTask[T]:
        """Start *operation* beside any run, and return at once; `close` cancels it."""

        async def run() -> T:
            task = asyncio.current_task()
            assert task is not None, "a coroutine runs in a task"
            self._followers.add(task)
            try:
                return await operation(await self._engine())
            finally:
                self._followers.discard(task)

        # not in the caller's context: by that, ipykernel assigns what is drawn to the cell of the caller, which has ended
        return self._loop.submit(run(), context=Context())

    def close(self) -> None:
        """Stop every worker and the thread."""
        self.is_closing = True
        if self._followers:
            self._loop.run(self._cancel_followers())
        if self._runtime is not None:
            self._loop.run(self._runtime.close())
            self._runtime = None
        self._loop.close()

    async def _cancel_followers(self) -> None:
        for task in self._followers:
            task.cancel()
        await asyncio.gather(*self._followers, return_exceptions=True)

    async def _engine(self) -> WorkflowEngine:
        async with self._starting:
            if self._runtime is None:
                from pdkernel.engine.workflow_engine import WorkflowEngine

                local = self._local
                self._runtime = await WorkflowEngine.start(
                    local.project,
                    local.directory,
                    clock=self._clock,
                    ids=self._ids,
                    max_active_runs=1,
                    origin="notebook",
                )
            return self._runtime

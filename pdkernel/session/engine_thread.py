"""
A notebook's engine in its own thread, started at the first need.

Knows that one thing runs at a time. What runs is for the caller to say.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from pdkernel.clock import Clock, IdGenerator
from pdkernel.errors import RequestError
from pdkernel.loop_thread import LoopThread, ThreadTask
from pdkernel.session.lazy_project import LazyProject

if TYPE_CHECKING:
    from pdkernel.engine.workflow_engine import WorkflowEngine

T = TypeVar("T")


class EngineThread:
    """
    The engine of one session.

    Args:
        local: The project that it works with.
        clock: For every time stamp.
        ids: For run ids.
    """

    def __init__(self, local: LazyProject, *, clock: Clock, ids: IdGenerator) -> None:
        self._local = local
        self._clock = clock
        self._ids = ids
        self._loop = LoopThread()
        self._running = threading.Lock()
        self._starting = asyncio.Lock()
        self._runtime: WorkflowEngine | None = None

    def start(self, operation: Callable[[WorkflowEngine], Awaitable[T]]) -> ThreadTask[T]:
        """
        Start a run and return at once.

        Raises:
            RequestError: One is going on.
        """
        if not self._running.acquire(blocking=False):
            raise RequestError("A run is going on in this notebook.", fix="Wait for its end, or interrupt it.")

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
        """Do something with the engine that is not a run, and wait for it."""

        async def do() -> T:
            return await operation(await self._engine())

        return self._loop.run(do())

    def close(self) -> None:
        """End every process and the thread."""
        if self._runtime is not None:
            self._loop.run(self._runtime.close())
            self._runtime = None
        self._loop.close()

    async def _engine(self) -> WorkflowEngine:
        async with self._starting:
            if self._runtime is None:
                from pdkernel.engine.workflow_engine import WorkflowEngine

                local = self._local
                self._runtime = await WorkflowEngine.start(
                    local.project, local.directory, clock=self._clock, ids=self._ids, max_active_runs=1
                )
            return self._runtime

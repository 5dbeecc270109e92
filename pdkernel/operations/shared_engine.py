"""An engine in a thread of its own, which the runs of one program share."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pdkernel.common.blocking import run_blocking
from pdkernel.common.loop_thread import LoopThread, ThreadTask
from pdkernel.errors import RequestError
from pdkernel.execution import Execution

if TYPE_CHECKING:
    from pdkernel.engine.run_request import RunRequest, RunWatcher
    from pdkernel.engine.workflow_engine import WorkflowEngine
    from pdkernel.storage import Project

PathLike = str | os.PathLike[str]


class Engine:
    """
    An engine that several runs share: `with pdkernel.Engine() as engine: pdkernel.run(..., engine=engine)`.

    Its workers stay between runs, so each run but the first starts sooner. Runs may come from several threads.

    Args:
        project: The folder of the local project; default: the nearest `.pdkernel` upwards, else a new one in the current folder.
        max_active_runs: The number of runs that execute at the same time; None for 8, and up to 128 while processors are idle and memory
            remains.
    """

    def __init__(self, *, project: PathLike | None = None, max_active_runs: int | None = None) -> None:
        self._project_folder = None if project is None else os.fspath(project)
        self._start_folder = Path.cwd()
        self._max_active_runs = max_active_runs
        self._loop = LoopThread()
        self._starting = asyncio.Lock()
        self._started: tuple[Project, WorkflowEngine] | None = None
        self._runs: set[asyncio.Task[Any]] = set()
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start_run(
        self, build: Callable[[Project], RunRequest], watcher: RunWatcher, *, closes: bool
    ) -> ThreadTask[Execution]:
        """Start the run of the request that *build* returns; *closes* stops the engine after the run."""
        if self._is_closed:
            raise RequestError("The engine is closed.", fix="Create a new engine, and run inside its `with` block.")
        return self._loop.submit(self._run(build, watcher, closes=closes))

    def close(self) -> None:
        """Cancel the runs and stop the workers."""
        self._is_closed = True
        self._loop.run(self._stop())
        self._loop.close()

    async def _run(self, build: Callable[[Project], RunRequest], watcher: RunWatcher, *, closes: bool) -> Execution:
        task = asyncio.current_task()
        assert task is not None
        self._runs.add(task)
        try:
            project, engine = await self._start()
            return await engine.run(await run_blocking(build, project), watcher)
        finally:
            self._runs.discard(task)
            if closes:
                await self._stop()

    async def _start(self) -> tuple[Project, WorkflowEngine]:
        async with self._starting:
            if self._started is None:
                from pdkernel.accounts import open_directory
                from pdkernel.engine.workflow_engine import WorkflowEngine
                from pdkernel.operations.projects import open_project

                project = await run_blocking(open_project, self._start_folder, os.environ, folder=self._project_folder)
                try:
                    engine = await WorkflowEngine.start(
                        project,
                        await run_blocking(open_directory, project, os.environ),
                        max_active_runs=self._max_active_runs,
                        origin="python",
                    )
                except BaseException:
                    project.close()
                    raise
                self._started = project, engine
            return self._started

    async def _stop(self) -> None:
        active = [*self._runs]
        for task in active:
            task.cancel()
        await asyncio.gather(*active, return_exceptions=True)
        started, self._started = self._started, None
        if started is not None:
            project, engine = started
            await engine.close()
            project.close()


@contextmanager
def use_engine(engine: Engine | None, project: PathLike | None) -> Iterator[Engine]:
    """Yield *engine*, or an engine for one run in *project*."""
    if engine is None:
        with Engine(project=project) as own:
            yield own
        return
    if project is not None:
        raise RequestError("An engine has a project already.", fix="Pass project=FOLDER to Engine.")
    yield engine

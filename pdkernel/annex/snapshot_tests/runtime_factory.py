"""Resources shared by runs in many temporary projects: worker processes, the gateway and an event loop thread."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from pdkernel.annex.snapshot_tests.clock import SettableClock
from pdkernel.common.clock import RANDOM_IDS, IdGenerator
from pdkernel.common.identity import Directory
from pdkernel.common.loop_thread import LoopThread
from pdkernel.common.safe_files import PROJECT_FOLDER_NAME
from pdkernel.egress import Gateway
from pdkernel.engine.step_packages import StepPackages, go_programs, step_access
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.runtimes.file_tree import remove_tree
from pdkernel.storage import Project
from pdkernel.workers import WorkerPool, make_scratch_folder

T = TypeVar("T")


class RuntimeFactory:
    """
    Creates engines that share worker processes; starts the first process with the first run.

    Attributes:
        clock: The clock of all time stamps.
    """

    def __init__(self) -> None:
        self.clock = SettableClock()
        self._loop = LoopThread()
        self._folder: Path | None = None
        self._gateway: Gateway | None = None
        self._pools: dict[Path, WorkerPool] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run_sync(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run *coroutine* in the event loop thread, from any thread, and wait for its result."""
        return self._loop.run(coroutine)

    def create_runtime(
        self,
        project: Project,
        directory: Directory,
        *,
        packages_folder: Path | None,
        environ: Mapping[str, str],
        ids: IdGenerator = RANDOM_IDS,
    ) -> WorkflowEngine:
        """
        Create an engine for *project* on the shared processes; the caller closes the engine.

        Args:
            project: The project with the journal.
            directory: Users and accounts of the project.
            packages_folder: The project folder (`.../.pdkernel`) with packages and compiled steps; None for a shared one.
            environ: Environment variables with settings of package registries.
            ids: Generates ids of runs.
        """
        return self.run_sync(self._create_engine(project, directory, packages_folder, environ, ids))

    def close(self) -> None:
        """Stop every worker process."""
        self.run_sync(self._close())
        self._loop.close()
        if self._folder is not None:
            remove_tree(self._folder)
            self._folder = None

    async def _create_engine(
        self,
        project: Project,
        directory: Directory,
        packages: Path | None,
        environ: Mapping[str, str],
        ids: IdGenerator,
    ) -> WorkflowEngine:
        if self._folder is None or self._gateway is None:
            self._folder = make_scratch_folder("pdkernel-test-")
            self._gateway = await Gateway.start(self._folder, clock=self.clock)
        folder = packages or self._folder / PROJECT_FOLDER_NAME
        if folder not in self._pools:
            self._pools[folder] = WorkerPool(
                gateway=self._gateway,
                max_active_runs=1,
                go_cache=go_programs(folder, environ),
                access=step_access(folder, self._gateway.certificate_files),
            )
        return await WorkflowEngine.start(
            project,
            directory,
            clock=self.clock,
            ids=ids,
            gateway=self._gateway,
            workers=self._pools[folder],
            packages=StepPackages.for_project(folder, environ),
        )

    async def _close(self) -> None:
        for pool in self._pools.values():
            await pool.close()
        self._pools.clear()
        if self._gateway is not None:
            await self._gateway.close()
            self._gateway = None

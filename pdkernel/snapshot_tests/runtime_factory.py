"""
What many runs in projects of their own share: warm processes for steps, the way out, and the thread that drives them.

Knows what may be shared between projects and how it ends. Knows nothing of what is run.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from pdkernel.clock import RANDOM_IDS, IdGenerator
from pdkernel.egress import Gateway
from pdkernel.engine.step_packages import StepPackages, go_programs
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.identity import Directory
from pdkernel.loop_thread import LoopThread
from pdkernel.project import Project
from pdkernel.project.folder import FOLDER_NAME
from pdkernel.runtimes.file_tree import remove_tree
from pdkernel.snapshot_tests.clock import SettableClock
from pdkernel.workers import WorkerPool, make_scratch_folder

T = TypeVar("T")


class RuntimeFactory:
    """
    Shared by the runs of one process; nothing is started before the first one.

    Attributes:
        clock: Of every time stamp.
    """

    def __init__(self) -> None:
        self.clock = SettableClock()
        self._loop = LoopThread()
        self._folder: Path | None = None
        self._gateway: Gateway | None = None
        self._hosts: dict[Path, WorkerPool] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run_sync(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run *coroutine* in the bench's thread, wherever this is called from, and wait for it."""
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
        An engine for *project*, on the shared processes; close it with the project.

        Args:
            project: Whose journal it writes.
            directory: Its users and accounts.
            packages_folder: The project folder (`.../.pdkernel`) whose packages and compiled steps it uses; None for the bench's.
            environ: The person's own settings of registries.
            ids: For ids of runs.
        """
        return self.run_sync(self._runtime(project, directory, packages_folder, environ, ids))

    def close(self) -> None:
        """End every process."""
        self.run_sync(self._close())
        self._loop.close()
        if self._folder is not None:
            remove_tree(self._folder)
            self._folder = None

    async def _runtime(
        self,
        project: Project,
        directory: Directory,
        packages: Path | None,
        environ: Mapping[str, str],
        ids: IdGenerator,
    ) -> WorkflowEngine:
        if self._folder is None or self._gateway is None:
            self._folder = make_scratch_folder("pdkernel-bench-")
            self._gateway = await Gateway.start(self._folder, clock=self.clock)
        place = packages or self._folder / FOLDER_NAME
        if place not in self._hosts:
            self._hosts[place] = WorkerPool(
                gateway=self._gateway,
                max_active_runs=1,
                go_cache=go_programs(place, environ),
                extra_read_folders=(place, self._folder),
            )
        return await WorkflowEngine.start(
            project,
            directory,
            clock=self.clock,
            ids=ids,
            gateway=self._gateway,
            workers=self._hosts[place],
            packages=StepPackages.for_project(place, environ),
        )

    async def _close(self) -> None:
        for hosts in self._hosts.values():
            await hosts.close()
        self._hosts.clear()
        if self._gateway is not None:
            await self._gateway.close()
            self._gateway = None

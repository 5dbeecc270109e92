"""
The parts that one process needs to run workflows, assembled and taken apart in one place.

Knows which part needs which. Knows nothing of who asks for a run: a notebook's session, the command line,
a test and later the server all start one of these.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from pdkernel.actions import Catalog
from pdkernel.clock import RANDOM_IDS, SYSTEM_CLOCK, Clock, IdGenerator
from pdkernel.egress import Gateway
from pdkernel.engine.action_forms import ActionForms
from pdkernel.engine.event_sources import SourceRunner
from pdkernel.engine.interpreter import Interpreter
from pdkernel.engine.journal import Journal, SqliteJournal
from pdkernel.engine.mail import parse_mail_settings
from pdkernel.engine.run_request import RunRequest
from pdkernel.engine.step_packages import StepPackages, go_programs
from pdkernel.errors import ProjectError
from pdkernel.execution import Execution
from pdkernel.identity import Directory
from pdkernel.project import Project
from pdkernel.runtimes.file_tree import remove_tree
from pdkernel.workers import WARDEN, WorkerPool, make_scratch_folder


class WorkflowEngine:
    """Everything between a request to run and its execution. Make it with `start`, inside a running loop."""

    def __init__(
        self,
        interpreter: Interpreter,
        *,
        catalog: Catalog,
        forms: ActionForms,
        source_runner: SourceRunner,
        workers: WorkerPool,
        gateway: Gateway,
        journal: Journal,
        scratch: Path,
        shares_workers: bool = False,
    ) -> None:
        self._interpreter = interpreter
        self._shared = shares_workers
        self._hosts = workers
        self._journal = journal
        self._scratch = scratch
        self.catalog = catalog
        self.forms = forms
        self.source_runner = source_runner
        self.gateway = gateway
        self.journal = journal

    @classmethod
    async def start(
        cls,
        project: Project,
        directory: Directory,
        *,
        clock: Clock = SYSTEM_CLOCK,
        ids: IdGenerator = RANDOM_IDS,
        max_active_runs: int = 8,
        gateway: Gateway | None = None,
        workers: WorkerPool | None = None,
        environ: Mapping[str, str] | None = None,
        packages: StepPackages | None = None,
        python_executable: Path | None = None,
    ) -> Self:
        """
        Open the journal and the gateway; processes for steps start when the first step needs them.

        Args:
            project: Whose journal and key are used.
            directory: Users and accounts.
            clock: For every time stamp.
            ids: For run ids.
            max_active_runs: Runs that execute at once.
            gateway: One made elsewhere (tests give it a loopback outside), or None for a new one.
            workers: Processes that another runtime uses, too, with their gateway; both stay when this one closes.
            environ: The environment of what installs packages; `os.environ` by default.
            packages: Those of another project, or None for the project's own.
            python_executable: An interpreter for all Python steps, with the packages that it has; None for an environment of
                each workflow's own.
        """
        journal = _open_journal(project, clock, ids)
        gateway = gateway or await Gateway.start(project.folder / "egress", clock=clock)
        scratch = make_scratch_folder("pdkernel-")
        WARDEN.register_folder(scratch)  # a notebook's kernel is often ended without being asked
        environ = os.environ if environ is None else environ
        shared = workers is not None
        workers = workers or WorkerPool(
            gateway=gateway,
            max_active_runs=max_active_runs,
            python=python_executable,
            go_cache=go_programs(project.folder, environ),
            extra_read_folders=(project.folder,),
        )
        catalog = Catalog.for_project(project, environ=environ)
        interpreter = Interpreter(
            directory=directory,
            stores=project.data_stores,
            workers=workers,
            catalog=catalog,
            packages=packages or StepPackages.for_project(project.folder, environ, python=python_executable),
            journal=journal,
            clock=clock,
            ids=ids,
            vault=project.vault,
            scratch=scratch,
            file_store=project.folder / "files",
            mail=lambda: parse_mail_settings(project.settings.all_settings(), project.variables.values()),
        )
        forms = ActionForms(directory=directory, workers=workers, catalog=catalog, scratch=scratch)
        sources = SourceRunner(
            directory=directory,
            hosts=workers,
            catalog=catalog,
            states=project.source_states,
            clock=clock,
            scratch=scratch,
        )
        return cls(
            interpreter,
            catalog=catalog,
            forms=forms,
            source_runner=sources,
            workers=workers,
            gateway=gateway,
            journal=journal,
            scratch=scratch,
            shares_workers=shared,
        )

    async def run(self, request: RunRequest) -> Execution:
        """Run *request*; see `Interpreter.run`."""
        return await self._interpreter.run(request)

    async def close(self) -> None:
        """End every process and close the gateway, unless they are shared; close the journal, remove temporary files."""
        if not self._shared:
            await self._hosts.close()
            await self.gateway.close()
        await self._journal.close()
        await asyncio.to_thread(remove_tree, self._scratch)
        WARDEN.unregister_folder(self._scratch)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _open_journal(project: Project, clock: Clock, ids: IdGenerator) -> Journal:
    if project.sqlite_path is None:
        raise ProjectError(
            "This version keeps its journal on SQLite only.", fix="Leave --database out, or give sqlite:///FILE."
        )
    return SqliteJournal.open(project.sqlite_path, clock=clock, ids=ids)

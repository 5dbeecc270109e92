"""
Runs a side of a proof: calls answered from a recording, clock and chance fixed, stores and files of its own.

Knows what must be the same for both sides, and that neither may touch the project: its history, stores, files and accounts.
Packages and actions are the project's; nothing is installed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from shutil import copytree
from types import TracebackType
from typing import Any, Self

from pdkernel.actions import Catalog
from pdkernel.clock import ManualClock, SequentialIds
from pdkernel.egress import Gateway
from pdkernel.egress.outbound_policy import OutboundPolicy
from pdkernel.engine.interpreter import Interpreter
from pdkernel.engine.journal import MemoryJournal, MemoryTables
from pdkernel.engine.run_request import RunRequest, WorkflowFinder
from pdkernel.engine.step_packages import StepPackages, go_programs
from pdkernel.execution import Execution
from pdkernel.identity import Directory
from pdkernel.model import Workflow
from pdkernel.project import Project, StoreRecord
from pdkernel.proof.cases import ProofCase
from pdkernel.runtimes.file_tree import remove_tree
from pdkernel.workers import WARDEN, Determinism, WorkerPool, make_scratch_folder

RANDOM_SEED = "pdkernel proof"


@dataclass(frozen=True)
class ProofSide:
    """
    What one side of a run is given.

    Attributes:
        workflow: What runs.
        folder: Where its steps' imports are looked up.
        actions: Where its actions run, or None for the project's choice.
        variables: Environment variables.
        source: What commands call the notebook.
        find_workflow: Other workflows that steps may trigger.
    """

    workflow: Workflow
    folder: Path
    actions: str | None
    variables: Mapping[str, str]
    source: str
    find_workflow: WorkflowFinder | None


@dataclass(frozen=True)
class SideRun:
    """What a side did: its execution, and what its data stores hold afterwards."""

    execution: Execution
    stores: Mapping[str, Mapping[str, Any]]


class ProofRunner:
    """What the runs of one proof share. Make it with `start`, inside a running loop."""

    def __init__(
        self, project: Project, directory: Directory, environ: Mapping[str, str], *, gateway: Gateway, at: datetime
    ) -> None:
        self._project = project
        self._directory = directory
        self._gateway = gateway
        self._at = at
        self._scratch = make_scratch_folder("pdkernel-proof-")
        WARDEN.register_folder(self._scratch)
        self._scratch_project = Project.open(self._scratch / "project", clock=ManualClock(at))
        self._packages = StepPackages.for_project(project.folder, environ)
        self._hosts = WorkerPool(
            gateway=gateway,
            max_active_runs=1,
            go_cache=go_programs(project.folder, environ),
            extra_read_folders=(project.folder,),
            determinism=Determinism(at, RANDOM_SEED),
        )
        self._records: dict[str, list[StoreRecord]] | None = None
        self.catalog = Catalog.for_project(project, environ=environ)

    @classmethod
    async def start(
        cls, project: Project, directory: Directory, environ: Mapping[str, str], *, frozen_time: datetime
    ) -> Self:
        """
        Make ready; processes start when the first step needs them.

        Args:
            project: Whose packages, actions, stores and files the runs find. Nothing in it changes.
            directory: Users and accounts.
            environ: For the settings of registries.
            frozen_time: The time that both sides see, in whole seconds.
        """
        gateway = await Gateway.start(project.folder / "egress", clock=ManualClock(frozen_time))
        try:
            return cls(project, directory, environ, gateway=gateway, at=frozen_time)
        except BaseException:
            await gateway.close()
            raise

    async def run(self, side: ProofSide, case: ProofCase, *, only: frozenset[str] | None = None) -> SideRun:
        """Run *side* on *case*, all of it or *only* some steps."""
        await asyncio.to_thread(self._fill_stores, side.workflow)
        files = await asyncio.to_thread(self._copy_files)
        clock, ids = ManualClock(self._at), SequentialIds()
        interpreter = Interpreter(
            directory=self._directory,
            stores=self._scratch_project.data_stores,
            workers=self._hosts,
            catalog=self.catalog,
            packages=self._packages,
            journal=MemoryJournal.open(MemoryTables(), clock=clock, ids=ids),
            clock=clock,
            ids=ids,
            vault=None,
            scratch=self._scratch,
            file_store=files,
        )
        execution = await interpreter.run(
            RunRequest(
                workflow=side.workflow,
                event=case.event.with_identity(case.external_user, case.environment),
                # a file that is not there answers nothing, and refuses what would go out
                policy=OutboundPolicy(
                    "replay", f"replay={case.recording_path.name}", recording_file=case.recording_path.absolute()
                ),
                external_user_id=case.external_user,
                environment=case.environment,
                variables=side.variables,
                folder=side.folder,
                only_steps=only,
                install=False,
                source=side.source,
                actions_source=side.actions,
                pause_mode="skip",
                find_workflow=side.find_workflow,
                keep_in_journal=False,
            )
        )
        return SideRun(execution, await asyncio.to_thread(self._stores))

    async def close(self) -> None:
        """End every process and remove what was made."""
        await self._hosts.close()
        await self._gateway.close()
        self._scratch_project.close()
        await asyncio.to_thread(remove_tree, self._scratch)
        WARDEN.unregister_folder(self._scratch)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _fill_stores(self, workflow: Workflow) -> None:
        """Let the stores hold what the project's do."""
        own = self._scratch_project.data_stores
        for name in own.names():
            own.remove(name)
        if not any(step.stores or step.uses or "data_store" in step.source for step in workflow.steps):
            return
        if self._records is None:
            theirs = self._project.data_stores
            self._records = {name: list(theirs.iter_records(name)) for name in theirs.names()}
        for name, records in self._records.items():
            own.put_records(name, records)

    def _stores(self) -> dict[str, dict[str, Any]]:
        own = self._scratch_project.data_stores
        return {
            name: {
                record.key: record.value
                if record.expires is None
                else {"value": record.value, "expires": record.expires.isoformat()}
                for record in own.iter_records(name)
            }
            for name in own.names()
        }

    def _copy_files(self) -> Path:
        """The project's file store as it is, in a place of its own."""
        place = self._scratch / "files"
        remove_tree(place)
        kept = self._project.folder / "files"
        if kept.is_dir():
            copytree(kept, place, symlinks=True)
        return place

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
from pdkernel.clock import CountingIds, FrozenClock
from pdkernel.egress import Gateway
from pdkernel.egress.policy import Policy
from pdkernel.engine.interpreter import Interpreter
from pdkernel.engine.journal import MemoryJournal, MemoryStore
from pdkernel.engine.packages import Packages, go_programs
from pdkernel.engine.request import FindWorkflow, RunRequest
from pdkernel.execution import Execution
from pdkernel.guests.file_tree import remove_tree
from pdkernel.hosts import WARDEN, Fixed, Hosts, scratch_folder
from pdkernel.identity import Directory
from pdkernel.model import Workflow
from pdkernel.project import Project, Record
from pdkernel.proof.cases import Case

SEED = "pdkernel proof"


@dataclass(frozen=True)
class Side:
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
    find_workflow: FindWorkflow | None


@dataclass(frozen=True)
class Ran:
    """What a side did: its execution, and what its data stores hold afterwards."""

    execution: Execution
    stores: Mapping[str, Mapping[str, Any]]


class ProofBench:
    """What the runs of one proof share. Make it with `start`, inside a running loop."""

    def __init__(
        self, project: Project, directory: Directory, environ: Mapping[str, str], *, gateway: Gateway, at: datetime
    ) -> None:
        self._project = project
        self._directory = directory
        self._gateway = gateway
        self._at = at
        self._scratch = scratch_folder("pdkernel-proof-")
        WARDEN.register_folder(self._scratch)
        self._own = Project.open(self._scratch / "project", clock=FrozenClock(at))
        self._packages = Packages.of(project.folder, environ)
        self._hosts = Hosts(
            gateway=gateway,
            size=1,
            go=go_programs(project.folder, environ),
            kept=(project.folder,),
            fixed=Fixed(at, SEED),
        )
        self._records: dict[str, list[Record]] | None = None
        self.catalog = Catalog.of(project, environ=environ)

    @classmethod
    async def start(cls, project: Project, directory: Directory, environ: Mapping[str, str], *, at: datetime) -> Self:
        """
        Make ready; processes start when the first step needs them.

        Args:
            project: Whose packages, actions, stores and files the runs find. Nothing in it changes.
            directory: Users and accounts.
            environ: For the settings of registries.
            at: The time that both sides see, in whole seconds.
        """
        gateway = await Gateway.start(project.folder / "egress", clock=FrozenClock(at))
        try:
            return cls(project, directory, environ, gateway=gateway, at=at)
        except BaseException:
            await gateway.close()
            raise

    async def run(self, side: Side, case: Case, *, only: frozenset[str] | None = None) -> Ran:
        """Run *side* on *case*, all of it or *only* some steps."""
        await asyncio.to_thread(self._fill_stores, side.workflow)
        files = await asyncio.to_thread(self._copy_files)
        clock, ids = FrozenClock(self._at), CountingIds()
        interpreter = Interpreter(
            directory=self._directory,
            stores=self._own.stores,
            hosts=self._hosts,
            catalog=self.catalog,
            packages=self._packages,
            journal=MemoryJournal.open(MemoryStore(), clock=clock, ids=ids),
            clock=clock,
            ids=ids,
            vault=None,
            scratch=self._scratch,
            files=files,
        )
        execution = await interpreter.run(
            RunRequest(
                workflow=side.workflow,
                event=case.event.with_identity(case.external_user, case.environment),
                # a file that is not there answers nothing, and refuses what would go out
                policy=Policy("replay", f"replay={case.recording.name}", file=case.recording.absolute()),
                external_user_id=case.external_user,
                environment=case.environment,
                variables=side.variables,
                folder=side.folder,
                only=only,
                install=False,
                source=side.source,
                actions=side.actions,
                pauses="skip",
                find_workflow=side.find_workflow,
                store=False,
            )
        )
        return Ran(execution, await asyncio.to_thread(self._stores))

    async def close(self) -> None:
        """End every process and remove what was made."""
        await self._hosts.close()
        await self._gateway.close()
        self._own.close()
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
        own = self._own.stores
        for name in own.names():
            own.remove(name)
        if not any(step.stores or step.uses or "data_store" in step.source for step in workflow.steps):
            return
        if self._records is None:
            theirs = self._project.stores
            self._records = {name: list(theirs.records(name)) for name in theirs.names()}
        for name, records in self._records.items():
            own.put_records(name, records)

    def _stores(self) -> dict[str, dict[str, Any]]:
        own = self._own.stores
        return {
            name: {
                record.key: record.value
                if record.expires is None
                else {"value": record.value, "expires": record.expires.isoformat()}
                for record in own.records(name)
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

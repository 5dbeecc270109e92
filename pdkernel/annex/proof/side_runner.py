"""
Runs one side of a proof: replayed calls, a fixed clock and seed, a scratch copy of the stores, a copy of the files.

A run does not change the project's journal, stores, files or accounts. It uses the project's packages and actions and
does not install any.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from shutil import copytree
from types import MappingProxyType, TracebackType
from typing import Any, Self

from pdkernel.actions import Catalog
from pdkernel.annex.proof.cases import ProofCase
from pdkernel.common.blocking import run_blocking
from pdkernel.common.clock import ManualClock, SequentialIds
from pdkernel.common.identity import Directory
from pdkernel.egress import Gateway
from pdkernel.egress.outbound_policy import OutboundPolicy
from pdkernel.engine.interpreter import Interpreter
from pdkernel.engine.run_deliveries import RunDeliveries
from pdkernel.engine.run_request import RunRequest, VariableLoader
from pdkernel.engine.step_packages import StepPackages, go_programs, step_access
from pdkernel.execution import Execution
from pdkernel.journal import UnrecordedRuns
from pdkernel.model import JSON, Workflow
from pdkernel.runtimes.file_tree import remove_tree
from pdkernel.storage import Project, ScratchCopy
from pdkernel.storage.data_stores import DEFAULT_DATA_STORE
from pdkernel.workers import WARDEN, Determinism, WorkerPool, make_scratch_folder

RANDOM_SEED = "pdkernel proof"


@dataclass(frozen=True)
class ProofSide:
    """
    One side of a proof: the notebook or the files.

    Attributes:
        workflow: The workflow to run.
        folder: The folder where imports of steps are resolved.
        actions: The sources of its actions; empty for the project's setting.
        load_variables: Loads the variables of the workflow and of those that its steps trigger.
        source: The notebook's name in commands.
        source_path: The notebook, beside which other workflows are found.
    """

    workflow: Workflow
    folder: Path
    actions: tuple[str, ...]
    load_variables: VariableLoader
    source: str
    source_path: Path


@dataclass(frozen=True)
class SideRun:
    """A run of one side: its execution, and the content of the data stores that it wrote."""

    execution: Execution
    stores: Mapping[str, Mapping[str, Any]]


class ProofRunner:
    """Resources that the runs of one proof share. Create it with `start`, inside a running loop."""

    def __init__(
        self,
        project: Project,
        directory: Directory,
        environ: Mapping[str, str],
        *,
        gateway: Gateway,
        at: datetime,
        seed: str,
    ) -> None:
        self._project = project
        self._directory = directory
        self._gateway = gateway
        self._at = at
        self._scratch = make_scratch_folder("pdkernel-proof-")
        WARDEN.register_folder(self._scratch)
        self._packages = StepPackages.for_project(project.folder, environ)
        self._workers = WorkerPool(
            gateway=gateway,
            max_active_runs=1,
            go_cache=go_programs(project.folder, environ),
            access=step_access(project.folder, gateway.certificate_files, project=project),
            determinism=Determinism(at, seed),
        )
        self.catalog = Catalog.for_project(project, environ=environ)

    @classmethod
    async def start(
        cls,
        project: Project,
        directory: Directory,
        environ: Mapping[str, str],
        *,
        frozen_time: datetime,
        seed: str = RANDOM_SEED,
    ) -> Self:
        """
        Prepare the runs; worker processes start with the first step.

        Args:
            project: The project with packages, actions, stores and files; it is not changed.
            directory: Users and accounts.
            environ: Environment variables with settings of package registries.
            frozen_time: The fixed time that both sides see, in whole seconds.
            seed: The seed of the random numbers of steps.
        """
        gateway = await Gateway.start(project.folder / "egress", clock=ManualClock(frozen_time))
        try:
            return cls(project, directory, environ, gateway=gateway, at=frozen_time, seed=seed)
        except BaseException:
            await gateway.close()
            raise

    def has_records(self, stores: Iterable[str | None]) -> bool:
        """Whether one of the project's data *stores* has a record."""
        names = {store or DEFAULT_DATA_STORE for store in stores}
        return any(each.record_count > 0 and each.name in names for each in self._project.data_stores.list_stores())

    async def run(
        self,
        side: ProofSide,
        case: ProofCase,
        *,
        only: frozenset[str] | None = None,
        pins: Mapping[str, Mapping[str, JSON]] = MappingProxyType({}),
        empty_stores: bool = False,
        policy: OutboundPolicy | None = None,
    ) -> SideRun:
        """
        Run *side* on *case*.

        Args:
            side: The workflow.
            case: The event.
            only: The steps to run; None for all.
            pins: Fixed exports by step; such steps do not run.
            empty_stores: Whether the data stores are empty instead of a copy of the project's.
            policy: The outbound policy; None replays the recording of the event, and refuses every other call.
        """
        files = await run_blocking(self._copy_files)
        clock, ids = ManualClock(self._at), SequentialIds()
        stores = ScratchCopy(self._project.data_stores, clock)
        if empty_stores:
            for name in await run_blocking(self._project.data_stores.names):
                await run_blocking(stores.clear, name)
        journal = UnrecordedRuns()
        interpreter = Interpreter(
            directory=self._directory,
            stores=self._project.data_stores,
            workers=self._workers,
            catalog=self.catalog,
            packages=self._packages,
            journal=journal,
            clock=clock,
            ids=ids,
            vault=None,
            root=self._scratch,
            deliveries=RunDeliveries(directory=self._directory, journal=journal, gateway=self._gateway, clock=clock),
            file_store=files,
        )
        execution = await interpreter.run(
            RunRequest(
                workflow=side.workflow,
                event=case.event.with_identity(case.external_user, case.environment),
                # without a recording, every outbound call is refused
                policy=policy
                or OutboundPolicy(
                    "replay", f"replay={case.recording_path.name}", recording_file=case.recording_path.absolute()
                ),
                external_user_id=case.external_user,
                environment=case.environment,
                variables=await run_blocking(side.load_variables, side.folder),
                load_variables=side.load_variables,
                folder=side.folder,
                only_steps=only,
                pinned_exports=pins,
                install=False,
                source=side.source,
                action_sources=side.actions,
                pause_mode="skip",
                source_path=side.source_path,
                keep_in_journal=False,
                data_stores=stores,
            )
        )
        return SideRun(execution, await run_blocking(_read_written_stores, stores))

    async def close(self) -> None:
        """Stop every worker process and remove the scratch folder."""
        await self._workers.close()
        await self._gateway.close()
        await run_blocking(remove_tree, self._scratch)
        WARDEN.unregister_folder(self._scratch)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _copy_files(self) -> Path:
        """Copy the project's file store into the scratch folder."""
        copy = self._scratch / "files"
        remove_tree(copy)
        original = self._project.folder / "files"
        if original.is_dir():
            copytree(original, copy, symlinks=True)
        return copy


def _read_written_stores(stores: ScratchCopy) -> dict[str, dict[str, Any]]:
    return {
        name: {
            record.key: record.value
            if record.expires is None
            else {"value": record.value, "expires": record.expires.isoformat()}
            for record in stores.iter_records(name)
        }
        for name in stores.changed_stores()
    }

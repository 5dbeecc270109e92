"""
A local project for one test: empty at first, in its own folder, isolated from the user's project.

Adds users, accounts and variables, and runs workflows. Many projects share the worker processes, the gateway and the thread of a
`RuntimeFactory`. A `SettableClock` follows the machine's clock until a test sets it; only time stamps of pdkernel follow it, because steps run
in other processes.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Collection, Coroutine, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from pdkernel.accounts import LocalDirectory
from pdkernel.common.clock import RANDOM_IDS, SYSTEM_CLOCK, Clock, IdGenerator, SteadyClock
from pdkernel.common.identity import Account, Directory, parse_environment
from pdkernel.common.loop_thread import LoopThread
from pdkernel.common.safe_files import PROJECT_FOLDER_NAME
from pdkernel.egress import Gateway, parse_policy
from pdkernel.engine.step_packages import StepPackages, go_programs, step_access
from pdkernel.engine.variables import check_variables
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.errors import RequestError
from pdkernel.event import Event
from pdkernel.execution import Execution
from pdkernel.files.source import WorkflowSource, load_source
from pdkernel.model import JSON, Workflow
from pdkernel.operations.runs import build_run_request, pin_steps
from pdkernel.runtimes.file_tree import remove_tree
from pdkernel.storage import Project, find_project
from pdkernel.storage.data_stores import DataStoreTable
from pdkernel.workers import WorkerPool, make_scratch_folder


class SettableClock(SteadyClock):
    """The time of runs and accounts: real at first, fixed after `set` until `reset`. It is set on purpose, so it is followed at once."""

    def __init__(self, machine: Clock = SYSTEM_CLOCK) -> None:
        super().__init__(machine)
        self._fixed: datetime | None = None
        self._moved = 0.0

    def now(self) -> datetime:
        """Return the wall time, aware, in UTC."""
        return super().now() if self._fixed is None else self._fixed

    def monotonic(self) -> float:
        """Return the monotonic seconds: the machine's, plus all seconds from `advance`."""
        return super().monotonic() + self._moved

    async def sleep(self, seconds: float) -> None:
        """Wait for *seconds*; if the time is fixed, advance the clock at once instead."""
        if self._fixed is None:
            await super().sleep(seconds)
        else:
            self.advance(seconds)

    def set(self, at: datetime | str) -> None:
        """
        Fix the time.

        Args:
            at: An aware datetime, or its ISO text (`2026-11-24T10:00:00Z`).

        Raises:
            RequestError: *at* has no time zone or is not a time.
        """
        try:
            moment = datetime.fromisoformat(at) if isinstance(at, str) else at
        except ValueError:
            raise RequestError(f"{at!r} is not a time.", fix="Write a time like 2026-11-24T10:00:00Z.") from None
        if moment.tzinfo is None:
            raise RequestError(f"{at} has no time zone.", fix="Append Z for UTC.")
        self._fixed = moment.astimezone(UTC)

    def advance(self, seconds: float) -> None:
        """Advance the clock by *seconds*; this also fixes a clock that was not set."""
        self._fixed = self.now() + timedelta(seconds=seconds)
        self._moved += seconds

    def reset(self) -> None:
        """Follow the machine's clock again."""
        self._fixed = None


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


RunListener = Callable[[Execution, Workflow], None]


class TemporaryProject:
    """
    A project for the duration of one test.

    Args:
        factory: Creates engines with shared worker processes.
        folder: Folder of the project; created if missing.
        ids: Generates ids of runs and accounts.
        environ: Environment variables. `PDKERNEL_PROJECT` names the project with packages; default: the nearest project.
        on_run: Called after every run.

    Attributes:
        folder: The project's folder; a run of a `Workflow` object resolves files here.
        directory: Users and accounts of the project.
    """

    def __init__(
        self,
        factory: RuntimeFactory,
        folder: Path,
        *,
        ids: IdGenerator = RANDOM_IDS,
        environ: Mapping[str, str] | None = None,
        on_run: RunListener | None = None,
    ) -> None:
        self.folder = folder
        self._factory = factory
        self._ids = ids
        self._on_run = on_run
        self._project = Project.open(folder / ".pdkernel", clock=factory.clock, ids=ids)
        self.directory = LocalDirectory(self._project)
        self._environ = os.environ if environ is None else environ
        self._engines: dict[Path | None, WorkflowEngine] = {}

    def __repr__(self) -> str:
        return f"TemporaryProject({self._project.project_id})"

    def connect(
        self,
        external_user_id: str | None,
        app: str,
        *,
        environment: str = "development",
        account_id: str | None = None,
        credentials: Mapping[str, str] | None = None,
        **fields: str,
    ) -> Account:
        """
        Connect an account. The external user is created with their first account.

        Args:
            external_user_id: The external user's id in your product; None for your own account.
            app: The app's slug.
            environment: `development` or `production`.
            account_id: `apn_...`, or None for a generated id.
            credentials: Credentials by name, for names that are not Python identifiers or parameters of this method.
            fields: Credentials by name: `oauth_access_token="..."`. Use fake values.

        Raises:
            RequestError: An argument is invalid; the message contains no credential.
            AccountExistsError: An account with *account_id* exists.
        """
        return self.directory.add_account(
            app=app,
            credentials={**(credentials or {}), **fields},
            external_user_id=external_user_id,
            environment=parse_environment(environment),
            account_id=account_id,
        )

    @property
    def project(self) -> Project:
        """The open project with its tables."""
        return self._project

    def find_packages(self, folder: Path) -> Path | None:
        """Return the folder (`.pdkernel`) of the project at *folder*, which has its packages and actions; None if that is this project or missing."""
        found = find_project(folder, named=self._environ.get("PDKERNEL_PROJECT"))
        return found if found.is_dir() and found != self._project.folder else None

    @property
    def stores(self) -> DataStoreTable:
        """The project's data stores, empty at first: `stores.set("seen", "key", 1)`."""
        return self._project.data_stores

    def set_variables(self, **variables: str) -> None:
        """
        Set environment variables of the project; a step gets the variables that it names. Values are redacted.

        `STEP.PROP` is the value of a secret prop, of which the workflow's files hold only an encrypted value.
        """
        for name, value in variables.items():
            self._project.variables.set(name, value)

    def set_plan(self, plan: str) -> None:
        """Set the plan: `business` (default) or `free`, which has no external users in production."""
        self._project.set_plan(plan)

    def run(
        self,
        source: Path | Workflow | WorkflowSource,
        event: Event | None = None,
        *,
        external_user_id: str | None = None,
        environment: str | None = None,
        pins: Mapping[str, JSON] | None = None,
        only: Collection[str] | None = None,
        egress: str = "deny",
        variables: Mapping[str, str] | None = None,
        wait: bool = False,
    ) -> Execution:
        """
        Run a workflow and wait for its end, from a function or from a coroutine.

        Args:
            source: A notebook, a workflow's folder, a loaded source, or a workflow.
            event: The event; default: `{}`.
            external_user_id: Id of the external user; default: the user named by the event.
            environment: Environment of the user; default: the event's, else development.
            pins: Exports of steps that do not run: an object of exports by name, or the step's return value.
            only: Names of the steps to run; None for all.
            egress: Outbound policy as in `--egress`; default: refuse all outbound calls.
            variables: Additional environment variables for this run.
            wait: Wait where the workflow pauses (no real time passes on a fixed clock); default: continue at once.

        Returns:
            The execution; an error that refuses the run is in its `error`.

        Raises:
            NotebookError: *source* cannot be opened.
            RequestError: An argument is invalid.
        """
        event = event or Event()
        opened = self.open_source(source, pins or ())
        for name in only or ():
            opened.workflow.entry(name)
        own = {**self._project.variables.values(), **check_variables(variables or {})}
        request = build_run_request(
            opened,
            event,
            project=self._project,
            policy=parse_policy(egress),
            external_user_id=external_user_id or event.external_user_id,
            environment=parse_environment(environment or event.environment),
            source_argument=shlex.quote(str(source)) if isinstance(source, Path) else opened.workflow.name,
            only_steps=frozenset(only) if only is not None else None,
            interface="python",
            pinned_exports=pin_steps(opened.workflow, pins or {}),
            pause_mode="wait" if wait else "skip",
            install=False,  # a test installs nothing from a registry
            # without the `.env` beside the notebook: a test sets its own variables and contains no secret
            variables=lambda _: own,
        )
        request = replace(request, data_stores=self._project.data_stores)  # they are scratch: the test's own
        execution = self._factory.run_sync(self._engine(request.folder).run(request))
        if self._on_run is not None:
            self._on_run(execution, opened.workflow)
        return execution

    def close(self) -> None:
        """Close the engines and the project; the shared processes stay."""
        for engine in self._engines.values():
            self._factory.run_sync(engine.close())
        self._engines.clear()
        self._project.close()

    def open_source(
        self, source: Path | Workflow | WorkflowSource, pinned_steps: Collection[str] = ()
    ) -> WorkflowSource:
        """Return the workflow of *source*; a workflow without a file gets the project's folder."""
        if isinstance(source, WorkflowSource):
            return source
        if isinstance(source, Workflow):
            return WorkflowSource(self.folder / "workflow.ipynb", "notebook", source)
        return load_source(source, pinned_steps=pinned_steps)

    def _engine(self, folder: Path) -> WorkflowEngine:
        """Return an engine whose steps find the packages installed for the notebook in *folder*."""
        packages_folder = self.find_packages(folder)
        engine = self._engines.get(packages_folder)
        if engine is None:
            engine = self._engines[packages_folder] = self._factory.create_runtime(
                self._project, self.directory, packages_folder=packages_folder, environ=self._environ, ids=self._ids
            )
        return engine

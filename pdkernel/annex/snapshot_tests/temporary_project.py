"""
A local project for one test: empty at first, in its own folder, isolated from the user's project.

Adds users, accounts and variables, and runs workflows. `runtime_factory` holds the resources that projects share.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path

from pdkernel.accounts import LocalDirectory
from pdkernel.annex.snapshot_tests.runtime_factory import RuntimeFactory
from pdkernel.common.clock import RANDOM_IDS, IdGenerator
from pdkernel.common.identity import Account, parse_environment
from pdkernel.egress import parse_policy
from pdkernel.engine.variables import check_variables
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.event import Event
from pdkernel.execution import Execution
from pdkernel.files.source import WorkflowSource, load_source
from pdkernel.model import JSON, Workflow
from pdkernel.operations.runs import build_run_request, pin_steps
from pdkernel.storage import Project, find_project
from pdkernel.storage.data_stores import DataStoreTable

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
        external_user: str | None,
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
            external_user: The external user's id in your product; None for your own account.
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
            external_user_id=external_user,
            environment=parse_environment(environment),
            account_id=account_id,
        )

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
        external_user: str | None = None,
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
            external_user: Id of the external user; default: the user named by the event.
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
        opened = self._open(source, pins or ())
        for name in only or ():
            opened.workflow.step(name)
        own = {**self._project.variables.values(), **check_variables(variables or {})}
        request = build_run_request(
            opened,
            event,
            project=self._project,
            policy=parse_policy(egress),
            external_user_id=external_user or event.external_user_id,
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

    def _open(self, source: Path | Workflow | WorkflowSource, pinned_steps: Collection[str]) -> WorkflowSource:
        """The workflow of *source*; a workflow without a file gets the project's folder."""
        if isinstance(source, WorkflowSource):
            return source
        if isinstance(source, Workflow):
            return WorkflowSource(self.folder / "workflow.ipynb", "notebook", source)
        return load_source(source, pinned_steps=pinned_steps)

    def _engine(self, folder: Path) -> WorkflowEngine:
        """An engine whose steps find the packages installed for the notebook in *folder*."""
        found = find_project(folder, named=self._environ.get("PDKERNEL_PROJECT"))
        packages_folder = found if found.is_dir() and found != self._project.folder else None
        engine = self._engines.get(packages_folder)
        if engine is None:
            engine = self._engines[packages_folder] = self._factory.create_runtime(
                self._project, self.directory, packages_folder=packages_folder, environ=self._environ, ids=self._ids
            )
        return engine

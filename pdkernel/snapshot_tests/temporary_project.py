"""
A local project for one test: empty, in a folder of its own, with nothing of the person's own project in it.

Knows how users, accounts and variables get in, and how a workflow runs there. What is shared between such projects is
the bench's.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from pdkernel.clock import RANDOM_IDS, IdGenerator
from pdkernel.connect import LocalDirectory
from pdkernel.egress import parse_policy
from pdkernel.engine.run_request import RunRequest
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.errors import RequestError
from pdkernel.event import Event
from pdkernel.execution import RETURN_VALUE, Execution
from pdkernel.identity import Account, parse_environment
from pdkernel.model import JSON, Workflow
from pdkernel.project import Project, find_project
from pdkernel.project.data_stores import DataStoreTable
from pdkernel.project.folder import FOLDER_NAME
from pdkernel.snapshot_tests.runtime_factory import RuntimeFactory
from pdkernel.source import load_source, sibling_workflow_finder

RunListener = Callable[[Execution, Workflow], None]


class TemporaryProject:
    """
    A project that lasts as long as one test.

    Args:
        bench: What its runs share with those of other tests.
        folder: Where it is kept; made if need be.
        ids: For ids of runs and accounts.
        environ: For `PDKERNEL_PROJECT`: where packages are, if not in the project nearest to a notebook.
        on_run: Told every run that has ended.

    Attributes:
        folder: Its own folder; steps that are given as a `Workflow` look their files up here.
        directory: Its users and accounts.
    """

    def __init__(
        self,
        bench: RuntimeFactory,
        folder: Path,
        *,
        ids: IdGenerator = RANDOM_IDS,
        environ: Mapping[str, str] | None = None,
        on_run: RunListener | None = None,
    ) -> None:
        self.folder = folder
        self._bench = bench
        self._ids = ids
        self._on_run = on_run
        self._project = Project.open(folder / ".pdkernel", clock=bench.clock, ids=ids)
        self.directory = LocalDirectory(self._project)
        self._environ = os.environ if environ is None else environ
        self._runtimes: dict[Path | None, WorkflowEngine] = {}

    def __repr__(self) -> str:
        return f"TrialProject({self._project.project_id})"

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
        Connect an account; the external user exists from the first one on.

        Args:
            external_user: Your product's id of them; None for an account of your own.
            app: The app's slug.
            environment: `development` or `production`.
            account_id: `apn_...`, or None for a fresh one.
            credentials: By name; for names that are no Python word or one of ours.
            fields: Credentials by name: `oauth_access_token="..."`. Use made-up ones.

        Raises:
            RequestError: Something cannot be used; the message shows no value.
            AccountExistsError: *account_id* is taken.
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
        """Set environment variables of the project; a step is given those that it names. Values are secrets to us."""
        for name, value in variables.items():
            self._project.variables.set(name, value)

    def set_plan(self, plan: str) -> None:
        """Choose the plan: `business` (at first) or `free`, which has no end users in production."""
        self._project.set_plan(plan)

    def run(
        self,
        source: Path | Workflow,
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
        Run a workflow and wait for its end, from a plain test or from a coroutine.

        Args:
            source: A notebook, a workflow's folder, or a workflow.
            event: What on; `{}` if it is not given.
            external_user: On whose behalf; the one that the event names if it is not given.
            environment: Theirs; what the event names, else development.
            pins: Exports of steps that do not run: an object of exports by name, or what the step would have returned.
            only: Steps that run; None for all.
            egress: What becomes of outside calls, as `--egress` takes it; refused unless told otherwise.
            variables: More environment variables, for this run.
            wait: Wait where the workflow pauses, which takes no time on a clock that is set; else it goes on at once.

        Raises:
            NotebookError: *source* cannot be opened.
            RequestError: An argument is wrong. What refuses the run itself is in the execution.
        """
        event = event or Event()
        if isinstance(source, Workflow):
            workflow, folder = source, self.folder
        else:
            opened = load_source(source)
            workflow, folder = opened.workflow, opened.folder.resolve()
        user = external_user or event.external_user_id
        chosen = parse_environment(environment or event.environment)
        for name in (*(pins or {}), *(only or ())):
            workflow.step(name)
        request = RunRequest(
            workflow=workflow,
            event=event.with_identity(user, chosen),
            policy=parse_policy(egress),
            external_user_id=user,
            environment=chosen,
            # not those of a `.env` beside the notebook: a test says what it needs, and holds no secret
            variables={**self._project.variables.values(), **_check_variables(variables or {})},
            folder=folder,
            pinned_exports={name: _exports(value) for name, value in (pins or {}).items()},
            only_steps=frozenset(only) if only is not None else None,
            install=False,  # a test brings nothing from a registry
            source=source.name if isinstance(source, Workflow) else shlex.quote(str(source)),
            pause_mode="wait" if wait else "skip",
            find_workflow=None if isinstance(source, Workflow) else sibling_workflow_finder(source),
        )
        execution = self._bench.run_sync(self._engine(folder).run(request))
        if self._on_run is not None:
            self._on_run(execution, workflow)
        return execution

    def close(self) -> None:
        """Give everything up but the bench."""
        for runtime in self._runtimes.values():
            self._bench.run_sync(runtime.close())
        self._runtimes.clear()
        self._project.close()

    def _engine(self, folder: Path) -> WorkflowEngine:
        """An engine whose steps find the packages that were installed for the notebook in *folder*."""
        named = self._environ.get("PDKERNEL_PROJECT")
        found = Path(named) / FOLDER_NAME if named else find_project(folder)
        place = found if found.is_dir() and found != self._project.folder else None
        runtime = self._runtimes.get(place)
        if runtime is None:
            runtime = self._runtimes[place] = self._bench.create_runtime(
                self._project, self.directory, packages_folder=place, environ=self._environ, ids=self._ids
            )
        return runtime


def _exports(pin: JSON) -> Mapping[str, JSON]:
    return pin if isinstance(pin, dict) and pin else {RETURN_VALUE: pin}


def _check_variables(variables: Mapping[str, str]) -> Mapping[str, str]:
    for name, value in variables.items():
        if not isinstance(value, str):
            raise RequestError(f"The variable {name} is no text.", fix="Environment variables are texts: write quotes.")
    return variables

"""Fixtures: a local project with users, and functions that run workflows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pytest
import pytest_asyncio

from pdkernel.accounts import LocalDirectory
from pdkernel.egress import parse_policy
from pdkernel.engine.run_request import RunRequest, RunWatcher
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.event import Event
from pdkernel.execution import ErrorRecord, Execution
from pdkernel.model import Step, Workflow
from pdkernel.storage import Project
from tests.builders import a_workflow, an_event

WATCHER_FIELDS = {field.name for field in fields(RunWatcher)}


class Run(Protocol):
    """Runs a workflow, or steps as a workflow, and returns the execution; takes fields of `RunRequest` and `RunWatcher`."""

    def __call__(self, *what: Workflow | Step, event: Event | None = None, **choices: Any) -> Awaitable[Execution]:
        """Run the workflow."""
        ...


def error_of(execution: Execution, step: str | None = None) -> ErrorRecord:
    """Return the error of *execution*, or of its *step*."""
    error = execution.error if step is None else execution.step(step).error
    assert error is not None
    return error


class SharedEngine(NamedTuple):
    """A project and its engine."""

    project: Project
    engine: WorkflowEngine


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """An empty local project."""
    opened = Project.open(tmp_path / ".pdkernel")
    yield opened
    opened.close()


@pytest.fixture
def directory(project: Project) -> LocalDirectory:
    """The project's users and accounts."""
    return LocalDirectory(project)


@pytest.fixture
async def runtime(project: Project, directory: LocalDirectory) -> AsyncIterator[WorkflowEngine]:
    """A running engine."""
    async with await WorkflowEngine.start(project, directory) as started:
        yield started


@pytest.fixture
def run(runtime: WorkflowEngine, tmp_path: Path) -> Run:
    """Runs a workflow with outbound calls denied."""
    return run_in(runtime, tmp_path)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SharedEngine]:
    """A project of a module and its engine, which keeps the processes of a run for the next one."""
    with Project.open(tmp_path_factory.mktemp("shared") / ".pdkernel") as opened:
        async with await WorkflowEngine.start(opened, LocalDirectory(opened)) as started:
            yield SharedEngine(opened, started)


@pytest.fixture
def shared_run(shared_engine: SharedEngine) -> Run:
    """Runs a workflow as `run`, for a test of a run that needs no accounts, stores or files."""
    return run_in(shared_engine.engine, shared_engine.project.folder.parent)


def run_in(runtime: WorkflowEngine, folder: Path) -> Run:
    """Return a function that runs a workflow in *folder* with outbound calls denied."""

    async def run_workflow(*what: Workflow | Step, event: Event | None = None, **choices: Any) -> Execution:
        workflow = what[0] if isinstance(what[0], Workflow) else a_workflow(*(s for s in what if isinstance(s, Step)))
        mode = choices.pop("egress", "deny")
        watching = {name: choices.pop(name) for name in [*choices] if name in WATCHER_FIELDS}
        request = RunRequest(workflow, event or an_event(), parse_policy(mode), folder=folder, **choices)
        return await runtime.run(request, RunWatcher(**watching))

    return run_workflow


@pytest.fixture
def connect(directory: LocalDirectory) -> Callable[..., str]:
    """Connects a slack account and returns its id."""

    def connect_account(user: str | None = "ada", token: str = "xoxb-0123456789", **keys: Any) -> str:
        keys.setdefault("app", "slack")
        keys.setdefault("credentials", {"oauth_access_token": token})
        return directory.add_account(external_user_id=user, **keys).id

    return connect_account

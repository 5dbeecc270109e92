"""The fixtures of the pytest plugin, and the timelines in the report of a failed test. Paths in a test are relative to its file's folder."""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Generator, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import pytest

from pdkernel.accounts import LocalDirectory
from pdkernel.annex.crash_test import MAX_POINTS, CrashReport, CrashTest, choose_crash_policy
from pdkernel.annex.snapshot_tests import RuntimeFactory, SettableClock, TemporaryProject
from pdkernel.common.identity import parse_environment
from pdkernel.common.safe_files import is_file
from pdkernel.errors import EventError, RequestError
from pdkernel.event import Event
from pdkernel.execution import Execution
from pdkernel.files.source import load_source
from pdkernel.model import JSON, Workflow
from pdkernel.operations.records import RecordProof, compare_with_records
from pdkernel.render import timeline
from pdkernel.storage import Project, find_project

TITLE = "pdkernel timeline"
_DENIED_CALL_HINT = 'To answer a refused call: pd_run(..., egress="replay=FILE"), "stand-in=URL" or "stand-in=slack".'
CRASH_TITLE = "pdkernel crash test"
_RUNS = pytest.StashKey[list[tuple[Execution, Workflow]]]()
_CRASHES = pytest.StashKey[list[CrashReport]]()


def record_run(item: pytest.Item, execution: Execution, workflow: Workflow) -> None:
    """Record a run of *item* for its report."""
    item.stash.setdefault(_RUNS, []).append((execution, workflow))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the timeline of each run, and each crash test, to the report of a failed test."""
    report = yield
    if report.when == "call" and report.failed:
        for execution, workflow in item.stash.get(_RUNS, []):
            responds = workflow.trigger.type == "http"
            denied = any(call.outcome == "denied" for call in execution.requests)
            text = timeline.render_text(
                execution,
                timeline.TimelineContext(
                    workflow=workflow, has_response=responds, note=_DENIED_CALL_HINT if denied else None
                ),
            )
            report.sections.append((TITLE, text))
        for crashes in item.stash.get(_CRASHES, []):
            report.sections.append((CRASH_TITLE, crashes.render_text()))
    return report


_MODES_WITH_FILE = ("record", "replay")


class RunWorkflow(Protocol):
    """The type of `pd_run`."""

    def __call__(
        self,
        source: str | Path | Workflow,
        event: str | Path | Event | Mapping[str, JSON] | None = None,
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
        Run a workflow and wait for its end, from a function or a coroutine.

        Args:
            source: A notebook, a workflow's folder, or a workflow. Paths are relative to the test's folder.
            event: An event, its JSON value, its file, or its name in a folder `events`; default: `{}`.
            external_user: The external user's id, or None.
            environment: The external user's environment; default: the event's, else development.
            pins: Pinned exports by step; these steps do not run.
            only: Names of the steps to run; None for all.
            egress: The outbound policy, as `--egress` takes it; files are relative to the test's folder.
            variables: Environment variables besides the project's.
            wait: Whether pauses wait, which takes no time once `pd_clock` is set; otherwise the run skips pauses.
        """
        ...


class CompareRecords(Protocol):
    """The type of `pd_records`."""

    def __call__(self, source: str | Path, *, egress: str | None = None) -> RecordProof:
        """
        Compare a notebook or a workflow's folder with its recorded runs, offline: `assert not pd_records("greet.ipynb").differs`.

        Args:
            source: The notebook or folder, relative to the test's folder.
            egress: A stand-in that answers outbound calls, `stand-in=slack`; None refuses them.

        Raises:
            RequestError: There are no recorded runs of the workflow in the project of the test's folder.
        """
        ...


class RunCrashTest(Protocol):
    """The type of `pd_crash_test`."""

    def __call__(
        self,
        source: str | Path | Workflow,
        event: str | Path | Event | Mapping[str, JSON] | None = None,
        *,
        external_user: str | None = None,
        environment: str | None = None,
        egress: str = "deny",
        limit: int = MAX_POINTS,
    ) -> CrashReport:
        """
        Find what a crash makes done twice in a workflow, and what it loses: `assert not pd_crash_test("order.ipynb", "order").findings`.

        Args:
            source: A notebook, a workflow's folder, or a workflow. Paths are relative to the test's folder.
            event: As for `pd_run`.
            external_user: The external user's id, or None.
            environment: The external user's environment; default: the event's, else development.
            egress: What answers outbound calls: `stand-in=slack`, `stand-in=URL` or `replay=FILE`.
            limit: The number of crash points that are tried.

        Raises:
            RequestError: The run fails without a crash, too; or *egress* sends calls for real.
        """
        ...


class MakeEvent(Protocol):
    """The type of `pd_event`."""

    def __call__(self, of: str | Path | Mapping[str, JSON] | None = None, *, body: JSON = None) -> Event:
        """
        An event.

        Args:
            of: A name in a folder `events` (of the test's folder or a parent), a file, or the event as JSON.
            body: A payload for a POST event, instead of *of*.
        """
        ...


@pytest.fixture(scope="session")
def pd_runtime_factory() -> Iterator[RuntimeFactory]:
    """The worker pool that all tests of the process share; starts with the first run."""
    factory = RuntimeFactory()
    yield factory
    factory.close()


@pytest.fixture
def pd_clock(pd_runtime_factory: RuntimeFactory) -> Iterator[SettableClock]:
    """The clock of runs and accounts: `set("2026-11-24T10:00:00Z")`, `advance(60)`. Steps use the machine's clock."""
    pd_runtime_factory.clock.reset()
    yield pd_runtime_factory.clock
    pd_runtime_factory.clock.reset()


@pytest.fixture
def pd_project(
    pd_runtime_factory: RuntimeFactory,
    pd_clock: SettableClock,  # noqa: ARG001 - resets the clock before the project's first time stamp
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[TemporaryProject]:
    """A new, empty local project in a temporary folder."""

    def record(execution: Execution, workflow: Workflow) -> None:
        record_run(request.node, execution, workflow)

    project = TemporaryProject(pd_runtime_factory, tmp_path_factory.mktemp("pd_project"), on_run=record)
    yield project
    project.close()


@pytest.fixture
def pd_event(request: pytest.FixtureRequest) -> MakeEvent:
    """A function that makes events."""
    return _events_at(request.path.parent)


@pytest.fixture
def pd_run(pd_project: TemporaryProject, pd_event: MakeEvent, request: pytest.FixtureRequest) -> RunWorkflow:
    """A function that runs workflows in `pd_project`."""
    folder = request.path.parent

    def run(
        source: str | Path | Workflow,
        event: str | Path | Event | Mapping[str, JSON] | None = None,
        *,
        external_user: str | None = None,
        environment: str | None = None,
        pins: Mapping[str, JSON] | None = None,
        only: Collection[str] | None = None,
        egress: str = "deny",
        variables: Mapping[str, str] | None = None,
        wait: bool = False,
    ) -> Execution:
        return pd_project.run(
            source if isinstance(source, Workflow) else folder / source,
            event if event is None or isinstance(event, Event) else pd_event(event),
            external_user_id=external_user,
            environment=environment,
            pins=pins,
            only=only,
            egress=_resolve_recording_path(folder, egress),
            variables=variables,
            wait=wait,
        )

    return run


@pytest.fixture
def pd_crash_test(pd_project: TemporaryProject, pd_event: MakeEvent, request: pytest.FixtureRequest) -> RunCrashTest:
    """A function that runs a workflow with a crash at each point, with the accounts, variables and data stores of `pd_project`."""
    folder = request.path.parent

    def run(
        source: str | Path | Workflow,
        event: str | Path | Event | Mapping[str, JSON] | None = None,
        *,
        external_user: str | None = None,
        environment: str | None = None,
        egress: str = "deny",
        limit: int = MAX_POINTS,
    ) -> CrashReport:
        opened = pd_project.open_source(source if isinstance(source, Workflow) else folder / source)
        made = pd_event(event) if event is not None and not isinstance(event, Event) else event or Event()
        report = CrashTest(
            opened,
            made,
            project=pd_project.project,
            directory=pd_project.directory,
            policy=choose_crash_policy(_resolve_recording_path(folder, egress), os.environ),
            external_user_id=external_user or made.external_user_id,
            environment=parse_environment(environment or made.environment),
            source_argument=shlex.quote(str(source)) if not isinstance(source, Workflow) else source.name,
            packages=pd_project.find_packages(opened.folder.resolve()),
            limit=limit,
        ).run()
        request.node.stash.setdefault(_CRASHES, []).append(report)
        return report

    return run


def _find_existing_project(folder: Path) -> Path:
    found = find_project(folder, named=os.environ.get("PDKERNEL_PROJECT"))
    if not found.is_dir():
        raise RequestError(
            f"There is no project at or above {folder}, so there are no recorded runs.",
            fix="Bring the records home there: pdkernel migrate collect",
        )
    return found


def _resolve_recording_path(test_folder: Path, egress: str) -> str:
    word, equals, value = egress.partition("=")
    return f"{word}={test_folder / value}" if equals and word.strip() in _MODES_WITH_FILE else egress


def _events_at(test_folder: Path) -> MakeEvent:
    def make(of: str | Path | Mapping[str, JSON] | None = None, *, body: JSON = None) -> Event:
        if body is not None:
            if of is not None:
                raise RequestError("Give an event or a body, not both.")
            return Event.from_body(body)
        if isinstance(of, str | Path):
            path = _find(of, test_folder)
            return Event.parse(path.read_bytes(), label=path.name)
        return Event.from_value(dict(of or {}))

    return make


def _find(name: str | Path, test_folder: Path) -> Path:
    folders = (test_folder, *test_folder.parents)
    for path in (test_folder / name, *(folder / "events" / f"{name}.json" for folder in folders)):
        if is_file(path):
            return path
    known = sorted({path.stem for folder in folders[:3] for path in (folder / "events").glob("*.json")})
    raise EventError(
        f"There is no event {str(name)!r} in {test_folder}, nor in its folder events or a parent's.",
        fix=f"Known events: {', '.join(known) or 'none'}.",
    )


@pytest.fixture
def pd_records(request: pytest.FixtureRequest) -> CompareRecords:
    """A function that compares a workflow with its recorded runs at Pipedream, in the project of the test's folder."""
    folder = request.path.parent

    def compare(source: str | Path, *, egress: str | None = None) -> RecordProof:
        with Project.open(_find_existing_project(folder)) as project:
            return compare_with_records(
                load_source(folder / source),
                project=project,
                directory=LocalDirectory(project),
                environ=os.environ,
                egress=egress,
            )

    return compare

"""
The fixtures.

Knows pytest, and where a test's paths begin: at the folder of its file. What they are made of is `trial`'s.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import pytest

from pdkernel.errors import EventError, RequestError
from pdkernel.event import Event
from pdkernel.execution import Execution
from pdkernel.model import JSON, Workflow
from pdkernel.snapshot_tests import RuntimeFactory, SettableClock, TemporaryProject
from pdkernel.testing.failure_report import record_run

_MODES_WITH_FILE = ("record", "replay")


class RunWorkflow(Protocol):
    """What `pd_run` is."""

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
        Run a workflow and wait for its end; from a plain test or from a coroutine.

        Args:
            source: A notebook, a workflow's folder, or a workflow. Paths begin at the test's folder.
            event: An event, its JSON value, its file, or its name in a folder `events`; `{}` if it is not given.
            external_user: On whose behalf.
            environment: Theirs; development if neither this nor the event says.
            pins: Steps that do not run, and what they export.
            only: Steps that run; None for all.
            egress: What becomes of outside calls, as `--egress` takes it; files begin at the test's folder.
            variables: Environment variables besides the project's.
            wait: Wait where the workflow pauses, which takes no time once `pd_clock` is set; else it goes on at once.
        """
        ...


class MakeEvent(Protocol):
    """What `pd_event` is."""

    def __call__(self, of: str | Path | Mapping[str, JSON] | None = None, *, body: JSON = None) -> Event:
        """
        An event.

        Args:
            of: A name in a folder `events` (the test's, or of a folder above), a file, or the event as JSON.
            body: Instead: a payload, wrapped as a POST.
        """
        ...


@pytest.fixture(scope="session")
def pd_runtime_factory() -> Iterator[RuntimeFactory]:
    """What all tests of this process share: warm processes for steps. Nothing starts before the first run."""
    factory = RuntimeFactory()
    yield factory
    factory.close()


@pytest.fixture
def pd_clock(pd_runtime_factory: RuntimeFactory) -> Iterator[SettableClock]:
    """The time of runs and accounts: `set("2026-11-24T10:00:00Z")`, `move(60)`. Steps' own clocks are the machine's."""
    pd_runtime_factory.clock.reset()
    yield pd_runtime_factory.clock
    pd_runtime_factory.clock.reset()


@pytest.fixture
def pd_project(
    pd_runtime_factory: RuntimeFactory,
    pd_clock: SettableClock,  # noqa: ARG001 - reset before the project takes its first time stamp
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[TemporaryProject]:
    """An empty local project of the test's own, in a temporary folder."""

    def note(execution: Execution, workflow: Workflow) -> None:
        record_run(request.node, execution, workflow)

    project = TemporaryProject(pd_runtime_factory, tmp_path_factory.mktemp("pd_project"), on_run=note)
    yield project
    project.close()


@pytest.fixture
def pd_event(request: pytest.FixtureRequest) -> MakeEvent:
    """Makes events."""
    return _events_at(request.path.parent)


@pytest.fixture
def pd_run(pd_project: TemporaryProject, pd_event: MakeEvent, request: pytest.FixtureRequest) -> RunWorkflow:
    """Runs workflows in `pd_project`."""
    here = request.path.parent

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
            source if isinstance(source, Workflow) else here / source,
            event if event is None or isinstance(event, Event) else pd_event(event),
            external_user=external_user,
            environment=environment,
            pins=pins,
            only=only,
            egress=_resolve_recording_path(here, egress),
            variables=variables,
            wait=wait,
        )

    return run


def _resolve_recording_path(here: Path, egress: str) -> str:
    word, equals, value = egress.partition("=")
    return f"{word}={here / value}" if equals and word.strip() in _MODES_WITH_FILE else egress


def _events_at(here: Path) -> MakeEvent:
    def make(of: str | Path | Mapping[str, JSON] | None = None, *, body: JSON = None) -> Event:
        if body is not None:
            if of is not None:
                raise RequestError("Give an event or a body, not both.")
            return Event.from_body(body)
        if isinstance(of, str | Path):
            path = _find(of, here)
            return Event.parse(path.read_bytes(), label=path.name)
        return Event.from_json(dict(of or {}))

    return make


def _find(name: str | Path, here: Path) -> Path:
    folders = (here, *here.parents)
    for path in (here / name, *(folder / "events" / f"{name}.json" for folder in folders)):
        if path.is_file():
            return path
    known = sorted({path.stem for folder in folders[:3] for path in (folder / "events").glob("*.json")})
    raise EventError(
        f"There is no event {str(name)!r} at {here}, nor in a folder events there or above.",
        fix=f"Events near it: {', '.join(known) or 'none'}.",
    )

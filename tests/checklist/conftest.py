"""Runs a case in one language and compares the record with a golden file."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any, Protocol

import pytest

from pdkernel.accounts import LocalDirectory
from pdkernel.common.clock import ManualClock, SequentialIds
from pdkernel.egress import parse_policy
from pdkernel.engine.run_request import RunRequest
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.event import Event
from pdkernel.execution import Execution, StepResult
from pdkernel.model import Trigger
from pdkernel.storage import Project
from tests.builders import an_event
from tests.checklist.case_files import FOLDER, workflow_of
from tests.engine.conftest import connect, directory, project
from tests.golden import assert_golden
from tests.npm_registry import NpmRegistry, npm_registry
from tests.wheels import WheelFolder

__all__ = ["connect", "directory", "project"]

HTTP = Trigger()
GOLDEN = Path(__file__).parent / "golden"
_OURS = re.compile(r"^\[pdkernel\] (compiling|compiled|installed) .*\n?", re.MULTILINE)
"""Log lines of preparations that happen once for each machine."""


_OF_ONE_RUN = (
    (r"\b(d|o)_[0-9A-Za-z]{7}\b", r"<\1_ id>"),
    (r"pdkernel-\d[\w.]*", "<version>"),
    (r"127\.0\.0\.1:\d+", "<server>"),
    (r"\+0x[0-9a-f]+", "<offset>"),
)
"""Ids and other texts that differ between runs and machines."""


class Check(Protocol):
    """
    Runs a case and compares the record.

    The default *event* is a POST, *variant* names one of several runs of a case, and *egress* is the outbound policy.
    """

    def __call__(
        self,
        name: str,
        language: str,
        *,
        event: Event | None = None,
        trigger: Trigger = HTTP,
        variant: str = "",
        egress: str = "deny",
        **choices: Any,
    ) -> Awaitable[Execution]:
        """Run the case."""
        ...


@pytest.fixture
def npm(tmp_path: Path) -> Any:
    """A registry of npm packages."""
    with npm_registry() as running:
        yield running


@pytest.fixture
def wheels(tmp_path: Path) -> WheelFolder:
    """A folder of Python packages."""
    return WheelFolder(tmp_path / "wheels")


@pytest.fixture
def clock() -> ManualClock:
    """A clock that only advances when a run waits."""
    return ManualClock()


@pytest.fixture
async def runtime(
    project: Project,
    directory: LocalDirectory,
    clock: ManualClock,
    go_cache: Path,
    npm: NpmRegistry,
    wheels: WheelFolder,
    tmp_path: Path,
) -> AsyncIterator[WorkflowEngine]:
    """An engine with that clock; packages come from the two registries."""
    cache = project.folder / "cache"
    cache.mkdir(exist_ok=True)
    (cache / "go").symlink_to(go_cache)
    environ = {**npm.environ(tmp_path / "home"), **wheels.environ()}
    async with await WorkflowEngine.start(
        project, directory, clock=clock, ids=SequentialIds(), max_active_runs=1, environ=environ
    ) as started:
        yield started


@pytest.fixture
def check(runtime: WorkflowEngine, directory: LocalDirectory, tmp_path: Path) -> Check:
    """Runs a case, by default with outbound calls denied, and compares the record with its golden file."""

    async def run_and_compare(
        name: str,
        language: str,
        *,
        event: Event | None = None,
        trigger: Trigger = HTTP,
        variant: str = "",
        egress: str = "deny",
        **choices: Any,
    ) -> Execution:
        workflow = workflow_of(name, language, trigger)
        folder = FOLDER / name if (FOLDER / name).is_dir() else tmp_path
        request = RunRequest(workflow, event or an_event(), parse_policy(egress), folder=folder, **choices)
        execution = await runtime.run(request)
        drawn = json.dumps(relevant(execution), indent=1, ensure_ascii=False) + "\n"
        for text, stands_for in (
            (execution.id, "<id>"),
            (execution.trace_id, "<trace id>"),
            (directory.project_id, "<project id>"),
            (str(tmp_path), "<folder>"),
        ):
            drawn = drawn.replace(text, stands_for)
        for pattern, stands_for in _OF_ONE_RUN:
            drawn = re.sub(pattern, stands_for, drawn)
        assert_golden(GOLDEN / f"{name}{variant and '-'}{variant}-{language}.json", drawn)
        return execution

    return run_and_compare


def relevant(execution: Execution) -> dict[str, Any]:
    """The parts of the record without times, durations and empty values."""
    whole = execution.to_json()
    return _without_empty(
        {
            "status": whole["status"],
            "error": execution.error and {"code": execution.error.code, "message": execution.error.message},
            "response": whole["response"],
            "steps": [_step(step) for step in execution.steps],
            "sends": whole.get("sends"),
        }
    )


def _step(step: StepResult) -> dict[str, Any]:
    return _without_empty(
        {
            "name": step.name,
            "status": step.status,
            "attempt": step.attempt if step.attempt > 1 else None,
            "exports": dict(step.exports),
            "stdout": _printed(step, "stdout"),
            "stderr": _printed(step, "stderr"),
            "accounts": [[use.prop, use.app, use.id, use.owner] for use in step.accounts],
            "requests": [f"{call.method} {call.url} {call.status}" for call in step.requests],
            "error": step.error and {"name": step.error.name, "message": step.error.message, "line": step.error.line},
        }
    )


def _printed(step: StepResult, stream: str) -> list[str]:
    """The lines of one stream: two streams have no order between them."""
    return _OURS.sub("", "".join(log.text for log in step.logs if log.stream == stream)).splitlines()


def _without_empty(whole: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in whole.items() if value not in (None, [], {})}

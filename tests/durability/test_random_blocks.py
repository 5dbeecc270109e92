"""Random workflows of nested blocks whose process is killed at a write of the journal: another process continues the run."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pdkernel.accounts import LocalDirectory
from pdkernel.annex.crash_test import CrashTest
from pdkernel.annex.crash_test.points import CrashPoint, Ledger
from pdkernel.annex.crash_test.process import POINTS_FILE, ProcessTask
from pdkernel.annex.crash_test.tester import Processes, copy_start, read_outcome
from pdkernel.egress import parse_policy
from pdkernel.event import Event
from pdkernel.execution import BlockChoice, Execution, StepResult
from pdkernel.files.source import WorkflowSource
from pdkernel.journal import ExecutionQuery, open_journal_reader
from pdkernel.model import Workflow
from pdkernel.runtimes.file_tree import remove_tree
from pdkernel.storage import Project
from tests.random_blocks import Model, runs

LOG_STEP = """\
with open(pd.steps["trigger"]["event"]["body"]["log"], "a") as stream:
    stream.write("NAME\\n")
"""
LIMIT_S = 60.0
"""Seconds that a process may take."""


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    """The processes that execute runs."""
    with Processes() as opened:
        yield opened


def prepare(folder: Path, workflow: Workflow, body: dict[str, object]) -> None:
    """Make a project in *folder* / `start` that has accepted the event."""
    with Project.open(folder / "user" / ".pdkernel") as project:
        CrashTest(
            WorkflowSource(folder / "w.ipynb", "notebook", workflow),
            Event.from_body(body),
            project=project,
            directory=LocalDirectory(project),
            policy=parse_policy("deny"),
            external_user_id=None,
            environment="development",
            source_argument="w.ipynb",
        ).prepare(folder / "start")


def execute(processes: Processes, task: ProcessTask) -> int | None:
    """Execute the run in a process until its end or the crash point; return the status of the process."""
    processes.start(task)
    (ended,) = processes.wait_any(LIMIT_S)
    return ended.exitcode


def read_record(folder: Path) -> Execution:
    """The record of the only run of a project."""
    with Project.open(folder / ".pdkernel") as project:
        journal = open_journal_reader(project)
        try:
            (execution,) = asyncio.run(journal.executions(ExecutionQuery(limit=-1)))
        finally:
            journal.close()
    return execution


def read_log(log: Path) -> Counter[str]:
    """How often each step has begun."""
    return Counter(log.read_text().split()) if log.exists() else Counter()


def choice(step: StepResult) -> BlockChoice | None:
    """What a block has decided; None for a step."""
    return step.choice if isinstance(step.choice, BlockChoice) else None


def is_nested(drawn: tuple[Workflow, dict[str, bool]]) -> bool:
    """Whether the workflow has a block within another one, a step runs, and a failure can print all steps."""
    model = Model(*drawn)
    model.run()
    return any(block.inside for block in drawn[0].blocks) and model.ran != [] and len(drawn[0].steps) <= 20


def is_recorded(step: StepResult) -> bool:
    """Whether the record has the end or the pause of a step, or the decision of a block."""
    return step.started_at is not None and (choice(step) is not None or step.status in ("success", "error"))


def kept(step: StepResult) -> object:
    """What a recovery must not change of a recorded step or decision."""
    found = choice(step)
    return (step.name, step.started_at, found) if found else step


@settings(
    max_examples=max(4, settings().max_examples // 10),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.reuse, Phase.generate],  # an example takes about two seconds, so a smaller one is not looked for
)
@given(drawn=runs(LOG_STEP, waits=True).filter(is_nested), number=st.integers(0, 199))
def test_random_blocks_survive_a_kill(
    drawn: tuple[Workflow, dict[str, bool]],
    number: int,
    processes: Processes,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """A killed run ends as the rules say: what was recorded is kept and not done again, and no other branch runs."""
    workflow, holds = drawn
    model = Model(workflow, holds)
    model.run()
    folder = tmp_path_factory.mktemp("blocks")
    packages = folder / "user" / ".pdkernel"
    log = folder / "log"
    prepare(folder, workflow, {**holds, "log": str(log)})
    control = ProcessTask(copy_start(folder / "start", folder / "control"), packages, lists_points=True)
    assert execute(processes, control) == 0
    points = Ledger.read(control.folder / POINTS_FILE, CrashPoint)
    log.unlink(missing_ok=True)

    dies_at = points[number % len(points)]
    killed = ProcessTask(copy_start(folder / "start", folder / "killed"), packages, dies_at=dies_at)
    status = execute(processes, killed)
    before, ran_before = read_record(killed.folder), read_log(log)
    if status != 0:
        assert execute(processes, ProcessTask(killed.folder, packages, number=2)) == 0
    outcome, ran = read_outcome(killed.folder), read_log(log)
    remove_tree(folder)

    assert outcome is not None
    after = {step.name: step for step in outcome.root.steps}
    recorded = [step for step in before.steps if is_recorded(step)]
    assert [kept(step) for step in recorded] == [kept(after[step.name]) for step in recorded]
    assert all(ran[step.name] == ran_before[step.name] for step in recorded)
    assert max(ran.values(), default=1) <= 2
    started = {step.name for step in outcome.root.steps if step.started_at and choice(step) is None}
    if model.ends:  # steps in other branches may have begun before
        assert outcome.root.status in model.ends
        assert started | {*ran} <= set(model.ran)
    else:
        assert outcome.root.status == "success", outcome.root.error
        assert started == {*ran} == set(model.ran)
        assert {name: after[name].exports for name in model.exports} == model.exports

"""Fixtures for the journal: each call opens one more executor on the same file; a test lets an executor die."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import pytest

from pdkernel.clock import ManualClock, SequentialIds
from pdkernel.engine.journal import (
    Claim,
    NewRun,
    OutboxRow,
    SqliteJournal,
    StepRow,
    WaitKey,
    WaitRow,
    encode_event,
    encode_step,
)
from pdkernel.engine.journal.rows import WaitKind
from pdkernel.engine.journal.text_columns import encode_definition, hash_definition
from pdkernel.execution import Execution, StepResult
from pdkernel.model import Step, Workflow

WORKFLOW = Workflow("Greet", steps=(Step("one"), Step("two"), Step("three", disabled=True)))
DEFINITION = hash_definition(encode_definition(WORKFLOW))
"""The hash under which `store_definition` stores `WORKFLOW`."""
FIRST = Claim.first("run")
"""The claim of the executor that accepted `new_run()`."""
STEP = encode_step(StepResult("one", "success"))
PAUSED = encode_step(StepResult("one", "success", exports={"$return_value": "before"}))
"""The step of `wait_row` up to its pause."""
KEY = WaitKey("run", "one")
"""The pause of `wait_row` in `new_run()`."""


class Open(Protocol):
    """Opens the journal of one more executor."""

    def __call__(self, origin: str = "terminal") -> SqliteJournal:
        """Open the journal; all journals are closed after the test."""
        ...


Rows = Callable[[str], list[tuple[Any, ...]]]


class FakeLiveness:
    """`ExecutorLiveness` without processes; `kill` lets an executor die."""

    def __init__(self) -> None:
        self._held: set[str] = set()

    def hold(self, executor_id: str) -> None:
        """Show that the executor lives."""
        if executor_id in self._held:
            raise BlockingIOError(executor_id)
        self._held.add(executor_id)

    def release(self, executor_id: str) -> None:
        """Show that the executor has ended."""
        self._held.discard(executor_id)

    def is_alive(self, executor_id: str) -> bool:
        """Return whether the executor lives."""
        return executor_id in self._held

    def kill(self, journal: SqliteJournal, origin: str = "serve") -> None:
        """Let an executor of *origin* die: its locks are free, and its journal stays open like that of a frozen process."""
        self._held -= {journal.executor_id, origin}


def new_run(run_id: str = "run", *, queue: str | None = None, **more: Any) -> NewRun:
    """A run of `WORKFLOW`; *more* are fields of `NewRun`."""
    fields = {
        "trace_id": f"trace-{run_id}",
        "workflow": WORKFLOW.name,
        "definition": DEFINITION,
        "event": encode_event({"body": {"name": run_id}}, {"id": run_id}),
    }
    return NewRun(run_id, queue=queue, **(fields | more))


def step_row(seq: int, name: str, data: str = STEP) -> StepRow:
    """The row of a step outside of branches."""
    return StepRow(seq, name, data, path=name)


def wait_row(
    seq: int = 0, *, kind: WaitKind = "delay", number: int = 1, wake_at: float | None = None, data: str = PAUSED
) -> WaitRow:
    """The wait of the workflow's first step."""
    return WaitRow(seq, "one", kind=kind, number=number, wake_at=wake_at, data=data, carry=b"carry")


def outbox_row(position: int = 0, *, path: str = "one", number: int = 1, outcome: str = "waiting") -> OutboxRow:
    """A message of a step; its address names its position."""
    return OutboxRow(path, number, position, b"sealed", delivery(position, outcome, path=path))


def delivery(position: int, outcome: str, *, path: str = "one") -> str:
    """The text of a delivery."""
    return f'{{"step":"{path}","kind":"http","outcome":"{outcome}","to":"{position}"}}'


async def load(journal: SqliteJournal, run_id: str = "run") -> Execution:
    """Return the record of a run that exists."""
    execution = await journal.get_execution(run_id)
    assert execution is not None
    return execution


async def status(journal: SqliteJournal, run_id: str = "run") -> str:
    """Return the run's status."""
    return (await load(journal, run_id)).status


async def recorded_steps(journal: SqliteJournal, run_id: str = "run") -> list[str]:
    """Return the names of the run's successful steps."""
    return [step.name for step in (await load(journal, run_id)).steps if step.status == "success"]


def rows_of(path: Path, query: str) -> list[tuple[Any, ...]]:
    """Return the rows of *query* in the file."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The journal's file."""
    return tmp_path / "journal.db"


@pytest.fixture
def rows(path: Path) -> Rows:
    """Returns the rows of a query in the journal's file."""
    return lambda query: rows_of(path, query)


@pytest.fixture
def execute(path: Path) -> Callable[[str], None]:
    """Changes the journal's file behind the journal."""

    def execute_sql(statement: str) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute(statement)

    return execute_sql


@pytest.fixture
def clock() -> ManualClock:
    """A clock that the test moves."""
    return ManualClock()


@pytest.fixture
def liveness() -> FakeLiveness:
    """Which executors live."""
    return FakeLiveness()


@pytest.fixture
async def open_journal(path: Path, clock: ManualClock, liveness: FakeLiveness) -> AsyncIterator[Open]:
    """Opens the journal of one more executor; all are closed after the test."""
    opened: list[SqliteJournal] = []
    ids = SequentialIds()

    def open_one(origin: str = "terminal") -> SqliteJournal:
        journal = SqliteJournal.open(path, clock=clock, ids=ids, origin=origin, liveness=liveness)
        opened.append(journal)
        return journal

    yield open_one

    for journal in opened:
        await journal.close()


@pytest.fixture
async def journal(open_journal: Open) -> SqliteJournal:
    """The journal of one executor, with the definition of `WORKFLOW`."""
    journal = open_journal()
    await journal.store_definition(WORKFLOW)
    return journal

"""Fixtures for both kinds of journal; each call opens one more executor on the same record."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from pdkernel.clock import ManualClock, SequentialIds
from pdkernel.engine.journal import (
    Journal,
    MemoryJournal,
    MemoryTables,
    NewRun,
    SqliteJournal,
    StepRow,
    WaitRow,
    encode_event,
)
from pdkernel.model import Step, Workflow

Open = Callable[[], Journal]

WORKFLOW = Workflow("Greet", steps=(Step("one"), Step("two"), Step("three", disabled=True)))


def new_run(run_id: str = "run", *, version: int = 1, queue: str | None = None, **more: str) -> NewRun:
    """A run of `WORKFLOW`."""
    return NewRun(
        id=run_id,
        trace_id=f"trace-{run_id}",
        workflow=more.get("workflow", WORKFLOW.name),
        version=version,
        event=encode_event({"body": {"name": run_id}}, {"id": run_id}),
        external_user=more.get("external_user"),
        environment=more.get("environment", "development"),
        queue=queue,
    )


def step_row(seq: int, name: str, data: str) -> StepRow:
    """The row of a step outside of branches."""
    return StepRow(seq, name, data, path=name)


def wait_row(seq: int, *, wake_at: float | None = None, token_hash: str | None = None) -> WaitRow:
    """The wait of the step at *seq*."""
    return WaitRow(seq, WORKFLOW.steps[0].name, wake_at=wake_at, token_hash=token_hash)


@pytest.fixture
def clock() -> ManualClock:
    """A clock that the test moves."""
    return ManualClock()


@pytest.fixture(params=["sqlite", "memory"])
async def open_journal(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> AsyncIterator[Open]:
    """Opens the journal of one more executor; all are closed after the test."""
    opened: list[Journal] = []
    store, ids = MemoryTables(), SequentialIds()

    def open_one() -> Journal:
        journal: Journal = (
            SqliteJournal.open(tmp_path / "journal.db", clock=clock, ids=ids)
            if request.param == "sqlite"
            else MemoryJournal.open(store, clock=clock, ids=ids)
        )
        opened.append(journal)
        return journal

    yield open_one

    for journal in opened:
        await journal.close()


@pytest.fixture
async def journal(open_journal: Open) -> Journal:
    """The journal of one executor, with `WORKFLOW` deployed."""
    journal = open_journal()
    await journal.deploy_definition(WORKFLOW)
    return journal

"""Any sequence of calls leaves each run in the state of a small model of the journal's rules."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from pdkernel.common.clock import ManualClock, SequentialIds
from pdkernel.journal import Begun, Claim, Journal, WaitKey, encode_output
from pdkernel.journal.rows import FIRST_FENCE, RunStatus, WaitKind, WaitOutcome, WaitResolution
from tests.journal.conftest import (
    Database,
    FakeLiveness,
    PostgresDatabase,
    SqliteDatabase,
    new_run,
    step_row,
    wait_row,
)

T = TypeVar("T")

DELAY_S = 10.0
"""Seconds of a pause with a timer."""

KINDS: tuple[WaitKind, ...] = ("delay", "suspend", "rerun")
OUTCOMES: tuple[WaitOutcome, ...] = ("resumed", "cancelled")
origins = st.sampled_from(["serve", "notebook"])
late_by = st.sampled_from([0, 0, 0, 1])
"""How many fences the writer is behind."""


@dataclass
class RunModel:
    """What the journal's rules make of a run."""

    id: str
    origin: str
    queue: str | None
    status: RunStatus = "ready"
    owner: str | None = None
    fence: int = 0
    attempt: int = 1
    begun: int = 0
    wake_at: float | None = None
    pauses: int = 0
    steps: int = 0
    kind: WaitKind = "delay"
    is_early: bool = False

    def leave(self, status: RunStatus) -> None:
        """Change the status; the owner and the timer are gone."""
        self.status, self.owner, self.wake_at = status, None, None

    def give_back(self) -> None:
        """The run is ready: for its next attempt if it had begun."""
        self.leave("ready")
        self.attempt += self.begun > 0
        self.begun = 0


class JournalMachine(RuleBasedStateMachine):
    """A server and a notebook on one journal, and the model of their runs."""

    runs = Bundle("runs")

    def __init__(self, database: Database) -> None:
        super().__init__()
        self.database = database
        self.undo = ExitStack()
        self.runner = self.undo.enter_context(asyncio.Runner())
        self.clock, self.ids = ManualClock(), SequentialIds()
        self.journals = {origin: self.open(origin) for origin in ("serve", "notebook")}
        self.models: list[RunModel] = []

    def open(self, origin: str) -> Journal:
        """Open one more executor."""
        journal = Journal.open(self.database.backend(), clock=self.clock, ids=self.ids, origin=origin)
        self.undo.callback(lambda: self.run(journal.close))
        return journal

    def run(self, call: Callable[[], Awaitable[T]]) -> T:
        """Return the result of a call."""

        async def result() -> T:
            return await call()

        return self.runner.run(result())

    def claim_for(self, origin: str, run: RunModel, late: int) -> tuple[Journal, Claim, bool]:
        """Return the executor and the claim of a write, and whether the journal must accept the write."""
        journal = self.journals[origin]
        owns = run.owner == journal.executor_id and run.status == "running"
        return journal, Claim(run.id, run.fence - late, run.attempt), owns and not late

    @property
    def now(self) -> float:
        """The time in seconds since 1970."""
        return self.clock.now().timestamp()

    @rule(target=runs, origin=origins, queue=st.sampled_from([None, None, "mail"]))
    def accept(self, origin: str, queue: str | None) -> RunModel:
        """A run starts, or waits in a queue."""
        journal = self.journals[origin]
        run = RunModel(f"run{len(self.models):03}", origin, queue)
        if queue is None:
            run.status, run.owner, run.fence, run.begun = "running", journal.executor_id, FIRST_FENCE, 1
        assert self.run(lambda: journal.accept_run(new_run(run.id, queue=queue)))
        self.models.append(run)
        return run

    @rule(run=runs, origin=origins, late=late_by)
    def append(self, run: RunModel, origin: str, late: int) -> None:
        """A step is recorded."""
        journal, claim, accepted = self.claim_for(origin, run, late)
        row = step_row(run.steps, f"step{run.steps}")
        assert self.run(lambda: journal.append_step(claim, row)) is accepted
        run.steps += accepted

    @rule(run=runs, origin=origins, late=late_by, kind=st.sampled_from(KINDS), wait_s=st.sampled_from([None, DELAY_S]))
    def park(self, run: RunModel, origin: str, late: int, kind: WaitKind, wait_s: float | None) -> None:
        """A run pauses, or is ready at once if a call came early."""
        journal, claim, accepted = self.claim_for(origin, run, late)
        wait = wait_row(kind=kind, number=run.pauses + 1, wake_at=None if wait_s is None else self.now + wait_s)
        assert self.run(lambda: journal.park(claim, wait)) is accepted
        if accepted:
            run.leave("ready" if run.is_early else "paused")
            run.wake_at = None if run.is_early else wait.wake_at
            run.pauses, run.kind, run.is_early = wait.number, kind, False

    @rule(run=runs, origin=origins, late=late_by)
    def finish(self, run: RunModel, origin: str, late: int) -> None:
        """A run ends."""
        journal, claim, accepted = self.claim_for(origin, run, late)
        assert self.run(lambda: journal.finish(claim, "success", encode_output())) is accepted
        if accepted:
            run.leave("success")

    @rule(run=runs, origin=origins, late=late_by)
    def release(self, run: RunModel, origin: str, late: int) -> None:
        """An executor gives a run back."""
        journal, claim, accepted = self.claim_for(origin, run, late)
        assert self.run(lambda: journal.release(claim)) is accepted
        if accepted:
            run.give_back()

    @rule(run=runs, origin=origins, late=late_by, begun=st.sampled_from(Begun))
    def set_begun(self, run: RunModel, origin: str, late: int, begun: Begun) -> None:
        """An executor gets or loses the place of a run."""
        journal, claim, accepted = self.claim_for(origin, run, late)
        assert self.run(lambda: journal.set_begun(claim, begun)) is accepted
        if accepted:
            run.begun = begun

    @rule(run=runs, origin=origins, outcome=st.sampled_from(OUTCOMES), ahead=st.sampled_from([0, 0, 1]))
    def resolve(self, run: RunModel, origin: str, outcome: WaitOutcome, ahead: int) -> None:
        """A call resumes or cancels the last pause, or one that has not begun."""
        expected: WaitResolution = "late"
        if (run.status == "paused" and not ahead) or (
            run.status in ("running", "ready") and ahead and not run.is_early
        ):
            expected = "early" if ahead and outcome == "resumed" else "done"
        key = WaitKey(run.id, "one", number=run.pauses + ahead)
        assert self.run(lambda: self.journals[origin].resolve_wait(key, outcome)) == expected
        if expected == "early":
            run.is_early = True
        elif expected == "done":
            run.leave("ready" if outcome == "resumed" else "cancelled")

    @rule(origin=origins, seconds=st.sampled_from([DELAY_S / 2, DELAY_S]))
    def wake(self, origin: str, seconds: float) -> None:
        """Time passes, and a timer ends the pauses that are due."""
        self.clock.advance(seconds)
        due = [run for run in self.models if run.wake_at is not None and run.wake_at <= self.now]
        assert self.run(self.journals[origin].wake_due) == len(due)
        for run in due:
            run.leave("cancelled" if run.kind == "suspend" else "ready")

    def claimed(self, run: RunModel, origin: str) -> Claim:
        """Give the run to an executor and return its claim."""
        run.status, run.owner, run.fence = "running", self.journals[origin].executor_id, run.fence + 1
        run.begun = int(run.attempt == 1)
        return Claim(run.id, run.fence, run.attempt)

    @rule(run=runs, origin=origins)
    def claim(self, run: RunModel, origin: str) -> None:
        """An executor claims a named run."""
        found = self.run(lambda: self.journals[origin].claim(run.id))
        if run.status == "ready":
            assert found is not None
            assert found.claim == self.claimed(run, origin)
            assert (len(found.steps), found.was_paused, len(found.waits)) == (
                run.steps,
                run.pauses > 0,
                min(run.pauses, 1),
            )
        else:
            assert found is None

    @rule(origin=origins, queue=st.sampled_from([None, "mail"]), limit=st.sampled_from([1, 5]))
    def claim_next(self, origin: str, queue: str | None, limit: int) -> None:
        """An executor claims the oldest runs of its origin."""
        ready = [run for run in self.models if (run.status, run.origin, run.queue) == ("ready", origin, queue)]
        found = self.run(lambda: self.journals[origin].claim_next(queue, limit))
        assert [run.claim for run in found] == [self.claimed(run, origin) for run in ready[:limit]]

    @rule(run=runs, origin=origins)
    def cancel(self, run: RunModel, origin: str) -> None:
        """A call cancels a run."""
        unfinished = run.status in ("ready", "running", "paused")
        assert self.run(lambda: self.journals[origin].cancel(run.id)) is unfinished
        if unfinished:
            run.leave("cancelled")

    @rule(origin=origins)
    def die(self, origin: str) -> None:
        """An executor dies; its successor reaps it."""
        dead = self.journals[origin]
        self.database.kill(dead, origin)
        self.journals[origin] = self.open(origin)
        lost = [run for run in self.models if run.owner == dead.executor_id]
        served = [run for run in lost if run.origin == "serve"]
        assert self.run(self.journals[origin].reap_dead) == len(served)
        for run in lost:
            if run.origin == "serve":
                run.give_back()
            else:
                run.leave("error")

    @invariant()
    def rows_are_the_model(self) -> None:
        """The rows of the runs are those of the model; a run has an owner exactly while it runs."""
        assert self.database.rows("select id, status, owner, fence, attempt, begun, wake_at from runs order by id") == [
            (run.id, run.status, run.owner, run.fence, run.attempt, run.begun, run.wake_at) for run in self.models
        ]
        assert all((run.owner is not None) == (run.status == "running") for run in self.models)

    def teardown(self) -> None:
        """Close the journals."""
        self.undo.close()


def test_calls_follow_the_model_on_sqlite() -> None:
    """Any sequence of calls has the results of the model in a file; each rule and the invariant of the machine assert them."""
    with ExitStack() as undo:

        def machine() -> JournalMachine:
            folder = Path(undo.enter_context(tempfile.TemporaryDirectory()))
            return JournalMachine(SqliteDatabase(folder / "journal.db", FakeLiveness()))

        run_state_machine_as_test(
            cast("type[JournalMachine]", machine), settings=settings(max_examples=6, stateful_step_count=25)
        )


def test_calls_follow_the_model_on_postgres(postgres_database: PostgresDatabase) -> None:
    """Any sequence of calls has the results of the model on Postgres; each rule and the invariant of the machine assert them."""

    def machine() -> JournalMachine:
        postgres_database.clear()
        return JournalMachine(postgres_database)

    run_state_machine_as_test(
        cast("type[JournalMachine]", machine), settings=settings(max_examples=6, stateful_step_count=25)
    )

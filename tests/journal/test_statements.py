"""Any sequence of calls leaves each run in the state of a small model of the journal's rules."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from pdkernel.common.clock import ManualClock, SequentialIds
from pdkernel.journal import Begun, Claim, Journal, StoredLock, WaitKey, encode_output
from pdkernel.journal.rows import FIRST_FENCE, RunStatus, WaitKind, WaitOutcome, WaitResolution
from tests.journal.conftest import (
    FIRST,
    WORKFLOW,
    Database,
    FakeLiveness,
    Open,
    PostgresDatabase,
    Rows,
    SqliteDatabase,
    new_run,
    outbox_row,
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


TABLES = ("runs", "steps", "waits", "outbox", "definitions")
LOCK = StoredLock("hash", '{"workflow":"Greet"}')


async def test_a_removed_run_leaves_no_row(open_journal: Open, rows: Rows) -> None:
    """A run is removed with its steps, waits and messages; its definition goes with its last run."""
    journal = open_journal()
    await journal.store_definition(WORKFLOW)
    await journal.accept_run(new_run())
    await journal.accept_run(new_run("other"))
    await journal.append_step(FIRST, step_row(0, "zero"))
    await journal.park(FIRST, wait_row(1), outbox=[outbox_row()])

    assert await journal.remove_runs(["run", "nope"]) == ["run"]
    assert {table: len(rows(f"select * from {table}")) for table in TABLES} == {
        "runs": 1, "steps": 0, "waits": 0, "outbox": 0, "definitions": 1,
    }  # fmt: skip


async def test_packages_go_with_their_last_run(open_journal: Open, rows: Rows) -> None:
    """The packages of a run are removed with the last run that has them, and stored again with the next."""
    journal = open_journal()
    for run_id in ("run", "other"):
        await journal.accept_run(new_run(run_id, queue="mail", package_lock=LOCK))
    stored = "select hash, content from package_locks"

    await journal.remove_runs(["run"])
    kept = rows(stored)
    await journal.remove_runs(["other"])
    gone = rows(stored)
    await journal.accept_run(new_run("next", package_lock=LOCK))

    assert (kept, gone, rows(stored)) == ([(LOCK.hash, LOCK.content)], [], [(LOCK.hash, LOCK.content)])


async def test_a_run_that_executes_is_not_removed(open_journal: Open) -> None:
    """The row of a run with an owner stays."""
    journal = open_journal()
    await journal.accept_run(new_run())

    assert await journal.remove_runs(["run"]) == []
    assert await journal.get_execution("run") is not None


async def test_a_definition_that_another_process_removed_is_stored_again(open_journal: Open, rows: Rows) -> None:
    """A process that has stored a definition before stores it again with its next run, if the definition is gone."""
    journal, other = open_journal(), open_journal()
    await journal.store_definition(WORKFLOW)
    await journal.accept_run(new_run())
    await journal.finish(FIRST, "success", "{}")
    await other.remove_runs(["run"])
    gone = rows("select * from definitions")
    await journal.accept_run(new_run("next"))
    found = await journal.get_execution("next")

    assert gone == []
    assert found is not None
    assert [step.name for step in found.steps] == ["one", "two", "three"]


@pytest.mark.parametrize(("days", "expired"), [(2, ["run"]), (4, [])])
async def test_expired_runs_are_found(open_journal: Open, clock: ManualClock, days: float, expired: list[str]) -> None:
    """A run expires so many days after its end; a run that has not ended never does."""
    journal = open_journal()
    await journal.store_definition(WORKFLOW)
    await journal.accept_run(new_run())
    await journal.accept_run(new_run("unfinished"))
    await journal.finish(FIRST, "success", "{}")
    clock.advance(3 * 86400)

    assert await journal.find_expired(days) == expired


async def test_a_long_run_expires_by_its_end(open_journal: Open, clock: ManualClock) -> None:
    """A run that began before the retention and ended within it is kept."""
    journal = open_journal()
    await journal.store_definition(WORKFLOW)
    await journal.accept_run(new_run())
    clock.advance(3 * 86400)
    await journal.finish(FIRST, "success", "{}")
    clock.advance(86400)

    assert await journal.find_expired(2) == []


async def test_each_workflow_has_its_retention(open_journal: Open, clock: ManualClock) -> None:
    """The setting of a workflow's newest run counts for all of its runs, also 0 days; the oldest run is the first."""
    journal = open_journal()
    days = {"days 1": 3, "days 2": 1, "none 1": None, "zero 1": 0}
    for run_id, retention in days.items():
        workflow = replace(WORKFLOW, name=run_id[:4], settings={} if retention is None else {"retention": retention})
        key = await journal.store_definition(workflow)
        await journal.accept_run(new_run(run_id, workflow=workflow.name, definition=key))
        await journal.finish(Claim.first(run_id), "success", "{}")
        clock.advance(60)
    clock.advance(2 * 86400)

    assert sorted(await journal.find_expired(1)) == list(days)
    assert sorted(await journal.find_expired(9)) == ["days 1", "days 2", "zero 1"]
    assert [len(await journal.find_expired(1, limit)) for limit in (1, 3)] == [1, 3]
    assert "days 2" not in await journal.find_expired(9, 1)


async def test_only_unused_definitions_and_packages_go(open_journal: Open, rows: Rows) -> None:
    """Of the definitions and packages of removed runs, those that another run has stay, and all others go."""
    journal = open_journal()
    versions = [replace(WORKFLOW, settings={"queue": number}) for number in range(4)]
    keys = [await journal.store_definition(version) for version in versions]
    for number, used in enumerate((0, 1, 2, 2, 3)):
        lock = StoredLock(f"hash{used}", LOCK.content)
        await journal.accept_run(new_run(f"run{number}", queue="mail", definition=keys[used], package_lock=lock))

    await journal.remove_runs(["run0", "run1", "run2"])

    assert {key for (key,) in rows("select hash from definitions")} == {keys[2], keys[3]}
    assert {key for (key,) in rows("select hash from package_locks")} == {"hash2", "hash3"}


async def test_a_run_of_another_origin_waits_for_its_executor(open_journal: Open) -> None:
    """A run that is accepted for another origin is ready for that one, and not for its own."""
    terminal, server = open_journal("terminal"), open_journal("serve")
    await terminal.accept_run(new_run(origin="serve"))

    assert await terminal.claim_next() == []
    (claimed,) = await server.claim_next()
    assert (claimed.claim.run_id, claimed.origin) == ("run", "serve")


async def test_a_dead_executor_does_not_serve(open_journal: Open, database: Database) -> None:
    """An origin has an executor while one of its processes lives, although the row of a dead one stays."""
    terminal = open_journal("terminal")
    before = await terminal.has_executor("serve")
    server = open_journal("serve")
    during = await terminal.has_executor("serve")
    database.kill(server)

    assert (before, during, await terminal.has_executor("serve")) == (False, True, False)

"""Runs that are removed, and runs of another origin."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pdkernel.common.clock import ManualClock
from pdkernel.journal import Claim, StoredLock
from tests.journal.conftest import (
    FIRST,
    WORKFLOW,
    Database,
    Open,
    Rows,
    new_run,
    outbox_row,
    step_row,
    wait_row,
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

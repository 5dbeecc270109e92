"""Ownership rules on both kinds of journal: a write names (owner, fence) and is refused for another owner or fence."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from pdkernel.clock import ManualClock
from pdkernel.engine.journal import Claim, Journal, StepRow, encode_output, encode_step
from pdkernel.errors import ProjectError
from pdkernel.execution import StepResult
from tests.engine.journal.conftest import WORKFLOW, Open, new_run, step_row, wait_row

STEP = encode_step(StepResult("one", "success"))
OUTPUT = encode_output()


async def status(journal: Journal, run_id: str = "run") -> str:
    """Return the run's status."""
    execution = await journal.get_execution(run_id)
    assert execution is not None
    return execution.status


async def steps_run(journal: Journal, run_id: str = "run") -> list[str]:
    """Return the names of the run's steps that have a row."""
    execution = await journal.get_execution(run_id)
    assert execution is not None
    return [step.name for step in execution.steps if step.status == "success"]


async def test_same_definition_same_version(open_journal: Open) -> None:
    """A definition has one number for every deployment and executor; a changed definition gets the next number."""
    one, other = open_journal(), open_journal()

    numbers = [
        await one.deploy_definition(WORKFLOW),
        await other.deploy_definition(WORKFLOW),
        await one.deploy_definition(replace(WORKFLOW, settings={"memory": 256})),
        await other.deploy_definition(WORKFLOW),
        await other.deploy_definition(replace(WORKFLOW, name="Other")),
    ]

    assert numbers == [1, 1, 2, 1, 1]


async def test_run_from_accept_to_finish(journal: Journal) -> None:
    """An accepted run takes steps, and ends."""
    assert await journal.accept_run(new_run())
    assert await journal.append_step(Claim.first("run"), step_row(0, "one", STEP))
    assert await status(journal) == "executing"
    assert await journal.finish(Claim.first("run"), "success", OUTPUT)

    assert await status(journal) == "success"
    assert await steps_run(journal) == ["one"]


async def test_accept_twice_is_refused(open_journal: Open) -> None:
    """A second run with the same id is refused, and the first run is unchanged."""
    one, other = open_journal(), open_journal()

    assert await one.accept_run(new_run())
    assert not await one.accept_run(new_run())
    assert not await other.accept_run(new_run(external_user="ada"))

    assert await one.append_step(Claim.first("run"), step_row(0, "one", STEP))


async def test_same_step_twice_is_refused(journal: Journal) -> None:
    """A second row of a step is refused, at another position too; the first result stays."""
    await journal.accept_run(new_run())
    await journal.append_step(Claim.first("run"), step_row(0, "one", STEP))

    assert not await journal.append_step(
        Claim.first("run"), step_row(0, "one", encode_step(StepResult("one", "error")))
    )
    assert not await journal.append_step(Claim.first("run"), step_row(1, "one", STEP))

    assert await steps_run(journal) == ["one"]


@pytest.mark.parametrize("fence", [0, 2])
async def test_wrong_fence_is_refused(journal: Journal, fence: int) -> None:
    """A write with another fence is refused."""
    await journal.accept_run(new_run())

    assert not await journal.append_step(Claim("run", fence), step_row(0, "one", STEP))
    assert not await journal.finish(Claim("run", fence), "success", OUTPUT)
    assert not await journal.park(Claim("run", fence), wait_row(0))

    assert await status(journal) == "executing"


async def test_unknown_run_is_refused(journal: Journal) -> None:
    """A write to an unknown run is refused."""
    assert not await journal.append_step(Claim.first("none"), step_row(0, "one", STEP))
    assert not await journal.finish(Claim.first("none"), "success", OUTPUT)
    assert not await journal.park(Claim.first("none"), wait_row(0))
    assert not await journal.resolve_wait("none", 1, "resumed")
    assert not await journal.cancel("none")
    assert await journal.claim("none") is None
    assert await journal.get_execution("none") is None


async def test_another_owner_is_refused(open_journal: Open) -> None:
    """A write of an executor that does not own the run is refused, even with the right fence."""
    owner, other = open_journal(), open_journal()
    await owner.accept_run(new_run())

    assert not await other.append_step(Claim.first("run"), step_row(0, "one", STEP))
    assert not await other.finish(Claim.first("run"), "success", OUTPUT)
    assert not await other.park(Claim.first("run"), wait_row(0))

    assert await owner.append_step(Claim.first("run"), step_row(0, "one", STEP))


async def test_finished_run_refuses_writes(journal: Journal) -> None:
    """A finished run accepts no step and no second end."""
    await journal.accept_run(new_run())
    await journal.finish(Claim.first("run"), "error", OUTPUT)

    assert not await journal.append_step(Claim.first("run"), step_row(0, "one", STEP))
    assert not await journal.finish(Claim.first("run"), "success", OUTPUT)

    assert await status(journal) == "error"


async def test_finish_without_waiting(journal: Journal) -> None:
    """A run finished without waiting is finished for the next read of the same journal."""
    await journal.accept_run(new_run())

    assert await journal.finish(Claim.first("run"), "success", OUTPUT, wait=False)

    assert await status(journal) == "success"


async def test_cancelled_run_refuses_writes(open_journal: Open) -> None:
    """Every executor can cancel an unfinished run once; the owner's next write is refused."""
    owner, other = open_journal(), open_journal()
    await owner.accept_run(new_run())

    assert await other.cancel("run")

    assert not await owner.append_step(Claim.first("run"), step_row(0, "one", STEP))
    assert not await owner.finish(Claim.first("run"), "success", OUTPUT)
    assert not await other.cancel("run")
    assert await status(owner) == "cancelled"


async def test_heartbeat_keeps_the_lease(open_journal: Open, clock: ManualClock) -> None:
    """An executor that sends heartbeats is not reaped."""
    owner, reaper = open_journal(), open_journal()
    await owner.accept_run(new_run())

    for _ in range(3):
        clock.advance(8)
        assert await owner.heartbeat()
        assert await reaper.heartbeat()
        assert await reaper.reap_expired() == 0

    assert await owner.append_step(Claim.first("run"), step_row(0, "one", STEP))


async def test_expired_lease_is_valid_until_it_is_reaped(open_journal: Open, clock: ManualClock) -> None:
    """Until it is reaped, an executor with an expired lease owns its runs and may extend the lease."""
    owner = open_journal()
    await owner.accept_run(new_run())
    clock.advance(60)

    assert await owner.append_step(Claim.first("run"), step_row(0, "one", STEP))
    assert await owner.heartbeat()


async def test_reaped_executor_is_refused(open_journal: Open, clock: ManualClock) -> None:
    """A reaped executor cannot write, not even with the current fence."""
    owner = open_journal()
    await owner.accept_run(new_run())
    clock.advance(60)
    reaper = open_journal()

    assert await reaper.reap_expired() == 1
    run = await reaper.claim("run")

    assert run is not None
    assert not await owner.append_step(Claim.first("run"), step_row(0, "one", STEP))
    assert not await owner.append_step(run.claim, step_row(0, "one", STEP))
    assert not await owner.finish(run.claim, "success", OUTPUT)
    assert not await owner.park(run.claim, wait_row(0))
    assert not await owner.accept_run(new_run("another"))
    assert not await owner.heartbeat()
    assert await owner.claim("run") is None


async def test_reaped_run_continues(open_journal: Open, clock: ManualClock) -> None:
    """A reaped run is ready, with attempt + 1, the next fence after its claim, and its recorded steps."""
    owner = open_journal()
    await owner.deploy_definition(WORKFLOW)
    await owner.accept_run(new_run(external_user="ada"))
    await owner.append_step(Claim.first("run"), step_row(0, "one", STEP))
    clock.advance(60)
    reaper = open_journal()

    await reaper.reap_expired()
    ready = await status(reaper)
    run = await reaper.claim("run")

    assert ready == "resumed"
    assert run is not None
    assert (run.claim, run.external_user) == (Claim("run", 2, attempt=2), "ada")
    assert await reaper.append_step(Claim("run", 2), step_row(1, "two", encode_step(StepResult("two", "success"))))
    assert await steps_run(reaper) == ["one", "two"]


async def test_reaping_twice_makes_a_run_ready_once(open_journal: Open, clock: ManualClock) -> None:
    """Reaping twice makes the runs ready once."""
    owner = open_journal()
    await owner.accept_run(new_run())
    clock.advance(60)
    reaper = open_journal()

    assert [await reaper.reap_expired(), await reaper.reap_expired()] == [1, 0]


async def test_paused_run_refuses_writes(journal: Journal) -> None:
    """A paused run has no owner: a write and a second pause are refused."""
    await journal.accept_run(new_run())

    assert await journal.park(Claim.first("run"), wait_row(0))

    assert await status(journal) == "paused"
    assert not await journal.append_step(Claim.first("run"), step_row(0, "one", STEP))
    assert not await journal.finish(Claim.first("run"), "success", OUTPUT)
    assert not await journal.park(Claim.first("run"), wait_row(0))


async def test_resumed_run_is_claimed_with_the_next_fence(journal: Journal) -> None:
    """A resumed run is ready; the first claim gets it with the next fence."""
    await journal.accept_run(new_run())
    await journal.park(Claim.first("run"), wait_row(0))

    assert await journal.resolve_wait("run", 1, "resumed", '{"answer":42}')
    ready = await status(journal)
    claims = [await journal.claim("run"), await journal.claim("run")]

    assert ready == "resumed"
    assert [run and run.claim for run in claims] == [Claim("run", 2), None]
    assert not await journal.append_step(Claim("run", 1), step_row(0, "one", STEP))
    assert await journal.append_step(Claim("run", 2), step_row(0, "one", STEP))


async def test_paused_run_is_woken_once(journal: Journal, clock: ManualClock) -> None:
    """Of a timer and two resumes exactly one wakes a run."""
    await journal.accept_run(new_run())
    await journal.park(Claim.first("run"), wait_row(0, wake_at=clock.now().timestamp()))

    woken = await asyncio.gather(
        journal.resolve_wait("run", 1, "resumed"), journal.wake_due(), journal.resolve_wait("run", 1, "cancelled")
    )

    assert sorted(map(int, woken)) == [0, 0, 1]


async def test_resume_with_an_earlier_fence_is_refused(journal: Journal) -> None:
    """A resume for an earlier pause does not wake the run."""
    await journal.accept_run(new_run())
    await journal.park(Claim.first("run"), wait_row(0))

    assert not await journal.resolve_wait("run", 2, "resumed")

    assert await status(journal) == "paused"


async def test_timer_wakes_due_runs(journal: Journal, clock: ManualClock) -> None:
    """A timer wakes only runs that are due."""
    now = clock.now().timestamp()
    for number, wake_at in enumerate([now + 1, now + 2, now + 60, None]):
        await journal.accept_run(new_run(f"run{number}"))
        await journal.park(Claim.first(f"run{number}"), wait_row(0, wake_at=wake_at))

    clock.advance(2)
    woken = await journal.wake_due()

    assert woken == 2
    assert [await status(journal, f"run{number}") for number in range(4)] == [
        "resumed",
        "resumed",
        "paused",
        "paused",
    ]


async def test_timer_wakes_the_earliest_runs_first(journal: Journal, clock: ManualClock) -> None:
    """If more runs are due than the limit, the earliest are woken."""
    now = clock.now().timestamp()
    for run_id, wake_at in (("late", now - 1), ("later", now), ("latest", now - 5)):
        await journal.accept_run(new_run(run_id))
        await journal.park(Claim.first(run_id), wait_row(0, wake_at=wake_at))

    assert await journal.wake_due(limit=1) == 1

    assert await status(journal, "latest") == "resumed"


async def test_cancelled_pause_is_not_woken(journal: Journal, clock: ManualClock) -> None:
    """A cancelled pause is not woken."""
    await journal.accept_run(new_run())
    await journal.park(Claim.first("run"), wait_row(0, wake_at=clock.now().timestamp()))

    assert await journal.cancel("run")

    assert await journal.wake_due() == 0
    assert await status(journal) == "cancelled"


async def test_queued_run_is_claimed_once(open_journal: Open, clock: ManualClock) -> None:
    """A run with a queue has no owner until one executor claims it; the oldest run is claimed first."""
    one, other = open_journal(), open_journal()
    for run_id in "ba":
        await one.accept_run(new_run(run_id, queue="mail"))
        clock.advance(1)
    waiting = await status(one, "b")

    first, second = await one.claim_next("mail"), await other.claim_next("mail", limit=5)

    assert waiting == "queued"
    assert [run.claim for run in (*first, *second)] == [Claim.first("b"), Claim.first("a")]
    assert not await one.append_step(Claim.first("a"), step_row(0, "one", STEP))
    assert await other.append_step(Claim.first("a"), step_row(0, "one", STEP))


async def test_claim_leaves_other_queues_unchanged(journal: Journal) -> None:
    """A claim from one queue leaves other queues, and runs without a queue, unchanged."""
    await journal.accept_run(new_run("mail", queue="mail"))
    await journal.accept_run(new_run("woken"))
    await journal.park(Claim.first("woken"), wait_row(0))
    await journal.resolve_wait("woken", 1, "resumed")

    assert [run.claim.run_id for run in await journal.claim_next("other", limit=5)] == []
    assert [run.claim.run_id for run in await journal.claim_next(None, limit=5)] == ["woken"]
    assert [run.claim.run_id for run in await journal.claim_next("mail", limit=5)] == ["mail"]


async def test_concurrency_of_a_queue_is_limited(journal: Journal) -> None:
    """A queue with concurrency 2 has two running runs; a pause or an end frees a slot."""
    await journal.set_queue_limits("mail", concurrency=2)
    for number in range(5):
        await journal.accept_run(new_run(f"run{number}", queue="mail"))

    first = await journal.claim_next("mail", limit=5)
    full = await journal.claim_next("mail", limit=5)
    await journal.park(first[0].claim, wait_row(0))
    await journal.finish(first[1].claim, "success", OUTPUT)
    second = await journal.claim_next("mail", limit=5)

    assert (len(first), len(full), len(second)) == (2, 0, 2)


async def test_starts_of_a_queue_are_limited(journal: Journal, clock: ManualClock) -> None:
    """A queue with two starts in ten seconds starts no third run within ten seconds of the first."""
    await journal.set_queue_limits("mail", max_starts=2, period_s=10)
    for number in range(5):
        await journal.accept_run(new_run(f"run{number}", queue="mail"))

    started = []
    for wait in (0, 5, 4.5, 0.5, 10):
        clock.advance(wait)
        started.append(len(await journal.claim_next("mail", limit=5)))

    assert started == [2, 0, 0, 2, 1]


async def test_closed_journal_refuses_writes(open_journal: Open) -> None:
    """A closed journal refuses writes; closing it again does nothing."""
    journal = open_journal()
    await journal.close()

    with pytest.raises(ProjectError, match=r"The journal in .* is closed"):
        await journal.accept_run(new_run())

    await journal.close()


async def test_run_of_a_closed_executor_is_reaped(open_journal: Open, clock: ManualClock) -> None:
    """Runs of an executor that ended are reaped after its lease expires."""
    owner = open_journal()
    await owner.accept_run(new_run())
    await owner.close()
    clock.advance(60)

    assert await open_journal().reap_expired() == 1


async def test_last_step_is_recorded_with_the_end(open_journal: Open) -> None:
    """The end of a run records its last step; without ownership neither is written."""
    journal = open_journal()
    await journal.accept_run(new_run())
    row = step_row(0, "one", STEP)

    answers = [await journal.finish(Claim.first("run"), "success", OUTPUT, last_step=row) for _ in range(2)]
    found = await journal.get_execution("run")

    assert answers == [True, False]
    assert found is not None
    assert (found.status, found.step("one").status) == ("success", "success")


async def test_a_step_of_a_loop_has_a_row_for_each_pass(journal: Journal) -> None:
    """The key of a step is its path and its iteration: the same name in another branch, or in the next pass, is another row."""
    await journal.accept_run(new_run())
    rows = [
        StepRow(0, "one", STEP, "one"),
        StepRow(1, "one", STEP, "loop/one", 1),
        StepRow(2, "one", STEP, "loop/one", 2),
    ]

    assert [await journal.append_step(Claim.first("run"), row) for row in rows] == [True, True, True]
    assert [await journal.append_step(Claim.first("run"), row) for row in rows] == [False, False, False]


async def test_a_pause_records_the_step_with_it(open_journal: Open) -> None:
    """The pause of a run and the row of its last step are one write: without the claim neither is written."""
    journal, other = open_journal(), open_journal()
    await journal.deploy_definition(WORKFLOW)
    await journal.accept_run(new_run())
    row = step_row(0, "one", STEP)

    refused = await other.park(Claim.first("run"), wait_row(0), last_step=row)
    before = await steps_run(journal)
    parked = await journal.park(Claim.first("run"), wait_row(0), last_step=row)

    assert (refused, before, parked) == (False, [], True)
    assert await status(journal) == "paused"
    assert await steps_run(journal) == ["one"]


async def test_a_refused_step_leaves_the_run_running(journal: Journal) -> None:
    """If the step of a pause is already recorded, the run is not paused."""
    await journal.accept_run(new_run())
    await journal.append_step(Claim.first("run"), step_row(0, "one", STEP))

    assert not await journal.park(Claim.first("run"), wait_row(0), last_step=step_row(0, "one", STEP))

    assert await status(journal) == "executing"

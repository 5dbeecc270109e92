"""The journal of several executors that write at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from pdkernel.journal import Claim, Journal, WaitKey, encode_output
from pdkernel.journal.rows import WaitOutcome
from tests.journal.conftest import Database, Rows, new_run, step_row, wait_row

RACES = 200


@pytest.fixture
async def racers(database: Database) -> AsyncIterator[tuple[Journal, Journal]]:
    """Two executors whose threads commit, so that their writes really compete; both have `RACES` runs to race for."""
    backends = [database.backend() for _ in range(2)]
    for backend in backends:
        backend.max_inline_commit_s = 0
    one, other = map(Journal.open, backends)
    yield one, other
    await one.close()
    await other.close()


async def pause_all(journal: Journal, wake_at: float | None = None) -> None:
    """Accept and pause the runs of a race."""
    claims = [Claim.first(f"run{number}") for number in range(RACES)]
    assert all(await asyncio.gather(*(journal.accept_run(new_run(claim.run_id)) for claim in claims)))
    wait = wait_row(wake_at=wake_at)
    assert all(await asyncio.gather(*(journal.park(claim, wait) for claim in claims)))


async def resolve_all(journal: Journal, outcome: WaitOutcome, *, step: int = 1) -> list[str]:
    """Return the runs whose pauses this executor ended; *step* -1 begins with the last run."""
    ids = [f"run{number}" for number in range(RACES)]
    found = await asyncio.gather(*(journal.resolve_wait(WaitKey(run_id, "one"), outcome) for run_id in ids[::step]))
    return [run_id for run_id, resolution in zip(ids[::step], found, strict=True) if resolution == "done"]


async def test_one_of_two_resumes_wins(racers: tuple[Journal, Journal]) -> None:
    """If two executors resume the same runs, each run is resumed by one of them."""
    one, other = racers
    await pause_all(one)

    first, second = await asyncio.gather(resolve_all(one, "resumed"), resolve_all(other, "resumed", step=-1))

    assert len(first) + len(second) == len({*first, *second}) == RACES


async def test_one_of_resume_cancel_and_timeout_wins(racers: tuple[Journal, Journal], rows: Rows) -> None:
    """If calls resume and cancel runs while they are due, each pause ends once, with the winner's outcome."""
    one, other = racers
    await pause_all(one, wake_at=0.0)

    resumed, cancelled, woken = await asyncio.gather(
        resolve_all(one, "resumed"),
        resolve_all(other, "cancelled", step=-1),
        asyncio.gather(*(racers[number % 2].wake_due(limit=2) for number in range(40))),
    )
    timed_out = rows("select run_id from waits where outcome = 'timeout'")

    assert len(resumed) + len(cancelled) + sum(woken) == RACES
    assert len({*resumed, *cancelled, *(run_id for (run_id,) in timed_out)}) == RACES
    assert rows("select count(*) from runs where status = 'cancelled'") == [(len(cancelled),)]
    assert rows("select count(*) from runs where status = 'ready'") == [(RACES - len(cancelled),)]


async def test_one_of_two_cancels_wins(racers: tuple[Journal, Journal]) -> None:
    """If two executors cancel the same runs, only one of the calls returns True."""
    one, other = racers
    await pause_all(one)
    ids = [f"run{number}" for number in range(RACES)]

    answers = await asyncio.gather(
        asyncio.gather(*(one.cancel(run_id) for run_id in ids)),
        asyncio.gather(*(other.cancel(run_id) for run_id in ids)),
    )

    assert [first != second for first, second in zip(*answers, strict=True)] == [True] * RACES


async def test_one_of_an_end_and_a_cancel_wins(racers: tuple[Journal, Journal], rows: Rows) -> None:
    """If a run records a step and its end while another executor cancels the run, one of them decides."""
    one, other = racers
    ids = [f"run{number}" for number in range(RACES)]
    assert all(await asyncio.gather(*(one.accept_run(new_run(run_id)) for run_id in ids)))

    async def end(run_id: str) -> bool:
        claim = Claim.first(run_id)
        return await one.append_step(claim, step_row(0, "one")) and await one.finish(claim, "success", encode_output())

    ended, cancelled = await asyncio.gather(
        asyncio.gather(*map(end, ids)), asyncio.gather(*map(other.cancel, reversed(ids)))
    )

    assert [done != gone for done, gone in zip(ended, reversed(cancelled), strict=True)] == [True] * RACES
    assert rows("select count(*) from runs where status = 'success'") == [(sum(ended),)]
    assert rows("select count(*) from runs where status = 'cancelled'") == [(sum(cancelled),)]


async def test_one_of_two_claims_wins(racers: tuple[Journal, Journal], rows: Rows) -> None:
    """If two executors claim the same runs, one by id and one by age, each run has one owner and one more fence."""
    one, other = racers
    await pause_all(one, wake_at=0.0)
    assert await one.wake_due() == RACES

    by_id, by_age = await asyncio.gather(
        asyncio.gather(*(one.claim(f"run{number}") for number in range(RACES))),
        asyncio.gather(*(other.claim_next(limit=10) for _ in range(RACES // 10))),
    )

    mine = {run.claim.run_id for run in by_id if run is not None}
    theirs = {run.claim.run_id for claims in by_age for run in claims}
    assert mine.isdisjoint(theirs)
    assert len(mine) + len(theirs) == RACES
    assert rows("select distinct fence, status from runs") == [(2, "running")]
    assert rows(f"select count(*) from runs where owner = '{one.executor_id}'") == [(len(mine),)]


async def test_one_of_a_pause_and_an_early_resume_is_first(racers: tuple[Journal, Journal], rows: Rows) -> None:
    """A call that comes while the step pauses resumes the run, whichever is first."""
    one, other = racers
    ids = [f"run{number}" for number in range(RACES)]
    assert all(await asyncio.gather(*(one.accept_run(new_run(run_id)) for run_id in ids)))

    parked, resolved = await asyncio.gather(
        asyncio.gather(*(one.park(Claim.first(run_id), wait_row()) for run_id in ids)),
        asyncio.gather(*(other.resolve_wait(WaitKey(run_id, "one"), "resumed") for run_id in ids[::-1])),
    )

    assert all(parked)
    assert set(resolved) <= {"done", "early"}
    assert rows("select distinct r.status, w.outcome from runs r join waits w on w.run_id = r.id") == [
        ("ready", "resumed")
    ]

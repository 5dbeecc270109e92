"""The rules of a run: a write names its claim, and the first of several calls wins."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable, Collection

import pytest
from msgspec.structs import replace

from pdkernel.common.clock import ManualClock
from pdkernel.errors import ExecutorLostError, ProjectError, RequestError
from pdkernel.execution import Decision, ErrorRecord, StepResult
from pdkernel.journal import (
    MAX_DEATHS_ALONE,
    MAX_INTERRUPTIONS,
    Begun,
    CallRow,
    Claim,
    ClaimedRun,
    Journal,
    NewDecision,
    OutboxRow,
    StepRow,
    StoredLock,
    WaitKey,
    encode_output,
    encode_step,
)
from pdkernel.journal.journal import START_LEAD_S, START_MARGIN_S
from pdkernel.journal.rows import FinalStatus, WaitKind, WaitOutcome
from pdkernel.journal.schema import JOURNAL_SCHEMA
from tests.journal.conftest import (
    DEFINITION,
    FIRST,
    KEY,
    ONLY_SQLITE,
    STEP,
    WORKFLOW,
    Database,
    Open,
    Rows,
    call_row,
    delivery,
    load,
    new_run,
    outbox_row,
    recorded_steps,
    status,
    step_row,
    wait_row,
)

OUTPUT = encode_output()
LOCK = StoredLock("hash", '{"workflow":"Greet"}')
SECOND = Claim("run", 2)
"""The second claim of `new_run()`."""

Write = Callable[[Journal, Claim], Awaitable[bool]]

WRITES: dict[str, Write] = {
    "append_step": lambda journal, claim: journal.append_step(claim, step_row(0, "one")),
    "finish": lambda journal, claim: journal.finish(claim, "success", OUTPUT),
    "finish with a step": lambda journal, claim: journal.finish(
        claim, "success", OUTPUT, last_step=step_row(0, "one"), outbox=[outbox_row()]
    ),
    "park": lambda journal, claim: journal.park(claim, wait_row(), outbox=[outbox_row()]),
    "release": lambda journal, claim: journal.release(claim),
    "record_call": lambda journal, claim: journal.record_call(claim, call_row()),
    "set_package_lock": lambda journal, claim: journal.set_package_lock(claim, LOCK),
}
"""Every write that names a claim."""
every_write = pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)


async def pause(
    journal: Journal, run_id: str = "run", *, kind: WaitKind = "delay", wake_at: float | None = None
) -> None:
    """Accept a run that pauses in its first step."""
    assert await journal.accept_run(new_run(run_id))
    assert await journal.park(Claim.first(run_id), wait_row(kind=kind, wake_at=wake_at))


# ── definitions and accepted runs ────────────────────────────────────────────────────────────────────────────────────


async def test_same_definition_same_hash(open_journal: Open, rows: Rows) -> None:
    """A definition has one hash and one row for every call and executor; a changed definition has another hash."""
    one, other = open_journal(), open_journal()

    hashes = [
        await one.store_definition(WORKFLOW),
        await other.store_definition(WORKFLOW),
        await one.store_definition(WORKFLOW),
        await one.store_definition(dataclasses.replace(WORKFLOW, settings={"memory": 256})),
        await other.store_definition(dataclasses.replace(WORKFLOW, name="Other")),
    ]

    assert hashes[:3] == [DEFINITION] * 3
    assert len(set(hashes)) == 3
    assert WORKFLOW.version == DEFINITION[:12]
    assert len(rows(f"select 1 from definitions where hash = '{DEFINITION}' and workflow = 'Greet'")) == 1


async def test_accept_twice_is_refused(open_journal: Open) -> None:
    """A second run with the same id is refused, and the first run is unchanged."""
    one, other = open_journal(), open_journal()

    assert await one.accept_run(new_run())
    assert not await one.accept_run(new_run())
    assert not await other.accept_run(new_run(external_user_id="ada"))

    assert (await load(one)).external_user is None
    assert await one.append_step(FIRST, step_row(0, "one"))


async def test_second_run_with_a_dedupe_key_is_refused(open_journal: Open) -> None:
    """Of the runs with one dedupe key, every executor accepts only the first, in a queue too; other keys do not count."""
    one, other = open_journal(), open_journal()

    assert await one.accept_run(new_run("first", dedupe_key="key"))
    assert not await one.accept_run(new_run("second", dedupe_key="key"))
    assert not await other.accept_run(new_run("third", dedupe_key="key", queue="mail"))
    assert await one.finish(Claim.first("first"), "success", OUTPUT)
    assert not await other.accept_run(new_run("fourth", dedupe_key="key"))
    assert [await other.find_run_id(key) for key in ("key", "other")] == ["first", None]
    assert [await one.accept_run(new_run(f"run {key}", dedupe_key=key)) for key in ("other", None)] == [True, True]

    assert [await one.get_execution(run_id) for run_id in ("second", "third", "fourth")] == [None] * 3


async def test_run_records_where_it_comes_from(open_journal: Open, rows: Rows) -> None:
    """A run's row has its executor's origin, its parent, its workflow's public id and its dedupe key."""
    await open_journal("notebook").accept_run(new_run(parent="caller", workflow_id="p_abc", dedupe_key="key"))

    assert rows("select origin, parent, workflow_id, dedupe_key from runs") == [("notebook", "caller", "p_abc", "key")]


async def test_claimed_run_has_everything_that_was_accepted(journal: Journal) -> None:
    """A claimed run has its definition, event, request, user, environment and times as they were accepted."""
    run = new_run(queue="mail", request=b"sealed\0", external_user_id="ada", environment="production", created=5.0)
    await journal.accept_run(run)

    claimed = await journal.claim("run")

    assert claimed is not None
    assert WORKFLOW.from_versioned_content(json.loads(claimed.definition)) == WORKFLOW
    assert (claimed.claim, claimed.trace_id, claimed.event, claimed.request) == (
        FIRST,
        "trace-run",
        run.event,
        b"sealed\0",
    )
    assert (claimed.external_user_id, claimed.environment, claimed.created) == ("ada", "production", 5.0)
    assert (claimed.steps, claimed.waits, claimed.was_paused, claimed.sent_runs) == ((), (), False, frozenset())


# ── refused writes ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_same_step_twice_is_refused(journal: Journal) -> None:
    """A second row of a step is refused, at another position too; the first result stays."""
    await journal.accept_run(new_run())
    await journal.append_step(FIRST, step_row(0, "one"))

    assert not await journal.append_step(FIRST, step_row(0, "one", encode_step(StepResult("one", "error"))))
    assert not await journal.append_step(FIRST, step_row(1, "one"))

    assert await recorded_steps(journal) == ["one"]


@pytest.mark.parametrize("fence", [0, 2])
@every_write
async def test_wrong_fence_is_refused(journal: Journal, write: Write, fence: int) -> None:
    """A write with another fence is refused and changes nothing."""
    await journal.accept_run(new_run())

    assert not await write(journal, Claim("run", fence))

    assert await status(journal) == "executing"
    assert await recorded_steps(journal) == []


@every_write
async def test_write_to_an_unknown_run_is_refused(journal: Journal, write: Write, rows: Rows) -> None:
    """A write to an unknown run is refused and leaves no row."""
    assert not await write(journal, FIRST)

    assert rows("select run_id from steps union all select run_id from waits union all select run_id from outbox") == []


async def test_unknown_run_is_not_found(journal: Journal) -> None:
    """An unknown run cannot be resumed, cancelled, claimed or read."""
    assert await journal.resolve_wait(KEY, "resumed") == "late"
    assert await journal.resolve_wait(KEY, "cancelled") == "late"
    assert not await journal.cancel("run")
    assert await journal.claim("run") is None
    assert await journal.get_execution("run") is None
    assert await journal.load_run("run") is None
    assert await journal.find_cancelled(["run"]) == []


@every_write
async def test_another_owner_is_refused(open_journal: Open, write: Write, rows: Rows) -> None:
    """A write of an executor that does not own the run is refused, even with the right fence."""
    owner, other = open_journal(), open_journal()
    await owner.accept_run(new_run())

    assert not await write(other, FIRST)

    assert rows("select run_id from waits union all select run_id from outbox") == []
    assert await owner.append_step(FIRST, step_row(0, "one"))


@every_write
@pytest.mark.parametrize("end", ["success", "error", "exited", "cancelled"])
async def test_finished_run_refuses_writes(journal: Journal, write: Write, end: FinalStatus) -> None:
    """A finished run accepts no step, no pause and no second end."""
    await journal.accept_run(new_run())
    assert await journal.finish(FIRST, end, OUTPUT)

    assert not await write(journal, FIRST)

    assert await status(journal) == end


@every_write
async def test_paused_run_refuses_writes(journal: Journal, write: Write) -> None:
    """A paused run has no owner: a write and a second pause are refused."""
    await pause(journal)

    assert not await write(journal, FIRST)

    assert await status(journal) == "paused"


@every_write
async def test_cancelled_run_refuses_writes(open_journal: Open, write: Write) -> None:
    """Every executor can cancel an unfinished run once; the owner's next write is refused."""
    owner, other = open_journal(), open_journal()
    await owner.accept_run(new_run())

    assert await other.cancel("run")

    assert not await write(owner, FIRST)
    assert not await other.cancel("run")
    assert await status(owner) == "cancelled"


@pytest.mark.parametrize("state", ["queued", "paused", "woken", "executing"])
async def test_every_unfinished_run_can_be_cancelled(journal: Journal, state: str) -> None:
    """A run that waits, is paused or runs ends as cancelled, with the reason, and is never claimed."""
    await journal.accept_run(new_run(queue="mail" if state == "queued" else None))
    if state in ("paused", "woken"):
        await journal.park(FIRST, wait_row(wake_at=0.0))
    if state == "woken":
        await journal.wake_due()

    assert await journal.cancel("run")

    execution = await load(journal)
    assert execution.error is not None
    assert (execution.status, execution.error.code) == ("cancelled", "cancelled")
    assert execution.finished_at == "2026-01-01T00:00:00.000Z"
    assert await journal.claim("run") is None
    assert await journal.wake_due() == 0


async def test_find_cancelled_returns_only_cancelled_runs(journal: Journal) -> None:
    """Of the runs of an executor, those that someone cancelled are found."""
    for run_id in ("a", "b", "c"):
        await journal.accept_run(new_run(run_id))
    await journal.cancel("b")
    await journal.finish(Claim.first("c"), "error", OUTPUT)

    assert await journal.find_cancelled(["c", "b", "a", "unknown"]) == ["b"]
    assert await journal.find_cancelled(["b"]) == ["b"]
    assert await journal.find_cancelled([]) == []


async def test_each_of_many_runs_is_looked_up(journal: Journal) -> None:
    """Of more runs than one query names, each cancelled one is found."""
    cancelled = ["run0", "run199", "run200", "run399", "run400"]
    for run_id in cancelled:
        await journal.accept_run(new_run(run_id))
        await journal.cancel(run_id)

    assert sorted(await journal.find_cancelled([f"run{number}" for number in range(402)])) == sorted(cancelled)


# ── dead executors ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_living_executor_is_not_reaped(open_journal: Open, clock: ManualClock) -> None:
    """An executor that lives keeps its runs, however long it is silent; an executor never reaps itself."""
    owner, reaper = open_journal("serve"), open_journal()
    await owner.accept_run(new_run())
    clock.advance(1e9)

    assert (await reaper.reap_dead(), await owner.reap_dead()) == (0, 0)

    assert await owner.append_step(FIRST, step_row(0, "one"))


async def test_dead_executor_is_valid_until_it_is_reaped(open_journal: Open, database: Database) -> None:
    """An executor that is taken for dead owns its runs until another executor reaps it."""
    owner = open_journal("serve")
    await owner.accept_run(new_run())
    database.kill(owner)

    assert await owner.append_step(FIRST, step_row(0, "one"))


@every_write
async def test_reaped_executor_is_refused(open_journal: Open, database: Database, write: Write) -> None:
    """A reaped executor cannot write, not even with the current fence."""
    owner, reaper = open_journal("serve"), open_journal()
    await owner.accept_run(new_run())
    database.kill(owner)

    assert await reaper.reap_dead() == 1
    run = await reaper.claim("run")

    assert run is not None
    assert not await write(owner, FIRST)
    assert not await write(owner, run.claim)
    assert await recorded_steps(reaper) == []
    assert await status(reaper) == "executing"


async def test_reaped_executor_gets_no_run(open_journal: Open, database: Database) -> None:
    """A reaped executor can neither accept nor claim a run."""
    owner, reaper = open_journal("serve"), open_journal()
    await owner.accept_run(new_run())
    database.kill(owner)
    await reaper.reap_dead()

    with pytest.raises(ExecutorLostError):
        await owner.accept_run(new_run("another"))
    assert await owner.claim("run") is None
    assert await owner.claim_next(limit=5) == []


async def test_served_run_of_a_dead_executor_continues(open_journal: Open, database: Database) -> None:
    """A served run of a dead executor is ready: attempt + 1, the next fence with its claim, and its recorded steps."""
    owner = open_journal("serve")
    await owner.store_definition(WORKFLOW)
    await owner.accept_run(new_run(external_user_id="ada"))
    await owner.append_step(FIRST, step_row(0, "one"))
    database.kill(owner)
    successor = open_journal("serve")

    assert await successor.reap_dead() == 1
    ready = await status(successor)
    (run,) = await successor.claim_next()

    assert ready == "resumed"
    assert (run.claim, run.external_user_id, run.steps) == (Claim("run", 2, attempt=2), "ada", (step_row(0, "one"),))
    assert run.origin == "serve"
    assert (await load(successor)).attempt == 2
    assert await successor.append_step(run.claim, step_row(1, "two", encode_step(StepResult("two", "success"))))
    assert await recorded_steps(successor) == ["one", "two"]


@pytest.mark.parametrize("origin", ["notebook", "terminal", "python"])
async def test_other_run_of_a_dead_executor_is_interrupted(
    open_journal: Open, database: Database, clock: ManualClock, origin: str
) -> None:
    """A run whose user saw its process end becomes an error with this reason; its steps stay, and it is never continued."""
    owner, reaper = open_journal(origin), open_journal("serve")
    await owner.store_definition(WORKFLOW)
    await owner.accept_run(new_run())
    await owner.append_step(FIRST, step_row(0, "one"))
    database.kill(owner)
    clock.advance(2)

    assert await reaper.reap_dead() == 0

    execution = await load(reaper)
    assert execution.error is not None
    assert (execution.status, execution.error.code, execution.attempt) == ("error", "interrupted", 1)
    assert execution.finished_at == "2026-01-01T00:00:02.000Z"
    assert await recorded_steps(reaper) == ["one"]
    assert await reaper.claim("run") is None
    assert not await owner.append_step(FIRST, step_row(1, "two"))


async def test_executors_of_several_origins_are_reaped_together(open_journal: Open, database: Database) -> None:
    """One call reaps every dead executor, each by the rule of its origin, and leaves the living ones."""
    owners = {origin: open_journal(origin) for origin in ("serve", "notebook", "terminal")}
    living = open_journal("python")
    for origin, owner in {**owners, "python": living}.items():
        await owner.accept_run(new_run(origin))
    for owner in owners.values():
        database.kill(owner)

    assert await living.reap_dead() == 1

    found = {origin: await status(living, origin) for origin in (*owners, "python")}
    assert found == {"serve": "resumed", "notebook": "error", "terminal": "error", "python": "executing"}


async def test_paused_run_of_a_dead_executor_stays_paused(open_journal: Open, database: Database) -> None:
    """A paused run has no owner, so the end of its process changes nothing."""
    owner, reaper = open_journal(), open_journal()
    await pause(owner)
    database.kill(owner)

    assert await reaper.reap_dead() == 0

    assert await status(reaper) == "paused"
    assert await reaper.resolve_wait(KEY, "resumed") == "done"


async def test_run_claimed_by_another_origin_is_continued_by_its_own(open_journal: Open, database: Database) -> None:
    """The run's origin decides, not that of the executor that owned the run last."""
    owner, helper = open_journal("serve"), open_journal("notebook")
    await owner.accept_run(new_run(queue="mail"))
    assert await helper.claim("run") is not None
    database.kill(helper)

    assert await owner.reap_dead() == 1

    assert [run.claim for run in await owner.claim_next("mail")] == [Claim("run", 2, attempt=2)]


async def test_two_executors_reap_a_run_once(open_journal: Open, database: Database) -> None:
    """If two executors reap at the same time, or one reaps again, a run gets one more attempt."""
    owner, *reapers = open_journal("serve"), open_journal(), open_journal()
    await owner.accept_run(new_run())
    database.kill(owner)

    counts = await asyncio.gather(*(reaper.reap_dead() for reaper in reapers))

    assert sorted(counts) == [0, 1]
    assert await reapers[0].reap_dead() == 0
    assert (await load(reapers[0])).attempt == 2


async def let_servers_die(
    open_journal: Open, database: Database, begun: Begun, times: int, *, step_at: int | None = None
) -> ClaimedRun:
    """Let so many servers die that are as far as *begun* with the run, which another one claims at last; one records a step before."""
    server = open_journal("serve")
    await server.accept_run(new_run(begun=Begun.NO))
    claim = FIRST
    for number in range(times):
        assert await server.set_begun(claim, begun)
        if number == step_at:
            assert await server.append_step(claim, step_row(0, "one"))
        database.kill(server)
        server = open_journal("serve")
        assert await server.reap_dead() == 1
        (claimed,) = await server.claim_ready(9)
        claim = claimed.claim
    return claimed


@pytest.mark.parametrize(
    ("begun", "times", "expected"),
    [
        (Begun.NO, 12, (1, False, False)),
        (Begun.YES, MAX_INTERRUPTIONS - 1, (MAX_INTERRUPTIONS, False, False)),
        (Begun.YES, MAX_INTERRUPTIONS, (MAX_INTERRUPTIONS + 1, True, False)),
        (Begun.YES, 12, (13, True, False)),
        (Begun.ALONE, MAX_DEATHS_ALONE - 1, (MAX_DEATHS_ALONE, True, False)),
        (Begun.ALONE, MAX_DEATHS_ALONE, (MAX_DEATHS_ALONE + 1, True, True)),
    ],
)
async def test_only_deaths_of_begun_runs_count(
    open_journal: Open, database: Database, begun: Begun, times: int, expected: tuple[int, bool, bool]
) -> None:
    """A run that waits is at its first attempt for ever; one that was interrupted often must be alone; deaths alone give it up."""
    claimed = await let_servers_die(open_journal, database, begun, times)

    assert (claimed.claim.attempt, claimed.must_be_alone, claimed.is_given_up) == expected


async def test_a_recorded_step_ends_the_count(open_journal: Open, database: Database) -> None:
    """A run that got further begins anew: only deaths since its last recorded step count."""
    claimed = await let_servers_die(open_journal, database, Begun.ALONE, 9, step_at=5)

    assert (claimed.interruptions, claimed.deaths_alone, claimed.claim.attempt) == (4, 4, 10)


async def test_a_pause_ends_the_count(open_journal: Open, database: Database) -> None:
    """A run that has paused since begins anew, too."""
    claimed = await let_servers_die(open_journal, database, Begun.ALONE, 4)
    server = open_journal("notebook")
    database.execute(f"update runs set owner = '{server.executor_id}'")
    assert await server.park(claimed.claim, wait_row())
    await server.resolve_wait(KEY, "resumed")

    again = await server.claim("run")

    assert again is not None
    assert (again.interruptions, again.claim.attempt) == (0, 5)


@pytest.mark.parametrize("begun", [Begun.YES, Begun.ALONE])
async def test_an_orderly_release_does_not_count(open_journal: Open, begun: Begun) -> None:
    """A run that servers give back is never given up, and its step is repeated as the next attempt."""
    server = open_journal("serve")
    await server.accept_run(new_run())
    claim = FIRST
    for _ in range(12):
        await server.set_begun(claim, begun)
        assert await server.release(claim)
        (claimed,) = await server.claim_ready(9)
        claim = claimed.claim

    assert (claimed.claim.attempt, claimed.interruptions, claimed.must_be_alone) == (13, 0, False)


async def test_the_kill_of_a_server_that_ends_does_not_count(
    open_journal: Open, database: Database, rows: Rows
) -> None:
    """If a server is killed because it does not end in time, no run is to blame."""
    server = open_journal("serve")
    await server.accept_run(new_run(begun=Begun.ALONE))
    await server.announce_end()
    database.kill(server)

    assert await open_journal("serve").reap_dead() == 1
    assert rows("select attempt, begun from runs") == [(2, 0)]
    assert rows("select * from interruptions") == []


async def test_claims_begin_as_far_as_there_are_places(journal: Journal, clock: ManualClock) -> None:
    """Of the runs that are claimed together, those have begun for which there is a place; one that was interrupted waits."""
    for number in range(3):
        await journal.accept_run(new_run(f"run{number}", queue="mail"))
        clock.advance(1)
    (first,) = await journal.claim_next("mail")
    await journal.release(first.claim)

    claims = await journal.claim_ready(3, begin=2)

    assert [(each.claim.run_id, each.begun) for each in claims] == [
        ("run0", Begun.NO),
        ("run1", Begun.YES),
        ("run2", Begun.NO),
    ]


async def test_owned_runs_are_found(open_journal: Open) -> None:
    """An executor finds the runs that it owns, with their claims; ended and others' runs are left out."""
    journal, other = open_journal("serve"), open_journal()
    for name in ("run", "ended"):
        await journal.accept_run(new_run(name))
    await other.accept_run(new_run("of another"))
    await journal.finish(Claim.first("ended"), "success", encode_output())

    assert await journal.find_owned() == [FIRST]


async def test_run_of_a_closed_executor_is_ready(open_journal: Open, rows: Rows) -> None:
    """Runs that an executor leaves when it is closed are ready at once, and were not interrupted by a death."""
    owner = open_journal("serve")
    await owner.accept_run(new_run())
    await owner.close()

    assert await status(open_journal("serve")) == "resumed"
    assert rows("select * from interruptions") == []


@ONLY_SQLITE
async def test_second_server_is_refused(open_journal: Open) -> None:
    """One executor of the origin `serve` opens a file; the message explains how to serve more workflows."""
    first = open_journal("serve")

    with pytest.raises(RequestError, match=r"Another `pdkernel serve` serves the project in .*journal\.db") as refused:
        open_journal("serve")

    assert refused.value.fix == "Stop the other server, or serve its workflows with it: pdkernel serve SOURCE SOURCE"
    assert await first.accept_run(new_run())


@ONLY_SQLITE
async def test_refused_server_leaves_no_executor(open_journal: Open, rows: Rows) -> None:
    """A server that is refused is not an executor, and does not end the first server's right."""
    first = open_journal("serve")
    for _ in range(2):
        with pytest.raises(RequestError):
            open_journal("serve")

    assert rows("select id, origin from executors") == [(first.executor_id, "serve")]


async def test_server_follows_a_closed_or_dead_server(open_journal: Open, database: Database) -> None:
    """The next server is accepted after the first one was closed, and after the second one died."""
    await open_journal("serve").close()
    database.kill(open_journal("serve"))

    assert await open_journal("serve").accept_run(new_run())


# ── pauses ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_resumed_run_is_claimed_with_the_next_fence(journal: Journal) -> None:
    """A resumed run is ready; the first claim gets it with the next fence."""
    await pause(journal)

    assert await journal.resolve_wait(KEY, "resumed", b'{"answer":42}') == "done"
    ready = await status(journal)
    claims = [await journal.claim("run"), await journal.claim("run")]

    assert ready == "resumed"
    assert [run and run.claim for run in claims] == [SECOND, None]
    assert not await journal.append_step(FIRST, step_row(0, "one"))
    assert await journal.append_step(SECOND, step_row(0, "one"))


async def test_claimed_run_has_its_pause(journal: Journal) -> None:
    """A claimed run has the wait as it was written, with the outcome and the payload of the call that ended it."""
    await journal.accept_run(new_run())
    wait = wait_row(3, kind="suspend", number=2, wake_at=9e9)
    await journal.park(FIRST, wait)
    await journal.resolve_wait(replace(KEY, number=2), "resumed", b"\0payload")

    run = await journal.claim("run")

    assert run is not None
    assert run.waits == (replace(wait, outcome="resumed", payload=b"\0payload"),)
    assert (run.was_paused, run.steps) == (True, ())


async def test_claimed_run_has_only_pauses_of_unrecorded_steps(journal: Journal) -> None:
    """The wait of a recorded step is left out; the run still shows that it was paused."""
    await pause(journal)
    await journal.resolve_wait(KEY, "resumed")
    await journal.claim("run")
    await journal.append_step(SECOND, step_row(0, "one"))
    await journal.release(SECOND)

    run = await journal.claim("run")

    assert run is not None
    assert ([step.name for step in run.steps], run.waits, run.was_paused) == (["one"], (), True)


async def test_step_of_another_pass_does_not_hide_a_pause(journal: Journal) -> None:
    """The first pass of a loop's step is recorded; the pause of its second pass is returned by the claim."""
    await journal.accept_run(new_run())
    await journal.append_step(FIRST, StepRow(0, "one", STEP, "one", iteration=1))
    await journal.park(FIRST, replace(wait_row(1, wake_at=0.0), iteration=2))
    await journal.wake_due()

    run = await journal.claim("run")

    assert run is not None
    assert [(wait.path, wait.iteration, wait.outcome) for wait in run.waits] == [("one", 2, "timeout")]


async def test_run_that_never_paused_says_so(journal: Journal) -> None:
    """A released run without a pause was not paused, even if someone resumed a step early."""
    await journal.accept_run(new_run())
    await journal.resolve_wait(KEY, "resumed")
    await journal.release(FIRST)

    run = await journal.claim("run")

    assert run is not None
    assert (run.was_paused, run.waits) == (False, ())


async def test_steps_are_claimed_in_order_with_their_carry(journal: Journal) -> None:
    """Recorded steps come in the order of the run, each with its carry and the attempt that recorded it."""
    await journal.accept_run(new_run())
    second = replace(step_row(1, "two"), carry=b"\0two")
    await journal.append_step(FIRST, second)
    await journal.append_step(FIRST, step_row(0, "one"))
    await journal.release(FIRST)
    run = await journal.claim("run")
    assert run is not None
    await journal.set_begun(run.claim, Begun.YES)
    await journal.append_step(run.claim, step_row(2, "three"))
    await journal.release(run.claim)

    again = await journal.claim("run")

    assert again is not None
    assert again.claim == Claim("run", 3, attempt=3)
    assert again.steps == (step_row(0, "one"), second, replace(step_row(2, "three"), attempt=2))


async def test_paused_run_shows_its_step(journal: Journal) -> None:
    """The record of a paused run shows the result of its step so far; the step is not recorded yet."""
    await pause(journal)

    execution = await load(journal)
    loaded = await journal.load_run("run")

    assert (execution.status, execution.step("one").exports) == ("paused", {"$return_value": "before"})
    assert loaded is not None
    assert loaded[0] == execution
    assert (loaded[1].steps, [wait.path for wait in loaded[1].waits]) == ((), ["one"])


async def test_recorded_step_replaces_its_pause(journal: Journal) -> None:
    """After the pause, the record shows the step's own result, once."""
    await pause(journal)
    await journal.resolve_wait(KEY, "resumed")
    await journal.claim("run")
    after = encode_step(StepResult("one", "success", exports={"$return_value": "after"}))
    await journal.append_step(SECOND, step_row(0, "one", after))

    execution = await load(journal)

    assert [(step.name, step.exports) for step in execution.steps if step.exports] == [
        ("one", {"$return_value": "after"})
    ]


async def test_cancelled_pause_still_shows_its_step(journal: Journal) -> None:
    """A run that was cancelled in its pause shows the step's result so far, and no pause."""
    await pause(journal)
    await journal.cancel("run")

    execution = await load(journal)
    assert (execution.step("one").exports, execution.pause) == ({"$return_value": "before"}, None)


async def test_paused_run_is_woken_once(journal: Journal, clock: ManualClock) -> None:
    """Of a timer and two calls exactly one ends a pause."""
    await pause(journal, wake_at=clock.now().timestamp())

    resumed, woken, cancelled = await asyncio.gather(
        journal.resolve_wait(KEY, "resumed"), journal.wake_due(), journal.resolve_wait(KEY, "cancelled")
    )

    assert sorted([resumed == "done", woken == 1, cancelled == "done"]) == [False, False, True]


@pytest.mark.parametrize("second", ["resumed", "cancelled"])
async def test_second_call_is_late(journal: Journal, second: WaitOutcome) -> None:
    """After a call has resumed the run, every further call is late and the first payload stays."""
    await pause(journal)

    assert await journal.resolve_wait(KEY, "resumed", b"first") == "done"
    assert await journal.resolve_wait(KEY, second, b"second") == "late"

    run = await journal.claim("run")
    assert run is not None
    assert [(wait.outcome, wait.payload) for wait in run.waits] == [("resumed", b"first")]
    assert await journal.resolve_wait(KEY, second) == "late"


@pytest.mark.parametrize("outcome", ["resumed", "cancelled"])
@pytest.mark.parametrize(
    "key",
    [
        WaitKey("run", "one", number=0),
        WaitKey("run", "one", number=1),
        WaitKey("run", "one", number=3),
        WaitKey("run", "two", number=2),
        WaitKey("run", "one", iteration=2, number=2),
        WaitKey("other", "one", number=2),
    ],
    ids=str,
)
async def test_call_for_another_pause_is_late(journal: Journal, key: WaitKey, outcome: WaitOutcome) -> None:
    """A call for an earlier or a later pause, another step, pass or run does not end the pause."""
    await journal.accept_run(new_run())
    await journal.park(FIRST, wait_row(kind="rerun", number=2))

    assert await journal.resolve_wait(key, outcome) == "late"

    assert await status(journal) == "paused"


@pytest.mark.parametrize("end", ["success", "cancelled"])
@pytest.mark.parametrize("outcome", ["resumed", "cancelled"])
async def test_call_after_the_end_is_late(journal: Journal, outcome: WaitOutcome, end: FinalStatus) -> None:
    """A call for a run that has ended is late and changes nothing, whether or not the step paused."""
    await pause(journal)
    await journal.resolve_wait(KEY, "resumed")
    await journal.claim("run")
    await journal.finish(SECOND, end, OUTPUT)

    assert await journal.resolve_wait(KEY, outcome) == "late"
    assert await journal.resolve_wait(WaitKey("run", "two"), outcome) == "late"

    assert await status(journal) == end


@pytest.mark.parametrize("outcome", ["resumed", "cancelled"])
async def test_call_for_a_recorded_step_is_late(journal: Journal, outcome: WaitOutcome) -> None:
    """A step that ended without a pause cannot be resumed, and its key cannot cancel the run."""
    await journal.accept_run(new_run())
    await journal.append_step(FIRST, step_row(0, "one"))

    assert await journal.resolve_wait(KEY, outcome) == "late"

    assert await status(journal) == "executing"


async def test_early_call_counts_when_the_step_pauses(journal: Journal) -> None:
    """A step that was resumed before its pause is ready at once, with the payload; its timer does not count."""
    await journal.accept_run(new_run())

    early = await journal.resolve_wait(KEY, "resumed", b"payload")
    running = await status(journal)
    assert await journal.park(FIRST, wait_row(kind="suspend", wake_at=0.0))

    assert (early, running, await status(journal)) == ("early", "executing", "resumed")
    assert await journal.wake_due() == 0
    run = await journal.claim("run")
    assert run is not None
    assert run.waits == (replace(wait_row(kind="suspend", wake_at=0.0), outcome="resumed", payload=b"payload"),)


async def test_early_call_keeps_the_run_running(journal: Journal) -> None:
    """A step that was resumed early may end without a pause; pauses are numbered from one, so there is no pause 0 to end."""
    await journal.accept_run(new_run())
    assert await journal.resolve_wait(replace(KEY, number=0), "resumed") == "late"
    await journal.resolve_wait(KEY, "resumed")

    assert await journal.finish(FIRST, "success", OUTPUT, last_step=step_row(0, "one"))

    assert await status(journal) == "success"


@pytest.mark.parametrize("second", ["resumed", "cancelled"])
async def test_second_early_call_is_late(journal: Journal, second: WaitOutcome) -> None:
    """The first early call wins."""
    await journal.accept_run(new_run())
    await journal.resolve_wait(KEY, "resumed", b"first")

    assert await journal.resolve_wait(KEY, second, b"second") == "late"

    await journal.park(FIRST, wait_row())
    run = await journal.claim("run")
    assert run is not None
    assert [wait.payload for wait in run.waits] == [b"first"]


async def test_early_call_for_another_number_does_not_count(journal: Journal) -> None:
    """A step that reruns pauses as usual if the early call was for a later pause of the step."""
    await journal.accept_run(new_run())
    assert await journal.resolve_wait(replace(KEY, number=2), "resumed", b"second") == "early"
    await journal.park(FIRST, wait_row(kind="rerun", wake_at=0.0))
    paused = await status(journal)
    await journal.wake_due()
    await journal.claim("run")

    await journal.park(SECOND, wait_row(kind="rerun", number=2))

    assert (paused, await status(journal)) == ("paused", "resumed")


async def test_early_call_survives_the_death_of_its_executor(open_journal: Open, database: Database) -> None:
    """The next attempt of a step that was resumed early does not pause."""
    owner = open_journal("serve")
    await owner.accept_run(new_run())
    await owner.resolve_wait(KEY, "resumed", b"payload")
    database.kill(owner)
    successor = open_journal("serve")
    await successor.reap_dead()
    (run,) = await successor.claim_next()

    await successor.park(run.claim, wait_row())

    assert await status(successor) == "resumed"


async def test_call_between_two_attempts_is_early(journal: Journal) -> None:
    """A run that waits for its next attempt can be resumed: the step pauses again with the same key."""
    await journal.accept_run(new_run())
    await journal.release(FIRST)

    assert await journal.resolve_wait(KEY, "resumed", b"payload") == "early"

    await journal.claim("run")
    await journal.park(Claim("run", 2, attempt=2), wait_row())
    assert await status(journal) == "resumed"


async def test_early_call_keeps_the_steps_earlier_pause(journal: Journal) -> None:
    """An early call for the second pause of a step leaves the first one: a next attempt continues after it."""
    await journal.accept_run(new_run())
    await journal.park(FIRST, wait_row(kind="rerun", wake_at=0.0))
    await journal.wake_due()
    await journal.claim("run")
    assert await journal.resolve_wait(replace(KEY, number=2), "resumed", b"second") == "early"
    await journal.release(SECOND)

    run = await journal.claim("run")

    assert run is not None
    assert run.waits == (replace(wait_row(kind="rerun", wake_at=0.0), outcome="timeout"),)
    assert (await load(journal)).step("one").exports == {"$return_value": "before"}
    await journal.park(run.claim, wait_row(kind="rerun", number=2, wake_at=9e9))
    assert await status(journal) == "resumed"


async def test_next_pause_of_a_step_replaces_its_last(journal: Journal, rows: Rows) -> None:
    """A step that reruns has one wait, with the number and the data of its last pause."""
    await journal.accept_run(new_run())
    await journal.park(FIRST, wait_row(kind="rerun", wake_at=0.0))
    await journal.wake_due()
    await journal.claim("run")
    data = encode_step(StepResult("one", "success", exports={"$return_value": "second"}))
    await journal.park(SECOND, wait_row(kind="rerun", number=2, data=data))

    assert rows("select number, outcome, data from waits") == [(2, None, data)]
    assert (await load(journal)).step("one").exports == {"$return_value": "second"}
    assert await journal.resolve_wait(replace(KEY, number=2), "resumed") == "done"


# ── timers ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_timer_wakes_due_runs(journal: Journal, clock: ManualClock) -> None:
    """A timer wakes only runs that are due."""
    now = clock.now().timestamp()
    for number, wake_at in enumerate([now + 1, now + 2, now + 60, None]):
        await pause(journal, f"run{number}", wake_at=wake_at)

    clock.advance(2)
    woken = await journal.wake_due()

    assert woken == 2
    assert [await status(journal, f"run{number}") for number in range(4)] == ["resumed", "resumed", "paused", "paused"]


async def test_timer_wakes_the_earliest_runs_first(journal: Journal, clock: ManualClock) -> None:
    """If more runs are due than the limit, the earliest are woken."""
    now = clock.now().timestamp()
    for run_id, wake_at in (("late", now - 1), ("later", now), ("latest", now - 5)):
        await pause(journal, run_id, wake_at=wake_at)

    assert await journal.wake_due(limit=1) == 1

    assert await status(journal, "latest") == "resumed"


@pytest.mark.parametrize(("outcome", "ends"), [("resumed", "resumed"), ("cancelled", "cancelled")])
async def test_first_decision_is_recorded(journal: Journal, outcome: WaitOutcome, ends: str) -> None:
    """The decision of the call that ends a pause is in the record, and that of a later call is not; it is removed with the run."""
    await pause(journal, kind="suspend")
    first, second = NewDecision("approved", "ada", "Fine \0 ok"), NewDecision("rejected", "bob")

    resolutions = [await journal.resolve_wait(KEY, outcome, decision=each) for each in (first, second)]

    execution = await load(journal)
    assert (resolutions, execution.status) == (["done", "late"], ends)
    assert execution.decisions == (Decision("approved", "ada", "2026-01-01T00:00:00.000Z", "one", "Fine \ufffd ok"),)
    await journal.cancel("run")
    await journal.remove_runs(["run"])
    assert await journal.accept_run(new_run("run"))
    assert (await load(journal)).decisions == ()


async def test_decision_before_the_pause_is_recorded(journal: Journal) -> None:
    """A decision that arrives while its step still runs belongs to the run, also for the executor that continues it."""
    assert await journal.accept_run(new_run("run"))
    early = await journal.resolve_wait(KEY, "resumed", decision=NewDecision("resumed", "resume_url"))
    await journal.park(FIRST, wait_row(kind="suspend"))
    run = await journal.claim("run")

    assert (early, run is not None and [each.by for each in run.decisions]) == ("early", ["resume_url"])


async def test_cancellation_names_who_decided(journal: Journal) -> None:
    """The decision to cancel a run is about the whole run; a second one is not recorded."""
    assert await journal.accept_run(new_run("run"))
    done = [await journal.cancel("run", decision=NewDecision("cancelled", by)) for by in ("ada", "bob")]
    cancelled = await load(journal)

    assert (done, [(each.by, each.step) for each in cancelled.decisions]) == ([True, False], [("ada", None)])
    assert cancelled.error is not None
    assert cancelled.error.code == "cancelled"


@pytest.mark.parametrize(
    ("decision", "code"), [(None, "cancelled"), (NewDecision("rejected", "ada"), "rejected")], ids=["call", "rejection"]
)
@pytest.mark.parametrize("is_paused", [True, False], ids=["paused", "before the pause"])
async def test_a_call_that_cancels_ends_the_run(
    journal: Journal, decision: NewDecision | None, code: str, is_paused: bool
) -> None:
    """A call can cancel a run in its pause, or before it, with an error that says whether it was rejected; later calls are late."""
    await journal.accept_run(new_run())
    if is_paused:
        await journal.park(FIRST, wait_row(kind="suspend"))

    assert await journal.resolve_wait(KEY, "cancelled", decision=decision) == "done"

    execution = await load(journal)
    assert execution.error is not None
    assert (execution.status, execution.error.code) == ("cancelled", code)
    assert not await journal.park(FIRST, wait_row())
    assert [await journal.resolve_wait(KEY, outcome) for outcome in ("resumed", "cancelled")] == ["late", "late"]


@pytest.mark.parametrize("kind", ["delay", "rerun"])
async def test_due_pause_ends_with_the_outcome_timeout(journal: Journal, kind: WaitKind) -> None:
    """A delay, and a step that reruns, go on when their time has come; a call after that is late."""
    await pause(journal, kind=kind, wake_at=0.0)

    assert [await journal.wake_due(), await journal.wake_due()] == [1, 0]

    assert await journal.resolve_wait(KEY, "resumed", b"late") == "late"
    run = await journal.claim("run")
    assert run is not None
    assert [(wait.kind, wait.outcome, wait.payload) for wait in run.waits] == [(kind, "timeout", None)]


async def test_expired_suspend_is_cancelled(journal: Journal, rows: Rows) -> None:
    """A suspended run that is not resumed ends as cancelled when its time has come, with the reason."""
    await pause(journal, kind="suspend", wake_at=0.0)

    assert await journal.wake_due() == 1

    execution = await load(journal)
    assert execution.error is not None
    assert (execution.status, execution.error.code) == ("cancelled", "wait_expired")
    assert execution.finished_at == "2026-01-01T00:00:00.000Z"
    assert rows("select outcome from waits") == [("timeout",)]
    assert await journal.resolve_wait(KEY, "resumed") == "late"
    assert await journal.claim("run") is None


async def test_resumed_suspend_does_not_expire(journal: Journal, clock: ManualClock) -> None:
    """A suspended run that was resumed in time is not cancelled, even if it is claimed late."""
    await pause(journal, kind="suspend", wake_at=clock.now().timestamp() + 1)
    await journal.resolve_wait(KEY, "resumed")
    clock.advance(60)

    assert await journal.wake_due() == 0

    assert await status(journal) == "resumed"


async def test_next_wake_is_the_earliest_pause(journal: Journal) -> None:
    """The next wake is that of the earliest timer; pauses without a timer do not count."""
    assert await journal.next_wake() is None
    await pause(journal, "forever")
    without_timer = await journal.next_wake()
    await pause(journal, "late", wake_at=9e9)
    await pause(journal, "early", wake_at=8e9)
    with_timers = await journal.next_wake()
    await journal.cancel("early")

    assert (without_timer, with_timers, await journal.next_wake()) == (None, 8e9, 9e9)


async def test_next_wake_is_now_for_a_ready_run_of_the_origin(open_journal: Open) -> None:
    """A ready run is due at once for executors of its origin; a queued run waits for its queue. Only others count as executors."""
    server, notebook = open_journal("serve"), open_journal("notebook")
    await server.set_queue_limits("mail", max_starts=0, period_s=1)
    await server.accept_run(new_run("queued", queue="mail"))
    queued = await server.next_wake()
    await server.accept_run(new_run())
    await server.release(FIRST)

    assert (queued, await server.next_wake(), await notebook.next_wake()) == (None, 0.0, None)
    found = [await executor.has_executor(origin) for executor in (server, notebook) for origin in ("serve", "notebook")]
    assert found == [False, True, True, False]


# ── claims, queues and release ───────────────────────────────────────────────────────────────────────────────────────


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
    assert not await one.append_step(Claim.first("a"), step_row(0, "one"))
    assert await other.append_step(Claim.first("a"), step_row(0, "one"))


async def test_users_take_turns_in_a_queue(journal: Journal, clock: ManualClock) -> None:
    """Each claim starts the oldest run of the next external user; runs without a user have a turn, too."""
    users = ["bob"] * 4 + ["ada"] * 3 + [None]
    for number, user in enumerate(users):
        clock.advance(1)
        await journal.accept_run(new_run(f"{user}{number}", queue="mail", external_user_id=user))

    one_by_one = [(await journal.claim_next("mail"))[0].claim.run_id for _ in range(3)]
    clock.advance(1)
    await journal.accept_run(new_run("eve", queue="mail", external_user_id="eve"))
    rest = [run.claim.run_id for run in await journal.claim_next("mail", limit=9)]

    assert one_by_one == ["ada4", "bob0", "None7"]
    assert rest == ["ada5", "bob1", "eve", "ada6", "bob2", "bob3"]


async def test_a_user_has_a_share_of_a_queue(journal: Journal) -> None:
    """A user alone fills the queue's size; other users find room then, up to twice the size for all."""
    accepted = {}
    for user in ("ada", "bob", None, "eve"):
        added = [
            await journal.accept_run(new_run(f"{user}{number}", queue="mail", queue_size=4, external_user_id=user))
            for number in range(6)
        ]
        accepted[user] = added.count(True)

    assert accepted == {"ada": 4, "bob": 2, None: 1, "eve": 1}


async def test_claim_leaves_other_queues_unchanged(journal: Journal) -> None:
    """A claim from one queue leaves other queues, and runs without a queue, unchanged."""
    await journal.accept_run(new_run("mail", queue="mail"))
    await pause(journal, "woken")
    await journal.resolve_wait(WaitKey("woken", "one"), "resumed")

    assert [run.claim.run_id for run in await journal.claim_next("other", limit=5)] == []
    assert [run.claim.run_id for run in await journal.claim_next(None, limit=5)] == ["woken"]
    assert [run.claim.run_id for run in await journal.claim_next("mail", limit=5)] == ["mail"]


async def test_claim_next_leaves_runs_of_other_origins(open_journal: Open) -> None:
    """An executor continues the runs of its own origin only."""
    server, notebook = open_journal("serve"), open_journal("notebook")
    await pause(server, "served", wake_at=0.0)
    await pause(notebook, "own", wake_at=0.0)

    assert await notebook.wake_due() == 2

    assert [run.claim.run_id for run in await notebook.claim_next(limit=5)] == ["own"]
    assert [run.claim.run_id for run in await server.claim_next(limit=5)] == ["served"]


async def test_running_run_is_not_claimed(open_journal: Open) -> None:
    """A run that another executor runs cannot be claimed."""
    owner, other = open_journal(), open_journal()
    await owner.accept_run(new_run())

    assert await other.claim("run") is None
    assert await other.claim_next(limit=5) == []


async def test_concurrency_of_a_queue_is_limited(journal: Journal) -> None:
    """A queue with concurrency 2 has two running runs; a pause or an end frees a slot."""
    await journal.set_queue_limits("mail", concurrency=2)
    for number in range(5):
        await journal.accept_run(new_run(f"run{number}", queue="mail"))

    first = await journal.claim_next("mail", limit=5)
    full = await journal.claim_next("mail", limit=5)
    await journal.park(first[0].claim, wait_row())
    await journal.finish(first[1].claim, "success", OUTPUT)
    second = await journal.claim_next("mail", limit=5)

    assert (len(first), len(full), len(second)) == (2, 0, 2)
    await journal.set_queue_limits("mail", concurrency=3)
    assert len(await journal.claim_next("mail", limit=5)) == 1


async def test_a_queue_within_another_keeps_the_limits_of_both(journal: Journal) -> None:
    """At most two runs of the inner queue execute, and at most three of both; the oldest run starts first."""
    await journal.set_queue_limits("work", concurrency=3)
    await journal.set_queue_limits("work/each", concurrency=2, within="work")
    for number in range(5):
        await journal.accept_run(new_run(f"each{number}", queue="work/each", external_user_id=f"user{9 - number}"))
    inner = await journal.claim_next("work/each", limit=9)
    for number in range(3):
        await journal.accept_run(new_run(f"other{number}", queue="work"))
    outer = await journal.claim_next("work", limit=9)
    await journal.finish(inner[0].claim, "success", OUTPUT)
    after = await journal.claim_ready(9)

    assert [run.claim.run_id for run in inner] == ["each0", "each1"]
    assert (len(outer), [run.claim.run_id for run in after]) == (1, ["other1"])
    assert await journal.claim("each2") is None


async def test_starts_of_an_inner_queue_count_for_the_outer_one(journal: Journal, clock: ManualClock) -> None:
    """One start in ten seconds is one of both queues, and the next one of either waits for the end of the period."""
    await journal.set_queue_limits("work", max_starts=1, period_s=10)
    await journal.set_queue_limits("work/each", concurrency=5, within="work")
    for run_id in ("each0", "each1"):
        await journal.accept_run(new_run(run_id, queue="work/each"))
    claimed = await journal.claim_ready(9)
    await journal.record_start("work", claimed[0].claim)
    await journal.finish(claimed[0].claim, "success", OUTPUT)
    wake = await journal.next_wake()
    clock.advance(10.5)

    assert [run.claim.run_id for run in claimed] == ["each0"]
    assert wake == pytest.approx(clock.now().timestamp() - 0.5 + START_MARGIN_S - START_LEAD_S)
    assert [run.claim.run_id for run in await journal.claim_ready(9)] == ["each1"]


async def test_runs_of_an_inner_queue_take_no_place_of_waiting_runs(journal: Journal) -> None:
    """Any number waits there, and the outer queue still has room for its size."""
    await journal.set_queue_limits("work", concurrency=1)
    await journal.set_queue_limits("work/each", concurrency=1, within="work")
    for number in range(5):
        await journal.accept_run(new_run(f"each{number}", queue="work/each"))

    accepted = [await journal.accept_run(new_run(f"other{n}", queue="work", queue_size=2)) for n in range(3)]

    assert accepted == [True, True, False]


async def test_a_batch_counts_its_runs_by_status(journal: Journal) -> None:
    """Of a user with two runs, the newest one is listed; runs of other batches are not."""
    for run_id, user, batch in (("a1", "ada", "b1"), ("b1", "bob", "b1"), ("a2", "ada", "b1"), ("c1", "eve", "b2")):
        await journal.accept_run(new_run(run_id, queue="q", external_user_id=user, batch=batch))
    (claimed,) = await journal.claim_next("q", limit=1)
    await journal.finish(claimed.claim, "error", encode_output(error=ErrorRecord("e", "Error", "no channel")))

    assert await journal.count_batch("b1") == {"ready": 2, "error": 1}
    assert [(run.external_user, run.id) for run in await journal.batch_runs("b1")] == [("ada", "a2"), ("bob", "b1")]
    execution = await journal.get_execution("a1")
    assert execution is not None
    assert execution.batch == "b1"


async def test_a_message_of_an_ended_run_is_added_once(journal: Journal, rows: Rows) -> None:
    """A second process that adds it changes nothing, and a removed run gets none."""
    await journal.accept_run(new_run())
    await journal.finish(FIRST, "error", OUTPUT)
    message = OutboxRow("$notification", 1, 0, b"sealed", "{}")

    added = [await journal.add_messages(run_id, [message]) for run_id in ("run", "run", "gone")]

    assert added == [True, True, False]
    assert rows("select run_id, path, tries from outbox") == [("run", "$notification", 0)]


async def test_lower_limits_start_no_further_run(journal: Journal) -> None:
    """If more runs execute, or have started, than new limits of their queue allow, no run starts."""
    for queue in ("busy", "throttled"):
        for number in range(4):
            await journal.accept_run(new_run(f"{queue}{number}", queue=queue))
        assert len(await journal.claim_next(queue, limit=2)) == 2
    await journal.set_queue_limits("busy", concurrency=1)
    await journal.set_queue_limits("throttled", max_starts=1, period_s=10)

    assert [await journal.claim_next(queue, limit=5) for queue in ("busy", "throttled")] == [[], []]


@ONLY_SQLITE
async def test_limits_that_could_not_be_written_are_written_again(journal: Journal, database: Database) -> None:
    """After a failed write the next call with the same limits writes them."""
    database.execute("alter table limits rename to away")
    with pytest.raises(ProjectError):
        await journal.set_queue_limits("mail", concurrency=1)
    database.execute("alter table away rename to limits")

    await journal.set_queue_limits("mail", concurrency=1)

    assert database.rows("select queue, concurrency from limits") == [("mail", 1)]


async def test_ready_runs_of_all_queues_are_claimed(open_journal: Open, clock: ManualClock) -> None:
    """Runs of every queue are claimed within the limit of the call and those of each queue, the oldest of a queue first."""
    journal = open_journal()
    await journal.set_queue_limits("b", concurrency=1)
    await journal.set_queue_limits("c", max_starts=1, period_s=10)
    for queue, run_id in ("a", "a2"), ("a", "a1"), ("b", "b2"), ("b", "b1"), ("c", "c2"), ("c", "c1"):
        await journal.accept_run(new_run(run_id, queue=queue))
        clock.advance(1)
    await open_journal("notebook").accept_run(new_run("other", queue="a"))

    claims = [await journal.claim_ready(limit) for limit in (1, 9, 9)]

    assert [sorted(run.claim.run_id for run in each) for each in claims] == [["a2"], ["a1", "b2", "c2"], []]
    assert await journal.next_wake() is None  # when c2 starts is not known
    await journal.record_start("c", Claim.first("c2"))
    assert await journal.next_wake() == pytest.approx(clock.now().timestamp() + 10 + START_MARGIN_S - START_LEAD_S)
    assert await journal.finish(Claim.first("b2"), "success", OUTPUT)
    assert await journal.next_wake() == 0
    assert [run.claim.run_id for run in await journal.claim_ready(9)] == ["b1"]
    clock.advance(10.5)
    assert await journal.next_wake() == 0
    assert [run.claim.run_id for run in await journal.claim_ready(9)] == ["c1"]
    await journal.record_start("c", Claim.first("c1"))
    await journal.set_queue_limits("c", max_starts=3, period_s=20)
    for run_id in ("c3", "c4"):
        await journal.accept_run(new_run(run_id, queue="c"))
    clock.advance(5)
    assert [run.claim.run_id for run in await journal.claim_ready(9)] == ["c3"]
    await journal.finish(Claim.first("c3"), "success", OUTPUT)  # it did not start, so it does not count
    assert [run.claim.run_id for run in await journal.claim_ready(9)] == ["c4"]
    await journal.accept_run(new_run("c5", queue="c"))
    await journal.record_start("c", Claim.first("c4"))
    assert await journal.next_wake() == pytest.approx(clock.now().timestamp() + 4.5 + START_MARGIN_S - START_LEAD_S)


async def test_a_full_queue_refuses_a_run(open_journal: Open) -> None:
    """Only runs that wait in the queue count, of the same origin; a run that starts makes room."""
    journal, other = open_journal(), open_journal("notebook")
    await other.accept_run(new_run("other", queue="mail"))
    await journal.accept_run(new_run("elsewhere", queue="post"))

    accepted = [await journal.accept_run(new_run(f"run{number}", queue="mail", queue_size=2)) for number in range(3)]
    await journal.claim("run0")
    again = [await journal.accept_run(new_run(f"new{number}", queue="mail", queue_size=2)) for number in range(2)]

    assert (accepted, again) == ([True, True, False], [True, False])
    assert not await journal.accept_run(new_run("none", queue="mail", queue_size=0))
    assert await journal.accept_run(new_run("unlimited", queue="mail"))


async def test_starts_of_a_queue_are_limited(journal: Journal, clock: ManualClock) -> None:
    """A queue with two starts in ten seconds starts no third run within ten seconds of the first."""
    await journal.set_queue_limits("mail", max_starts=2, period_s=10)
    for number in range(5):
        await journal.accept_run(new_run(f"run{number}", queue="mail"))

    started = []
    for wait in (0, 5, 5, 0.2, 10.2):
        clock.advance(wait)
        claims = await journal.claim_next("mail", limit=5)
        for each in claims:
            await journal.record_start("mail", each.claim)
        started.append(len(claims))

    assert started == [2, 0, 0, 2, 1]


async def test_a_period_begins_when_the_step_has_begun(journal: Journal, clock: ManualClock) -> None:
    """The next run is claimed shortly before a period has passed since the step began, and may start at that moment."""
    await journal.set_queue_limits("mail", max_starts=1, period_s=10)
    for number in range(2):
        await journal.accept_run(new_run(f"run{number}", queue="mail"))
    [first] = await journal.claim_next("mail", limit=5)
    waits = [await journal.record_start("mail", first.claim)]
    clock.advance(2)  # the worker was slow
    await journal.confirm_start(first.claim)
    clock.advance(9.9)
    early = await journal.claim_next("mail", limit=5)
    clock.advance(0.06)
    [second] = await journal.claim_next("mail", limit=5)
    waits.append(await journal.record_start("mail", second.claim))
    clock.advance(waits[1])
    waits.append(await journal.record_start("mail", second.claim))

    assert early == []
    assert waits == [0, pytest.approx(0.04, abs=0.001), 0]


async def test_a_clock_that_jumps_reverses_no_queue(open_journal: Open, clock: ManualClock) -> None:
    """Runs are claimed in the order of their acceptance, though the clock of a later one is an hour back."""
    for number in range(3):
        await open_journal().accept_run(new_run(f"run{number}", queue="mail"))
        await open_journal().accept_run(new_run(f"direct{number}", origin="terminal"))
        clock.jump(-3600)  # an executor that starts takes the wall clock as it is

    last = open_journal()
    claims = [*await last.claim_next("mail", limit=5), *await last.claim_next(limit=5)]

    assert [each.claim.run_id for each in claims] == ["run0", "run1", "run2", "direct0", "direct1", "direct2"]


@ONLY_SQLITE
@pytest.mark.parametrize("jump_s", [5, 3600, -3600])
async def test_a_clock_that_jumps_leaves_the_starts_as_they_are(
    open_journal: Open, clock: ManualClock, jump_s: float
) -> None:
    """A wall clock that was set opens the window of a throttle neither twice nor an hour later, in another process, too."""
    started = list[int]()
    for number in range(4):
        await open_journal().accept_run(new_run(f"run{number}", queue="mail"))
    for wait_s in (0, 1, 8, 1.2):
        clock.advance(wait_s)
        journal = open_journal()
        await journal.set_queue_limits("mail", max_starts=2, period_s=10)
        claims = await journal.claim_next("mail", limit=5)
        for each in claims:
            await journal.record_start("mail", each.claim)
        started.append(len(claims))
        clock.jump(jump_s)

    assert started == [2, 0, 0, 2]


async def test_starts_of_the_future_count_for_one_period(
    journal: Journal, clock: ManualClock, database: Database
) -> None:
    """Starts whose times are later than now, because the machine was restarted, hold the queue for one period."""
    await journal.set_queue_limits("mail", max_starts=1, period_s=10)
    for number in range(2):
        await journal.accept_run(new_run(f"run{number}", queue="mail"))
    [first] = await journal.claim_next("mail", limit=2)
    await journal.record_start("mail", first.claim)
    database.execute("update starts set at = at + 3600")

    wakes = [await journal.next_wake()]
    claims = [len(await journal.claim_next("mail", limit=2))]
    wakes.append(await journal.next_wake())
    clock.advance(10)
    claims.append(len(await journal.claim_next("mail", limit=2)))

    now = clock.now().timestamp()
    assert wakes == pytest.approx([now - 10, now], abs=0.001)
    assert claims == [0, 1]


async def test_times_of_a_clock_that_was_ahead_are_corrected(open_journal: Open, clock: ManualClock) -> None:
    """A pause and a message that were stored while the clock was an hour ahead are due after their own time only."""
    clock.jump(3600)
    journal = open_journal("serve")
    for run_id in ("paused", "sent"):
        await journal.accept_run(new_run(run_id))
    wake_at = journal.clock.now().timestamp() + 60
    await journal.park(Claim.first("paused"), wait_row(wake_at=wake_at))
    await journal.finish(Claim.first("sent"), "success", OUTPUT, outbox=[outbox_row()])
    before = await journal.next_wake()
    clock.jump(-3600)
    for _ in range(2):
        journal.clock.now()
        clock.advance(30)

    assert (before, await journal.next_wake()) == (wake_at, clock.now().timestamp())  # the message is due now
    assert len(await journal.claim_deliveries()) == 1
    clock.advance(60)
    assert await journal.wake_due() == 1


async def test_the_wait_of_a_branch_is_corrected_while_other_branches_execute(
    open_journal: Open, clock: ManualClock
) -> None:
    """If the clock is set back before the run pauses in all branches, the pause that began first ends after its own time."""
    clock.jump(3600)
    journal = open_journal("serve")
    await journal.accept_run(new_run())
    claim, wait = Claim.first("run"), wait_row(wake_at=journal.clock.now().timestamp() + 60)
    await journal.append_wait(claim, wait)
    clock.jump(-3600)
    for _ in range(2):
        journal.clock.now()
        clock.advance(30)
    await journal.next_wake()

    await journal.park(claim, wait)
    clock.advance(60)
    assert await journal.wake_due() == 1


async def test_newer_tables_stop_an_executor(journal: Journal, database: Database) -> None:
    """An executor claims no run after a newer version has changed the tables, and says what to do; later it claims again."""
    await journal.accept_run(new_run(queue="mail"))
    database.set_version(99)
    try:
        for claim in (journal.claim_next("mail"), journal.claim_ready(5), journal.claim("run")):
            with pytest.raises(ProjectError, match="start it again with the newer version"):
                await claim
        if database.is_file:
            with pytest.raises(ProjectError, match="schema version 99"):
                await journal.accept_run(new_run("other"))
    finally:
        database.set_version(JOURNAL_SCHEMA.version)

    assert len(await journal.claim_next("mail")) == 1


async def test_a_claimed_run_counts_as_a_start_until_it_starts(
    journal: Journal, clock: ManualClock, database: Database
) -> None:
    """Runs that are claimed and start much later start no faster than the limit; a long run keeps its start in mind."""
    await journal.set_queue_limits("mail", max_starts=2, period_s=10)
    for number in range(5):
        await journal.accept_run(new_run(f"run{number}", queue="mail"))
    claims = await journal.claim_next("mail", limit=5)
    clock.advance(60)

    waiting = len(await journal.claim_next("mail", limit=5))
    for each in claims:
        await journal.record_start("mail", each.claim)
    started = len(await journal.claim_next("mail", limit=5))
    clock.advance(10.5)
    last = await journal.claim_next("mail", limit=5)
    for each in last:
        await journal.record_start("mail", each.claim)
    kept = database.rows("select run_id from starts order by run_id")
    await journal.finish(claims[0].claim, "success", OUTPUT)
    clock.advance(10.5)
    [one] = await journal.claim_next("mail", limit=5)
    await journal.record_start("mail", one.claim)

    assert (len(claims), waiting, started, len(last)) == (2, 0, 0, 2)
    assert len(kept) == 4
    assert len(database.rows("select run_id from starts")) == 4  # the start of the ended run is forgotten


class TestTurns:
    """Runs of a limited workflow that do not wait in its queue."""

    async def test_turns_and_runs_share_the_concurrency(self, journal: Journal) -> None:
        """A run executes only while no other one has a turn, and the other way round."""
        await journal.set_queue_limits("mail", concurrency=1)
        assert await journal.add_turn("mail", "first", size=1)
        assert await journal.grant_turn("mail", "first")
        await journal.accept_run(new_run("second", queue="mail"))
        while_turn = [await journal.claim_next("mail"), await journal.claim("second")]
        await journal.end_turn("first")
        [claimed] = await journal.claim_next("mail")
        assert await journal.add_turn("mail", "third", size=1)

        assert (while_turn, await journal.grant_turn("mail", "third")) == ([[], None], False)
        await journal.finish(claimed.claim, "success", OUTPUT)
        assert await journal.grant_turn("mail", "third")

    async def test_an_end_that_could_not_be_written_blocks_no_queue(self, journal: Journal, database: Database) -> None:
        """The end of a turn that the database refused is repeated when the next look finds out whether a run can go on."""
        await journal.set_queue_limits("mail", concurrency=1)
        await journal.add_turn("mail", "first", size=1)
        await journal.grant_turn("mail", "first")
        await journal.accept_run(new_run("second", queue="mail"))
        database.execute("alter table turns rename to unavailable")
        try:
            with pytest.raises(ProjectError):
                await journal.end_turn("first")
        finally:
            database.execute("alter table unavailable rename to turns")

        assert await journal.next_wake() == 0
        assert [each.claim.run_id for each in await journal.claim_next("mail")] == ["second"]

    async def test_who_waits_for_longer_is_first(self, journal: Journal, clock: ManualClock) -> None:
        """Turns and ready runs of a queue execute in the order in which they came."""
        await journal.set_queue_limits("mail", concurrency=1)
        for number in range(4):
            if number % 2:
                await journal.accept_run(new_run(f"run{number}", queue="mail"))
            else:
                await journal.add_turn("mail", f"run{number}", size=9)
            clock.advance(1)

        order = list[str]()
        while len(order) < 4:
            granted = [
                run_id
                for run_id in ("run0", "run2")
                if run_id not in order and await journal.grant_turn("mail", run_id)
            ]
            claims = await journal.claim_next("mail", limit=4)
            order += [*granted, *(each.claim.run_id for each in claims)]
            for run_id in granted:
                await journal.end_turn(run_id)
            for each in claims:
                await journal.finish(each.claim, "success", OUTPUT)

        assert order == ["run0", "run1", "run2", "run3"]

    async def test_starts_of_turns_are_limited(self, journal: Journal, clock: ManualClock) -> None:
        """A turn counts as a start from its grant on, and at last from its start on."""
        await journal.set_queue_limits("mail", max_starts=1, period_s=10)
        for run_id in ("first", "second"):
            await journal.add_turn("mail", run_id, size=9)
        granted = [await journal.grant_turn("mail", "first")]
        clock.advance(60)
        granted.append(await journal.grant_turn("mail", "second"))
        await journal.record_start("mail", Claim.first("first"))
        await journal.end_turn("first")
        granted.append(await journal.grant_turn("mail", "second"))
        clock.advance(10.5)
        granted.append(await journal.grant_turn("mail", "second"))

        assert granted == [True, False, False, True]

    async def test_a_full_queue_refuses_a_turn(self, journal: Journal) -> None:
        """Turns and ready runs that wait count, those that execute do not; without a size no turn is refused."""
        await journal.set_queue_limits("mail", concurrency=1)
        await journal.add_turn("mail", "first", size=1)
        await journal.grant_turn("mail", "first")
        await journal.accept_run(new_run("second", queue="mail"))

        assert [await journal.add_turn("mail", run_id, size=2) for run_id in ("third", "fourth")] == [True, False]
        assert await journal.add_turn("mail", "fifth", size=None)

    async def test_the_turns_of_a_dead_process_end(self, open_journal: Open, database: Database) -> None:
        """A turn of a process that has died ends when another process notices the death."""
        one, other = open_journal(), open_journal()
        await one.set_queue_limits("mail", concurrency=1)
        await one.add_turn("mail", "first", size=1)
        await one.grant_turn("mail", "first")
        await other.add_turn("mail", "second", size=1)
        before = await other.grant_turn("mail", "second")
        database.kill(one, "terminal")
        await other.reap_dead()

        assert (before, await other.grant_turn("mail", "second")) == (False, True)
        assert await other.add_turn("mail", "third", size=9)
        assert database.rows("select run_id from turns order by run_id") == [("second",), ("third",)]


async def test_released_run_is_ready_for_its_next_attempt(open_journal: Open) -> None:
    """An executor that ends gives its run back: another claims it with the next fence and attempt + 1."""
    one, other = open_journal(), open_journal()
    await one.accept_run(new_run())
    await one.append_step(FIRST, step_row(0, "one"))

    assert await one.release(FIRST)
    ready = await status(one)
    run = await other.claim("run")

    assert ready == "resumed"
    assert run is not None
    assert (run.claim, run.steps) == (Claim("run", 2, attempt=2), (step_row(0, "one"),))
    assert not await one.release(FIRST)
    assert not await one.append_step(FIRST, step_row(1, "two"))


async def test_closed_journal_refuses_writes(open_journal: Open) -> None:
    """A closed journal refuses writes; closing it again does nothing."""
    journal = open_journal()
    await journal.close()

    with pytest.raises(ProjectError, match=r"The journal in .* is closed"):
        await journal.accept_run(new_run())

    await journal.close()


async def test_load_run_does_not_claim(open_journal: Open) -> None:
    """A run is loaded with its record while another executor runs it; the loaded claim gives no right."""
    owner, other = open_journal(), open_journal()
    await owner.accept_run(new_run(request=b"request"))
    await owner.append_step(FIRST, step_row(0, "one"))

    loaded = await other.load_run("run")

    assert loaded is not None
    execution, run = loaded
    assert (execution.status, run.claim, run.request, run.steps) == (
        "executing",
        FIRST,
        b"request",
        (step_row(0, "one"),),
    )
    assert not await other.append_step(run.claim, step_row(1, "two"))
    assert await owner.append_step(FIRST, step_row(1, "two"))


# ── steps, ends and messages ─────────────────────────────────────────────────────────────────────────────────────────


async def test_last_step_is_recorded_with_the_end(journal: Journal) -> None:
    """The end of a run records its last step; without ownership neither is written."""
    await journal.accept_run(new_run())
    row = step_row(0, "one")

    answers = [await journal.finish(FIRST, "success", OUTPUT, last_step=row) for _ in range(2)]

    assert answers == [True, False]
    assert await status(journal) == "success"
    assert await recorded_steps(journal) == ["one"]


async def test_end_with_a_recorded_step_is_refused(journal: Journal) -> None:
    """If the last step is already recorded, the run does not end."""
    await journal.accept_run(new_run())
    await journal.append_step(FIRST, step_row(0, "one"))

    assert not await journal.finish(FIRST, "success", OUTPUT, last_step=step_row(0, "one"), outbox=[outbox_row()])

    assert await status(journal) == "executing"
    assert (await load(journal)).sends == ()


async def test_end_has_the_time_of_the_caller(journal: Journal, clock: ManualClock) -> None:
    """A run ends at the moment that the caller names, or now."""
    await journal.accept_run(new_run("named"))
    await journal.accept_run(new_run("now"))
    clock.advance(3)

    await journal.finish(Claim.first("named"), "success", OUTPUT, ended=clock.now().timestamp() - 2)
    await journal.finish(Claim.first("now"), "success", OUTPUT)

    assert [(await load(journal, run_id)).finished_at for run_id in ("named", "now")] == [
        "2026-01-01T00:00:01.000Z",
        "2026-01-01T00:00:03.000Z",
    ]


async def test_a_step_of_a_loop_has_a_row_for_each_pass(journal: Journal) -> None:
    """The key of a step is its path and its iteration: the same name in another branch, or in the next pass, is another row."""
    await journal.accept_run(new_run())
    rows = [
        StepRow(0, "one", STEP, "one"),
        StepRow(1, "one", STEP, "loop/one", 1),
        StepRow(2, "one", STEP, "loop/one", 2),
    ]

    assert [await journal.append_step(FIRST, row) for row in rows] == [True, True, True]
    assert [await journal.append_step(FIRST, row) for row in rows] == [False, False, False]


@pytest.mark.parametrize("write", ["finish", "park"])
async def test_messages_are_written_with_the_end_or_the_pause(journal: Journal, write: str, rows: Rows) -> None:
    """The messages of a run are in the outbox after its end or pause, not before, in order, and due after a minute."""
    await journal.accept_run(new_run())
    messages = [outbox_row(0), outbox_row(1), outbox_row(0, path="two")]
    assert not await journal.finish(SECOND, "success", OUTPUT, outbox=messages)
    assert not await journal.park(SECOND, wait_row(), outbox=messages)
    assert rows("select * from outbox") == []

    if write == "finish":
        assert await journal.finish(FIRST, "success", OUTPUT, outbox=messages)
    else:
        assert await journal.park(FIRST, wait_row(), outbox=messages)

    assert rows("select path, number, position, message, tries, due from outbox order by rowid") == [
        ("one", 1, 0, b"sealed", 0, 1767225660.0),
        ("one", 1, 1, b"sealed", 0, 1767225660.0),
        ("two", 1, 0, b"sealed", 0, 1767225660.0),
    ]
    assert [(send.step, send.outcome, send.to) for send in (await load(journal)).sends] == [
        ("one", "waiting", "0"),
        ("one", "waiting", "1"),
        ("two", "waiting", "0"),
    ]


async def test_messages_of_a_claimed_run_are_known(journal: Journal) -> None:
    """A claimed run names the runs of steps whose messages are in the outbox, so that they are not queued again."""
    await journal.accept_run(new_run())
    await journal.park(FIRST, wait_row(wake_at=0.0), outbox=[outbox_row(0), outbox_row(1), outbox_row(0, path="zero")])
    await journal.wake_due()

    run = await journal.claim("run")

    assert run is not None
    assert run.sent_runs == {("one", 1), ("zero", 1)}


async def test_message_is_written_once(journal: Journal, rows: Rows) -> None:
    """A message that was written with the pause is not written again with the end; a rerun's messages are new."""
    await journal.accept_run(new_run())
    await journal.park(FIRST, wait_row(wake_at=0.0), outbox=[outbox_row()])
    assert await journal.record_delivery("run", outbox_row(), delivery(0, "sent"))
    await journal.wake_due()
    await journal.claim("run")

    assert await journal.finish(SECOND, "success", OUTPUT, outbox=[outbox_row(), outbox_row(number=2)])

    assert rows("select number, shown from outbox order by rowid") == [
        (1, delivery(0, "sent")),
        (2, delivery(0, "waiting")),
    ]


async def test_delivery_is_recorded_once(journal: Journal, rows: Rows) -> None:
    """The last try of a delivery ends it: the record shows its outcome, and a further outcome is refused."""
    await journal.accept_run(new_run())
    await journal.finish(FIRST, "success", OUTPUT, outbox=[outbox_row(0), outbox_row(1)])

    assert await journal.record_delivery("run", outbox_row(1), delivery(1, "sent"))
    assert not await journal.record_delivery("run", outbox_row(1), delivery(1, "failed"))

    assert [send.outcome for send in (await load(journal)).sends] == ["waiting", "sent"]
    assert rows("select tries, due is null from outbox order by rowid") == [(0, 0), (1, 1)]


async def test_failed_delivery_is_due_again(journal: Journal, rows: Rows) -> None:
    """A delivery that is tried again has its next time and counts its tries."""
    await journal.accept_run(new_run())
    await journal.finish(FIRST, "success", OUTPUT, outbox=[outbox_row()])

    assert await journal.record_delivery("run", outbox_row(), delivery(0, "failed"), retry_at=9e9)
    again = rows("select tries, due from outbox")
    assert await journal.record_delivery("run", outbox_row(), delivery(0, "sent"))

    assert (again, rows("select tries, due from outbox")) == ([(1, 9e9)], [(2, None)])


async def test_due_messages_are_claimed(open_journal: Open, clock: ManualClock) -> None:
    """Messages are claimed when they are due, the longest first, once a minute, and by executors of their run's origin."""
    journal, other = open_journal(), open_journal("notebook")
    await journal.accept_run(new_run())
    messages = [outbox_row(position) for position in range(3)]
    await journal.finish(FIRST, "success", OUTPUT, outbox=messages)
    due = clock.now().timestamp() + 60
    await journal.record_delivery("run", messages[1], delivery(1, "failed"), retry_at=due - 1)
    await journal.record_delivery("run", messages[2], delivery(2, "sent"))
    retried = replace(messages[1], shown=delivery(1, "failed"))

    assert (await journal.next_wake(), await other.next_wake()) == (due - 1, None)
    assert await journal.claim_deliveries() == []
    clock.advance(60)
    assert await other.claim_deliveries() == []
    assert await journal.claim_deliveries(per_lane=1) == [("run", retried, 1)]
    assert await journal.claim_deliveries() == [("run", messages[0], 0)]
    assert await journal.claim_deliveries() == []
    clock.advance(60)
    assert len(await journal.claim_deliveries()) == 2


async def test_due_messages_are_claimed_by_lane(journal: Journal, clock: ManualClock) -> None:
    """The oldest messages of each lane are claimed in their order; those of busy lanes and of more lanes than asked for stay."""
    await journal.accept_run(new_run())
    rows = [replace(outbox_row(position), lane="abcaabb"[position]) for position in range(7)]
    await journal.finish(FIRST, "success", OUTPUT, outbox=rows)
    clock.advance(60)

    async def claim(
        *, lane: str | None = None, busy: Collection[str] = (), lanes: int = 9, per_lane: int = 9
    ) -> list[int]:
        claimed = await journal.claim_deliveries(lane=lane, busy=busy, lanes=lanes, per_lane=per_lane)
        return [row.position for _, row, _ in claimed]

    assert await claim(busy={"b", "c"}, per_lane=1) == [0]
    assert await claim(lanes=1, per_lane=2) == [1, 5]
    assert await claim(lane="a", busy=()) == [3, 4]
    assert sorted(await claim()) == [2, 6]
    assert await claim() == []


async def test_messages_that_a_run_leaves_are_due(journal: Journal) -> None:
    """They are due at once, and were not tried; a message that was delivered stays so."""
    await journal.accept_run(new_run())
    rows = [outbox_row(position) for position in range(3)]
    await journal.finish(FIRST, "success", OUTPUT, outbox=rows)
    await journal.record_delivery("run", rows[1], delivery(1, "sent"))

    await journal.leave_deliveries("run", rows[1:])

    assert await journal.claim_deliveries() == [("run", rows[2], 0)]


async def test_interrupted_runs_end_before_runs_are_read(open_journal: Open, database: Database) -> None:
    """Runs of dead commands and notebooks end; those of living ones stay, and those of a dead server are left to the next one."""
    for origin in ("serve", "terminal", "notebook", "python"):
        journal = open_journal(origin)
        await journal.accept_run(new_run(origin))
        if origin != "python":
            database.kill(journal, origin)

    database.backend().end_interrupted(5.0)
    database.backend().end_interrupted(6.0)

    statuses = {origin: await status(journal, origin) for origin in ("serve", "terminal", "notebook", "python")}
    assert statuses == {"serve": "executing", "terminal": "error", "notebook": "error", "python": "executing"}
    assert database.rows("select ended from runs where ended is not null") == [(5.0,), (5.0,)]


@pytest.mark.parametrize("origin", ["serve", "terminal"])
async def test_messages_of_a_dead_executor_are_due(open_journal: Open, database: Database, origin: str) -> None:
    """Served messages that were not tried are due at once; those that were tried, at their time, and those sent, never."""
    owner, reaper = open_journal(origin), open_journal("python")
    await owner.accept_run(new_run())
    await owner.accept_run(new_run("executing"))
    messages = [outbox_row(position) for position in range(3)]
    await owner.finish(FIRST, "success", OUTPUT, outbox=messages)
    await owner.record_delivery("run", messages[1], delivery(1, "failed"), retry_at=9e9)
    await owner.record_delivery("run", messages[2], delivery(2, "sent"))
    database.kill(owner, origin)

    await reaper.reap_dead()

    due = [row.position for _, row, _ in await open_journal(origin).claim_deliveries()]
    assert due == ([0] if origin == "serve" else [])


async def test_messages_of_a_living_executor_are_not_due(open_journal: Open, database: Database) -> None:
    """The end of another process leaves messages of an ended run to the process that sends them."""
    server, other = open_journal("serve"), open_journal()
    await server.accept_run(new_run())
    await server.finish(FIRST, "success", OUTPUT, outbox=[outbox_row()])
    database.kill(other, "terminal")

    await server.reap_dead()

    assert await server.claim_deliveries() == []


async def test_interrupted_try_is_due(open_journal: Open, database: Database, clock: ManualClock) -> None:
    """A message that a server claimed for a further try is due at once when that server ends."""
    owner, reaper = open_journal("serve"), open_journal("python")
    await owner.accept_run(new_run())
    await owner.finish(FIRST, "success", OUTPUT, outbox=[outbox_row()])
    await owner.record_delivery("run", outbox_row(), delivery(0, "failed"), retry_at=0)
    claimed = await owner.claim_deliveries()
    database.kill(owner)

    await reaper.reap_dead()

    assert await open_journal("serve").claim_deliveries() == claimed != []


async def test_messages_of_a_run_in_progress_are_not_due(open_journal: Open, database: Database) -> None:
    """The end of another process leaves messages of a run in progress to the process of the run."""
    server, other = open_journal("serve"), open_journal()
    await server.accept_run(new_run())
    await server.park(FIRST, wait_row(wake_at=0.0), outbox=[outbox_row()])
    await server.wake_due()
    await server.claim("run")
    database.kill(other, "terminal")

    await server.reap_dead()

    assert await server.claim_deliveries() == []


@pytest.mark.parametrize(
    ("run_id", "row"),
    [("other", outbox_row()), ("run", outbox_row(1)), ("run", outbox_row(number=2)), ("run", outbox_row(path="two"))],
)
async def test_unknown_message_has_no_delivery(journal: Journal, run_id: str, row: OutboxRow) -> None:
    """The delivery of a message that is not in the outbox is refused."""
    await journal.accept_run(new_run())
    await journal.finish(FIRST, "success", OUTPUT, outbox=[outbox_row()])

    assert not await journal.record_delivery(run_id, row, delivery(0, "sent"))

    assert [send.outcome for send in (await load(journal)).sends] == ["waiting"]


# ── packages ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_continued_run_has_its_packages(journal: Journal, rows: Rows) -> None:
    """Packages are stored once for all runs that have them, whether a run is accepted with them or gets them later."""
    await journal.accept_run(new_run(package_lock=LOCK))
    await journal.accept_run(new_run("later"))
    await journal.accept_run(new_run("without"))
    await journal.set_package_lock(Claim.first("later"), LOCK)
    for run_id in ("run", "later", "without"):
        await journal.release(Claim.first(run_id))

    claims = await journal.claim_next(limit=9)

    assert {run.claim.run_id: run.package_lock for run in claims} == {"run": LOCK, "later": LOCK, "without": None}
    assert rows("select hash from package_locks") == [(LOCK.hash,)]


async def test_packages_of_a_run_can_change(journal: Journal) -> None:
    """A run that was accepted with other packages than it has gets its own, or none."""
    other = StoredLock("other", "{}")
    await journal.accept_run(new_run(package_lock=LOCK))
    await journal.accept_run(new_run("without", package_lock=LOCK))

    assert await journal.set_package_lock(FIRST, other)
    assert await journal.set_package_lock(Claim.first("without"), None)

    found = [await journal.load_run(run_id) for run_id in ("run", "without")]
    assert [each[1].package_lock for each in found if each] == [other, None]


async def test_a_refused_run_stores_no_packages(journal: Journal, rows: Rows) -> None:
    """Packages of a run that is not accepted, or that this executor does not own, are not stored."""
    await journal.accept_run(new_run())

    assert not await journal.accept_run(new_run(package_lock=LOCK))
    assert not await journal.set_package_lock(SECOND, LOCK)
    assert rows("select * from package_locks") == []


# ── calls in flight ──────────────────────────────────────────────────────────────────────────────────────────────────


async def urls_of(journal: Journal, step: str = "one") -> list[str]:
    """Return the URLs of the calls in the record of a step."""
    (result,) = [each for each in (await load(journal)).steps if each.name == step]
    return [call.url.rpartition("/")[2] for call in result.requests]


async def interrupt(journal: Journal, *calls: CallRow) -> ClaimedRun:
    """Accept a run, record *calls* of its first attempt, interrupt it, and claim it again."""
    assert await journal.accept_run(new_run())
    assert [await journal.record_call(FIRST, call) for call in calls] == [True] * len(calls)
    assert await journal.release(FIRST)
    claimed = await journal.claim("run")
    assert claimed is not None
    return claimed


async def test_next_attempt_gets_calls_in_flight(journal: Journal) -> None:
    """Calls of an interrupted attempt are in the claim of the next one and in the record; those of the running attempt are not."""
    rows = [call_row(2), call_row(10)]
    assert await journal.accept_run(new_run())
    assert all([await journal.record_call(FIRST, row) for row in rows])
    running = await urls_of(journal)
    await journal.release(FIRST)
    ready = await urls_of(journal)

    claimed = await journal.claim("run")
    assert claimed is not None
    assert await journal.record_call(claimed.claim, call_row(11))

    assert claimed.calls == tuple(rows)
    assert (running, ready, await urls_of(journal)) == ([], ["2", "10"], ["2", "10"])


@pytest.mark.parametrize("ends", ["cancelled", "dead"])
async def test_an_ended_run_shows_calls_in_flight(
    journal: Journal, open_journal: Open, database: Database, rows: Rows, ends: str
) -> None:
    """The record of a run that ended within a step has the calls of that step; they are removed with the run."""
    assert await journal.accept_run(new_run())
    assert await journal.record_call(FIRST, call_row())
    other = open_journal("python")

    if ends == "cancelled":
        await other.cancel("run")
    else:
        database.kill(journal, "terminal")
        await other.reap_dead()

    assert await urls_of(other) == ["1"]
    assert await other.remove_runs(["run"]) == ["run"]
    assert rows("select * from calls_in_flight") == []


@pytest.mark.parametrize("how", ["append_step", "finish", "park"])
async def test_record_of_a_step_replaces_its_calls(journal: Journal, rows: Rows, how: str) -> None:
    """The write of a step or a pause that has the step's calls removes them, of every attempt, and no call of another step."""
    claim = (await interrupt(journal, call_row(1), call_row(2, path="two"))).claim
    assert await journal.record_call(claim, call_row(3))

    step = replace(step_row(0, "one"), has_calls=True)
    if how == "append_step":
        assert await journal.append_step(claim, step)
    elif how == "finish":
        assert await journal.finish(claim, "success", OUTPUT, last_step=step)
    else:
        assert await journal.park(claim, replace(wait_row(), has_calls=True))

    assert rows("select path, number from calls_in_flight") == [("two", 2)]


async def test_a_refused_record_keeps_calls(journal: Journal, rows: Rows) -> None:
    """The write of a former executor removes no call, and a call is not recorded twice."""
    claimed = await interrupt(journal, call_row())

    assert not await journal.append_step(FIRST, replace(step_row(0, "one"), has_calls=True))
    assert not await journal.park(FIRST, replace(wait_row(), has_calls=True))
    assert await journal.record_call(claimed.claim, call_row(2))
    assert not await journal.record_call(claimed.claim, call_row(2))
    assert rows("select attempt, number from calls_in_flight order by number") == [(1, 1), (2, 2)]


async def test_concurrent_calls_share_a_commit(journal: Journal) -> None:
    """Calls of concurrent runs are committed together."""
    runs = [f"run{number}" for number in range(20)]
    for run in runs:
        assert await journal.accept_run(new_run(run))
    before = journal.commits

    done = await asyncio.gather(*(journal.record_call(Claim.first(run), call_row()) for run in runs))

    assert done == [True] * 20
    assert journal.commits - before <= 2

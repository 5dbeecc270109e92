"""The journal on Postgres: leases, notifications, lost connections, and executors that write at the same time."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from psycopg.errors import SerializationFailure

from pdkernel.common.clock import SYSTEM_CLOCK, ManualClock, SystemClock
from pdkernel.errors import ExecutorLostError, ProjectError, RequestError
from pdkernel.journal import Begun, Claim, Journal, WaitKey, encode_output, open_journal, open_reader
from pdkernel.journal.backend import Connection
from pdkernel.journal.postgres import PostgresBackend, is_lost_connection, translate_sql
from pdkernel.journal.schema import JOURNAL_SCHEMA
from pdkernel.storage import Project
from tests.journal.conftest import (
    FIRST,
    WORKFLOW,
    PostgresDatabase,
    load,
    new_run,
    outbox_row,
    status,
    step_row,
    wait_row,
)
from tests.postgres import PostgresServer, transaction_pooler
from tests.waiting import until

PATIENCE_S = 20.0
"""Seconds after which a test gives up."""
LEASE_S = 60.0
"""The seconds of a lease that a test lets lapse: longer than a busy machine stalls."""
NEVER_S = 3600.0


@pytest.fixture
def kind() -> str:
    """These tests are about Postgres."""
    return "postgres"


@pytest.fixture
def server(database: PostgresDatabase) -> PostgresDatabase:
    """The database, empty."""
    return database


def test_partial_indexes(server: PostgresDatabase) -> None:
    """The indexes that are partial on SQLite are partial on Postgres, too."""
    partial = {name for (name,) in server.rows("select indexname from pg_indexes where indexdef like '% WHERE %'")}

    assert partial == {
        "runs_due", "runs_ready", "runs_owner", "runs_failed", "runs_by_status", "runs_dedupe", "runs_batch", "runs_package_lock",
        "outbox_due",
    }  # fmt: skip


class LeaseTime:
    """
    The seconds by which executors measure their leases and retries.

    Attributes:
        speed: How many seconds pass in a second.
        fails_in: The name of a thread whose next call raises an unforeseen error, or None.
    """

    def __init__(self) -> None:
        self._ahead_s = 0.0
        self.speed = 1
        self.fails_in: str | None = None

    def __call__(self) -> float:
        """Return the seconds of the machine and those that were skipped."""
        if threading.current_thread().name == self.fails_in:
            self.fails_in = None
            raise LookupError("unforeseen")
        return time.monotonic() * self.speed + self._ahead_s

    def skip_lease(self) -> None:
        """Let a lease of `LEASE_S` seconds lapse in this process; the database has its own time."""
        self._ahead_s += LEASE_S + 1

    def skip_margin(self) -> None:
        """Let three quarters of a lease pass: the executor is late, and the database has not missed it yet."""
        self._ahead_s += 0.75 * LEASE_S


class Journals:
    """Opens journals with leases that the test chooses."""

    def __init__(self, server: PostgresDatabase, lease_time: LeaseTime) -> None:
        self.opened: list[Journal] = []
        self._server = server
        self._lease_time = lease_time

    def __call__(self, origin: str = "serve", *, lease_s: float = NEVER_S, beat_s: float = NEVER_S) -> Journal:
        """Open the journal of one more executor."""
        backend = self._server.postgres_backend(lease_s=lease_s, beat_s=beat_s, monotonic=self._lease_time)
        journal = Journal.open(backend, clock=SYSTEM_CLOCK, origin=origin)
        self.opened.append(journal)
        return journal


@pytest.fixture
def lease_time() -> LeaseTime:
    """The time of the leases in this process."""
    return LeaseTime()


@pytest.fixture
async def journals(server: PostgresDatabase, lease_time: LeaseTime) -> AsyncIterator[Journals]:
    """Opens journals, which are closed after the test."""
    journals = Journals(server, lease_time)
    yield journals
    for journal in journals.opened:
        await journal.close()


WAITING = "from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"


def count_waiting(server: PostgresDatabase) -> int:
    """The number of statements that wait for a lock."""
    return len(server.rows(f"select 1 {WAITING}"))


# ── the SQL ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_sql_is_translated() -> None:
    """Parameters get the form of psycopg, casts stay, and the parts for Postgres are not in comments."""
    assert (
        translate_sql("select :run, ? from runs /*postgres for update*/") == "select %(run)s, %s from runs for update"
    )
    assert translate_sql("select 1::text") == "select 1::text"


# ── leases ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_lease_is_extended(journals: Journals, server: PostgresDatabase) -> None:
    """An executor that beats keeps its lease, by the clock of the database."""
    executor = journals(lease_s=LEASE_S, beat_s=0.05)
    (first,) = server.rows("select lease_until from executors")[0]
    await until(lambda: server.rows("select lease_until from executors")[0][0] > first + 0.1)

    assert not executor.is_lost
    assert executor.lease_s == LEASE_S


async def test_an_unforeseen_error_does_not_end_the_extensions(
    journals: Journals, server: PostgresDatabase, lease_time: LeaseTime
) -> None:
    """The thread of a lease outlives an error that is not one of the database: the lease is extended after it."""
    journals(lease_s=LEASE_S, beat_s=0.05)
    lease_time.fails_in = "pdkernel-lease"
    await until(lambda: lease_time.fails_in is None)
    (first,) = server.rows("select lease_until from executors")[0]

    await until(lambda: server.rows("select lease_until from executors")[0][0] > first + 0.1)


async def test_run_of_a_lapsed_executor_continues_elsewhere(
    journals: Journals, server: PostgresDatabase, lease_time: LeaseTime
) -> None:
    """An executor whose lease has lapsed is lost, its served run is ready for the others, and its writes are refused."""
    other, frozen = journals(), journals(lease_s=LEASE_S)
    await frozen.store_definition(WORKFLOW)
    await frozen.accept_run(new_run())
    before = (await other.reap_dead(), frozen.is_lost)
    lease_time.skip_lease()
    server.kill(frozen)
    reaped = await other.reap_dead()

    assert before == (0, False)
    assert frozen.is_lost
    assert reaped == 1
    assert not await frozen.append_step(FIRST, step_row(0, "one"))
    (claimed,) = await other.claim_next()
    assert claimed.claim == Claim("run", 2, 2)


async def test_an_executor_that_extends_its_lease_at_this_moment_lives(
    journals: Journals, server: PostgresDatabase
) -> None:
    """An executor whose lapsed lease is extended while another one reaps keeps its runs, and the reaper does not wait."""
    owner, reaper = journals(), journals()
    await owner.accept_run(new_run())
    server.kill(owner)
    with closing(server.postgres_backend().connect()) as extending:
        extending.execute("begin")
        extending.execute("update executors set lease_until = lease_until + 1e10 where id = %s", (owner.executor_id,))
        async with asyncio.timeout(PATIENCE_S):
            reaped = await reaper.reap_dead()
        extending.execute("commit")

    assert reaped == 0
    assert await owner.append_step(FIRST, step_row(0, "one"))


async def test_late_executor_does_not_judge_others(
    journals: Journals, server: PostgresDatabase, lease_time: LeaseTime
) -> None:
    """An executor that could not extend its own lease does not take others for dead."""
    dead, late, healthy = journals(lease_s=LEASE_S), journals(lease_s=LEASE_S), journals()
    await dead.accept_run(new_run())
    lease_time.skip_lease()
    for each in (dead, late):
        server.kill(each)

    assert await late.reap_dead() == 0
    assert await healthy.reap_dead() == 1


async def test_an_executor_that_had_lapsed_does_not_judge_others_at_once(
    journals: Journals, server: PostgresDatabase, lease_time: LeaseTime
) -> None:
    """After an outage of the database, the first executor that reaches it leaves the others the time to extend their leases."""
    owner, first = journals(), journals()
    await owner.accept_run(new_run())
    lease_time.skip_lease()
    await first.rejoin()
    server.kill(owner)

    at_once = await first.reap_dead()
    lease_time.skip_lease()

    assert (at_once, await first.reap_dead()) == (0, 1)


async def test_executor_that_was_taken_for_dead_gets_to_know(journals: Journals, server: PostgresDatabase) -> None:
    """An executor that another one has reaped is lost at its next beat, and calls back."""
    reaped, other = journals(beat_s=0.05), journals()
    called = threading.Event()
    reaped.on_change(called.set)
    server.execute(f"update executors set alive = false where id = '{reaped.executor_id}'")
    await other.reap_dead()

    await until(called.is_set)
    assert reaped.is_lost


async def test_an_executor_gives_up_its_runs_before_others_take_them(journals: Journals, lease_time: LeaseTime) -> None:
    """Beside another executor, one that is late starts nothing new and is lost, while the other one does not miss it yet."""
    other, executor = journals(), journals(lease_s=LEASE_S)
    before = (executor.may_start, executor.is_lost)
    lease_time.skip_margin()

    assert before == (True, False)
    assert (executor.may_start, executor.is_lost) == (False, True)
    assert await other.reap_dead() == 0


async def test_a_lost_executor_begins_nothing_until_it_joins_again(journals: Journals, lease_time: LeaseTime) -> None:
    """A run that is accepted, or a turn that begins, between the loss of a lease and `rejoin` would be left to others, and begin here too."""
    journals()
    executor = journals(lease_s=LEASE_S)
    lease_time.skip_margin()
    with pytest.raises(ExecutorLostError):
        await executor.accept_run(new_run())
    with pytest.raises(ExecutorLostError):
        await executor.add_turn("queue", "run", size=None)
    was_queued = await executor.accept_run(new_run("waiting", queue="queue"))  # the executor that claims it begins it
    await executor.rejoin()

    assert was_queued
    assert await executor.accept_run(new_run())
    assert await executor.append_step(FIRST, step_row(0, "one"))


async def test_an_executor_that_joins_later_may_take_over(journals: Journals, lease_time: LeaseTime) -> None:
    """An executor hears of another one when that one joins, and not only at its next beat."""
    executor = journals(lease_s=LEASE_S)
    journals()
    lease_time.skip_margin()

    await until(lambda: executor.is_lost)
    assert executor.is_lost


async def test_an_executor_alone_keeps_its_runs(
    journals: Journals, server: PostgresDatabase, lease_time: LeaseTime
) -> None:
    """If a database does not answer for longer than a lease, the only executor starts nothing new, and goes on after that."""
    executor = journals(lease_s=LEASE_S, beat_s=0.05)
    await executor.accept_run(new_run())
    with closing(server.postgres_backend().connect()) as other:
        other.execute("begin")
        other.execute("select 1 from executors for update")
        await until(lambda: count_waiting(server) > 0)  # an extension has begun
        lease_time.skip_lease()
        while_silent = (executor.may_start, executor.is_lost)
        other.execute("rollback")
    await until(lambda: executor.may_start)

    assert while_silent == (False, False)
    assert not executor.is_lost
    assert await executor.append_step(FIRST, step_row(0, "one"))


async def test_an_executor_that_was_late_stays_lost(
    journals: Journals, server: PostgresDatabase, lease_time: LeaseTime
) -> None:
    """An extension that comes after the lease does not bring back what was given up; only `rejoin` does."""
    journals()
    executor = journals(lease_s=LEASE_S, beat_s=0.05)
    with closing(server.postgres_backend().connect()) as other:
        other.execute("begin")
        other.execute("select 1 from executors for update")
        await until(lambda: count_waiting(server) > 0)  # an extension has begun
        lease_time.skip_lease()
        was_lost = executor.is_lost
        other.execute("rollback")
    for _ in range(2):  # that extension, and a later one
        before = server.rows("select lease_until from executors")
        await until(lambda before=before: server.rows("select lease_until from executors") != before)  # type: ignore[misc]

    assert was_lost
    assert executor.is_lost


async def test_a_late_answer_does_not_extend_a_lease(
    journals: Journals, server: PostgresDatabase, lease_time: LeaseTime
) -> None:
    """A lease begins with the request for it, so an extension that is answered after the end of the lease comes too late."""
    journals()
    lease_time.speed = 100
    executor = journals(lease_s=LEASE_S, beat_s=0.05)
    server.execute(
        "create function answer_late() returns trigger language plpgsql"
        " as 'begin perform pg_sleep(0.8); return new; end';"
        " create trigger late before update on executors for each row execute function answer_late()"
    )
    try:
        before = server.rows("select lease_until from executors")
        await until(lambda: server.rows("select lease_until from executors") != before)
        was_lost = executor.is_lost
    finally:
        server.execute("drop function answer_late cascade")

    assert was_lost


async def test_lost_executor_joins_again(journals: Journals, server: PostgresDatabase, lease_time: LeaseTime) -> None:
    """A lost executor gets a new id; its runs are ready at once, and its earlier claims stay invalid."""
    executor = journals(lease_s=LEASE_S)
    await executor.accept_run(new_run())
    lease_time.skip_lease()
    old_id = executor.executor_id

    await executor.rejoin()

    assert executor.executor_id != old_id
    assert not executor.is_lost
    assert server.rows("select id from executors") == [(executor.executor_id,)]
    assert not await executor.append_step(FIRST, step_row(0, "one"))
    (claimed,) = await executor.claim_next()
    assert claimed.claim == Claim("run", 2, 2)
    assert await executor.append_step(claimed.claim, step_row(0, "one"))


async def test_a_lease_that_joining_begins_lasts_from_its_request(
    journals: Journals, server: PostgresDatabase, lease_time: LeaseTime
) -> None:
    """An executor that learns only after the end of its new lease that it has joined is lost, and starts nothing."""
    executor, _ = journals(lease_s=LEASE_S), journals()
    await until(lambda: executor._presence.has_others)  # type: ignore[attr-defined]
    with server.postgres_backend().connect() as slow, slow.transaction():
        slow.execute("lock table runs in access exclusive mode")
        joining = asyncio.ensure_future(executor.rejoin())
        await until(lambda: count_waiting(server) > 0)
        lease_time.skip_lease()
    await joining
    late = executor.may_start, executor.is_lost
    await executor.rejoin()

    assert late == (False, True)
    assert (executor.may_start, executor.is_lost) == (True, False)


async def test_a_claim_that_is_late_for_the_lease_starts_nothing(
    journals: Journals, server: PostgresDatabase, lease_time: LeaseTime
) -> None:
    """A claim that the database commits after the lease was lost is released by the new executor, so its run must not start here."""
    executor, _ = journals(lease_s=LEASE_S), journals()
    await executor.accept_run(new_run(queue="queue"))
    await until(lambda: executor._presence.has_others)  # type: ignore[attr-defined]
    with server.postgres_backend().connect() as slow, slow.transaction():
        slow.execute("lock table runs in access exclusive mode")
        claiming = asyncio.ensure_future(executor.claim_ready(9))
        await until(lambda: count_waiting(server) > 0)
        lease_time.skip_lease()
        joining = asyncio.ensure_future(executor.rejoin())
        await asyncio.sleep(0)
    claims = await claiming
    await joining
    (again,) = await executor.claim_ready(9)

    assert not claims
    assert again.claim == Claim("run", 2, 2)


@pytest.mark.parametrize("is_buried", [True, False], ids=["taken for dead", "first to notice"])
async def test_a_lost_lease_is_no_death(
    journals: Journals, server: PostgresDatabase, lease_time: LeaseTime, is_buried: bool
) -> None:
    """A host that was taken for dead and returns has not been ended by its run: what others have counted is forgotten."""
    host, other = journals(lease_s=LEASE_S), journals()
    await host.accept_run(new_run(begun=Begun.ALONE))
    lease_time.skip_lease()
    if is_buried:
        server.execute(f"update executors set lease_until = 0 where id = '{host.executor_id}'")
        assert await other.reap_dead() == 1
    counted = server.rows("select run_id, alone from interruptions")

    await host.rejoin()

    assert counted == ([("run", True)] if is_buried else [])
    assert server.rows("select * from interruptions") == []
    (claimed,) = await other.claim_ready(9)
    assert (claimed.claim.attempt, claimed.must_be_alone) == (2, False)


async def test_an_executor_with_an_old_key_does_not_join(
    journals: Journals, server: PostgresDatabase, lease_time: LeaseTime
) -> None:
    """A key that is replaced while an executor joins again, or starts, refuses the executor and leaves no row of it."""
    executor = journals(lease_s=LEASE_S)
    lease_time.skip_lease()
    ((key,),) = server.rows("select value from meta where name = 'key_fingerprint'")
    with server.postgres_backend().connect() as rotation, rotation.transaction():  # as `rotate_key` does
        rotation.execute("lock table executors in share row exclusive mode")
        rotation.execute("update executors set alive = false")
        joining = asyncio.ensure_future(executor.rejoin())
        await until(lambda: count_waiting(server) > 0)
        is_waiting = not joining.done()
        rotation.execute("update meta set value = 'another' where name = 'key_fingerprint'")
    try:
        with pytest.raises(RequestError, match="was replaced"):
            await joining
        with pytest.raises(RequestError, match="was replaced"):
            journals()
    finally:
        server.execute(f"update meta set value = '{key}' where name = 'key_fingerprint'")

    assert is_waiting
    assert not executor.may_start
    assert server.rows("select id from executors where alive") == []


async def test_run_whose_owner_is_gone_is_ready(journals: Journals, server: PostgresDatabase) -> None:
    """A run that was accepted at the moment of its executor's end has an owner without a row; the sweep finds the run."""
    journal = journals()
    await journal.accept_run(new_run())
    server.execute("update runs set owner = 'exec_gone'")

    assert await journal.reap_dead() == 1
    assert await journal.reap_dead() == 0
    assert await status(journal) == "resumed"


async def test_frozen_transaction_ends(server: PostgresDatabase) -> None:
    """The server ends the transaction of a frozen process, whose locks would keep others from its runs."""
    with closing(server.postgres_backend(lease_s=0.2).connect()) as frozen:
        frozen.execute("begin")
        connected = f"select 1 from pg_stat_activity where pid = {frozen.info.backend_pid}"
        await until(lambda: server.rows(connected) == [])

        with pytest.raises(psycopg.errors.IdleInTransactionSessionTimeout):
            frozen.execute("select 1")


# ── clocks ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_wrong_clock_is_corrected(postgres_project: Project, server: PostgresDatabase) -> None:
    """Time stamps of a host whose clock is wrong have the time of the database."""
    backend = PostgresBackend(postgres_project, corrects_clock=True)
    journal = Journal.open(backend, clock=ManualClock(datetime(2020, 1, 1, tzinfo=UTC)))
    try:
        await journal.accept_run(new_run())
    finally:
        await journal.close()

    ((created, now),) = server.rows("select created, cast(extract(epoch from now()) as double precision) from runs")
    assert abs(created - now) < PATIENCE_S
    assert abs(journal.clock.now().timestamp() - now) < PATIENCE_S


# ── notifications ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("change", ["cancel", "resume", "enqueue", "reap"])
async def test_others_are_notified(
    journals: Journals, server: PostgresDatabase, lease_time: LeaseTime, change: str
) -> None:
    """An executor is called back when another one has cancelled a run or made a run ready; the other one is not."""
    listener, other, dead = journals("serve"), journals("terminal"), journals("serve")
    await dead.accept_run(new_run())
    called, own = threading.Event(), threading.Event()
    listener.on_change(called.set)
    other.on_change(own.set)

    if change == "cancel":
        await other.cancel("run")
    elif change == "resume":
        await dead.park(FIRST, wait_row())
        await other.resolve_wait(WaitKey("run", "one"), "resumed")
    elif change == "enqueue":
        await other.accept_run(new_run("other", origin="serve"))
    else:
        lease_time.skip_lease()
        server.kill(dead)
        await other.reap_dead()

    await until(called.is_set)
    assert not own.is_set()


async def test_others_are_notified_of_runs_that_a_lost_executor_had(journals: Journals) -> None:
    """An executor that joins again notifies the others of its earlier runs, which are ready."""
    lost, listener = journals(), journals()
    await lost.accept_run(new_run())
    called = threading.Event()
    listener.on_change(called.set)

    await lost.rejoin()

    await until(called.is_set)
    assert await status(listener) == "resumed"


# ── executors that write at the same time ────────────────────────────────────────────────────────────────────────────


async def test_two_executors_keep_the_limits_of_a_queue(journals: Journals) -> None:
    """Executors that claim at the same time start no more runs than the queue's concurrency."""
    one, other = journals(), journals()
    await one.set_queue_limits("q", concurrency=5)
    await asyncio.gather(*(one.accept_run(new_run(f"run{number}", queue="q")) for number in range(20)))

    claims = await asyncio.gather(*(journal.claim_ready(3) for _ in range(5) for journal in (one, other)))

    assert sum(map(len, claims)) == 5


async def test_two_executors_keep_the_size_of_a_queue(journals: Journals) -> None:
    """Executors that accept at the same time put no more runs into a queue than its size."""
    both = [journals(), journals()]
    await both[0].set_queue_limits("q", concurrency=1)

    accepted = await asyncio.gather(
        *(both[number % 2].accept_run(new_run(f"run{number}", queue="q", queue_size=10)) for number in range(40))
    )

    assert sum(accepted) == 10


@contextlib.contextmanager
def held(server: PostgresDatabase, event: str, table: str = "runs") -> Iterator[None]:
    """Let no *event* (`insert`, `update`) of a row of *table* end before the block does."""
    server.execute(
        "create function hold_row() returns trigger language plpgsql as"
        " 'begin perform pg_advisory_xact_lock_shared(7); return new; end';"
        f" create trigger hold_row before {event} on {table} for each row execute function hold_row()"
    )
    try:
        with closing(server.postgres_backend().connect()) as holder:
            holder.execute("select pg_advisory_lock(7)")
            yield
    finally:
        server.execute("drop function hold_row cascade")


async def test_a_claim_waits_for_another_claim_of_its_queue(journals: Journals, server: PostgresDatabase) -> None:
    """An executor counts the runs of a queue after another one, which claims at the same time, has claimed its run."""
    one, other = journals(), journals()
    await one.set_queue_limits("q", concurrency=1)
    for number in range(2):
        await one.accept_run(new_run(f"run{number}", queue="q"))

    with held(server, "update"):
        claims = []
        for journal in (one, other):
            claims.append(asyncio.ensure_future(journal.claim_next("q")))
            await until(lambda: count_waiting(server) == len(claims))

    assert [len(await claim) for claim in claims] == [1, 0]


async def test_a_run_waits_for_another_run_of_a_full_queue(journals: Journals, server: PostgresDatabase) -> None:
    """An executor counts the runs that wait in a queue after another one, which accepts at the same time, has accepted its run."""
    one, other = journals(), journals()
    await one.set_queue_limits("q", concurrency=1)
    await one.store_definition(WORKFLOW)

    with held(server, "insert"):
        accepted = []
        for journal in (one, other):
            run = new_run(f"of {journal.executor_id}", queue="q", queue_size=1)
            accepted.append(asyncio.ensure_future(journal.accept_run(run)))
            await until(lambda: count_waiting(server) == len(accepted))

    assert [await each for each in accepted] == [True, False]


async def test_the_first_of_two_calls_ends_a_pause(journals: Journals, server: PostgresDatabase) -> None:
    """Of two calls that end one pause at the same time, the second is late, and the decision of the first stays."""
    both = [journals(), journals()]
    await both[0].accept_run(new_run())
    await both[0].park(FIRST, wait_row())

    with held(server, "update"):
        calls = []
        for journal, payload in zip(both, (b"approved", b"rejected"), strict=True):
            calls.append(asyncio.ensure_future(journal.resolve_wait(WaitKey("run", "one"), "resumed", payload)))
            await until(lambda: count_waiting(server) == len(calls))

    assert [await call for call in calls] == ["done", "late"]
    assert server.rows("select payload from waits") == [(b"approved",)]


async def test_a_message_that_is_due_is_claimed_once(journals: Journals, server: PostgresDatabase) -> None:
    """Of two executors that look for messages at the same time, one gets a message; the other does not wait for it."""
    one, other = journals(), journals()
    await one.accept_run(new_run())
    await one.finish(FIRST, "success", encode_output(), outbox=[outbox_row()])
    server.execute("update outbox set due = 0")

    with held(server, "update", "outbox"):
        first = asyncio.ensure_future(one.claim_deliveries())
        await until(lambda: count_waiting(server) > 0)
        second = asyncio.ensure_future(other.claim_deliveries())
        await until(lambda: second.done() or count_waiting(server) == 2)

    assert [len(await first), len(await second)] == [1, 0]


async def test_definition_of_an_accepted_run_stays(journals: Journals, server: PostgresDatabase) -> None:
    """If one executor removes the last run of a definition while another accepts the next one, the definition stays."""
    one, other = journals(), journals()
    for number in range(20):
        await one.store_definition(WORKFLOW)
        await one.accept_run(new_run(f"run{number}"))
        await one.finish(Claim.first(f"run{number}"), "success", encode_output())
        await asyncio.gather(one.accept_run(new_run(f"next{number}")), other.remove_runs([f"run{number}"]))

        assert server.rows("select count(*) from definitions") == [(1,)]
        await one.cancel(f"next{number}")
        await one.remove_runs([f"next{number}"])


async def test_failed_write_fails_only_its_caller(journals: Journals, server: PostgresDatabase) -> None:
    """A write that the server refuses has its own error; writes of the same transaction are run again without it."""
    journal = journals()
    for run_id in ("a", "b", "c"):
        await journal.accept_run(new_run(run_id))
    positions = {"a": 0, "b": 2**40, "c": 0}  # a position is a number of 32 bits

    with closing(server.postgres_backend().connect()) as other:  # the writes wait, so that they share a transaction
        other.execute("begin")
        other.execute("lock table steps")
        first = journal.append_step(Claim.first("a"), step_row(0, "zero"))
        await until(lambda: count_waiting(server) > 0)
        others = [journal.append_step(Claim.first(run_id), step_row(at, "one")) for run_id, at in positions.items()]
        other.execute("rollback")
    done = await asyncio.gather(first, *others, return_exceptions=True)

    assert (done[:2], done[3]) == ([True, True], True)
    assert isinstance(done[2], ProjectError)
    assert "refused a statement: integer out of range" in done[2].message
    assert server.rows("select run_id, path from steps order by 1, 2") == [("a", "one"), ("a", "zero"), ("c", "one")]


async def test_deadlock_is_retried(journals: Journals, server: PostgresDatabase) -> None:
    """If the server ends a transaction because of a deadlock, its writes are run again, and all succeed."""
    server.execute(
        "do $$ begin execute format('alter database %I set deadlock_timeout = 500', current_database()); end $$"
    )
    server.execute(
        "create function hold_first() returns trigger language plpgsql as"
        " 'begin if new.run_id = ''a'' then perform pg_advisory_xact_lock(1); end if; return new; end';"
        " create trigger hold_first before insert on steps for each row execute function hold_first()"
    )
    journal, connect = journals(), server.postgres_backend().connect
    for run_id in ("a", "b", "c"):
        await journal.accept_run(new_run(run_id))

    try:
        with closing(connect()) as other, closing(connect()) as holder:
            other.execute("set deadlock_timeout = '1min'")
            other.execute("begin")
            other.execute("select 1 from runs where id = 'b' for update")
            holder.execute("select pg_advisory_lock(1)")
            holder.execute("begin")
            holder.execute("lock table steps")
            steps = [journal.append_step(Claim.first("c"), step_row(0, "one"))]
            await until(lambda: count_waiting(server) > 0)
            steps += [journal.append_step(Claim.first(run_id), step_row(0, "one")) for run_id in ("a", "b")]
            holder.execute("rollback")  # the last two writes share a transaction, which has locked the run "a"
            await until(lambda: server.rows(f"select 1 {WAITING} and wait_event = 'advisory'") != [])
            locking = asyncio.create_task(
                asyncio.to_thread(other.execute, "select 1 from runs where id = 'a' for update")
            )
            await until(lambda: count_waiting(server) == 2)
            holder.execute("select pg_advisory_unlock(1)")  # the transaction goes on to the run "b"
            await locking
            other.execute("commit")
            done = await asyncio.gather(*steps)
    finally:
        server.execute("drop function hold_first cascade")

    assert done == [True, True, True]


# ── lost connections ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("state", "is_lost"),
    [
        ("08006", True),  # the connection failed
        ("25006", True),  # the server is not the primary one any more
        ("25P03", True),  # idle in a transaction for too long
        ("53300", True),  # too many connections
        ("57P01", True),  # the server shuts down
        ("57P03", True),  # the server starts
        ("57014", False),  # the statement was cancelled
        ("25P02", False),  # an earlier statement of the transaction failed
        ("40P01", False),  # a deadlock
        ("23505", False),  # a duplicate key
    ],
)
def test_errors_of_a_lost_connection(state: str, is_lost: bool) -> None:
    """Errors of the connection or of the server's state need a new connection; a statement's own error does not."""
    assert is_lost_connection(psycopg.errors.lookup(state)("no")) is is_lost


def test_errors_without_a_state() -> None:
    """An error without a SQL state is that of a connection, unless another class says otherwise."""
    faults = psycopg.OperationalError("no"), psycopg.InterfaceError("no"), psycopg.DataError("no"), OSError("no")

    assert [is_lost_connection(fault) for fault in faults] == [True, True, False, False]


def end_connections(server: PostgresDatabase) -> None:
    """Let the server end every other connection to the database."""
    server.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    )


async def test_journal_connects_again(journals: Journals, server: PostgresDatabase) -> None:
    """Connections that the server ends are replaced: writes, reads, the lease and notifications go on."""
    journal, other = journals(beat_s=0.05), journals("terminal")
    await journal.accept_run(new_run())
    called = threading.Event()
    journal.on_change(called.set)
    end_connections(server)

    assert await journal.append_step(FIRST, step_row(0, "one"))
    assert (await load(journal)).step("one").status == "success"
    await until(called.is_set)  # it listens again
    called.clear()
    await other.cancel("run")
    await until(called.is_set)
    assert not journal.is_lost


async def test_transaction_that_loses_its_connection_is_run_again(journals: Journals, server: PostgresDatabase) -> None:
    """A connection that ends in the middle of a transaction loses no write and repeats none."""
    journal = journals()
    await journal.accept_run(new_run())
    with closing(server.postgres_backend().connect()) as other:
        other.execute("begin")
        other.execute("select 1 from runs for update")
        step = journal.append_step(FIRST, step_row(0, "one"))
        await until(lambda: count_waiting(server) > 0)
        server.execute(f"select pg_terminate_backend(pid) {WAITING}")
        other.execute("rollback")

    assert await step
    assert server.rows("select path from steps") == [("one",)]


class Proxy:
    """
    A Unix socket before the server's, which can lose a connection during a commit.

    Attributes:
        loses: When the next commit loses its connection: `before` the server gets it, `during` or `after` its work; or None.
    """

    def __init__(self, folder: Path, target: Path) -> None:
        self.folder = folder
        self.loses: str | None = None
        self.lost = 0
        self._target = target
        self._connections: list[socket.socket] = []
        self._listener: socket.socket | None = None

    def start(self) -> None:
        """Accept connections."""
        path = self.folder / ".s.PGSQL.5432"
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def stop(self) -> None:
        """Refuse connections, and end those that are open."""
        self.refuse()
        self._end(*self._connections)

    def refuse(self) -> None:
        """Refuse connections; those that are open stay."""
        assert self._listener is not None
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(str(self._target))
                self._connections += (client, server)
                cut = threading.Event()
                threading.Thread(target=self._pass, args=(client, server, cut), daemon=True).start()
                threading.Thread(target=self._return, args=(server, client, cut), daemon=True).start()

    def _pass(self, client: socket.socket, server: socket.socket, cut: threading.Event) -> None:
        loses = None
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                loses = self.loses if data.endswith(b"commit\0") else None
                if loses:
                    self.loses = None
                    self.lost += 1
                    cut.set()  # before the server can answer
                if loses == "before":
                    break
                server.sendall(data)
                if loses == "during":
                    break
        if not cut.is_set() or loses in ("before", "during"):  # else the answer ends the connection
            self._end(client, server)

    def _return(self, server: socket.socket, client: socket.socket, cut: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while (data := server.recv(65536)) and not cut.is_set():
                client.sendall(data)
        self._end(client, server)

    @staticmethod
    def _end(*connections: socket.socket) -> None:
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


@pytest.fixture
def proxy(postgres: PostgresServer) -> Iterator[Proxy]:
    """A proxy before the server."""
    with tempfile.TemporaryDirectory(prefix="pdk-proxy-") as folder:  # the path of a Unix socket is short
        proxy = Proxy(Path(folder), postgres.sockets / ".s.PGSQL.5432")
        proxy.start()
        yield proxy
        proxy.stop()


@pytest.fixture
def distant_project(postgres_project: Project, proxy: Proxy) -> Iterator[Project]:
    """The project, behind the proxy."""
    name = postgres_project.sqlalchemy_engine.url.database
    url = f"postgresql://postgres@/{name}?host={quote(str(proxy.folder), safe='/')}"
    with Project.open(postgres_project.folder, database_url=url) as project:
        yield project


@pytest.fixture
async def distant(server: PostgresDatabase, distant_project: Project, lease_time: LeaseTime) -> AsyncIterator[Journal]:
    """A journal behind the proxy."""
    backend = PostgresBackend(distant_project, lease_s=LEASE_S, beat_s=0.1, monotonic=lease_time)
    journal = Journal.open(backend)
    yield journal
    await journal.close()


async def give_up(call: Awaitable[object], lease_time: LeaseTime) -> BaseException | None:
    """Let leases lapse until *call*, which tries to reach the server, has ended; return its error."""
    task = asyncio.ensure_future(call)
    while not task.done():
        lease_time.skip_lease()
        await asyncio.wait([task], timeout=0.1)
    return task.exception()


@pytest.mark.parametrize("loses", ["before", "after"])
async def test_lost_commit_is_neither_lost_nor_repeated(
    distant: Journal, proxy: Proxy, server: PostgresDatabase, loses: str
) -> None:
    """A connection that is lost during a commit leaves no doubt: each write is done once and returns what it did."""
    results: list[Any] = []
    for write in (
        lambda: distant.accept_run(new_run()),
        lambda: distant.append_step(FIRST, step_row(0, "zero")),
        lambda: distant.park(FIRST, wait_row(1)),
        lambda: distant.resolve_wait(WaitKey("run", "one"), "resumed"),
        lambda: distant.claim("run"),
        lambda: distant.finish(Claim("run", 2), "success", encode_output()),
    ):
        proxy.loses = loses
        results.append(await write())

    assert proxy.lost == 6
    assert [*results[:4], results[5]] == [True, True, True, "done", True]
    assert results[4].claim == Claim("run", 2)
    assert server.rows("select status, fence from runs") == [("success", 2)]
    assert server.rows("select path from steps") == [("zero",)]


async def test_commit_in_progress_is_awaited(distant: Journal, proxy: Proxy, server: PostgresDatabase) -> None:
    """A commit that goes on after its connection was lost is awaited: its write is not done again."""
    server.execute(
        "create function wait_in_commit() returns trigger language plpgsql as 'begin perform pg_sleep(0.3); return null; end'"
    )
    server.execute(
        "create constraint trigger wait_in_commit after insert on runs deferrable initially deferred"
        " for each row execute function wait_in_commit()"
    )
    try:
        proxy.loses = "during"
        accepted = await distant.accept_run(new_run())
    finally:
        server.execute("drop function wait_in_commit cascade")

    assert (accepted, proxy.lost) == (True, 1)
    assert server.rows("select id, owner from runs") == [("run", distant.executor_id)]


async def test_executor_with_an_unknown_write_gives_up_its_runs(
    journals: Journals, distant_project: Project, proxy: Proxy
) -> None:
    """Beside others, an executor that cannot ask whether the server has committed a write gives up its runs."""
    journals()
    distant = Journal.open(PostgresBackend(distant_project, lease_s=3, beat_s=0.1))
    await distant.accept_run(new_run())
    proxy.refuse()
    proxy.loses = "after"

    with pytest.raises(ProjectError, match="cannot be reached"):
        await distant.append_step(FIRST, step_row(0, "one"))

    assert distant.is_lost
    proxy.start()
    await distant.close()


async def test_unreachable_server_is_one_error(distant: Journal, proxy: Proxy, lease_time: LeaseTime) -> None:
    """While the server is gone nothing is accepted, with one message; after it the executor joins again."""
    await distant.accept_run(new_run())
    proxy.stop()

    unreachable = await give_up(distant.accept_run(new_run("refused")), lease_time)
    with pytest.raises(ProjectError, match="cannot be reached"):
        await distant.get_execution("run")
    assert isinstance(unreachable, ProjectError)
    assert re.match(r"The project's database postgresql://.* cannot be reached: ", unreachable.message)
    assert unreachable.fix is not None
    await until(lambda: not distant.may_start)

    proxy.start()
    await distant.rejoin()
    assert not distant.is_lost
    assert not await distant.append_step(FIRST, step_row(0, "one"))  # its runs are those of a dead executor
    assert await distant.accept_run(new_run("later"))
    assert await distant.get_execution("refused") is None


@pytest.mark.parametrize("conflicts", [3, 11])
async def test_a_write_that_meets_a_concurrent_one_is_repeated(journals: Journals, conflicts: int) -> None:
    """A transaction that the server ends for a concurrent one runs again ten times; its writes are those of the last try."""
    journal, tries = journals(), []
    await journal.accept_run(new_run("before"))

    def act(connection: Connection) -> int:
        tries.append(connection.execute("update runs set attempt = attempt + 1 where id = 'before'").rowcount)
        if len(tries) <= conflicts:
            raise SerializationFailure("could not serialize access due to concurrent update")
        return len(tries)

    if conflicts < 10:
        assert await journal._writer.write(act) == conflicts + 1
    else:
        with pytest.raises(ProjectError, match="refused a statement: could not serialize"):
            await journal._writer.write(act)

    assert len(tries) == min(conflicts + 1, 11)
    found = await journal.load_run("before")
    assert found is not None
    assert found[1].claim.attempt == (2 if conflicts < 10 else 1)


async def test_a_failing_callback_keeps_the_lease(journals: Journals, caplog: pytest.LogCaptureFixture) -> None:
    """An error of a callback is logged, the other callbacks are called, and the lease is extended."""
    journal, called = journals(lease_s=LEASE_S, beat_s=0.05), threading.Event()

    def fail() -> None:
        raise ValueError("own")

    journal.on_change(fail)
    journal.on_change(called.set)
    await journals().announce()

    await until(called.is_set)
    assert "A callback of the journal failed" in caplog.messages
    assert not journal.is_lost
    assert await journal.accept_run(new_run())


# ── tables ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_journal_of_a_project_is_in_its_database(postgres_project: Project, server: PostgresDatabase) -> None:
    """The journal that a project opens is that of its database."""
    journal = open_journal(postgres_project)
    await journal.accept_run(new_run())
    await journal.close()

    assert server.rows("select id from runs") == [("run",)]


async def test_newer_tables_are_refused(server: PostgresDatabase) -> None:
    """Tables of a newer version are not opened."""
    version = "update meta set value = '{}' where name = 'journal_schema_version'"
    ((current,),) = server.rows("select value from meta where name = 'journal_schema_version'")
    server.execute(version.format(99))
    try:
        with pytest.raises(ProjectError, match="a newer version of pdkernel has written it"):
            server.backend().create_tables()
    finally:
        server.execute(version.format(current))


def test_earlier_tables_are_changed(postgres_url: str, tmp_path: Path) -> None:
    """Processes that open tables of an earlier version at the same time give them what is new, once."""
    version = JOURNAL_SCHEMA.version + 1
    changed = replace(
        JOURNAL_SCHEMA, version=version, changes={version: "alter table runs add column mood text; select 1"}
    )
    with Project.open(tmp_path / ".pdkernel", database_url=postgres_url) as project:
        PostgresBackend(project).create_tables()
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda _: project.create_tables(changed, "journal_schema_version"), range(4)))
        with closing(psycopg.connect(postgres_url)) as connection:
            stored = connection.execute("select value from meta where name = 'journal_schema_version'").fetchall()
            connection.execute("select mood from runs")

    assert stored == [(str(version),)]


class FastClock(SystemClock):
    """The clock of a host that is an hour ahead."""

    def now(self) -> datetime:
        """Return the wall time of the host."""
        return super().now() + timedelta(hours=1)


async def test_a_project_has_the_time_of_its_database(postgres_url: str, tmp_path: Path) -> None:
    """The times of a host whose clock is an hour ahead are those of the database, in the project's own tables, too."""
    fast = FastClock()
    with Project.open(tmp_path / ".pdkernel", database_url=postgres_url, clock=fast) as project:
        journal = open_journal(project, clock=fast)
        try:
            with closing(psycopg.connect(postgres_url)) as connection:
                [(now,)] = connection.execute("select clock_timestamp()").fetchall()
            ahead = [clock.now() - now for clock in (journal.clock, project.clock, fast)]
        finally:
            await journal.close()

    assert [abs(each) < timedelta(seconds=PATIENCE_S) for each in ahead] == [True, True, False]


def test_tables_are_created_once(postgres_url: str, tmp_path: Path) -> None:
    """Processes that open a new project's journal at the same time create its tables once; foreign tables are refused."""
    with Project.open(tmp_path / ".pdkernel", database_url=postgres_url) as project:
        backend = PostgresBackend(project)
        with closing(backend.connect()) as connection:
            connection.execute("create table runs (id integer)")
            with pytest.raises(ProjectError, match="it has tables with the same names: runs"):
                backend.create_tables()
            connection.execute("drop table runs")
            with ThreadPoolExecutor(4) as threads:
                list(threads.map(lambda _: backend.create_tables(), range(4)))

            assert connection.execute("select value from meta where name = 'journal_schema_version'").fetchall() != []


async def test_version_changes_with_a_commit(journals: Journals, server: PostgresDatabase) -> None:
    """The version of the journal changes when another connection writes."""
    journal = journals()
    with closing(open_reader(server.backend())) as reader:
        before = await reader.version()
        await journal.accept_run(new_run())

        assert await reader.version() != before


async def test_a_pooler_of_transactions_is_refused(postgres: PostgresServer, server: PostgresDatabase) -> None:
    """A journal behind PgBouncer in its transaction mode is not opened: notifications would be lost."""
    backend = server.postgres_backend()
    with transaction_pooler(postgres.sockets, backend.arguments["dbname"]) as port:
        backend.arguments |= {"host": "127.0.0.1", "port": port}
        with pytest.raises(ProjectError, match="is behind a pooler") as refused:
            Journal.open(backend)

    assert refused.value.fix is not None
    assert "pool_mode = session" in refused.value.fix


async def test_commits_that_are_not_on_disk_are_refused(server: PostgresDatabase) -> None:
    """A journal is not opened if the server confirms commits before they are on its disk."""
    backend = server.postgres_backend()
    backend.arguments["options"] = "-c synchronous_commit=off"
    with pytest.raises(ProjectError, match="would lose events that were accepted") as refused:
        Journal.open(backend)

    assert refused.value.fix is not None
    assert "set synchronous_commit = on" in refused.value.fix

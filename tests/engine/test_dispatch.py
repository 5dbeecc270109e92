"""Which runs a process continues and when: one process on SQLite, and several on PostgreSQL."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from pdkernel.engine.dispatch import Dispatch, look_repeatedly, open_dispatch
from pdkernel.errors import ProjectError
from pdkernel.journal import MAX_LOST_TASKS, Claim, ClaimedRun, Journal, SqliteBackend, WaitKey
from pdkernel.journal.backend import Backend
from pdkernel.journal.schema import metadata
from pdkernel.storage import Project
from tests.journal.conftest import WORKFLOW, FakeLiveness, new_run, wait_row
from tests.waiting import until

if TYPE_CHECKING:
    from tests.postgres import PostgresServer

NEVER_S = 3600.0
"""An interval that no test waits for: what happens was noticed."""
FAR_S = 1.5
"""Seconds of a pause that begins well before its end, on a busy machine too."""
LEASE_S = 10.0
"""Seconds after which a silent process is dead: longer than a busy machine stalls."""
PATIENCE_S = 30.0
"""Seconds after which a test gives up; much less than `NEVER_S`."""


@dataclass
class Starter:
    """`RunStarter` that records what it should start and end."""

    free: int = 100
    started: dict[str, float] = field(default_factory=dict)
    claims: list[Claim] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    abandoned: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    deliveries: int = 0
    on_abandon: Callable[[], None] = lambda: None

    @property
    def free_runs(self) -> int:
        """The number of runs that can be started now."""
        return self.free - len(self.active_run_ids)

    @property
    def expected_places(self) -> int:
        """The number of runs that would begin to execute at once."""
        return self.free_runs

    @property
    def executing_run_ids(self) -> Collection[str]:
        """The ids of all runs that the test says are executed: those in progress, and others."""
        return [*self.active_run_ids, *self.elsewhere]

    @property
    def active_run_ids(self) -> Collection[str]:
        """The ids of the runs in progress."""
        return [run for run in self.started if run not in self.cancelled and run not in self.abandoned]

    def continue_run(self, claimed: ClaimedRun) -> None:
        """Record the start."""
        self.claims.append(claimed.claim)
        self.started[claimed.claim.run_id] = time.time()

    def deliver_due(self) -> None:
        """Count the call."""
        self.deliveries += 1

    async def cancel(self, run_id: str) -> bool:
        """Record the end."""
        self.cancelled.append(run_id)
        return True

    async def abandon_runs(self) -> None:
        """Record the end of all runs."""
        self.on_abandon()
        self.abandoned += self.active_run_ids


@dataclass
class Host:
    """A process: its journal, the runs that it starts, and its dispatch, which runs."""

    journal: Journal
    starter: Starter
    dispatch: Dispatch

    async def pause(self, run_id: str, seconds: float) -> float:
        """Accept a run, pause it for *seconds*, and return when the pause ends."""
        return await self.pause_until(run_id, time.time() + seconds)

    async def pause_until(self, run_id: str, ends: float) -> float:
        """Accept a run, pause it until *ends*, and return that time."""
        assert await self.journal.accept_run(new_run(run_id))
        assert await self.journal.park(Claim.first(run_id), wait_row(wake_at=ends))
        self.dispatch.notify()
        return ends

    async def wait_until_started(self, *run_ids: str, limit_s: float = PATIENCE_S) -> None:
        """Wait until the runs are started here."""
        await until(lambda: set(run_ids) <= set(self.starter.started), limit_s)


class Hosts:
    """Opens processes on one database."""

    def __init__(self, project: Project, liveness: FakeLiveness) -> None:
        self.project = project
        self._liveness = liveness
        self.notice_s = None if project.sqlite_path is not None else NEVER_S  # SQLite does not notify other processes
        self.opened = AsyncExitStack()

    def _backend(self, lease_s: float) -> Backend:
        if self.project.sqlite_path is not None:
            return SqliteBackend(self.project.sqlite_path, liveness=self._liveness)
        from pdkernel.journal.postgres import PostgresBackend

        return PostgresBackend(self.project, lease_s=lease_s, beat_s=lease_s / 10)

    async def open_journal(self, origin: str = "serve") -> Journal:
        """Open the journal of one more process, which has no dispatch."""
        journal = Journal.open(self._backend(LEASE_S), origin=origin)
        self.opened.push_async_callback(journal.close)
        await journal.store_definition(WORKFLOW)
        return journal

    async def open(self, *, free: int = 100, interval_s: float | None = None) -> Host:
        """Start one more process that serves; with a long *interval_s* it does nothing without a notice."""
        journal, starter = await self.open_journal(), Starter(free)
        dispatch = open_dispatch(journal, starter, interval_s=interval_s)
        await self.opened.enter_async_context(running(dispatch))
        return Host(journal, starter, dispatch)

    def kill(self, journal: Journal) -> None:
        """Let the process of *journal* be taken for dead."""
        self._liveness.kill(journal)
        if self.project.sqlite_path is None:
            self.execute("update executors set alive = false where id = %s", journal.executor_id)

    def execute(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Run SQL in the database, and return its rows."""
        if self.project.sqlite_path is not None:
            with closing(sqlite3.connect(self.project.sqlite_path, isolation_level=None)) as file:
                return file.execute(sql, values).fetchall()
        import psycopg  # an extra

        url = self.project.sqlalchemy_engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(url, autocommit=True) as connection:
            done = connection.execute(cast("Any", sql), values or None)
            return done.fetchall() if done.description else []


@asynccontextmanager
async def running(dispatch: Dispatch) -> AsyncIterator[None]:
    """Run the dispatch in the background."""
    task = asyncio.create_task(dispatch.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(scope="module")
def postgres_project(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project on PostgreSQL for all tests of this module."""
    folder = tmp_path_factory.mktemp("postgres") / ".pdkernel"
    with postgres.new_database() as url, Project.open(folder, database_url=url) as project:
        yield project


@pytest.fixture
def sqlite_project(tmp_path: Path) -> Iterator[Project]:
    """A project on SQLite."""
    with Project.open(tmp_path / ".pdkernel") as project:
        yield project


@pytest.fixture(params=["sqlite", "postgres"])
async def hosts(request: pytest.FixtureRequest) -> AsyncIterator[Hosts]:
    """Opens processes on one database."""
    project = request.getfixturevalue(f"{request.param}_project")
    made = Hosts(project, FakeLiveness())
    async with made.opened:
        yield made
    for table in metadata.tables:
        if request.param == "postgres" and made.execute("select to_regclass(%s)", table) != [(None,)]:
            made.execute(f"delete from {table}")


several = pytest.mark.parametrize("hosts", ["postgres"], indirect=True)
"""Marks a test with several processes."""


class TestEveryDispatch:
    """What both dispatches do."""

    async def test_a_ready_run_starts_at_once(self, hosts: Hosts) -> None:
        """A run that this process accepted as ready starts when the dispatch is notified, with the next fence."""
        host = await hosts.open(interval_s=NEVER_S)
        await host.journal.accept_run(new_run("run", queue="queue"))
        host.dispatch.notify()
        await host.wait_until_started("run")

        assert host.starter.claims == [Claim("run", 1, 1)]

    async def test_a_run_without_a_task_is_started_again(self, hosts: Hosts, caplog: Any) -> None:
        """A run that a process owns and does not execute, because an error has ended its task, is started again, which is logged."""
        host = await hosts.open(interval_s=0.05)
        host.starter.elsewhere.append("child")
        for name in ("run", "child"):
            await host.journal.accept_run(new_run(name))
        await host.wait_until_started("run")

        assert host.starter.claims == [Claim("run", 2, 2)]
        assert "The run run had no task in this process" in caplog.text

    async def test_a_run_whose_end_is_never_recorded_is_given_up(self, hosts: Hosts) -> None:
        """A run whose task ends again and again without a record is started a few times, the last time to end; then it has ended."""
        host = await hosts.open(interval_s=0.02)
        host.starter.abandoned.append("run")  # no task of it lasts
        await host.journal.accept_run(new_run("run"))
        execution = await host.journal.get_execution("run")
        async with asyncio.timeout(PATIENCE_S):
            while execution is not None and execution.status != "error":
                await asyncio.sleep(0.05)
                execution = await host.journal.get_execution("run")

        assert [claimed.fence for claimed in host.starter.claims] == [2, 3, MAX_LOST_TASKS + 1]
        assert execution is not None
        assert execution.error is not None
        assert "could not be recorded" in execution.error.message

    @pytest.mark.parametrize("hosts", ["sqlite"], indirect=True)
    async def test_a_run_that_the_database_refuses_to_end_stops_no_other(self, hosts: Hosts, caplog: Any) -> None:
        """A run that not even the dispatch can end stays in progress, which is logged once, and other runs continue."""
        host = await hosts.open(interval_s=0.02)
        host.starter.abandoned.append("run")
        await host.journal.accept_run(new_run("run"))
        hosts.execute(
            "create trigger refuses before update on runs when old.id = 'run' and new.status = 'error'"
            " begin select raise(abort, 'refused'); end"
        )
        await until(lambda: "refuses to end it" in caplog.text)
        await host.pause("other", 0.0)
        await host.wait_until_started("other")

        assert caplog.text.count("refuses to end it") == 1
        assert hosts.execute("select status from runs where id = 'run'") == [("running",)]

    @pytest.mark.parametrize("hosts", ["sqlite"], indirect=True)
    async def test_a_refusal_of_the_database_may_pass(self, hosts: Hosts, caplog: Any) -> None:
        """A run without a task that could not be released, for example while the disk was full, is started again later."""
        host = await hosts.open(interval_s=0.02)
        hosts.execute("create trigger refuses before update on runs begin select raise(abort, 'refused'); end")
        await host.journal.accept_run(new_run("run"))
        await until(lambda: "refuses to end it" in caplog.text)
        hosts.execute("drop trigger refuses")
        await host.wait_until_started("run")

        assert host.starter.claims == [Claim("run", 2, 2)]

    async def test_pauses_end_in_time(self, hosts: Hosts) -> None:
        """Runs continue when their pauses end, however short, and whatever the order in which they were paused."""
        host = await hosts.open(interval_s=NEVER_S)
        ends = {name: await host.pause(name, seconds) for name, seconds in [("c", 0.9), ("a", 0.0), ("b", 0.4)]}
        await host.wait_until_started(*ends)

        assert all(at >= ends[name] for name, at in host.starter.started.items())

    async def test_a_resume_by_another_process_starts_the_run(self, hosts: Hosts) -> None:
        """A call of the resume URL in another process is noticed."""
        host, other = await hosts.open(interval_s=hosts.notice_s), await hosts.open_journal("terminal")
        await host.pause("run", 3600)
        await other.resolve_wait(WaitKey("run", "one"), "resumed")
        await host.wait_until_started("run")

        assert host.starter.claims == [Claim("run", 2, 1)]

    @pytest.mark.parametrize("hosts", ["sqlite"], indirect=True)
    async def test_a_reported_change_is_noticed(self, hosts: Hosts) -> None:
        """A dispatch that would not look by itself looks when a change of the database is reported."""
        host, other = await hosts.open(interval_s=NEVER_S), await hosts.open_journal("terminal")
        report = host.dispatch.watch()
        await host.pause("run", 3600)
        await other.resolve_wait(WaitKey("run", "one"), "resumed")
        report()
        await host.wait_until_started("run")

        assert host.starter.claims == [Claim("run", 2, 1)]

    @pytest.mark.parametrize("hosts", ["sqlite"], indirect=True)
    async def test_a_watched_dispatch_needs_no_report(self, hosts: Hosts) -> None:
        """A pause that ends, a run without a task and a run of a dead process are noticed although no change is reported."""
        host, command = await hosts.open(interval_s=0.02), await hosts.open_journal("terminal")
        host.dispatch.watch()
        await host.journal.accept_run(new_run("lost"))
        await command.accept_run(new_run("abandoned"))
        hosts.kill(command)
        await host.pause("paused", 1.0)
        await host.wait_until_started("paused", "lost")
        await until(lambda: hosts.execute("select status from runs where id = 'abandoned'") == [("error",)])

    async def test_a_run_that_another_process_cancels_ends(self, hosts: Hosts) -> None:
        """The dispatch ends a run in progress that is cancelled in the database."""
        host, other = await hosts.open(interval_s=hosts.notice_s), await hosts.open_journal("terminal")
        await host.journal.accept_run(new_run("run", queue="queue"))
        host.dispatch.notify()
        await host.wait_until_started("run")
        await other.cancel("run")
        await until(lambda: host.starter.cancelled)

        assert host.starter.cancelled == ["run"]

    async def test_runs_of_a_dead_process_continue(self, hosts: Hosts) -> None:
        """The run of a process that died starts again as its next attempt."""
        dead = await hosts.open_journal()
        await dead.accept_run(new_run("run"))
        hosts.kill(dead)
        host = await hosts.open()
        await host.wait_until_started("run")

        assert host.starter.claims == [Claim("run", 2, 2)]

    async def test_runs_of_a_dead_process_continue_after_an_outage(
        self, hosts: Hosts, caplog: pytest.LogCaptureFixture
    ) -> None:
        """If the database cannot be read when the process starts, the run of a process that died starts later."""
        dead = await hosts.open_journal()
        await dead.accept_run(new_run("run"))
        hosts.kill(dead)
        journal, starter = await hosts.open_journal(), Starter()
        hosts.execute("alter table executors rename to moved")
        async with running(open_dispatch(journal, starter)):
            try:
                await until(lambda: "Runs cannot be continued at the moment" in caplog.text)
            finally:
                hosts.execute("alter table moved rename to executors")
            await until(lambda: starter.started)

        assert starter.claims == [Claim("run", 2, 2)]

    async def test_a_full_process_starts_runs_when_it_has_room(self, hosts: Hosts) -> None:
        """No more runs start than the process has room for; the others start when a run has ended."""
        host = await hosts.open(free=2)
        for name in ("a", "b", "c"):
            await host.journal.accept_run(new_run(name, queue="queue"))
        host.dispatch.notify()
        await host.wait_until_started("a", "b")
        await asyncio.sleep(0.3)
        before = list(host.starter.started)
        await host.starter.cancel("a")
        host.dispatch.notify()
        await host.wait_until_started("c")

        assert before == ["a", "b"]

    async def test_a_message_that_is_due_is_delivered(self, hosts: Hosts) -> None:
        """Messages of the outbox whose time has come are delivered."""
        host = await hosts.open()
        await host.journal.accept_run(new_run("run"))
        await host.journal.finish(Claim.first("run"), "success", "{}")
        hosts.execute("insert into outbox values ('run', 'one', 1, 0, 'sealed', '{}', 1, 1, null, '')")
        await until(lambda: host.starter.deliveries)

        assert host.starter.started == {}


@several
class TestSeveralProcesses:
    """What only `SharedDispatch` does."""

    async def test_a_pause_ends_in_time_on_one_process(self, hosts: Hosts) -> None:
        """Processes that look seldom start each run at the end of its pause, once, whichever of them paused it."""
        some = [await hosts.open(interval_s=NEVER_S) for _ in range(3)]
        first = time.time() + FAR_S
        ends = {f"run{n}": await some[n % 3].pause_until(f"run{n}", first + n / 100) for n in range(12)}
        await until(lambda: sum(len(host.starter.started) for host in some) >= 12)
        started = {run: at for host in some for run, at in host.starter.started.items()}

        assert started.keys() == ends.keys()
        assert sum(len(host.starter.claims) for host in some) == 12
        assert min(started[run] - ends[run] for run in ends) >= 0

    async def test_a_pause_ends_after_the_connections_were_cut(self, hosts: Hosts) -> None:
        """When the server has ended all connections, a process that looks seldom still starts a run at the end of its pause."""
        host = await hosts.open(interval_s=NEVER_S)
        ends = await host.pause("run", FAR_S)
        hosts.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name = 'pdkernel' and datname = current_database()"
        )
        await host.wait_until_started("run")

        assert host.starter.started["run"] >= ends

    async def test_a_full_process_leaves_runs_to_others(self, hosts: Hosts) -> None:
        """Runs that a process has no room for start on another one before its next sweep."""
        full = await hosts.open(free=1, interval_s=NEVER_S)
        await full.journal.accept_run(new_run("a", queue="queue"))
        full.dispatch.notify()
        await full.wait_until_started("a")
        free = await hosts.open(interval_s=NEVER_S)
        await free.journal.accept_run(new_run("first", queue="queue"))
        free.dispatch.notify()
        await free.wait_until_started("first")
        await full.journal.accept_run(new_run("b", queue="queue"))
        full.dispatch.notify()
        await free.wait_until_started("b")

        assert list(full.starter.started) == ["a"]

    async def test_processes_share_runs_that_are_due_together(self, hosts: Hosts) -> None:
        """Many runs that are due in one moment start once each, on all processes that have room."""
        some = [await hosts.open(free=30) for _ in range(2)]
        ends = time.time() + 1
        runs = {f"run{number}" for number in range(60)}
        await asyncio.gather(*(some[0].journal.accept_run(new_run(run)) for run in runs))
        await asyncio.gather(*(some[0].journal.park(Claim.first(run), wait_row(wake_at=ends)) for run in runs))
        some[0].dispatch.notify()
        await until(lambda: all(len(host.starter.started) == 30 for host in some))

        assert some[0].starter.started.keys() | some[1].starter.started.keys() == runs

    async def test_a_process_that_was_taken_for_dead_abandons_its_runs(self, hosts: Hosts) -> None:
        """It ends its runs, which another process continues, and goes on as a new executor; its old claims are refused."""
        lost = await hosts.open()
        await lost.journal.accept_run(new_run("run", queue="queue"))
        lost.dispatch.notify()
        await lost.wait_until_started("run")
        other = await hosts.open()
        old = lost.journal.executor_id
        abandoned_by = []
        lost.starter.on_abandon = lambda: abandoned_by.append(lost.journal.executor_id)
        lost.starter.free = 0
        hosts.kill(lost.journal)
        await other.wait_until_started("run")
        await until(lambda: lost.journal.executor_id != old)
        refused = await lost.journal.finish(lost.starter.claims[0], "success", "{}")
        lost.starter.free = 100
        await lost.pause("next", 0)
        await until(lambda: "next" in {**lost.starter.started, **other.starter.started})

        assert (lost.starter.abandoned, abandoned_by) == (["run"], [old])  # before it is a new executor
        assert other.starter.claims[0] == Claim("run", 2, 2)
        assert not refused
        assert not lost.journal.is_lost

    async def test_a_process_with_an_old_key_does_not_return(
        self, hosts: Hosts, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A process that was taken for dead does not return while the database has another key than it; the log names the reason."""
        lost = await hosts.open()
        old = lost.journal.executor_id
        ((key,),) = hosts.execute("select value from meta where name = 'key_fingerprint'")
        hosts.execute("update meta set value = 'another' where name = 'key_fingerprint'")
        hosts.kill(lost.journal)
        await until(lambda: "was replaced" in caplog.text)
        kept = lost.journal.executor_id
        hosts.execute("update meta set value = %s where name = 'key_fingerprint'", key)
        await until(lambda: lost.journal.executor_id != old)

        assert kept == old


async def test_a_notice_during_a_look_is_followed_by_another_look() -> None:
    """A notice that comes while the database is read does not wait for the next interval."""
    notice, looks = asyncio.Event(), 0

    async def look() -> float:
        nonlocal looks
        looks += 1
        if looks == 1:
            notice.set()
        return NEVER_S

    task = asyncio.create_task(look_repeatedly(look, notice, problem="", retry_s=NEVER_S))
    await until(lambda: looks >= 2)
    task.cancel()

    assert looks == 2


async def test_an_unexpected_error_does_not_end_the_dispatch(caplog: pytest.LogCaptureFixture) -> None:
    """What looks for runs goes on after an unexpected error, and the log has its trace."""
    looks = []

    async def look() -> float:
        looks.append(time.monotonic())
        if len(looks) == 1:
            raise ValueError("a bug")
        return NEVER_S

    task = asyncio.create_task(look_repeatedly(look, asyncio.Event(), problem="Nothing works", retry_s=0.01))
    await until(lambda: len(looks) == 2)
    task.cancel()

    assert "ValueError: a bug" in caplog.text


async def test_each_outage_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    """A database that cannot be read several times in a row causes one warning; after a success, a new one is reported."""
    fails, done = iter([True, True, False, True, True]), asyncio.Event()

    async def look() -> float:
        match next(fails, None):
            case True:
                raise ProjectError("The disk is full.")
            case None:
                done.set()
                return NEVER_S
        return 0

    task = asyncio.create_task(look_repeatedly(look, asyncio.Event(), problem="Cannot look", retry_s=0))
    await asyncio.wait_for(done.wait(), PATIENCE_S)
    task.cancel()

    assert caplog.messages == ["Cannot look: The disk is full."] * 2

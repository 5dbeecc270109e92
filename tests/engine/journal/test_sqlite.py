"""The SQLite journal: grouped commits, files, several processes, crashes."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from pdkernel.clock import ManualClock
from pdkernel.engine.journal import Claim, NewRun, SqliteJournal, encode_output, encode_step
from pdkernel.engine.journal.schema import metadata
from pdkernel.errors import ProjectError
from pdkernel.execution import StepResult
from pdkernel.project import Project
from pdkernel.project.sqlite import connect
from tests.engine.journal.conftest import WORKFLOW, new_run, step_row, wait_row

STEP = encode_step(StepResult("one", "success"))

WRITER = """
import asyncio, sys
from pathlib import Path
from pdkernel.engine.journal import Claim, NewRun, SqliteJournal, StepRow, encode_event, encode_step
from pdkernel.execution import StepResult

async def work(journal, name):
    run = NewRun(name, "trace", "Greet", 1, encode_event({}, {}))
    assert await journal.accept_run(run)
    for seq in range(int(sys.argv[3])):
        data = encode_step(StepResult(f"s{seq}", "success"))
        assert await journal.append_step(Claim.first(name), StepRow(seq, f"s{seq}", data, f"s{seq}"))
        print(name, seq, flush=True)

async def main():
    journal = SqliteJournal.open(Path(sys.argv[1]))
    await asyncio.gather(*(work(journal, f"{sys.argv[2]}{number}") for number in range(4)))
    await journal.close()

asyncio.run(main())
"""


def writing_thread(journal: SqliteJournal) -> asyncio.Future[str]:
    """Return the name of the thread that writes now."""
    return journal._writer.write(lambda _: threading.current_thread().name)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The journal's file."""
    return tmp_path / "journal.db"


@pytest.fixture
async def journal(path: Path) -> AsyncIterator[SqliteJournal]:
    """A journal in that file."""
    journal = SqliteJournal.open(path)
    yield journal
    await journal.close()


@pytest.fixture
async def prompt_journal(path: Path) -> AsyncIterator[SqliteJournal]:
    """A journal in that file that treats every disk as fast."""
    journal = SqliteJournal.open(path, max_inline_commit_s=math.inf)
    yield journal
    await journal.close()


def writer(path: Path, name: str, steps: int) -> subprocess.Popen[str]:
    """A process that appends *steps* to each of four runs, and prints acknowledged steps."""
    return subprocess.Popen([sys.executable, "-c", WRITER, path, name, str(steps)], stdout=subprocess.PIPE, text=True)


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    """Return the rows of *query* in the file."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def test_tables_compile_for_postgres() -> None:
    """Every table and index compiles for Postgres, including partial indexes."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]

    tables = {table.name: str(CreateTable(table).compile(dialect=dialect)) for table in metadata.sorted_tables}
    indexes = {
        str(index.name): str(CreateIndex(index).compile(dialect=dialect))
        for table in metadata.tables.values()
        for index in table.indexes
    }

    assert set(tables) == {"executors", "deployments", "runs", "steps", "waits", "limits", "starts"}
    assert "lease_until DOUBLE PRECISION NOT NULL" in tables["executors"]
    assert indexes["runs_due"] == "CREATE INDEX runs_due ON runs (wake_at) WHERE status = 'paused'"
    assert indexes["runs_ready"] == "CREATE INDEX runs_ready ON runs (queue, created) WHERE status = 'ready'"
    assert indexes["runs_owner"] == "CREATE INDEX runs_owner ON runs (owner) WHERE status = 'running'"
    assert indexes["runs_list"] == "CREATE INDEX runs_list ON runs (workflow, created, id)"
    assert indexes["starts_window"] == "CREATE INDEX starts_window ON starts (queue, at)"


@pytest.mark.parametrize(
    ("query", "plan"),
    [
        ("select 1 from runs where id = 'r' and fence = 1 and owner = 'me'", "sqlite_autoindex_runs_1 (id=?)"),
        ("select id from runs where status = 'paused' and wake_at <= 1", "runs_due (wake_at<?)"),
        (
            "select id from runs where status = 'ready' and queue is 'q' order by created",
            "runs_ready (queue=?)",
        ),
        ("select id from runs where owner = 'me' and status = 'running'", "runs_owner (owner=?)"),
        (
            "select id from runs where workflow = 'w' and (created, id) < (1, 'r') order by created desc, id desc",
            "runs_list (workflow=? AND (created,id)<(?,?))",
        ),
    ],
)
async def test_statements_use_their_index(journal: SqliteJournal, path: Path, query: str, plan: str) -> None:
    """Each query uses its index."""
    assert await journal.heartbeat()

    steps = [str(row[3]) for row in rows(path, f"explain query plan {query}")]

    assert len(steps) == 1
    assert plan in steps[0]


async def test_journal_shares_the_projects_file(tmp_path: Path) -> None:
    """The journal's tables are in the project's database, and both write to the file."""
    with Project.open(tmp_path / ".pdkernel") as project:
        assert project.sqlite_path is not None
        journal = SqliteJournal.open(project.sqlite_path)
        await journal.accept_run(new_run())
        project.variables.set("A", "1")
        await journal.append_step(Claim.first("run"), step_row(0, "one", STEP))
        await journal.close()

        assert rows(project.sqlite_path, "select name from variables union all select name from steps") == [
            ("A",),
            ("one",),
        ]
    with Project.open(tmp_path / ".pdkernel") as project:
        assert project.variables.values() == {"A": "1"}


async def test_step_of_a_single_run_is_committed_at_once(prompt_journal: SqliteJournal, path: Path) -> None:
    """The row of a step is committed at once if no other run is active."""
    await prompt_journal.accept_run(new_run())

    answer = prompt_journal.append_step(Claim.first("run"), step_row(0, "one", STEP))

    assert rows(path, "select name from steps") == [("one",)]
    assert await answer


async def test_step_of_concurrent_runs_is_committed_in_the_thread(prompt_journal: SqliteJournal, path: Path) -> None:
    """With another active run the row of a step goes through the thread, so that runs share commits."""
    await prompt_journal.accept_run(new_run())
    await prompt_journal.accept_run(new_run("other"))

    answer = asyncio.ensure_future(prompt_journal.append_step(Claim.first("run"), step_row(0, "one", STEP)))

    assert not answer.done()
    assert await answer
    assert rows(path, "select name from steps") == [("one",)]


async def test_writing_process_does_not_block_the_loop(prompt_journal: SqliteJournal, path: Path) -> None:
    """A step of a single run waits in the thread for a writing process, not in the event loop."""
    await prompt_journal.accept_run(new_run())
    with closing(connect(path)) as other:
        other.execute("begin immediate")

        answer = asyncio.ensure_future(prompt_journal.append_step(Claim.first("run"), step_row(0, "one", STEP)))

        assert not answer.done()
        other.execute("rollback")
    assert await answer


async def test_failed_inline_write_fails_only_its_caller(prompt_journal: SqliteJournal, path: Path) -> None:
    """A failed write of a single run raises in its caller, and the journal goes on."""
    await prompt_journal.accept_run(new_run())
    with closing(connect(path)) as other:
        other.execute("alter table steps rename to elsewhere")
        with pytest.raises(ProjectError, match="no such table"):
            await prompt_journal.append_step(Claim.first("run"), step_row(0, "one", STEP))
        other.execute("alter table elsewhere rename to steps")

    assert await prompt_journal.append_step(Claim.first("run"), step_row(0, "one", STEP))


async def test_concurrent_writes_share_commits(journal: SqliteJournal) -> None:
    """A hundred runs accepted at once take far fewer than a hundred commits, and every call gets its result."""
    before = journal.commits

    answers = await asyncio.gather(*(journal.accept_run(new_run(f"run{number}")) for number in range(100)))

    assert answers == [True] * 100
    assert journal.commits - before < 50


async def test_loop_commits_the_writes_of_one_iteration_together(prompt_journal: SqliteJournal) -> None:
    """On a fast disk, the writes of one loop iteration are one commit in the loop's thread."""
    before = prompt_journal.commits

    where = await asyncio.gather(*(writing_thread(prompt_journal) for _ in range(20)))

    assert set(where) == {threading.main_thread().name}
    assert prompt_journal.commits - before == 1


async def test_thread_commits_on_a_slow_disk(path: Path) -> None:
    """After slow commits the journal's thread commits."""
    journal = SqliteJournal.open(path, max_inline_commit_s=1e-9)

    where = [await writing_thread(journal) for _ in range(3)]

    await journal.close()
    assert (where[0], where[-1]) == (threading.main_thread().name, "pdkernel-journal")


async def test_close_commits_pending_writes_of_the_loop(path: Path) -> None:
    """A pending write of the loop is committed before the file is closed."""
    journal = SqliteJournal.open(path, max_inline_commit_s=math.inf)
    accepting = asyncio.ensure_future(journal.accept_run(new_run()))
    await asyncio.sleep(0)

    await journal.close()

    assert await accepting
    assert rows(path, "select count(*) from runs") == [(1,)]


async def test_each_write_of_a_batch_has_its_own_result(journal: SqliteJournal, path: Path) -> None:
    """In a batch with valid rows, a wrong fence, a repeat, an unknown run and an invalid row, the valid rows are committed."""
    for number in range(20):
        await journal.accept_run(new_run(f"run{number}"))

    answers = await asyncio.gather(
        *(journal.append_step(Claim.first(f"run{number}"), step_row(0, "one", STEP)) for number in range(20)),
        journal.append_step(Claim("run0", 7), step_row(1, "two", STEP)),
        journal.append_step(Claim.first("run0"), step_row(0, "one", STEP)),
        journal.append_step(Claim.first("none"), step_row(0, "one", STEP)),
        journal.append_step(Claim.first("run0"), step_row(2**70, "three", STEP)),
        return_exceptions=True,
    )

    assert answers[:23] == [True] * 20 + [False] * 3
    assert isinstance(answers[23], OverflowError)
    assert rows(path, "select count(*) from steps") == [(20,)]


async def test_failed_compound_write_is_rolled_back_alone(journal: SqliteJournal, path: Path) -> None:
    """A pause whose wait cannot be written leaves the run unchanged, and the rest of the batch is committed."""
    for run_id in ("bad", "good"):
        await journal.accept_run(new_run(run_id))

    answers = await asyncio.gather(
        journal.park(Claim.first("bad"), wait_row(2**70)),
        journal.park(Claim.first("good"), wait_row(0)),
        return_exceptions=True,
    )

    assert isinstance(answers[0], OverflowError)
    assert answers[1] is True
    assert rows(path, "select id, status, owner is null from runs order by id") == [
        ("bad", "running", 0),
        ("good", "paused", 1),
    ]


async def test_nul_and_lone_surrogates_are_recorded(journal: SqliteJournal) -> None:
    """NUL and lone surrogates in JSON or in a name are recorded and do not stop the writer."""
    await journal.deploy_definition(WORKFLOW)
    run = NewRun("run", "trace", "Greet", 1, '{"event":{"body":"a\ud800\0"},"context":{}}', "ada\udfff\0")
    assert await journal.accept_run(run)
    data = encode_step(StepResult("one", "success", exports={"x": "\ud83d\0"}))
    assert await journal.append_step(Claim.first("run"), step_row(0, "n\ud800", data))
    assert await journal.finish(Claim.first("run"), "success", encode_output())

    execution = await journal.get_execution("run")

    assert execution is not None
    assert execution.event == {"body": "a\ud800\0"}
    assert execution.external_user == "ada\ufffd\ufffd"
    assert execution.step("one").exports == {"x": "\ud83d\0"}


async def test_any_loop_may_write(journal: SqliteJournal) -> None:
    """Callers of several event loops each get results on their own loop."""

    def other_loop(name: str) -> bool:
        return asyncio.run(journal.accept_run(new_run(name)))

    answers = await asyncio.gather(
        asyncio.to_thread(other_loop, "a"), asyncio.to_thread(other_loop, "b"), journal.accept_run(new_run("c"))
    )

    assert all(answers)


async def test_cancelled_caller_does_not_affect_other_callers(journal: SqliteJournal) -> None:
    """A cancelled caller gets no result; the others do."""
    task = asyncio.create_task(journal.accept_run(new_run("a")))
    await asyncio.sleep(0)
    task.cancel()

    assert await journal.accept_run(new_run("b"))


async def test_close_commits_unawaited_writes(path: Path) -> None:
    """An unawaited `finish` is on disk after `close`."""
    journal = SqliteJournal.open(path)
    await journal.accept_run(new_run())
    await journal.finish(Claim.first("run"), "success", encode_output(), wait=False)

    await journal.close()

    assert rows(path, "select status, owner from runs") == [("success", None)]


async def test_closed_executor_leaves_no_row(path: Path) -> None:
    """An executor that owns no run has no row after `close`."""
    journal = SqliteJournal.open(path, slot="desk:1")
    during = rows(path, "select slot, alive from executors")

    await journal.close()

    assert during == [("desk:1", 1)]
    assert rows(path, "select * from executors") == []


async def test_wait_is_written_with_its_pause(journal: SqliteJournal, path: Path) -> None:
    """A pause records its wait; waking it records outcome and payload."""
    await journal.accept_run(new_run())
    await journal.park(Claim.first("run"), wait_row(3, wake_at=5.0, token_hash="hash"))
    await journal.resolve_wait("run", 1, "resumed", '{"a":1}')

    assert rows(path, "select run_id, fence, seq, token_hash, outcome, payload from waits") == [
        ("run", 1, 3, "hash", "resumed", '{"a":1}')
    ]


async def test_newer_journal_is_refused(path: Path) -> None:
    """A journal of a newer version is refused with the command to upgrade."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("pragma user_version = 99")

    with pytest.raises(
        ProjectError, match=r"a newer version of pdkernel has written it \(schema version 99;"
    ) as caught:
        SqliteJournal.open(path)

    assert caught.value.fix == "Upgrade pdkernel: pip install --upgrade pdkernel"
    assert rows(path, "pragma user_version") == [(99,)]


async def test_damaged_journal_is_refused(path: Path) -> None:
    """A file that is not a database is refused and not changed."""
    path.write_bytes(b"garbage" * 1000)

    with pytest.raises(ProjectError, match="is damaged or is not a database"):
        SqliteJournal.open(path)

    assert path.read_bytes() == b"garbage" * 1000


async def test_write_on_a_full_disk_is_an_error(path: Path) -> None:
    """If the file cannot grow, every caller of the batch gets an error, and acknowledged writes stay."""
    journal = SqliteJournal.open(path)
    await journal.accept_run(new_run("kept"))
    pages = rows(path, "pragma page_count")[0][0]
    await journal._writer.write(lambda connection: connection.execute(f"pragma max_page_count = {pages}").fetchone())

    answers = await asyncio.gather(
        *(journal.append_step(Claim.first("kept"), step_row(seq, "one", "x" * 100_000)) for seq in range(3)),
        return_exceptions=True,
    )
    await journal.close()

    assert all(isinstance(answer, ProjectError) for answer in answers)
    assert "the disk is full" in str(answers[0])
    assert rows(path, "select id from runs") == [("kept",)]


async def test_reaping_during_appends_loses_no_step(path: Path, clock: ManualClock) -> None:
    """If runs are reaped during appends, no acknowledged step is lost and no later step is accepted."""
    owner = SqliteJournal.open(path, clock=clock)
    for number in range(50):
        await owner.accept_run(new_run(f"run{number}"))
    clock.advance(60)
    reaper = SqliteJournal.open(path, clock=clock)

    async def append_until_refused(run_id: str) -> int:
        seq = 0
        while await owner.append_step(Claim.first(run_id), step_row(seq, "one", STEP)):
            seq += 1
        return seq

    async def take_over() -> list[tuple[Any, ...]]:
        while len(rows(path, "select distinct run_id from steps")) < 50:
            await asyncio.sleep(0.001)
        await reaper.reap_expired()
        assert len(await reaper.claim_next(limit=50)) == 50
        return rows(path, "select run_id, count(*) from steps group by run_id")

    *acknowledged, at_claim = await asyncio.gather(
        *(append_until_refused(f"run{number}") for number in range(50)), take_over()
    )
    after = rows(path, "select run_id, count(*) from steps group by run_id")
    await owner.close()
    await reaper.close()

    assert isinstance(at_claim, list)
    assert sorted(after) == sorted(at_claim)
    assert dict(after) == {f"run{number}": count for number, count in enumerate(acknowledged) if count}


async def test_concurrent_processes_write_to_one_journal(path: Path) -> None:
    """Two processes that write at the same time both record everything."""
    processes = [writer(path, name, steps=25) for name in "xy"]

    for process in processes:
        process.communicate(timeout=60)

    assert [process.returncode for process in processes] == [0, 0]
    assert rows(path, "select count(*), count(distinct run_id) from steps") == [(200, 8)]


async def test_second_connection_keeps_the_first_ones_locks(path: Path) -> None:
    """A second connection in one process does not let another process remove the write-ahead log under a writer."""
    journal = SqliteJournal.open(path)
    await journal.accept_run(new_run("before"))
    connect(path).close()

    subprocess.run(
        [sys.executable, "-c", f"import sqlite3; sqlite3.connect({str(path)!r}).execute('select 1 from runs').close()"],
        check=True,
    )
    await journal.accept_run(new_run("after"))

    assert rows(path, "select id from runs order by id") == [("after",), ("before",)]
    await journal.close()
    assert rows(path, "select id from runs order by id") == [("after",), ("before",)]


async def test_acknowledged_steps_survive_kill_9(path: Path) -> None:
    """After kill -9 the reopened journal has every acknowledged step, and its runs are readable."""
    process = writer(path, "run", steps=100_000)
    assert process.stdout is not None
    acknowledged = [process.stdout.readline() for _ in range(200)]

    os.kill(process.pid, signal.SIGKILL)
    acknowledged += process.communicate()[0].splitlines(keepends=True)
    journal = SqliteJournal.open(path)
    execution = await journal.get_execution("run0")
    await journal.close()

    acknowledged_rows = {tuple(line.split()) for line in acknowledged if line.endswith("\n")}
    recorded = {(str(run_id), str(seq)) for run_id, seq in rows(path, "select run_id, seq from steps")}
    assert len(acknowledged_rows) >= 200
    assert acknowledged_rows <= recorded
    assert execution is not None
    assert execution.status == "executing"
    assert execution.step("s0").status == "success"


# ── files of earlier versions ────────────────────────────────────────────────────────────────────────────────────────

VERSION_1 = (Path(__file__).parent / "version_1.sql").read_text(encoding="utf-8")
"""A file of the first version: a finished, two running, two paused runs and a queued one."""
UNFINISHED = ("orphan", "parked", "paused", "queued", "running")


@pytest.fixture
def old_path(path: Path) -> Path:
    """A file of the first version."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(VERSION_1)
    return path


def columns(path: Path) -> dict[str, list[Any]]:
    """The columns and the key of each table, and the indexes."""
    tables = [name for (name,) in rows(path, "select name from sqlite_master where type = 'table' order by name")]
    found: dict[str, list[Any]] = {
        table: [
            (name, kind.lower(), required, key)
            for _, name, kind, required, _, key in rows(path, f"pragma table_info({table})")
        ]
        for table in tables
    }
    return found | {
        "indexes": rows(path, "select name from sqlite_master where type = 'index' and sql is not null order by name")
    }


async def test_an_earlier_file_gets_the_tables_of_a_new_file(old_path: Path, tmp_path: Path) -> None:
    """After the migration the tables, keys and indexes are those of a new file."""
    await SqliteJournal.open(old_path).close()
    await SqliteJournal.open(tmp_path / "new.db").close()

    assert columns(old_path) == columns(tmp_path / "new.db")
    assert rows(old_path, "pragma user_version") == rows(tmp_path / "new.db", "pragma user_version")


async def test_finished_runs_survive_a_migration(old_path: Path) -> None:
    """A finished run of an earlier version reads as before, with the path of each step."""
    journal = SqliteJournal.open(old_path)

    execution = await journal.get_execution("finished")
    await journal.close()

    assert execution is not None
    assert (execution.status, execution.event, execution.external_user) == (
        "success",
        {"body": {"name": "finished"}},
        "ada",
    )
    assert [(step.name, step.path, step.iteration, step.return_value) for step in execution.steps] == [
        ("one", "one", 1, "one"),
        ("two", "two", 1, "two"),
    ]


async def test_unfinished_runs_end_with_a_migration(old_path: Path) -> None:
    """A run that an earlier version left unfinished ends with the reason, keeps its steps, and is never continued."""
    journal = SqliteJournal.open(old_path)

    ended = [await journal.get_execution(run_id) for run_id in UNFINISHED]
    claimed = [*await journal.claim_next(None, limit=9), *await journal.claim_next("mail", limit=9)]
    woken = await journal.wake_due()
    await journal.close()

    assert {each.status for each in ended if each} == {"error"}
    assert {each.error.code for each in ended if each and each.error} == {"earlier_version"}
    assert all(each and each.finished_at for each in ended)
    assert (claimed, woken) == ([], 0)
    assert rows(old_path, "select run_id, path from steps where run_id in ('paused', 'running') order by run_id") == [
        ("paused", "one"),
        ("running", "one"),
    ]


async def test_a_killed_migration_changes_nothing(old_path: Path) -> None:
    """A process that is killed within the migration leaves the earlier file, which the next process migrates."""
    code = (
        "import os, signal, sqlite3, sys\n"
        "from pdkernel.engine.journal.schema import SQLITE_MIGRATIONS\n"
        "connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "connection.execute('begin immediate')\n"
        "for statement in SQLITE_MIGRATIONS[2].split(';')[:5]:\n"
        "    connection.execute(statement)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(old_path)], check=False)
    unchanged = rows(old_path, "select count(*) from steps where seq = 0"), rows(old_path, "pragma user_version")

    journal = SqliteJournal.open(old_path)
    execution = await journal.get_execution("finished")
    await journal.close()

    assert killed.returncode == -signal.SIGKILL
    assert unchanged == ([(3,)], [(1,)])
    assert execution is not None
    assert execution.status == "success"


async def test_concurrent_processes_migrate_once(old_path: Path) -> None:
    """Processes that open an earlier file at the same time all open the migrated file."""
    journals = await asyncio.gather(*(asyncio.to_thread(SqliteJournal.open, old_path) for _ in range(4)))

    found = [await journal.get_execution("finished") for journal in journals]
    for journal in journals:
        await journal.close()

    assert [each.status for each in found if each] == ["success"] * 4

"""The SQLite journal: grouped commits, files, several processes, crashes."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from pdkernel.common.clock import SequentialIds
from pdkernel.errors import ProjectError, RequestError
from pdkernel.execution import StepResult
from pdkernel.journal import (
    Claim,
    Journal,
    NewRun,
    SqliteBackend,
    WaitKey,
    encode_event,
    encode_output,
    encode_step,
    open_reader,
)
from pdkernel.journal.schema import JOURNAL_SCHEMA
from pdkernel.journal.sqlite import ExecutorLocks
from pdkernel.storage import Project
from pdkernel.storage.sqlite import connect
from tests.journal.conftest import WORKFLOW, FakeLiveness, Open, new_run, outbox_row, step_row, wait_row
from tests.journal.conftest import rows_of as rows

WRITER = """
import asyncio, sys
from pathlib import Path
from pdkernel.journal import Claim, NewRun, Journal, SqliteBackend, StepRow, encode_event, encode_step
from pdkernel.execution import StepResult

async def work(journal, name):
    run = NewRun(name, "trace", "Greet", "", encode_event({}, {}))
    assert await journal.accept_run(run)
    for seq in range(int(sys.argv[3])):
        data = encode_step(StepResult(f"s{seq}", "success"))
        assert await journal.append_step(Claim.first(name), StepRow(seq, f"s{seq}", data, f"s{seq}"))
        print(name, seq, flush=True)

async def main():
    journal = Journal.open(SqliteBackend(Path(sys.argv[1])), origin="serve" if sys.argv[2] == "run" else "terminal")
    await asyncio.gather(*(work(journal, f"{sys.argv[2]}{number}") for number in range(4)))
    await journal.close()

asyncio.run(main())
"""


def writing_thread(journal: Journal) -> asyncio.Future[str]:
    """Return the name of the thread that writes now."""
    return journal._writer.write(lambda _: threading.current_thread().name)


@pytest.fixture
def kind() -> str:
    """These tests are about files."""
    return "sqlite"


@pytest.fixture
async def journal(path: Path) -> AsyncIterator[Journal]:
    """A journal in that file."""
    journal = Journal.open(SqliteBackend(path))
    yield journal
    await journal.close()


@pytest.fixture
async def prompt_journal(path: Path) -> AsyncIterator[Journal]:
    """A journal in that file that treats every disk as fast."""
    journal = Journal.open(SqliteBackend(path, max_inline_commit_s=math.inf))
    yield journal
    await journal.close()


def writer(path: Path, name: str, steps: int) -> subprocess.Popen[str]:
    """A process that appends *steps* to each of four runs, and prints acknowledged steps."""
    return subprocess.Popen([sys.executable, "-c", WRITER, path, name, str(steps)], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("query", "plan"),
    [
        ("select 1 from runs where id = 'r' and fence = 1 and owner = 'me'", "sqlite_autoindex_runs_1 (id=?)"),
        ("select id from runs where status = 'paused' and wake_at <= 1", "runs_due (wake_at<?)"),
        (
            "select id from runs where status = 'ready' and origin = 'serve' and queue is 'q' order by rowid",
            "runs_ready (origin=? AND queue=?)",
        ),
        (
            "select 1 from runs where status = 'ready' and origin = 'serve' and queue is null limit 1",
            "runs_ready (origin=? AND queue=?)",
        ),
        ("select min(wake_at) from runs where status = 'paused'", "USING COVERING INDEX runs_due"),
        ("select distinct workflow from definitions", "USING COVERING INDEX definitions_workflow"),
        ("select path from outbox where run_id = 'r'", "sqlite_autoindex_outbox_1 (run_id=?)"),
        ("select run_id from outbox where due <= 1 order by due", "outbox_due (due<?)"),
        ("select id from runs where owner = 'me' and status = 'running'", "runs_owner (owner=?)"),
        (
            "select id from runs where status = 'error' and external_user = 'ada' and environment = 'd' and created >= 1",
            "runs_failed (external_user=? AND environment=? AND created>?)",
        ),
        (
            "select id from runs where workflow = 'w' and (created, id) < (1, 'r') order by created desc, id desc",
            "runs_list (workflow=? AND (created,id)<(?,?))",
        ),
        (
            "select count(*) from runs where workflow = 'w' and created >= 1 and created < 2",
            "USING COVERING INDEX runs_list (workflow=? AND created>? AND created<?)",
        ),
        (
            "select created, id from runs where workflow = 'w' and status = 'exited' order by created desc, id desc",
            "USING COVERING INDEX runs_by_status (workflow=? AND status=?)",
        ),
        (
            "select count(*) from runs where workflow = 'w' and status = 'error' and created >= 1 and created < 2",
            "USING COVERING INDEX runs_by_status (workflow=? AND status=? AND created>? AND created<?)",
        ),
        ("select id from runs where workflow || '' = coalesce('w', workflow) and status = 'paused'", "runs_due"),
        ("select 1 from runs where definition = 'd'", "USING COVERING INDEX runs_definition (definition=?)"),
        ("select 1 from runs where package_lock = 'p'", "USING COVERING INDEX runs_package_lock (package_lock=?)"),
    ],
)
async def test_statements_use_their_index(journal: Journal, path: Path, query: str, plan: str) -> None:
    """Each query uses its index."""
    assert await journal.next_wake() is None

    steps = [str(row[3]) for row in rows(path, f"explain query plan {query}")]

    assert len(steps) == 1
    assert plan in steps[0]


async def test_journal_shares_the_projects_file(tmp_path: Path) -> None:
    """The journal's tables are in the project's database, and both write to the file."""
    with Project.open(tmp_path / ".pdkernel") as project:
        assert project.sqlite_path is not None
        journal = Journal.open(SqliteBackend(project.sqlite_path))
        await journal.accept_run(new_run())
        project.variables.set("A", "1")
        await journal.append_step(Claim.first("run"), step_row(0, "one"))
        await journal.close()

        assert rows(project.sqlite_path, "select name from variables union all select name from steps") == [
            ("A",),
            ("one",),
        ]
    with Project.open(tmp_path / ".pdkernel") as project:
        assert project.variables.values() == {"A": "1"}


async def test_step_of_a_single_run_is_committed_at_once(prompt_journal: Journal, path: Path) -> None:
    """The row of a step is committed at once if no other run is active."""
    await prompt_journal.accept_run(new_run())

    answer = prompt_journal.append_step(Claim.first("run"), step_row(0, "one"))

    assert rows(path, "select name from steps") == [("one",)]
    assert await answer


async def test_step_of_concurrent_runs_is_committed_in_the_thread(prompt_journal: Journal, path: Path) -> None:
    """With another active run the row of a step goes through the thread, so that runs share commits."""
    await prompt_journal.accept_run(new_run())
    await prompt_journal.accept_run(new_run("other"))

    answer = asyncio.ensure_future(prompt_journal.append_step(Claim.first("run"), step_row(0, "one")))

    assert not answer.done()
    assert await answer
    assert rows(path, "select name from steps") == [("one",)]


async def test_writing_process_does_not_block_the_loop(prompt_journal: Journal, path: Path) -> None:
    """A step of a single run waits in the thread for a writing process, not in the event loop."""
    await prompt_journal.accept_run(new_run())
    with closing(connect(path)) as other:
        other.execute("begin immediate")

        answer = asyncio.ensure_future(prompt_journal.append_step(Claim.first("run"), step_row(0, "one")))

        assert not answer.done()
        other.execute("rollback")
    assert await answer


async def test_failed_inline_write_fails_only_its_caller(prompt_journal: Journal, path: Path) -> None:
    """A failed write of a single run raises in its caller, and the journal goes on."""
    await prompt_journal.accept_run(new_run())
    with closing(connect(path)) as other:
        other.execute("alter table steps rename to elsewhere")
        with pytest.raises(ProjectError, match="no such table"):
            await prompt_journal.append_step(Claim.first("run"), step_row(0, "one"))
        other.execute("alter table elsewhere rename to steps")

    assert await prompt_journal.append_step(Claim.first("run"), step_row(0, "one"))


async def test_concurrent_writes_share_commits(journal: Journal) -> None:
    """A hundred runs accepted at once take far fewer than a hundred commits, and every call gets its result."""
    before = journal.commits

    answers = await asyncio.gather(*(journal.accept_run(new_run(f"run{number}")) for number in range(100)))

    assert answers == [True] * 100
    assert journal.commits - before < 50


async def test_loop_commits_the_writes_of_one_iteration_together(prompt_journal: Journal) -> None:
    """On a fast disk, the writes of one loop iteration are one commit in the loop's thread."""
    before = prompt_journal.commits

    where = await asyncio.gather(*(writing_thread(prompt_journal) for _ in range(20)))

    assert set(where) == {threading.main_thread().name}
    assert prompt_journal.commits - before == 1


async def test_thread_commits_on_a_slow_disk(path: Path) -> None:
    """After slow commits the journal's thread commits."""
    journal = Journal.open(SqliteBackend(path, max_inline_commit_s=1e-9, inline_retry_s=3600))

    where = [await writing_thread(journal) for _ in range(3)]

    await journal.close()
    assert where[0] == threading.main_thread().name
    assert where[-1].startswith("pdkernel-journal")


async def test_close_commits_pending_writes_of_the_loop(path: Path) -> None:
    """A pending write of the loop is committed before the file is closed."""
    journal = Journal.open(SqliteBackend(path, max_inline_commit_s=math.inf))
    accepting = asyncio.ensure_future(journal.accept_run(new_run()))
    await asyncio.sleep(0)

    await journal.close()

    assert await accepting
    assert rows(path, "select count(*) from runs") == [(1,)]


async def test_each_write_of_a_batch_has_its_own_result(journal: Journal, path: Path) -> None:
    """In a batch with valid rows, a wrong fence, a repeat, an unknown run and an invalid row, the valid rows are committed."""
    for number in range(20):
        await journal.accept_run(new_run(f"run{number}"))

    answers = await asyncio.gather(
        *(journal.append_step(Claim.first(f"run{number}"), step_row(0, "one")) for number in range(20)),
        journal.append_step(Claim("run0", 7), step_row(1, "two")),
        journal.append_step(Claim.first("run0"), step_row(0, "one")),
        journal.append_step(Claim.first("none"), step_row(0, "one")),
        journal.append_step(Claim.first("run0"), step_row(2**70, "three")),
        return_exceptions=True,
    )

    assert answers[:23] == [True] * 20 + [False] * 3
    assert isinstance(answers[23], OverflowError)
    assert rows(path, "select count(*) from steps") == [(20,)]


async def test_failed_compound_write_is_rolled_back_alone(journal: Journal, path: Path) -> None:
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


BROKEN = "a\ud800\0"
"""A text that UTF-8 or a database cannot store."""
STORED = "a\ufffd\ufffd"
"""`BROKEN` in a column of plain text."""


async def test_nul_and_lone_surrogates_in_json_keep_their_value(journal: Journal) -> None:
    """NUL and lone surrogates in the JSON of an event, a step, an end and a message are read as they were written."""
    await journal.store_definition(WORKFLOW)
    event = '{"event":{"body":"a\ud800\0"},"context":{}}'
    data = encode_step(StepResult("one", "success", exports={"x": BROKEN}))
    output = '{"response":{"status":200,"headers":{},"body":"a\ud800\0"},"error":null,"steps":{}}'
    message = replace(outbox_row(), shown='{"step":"one","kind":"http","outcome":"waiting","to":"a\ud800\0"}')
    assert await journal.accept_run(new_run(event=event))
    assert await journal.append_step(Claim.first("run"), step_row(0, "one", data))
    assert await journal.finish(Claim.first("run"), "success", output, outbox=[message, outbox_row(1)])
    assert await journal.record_delivery("run", outbox_row(1), message.shown)

    execution = await journal.get_execution("run")

    assert execution is not None
    assert execution.event == {"body": BROKEN}
    assert execution.step("one").exports == {"x": BROKEN}
    assert execution.response is not None
    assert (execution.response.body, [send.to for send in execution.sends]) == (BROKEN, [BROKEN] * 2)


async def test_nul_and_lone_surrogates_in_a_pause_keep_their_value(journal: Journal) -> None:
    """NUL and lone surrogates in the step of a pause, and in the event that it replaces, are read as they were written."""
    await journal.accept_run(new_run())
    data = encode_step(StepResult("one", "success", exports={"x": BROKEN}))
    event = '{"event":{"body":"a\ud800\0"},"context":{}}'

    assert await journal.park(Claim.first("run"), wait_row(data=data), event=event)

    execution = await journal.get_execution("run")
    assert execution is not None
    assert (execution.event, execution.step("one").exports) == ({"body": BROKEN}, {"x": BROKEN})


async def test_nul_and_lone_surrogates_in_plain_text_are_replaced(journal: Journal, path: Path) -> None:
    """Every plain text of a run, a step, a wait and a message may hold NUL and lone surrogates."""
    run = NewRun(
        BROKEN,
        BROKEN,
        BROKEN,
        "hash",
        new_run().event,
        external_user_id=BROKEN,
        environment="development",
        queue=BROKEN,
        parent=BROKEN,
        workflow_id=BROKEN,
        dedupe_key=BROKEN,
    )
    await journal.store_definition(dataclasses.replace(WORKFLOW, name=BROKEN))
    await journal.set_queue_limits(BROKEN, concurrency=1)
    assert await journal.accept_run(run)
    (claimed,) = await journal.claim_next(BROKEN, limit=2)
    assert await journal.append_step(claimed.claim, replace(step_row(0, BROKEN), path=BROKEN))
    wait = replace(wait_row(1), path=f"{BROKEN}/wait")
    assert await journal.park(claimed.claim, wait, outbox=[outbox_row(path=BROKEN)])
    assert await journal.record_delivery(claimed.claim.run_id, outbox_row(path=BROKEN), outbox_row().shown)
    assert await journal.resolve_wait(WaitKey(BROKEN, wait.path), "resumed") == "done"

    columns = "id, trace_id, workflow, external_user, queue, parent, workflow_id, dedupe_key"
    assert rows(path, f"select {columns} from runs") == [(STORED,) * 8]
    assert rows(path, "select path, name from steps") == [(STORED, STORED)]
    assert rows(path, "select path, outcome from waits") == [(f"{STORED}/wait", "resumed")]
    assert rows(path, "select path, due from outbox") == [(STORED, None)]
    assert rows(path, "select workflow from definitions") == [(STORED,)]
    assert rows(path, "select queue from limits") == [(STORED,)]


async def test_nul_and_lone_surrogates_in_a_query_find_the_run(journal: Journal) -> None:
    """A run is found, claimed and cancelled by the texts with which it was accepted."""
    await journal.accept_run(new_run(BROKEN, workflow=BROKEN, external_user_id=BROKEN, queue="mail", dedupe_key=BROKEN))

    by_id = await journal.get_execution(BROKEN)
    listed = await journal.list_executions(workflow=BROKEN, external_user_id=BROKEN)
    after = await journal.list_executions(workflow=BROKEN, before=BROKEN)
    loaded = await journal.load_run(BROKEN)
    claimed = await journal.claim(BROKEN)
    cancelled = await journal.cancel(BROKEN)

    assert by_id is not None
    assert (by_id.id, [each.id for each in listed], after) == (STORED, [STORED], [])
    assert loaded is not None
    assert loaded[0] == by_id
    assert claimed is not None
    assert cancelled
    assert await journal.find_cancelled([BROKEN]) == [BROKEN]
    assert await journal.find_run_id(BROKEN) == STORED


async def test_a_busy_loop_delays_no_other_loop(prompt_journal: Journal) -> None:
    """A write of another loop is committed while the loop that commits by itself is busy, with the writes before it."""
    await prompt_journal.accept_run(new_run("first"))
    earlier = asyncio.ensure_future(prompt_journal.accept_run(new_run("earlier")))
    await asyncio.sleep(0)
    results: list[bool] = []

    async def write() -> None:
        async with asyncio.timeout(60):
            results.append(await prompt_journal.accept_run(new_run("other")))

    other = threading.Thread(target=lambda: asyncio.run(write()))
    other.start()
    other.join()

    assert results == [True]
    assert await earlier


async def test_any_loop_may_write(journal: Journal) -> None:
    """Callers of several event loops each get results on their own loop."""

    def other_loop(name: str) -> bool:
        return asyncio.run(journal.accept_run(new_run(name)))

    answers = await asyncio.gather(
        asyncio.to_thread(other_loop, "a"), asyncio.to_thread(other_loop, "b"), journal.accept_run(new_run("c"))
    )

    assert all(answers)


async def test_cancelled_caller_does_not_affect_other_callers(journal: Journal) -> None:
    """A cancelled caller gets no result; the others do."""
    task = asyncio.create_task(journal.accept_run(new_run("a")))
    await asyncio.sleep(0)
    task.cancel()

    assert await journal.accept_run(new_run("b"))


async def test_close_commits_unawaited_writes(path: Path) -> None:
    """A `finish` and a `park` whose results are not awaited are on disk after `close`."""
    journal = Journal.open(SqliteBackend(path))
    for run_id in ("finished", "paused"):
        await journal.accept_run(new_run(run_id))
    unawaited = [
        journal.finish(Claim.first("finished"), "success", encode_output()),
        journal.park(Claim.first("paused"), wait_row()),
    ]

    await journal.close()

    assert len(unawaited) == 2
    assert rows(path, "select id, status, owner from runs order by id") == [
        ("finished", "success", None),
        ("paused", "paused", None),
    ]


async def test_closed_executor_leaves_no_row(path: Path) -> None:
    """An executor that owns no run has no row and no lock file after `close`."""
    journal = Journal.open(SqliteBackend(path), origin="notebook")
    during = rows(path, "select id, origin, lease_until, alive from executors")
    locked = [file.name for file in (path.parent / "executors-journal").iterdir()]

    await journal.close()

    assert during == [(journal.executor_id, "notebook", None, 1)]
    assert locked == [journal.executor_id]
    assert rows(path, "select * from executors") == []
    assert list((path.parent / "executors-journal").iterdir()) == []


async def test_refused_run_does_not_delay_later_commits(prompt_journal: Journal, path: Path) -> None:
    """A run that a dedupe key refused is not active: the next run's steps are committed at once."""
    await prompt_journal.accept_run(new_run("first", dedupe_key="key"))
    await prompt_journal.finish(Claim.first("first"), "success", encode_output())
    assert not await prompt_journal.accept_run(new_run("second", dedupe_key="key"))
    await prompt_journal.accept_run(new_run())

    answer = prompt_journal.append_step(Claim.first("run"), step_row(0, "one"))

    assert rows(path, "select name from steps") == [("one",)]
    assert await answer


async def test_failed_messages_roll_back_the_end(journal: Journal, path: Path) -> None:
    """If a message cannot be written, neither the end nor the last step is, and the executor still owns the run."""
    await journal.accept_run(new_run())

    with pytest.raises(OverflowError):
        await journal.finish(
            Claim.first("run"), "success", encode_output(), last_step=step_row(0, "one"), outbox=[outbox_row(2**70)]
        )

    assert rows(path, "select status from runs") == [("running",)]
    assert rows(path, "select run_id from steps union all select run_id from outbox") == []
    assert await journal.finish(Claim.first("run"), "success", encode_output(), last_step=step_row(0, "one"))


async def test_reader_creates_no_executor(path: Path) -> None:
    """A reader of a new file creates the tables and is not an executor; it may read beside a server."""
    reader = open_reader(SqliteBackend(path))
    try:
        assert await reader.get_execution("run") is None
        assert rows(path, "select id from executors") == []
        assert not (path.parent / "executors-journal").exists()
    finally:
        reader.close()


async def test_newer_journal_is_refused(path: Path) -> None:
    """A journal of a newer version is refused with the command to upgrade."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("pragma user_version = 99")

    with pytest.raises(
        ProjectError, match=r"a newer version of pdkernel has written it \(schema version 99;"
    ) as caught:
        Journal.open(SqliteBackend(path))

    assert caught.value.fix == "Install the newer version of pdkernel, from the same place as this one."
    assert rows(path, "pragma user_version") == [(99,)]


async def test_damaged_journal_is_refused(path: Path) -> None:
    """A file that is not a database is refused and not changed."""
    path.write_bytes(b"garbage" * 1000)

    with pytest.raises(ProjectError, match="is damaged or is not a database"):
        Journal.open(SqliteBackend(path))

    assert path.read_bytes() == b"garbage" * 1000


async def test_write_on_a_full_disk_is_an_error(path: Path) -> None:
    """If the file cannot grow, every caller of the batch gets an error, and acknowledged writes stay."""
    journal = Journal.open(SqliteBackend(path))
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


async def test_reaping_during_appends_loses_no_step(path: Path, open_journal: Open, liveness: FakeLiveness) -> None:
    """If runs are reaped during appends, no acknowledged step is lost and no later step is accepted."""
    owner = open_journal("serve")
    for number in range(50):
        await owner.accept_run(new_run(f"run{number}"))
    liveness.kill(owner)
    reaper = open_journal("serve")

    async def append_until_refused(run_id: str) -> int:
        seq = 0
        while await owner.append_step(Claim.first(run_id), step_row(seq, f"s{seq}")):
            seq += 1
        return seq

    async def take_over() -> list[tuple[Any, ...]]:
        while len(rows(path, "select distinct run_id from steps")) < 50:
            await asyncio.sleep(0.001)
        assert await reaper.reap_dead() == 50
        assert len(await reaper.claim_next(limit=50)) == 50
        return rows(path, "select run_id, count(*) from steps group by run_id")

    *acknowledged, at_claim = await asyncio.gather(
        *(append_until_refused(f"run{number}") for number in range(50)), take_over()
    )
    after = rows(path, "select run_id, count(*) from steps group by run_id")

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
    journal = Journal.open(SqliteBackend(path))
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


@pytest.fixture
def server(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process of the origin `serve` that appends steps to `run0` to `run3`, and is killed at last."""
    process = writer(path, "run", steps=100_000)
    assert process.stdout is not None
    assert process.stdout.readline()
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


async def test_acknowledged_steps_survive_kill_9(path: Path, server: subprocess.Popen[str]) -> None:
    """After kill -9 the reopened journal has every acknowledged step, and its runs are readable."""
    assert server.stdout is not None
    acknowledged = [server.stdout.readline() for _ in range(200)]

    os.kill(server.pid, signal.SIGKILL)
    acknowledged += server.communicate()[0].splitlines(keepends=True)
    journal = Journal.open(SqliteBackend(path))
    execution = await journal.get_execution("run0")
    await journal.close()

    acknowledged_rows = {tuple(line.split()) for line in acknowledged if line.endswith("\n")}
    recorded = {(str(run_id), str(seq)) for run_id, seq in rows(path, "select run_id, seq from steps")}
    assert len(acknowledged_rows) >= 200
    assert acknowledged_rows <= recorded
    assert execution is not None
    assert execution.status == "executing"
    assert execution.step("s0").status == "success"


# ── several executors ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_runs_of_a_killed_server_continue_in_the_next(path: Path, server: subprocess.Popen[str]) -> None:
    """While a server lives, a second one is refused and no run is reaped; after its kill -9 the next one continues its runs."""
    terminal = Journal.open(SqliteBackend(path))
    with pytest.raises(RequestError, match="Another `pdkernel serve` serves the project"):
        Journal.open(SqliteBackend(path, origin_wait_s=0), origin="serve")
    while_living = await terminal.reap_dead()

    os.kill(server.pid, signal.SIGKILL)
    server.wait()
    successor = Journal.open(SqliteBackend(path), origin="serve")
    ready = await successor.reap_dead()
    claims = await successor.claim_next(limit=9)
    alive = rows(path, "select id from executors order by id")
    locks = {file.name for file in (path.parent / "executors-journal").iterdir()}
    await successor.close()
    await terminal.close()

    assert (while_living, ready) == (0, 4)
    assert {claimed.claim for claimed in claims} == {Claim(f"run{number}", 2, attempt=2) for number in range(4)}
    assert {executor for (executor,) in alive} == {terminal.executor_id, successor.executor_id}
    assert locks == {terminal.executor_id, successor.executor_id, "serve"}


async def test_server_that_cannot_open_gives_its_lock_back(path: Path) -> None:
    """If a server fails to open the file, the next server of the process is accepted."""
    liveness = FakeLiveness()
    await Journal.open(SqliteBackend(path)).close()
    with closing(connect(path)) as other:
        other.execute("alter table executors rename to elsewhere")
        with pytest.raises(ProjectError, match="no such table"):
            Journal.open(SqliteBackend(path, liveness=liveness), origin="serve", ids=SequentialIds())
        other.execute("alter table elsewhere rename to executors")

    assert not liveness.is_alive("serve")
    assert not liveness.is_alive(SequentialIds().new("exec_", 20))
    await Journal.open(SqliteBackend(path, liveness=liveness), origin="serve").close()


async def test_two_journals_of_one_process_see_each_other(path: Path) -> None:
    """Executors of one process do not reap each other, and one server per process is accepted."""
    one, other = Journal.open(SqliteBackend(path), origin="serve"), Journal.open(SqliteBackend(path))
    await one.accept_run(new_run())

    reaped = await other.reap_dead()
    with pytest.raises(RequestError):
        Journal.open(SqliteBackend(path, origin_wait_s=0), origin="serve")
    await one.close()
    after = await other.reap_dead()
    await Journal.open(SqliteBackend(path), origin="serve").close()
    left = await other.get_execution("run")
    await other.close()

    assert (reaped, after) == (0, 0)
    assert left is not None
    assert left.status == "resumed"


# ── locks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def locks(tmp_path: Path) -> ExecutorLocks:
    """Locks in a folder that does not exist yet."""
    return ExecutorLocks(tmp_path / "locks")


def test_held_lock_is_alive(locks: ExecutorLocks, tmp_path: Path) -> None:
    """An executor lives as long as it holds its lock, for other users of the folder too."""
    before = locks.is_alive("one")
    locks.hold("one")

    assert (before, locks.is_alive("one"), ExecutorLocks(tmp_path / "locks").is_alive("one")) == (False, True, True)
    assert not locks.is_alive("other")
    locks.release("one")
    assert not locks.is_alive("one")


def test_held_lock_is_refused(locks: ExecutorLocks, tmp_path: Path) -> None:
    """A lock that is held cannot be held again until it is released; a second release does nothing."""
    locks.hold("one")
    for folder in (locks, ExecutorLocks(tmp_path / "locks")):
        with pytest.raises(BlockingIOError):
            folder.hold("one")
    locks.release("one")
    locks.release("one")

    locks.hold("one")

    assert locks.is_alive("one")
    locks.release("one")


def test_file_of_a_dead_executor_is_removed(locks: ExecutorLocks, tmp_path: Path) -> None:
    """The file that a killed process left is not a lock, and is removed."""
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / "dead").touch()

    assert not locks.is_alive("dead")

    assert list((tmp_path / "locks").iterdir()) == []


def test_child_process_does_not_inherit_a_lock(locks: ExecutorLocks, tmp_path: Path) -> None:
    """A child process that outlives its killed executor does not keep it alive."""
    code = (
        "import pathlib, subprocess, sys, time\n"
        "from pdkernel.journal.sqlite import ExecutorLocks\n"
        "ExecutorLocks(pathlib.Path(sys.argv[1])).hold('one')\n"
        "print(subprocess.Popen(['sleep', '60'], close_fds=False, stdout=subprocess.DEVNULL).pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    executor = subprocess.Popen([sys.executable, "-c", code, tmp_path / "locks"], stdout=subprocess.PIPE, text=True)
    assert executor.stdout is not None
    child = int(executor.stdout.readline())
    try:
        before = locks.is_alive("one")
        executor.kill()
        executor.communicate()

        assert (before, locks.is_alive("one")) == (True, False)
    finally:
        os.kill(child, signal.SIGKILL)


def test_locks_are_private(locks: ExecutorLocks, tmp_path: Path) -> None:
    """Other users of the machine can neither see nor hold the locks."""
    locks.hold("one")

    assert (tmp_path / "locks").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "locks" / "one").stat().st_mode & 0o777 == 0o600
    locks.release("one")


def test_one_of_many_holders_has_the_lock(tmp_path: Path) -> None:
    """Threads that hold, release and test one lock at the same time never hold it together."""
    holders, overlaps = [0], []

    def take_turns() -> None:
        locks = ExecutorLocks(tmp_path / "locks")
        for _ in range(300):
            locks.is_alive("one")
            try:
                locks.hold("one")
            except BlockingIOError:
                continue
            holders[0] += 1
            time.sleep(0.0002)  # another thread has to try meanwhile
            if holders[0] != 1:
                overlaps.append(holders[0])
            holders[0] -= 1
            locks.release("one")

    (tmp_path / "locks").mkdir()
    threads = [threading.Thread(target=take_turns) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert overlaps == []


# ── space of removed runs ────────────────────────────────────────────────────────────────────────────────────────────


async def fill(journal: Journal, count: int) -> list[str]:
    """Record runs with large events; return their ids."""
    ids = [f"{number:03d}" for number in range(count)]
    for run_id in ids:
        await journal.accept_run(new_run(run_id, event=encode_event({"body": "x" * 10_000}, {"id": run_id})))
        await journal.finish(Claim.first(run_id), "success", "{}")
    return ids


async def test_a_file_shrinks_after_a_removal(path: Path) -> None:
    """The space of removed runs is given back to the file system, but for a part; the other runs stay complete."""
    journal = Journal.open(SqliteBackend(path))
    ids = await fill(journal, 200)
    await journal.close()
    full = path.stat().st_size
    journal = Journal.open(SqliteBackend(path))
    await journal.remove_runs(ids[:150])
    steps = 0
    while await journal.release_space():
        steps += 1
    await journal.close()

    assert path.stat().st_size < 0.4 * full
    assert steps > 1
    assert rows(path, "pragma integrity_check") == [("ok",)]
    assert rows(path, "select id, length(event) > 10000 from runs order by id") == [(run_id, 1) for run_id in ids[150:]]


async def test_a_file_of_another_program_keeps_its_pages(path: Path) -> None:
    """A file that another program created keeps its size: the first step finds nothing to give back."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("create table notes (text)")
    journal = Journal.open(SqliteBackend(path))
    await journal.remove_runs(await fill(journal, 20))

    assert not await journal.release_space()
    await journal.close()


# ── files of earlier versions ────────────────────────────────────────────────────────────────────────────────────────

NEXT = JOURNAL_SCHEMA.version + 1
CHANGED = dataclasses.replace(
    JOURNAL_SCHEMA,
    version=NEXT,
    changes={NEXT: "alter table runs add column mood text; create table moods (name text)"},
)
"""Tables of a version after this one."""


@pytest.fixture
async def old_path(path: Path) -> Path:
    """A file of this version with the run `run`, for which the version after it finds an earlier file."""
    journal = Journal.open(SqliteBackend(path))
    await journal.store_definition(WORKFLOW)
    await journal.accept_run(new_run())
    await journal.close()
    return path


async def test_an_earlier_file_is_changed(old_path: Path) -> None:
    """The tables of an earlier version get what is new, and keep their runs."""
    journal = Journal.open(SqliteBackend(old_path, schema=CHANGED))

    execution = await journal.get_execution("run")
    await journal.close()

    assert execution is not None
    assert rows(old_path, "select mood from runs") == [(None,)]
    assert rows(old_path, "select name from moods") == []
    assert rows(old_path, "pragma user_version") == [(NEXT,)]


async def test_a_failed_change_changes_nothing(old_path: Path) -> None:
    """A file that cannot be changed as a whole stays as it is, and the error is that of the file."""
    with closing(sqlite3.connect(old_path)) as connection:
        connection.execute("create table moods (mine text)")

    with pytest.raises(ProjectError):
        Journal.open(SqliteBackend(old_path, schema=CHANGED))

    assert "mood" not in [name for (_, name, *_) in rows(old_path, "pragma table_info(runs)")]
    assert rows(old_path, "pragma user_version") == [(JOURNAL_SCHEMA.version,)]


async def test_concurrent_processes_change_a_file_once(old_path: Path) -> None:
    """Processes that open an earlier file at the same time all open the changed file."""
    opened = (asyncio.to_thread(Journal.open, SqliteBackend(old_path, schema=CHANGED)) for _ in range(4))
    journals = await asyncio.gather(*opened)

    found = [await journal.get_execution("run") for journal in journals]
    for journal in journals:
        await journal.close()

    assert None not in found


@pytest.mark.parametrize("version", [1, 8])
def test_a_file_of_a_version_that_was_not_released_is_refused(path: Path, version: int) -> None:
    """A journal from before the first release is refused with what to do, and not changed."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("create table runs (id text)")
        connection.execute(f"pragma user_version = {version}")

    with pytest.raises(
        ProjectError, match=rf"before its first release has written it \(schema version {version};"
    ) as caught:
        Journal.open(SqliteBackend(path))

    assert "creates a new project" in str(caught.value.fix)
    assert rows(path, "select name from sqlite_master where type = 'table'") == [("runs",)]

"""The order of commits of one writer."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from pdkernel.common.blocking import run_blocking
from pdkernel.errors import ProjectError
from pdkernel.journal import Journal, SqliteBackend
from pdkernel.journal.backend import Connection, Write
from pdkernel.journal.sqlite import SqliteTransactions
from pdkernel.journal.writer import MAX_INLINE_SIZE, JournalWriter
from pdkernel.storage.sqlite import connect
from tests.one_thread_loop import OneThreadLoop


def insert(value: int) -> Callable[[Connection], object]:
    """A write that adds a row."""
    return lambda connection: connection.execute("insert into written (value) values (?)", (value,))


async def test_a_write_does_not_overtake_writes_that_wait_in_the_thread(tmp_path: Path) -> None:
    """Writes that the thread took while another connection wrote are committed before the loop's next write."""
    path = tmp_path / "journal.db"
    with closing(connect(path)) as other:
        other.execute("create table written (value integer)")
        writer = JournalWriter(SqliteBackend(path, max_inline_commit_s=math.inf))
        answers = []

        for value in range(0, 1000, 2):
            other.execute("begin immediate")
            answers.append(
                writer.write(insert(value), concurrent_runs=1)
            )  # the file is busy: the thread takes the write
            other.execute("rollback")
            answers.append(writer.write(insert(value + 1), concurrent_runs=1))
        for answer in answers:
            await answer

        assert [value for (value,) in other.execute("select value from written order by rowid")] == list(range(1000))
        writer.close(lambda _: None)


@pytest.mark.parametrize(("concurrent_runs", "are_grouped"), [(1, False), (2, False), (20, True)])
async def test_writes_of_many_concurrent_runs_share_a_commit(
    tmp_path: Path, concurrent_runs: int, are_grouped: bool
) -> None:
    """Writes of several iterations of the loop are one transaction only if many runs are in progress."""
    path = tmp_path / "journal.db"
    with closing(connect(path)) as other:
        other.execute("create table written (value integer)")
    writer = JournalWriter(SqliteBackend(path, max_inline_commit_s=math.inf))

    answers = []
    for value in range(40):
        answers.append(writer.write(insert(value), concurrent_runs=concurrent_runs))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    for answer in answers:
        await answer

    assert writer.writes == 40
    assert (writer.commits < 40) is are_grouped
    writer.close(lambda _: None)


@pytest.mark.parametrize("writes", [1, 2])
async def test_nothing_of_a_failed_compound_write_is_committed(tmp_path: Path, writes: int) -> None:
    """A compound write that fails leaves none of its statements, alone in its transaction or beside another write."""
    path = tmp_path / "journal.db"
    with closing(connect(path)) as other:
        other.execute("create table written (value integer)")
        writer = JournalWriter(SqliteBackend(path, max_inline_commit_s=math.inf))

        def fail(connection: Connection) -> object:
            insert(0)(connection)
            return connection.execute("insert into missing values (1)")

        failed = writer.write(fail, is_compound=True)
        done = [writer.write(insert(value)) for value in range(1, writes)]

        with pytest.raises(ProjectError, match="no such table"):
            await failed
        for each in done:
            await each
        await writer.write(insert(9))
        written = [value for (value,) in other.execute("select value from written order by rowid")]
        assert written == [*range(1, writes), 9]
        writer.close(lambda _: None)


async def test_a_closed_loop_does_not_end_the_thread(tmp_path: Path) -> None:
    """A write whose loop has closed before the commit is committed, and so are later writes of other loops."""
    path = tmp_path / "journal.db"
    with closing(connect(path)) as other:
        other.execute("create table written (value integer)")
        writer = JournalWriter(SqliteBackend(path, max_inline_commit_s=0))

        async def submit() -> None:
            writer.write(insert(1))

        other.execute("begin immediate")  # the commit waits
        await asyncio.to_thread(asyncio.run, submit())
        other.execute("rollback")
        async with asyncio.timeout(20):
            await writer.write(insert(2))

        assert [value for (value,) in other.execute("select value from written order by rowid")] == [1, 2]
        writer.close(lambda _: None)


async def test_a_transaction_that_ends_early_stores_nothing(tmp_path: Path) -> None:
    """If SQLite rolls back a transaction at one of its writes, as on a full disk, every write fails, and none is stored."""
    path = tmp_path / "journal.db"
    with closing(connect(path)) as other:
        other.execute("create table written (value integer)")
        writer = JournalWriter(SqliteBackend(path, max_inline_commit_s=math.inf))

        def end(connection: Connection) -> object:
            return connection.execute("rollback")

        results = await asyncio.gather(*map(writer.write, (insert(1), end, insert(2))), return_exceptions=True)

        assert [type(result) for result in results] == [ProjectError] * 3
        assert other.execute("select value from written").fetchall() == []
        await writer.write(insert(3))
        writer.close(lambda _: None)


async def test_a_large_write_is_committed_in_the_thread(tmp_path: Path) -> None:
    """The loop does not stop for a write of megabytes, and the next write is committed after it."""
    path = tmp_path / "journal.db"
    with closing(connect(path)) as other:
        other.execute("create table written (value integer)")
        writer = JournalWriter(SqliteBackend(path, max_inline_commit_s=math.inf))
        threads = []

        def insert_large(connection: Connection) -> None:
            threads.append(threading.current_thread())
            insert(1)(connection)

        large = writer.write(insert_large, size=MAX_INLINE_SIZE + 1, concurrent_runs=1)
        small = writer.write(insert(2), concurrent_runs=1)
        await asyncio.gather(large, small)

        assert threads != [threading.current_thread()]
        assert [value for (value,) in other.execute("select value from written order by rowid")] == [1, 2]
        writer.close(lambda _: None)


class FailingBackend(SqliteBackend):
    """A backend whose first commit raises an unforeseen error."""

    def open_transactions(self) -> FailingTransactions:
        """Open a connection for writes."""
        return FailingTransactions(self._path)


class FailingTransactions(SqliteTransactions):
    """Transactions of `FailingBackend`."""

    has_failed = False

    def commit(self, batch: Sequence[Write], *, begun: bool) -> float | None:
        """Fail once."""
        if not self.has_failed:
            self.has_failed = True
            raise LookupError("unforeseen")
        return super().commit(batch, begun=begun)


async def test_an_unforeseen_error_of_a_commit_fails_its_writes_only(tmp_path: Path) -> None:
    """The callers of the writes get the error, and a later write is committed."""
    path = tmp_path / "journal.db"
    with closing(connect(path)) as other:
        other.execute("create table written (value integer)")
        writer = JournalWriter(FailingBackend(path, max_inline_commit_s=0))

        with pytest.raises(LookupError, match="unforeseen"):
            await writer.write(insert(1))
        await writer.write(insert(2))

        assert [value for (value,) in other.execute("select value from written")] == [2]
        writer.close(lambda _: None)


@pytest.mark.parametrize(("attribute", "error"), [("refusals", RuntimeError), ("errors", LookupError)])
def test_a_thread_that_ends_before_its_first_commit_fails_its_writes_only(
    tmp_path: Path, attribute: str, error: type[Exception]
) -> None:
    """The callers of the waiting writes get the error, none of these is committed, and the writes after them are."""
    path = tmp_path / "journal.db"

    async def write(loop: OneThreadLoop, writer: JournalWriter) -> list[object]:
        setattr(loop, attribute, 1)
        async with asyncio.timeout(30):
            failed = await asyncio.gather(*map(writer.write, (insert(1), insert(2))), return_exceptions=True)
            await asyncio.gather(*map(writer.write, (insert(3), insert(4))))
        return failed

    with closing(connect(path)) as other, asyncio.Runner(loop_factory=OneThreadLoop) as runner:
        other.execute("create table written (value integer)")
        writer = JournalWriter(SqliteBackend(path, max_inline_commit_s=0))
        loop = runner.get_loop()
        assert isinstance(loop, OneThreadLoop)

        failed = runner.run(write(loop, writer))
        writer.close(lambda _: None)

        assert [type(each) for each in failed] == [error, error]
        assert [value for (value,) in other.execute("select value from written order by rowid")] == [3, 4]


async def test_a_write_that_finds_the_file_busy_is_committed_by_close(tmp_path: Path) -> None:
    """Writes that wait for another connection when the journal is closed are committed before its final write."""
    path = tmp_path / "journal.db"
    with closing(connect(path)) as other:
        other.execute("create table written (value integer)")
        writer = JournalWriter(SqliteBackend(path, max_inline_commit_s=math.inf))
        other.execute("begin immediate")
        answer = writer.write(insert(1), concurrent_runs=1)

        closing_writer = run_blocking(writer.close, insert(2))
        other.execute("rollback")
        await closing_writer
        await answer

        assert [value for (value,) in other.execute("select value from written order by rowid")] == [1, 2]


def test_a_journal_needs_no_thread_but_that_of_its_loop(tmp_path: Path) -> None:
    """A loop that replaces `run_in_executor` runs every commit and every read of a journal itself."""
    threads: set[str] = set()

    async def use_journal() -> None:
        journal = Journal.open(SqliteBackend(tmp_path / "journal.db", max_inline_commit_s=0))
        for _ in range(3):
            await journal.rejoin()
            await journal.wake_due()
            assert await journal.next_wake() is None
            threads.update(thread.name for thread in threading.enumerate())
        await journal.close()

    before = {thread.name for thread in threading.enumerate()}
    with asyncio.Runner(loop_factory=OneThreadLoop) as runner:
        runner.run(use_journal())

    assert threads <= before

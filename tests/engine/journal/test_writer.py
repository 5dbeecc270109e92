"""The order of commits of one writer."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from pdkernel.engine.journal import SqliteBackend
from pdkernel.engine.journal.backend import Connection
from pdkernel.engine.journal.writer import JournalWriter
from pdkernel.project.sqlite import connect


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
            answers.append(writer.write(insert(value), commit_now=True))  # the file is busy: the thread takes the write
            other.execute("rollback")
            answers.append(writer.write(insert(value + 1), commit_now=True))
        for answer in answers:
            await answer

        assert [value for (value,) in other.execute("select value from written order by rowid")] == list(range(1000))
        writer.close(lambda _: None)

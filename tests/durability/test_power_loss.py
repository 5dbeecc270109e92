"""
A machine that loses power: what the journal has confirmed is there, and every other write is there completely or not at all.

SQLite writes to files that note each operation. A disk keeps what was synced; of the writes since then it may keep any, and of the last
one a part. So after each operation, several such disks are opened again.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw
import pytest

from pdkernel.common.clock import ManualClock, SteadyClock
from pdkernel.journal.backend import Parameters, Write
from pdkernel.journal.ownership import OwnershipStatements
from pdkernel.journal.rows import FIRST_FENCE, Claim, WaitKey
from pdkernel.journal.schema import metadata
from pdkernel.journal.sqlite import SqliteBackend, SqliteTransactions
from pdkernel.journal.statements import Statements, remove_runs
from pdkernel.storage.sqlite import configure
from tests.journal.conftest import DEFINITION, call_row, new_run, outbox_row, step_row, wait_row

SECTOR = 512
"""Bytes that a disk writes completely or not at all."""
ME = "exec_a"
NOW = 1_800_000_000.0
LARGE = '{"name":"one","status":"success","exports":{"text":"' + "x" * 9_000 + '"}}'


@dataclass
class Pending:
    """An operation on a file that is not synced: bytes at an offset, or another size."""

    file: str
    offset: int
    data: bytes | None = None


@dataclass
class Disk:
    """
    The files of a machine.

    Attributes:
        synced: What certainly stays, by name.
        pending: What may be lost.
        moments: The files that a power cut may leave, with the number of batches begun and confirmed before.
    """

    synced: dict[str, bytes] = field(default_factory=dict)
    pending: list[Pending] = field(default_factory=list)
    moments: list[tuple[dict[str, bytes], int, int]] = field(default_factory=list)
    begun: int = 0
    confirmed: int = 0
    chance: random.Random = field(default_factory=lambda: random.Random(7))

    def note(self, operation: Pending) -> None:
        """Note an operation, and the disks that a power cut after it may leave."""
        self.pending.append(operation)
        self.add_moments()

    def sync(self, file: str) -> None:
        """Keep the operations on *file*."""
        self.synced = self._after([each for each in self.pending if each.file == file])
        self.pending = [each for each in self.pending if each.file != file]
        self.add_moments()

    def remove(self, file: str) -> None:
        """Remove a file, whose operations are of no importance then."""
        self.pending = [each for each in self.pending if each.file != file]
        self.synced.pop(file, None)
        self.add_moments()

    def add_moments(self) -> None:
        """Add what is left if all, none, the last, some, or all operations and a part of the last one are kept."""
        every = self.pending
        kept: list[Sequence[Pending]] = [[], every, every[-1:], [each for each in every if self.chance.random() < 0.6]]
        if every and every[-1].data is not None:
            last = every[-1]
            torn = self.chance.randrange(1 + len(last.data or b"") // SECTOR) * SECTOR
            kept.append([*every[:-1], Pending(last.file, last.offset, (last.data or b"")[:torn])])
        for operations in kept:
            moment = (self._after(operations), self.begun, self.confirmed)
            if moment not in self.moments[-len(kept) :]:
                self.moments.append(moment)

    def _after(self, operations: Iterable[Pending]) -> dict[str, bytes]:
        files = dict(self.synced)
        for each in operations:
            found = files.get(each.file, b"")
            if each.data is None:
                files[each.file] = found[: each.offset].ljust(each.offset, b"\0")
            else:
                end = each.offset + len(each.data)
                files[each.file] = found[: each.offset].ljust(each.offset, b"\0") + each.data + found[end:]
        return files


class NotedFiles(apsw.VFS):
    """Files of SQLite on a `Disk`."""

    def __init__(self, disk: Disk) -> None:
        super().__init__("noted", base="")
        self._disk = disk

    def xOpen(self, name: Any, flags: list[int]) -> NotedFile:  # noqa: N802 - SQLite's name
        """Open a file."""
        return NotedFile(name, flags, self._disk)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802 - SQLite's name
        """Remove a file."""
        super().xDelete(filename, syncdir)
        self._disk.remove(Path(filename).name)


class NotedFile(apsw.VFSFile):
    """A file whose operations a `Disk` notes."""

    def __init__(self, name: Any, flags: list[int], disk: Disk) -> None:
        super().__init__("", name, flags)
        path = name if isinstance(name, str) else name.filename()
        self._name, self._disk = Path(path).name, disk

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - SQLite's name
        """Write *data*."""
        super().xWrite(data, offset)
        self._disk.note(Pending(self._name, offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802 - SQLite's name
        """Shorten the file."""
        super().xTruncate(newsize)
        self._disk.note(Pending(self._name, newsize))

    def xSync(self, flags: int) -> None:  # noqa: N802 - SQLite's name
        """Keep what was written."""
        super().xSync(flags)
        self._disk.sync(self._name)


class Rows:
    """The result of a statement; implements `journal.backend.Cursor`."""

    def __init__(self, rows: list[Any], rowcount: int) -> None:
        self._rows, self.rowcount = rows, rowcount

    def fetchone(self) -> Any:
        """Return the next row, or None."""
        return self._rows.pop(0) if self._rows else None

    def fetchall(self) -> list[Any]:
        """Return the remaining rows."""
        return self._rows

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rows)


class NotedConnection:
    """A connection with the methods of `sqlite3.Connection` that the journal calls."""

    def __init__(self, path: Path) -> None:
        self._connection = apsw.Connection(str(path), vfs="noted")

    def execute(self, sql: str, parameters: Parameters = ()) -> Rows:
        """Run a statement."""
        rows = list(self._connection.execute(sql, parameters or None))
        return Rows(rows, self._connection.changes())

    def executemany(self, sql: str, parameters: Iterable[Parameters]) -> None:
        """Run a statement with each of *parameters*."""
        for each in parameters:
            self.execute(sql, each)

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        return self._connection.in_transaction

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def content(connection: Any) -> dict[str, list[Any]]:
    """All rows of the journal, by table."""
    return {name: sorted(map(repr, connection.execute(f"select * from {name}"))) for name in metadata.tables}


def batches() -> list[list[Any]]:
    """The writes of two runs from their start to their removal, in groups that are committed together."""
    mine, owner = Statements(ME, "serve"), OwnershipStatements(ME, "serve")
    one, two = Claim("run1", FIRST_FENCE, 1), Claim("run2", FIRST_FENCE, 1)
    again = Claim("run2", FIRST_FENCE + 1, 1)
    wait = wait_row(1, wake_at=NOW + 60)
    return [
        [lambda c: mine.store_definition(c, DEFINITION, "Greet", "{}")],
        [lambda c: mine.accept_run(c, new_run("run1"), NOW), lambda c: mine.accept_run(c, new_run("run2"), NOW)],
        [lambda c: mine.append_step(c, one, step_row(0, "one", LARGE), NOW, event='{"event":null}')],
        [lambda c: mine.record_call(c, two, call_row()), lambda c: mine.append_step(c, one, step_row(1, "two"), NOW)],
        [
            lambda c: mine.finish(c, one, "success", "{}", NOW),
            lambda c: mine.fill_outbox(c, "run1", [outbox_row()], NOW),
        ],
        [lambda c: mine.park(c, two, (wait,), NOW), lambda c: mine.fill_outbox(c, "run2", [outbox_row(1)], NOW)],
        [lambda c: mine.record_delivery(c, "run1", outbox_row(), "{}", None)],
        [lambda c: mine.resolve_wait(c, WaitKey("run2", "one", number=1), "resumed", b"sealed", NOW, None)],
        [lambda c: owner.claim_one(c, "run2", NOW)],
        [lambda c: mine.append_step(c, again, step_row(1, "two", LARGE), NOW)],
        [lambda c: mine.finish(c, again, "error", "{}", NOW)],
        [lambda c: remove_runs(c, ["run1"])],
    ]


def run_on(disk: Disk, path: Path, checkpoints: Sequence[int]) -> list[dict[str, list[Any]]]:
    """Write all batches on *disk*, with checkpoints after some; return the content of the journal before each batch, and at the end."""
    connection = NotedConnection(path)
    connection.execute(
        "pragma locking_mode = exclusive"
    )  # a log without the shared memory that files in Python do not have
    configure(connection, is_new=False)  # type: ignore[arg-type]  # has the methods that are called
    transactions = SqliteTransactions(path, connection=connection)  # type: ignore[arg-type]  # as above
    contents = [content(connection)]
    for number, batch in enumerate(batches()):
        writes = [Write(act, is_compound=True, is_contended=False, future=None) for act in batch]
        disk.begun += 1
        assert transactions.commit(writes, begun=False) is not None
        disk.confirmed += 1
        assert [each.fault for each in writes] == [None] * len(writes)
        assert [each.result for each in writes if each.result is False] == []
        contents.append(content(connection))
        if number in checkpoints:
            connection.execute("pragma wal_checkpoint(full)")
    transactions.close()
    return contents


@pytest.mark.parametrize("checkpoints", [(), (2, 5, 8)], ids=["none", "some"])
def test_a_power_cut_loses_nothing_that_was_confirmed(tmp_path: Path, checkpoints: tuple[int, ...]) -> None:
    """After a power cut at any moment, the journal has every confirmed batch, and the one that was being written completely or not at all."""
    path = tmp_path / "project.db"
    backend = SqliteBackend(path)
    backend.create_tables()
    backend.enter(ME, "serve", SteadyClock(ManualClock()))
    backend.open_snapshots().close()
    disk = Disk({path.name: path.read_bytes()})
    files = NotedFiles(disk)

    contents = run_on(disk, path, checkpoints)

    assert len(disk.moments) > 100
    for number, (left, begun, confirmed) in enumerate(disk.moments):
        folder = tmp_path / f"left{number}"
        folder.mkdir()
        for name, data in left.items():
            (folder / name).write_bytes(data)
        with sqlite3.connect(folder / path.name) as found:
            assert found.execute("pragma integrity_check").fetchall() == [("ok",)], number
            assert content(found) in contents[confirmed : begun + 1], (number, begun, confirmed)
        found.close()
    files.unregister()

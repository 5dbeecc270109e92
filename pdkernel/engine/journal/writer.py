"""
Grouped commits on one SQLite connection: all waiting writes share a transaction.

A caller's future resolves on the caller's loop after the commit of its write. A failed write is rolled back alone and
fails only its caller. On a fast disk the event loop itself commits the writes of one iteration. A thread commits if the
disk is slow, if another process writes, or for a second loop: passing writes to a thread takes as long as a fast commit.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from pdkernel.errors import ProjectError
from pdkernel.project.sqlite import BUSY_TIMEOUT_S, connect, is_busy, translate_error

T = TypeVar("T")
WriteFunction = Callable[[sqlite3.Connection], Any]

MAX_BATCH_WRITES = 512
"""Maximum number of writes in one transaction."""

MAX_INLINE_COMMIT_S = 0.002
"""Seconds that a commit may block an event loop, as a moving average."""

MIN_GROUPED_RUNS = 8
"""Concurrent runs from which a loop's writes wait for one another."""
GROUP_S = 0.001
"""Seconds that writes wait for others: a busy processor then commits less often, and other runs use the time."""

INLINE_RETRY_S = 0.25
"""Seconds until a loop commits by itself again after slow commits."""

_AVERAGE_WEIGHT = 0.2
"""Weight of the last commit in the average."""
_MAX_OUTLIER_FACTOR = 4
"""A commit counts at most this many times the limit: an occasional WAL checkpoint must not change the mode."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Write:
    act: WriteFunction
    many: bool  # several statements: a savepoint is needed to roll back this write alone
    future: asyncio.Future[Any] | None
    result: Any = None
    fault: Exception | None = None


class JournalWriter:
    """
    The writer of one SQLite file in one process; other processes may have their own writers.

    Args:
        path: The file.
        max_inline_commit_s: While commits take fewer seconds, the caller's event loop commits.

    Attributes:
        commits: The number of transactions so far.
        writes: The number of writes in them.
    """

    def __init__(self, path: Path, *, max_inline_commit_s: float = MAX_INLINE_COMMIT_S) -> None:
        self.commits = 0
        self.writes = 0
        self._path = path
        self._connection = connect(path)
        self._queue: SimpleQueue[_Write | None] = SimpleQueue()
        self._waiting = 0  # writes queued for the thread and not yet committed
        self._quick_s = max_inline_commit_s
        self._waits_when_busy = True
        self._average_s = 0.0
        self._slow_until = 0.0
        self._inline_loop: asyncio.AbstractEventLoop | None = None  # the loop that commits itself: the first caller's
        self._inline_batch: list[_Write] = []  # writes of the loop's current iteration
        self._lock = threading.Lock()
        self._committing = threading.Lock()
        self._closed = False
        # a daemon thread, so that an unclosed journal does not block the exit of a kernel; `close` waits for the thread
        self._thread = threading.Thread(target=self._work, name="pdkernel-journal", daemon=True)
        self._thread.start()

    def write(
        self, statement: Callable[[sqlite3.Connection], T], *, is_compound: bool = False, concurrent_runs: int = 2
    ) -> asyncio.Future[T]:
        """
        Run *statement* in one of the next transactions.

        The future raises `ProjectError` if the journal is closed or the database cannot be written.

        Args:
            statement: The write.
            is_compound: Whether the write has several SQL statements.
            concurrent_runs: The number of runs in progress: one is committed at once, several soon, many together.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        try:
            self._take(_Write(statement, is_compound, future), loop, concurrent_runs)
        except ProjectError as closed:
            future.set_exception(closed)
        return future

    def close(self, final_write: WriteFunction) -> None:
        """Commit waiting writes and *final_write*, then end the thread; blocks. A second call does nothing."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._move_to_thread()
                self._waiting += 1
                self._queue.put(_Write(final_write, many=False, future=None))
                self._queue.put(None)
        self._thread.join()

    def _take(self, write: _Write, loop: asyncio.AbstractEventLoop, concurrent_runs: int) -> None:
        with self._lock:
            if self._closed:
                raise ProjectError(f"The journal in {self._path} is closed.", fix="Open the project again.")
            if self._inline_loop is None or self._inline_loop.is_closed():
                self._move_to_thread()
                self._inline_loop = loop
            self._inline_batch.append(write)
            if loop is not self._inline_loop or not self._is_quick():
                self._move_to_thread()
                return
            if concurrent_runs > 1:
                if len(self._inline_batch) > 1:
                    return
                if concurrent_runs < MIN_GROUPED_RUNS:
                    loop.call_soon(self._commit_inline)
                else:
                    loop.call_later(GROUP_S, self._commit_inline)
                return
        self._commit_inline()

    def _move_to_thread(self) -> None:
        """Queue the current batch for the thread; the caller holds the lock."""
        self._waiting += len(self._inline_batch)
        for write in self._inline_batch:
            self._queue.put(write)
        self._inline_batch = []

    def _is_quick(self) -> bool:
        return self._quick_s > 0 and time.monotonic() >= self._slow_until

    def _commit_inline(self) -> None:
        """Commit the current batch in the loop, or queue it for the thread if the thread has work."""
        with self._lock:
            # the thread's writes were submitted earlier and must be committed first
            if self._waiting or not self._inline_batch or not self._committing.acquire(blocking=False):
                self._move_to_thread()
                return
            batch, self._inline_batch = self._inline_batch, []
        try:
            if not self._begin_inline() and self._pass_to_thread(batch):
                return
            self._commit(batch, begun=self._connection.in_transaction)
        except sqlite3.Error as fault:
            for write in batch:
                write.fault = self._translate_error(fault)
        finally:
            self._committing.release()
        _resolve(batch)

    def _begin_inline(self) -> bool:
        """Begin a transaction; return False if another process writes."""
        self._set_busy_wait(patient=False)
        try:
            self._connection.execute("begin immediate")
        except sqlite3.OperationalError as fault:
            if is_busy(fault):
                self._set_busy_wait(patient=True)
                return False
            raise
        return True

    def _pass_to_thread(self, batch: list[_Write]) -> bool:
        """Queue *batch* for the thread; return False if the writer was closed meanwhile."""
        with self._lock:
            if self._closed:
                return False
            self._inline_batch[:0] = batch
            self._move_to_thread()
            return True

    def _set_busy_wait(self, *, patient: bool) -> None:
        """Set whether SQLite waits while another process writes; the caller holds `_committing`."""
        if patient is not self._waits_when_busy:
            self._connection.execute(f"pragma busy_timeout = {BUSY_TIMEOUT_S * 1000 if patient else 0:.0f}")
            self._waits_when_busy = patient

    def _work(self) -> None:
        last = False
        while not last:
            batch, last = self._next_batch()
            if batch:
                with self._committing:
                    self._set_busy_wait(patient=True)
                    self._commit(batch)
                with self._lock:
                    self._waiting -= len(batch)
                _resolve_on_loops(batch)
        with self._committing:
            self._connection.close()

    def _next_batch(self) -> tuple[list[_Write], bool]:
        """Wait for writes and return them, and whether the writer was closed."""
        batch: list[_Write] = []
        waiting = self._queue.get()
        while waiting is not None:
            batch.append(waiting)
            if len(batch) == MAX_BATCH_WRITES:
                return batch, False
            try:
                waiting = self._queue.get_nowait()
            except Empty:
                return batch, False
        return batch, True

    def _commit(self, batch: Sequence[_Write], *, begun: bool = False) -> None:
        connection = self._connection
        try:
            if not begun:
                connection.execute("begin immediate")
            for write in batch:
                self._perform(write)
                if not connection.in_transaction:  # a full disk rolls back the transaction, not only the statement
                    raise write.fault or sqlite3.OperationalError("the transaction ended early")
            began = time.monotonic()
            connection.execute("commit")
        except Exception as fault:  # noqa: BLE001 - the thread must go on; the callers' futures get the error
            if connection.in_transaction:
                connection.execute("rollback")
            for write in batch:
                write.fault = self._translate_error(fault)
        else:
            self.commits += 1
            self.writes += len(batch)
            if begun:  # in the thread, the duration includes waiting for the interpreter lock
                self._update_average(time.monotonic() - began)

    def _update_average(self, seconds: float) -> None:
        """Update the moving average with the duration of a commit in the loop."""
        seconds = min(seconds, _MAX_OUTLIER_FACTOR * self._quick_s)
        self._average_s += _AVERAGE_WEIGHT * (seconds - self._average_s)
        if self._average_s >= self._quick_s:
            self._average_s = 0.0
            self._slow_until = time.monotonic() + INLINE_RETRY_S

    def _perform(self, write: _Write) -> None:
        connection = self._connection
        try:
            if write.many:
                connection.execute("savepoint one")
            write.result = write.act(connection)
            if write.many:
                connection.execute("release one")
        except Exception as fault:  # noqa: BLE001 - the caller's future gets the error
            write.fault = self._translate_error(fault)
            if write.many and connection.in_transaction:
                connection.execute("rollback to one")
                connection.execute("release one")

    def _translate_error(self, fault: Exception) -> Exception:
        """Return the error for the callers; an error of SQLite becomes a `ProjectError`."""
        if not isinstance(fault, sqlite3.Error):
            return fault
        translated = translate_error(fault, self._path)
        translated.__cause__ = fault
        return translated


def _resolve_on_loops(batch: Sequence[_Write]) -> None:
    """Resolve the futures of all callers, with one wake-up for each loop."""
    loops: dict[asyncio.AbstractEventLoop, list[_Write]] = {}
    for write in batch:
        if write.future is not None:
            loops.setdefault(write.future.get_loop(), []).append(write)
        else:
            _resolve([write])
    for loop, writes in loops.items():
        try:
            loop.call_soon_threadsafe(_resolve, writes)
        except RuntimeError:
            # the loop was closed after it submitted the write; the write is committed, and its future is obsolete
            _log.debug("%d writes were recorded after their event loop had closed", len(writes))


def _resolve(writes: Sequence[_Write]) -> None:
    for write in writes:
        future = write.future
        if future is None:
            if write.fault is not None:
                _log.error("An unawaited write failed: %s", write.fault)
            continue
        if future.done():  # its caller was cancelled
            continue
        if write.fault is not None:
            future.set_exception(write.fault)
        else:
            future.set_result(write.result)

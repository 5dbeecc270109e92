"""
Grouped commits on one connection: all waiting writes share a transaction.

A caller's future resolves on the caller's loop after the commit of its write. A failed write is rolled back alone and
fails only its caller. On a fast disk the event loop itself commits the writes of one iteration. A thread (`run_blocking_in`)
commits if the disk is slow, if another process writes, or for a second loop: passing writes to a thread takes as long as a
fast commit.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from pdkernel.common.blocking import permit_blocking, run_blocking_in
from pdkernel.errors import ProjectError
from pdkernel.journal.backend import Backend, Connection, Write

T = TypeVar("T")

MAX_BATCH_WRITES = 512
"""Maximum number of writes in one transaction."""

MIN_GROUPED_RUNS = 8
"""Concurrent runs from which a loop's writes wait for one another."""
GROUP_S = 0.001
"""Seconds that writes wait for others: a busy processor then commits less often, and other runs use the time."""
MAX_INLINE_SIZE = 1 << 18
"""Characters and bytes of a write that the loop commits itself: a larger one takes milliseconds, in which no request is answered."""

_AVERAGE_WEIGHT = 0.2
"""Weight of the last commit in the average."""
_MAX_OUTLIER_FACTOR = 4
"""A commit counts at most this many times the limit: an occasional WAL checkpoint must not change the mode."""

_log = logging.getLogger(__name__)


class JournalWriter:
    """
    The writer of one journal in one process; other processes may have their own writers.

    Args:
        backend: The database.

    Attributes:
        commits: The number of transactions so far.
        writes: The number of writes in them.
    """

    def __init__(self, backend: Backend) -> None:
        self.commits = 0
        self.writes = 0
        self._location = backend.location
        self._transactions = backend.open_transactions()
        self._queue: list[Write] = []  # writes that the thread has not begun to commit
        self._is_draining = False  # whether the thread has writes, or will look for them
        self._quick_s, self._retry_s = backend.max_inline_commit_s, backend.inline_retry_s
        self._average_s = 0.0
        self._slow_until = 0.0
        self._inline_loop: asyncio.AbstractEventLoop | None = None  # the loop of the first caller, which commits itself
        self._inline_batch: list[Write] = []  # writes of the loop's current iteration
        self._lock = threading.Lock()
        self._committing = threading.Lock()
        self._closed = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pdkernel-journal")

    @property
    def is_unmarked(self) -> bool:
        """Whether an empty write should follow now; see `Transactions`."""
        return self._transactions.is_unmarked

    def write(
        self,
        statement: Callable[[Connection], T],
        *,
        is_compound: bool = False,
        is_contended: bool = False,
        size: int = 0,
        concurrent_runs: int = 2,
    ) -> asyncio.Future[T]:
        """
        Run *statement* in one of the next transactions.

        The future raises `ProjectError` if the journal is closed or the database cannot be written.

        Args:
            statement: The write.
            is_compound: Whether the write has several SQL statements.
            is_contended: Whether it locks rows that are not this executor's own.
            size: The characters and bytes of its values: the thread commits a large write.
            concurrent_runs: The number of runs in progress: one is committed at once, several soon, many together.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        try:
            self._take(Write(statement, is_compound, is_contended, future), loop, concurrent_runs, size)
        except ProjectError as closed:
            future.set_exception(closed)
        return future

    def close(self, final_write: Callable[[Connection], Any]) -> None:
        """Commit waiting writes and *final_write*; blocks. A second call does nothing."""
        with self._lock:
            is_first, self._closed = not self._closed, True
            if is_first:
                self._transactions.hurry()
                self._queue += [
                    *self._inline_batch,
                    Write(final_write, is_compound=True, is_contended=True, future=None),
                ]
                self._inline_batch = []
        self._drain()
        if is_first:
            with self._committing:
                self._transactions.close()
            self._thread.shutdown(wait=False)

    def _take(self, write: Write, loop: asyncio.AbstractEventLoop, concurrent_runs: int, size: int) -> None:
        with self._lock:
            if self._closed:
                raise ProjectError(f"The journal in {self._location} is closed.", fix="Open the project again.")
            if self._inline_loop is None or self._inline_loop.is_closed():
                self._move_to_thread()
                self._inline_loop = loop
            self._inline_batch.append(write)
            if loop is not self._inline_loop or size > MAX_INLINE_SIZE or not self._is_quick():
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
        """Queue the current batch for the thread; the caller holds the lock, and runs in an event loop."""
        self._queue += self._inline_batch
        self._inline_batch = []
        if self._queue and not self._is_draining and not self._closed:  # `close` commits what is left
            self._is_draining = True
            run_blocking_in(self._thread, self._drain).add_done_callback(self._end_drain)

    def _end_drain(self, drained: asyncio.Future[None]) -> None:
        """Fail the waiting writes if the thread ended early, or could not be started: nothing else would commit them."""
        fault = None if drained.cancelled() else drained.exception()
        if fault is None:
            return
        with self._lock:
            batch, self._queue = self._queue, []
            self._is_draining = False
        _log.error("%d writes could not be committed", len(batch), exc_info=fault)
        for write in batch:
            write.fault = fault
        _resolve_on_loops(batch)

    def _is_quick(self) -> bool:
        return self._quick_s > 0 and time.monotonic() >= self._slow_until

    def _commit_inline(self) -> None:
        """Commit the current batch in the loop, or queue it for the thread if the thread has work."""
        with self._lock:
            # the thread's writes were submitted earlier and must be committed first
            if self._is_draining or not self._inline_batch or not self._committing.acquire(blocking=False):
                self._move_to_thread()
                return
            batch, self._inline_batch = self._inline_batch, []
        try:
            with permit_blocking():
                begun = self._transactions.try_begin()
                if begun:
                    self._commit(batch, begun=begun)
            if not begun:
                with self._lock:
                    self._queue[:0] = batch
                    self._move_to_thread()
                return
        except ProjectError as fault:  # of `try_begin`
            for write in batch:
                write.fault = fault
        finally:
            self._committing.release()
        _resolve(batch)

    def _drain(self) -> None:
        """Commit the writes of the queue, in a thread, until none is left."""
        while True:
            with self._committing:
                with self._lock:
                    batch = self._queue[:MAX_BATCH_WRITES]
                    del self._queue[: len(batch)]
                if batch:
                    self._commit(batch)
                with self._lock:
                    self._is_draining = bool(self._queue)
            if not batch:
                return
            _resolve_on_loops(batch)

    def _commit(self, batch: Sequence[Write], *, begun: bool = False) -> None:
        try:
            seconds = self._transactions.commit(batch, begun=begun)
        except Exception as fault:  # noqa: BLE001 - its callers would wait for ever, and so would those of later writes
            for write in batch:
                write.fault = write.fault or fault
            return
        if seconds is not None:
            self.commits += 1
            self.writes += len(batch)
            if begun:  # in the thread, the duration includes waiting for the interpreter lock
                self._update_average(seconds)

    def _update_average(self, seconds: float) -> None:
        """Update the moving average with the duration of a commit in the loop."""
        seconds = min(seconds, _MAX_OUTLIER_FACTOR * self._quick_s)
        self._average_s += _AVERAGE_WEIGHT * (seconds - self._average_s)
        if self._average_s >= self._quick_s:
            self._average_s = 0.0
            self._slow_until = time.monotonic() + self._retry_s


def _resolve_on_loops(batch: Sequence[Write]) -> None:
    """Resolve the futures of all callers, with one wake-up for each loop."""
    loops: dict[asyncio.AbstractEventLoop, list[Write]] = {}
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


def _resolve(writes: Sequence[Write]) -> None:
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

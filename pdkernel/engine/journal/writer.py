"""
Grouped commits: one connection, as many writes in one transaction as are waiting.

A caller's future resolves after the commit that holds its write, on the loop that it asked from. A write that fails
undoes only itself and fails only its own caller. On a quick disk the loop commits by itself, once a turn, what was asked
for in that turn; a thread does it where the disk is slow, another process writes, or another loop asks: handing over
takes as long as the commit, and under load a thread waits for the interpreter at each statement. Knows nothing of what
is written.
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
"""Writes in one transaction at most."""

MAX_INLINE_COMMIT_S = 0.002
"""Seconds for which an event loop can be held up by a commit, on the average of the last few."""

INLINE_RETRY_S = 0.25
"""Seconds until a loop tries again on a disk that was slow."""

_AVERAGE_WEIGHT = 0.2
"""How much the last commit counts in the average."""
_MAX_OUTLIER_FACTOR = 4
"""Times `QUICK_S` for which one commit counts at most: a log is copied back now and then, and one such says nothing."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Write:
    act: WriteFunction
    many: bool  # of several statements: needs a savepoint to be undone alone
    future: asyncio.Future[Any] | None
    result: Any = None
    fault: Exception | None = None


class JournalWriter:
    """
    The thread that writes one SQLite file for one process; other processes may have theirs.

    Args:
        path: The file.
        max_inline_commit_s: Seconds; while commits take less, they are made in the loop that asks for them.

    Attributes:
        commits: Transactions so far.
        writes: Writes in them.
    """

    def __init__(self, path: Path, *, max_inline_commit_s: float = MAX_INLINE_COMMIT_S) -> None:
        self.commits = 0
        self.writes = 0
        self._path = path
        self._connection = connect(path)
        self._queue: SimpleQueue[_Write | None] = SimpleQueue()
        self._waiting = 0  # handed to the thread and not yet committed
        self._quick_s = max_inline_commit_s
        self._waits_when_busy = True
        self._average_s = 0.0
        self._slow_until = 0.0
        self._inline_loop: asyncio.AbstractEventLoop | None = (
            None  # the loop that commits by itself: the first that asks
        )
        self._inline_batch: list[_Write] = []  # what it was asked for in this turn
        self._lock = threading.Lock()
        self._committing = threading.Lock()
        self._closed = False
        # a daemon, so that a forgotten journal does not keep a kernel from ending; `close` loses nothing
        self._thread = threading.Thread(target=self._work, name="pdkernel-journal", daemon=True)
        self._thread.start()

    def write(
        self, statement: Callable[[sqlite3.Connection], T], *, is_compound: bool = False, commit_now: bool = False
    ) -> asyncio.Future[T]:
        """
        Do *statement* in one of the next transactions.

        The future raises `ProjectError` if the journal is closed or the database cannot be written.

        Args:
            statement: What to write.
            is_compound: It is several statements.
            commit_now: Nobody else's work waits while this is written: it may be written at once.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        try:
            self._take(_Write(statement, is_compound, future), loop, at_once=commit_now)
        except ProjectError as closed:
            future.set_exception(closed)
        return future

    def write_unawaited(self, act: WriteFunction) -> None:
        """Do *act* in one of the next transactions; nobody waits for it, a failure is logged."""
        self._take(_Write(act, many=False, future=None), asyncio.get_running_loop(), at_once=False)

    def close(self, final_write: WriteFunction) -> None:
        """Write what is waiting and then *final_write*, and end; blocks until then. Closing twice is fine."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._move_to_thread()
                self._waiting += 1
                self._queue.put(_Write(final_write, many=False, future=None))
                self._queue.put(None)
        self._thread.join()

    def _take(self, write: _Write, loop: asyncio.AbstractEventLoop, *, at_once: bool) -> None:
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
            if not at_once:
                if len(self._inline_batch) == 1:
                    loop.call_soon(self._commit_inline)
                return
        self._commit_inline()

    def _move_to_thread(self) -> None:
        """Leave what was gathered to the thread; the lock is held."""
        self._waiting += len(self._inline_batch)
        for write in self._inline_batch:
            self._queue.put(write)
        self._inline_batch = []

    def _is_quick(self) -> bool:
        return self._quick_s > 0 and time.monotonic() >= self._slow_until

    def _commit_inline(self) -> None:
        """Commit what was gathered in this thread, or leave it to the other if anything stands in the way."""
        with self._lock:
            # what the thread has was asked for earlier, and is to be on disk earlier
            if self._waiting or not self._inline_batch or not self._committing.acquire(blocking=False):
                self._move_to_thread()
                return
            batch, self._inline_batch = self._inline_batch, []
        try:
            if not self._begin_inline() and self._left_to_the_thread(batch):
                return
            self._commit(batch, begun=self._connection.in_transaction)
        except sqlite3.Error as fault:
            for write in batch:
                write.fault = self._translate_error(fault)
        finally:
            self._committing.release()
        _resolve(batch)

    def _begin_inline(self) -> bool:
        """Begin a transaction, unless another process writes."""
        self._set_busy_wait(patient=False)
        try:
            self._connection.execute("begin immediate")
        except sqlite3.OperationalError as fault:
            if is_busy(fault):
                self._set_busy_wait(patient=True)
                return False
            raise
        return True

    def _left_to_the_thread(self, batch: list[_Write]) -> bool:
        """Whether the thread will commit *batch*: not if it was told to end meanwhile."""
        with self._lock:
            if self._closed:
                return False
            self._inline_batch[:0] = batch
            self._move_to_thread()
            return True

    def _set_busy_wait(self, *, patient: bool) -> None:
        """Have SQLite wait, or not, while another process writes; `_committing` is held."""
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
        """What is waiting, at least one; and whether it is the end."""
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
                if not connection.in_transaction:  # a full disk ends the whole transaction, not the statement
                    raise write.fault or sqlite3.OperationalError("the transaction ended early")
            began = time.monotonic()
            connection.execute("commit")
        except Exception as fault:  # noqa: BLE001 - whatever it is, this thread goes on and its callers are told
            if connection.in_transaction:
                connection.execute("rollback")
            for write in batch:
                write.fault = self._translate_error(fault)
        else:
            self.commits += 1
            self.writes += len(batch)
            if begun:  # in the thread it is also the interpreter that is waited for
                self._measured(time.monotonic() - began)

    def _measured(self, seconds: float) -> None:
        """Take how long a commit held up the loop."""
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
        except Exception as fault:  # noqa: BLE001 - whatever it is, it is its caller's
            write.fault = self._translate_error(fault)
            if write.many and connection.in_transaction:
                connection.execute("rollback to one")
                connection.execute("release one")

    def _translate_error(self, fault: Exception) -> Exception:
        """What the callers are told: SQLite's own faults as a sentence."""
        if not isinstance(fault, sqlite3.Error):
            return fault
        told = translate_error(fault, self._path)
        told.__cause__ = fault
        return told


def _resolve_on_loops(batch: Sequence[_Write]) -> None:
    """Tell every caller, with one wake-up for each loop."""
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
            # the loop was closed while its write was on the way: it is recorded, and there is nobody to tell
            _log.debug("%d writes were recorded after their event loop had closed", len(writes))


def _resolve(writes: Sequence[_Write]) -> None:
    for write in writes:
        future = write.future
        if future is None:
            if write.fault is not None:
                _log.error("A write that nobody waits for failed: %s", write.fault)
            continue
        if future.done():  # its caller was cancelled
            continue
        if write.fault is not None:
            future.set_exception(write.fault)
        else:
            future.set_result(write.result)

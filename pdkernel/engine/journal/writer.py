"""
Grouped commits: one thread, one connection, as many writes in one transaction as are waiting.

A caller's future resolves after the commit that holds its write, on the loop that it asked from. A write that fails
undoes only itself and fails only its own caller. A lone caller on a quick disk is not sent through the thread: handing
over takes as long as the commit. Knows nothing of what is written.
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
from pdkernel.project.sqlite import BUSY_S, connect, explain, is_busy

T = TypeVar("T")
Act = Callable[[sqlite3.Connection], Any]

BATCH = 512
"""Writes in one transaction at most."""

QUICK_S = 0.002
"""Seconds for which an event loop can be held up by a commit."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Write:
    act: Act
    many: bool  # of several statements: needs a savepoint to be undone alone
    future: asyncio.Future[Any] | None
    result: Any = None
    fault: Exception | None = None


class Writer:
    """
    The thread that writes one SQLite file for one process; other processes may have theirs.

    Args:
        path: The file.
        quick_s: Seconds; while commits take less, one may be made where it is asked for.

    Attributes:
        commits: Transactions so far.
        writes: Writes in them.
    """

    def __init__(self, path: Path, *, quick_s: float = QUICK_S) -> None:
        self.commits = 0
        self.writes = 0
        self._path = path
        self._connection = connect(path)
        self._queue: SimpleQueue[_Write | None] = SimpleQueue()
        self._waiting = 0  # handed to the thread and not yet committed
        self._quick_s = quick_s
        self._quick = True  # the last commit was
        self._lock = threading.Lock()
        self._committing = threading.Lock()
        self._closed = False
        # a daemon, so that a forgotten journal does not keep a kernel from ending; `close` loses nothing
        self._thread = threading.Thread(target=self._work, name="pdkernel-journal", daemon=True)
        self._thread.start()

    def write(
        self, act: Callable[[sqlite3.Connection], T], *, many: bool = False, alone: bool = False
    ) -> asyncio.Future[T]:
        """
        Do *act* in one of the next transactions.

        The future raises `ProjectError` if the journal is closed or the database cannot be written.

        Args:
            act: What to write.
            many: It is several statements.
            alone: Nobody else's work waits while this is written: it may be written at once, in the caller's thread.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        write = _Write(act, many, future)
        try:
            if not (alone and self._written_here(write)):
                self._put(write)
        except ProjectError as closed:
            future.set_exception(closed)
        return future

    def write_later(self, act: Act) -> None:
        """Do *act* in one of the next transactions; nobody waits for it, a failure is logged."""
        self._put(_Write(act, many=False, future=None))

    def close(self, last: Act) -> None:
        """Write what is waiting and then *last*, and end; blocks until then. Closing twice is fine."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._waiting += 1
                self._queue.put(_Write(last, many=False, future=None))
                self._queue.put(None)
        self._thread.join()

    def _put(self, write: _Write) -> None:
        with self._lock:
            if self._closed:
                raise ProjectError(f"The journal in {self._path} is closed.", fix="Open the project again.")
            self._waiting += 1
            self._queue.put(write)

    def _written_here(self, write: _Write) -> bool:
        """Commit *write* in this thread, unless others' are waiting, the disk is slow, or another process writes."""
        with self._lock:
            # what is waiting was asked for earlier, and is to be on disk earlier
            if self._closed or self._waiting or not self._quick or not self._committing.acquire(blocking=False):
                return False
        try:
            self._connection.execute("pragma busy_timeout = 0")
            try:
                self._connection.execute("begin immediate")
            except sqlite3.OperationalError as fault:
                if is_busy(fault):
                    return False
                raise
            finally:
                self._connection.execute(f"pragma busy_timeout = {BUSY_S * 1000:.0f}")
            self._commit([write], begun=True)
        except sqlite3.Error as fault:
            write.fault = self._told(fault)
        finally:
            self._committing.release()
        _resolve([write])
        return True

    def _work(self) -> None:
        last = False
        while not last:
            batch, last = self._next_batch()
            if batch:
                with self._committing:
                    self._commit(batch)
                with self._lock:
                    self._waiting -= len(batch)
                _answer(batch)
        self._connection.close()

    def _next_batch(self) -> tuple[list[_Write], bool]:
        """What is waiting, at least one; and whether it is the end."""
        batch: list[_Write] = []
        waiting = self._queue.get()
        while waiting is not None:
            batch.append(waiting)
            if len(batch) == BATCH:
                return batch, False
            try:
                waiting = self._queue.get_nowait()
            except Empty:
                return batch, False
        return batch, True

    def _commit(self, batch: Sequence[_Write], *, begun: bool = False) -> None:
        connection = self._connection
        began = time.monotonic()
        try:
            if not begun:
                connection.execute("begin immediate")
            for write in batch:
                self._perform(write)
                if not connection.in_transaction:  # a full disk ends the whole transaction, not the statement
                    raise write.fault or sqlite3.OperationalError("the transaction ended early")
            connection.execute("commit")
        except Exception as fault:  # noqa: BLE001 - whatever it is, this thread goes on and its callers are told
            if connection.in_transaction:
                connection.execute("rollback")
            for write in batch:
                write.fault = self._told(fault)
        else:
            self.commits += 1
            self.writes += len(batch)
        self._quick = time.monotonic() - began < self._quick_s

    def _perform(self, write: _Write) -> None:
        connection = self._connection
        try:
            if write.many:
                connection.execute("savepoint one")
            write.result = write.act(connection)
            if write.many:
                connection.execute("release one")
        except Exception as fault:  # noqa: BLE001 - whatever it is, it is its caller's
            write.fault = self._told(fault)
            if write.many and connection.in_transaction:
                connection.execute("rollback to one")
                connection.execute("release one")

    def _told(self, fault: Exception) -> Exception:
        """What the callers are told: SQLite's own faults as a sentence."""
        if not isinstance(fault, sqlite3.Error):
            return fault
        told = explain(fault, self._path)
        told.__cause__ = fault
        return told


def _answer(batch: Sequence[_Write]) -> None:
    """Tell every caller, with one wake-up for each loop."""
    loops: dict[asyncio.AbstractEventLoop, list[_Write]] = {}
    for write in batch:
        if write.future is not None:
            loops.setdefault(write.future.get_loop(), []).append(write)
        elif write.fault is not None:
            _log.error("A write that nobody waits for failed: %s", write.fault)
    for loop, writes in loops.items():
        try:
            loop.call_soon_threadsafe(_resolve, writes)
        except RuntimeError:
            # the loop was closed while its write was on the way: it is recorded, and there is nobody to tell
            _log.debug("%d writes were recorded after their event loop had closed", len(writes))


def _resolve(writes: Sequence[_Write]) -> None:
    for write in writes:
        future = write.future
        if future is None or future.done():  # done: its caller was cancelled
            continue
        if write.fault is not None:
            future.set_exception(write.fault)
        else:
            future.set_result(write.result)

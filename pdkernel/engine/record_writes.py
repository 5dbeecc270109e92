"""
The writes of one run to the journal: submitted in the order of calls, awaited together.

Commits run beside the work. `wait` is called before each step, so that a step starts only when all earlier writes are on
disk; a write that the journal refused stops the run there. While the disk is full, a run can wait and write again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from pdkernel.common.clock import Clock
from pdkernel.errors import DatabaseUnreachableError, InternalError, ProjectError

WRITE_RETRY_S = 0.25
"""Seconds until a run of a server repeats a failed write, as on a full disk, or a failed read."""

_Write = Callable[[], Awaitable[bool]]
T = TypeVar("T")


class RunLostError(InternalError):
    """The journal refuses the writes of this executor: the run was cancelled, or another executor continues it."""

    code = "run_lost"

    def __init__(self) -> None:
        super().__init__(
            "This process lost the run: the run was cancelled, or its lease expired and another process continues it. "
            "Later results of this process are not recorded.",
            fix="Open the run's record to see how the run went on.",
        )


class RecordWrites:
    """The writes of one run; belongs to one event loop."""

    def __init__(self) -> None:
        self._pending: list[tuple[asyncio.Future[bool], _Write | None]] = []
        self._has_started = True
        self._delayed: list[tuple[asyncio.Future[bool], _Write]] = []

    def start(self, accept: _Write, *, may_repeat: bool = False) -> None:
        """
        Submit the first write, which calls `mark_started` when it is in the journal's order.

        With *may_repeat*, `wait` repeats it as it does later ones, because no caller waits for the answer whether the run was accepted.
        """
        self._has_started = False
        self._pending.append((asyncio.ensure_future(accept()), accept if may_repeat else None))

    def mark_started(self) -> None:
        """Submit the writes that waited for the first write, in their order, as soon as the caller waits for anything."""
        asyncio.get_running_loop().call_soon(self._submit_delayed)

    def submit(self, write: _Write) -> None:
        """Submit *write* after all earlier ones; its result is False if the journal refused it."""
        # the journal writes in the order of calls, and the run's first row must be the first write
        if self._has_started:
            self._pending.append((asyncio.ensure_future(write()), write))
            return
        result: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._delayed.append((result, write))
        self._pending.append((result, write))

    async def wait(self, until_retry: Callable[[ProjectError], Awaitable[None]] | None = None) -> None:
        """
        Wait until all writes are on disk.

        Args:
            until_retry: Waits before the writes that failed are submitted again; None raises the error. The first write,
                by which the journal accepts the run, is not repeated, unless `start` permits it.

        Raises:
            ProjectError: A write failed.
            RunLostError: The journal refused a write.
        """
        while True:
            pending = list(self._pending)
            for writing, _ in pending:
                if not writing.done():
                    # if the run is cancelled during this wait, the next call waits for the writes
                    await _ended(writing)
            failed = [(fault, write) for writing, write in pending if (fault := _fault_of(writing)) is not None]
            fault, write = failed[0] if failed else (None, None)
            if until_retry is None or write is None or not isinstance(fault, ProjectError):
                break
            await until_retry(fault)
            del self._pending[: len(pending)]
            self._pending[:0] = [(asyncio.ensure_future(write()), write) for _, write in failed if write is not None]
        del self._pending[: len(pending)]
        if fault is not None:
            raise fault

    def _submit_delayed(self) -> None:
        self._has_started = True
        delayed, self._delayed = self._delayed, []
        for result, write in delayed:
            asyncio.ensure_future(write()).add_done_callback(partial(_pass_on, result))


def _pass_on(result: asyncio.Future[bool], writing: asyncio.Future[bool]) -> None:
    """Give *result* the end of *writing*."""
    if writing.cancelled():
        result.cancel()
    elif (fault := writing.exception()) is not None:
        result.set_exception(fault)
    else:
        result.set_result(writing.result())


async def retry_unreachable(
    act: Callable[[], Awaitable[T]],
    clock: Clock,
    check: Callable[[], Awaitable[None]] | None = None,
    *,
    fault: type[ProjectError] = DatabaseUnreachableError,
) -> T:
    """Return the result of *act*. While it raises *fault*, by default because the database does not answer, try again, unless *check* raises."""
    while True:
        with contextlib.suppress(fault):
            return await act()
        await clock.sleep(WRITE_RETRY_S)
        if check is not None:
            await check()


async def _ended(writing: asyncio.Future[bool]) -> None:
    """Wait until *writing* has ended in any way; a cancelled wait does not cancel it."""
    ended = asyncio.get_running_loop().create_future()

    def end(_: object) -> None:
        if not ended.done():
            ended.set_result(None)

    writing.add_done_callback(end)
    await ended


def _fault_of(write: asyncio.Future[bool]) -> BaseException | None:
    """Return why *write*, which has ended, is not in the journal; None if it is."""
    if write.cancelled():
        return asyncio.CancelledError()
    if (fault := write.exception()) is not None or write.result():
        return fault
    return RunLostError()

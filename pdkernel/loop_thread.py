"""
A thread with a running event loop, for callers that block.

Knows how to hand a coroutine over and how an interrupt of the caller cancels it. Knows nothing of workflows.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class LoopThread:
    """An event loop in a daemon thread; it starts with the first coroutine."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> ThreadTask[T]:
        """Start *coroutine* and return at once."""
        loop = self._running()
        outcome: Future[T] = Future()
        task = ThreadTask(loop, outcome)

        def start() -> None:
            inner = loop.create_task(coroutine)
            task.asyncio_task = inner
            inner.add_done_callback(lambda done: _copy_outcome(done, outcome))

        loop.call_soon_threadsafe(start)
        return task

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run *coroutine* to its end; an interrupt cancels it and waits for its clean-up."""
        return self.submit(coroutine).result()

    def close(self) -> None:
        """Stop the loop; whatever still runs is dropped."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(_cancel_all_tasks(), loop).result(timeout=5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=5)
        if not thread.is_alive():
            loop.close()

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="pdkernel", daemon=True)
                # a debugger that stops the kernel leaves this thread alone: it answers what the stopped step asks
                vars(self._thread).update(pydev_do_not_trace=True, is_pydev_daemon_thread=True)
                self._thread.start()
            return self._loop


class ThreadTask(Generic[T]):
    """A coroutine on its way in the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, outcome: Future[T]) -> None:
        self._loop = loop
        self._outcome = outcome
        self.asyncio_task: asyncio.Task[T] | None = None

    def add_done_callback(self, callback: Callable[[], object]) -> None:
        """Call *callback* when it has ended, from whichever thread is at hand."""
        self._outcome.add_done_callback(lambda _done: callback())

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self._outcome.done()

    def cancel(self) -> None:
        """Ask it to end; `result` then waits for its clean-up."""

        def cancel() -> None:
            if self.asyncio_task is not None:
                self.asyncio_task.cancel()

        self._loop.call_soon_threadsafe(cancel)

    def result(self) -> T:
        """
        Wait for its end.

        An interrupt while waiting cancels it once; what it then returns is returned, so that a cancelled run's
        record is not lost. A second interrupt gives up waiting.
        """
        try:
            return self._wait()
        except KeyboardInterrupt:
            self.cancel()
            return self._wait()

    def _wait(self) -> T:
        # a wait without a limit cannot be interrupted on every platform
        while True:
            try:
                return self._outcome.result(timeout=0.5)
            except TimeoutError:
                if self._outcome.done():
                    raise


def _copy_outcome(done: asyncio.Task[T], outcome: Future[T]) -> None:
    if done.cancelled():
        outcome.set_exception(KeyboardInterrupt())
        return
    error = done.exception()
    if error is not None:
        outcome.set_exception(error)
    else:
        outcome.set_result(done.result())


async def _cancel_all_tasks() -> None:
    """End what still runs, and let closed connections say goodbye."""
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    for _ in range(3):
        await asyncio.sleep(0)
    await asyncio.get_running_loop().shutdown_default_executor()

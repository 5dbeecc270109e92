"""
A thread that runs an event loop, so that callers can block on coroutines.

An interrupt (`KeyboardInterrupt`) of a waiting caller cancels its coroutine.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextvars import Context
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class LoopThread:
    """An event loop in a daemon thread; the thread starts with the first coroutine."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def submit(self, coroutine: Coroutine[Any, Any, T], *, context: Context | None = None) -> ThreadTask[T]:
        """Start *coroutine* in the loop's thread and return at once; it runs in *context*, or in a copy of the caller's."""
        loop = self._running()
        outcome: Future[T] = Future()
        task = ThreadTask(loop, outcome)

        def start() -> None:
            inner = loop.create_task(coroutine)
            task.asyncio_task = inner
            inner.add_done_callback(lambda done: _copy_outcome(done, outcome))

        loop.call_soon_threadsafe(start, context=context)
        return task

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run *coroutine* and return its result; an interrupt cancels it and waits for its cleanup."""
        return self.submit(coroutine).result()

    def close(self) -> None:
        """Cancel all tasks and stop the loop."""
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
                # a debugger must not stop this thread: it serves the requests of the step that is being debugged
                vars(self._thread).update(pydev_do_not_trace=True, is_pydev_daemon_thread=True)
                self._thread.start()
            return self._loop


class ThreadTask(Generic[T]):
    """A coroutine that runs in the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, outcome: Future[T]) -> None:
        self._loop = loop
        self._outcome = outcome
        self.asyncio_task: asyncio.Task[T] | None = None
        self._is_cancelled = False

    def add_done_callback(self, callback: Callable[[], object]) -> None:
        """Call *callback* when the coroutine has ended, in an arbitrary thread."""
        self._outcome.add_done_callback(lambda _done: callback())

    @property
    def done(self) -> bool:
        """Whether the coroutine has ended."""
        return self._outcome.done()

    def cancel(self) -> None:
        """Cancel the coroutine; `result` then waits for its cleanup, which a second call does not interrupt."""

        def cancel() -> None:
            if self.asyncio_task is not None and not self._is_cancelled:
                self._is_cancelled = True
                # after the task's first step: a task that is cancelled before it never enters its `try` blocks
                self._loop.call_soon(self.asyncio_task.cancel)

        self._loop.call_soon_threadsafe(cancel)

    def result(self, *, raises_interrupt: bool = False, while_waiting: Callable[[], object] | None = None) -> T:
        """
        Wait for the coroutine and return its result.

        The first interrupt cancels the coroutine, and its result is still returned, so that the record of a cancelled
        run is not lost. With *raises_interrupt* the interrupt is raised instead, after the coroutine's cleanup. A second
        interrupt ends the wait. *while_waiting* is called twice a second.
        """
        try:
            return self._wait(while_waiting)
        except KeyboardInterrupt:
            self.cancel()
            result = self._wait()
            if raises_interrupt:
                raise
            return result

    async def result_async(self) -> T:
        """Wait in another event loop; if the wait is cancelled, cancel the coroutine and wait for its cleanup."""
        future = asyncio.wrap_future(self._outcome)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            self.cancel()
            await asyncio.wait([future])
            future.exception()  # otherwise asyncio logs that the exception of a cancelled run was never retrieved
            raise

    def _wait(self, while_waiting: Callable[[], object] | None = None) -> T:
        # on some platforms a wait without a timeout cannot be interrupted
        while True:
            try:
                return self._outcome.result(timeout=0.5)
            except TimeoutError:
                if self._outcome.done():
                    raise
                if while_waiting is not None:
                    while_waiting()


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
    """Cancel all other tasks of the loop, and let transports close."""
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    for _ in range(3):
        await asyncio.sleep(0)
    await asyncio.get_running_loop().shutdown_default_executor()

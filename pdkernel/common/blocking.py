"""
The only way from an event loop to work that blocks: on a disk, a database, the network or a process.

Everything goes through `run_in_executor` of the running loop, so a loop decides when and where such work happens: a loop
of tests can run it at a moment of its choice, in virtual time.

While the check is on (`PDKERNEL_FORBID_BLOCKING=1`, as in all tests), a call of a database on a thread that runs an event
loop raises `BlockingCallError`, which names the caller.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar, copy_context
from functools import partial
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE
from types import FrameType
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

FORBID_VARIABLE = "PDKERNEL_FORBID_BLOCKING"
IS_BLOCKING_FORBIDDEN = os.environ.get(FORBID_VARIABLE) == "1"
"""Whether this process checks its calls of databases."""

MAX_THREADS = 64
"""Threads of a server's loop: while its database does not answer, all background tasks and some requests wait in one each."""

_CHECKED = ("pdkernel", "starlette", "uvicorn")
"""Packages whose coroutines and callbacks are checked; a test's own may block."""
_NOT_CHECKED = tuple(
    f"pdkernel.{name}." for name in ("annex.proof", "annex.snapshot_tests", "api", "cli", "kernel", "kit", "testing")
)
"""Their loop is a command's or a notebook's, and serves no other client while their code runs."""
_SHOWN = 120
"""Characters of a statement in an error."""


class BlockingCallError(RuntimeError):
    """A call that blocks, on a thread that runs an event loop."""


class _Permits(threading.local):
    count = 0


class DatabaseWait:
    """
    The call of a database for which one task waits, so that the wait can be given up; the call goes on.

    Args:
        task: The task; those that it starts are not concerned.
        may_wait: Returns whether the database answers, so that a call is worth waiting for.
    """

    def __init__(self, task: asyncio.Task[Any], may_wait: Callable[[], bool]) -> None:
        self._task = task
        self._may_wait = may_wait
        self._call: asyncio.Future[Any] | None = None

    @classmethod
    def begin(cls, may_wait: Callable[[], bool]) -> DatabaseWait:
        """Observe the calls of the current task from now on."""
        task = asyncio.current_task()
        assert task is not None, "called in a coroutine"
        wait = cls(task, may_wait)
        _waits.set(wait)
        return wait

    def observe(self, call: asyncio.Future[Any]) -> None:
        """Note that the current task is going to wait for *call*."""
        if self._task is asyncio.current_task():
            self._call = call
            if not self._may_wait():
                call.cancel()

    def give_up(self) -> None:
        """Cancel the future for which the task waits; the task is not cancelled itself."""
        if self._call is not None:
            self._call.cancel()


_permits = _Permits()
_waits: ContextVar[DatabaseWait | None] = ContextVar("waits", default=None)
_UNCHECKED = nullcontext()


def prepare_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Give *loop*, that of a server, so many threads that work for the disk does not wait for a database without an answer."""
    loop.set_default_executor(ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="pdkernel-blocking"))


def run_blocking(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
    """
    Call a function in another thread, with a copy of the current context; the future has its result.

    The call begins at once and cannot be interrupted: a cancelled future ignores its result.
    """
    return until_silent(run_blocking_in(None, function, *args, **kwargs))


def until_silent(call: asyncio.Future[T]) -> asyncio.Future[T]:
    """
    Return *call*, for which the current task is going to wait, and which needs the database.

    It is cancelled if the task answers a request, and the database stops answering (`DatabaseWait`).
    """
    wait = _waits.get()
    if wait is not None:
        wait.observe(call)
    return call


def run_blocking_in(
    threads: Executor | None, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
) -> asyncio.Future[T]:
    """
    Call a function as `run_blocking` does, in one of *threads*: for an object that only one thread may use.

    If no thread can be started, the future has that error too, so a caller deals with it where it deals with those of the call.
    """
    call = partial(copy_context().run, function, *args, **kwargs)
    if IS_BLOCKING_FORBIDDEN:
        call = partial(_call_permitted, call)
    loop = asyncio.get_running_loop()
    try:
        return loop.run_in_executor(threads, call)
    except RuntimeError as fault:
        failed: asyncio.Future[T] = loop.create_future()
        failed.set_exception(fault)
        return failed


async def await_outcome(future: asyncio.Future[T]) -> T:
    """
    Return the result of *future*, also if the caller is cancelled meanwhile, which then has no effect.

    For a commit in a thread, which nothing interrupts: a caller that does not learn its outcome would be told that it failed.
    """
    while not future.done():
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError:
            if future.cancelled():
                raise
    return future.result()


def _call_permitted(call: Callable[[], T]) -> T:
    with permit_blocking():
        return call()


def permit_blocking() -> AbstractContextManager[None]:
    """Return a context in which this thread may block its event loop, because that was measured to cost less than a thread."""
    return _permitted() if IS_BLOCKING_FORBIDDEN else _UNCHECKED


@contextmanager
def _permitted() -> Iterator[None]:
    _permits.count += 1
    try:
        yield
    finally:
        _permits.count -= 1


def check_may_block(call: str) -> None:
    """
    Raise `BlockingCallError` if this thread runs an event loop, and code of the package is about to stop it.

    Args:
        call: What is called, without values, for the error.
    """
    if asyncio._get_running_loop() is None or _permits.count:  # noqa: SLF001 - the public function raises an error if there is none
        return
    caller = _find_caller(sys._getframe(1))  # noqa: SLF001 - there is no public function
    module = f"{caller.f_globals.get('__name__', '')}."
    if module.startswith(tuple(f"{name}." for name in _CHECKED)) and not module.startswith(_NOT_CHECKED):
        shown = " ".join(call.split())[:_SHOWN]
        raise BlockingCallError(
            f"{module}{caller.f_code.co_qualname} blocks its event loop with a call of a database ({shown}). Use `run_blocking`."
        )


def _find_caller(frame: FrameType) -> FrameType:
    """Return the frame of the coroutine, or else of the callback, that the loop is running."""
    while not frame.f_code.co_flags & (CO_COROUTINE | CO_ASYNC_GENERATOR):
        outer = frame.f_back
        if outer is None or outer.f_globals.get("__name__", "").startswith("asyncio."):
            break
        frame = outer
    return frame

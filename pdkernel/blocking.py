"""
The only way from an event loop to work that blocks: on a disk, a database, the network or a process.

Everything goes through `run_in_executor` of the running loop, so a loop decides when and where such work happens: a loop
of tests can run it at a moment of its choice, in virtual time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def run_blocking(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
    """
    Call a function in another thread, with a copy of the current context; the future has its result.

    The call begins at once and cannot be interrupted: a cancelled future ignores its result.
    """
    return run_blocking_in(None, function, *args, **kwargs)


def run_blocking_in(
    threads: Executor | None, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
) -> asyncio.Future[T]:
    """Call a function as `run_blocking` does, in one of *threads*: for an object that only one thread may use."""
    call = partial(copy_context().run, function, *args, **kwargs)
    return asyncio.get_running_loop().run_in_executor(threads, call)

"""An event loop that runs blocking work itself, in its own thread, instead of in others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any


class OneThreadLoop(asyncio.SelectorEventLoop):
    """
    A loop whose blocking work is one callback for each call.

    Attributes:
        refusals: How many of the next calls are refused, as when the machine permits no more threads.
        errors: How many of the next calls end with an unforeseen error before they begin.
    """

    refusals = errors = 0

    def run_in_executor(self, executor: Executor | None, func: Callable[..., Any], *args: Any) -> Any:  # type: ignore[override]
        """Call *func* in a later iteration of the loop."""
        del executor
        if self.refusals:
            self.refusals -= 1
            raise RuntimeError("can't start new thread")
        future = self.create_future()
        if self.errors:
            self.errors -= 1
            func, args = self._fail, ()
        self.call_soon(self._call, future, func, args)
        return future

    @staticmethod
    def _call(future: asyncio.Future[Any], func: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if future.cancelled():
            return
        try:
            future.set_result(func(*args))
        except Exception as fault:
            future.set_exception(fault)

    @staticmethod
    def _fail() -> None:
        raise LookupError("unforeseen")

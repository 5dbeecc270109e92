"""
Runs that requests have started, until they have ended.

Knows that a run outlives its request, and who is told of it: the caller (its answer), whoever watches; and that a source
has one run at a time. What a run does is the engine's work.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from pdkernel.engine.run_request import RunRequest
from pdkernel.execution import Execution
from pdkernel.server.app_context import AppContext

MAX_UNFINISHED_RUNS = 1000
"""Runs under way or waiting for their turn; a request more is told to come again."""

_LOG = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class StartedRun:
    """
    A run as its caller sees it.

    Attributes:
        run_id: Its id.
        request: What was asked for, with the ids.
        recorded: Whether it is on disk; done when it is, or when it has ended without.
        response: The response that its caller gets, as the step made it; None if there is none. Done when the caller need
            not wait longer: at the end, at a pause, or at once if the step said so.
        task: The task that runs it.
        outcome: How it ended, or that it is paused, in some words; done with the first of these.
    """

    run_id: str
    request: RunRequest
    recorded: asyncio.Future[bool]
    response: asyncio.Future[Mapping[str, Any] | None]
    task: asyncio.Task[Execution]
    outcome: asyncio.Future[str]


class RunRegistry:
    """The runs of one server. Belongs to one event loop."""

    def __init__(self, context: AppContext) -> None:
        self._serving = context
        self._tasks: dict[str, asyncio.Task[Execution]] = {}
        self._sources: set[asyncio.Task[Any]] = set()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @property
    def is_full(self) -> bool:
        """Whether so many are under way that no more are taken."""
        return len(self._tasks) + len(self._sources) >= MAX_UNFINISHED_RUNS

    def source_lock(self, source: str) -> asyncio.Lock:
        """Held while that source runs: two runs at once would each keep what it remembers without the other's."""
        turn = self._turns.get(source)
        if turn is None:
            turn = self._turns[source] = asyncio.Lock()
        return turn

    def start_source(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Do *coroutine*, a source's run, which need not wait for its caller."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._sources.add(task)
        task.add_done_callback(self._sources.discard)
        return task

    def start(self, build_request: partial[RunRequest]) -> StartedRun:
        """Start what *build_request* makes, once it has ids and is told who listens; return at once."""
        loop = asyncio.get_running_loop()
        accepted: asyncio.Future[bool] = loop.create_future()
        answer: asyncio.Future[Mapping[str, Any] | None] = loop.create_future()
        outcome: asyncio.Future[str] = loop.create_future()
        responded: list[Mapping[str, Any]] = []
        on_run = self._serving.on_run
        ids = self._serving.ids

        def settle(future: asyncio.Future[Any], value: Any) -> None:
            if not future.done():
                future.set_result(value)

        def on_respond(response: Mapping[str, Any]) -> None:
            responded.append(response)
            if response.get("immediate"):
                settle(answer, response)

        def on_paused() -> None:
            settle(answer, responded[0] if responded else None)
            settle(outcome, "paused")

        def on_change(execution: Execution) -> None:
            assert on_run is not None
            on_run(made, execution)

        run_id = ids.new("", 27)
        made = build_request(
            run_ids=(run_id, ids.new("", 27)),
            on_accepted=lambda: settle(accepted, True),
            on_respond=on_respond,
            on_paused=on_paused,
            on_change=None if on_run is None else on_change,
        )

        def ended(task: asyncio.Task[Execution]) -> None:
            self._tasks.pop(run_id, None)
            fault = None if task.cancelled() else task.exception()
            if fault is not None:
                _LOG.error("A run could not be kept: %s", type(fault).__name__, exc_info=fault)
            settle(accepted, False)
            settle(answer, responded[0] if responded else None)
            settle(outcome, "lost" if task.cancelled() or fault else _outcome(task.result()))

        task = loop.create_task(self._serving.engine.run(made))
        self._tasks[run_id] = task
        task.add_done_callback(ended)
        return StartedRun(run_id, made, accepted, answer, task, outcome)

    async def cancel(self, run_id: str) -> bool:
        """End the run of that id, with its record; False if none of that id is under way."""
        task = self._tasks.get(run_id)
        if task is None:
            return False
        task.cancel()
        await asyncio.wait([task])
        return True

    async def close(self, grace_s: float) -> None:
        """Let what is under way end within *grace_s* seconds, and cancel the rest; each has its record then."""
        if self._tasks or self._sources:
            await asyncio.wait([*self._tasks.values(), *self._sources], timeout=grace_s)
        rest = [*self._tasks.values(), *self._sources]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)


def _outcome(execution: Execution) -> str:
    """The run's status and, if it failed, the error's name and step; an error's message may hold what nobody expects."""
    error = execution.error
    if error is None:
        return execution.status
    return f"{execution.status}: {error.name}" + (f" in {error.step}" if error.step else "")

"""Coroutines in the loop of another thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from pdkernel.common.loop_thread import LoopThread


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    """A loop in a thread."""
    started = LoopThread()
    yield started
    started.close()


def test_a_task_that_is_cancelled_at_once_has_begun(loop: LoopThread) -> None:
    """A cancellation right after the start reaches the coroutine, whose cleanup runs."""
    seen: list[str] = []

    async def work() -> str:
        seen.append("begun")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "cancelled"
        return "ended"

    for _ in range(100):
        task = loop.submit(work())
        task.cancel()
        assert task.result() == "cancelled"

    assert seen == ["begun"] * 100


def test_a_waiting_caller_is_called_back(loop: LoopThread) -> None:
    """`while_waiting` is called while the caller waits."""
    calls: list[int] = []

    async def work() -> int:
        while not calls:
            await asyncio.sleep(0.01)
        return 7

    assert loop.submit(work()).result(while_waiting=lambda: calls.append(1)) == 7
    assert calls


def test_an_interrupt_is_raised_after_the_cleanup(loop: LoopThread) -> None:
    """A caller that asks for the interrupt gets it when the coroutine has ended."""
    seen: list[str] = []

    async def work() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cleaned up")
        return "cancelled"

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.submit(work()).result(raises_interrupt=True, while_waiting=interrupt)
    assert seen == ["cleaned up"]


async def test_a_cancelled_wait_ends_after_the_cleanup(loop: LoopThread) -> None:
    """A task that waits in another loop and is cancelled ends when the coroutine has cleaned up, though it is cancelled again."""
    begun, cleaning, may_end = threading.Event(), threading.Event(), threading.Event()
    seen: list[str] = []

    async def work() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            cleaning.set()
            await asyncio.to_thread(may_end.wait, 20)
            seen.append("cleaned up")

    task = loop.submit(work())
    waiting = asyncio.create_task(task.result_async())
    assert await asyncio.to_thread(begun.wait, 20)

    waiting.cancel()
    assert await asyncio.to_thread(cleaning.wait, 20)
    task.cancel()
    loop.run(asyncio.sleep(0.01))
    has_waited = not waiting.done()
    may_end.set()

    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert has_waited
    assert seen == ["cleaned up"]

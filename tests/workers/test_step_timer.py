"""The time limit of a running step, in a loop with a clock of its own."""

from __future__ import annotations

import asyncio
import time

import pytest

from pdkernel.workers.step_timer import StepTimer


async def run_timer(timeout_s: float, *freezes_s: float) -> tuple[float, bool]:
    """Seconds until the end of the limit in a process that is stopped after 0.1 seconds, and whether what was due was read."""
    loop, began = asyncio.get_running_loop(), time.monotonic()
    ended, has_read = loop.create_future(), asyncio.Event()
    timer = StepTimer(timeout_s, lambda: ended.set_result(time.monotonic() - began))
    for freeze_s in freezes_s:
        await asyncio.sleep(0.1)
        time.sleep(freeze_s)
        loop.call_later(0.05, has_read.set)
    seconds = await ended
    timer.cancel()
    return seconds, has_read.is_set()


@pytest.mark.parametrize("timeout_s", [0.05, 0.7])
async def test_a_limit_ends(timeout_s: float) -> None:
    """A limit that is shorter or longer than a tick ends when it has passed, not before."""
    seconds, _ = await run_timer(timeout_s)

    assert seconds >= timeout_s


@pytest.mark.parametrize("timeout_s", [0.2, 0.6, 1.5])
async def test_what_arrived_in_a_frozen_time_is_read(timeout_s: float) -> None:
    """After a stop longer than the limit, the loop reads what has arrived before the limit ends."""
    _, has_read = await run_timer(timeout_s, 2.0)

    assert has_read


async def test_a_process_that_is_always_late_ends_steps() -> None:
    """Each late look counts, so a step of a busy process ends, too."""
    seconds, _ = await run_timer(0.6, 1.8, 1.8, 1.8)

    assert seconds >= 0.6


async def test_a_cancelled_limit_has_no_end() -> None:
    """A second call of `cancel` does nothing."""
    calls: list[None] = []
    timer = StepTimer(0.01, lambda: calls.append(None))
    timer.cancel()
    timer.cancel()

    await asyncio.sleep(0.05)

    assert calls == []

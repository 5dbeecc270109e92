"""Waits until a condition is true, and fails after a minute."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

LIMIT_S = 60.0
T = TypeVar("T")


def wait_until(condition: Callable[[], T | None], limit_s: float = LIMIT_S, *, report: Callable[[], object] = str) -> T:
    """What *condition* returns, as soon as it is true; fails with *report* after *limit_s*."""
    ends = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < ends, report()
        time.sleep(0.01)
    return found


async def until(condition: Callable[[], T | None], limit_s: float = LIMIT_S) -> T:
    """What *condition* returns, as soon as it is true; other tasks run meanwhile."""
    async with asyncio.timeout(limit_s):
        while not (found := condition()):
            await asyncio.sleep(0.01)
    return found


async def until_awaited(condition: Callable[[], Awaitable[T | None]], limit_s: float = LIMIT_S) -> T:
    """What *condition* returns when it is awaited, as soon as that is true."""
    async with asyncio.timeout(limit_s):
        while not (found := await condition()):
            await asyncio.sleep(0.02)
    return found

"""How the time of a function grows with the size of its input."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

MIN_S = 0.005
"""Times below this are too short to be compared."""
MAX_RATIO = 8
"""Limit of the time for four times the input: 4 for linear growth, 16 for quadratic growth."""
MAX_SIZE = 1 << 18
TRIES = 5


def assert_fast(run: Callable[[T], object], value: T, limit_s: float) -> None:
    """Assert that *run* with *value* takes less than *limit_s* seconds of processor time in one of a few tries."""
    took = least_seconds(run, value, until=limit_s)
    assert took < limit_s, f"{took:.3f} s"


def assert_linear(run: Callable[[T], object], make: Callable[[int], T], *, size: int = 4096) -> None:
    """
    Assert that *run* takes at most `MAX_RATIO` times as long for an input of four times the size.

    Args:
        run: The function. It may raise no error.
        make: Makes an input of a size.
        size: The first size to try. It grows until the function takes `MIN_S`; a function that never does is fast enough.
    """
    while (small := least_seconds(run, make(size), tries=3, until=MIN_S)) < MIN_S:
        size *= 2 if small > MIN_S / 4 else 4
        if size > MAX_SIZE:
            return
    large = least_seconds(run, make(4 * size), until=MAX_RATIO * small)
    assert large / small < MAX_RATIO, f"{large / small:.1f} times as long for 4 x {size:,}"


def least_seconds(run: Callable[[T], object], value: T, *, until: float = 0, tries: int = TRIES) -> float:
    """The least processor time of *run* in several tries; one that takes less than *until* seconds is the last."""
    least = float("inf")
    gc.disable()  # the collector's passes depend on all objects of the process
    try:
        for _ in range(tries):
            began = time.process_time()
            run(value)
            least = min(least, time.process_time() - began)
            if least < until:
                break
    finally:
        gc.enable()
    return least

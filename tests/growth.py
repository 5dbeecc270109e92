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
MAX_SIZE = 1 << 20


def seconds(run: Callable[[T], object], value: T, tries: int = 5) -> float:
    """The least processor time of *run* with *value*."""
    gc.disable()  # the collector's passes depend on all objects of the process
    try:
        return min(_once(run, value) for _ in range(tries))
    finally:
        gc.enable()


def _once(run: Callable[[T], object], value: T) -> float:
    began = time.process_time()
    run(value)
    return time.process_time() - began


def assert_linear(run: Callable[[T], object], make: Callable[[int], T], *, size: int = 4096) -> None:
    """
    Assert that *run* takes at most `MAX_RATIO` times as long for an input of four times the size.

    Args:
        run: The function. It may raise no error.
        make: Makes an input of a size.
        size: The first size to try. It grows fourfold until the function takes `MIN_S`; a function that never does is fast enough.
    """
    while (took := seconds(run, make(size), tries=3)) < MIN_S:
        size *= 4
        if size > MAX_SIZE:
            return
    small, large = min(took, seconds(run, make(size))), seconds(run, make(4 * size))
    assert large / small < MAX_RATIO, f"{large / small:.1f} times as long for 4 x {size:,}"

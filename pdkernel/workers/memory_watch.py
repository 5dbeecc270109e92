"""
How much memory a running step's processes hold, and the end of a step that holds more than it may.

Knows how to look, and that a short step must not pay for it: nothing is looked at before half a second, except once
when the step ends, and then only if that took more than an instant or there is a limit. What is left of a guest that has ended is nobody's memory.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import psutil

from pdkernel.errors import StepMemoryError

SAMPLE_INTERVAL_S = 0.5
"""Seconds between two looks where no limit is set, and until the first."""
LIMITED_SAMPLE_INTERVAL_S = 0.1
MIN_SAMPLED_DURATION_S = 0.02
"""Seconds in which no step fills the memory that is warned of."""
BYTES_PER_MB = 1 << 20


class MemoryWatch:
    """
    Looks at a process and its children until it is closed.

    Args:
        pid: The process.
        limit_mb: Megabytes that all of them may hold together, or None.
        on_exceeded: Is told when they hold more.

    Attributes:
        peak_bytes: The most bytes that were seen.
        error: That they held more than they may, or None.
    """

    def __init__(self, pid: int, limit_mb: int | None, on_exceeded: Callable[[StepMemoryError], None]) -> None:
        self.peak_bytes = 0
        self.error: StepMemoryError | None = None
        self._pid = pid
        self._limit_mb = limit_mb
        self._over = on_exceeded
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._wait_s = SAMPLE_INTERVAL_S if limit_mb is None else LIMITED_SAMPLE_INTERVAL_S
        self._timer = self._loop.call_later(self._wait_s, self._sample)

    def close(self) -> None:
        """Look once more, and then no more; without a limit a step of an instant is not looked at."""
        self._closed = True
        self._timer.cancel()
        if self._limit_mb is not None or self._loop.time() - self._began >= MIN_SAMPLED_DURATION_S:
            self._record(_resident(self._pid))

    def _sample(self) -> None:
        looking = self._loop.run_in_executor(None, _resident_with_children, self._pid)
        looking.add_done_callback(self._on_sampled)

    def _on_sampled(self, looking: asyncio.Future[int]) -> None:
        if self._closed or looking.cancelled():
            return
        self._record(looking.result())
        self._timer = self._loop.call_later(self._wait_s, self._sample)

    def _record(self, held: int) -> None:
        self.peak_bytes = max(self.peak_bytes, held)
        if self.error is None and self._limit_mb is not None and held > self._limit_mb * BYTES_PER_MB:
            self.error = build_memory_error(held, self._limit_mb)
            self._over(self.error)


def build_memory_error(used_bytes: int, limit_mb: int) -> StepMemoryError:
    """The step's processes hold *used_bytes* bytes; the platform's words first."""
    return StepMemoryError(
        f"Out of Memory: the step held {used_bytes / BYTES_PER_MB:,.0f} MB, and settings.memory allows {limit_mb:,} MB.",
        name="OutOfMemory",
        fix="Raise settings.memory, or stream large data through a file in the temporary folder ($TMPDIR; on "
        "Pipedream, /tmp).",
    )


def _resident(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", "rb", buffering=0) as file:  # noqa: PTH123 - at the end of every step
            return int(file.read().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError):
        pass
    try:
        return int(psutil.Process(pid).memory_info().rss)  # not Linux
    except psutil.Error:
        return 0


def _resident_with_children(pid: int) -> int:
    held = _resident(pid)
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                held += child.memory_info().rss
    return held


try:
    import resource

    _PAGE_BYTES = resource.getpagesize()
except ImportError:  # not a Unix
    _PAGE_BYTES = 4096

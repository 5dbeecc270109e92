"""
Measures the memory of a running step's processes, and ends a step that exceeds its limit.

Sampling must not slow down a short step. Without a limit, the first sample is taken after half a second, and another when the
step ends, unless the step took less than `MIN_SAMPLED_DURATION_S`. With a limit, the next sample is due before the step can have
filled what it has left: a sample is never later than `LIMITED_SAMPLE_INTERVAL_S`, and sooner when little is left.

With a limit, the highest memory of the process between two samples counts, too. The system reports it for the whole life of a
worker, so it is that of the step if it has grown; and at the end of a Bash or Go step, also for the programs that it waited for.
Of other processes and of shared memory, only samples count.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence

from pdkernel.common.blocking import run_blocking
from pdkernel.errors import StepError
from pdkernel.workers.child_process import ChildProcess
from pdkernel.workers.process_memory import (
    BYTES_PER_MB,
    StepMemory,
    resident_and_peak_bytes,
    resident_bytes,
)

SAMPLE_INTERVAL_S = 0.5
"""Seconds between two samples, and before the first sample, if there is no limit."""
LIMITED_SAMPLE_INTERVAL_S = 0.1
MIN_SAMPLE_INTERVAL_S = 0.01
FILL_BYTES_PER_S = 4 << 30
"""How fast a step may fill memory."""
MIN_SAMPLED_DURATION_S = 0.02
"""Steps shorter than this, in seconds, are not sampled without a limit."""


class StepMemoryError(StepError):
    """The step's processes used more memory than the workflow's settings allow."""

    code = "memory"


class MemoryWatch:
    """
    Samples the memory of a process and its children until it is closed.

    Args:
        process: The process; its ids may become known later.
        limit_mb: The limit for all processes together in megabytes, or None.
        on_exceeded: Called with the error when they exceed the limit.

    Attributes:
        peak_bytes: The highest sample in bytes.
        error: The error if the limit was exceeded, or None.
    """

    def __init__(
        self, process: ChildProcess, limit_mb: int | None, on_exceeded: Callable[[StepMemoryError], None]
    ) -> None:
        self.peak_bytes = 0
        self.error: StepMemoryError | None = None
        self._process = process
        self._limit_mb = limit_mb
        self._on_exceeded = on_exceeded
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        now, self._peak_before = (0, 0) if limit_mb is None else self._read_memory()
        self._memory = StepMemory()
        self._timer = self._loop.call_later(self._wait_s(now), self._sample)

    def close(self) -> None:
        """Take the last sample and stop; without a limit, a very short step is not sampled."""
        self._closed = True
        self._timer.cancel()
        if self._limit_mb is not None or self._loop.time() - self._began >= MIN_SAMPLED_DURATION_S:
            now, peak = self._read_memory()
            self._record(max(now, self._process.peak_bytes, peak if peak > self._peak_before else 0))

    def _read_memory(self) -> tuple[int, int]:
        """Return the resident memory of the process now, and the highest since its start if there is a limit."""
        pid = self._process.pid if self._process.exit_code is None else None
        if not pid:
            return 0, 0
        return (resident_bytes(pid), 0) if self._limit_mb is None else resident_and_peak_bytes(pid)

    def _wait_s(self, used_bytes: int) -> float:
        if self._limit_mb is None:
            return SAMPLE_INTERVAL_S
        left_s = (self._limit_mb * BYTES_PER_MB - used_bytes) / FILL_BYTES_PER_S
        return min(max(left_s, MIN_SAMPLE_INTERVAL_S), LIMITED_SAMPLE_INTERVAL_S)

    def _sample(self) -> None:
        system_v: list[int] = []
        try:
            for each in self._process.system_v:
                system_v.append(os.dup(each))  # noqa: PERF401 - the process may be forgotten meanwhile
        except OSError:  # no descriptors are left: the next sample may find some
            for each in system_v:
                os.close(each)
            self._timer = self._loop.call_later(LIMITED_SAMPLE_INTERVAL_S, self._sample)
            return
        sample = run_blocking(self._measure, self._process.pid, self._process.root_pid, system_v)
        sample.add_done_callback(self._on_sampled)

    def _measure(self, pid: int | None, root_pid: int | None, system_v: Sequence[int]) -> int:
        try:
            return self._memory.measure(pid, root_pid, system_v)
        finally:
            for each in system_v:
                os.close(each)

    def _on_sampled(self, sample: asyncio.Future[int]) -> None:
        if self._closed or sample.cancelled():
            return
        self._record(sample.result())
        self._timer = self._loop.call_later(self._wait_s(sample.result()), self._sample)

    def _record(self, used_bytes: int) -> None:
        self.peak_bytes = max(self.peak_bytes, used_bytes)
        if self.error is None and self._limit_mb is not None and used_bytes > self._limit_mb * BYTES_PER_MB:
            self.error = build_memory_error(used_bytes, self._limit_mb)
            self._on_exceeded(self.error)


def build_memory_error(used_bytes: int, limit_mb: int) -> StepMemoryError:
    """Build the error of a step whose processes use *used_bytes*; the message begins as the platform's does."""
    return StepMemoryError(
        f"Out of Memory: the step used {used_bytes / BYTES_PER_MB:,.0f} MB, and settings.lambda_memory allows {limit_mb:,} MB.",
        name="OutOfMemory",
        fix="Raise settings.lambda_memory, or stream large data through a file in the temporary folder ($TMPDIR; on "
        "Pipedream, /tmp).",
    )

"""
The platform's limit of requests to an endpoint: about ten a second on average, short bursts tolerated.

Knows counting. Whether it is applied is a setting.
"""

from __future__ import annotations

from pdkernel.clock import Clock

PER_SECOND = 10.0
BUCKET_CAPACITY = 100.0


class Throttle:
    """A bucket for each endpoint."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def try_acquire(self, endpoint: str) -> bool:
        """Count a request; False if it is one too many."""
        now = self._clock.monotonic()
        level, since = self._buckets.get(endpoint, (BUCKET_CAPACITY, now))
        level = min(BUCKET_CAPACITY, level + (now - since) * PER_SECOND)
        passes = level >= 1
        self._buckets[endpoint] = (level - 1 if passes else level, now)
        return passes

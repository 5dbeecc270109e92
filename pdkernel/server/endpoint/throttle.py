"""The platform's rate limit of an endpoint: about ten requests per second on average, with short bursts."""

from __future__ import annotations

from pdkernel.clock import Clock

PER_SECOND = 10.0
BUCKET_CAPACITY = 100.0


class Throttle:
    """A token bucket per endpoint."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def try_acquire(self, endpoint: str) -> bool:
        """Count a request; False if the limit is exceeded."""
        now = self._clock.monotonic()
        level, since = self._buckets.get(endpoint, (BUCKET_CAPACITY, now))
        level = min(BUCKET_CAPACITY, level + (now - since) * PER_SECOND)
        passes = level >= 1
        self._buckets[endpoint] = (level - 1 if passes else level, now)
        return passes

"""The platform's rate limits of endpoints and of the API. Each process counts its own requests."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Literal

from pdkernel.common.clock import Clock

ENDPOINT_REQUESTS_PER_S = 10.0
"""Requests to an endpoint per second on average (platform documentation)."""
ENDPOINT_BURST = 100.0
"""Requests to an endpoint that may arrive at once."""
Bucket = Literal["accounts", "components", "runs", "proxy"]
WINDOW_S = 300
MAX_REQUESTS_PER_WINDOW: dict[Bucket, int] = {"accounts": 2000, "components": 3000, "runs": 2000, "proxy": 1000}
"""Maximum requests of a project to routes of the API in a window (platform documentation)."""


class RateLimitedError(Exception):
    """The request exceeds a rate limit of the API."""

    def __init__(self, headers: dict[str, str]) -> None:
        super().__init__("Throttled")
        self.headers = headers


def rate_limit_headers(limit: int, *, now: float, resets_at: float) -> dict[str, str]:
    """Return the headers of a response to a request above *limit*; times are in seconds since 1970."""
    return {
        "Retry-After": str(max(1, ceil(resets_at - now))),
        "X-RateLimit-Limit": str(limit),
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": str(ceil(resets_at)),
    }


class EndpointRateLimiter:
    """Limits requests per endpoint, with a token bucket."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def try_acquire(self, endpoint: str) -> bool:
        """Count a request to the endpoint with that key; False if the limit is exceeded."""
        now = self._clock.monotonic()
        level, since = self._buckets.get(endpoint, (ENDPOINT_BURST, now))
        level = min(ENDPOINT_BURST, level + (now - since) * ENDPOINT_REQUESTS_PER_S)
        passes = level >= 1
        self._buckets[endpoint] = (level - 1 if passes else level, now)
        return passes


@dataclass
class _Window:
    since: float
    count: int = 0


class ApiRateLimiter:
    """Counts requests to the API per bucket, in windows of five minutes."""

    def __init__(self) -> None:
        self._windows: dict[Bucket, _Window] = {}

    def count(self, bucket: Bucket, clock: Clock) -> None:
        """
        Count a request.

        Raises:
            RateLimitedError: The request exceeds the limit.
        """
        now = clock.now().timestamp()
        window = self._windows.get(bucket)
        if window is None or now >= window.since + WINDOW_S:
            window = self._windows[bucket] = _Window(now)
        window.count += 1
        limit = MAX_REQUESTS_PER_WINDOW[bucket]
        if window.count > limit:
            raise RateLimitedError(rate_limit_headers(limit, now=now, resets_at=window.since + WINDOW_S))

"""The platform's rate limits of a project: requests in five minutes, counted in this process only."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Literal

from pdkernel.clock import Clock

Bucket = Literal["accounts", "components", "runs", "proxy"]
WINDOW_S = 300
MAX_REQUESTS_PER_WINDOW: dict[Bucket, int] = {"accounts": 2000, "components": 3000, "runs": 2000, "proxy": 1000}
"""Maximum requests in a window (platform documentation)."""


class RateLimitedError(Exception):
    """The request exceeds a rate limit."""

    def __init__(self, headers: dict[str, str]) -> None:
        super().__init__("Throttled")
        self.headers = headers


@dataclass
class _Window:
    since: float
    count: int = 0


class RateLimiter:
    """Counts requests per bucket."""

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
        if window.count > MAX_REQUESTS_PER_WINDOW[bucket]:
            reset = window.since + WINDOW_S
            raise RateLimitedError(
                {
                    "Retry-After": str(max(1, ceil(reset - now))),
                    "X-RateLimit-Limit": str(MAX_REQUESTS_PER_WINDOW[bucket]),
                    "X-RateLimit-Remaining": "0",
                    "X-RateLimit-Reset": str(ceil(reset)),
                }
            )

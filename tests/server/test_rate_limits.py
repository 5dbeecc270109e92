"""Limits of requests: to an endpoint, and to the API."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pdkernel.common.clock import ManualClock
from pdkernel.server.rate_limits import (
    ENDPOINT_BURST,
    ENDPOINT_REQUESTS_PER_S,
    MAX_REQUESTS_PER_WINDOW,
    ApiRateLimiter,
    EndpointRateLimiter,
    RateLimitedError,
    rate_limit_headers,
)


def passing(limiter: EndpointRateLimiter, endpoint: str) -> int:
    """The number of requests that *limiter* lets through at once."""
    count = 0
    while limiter.try_acquire(endpoint):
        count += 1
    return count


def test_a_burst_at_an_endpoint() -> None:
    """A full bucket lets a burst through and is filled again by the second; each endpoint has its own."""
    clock = ManualClock()
    limiter = EndpointRateLimiter(clock)

    counts = [passing(limiter, "a"), passing(limiter, "b")]
    clock.advance(0.5 / ENDPOINT_REQUESTS_PER_S)
    counts.append(passing(limiter, "a"))
    clock.advance(0.5 / ENDPOINT_REQUESTS_PER_S)
    counts.append(passing(limiter, "a"))
    clock.advance(2 / ENDPOINT_REQUESTS_PER_S)
    counts.append(passing(limiter, "a"))
    clock.advance(3600)
    counts.append(passing(limiter, "a"))

    assert counts == [ENDPOINT_BURST, ENDPOINT_BURST, 0, 1, 2, ENDPOINT_BURST]
    assert (ENDPOINT_REQUESTS_PER_S, ENDPOINT_BURST) == (10, 100)


def test_windows_of_the_api() -> None:
    """Each kind of request has its own limit in a window of five minutes, which begins with the first request."""
    clock = ManualClock()
    limiter = ApiRateLimiter()
    limit = MAX_REQUESTS_PER_WINDOW["proxy"]
    for _ in range(limit):
        limiter.count("proxy", clock)
    limiter.count("runs", clock)
    clock.advance(299.5)

    with pytest.raises(RateLimitedError) as caught:
        limiter.count("proxy", clock)
    clock.advance(0.5)
    limiter.count("proxy", clock)

    resets_at = (ManualClock().now() + timedelta(seconds=300)).timestamp()
    assert caught.value.headers == {
        "Retry-After": "1",
        "X-RateLimit-Limit": str(limit),
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": str(int(resets_at)),
    }
    assert MAX_REQUESTS_PER_WINDOW == {"accounts": 2000, "components": 3000, "runs": 2000, "proxy": 1000}


@pytest.mark.parametrize(
    ("now", "resets_at", "retry", "reset"),
    [(100.0, 120.0, "20", "120"), (100.5, 120.0, "20", "120"), (100.0, 120.5, "21", "121"), (120.0, 120.0, "1", "120"), (130.0, 120.0, "1", "120")],
)  # fmt: skip
def test_the_time_until_a_reset(now: float, resets_at: float, retry: str, reset: str) -> None:
    """The seconds are rounded up, and are one at least."""
    headers = rate_limit_headers(5, now=now, resets_at=resets_at)

    assert (headers["Retry-After"], headers["X-RateLimit-Reset"]) == (retry, reset)

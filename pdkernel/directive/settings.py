"""
A workflow's settings: their names and what each may hold.

Knows the platform's limits. Knows nothing of where settings are written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pdkernel.model import JSON


@dataclass(frozen=True, slots=True)
class Rule:
    """What a key may hold, as a test and in words (`a whole number from 1 to 750`)."""

    accepts: Callable[[JSON], bool]
    what: str


def whole(low: int, high: int, unit: str = "") -> Rule:
    """A whole number from *low* to *high*."""
    return Rule(
        lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high,
        f"a whole number{' of ' + unit if unit else ''} from {low} to {high}",
    )


YES_OR_NO = Rule(lambda value: isinstance(value, bool), "true or false")

SETTINGS: dict[str, Rule] = {
    "lambda_timeout": whole(1, 750, "seconds"),
    "memory": whole(256, 10_240, "megabytes"),
    "concurrency": whole(1, 10_000),
    "throttle": Rule(lambda value: isinstance(value, dict), "a mapping of limit and interval"),
    "queue": whole(1, 10_000, "events"),
    "auto_retry": YES_OR_NO,
    "retention": YES_OR_NO,
    "error_notification": YES_OR_NO,
}
"""Ranges: the platform's settings and limits pages; `concurrency` has no documented ceiling."""

THROTTLE: dict[str, Rule] = {
    "limit": whole(0, 10_000),
    "interval": whole(1, 10_000 * 3600, "seconds"),
}

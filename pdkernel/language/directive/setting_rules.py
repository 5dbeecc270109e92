"""A workflow's settings: their names, and the platform's limits for their values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pdkernel.model import JSON


@dataclass(frozen=True, slots=True)
class SettingRule:
    """The values that a key may have, as a predicate and as a phrase (`a whole number from 1 to 750`)."""

    is_valid: Callable[[JSON], bool]
    description: str


def integer_range(low: int, high: int, unit: str = "") -> SettingRule:
    """A whole number from *low* to *high*."""
    return SettingRule(
        lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high,
        f"a whole number{' of ' + unit if unit else ''} from {low} to {high}",
    )


PORT_RULE = integer_range(1024, 65_535)

BOOLEAN_RULE = SettingRule(lambda value: isinstance(value, bool), "true or false")

SETTING_RULES: dict[str, SettingRule] = {
    "lambda_timeout": integer_range(1, 750, "seconds"),
    "lambda_memory": integer_range(256, 10_240, "megabytes"),
    "memory": integer_range(256, 10_240, "megabytes"),
    "concurrency": SettingRule(
        lambda value: isinstance(value, dict) or integer_range(1, 10_000).is_valid(value),
        "a whole number from 1 to 10000",
    ),
    "throttle": SettingRule(lambda value: isinstance(value, dict), "a mapping of limit and interval"),
    "queue": integer_range(1, 10_000, "events"),
    "rate_limit": integer_range(0, 10_000),
    "rate_limit_bucket_size_seconds": integer_range(1, 10_000 * 3600, "seconds"),
    "max_event_queue_size": integer_range(1, 10_000, "events"),
    "network": SettingRule(lambda value: isinstance(value, str), "the id of a network (net_...)"),
    "auto_retry": BOOLEAN_RULE,
    "retention": integer_range(1, 3650, "days"),
    "error_notification": BOOLEAN_RULE,
    "resume_on_get": BOOLEAN_RULE,
    "share_workers": SettingRule(lambda value: value in ("never", "always"), "never or always"),
    "listen": SettingRule(
        lambda value: isinstance(value, list) and all(map(PORT_RULE.is_valid, value)),
        "a list of ports, each a whole number from 1024 to 65535",
    ),
}
"""
Source of the ranges: the platform's settings and limits pages. `concurrency` has no documented maximum, and is a mapping in
synced files; the platform has neither `share_workers` nor `listen`. Synced repositories have `lambda_memory`, `rate_limit` with its
`rate_limit_bucket_size_seconds`, and `max_event_queue_size`, which mean the same as `memory`, `throttle` and `queue`.
"""

THROTTLE_RULES: dict[str, SettingRule] = {
    "limit": integer_range(0, 10_000),
    "interval": integer_range(1, 10_000 * 3600, "seconds"),
}

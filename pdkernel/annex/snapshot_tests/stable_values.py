"""
JSON values that stay the same from run to run, found by comparing runs.

A value that differs between runs becomes `differs(types)`, which equals any value of these types.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from pdkernel.model import JSON

_DAY_S = 86_400.0
_TIMESTAMP_UNITS = (1.0, 1e3, 1e6)
"""Units per second of time stamps in seconds, milliseconds and microseconds since 1970."""


class differs:  # noqa: N801 - reads as a verb in an assertion
    """
    Equals any value of the given types; for values that differ from run to run.

    `differs(str)`, `differs(int, float)`, `differs(str, None)`.
    """

    def __init__(self, *types: type | None) -> None:
        self.types = tuple(type(None) if each is None else each for each in types)

    def __eq__(self, other: object) -> bool:
        return type(other) in self.types

    def __hash__(self) -> int:
        return hash(self.types)

    def __repr__(self) -> str:
        words = ("None" if each is type(None) else each.__name__ for each in self.types)
        return f"differs({', '.join(words)})"


def merge_samples(samples: Sequence[JSON]) -> Any:
    """Merge *samples* into one value, with `differs` where the samples are not equal."""
    first = samples[0]
    if all(_same(first, sample) for sample in samples[1:]):
        return first
    objects = [sample for sample in samples if isinstance(sample, dict)]
    if len(objects) == len(samples) and all(each.keys() == objects[0].keys() for each in objects):
        return {key: merge_samples([each[key] for each in objects]) for key in objects[0]}
    lists = [sample for sample in samples if isinstance(sample, list)]
    if len(lists) == len(samples) and all(len(each) == len(lists[0]) for each in lists):
        return [merge_samples([each[index] for each in lists]) for index in range(len(lists[0]))]
    types = dict.fromkeys(type(sample) for sample in samples)
    if types.keys() <= {int, float}:
        types = dict.fromkeys((int, float))  # a number may be whole in one run and fractional in another
    return differs(*types)


def replace_current_dates(value: Any, now: datetime, known_text: str) -> Any:
    """
    Replace current dates and times in *value* with `differs`: two runs on one day agree, a run tomorrow does not.

    Args:
        value: The result of `merge_samples`.
        now: The current time.
        known_text: Inputs of the run (event, code, recorded calls); a value found in them does not come from a clock.
    """
    match value:
        case dict():
            return {key: replace_current_dates(item, now, known_text) for key, item in value.items()}
        case list():
            return [replace_current_dates(item, now, known_text) for item in value]
        case str() if _has_today(value, now) and value not in known_text:
            return differs(str)
        case int() | float() if _is_now(value, now) and str(value) not in known_text:
            return differs(int, float)
        case _:
            return value


def find_unstable_paths(value: Any, path: str) -> Iterator[str]:
    """Yield the paths below *path* of every `differs` in *value*."""
    match value:
        case differs():
            yield path
        case dict():
            for key, item in value.items():
                yield from find_unstable_paths(item, f"{path}.{key}")
        case list() | tuple():
            for number, item in enumerate(value):
                yield from find_unstable_paths(item, f"{path}[{number}]")


def _same(one: JSON, other: JSON) -> bool:
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)  # 1, 1.0 and true are different values


def _has_today(text: str, now: datetime) -> bool:
    days = [now + timedelta(days=days) for days in (-1, 0, 1)]
    return any(day.strftime(form) in text for day in days for form in ("%Y-%m-%d", "%d %b %Y", "%b %d %Y", "%Y%m%d"))


def _is_now(number: float, now: datetime) -> bool:
    return any(abs(number / unit - now.timestamp()) < _DAY_S for unit in _TIMESTAMP_UNITS)

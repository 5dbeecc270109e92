"""
Deduplication of a source's events by the platform's three strategies (its component API page).

The caller stores the state between runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from pdkernel.workers import Emitted

MAX_REMEMBERED_IDS = 100
"""Ids that `unique` remembers (platform documentation)."""


def drop_repeated_events(strategy: str | None, events: Iterable[Emitted], state: dict[str, Any]) -> list[Emitted]:
    """
    Return the new events, oldest first, and update *state*.

    Args:
        strategy: `unique`, `greatest`, `last`, or None to keep all.
        events: Events in the order of emission; they are sorted by time first, events without a time last.
        state: The state of the last run; `{}` at first. Changed in place.
    """
    ordered = sorted(events, key=lambda event: math.inf if event.ts is None else event.ts)
    match strategy:
        case "unique":
            return _unique(ordered, state)
        case "greatest":
            return _drop_below_greatest(ordered, state)
        case "last":
            return _last(ordered, state)
        case _:
            return ordered


def _unique(emitted: list[Emitted], state: dict[str, Any]) -> list[Emitted]:
    seen = dict.fromkeys(state.get("seen", ()))
    new = []
    for event in emitted:
        if event.id is not None:
            known = str(event.id)
            if known in seen:
                continue
            seen[known] = None
        new.append(event)
    state["seen"] = list(seen)[-MAX_REMEMBERED_IDS:]
    return new


def _drop_below_greatest(emitted: list[Emitted], state: dict[str, Any]) -> list[Emitted]:
    new = []
    for event in emitted:
        number = _number(event.id)
        if number is not None:
            if state.get("greatest") is not None and number <= state["greatest"]:
                continue
            state["greatest"] = number
        new.append(event)
    return new


def _last(emitted: list[Emitted], state: dict[str, Any]) -> list[Emitted]:
    known = state.get("last")
    at = max((index for index, event in enumerate(emitted) if known is not None and str(event.id) == known), default=-1)
    new = emitted[at + 1 :]
    if new and new[-1].id is not None:
        state["last"] = str(new[-1].id)
    return new


def _number(value: object) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type]  # an arbitrary value from the source
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None

"""Deduplication of emitted events."""

from __future__ import annotations

from typing import Any

import pytest

from pdkernel.engine.event_sources import drop_repeated_events
from pdkernel.workers import Emitted


def ids(strategy: str | None, *batches: list[Any]) -> list[list[Any]]:
    """Ids of the new events of each batch, in order."""
    state: dict[str, Any] = {}
    return [
        [e.id for e in drop_repeated_events(strategy, [Emitted({}, id=i) for i in batch], state)] for batch in batches
    ]


@pytest.mark.parametrize(
    ("strategy", "batches", "new"),
    [
        (None, [[1, 1], [1]], [[1, 1], [1]]),
        ("unique", [[1, 2, 1], [2, "1", 3]], [[1, 2], [3]]),
        ("unique", [[None, None]], [[None, None]]),
        ("greatest", [[3, 1, 5], [5, 6, 4]], [[3, 5], [6]]),
        ("greatest", [["10"], ["9", "11"]], [["10"], ["11"]]),
        ("greatest", [[0], [0, -1, 1]], [[0], [1]]),
        ("greatest", [["no number"], ["no number"]], [["no number"], ["no number"]]),
        ("greatest", [[10**400, 1]], [[10**400, 1]]),
        ("last", [[1, 2], [1, 2, 3]], [[1, 2], [3]]),
        ("last", [[1, 2], [7, 8]], [[1, 2], [7, 8]]),
        ("last", [[1, 2], [2]], [[1, 2], []]),
        ("last", [[1, 2], [2, 3, 2, 4], [3, 4, 5]], [[1, 2], [4], [5]]),
        ("greatest", [["Infinity", 1], [2]], [["Infinity", 1], [2]]),
    ],
)
def test_each_strategy(strategy: str | None, batches: list[list[Any]], new: list[list[Any]]) -> None:
    """`unique` compares ids, `greatest` numbers, `last` positions; without a strategy every event is new."""
    assert ids(strategy, *batches) == new


def test_unique_remembers_a_hundred_ids() -> None:
    """`unique` stores a hundred ids and drops the oldest first."""
    first, again, newest = ids("unique", list(range(101)), [0], [100])

    assert (len(first), again, newest) == (101, [0], [])


def test_events_are_sorted_by_time() -> None:
    """Events are sorted by time, oldest first; events without a time follow in the order of emission."""
    emitted = [Emitted("c"), Emitted("b", ts=2), Emitted("a", ts=1), Emitted("d")]

    assert [event.event for event in drop_repeated_events(None, emitted, {})] == ["a", "b", "c", "d"]

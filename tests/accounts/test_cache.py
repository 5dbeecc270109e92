"""The cache of answers: lifetimes, one load at a time, and `clear`."""

from __future__ import annotations

import pytest

from pdkernel.accounts.cache import MAX_ENTRIES, TTLCache
from pdkernel.common.clock import ManualClock


def test_a_value_is_loaded_again_after_its_lifetime() -> None:
    """A value is valid for less than the lifetime, counted from the end of its load."""
    clock = ManualClock()
    cache: TTLCache[str, float] = TTLCache(clock, 10)
    found = []
    for seconds in (0, 9, 1):
        clock.advance(seconds)
        found.append(cache.get("key", clock.monotonic))

    assert found == [0, 0, 10]


def test_a_load_during_a_clear_is_not_kept() -> None:
    """The caller gets the value, and the next caller loads it again: the value may be older than the change."""
    cache: TTLCache[str, str] = TTLCache(ManualClock(), 10)

    def load() -> str:
        cache.clear()
        return "old"

    assert [cache.get("key", load), cache.get("key", lambda: "new"), cache.get("key", load)] == ["old", "new", "new"]


def test_a_failed_load_is_not_kept() -> None:
    """An exception is raised, and the next caller loads the value."""
    cache: TTLCache[str, int] = TTLCache(ManualClock(), 10)

    with pytest.raises(ZeroDivisionError):
        cache.get("key", lambda: 1 // 0)

    assert cache.get("key", lambda: 1) == 1


def test_the_oldest_entries_are_dropped() -> None:
    """A value that was loaded again is among the newest."""
    clock = ManualClock()
    cache: TTLCache[int, str] = TTLCache(clock, 10)
    cache.get(0, lambda: "first")
    clock.advance(10)
    cache.get(1, lambda: "first")
    cache.get(0, lambda: "second")
    for key in range(2, MAX_ENTRIES + 1):
        cache.get(key, lambda: "more")

    assert [cache.get(0, lambda: "third"), cache.get(1, lambda: "third")] == ["second", "third"]

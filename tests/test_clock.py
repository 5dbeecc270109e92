"""Clocks and ids."""

from __future__ import annotations

import string
from collections import Counter
from datetime import UTC, datetime, timedelta, timezone

from pdkernel.clock import RANDOM_IDS, format_iso


def test_an_id_has_its_length() -> None:
    """The length of an id does not include its prefix."""
    assert [len(RANDOM_IDS.new("apn_", length)) for length in (1, 7, 27, 100)] == [5, 11, 31, 104]
    assert {len(RANDOM_IDS.new("", 1)) for _ in range(20_000)} == {1}


def test_every_letter_of_an_id_is_as_likely() -> None:
    """An id has 62 equally likely letters and digits (chance of a false alarm: one in 10^60)."""
    counted = Counter(RANDOM_IDS.new("", 62_000))
    assert set(counted) == set(string.ascii_letters + string.digits)
    assert max(counted.values()) < 2 * min(counted.values())


def test_a_moment_is_written_in_utc() -> None:
    """A time in any zone is formatted in UTC, in the platform's form."""
    there = timezone(timedelta(hours=5, minutes=30))
    moments = [datetime(2026, 11, 24, 10, 0, 0, 123_456, UTC), datetime(2026, 11, 24, 15, 30, tzinfo=there)]
    assert list(map(format_iso, moments)) == ["2026-11-24T10:00:00.123Z", "2026-11-24T10:00:00.000Z"]

"""Clocks and ids."""

from __future__ import annotations

import string
import time
from collections import Counter
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

from pdkernel.common.clock import RANDOM_IDS, ManualClock, SteadyClock, format_iso


def test_an_id_has_its_length() -> None:
    """The length of an id does not include its prefix."""
    assert [len(RANDOM_IDS.new("apn_", length)) for length in (1, 7, 27, 100)] == [5, 11, 31, 104]
    assert {len(RANDOM_IDS.new("", 1)) for _ in range(20_000)} == {1}


def test_every_letter_of_an_id_is_as_likely() -> None:
    """An id has 62 equally likely letters and digits (chance of a false alarm: one in 10^60)."""
    counted = Counter(RANDOM_IDS.new("", 62_000))
    assert set(counted) == set(string.ascii_letters + string.digits)
    assert max(counted.values()) < 2 * min(counted.values())


def test_ids_in_order_sort_by_their_time() -> None:
    """An id that was made two milliseconds later sorts after the ids before it, and as many ids differ."""
    ids = []
    for _ in range(5):
        ids.append([RANDOM_IDS.new_in_order() for _ in range(1_000)])
        time.sleep(0.002)
    assert [max(before) < min(after) for before, after in pairwise(ids)] == [True] * 4
    assert len({each for group in ids for each in group}) == 5_000
    assert {len(each) for each in ids[0]} == {27}


def test_a_moment_is_written_in_utc() -> None:
    """A time in any zone is formatted in UTC, in the platform's form."""
    there = timezone(timedelta(hours=5, minutes=30))
    moments = [datetime(2026, 11, 24, 10, 0, 0, 123_456, UTC), datetime(2026, 11, 24, 15, 30, tzinfo=there)]
    assert list(map(format_iso, moments)) == ["2026-11-24T10:00:00.123Z", "2026-11-24T10:00:00.000Z"]


def test_a_wall_clock_that_jumps_for_seconds_is_not_followed() -> None:
    """A clock that is set an hour ahead, and back after some seconds, moves nothing; after half a minute it is followed."""
    wall = ManualClock()
    clock, start = SteadyClock(wall), wall.now()
    seconds = list[float]()

    for jump_s, wait_s in ((3600, 0), (0, 20), (-3600, 5), (3600, 0), (0, 29), (0, 1), (-3600, 0), (0, 30)):
        wall.jump(jump_s)
        wall.advance(wait_s)
        seconds.append((clock.now() - start).total_seconds())

    assert seconds == [0, 20, 25, 25, 54, 3655, 3655, 85]
    assert clock.jumps == 2


def test_a_clock_is_adjusted_to_a_database() -> None:
    """Each correction adds to the earlier ones, and a difference that the measurement explains corrects nothing; the wall clock is out."""
    wall = ManualClock()
    clock, start = SteadyClock.of(SteadyClock(wall)), wall.now()

    for ahead_s, uncertainty_s in ((10, 0.1), (-4, 0.1), (0.14, 0.1), (-0.04, 0)):
        clock.adjust(ahead_s, uncertainty_s)
    wall.jump(3600)
    wall.advance(60)

    assert (clock.now() - start).total_seconds() == 66


def test_a_correction_is_a_jump() -> None:
    """A clock that a database corrects has jumped, so that times which were computed before can be corrected, too."""
    clock = SteadyClock(ManualClock())

    for ahead_s in (0.01, 10, -4):
        clock.adjust(ahead_s, 0)

    assert clock.jumps == 2

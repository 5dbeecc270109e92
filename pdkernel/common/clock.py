"""
Clocks and id generators.

Code that needs the time or a new id takes a `Clock` or an `IdGenerator` as an argument, so that a test can fix both.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Protocol

_ALPHABET = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# bytes at or above this limit would make some characters more likely than others
_UNBIASED_BYTE_LIMIT = len(_ALPHABET) * (256 // len(_ALPHABET))
_BYTE_TO_CHARACTER = bytes(_ALPHABET[byte % len(_ALPHABET)] for byte in range(256))
_REJECTED_BYTES = bytes(range(_UNBIASED_BYTE_LIMIT, 256))
_TIME_LENGTH = 8  # characters for milliseconds, until the year 8888

JUMP_S = 0.05
"""A smaller difference between two clocks does not count as a jump, because it is the adjustment of a time server, or the measurement's error."""
BELIEVED_AFTER_S = 30.0
"""Seconds for which a wall clock that has jumped must keep its new time before it is followed."""

_log = logging.getLogger(__name__)


class Clock(Protocol):
    """The wall clock and a monotonic clock."""

    def now(self) -> datetime:
        """Return the wall time as an aware `datetime` in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never decrease; only differences are meaningful."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for *seconds*."""
        ...


class IdGenerator(Protocol):
    """A source of new ids."""

    def new(self, prefix: str = "", length: int = 27) -> str:
        """Return a new id: *prefix*, then *length* letters and digits."""
        ...

    def new_in_order(self) -> str:
        """Return a new id of 27 letters and digits that sorts after those of earlier milliseconds, so that a table's new rows are together."""
        ...


class SystemClock:
    """A `Clock` that reads the operating system's clock."""

    def now(self) -> datetime:
        """Return the wall time as an aware `datetime` in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds since an arbitrary moment."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait for *seconds*."""
        await asyncio.sleep(seconds)


class ManualClock:
    """A `Clock` for tests, which moves only by `advance` and `sleep`."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._now = start
        self._monotonic = 0.0

    def now(self) -> datetime:
        """Return the start time plus all advances."""
        return self._now

    def monotonic(self) -> float:
        """Return the sum of all advances in seconds."""
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        """Advance the clock by *seconds* without waiting."""
        self.advance(seconds)
        await asyncio.sleep(0)

    def advance(self, seconds: float) -> None:
        """Move the clock forward by *seconds*."""
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds

    def jump(self, seconds: float) -> None:
        """Set the wall clock ahead by *seconds*, or back; the monotonic clock stays."""
        self._now += timedelta(seconds=seconds)


class SteadyClock:
    """
    A clock that does not follow the wall clock when that jumps for some seconds.

    It runs by the monotonic clock of *source*, and follows the wall clock of *source* only if the two agree, or have disagreed
    by the same time for `BELIEVED_AFTER_S`. After the first `adjust` it follows the clock of a database instead.

    Attributes:
        source: The clock with the wall time and the monotonic time.
        jumps: How often this clock has jumped, because it followed a wall clock that was set, or a database.
    """

    def __init__(self, source: Clock) -> None:
        self.source = source
        self.jumps = 0
        # the wall time at which `monotonic` was 0, in seconds since 1970
        self._zero_s = source.now().timestamp() - source.monotonic()
        self._follows_wall = True
        self._difference: tuple[float, float] | None = None  # seconds between the clocks, and since when, monotonic

    @classmethod
    def of(cls, clock: Clock) -> SteadyClock:
        """Return *clock*, which is made steady unless it is."""
        return clock if isinstance(clock, SteadyClock) else cls(clock)

    def now(self) -> datetime:
        """Return the wall time as an aware `datetime` in UTC."""
        monotonic = self.source.monotonic()
        if self._follows_wall:
            wall = self.source.now()
            zero_s = wall.timestamp() - monotonic
            ahead_s = zero_s - self._zero_s
            if abs(ahead_s) <= JUMP_S or self._is_believed(ahead_s, monotonic):
                self._difference = None
                self._zero_s = zero_s
                return wall
        return datetime.fromtimestamp(self._zero_s + monotonic, UTC)

    def monotonic(self) -> float:
        """Return seconds that never decrease; only differences are meaningful."""
        return self.source.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait for *seconds*."""
        await self.source.sleep(seconds)

    def adjust(self, ahead_s: float, uncertainty_s: float) -> None:
        """Correct the clock: the database is *ahead_s* ahead of `now`, measured with an error of *uncertainty_s* seconds."""
        self._follows_wall = False
        if abs(ahead_s) > JUMP_S + uncertainty_s:
            self._zero_s += ahead_s
            self.jumps += 1

    def _is_believed(self, ahead_s: float, monotonic: float) -> bool:
        """Return whether the wall clock, which is *ahead_s* ahead of this one, has been so for long enough; counts and reports the jump."""
        known = self._difference
        if known is None or abs(known[0] - ahead_s) > JUMP_S:
            self._difference = (ahead_s, monotonic)
            return False
        if monotonic - known[1] < BELIEVED_AFTER_S:
            return False
        self.jumps += 1
        _log.warning(
            "The clock of this machine was set %s by %.1f s: times of this process follow it from now on.",
            "ahead" if ahead_s > 0 else "back",
            abs(ahead_s),
        )
        return True


class RandomIds:
    """Unguessable ids in the platform's form (27 letters and digits); those in order begin with the time, and have 113 random bits."""

    def new(self, prefix: str = "", length: int = 27) -> str:
        """Return a new random id."""
        letters = b""
        while len(letters) < length:
            letters += secrets.token_bytes(2 * length).translate(_BYTE_TO_CHARACTER, _REJECTED_BYTES)
        return prefix + letters[:length].decode()

    def new_in_order(self) -> str:
        """Return a new id that begins with the milliseconds since 1970."""
        milliseconds, letters = time.time_ns() // 1_000_000, []
        for _ in range(_TIME_LENGTH):
            milliseconds, digit = divmod(milliseconds, 62)
            letters.append(_ALPHABET[digit])
        return self.new(bytes(reversed(letters)).decode(), 27 - _TIME_LENGTH)


class SequentialIds:
    """Ids that count up per prefix, so that every run of a test gets the same ids."""

    def __init__(self) -> None:
        self._next: defaultdict[str, int] = defaultdict(int)

    def new(self, prefix: str = "", length: int = 27) -> str:
        """Return the next id of *prefix*, padded with zeros to *length*."""
        self._next[prefix] += 1
        return f"{prefix}{self._next[prefix]:0{length}d}"

    def new_in_order(self) -> str:
        """Return the next id without a prefix."""
        return self.new()


SYSTEM_CLOCK = SystemClock()
RANDOM_IDS = RandomIds()


def format_iso(moment: datetime) -> str:
    """Format *moment* as the platform does: `2026-11-24T10:00:00.000Z`."""
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"

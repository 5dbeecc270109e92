"""
Clocks and id generators.

Code that needs the time or a new id takes a `Clock` or an `IdGenerator` as an argument, so that a test can fix both.
"""

from __future__ import annotations

import asyncio
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


class RandomIds:
    """Unguessable ids in the platform's form (27 letters and digits)."""

    def new(self, prefix: str = "", length: int = 27) -> str:
        """Return a new random id."""
        letters = b""
        while len(letters) < length:
            letters += secrets.token_bytes(2 * length).translate(_BYTE_TO_CHARACTER, _REJECTED_BYTES)
        return prefix + letters[:length].decode()


class SequentialIds:
    """Ids that count up per prefix, so that every run of a test gets the same ids."""

    def __init__(self) -> None:
        self._next: defaultdict[str, int] = defaultdict(int)

    def new(self, prefix: str = "", length: int = 27) -> str:
        """Return the next id of *prefix*, padded with zeros to *length*."""
        self._next[prefix] += 1
        return f"{prefix}{self._next[prefix]:0{length}d}"


SYSTEM_CLOCK = SystemClock()
RANDOM_IDS = RandomIds()


def format_iso(moment: datetime) -> str:
    """Format *moment* as the platform does: `2026-11-24T10:00:00.000Z`."""
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"

"""
Where every time stamp and every id comes from.

Knows the wall clock and randomness. Whoever needs either takes a `Clock` or `Ids` as an argument,
so that a test or an example notebook can fix both.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Protocol

_ALPHABET = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_UNBIASED_BYTE_LIMIT = len(_ALPHABET) * (
    256 // len(_ALPHABET)
)  # bytes from here on would make some letters likelier than others
_BYTE_TO_CHARACTER = bytes(_ALPHABET[byte % len(_ALPHABET)] for byte in range(256))
_REJECTED_BYTES = bytes(range(_UNBIASED_BYTE_LIMIT, 256))


class Clock(Protocol):
    """Tells the time."""

    def now(self) -> datetime:
        """The wall time, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back; only differences mean anything."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return when *seconds* have passed."""
        ...


class IdGenerator(Protocol):
    """Makes ids."""

    def new(self, prefix: str = "", length: int = 27) -> str:
        """A fresh id: *prefix*, then *length* letters and digits."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """The wall time, aware, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds since some moment before."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Return when *seconds* have passed."""
        await asyncio.sleep(seconds)


class ManualClock:
    """A clock that moves only when told to."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._now = start
        self._monotonic = 0.0

    def now(self) -> datetime:
        """The time that was set."""
        return self._now

    def monotonic(self) -> float:
        """Seconds by which the clock was moved."""
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        """Let *seconds* pass at once: who waits for this clock waits for nobody else."""
        self.advance(seconds)
        await asyncio.sleep(0)

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass."""
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds


class RandomIds:
    """Ids that nobody can guess, in the shape of the platform's (27 letters and digits)."""

    def new(self, prefix: str = "", length: int = 27) -> str:
        """A fresh id."""
        letters = b""
        while len(letters) < length:
            letters += secrets.token_bytes(2 * length).translate(_BYTE_TO_CHARACTER, _REJECTED_BYTES)
        return prefix + letters[:length].decode()


class SequentialIds:
    """Ids that count up for each prefix: the same in every run of a test or an example."""

    def __init__(self) -> None:
        self._next: defaultdict[str, int] = defaultdict(int)

    def new(self, prefix: str = "", length: int = 27) -> str:
        """The next id of *prefix*, padded to *length*."""
        self._next[prefix] += 1
        return f"{prefix}{self._next[prefix]:0{length}d}"


SYSTEM_CLOCK = SystemClock()
RANDOM_IDS = RandomIds()


def format_iso(moment: datetime) -> str:
    """*moment* as the platform writes it: `2026-11-24T10:00:00.000Z`."""
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"

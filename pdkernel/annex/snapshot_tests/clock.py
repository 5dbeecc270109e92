"""
A clock for tests that follows the machine's clock until a test sets it.

Only time stamps of pdkernel follow this clock: steps run in other processes with the machine's clock.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pdkernel.common.clock import SYSTEM_CLOCK, Clock, SteadyClock
from pdkernel.errors import RequestError


class SettableClock(SteadyClock):
    """The time of runs and accounts: real at first, fixed after `set` until `reset`. It is set on purpose, so it is followed at once."""

    def __init__(self, machine: Clock = SYSTEM_CLOCK) -> None:
        super().__init__(machine)
        self._fixed: datetime | None = None
        self._moved = 0.0

    def now(self) -> datetime:
        """The wall time, aware, in UTC."""
        return super().now() if self._fixed is None else self._fixed

    def monotonic(self) -> float:
        """Monotonic seconds: the machine's, plus all seconds from `advance`."""
        return super().monotonic() + self._moved

    async def sleep(self, seconds: float) -> None:
        """Wait for *seconds*; if the time is fixed, advance the clock at once instead."""
        if self._fixed is None:
            await super().sleep(seconds)
        else:
            self.advance(seconds)

    def set(self, at: datetime | str) -> None:
        """
        Fix the time.

        Args:
            at: An aware datetime, or its ISO text (`2026-11-24T10:00:00Z`).

        Raises:
            RequestError: *at* has no time zone or is not a time.
        """
        try:
            moment = datetime.fromisoformat(at) if isinstance(at, str) else at
        except ValueError:
            raise RequestError(f"{at!r} is not a time.", fix="Write a time like 2026-11-24T10:00:00Z.") from None
        if moment.tzinfo is None:
            raise RequestError(f"{at} has no time zone.", fix="Append Z for UTC.")
        self._fixed = moment.astimezone(UTC)

    def advance(self, seconds: float) -> None:
        """Advance the clock by *seconds*; this also fixes a clock that was not set."""
        self._fixed = self.now() + timedelta(seconds=seconds)
        self._moved += seconds

    def reset(self) -> None:
        """Follow the machine's clock again."""
        self._fixed = None

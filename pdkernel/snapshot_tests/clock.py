"""
A clock that is the machine's until someone sets it.

Knows how time is fixed and moved. Steps are other processes with the machine's clock: only our own time stamps follow it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pdkernel.clock import SYSTEM_CLOCK, Clock
from pdkernel.errors import RequestError


class SettableClock:
    """The time of runs and accounts: real at first, fixed after `set` until `reset`."""

    def __init__(self, machine: Clock = SYSTEM_CLOCK) -> None:
        self._machine = machine
        self._fixed: datetime | None = None
        self._moved = 0.0

    def now(self) -> datetime:
        """The wall time, aware, in UTC."""
        return self._machine.now() if self._fixed is None else self._fixed

    def monotonic(self) -> float:
        """Seconds that never go back: the machine's, and those that were moved."""
        return self._machine.monotonic() + self._moved

    async def sleep(self, seconds: float) -> None:
        """Let *seconds* pass: really, or at once where the time is fixed."""
        if self._fixed is None:
            await self._machine.sleep(seconds)
        else:
            self.advance(seconds)

    def set(self, at: datetime | str) -> None:
        """
        Fix the time.

        Args:
            at: An aware moment, or one as ISO text (`2026-11-24T10:00:00Z`).

        Raises:
            RequestError: It has no time zone, or is no moment.
        """
        try:
            moment = datetime.fromisoformat(at) if isinstance(at, str) else at
        except ValueError:
            raise RequestError(f"{at!r} is no moment.", fix="Write one like 2026-11-24T10:00:00Z.") from None
        if moment.tzinfo is None:
            raise RequestError(f"{at} has no time zone.", fix="Write Z at its end for UTC.")
        self._fixed = moment.astimezone(UTC)

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass; a clock that was not set is fixed from now on."""
        self._fixed = self.now() + timedelta(seconds=seconds)
        self._moved += seconds

    def reset(self) -> None:
        """Be the machine's clock again."""
        self._fixed = None

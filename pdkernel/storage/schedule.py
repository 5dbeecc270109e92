"""Computes when a timer is due: by an interval or by a cron expression in a time zone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pdkernel.errors import RequestError
from pdkernel.model import JSON

DEFAULT_TIMEZONE = "UTC"
DEFAULT_INTERVAL_S = 900.0
MIN_INTERVAL_S = 15.0
"""Minimum seconds between two runs of a source; a shorter interval is raised to this value (not a rule of the platform)."""
_HOURS_PER_DAY = 24
CLOCK_TOLERANCE = timedelta(seconds=5)
"""By so much the clocks of servers may differ."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """
    An interval or a cron expression.

    Attributes:
        interval_s: Seconds between two runs, or None.
        cron: A cron expression of five fields, or None.
        timezone: The time zone of *cron*: `Europe/Berlin`.
    """

    interval_s: float | None = None
    cron: str | None = None
    timezone: str = DEFAULT_TIMEZONE

    @classmethod
    def from_trigger(cls, settings: Mapping[str, JSON]) -> Self:
        """Return the schedule of a workflow's trigger, from its settings `cron`, `interval_seconds` and `timezone`."""
        seconds, cron = settings.get("interval_seconds"), settings.get("cron")
        return cls(
            float(seconds) if isinstance(seconds, int) else None,
            str(cron) if cron else None,
            str(settings.get("timezone") or DEFAULT_TIMEZONE),
        )

    @classmethod
    def from_timer(cls, name: str, timer: object, now: datetime) -> Self:
        """
        Return the times of a source's timer, the value of its prop *name*.

        Raises:
            RequestError: The timer, its cron expression or its time zone is invalid.
        """
        if not isinstance(timer, dict):
            raise RequestError(f'{name} must be a timer: {{"intervalSeconds": 900}}, or {{"cron": "0 9 * * *"}}.')
        cron, timezone = timer.get("cron"), timer.get("timezone") or DEFAULT_TIMEZONE
        if cron:
            if not isinstance(cron, str) or not isinstance(timezone, str):
                raise RequestError(f"{name}: cron and timezone must be strings.")
            check_cron(cron, timezone, now)
            return cls(cron=cron, timezone=timezone)
        seconds = timer.get("intervalSeconds", DEFAULT_INTERVAL_S)
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < 1e9:
            raise RequestError(f"{name}: intervalSeconds must be a number of seconds.")
        return cls(interval_s=max(float(seconds), MIN_INTERVAL_S))

    def check(self, now: datetime) -> None:
        """Raise `RequestError` unless the schedule has a due time after *now*."""
        if self.cron is not None:
            check_cron(self.cron, self.timezone, now)
        elif self.interval_s is None:
            raise RequestError(
                "The schedule has no times: Git does not hold them.",
                fix="Write cron or interval_seconds in the trigger: in %%pdworkflow, or in pdkernel.yaml.",
            )

    def next_after(
        self, moment: datetime, *, since: datetime | None = None, ticked: datetime | None = None
    ) -> datetime | None:
        """
        Return the first due time after *moment*; None without an interval and a cron expression.

        Args:
            moment: A time.
            since: The time from which an interval counts; None for *moment*.
            ticked: The due time that has fired last. It is left out: it is after *moment* only if a clock was set back.
        """
        upcoming = self._first_after(moment, since)
        return self._first_after(upcoming, since) if upcoming is not None and upcoming == ticked else upcoming

    def _first_after(self, moment: datetime, since: datetime | None) -> datetime | None:
        if self.cron is not None:
            return _after(self.cron, self.timezone, moment)
        if self.interval_s is None:
            return None
        start, step = since or moment, timedelta(seconds=self.interval_s)
        return start + step * max((moment - start) // step + 1, 1)

    def is_too_late(
        self, due: datetime, now: datetime, *, since: datetime | None = None, ticked: datetime | None = None
    ) -> bool:
        """
        Return whether *due* is later than the next due time after *now*, because it was computed by a clock that was ahead.

        *since* and *ticked* are as for `next_after`.
        """
        upcoming = self.next_after(now + CLOCK_TOLERANCE, since=since, ticked=ticked)
        return upcoming is not None and due > upcoming + CLOCK_TOLERANCE

    def latest(self, due: datetime, now: datetime) -> datetime:
        """Return the last due time up to *now*, at least *due*, which is a due time."""
        if now <= due:  # the clock was set back since it was due
            return due
        if self.interval_s is not None and self.cron is None:
            step = timedelta(seconds=self.interval_s)
            return due + step * ((now - due) // step)
        span = timedelta(hours=1)
        while now - span > due:  # a short span first: a schedule may be due each minute, and have waited for months
            found = self._last_between(now - span, now)
            if found is not None:
                return found
            span *= 4
        return self._last_between(due, now) or due

    def _last_between(self, start: datetime, end: datetime) -> datetime | None:
        found, upcoming = None, self.next_after(start)
        while upcoming is not None and upcoming <= end:
            found, upcoming = upcoming, self.next_after(upcoming)
        return found

    def __str__(self) -> str:
        if self.cron is not None:
            return f"{self.cron} ({self.timezone})"
        return "no times" if self.interval_s is None else f"every {self.interval_s:g} s"


def check_cron(cron: str, timezone: str, now: datetime) -> None:
    """
    Raise `RequestError` unless *cron* matches a time after *now* in an existing time zone.

    Args:
        cron: A cron expression of five fields.
        timezone: The time zone's name.
        now: The current time.
    """
    from cronsim import CronSimError

    if len(cron.split()) != 5:
        raise RequestError(
            f"The cron expression {cron!r} does not have five fields.", fix="Use five fields, for example: 0 9 * * 1-5"
        )
    try:
        found = _after(cron, timezone, now)
    except CronSimError as fault:
        raise RequestError(
            f"The cron expression {cron!r} is invalid, or it matches no time: {fault}.", fix="For example 0 9 * * 1-5"
        ) from None
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise RequestError(f"There is no time zone {timezone!r}.", fix="For example Europe/Berlin") from None
    if found is None:
        raise RequestError(f"The cron expression {cron!r} matches no time.", fix="For example 0 9 * * 1-5")


def _after(cron: str, timezone: str, moment: datetime) -> datetime | None:
    """
    Return the first due time after *moment*.

    An expression for each hour goes by elapsed time. Any other goes by the local time: a time that clocks skip is due at the
    next moment that exists, and a time that occurs twice is due at its first occurrence.
    """
    from cronsim import CronSim

    zone = ZoneInfo(timezone)
    local = moment.astimezone(zone)
    times = CronSim(cron, local.replace(tzinfo=None))
    if len(times.hours) == _HOURS_PER_DAY:
        minute, _, *days = cron.split()
        times = CronSim(" ".join((minute, "*", *days)), local)
    for found in times:
        due = _to_existing(found if found.tzinfo is not None else found.replace(tzinfo=zone)).astimezone(UTC)
        if due > moment:
            return due
    return None


def _to_existing(local: datetime) -> datetime:
    """Return *local*, or the first moment after *local* that exists in its time zone."""
    while local.astimezone(UTC).astimezone(local.tzinfo).replace(tzinfo=None) != local.replace(tzinfo=None):
        local += timedelta(minutes=1)
    return local

"""Computes when a timer is due: by an interval or by a cron expression in a time zone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pdkernel.errors import RequestError

DEFAULT_TIMEZONE = "UTC"


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

    def next_after(self, moment: datetime) -> datetime | None:
        """The first due time after *moment*; None without an interval and a cron expression."""
        if self.cron is not None:
            return _after(self.cron, self.timezone, moment)
        return None if self.interval_s is None else moment + timedelta(seconds=self.interval_s)


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
            f"The cron expression {cron!r} cannot be read: {fault}.", fix="For example 0 9 * * 1-5"
        ) from None
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise RequestError(f"There is no time zone {timezone!r}.", fix="For example Europe/Berlin") from None
    if found is None:
        raise RequestError(f"The cron expression {cron!r} matches no time.", fix="For example 0 9 * * 1-5")


def _after(cron: str, timezone: str, moment: datetime) -> datetime | None:
    from cronsim import CronSim

    return next(CronSim(cron, moment.astimezone(ZoneInfo(timezone))), None)

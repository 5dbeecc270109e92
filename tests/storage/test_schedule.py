"""When a schedule is due: intervals, cron expressions, and changes of clocks."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdkernel.errors import RequestError
from pdkernel.storage import Schedule

ZONES = (
    "Europe/Berlin",
    "America/New_York",
    "America/Havana",  # changes its clocks at midnight
    "Australia/Lord_Howe",  # changes its clocks by half an hour
    "Asia/Kolkata",
    "Pacific/Auckland",
    "UTC",
)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def due_times(schedule: Schedule, start: datetime, end: datetime) -> list[datetime]:
    """All due times after *start*, up to *end*."""
    found, upcoming = [], schedule.next_after(start)
    while upcoming is not None and upcoming <= end:
        found.append(upcoming)
        upcoming = schedule.next_after(upcoming)
    return found


def local_times(cron: str, zone: str, start: datetime, end: datetime) -> list[str]:
    """The due times as local times with their offset."""
    found = due_times(Schedule(cron=cron, timezone=zone), start, end)
    return [f"{due.astimezone(ZoneInfo(zone)):%d %H:%M %z}" for due in found]


def first_existing(day: date, at: time, zone: str) -> datetime:
    """The first moment at or after that local time, found by counting minutes in UTC."""
    wanted = datetime.combine(day, at)
    moment = wanted.replace(tzinfo=UTC) - timedelta(hours=16)
    while moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None) < wanted:
        moment += timedelta(minutes=1)
    return moment


@given(
    zone=st.sampled_from(ZONES),
    day=st.dates(date(2026, 1, 1), date(2027, 12, 1)),
    at=st.times().map(lambda moment: moment.replace(second=0, microsecond=0)),
)
def test_a_daily_schedule_is_due_once_each_day(zone: str, day: date, at: time) -> None:
    """On each local day there is one due time: the local time's first occurrence, or the first moment after a skipped one."""
    cron = f"{at.minute} {at.hour} * * *"
    start = first_existing(day, at, zone) - timedelta(minutes=1)

    found = due_times(Schedule(cron=cron, timezone=zone), start, start + timedelta(days=3))

    assert found[:3] == [first_existing(day + timedelta(days=number), at, zone) for number in range(3)]


@pytest.mark.parametrize(
    ("day", "zone"), [(date(2026, 3, 28), "Europe/Berlin"), (date(2026, 4, 4), "Australia/Lord_Howe")]
)
@given(minute=st.integers(0, 59), hour=st.integers(0, 5), moment=st.integers(0, 4 * 1440))
def test_a_due_time_is_after_the_moment(day: date, zone: str, minute: int, hour: int, moment: int) -> None:
    """The next due time depends on the moment only by being the first one after it, also while clocks change."""
    schedule = Schedule(cron=f"{minute} {hour} * * *", timezone=zone)
    start = datetime.combine(day, time(), tzinfo=UTC) - timedelta(days=1)
    asked = start + timedelta(minutes=moment)

    later = [due for due in due_times(schedule, start, start + timedelta(days=7)) if due > asked]

    assert schedule.next_after(asked) == later[0]


def test_skipped_times_are_due_once() -> None:
    """Times that clocks skip are due together at the next moment that exists."""
    start = datetime(2026, 3, 29, tzinfo=UTC)

    assert local_times("15,45 2 * * *", "Europe/Berlin", start, start + timedelta(hours=12)) == ["29 03:00 +0200"]


def test_repeated_times_are_due_once() -> None:
    """A time that occurs twice is due at its first occurrence; a schedule for each hour goes by elapsed time."""
    start = datetime(2026, 10, 24, 22, tzinfo=UTC)
    end = start + timedelta(hours=5)

    assert local_times("30 2 * * *", "Europe/Berlin", start, end) == ["25 02:30 +0200"]
    assert local_times("30 0-23 * * *", "Europe/Berlin", start, end) == [
        "25 00:30 +0200",
        "25 01:30 +0200",
        "25 02:30 +0200",
        "25 02:30 +0100",
        "25 03:30 +0100",
    ]


def test_an_interval_counts_from_its_start() -> None:
    """An interval is due at multiples of its length after its start, however late it is asked."""
    schedule = Schedule(interval_s=60)

    assert schedule.next_after(NOON, since=NOON) == NOON + timedelta(seconds=60)
    assert schedule.next_after(NOON - timedelta(seconds=90), since=NOON) == NOON + timedelta(seconds=60)
    assert schedule.next_after(NOON + timedelta(seconds=130), since=NOON) == NOON + timedelta(seconds=180)
    assert schedule.latest(NOON, NOON + timedelta(seconds=130)) == NOON + timedelta(seconds=120)


@given(
    cron=st.sampled_from(["*/7 * * * *", "0 9 * * 1-5", "30 2 * * *", "0 0 1 * *", "0 0 29 2 *", "5 */6 * * *"]),
    zone=st.sampled_from(ZONES),
    hours=st.integers(0, 24 * 60),
)
def test_the_latest_of_missed_times(cron: str, zone: str, hours: int) -> None:
    """After a downtime the latest missed time is the last of all due times up to now."""
    schedule, now = Schedule(cron=cron, timezone=zone), NOON + timedelta(hours=hours)
    due = schedule.next_after(NOON)
    assert due is not None

    assert schedule.latest(due, max(now, due)) == due_times(schedule, NOON, max(now, due))[-1]


class WrongTimes:
    """
    A schedule that is looked at by a clock that may be wrong, as a server looks at it.

    Args:
        schedule: The schedule, whose times are an hour apart.

    Attributes:
        fired: The due times that have fired.
        fired_at: When each of them has fired, in seconds of the true time.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.fired: list[datetime] = []
        self.fired_at: list[float] = []
        self._schedule = schedule
        self._since = NOON
        self._due = schedule.next_after(NOON, since=NOON)

    def look(self, at: float, *, ahead_s: float) -> None:
        """Fire what is due *at* a true time, according to a clock that is *ahead_s* seconds ahead."""
        now, ticked = NOON + timedelta(seconds=at + ahead_s), self.fired[-1] if self.fired else None
        since = min(self._since, now)
        assert self._due is not None
        if self._schedule.is_too_late(self._due, now, since=since, ticked=ticked):
            self._since, self._due = since, self._schedule.next_after(now, since=since, ticked=ticked)
            assert self._due is not None
        if self._due <= now:
            self.fired.append(self._schedule.latest(self._due, now))
            self.fired_at.append(at)
            self._due = self._schedule.next_after(now, since=self._since, ticked=self.fired[-1])


HOURLY = Schedule(interval_s=3600), Schedule(cron="0 * * * *")
LOOKS = st.lists(st.tuples(st.integers(1, 3600), st.integers(-1799, 1799)), max_size=30)


@given(schedule=st.sampled_from(HOURLY), looks=LOOKS)
def test_a_due_time_fires_once_by_wrong_clocks(schedule: Schedule, looks: list[tuple[int, int]]) -> None:
    """If a clock is set ahead and back by less than the time between two due times, no due time fires twice."""
    times, at = WrongTimes(schedule), 0.0

    for seconds, ahead_s in looks:
        at += seconds
        times.look(at, ahead_s=ahead_s)

    assert len(set(times.fired)) == len(times.fired)


@given(schedule=st.sampled_from(HOURLY), ahead_s=st.integers(-(10**8), 10**8), seconds=st.integers(1, 600))
def test_a_wrong_clock_stops_no_schedule(schedule: Schedule, ahead_s: int, seconds: int) -> None:
    """After a clock was wrong by up to three years, at most one due time is left out, and none of those after it."""
    times = WrongTimes(schedule)
    times.look(0, ahead_s=ahead_s)
    times.look(seconds, ahead_s=ahead_s)

    for minute in range(6 * 60):
        times.look(seconds + 60 * minute, ahead_s=0)

    after = [each for each in times.fired_at if each > seconds]
    assert after[0] <= seconds + 2 * 3600 + 60
    assert len(after) >= 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cron": "0 0 31 2 *"}, "'0 0 31 2 *' is invalid, or it matches no time"),
        ({"cron": "0 0 */3 2 1#5"}, "'0 0 */3 2 1#5' matches no time."),
        ({"cron": "0 0 9 * * 1-5"}, "does not have five fields"),
        ({"cron": "0 9 * * *", "timezone": "Mars/Olympus"}, "no time zone 'Mars/Olympus'"),
        ({}, "The schedule has no times"),
    ],
)
def test_a_schedule_that_is_never_due_is_refused(settings: dict[str, object], message: str) -> None:
    """A cron expression that matches no time, an unknown time zone and a schedule without times are errors."""
    with pytest.raises(RequestError) as refused:
        Schedule.from_trigger(settings).check(NOON)  # type: ignore[arg-type]  # plain JSON

    assert message in str(refused.value)


@pytest.mark.parametrize(("given", "seconds"), [({"intervalSeconds": 1}, 15), ({"intervalSeconds": 16}, 16), ({}, 900)])
def test_a_source_runs_every_fifteen_seconds_at_most(given: dict[str, int], seconds: int) -> None:
    """A shorter interval is raised; the default is fifteen minutes."""
    assert Schedule.from_timer("timer", given, NOON).interval_s == seconds


def test_a_source_may_run_by_a_cron_expression() -> None:
    """A cron expression of a timer has its time zone, and wins over an interval."""
    cron = {"cron": "0 9 * * *", "timezone": "Asia/Kolkata", "intervalSeconds": 60}

    assert Schedule.from_timer("timer", cron, NOON) == Schedule(cron="0 9 * * *", timezone="Asia/Kolkata")
    both = Schedule(60, "0 9 * * *")
    assert both.latest(NOON - timedelta(hours=3), NOON) == NOON - timedelta(hours=3)


@pytest.mark.parametrize(
    "given", [None, {"intervalSeconds": True}, {"intervalSeconds": 0}, {"intervalSeconds": "60"}, {"cron": 9}]
)
def test_an_invalid_timer_is_refused(given: object) -> None:
    """A timer is an object with a number of seconds, or with a cron expression."""
    with pytest.raises(RequestError, match="must be"):
        Schedule.from_timer("timer", given, NOON)


@pytest.mark.parametrize(
    ("schedule", "text"),
    [
        (Schedule(), "no times"),
        (Schedule(interval_s=60), "every 60 s"),
        (Schedule(cron="0 9 * * *", timezone="Asia/Kolkata"), "0 9 * * * (Asia/Kolkata)"),
    ],
)
def test_a_schedule_in_words(schedule: Schedule, text: str) -> None:
    """A person reads the times, or that there are none."""
    assert str(schedule) == text

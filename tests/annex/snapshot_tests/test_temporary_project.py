"""The clock of snapshot tests: the machine's time until a test sets it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from pdkernel.annex.snapshot_tests.temporary_project import SettableClock
from pdkernel.common.clock import ManualClock
from pdkernel.errors import RequestError

START = datetime(2026, 1, 1, tzinfo=UTC)
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


async def test_the_machines_time() -> None:
    """Before `set` and after `reset`, the time and a sleep are the machine's."""
    machine = ManualClock(START)
    clock = SettableClock(machine)

    await clock.sleep(5)
    slept = clock.now()
    clock.set(NOON)
    clock.reset()
    machine.advance(2)

    assert slept == START + timedelta(seconds=5)
    assert (clock.now(), clock.monotonic()) == (START + timedelta(seconds=7), 7)


async def test_a_fixed_time_moves_only_by_advance_and_sleep() -> None:
    """A fixed clock does not follow the machine; a sleep advances it without waiting."""
    machine = ManualClock(START)
    clock = SettableClock(machine)
    clock.set(NOON)
    machine.advance(60)

    clock.advance(1.5)
    await clock.sleep(2)

    assert clock.now() == NOON + timedelta(seconds=3.5)
    assert (clock.monotonic(), machine.monotonic()) == (63.5, 60)


def test_advance_fixes_the_time() -> None:
    """A clock that was not set is fixed by `advance`."""
    machine = ManualClock(START)
    clock = SettableClock(machine)

    clock.advance(10)
    machine.advance(60)

    assert clock.now() == START + timedelta(seconds=10)


@pytest.mark.parametrize(
    "at",
    [
        NOON,
        NOON.isoformat(),
        "2026-11-24T12:00:00Z",
        "2026-11-24T14:00+02:00",
        NOON.astimezone(timezone(timedelta(hours=-5))),
    ],
)
def test_a_time_is_stored_in_utc(at: datetime | str) -> None:
    """A time of any zone, as a datetime or a text, is the same moment in UTC."""
    clock = SettableClock(ManualClock(START))

    clock.set(at)

    assert (clock.now(), clock.now().tzinfo) == (NOON, UTC)


@pytest.mark.parametrize("at", ["noon", "2026-11-24T12:00:00", datetime(2026, 11, 24)])  # noqa: DTZ001 (without a zone on purpose)
def test_a_time_without_a_zone_is_refused(at: datetime | str) -> None:
    """A text that is not a time, and a time without a zone, are refused."""
    with pytest.raises(RequestError):
        SettableClock(ManualClock(START)).set(at)

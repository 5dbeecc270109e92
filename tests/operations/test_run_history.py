"""Recorded runs of a project, and the times by which a list of runs is limited."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pdkernel.clock import ManualClock
from pdkernel.engine.journal import ExecutionQuery
from pdkernel.errors import ProjectError, RequestError
from pdkernel.operations.run_history import get_run, list_runs, parse_moment
from pdkernel.project import Project

NOW = datetime(2026, 11, 27, 12, 30, tzinfo=UTC)  # a Friday


def parsed(text: str) -> datetime:
    """The moment of *text* at `NOW`."""
    return parse_moment(text, option="--since", clock=ManualClock(NOW))


@pytest.mark.parametrize(
    ("text", "before"),
    [("90s", timedelta(seconds=90)), ("2h", timedelta(hours=2)), ("3 d", timedelta(days=3)), ("1w", timedelta(weeks=1)),
     ("2 hours ago", timedelta(hours=2)), ("10 minutes ago", timedelta(minutes=10))],
)  # fmt: skip
def test_a_span_ends_now(text: str, before: timedelta) -> None:
    """A span is so long before now, to the second."""
    assert parsed(text) == NOW - before


@pytest.mark.parametrize(
    ("text", "day"),
    [("yesterday", 26), ("today", 27), ("last tuesday", 24), ("Tuesday", 24), ("2026-11-20", 20), ("20 nov 2026", 20)],
)
def test_a_day_is_its_beginning(text: str, day: int) -> None:
    """A day without a time is its beginning in the local time zone; the day of a week is the last one."""
    found = parsed(text)

    assert (found.year, found.month, found.day, found.hour, found.minute) == (2026, 11, day, 0, 0)
    assert found.utcoffset() == found.replace(tzinfo=None).astimezone().utcoffset()


def test_a_time_with_a_zone_keeps_it() -> None:
    """An ISO time with a zone is that moment."""
    assert parsed("2026-11-24T10:00:00+02:00") == datetime(2026, 11, 24, 8, 0, tzinfo=UTC)


@pytest.mark.parametrize("text", ["blah", "", "2026-13-40", "99x"])
def test_another_text_is_refused(text: str) -> None:
    """A text that is not a time names the option and the forms."""
    with pytest.raises(RequestError, match=r"--since .* is not a time") as refused:
        parsed(text)

    assert "last tuesday" in refused.value.fix


async def test_a_new_project_has_no_runs(tmp_path: Path) -> None:
    """A project whose journal has no tables yet lists no runs, and has no run of any id."""
    with Project.open(tmp_path / ".pdkernel") as project:
        assert list(await list_runs(project, ExecutionQuery())) == []
        with pytest.raises(RequestError, match="There is no run 'x'"):
            await get_run(project, "x")


async def test_a_damaged_journal_is_reported(tmp_path: Path) -> None:
    """A file of a newer version is refused, and not changed."""
    with Project.open(tmp_path / ".pdkernel") as project:
        assert project.sqlite_path is not None
        with project.sqlalchemy_engine.begin() as connection:
            connection.exec_driver_sql("pragma user_version = 99")
        with pytest.raises(ProjectError, match="newer version"):
            await list_runs(project, ExecutionQuery())

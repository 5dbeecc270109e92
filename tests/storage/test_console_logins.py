"""Codes and sessions of the console at the limits of their time."""

from __future__ import annotations

from pdkernel.common.clock import ManualClock
from pdkernel.storage import Project


def test_the_interval_between_codes(sqlite_project: Project, clock: ManualClock) -> None:
    """A second code is refused in the interval, and stored when the interval has passed; a session does not count."""
    table = sqlite_project.console_logins
    assert table.add_code("a", 600, interval_s=30)
    clock.advance(29)
    table.add_session("s", 600)
    assert not table.add_code("b", 600, interval_s=30)
    assert not table.use_code("b")
    clock.advance(1)
    table.add_session("t", 600)
    assert table.add_code("c", 600, interval_s=30)
    assert (table.use_code("a"), table.use_code("c")) == (True, True)


def test_a_code_ends_with_its_lifetime(sqlite_project: Project, clock: ManualClock) -> None:
    """A code cannot be used in the second in which its lifetime ends; a new code leaves the sessions."""
    table = sqlite_project.console_logins
    table.add_code("a", 10, interval_s=0)
    table.add_session("s", 100)
    end = clock.now().timestamp() + 100

    clock.advance(10)
    assert not table.use_code("a")
    assert table.add_code("b", 10, interval_s=0)
    assert table.find_session("s") == end
    clock.advance(90)
    assert table.find_session("s") is None


def test_a_session_is_ended_alone(sqlite_project: Project) -> None:
    """The end of one session leaves the others; a code is not a session, and a session is not a code."""
    table = sqlite_project.console_logins
    table.add_session("s", 10)
    table.add_session("t", 10)
    table.add_code("c", 10, interval_s=0)

    table.end_session("s")
    table.end_session("c")

    assert table.find_session("s") is table.find_session("c") is None
    assert (table.use_code("t"), table.use_code("c")) == (False, True)
    assert table.find_session("t") is not None

"""One-time codes and sessions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from pdkernel.clock import ManualClock
from pdkernel.project import Project
from pdkernel.project.schema import console_logins
from pdkernel.server.console.sessions import (
    ATTEMPT_WINDOW_S,
    CODE_INTERVAL_S,
    CODE_LIFETIME_S,
    MAX_FAILED_ATTEMPTS,
    SESSION_LIFETIME_S,
    ConsoleSessions,
    TooManyAttemptsError,
)


@pytest.fixture
def clock() -> ManualClock:
    """The clock."""
    return ManualClock()


@pytest.fixture
def codes() -> list[str]:
    """The printed codes."""
    return []


@pytest.fixture
def project(tmp_path: Path, clock: ManualClock) -> Iterator[Project]:
    """A project."""
    with Project.open(tmp_path / ".pdkernel", clock=clock) as project:
        yield project


@pytest.fixture
def sessions(project: Project, codes: list[str]) -> ConsoleSessions:
    """Sessions of a server with a terminal and an admin token."""
    return ConsoleSessions(project, admin_token_hash=hashlib.sha256(b"admin").digest(), print_code=codes.append)


@pytest.mark.parametrize(("after_s", "opens"), [(CODE_LIFETIME_S - 1, True), (CODE_LIFETIME_S, False)])
def test_a_code_expires(
    sessions: ConsoleSessions, clock: ManualClock, codes: list[str], after_s: float, opens: bool
) -> None:
    """A code is valid for ten minutes."""
    sessions.print_new_code()
    clock.advance(after_s)

    assert (sessions.log_in(codes[0], "address") is not None) == opens


@pytest.mark.parametrize(("after_s", "open_"), [(SESSION_LIFETIME_S - 1, True), (SESSION_LIFETIME_S, False)])
def test_a_session_expires(sessions: ConsoleSessions, clock: ManualClock, after_s: float, open_: bool) -> None:
    """A session is open for twelve hours, whatever it is used for."""
    token = sessions.log_in("admin", "address")
    assert token is not None
    session = sessions.find(token)
    assert session is not None
    clock.advance(after_s)

    assert (sessions.find(token) is not None, sessions.is_open(session)) == (open_, open_)


def test_two_codes_and_tokens_differ(sessions: ConsoleSessions, clock: ManualClock, codes: list[str]) -> None:
    """Codes, cookies and form tokens are random, and no code opens a session as a cookie."""
    sessions.print_new_code()
    clock.advance(CODE_INTERVAL_S)
    sessions.print_new_code()
    tokens = [sessions.log_in("admin", "address") for _ in range(2)]
    found = [sessions.find(token) for token in tokens if token]

    assert len({*codes, *tokens, *(each.csrf_token for each in found if each)}) == 6
    assert [sessions.find(code) for code in codes] == [None, None]
    assert len(codes[0]) == 19


def test_failed_attempts_count_by_address_and_minute(sessions: ConsoleSessions, clock: ManualClock) -> None:
    """Attempts of one address do not lock another out, and end with the minute."""
    for _ in range(MAX_FAILED_ATTEMPTS):
        assert sessions.log_in("wrong", "one") is None
    with pytest.raises(TooManyAttemptsError):
        sessions.log_in("admin", "one")
    other = sessions.log_in("admin", "other")
    with pytest.raises(TooManyAttemptsError):
        sessions.log_in("admin", "one")
    clock.advance(ATTEMPT_WINDOW_S)

    assert other is not None
    assert sessions.log_in("admin", "one") is not None


def test_a_login_forgets_failed_attempts(sessions: ConsoleSessions) -> None:
    """A person who has logged in may mistype as often as before."""
    for _ in range(2):
        for _ in range(MAX_FAILED_ATTEMPTS - 1):
            assert sessions.log_in("wrong", "one") is None
        assert sessions.log_in("admin", "one") is not None


def test_nothing_is_stored_in_the_clear(sessions: ConsoleSessions, project: Project, codes: list[str]) -> None:
    """The database has digests of the code and of the cookie only."""
    sessions.print_new_code()
    token = sessions.log_in("admin", "address")
    assert token is not None
    with project.sqlalchemy_engine.connect() as connection:
        rows = connection.execute(select(console_logins)).all()
    kept = repr([rows, vars(sessions), sessions.find(token)])

    assert len(rows) == 2
    assert token not in kept
    assert codes[0].replace("-", "") not in kept


def test_processes_share_codes_and_sessions(sessions: ConsoleSessions, project: Project, codes: list[str]) -> None:
    """A code of one process logs in once, at any process; the session is open at all, with one form token, until it ends."""
    with Project.open(project.folder, clock=project.clock) as same:
        other = ConsoleSessions(same, print_code=codes.append)
        sessions.print_new_code()
        printed = other.print_new_code()
        token = other.log_in(codes[0], "address")
        assert token is not None
        found = [each.find(token) for each in (sessions, other)]
        again = sessions.log_in(codes[0], "address")
        assert found[0] is not None
        sessions.end(found[0])

        assert (printed, again) == (False, None)
        assert found[0] == found[1]
        assert other.find(token) is None


def test_without_a_terminal_there_is_no_code(project: Project) -> None:
    """Without a terminal and an admin token nothing logs in."""
    sessions = ConsoleSessions(project)

    assert not sessions.print_new_code()
    assert sessions.log_in("", "address") is None


def test_a_code_and_a_session_are_not_exchanged(sessions: ConsoleSessions, codes: list[str]) -> None:
    """A code is not the value of a cookie, and the value of a cookie is not a code."""
    sessions.print_new_code()
    code = codes[0].replace("-", "")
    as_cookie = sessions.find(code)
    token = sessions.log_in(code, "address")
    assert token is not None

    assert as_cookie is None
    assert sessions.find(token) is not None
    assert sessions.log_in(token, "address") is None
    assert sessions.log_in(token.upper(), "address") is None


def test_a_code_of_the_owner_needs_no_interval(project: Project) -> None:
    """Codes that the owner of the process creates follow each other at once; the first login with each of them is reported."""
    used: list[str] = []
    sessions = ConsoleSessions(project, admin_token_hash=hashlib.sha256(b"admin").digest(), on_code_used=used.append)
    codes = [sessions.create_code() for _ in range(2)]

    opened = [sessions.log_in(text, "address") is not None for text in (*codes, codes[0], "admin")]

    assert opened == [True, True, False, True]
    assert used == [code.replace("-", "") for code in codes]

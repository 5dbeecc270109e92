"""One-time codes and sessions."""

from __future__ import annotations

import hashlib

import pytest

from pdkernel.clock import ManualClock
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
def sessions(clock: ManualClock, codes: list[str]) -> ConsoleSessions:
    """Sessions of a server with a terminal and an admin token."""
    return ConsoleSessions(clock, admin_token_hash=hashlib.sha256(b"admin").digest(), print_code=codes.append)


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
    clock.advance(ATTEMPT_WINDOW_S)

    assert other is not None
    assert sessions.log_in("admin", "one") is not None


def test_nothing_is_stored_in_the_clear(sessions: ConsoleSessions, codes: list[str]) -> None:
    """The memory of the server has digests of the code and of the cookie only."""
    sessions.print_new_code()
    token = sessions.log_in("admin", "address")
    assert token is not None
    kept = repr([vars(sessions), sessions.find(token)])

    assert token not in kept
    assert codes[0].replace("-", "") not in kept


def test_without_a_terminal_there_is_no_code(clock: ManualClock) -> None:
    """Without a terminal and an admin token nothing logs in."""
    sessions = ConsoleSessions(clock, admin_token_hash=None, print_code=None)

    assert not sessions.print_new_code()
    assert sessions.log_in("", "address") is None

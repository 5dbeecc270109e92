"""One-time codes and sessions."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import select

from pdkernel.common.clock import ManualClock
from pdkernel.errors import RequestError
from pdkernel.server.console_sessions import (
    ATTEMPT_WINDOW_S,
    CODE_INTERVAL_S,
    CODE_LIFETIME_S,
    MAX_FAILED_ATTEMPTS,
    MAX_FAILED_ATTEMPTS_OF_ALL,
    SESSION_LIFETIME_S,
    ConsoleSessions,
    TooManyAttemptsError,
    hash_admin_token,
)
from pdkernel.storage import Project
from pdkernel.storage.schema import console_logins
from tests.server.console.conftest import ADMIN


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
    return ConsoleSessions(project, admin_token_hash=hash_admin_token(ADMIN), print_code=codes.append)


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
    token = sessions.log_in(ADMIN, "address")
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
    tokens = [sessions.log_in(ADMIN, "address") for _ in range(2)]
    found = [sessions.find(token) for token in tokens if token]

    assert len({*codes, *tokens, *(each.csrf_token for each in found if each)}) == 6
    assert [sessions.find(code) for code in codes] == [None, None]
    assert len(codes[0]) == 19


@pytest.mark.parametrize(
    ("addresses", "other"),
    [
        (["192.0.2.1"] * MAX_FAILED_ATTEMPTS, "192.0.2.2"),
        ([f"2001:db8::{number:x}" for number in range(MAX_FAILED_ATTEMPTS)], "2001:db8:0:1::1"),
    ],
)
def test_failed_codes_count_by_network_and_minute(
    sessions: ConsoleSessions, clock: ManualClock, addresses: list[str], other: str
) -> None:
    """Wrong codes of an IPv4 address, or of a /64 of IPv6, lock out that network only, and only for the minute."""
    for address in addresses:
        assert sessions.log_in("wrong", address) is None
    with pytest.raises(TooManyAttemptsError):
        sessions.log_in(sessions.create_code(), addresses[0])
    from_other = sessions.log_in(sessions.create_code(), other)
    with pytest.raises(TooManyAttemptsError):
        sessions.log_in("wrong", addresses[-1])
    clock.advance(ATTEMPT_WINDOW_S)

    assert from_other is not None
    assert sessions.log_in(sessions.create_code(), addresses[0]) is not None


def test_failed_codes_of_all_networks_are_limited(sessions: ConsoleSessions, clock: ManualClock) -> None:
    """Wrong codes from many addresses end in a limit of all codes, which forgets no network and lasts for the minute."""
    for number in range(MAX_FAILED_ATTEMPTS_OF_ALL):
        sessions.log_in("wrong", f"10.0.{number // MAX_FAILED_ATTEMPTS}.1")
    refused = []
    for address in ("10.0.0.1", "192.0.2.1"):
        with pytest.raises(TooManyAttemptsError):
            refused.append(sessions.log_in(sessions.create_code(), address))
    admin = sessions.log_in(ADMIN, "10.0.0.1")
    clock.advance(ATTEMPT_WINDOW_S)

    assert (refused, admin is not None) == ([], True)
    assert sessions.log_in(sessions.create_code(), "192.0.2.1") is not None


def test_the_admin_token_has_no_limit(sessions: ConsoleSessions) -> None:
    """Any number of wrong tokens from an address leaves the right one valid there."""
    wrong = [sessions.is_admin_token(f"wrong {number}") for number in range(5 * MAX_FAILED_ATTEMPTS)]
    for _ in range(MAX_FAILED_ATTEMPTS):
        sessions.log_in("wrong", "one")

    assert not any(wrong)
    assert sessions.is_admin_token(f" {ADMIN} ")
    assert sessions.log_in(ADMIN, "one") is not None


@pytest.mark.parametrize(
    "token",
    [
        "hunter2",
        "a-token-of-the-admin",
        "correct-horse-battery-staple-again",
        "a" * 64,
        "0123456789abcdef" * 4,
        "password1" * 8,
        "12345678901234567890123456789012345678901234567890",
        "abcdefghijklmnopqrstuvwxyz0123456789",
        "83f1c0a97be24d56",
    ],
)
def test_a_weak_admin_token_is_refused(token: str) -> None:
    """A token that is short, regular, or made of words is refused; the message has a command, and not the token."""
    with pytest.raises(RequestError, match="openssl rand -hex 32") as refusal:
        hash_admin_token(token)

    assert token not in str(refusal.value)


@pytest.mark.parametrize(
    "make", [partial(secrets.token_hex, 16), partial(secrets.token_hex, 256), partial(secrets.token_urlsafe, 22)]
)
def test_a_random_admin_token_is_accepted(make: Callable[[], str]) -> None:
    """A random token of 128 bits or more is accepted, whatever its form is."""
    assert all(len(hash_admin_token(make())) == 32 for _ in range(1000))


def test_a_login_forgets_failed_attempts(sessions: ConsoleSessions) -> None:
    """A person who has logged in may mistype as often as before."""
    for _ in range(2):
        for _ in range(MAX_FAILED_ATTEMPTS - 1):
            assert sessions.log_in("wrong", "one") is None
        assert sessions.log_in(ADMIN, "one") is not None


def test_nothing_is_stored_in_the_clear(sessions: ConsoleSessions, project: Project, codes: list[str]) -> None:
    """The database has digests of the code and of the cookie only."""
    sessions.print_new_code()
    token = sessions.log_in(ADMIN, "address")
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
    sessions = ConsoleSessions(project, admin_token_hash=hash_admin_token(ADMIN), on_code_used=used.append)
    codes = [sessions.create_code() for _ in range(2)]

    opened = [sessions.log_in(text, "address") is not None for text in (*codes, codes[0], ADMIN)]

    assert opened == [True, True, False, True]
    assert used == [code.replace("-", "") for code in codes]


@pytest.mark.parametrize("act", ["log_in", "exchange"])
def test_a_crash_during_a_login_leaves_the_code_valid(project: Project, sessions: ConsoleSessions, act: str) -> None:
    """If the session, or the new code, cannot be stored, the one-time code is not used up; then it is used once."""
    code = sessions.create_code()
    with project.sqlalchemy_engine.begin() as connection:
        connection.exec_driver_sql(
            "create trigger crash before insert on console_logins begin select raise(rollback, 'crash'); end"
        )
    with pytest.raises(Exception, match=r"crash|exists already"):  # the error of a constraint
        getattr(sessions, act)(code, "10.0.0.1")
    with project.sqlalchemy_engine.begin() as connection:
        left = [row.kind for row in connection.execute(select(console_logins.c.kind))]
        connection.exec_driver_sql("drop trigger crash")
    results = [getattr(sessions, act)(code, "10.0.0.1") for _ in range(2)]

    assert left == ["code"]
    assert results[0] is not None
    assert results[1] is None

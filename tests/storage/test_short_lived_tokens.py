"""The table of Connect tokens."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from pdkernel.common.clock import ManualClock
from pdkernel.storage import Project
from pdkernel.storage.short_lived_tokens import (
    EXPIRED_RETENTION_S,
    SIGN_IN_TIMEOUT_S,
    ConnectToken,
    PendingSignIn,
    PipedreamToken,
    TokenTerms,
    hash_token,
)

TERMS = TokenTerms(
    "session", ("https://a.example",), "https://a/ok", "https://a/error", "https://a/hook", "connect:accounts:read"
)


def token_of(clock: ManualClock, text: str = "ctok_1", **changes: object) -> ConnectToken:
    """A token that is valid for an hour."""
    now = clock.now()
    made = ConnectToken(hash_token(text), "ada", "production", now, now + timedelta(hours=1), TERMS)
    return replace(made, **changes)  # type: ignore[arg-type]


def test_a_token_is_read_back(project: Project, clock: ManualClock) -> None:
    """Every field of a token is stored; its text and its URLs are not in its repr."""
    token = token_of(clock)
    project.connect_tokens.add(token)

    assert project.connect_tokens.find("ctok_1") == project.connect_tokens.find_by_digest(token.digest) == token
    assert project.connect_tokens.find("ctok_2") is None
    assert token.digest not in repr(token)
    assert "https://a/" not in repr(token)


@pytest.mark.parametrize(("seconds", "claimed"), [(0, True), (3599.5, True), (3600, False)])
def test_a_token_is_claimed_once(project: Project, clock: ManualClock, seconds: float, claimed: bool) -> None:
    """One caller claims a token before it expires, and no other token is claimed with it."""
    token = token_of(clock)
    project.connect_tokens.add(token)
    project.connect_tokens.add(token_of(clock, "ctok_2"))
    clock.advance(seconds)

    claims = [project.connect_tokens.claim(token.digest) for _ in range(2)]
    found = project.connect_tokens.find("ctok_1")

    assert claims == [claimed, False]
    assert found == replace(token, used_at=clock.now() if claimed else None)
    assert project.connect_tokens.find("ctok_2") == replace(token, digest=hash_token("ctok_2"))


def test_expired_tokens_are_removed_after_a_day(project: Project, clock: ManualClock) -> None:
    """An expired token is known for a day, so that its use is answered with the reason."""
    project.connect_tokens.add(token_of(clock))
    clock.advance(3600 + EXPIRED_RETENTION_S)
    project.connect_tokens.add(token_of(clock, "ctok_2"))
    known = project.connect_tokens.find("ctok_1")
    clock.advance(0.5)
    project.connect_tokens.add(token_of(clock, "ctok_3"))

    assert known is not None
    assert project.connect_tokens.find("ctok_1") is None
    assert EXPIRED_RETENTION_S == 86400


def test_tokens_of_a_user_are_counted(project: Project, clock: ManualClock) -> None:
    """Tokens of the user in the environment count from the moment on."""
    start = clock.now()
    project.connect_tokens.add(token_of(clock))
    project.connect_tokens.add(token_of(clock, "ctok_2", external_user_id="bob"))
    project.connect_tokens.add(token_of(clock, "ctok_3", environment="development"))
    clock.advance(10)
    project.connect_tokens.add(token_of(clock, "ctok_4"))

    count = project.connect_tokens.count_since
    assert [count("ada", "production", start + timedelta(seconds=after)) for after in (0, 0.5, 10, 10.5)] == [
        2,
        1,
        1,
        0,
    ]
    assert (count("bob", "production", start), count("ada", "development", start), count("eve", "production", start)) == (1, 1, 0)  # fmt: skip


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


VISIT = PendingSignIn("ctok_1", "slack", "verifier", "browser", "https://a.example/callback", "apn_1", framed=True)


def test_a_sign_in_is_used_once(sqlite_project: Project) -> None:
    """A state returns its own sign-in, once, to the browser that has started it."""
    sqlite_project.pending_sign_ins.add("one", VISIT)

    assert sqlite_project.pending_sign_ins.consume("two", "browser") is None
    assert sqlite_project.pending_sign_ins.consume("one", "another") is None
    assert sqlite_project.pending_sign_ins.consume("one", "browser") == VISIT
    assert sqlite_project.pending_sign_ins.consume("one", "browser") is None


def test_a_sign_in_ends_after_fifteen_minutes(sqlite_project: Project, clock: ManualClock) -> None:
    """A sign-in is accepted for less than 15 minutes; adding another one leaves those that have not ended."""
    for state in ("early", "late"):
        sqlite_project.pending_sign_ins.add(state, VISIT)
    clock.advance(SIGN_IN_TIMEOUT_S - 1)
    sqlite_project.pending_sign_ins.add("third", VISIT)

    assert sqlite_project.pending_sign_ins.consume("early", "browser") == VISIT
    clock.advance(1)
    assert sqlite_project.pending_sign_ins.consume("late", "browser") is None
    assert sqlite_project.pending_sign_ins.consume("third", "browser") == VISIT
    assert SIGN_IN_TIMEOUT_S == 900


def test_a_token_is_found_until_its_lifetime_ends(sqlite_project: Project, clock: ManualClock) -> None:
    """A token has its client, workspace and scopes for less than its lifetime."""
    table = sqlite_project.pipedream_tokens
    table.add("a", "client", "o_1", ("x", "y"), 10)
    table.add("b", "client", None, (), 20)

    clock.advance(9)
    assert table.find("a") == PipedreamToken("client", "o_1", ("x", "y"))
    clock.advance(1)
    assert table.find("a") is None
    table.add("c", "client", None, (), 20)
    assert table.find("b") == PipedreamToken("client", None, ())


def test_a_token_is_replaced_and_removed(sqlite_project: Project) -> None:
    """A second `add` replaces the data of a token; `remove` leaves other tokens."""
    table = sqlite_project.pipedream_tokens
    table.add("a", "client", None, ("x",), 10)
    table.add("a", "other", None, ("y",), 10)
    table.add("b", "client", None, ("x",), 10)

    assert table.find("a") == PipedreamToken("other", None, ("y",))
    table.remove("a")
    assert table.find("a") is None
    assert table.find("b") is not None

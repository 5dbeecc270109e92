"""The table of Connect tokens."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from pdkernel.common.clock import ManualClock
from pdkernel.storage import Project
from pdkernel.storage.connect_tokens import EXPIRED_RETENTION_S, ConnectToken, TokenTerms, hash_token

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

"""Pending sign-ins: used once, within their time."""

from __future__ import annotations

from pdkernel.common.clock import ManualClock
from pdkernel.storage import Project
from pdkernel.storage.pending_sign_ins import SIGN_IN_TIMEOUT_S, PendingSignIn

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

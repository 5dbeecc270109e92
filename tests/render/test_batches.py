"""Batches as text."""

from __future__ import annotations

from msgspec.structs import replace

from pdkernel.execution import BatchSummary, FailedUser, SkippedUser
from pdkernel.render.batches import MAX_LISTED, render_line, render_text

EMPTY = BatchSummary(
    id="batch_1",
    workflow="Report",
    environment="production",
    at="2026-11-30T08:00:00.000Z",
    state="done",
    users=0,
    waiting=0,
    in_progress=0,
    succeeded=0,
    failed=(),
    skipped=(),
    retries=0,
)


def test_a_batch_in_progress_is_one_line() -> None:
    """Only the numbers that are not zero are written."""
    batch = replace(EMPTY, state="running", users=12, succeeded=9, in_progress=2, waiting=1)

    assert render_line(batch) == "12 users: 9 succeeded, 2 in progress, 1 waiting"


def test_a_batch_without_runs_has_the_reason() -> None:
    """The problem follows the number of users."""
    assert render_line(replace(EMPTY, problem="The schedule was removed.")) == "no users. The schedule was removed."


def test_failed_and_skipped_users_are_listed() -> None:
    """Each with the cause or what is missing, at most twenty, and the command that runs the failed ones again."""
    failed = tuple(FailedUser(f"user-{n}", f"run{n}", "error", "no\nchannel\x1b[31m") for n in range(MAX_LISTED + 3))
    skipped = (SkippedUser("eve", ("slack", "github")), SkippedUser("zoe", ()))

    text = render_text(replace(EMPTY, users=25, failed=failed, skipped=skipped))

    assert "  user-0  run0  no channel" in text
    assert "\x1b" not in text
    assert "  and 3 more: pdkernel runs list --batch batch_1 --status error\n" in text
    assert "  eve  has no Slack and no GitHub account\n  zoe  does not exist\n" in text
    assert text.endswith("To run the failed ones again: pdkernel runs retry --batch batch_1\n")

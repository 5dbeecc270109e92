"""Batches as text: a line for each, and the summary of one with its failed and skipped users."""

from __future__ import annotations

from collections.abc import Sequence

from pdkernel.errors import format_count
from pdkernel.execution import BatchSummary
from pdkernel.render.apps import format_app_name
from pdkernel.render.formatting import truncate_line
from pdkernel.render.markup import escape_control_characters

MAX_LISTED = 20
"""Failed users, and skipped users, that a summary lists."""


def render_line(batch: BatchSummary) -> str:
    """Return the numbers of a batch in one line: `12 users: 9 succeeded, 2 failed, 1 skipped`."""
    parts = [
        f"{number} {word}"
        for number, word in (
            (batch.succeeded, "succeeded"),
            (len(batch.failed), "failed"),
            (len(batch.skipped), "skipped"),
            (batch.in_progress, "in progress"),
            (batch.waiting, "waiting"),
        )
        if number
    ]
    counted = f"{format_count(batch.users, 'user')}: {', '.join(parts)}" if parts else "no users"
    return counted if batch.problem is None else f"{counted}. {batch.problem}"


def render_text(batch: BatchSummary) -> str:
    """Return the summary of a batch, with its failed users and the cause of each, and its skipped users and what they lack."""
    lines = [f"{batch.workflow} at {batch.at} ({batch.environment}), {batch.state}", render_line(batch)]
    if batch.failed:
        failed = batch.failed[:MAX_LISTED]
        lines += ["Failed:", *(_row(user.external_user or "", user.run, user.error or user.status) for user in failed)]
        lines += _more(len(batch.failed), f"pdkernel runs list --batch {batch.id} --status error")
    if batch.skipped:
        skipped = batch.skipped[:MAX_LISTED]
        lines += ["Skipped:", *(_row(user.external_user, describe_missing(user.missing)) for user in skipped)]
        lines += _more(len(batch.skipped), f"pdkernel runs batch {batch.id} --json")
    if batch.state == "done" and any(user.status == "error" for user in batch.failed):
        lines.append(f"To run the failed ones again: pdkernel runs retry --batch {batch.id}")
    return "".join(f"{escape_control_characters(line)}\n" for line in lines)


def describe_missing(apps: Sequence[str]) -> str:
    """Return what an external user lacks: `has no Slack account`, or that there is no such user."""
    if not apps:
        return "does not exist"
    return f"has no {' and no '.join(map(format_app_name, apps))} account"


def _row(*cells: str) -> str:
    return "".join(f"  {truncate_line(cell, 200)}" for cell in cells)


def _more(count: int, command: str) -> list[str]:
    return [f"  and {count - MAX_LISTED} more: {command}"] if count > MAX_LISTED else []

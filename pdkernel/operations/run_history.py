"""Recorded runs of the project: the list, one run, and the times by which a list is limited."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path

from pdkernel.clock import Clock
from pdkernel.engine.journal import ExecutionQuery, open_journal_reader
from pdkernel.errors import ProjectError, RequestError
from pdkernel.execution import Execution
from pdkernel.project import Project

_SHORT_SPAN = re.compile(r"(\d+)\s*(s|m|h|d|w)")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


async def list_runs(project: Project, query: ExecutionQuery) -> Sequence[Execution]:
    """The runs that match *query*, newest first. Raises `ProjectError` if the journal cannot be read."""
    with closing(open_journal_reader(_journal_file(project))) as reader:
        return await reader.executions(query)


async def get_run(project: Project, run_id: str | None = None) -> Execution:
    """
    The run with the id *run_id*, or the newest run.

    Raises:
        RequestError: There is no such run.
        ProjectError: The journal cannot be read.
    """
    if run_id is None:
        newest = await list_runs(project, ExecutionQuery(limit=1))
        if not newest:
            raise RequestError(
                "There are no runs in this project yet.", fix="Run a workflow: pdkernel run SOURCE --event FILE"
            )
        return newest[0]
    with closing(open_journal_reader(_journal_file(project))) as reader:
        found = await reader.execution(run_id)
    if found is None:
        raise RequestError(f"There is no run {run_id!r} in this project.", fix="See: pdkernel runs list")
    return found


def parse_moment(text: str, *, option: str, clock: Clock) -> datetime:
    """
    The moment that a person writes: an ISO 8601 time, a span before now (`3d`), or words (`last tuesday`).

    A time without a zone is a local time; a day without a time is its beginning.

    Args:
        text: The text.
        option: The option with the text, for the error.
        clock: For now.

    Raises:
        RequestError: *text* is not a time.
    """
    now = clock.now()
    span = _SHORT_SPAN.fullmatch(text.strip().lower())
    words = f"{span[1]} {_UNITS[span[2]]} ago" if span else text
    try:
        found: datetime | None = datetime.fromisoformat(words)
    except ValueError:
        found = _parse_words(words, now)
    if found is None:
        raise RequestError(
            f"{option} {text} is not a time.",
            fix="Write a date (2026-11-24), a time (2026-11-24T10:00), a span (2h, 3d), or words (yesterday, last tuesday).",
        )
    return found.astimezone() if found.tzinfo is None else found


def _parse_words(words: str, now: datetime) -> datetime | None:
    from dateparser.date import DateDataParser

    settings = {"RELATIVE_BASE": now.astimezone().replace(tzinfo=None), "PREFER_DATES_FROM": "past"}
    read = DateDataParser(languages=["en"], settings=settings).get_date_data(words)
    if read.date_obj is None:
        return None
    is_day = not re.search(r"ago|hour|minute|second|\d:\d|noon|\bnow\b|\d\s*[ap]m", words, re.IGNORECASE)
    return read.date_obj.replace(hour=0, minute=0, second=0, microsecond=0) if is_day else read.date_obj


def _journal_file(project: Project) -> Path:
    if project.sqlite_path is None:
        raise ProjectError(
            "This version supports a journal only on SQLite.", fix="Omit --database, or pass sqlite:///FILE."
        )
    return project.sqlite_path

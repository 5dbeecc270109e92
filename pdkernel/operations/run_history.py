"""
Recorded runs of the project: listed, shown, cancelled, resumed and removed; and the shape of their events.

A run is run again by `run_replay`.
"""

from __future__ import annotations

import asyncio
import getpass
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar, cast, get_args

from pdkernel.common.blocking import run_blocking
from pdkernel.common.clock import Clock
from pdkernel.common.identity import parse_environment
from pdkernel.errors import RequestError, format_count
from pdkernel.execution import UNFINISHED_STATUSES, Execution, Status
from pdkernel.journal import (
    MAX_NOTE_CHARACTERS,
    ClaimedRun,
    ExecutionQuery,
    Journal,
    NewDecision,
    RecordedEvent,
    WaitKey,
    WaitRow,
    open_journal_reader,
)
from pdkernel.journal import open_journal as open_executor
from pdkernel.language.analysis import find_answer_readers
from pdkernel.language.shape import Shape, ShapeBuilder
from pdkernel.model import JSON, Workflow
from pdkernel.render.formatting import format_decision
from pdkernel.storage import Project

if TYPE_CHECKING:
    from pandas import DataFrame

    from pdkernel.engine.workflow_engine import WorkflowEngine

T = TypeVar("T")

SHAPED_RUNS = 1000
"""Default number of recorded runs whose events have one shape."""
RETENTION_DAYS = 30
"""Days that ended runs are kept if their workflow has no setting `retention`."""

REMOVAL_BATCH = 20
"""Runs that are removed in one transaction: writes of runs in progress wait for it for some milliseconds."""
_REST = 3.0
"""How many times as long as the transaction the removal then rests, so that most writes do not meet it."""

PYTHON_CALLER = "Python"
"""Who decides about a run in a call without a name."""
_RESUMED = NewDecision("resumed", PYTHON_CALLER)
_SHORT_SPAN = re.compile(r"(\d+)\s*(s|m|h|d|w)")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


async def list_runs(project: Project, query: ExecutionQuery) -> Sequence[Execution]:
    """Return the runs that match *query*, newest first. Raises `ProjectError` if the journal cannot be read."""
    with closing(await run_blocking(open_journal_reader, project)) as reader:
        return await reader.executions(query)


async def find_run_ids(project: Project, query: ExecutionQuery) -> Sequence[str]:
    """Return the ids of all runs that match *query*, newest first; its `limit` has no effect."""
    with closing(await run_blocking(open_journal_reader, project)) as reader:
        return await reader.ids(replace(query, limit=-1))


async def get_run(project: Project, run_id: str | None = None) -> Execution:
    """
    Return the run with the id *run_id*, or the newest run.

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
    with closing(await run_blocking(open_journal_reader, project)) as reader:
        found = await reader.get_execution(run_id)
    return _require(found, run_id)


@asynccontextmanager
async def open_journal(project: Project) -> AsyncIterator[Journal]:
    """The project's journal for a command, which closes it. Raises `ProjectError` if the journal cannot be used."""
    journal = await run_blocking(open_executor, project, clock=project.clock, ids=project.ids)
    try:
        await run_blocking(project.check_key)
        yield journal
    finally:
        await journal.close()


def name_caller(place: str) -> str:
    """Return who decides about a run at *place* of this machine, for its record: `terminal of ada`."""
    try:
        return f"{place} of {getpass.getuser()}"
    except (KeyError, OSError):  # a user id without a name
        return place


async def cancel_run(journal: Journal, run_id: str, *, by: str = PYTHON_CALLER) -> Execution:
    """
    Cancel an unfinished run, and return its record.

    If the run is in progress in another process, that process ends it within a second.

    Args:
        journal: The journal.
        run_id: The id of the run.
        by: Who cancels the run, for its record.

    Raises:
        RequestError: There is no such run, or the run has ended.
    """
    if not await journal.cancel(run_id, decision=NewDecision("cancelled", by)):
        raise _ended_error(_require(await journal.get_execution(run_id), run_id))
    return _require(await journal.get_execution(run_id), run_id)


def describe_resumed(resumed: ResumedRun) -> str:
    """Return one line about where a run goes on that the caller does not continue."""
    if resumed.is_continued:
        return f"The run {resumed.execution.id} goes on in another process."
    return f"The run {resumed.execution.id} goes on when its project is served again: pdkernel serve SOURCE"


@dataclass(frozen=True, slots=True)
class ResumedRun:
    """
    A run whose pause was ended.

    Attributes:
        execution: The record of the run.
        claimed: The run, if the caller must continue it with `WorkflowEngine.continue_run`; else None.
        is_continued: For a run that the caller does not continue: whether another process continues the run now. If not, a
            served run goes on when its project is served again.
    """

    execution: Execution
    claimed: ClaimedRun | None
    is_continued: bool


async def resume_run(
    engine: WorkflowEngine,
    run_id: str,
    body: JSON = None,
    *,
    step: str | None = None,
    pause: WaitKey | None = None,
    decision: NewDecision = _RESUMED,
) -> ResumedRun:
    """
    End the pause of a run now: a delay, a suspend or a rerun.

    A served run goes on in its server. Any other run is claimed for the caller, because its process has ended.

    Args:
        engine: The engine of this process.
        run_id: The id of the run.
        body: The body that the step gets, as from a call of its `resume_url`; or None.
        step: The step whose pause ends, for a run of which several branches wait; None for the only pause.
        pause: The pause that the caller means; None is the current one.
        decision: What was decided, and by whom, for the record of the run.

    Raises:
        RequestError: There is no such run, the run has ended, the run is not in that pause, or it waits in several steps. If another
            decision was first, the message names it.
    """
    is_served = await end_pause(engine, run_id, body, step=step, pause=pause, decision=decision)
    mine = None if is_served else await engine.journal.claim(run_id)
    return ResumedRun(
        _require(await engine.journal.get_execution(run_id), run_id),
        mine,
        is_continued=engine.continues_runs or not is_served or await engine.journal.has_executor("serve"),
    )


async def end_pause(
    engine: WorkflowEngine,
    run_id: str,
    body: JSON = None,
    *,
    step: str | None = None,
    pause: WaitKey | None = None,
    decision: NewDecision = _RESUMED,
) -> bool:
    """
    End the pause of a run, which goes on in the process that waits for that. Arguments and errors are those of `resume_run`.

    Returns:
        Whether the run is a served one.
    """
    found = await engine.journal.load_run(run_id)
    if found is None:
        raise _unknown_error(run_id)
    execution, claimed = found
    if execution.status not in UNFINISHED_STATUSES:
        raise _ended_error(execution)
    is_served, wait = claimed.origin == "serve", _find_wait(claimed, step, pause)
    if pause is not None and wait is None:
        raise await _late_error(engine.journal, pause)
    if wait is not None and (execution.status == "paused" or step is not None or pause is not None):
        key = wait.key(run_id)
        if await engine.resolve_wait(key, "resume", body, decision=decision) != "done":
            raise await _late_error(engine.journal, key)
    elif is_served or execution.status == "executing" or body is not None:
        # a run of a terminal whose pause has ended, and that no process has claimed, goes on below
        raise RequestError(
            f"The run {run_id} is not paused: it is {execution.status}.", fix=f"See: pdkernel runs show {run_id}"
        )
    return is_served


async def answer_run(
    engine: WorkflowEngine, run_id: str, *, is_approved: bool, by: str, note: str = "", pause: WaitKey | None = None
) -> ResumedRun:
    """
    Approve or reject a run that waits in a suspend. Its step gets `{"approved": ..., "note": ...}`.

    A rejected run is cancelled, unless a later step reads the answer (`find_answer_readers`): a step that does not know of the
    rejection would act as if the run was approved.

    Args:
        engine: The engine of this process.
        run_id: The id of the run.
        is_approved: Whether the run is approved.
        by: Who decides, for the record of the run.
        note: The note of the person.
        pause: The pause that the caller means; None is the current one.

    Raises:
        RequestError: As for `resume_run`; also if the run waits in another kind of pause, or the note is too long.
    """
    if len(note) > MAX_NOTE_CHARACTERS:
        raise RequestError(f"The note has more than {MAX_NOTE_CHARACTERS} characters.", fix="Write a shorter note.")
    found = await engine.journal.load_run(run_id)
    wait = None if found is None else _find_wait(found[1], None, pause)
    if wait is not None and wait.kind != "suspend":
        raise RequestError("Only a run that waits in a suspend can be approved or rejected.", fix="Resume the run.")
    if wait is not None:
        pause = pause or wait.key(run_id)
    body: JSON = {"approved": is_approved, "note": note}
    decision = NewDecision("approved" if is_approved else "rejected", by, note)
    readers: Sequence[str] = ()
    if found is not None and wait is not None:
        readers = await run_blocking(find_run_readers, found[1], wait.path)
    if is_approved or wait is None or readers:
        return await resume_run(engine, run_id, body, pause=pause, decision=decision)
    key = wait.key(run_id)
    if pause != key or await engine.resolve_wait(key, "cancel", decision=decision) != "done":
        raise await _late_error(engine.journal, pause or key)
    return ResumedRun(_require(await engine.journal.get_execution(run_id), run_id), None, is_continued=False)


def _find_wait(claimed: ClaimedRun, step: str | None, pause: WaitKey | None) -> WaitRow | None:
    """
    Return the open pause that *step* or *pause* names, or the only one; None without it.

    Raises:
        RequestError: The run waits in several steps, and none is named; or not in *step*.
    """
    run_id, waits = claimed.claim.run_id, claimed.open_waits
    names = ", ".join(wait.path for wait in waits)
    if pause is not None:
        return next((wait for wait in waits if wait.key(run_id) == pause), None)
    if step is not None:
        found = next((wait for wait in waits if wait.path == step), None)
        if found is None:
            raise RequestError(
                f"The run {run_id} does not wait in the step {step}.",
                fix=f"It waits in: {names}" if waits else f"See: pdkernel runs show {run_id}",
            )
        return found
    if len(waits) > 1:
        raise RequestError(
            f"The run {run_id} waits in several steps: {names}.",
            fix=f"Name one of them, such as --step {waits[0].path}",
        )
    return next(iter(waits), None)


def find_run_readers(claimed: ClaimedRun, step: str) -> Sequence[str]:
    """Return the later steps of a paused run that read the answer to the suspend of *step*."""
    return _find_readers(claimed.definition, step)


@lru_cache(maxsize=32)
def _find_readers(definition: str, step: str) -> Sequence[str]:
    try:
        workflow = Workflow.from_versioned_content(json.loads(definition))
    except (ValueError, TypeError, KeyError, RecursionError):  # damaged; such a run cannot be continued
        return ()
    return find_answer_readers(workflow, step)


async def _late_error(journal: Journal, pause: WaitKey) -> RequestError:
    """Return the error of a decision about a pause that has ended, with the decision that was first."""
    execution = _require(await journal.get_execution(pause.run_id), pause.run_id)
    first = next((each for each in reversed(execution.decisions) if each.step in (pause.path, None)), None)
    who = "" if first is None else f" {format_decision(first)}."
    return RequestError(
        f"The pause of the run {pause.run_id} has ended already.{who}", fix=f"See: pdkernel runs show {pause.run_id}"
    )


async def remove_runs(journal: Journal, run_ids: Sequence[str], *, keeps_executing: bool = False) -> int:
    """
    Remove runs with everything that is recorded of them, in batches, and return their number.

    Args:
        journal: The journal.
        run_ids: The ids of the runs.
        keeps_executing: Whether to remove the other runs if one is executing or is gone.

    Raises:
        RequestError: There is no run with one of the ids, or a run is executing. No run was removed.
    """
    if not keeps_executing:
        for run_id in run_ids:
            execution = _require(await journal.get_execution(run_id), run_id)
            if execution.status == "executing":
                raise RequestError(
                    f"The run {run_id} is executing.", fix=f"Cancel it first: pdkernel runs cancel {run_id}"
                )
    count = await _remove_in_batches(journal, run_ids)
    await _release_space(journal)
    return count


async def remove_expired(journal: Journal) -> int:
    """
    Remove runs that ended before their workflow's retention, in batches, and return their number.

    The retention is the setting `retention` (days) of the workflow's newest run, or `RETENTION_DAYS`.
    """
    count = 0
    while removed := await _remove_in_batches(journal, await journal.find_expired(RETENTION_DAYS)):
        count += removed
    await _release_space(journal)
    return count


async def _remove_in_batches(journal: Journal, run_ids: Sequence[str]) -> int:
    removed = 0
    for start in range(0, len(run_ids), REMOVAL_BATCH):
        removed += len(await _rest_after(journal.remove_runs(run_ids[start : start + REMOVAL_BATCH])))
    return removed


async def _release_space(journal: Journal) -> None:
    while await _rest_after(journal.release_space()):
        pass


async def _rest_after(write: Awaitable[T]) -> T:
    """Return the result of *write* after a pause that leaves the database to others."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    result = await write
    await asyncio.sleep(_REST * (loop.time() - began))
    return result


@dataclass(frozen=True, slots=True)
class RecordedShape:
    """
    The shape of the events of recorded runs.

    Attributes:
        shape: The shape.
        workflows: The number of events by workflow.
        users: The number of external users.
        left_out: The number of runs whose event is encrypted, because its secrets are not known, or damaged.
    """

    shape: Shape
    workflows: Mapping[str, int]
    users: int
    left_out: int

    @property
    def title(self) -> str:
        """What has the shape, in a sentence."""
        of = (
            f"{format_count(len(self.workflows), 'workflow')}"
            if len(self.workflows) > 1
            else next(iter(self.workflows))
        )
        title = f"Events of {format_count(sum(self.workflows.values()), 'recorded run')} of {of}"
        users = f", of {format_count(self.users, 'external user')}" if self.users else ""
        why = "its event is encrypted or damaged" if self.left_out == 1 else "their events are encrypted or damaged"
        out = f" {format_count(self.left_out, 'run')} left out: {why}." if self.left_out else ""
        return f"{title}{users}.{out}"


async def infer_recorded_shape(project: Project, query: ExecutionQuery) -> RecordedShape:
    """
    Return the shape of the events of the runs that match *query*, newest first. Their secrets are redacted in the journal.

    Raises:
        RequestError: No run with an event matches.
        ProjectError: The journal cannot be read.
    """
    builder = ShapeBuilder()
    workflows: Counter[str] = Counter()
    users: set[str] = set()
    left_out = 0

    def visit(recorded: RecordedEvent) -> None:
        nonlocal left_out
        if recorded.event is None:
            left_out += 1
            return
        builder.add(recorded.event, size=recorded.size)
        workflows[recorded.workflow] += 1
        if recorded.external_user_id is not None:
            users.add(recorded.external_user_id)

    with closing(await run_blocking(open_journal_reader, project)) as reader:
        await reader.visit_events(query, visit)
    if not workflows:
        parts = [
            f" of {query.workflow}" if query.workflow else "",
            f" of the external user {query.external_user_id}" if query.external_user_id else "",
        ]
        raise RequestError(
            f"There are no recorded events{''.join(parts)}.", fix="See the recorded runs: pdkernel runs list"
        )
    shape = await run_blocking(builder.build)
    return RecordedShape(shape, workflows, len(users), left_out)


def build_runs_frame(executions: Sequence[Execution]) -> DataFrame:
    """Return the runs as a table with typed columns, a row for each run. The index is 0, 1, 2, ..."""
    import pandas as pd

    def moments(texts: Sequence[str | None]) -> pd.Series[pd.Timestamp]:
        return pd.to_datetime(pd.Series(list(texts), dtype="string"), utc=True, format="ISO8601")

    started = moments([each.started_at for each in executions])
    finished = moments([each.finished_at for each in executions])
    texts = {
        "id": [each.id for each in executions],
        "workflow": [each.workflow for each in executions],
        "status": [each.status for each in executions],
        "external_user": [each.external_user for each in executions],
        "environment": [each.environment for each in executions],
    }
    return pd.DataFrame(
        {
            **{name: pd.Series(values, dtype="string") for name, values in texts.items()},
            "started": started,
            "finished": finished,
            "seconds": (finished - started).dt.total_seconds(),
            "steps": pd.Series([len(each.steps) for each in executions], dtype="int64"),
            "error": pd.Series([each.error and each.error.message for each in executions], dtype="string"),
        }
    )


def build_query(
    clock: Clock,
    *,
    workflow: str | None = None,
    external_user: str | None = None,
    environment: str | None = None,
    status: str | None = None,
    since: str | None = None,
    until: str | None = None,
    limit: int = 50,
    before: str | None = None,
    batch: str | None = None,
) -> ExecutionQuery:
    """
    Return the query of filters as a person writes them: the parameters are named like the options of `pdkernel runs list`.

    Args:
        clock: For times before now.
        workflow: The workflow's name.
        external_user: The external user's id.
        environment: `development` or `production`.
        status: The status of an execution.
        since: A time for `parse_moment`: only runs that started then or later.
        until: A time for `parse_moment`: only runs that started before then.
        limit: The maximum number of runs.
        before: Only runs that are older than the run with this id.
        batch: The id of a batch.

    Raises:
        RequestError: A time, the status, the environment or the limit is invalid.
    """
    if limit < 1:
        raise RequestError(f"The limit {limit} is not a number of runs.", fix="Pass 1 or a larger number.")
    if status is not None and status not in get_args(Status):
        raise RequestError(f"{status!r} is not a status.", fix=f"The statuses are {', '.join(get_args(Status))}.")
    return ExecutionQuery(
        workflow=workflow,
        external_user_id=external_user,
        environment=None if environment is None else parse_environment(environment),
        status=None if status is None else cast("Status", status),
        since=None if since is None else parse_moment(since, option="--since", clock=clock),
        until=None if until is None else parse_moment(until, option="--until", clock=clock),
        limit=limit,
        before_id=before,
        batch=batch,
    )


def build_selection(
    clock: Clock,
    *,
    workflow: str | None = None,
    external_user: str | None = None,
    environment: str | None = None,
    status: str | None = None,
    since: str | None = None,
    until: str | None = None,
) -> ExecutionQuery:
    """As `build_query`, for acts on all runs that match. Raises `RequestError` also if there is no filter."""
    if all(value is None for value in (workflow, external_user, environment, status, since, until)):
        raise RequestError("No run is named.", fix="Pass ids, or select runs: --status error --since 2h")
    return build_query(
        clock,
        workflow=workflow,
        external_user=external_user,
        environment=environment,
        status=status,
        since=since,
        until=until,
    )


_MAX_WORDS_CHARACTERS = 100


def parse_moment(text: str, *, option: str, clock: Clock) -> datetime:
    """
    Return the moment that a person writes: an ISO 8601 time, a span before now (`3d`), or words (`last tuesday`).

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
    found: datetime | None = None
    with suppress(ValueError, OverflowError):
        found = now - timedelta(**{_UNITS[span[2]]: int(span[1])}) if span else datetime.fromisoformat(text)
    if found is None and len(text) <= _MAX_WORDS_CHARACTERS:  # the time to parse words grows fast with their number
        found = _parse_words(text, now)
    if found is None:
        shown = text if len(text) <= _MAX_WORDS_CHARACTERS else f"{text[:_MAX_WORDS_CHARACTERS]}..."
        raise RequestError(
            f"{option} {shown} is not a time.",
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


def _require(execution: Execution | None, run_id: str) -> Execution:
    if execution is None:
        raise _unknown_error(run_id)
    return execution


def _unknown_error(run_id: str) -> RequestError:
    return RequestError(f"There is no run {run_id!r} in this project.", fix="See: pdkernel runs list")


def _ended_error(execution: Execution) -> RequestError:
    last = execution.decisions[-1] if execution.decisions else None
    who = "" if last is None else f" {format_decision(last)}."
    return RequestError(
        f"The run {execution.id} has ended already: its status is {execution.status}.{who}",
        fix=f"To run its event again: pdkernel runs replay {execution.id}",
    )

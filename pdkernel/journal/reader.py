"""
Reads the journal in a thread with its own connection, so that a read never delays a commit.

Pages use the key (created, id), not an offset. Among the reads is the search for runs that wait for each other: each holds the turn
of a limited workflow for which the child run of another one waits.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import Any, TypeVar, get_args

from pdkernel.common.blocking import run_blocking_in, until_silent
from pdkernel.errors import DamagedRecordError
from pdkernel.execution import Execution
from pdkernel.journal.backend import Connection, Snapshots
from pdkernel.journal.ownership import CLAIM_COLUMNS, load_calls, load_claimed, load_decisions
from pdkernel.journal.rows import ClaimedRun, FailedRun, RunStatus, WaitRow
from pdkernel.journal.text_columns import (
    ExecutionQuery,
    RunRow,
    RunSummary,
    build_execution,
    build_summary,
    decode_event,
    decode_retention,
    replace_unstorable,
    to_row_status,
)
from pdkernel.model import JSON

T = TypeVar("T")

RECENT_RUNS = 5_000
"""Runs that are read to learn which external users were active last."""

_RUN = (
    "select r.id, r.trace_id, r.workflow, d.content, r.event, r.external_user, r.environment, r.status, r.fence,"
    " r.attempt, r.created, r.ended, r.output, r.batch from runs r left join definitions d on d.hash = r.definition"
)

_SUMMARIES = (
    "select id, workflow, external_user, environment, status, fence, attempt, created, ended,"
    " case when status = 'error' then output end from runs"
)
_SECONDS_PER_DAY = 24 * 60 * 60
_QUERIED_IDS = 200
"""Ids in one query."""
_VISITED_EVENTS = 20
"""Events in memory at once: each has up to 6 MB."""
_ALL = 2**62
"""A limit that no query reaches."""
_LEAST_RECENT = 100
"""Recent runs of each workflow of a project with many workflows."""
_RECENT_USERS = (
    "select external_user, max(created) from (select external_user, environment, created from runs where workflow = ?"
    " order by created desc, id desc limit ?) as r where environment = ? and external_user is not null group by external_user"
)
_NEWEST_FAILURE = (
    "select id, workflow, created from runs where status = 'error' and external_user = ? and environment = ?"
    " and created >= ? order by created desc, id desc limit 1"
)
_IN_HOUR = (
    "workflow = :workflow and created >= :start + n * 3600.0"
    " and created < case when n = :last then :start + 1e10 else :start + (n + 1) * 3600.0 end"
)
_BY_HOUR = (
    "with recursive hours (n) as (select 0 union all select n + 1 from hours where n < :last)"  # noqa: S608 - constants only
    f" select (select count(*) from runs where {_IN_HOUR}), (select count(*) from runs where status = 'error' and {_IN_HOUR})"
    " from hours order by n"
)
"""Two counts in an index for each hour; a run of this moment, or of a host whose clock is ahead, belongs to the last hour."""
_OF_STATUS: Mapping[str, str] = {status: f"status = '{status}'" for status in get_args(RunStatus)}
"""Conditions without parameters, because a partial index is used for a constant only."""
_FEW_RUNS = ("ready", "paused", "running")
"""Statuses of unfinished runs, which are few: each has an index of its own, over all workflows."""
_UNFINISHED = (
    "select id, workflow, parent, queue, status, rowid from runs where status = 'running'"
    " or (status = 'ready' and parent is not null)"
)
_CONCURRENCY = "select queue, concurrency from limits where concurrency is not null"
_WITHIN = "select queue, within from limits where within is not null"
_TURNS = "select distinct queue from turns where granted"


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """
    The event of a recorded run.

    Attributes:
        workflow: The workflow's name.
        external_user_id: The external user's id, or None.
        event: The redacted event; None if it is encrypted, because its secrets are not known, or damaged.
        size: The characters of its record.
    """

    workflow: str
    external_user_id: str | None
    event: Mapping[str, JSON] | None
    size: int


class RunQueries:
    """Queries for the runs of one journal, which a thread of their own answers."""

    def __init__(self, snapshots: Snapshots) -> None:
        self._snapshots = snapshots
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pdkernel-history")

    async def get_execution(self, run_id: str) -> Execution | None:
        """Return the run's current record, or None."""
        found = await self.read(lambda connection: _load(connection, [replace_unstorable(run_id)]))
        return found[0] if found else None

    async def executions(self, query: ExecutionQuery) -> list[Execution]:
        """Return the runs that match, newest first."""
        return await self.read(lambda connection: _load(connection, _newest(connection, query)))

    async def ids(self, query: ExecutionQuery) -> list[str]:
        """Return the ids of the runs that match, newest first; the limit -1 returns all."""
        return await self.read(lambda connection: _newest(connection, query))

    async def summaries(self, query: ExecutionQuery) -> list[RunSummary]:
        """Return the summaries of the runs that match, newest first. They cost far less than executions."""
        return await self.read(lambda connection: _summarize(connection, _newest(connection, query)))

    async def summaries_of(self, run_ids: Collection[str]) -> list[RunSummary]:
        """Return the summaries of the runs with these ids; unknown ids are left out."""
        return await self.read(lambda connection: _summarize(connection, run_ids))

    async def visit_events(self, query: ExecutionQuery, visit: Callable[[RecordedEvent], None]) -> None:
        """Call *visit*, in the reader's thread, for the events of the newest runs that match; few are in memory at once."""
        left, before = query.limit, query.before_id
        while left > 0:
            page = replace(query, limit=min(left, _QUERIED_IDS), before_id=before)
            ids = await self.ids(page)
            for start in range(0, len(ids), _VISITED_EVENTS):
                some = ids[start : start + _VISITED_EVENTS]
                rows = await self.read(partial(_load_events, ids=some))
                await self._run(partial(_visit_all, rows, visit))
            if len(ids) < page.limit:
                return
            left, before = left - len(ids), ids[-1]

    async def batch_runs(self, batch: str) -> list[RunSummary]:
        """Return the newest run of each external user of a batch, in the order of the users' ids."""
        query, key = f"{_SUMMARIES} where batch = ? order by rowid", replace_unstorable(batch)
        rows = await self.read(lambda connection: connection.execute(query, (key,)).fetchall())
        newest = {row[2]: row for row in rows}
        return [build_summary(*newest[user]) for user in sorted(newest, key=lambda user: user or "")]

    async def find_circle(self, run_id: str) -> Sequence[str]:
        """Return the workflows whose runs wait for each other because of the child run; empty if it is not the last of a circle."""
        return await self.read(partial(_find_circle, run_id=replace_unstorable(run_id)))

    async def count_batch(self, batch: str) -> Mapping[RunStatus, int]:
        """Return how many runs of a batch have each status, those of retried users included."""
        query, key = "select status, count(*) from runs where batch = ? group by status", replace_unstorable(batch)
        return dict(await self.read(lambda connection: connection.execute(query, (key,)).fetchall()))

    async def living_executors(self) -> Collection[str]:
        """Return the ids of the executors that are not known to be dead."""
        rows = await self.read(lambda connection: connection.execute("select id from executors where alive").fetchall())
        return {executor for (executor,) in rows}

    async def version(self) -> str:
        """Return a text that differs whenever another connection has changed the journal."""
        return await self._run(self._snapshots.version)

    async def count_by_hour(
        self, workflows: Collection[str], until: datetime, hours: int
    ) -> Mapping[str, Sequence[tuple[int, int]]]:
        """Return for each workflow the number of runs and of failed runs in each of the *hours* before *until*."""
        window = {"start": until.timestamp() - hours * 3600, "last": hours - 1}

        def query(connection: Connection) -> Mapping[str, Sequence[tuple[int, int]]]:
            return {
                workflow: connection.execute(_BY_HOUR, {**window, "workflow": replace_unstorable(workflow)}).fetchall()
                for workflow in workflows
            }

        return await self.read(query)

    async def find_run_id(self, dedupe_key: str) -> str | None:
        """Return the id of the run that was accepted with that dedupe key, or None."""
        query, key = "select id from runs where dedupe_key = ?", replace_unstorable(dedupe_key)
        row = await self.read(lambda connection: connection.execute(query, (key,)).fetchone())
        return None if row is None else str(row[0])

    async def last_runs(self, environment: str) -> Mapping[str, float]:
        """Return when each external user of the latest `RECENT_RUNS` runs of the project last had one, in seconds since 1970."""

        def query(connection: Connection) -> Mapping[str, float]:
            names = _workflow_names(connection)
            limit = max(RECENT_RUNS // max(len(names), 1), _LEAST_RECENT)
            found: dict[str, float] = {}
            for name in names:
                for user, created in connection.execute(_RECENT_USERS, (name, limit, environment)):
                    found[user] = max(created, found.get(user, created))
            return found

        return await self.read(query)

    async def newest_failures(
        self, external_users: Collection[str], environment: str, since: datetime
    ) -> Mapping[str, FailedRun]:
        """Return the newest failed run of each of these external users that started at *since* or later."""

        def query(connection: Connection) -> Mapping[str, FailedRun]:
            found = {}
            for user in external_users:
                values = (replace_unstorable(user), environment, since.timestamp())
                row = connection.execute(_NEWEST_FAILURE, values).fetchone()
                if row is not None:
                    found[user] = FailedRun(row[0], row[1], datetime.fromtimestamp(row[2], UTC))
            return found

        return await self.read(query)

    async def count_paused(self, external_user_id: str, environment: str, most: int) -> int:
        """Return how many runs of that external user are paused, *most* if there are more."""
        query = "select count(*) from (select 1 from runs where status = 'paused' and external_user = ? and environment = ? limit ?) as r"
        values = (replace_unstorable(external_user_id), environment, most)
        return int((await self.read(lambda connection: connection.execute(query, values).fetchone()))[0])

    async def find_cancelled(self, run_ids: Sequence[str]) -> Sequence[str]:
        """Return which of *run_ids* are cancelled."""
        stored = {replace_unstorable(run_id): run_id for run_id in run_ids}
        ids = list(stored)

        def query(connection: Connection) -> Sequence[str]:
            rows = [
                row
                for some in (ids[start : start + _QUERIED_IDS] for start in range(0, len(ids), _QUERIED_IDS))
                for row in connection.execute(
                    f"select id from runs where status = 'cancelled' and id in ({', '.join('?' * len(some))})",  # noqa: S608
                    some,
                )
            ]
            return [stored[run_id] for (run_id,) in rows]

        return await self.read(query)

    async def load_run(self, run_id: str) -> tuple[Execution, ClaimedRun] | None:
        """Return a run with everything that is recorded of it, or None."""
        stored_id = replace_unstorable(run_id)

        def query(connection: Connection) -> tuple[Execution, ClaimedRun] | None:
            row = connection.execute(f"select {CLAIM_COLUMNS} from runs where id = ?", (stored_id,)).fetchone()  # noqa: S608
            return None if row is None else (_load(connection, [stored_id])[0], load_claimed(connection, row))

        return await self.read(query)

    async def find_children(self, parent: str, prefix: str) -> Sequence[ClaimedRun]:
        """Return the runs that steps of the run *parent* have triggered and whose ids begin with *prefix*."""
        stored = replace_unstorable(prefix)

        def query(connection: Connection) -> Sequence[ClaimedRun]:
            # the index of ids finds the prefix; grandchildren have it too
            rows = connection.execute(
                f"select {CLAIM_COLUMNS} from runs where id > ? and id < ? and parent = ?",  # noqa: S608
                (stored, stored + "\U0010ffff", replace_unstorable(parent)),
            ).fetchall()
            return [load_claimed(connection, row) for row in rows]

        return await self.read(query)

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Return the result of *query*, which reads one snapshot."""
        return await self._run(lambda: self._snapshots.read(query))

    async def _run(self, call: Callable[[], T]) -> T:
        return await until_silent(run_blocking_in(self._thread, call))

    def _close_queries(self) -> None:
        """Wait for the current query, then close the connection."""
        self._thread.shutdown(wait=True)
        self._snapshots.close()


class JournalReader(RunQueries):
    """Reads runs from one journal without being an executor of it."""

    def close(self) -> None:
        """Wait for the current read, then close the connection."""
        self._close_queries()


def _load(connection: Connection, ids: Sequence[str]) -> list[Execution]:
    found = []
    for run_id in ids:
        row = connection.execute(f"{_RUN} where r.id = ?", (run_id,)).fetchone()
        if row is not None:
            # a step that has recorded its end has no open pause
            paused = connection.execute(
                "select data, kind, wake_at from waits w where run_id = ? and outcome is null and data <> ''"
                " and not exists (select 1 from steps s where s.run_id = w.run_id and s.path = w.path"
                " and s.iteration = w.iteration) order by wake_at is null, wake_at, seq",
                (run_id,),
            ).fetchall()
            steps = connection.execute(
                "select data, seq from steps where run_id = :run union all select data, seq from waits w where run_id = :run"
                " and data <> '' and not exists (select 1 from steps s where s.run_id = w.run_id and s.path = w.path"
                " and s.iteration = w.iteration) order by seq",
                {"run": run_id},
            ).fetchall()
            sends = connection.execute("select shown from outbox where run_id = ? order by rowid", (run_id,)).fetchall()
            found.append(
                build_execution(
                    RunRow(*row),
                    [data for data, _ in steps],
                    [shown for (shown,) in sends],
                    waits=[WaitRow(0, "", data=row[0], kind=row[1], wake_at=row[2]) for row in paused],
                    decisions=load_decisions(connection, run_id),
                    calls=load_calls(connection, run_id),
                )
            )
    return found


def _load_events(connection: Connection, ids: Sequence[str]) -> list[tuple[str, str, str | None, str]]:
    marks = ", ".join("?" * len(ids))
    statement = f"select id, workflow, external_user, event from runs where id in ({marks})"  # noqa: S608
    return [(row[0], row[1], row[2], row[3]) for row in connection.execute(statement, ids)]


def _visit_all(rows: Sequence[tuple[str, str, str | None, str]], visit: Callable[[RecordedEvent], None]) -> None:
    for run_id, workflow, external_user_id, text in rows:
        try:
            event = decode_event(run_id, text)
        except DamagedRecordError:
            event = None
        visit(RecordedEvent(workflow, external_user_id, event, len(text)))


def _summarize(connection: Connection, ids: Collection[str]) -> list[RunSummary]:
    rows = (connection.execute(f"{_SUMMARIES} where id = ?", (run_id,)).fetchone() for run_id in ids)
    return [build_summary(*row) for row in rows if row is not None]


def _newest(connection: Connection, query: ExecutionQuery) -> list[str]:
    """Return the ids of the matching runs; without a workflow, the results of one indexed query per workflow are merged."""
    conditions, values = _conditions(connection, query)
    workflow = None if query.workflow is None else replace_unstorable(query.workflow)
    limit = _ALL if query.limit < 0 else query.limit
    if query.status is not None and to_row_status(query.status)[0] in _FEW_RUNS:
        # an expression, for which SQLite does not take the index of workflows
        chosen, names = "workflow || '' = coalesce(?, workflow)", [workflow]
    else:
        chosen, names = "workflow = ?", [*_workflow_names(connection)] if workflow is None else [workflow]
    statement = f"select created, id from runs where {chosen} {conditions} order by created desc, id desc limit ?"  # noqa: S608
    pages = [connection.execute(statement, (name, *values, limit)).fetchall() for name in names]
    return [run_id for _, run_id in islice(heapq.merge(*pages, reverse=True), limit)]


def _workflow_names(connection: Connection) -> list[str]:
    return [name for (name,) in connection.execute("select distinct workflow from definitions").fetchall()]


def _conditions(connection: Connection, query: ExecutionQuery) -> tuple[str, list[Any]]:
    """Return SQL conditions, made of constants only, and their parameters."""
    parts: list[tuple[str, Sequence[Any]]] = []
    if query.external_user_id is not None:
        parts.append(("external_user = ?", [replace_unstorable(query.external_user_id)]))
    if query.environment is not None:
        parts.append(("environment = ?", [query.environment]))
    if query.status is not None:
        status, claimed = to_row_status(query.status)
        parts.append((_OF_STATUS[status], []))
        if claimed is not None:
            parts.append(("(fence > 0) = ?", [claimed]))
    if query.batch is not None:
        parts.append(("batch = ?", [replace_unstorable(query.batch)]))
    if query.since is not None:
        parts.append(("created >= ?", [query.since.timestamp()]))
    if query.until is not None:
        parts.append(("created < ?", [query.until.timestamp()]))
    if query.before_id is not None:
        row = connection.execute(
            "select created, id from runs where id = ?", (replace_unstorable(query.before_id),)
        ).fetchone()
        parts.append(("(created, id) < (?, ?)", row) if row else ("false", []))
    return "".join(f" and {sql}" for sql, _ in parts), [value for _, given in parts for value in given]


def find_expired(connection: Connection, now: float, default_days: float, limit: int) -> Sequence[str]:
    """Return at most *limit* runs that ended before the retention of their workflow's newest run, or *default_days*."""
    found: list[str] = []
    for workflow in _workflow_names(connection):
        newest = connection.execute(
            "select d.content from runs r left join definitions d on d.hash = r.definition"
            " where r.workflow = ? order by r.created desc, r.id desc limit 1",
            (workflow,),
        ).fetchone()
        days = decode_retention(newest[0]) if newest is not None and newest[0] is not None else None
        oldest = now - (default_days if days is None else days) * _SECONDS_PER_DAY
        rows = connection.execute(
            "select id from runs where workflow = ? and created < ? and ended < ? order by created limit ?",
            (workflow, oldest, oldest, limit - len(found)),
        )
        found += [run_id for (run_id,) in rows]
    return found


@dataclass(eq=False)
class _WaitingRun:
    """An unfinished run, and the runs for which it waits."""

    run_id: str
    workflow: str
    parent: str | None
    queue: str | None
    status: str
    number: int
    awaited: list[_WaitingRun] = field(default_factory=list)
    """Runs that must end before it goes on: the children of a run in progress, or those that hold the turns of its queue."""
    needs_all: bool = False
    """Whether one of the awaited runs that does not end holds it up; else only all of them together."""


def _find_circle(connection: Connection, run_id: str) -> Sequence[str]:
    """
    Return the names of the workflows whose runs wait for each other, that of the child run *run_id* first; empty without a circle.

    Of the child runs of a circle, only the one that was started last has it, so that one call fails and the others go on. A turn
    of a run that is not stored may end at any time, because nothing is known of what it waits for.
    """
    runs = {row[0]: _WaitingRun(*row) for row in connection.execute(_UNFINISHED)}
    if run_id not in runs or runs[run_id].status != "ready":
        return ()
    concurrency = dict(tuple(row) for row in connection.execute(_CONCURRENCY))
    within = dict(tuple(row) for row in connection.execute(_WITHIN))
    unknown = {queue for (queue,) in connection.execute(_TURNS)}
    holders = defaultdict[str | None, list[_WaitingRun]](list)
    for run in runs.values():
        if run.status == "running":
            holders[run.queue].append(run)
            if run.queue in within:
                holders[within[run.queue]].append(run)
            run.needs_all = True
        if run.parent in runs:
            runs[run.parent].awaited.append(run)
    for run in runs.values():
        limit = concurrency.get(run.queue or "")
        if run.status == "ready":
            is_full = limit is not None and len(holders[run.queue]) >= limit and run.queue not in unknown
            run.awaited = holders[run.queue] if is_full else []
    stuck = set(runs.values())
    while going := {run for run in stuck if not _is_stuck(run, stuck)}:
        stuck -= going
    circle = _circle_of(runs[run_id], stuck)
    waiting = [run for run in circle if run.status == "ready"]
    if not waiting or max(waiting, key=lambda run: run.number).run_id != run_id:
        return ()
    return list(dict.fromkeys(run.workflow for run in circle))


def _is_stuck(run: _WaitingRun, stuck: set[_WaitingRun]) -> bool:
    held = [each in stuck for each in run.awaited]
    return any(held) if run.needs_all else bool(held) and all(held)


def _circle_of(start: _WaitingRun, stuck: set[_WaitingRun]) -> Sequence[_WaitingRun]:
    """Return the runs on the shortest way from *start* over what it waits for back to it; empty without one."""
    if start not in stuck:
        return ()
    ways: list[list[_WaitingRun]] = [[start]]
    seen: set[_WaitingRun] = set()
    for way in ways:
        for awaited in way[-1].awaited:
            if awaited is start:
                return way
            if awaited in stuck and awaited not in seen:
                seen.add(awaited)
                ways.append([*way, awaited])
    return ()

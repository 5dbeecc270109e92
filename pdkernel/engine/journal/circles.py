"""Runs that wait for each other: each holds the turn of a limited workflow for which the child run of another one waits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from pdkernel.engine.journal.backend import Connection

_UNFINISHED = (
    "select id, workflow, parent, queue, status, rowid from runs where status = 'running'"
    " or (status = 'ready' and parent is not null)"
)
_CONCURRENCY = "select queue, concurrency from limits where concurrency is not null"
_WITHIN = "select queue, within from limits where within is not null"
_TURNS = "select distinct queue from turns where granted"


@dataclass(eq=False)
class _Run:
    run_id: str
    workflow: str
    parent: str | None
    queue: str | None
    status: str
    number: int
    awaited: list[_Run] = field(default_factory=list)
    """Runs that must end before it goes on: the children of a run in progress, or those that hold the turns of its queue."""
    needs_all: bool = False
    """Whether one of the awaited runs that does not end holds it up; else only all of them together."""


def find_circle(connection: Connection, run_id: str) -> Sequence[str]:
    """
    Return the names of the workflows whose runs wait for each other, that of the child run *run_id* first; empty without a circle.

    Of the child runs of a circle, only the one that was started last has it, so that one call fails and the others go on. A turn
    of a run that is not stored may end at any time, because nothing is known of what it waits for.
    """
    runs = {row[0]: _Run(*row) for row in connection.execute(_UNFINISHED)}
    if run_id not in runs or runs[run_id].status != "ready":
        return ()
    concurrency = dict(tuple(row) for row in connection.execute(_CONCURRENCY))
    within = dict(tuple(row) for row in connection.execute(_WITHIN))
    unknown = {queue for (queue,) in connection.execute(_TURNS)}
    holders = defaultdict[str | None, list[_Run]](list)
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


def _is_stuck(run: _Run, stuck: set[_Run]) -> bool:
    held = [each in stuck for each in run.awaited]
    return any(held) if run.needs_all else bool(held) and all(held)


def _circle_of(start: _Run, stuck: set[_Run]) -> Sequence[_Run]:
    """Return the runs on the shortest way from *start* over what it waits for back to it; empty without one."""
    if start not in stuck:
        return ()
    ways: list[list[_Run]] = [[start]]
    seen: set[_Run] = set()
    for way in ways:
        for awaited in way[-1].awaited:
            if awaited is start:
                return way
            if awaited in stuck and awaited not in seen:
                seen.add(awaited)
                ways.append([*way, awaited])
    return ()

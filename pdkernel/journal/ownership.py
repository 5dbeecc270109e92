"""
The SQL about who owns a run: executors, the ready runs that they claim within the limits of queues, and what a dead one leaves.

What an owner writes about its run is in `statements`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pdkernel.execution import Decision
from pdkernel.journal.backend import Connection
from pdkernel.journal.rows import MAX_LOST_TASKS, Begun, CallRow, Claim, ClaimedRun, StepRow, StoredLock, WaitRow
from pdkernel.journal.text_columns import (
    INTERRUPTED_OUTPUT,
    UNWRITABLE_OUTPUT,
    build_decision,
    replace_unstorable,
)

CONTINUED_ORIGIN = "serve"
"""
The origin whose runs others continue after the end of their process.

A run of another origin has a user, who starts it again.
"""

EXECUTOR_ALIVE = "exists (select 1 from executors where executors.id = :me and alive)"
"""The condition of each write: this executor was not taken for dead."""

_HAS_DEAD_OWNER = "status = 'running' and owner not in (select id from executors where alive)"
"""Runs whose owner is dead; an owner without a row has ended without its runs."""
MADE_READY = "status = 'ready', owner = null, attempt = attempt + case when begun > 0 then 1 else 0 end, begun = 0"
"""What an owner leaves: a step that may have started is repeated as the next attempt; a run that only waited has made none."""
_UNLOCKED = "/*postgres for update skip locked*/"
"""A frozen process may hold locks for a while."""

# the SQL is made of constants only; every value is a parameter
CLAIM_COLUMNS = (
    "id, fence, attempt, trace_id, definition, event, request, external_user, environment, created, origin, package_lock,"
    " queue, workflow, begun, lost_tasks"
)
_CLAIM = (
    # a run that was interrupted may have to wait until it is alone
    "update runs set status = 'running', owner = :me, fence = fence + 1,"  # noqa: S608
    " begun = case when attempt = 1 then cast(:begun as integer) else 0 end"
    f" where id = :run and status = 'ready' and {EXECUTOR_ALIVE}"
    f" returning {CLAIM_COLUMNS}"
)


_CHOOSE = "select id from runs where status = 'ready' and origin = :origin and queue is null"
_CHOOSE_IN_TURN = (
    "select id, user_key from (select id, coalesce(external_user, '') as user_key, row_number() over"
    " (partition by coalesce(external_user, '') order by rowid) as number"
    " from runs where status = 'ready' and origin = :origin and queue = :queue) as waiting"
    " order by number, case when user_key > :last then 0 else 1 end, user_key limit :limit"
)
"""External users take turns, in the order of their ids after the last user whose run was started; the queue is locked."""
_CHOOSE_OLDEST = (
    "select id from runs where status = 'ready' and origin = :origin and queue = :queue order by rowid limit :limit"
)
"""For a queue within another one: its runs are those of a batch, each for another user, so no turns are computed."""


_FAMILY = "queue in (select queue from limits where queue = :queue or within = :queue)"
"""Rows of the queue, and of the queues within it, whose runs keep its limits, too."""
_TURNS = "select count(*) from turns where queue = :queue and owner in (select id from executors where alive)"
_FAMILY_TURNS = _TURNS.replace("queue = :queue", _FAMILY)
_WAITING_TURNS = f"{_TURNS} and not granted"
_EXECUTING = (
    f"select (select count(*) from runs where status = 'running' and {_FAMILY}) + ({_FAMILY_TURNS} and granted)"  # noqa: S608
)
_UNSTARTED = (
    f"select (select count(*) from runs where status = 'running' and {_FAMILY}"  # noqa: S608
    " and not exists (select 1 from starts where run_id = runs.id and fence = runs.fence))"
    f" + ({_FAMILY_TURNS} and granted and not exists (select 1 from starts where run_id = turns.run_id))"
)
_STARTED = "select count(*) from starts where queue = :queue and at > :after"
_WAITING = f"select ({_WAITING_TURNS}) + (select count(*) from runs where status = 'ready' and queue = :queue)"  # noqa: S608
_TURNS_BEFORE_RUNS = (
    f"{_WAITING_TURNS} and number <"  # noqa: S608
    " (select min(rowid) from runs where status = 'ready' and queue = :queue and origin = :origin)"
)
_EARLIER = (
    f"select ({_WAITING_TURNS} and (number, rowid) < (:number, :rowid))"  # noqa: S608
    " + (select count(*) from runs where status = 'ready' and queue = :queue"
    " and rowid <= :number and origin in (select origin from executors where alive))"
)
_NEXT_NUMBER = "coalesce(/*postgres nextval('runs_rowid_seq'),*/ (select max(rowid) from runs), 0)"
"""The place of a new turn among the runs, whose places are their `rowid`: behind all that exist."""
FUTURE_S = 1.0
"""A time that is later by more comes from a clock that was ahead, or from before a restart of the machine."""


@dataclass(frozen=True, slots=True)
class OwnershipStatements:
    """
    The writes of one executor about the ownership of runs.

    Attributes:
        executor_id: The id of this executor.
        origin: The origin of the runs that it accepts and continues.
        last_users: The external user of the last run that this executor has claimed, by queue; "" for no user.
    """

    executor_id: str
    origin: str
    last_users: dict[str, str] = field(default_factory=dict)

    # ── executors ──────────────────────────────────────────────────────────────────

    def register_executor(self, connection: Connection) -> bool:
        """Insert this executor's row."""
        connection.execute("insert into executors values (?, ?, null, true, false)", (self.executor_id, self.origin))
        return True

    def unregister_executor(self, connection: Connection) -> bool:
        """Delete this executor's row, unless it owns runs: then it is reaped."""
        done = connection.execute(
            "delete from executors where id = :me"
            " and not exists (select 1 from runs where owner = :me and status = 'running')",
            {"me": self.executor_id},
        )
        return done.rowcount == 1

    def announce_end(self, connection: Connection) -> bool:
        """Record that this executor was told to end: if its process is killed meanwhile, no run is to blame."""
        connection.execute("update executors set ending = true where id = ?", (self.executor_id,))
        return True

    def release_runs(self, connection: Connection, executor: str) -> int:
        """Make the served runs of *executor*, which lives and has stopped executing them, ready. Return their number."""
        return connection.execute(
            f"update runs set {MADE_READY} where owner = ? and status = 'running' and origin = ?",  # noqa: S608 - constants only
            (executor, CONTINUED_ORIGIN),
        ).rowcount

    def revoke_death(self, connection: Connection, executor: str) -> None:
        """Forget the interruptions by the death of *executor*, which others have taken for dead and which lives."""
        connection.execute("delete from interruptions where executor = ?", (executor,))

    @staticmethod
    def owned_runs(connection: Connection, executor: str) -> Sequence[Claim]:
        """Return the claims of the runs that *executor* owns."""
        rows = connection.execute(
            "select id, fence, attempt from runs where status = 'running' and owner = ?", (executor,)
        )
        return [Claim(*row) for row in rows]

    def living_executors(self, connection: Connection, origin: str | None = None) -> Sequence[str]:
        """Return the ids of the other executors, all or those of *origin*, that are not marked as dead."""
        rows = connection.execute(
            "select id from executors where alive and id <> :me and origin = coalesce(:origin, origin)",
            {"me": self.executor_id, "origin": origin},
        )
        return [executor for (executor,) in rows]

    def bury(self, connection: Connection, executors: Sequence[str], now: float) -> int:
        """
        Mark *executors* as dead. Their served runs are ready; the others end as interrupted.

        A served run that had begun was interrupted, which is recorded with whether it was alone, unless its executor was told to end:
        see `MAX_INTERRUPTIONS`. Messages of served runs that *executors* were sending are due at once.

        So do the runs of executors that had been marked or removed before: a run may be accepted at the moment of its
        executor's end.

        Returns:
            The number of runs that are ready.
        """
        connection.executemany(
            "update executors set alive = false where id = ?", [(executor,) for executor in executors]
        )
        # an owner without a row has left in order, and a run was accepted at that moment
        left = connection.execute(
            "select id, owner, begun, coalesce((select ending from executors e where e.id = owner), true) from runs"  # noqa: S608
            f" where {_HAS_DEAD_OWNER} and origin = ? {_UNLOCKED}",
            (CONTINUED_ORIGIN,),
        ).fetchall()
        connection.executemany(
            "insert into interruptions (run_id, executor, alone) values (?, ?, ?) on conflict do nothing",
            [(run, owner, begun == Begun.ALONE) for run, owner, begun, was_ending in left if begun and not was_ending],
        )
        connection.executemany(f"update runs set {MADE_READY} where id = ?", [(run,) for run, *_ in left])  # noqa: S608
        connection.execute(
            "update outbox set due = 0, owner = null where due is not null"
            " and owner not in (select id from executors where alive) and run_id in (select id from runs where origin = ?)",
            (CONTINUED_ORIGIN,),
        )
        connection.execute(
            "update runs set status = 'error', owner = null, ended = ?, output = ?"  # noqa: S608 - constants only
            f" where id in (select id from runs where {_HAS_DEAD_OWNER} {_UNLOCKED})",
            (now, INTERRUPTED_OUTPUT),
        )
        connection.execute("delete from executors where not alive")
        return len(left)

    # ── ready runs, and the limits of queues ───────────────────────────────────────

    def claim(self, connection: Connection, run_id: str, *, begins: bool = True) -> ClaimedRun | None:
        """Claim the ready run; None if another executor was first. *begins*: whether the run has a place to execute at once."""
        row = connection.execute(
            _CLAIM,
            {
                "run": replace_unstorable(run_id),
                "me": self.executor_id,
                "begun": int(Begun.YES if begins else Begun.NO),
            },
        ).fetchone()
        return None if row is None else load_claimed(connection, row)

    def _claim_all(self, connection: Connection, run_ids: Sequence[str], begin: int) -> list[ClaimedRun]:
        """Claim ready runs, of which the first *begin* have a place to execute at once; another executor may be first."""
        claims = (self.claim(connection, run_id, begins=number < begin) for number, run_id in enumerate(run_ids))
        return [claim for claim in claims if claim is not None]

    def claim_one(self, connection: Connection, run_id: str, now: float) -> ClaimedRun | None:
        """Claim the ready run within the limits of its queue; None if these do not permit it, or another executor was first."""
        row = connection.execute("select queue from runs where id = ?", (replace_unstorable(run_id),)).fetchone()
        if row is not None and row[0] is not None:
            _lock_limits(connection, row[0], now)
            if self._free(connection, row[0], 1, now) == 0:
                return None
        return self.claim(connection, run_id)

    def claim_next(
        self, connection: Connection, queue: str | None, limit: int, now: float, begin: int
    ) -> Sequence[ClaimedRun]:
        """
        Claim ready runs of this executor's origin in the queue, within the queue's limits; the oldest one of each user first.

        External users take turns in a queue. Without a queue, the oldest runs are claimed, because their places have turns. The first
        *begin* claimed runs have a place to execute at once.
        *now* is the `Presence.steady_time`, as in every method about limits.
        """
        queue = storable(queue)
        if queue is None:
            oldest = f"{_CHOOSE} order by rowid limit :limit /*postgres for update skip locked*/"
            chosen = connection.execute(oldest, {"origin": self.origin, "limit": limit}).fetchall()
            return self._claim_all(connection, [run_id for (run_id,) in chosen], begin)
        within = _lock_limits(connection, queue, now)
        earlier = _count(connection, _TURNS_BEFORE_RUNS, queue=queue, origin=self.origin)
        free = max(self._free(connection, queue, limit, now) - earlier, 0)
        if within is not None:
            values = {"origin": self.origin, "queue": queue, "limit": free}
            chosen = connection.execute(_CHOOSE_OLDEST, values).fetchall()
            return self._claim_all(connection, [run_id for (run_id,) in chosen], begin)
        last = self.last_users.get(queue, "")
        chosen = connection.execute(
            _CHOOSE_IN_TURN, {"origin": self.origin, "queue": queue, "last": last, "limit": free}
        ).fetchall()
        claims = self._claim_all(connection, [run_id for run_id, _ in chosen], begin)
        if chosen:
            self.last_users[queue] = chosen[-1][1]
        return claims

    def claim_ready(self, connection: Connection, limit: int, now: float, begin: int) -> Sequence[ClaimedRun]:
        """Claim ready runs of this executor's origin in every queue, within the limits of each; *begin* is as in `claim_next`."""
        claims: list[ClaimedRun] = []
        for queue in self._ready_queues(connection):
            claims += self.claim_next(connection, queue, limit - len(claims), now, begin - len(claims))
        return claims

    def _ready_queues(self, connection: Connection) -> Sequence[str | None]:
        rows = connection.execute(
            "select distinct queue from runs where status = 'ready' and origin = ? order by queue", (self.origin,)
        )
        return [queue for (queue,) in rows]

    @staticmethod
    def _free(connection: Connection, queue: str | None, limit: int, now: float) -> int:
        """
        Return how many runs of the queue may execute or start now, at most *limit*.

        A run that was claimed and has not started yet counts as a start of any period: it may start at any moment. The runs of a
        queue within another one keep the limits of both.
        """
        row = connection.execute(
            "select concurrency, per, period, within from limits where queue = ?", (queue,)
        ).fetchone()
        if row is None:
            return limit
        concurrency, per, period, within = row
        if concurrency is not None:
            limit = min(limit, concurrency - _count(connection, _EXECUTING, queue=queue))
        if per is not None and period is not None:
            started = _count(connection, _STARTED, queue=queue, after=now - period)
            limit = min(limit, per - started - _count(connection, _UNSTARTED, queue=queue))
        if within is not None and limit > 0:
            limit = OwnershipStatements._free(connection, within, limit, now)
        return max(limit, 0)

    def add_turn(self, connection: Connection, queue: str, run_id: str, size: int | None) -> bool:
        """Let a run that is not in the queue wait for its turn; return False if *size* runs wait already."""
        queue = replace_unstorable(queue)
        lock_queue(connection, queue)
        connection.execute("delete from turns where owner not in (select id from executors where alive)")
        if size is not None and size <= _count(connection, _WAITING, queue=queue):
            return False
        connection.execute(
            "insert into turns (run_id, queue, owner, number, granted)"  # noqa: S608 - constants only
            f" values (?, ?, ?, {_NEXT_NUMBER}, false) on conflict (run_id) do update"
            " set queue = excluded.queue, owner = excluded.owner, number = excluded.number, granted = excluded.granted",
            (replace_unstorable(run_id), queue, self.executor_id),
        )
        return True

    def grant_turn(self, connection: Connection, queue: str, run_id: str, now: float) -> bool:
        """Let the run execute, if the limits of the queue permit it and nothing waits for longer; return whether it may."""
        queue, run_id = replace_unstorable(queue), replace_unstorable(run_id)
        _lock_limits(connection, queue, now)
        place = connection.execute("select number, rowid from turns where run_id = ?", (run_id,)).fetchone()
        if place is None:
            return False
        earlier = _count(connection, _EARLIER, queue=queue, number=place[0], rowid=place[1])
        if self._free(connection, queue, earlier + 1, now) <= earlier:
            return False
        done = connection.execute("update turns set granted = true where run_id = ?", (run_id,))
        return done.rowcount == 1

    @staticmethod
    def end_turn(connection: Connection, run_id: str) -> bool:
        """Remove the turn of a run that has ended, or waits no longer."""
        return connection.execute("delete from turns where run_id = ?", (replace_unstorable(run_id),)).rowcount == 1

    @staticmethod
    def record_start(connection: Connection, queue: str, claim: Claim, now: float, begins: float) -> float:
        """
        Record that the first step of a claimed run begins at *begins* at the latest, and forget the starts of earlier periods.

        A run is claimed before it may start, so the limit of starts is checked here again.

        Returns:
            0, or the seconds until it may start; then nothing is recorded.
        """
        queue = replace_unstorable(queue)
        _lock_limits(connection, queue, now)
        own = {"run": replace_unstorable(claim.run_id), "fence": claim.fence}
        row = connection.execute("select per, period from limits where queue = ?", (queue,)).fetchone()
        per, period = row or (None, None)
        if per is not None and period is not None:
            count, first = connection.execute(
                "select count(*), min(at) from starts where queue = :queue and at > :after"
                " and not (run_id = :run and fence = :fence)",
                {**own, "queue": queue, "after": now - period},
            ).fetchone()
            if count >= per:
                return max(float(first) + float(period) - now, 0.001)
        connection.execute(
            "insert into starts (queue, at, run_id, fence) values (:queue, :at, :run, :fence) on conflict do nothing",
            {**own, "queue": queue, "at": begins},
        )
        connection.execute(
            "delete from starts where queue = :queue and at <= :now - (select period from limits where queue = :queue)"
            " and not exists (select 1 from turns where turns.run_id = starts.run_id) and not exists"
            " (select 1 from runs where id = starts.run_id and status = 'running' and runs.fence = starts.fence)",
            {"queue": queue, "now": now},
        )
        return 0.0

    @staticmethod
    def confirm_start(connection: Connection, claim: Claim, now: float) -> None:
        """Record that the first step of the run has begun at *now*."""
        connection.execute(
            "update starts set at = ? where run_id = ? and fence = ?",
            (now, replace_unstorable(claim.run_id), claim.fence),
        )

    def set_queue_limits(
        self,
        connection: Connection,
        queue: str,
        concurrency: int | None,
        per: int | None,
        period: float | None,
        within: str | None = None,
    ) -> None:
        """Set the limits of the queue, whose runs keep those of the queue *within*, too."""
        connection.execute(
            "insert into limits (queue, concurrency, per, period, within) values (?, ?, ?, ?, ?) on conflict (queue) do update"
            " set concurrency = excluded.concurrency, per = excluded.per, period = excluded.period, within = excluded.within",
            (replace_unstorable(queue), concurrency, per, period, storable(within)),
        )

    def next_wake(self, connection: Connection, now: float, steady: float) -> float | None:
        """
        Return when the next pause ends or a limit lets a run start; 0 if a run can start now; or None.

        *now* is the wall time, and *steady* the `Presence.steady_time`.
        """
        starts: list[float] = []
        for queue in self._ready_queues(connection):
            if self._free(connection, queue, 1, steady) > 0:
                return 0.0
            window = connection.execute(
                "select min(at) + min(period), max(at) from starts join limits using (queue)"
                " where queue = coalesce((select within from limits where queue = ?), ?) and at > ? - period",
                (queue, queue, steady),
            ).fetchone()
            if window[1] is not None:  # a claim corrects times of the future
                starts.append(now + window[0] - steady if window[1] <= steady + FUTURE_S else now)
        row = connection.execute(
            "select min(at) from (select min(wake_at) as at from runs where status = 'paused'"
            " union all select min(due) from outbox join runs on id = run_id where due is not null and origin = ?) as times",
            (self.origin,),
        ).fetchone()
        return min([*starts, *(at for at in row if at is not None)], default=None)

    def release(self, connection: Connection, claim: Claim) -> bool:
        """Make the run ready if this executor owns it: for its next attempt if it had begun."""
        done = connection.execute(
            f"update runs set {MADE_READY} where id = ? and fence = ? and owner = ?",  # noqa: S608 - constants only
            (claim.run_id, claim.fence, self.executor_id),
        )
        return done.rowcount == 1

    def release_orphan(self, connection: Connection, claim: Claim, now: float) -> bool:
        """
        Make a run of this executor that has no task ready; return False if its claim is lost.

        A run that is given up, and whose end could not be written, ends here with a reason that needs nothing of the run.
        """
        owned = "id = :run and fence = :fence and owner = :me and status = 'running'"
        values = {"run": claim.run_id, "fence": claim.fence, "me": self.executor_id}
        done = connection.execute(
            "update runs set status = 'error', owner = null, ended = :now, output = :output"  # noqa: S608 - constants only
            f" where {owned} and lost_tasks >= :most",
            {**values, "now": now, "output": UNWRITABLE_OUTPUT, "most": MAX_LOST_TASKS},
        )
        if done.rowcount == 0:
            sql = f"update runs set {MADE_READY}, lost_tasks = lost_tasks + 1 where {owned}"  # noqa: S608
            done = connection.execute(sql, values)
        return done.rowcount == 1


def lock_queue(connection: Connection, queue: str) -> str | None:
    """
    Let no other transaction check the limits of *queue* until this one ends; return the queue within which it is, or None.

    One row is locked: that of the outer queue, so that transactions that claim from both do not wait for each other.
    """
    row = connection.execute(
        "select l.within from limits l join limits r on r.queue = coalesce(l.within, l.queue) where l.queue = ?"
        " /*postgres for update of r*/",
        (queue,),
    ).fetchone()
    return None if row is None else row[0]


def _lock_limits(connection: Connection, queue: str, now: float) -> str | None:
    """Do what `lock_queue` does, and correct starts of the future, so that they count for one period at most."""
    within = lock_queue(connection, queue)
    connection.execute(
        "update starts set at = :now where queue = :queue and at > :now + :future",
        {"now": now, "queue": within or queue, "future": FUTURE_S},
    )
    return within


def storable(text: str | None) -> str | None:
    """Return *text* without characters that a database cannot store."""
    return None if text is None else replace_unstorable(text)


def _count(connection: Connection, query: str, **values: object) -> int:
    """Return the number that *query* selects."""
    return int(connection.execute(query, values).fetchone()[0])


def _exists(connection: Connection, query: str, run_id: str) -> bool:
    return connection.execute(query, (run_id,)).fetchone() is not None


def load_claimed(connection: Connection, row: Sequence[Any]) -> ClaimedRun:
    """Return the run of a row with `CLAIM_COLUMNS`, with everything that is recorded of it."""
    run_id, fence, attempt, trace_id, definition, event, request, external_user_id, environment, created, origin = row[
        :11
    ]
    lock, queue, workflow, begun, lost_tasks = row[11:]
    was_paused = _exists(connection, "select 1 from waits where run_id = ? and data <> ''", run_id)
    content = connection.execute("select content from definitions where hash = ?", (definition,)).fetchone()
    steps = connection.execute(
        "select seq, name, data, path, iteration, carry, attempt from steps where run_id = ? order by seq",
        (run_id,),
    )
    waits = connection.execute(
        "select seq, path, iteration, kind, number, wake_at, data, carry, outcome, payload from waits where run_id = ?"
        " and data <> '' and not exists (select 1 from steps s where s.run_id = waits.run_id and s.path = waits.path"
        " and s.iteration = waits.iteration)",
        (run_id,),
    )
    deaths, alone = _count_interruptions(connection, run_id) if attempt > 1 else (0, 0)
    return ClaimedRun(
        Claim(run_id, fence, attempt),
        trace_id,
        content[0] if content is not None else "",
        event,
        request,
        external_user_id,
        environment,
        created,
        steps=tuple(StepRow(*each) for each in steps),
        waits=tuple(WaitRow(*each) for each in waits),
        was_paused=was_paused,
        sent_runs=frozenset(connection.execute("select path, number from outbox where run_id = ?", (run_id,))),
        origin=origin,
        queue=queue,
        package_lock=None if lock is None else _load_lock(connection, lock),
        decisions=load_decisions(connection, run_id) if was_paused else (),
        calls=tuple(load_calls(connection, run_id)) if attempt > 1 else (),
        workflow=workflow,
        begun=Begun(begun),
        interruptions=deaths,
        deaths_alone=alone,
        lost_tasks=lost_tasks,
    )


def _count_interruptions(connection: Connection, run_id: str) -> tuple[int, int]:
    counts: tuple[int, int] = connection.execute(
        "select count(*), count(case when alone then 1 end) from interruptions where run_id = ?", (run_id,)
    ).fetchone()
    return counts


def load_calls(connection: Connection, run_id: str) -> Sequence[CallRow]:
    """Return the unsafe calls of interrupted attempts at steps that are not recorded, in their order."""
    rows = connection.execute(
        "select path, c.number, shown, iteration from calls_in_flight c join runs r on r.id = c.run_id where c.run_id = ?"
        " and (r.status <> 'running' or c.attempt < r.attempt) order by c.attempt, c.number",
        (run_id,),
    )
    return [CallRow(*row) for row in rows]


def load_decisions(connection: Connection, run_id: str) -> tuple[Decision, ...]:
    """Return the decisions about a run, oldest first."""
    rows = connection.execute(
        "select path, verdict, decided_by, note, at from decisions where run_id = ? order by at, path, iteration, number",
        (run_id,),
    )
    return tuple(build_decision(*row) for row in rows)


def _load_lock(connection: Connection, key: str) -> StoredLock:
    content = connection.execute("select content from package_locks where hash = ?", (key,)).fetchone()
    return StoredLock(key, content[0] if content is not None else "")

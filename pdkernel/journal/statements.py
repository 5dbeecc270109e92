"""
The SQL about what a run contains, from its acceptance to its removal; each function runs inside the caller's transaction.

The row count of a statement decides which of several writers was first. Only statements about all runs of an owner or a
queue test `status = 'running'`: in frequent statements the planner would use the index on owner.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pdkernel.errors import ExecutorLostError
from pdkernel.journal.backend import Connection
from pdkernel.journal.ownership import EXECUTOR_ALIVE, FUTURE_S, lock_queue, storable
from pdkernel.journal.rows import (
    FIRST_FENCE,
    MAX_NOTE_CHARACTERS,
    Begun,
    CallRow,
    Claim,
    NewDecision,
    NewRun,
    OutboxRow,
    StepRow,
    StoredLock,
    WaitKey,
    WaitOutcome,
    WaitResolution,
    WaitRow,
)
from pdkernel.journal.text_columns import (
    CANCELLED_OUTPUT,
    EXPIRED_OUTPUT,
    REJECTED_OUTPUT,
    escape_json_text,
    replace_unstorable,
)

_OWNED = f"id = :run and fence = :fence and owner = :me and {EXECUTOR_ALIVE}"

# the SQL is made of constants only; every value is a parameter
_ACCEPT = (
    "insert into runs (id, trace_id, workflow, definition, event, external_user, environment, status, owner,"  # noqa: S608
    " fence, attempt, queue, created, origin, parent, workflow_id, dedupe_key, request, package_lock, begun, batch)"
    " select :run, :trace, :workflow, :definition, :event, :user, :environment, :status, :owner,"
    " :fence, 1, :queue, :created, :origin, :parent, :workflow_id, :dedupe_key, :request, :package_lock, :begun, :batch"
    f" where {EXECUTOR_ALIVE} and (cast(:queue_size as integer) is null or 2 * cast(:queue_size as integer) >"
    " (select count(*) + count(case when coalesce(external_user, '') = coalesce(cast(:user as text), '') then 1 end)"
    " from runs where status = 'ready' and origin = :origin and queue = :queue)) on conflict do nothing"
)
"""In a queue, a user may have as many waiting runs as twice the queue's size leaves for all others: alone, the queue's size."""
_APPEND = (
    "insert into steps (run_id, path, iteration, seq, name, fence, data, at, attempt, carry)"  # noqa: S608
    " select :run, :path, :iteration, :seq, :name, :fence, :data, :at, :attempt, :carry"
    f" from runs where {_OWNED} /*postgres for update*/ on conflict do nothing"
)
_RECORD_CALL = (
    "insert into calls_in_flight (run_id, path, iteration, attempt, number, shown)"  # noqa: S608
    " select :run, :path, :iteration, :attempt, :number, :shown"
    f" from runs where {_OWNED} /*postgres for update*/ on conflict do nothing"
)
_EVENT = "event = coalesce(:event, event)"
_FINISH = f"update runs set status = :status, output = :output, ended = :at, owner = null, {_EVENT} where {_OWNED}"  # noqa: S608
_WAKE_AT_FIRST_WAIT = (
    "update runs set wake_at = (select min(wake_at) from waits where run_id = :run and outcome is null and data <> '')"
    " where id = :run and status = 'paused'"
)
_PARK = f"update runs set status = :status, wake_at = null, owner = null, {_EVENT} where {_OWNED}"  # noqa: S608
_MESSAGE_KEY = "run_id = ? and path = ? and number = ? and position = ?"
_STEP_KEY = "run_id = ? and path = ? and iteration = ?"
_TABLES_OF_A_RUN = ("steps", "waits", "outbox", "decisions", "calls_in_flight", "interruptions")


@dataclass(frozen=True, slots=True)
class Statements:
    """
    The writes of one executor about its runs.

    Attributes:
        executor_id: The id of this executor.
        origin: The origin of the runs that it accepts.
    """

    executor_id: str
    origin: str

    def store_definition(self, connection: Connection, key: str, workflow: str, content: str) -> bool:
        """Store the definition under its hash."""
        connection.execute(
            "insert into definitions values (?, ?, ?) on conflict do nothing",
            (key, replace_unstorable(workflow), content),
        )
        return True

    def accept_run(self, connection: Connection, run: NewRun, now: float, definition: str | None = None) -> bool:
        """
        Insert the run: owned, or ready. Refused if id or key exists, or the queue is full.

        Raises `ExecutorLostError` if this executor is dead. *definition* is the content of its definition, if another process
        may have removed it since it was stored.
        """
        queued = run.is_ready
        if run.queue is not None and run.queue_size is not None:
            lock_queue(connection, replace_unstorable(run.queue))
        stored = connection.execute(
            "select 1 from definitions where hash = ? /*postgres for key share*/", (run.definition,)
        ).fetchone()
        if definition is not None and stored is None:
            self.store_definition(connection, run.definition, run.workflow, definition)
        done = connection.execute(
            _ACCEPT,
            {
                "run": replace_unstorable(run.id),
                "trace": replace_unstorable(run.trace_id),
                "workflow": replace_unstorable(run.workflow),
                "definition": run.definition,
                "event": escape_json_text(run.event),
                "user": storable(run.external_user_id),
                "environment": run.environment,
                "status": "ready" if queued else "running",
                "owner": None if queued else self.executor_id,
                "fence": 0 if queued else FIRST_FENCE,
                "queue": storable(run.queue),
                "queue_size": run.queue_size,
                "created": now if run.created is None else run.created,
                "origin": run.origin or self.origin,
                "parent": storable(run.parent),
                "workflow_id": storable(run.workflow_id),
                "dedupe_key": storable(run.dedupe_key),
                "request": run.request,
                "package_lock": None if run.package_lock is None else run.package_lock.hash,
                "begun": int(Begun.NO if queued else run.begun),
                "batch": run.batch,
                "me": self.executor_id,
            },
        )
        if done.rowcount != 1:
            alive = f"select 1 where {EXECUTOR_ALIVE}"
            if connection.execute(alive, {"me": self.executor_id}).fetchone() is None:
                raise ExecutorLostError
            return False
        self._store_lock(connection, run.package_lock)
        return True

    def set_package_lock(self, connection: Connection, claim: Claim, lock: StoredLock | None) -> bool:
        """Set the run's packages if this executor owns the run."""
        done = connection.execute(
            f"update runs set package_lock = :lock where {_OWNED}",  # noqa: S608
            {
                "run": claim.run_id,
                "fence": claim.fence,
                "lock": None if lock is None else lock.hash,
                "me": self.executor_id,
            },
        )
        if done.rowcount == 1:
            self._store_lock(connection, lock)
        return done.rowcount == 1

    def set_begun(self, connection: Connection, claim: Claim, begun: Begun) -> bool:
        """Record how far this executor is with the run if it owns the run."""
        done = connection.execute(
            f"update runs set begun = :begun where {_OWNED}",  # noqa: S608
            {"run": claim.run_id, "fence": claim.fence, "begun": int(begun), "me": self.executor_id},
        )
        return done.rowcount == 1

    @staticmethod
    def _store_lock(connection: Connection, lock: StoredLock | None) -> None:
        if lock is None:
            return
        query = "select 1 from package_locks where hash = ? /*postgres for key share*/"
        if connection.execute(query, (lock.hash,)).fetchone() is None:
            connection.execute(
                "insert into package_locks values (?, ?) on conflict do nothing",
                (lock.hash, escape_json_text(lock.content)),
            )

    def append_step(
        self, connection: Connection, claim: Claim, row: StepRow, now: float, *, event: str | None = None
    ) -> bool:
        """
        Insert the step's row, and replace the run's event unless *event* is None.

        Returns:
            False if this executor does not own the run, or if the row exists already.
        """
        done = connection.execute(
            _APPEND,
            {
                "run": claim.run_id,
                "path": replace_unstorable(row.path),
                "iteration": row.iteration,
                "seq": row.seq,
                "name": replace_unstorable(row.name),
                "fence": claim.fence,
                "data": escape_json_text(row.data),
                "at": now,
                "attempt": claim.attempt,
                "carry": row.carry,
                "me": self.executor_id,
            },
        )
        if done.rowcount != 1:
            return False
        if row.has_calls:
            self._forget_calls(connection, claim.run_id, row)
        self._forget_interruptions(connection, claim)
        if event is not None:
            connection.execute("update runs set event = ? where id = ?", (escape_json_text(event), claim.run_id))
        return True

    def record_call(self, connection: Connection, claim: Claim, row: CallRow) -> bool:
        """Insert the call if this executor owns the run; False otherwise, or if the row exists."""
        done = connection.execute(
            _RECORD_CALL,
            {
                "run": claim.run_id,
                "path": replace_unstorable(row.path),
                "iteration": row.iteration,
                "attempt": claim.attempt,
                "number": row.number,
                "shown": escape_json_text(row.shown),
                "fence": claim.fence,
                "me": self.executor_id,
            },
        )
        return done.rowcount == 1

    @staticmethod
    def _forget_calls(connection: Connection, run_id: str, row: StepRow | WaitRow) -> None:
        """Delete the calls of a step whose record has them."""
        connection.execute(
            f"delete from calls_in_flight where {_STEP_KEY}",  # noqa: S608
            (run_id, replace_unstorable(row.path), row.iteration),
        )

    @staticmethod
    def _forget_interruptions(connection: Connection, claim: Claim) -> None:
        """Begin to count anew for a run that got further."""
        if claim.attempt > 1:
            connection.execute("delete from interruptions where run_id = ?", (claim.run_id,))

    def finish(
        self,
        connection: Connection,
        claim: Claim,
        status: str,
        output: str,
        now: float,
        *,
        event: str | None = None,
    ) -> bool:
        """End the run if this executor owns it."""
        done = connection.execute(
            _FINISH,
            {
                "run": claim.run_id,
                "fence": claim.fence,
                "status": status,
                "output": escape_json_text(output),
                "at": now,
                "event": None if event is None else escape_json_text(event),
                "me": self.executor_id,
            },
        )
        return done.rowcount == 1

    def fill_outbox(self, connection: Connection, run_id: str, rows: Sequence[OutboxRow], due: float) -> None:
        """Insert messages, which the caller delivers; another process delivers them if they are not delivered when *due*."""
        connection.executemany(
            "insert into outbox (run_id, path, number, position, message, shown, tries, due, owner, lane)"
            " values (?, ?, ?, ?, ?, ?, 0, ?, ?, ?) on conflict do nothing",
            [
                (
                    run_id,
                    replace_unstorable(row.path),
                    row.number,
                    row.position,
                    row.message,
                    escape_json_text(row.shown),
                    due,
                    self.executor_id,
                    row.lane,
                )
                for row in rows
            ],
        )

    def add_messages(self, connection: Connection, run_id: str, rows: Sequence[OutboxRow], due: float) -> bool:
        """Insert messages of a run that has ended, for any process of its origin; return False if the run was removed."""
        if connection.execute("select 1 from runs where id = ?", (run_id,)).fetchone() is None:
            return False
        self.fill_outbox(connection, run_id, rows, due)
        return True

    def claim_deliveries(
        self,
        connection: Connection,
        now: float,
        retry_at: float,
        *,
        lane: str | None,
        busy: Collection[str],
        lanes: int,
        per_lane: int,
    ) -> Sequence[tuple[str, OutboxRow, int]]:
        """
        Return messages of served runs that are due, with their run and number of tries; others get them at *retry_at*.

        They are the first *per_lane* of each of at most *lanes* lanes: of *lane*, or of all but the *busy* lanes.
        """
        due = connection.execute(
            "select run_id, path, number, position, lane from (select run_id, path, number, position, lane, due, outbox.rowid as age,"
            " row_number() over (partition by lane order by due, outbox.rowid) as place from outbox join runs on id = run_id"
            " where due <= :now and origin = :origin and lane = coalesce(:lane, lane)) as waiting"
            " where place <= :per_lane order by due, age",
            {"now": now, "origin": self.origin, "lane": lane, "per_lane": per_lane},
        ).fetchall()
        chosen = [found for found in dict.fromkeys(row[4] for row in due) if found not in busy][:lanes]
        claimed: list[tuple[str, OutboxRow, int]] = []
        for run_id, path, number, position, found in due:
            if found not in chosen:
                continue
            key = (run_id, path, number, position)
            row = connection.execute(
                f"select message, shown, lane, tries from outbox where {_MESSAGE_KEY} and due <= ?"  # noqa: S608
                " /*postgres for update skip locked*/",
                (*key, now),
            ).fetchone()
            if row is not None:
                connection.execute(
                    f"update outbox set due = ?, owner = ? where {_MESSAGE_KEY}",  # noqa: S608
                    (retry_at, self.executor_id, *key),
                )
                claimed.append((run_id, OutboxRow(path, number, position, *row[:3]), row[3]))
        return claimed

    def leave_deliveries(self, connection: Connection, run_id: str, rows: Sequence[OutboxRow], now: float) -> None:
        """Make messages due at once that this executor has not tried to deliver."""
        connection.executemany(
            f"update outbox set due = ?, owner = null where {_MESSAGE_KEY} and due is not null",  # noqa: S608
            [(now, run_id, replace_unstorable(row.path), row.number, row.position) for row in rows],
        )

    def record_delivery(
        self, connection: Connection, run_id: str, row: OutboxRow, shown: str, retry_at: float | None
    ) -> bool:
        """Record the outcome of a delivery."""
        done = connection.execute(
            "update outbox set shown = ?, tries = tries + 1, due = ?, owner = null"  # noqa: S608
            f" where {_MESSAGE_KEY} and due is not null",
            (escape_json_text(shown), retry_at, run_id, replace_unstorable(row.path), row.number, row.position),
        )
        return done.rowcount == 1

    def append_wait(
        self, connection: Connection, claim: Claim, wait: WaitRow, now: float, *, event: str | None = None
    ) -> bool:
        """Insert the wait of a run that goes on in other branches, if this executor owns it."""
        owned = connection.execute(
            f"select 1 from runs where {_OWNED} /*postgres for update*/",  # noqa: S608
            {"run": claim.run_id, "fence": claim.fence, "me": self.executor_id},
        ).fetchone()
        if owned is None:
            return False
        self._insert_wait(connection, claim, wait, now)
        self._forget_interruptions(connection, claim)
        if event is not None:
            connection.execute("update runs set event = ? where id = ?", (escape_json_text(event), claim.run_id))
        return True

    def park(
        self, connection: Connection, claim: Claim, waits: Sequence[WaitRow], now: float, *, event: str | None = None
    ) -> bool:
        """
        Pause the run if this executor owns it, and insert its waits.

        If a call has resumed one of the steps before, the run is ready at once.
        """
        done = connection.execute(
            _PARK,
            {
                "run": claim.run_id,
                "fence": claim.fence,
                "status": "paused",
                "event": None if event is None else escape_json_text(event),
                "me": self.executor_id,
            },
        )
        if done.rowcount != 1:
            return False
        # after the update, which locks the run: a call may come at this moment
        have_ended = [self._insert_wait(connection, claim, wait, now) for wait in waits]
        if any(have_ended):
            connection.execute("update runs set status = 'ready' where id = ?", (claim.run_id,))
        else:
            connection.execute(_WAKE_AT_FIRST_WAIT, {"run": claim.run_id})
        self._forget_interruptions(connection, claim)
        return True

    def _insert_wait(self, connection: Connection, claim: Claim, wait: WaitRow, now: float) -> bool:
        """Insert or replace the wait, and keep its outcome; return whether a call has ended it already."""
        key = (claim.run_id, replace_unstorable(wait.path), wait.iteration, wait.number)
        outcome, payload, at, data, wake_at = connection.execute(
            f"select outcome, payload, at, data, wake_at from waits where {_STEP_KEY} and number = ?",  # noqa: S608
            key,
        ).fetchone() or (None, None, now, "", None)
        connection.execute(f"delete from waits where {_STEP_KEY} and number <= ?", key)  # noqa: S608
        connection.execute(
            "insert into waits values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *key,
                wait.seq,
                wait.kind,
                wake_at
                if data
                else wait.wake_at,  # it was corrected if a clock was set back while other branches executed
                escape_json_text(wait.data),
                wait.carry,
                outcome,
                payload,
                at,
            ),
        )
        if wait.has_calls:
            self._forget_calls(connection, claim.run_id, wait)
        return outcome is not None

    def resolve_wait(
        self,
        connection: Connection,
        key: WaitKey,
        outcome: WaitOutcome,
        payload: bytes | None,
        now: float,
        decision: NewDecision | None = None,
    ) -> WaitResolution:
        """End the wait, or keep the outcome for a step that has not paused yet; the first call wins, and its *decision* is kept."""
        resolution = self._resolve_wait(connection, key, outcome, payload, now, decision)
        if decision is not None and resolution != "late":
            self._add_decision(connection, key, decision, now)
        return resolution

    def _resolve_wait(
        self,
        connection: Connection,
        key: WaitKey,
        outcome: WaitOutcome,
        payload: bytes | None,
        now: float,
        decision: NewDecision | None,
    ) -> WaitResolution:
        run_id, place = replace_unstorable(key.run_id), (replace_unstorable(key.path), key.iteration)
        row = connection.execute("select status from runs where id = ? /*postgres for update*/", (run_id,)).fetchone()
        status = row[0] if row is not None else None
        if status not in ("paused", "running", "ready"):
            return "late"
        number, ended = connection.execute(
            f"select number, outcome from waits where {_STEP_KEY} order by number desc limit 1",  # noqa: S608
            (run_id, *place),
        ).fetchone() or (0, "resumed")  # no pause yet: the first one has number 1
        is_open = number == key.number and ended is None
        if not is_open:
            recorded = connection.execute(f"select 1 from steps where {_STEP_KEY}", (run_id, *place)).fetchone()  # noqa: S608
            if recorded is not None or status == "paused" or number >= key.number:
                return "late"
        if outcome == "cancelled":
            is_rejected = decision is not None and decision.verdict == "rejected"
            output = REJECTED_OUTPUT if is_rejected else CANCELLED_OUTPUT
            return "done" if self.cancel(connection, run_id, now, output=output) else "late"
        if is_open:
            connection.execute(
                f"update waits set outcome = ?, payload = ?, at = ? where {_STEP_KEY} and number = ?",  # noqa: S608
                (outcome, payload, now, run_id, *place, number),
            )
            # a run that executes other branches finds the outcome when it pauses
            connection.execute(
                "update runs set status = 'ready', wake_at = null where id = ? and status = 'paused'", (run_id,)
            )
            return "done"
        # a row of its own: the step's earlier pause is needed until the step pauses again
        connection.execute(
            "insert into waits values (?, ?, ?, ?, 0, 'suspend', null, '', null, ?, ?, ?)",
            (run_id, *place, key.number, outcome, payload, now),
        )
        return "early"

    def wake_due(self, connection: Connection, now: float, limit: int) -> int:
        """End the pauses whose time has come: the run is ready, or cancelled if no call has resumed a `suspend`."""
        rows = connection.execute(
            "select r.id, w.path, w.iteration, w.number, w.kind from runs r join waits w on w.run_id = r.id and w.outcome is null"
            " and w.wake_at <= ? where r.status = 'paused' and r.wake_at <= ? order by r.wake_at limit ?"
            " /*postgres for update of r skip locked*/",
            (now, now, limit),
        ).fetchall()
        woken = 0
        for run_id, path, iteration, number, kind in rows:
            # the pause may have been another before this transaction locked the run
            is_due = connection.execute(
                f"update waits set outcome = 'timeout', at = ? where {_STEP_KEY} and number = ?"  # noqa: S608
                " and outcome is null and wake_at <= ?",
                (now, run_id, path, iteration, number, now),
            ).rowcount
            if not is_due:
                continue
            woken += 1
            if kind == "suspend":
                self.cancel(connection, run_id, now, output=EXPIRED_OUTPUT)
            else:
                connection.execute("update runs set status = 'ready', wake_at = null where id = ?", (run_id,))
        return woken

    @staticmethod
    def correct_due_times(connection: Connection, now: float, max_retry_s: float) -> None:
        """
        Move due times that were computed from a time of the future, because a clock was ahead, by as much back.

        A pause begins *now* at the latest, and a message waits for *max_retry_s* at most.
        """
        rows = connection.execute(
            "select run_id, w.path, w.iteration, w.number, w.at - ? from runs r join waits w on w.run_id = r.id"
            " and w.outcome is null and w.at > ? where r.status in ('running', 'ready') or (r.status = 'paused' and r.wake_at > ?)"
            " /*postgres for update of r skip locked*/",
            (now, now + FUTURE_S, now),
        ).fetchall()
        for run_id, path, iteration, number, ahead_s in rows:
            connection.execute(
                f"update waits set wake_at = wake_at - ?, at = ? where {_STEP_KEY} and number = ? and outcome is null",  # noqa: S608
                (ahead_s, now, run_id, path, iteration, number),
            )
            connection.execute(_WAKE_AT_FIRST_WAIT, {"run": run_id})
        connection.execute("update outbox set due = ? where due > ?", (now, now + max_retry_s + FUTURE_S))

    def cancel_run(self, connection: Connection, run_id: str, now: float, decision: NewDecision | None) -> bool:
        """Cancel the run as `cancel` does, and record *decision*."""
        is_done = self.cancel(connection, run_id, now)
        if is_done and decision is not None:
            self._add_decision(connection, WaitKey(run_id, "", 0, 0), decision, now)
        return is_done

    @staticmethod
    def _add_decision(connection: Connection, key: WaitKey, decision: NewDecision, now: float) -> None:
        connection.execute(
            "insert into decisions values (?, ?, ?, ?, ?, ?, ?, ?) on conflict do nothing",
            (
                replace_unstorable(key.run_id),
                replace_unstorable(key.path),
                key.iteration,
                key.number,
                decision.verdict,
                replace_unstorable(decision.by),
                replace_unstorable(decision.note[:MAX_NOTE_CHARACTERS]),
                now,
            ),
        )

    def cancel(self, connection: Connection, run_id: str, now: float, *, output: str = CANCELLED_OUTPUT) -> bool:
        """Cancel the run regardless of its owner, whose next write is refused."""
        done = connection.execute(
            "update runs set status = 'cancelled', ended = ?, owner = null, wake_at = null, output = ?"
            " where id = ? and status in ('ready', 'paused', 'running')",
            (now, output, replace_unstorable(run_id)),
        )
        return done.rowcount == 1


def remove_runs(connection: Connection, run_ids: Sequence[str]) -> Sequence[str]:
    """Remove runs that are not executing; definitions and packages without a run. Return the ids of the removed runs."""
    stored = [replace_unstorable(run_id) for run_id in run_ids]
    removed = connection.execute(
        f"delete from runs where id in ({_marks(stored)}) and status <> 'running'"  # noqa: S608 - constants only
        " returning id, definition, package_lock",
        stored,
    ).fetchall()
    ids = [row[0] for row in removed]
    for table in _TABLES_OF_A_RUN:
        connection.execute(f"delete from {table} where run_id in ({_marks(ids)})", ids)  # noqa: S608
    _remove_unused(connection, "definitions", "definition", {row[1] for row in removed})
    _remove_unused(connection, "package_locks", "package_lock", {row[2] for row in removed if row[2] is not None})
    return ids


def _remove_unused(connection: Connection, table: str, column: str, keys: Collection[str]) -> None:
    """Remove the rows of *table* with *keys* that are in *column* of no run."""
    chosen, values = f"{table} where hash in ({_marks(keys)})", sorted(keys)
    # a run may be accepted at this moment: its transaction holds the row
    connection.execute(f"select 1 from {chosen} order by hash /*postgres for update*/", values).fetchall()  # noqa: S608
    connection.execute(
        f"delete from {chosen} and not exists (select 1 from runs where {column} = {table}.hash)",  # noqa: S608
        values,
    )


def _marks(values: Collection[str]) -> str:
    """Return the parameters for a list of *values* in SQL, where a list has at least one element."""
    return ", ".join("?" * len(values)) or "null"

"""
The journal of one executor in a project's database, SQLite or Postgres, and how it is opened.

It combines the SQL of `ownership` and `statements`, `JournalWriter` and `JournalReader`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import datetime
from functools import partial
from typing import Self, TypeVar

from sqlalchemy import update

from pdkernel.common.blocking import run_blocking
from pdkernel.common.clock import RANDOM_IDS, SYSTEM_CLOCK, Clock, IdGenerator, SteadyClock
from pdkernel.errors import ExecutorLostError, ProjectError, TablesChangedError
from pdkernel.execution import Execution, Status
from pdkernel.journal.backend import Backend, Connection, Presence
from pdkernel.journal.ownership import OwnershipStatements
from pdkernel.journal.reader import JournalReader, RunQueries, find_expired
from pdkernel.journal.rows import (
    Begun,
    CallRow,
    Claim,
    ClaimedRun,
    FinalStatus,
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
from pdkernel.journal.schema import executors
from pdkernel.journal.sqlite import SqliteBackend
from pdkernel.journal.statements import Statements, remove_runs
from pdkernel.journal.text_columns import (
    ExecutionQuery,
    encode_definition,
    hash_definition,
)
from pdkernel.journal.writer import JournalWriter
from pdkernel.model import Workflow
from pdkernel.storage import Project

T = TypeVar("T")
C = TypeVar("C", bound=ClaimedRun | None)

OWN_DELIVERY_S = 60.0
"""Seconds that the process of a run has to deliver its messages; then another process delivers them."""
MAX_LANES = 64
"""Destinations to which one process sends due messages at the same time."""
MESSAGES_PER_LANE = 3
"""Due messages that one process takes for a destination at a time: it can try them within `OWN_DELIVERY_S`."""

START_MARGIN_S = 0.1
"""Seconds from the record of a start to the first line of the step, on a busy machine: a period begins after them, until the start is seen."""
START_LEAD_S = 0.05
"""Seconds by which runs are claimed before the limit lets them start, so that they are prepared at that moment."""

MAX_RETRY_S = 2_560.0
"""The longest pause, in seconds, between two tries of a message (`deliveries`)."""


class Journal(RunQueries):
    """
    The journal of one executor in one database.

    Attributes:
        clock: The clock by which pauses end; on Postgres that of the database, so that all hosts agree.
        lease_s: The seconds after which a silent executor is taken for dead; None on SQLite, where the end of its process shows it.
    """

    def __init__(
        self, backend: Backend, *, executor_id: str, origin: str, presence: Presence, ids: IdGenerator
    ) -> None:
        super().__init__(backend.open_snapshots())
        self._backend = backend
        self.clock = presence.clock
        self.lease_s = presence.lease_s
        self._become(OwnershipStatements(executor_id, origin))
        self._presence = presence
        self._ids = ids
        self._writer = JournalWriter(backend)
        self._definitions: dict[str, tuple[str, str]] = {}  # the hash and the content by version
        self._queue_limits: dict[str, tuple[int | None, int | None, float | None, str | None]] = {}
        self._active_run_ids: set[str] = set()
        self._ended_turns: set[str] = set()  # runs whose turn has ended, and is not removed yet
        self._is_outdated = False  # whether a newer version has changed the tables
        self._corrected_jumps = -1  # the jumps of the clock after which due times were corrected

    @classmethod
    def open(
        cls,
        backend: Backend,
        *,
        clock: Clock = SYSTEM_CLOCK,
        ids: IdGenerator = RANDOM_IDS,
        origin: str = "terminal",
    ) -> Self:
        """
        Become an executor of the journal in *backend*; missing tables are created.

        Args:
            backend: The database.
            clock: For every time stamp.
            ids: For the executor's id.
            origin: What this executor is: `serve`, `notebook`, `terminal` or `python`. It continues runs of its origin.

        Raises:
            ProjectError: The database cannot be used, or was written by a newer version.
            RequestError: Another process has the origin.
        """
        executor_id = ids.new("exec_", 20)
        backend.create_tables()
        with contextlib.ExitStack() as undo:
            presence = backend.enter(executor_id, origin, SteadyClock.of(clock))
            undo.callback(presence.close)
            journal = cls(backend, executor_id=executor_id, origin=origin, presence=presence, ids=ids)
            undo.pop_all()
        return journal

    def _become(self, ownership: OwnershipStatements) -> None:
        """Write as the executor of *ownership* from now on."""
        self._ownership = ownership
        self._statements = Statements(ownership.executor_id, ownership.origin)

    def __repr__(self) -> str:
        return f"Journal({self.executor_id})"

    @property
    def executor_id(self) -> str:
        """The id of this executor, new at every start and at every `rejoin`."""
        return self._ownership.executor_id

    @property
    def is_lost(self) -> bool:
        """Whether this executor was taken for dead, or could not extend its lease in time."""
        return self._presence.is_lost

    @property
    def may_start(self) -> bool:
        """Whether this executor may start something new: it is not lost, and will not be soon; its tables are those that it knows."""
        return self._presence.may_start and not self._is_outdated

    def _check_version(self, connection: Connection, *, exactly: bool = True) -> None:
        """Raise `TablesChangedError` if a newer version has changed the tables."""
        try:
            self._presence.check_version(connection, exactly=exactly)
        except TablesChangedError:
            self._is_outdated = True
            raise
        self._is_outdated = False

    def _check_lease(self) -> None:
        """
        Raise `ExecutorLostError` while this executor is lost: what it began now, `rejoin` would leave to others.

        Its caller would begin it, too, because it ends only what had begun before it was lost.
        """
        if self.is_lost:
            raise ExecutorLostError

    async def rejoin(self) -> None:
        """
        Become a new executor, with a new id, after the caller has abandoned its runs; other executors continue them.

        Others may have taken this executor for dead: the interruptions that they have recorded are forgotten.
        """
        if self.lease_s is None:
            return
        old, new = self._ownership, OwnershipStatements(self._ids.new("exec_", 20), self._ownership.origin)
        now = self._now()

        def act(connection: Connection) -> None:
            new.register_executor(connection)
            self._presence.register(connection, new.executor_id)
            released = new.release_runs(connection, old.executor_id)  # this process lives, so no run has ended it
            new.revoke_death(connection, old.executor_id)
            if new.bury(connection, [old.executor_id], now) or released:
                self._presence.announce(connection)

        await self._writer.write(act, is_compound=True)
        self._active_run_ids.clear()
        self._become(new)
        self._presence.follow(new.executor_id)

    def on_change(self, callback: Callable[[], None]) -> None:
        """
        Call *callback* in a thread when another process made runs ready or cancelled runs, and when this executor is lost.

        It is never called on SQLite, where other processes send no messages.
        """
        self._presence.on_change(callback)

    @property
    def is_shared(self) -> bool:
        """Whether several servers may use the database."""
        return self._backend.is_shared

    async def announce(self) -> None:
        """Notify other processes of ready runs that this one cannot take."""
        await self._writer.write(self._presence.announce)

    @property
    def commits(self) -> int:
        """The number of transactions so far; one transaction may hold several writes."""
        return self._writer.commits

    async def store_definition(self, workflow: Workflow) -> str:
        """Store the workflow's definition, which runs need to be continued, and return its hash."""
        known = self._definitions.get(workflow.version)
        if known is None:
            content = encode_definition(workflow)
            key = hash_definition(content)
            await self._writer.write(
                lambda connection: self._statements.store_definition(connection, key, workflow.name, content),
                is_contended=True,
            )
            known = self._definitions[workflow.version] = (key, content)
        return known[0]

    async def accept_run(self, run: NewRun) -> bool:
        """Record the run: running, with this executor as the owner and fence 1; or ready and without owner (`NewRun.is_ready`)."""
        now = self._now()
        is_for_others = run.origin not in (None, self._statements.origin)
        content = next((content for key, content in self._definitions.values() if key == run.definition), None)

        def accept(connection: Connection) -> bool:
            self._check_version(connection, exactly=False)
            if not run.is_ready:
                self._check_lease()
            return self._statements.accept_run(connection, run, now, content)

        accepted = await self._announced(
            accept,
            is_contended=run.queue_size is not None or run.dedupe_key is not None,
            concurrent_runs=max(2, len(self._active_run_ids)),
            is_needed=is_for_others,
        )
        if accepted and not run.is_ready:
            self._active_run_ids.add(run.id)
        return accepted

    def set_package_lock(self, claim: Claim, lock: StoredLock | None) -> Awaitable[bool]:
        """Submit the run's packages. The result is False if the claim is lost."""
        return self._writer.write(
            lambda connection: self._statements.set_package_lock(connection, claim, lock), is_compound=True
        )

    def set_begun(self, claim: Claim, begun: Begun) -> Awaitable[bool]:
        """Submit how far this executor is with the run. The result is False if the claim is lost."""
        return self._writer.write(
            lambda connection: self._statements.set_begun(connection, claim, begun),
            concurrent_runs=len(self._active_run_ids),
        )

    async def announce_end(self) -> None:
        """Record that this process was told to end: if it is killed meanwhile, no run is to blame."""
        await self._writer.write(self._ownership.announce_end)

    def append_step(self, claim: Claim, row: StepRow, *, event: str | None = None) -> Awaitable[bool]:
        """Submit a finished step. The result is False if the claim is lost, or the step is already recorded."""
        now = self._now()
        return self._writer.write(
            lambda connection: self._statements.append_step(connection, claim, row, now, event=event),
            is_compound=event is not None or row.has_calls or claim.attempt > 1,
            size=row.size + len(event or ""),
            concurrent_runs=len(self._active_run_ids),
        )

    async def record_call(self, claim: Claim, row: CallRow) -> bool:
        """Record an unsafe call before it is sent. Return False if the claim is lost."""
        return await self._writer.write(
            lambda connection: self._statements.record_call(connection, claim, row),
            concurrent_runs=len(self._active_run_ids),
        )

    def finish(
        self,
        claim: Claim,
        status: FinalStatus,
        output: str,
        *,
        last_step: StepRow | None = None,
        event: str | None = None,
        ended: float | None = None,
        outbox: Sequence[OutboxRow] = (),
    ) -> Awaitable[bool]:
        """Submit the run's end with *last_step*. The result is False if the claim is lost, or the step is already recorded."""
        now = self._now()

        def act(connection: Connection) -> bool:
            if last_step is not None and not self._statements.append_step(connection, claim, last_step, now):
                return False
            done = self._statements.finish(
                connection, claim, status, output, now if ended is None else ended, event=event
            )
            if done and outbox:
                self._statements.fill_outbox(connection, claim.run_id, outbox, now + OWN_DELIVERY_S)
            return done

        concurrent_runs = len(self._active_run_ids)
        self._active_run_ids.discard(claim.run_id)
        return self._writer.write(
            act,
            is_compound=last_step is not None or bool(outbox),
            size=len(output) + len(event or "") + (last_step.size if last_step else 0),
            concurrent_runs=concurrent_runs,
        )

    def append_wait(self, claim: Claim, wait: WaitRow, *, event: str | None = None) -> Awaitable[bool]:
        """Submit the pause of a branch, whose run goes on. The result is False if the claim is lost."""
        now = self._now()
        return self._writer.write(
            lambda connection: self._statements.append_wait(connection, claim, wait, now, event=event), is_compound=True
        )

    def park(
        self,
        claim: Claim,
        wait: WaitRow,
        *others: WaitRow,
        event: str | None = None,
        outbox: Sequence[OutboxRow] = (),
    ) -> Awaitable[bool]:
        """Submit the run's pause. The result is False if the claim is lost."""
        now = self._now()
        self._active_run_ids.discard(claim.run_id)

        def act(connection: Connection) -> bool:
            done = self._statements.park(connection, claim, (wait, *others), now, event=event)
            if done:
                self._statements.fill_outbox(connection, claim.run_id, outbox, now + OWN_DELIVERY_S)
            return done

        return self._writer.write(act, is_compound=True)

    async def claim_deliveries(
        self,
        *,
        lane: str | None = None,
        busy: Collection[str] = (),
        lanes: int = MAX_LANES,
        per_lane: int = MESSAGES_PER_LANE,
    ) -> Sequence[tuple[str, OutboxRow, int]]:
        """
        Return messages of this executor's origin that are due, each with its run and its number of tries.

        If their delivery is not recorded within `OWN_DELIVERY_S`, they are due again.

        Args:
            lane: The lane of the messages; None for every lane.
            busy: Lanes whose messages stay.
            lanes: The most lanes of which messages are returned.
            per_lane: The most messages of a lane: those that have waited longest.
        """
        now = self._now()
        return await self._writer.write(
            lambda connection: self._statements.claim_deliveries(
                connection, now, now + OWN_DELIVERY_S, lane=lane, busy=busy, lanes=lanes, per_lane=per_lane
            ),
            is_compound=True,
        )

    async def add_messages(self, run_id: str, rows: Sequence[OutboxRow]) -> bool:
        """
        Add messages, which are due at once, to a run that has ended. A message that the run has already stays as it is.

        Returns False if the run was removed.
        """
        now = self._now()
        return await self._writer.write(
            lambda connection: self._statements.add_messages(connection, run_id, rows, now), is_compound=True
        )

    async def leave_deliveries(self, run_id: str, rows: Sequence[OutboxRow]) -> None:
        """Make messages due at once that this executor has not tried to deliver."""
        now = self._now()
        await self._writer.write(
            lambda connection: self._statements.leave_deliveries(connection, run_id, rows, now), is_compound=True
        )

    async def record_delivery(self, run_id: str, row: OutboxRow, shown: str, *, retry_at: float | None = None) -> bool:
        """Record the outcome of a delivery; without *retry_at* it is the last try."""
        return await self._writer.write(
            lambda connection: self._statements.record_delivery(connection, run_id, row, shown, retry_at)
        )

    async def release(self, claim: Claim) -> bool:
        """Make the run ready for its next attempt. Return False if the claim is lost."""
        self._active_run_ids.discard(claim.run_id)
        return await self._announced(lambda connection: self._ownership.release(connection, claim))

    async def release_orphan(self, claim: Claim) -> bool:
        """
        Make a run ready that this executor owns and does not execute, because an error has ended its task.

        After `MAX_LOST_TASKS` times, such a run is given up. If that end cannot be written either, it ends here, with a reason
        that needs nothing of the run. Returns False if the claim is lost.
        """
        self._active_run_ids.discard(claim.run_id)
        now = self._now()
        return await self._announced(
            lambda connection: self._ownership.release_orphan(connection, claim, now), is_compound=True
        )

    async def resolve_wait(
        self,
        key: WaitKey,
        outcome: WaitOutcome,
        payload: bytes | None = None,
        *,
        decision: NewDecision | None = None,
    ) -> WaitResolution:
        """
        End a pause: the run is ready, or cancelled. The first call wins, and its *decision* is recorded in the same commit.

        A call for a step that still runs counts when the step pauses.
        """
        now = self._now()
        return await self._announced(
            lambda connection: self._statements.resolve_wait(connection, key, outcome, payload, now, decision),
            is_compound=True,
            is_contended=True,
        )

    async def wake_due(self, limit: int = 500) -> int:
        """
        End the pauses whose time has come, with the outcome `timeout`. Return the number of runs.

        A run is ready, or cancelled if no call has resumed its `suspend`.
        """
        now = self._now()
        return await self._writer.write(
            lambda connection: self._statements.wake_due(connection, now, limit), is_compound=True
        )

    async def claim(self, run_id: str) -> ClaimedRun | None:
        """Claim the ready run; None if another executor was first, or the limits of its queue do not permit it."""
        now = self._presence.steady_time() + START_LEAD_S
        claims = await self._claim(lambda connection: [self._ownership.claim_one(connection, run_id, now)])
        return next(iter(claims), None)

    async def claim_next(
        self, queue: str | None = None, limit: int = 1, *, begin: int | None = None
    ) -> Sequence[ClaimedRun]:
        """Claim the oldest ready runs of this executor's origin in *queue*, within its limits; *begin* is as in `claim_ready`."""
        now, places = self._presence.steady_time() + START_LEAD_S, limit if begin is None else begin
        return await self._claim(lambda connection: self._ownership.claim_next(connection, queue, limit, now, places))

    async def claim_ready(self, limit: int, *, begin: int | None = None) -> Sequence[ClaimedRun]:
        """
        Claim ready runs of this executor's origin in every queue, within the limits of each.

        *begin* is the number of runs for which this process has a place to execute at once; None for all.
        """
        now, places = self._presence.steady_time() + START_LEAD_S, limit if begin is None else begin
        return await self._claim(lambda connection: self._ownership.claim_ready(connection, limit, now, places))

    async def _claim(self, act: Callable[[Connection], Sequence[C]]) -> Sequence[C]:
        def checked(connection: Connection) -> Sequence[C]:
            self._check_version(connection)
            return act(connection)

        await self._remove_ended_turns()
        executor_id = self.executor_id
        claims = await self._writer.write(checked, is_compound=True, is_contended=True)
        if self.is_lost or self.executor_id != executor_id:  # `rejoin` makes the runs ready, so others may start them
            return ()
        self._active_run_ids.update(claimed.claim.run_id for claimed in claims if claimed is not None)
        return claims

    async def set_queue_limits(
        self,
        queue: str,
        *,
        concurrency: int | None = None,
        max_starts: int | None = None,
        period_s: float | None = None,
        within: str | None = None,
    ) -> None:
        """Set the limits of *queue*; unchanged limits are not written again."""
        limits = (concurrency, max_starts, period_s, within)
        if self._queue_limits.get(queue) == limits:
            return
        await self._writer.write(
            lambda connection: self._ownership.set_queue_limits(connection, queue, *limits),
            is_contended=True,
        )
        self._queue_limits[queue] = limits

    async def add_turn(self, queue: str, run_id: str, *, size: int | None) -> bool:
        """Let a run that is not in the queue wait for its turn; return False if *size* runs wait already."""

        def add(connection: Connection) -> bool:
            self._check_lease()
            return self._ownership.add_turn(connection, queue, run_id, size)

        return await self._writer.write(add, is_compound=True, is_contended=True)

    async def grant_turn(self, queue: str, run_id: str) -> bool:
        """Let the run execute, if the limits of the queue permit it and nothing waits for longer; return whether it may."""
        await self._remove_ended_turns()
        now = self._presence.steady_time() + START_LEAD_S
        return await self._writer.write(
            lambda connection: self._ownership.grant_turn(connection, queue, run_id, now),
            is_compound=True,
            is_contended=True,
        )

    async def end_turn(self, run_id: str) -> None:
        """Remove the turn of a run that has ended, or waits no longer. If that fails, it is repeated when runs are looked for."""
        self._ended_turns.add(run_id)
        await self._remove_ended_turns()

    async def _remove_ended_turns(self) -> None:
        for run_id in tuple(self._ended_turns):
            await self._announced(partial(self._ownership.end_turn, run_id=run_id))
            self._ended_turns.discard(run_id)

    async def record_start(self, queue: str, claim: Claim) -> float:
        """Record that the first step of a claimed run of the queue begins; return 0, or the seconds until it may."""
        now = self._presence.steady_time()
        return await self._writer.write(
            lambda connection: self._ownership.record_start(connection, queue, claim, now, now + START_MARGIN_S),
            is_compound=True,
            is_contended=True,
            concurrent_runs=len(self._active_run_ids),
        )

    async def confirm_start(self, claim: Claim) -> None:
        """Record that the first step of the run has begun just now."""
        now = self._presence.steady_time()
        await self._writer.write(lambda connection: self._ownership.confirm_start(connection, claim, now))

    async def cancel(self, run_id: str, *, decision: NewDecision | None = None) -> bool:
        """Cancel a run regardless of its owner. Return False if it has ended."""
        now = self._now()
        return await self._announced(
            lambda connection: self._statements.cancel_run(connection, run_id, now, decision),
            is_compound=decision is not None,
            is_contended=True,
        )

    async def reap_dead(self, *, waits: bool = False) -> int:
        """
        End executors of dead processes. Their served runs are ready; the others end. Return the number of ready runs.

        With *waits*, a process that has only been silent is given the time to report, and is ended if it does not.
        """
        if waits and await self.read(self._presence.has_lapsed):
            while grace_s := self._presence.grace_s:
                await asyncio.sleep(grace_s)
        dead = await self.read(self._presence.find_dead)
        if not dead:
            return 0
        now = self._now()
        return await self._announced(
            lambda connection: self._ownership.bury(connection, self._presence.confirm_dead(connection, dead), now),
            is_compound=True,
            is_contended=True,
        )

    async def find_owned(self) -> Sequence[Claim]:
        """Return the claims of the runs that this executor owns."""
        me = self.executor_id
        return await self.read(lambda connection: self._ownership.owned_runs(connection, me))

    async def has_executor(self, origin: str) -> bool:
        """Return whether another living executor has that origin."""
        return await self.read(lambda connection: self._presence.has_living(connection, origin))

    async def remove_runs(self, run_ids: Sequence[str]) -> Sequence[str]:
        """
        Remove runs with their steps, pauses and messages, and definitions without a run. Return the ids of the removed runs.

        A run that is executing stays.
        """
        return await self._writer.write(
            lambda connection: remove_runs(connection, run_ids), is_compound=True, is_contended=True
        )

    async def release_space(self) -> bool:
        """Give a part of the space of removed runs back to the file system; return whether there is more to give back."""
        return await self._writer.write(self._backend.release_space, is_compound=True, is_contended=True)

    async def find_expired(self, default_days: float, limit: int = 500) -> Sequence[str]:
        """
        Return runs that ended before their workflow's retention.

        The retention is the setting `retention` in the definition of the workflow's newest run, or *default_days*.
        """
        now = self._now()
        return await self.read(partial(find_expired, now=now, default_days=default_days, limit=limit))

    async def next_wake(self) -> float | None:
        """
        Return when the next run can go on, in seconds since 1970; 0 if one can now; None if none waits.

        A run that waits for another run of its queue to end has no time.
        """
        jumps = self._presence.clock.jumps
        if jumps != self._corrected_jumps:
            await self._correct_due_times()
            self._corrected_jumps = jumps
        if self._writer.is_unmarked and not self._active_run_ids:
            await self._writer.write(lambda _: None)
        await self._remove_ended_turns()  # a run may wait for one that could not be removed when its run ended
        now, steady = self._now(), self._presence.steady_time() + START_LEAD_S

        def query(connection: Connection) -> float | None:
            self._check_version(connection)
            return self._ownership.next_wake(connection, now, steady)

        return await self.read(query)

    async def _correct_due_times(self) -> None:
        """Correct times that were stored while a clock was ahead: nothing waits for longer than it was meant to."""
        now = self._now()
        await self._writer.write(
            lambda connection: self._statements.correct_due_times(connection, now, MAX_RETRY_S),
            is_compound=True,
            is_contended=True,
        )

    async def list_executions(
        self,
        *,
        workflow: str | None = None,
        external_user_id: str | None = None,
        environment: str | None = None,
        status: Status | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> list[Execution]:
        """Return runs that match all arguments, newest first; *before* is the last id of the previous page."""
        return await self.executions(
            ExecutionQuery(workflow, external_user_id, environment, status, since, until, limit, before)
        )

    async def close(self) -> None:
        """Commit submitted writes, remove this executor, close the file. A second call does nothing."""
        await run_blocking(self._close)

    def _close(self) -> None:
        def leave(connection: Connection) -> None:
            self._ownership.release_runs(connection, self.executor_id)
            if not self._ownership.unregister_executor(connection):
                self._presence.expire(connection)

        self._writer.close(final_write=leave)
        self._close_queries()
        self._presence.close()

    async def _announced(
        self,
        act: Callable[[Connection], T],
        *,
        is_compound: bool = False,
        is_contended: bool = False,
        concurrent_runs: int = 2,
        is_needed: bool = True,
    ) -> T:
        """Run the write *act*; if it changes a run and *is_needed*, other processes are notified."""

        def announced(connection: Connection) -> T:
            result = act(connection)
            if is_needed and result and result not in ("late", "early"):
                self._presence.announce(connection)
            return result

        return await self._writer.write(
            announced, is_compound=is_compound, is_contended=is_contended, concurrent_runs=concurrent_runs
        )

    def _now(self) -> float:
        return self.clock.now().timestamp()


def open_journal(
    project: Project, *, clock: Clock = SYSTEM_CLOCK, ids: IdGenerator = RANDOM_IDS, origin: str = "terminal"
) -> Journal:
    """
    Become an executor of the project's journal; see `Journal.open`. On Postgres, it corrects the project's clock.

    Raises:
        ProjectError: The database cannot be used, or was written by a newer version.
        RequestError: Another process has the origin.
    """
    if clock is project.clock.source:
        clock = project.clock
    backend = _backend(project)
    backend.create_tables()
    _end_interrupted(backend, project)
    return Journal.open(backend, clock=clock, ids=ids, origin=origin)


def open_journal_reader(project: Project) -> JournalReader:
    """
    Open the project's journal to read runs, without becoming an executor; missing tables are created.

    Runs of commands and notebooks whose process has ended are recorded as interrupted before.

    Raises:
        ProjectError: The database cannot be used, or was written by a newer version.
    """
    backend = _backend(project)
    backend.create_tables()
    _end_interrupted(backend, project)
    return JournalReader(backend.open_snapshots())


def open_reader(backend: Backend) -> JournalReader:
    """Open the journal in *backend* to read runs; missing tables are created."""
    backend.create_tables()
    return JournalReader(backend.open_snapshots())


def _end_interrupted(backend: Backend, project: Project) -> None:
    with contextlib.suppress(
        ProjectError
    ):  # runs can be read although the database cannot be written, for example on a full disk
        backend.end_interrupted(project.clock.now().timestamp())


def mark_dead(project: Project, executor_id: str) -> None:
    """Mark the executor of a process that has ended as dead: others continue its runs without waiting for the end of its lease."""
    with project.sqlalchemy_engine.begin() as connection:
        connection.execute(update(executors).where(executors.c.id == executor_id).values(alive=False))


def _backend(project: Project) -> Backend:
    if project.sqlite_path is not None:
        return SqliteBackend(project.sqlite_path, permit_migration=project.permit_migration, mark=project.journal_mark)
    # psycopg is optional
    from pdkernel.journal.postgres import PostgresBackend

    return PostgresBackend(project)

"""
The journal in memory, for fast tests and for runs that are not recorded; the rules are those of the SQLite journal.

Executors that share `MemoryTables` see one record, like processes that share a file.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Self

from pdkernel.clock import RANDOM_IDS, SYSTEM_CLOCK, Clock, IdGenerator
from pdkernel.engine.journal.records import (
    FIRST_FENCE,
    LEASE_S,
    Claim,
    ClaimedRun,
    ExecutionQuery,
    FinalStatus,
    NewRun,
    RunRow,
    RunStatus,
    StepRow,
    WaitRow,
    build_execution,
    encode_definition,
    to_row_status,
)
from pdkernel.errors import ProjectError
from pdkernel.execution import Execution, Status
from pdkernel.model import Workflow


@dataclass(slots=True)
class _Run:
    new: NewRun
    created: float
    status: RunStatus
    owner: str | None
    fence: int
    attempt: int = 1
    wake_at: float | None = None
    ended: float | None = None
    output: str | None = None
    steps: dict[tuple[str, int], StepRow] = field(default_factory=dict)

    def append(self, row: StepRow | None) -> bool:
        """Record the step; return False if its key exists."""
        if row is None:
            return True
        key = (row.path, row.iteration)
        if key in self.steps:
            return False
        self.steps[key] = row
        return True

    def replace_event(self, event: str | None) -> None:
        """Replace the run's event text, unless *event* is None."""
        if event is not None:
            self.new = replace(self.new, event=event)


@dataclass(slots=True)
class _Limit:
    concurrency: int | None
    per: int | None
    period: float | None
    starts: list[float] = field(default_factory=list)


class MemoryTables:
    """The tables that the executors of one memory share."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.leases: dict[str, float] = {}
        self.definitions: dict[str, list[str]] = {}
        self.runs: dict[str, _Run] = {}
        self.limits: dict[str | None, _Limit] = {}


class MemoryJournal:
    """The journal of one executor in memory; implements `Journal`."""

    def __init__(self, store: MemoryTables, *, executor_id: str, clock: Clock, lease_s: float) -> None:
        self.executor_id = executor_id
        self.lease_s = lease_s
        self._store = store
        self._clock = clock
        self._closed = False
        store.leases[executor_id] = self._now() + lease_s

    @classmethod
    def open(
        cls,
        store: MemoryTables | None = None,
        *,
        clock: Clock = SYSTEM_CLOCK,
        ids: IdGenerator = RANDOM_IDS,
        lease_s: float = LEASE_S,
    ) -> Self:
        """Become an executor of *store*, or of new tables."""
        return cls(store or MemoryTables(), executor_id=ids.new("exec_", 20), clock=clock, lease_s=lease_s)

    async def deploy_definition(self, workflow: Workflow) -> int:
        """Return the version number of the workflow's definition; equal definitions have the same number."""
        definition = encode_definition(workflow)
        with self._locked() as store:
            versions = store.definitions.setdefault(workflow.name, [])
            if definition not in versions:
                versions.append(definition)
            return versions.index(definition) + 1

    async def accept_run(self, run: NewRun) -> bool:
        """Record the run: running, with this executor as the owner and fence 1; with a queue, ready and without owner."""
        with self._locked() as store:
            if run.id in store.runs or self.executor_id not in store.leases:
                return False
            created = self._now() if run.created is None else run.created
            store.runs[run.id] = (
                _Run(run, created, "running", self.executor_id, FIRST_FENCE)
                if run.queue is None
                else _Run(run, created, "ready", None, 0)
            )
            return True

    async def append_step(self, claim: Claim, row: StepRow, *, event: str | None = None) -> bool:
        """Record a finished step. Return False if the claim is lost, or the step is already recorded."""
        with self._owned_run(claim) as run:
            if run is None or not run.append(row):
                return False
            run.replace_event(event)
            return True

    async def finish(
        self,
        claim: Claim,
        status: FinalStatus,
        output: str,
        *,
        last_step: StepRow | None = None,
        event: str | None = None,
        ended: float | None = None,
        wait: bool = True,  # noqa: ARG002
    ) -> bool:
        """End the run. Return False if the claim is lost, or *last_step* is already recorded; *wait* has no effect."""
        with self._owned_run(claim) as run:
            if run is None or not run.append(last_step):
                return False
            run.replace_event(event)
            run.status, run.output, run.owner = status, output, None
            run.ended = self._now() if ended is None else ended
            return True

    async def park(
        self, claim: Claim, wait: WaitRow, *, last_step: StepRow | None = None, event: str | None = None
    ) -> bool:
        """Pause the run. Return False if the claim is lost, or *last_step* is already recorded."""
        with self._owned_run(claim) as run:
            if run is None or not run.append(last_step):
                return False
            run.replace_event(event)
            run.status, run.wake_at, run.owner = "paused", wait.wake_at, None
            return True

    async def resolve_wait(self, run_id: str, fence: int, outcome: str, payload: str | None = None) -> bool:  # noqa: ARG002
        """Make the paused run ready. Return False if another call was first."""
        with self._locked() as store:
            run = store.runs.get(run_id)
            return run is not None and run.fence == fence and _wake(run)

    async def wake_due(self, limit: int = 500) -> int:
        """Make runs ready whose pause has ended. Return the number of runs."""
        now = self._now()
        with self._locked() as store:
            waiting = [run for run in store.runs.values() if run.wake_at is not None and run.wake_at <= now]
            waiting.sort(key=lambda run: run.wake_at or 0.0)
            return sum(_wake(run) for run in waiting[:limit])

    async def claim(self, run_id: str) -> ClaimedRun | None:
        """Claim the ready run; None if another executor was first."""
        with self._locked() as store:
            run = store.runs.get(run_id)
            return None if run is None else self._claim(run)

    async def claim_next(self, queue: str | None = None, limit: int = 1) -> Sequence[ClaimedRun]:
        """Claim the oldest ready runs of *queue*, within its limits."""
        with self._locked() as store:
            ready = sorted(
                (run for run in store.runs.values() if run.status == "ready" and run.new.queue == queue),
                key=lambda run: (run.created, run.new.id),
            )
            free = self._count_free(store, queue, limit)
            claims = [claim for run in ready[:free] if (claim := self._claim(run)) is not None]
            if queue in store.limits:
                store.limits[queue].starts.extend([self._now()] * len(claims))
            return claims

    async def set_queue_limits(
        self,
        queue: str,
        *,
        concurrency: int | None = None,
        max_starts: int | None = None,
        period_s: float | None = None,
    ) -> None:
        """Set the limits of *queue*."""
        with self._locked() as store:
            store.limits[queue] = _Limit(concurrency, max_starts, period_s)

    async def cancel(self, run_id: str) -> bool:
        """Cancel a run regardless of its owner. Return False if it has ended."""
        with self._locked() as store:
            run = store.runs.get(run_id)
            if run is None or run.status not in ("ready", "paused", "running"):
                return False
            run.status, run.ended, run.owner, run.wake_at = "cancelled", self._now(), None, None
            return True

    async def heartbeat(self) -> bool:
        """Extend this executor's lease. Return False if the lease has expired and was reaped."""
        with self._locked() as store:
            if self.executor_id not in store.leases:
                return False
            store.leases[self.executor_id] = self._now() + self.lease_s
            return True

    async def reap_expired(self) -> int:
        """Remove executors with an expired lease and make their runs ready. Return the number of runs."""
        now = self._now()
        with self._locked() as store:
            dead = {executor for executor, until in store.leases.items() if until < now}
            store.leases = {executor: until for executor, until in store.leases.items() if executor not in dead}
            orphans = [run for run in store.runs.values() if run.owner in dead]
            for run in orphans:
                run.status, run.owner, run.attempt = "ready", None, run.attempt + 1
            return len(orphans)

    async def get_execution(self, run_id: str) -> Execution | None:
        """Return the run's current record, or None."""
        with self._locked() as store:
            run = store.runs.get(run_id)
            return None if run is None else _execution(store, run)

    async def list_executions(
        self,
        *,
        workflow: str | None = None,
        external_user: str | None = None,
        environment: str | None = None,
        status: Status | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> list[Execution]:
        """Return runs that match all arguments, newest first; *before* is the last id of the previous page."""
        query = ExecutionQuery(workflow, external_user, environment, status, since, until, limit, before)
        with self._locked() as store:
            found = [run for run in store.runs.values() if _matches(store, run, query)]
            found.sort(key=lambda run: (run.created, run.new.id), reverse=True)
            return [_execution(store, run) for run in found[:limit]]

    async def close(self) -> None:
        """Remove this executor, unless it owns runs: then its lease expires. A second call does nothing."""
        with self._store.lock:
            self._closed = True
            if not any(run.owner == self.executor_id for run in self._store.runs.values()):
                self._store.leases.pop(self.executor_id, None)

    @contextmanager
    def _locked(self) -> Iterator[MemoryTables]:
        if self._closed:
            raise ProjectError("The journal in memory is closed.", fix="Open the project again.")
        with self._store.lock:
            yield self._store

    @contextmanager
    def _owned_run(self, claim: Claim) -> Iterator[_Run | None]:
        """Yield the run if this executor owns it by that claim, else None."""
        with self._locked() as store:
            run = store.runs.get(claim.run_id)
            alive = self.executor_id in store.leases
            mine = run is not None and alive and run.fence == claim.fence and run.owner == self.executor_id
            yield run if mine else None

    def _claim(self, run: _Run) -> ClaimedRun | None:
        if run.status != "ready" or self.executor_id not in self._store.leases:
            return None
        run.status, run.owner, run.fence = "running", self.executor_id, run.fence + 1
        new = run.new
        return ClaimedRun(
            Claim(new.id, run.fence, run.attempt),
            new.workflow,
            new.version,
            new.event,
            new.external_user,
            new.environment,
        )

    def _count_free(self, store: MemoryTables, queue: str | None, free: int) -> int:
        allowed = store.limits.get(queue)
        if allowed is None:
            return free
        if allowed.concurrency is not None:
            running = sum(run.status == "running" and run.new.queue == queue for run in store.runs.values())
            free = min(free, allowed.concurrency - running)
        if allowed.per is not None and allowed.period is not None:
            allowed.starts = [at for at in allowed.starts if at > self._now() - (allowed.period or 0.0)]
            free = min(free, allowed.per - len(allowed.starts))
        return max(free, 0)

    def _now(self) -> float:
        return self._clock.now().timestamp()


def _wake(run: _Run) -> bool:
    if run.status != "paused":
        return False
    run.status, run.wake_at = "ready", None
    return True


def _execution(store: MemoryTables, run: _Run) -> Execution:
    new = run.new
    versions = store.definitions.get(new.workflow, [])
    row = RunRow(
        id=new.id,
        trace_id=new.trace_id,
        workflow=new.workflow,
        definition=versions[new.version - 1] if 0 < new.version <= len(versions) else None,
        event=new.event,
        external_user=new.external_user,
        environment=new.environment,
        status=run.status,
        fence=run.fence,
        attempt=run.attempt,
        created=run.created,
        ended=run.ended,
        output=run.output,
    )
    return build_execution(row, [step.data for step in sorted(run.steps.values(), key=lambda step: step.seq)])


def _matches(store: MemoryTables, run: _Run, query: ExecutionQuery) -> bool:
    given = (
        (query.workflow, run.new.workflow),
        (query.external_user, run.new.external_user),
        (query.environment, run.new.environment),
    )
    if any(wanted is not None and wanted != value for wanted, value in given):
        return False
    if query.status is not None:
        status, claimed = to_row_status(query.status)
        if run.status != status or (claimed is not None and (run.fence > 0) != claimed):
            return False
    if query.since is not None and run.created < query.since.timestamp():
        return False
    if query.until is not None and run.created >= query.until.timestamp():
        return False
    if query.before_id is None:
        return True
    last = store.runs.get(query.before_id)
    return last is not None and (run.created, run.new.id) < (last.created, last.new.id)

"""
Continues runs: pauses that have ended, runs of a process that died, and runs that others resume or cancel.

`Dispatch` is the protocol. The journal alone decides which process owns a run; a dispatch decides when to ask the journal.
`LocalDispatch` serves one process, `SharedDispatch` several processes or hosts on one database.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Awaitable, Callable, Collection
from operator import attrgetter
from typing import NoReturn, Protocol

from pdkernel.errors import DatabaseUnreachableError, PdkernelError
from pdkernel.journal import Claim, ClaimedRun, Journal

POLL_INTERVAL_S = 0.25
"""Seconds until changes by other processes are noticed."""
MIN_CANCEL_INTERVAL_S = 0.1
"""Minimum seconds between two reads of which runs in progress are cancelled."""
UNEXPECTED_RETRY_S = 1.0
"""Minimum seconds until something is tried again that failed by an unexpected error."""
SWEEP_INTERVAL_S = 1.0
"""With several processes: seconds until runs of dead processes, and runs whose notification was lost, are noticed."""
INTERVALS_PER_SEARCH = 20
"""
The intervals after which a process looks for its own runs that it does not execute, because an error has ended their task.

With one process, runs of commands and notebooks whose process has ended are noticed after as many, and a watched dispatch looks after
as many while nothing is due and the database does not change.
"""
MAX_CLAIMS = 100
"""Runs that are claimed at a time, so that requests are answered between them."""

_log = logging.getLogger(__name__)


class RunStarter(Protocol):
    """Starts claimed runs in this process."""

    @property
    def free_runs(self) -> int:
        """The number of runs that can be started now."""
        ...

    @property
    def expected_places(self) -> int:
        """The number of runs that would begin to execute at once; the others wait for a place."""
        ...

    @property
    def active_run_ids(self) -> Collection[str]:
        """The ids of the runs in progress that this protocol can cancel."""
        ...

    @property
    def executing_run_ids(self) -> Collection[str]:
        """The ids of all runs for which this process has a task: the active runs, and their child runs."""
        ...

    def continue_run(self, claimed: ClaimedRun) -> None:
        """Start a claimed run; returns at once."""
        ...

    def deliver_due(self) -> None:
        """Start to deliver messages that are due, to destinations to which no message is being sent; returns at once."""
        ...

    async def cancel(self, run_id: str) -> bool:
        """End a run in progress; return False if it is not in progress."""
        ...

    async def abandon_runs(self) -> None:
        """End the runs in progress and their workers without a record, because other processes continue them."""
        ...


class Dispatch(Protocol):
    """Finds the runs that this process continues."""

    def notify(self) -> None:
        """Look for runs at once: a run was paused or resumed by this process. Call it in the event loop of `run`."""
        ...

    def watch(self) -> Callable[[], None]:
        """Return a function to call after each change of the database by any process: the dispatch waits for it if nothing is due."""
        ...

    async def run(self) -> None:
        """Continue runs until the task is cancelled."""
        ...


def open_dispatch(journal: Journal, starter: RunStarter, *, interval_s: float | None = None) -> Dispatch:
    """
    Return the dispatch for the journal's database.

    Args:
        journal: The project's journal.
        starter: Starts the runs.
        interval_s: Seconds until it looks for runs without a notice; None for the default of the database.
    """
    if not journal.is_shared:
        return LocalDispatch(journal, starter, interval_s=interval_s or POLL_INTERVAL_S)
    return SharedDispatch(journal, starter, interval_s=interval_s or SWEEP_INTERVAL_S)


async def look_repeatedly(
    look: Callable[[], Awaitable[float]], notice: asyncio.Event, *, problem: str, retry_s: float
) -> NoReturn:
    """
    Call *look* until the task is cancelled; whatever it raises, it is tried again. An unexpected error is logged with its trace.

    Args:
        look: Returns the seconds until the next call.
        notice: Ends that wait.
        problem: The beginning of the warning when *look* fails.
        retry_s: Seconds until the next call after a failure.
    """
    has_failed = False
    while True:
        notice.clear()
        try:
            wait_s = await look()
            has_failed = False
        except PdkernelError as fault:
            if not has_failed:
                _log.warning("%s: %s", problem, fault.message)
            has_failed, wait_s = True, retry_s
        except Exception:  # noqa: BLE001 - without this task, the process would do nothing for ever
            if not has_failed:
                _log.exception("%s", problem)
            has_failed, wait_s = True, max(retry_s, UNEXPECTED_RETRY_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await notice.wait()


class LocalDispatch:
    """
    `Dispatch` for one process of each origin, from the journal's rows: a run is due by its row, so nothing else is stored.

    Args:
        journal: The journal.
        starter: Starts the runs.
        interval_s: Seconds until it looks for runs without a notice.
    """

    def __init__(self, journal: Journal, starter: RunStarter, *, interval_s: float = POLL_INTERVAL_S) -> None:
        self._journal = journal
        self._starter = starter
        self._interval_s = interval_s
        self._clock = journal.clock
        self._is_notified = asyncio.Event()
        self._is_new = False  # whether `notify` was called since the last `_continue_ready`
        self._is_watched = self._is_blocked = False
        self._has_changed = True  # whether the database has changed since the last look began
        self._next_reap = -math.inf
        self._times_read_at = self._cancelled_read_at = self._claimed_at = -math.inf
        self._orphans: frozenset[Claim] = frozenset()
        self._refused = set[Claim]()  # orphans whose release was refused, which is logged once
        self._next_orphan_search = -math.inf

    def notify(self) -> None:
        """Look for runs at once."""
        self._is_new = True
        self._look_soon()

    def watch(self) -> Callable[[], None]:
        """Return a function to call after each change of the database."""
        self._is_watched = True
        return self._look_soon

    def _look_soon(self) -> None:
        self._has_changed = True
        self._is_notified.set()

    async def run(self) -> None:
        """Continue runs until the task is cancelled; an unreadable database is tried again."""
        problem = "Runs cannot be continued at the moment"
        await look_repeatedly(self._look, self._is_notified, problem=problem, retry_s=POLL_INTERVAL_S)

    async def _look(self) -> float:
        """Continue runs; return the seconds until the next look."""
        if self._clock.monotonic() >= self._next_reap:
            await self._journal.reap_dead()
            self._next_reap = self._clock.monotonic() + INTERVALS_PER_SEARCH * self._interval_s
        await self._release_orphans()
        # after a change it looks twice, because a mark of the last commit may not be due at the first time
        is_idle, self._has_changed = self._is_watched and not self._has_changed, False
        wait_s = await self._continue_due()
        idle_s = INTERVALS_PER_SEARCH * self._interval_s
        return min(wait_s, idle_s if is_idle and not self._is_blocked else self._interval_s)

    async def _release_orphans(self) -> None:
        """
        Release runs that this process owns and has no task for, because an unexpected error has ended it.

        A run that begins or ends at this moment looks the same, so only what two searches have found is released. A run of which
        this is true again and again is given up, so that it does not execute its last steps for ever. A release that the database
        refuses is tried again at each search, because the disk may be full for a while.
        """
        if self._clock.monotonic() < self._next_orphan_search:
            return
        self._next_orphan_search = self._clock.monotonic() + INTERVALS_PER_SEARCH * self._interval_s
        owned = await self._journal.find_owned()
        executing = set(self._starter.executing_run_ids)
        orphans = frozenset(claim for claim in owned if claim.run_id not in executing)
        for claim in orphans & self._orphans:
            try:
                if await self._journal.release_orphan(claim):
                    _log.error(
                        "The run %s had no task in this process, which owns it: it is started again, or ends after several times. "
                        "An error above this line is the cause.",
                        claim.run_id,
                    )
            except Exception as fault:
                if isinstance(fault, DatabaseUnreachableError):
                    raise
                if claim not in self._refused:
                    _log.exception(
                        "The run %s has no task in this process, and the database refuses to end it: it stays in progress, and is "
                        "tried again",
                        claim.run_id,
                    )
                self._refused.add(claim)
        self._orphans = orphans
        self._refused &= orphans

    async def _continue_due(self) -> float:
        """Continue the runs that are due; return the seconds until the next one is due, or 0 if one was."""
        delay_s = await self._end_cancelled()
        return min(delay_s, await self._continue_ready())

    async def _continue_ready(self) -> float:
        if self._is_new:
            self._is_new = False
            # a claim is a write, so a run that ends causes one only if runs have waited for limits recently
            are_waiting = self._clock.monotonic() < self._claimed_at + POLL_INTERVAL_S
            if are_waiting and self._starter.free_runs > 0 and await self._start_ready():
                return 0.0
        due = await self._journal.next_wake()
        wait_s = math.inf if due is None else due - self._clock.now().timestamp()
        self._is_blocked = due is not None and wait_s <= 0  # unless something is started below
        if due is None or wait_s > 0:
            return wait_s
        woken = 0
        if due > 0 or self._clock.monotonic() >= self._times_read_at + self._interval_s:
            self._times_read_at = self._clock.monotonic()
            self._starter.deliver_due()
            woken = await self._journal.wake_due()
        return 0.0 if await self._start_ready(woken) or woken else math.inf

    async def _start_ready(self, woken: int = 0) -> int:
        """Start ready runs as long as there is room; return their number. *woken* runs have become ready just now."""
        free = min(self._starter.free_runs, MAX_CLAIMS)
        claims = await self._journal.claim_ready(free, begin=self._starter.expected_places) if free > 0 else ()
        for claimed in sorted(claims, key=attrgetter("interruptions")):  # what ends processes must not go first
            self._claimed_at = self._clock.monotonic()
            self._starter.continue_run(claimed)
        if len(claims) >= free or len(claims) < woken:
            await self._offer_ready(woken)
        return len(claims)

    async def _offer_ready(self, woken: int) -> None:
        """Inform other processes of ready runs that this one has not claimed; *woken* of them have become ready now."""

    async def _end_cancelled(self) -> float:
        """End runs in progress that another process has cancelled; return the seconds until the next call may read them."""
        active = list(self._starter.active_run_ids)
        if not active:
            return math.inf
        now = self._clock.monotonic()
        delay_s = self._cancelled_read_at + MIN_CANCEL_INTERVAL_S - now
        if delay_s > 0:
            return delay_s
        self._cancelled_read_at = now
        for run_id in await self._journal.find_cancelled(active):
            await self._starter.cancel(run_id)
        return math.inf


class SharedDispatch(LocalDispatch):
    """
    `Dispatch` for several processes or hosts on one database, whose executors have leases.

    When a pause ends, all processes look, and the first one that claims the run continues it. Notifications of the database
    tell of what becomes due earlier. Each process looks for runs once a second too (a sweep), so that a lost notification
    delays a run by a second at most.

    Args:
        journal: The journal.
        starter: Starts the runs.
        interval_s: Seconds between two sweeps.
    """

    def __init__(self, journal: Journal, starter: RunStarter, *, interval_s: float = SWEEP_INTERVAL_S) -> None:
        super().__init__(journal, starter, interval_s=interval_s)
        self._next_sweep = -math.inf
        self._has_news = False

    def notify(self) -> None:
        """Look for runs at once, and inform the other processes of those for which this one has no room."""
        self._has_news = True
        super().notify()

    async def run(self) -> None:
        """Continue runs until the task is cancelled; a lost database is tried again."""
        loop = asyncio.get_running_loop()
        notify = super().notify

        def notify_from_thread() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(notify)

        self._journal.on_change(notify_from_thread)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(
                look_repeatedly(
                    self._check_lease,
                    asyncio.Event(),
                    problem="This process cannot return to the database at the moment",
                    retry_s=POLL_INTERVAL_S,
                )
            )
            tasks.create_task(super().run())

    async def _check_lease(self) -> float:
        """End the runs of this process and start anew, if others have taken it for dead; return the seconds until the next check."""
        if self._journal.is_lost:
            if self._starter.active_run_ids:
                _log.warning(
                    "This process could not extend its lease in time: it ends its runs, which others continue."
                )
            await self._starter.abandon_runs()
            # raises an error if the key was replaced: the process stays lost, and is started again
            await self._journal.rejoin()
            self.notify()
        return POLL_INTERVAL_S

    async def _look(self) -> float:
        if not self._journal.may_start:
            return POLL_INTERVAL_S
        if self._clock.monotonic() >= self._next_sweep:
            self._next_sweep = self._clock.monotonic() + self._interval_s
            await self._journal.reap_dead()
        await self._release_orphans()
        return min(await self._continue_due(), self._interval_s)

    async def _offer_ready(self, woken: int) -> None:
        # not after an announcement of another process: two full processes would notify each other endlessly
        if woken or self._has_news:
            self._has_news = False
            await self._journal.announce()

"""
Continues the runs of one process: pauses that have ended, runs of a process that died, and runs that others resume or cancel.

`Dispatch` is the protocol. `LocalDispatch` reads the journal: a run is due by its row, so nothing else must be kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection
from typing import Protocol

from pdkernel.clock import Clock
from pdkernel.engine.journal import ClaimedRun, Journal
from pdkernel.errors import PdkernelError

POLL_INTERVAL_S = 0.25
"""Seconds until changes by other processes are noticed."""
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
    def active_run_ids(self) -> Collection[str]:
        """The ids of the runs in progress."""
        ...

    def continue_run(self, claimed: ClaimedRun) -> None:
        """Start a claimed run; returns at once."""
        ...

    def deliver_due(self) -> None:
        """Start to deliver messages that are due, unless that is going on; returns at once."""
        ...

    async def cancel(self, run_id: str) -> bool:
        """End a run in progress; return False if it is not in progress."""
        ...


class Dispatch(Protocol):
    """Finds the runs that this process continues."""

    def notify(self) -> None:
        """Look for runs at once: a run was paused or resumed by this process. Call it in the event loop of `run`."""
        ...

    async def run(self) -> None:
        """Continue runs until the task is cancelled."""
        ...


class LocalDispatch:
    """
    `Dispatch` for one process of each origin, from the journal's rows.

    Args:
        journal: The journal.
        starter: Starts the runs.
        clock: For the ends of pauses.
    """

    def __init__(self, journal: Journal, starter: RunStarter, clock: Clock) -> None:
        self._journal = journal
        self._starter = starter
        self._clock = clock
        self._is_notified = asyncio.Event()
        self._times_read_at = -POLL_INTERVAL_S

    def notify(self) -> None:
        """Look for runs at once."""
        self._is_notified.set()

    async def run(self) -> None:
        """Continue runs until the task is cancelled; an unreadable database is tried again."""
        has_failed = has_reaped = False
        while True:
            self._is_notified.clear()
            try:
                if not has_reaped:
                    await self._journal.reap_dead()
                    has_reaped = True
                wait_s = await self._continue_due()
                has_failed = False
            except PdkernelError as fault:
                if not has_failed:
                    _log.warning("Runs cannot be continued at the moment: %s", fault.message)
                has_failed, wait_s = True, POLL_INTERVAL_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._is_notified.wait()

    async def _continue_due(self) -> float:
        """Continue the runs that are due; return the seconds until the next look."""
        for run_id in await self._find_cancelled():
            await self._starter.cancel(run_id)
        due = await self._journal.next_wake()
        if due is None:
            return POLL_INTERVAL_S
        wait_s = due - self._clock.now().timestamp()
        if wait_s > 0:
            return min(wait_s, POLL_INTERVAL_S)
        if due > 0 or self._clock.monotonic() >= self._times_read_at + POLL_INTERVAL_S:
            self._times_read_at = self._clock.monotonic()
            self._starter.deliver_due()
            await self._journal.wake_due()
        free = min(self._starter.free_runs, MAX_CLAIMS)
        claims = await self._journal.claim_ready(free) if free > 0 else ()
        for claimed in claims:
            self._starter.continue_run(claimed)
        return 0.0 if claims else POLL_INTERVAL_S

    async def _find_cancelled(self) -> Collection[str]:
        active = list(self._starter.active_run_ids)
        return await self._journal.find_cancelled(active) if active else ()

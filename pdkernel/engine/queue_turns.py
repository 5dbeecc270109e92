"""
The turns of runs of limited workflows (`settings: concurrency`, `throttle`): when a run may execute, and when it has started.

A run that a server has stored waits in the journal's queue, and a dispatcher claims it within the limits. Every other run of the
workflow (one that is not stored, a replay in a terminal, a child run of these) waits here for the same limits.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Self

from pdkernel.engine.dispatch import POLL_INTERVAL_S
from pdkernel.engine.limits import QueueFullError, QueueLimits, batch_limits, queue_limits
from pdkernel.engine.run_request import RunRequest
from pdkernel.errors import PdkernelError
from pdkernel.journal import Claim, RunJournal


def find_limits(request: RunRequest) -> QueueLimits | None:
    """Return the limits within which the run of *request* executes; None without limits, and for a test or a run without steps."""
    if request.interface != "http" or request.refusal is not None or request.only_steps == frozenset():
        return None
    each = request.workflow.trigger.for_each if request.batch is not None else None
    if each is not None:
        return batch_limits(request.workflow, request.queue, request.emitter_id or "", each.at_once)
    return queue_limits(request.workflow, request.queue)


class QueueTurn:
    """
    The turn of one run.

    Args:
        journal: The journal that counts the runs of all processes.
        limits: The limits of the run's workflow.
        claim: The claim of the run.
        is_claimed: Whether a dispatcher has claimed the run within the limits, so that it need not wait.
    """

    def __init__(self, journal: RunJournal, limits: QueueLimits, claim: Claim, *, is_claimed: bool) -> None:
        self._journal = journal
        self._limits = limits
        self._claim = claim
        self._is_claimed = self._is_granted = is_claimed
        self._has_started = self._is_unconfirmed = False

    @classmethod
    async def enter(cls, journal: RunJournal, limits: QueueLimits, claim: Claim, *, is_new: bool) -> Self:
        """
        Let the run wait for its turn. The caller must call `end`.

        Raises:
            QueueFullError: The run *is_new*, and as many runs wait as the limits permit.
            ProjectError: The database cannot be written.
        """
        await set_limits(journal, limits)
        if not await journal.add_turn(limits.queue, claim.run_id, size=limits.size if is_new else None):
            raise QueueFullError(limits)
        return cls(journal, limits, claim, is_claimed=False)

    async def wait(self, on_progress: Callable[[str], None] | None) -> None:
        """Wait until the limits permit the run; *on_progress* gets a line if that takes a while. Raises `ProjectError`."""
        while not self._is_granted:
            self._is_granted = await self._journal.grant_turn(self._limits.queue, self._claim.run_id)
            if not self._is_granted:
                if on_progress is not None:
                    on_progress("The run waits for the limits of its workflow (settings: concurrency, throttle).")
                    on_progress = None
                await asyncio.sleep(POLL_INTERVAL_S)

    async def record_start(self) -> None:
        """Wait until the first step of the run may begin, and record that it does; a second call does nothing. Raises `ProjectError`."""
        if not self._has_started and self._limits.max_starts is not None:
            while wait_s := await self._journal.record_start(self._limits.start_queue, self._claim):
                await asyncio.sleep(min(wait_s, POLL_INTERVAL_S))
            self._is_unconfirmed = True
        self._has_started = True

    @property
    def awaits_begin(self) -> bool:
        """Whether the moment at which the next step begins is to be recorded."""
        return self._limits.max_starts is not None and not self._has_started

    async def confirm_start(self) -> None:
        """Record that the first step has begun just now, once. If the database cannot be written, the start counts a little longer."""
        if self._is_unconfirmed:
            self._is_unconfirmed = False
            with contextlib.suppress(PdkernelError):
                await self._journal.confirm_start(self._claim)

    async def end(self) -> None:
        """Let other runs execute: the run has ended, pauses, or waits no longer."""
        if not self._is_claimed:
            with contextlib.suppress(PdkernelError):  # the journal repeats it
                await self._journal.end_turn(self._claim.run_id)


async def set_limits(journal: RunJournal, limits: QueueLimits) -> None:
    """Store the limits of a queue. Raises `ProjectError`."""
    outer = limits.outer
    if outer is None:
        await journal.set_queue_limits(
            limits.queue, concurrency=limits.concurrency, max_starts=limits.max_starts, period_s=limits.period_s
        )
        return
    await set_limits(journal, outer)
    await journal.set_queue_limits(limits.queue, concurrency=limits.concurrency, within=outer.queue)

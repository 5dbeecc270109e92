"""
The limits of workflows (`settings: concurrency`, `throttle`, `queue`), and the turns of their runs.

A turn says when a run may execute, and when it has started.

A run that a server has stored waits in the journal's queue, and a dispatcher claims it within the limits. Every other run of the
workflow (one that is not stored, a replay in a terminal, a child run of these) waits here for the same limits.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from pdkernel.engine.dispatch import POLL_INTERVAL_S
from pdkernel.engine.run_request import RunRequest
from pdkernel.errors import PdkernelError, RequestError, format_count
from pdkernel.journal import Claim, RunJournal
from pdkernel.model import Workflow

DEFAULT_QUEUE_SIZE = 100
"""Runs that wait for a limited workflow, unless `settings: queue` sets another number (the platform's smallest queue)."""
_LIMITS = ("concurrency", "throttle", "rate_limit")
DEFAULT_BUCKET_SIZE_S = 1
"""The period of `rate_limit` in seconds, if `workflow.yaml` does not have it."""


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """
    The limits of a workflow, which its runs share in one queue.

    Attributes:
        queue: The name of the queue.
        concurrency: Runs that execute at once, or None. A paused run does not execute.
        max_starts: Runs that start within *period_s* seconds, or None.
        period_s: The length of the period, or None.
        size: Runs of one external user that wait if no others do; a further run is refused. All users have twice as many together.
            None for any number.
        outer: The limits of the workflow for the runs of a batch, which have a queue of their own within the workflow's; or None.
    """

    queue: str
    concurrency: int | None
    max_starts: int | None
    period_s: float | None
    size: int | None
    outer: QueueLimits | None = None

    @property
    def start_queue(self) -> str:
        """The queue for which starts are recorded."""
        return self.queue if self.outer is None else self.outer.queue


class QueueFullError(RequestError):
    """The queue of a limited workflow is full (the platform's "Event Queue Full")."""

    code = "queue_full"

    def __init__(self, limits: QueueLimits) -> None:
        super().__init__(
            f"Event Queue Full: the limits of this workflow let {format_count(limits.size or 0, 'run')} wait.",
            fix="Set a larger number of waiting runs (settings: queue), or raise concurrency or throttle.",
        )


def queue_limits(workflow: Workflow, workflow_id: str) -> QueueLimits | None:
    """Return the limits that the settings `concurrency` and `throttle`, or `rate_limit`, set, or None."""
    settings = workflow.settings
    if settings.keys().isdisjoint(_LIMITS):
        return None
    throttle = settings.get("throttle")
    if not isinstance(throttle, dict):
        throttle = {
            "limit": settings.get("rate_limit"),
            "interval": settings.get("rate_limit_bucket_size_seconds", DEFAULT_BUCKET_SIZE_S),
        }
    concurrency = _read_concurrency(settings.get("concurrency"))
    limit, interval = map(_as_count, map(throttle.get, ("limit", "interval")))
    if limit is None or not interval:
        limit = interval = None
    if concurrency is None and limit is None:
        return None
    size = _as_count(settings.get("queue", settings.get("max_event_queue_size")))
    return QueueLimits(workflow_id, concurrency, limit, interval, DEFAULT_QUEUE_SIZE if size is None else size)


def batch_limits(workflow: Workflow, workflow_id: str, trigger_id: str, at_once: int) -> QueueLimits:
    """
    Return the limits of the runs that one tick of a schedule starts for each external user.

    They have a queue of the schedule, in which any number waits, so that they take no place of other events. They keep the
    limits of the workflow as well.
    """
    outer = queue_limits(workflow, workflow_id) or QueueLimits(workflow_id, None, None, None, DEFAULT_QUEUE_SIZE)
    return QueueLimits(f"{workflow_id}/{trigger_id}", at_once, outer.max_starts, outer.period_s, None, outer)


def _read_concurrency(value: object) -> int | None:
    """Return the number of runs at once: itself, or the one number of a mapping; synced files have `{default: true}` for no limit."""
    if isinstance(value, dict):
        numbers = [number for number in map(_as_count, value.values()) if number is not None]
        value = numbers[0] if len(numbers) == 1 and value.get("default") is not True else None
    return _as_count(value) or None


def _as_count(value: object) -> int | None:
    """Return *value* if it is a number that a limit can have, else None: an unknown form in a synced file limits nothing."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def find_limits(request: RunRequest) -> QueueLimits | None:
    """Return the limits within which the run of *request* executes; None without limits, and for a test or a run without steps."""
    if request.interface != "http" or request.refusal is not None or request.is_only_recorded:
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

    Attributes:
        journal: The journal.
    """

    def __init__(self, journal: RunJournal, limits: QueueLimits, claim: Claim, *, is_claimed: bool) -> None:
        self.journal = journal
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
            self._is_granted = await self.journal.grant_turn(self._limits.queue, self._claim.run_id)
            if not self._is_granted:
                if on_progress is not None:
                    on_progress("The run waits for the limits of its workflow (settings: concurrency, throttle).")
                    on_progress = None
                await asyncio.sleep(POLL_INTERVAL_S)

    async def record_start(self) -> None:
        """Wait until the first step of the run may begin, and record that it does; a second call does nothing. Raises `ProjectError`."""
        if not self._has_started and self._limits.max_starts is not None:
            while wait_s := await self.journal.record_start(self._limits.start_queue, self._claim):
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
                await self.journal.confirm_start(self._claim)

    async def end(self) -> None:
        """Let other runs execute: the run has ended, pauses, or waits no longer."""
        if not self._is_claimed:
            with contextlib.suppress(PdkernelError):  # the journal repeats it
                await self.journal.end_turn(self._claim.run_id)


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

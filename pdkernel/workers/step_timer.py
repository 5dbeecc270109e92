"""
The time limit of a running step.

A process that is stopped (SIGSTOP, a suspended machine) and goes on finds that its timers are overdue before it reads what a step has
replied meanwhile. So the time in which this process did not run does not count.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

TICK_S = 0.5
"""Seconds between two looks at the clock."""
_FROZEN_S = 1.0
"""A look that is later than this finds that the process was stopped."""


class StepTimer:
    """
    Calls *on_timeout* once a step has run for *timeout_s* seconds, unless it is cancelled before.

    A step that was running when the process was stopped has one more tick after that, in which its reply is read.
    """

    def __init__(self, timeout_s: float, on_timeout: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._left_s = timeout_s
        self._on_timeout = on_timeout
        self._has_grace = True
        self._schedule()

    def cancel(self) -> None:
        """Do not call `on_timeout` any more. A second call does nothing."""
        self._handle.cancel()

    def _schedule(self) -> None:
        self._tick_s = min(self._left_s, TICK_S)
        self._looked_at = self._loop.time()
        self._handle = self._loop.call_later(self._tick_s, self._look)

    def _look(self) -> None:
        late_s = self._loop.time() - self._looked_at - self._tick_s
        was_frozen = late_s > _FROZEN_S
        self._left_s -= self._tick_s if was_frozen else self._tick_s + late_s
        if self._left_s > 0:
            self._schedule()
        elif was_frozen and self._has_grace:
            self._has_grace = False
            self._left_s = TICK_S
            self._schedule()
        else:
            self._on_timeout()

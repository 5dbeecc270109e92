"""
Whether the project's database answers now, and has changed, found out in the background.

A request must not find it out: a statement to a server that is frozen, or behind a network that drops packets, waits for a
long time. Nor should what continues runs read the database again and again while nothing changes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NoReturn

from pdkernel.common.blocking import DatabaseWait, run_blocking_in
from pdkernel.common.clock import Clock
from pdkernel.errors import ProjectError

INTERVAL_S = 0.5
"""Seconds between two checks."""
TIMEOUT_S = 1.0
"""Seconds after which a check without an answer means that the database does not answer."""


_REPORT_INTERVAL_S = 10.0
_LOG = logging.getLogger(__name__)


class DatabaseProbe:
    """
    Asks a database again and again whether it answers.

    Args:
        ping: Asks the database once, and may return a value that differs after a change; blocks, and raises `ProjectError`.
        clock: Limits the lines in the log to one in ten seconds.
        interval_s: Seconds between two checks.
        timeout_s: Seconds for which a check waits for an answer.

    Attributes:
        answers: Whether the database answered the last check in time.
        on_change: Called when the value of `ping` has changed.
    """

    def __init__(
        self, ping: Callable[[], object], clock: Clock, *, interval_s: float = INTERVAL_S, timeout_s: float = TIMEOUT_S
    ) -> None:
        self.answers = True
        self.on_change: Callable[[], None] = lambda: None
        self._version: object = None
        self._waits: set[DatabaseWait] = set()
        self._ping = ping
        self._clock = clock
        self._reported_at = -_REPORT_INTERVAL_S
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        # its own: while a database does not answer, those for requests may all wait for it
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pdkernel-probe")

    def report(self, reason: str) -> None:
        """Log why requests cannot be answered."""
        now = self._clock.monotonic()
        if now - self._reported_at >= _REPORT_INTERVAL_S:
            self._reported_at = now
            _LOG.error("Requests are answered 503 at the moment: %s", reason)

    @contextmanager
    def request(self) -> Iterator[DatabaseWait]:
        """Let the current task wait for the database only as long as it answers; else the task gets `CancelledError`."""
        wait = DatabaseWait.begin(lambda: self.answers or wait not in self._waits)
        self._waits.add(wait)
        try:
            yield wait
        finally:
            self.release(wait)

    def release(self, wait: DatabaseWait) -> None:
        """Let the task wait for as long as it takes: its response has begun."""
        self._waits.discard(wait)

    async def run(self) -> NoReturn:
        """Check the database until the task is cancelled."""
        try:
            while True:
                await self._check()
                await asyncio.sleep(self._interval_s)
        finally:
            self._thread.shutdown(wait=False)

    async def _check(self) -> None:
        asked = run_blocking_in(self._thread, self._ping)
        if not (await asyncio.wait([asked], timeout=self._timeout_s))[0]:
            self._set_silent(f"The project's database has not answered for {self._timeout_s:g} seconds.")
            await asyncio.wait([asked])  # the thread waits anyway; its end may be an answer
        try:
            version = asked.result()
        except ProjectError as fault:
            self._version = None  # another connection counts anew
            self._set_silent(fault.message)
        except Exception as fault:  # noqa: BLE001 - without this task, nothing notices that the database does not answer
            _LOG.exception("The project's database could not be checked")
            self._version = None
            self._set_silent(f"The check of the project's database has failed: {type(fault).__name__}.")
        else:
            self.answers = True
            if version != self._version:
                self._version = version
                self.on_change()

    def _set_silent(self, reason: str) -> None:
        self.answers = False
        self.report(reason)
        for wait in self._waits:
            wait.give_up()

"""The health checks of a simulation: `/-/live` answers at once, and `/-/ready` knows within seconds whether the database answers."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from tests.simulation.operations import FAULT_S, Operation, Run

LIVE_S = 0.1
"""The longest time of an answer of `/-/live`, in virtual seconds, whatever the database does."""
READY_S = 2.0
"""The longest time until a host without its database is not ready, in virtual seconds."""
READY_AGAIN_S = 6.0
"""The longest time until a host is ready after a fault of its database, or of itself: a check that waits for an answer lasts five seconds."""


class Health:
    """
    The health checks of one world.

    Args:
        world: The world.
    """

    kinds: Collection[str] = ("check",)

    def __init__(self, world: Any) -> None:
        self._world = world
        self._tasks: list[asyncio.Task[None]] = []
        self._problems: list[str] = []

    def begin(self, operation: Operation) -> None:
        """Check a host."""
        self._check(self._world.hosts[operation.host], 0.0)

    def follow(self, host: Any, seconds: float) -> None:
        """Check *host*, which is without its database for so many *seconds*, when it should know of it, and when it should be ready again."""
        if seconds > READY_S:
            self._check(host, READY_S)
        self._check(host, seconds + READY_AGAIN_S + 0.1)

    def _check(self, host: Any, delay_s: float) -> None:
        server = host.server
        if server is not None and server.app is not None:
            self._tasks.append(self._world.loop.create_task(self._ask(server, delay_s)))

    async def _ask(self, server: Any, delay_s: float) -> None:
        loop, process, host = self._world.loop, server.process, server.host
        await asyncio.sleep(delay_s)
        asked = loop.time()
        if process.is_dead or host.is_stopping or process.thawed_at > asked:
            return
        live = await self._world.ask(server, "/-/live")
        took = loop.time() - asked
        if process.is_dead or host.is_stopping or process.thawed_at > max(asked, process.blocked_until):
            return
        if live.status != 200 or took > LIVE_S:
            self._problems.append(f"{process.name} answered {live.status} to /-/live at {asked:.3f} after {took:.3f} s")
        link = host.link
        down_since, healed_at = (math.inf, -math.inf) if link is None else (link.down_since, link.heals_at)
        ready = await self._world.ask(server, "/-/ready")
        if ready.status is None or host.is_stopping or process.thawed_at > asked:
            return
        if ready.status == 200 and down_since < asked - READY_S and process.thawed_at < down_since:
            self._problems.append(
                f"{process.name} was ready at {asked:.3f}, without its database since {down_since:.3f}"
            )
        faults = (end - FAULT_S for begin, end in self._world.faults_at if begin <= asked)
        disturbed = max((healed_at, process.thawed_at, *faults))
        if ready.status != 200 and asked > disturbed + READY_AGAIN_S and not self._world.has_bugs:
            self._problems.append(
                f"{process.name} was not ready at {asked:.3f}, although nothing was wrong since {disturbed:.3f}"
            )

    def is_settled(self, _runs: Sequence[Run]) -> bool:
        """Return whether all answers have arrived."""
        return all(each.done() for each in self._tasks)

    def check(self, _runs: Sequence[Run]) -> Iterator[str]:
        """Yield the answers that were late or wrong."""
        for task in self._tasks:
            if task.done() and (fault := task.exception()) is not None:
                raise fault
        yield from self._problems

"""
Starts processes under the guard, and answers for them as long as one of them lives.

Knows event loops and who listens to which process tree. What may go where is `supervisor`'s to know.
"""

from __future__ import annotations

import asyncio
import os
import platform
from collections.abc import Callable
from typing import TypeVar

from pdkernel.egress.guard.addresses import Place
from pdkernel.egress.guard.choice import Guard, available, listening, locked
from pdkernel.egress.guard.filters import MACHINES
from pdkernel.egress.guard.names import Names
from pdkernel.egress.guard.supervisor import Supervisor

_T = TypeVar("_T")


class Guarding:
    """The guard of one gateway."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        port: int,
        refused: Callable[[str, str, Place], None],
        guard: Guard | None = None,
    ) -> None:
        """
        Nothing is tried or opened before it is needed.

        Args:
            loop: Where questions are answered.
            port: Of the gateway.
            refused: Told the ticket, what was refused, and where it wanted to go.
            guard: Which guard to use; the best that works here if not given.
        """
        self._loop = loop
        self._port = port
        self._refused = refused
        self._chosen = guard
        self._names: Names | None = None
        self._supervisors: set[Supervisor] = set()

    @property
    def guard(self) -> Guard:
        """Which guard is in force."""
        return self._chosen or available()

    def name_of(self, host: str) -> str:
        """The name that *host*, an address, was given out for; any other host as it is."""
        return host if self._names is None else self._names.name(host)

    def start(self, ticket: str, start: Callable[[], _T], *, public_only: bool = False) -> _T:
        """*start*'s result; the processes that it starts, and theirs, are guarded; with *public_only*, from this machine."""
        guard = self.guard
        if guard == "none":
            return start()
        if guard == "landlock":
            return locked(start, self._port)
        if self._names is None:
            self._names = Names()
            self._loop.call_soon_threadsafe(self._loop.add_reader, self._names.socket, self._names.answer)
        result, listener = listening(start)
        supervisor = Supervisor(
            listener,
            MACHINES[platform.machine()],
            gateway=self._port,
            name_server=self._names.port,
            ticket=ticket,
            refused=lambda what, place: self._refused(ticket, what, place),
            public_only=public_only,
        )
        self._supervisors.add(supervisor)
        self._loop.call_soon_threadsafe(self._loop.add_reader, listener, self._answer, supervisor)
        return result

    def close(self) -> None:
        """Answer nobody any more: what is still running gets no connection."""
        for supervisor in list(self._supervisors):
            self._forget(supervisor)
        if self._names is not None:
            self._loop.remove_reader(self._names.socket)
            self._names.close()

    def _answer(self, supervisor: Supervisor) -> None:
        if not supervisor.answer():
            self._forget(supervisor)

    def _forget(self, supervisor: Supervisor) -> None:
        if supervisor in self._supervisors:
            self._supervisors.discard(supervisor)
            self._loop.remove_reader(supervisor.listener)
            os.close(supervisor.listener)

"""
Guests kept warm, and how many runs execute at once.

Knows which guest may serve which run: one workflow version, one run at a time, and never one that a step
has left dirty.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from pathlib import Path

from pdkernel.hosts.calls import RunSetup
from pdkernel.hosts.declarations import Description
from pdkernel.hosts.environment import base_environment
from pdkernel.hosts.go import GoPrograms
from pdkernel.hosts.guest import Guest
from pdkernel.hosts.languages import GuestLanguage, command
from pdkernel.hosts.protocols import OutsideCalls
from pdkernel.hosts.run import RunGuests


class Hosts:
    """
    Everything that runs steps in this process. Belongs to one event loop.

    Attributes:
        gateway: The way out for steps, or None.
        go: Compiled Go steps, or None.
        descriptions: What Node.js steps and components were found to declare, by source or file.
    """

    def __init__(
        self,
        *,
        gateway: OutsideCalls | None = None,
        size: int = 8,
        python: Path | None = None,
        node: Path | None = None,
        go: GoPrograms | None = None,
    ) -> None:
        """
        Nothing is started before it is needed.

        Args:
            gateway: The way out for steps; None leaves them their own.
            size: Runs that execute at once.
            python: Interpreter for the Python steps of every run, whatever a run's setup says; without it, where a
                setup names none either, the one that runs us.
            node: Interpreter for Node.js steps; `find_node()` by default.
            go: Compiled Go steps; None compiles a step in each run.
        """
        self.gateway = gateway
        self.go = go
        self.descriptions: dict[object, Description] = {}
        self._size = size
        self._python = python
        self._node = node
        self._places = asyncio.Semaphore(size)
        self._idle: OrderedDict[Guest, tuple[str, Path | None]] = OrderedDict()
        self._runs: set[RunGuests] = set()

    async def open(self, setup: RunSetup, *, waits: bool = True) -> RunGuests:
        """
        The guests for one run.

        It waits while *size* runs execute, unless it is run for a step of one of them, which waits for it.
        """
        if waits:
            await self._places.acquire()
        run = RunGuests(setup, self, counted=waits)
        self._runs.add(run)
        return run

    async def close(self) -> None:
        """End every process."""
        for run in list(self._runs):
            run.kill()
        for guest in list(self._idle):
            guest.kill()
        self._idle.clear()

    @property
    def guard(self) -> str:
        """What the operating system does about programs that go around the gateway, where that is asked for."""
        return self.gateway.guard if self.gateway else "none"

    def take(
        self, language: GuestLanguage, workflow: str, *, python: Path | None = None, guarded: bool = False
    ) -> Guest:
        """
        A guest for a run of *workflow* with the packages of the environment of *python*: a warm one, else a new one.

        Raises:
            InterpreterMissingError: The language's interpreter is not there.
        """
        warm = self.take_warm(language, workflow, python=python, guarded=guarded)
        if warm is not None:
            return warm
        argv = list(command(language, python=self._python or python, node=self._node))
        return Guest(language, argv, base_environment(Path("/"), ""), self.gateway, guarded=guarded)

    def take_warm(
        self, language: GuestLanguage, workflow: str, *, python: Path | None = None, guarded: bool = False
    ) -> Guest | None:
        """A warm guest as of `take`, or None."""
        for guest, served in reversed(self._idle.items()):
            is_fit = served == _serves(language, workflow, python) and guest.guarded == guarded
            if is_fit and guest.language == language and guest.alive:
                del self._idle[guest]
                return guest
        return None

    def give_back(self, guest: Guest, workflow: str, python: Path | None = None) -> None:
        """Keep *guest* for the next run of *workflow*, or end it if it is not clean."""
        if guest.stale or not guest.usable or not guest.alive:
            guest.kill()
            return
        guest.forget()
        self._idle[guest] = _serves(guest.language, workflow, python)
        while len(self._idle) > 2 * self._size:
            oldest, _ = self._idle.popitem(last=False)
            oldest.kill()

    def leave(self, run: RunGuests) -> None:
        """*run* executes no more."""
        if run in self._runs:
            self._runs.discard(run)
            if run.counted:
                self._places.release()


def _serves(language: GuestLanguage, workflow: str, python: Path | None) -> tuple[str, Path | None]:
    """What a guest is kept for: another environment of Python steps is nothing to a Node.js one."""
    return workflow, python if language == "python" else None

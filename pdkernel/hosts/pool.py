"""
Guests kept warm, and how many runs execute at once.

Knows which place may serve which run: one workflow version, one run at a time, and never a guest that a step
has left dirty.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pdkernel import guests as guest_files
from pdkernel.guests.file_tree import remove_tree
from pdkernel.hosts.calls import RunSetup
from pdkernel.hosts.declarations import Description
from pdkernel.hosts.environment import base_environment
from pdkernel.hosts.fixed import Fixed
from pdkernel.hosts.go import GoPrograms
from pdkernel.hosts.guest import Guest
from pdkernel.hosts.languages import GuestLanguage, command
from pdkernel.hosts.place import Place
from pdkernel.hosts.private_tmp import TMP, PrivateTmp, is_possible, names_in_tmp, scratch_folder
from pdkernel.hosts.protocols import OutsideCalls
from pdkernel.hosts.run import RunGuests
from pdkernel.hosts.warden import WARDEN


class Hosts:
    """
    Everything that runs steps in this process. Belongs to one event loop.

    Attributes:
        gateway: The way out for steps, or None.
        go: Compiled Go steps, or None.
        descriptions: What Node.js steps and components were found to declare, by source or file.
        fixed: A clock and chance that are the same in every step, or None for the machine's own.
    """

    def __init__(
        self,
        *,
        gateway: OutsideCalls | None = None,
        size: int = 8,
        python: Path | None = None,
        node: Path | None = None,
        go: GoPrograms | None = None,
        kept: Sequence[Path] = (),
        fixed: Fixed | None = None,
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
            kept: Folders that steps' processes read; they see them even where these are in this machine's `/tmp`.
            fixed: Fixes clock and chance in Python and Node.js steps; Bash and Go steps keep the machine's.
        """
        self.gateway = gateway
        self.go = go
        self.fixed = fixed
        self.descriptions: dict[object, Description] = {}
        self._size = size
        self._python = python
        self._node = node
        self._places = asyncio.Semaphore(size)
        self._idle: dict[Place, None] = {}  # the one that was used last is last
        self._kept = tuple(kept)
        self._tmp_works = is_possible()
        self._tmp_folder: Path | None = None
        self._tmp_count = 0
        self._closed = False
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
        for place in list(self._idle):
            place.close()
        self._idle.clear()
        self._closed = True
        if self._tmp_folder is not None:
            remove_tree(self._tmp_folder)
            WARDEN.unregister_folder(self._tmp_folder)

    @property
    def executing(self) -> int:
        """How many runs execute."""
        return len(self._runs)

    @property
    def guard(self) -> str:
        """What the operating system does about programs that go around the gateway, where that is asked for."""
        return self.gateway.guard if self.gateway else "none"

    def enter(self, setup: RunSetup) -> Place:
        """A place for a run of *setup*: one that is kept warm for its workflow, else a new one."""
        warm = self.enter_warm(setup)
        if warm is not None:
            return warm
        needed = self._needed(setup)
        tmp = None if needed is None else self._make_tmp(needed)
        return Place(setup.workflow, setup.guarded, setup.public_only, tmp)

    def enter_warm(self, setup: RunSetup) -> Place | None:
        """A place that is kept warm for runs of *setup*'s workflow, or None."""
        needed = self._needed(setup)
        for place in reversed(self._idle):
            if place.fits(setup.workflow, needed, guarded=setup.guarded, public_only=setup.public_only):
                del self._idle[place]
                return place
        return None

    def guest(self, place: Place, language: GuestLanguage, *, python: Path | None = None) -> Guest:
        """
        The guest of *language* in *place*, with the packages of the environment of *python*: the warm one, else a new one.

        Raises:
            InterpreterMissingError: The language's interpreter is not there.
        """
        warm = self.warm_guest(place, language, python=python)
        if warm is not None:
            return warm
        place.end(language)
        argv = list(command(language, python=self._python or python, node=self._node, isolated=self.fixed is None))
        if place.tmp is not None:
            argv = place.tmp.command(argv)
        environment = base_environment(Path("/"), "") | (self.fixed.environment if self.fixed else {})
        guest = Guest(language, argv, environment, self.gateway, guarded=place.guarded, public_only=place.public_only)
        place.guests[language] = guest
        if language == "python":
            place.python = python
        return guest

    @staticmethod
    def warm_guest(place: Place, language: GuestLanguage, *, python: Path | None = None) -> Guest | None:
        """The warm guest as of `guest`, or None."""
        guest = place.guests.get(language)
        if guest is None or not guest.alive or (language == "python" and place.python != python):
            return None
        return guest

    def give_back(self, place: Place) -> None:
        """Keep *place* for the next run of its workflow, or end what is in it if it is not clean."""
        if not place.clear() or self._closed:
            place.close()
            return
        self._idle[place] = None
        while sum(max(1, len(idle.guests)) for idle in self._idle) > 2 * self._size:
            oldest = next(iter(self._idle))
            del self._idle[oldest]
            oldest.close()

    def leave(self, run: RunGuests) -> None:
        """*run* executes no more."""
        if run in self._runs:
            self._runs.discard(run)
            if run.counted:
                self._places.release()

    def _needed(self, setup: RunSetup) -> frozenset[str] | None:
        """The names in `/tmp` that the run's processes must see, or None if they get the machine's own."""
        # what steps may write to is not shown in a /tmp that they may empty
        written = [path for path in (setup.folder, setup.scratch.parent, setup.files) if path is not None]
        if not self._tmp_works or names_in_tmp(*written) != frozenset():
            return None
        if setup.guarded and self.guard == "landlock":  # which keeps what is started under it from our descriptors
            return None
        trees = [tree.folder for tree in setup.node_packages.values()]
        compiled = self.go.folder if self.go else None
        read = [setup.python, self._python, self._node, compiled, *setup.kept, *trees, *self._kept]
        everyones, own = _everyones(), names_in_tmp(*(path for path in read if path is not None))
        return None if everyones is None or own is None else everyones | own

    def _make_tmp(self, needed: frozenset[str]) -> PrivateTmp | None:
        with contextlib.suppress(OSError):  # a disk that is full is for the step to meet
            if self._tmp_folder is None:
                self._tmp_folder = scratch_folder("pdkernel-tmp-")
                WARDEN.register_folder(self._tmp_folder)
            self._tmp_count += 1
            made = PrivateTmp.make(self._tmp_folder / str(self._tmp_count), needed)
            self._tmp_works = made is not None
            return made
        return None


@functools.cache
def _everyones() -> frozenset[str] | None:
    """The names in `/tmp` of what every process of a step may read; None if something lies in `/tmp` itself."""
    programs = os.environ.get("PATH", os.defpath).split(os.pathsep)
    places = [sys.prefix, sys.base_prefix, sys.executable, *guest_files.__path__, *sys.path, *programs]
    return names_in_tmp(*(Path(place) for place in places if Path(place).is_absolute() and Path(place) != TMP))

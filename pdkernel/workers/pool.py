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

from pdkernel import runtimes
from pdkernel.runtimes.file_tree import remove_tree
from pdkernel.workers.calls import RunSetup
from pdkernel.workers.declarations import ComponentDescription
from pdkernel.workers.determinism import Determinism
from pdkernel.workers.environment import base_environment
from pdkernel.workers.go_build import GoBuildCache
from pdkernel.workers.private_tmp import TMP_FOLDER, PrivateTmp, is_supported, make_scratch_folder, names_in_tmp
from pdkernel.workers.protocols import OutboundGateway
from pdkernel.workers.run_workers import RunWorkers
from pdkernel.workers.slot import WorkerSlot
from pdkernel.workers.warden_client import WARDEN
from pdkernel.workers.worker import Worker
from pdkernel.workers.worker_command import WorkerLanguage, build_worker_command


class WorkerPool:
    """
    Everything that runs steps in this process. Belongs to one event loop.

    Attributes:
        gateway: The way out for steps, or None.
        go_cache: Compiled Go steps, or None.
        descriptions: What Node.js steps and components were found to declare, by source or file.
        determinism: A clock and chance that are the same in every step, or None for the machine's own.
    """

    def __init__(
        self,
        *,
        gateway: OutboundGateway | None = None,
        max_active_runs: int = 8,
        python: Path | None = None,
        node: Path | None = None,
        go_cache: GoBuildCache | None = None,
        extra_read_folders: Sequence[Path] = (),
        determinism: Determinism | None = None,
    ) -> None:
        """
        Nothing is started before it is needed.

        Args:
            gateway: The way out for steps; None leaves them their own.
            max_active_runs: Runs that execute at once.
            python: Interpreter for the Python steps of every run, whatever a run's setup says; without it, where a
                setup names none either, the one that runs us.
            node: Interpreter for Node.js steps; `find_node()` by default.
            go_cache: Compiled Go steps; None compiles a step in each run.
            extra_read_folders: Folders that steps' processes read; they see them even where these are in this machine's `/tmp`.
            determinism: Fixes clock and chance in Python and Node.js steps; Bash and Go steps keep the machine's.
        """
        self.gateway = gateway
        self.go_cache = go_cache
        self.determinism = determinism
        self.descriptions: dict[object, ComponentDescription] = {}
        self._size = max_active_runs
        self._python = python
        self._node = node
        self._run_semaphore = asyncio.Semaphore(max_active_runs)
        self._idle_slots: dict[WorkerSlot, None] = {}  # the one that was used last is last
        self._kept = tuple(extra_read_folders)
        self._tmp_works = is_supported()
        self._tmp_folder: Path | None = None
        self._tmp_count = 0
        self._closed = False
        self._runs: set[RunWorkers] = set()

    async def open_run(self, setup: RunSetup, *, wait_for_slot: bool = True) -> RunWorkers:
        """
        The guests for one run.

        It waits while *size* runs execute, unless it is run for a step of one of them, which waits for it.
        """
        if wait_for_slot:
            await self._run_semaphore.acquire()
        run = RunWorkers(setup, self, holds_slot=wait_for_slot)
        self._runs.add(run)
        return run

    async def close(self) -> None:
        """End every process."""
        for run in list(self._runs):
            run.kill()
        for place in list(self._idle_slots):
            place.close()
        self._idle_slots.clear()
        self._closed = True
        if self._tmp_folder is not None:
            remove_tree(self._tmp_folder)
            WARDEN.unregister_folder(self._tmp_folder)

    @property
    def active_runs(self) -> int:
        """How many runs execute."""
        return len(self._runs)

    @property
    def sandbox_kind(self) -> str:
        """What the operating system does about programs that go around the gateway, where that is asked for."""
        return self.gateway.sandbox_kind if self.gateway else "none"

    def acquire_slot(self, setup: RunSetup) -> WorkerSlot:
        """A place for a run of *setup*: one that is kept warm for its workflow, else a new one."""
        warm = self.acquire_warm_slot(setup)
        if warm is not None:
            return warm
        needed = self._needed_tmp_names(setup)
        tmp = None if needed is None else self._make_tmp(needed)
        return WorkerSlot(setup.reuse_key, setup.is_sandboxed, setup.public_only, tmp)

    def acquire_warm_slot(self, setup: RunSetup) -> WorkerSlot | None:
        """A place that is kept warm for runs of *setup*'s workflow, or None."""
        needed = self._needed_tmp_names(setup)
        for place in reversed(self._idle_slots):
            if place.can_serve(setup.reuse_key, needed, is_sandboxed=setup.is_sandboxed, public_only=setup.public_only):
                del self._idle_slots[place]
                return place
        return None

    def get_worker(self, slot: WorkerSlot, language: WorkerLanguage, *, python: Path | None = None) -> Worker:
        """
        The guest of *language* in *slot*, with the packages of the environment of *python*: the warm one, else a new one.

        Raises:
            InterpreterMissingError: The language's interpreter is not there.
        """
        warm = self.find_warm_worker(slot, language, python=python)
        if warm is not None:
            return warm
        slot.end_worker(language)
        argv = list(
            build_worker_command(
                language, python=self._python or python, node=self._node, ignore_environment=self.determinism is None
            )
        )
        if slot.private_tmp is not None:
            argv = slot.private_tmp.wrap_command(argv)
        environment = base_environment(Path("/"), "") | (
            self.determinism.interpreter_variables if self.determinism else {}
        )
        guest = Worker(
            language, argv, environment, self.gateway, is_sandboxed=slot.is_sandboxed, public_only=slot.public_only
        )
        slot.workers[language] = guest
        if language == "python":
            slot.python = python
        return guest

    @staticmethod
    def find_warm_worker(slot: WorkerSlot, language: WorkerLanguage, *, python: Path | None = None) -> Worker | None:
        """The warm guest as of `guest`, or None."""
        guest = slot.workers.get(language)
        if guest is None or not guest.is_alive or (language == "python" and slot.python != python):
            return None
        return guest

    def release_slot(self, slot: WorkerSlot) -> None:
        """Keep *slot* for the next run of its workflow, or end what is in it if it is not clean."""
        if not slot.reset() or self._closed:
            slot.close()
            return
        self._idle_slots[slot] = None
        while sum(max(1, len(idle.workers)) for idle in self._idle_slots) > 2 * self._size:
            oldest = next(iter(self._idle_slots))
            del self._idle_slots[oldest]
            oldest.close()

    def finish_run(self, run: RunWorkers) -> None:
        """*run* executes no more."""
        if run in self._runs:
            self._runs.discard(run)
            if run.holds_slot:
                self._run_semaphore.release()

    def _needed_tmp_names(self, setup: RunSetup) -> frozenset[str] | None:
        """The names in `/tmp` that the run's processes must see, or None if they get the machine's own."""
        # what steps may write to is not shown in a /tmp that they may empty
        written = [
            path
            for path in (setup.import_folder, setup.scratch_folder.parent, setup.file_store_folder)
            if path is not None
        ]
        if not self._tmp_works or names_in_tmp(*written) != frozenset():
            return None
        if (
            setup.is_sandboxed and self.sandbox_kind == "landlock"
        ):  # which keeps what is started under it from our descriptors
            return None
        trees = [tree.folder for tree in setup.node_packages.values()]
        compiled = self.go_cache.folder if self.go_cache else None
        read = [setup.python, self._python, self._node, compiled, *setup.extra_code_folders, *trees, *self._kept]
        everyones, own = _common_tmp_names(), names_in_tmp(*(path for path in read if path is not None))
        return None if everyones is None or own is None else everyones | own

    def _make_tmp(self, needed: frozenset[str]) -> PrivateTmp | None:
        with contextlib.suppress(OSError):  # a disk that is full is for the step to meet
            if self._tmp_folder is None:
                self._tmp_folder = make_scratch_folder("pdkernel-tmp-")
                WARDEN.register_folder(self._tmp_folder)
            self._tmp_count += 1
            made = PrivateTmp.create(self._tmp_folder / str(self._tmp_count), needed)
            self._tmp_works = made is not None
            return made
        return None


@functools.cache
def _common_tmp_names() -> frozenset[str] | None:
    """The names in `/tmp` of what every process of a step may read; None if something lies in `/tmp` itself."""
    programs = os.environ.get("PATH", os.defpath).split(os.pathsep)
    places = [sys.prefix, sys.base_prefix, sys.executable, *runtimes.__path__, *sys.path, *programs]
    return names_in_tmp(*(Path(place) for place in places if Path(place).is_absolute() and Path(place) != TMP_FOLDER))

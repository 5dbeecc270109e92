"""
The slots of a pool: finds a warm slot for a run, and ends idle slots when all slots use more memory than the budget.

A slot has the warm workers for the runs of one `WorkerKey`, and the folder of their files. They stay together, because the steps of a
run pass files through `/tmp`.

The slot that was idle for the longest time ends first. A slot that serves a run never ends. Memory is measured sparingly,
in a thread: after some of the first runs of a slot, and then after every 64th. A new slot counts as much as other slots with
workers of the same languages and packages after their first run.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pdkernel.common.blocking import run_blocking, run_blocking_in
from pdkernel.workers.calls import WorkerKey
from pdkernel.workers.declarations import ComponentDescription
from pdkernel.workers.interpreters import WorkerLanguage
from pdkernel.workers.isolation import IsolationPlan, StepAccess
from pdkernel.workers.process_memory import BYTES_PER_MB, find_memory_limit, proportional_bytes
from pdkernel.workers.slot_folder import SlotFolder
from pdkernel.workers.worker import Worker


@dataclass(eq=False)
class WorkerSlot:
    """
    The workers for the runs of one key, one run at a time.

    Attributes:
        key: What the runs that it serves have in common.
        folder: The folder of the files of its runs, emptied after each run. Processes of other slots have other folders.
        access: What its processes may see.
        workers: The workers by language.
        runs: The number of runs that have ended.
        counted_workers: The workers whose memory the pool counts.
        descriptions: What the Node.js code steps of its runs declare, by source.
    """

    key: WorkerKey
    folder: SlotFolder
    access: StepAccess
    workers: dict[WorkerLanguage, Worker] = field(default_factory=dict)
    runs: int = 0
    counted_workers: tuple[Worker, ...] = ()
    descriptions: dict[object, ComponentDescription] = field(default_factory=dict)

    @property
    def plan(self) -> IsolationPlan:
        """What its processes do to themselves."""
        return self.folder.plan

    def end_run(self) -> None:
        """End the workers that are not clean, and let the others forget the run."""
        for language, worker in list(self.workers.items()):
            worker.check_shared_memory()
            if worker.is_stale or not worker.is_alive:
                self.end_worker(language)
            else:
                worker.end_run()

    def end_worker(self, language: WorkerLanguage, *, wait: bool = True) -> None:
        """End the worker of *language*; return before its processes have ended if *wait* is False."""
        worker = self.workers.pop(language, None)
        if worker is not None:
            worker.kill(wait=wait)

    def end_workers(self, *, wait: bool = True) -> None:
        """End every worker; return before their processes have ended if *wait* is False."""
        for language in list(self.workers):
            self.end_worker(language, wait=wait)


_log = logging.getLogger(__name__)

_MEASURED_RUNS = frozenset({2, 4, 8, 16, 32})
_MEASURE_INTERVAL = 64
_NEW_SLOT_INTERVAL = 8  # of so many new slots, one is measured: a measurement takes as long as a short run
_ASSUMED_BYTES: dict[WorkerLanguage, int] = {"python": 16 * BYTES_PER_MB, "node": 48 * BYTES_PER_MB}
"""The memory of a worker that was not measured yet."""
_DESCRIPTORS_PER_PROCESS = 12  # its pipes, what reports its exit, children and memory, and the folder of its slot
_RESERVED_DESCRIPTORS = 128  # for connections and files of the server
_MAX_DESCRIPTORS = 1 << 16
_REMOVAL_DELAY_S = 0.1  # its processes have ended by then; otherwise, the pool removes the folder when it closes


_Kind = tuple[Path | None, frozenset[WorkerLanguage]]
"""The interpreter of Python steps, which belongs to a set of packages, and the languages of workers."""
_Measured = tuple[WorkerSlot, _Kind, int]
"""A slot, the kind of its workers, and their memory in bytes."""


def default_memory_budget() -> int:
    """Return the default budget in bytes for the workers of one pool: half of what this process may use."""
    return find_memory_limit() // 2


def raise_descriptor_limit(maximum: int = _MAX_DESCRIPTORS) -> None:
    """Let this process open as many files as the system permits, up to *maximum*: each idle worker keeps some open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = maximum if hard == resource.RLIM_INFINITY else min(hard, maximum)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def max_idle_processes() -> int:
    """Return how many idle worker processes the limit of open files (`ulimit -n`) permits."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = _MAX_DESCRIPTORS if soft == resource.RLIM_INFINITY else min(soft, _MAX_DESCRIPTORS)
    return max(8, (files - _RESERVED_DESCRIPTORS) // _DESCRIPTORS_PER_PROCESS)


class SlotCache:
    """
    All slots of a pool, those of active runs included.

    Args:
        memory_budget: The bytes that the workers of all slots may use; None for the default.
        measure: Returns the bytes that processes and their children use. Called in a thread.
        max_processes: The number of idle processes that are kept; None for what the limit of open files permits.
    """

    def __init__(
        self,
        *,
        memory_budget: int | None = None,
        measure: Callable[[Sequence[int]], int] = proportional_bytes,
        max_processes: int | None = None,
    ) -> None:
        self._budget = default_memory_budget() if memory_budget is None else memory_budget
        self._measure = measure
        self._max_processes = max_idle_processes() if max_processes is None else max_processes
        self._slots: dict[WorkerSlot, int] = {}  # with the memory that counts for each
        self._used = 0
        self._idle: dict[WorkerSlot, None] = {}  # in order of last use
        self._idle_by_key: dict[WorkerKey, dict[WorkerSlot, None]] = {}  # likewise
        self._idle_processes = 0
        self._unmeasured: set[WorkerSlot] = set()
        self._measuring: asyncio.Future[list[_Measured]] | None = None
        self._typical: dict[_Kind, int] = {}  # the memory of a slot after its first run
        self._new_slots = 0
        self._has_warned = False

    def add(self, slot: WorkerSlot) -> None:
        """Add a new slot, which serves a run or will be kept."""
        self._slots[slot] = 0

    def take(self, key: WorkerKey, access: StepAccess) -> WorkerSlot | None:
        """
        Return an idle slot of *key* whose processes have *access*, or None.

        It is the slot that was used last. Of slots that no run has used, it is the oldest: its processes have had the most time to start.
        """
        fitting = [slot for slot in self._idle_by_key.get(key, ()) if slot.access.covers(access)]
        if not fitting:
            return None
        slot = fitting[-1] if fitting[-1].runs else fitting[0]
        self.hold(slot)
        return slot

    def put_back(self, slot: WorkerSlot) -> None:
        """Keep *slot*, whose run has ended, for another run; end idle slots if the budget is exceeded."""
        slot.runs += 1
        self._keep(slot)

    def add_spare(self, slot: WorkerSlot, *, has_imported: bool = False) -> None:
        """Keep a slot that was added and that no run has used; measure its memory if it *has_imported* modules of packages."""
        self._keep(slot)
        if has_imported and slot in self._slots:
            self._unmeasured.add(slot)
            self._start_measuring()

    def idle_slots(self, key: WorkerKey) -> list[WorkerSlot]:
        """Return the idle slots of *key*; the slot that is idle for the longest time is the first."""
        return list(self._idle_by_key.get(key, ()))

    def discard_idle(self, slot: WorkerSlot) -> None:
        """Close the idle *slot*, without waiting for the end of its processes."""
        self.hold(slot)
        self.discard(slot, wait=False)

    def has_room(self, python: Path | None, languages: Collection[WorkerLanguage]) -> bool:
        """Return whether another slot with workers of *languages* and the packages of *python* fits into the budget."""
        added = self._expected_bytes((python, frozenset(languages)))
        return self._used + added <= self._budget and self._idle_processes + len(languages) <= self._max_processes

    def has_memory(self) -> bool:
        """Return whether one more run that executes fits into the budget, with workers as large as the largest that were measured."""
        executing = sum(used for slot, used in self._slots.items() if slot not in self._idle)
        return executing + max([*self._typical.values(), sum(_ASSUMED_BYTES.values())]) <= self._budget

    def _expected_bytes(self, kind: _Kind) -> int:
        return self._typical.get(kind) or sum(_ASSUMED_BYTES[language] for language in kind[1])

    def _keep(self, slot: WorkerSlot) -> None:
        workers = tuple(slot.workers.values())
        kind = _find_kind(slot)
        has_new_workers = workers != slot.counted_workers
        if has_new_workers:
            slot.counted_workers = workers
            self._set_memory(slot, self._expected_bytes(kind))
        self._new_slots += slot.runs == 1
        is_due = slot.runs in _MEASURED_RUNS or slot.runs % _MEASURE_INTERVAL == 0
        is_sample = kind not in self._typical or self._new_slots % _NEW_SLOT_INTERVAL == 0
        if workers and slot.runs and (is_due or ((has_new_workers or slot.runs == 1) and is_sample)):
            self._unmeasured.add(slot)
            self._start_measuring()
        self._idle[slot] = None
        self._idle_by_key.setdefault(slot.key, {})[slot] = None
        self._idle_processes += _weight(slot)
        self._evict()

    def discard(self, slot: WorkerSlot, *, wait: bool = True) -> None:
        """Close *slot*, which serves no run any more. With *wait* False, other runs do not wait for the end of its processes."""
        self._forget(slot)
        slot.end_workers(wait=wait)
        if wait:
            slot.folder.remove()
        else:
            asyncio.get_running_loop().call_later(_REMOVAL_DELAY_S, run_blocking_in, None, slot.folder.remove)

    def close(self) -> None:
        """End the workers of the idle slots, and stop measuring. The folders of the slots remain."""
        if self._measuring is not None:
            self._measuring.cancel()
        idle = list(self._idle)
        for slot in idle:
            for worker in slot.workers.values():
                worker.process.child.send_kill()
        for slot in idle:
            self.hold(slot)
            self._forget(slot)
            slot.end_workers()

    def _forget(self, slot: WorkerSlot) -> None:
        self._used -= self._slots.pop(slot, 0)
        self._unmeasured.discard(slot)

    def hold(self, slot: WorkerSlot) -> None:
        """Take the idle *slot*: until it is kept again, it neither serves a run nor ends."""
        del self._idle[slot]
        same_key = self._idle_by_key[slot.key]
        del same_key[slot]
        if not same_key:
            del self._idle_by_key[slot.key]
        self._idle_processes -= _weight(slot)

    def _set_memory(self, slot: WorkerSlot, used_bytes: int) -> None:
        self._used += used_bytes - self._slots[slot]
        self._slots[slot] = used_bytes

    def _start_measuring(self) -> None:
        if self._measuring is not None or not self._unmeasured:
            return
        found = [(slot, _find_kind(slot)) for slot in self._unmeasured]
        roots = [[pid for worker in slot.workers.values() if (pid := worker.process.child.pid)] for slot, _ in found]
        self._unmeasured.clear()
        self._measuring = run_blocking(
            lambda: [(*each, self._measure(pids)) for each, pids in zip(found, roots, strict=True)]
        )
        self._measuring.add_done_callback(self._on_measured)

    def _on_measured(self, measuring: asyncio.Future[list[_Measured]]) -> None:
        self._measuring = None
        if measuring.cancelled():
            return
        for slot, kind, used_bytes in measuring.result():
            if slot.runs == 1 or kind not in self._typical:
                self._typical[kind] = used_bytes
            if slot in self._slots and _find_kind(slot) == kind:
                self._set_memory(slot, used_bytes)
        self._evict()
        self._start_measuring()

    def _evict(self) -> None:
        while self._idle and (self._used > self._budget or self._idle_processes > self._max_processes):
            oldest = next(iter(self._idle))
            if self._used > self._budget:
                reason = f"the workers use {_mb(self._used)} MB, and the budget (--memory) is {_mb(self._budget)} MB"
                if len(self._idle) == 1:
                    self._warn()
            else:
                reason = f"{self._idle_processes} processes are idle, and the limit of open files permits {self._max_processes}"
            _log.info("The idle workers of %s end: %s.", oldest.key.describe(), reason)
            self.discard_idle(oldest)

    def _warn(self) -> None:
        """Warn once that even the workers of the runs that execute exceed the budget."""
        if not self._has_warned:
            self._has_warned = True
            _log.warning(
                "The memory budget of %d MB (--memory) is less than the %d MB that the workers of %d runs at once use: no "
                "worker is kept for the next run. Raise --memory, or lower --max-active-runs.",
                _mb(self._budget),
                _mb(self._used),
                len(self._slots),
            )


def _find_kind(slot: WorkerSlot) -> _Kind:
    return slot.key.python, frozenset(slot.workers)


def _weight(slot: WorkerSlot) -> int:
    """Return how many processes a slot counts for: a slot without workers also keeps files open."""
    return max(1, len(slot.workers))


def _mb(used_bytes: int) -> int:
    return round(used_bytes / BYTES_PER_MB)

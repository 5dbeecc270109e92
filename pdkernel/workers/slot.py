"""
A slot of the pool: the warm workers for the runs of one `WorkerKey`, and the folder of their files.

The workers of a slot stay together, because the steps of a run pass files through `/tmp`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pdkernel.workers.calls import WorkerKey
from pdkernel.workers.declarations import ComponentDescription
from pdkernel.workers.isolation import IsolationPlan, StepAccess
from pdkernel.workers.slot_folder import SlotFolder
from pdkernel.workers.worker import Worker
from pdkernel.workers.worker_command import WorkerLanguage


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

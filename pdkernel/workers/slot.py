"""
A slot of the pool: the warm workers for the runs of one `WorkerKey`, and their private `/tmp`.

The workers of a slot stay together, because the steps of a run pass files through `/tmp`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pdkernel.workers.calls import WorkerKey
from pdkernel.workers.private_tmp import PrivateTmp
from pdkernel.workers.worker import Worker
from pdkernel.workers.worker_command import WorkerLanguage


@dataclass(eq=False)
class WorkerSlot:
    """
    The workers for the runs of one key, one run at a time.

    Attributes:
        key: What the runs that it serves have in common.
        private_tmp: The private `/tmp` of its workers, or None for the system's.
        workers: The workers by language.
    """

    key: WorkerKey
    private_tmp: PrivateTmp | None
    workers: dict[WorkerLanguage, Worker] = field(default_factory=dict)

    def shows(self, tmp_names: frozenset[str] | None) -> bool:
        """Whether its workers see *tmp_names* in `/tmp` (None: they see the system's `/tmp`)."""
        if self.private_tmp is None or tmp_names is None:
            return self.private_tmp is None and tmp_names is None
        return tmp_names <= self.private_tmp.visible_names

    def reset(self) -> bool:
        """End workers that are not clean, and empty `/tmp`; return whether the slot can serve another run."""
        for language, worker in list(self.workers.items()):
            if worker.is_stale or not worker.is_healthy or not worker.is_alive:
                self.end_worker(language)
            else:
                worker.end_run()
        return self.private_tmp.clear() if self.private_tmp is not None else bool(self.workers)

    def end_worker(self, language: WorkerLanguage) -> None:
        """End the worker of *language*."""
        worker = self.workers.pop(language, None)
        if worker is not None:
            worker.kill()

    def close(self) -> None:
        """End every worker, and remove the files in `/tmp`."""
        for language in list(self.workers):
            self.end_worker(language)
        if self.private_tmp is not None:
            self.private_tmp.close()
            self.private_tmp = None

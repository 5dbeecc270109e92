"""
A slot of the pool: the warm workers for the runs of one workflow version, and their private `/tmp`.

The workers of a slot stay together, because the steps of a run pass files through `/tmp`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pdkernel.workers.private_tmp import PrivateTmp
from pdkernel.workers.worker import Worker
from pdkernel.workers.worker_command import WorkerLanguage


@dataclass(eq=False)
class WorkerSlot:
    """
    The workers for the runs of one workflow version.

    Attributes:
        reuse_key: The name and version of the workflow.
        is_sandboxed: The operating system stops its workers from bypassing the gateway.
        public_only: Its workers reach public addresses only.
        private_tmp: The private `/tmp` of its workers, or None for the system's.
        workers: The workers by language.
        python: The interpreter with which its Python worker was started.
    """

    reuse_key: str
    is_sandboxed: bool
    public_only: bool
    private_tmp: PrivateTmp | None
    workers: dict[WorkerLanguage, Worker] = field(default_factory=dict)
    python: Path | None = None

    def can_serve(
        self, reuse_key: str, tmp_names: frozenset[str] | None, *, is_sandboxed: bool, public_only: bool
    ) -> bool:
        """Whether a run of *reuse_key* that needs *tmp_names* in `/tmp` (None: the system's `/tmp`) can use this slot."""
        if (self.reuse_key, self.is_sandboxed, self.public_only) != (reuse_key, is_sandboxed, public_only):
            return False
        return (
            tmp_names is None
            if self.private_tmp is None
            else tmp_names is not None and tmp_names <= self.private_tmp.visible_names
        )

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

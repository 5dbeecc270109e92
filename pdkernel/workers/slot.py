"""
A slot of the pool: the warm workers for the runs of one `WorkerKey`, and the folder of their files.

The workers of a slot stay together, because the steps of a run pass files through `/tmp`.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pdkernel.runtimes.file_tree import remove_tree
from pdkernel.workers.calls import WorkerKey
from pdkernel.workers.isolation import TMP_NAME, IsolationPlan, StepAccess, account_file, change_owner
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
        plan: What its processes do to themselves.
        workers: The workers by language.
        runs: The number of runs that have ended.
        counted_workers: The workers whose memory the pool counts.
    """

    key: WorkerKey
    folder: Path
    access: StepAccess
    plan: IsolationPlan
    workers: dict[WorkerLanguage, Worker] = field(default_factory=dict)
    runs: int = 0
    counted_workers: tuple[Worker, ...] = ()
    _tmp_identity: int | None = None

    @cached_property
    def tmp_folder(self) -> Path:
        """The working folder of steps, as this process sees it."""
        return self.folder / TMP_NAME

    def ensure_tmp_folder(self) -> Path:
        """Create `tmp_folder` if it is missing, and return it. Raises `OSError` if that fails."""
        folder = self.tmp_folder
        if not os.path.isdir(folder):  # noqa: PTH112 - before each step: a step may have removed it
            folder.mkdir(mode=0o700)
            change_owner(self.plan, [folder])
            if self.plan.namespaces and self._tmp_identity is None:
                self._tmp_identity = folder.lstat().st_ino
        return folder

    def end_run(self) -> None:
        """End the workers that are not clean, and let the others forget the run."""
        for language, worker in list(self.workers.items()):
            worker.check_shared_memory()
            if worker.is_stale or not worker.is_alive:
                self.end_worker(language)
            else:
                worker.end_run()

    def is_empty(self) -> bool:
        """Whether the last run has left no file."""
        try:
            names = os.listdir(self.folder)  # noqa: PTH208 - at the end of every run
            if names != [TMP_NAME]:
                return not names and not self.plan.namespaces
            return self._has_tmp_folder() and self.plan.tmp_names.issuperset(os.listdir(self.tmp_folder))  # noqa: PTH208
        except OSError:  # a step has replaced a folder
            return False

    def clear(self) -> bool:
        """Remove the files of the last run; return whether all of them are gone. May block for long."""
        try:
            left = [path for path in self.folder.iterdir() if path.name != TMP_NAME and not remove_tree(path)]
            if not self.plan.namespaces:
                return remove_tree(self.tmp_folder) and not left
            if not self._has_tmp_folder():
                return False
            names = set(os.listdir(self.tmp_folder)) - self.plan.tmp_names  # noqa: PTH208 - at the end of many runs
            return not [name for name in names if not remove_tree(self.tmp_folder / name)] and not left
        except OSError:
            return False

    def _has_tmp_folder(self) -> bool:
        """Whether `tmp_folder` is the folder that workers see as `/tmp`: a step may have replaced it."""
        found = os.lstat(self.tmp_folder)
        return stat.S_ISDIR(found.st_mode) and self._tmp_identity in (None, found.st_ino)

    def end_worker(self, language: WorkerLanguage, *, wait: bool = True) -> None:
        """End the worker of *language*; return before its processes have ended if *wait* is False."""
        worker = self.workers.pop(language, None)
        if worker is not None:
            worker.kill(wait=wait)

    def end_workers(self, *, wait: bool = True) -> None:
        """End every worker; return before their processes have ended if *wait* is False."""
        for language in list(self.workers):
            self.end_worker(language, wait=wait)

    def remove_folder(self) -> None:
        """Remove the folder of a slot whose workers have ended."""
        remove_tree(self.folder)
        account_file(self.folder).unlink(missing_ok=True)

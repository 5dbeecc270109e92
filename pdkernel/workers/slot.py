"""
Where the runs of one workflow execute, one at a time: the guests kept warm for them, and their `/tmp`.

Knows which run it is fit for. Guests of one place stay together, because the steps of a run pass files through `/tmp`.
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
    A place.

    Attributes:
        reuse_key: Whose runs it serves: name and version.
        is_sandboxed: The operating system keeps its guests from going around the gateway.
        public_only: They reach public addresses only.
        private_tmp: What its processes have as `/tmp`, or None for the machine's own.
        workers: By language.
        python: The interpreter of the environment that its Python guest was started for.
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
        """Whether a run of *reuse_key* that *tmp_names* these names in `/tmp` (None: the machine's own) can execute here."""
        if (self.reuse_key, self.is_sandboxed, self.public_only) != (reuse_key, is_sandboxed, public_only):
            return False
        return (
            tmp_names is None
            if self.private_tmp is None
            else tmp_names is not None and tmp_names <= self.private_tmp.visible_names
        )

    def reset(self) -> bool:
        """The run is over: keep what is clean; whether the next one may come."""
        for language, guest in list(self.workers.items()):
            if guest.is_stale or not guest.is_healthy or not guest.is_alive:
                self.end_worker(language)
            else:
                guest.end_run()
        return self.private_tmp.clear() if self.private_tmp is not None else bool(self.workers)

    def end_worker(self, language: WorkerLanguage) -> None:
        """End the guest of *language*."""
        guest = self.workers.pop(language, None)
        if guest is not None:
            guest.kill()

    def close(self) -> None:
        """End every guest, and remove the files in `/tmp`."""
        for language in list(self.workers):
            self.end_worker(language)
        if self.private_tmp is not None:
            self.private_tmp.close()
            self.private_tmp = None

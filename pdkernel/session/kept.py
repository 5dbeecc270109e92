"""
What a session remembers over a restart of the kernel: written beside the work, read once.

Knows when it is written: a choice before the call that made it returns, so that a fault is told where it was made; a
run's results a moment later, beside what follows, because nobody should wait for them. Knows nothing of what they mean.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pdkernel.project import NotebookTable

_log = logging.getLogger(__name__)
_WRITER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pdkernel-kept")
"""One for the process: writes keep their order, and the interpreter's end waits for them."""

_HURRY = threading.Event()
"""Set while somebody waits for what is to be written."""

PAUSE_S = 0.02
"""Seconds that a run's results may lie: cells that are run one after another do not share the processor with a write each."""


class Kept:
    """
    A notebook's place in the project's table.

    Args:
        table: The table.
        key: Which notebook.
    """

    def __init__(self, table: NotebookTable, key: str) -> None:
        self._table = table
        self._key = key
        self._lock = threading.Lock()
        self._latest: dict[str, Any] | None = None
        self._writing: Future[None] | None = None

    def load(self) -> dict[str, Any] | None:
        """What was remembered, or None; what any session of this process has handed in is there."""
        _finish(_WRITER.submit(lambda: None))
        return self._table.load(self._key)

    def save(self, state: dict[str, Any]) -> None:
        """Remember *state* before this returns. Raises `ProjectError`."""
        with self._lock:
            self._latest = None
        _finish(_WRITER.submit(self._table.save, self._key, state))

    def save_later(self, state: dict[str, Any]) -> None:
        """Remember *state* beside what follows; of several in a row the last is written. A fault is logged."""
        with self._lock:
            waits = self._latest is not None
            self._latest = state
            if not waits:
                self._writing = _WRITER.submit(self._write)

    def settle(self) -> None:
        """Wait until everything is written."""
        writing = self._writing
        if writing is not None:
            _finish(writing)

    def _write(self) -> None:
        _HURRY.wait(PAUSE_S)
        with self._lock:
            state, self._latest = self._latest, None
        if state is None:
            return
        try:
            self._table.save(self._key, state)
        except Exception as fault:  # noqa: BLE001 - the run is in the journal; only its place in the notebook is lost
            _log.warning("The results of the last run are not remembered for the next kernel: %s", fault)


def _finish(writing: Future[None]) -> None:
    _HURRY.set()
    try:
        writing.result()
    finally:
        _HURRY.clear()

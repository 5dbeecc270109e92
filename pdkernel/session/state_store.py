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
    from pdkernel.project import NotebookStateTable

_log = logging.getLogger(__name__)
_WRITER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pdkernel-kept")
"""One for the process: writes keep their order, and the interpreter's end waits for them."""

_FLUSH_REQUESTED = threading.Event()
"""Set while somebody waits for what is to be written."""

SAVE_DELAY_S = 0.02
"""Seconds that a run's results may lie: cells that are run one after another do not share the processor with a write each."""


class SessionStateStore:
    """
    A notebook's place in the project's table.

    Args:
        table: The table.
        key: Which notebook.
    """

    def __init__(self, table: NotebookStateTable, key: str) -> None:
        self._table = table
        self._key = key
        self._lock = threading.Lock()
        self._latest: dict[str, Any] | None = None
        self._writing: Future[None] | None = None

    def load(self) -> dict[str, Any] | None:
        """What was remembered, or None; what any session of this process has handed in is there."""
        _wait_for_write(_WRITER.submit(lambda: None))
        return self._table.load(self._key)

    def save(self, state: dict[str, Any]) -> None:
        """Remember *state* before this returns. Raises `ProjectError`."""
        with self._lock:
            self._latest = None
        _wait_for_write(_WRITER.submit(self._table.save, self._key, state))

    def schedule_save(self, state: dict[str, Any]) -> None:
        """Remember *state* beside what follows; of several in a row the last is written. A fault is logged."""
        with self._lock:
            waits = self._latest is not None
            self._latest = state
            if not waits:
                self._writing = _WRITER.submit(self._write)

    def flush(self) -> None:
        """Wait until everything is written."""
        writing = self._writing
        if writing is not None:
            _wait_for_write(writing)

    def _write(self) -> None:
        _FLUSH_REQUESTED.wait(SAVE_DELAY_S)
        with self._lock:
            state, self._latest = self._latest, None
        if state is None:
            return
        try:
            self._table.save(self._key, state)
        except Exception as fault:  # noqa: BLE001 - the run is in the journal; only its place in the notebook is lost
            _log.warning("The results of the last run are not remembered for the next kernel: %s", fault)


def _wait_for_write(writing: Future[None]) -> None:
    _FLUSH_REQUESTED.set()
    try:
        writing.result()
    finally:
        _FLUSH_REQUESTED.clear()

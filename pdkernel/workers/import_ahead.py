"""Lets a Python worker that has no user import modules of packages ahead; `runtimes/python/import_ahead.py` imports them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from pdkernel.common.encode import encode_json
from pdkernel.execution import Stream
from pdkernel.workers.process_memory import MemoryWatch
from pdkernel.workers.replies import Imported
from pdkernel.workers.worker import READY_LINE, Worker

_TIME_LIMIT_S = 30.0
_MEMORY_LIMIT_MB = 512
_MAX_LINE_BYTES = 1 << 16
_DECODE = msgspec.json.Decoder(Imported).decode


class ImportAhead:
    """
    The imports of one worker, one module after another (a `WorkerListener`).

    A module whose import fails, prints, takes too long or too much memory, or leaves a process makes the worker useless, as one that does
    not fit (`Imported`). The worker gets no settings but those that are the same for all users.
    """

    def __init__(
        self, worker: Worker, modules: Sequence[str], *, folder: str, on_end: Callable[[str | None], None]
    ) -> None:
        """
        Begin to import.

        Args:
            worker: The worker, which has served no run.
            modules: The modules, at least one.
            folder: The working folder of its first run.
            on_end: Called in the event loop with the module that made the worker useless, or with None.
        """
        self._worker = worker
        self._left = [*modules]
        self._module = ""
        self._on_end = on_end
        self._has_ended = False
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(_TIME_LIMIT_S, self._fail)
        self._watch = MemoryWatch(worker.process.child, _MEMORY_LIMIT_MB, lambda _: self._fail())
        self._settings: dict[str, Any] = worker.build_begin(
            self, workflow="", variables={}, cwd=folder, kept=[], fixed=None
        )
        if worker.is_alive:
            worker.process.listener = self
        self._send_next()

    def add(self, modules: Sequence[str]) -> None:
        """Import *modules*, too."""
        self._left += modules

    def close(self) -> None:
        """Stop waiting for the worker."""
        if not self._has_ended:
            self._has_ended = True
            self._timer.cancel()
            self._watch.close()

    def on_line(self, line: bytes) -> None:
        """Handle a line of the worker."""
        if line == READY_LINE and not self._worker.is_ready:
            self._worker.is_ready = True
            return
        found = _parse(line) if self._worker.is_ready else None
        if found is None or not found.fits or self._worker.process.child.has_children():
            self._fail()
        else:
            self._worker.read_variables |= frozenset(found.read)
            self._send_next()

    def on_output(self, stream: Stream, data: bytes) -> None:  # noqa: ARG002 - of the protocol
        """Regard a module that prints as one that does not fit; what a process prints at its start belongs to no step."""
        if self._worker.is_ready:
            self._fail()

    def on_line_too_long(self) -> None:
        """Regard the module as one that does not fit."""
        self._fail()

    def on_closed(self) -> None:
        """Regard the module as one that ended the process."""
        self._fail()

    def _send_next(self) -> None:
        if not self._left:
            self._worker.end_run()
            self._worker.rest()
            self._end(None)
            return
        self._module = self._left.pop(0)
        request = {"op": "import", "module": self._module, "texts": [], **self._settings}
        self._settings = {}
        self._worker.process.send(encode_json(request) + b"\n")

    def _fail(self) -> None:
        self._end(self._module)

    def _end(self, culprit: str | None) -> None:
        if not self._has_ended:
            self.close()
            self._loop.call_soon(self._on_end, culprit)


def _parse(line: bytes) -> Imported | None:
    number, _, text = line.partition(b" ")
    if number != b"0" or len(text) > _MAX_LINE_BYTES:
        return None
    try:
        return _DECODE(text)
    except (msgspec.DecodeError, UnicodeError):
        return None

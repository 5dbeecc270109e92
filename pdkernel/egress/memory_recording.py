"""
The outside calls of one run, kept in memory as a file of recorded calls would hold them: without credentials.

Knows how much is worth keeping and how to become such a file. Knows nothing of modes: a run of any mode can be taped, so
that it can be kept afterwards without sending anything again.
"""

from __future__ import annotations

from pathlib import Path

from pdkernel.egress.recording import CallRedactor, RecordedCall, RecordedResponse, RecordingFile

MAX_MEMORY_RECORDING_BYTES = 4 << 20
"""Bytes that one tape holds: a notebook keeps several."""


class MemoryRecording:
    """
    Calls in memory.

    Attributes:
        call_redactor: What its calls go through; one memory for the whole tape.
        skipped: Calls that were too big to keep, as `METHOD URL`, redacted.
    """

    def __init__(self) -> None:
        self.call_redactor = CallRedactor()
        self.skipped: list[str] = []
        self._calls: list[tuple[str, int, RecordedCall, RecordedResponse, float]] = []
        self._bytes_left = MAX_MEMORY_RECORDING_BYTES

    def has_room_for(self, size: int) -> bool:
        """Whether *size* bytes more can be kept."""
        return size <= self._bytes_left

    def add(self, step: str, ordinal: int, call: RecordedCall, response: RecordedResponse, duration_ms: float) -> None:
        """Keep one call: see `Cassette.add`."""
        self._bytes_left -= len(call.body) + len(response.body)
        self._calls.append((step, ordinal, call, response, duration_ms))

    def skip(self, method: str, url: str) -> None:
        """Remember that a call was too big."""
        self.skipped.append(f"{method} {url}")

    def append_to(self, file: Path) -> None:
        """Write the calls at the end of *file*."""
        cassette = RecordingFile(file)
        for call in self._calls:
            cassette.add(*call)

    def __len__(self) -> int:
        return len(self._calls)

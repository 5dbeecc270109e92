"""
The outside calls of one run, kept in memory as a file of recorded calls would hold them: without credentials.

Knows how much is worth keeping and how to become such a file. Knows nothing of modes: a run of any mode can be taped, so
that it can be kept afterwards without sending anything again.
"""

from __future__ import annotations

from pathlib import Path

from pdkernel.egress.cassette import Cassette, Hiding, RecordedAnswer, RecordedCall

MOST = 4 << 20
"""Bytes that one tape holds: a notebook keeps several."""


class Tape:
    """
    Calls in memory.

    Attributes:
        hiding: What its calls go through; one memory for the whole tape.
        left_out: Calls that were too big to keep, as `METHOD URL`, redacted.
    """

    def __init__(self) -> None:
        self.hiding = Hiding()
        self.left_out: list[str] = []
        self._calls: list[tuple[str, int, RecordedCall, RecordedAnswer, float]] = []
        self._room = MOST

    def has_room_for(self, size: int) -> bool:
        """Whether *size* bytes more can be kept."""
        return size <= self._room

    def add(self, step: str, nth: int, call: RecordedCall, answer: RecordedAnswer, duration_ms: float) -> None:
        """Keep one call: see `Cassette.add`."""
        self._room -= len(call.body) + len(answer.body)
        self._calls.append((step, nth, call, answer, duration_ms))

    def leave_out(self, method: str, url: str) -> None:
        """Remember that a call was too big."""
        self.left_out.append(f"{method} {url}")

    def write(self, file: Path) -> None:
        """Write the calls at the end of *file*."""
        cassette = Cassette(file)
        for call in self._calls:
            cassette.add(*call)

    def __len__(self) -> int:
        return len(self._calls)

"""
Answers that are good for a moment.

Knows how long, and that what is asked for by several threads at once is asked once. Knows nothing of what is kept.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from pdkernel.clock import Clock

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

MOST = 1000
"""Answers kept; when there are more, the oldest go."""


class Brief(Generic[K, V]):
    """
    Answers by key, each good for *seconds*.

    Args:
        clock: Tells when an answer is too old.
        seconds: For how long it is good.
    """

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._lock = threading.Lock()
        self._asking: dict[K, threading.Lock] = {}
        self._kept: dict[K, tuple[float, V]] = {}
        self._age = 0

    def get(self, key: K, ask: Callable[[], V]) -> V:
        """The answer for *key*, from *ask* unless a good one is there. A failure of *ask* is raised, and not kept."""
        with self._lock:
            asking = self._asking.setdefault(key, threading.Lock())
        try:
            with asking:
                kept = self._good(key)
                return kept[1] if kept is not None else self._ask(key, ask)
        finally:
            with self._lock:
                self._asking.pop(key, None)

    def clear(self) -> None:
        """Forget every answer, and those on their way."""
        with self._lock:
            self._age += 1
            self._kept.clear()

    def _good(self, key: K) -> tuple[float, V] | None:
        with self._lock:
            kept = self._kept.get(key)
        return kept if kept is not None and kept[0] > self._clock.monotonic() else None

    def _ask(self, key: K, ask: Callable[[], V]) -> V:
        age = self._age
        answer = ask()
        with self._lock:
            if age == self._age:  # nothing was changed meanwhile
                self._kept.pop(key, None)
                self._kept[key] = (self._clock.monotonic() + self._seconds, answer)
                while len(self._kept) > MOST:
                    self._kept.pop(next(iter(self._kept)))
        return answer

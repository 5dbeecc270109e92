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

MAX_ENTRIES = 1000
"""Answers kept; when there are more, the oldest go."""


class TTLCache(Generic[K, V]):
    """
    Answers by key, each good for *ttl_s*.

    Args:
        clock: Tells when an answer is too old.
        ttl_s: For how long it is good.
    """

    def __init__(self, clock: Clock, ttl_s: float) -> None:
        self._clock = clock
        self._seconds = ttl_s
        self._lock = threading.Lock()
        self._key_locks: dict[K, threading.Lock] = {}
        self._entries: dict[K, tuple[float, V]] = {}
        self._generation = 0

    def get(self, key: K, load: Callable[[], V]) -> V:
        """The answer for *key*, from *load* unless a good one is there. A failure of *load* is raised, and not kept."""
        with self._lock:
            asking = self._key_locks.setdefault(key, threading.Lock())
        try:
            with asking:
                kept = self._find_fresh(key)
                return kept[1] if kept is not None else self._load(key, load)
        finally:
            with self._lock:
                self._key_locks.pop(key, None)

    def clear(self) -> None:
        """Forget every answer, and those on their way."""
        with self._lock:
            self._generation += 1
            self._entries.clear()

    def _find_fresh(self, key: K) -> tuple[float, V] | None:
        with self._lock:
            kept = self._entries.get(key)
        return kept if kept is not None and kept[0] > self._clock.monotonic() else None

    def _load(self, key: K, ask: Callable[[], V]) -> V:
        age = self._generation
        answer = ask()
        with self._lock:
            if age == self._generation:  # nothing was changed meanwhile
                self._entries.pop(key, None)
                self._entries[key] = (self._clock.monotonic() + self._seconds, answer)
                while len(self._entries) > MAX_ENTRIES:
                    self._entries.pop(next(iter(self._entries)))
        return answer

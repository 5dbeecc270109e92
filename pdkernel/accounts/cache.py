"""A cache whose entries expire. Threads that request the same key at the same time share one load."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from pdkernel.common.clock import Clock

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

MAX_ENTRIES = 1000
"""The cache drops its oldest entries above this number."""


class TTLCache(Generic[K, V]):
    """
    Values by key, each valid for *ttl_s* seconds. Safe from any thread.

    Args:
        clock: For the age of entries.
        ttl_s: Seconds until an entry expires.
    """

    def __init__(self, clock: Clock, ttl_s: float) -> None:
        self._clock = clock
        self._ttl_s = ttl_s
        self._lock = threading.Lock()
        self._key_locks: dict[K, threading.Lock] = {}
        self._entries: dict[K, tuple[float, V]] = {}
        self._generation = 0

    def get(self, key: K, load: Callable[[], V]) -> V:
        """Return the valid value for *key*, or the result of *load*. An exception of *load* is raised and not cached."""
        with self._lock:
            key_lock = self._key_locks.setdefault(key, threading.Lock())
        try:
            with key_lock:
                entry = self._find_fresh(key)
                return entry[1] if entry is not None else self._load(key, load)
        finally:
            with self._lock:
                self._key_locks.pop(key, None)

    def clear(self) -> None:
        """Drop all entries, and discard the results of loads in progress."""
        with self._lock:
            self._generation += 1
            self._entries.clear()

    def _find_fresh(self, key: K) -> tuple[float, V] | None:
        with self._lock:
            entry = self._entries.get(key)
        return entry if entry is not None and entry[0] > self._clock.monotonic() else None

    def _load(self, key: K, load: Callable[[], V]) -> V:
        generation = self._generation
        value = load()
        with self._lock:
            if generation == self._generation:  # `clear` was not called meanwhile
                self._entries.pop(key, None)
                self._entries[key] = (self._clock.monotonic() + self._ttl_s, value)
                while len(self._entries) > MAX_ENTRIES:
                    self._entries.pop(next(iter(self._entries)))
        return value

"""The limit of the bytes that a server process holds for clients that have not read their responses."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

MAX_UNSENT_BYTES = 128 * 1024 * 1024
"""Bytes of all unsent responses of a process: twenty of the largest responses of a workflow, to clients that read at the same time."""
YOUNG_S = 1.0
"""Seconds after which the rate of a response can be compared with others: its first bytes are in buffers of the system."""

_TOO_MANY = "A connection was closed, because unsent responses use too much memory and its client reads the slowest."
_log = logging.getLogger(__name__)


class Recipient(Protocol):
    """A connection that sends responses; it counts in bytes."""

    @property
    def unsent_bytes(self) -> int:
        """What the process holds for the client."""
        ...

    @property
    def read_bytes(self) -> int:
        """What the system has taken over since the connection was opened."""
        ...

    def abort(self) -> None:
        """Close the connection at once, and forget what is unsent."""
        ...


@dataclass(slots=True)
class _Share:
    size: int
    since: float
    read_before: int


class UnsentResponses:
    """
    The unsent responses of a process. Above *max_bytes*, the connection whose client reads the slowest is closed.

    A minimum rate of each client is not enough: many clients can have large responses and read just fast enough.
    Sizes of connections are exact only when the sum seems to be too large, so that a response costs no timer and no system call.

    Args:
        max_bytes: The limit. A single response may be larger.
        now: The time in seconds.
    """

    def __init__(self, max_bytes: int = MAX_UNSENT_BYTES, *, now: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._now = now
        self._shares: dict[Recipient, _Share] = {}
        self._total = 0

    def update(self, recipient: Recipient, *, is_new: bool = False) -> None:
        """Count what *recipient* holds now; *is_new* means that all of it belongs to a response that begins."""
        self._count(recipient, is_new=is_new)
        if self._total > self._max_bytes:
            self._make_room()

    def remove(self, recipient: Recipient) -> None:
        """Forget *recipient*, whose connection is closed."""
        share = self._shares.pop(recipient, None)
        if share is not None:
            self._total -= share.size

    def _count(self, recipient: Recipient, *, is_new: bool = False) -> None:
        size, share = recipient.unsent_bytes, self._shares.get(recipient)
        if not size:
            self.remove(recipient)
        elif share is None or is_new:
            self._total += size - (share.size if share else 0)
            self._shares[recipient] = _Share(size, self._now(), recipient.read_bytes)
        else:
            self._total += size - share.size
            share.size = size

    def _make_room(self) -> None:
        for recipient in tuple(self._shares):
            self._count(recipient)
        while self._total > self._max_bytes and len(self._shares) > 1:
            slowest = min(self._shares, key=self._speed)
            _log.warning(_TOO_MANY)
            self.remove(slowest)
            slowest.abort()

    def _speed(self, recipient: Recipient) -> tuple[bool, float, float]:
        """A key that orders recipients by their rate; those that began within `YOUNG_S` are last, the latest at the end."""
        share = self._shares[recipient]
        age = self._now() - share.since
        rate = (recipient.read_bytes - share.read_before) / max(age, YOUNG_S)
        return age < YOUNG_S, rate, share.since

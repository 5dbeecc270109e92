"""
Sending once: what makes two unsafe requests the same, and what is kept of the answer.

Knows the identity of a request within one event and external user. Knows nothing of where answers are kept:
the project has a table for them.
"""

from __future__ import annotations

import hashlib
import json
from typing import Protocol

from pdkernel.execution import Recorded

__all__ = ["Recorded", "SentRequests", "is_safe", "request_identity", "sent_key", "took_effect"]

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

_TURNED_AWAY = frozenset({401, 403, 407, 408, 425, 429})


def is_safe(method: str) -> bool:
    """Whether repeating a request of that method changes nothing."""
    return method.upper() in SAFE_METHODS


def took_effect(status: int) -> bool:
    """
    Whether a request that was answered so may have changed something, and must not be made again.

    Whoever answers 401, 403, 407 or 429 has turned it away, and so has a server that fails: the next run, with another account or
    a minute later, asks again. A server that failed may have done its work before: that is the smaller evil, because a remembered
    failure would be given again for as long as the event is used.
    """
    return status not in _TURNED_AWAY and status < 500


class SentRequests(Protocol):
    """Answers to unsafe requests, by key. Called from a thread of its own, never two at once for one key."""

    def find(self, key: str) -> Recorded | None:
        """The answer that was kept under *key*, or None."""
        ...

    def add(self, key: str, recorded: Recorded) -> None:
        """Keep *recorded* under *key*, in the place of an older one."""
        ...


def request_identity(*, method: str, url: str, body_sha256: str) -> str:
    """What equal requests of one step's run have in common; their ordinal is counted by this."""
    return f"{method}\n{url}\n{body_sha256}"


def sent_key(*, scope: str, step: str, target: str, identity: str, ordinal: int) -> str:
    """Hex digest that is the same for a request made again by a later run of the same step, on the same event."""
    parts = json.dumps([scope, step, target, identity, ordinal])
    return hashlib.sha256(parts.encode()).hexdigest()

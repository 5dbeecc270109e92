"""
Sending once: what makes two unsafe requests the same, what is kept of the answer, and when the outcome is unknown.

Knows the identity of a request within one event and external user. Knows nothing of where answers are kept:
the project has a table for them.
"""

from __future__ import annotations

import hashlib
import json
from typing import Protocol

from pdkernel.execution import StoredResponse

__all__ = [
    "SentRequestStore",
    "StoredResponse",
    "doubt",
    "host_key",
    "is_safe_method",
    "may_have_effect",
    "no_answer",
    "request_identity",
    "sent_key",
]

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

UNKNOWN = "The outcome is unknown: the host may have acted."
"""Said of an unsafe request of which a part was sent, and which no answer says is done or not done."""
NOT_AGAIN = "A run on the same event does not send it again; `%pdrun --send` repeats it."

_REFUSING_STATUSES = frozenset({401, 403, 407, 408, 425, 429})
_NO_ANSWER = 0


def is_safe_method(method: str) -> bool:
    """Whether repeating a request of that method changes nothing."""
    return method.upper() in SAFE_METHODS


def may_have_effect(status: int) -> bool:
    """
    Whether a request that was answered so may have changed something, and must not be made again.

    A host that answers 401, 403, 407, 408, 425 or 429 has turned it away: the next run, with another account or a minute later,
    asks again. A host that answers 5xx may have acted before it failed.
    """
    return status not in _REFUSING_STATUSES


def no_answer(why: str, at: str) -> StoredResponse:
    """What is kept of a request that was sent at *at* and got no answer."""
    return StoredResponse(_NO_ANSWER, why, (), b"", at)


def doubt(recorded: StoredResponse) -> str | None:
    """What is to be said of a request that is not sent again though its outcome is unknown; None if it is known."""
    if recorded.status == _NO_ANSWER:
        return f"it was sent at {recorded.at} and got no answer: {recorded.reason} {UNKNOWN} {NOT_AGAIN}"
    return f"{UNKNOWN} {NOT_AGAIN}" if recorded.status >= 500 else None


class SentRequestStore(Protocol):
    """Answers to unsafe requests, by key. Called from a thread of its own, never two at once for one key."""

    def find(self, key: str) -> StoredResponse | None:
        """The answer that was kept under *key*, or None."""
        ...

    def add(self, key: str, recorded: StoredResponse) -> None:
        """Keep *recorded* under *key*, in the place of an older one."""
        ...


def request_identity(*, method: str, url: str, body_sha256: str) -> str:
    """What equal requests of one step's run have in common; their ordinal is counted by this."""
    return f"{method}\n{url}\n{body_sha256}"


def sent_key(*, scope: str, step: str, target: str, identity: str, ordinal: int) -> str:
    """Hex digest that is the same for a request made again by a later run of the same step, on the same event."""
    parts = json.dumps([scope, step, target, identity, ordinal])
    return hashlib.sha256(parts.encode()).hexdigest()


def host_key(*, scope: str, step: str, target: str, origin: str) -> str:
    """The key under which is kept that an answer of *origin* is remembered: its requests need no connection."""
    return hashlib.sha256(json.dumps(["host", scope, step, target, origin]).encode()).hexdigest()

"""
Sending once: the identity of unsafe requests, their stored responses, and unknown outcomes.

Before the first byte of a request leaves, its record says that no answer was seen; the answer replaces that record. So a request
whose sender is killed is not sent again by itself either.

The table of stored responses is in `storage`.
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
    "may_repeat",
    "no_answer",
    "request_identity",
    "sent_key",
]

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

UNKNOWN = "The outcome is unknown: the host may have acted."
"""Note for an unsafe request of which a part was sent and whose response does not show whether the host acted."""
NOT_AGAIN = "A run on the same event does not send it again; `%pdrun --send` repeats it."

MAX_STORED_BODY_BYTES = 8 << 20
"""The longest body of a stored response; more than a run may export."""

_REFUSING_STATUSES = frozenset({401, 403, 407, 408, 425, 429})
_NO_ANSWER = 0
_KEY_HEADER = "idempotency-key"

NOT_SEEN = "what sent it ended before."
"""Why there is no response to a request whose record was not replaced."""


def is_safe_method(method: str) -> bool:
    """Return whether the HTTP method is safe to repeat."""
    return method.upper() in SAFE_METHODS


def may_have_effect(status: int) -> bool:
    """
    Return whether a request with the response *status* may have had an effect, and must not be sent again.

    A host that responds with 401, 403, 407, 408, 425 or 429 has rejected the request: the next run, with another account or
    later, sends it again. A host that responds with 5xx may have acted before it failed.
    """
    return status not in _REFUSING_STATUSES


def no_answer(why: str, at: str, idempotency_key: bytes | None = None) -> StoredResponse:
    """Return the record of a request that was sent at *at* and got no response, with the value of its header `Idempotency-Key`."""
    headers = () if idempotency_key is None else ((_KEY_HEADER, idempotency_key.decode("latin-1")),)
    return StoredResponse(_NO_ANSWER, why, headers, b"", at)


def may_repeat(recorded: StoredResponse, idempotency_key: bytes | None) -> bool:
    """Return whether the host itself recognizes the repetition of a request that got no response, by the same `Idempotency-Key`."""
    if recorded.status != _NO_ANSWER or idempotency_key is None:
        return False
    return recorded.headers == ((_KEY_HEADER, idempotency_key.decode("latin-1")),)


def doubt(recorded: StoredResponse) -> str | None:
    """Return the note about a request that is not sent again, if its outcome is unknown or its response is not stored; else None."""
    if not recorded.has_body:
        return (
            f"it was sent at {recorded.at} and got status {recorded.status} with a body of more than "
            f"{MAX_STORED_BODY_BYTES >> 20} MB, which is not stored. {NOT_AGAIN}"
        )
    if recorded.status == _NO_ANSWER:
        return f"it was sent at {recorded.at} and got no response: {recorded.reason} {UNKNOWN} {NOT_AGAIN}"
    return f"{UNKNOWN} {NOT_AGAIN}" if recorded.status >= 500 else None


class SentRequestStore(Protocol):
    """Stored responses to unsafe requests, by key. Called in threads, never at the same time for one key."""

    def find(self, key: str) -> StoredResponse | None:
        """Return the response stored under *key*, or None."""
        ...

    def add(self, key: str, recorded: StoredResponse) -> None:
        """Store *recorded* under *key*; replaces an older response. It is stored for good when this returns."""
        ...

    def remove(self, key: str) -> None:
        """Remove what is stored under *key*, if anything."""
        ...


def request_identity(*, method: str, url: str, body_sha256: str) -> str:
    """Return a text that is the same for equal requests; equal requests of a step differ by their ordinal."""
    return f"{method}\n{url}\n{body_sha256}"


def sent_key(*, scope: str, step: str, target: str, identity: str, ordinal: int) -> str:
    """Hex digest that is equal for the same request in a later run of the step on the same event."""
    parts = json.dumps([scope, step, target, identity, ordinal])
    return hashlib.sha256(parts.encode()).hexdigest()


def host_key(*, scope: str, step: str, target: str, origin: str) -> str:
    """Return the key of the mark that a response of *origin* is stored, so that a repeated request may need no connection."""
    return hashlib.sha256(json.dumps(["host", scope, step, target, origin]).encode()).hexdigest()

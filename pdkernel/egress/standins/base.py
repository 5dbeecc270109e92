"""
What a stand-in is given and what it gives.

Knows nothing of any service.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from pdkernel.model import JSON


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """
    A request that a stand-in received.

    Attributes:
        method: Upper case.
        host: That the step wanted to reach.
        path: Without the query.
        query: After the question mark, or empty.
        headers: Lower-case name to value. Never shown.
        body: The bytes. Never shown.
    """

    method: str
    host: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)

    @property
    def token(self) -> str | None:
        """The bearer token that came with it, or None."""
        kind, _, token = self.headers.get("authorization", "").partition(" ")
        return token.strip() if kind.lower() == "bearer" and token.strip() else None


@dataclass(frozen=True, slots=True)
class StandInAnswer:
    """
    A stand-in's answer.

    Attributes:
        status: HTTP status.
        body: Sent as JSON.
        note: What the user would have received, as a sentence, not redacted; or None.
    """

    status: int
    body: JSON
    note: str | None = None


class StandIn(Protocol):
    """Answers for a service."""

    @property
    def received(self) -> deque[ReceivedRequest]:
        """The latest requests, oldest first: the proof, in a test, of what did arrive."""
        ...

    def answer(self, request: ReceivedRequest) -> StandInAnswer:
        """Answer *request* and remember it."""
        ...

"""
What a stand-in is given and what it gives.

Knows nothing of any service: what several of them need alike is here.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pdkernel.model import JSON

_MAX_RECEIVED = 200
_MAX_NOTE_CHARS = 300


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
        headers: Of the answer, besides its content type.
    """

    status: int
    body: JSON
    note: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class StandIn(Protocol):
    """Answers for a service."""

    @property
    def hosts(self) -> tuple[str, ...]:
        """The service's hosts, lower case; those below them are meant too."""
        ...

    @property
    def received(self) -> deque[ReceivedRequest]:
        """The latest requests, oldest first: the proof, in a test, of what did arrive."""
        ...

    def answer(self, request: ReceivedRequest) -> StandInAnswer:
        """Answer *request* and remember it."""
        ...


class StandInGroup:
    """
    Several stand-ins at once, each for its own hosts.

    Attributes:
        received: The latest requests to hosts that are nobody's.
    """

    def __init__(self, stand_ins: Sequence[StandIn]) -> None:
        self._stand_ins = stand_ins
        self.received: deque[ReceivedRequest] = new_request_log()

    @property
    def hosts(self) -> tuple[str, ...]:
        """All of theirs."""
        return tuple(host for stand_in in self._stand_ins for host in stand_in.hosts)

    def answer(self, request: ReceivedRequest) -> StandInAnswer:
        """The answer of the one whose host it is; without one, a refusal that names the hosts."""
        name = request.host.rstrip(".").lower()
        for stand_in in self._stand_ins:
            if any(name == host or name.endswith(f".{host}") for host in stand_in.hosts):
                return stand_in.answer(request)
        self.received.append(request)
        message = f"No stand-in answers for {request.host}: they know {', '.join(self.hosts)}"
        return StandInAnswer(404, {"error": message}, note=message)


def new_request_log() -> deque[ReceivedRequest]:
    """Room for the latest requests."""
    return deque(maxlen=_MAX_RECEIVED)


def parse_json_body(request: ReceivedRequest) -> JSON:
    """The body as JSON, or None."""
    try:
        body: JSON = json.loads(request.body or b"null")
    except ValueError:
        return None
    return body


def derive_number(*of: object) -> int:
    """A number that looks like an id and follows from *of*."""
    digest = hashlib.sha256(json.dumps(of).encode()).digest()
    return int.from_bytes(digest[:4], "big") + 1_000_000_000


def shorten(text: str) -> str:
    """*text* on one line, as a note shows it."""
    line = " ".join(text.split())
    return line if len(line) <= _MAX_NOTE_CHARS else f"{line[: _MAX_NOTE_CHARS - 1]}…"

"""Requests to stand-ins, their responses, and helpers that several stand-ins share."""

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
        """The bearer token of the request, or None."""
        kind, _, token = self.headers.get("authorization", "").partition(" ")
        return token.strip() if kind.lower() == "bearer" and token.strip() else None


@dataclass(frozen=True, slots=True)
class StandInAnswer:
    """
    The response of a stand-in.

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
    """Answers requests in place of a service."""

    @property
    def hosts(self) -> tuple[str, ...]:
        """The service's hosts, lower case; subdomains are included."""
        ...

    @property
    def received(self) -> deque[ReceivedRequest]:
        """The latest requests, oldest first, for assertions in tests."""
        ...

    def answer(self, request: ReceivedRequest) -> StandInAnswer:
        """Answer *request* and store it."""
        ...


class StandInGroup:
    """
    A group of stand-ins, each for its own hosts.

    Attributes:
        received: The latest requests to hosts without a stand-in.
    """

    def __init__(self, stand_ins: Sequence[StandIn]) -> None:
        self._stand_ins = stand_ins
        self.received: deque[ReceivedRequest] = new_request_log()

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts of all stand-ins of the group."""
        return tuple(host for stand_in in self._stand_ins for host in stand_in.hosts)

    def answer(self, request: ReceivedRequest) -> StandInAnswer:
        """The response of the stand-in for the request's host; a refusal with the known hosts if there is none."""
        name = request.host.rstrip(".").lower()
        for stand_in in self._stand_ins:
            if any(name == host or name.endswith(f".{host}") for host in stand_in.hosts):
                return stand_in.answer(request)
        self.received.append(request)
        message = f"No stand-in answers for {request.host}. Hosts of the stand-ins: {', '.join(self.hosts)}"
        return StandInAnswer(404, {"error": message}, note=message)


def new_request_log() -> deque[ReceivedRequest]:
    """A deque for the latest requests."""
    return deque(maxlen=_MAX_RECEIVED)


def parse_json_body(request: ReceivedRequest) -> JSON:
    """The body as JSON, or None."""
    try:
        body: JSON = json.loads(request.body or b"null")
    except ValueError:
        return None
    return body


def derive_number(*of: object) -> int:
    """A number that looks like an id, derived from *of*."""
    digest = hashlib.sha256(json.dumps(of).encode()).digest()
    return int.from_bytes(digest[:4], "big") + 1_000_000_000


def shorten(text: str) -> str:
    """*text* on one line, shortened for a note."""
    line = " ".join(text.split())
    return line if len(line) <= _MAX_NOTE_CHARS else f"{line[: _MAX_NOTE_CHARS - 1]}…"

"""Requests to stand-ins, their responses, and helpers that several stand-ins share."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pdkernel.model import JSON

_MAX_RECEIVED = 200
_MAX_NOTE_CHARS = 300


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """
    A request that a stand-in received.

    Attributes:
        method: The HTTP method in upper case.
        host: The host that the step called.
        path: The path, without the query.
        query: The text after the question mark, or empty.
        headers: Values by lower-case name; not in the repr.
        body: The bytes; not in the repr.
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
        body: The body, sent as JSON.
        note: What the user would have received, as a sentence, not redacted; or None.
        headers: Response headers, besides the content type.
    """

    status: int
    body: JSON
    note: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class StandIn(ABC):
    """
    Answers requests in place of a service.

    Attributes:
        hosts: The service's hosts, lower case; subdomains are included.
        received: The latest requests, oldest first, for assertions in tests.
    """

    hosts: tuple[str, ...]

    def __init__(self) -> None:
        self.received: deque[ReceivedRequest] = deque(maxlen=_MAX_RECEIVED)

    def answer(self, request: ReceivedRequest) -> StandInAnswer:
        """Answer *request* and store it."""
        self.received.append(request)
        return self._respond(request)

    @abstractmethod
    def _respond(self, request: ReceivedRequest) -> StandInAnswer:
        """Return the response of the service to *request*."""


class StandInGroup(StandIn):
    """
    A group of stand-ins, each for its own hosts.

    Attributes:
        hosts: The hosts of all stand-ins of the group.
        received: The latest requests to hosts without a stand-in.
    """

    def __init__(self, stand_ins: Sequence[StandIn]) -> None:
        super().__init__()
        self._stand_ins = stand_ins
        self.hosts = tuple(host for stand_in in stand_ins for host in stand_in.hosts)

    def answer(self, request: ReceivedRequest) -> StandInAnswer:
        """Return the response of the stand-in for the request's host; for an unknown host, a refusal that lists the known hosts."""
        name = request.host.rstrip(".").lower()
        for stand_in in self._stand_ins:
            if any(name == host or name.endswith(f".{host}") for host in stand_in.hosts):
                return stand_in.answer(request)
        return super().answer(request)

    def _respond(self, request: ReceivedRequest) -> StandInAnswer:
        message = f"No stand-in answers for {request.host}. Hosts of the stand-ins: {', '.join(self.hosts)}"
        return StandInAnswer(404, {"error": message}, note=message)


def parse_json_body(request: ReceivedRequest) -> JSON:
    """Return the body parsed as JSON; None if it is empty or not JSON."""
    try:
        body: JSON = json.loads(request.body or b"null")
    except ValueError:
        return None
    return body


def derive_number(*of: object) -> int:
    """Return a number in the form of an id, the same for the same values *of*."""
    digest = hashlib.sha256(json.dumps(of).encode()).digest()
    return int.from_bytes(digest[:4], "big") + 1_000_000_000


def shorten(text: str) -> str:
    """Return *text* on one line, shortened for a note."""
    line = " ".join(text.split())
    return line if len(line) <= _MAX_NOTE_CHARS else f"{line[: _MAX_NOTE_CHARS - 1]}…"

"""
The record of a run as frozen values with one JSON form: `Execution`, its steps and their outbound calls.

`run --json`, the journal and the server all use this form. All values are redacted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from pdkernel.lookup import Lookup
from pdkernel.model import JSON

Status = Literal["queued", "executing", "paused", "resumed", "success", "error", "exited", "cancelled"]
StepStatus = Literal["success", "error", "skipped", "disabled", "pinned", "not_run"]
Stream = Literal["stdout", "stderr"]
CallOutcome = Literal["sent", "not_sent", "stand_in", "replayed", "denied", "failed"]

NOTE_PREFIX = "[pdkernel] "
"""The prefix of a line that pdkernel adds to a step's logs; such a line is a `Log` of its own, on stderr."""
RETURN_VALUE = "$return_value"
SUMMARY = "$summary"


@dataclass(frozen=True, slots=True)
class Log:
    """A piece of a step's output."""

    stream: Stream
    text: str

    @property
    def is_note(self) -> bool:
        """Whether pdkernel wrote the text, not the step."""
        return self.text.startswith(NOTE_PREFIX)

    def to_json(self) -> dict[str, Any]:
        """`{"stream", "text"}`."""
        return {"stream": self.stream, "text": self.text}


@dataclass(frozen=True, slots=True)
class AccountUse:
    """An account that a step used: id and app, never credentials."""

    prop: str
    app: str
    id: str
    owner: Literal["external_user", "own"]

    def to_json(self) -> dict[str, Any]:
        """`{"prop", "app", "id", "owner"}`."""
        return {"prop": self.prop, "app": self.app, "id": self.id, "owner": self.owner}


@dataclass(frozen=True, slots=True)
class OutboundCall:
    """
    One outbound call of a step.

    Attributes:
        method: Upper case, or `CONNECT` if only the connection is known.
        url: Redacted.
        status: HTTP status of the response, or None.
        duration_ms: Milliseconds until the response was complete.
        safe: Whether repeating the call changes nothing (GET, HEAD, OPTIONS).
        outcome: How the call ended.
        app: The app whose credential the call carried, or None.
        at: ISO time of the call.
        same_as: For `not_sent`, the ISO time of the call whose stored response was returned.
        note: A sentence for people (a stand-in's text, the reason of a refusal), or None.
        step: The step that made the call.
        external_user: The external user of the run, or None.
        bytes: Length of the response body as received, or None.
    """

    method: str
    url: str
    status: int | None
    duration_ms: float
    safe: bool
    outcome: CallOutcome
    app: str | None = None
    at: str | None = None
    same_as: str | None = None
    note: str | None = None
    step: str | None = None
    external_user: str | None = None
    bytes: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The call as JSON."""
        return {
            "method": self.method,
            "url": self.url,
            "status": self.status,
            "duration_ms": round(self.duration_ms, 1),
            "safe": self.safe,
            "outcome": self.outcome,
            "app": self.app,
            "at": self.at,
            "same_as": self.same_as,
            "note": self.note,
            "step": self.step,
            "external_user": self.external_user,
            "bytes": self.bytes,
        }


@dataclass(frozen=True, slots=True)
class Delivery:
    """
    The delivery of a message that a step queued with `$.send`; deliveries follow the last step.

    Attributes:
        step: The step that queued the message.
        kind: `http`, `email`, `emit`, `s3` or `sse`.
        outcome: `sent`, `shown` (pdkernel has no such destination) or `failed`.
        to: The destination (method and URL, or e-mail address), or None.
        status: HTTP status of the response, or None.
        note: A sentence for people, or None.
        payload: The queued message, redacted.
        request: The outbound call, or None.
    """

    step: str
    kind: str
    outcome: Literal["sent", "shown", "failed"]
    to: str | None = None
    status: int | None = None
    note: str | None = None
    payload: JSON = None
    request: OutboundCall | None = None

    def to_json(self) -> dict[str, Any]:
        """The delivery as JSON."""
        return {
            "step": self.step,
            "kind": self.kind,
            "outcome": self.outcome,
            "to": self.to,
            "status": self.status,
            "note": self.note,
            "payload": self.payload,
            "request": self.request.to_json() if self.request else None,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The reverse of `to_json`."""
        request = data["request"]
        return cls(**{**data, "request": OutboundCall(**request) if request else None})


@dataclass(frozen=True, slots=True)
class OutboundEnforcement:
    """
    How outbound calls of a run were enforced; recorded if the mode was not `live`, in the journal and the timeline only.

    Attributes:
        mode: `deny`, `allow`, `record`, `replay` or `stand-in`.
        guard: What the operating system does with calls that bypass the gateway: `redirect` (sends them to the gateway),
            `landlock` (refuses them), or `none`.
    """

    mode: str
    guard: str

    def to_json(self) -> dict[str, Any]:
        """`{"mode", "guard"}`."""
        return {"mode": self.mode, "guard": self.guard}


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """
    The complete response to an outbound request, stored so that the request is sent once.

    Attributes:
        status: HTTP status, or 0 if there was no response.
        reason: Reason phrase, or the reason why there was no response; may be empty.
        headers: Names and values in the order received; names may repeat.
        body: The bytes that the step received.
        at: ISO time of the call.
    """

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    at: str

    def __repr__(self) -> str:
        return f"StoredResponse(status={self.status}, at={self.at!r}, {len(self.body)} bytes)"


@dataclass(frozen=True, slots=True)
class ErrorRecord:
    """
    The error of a step or a run.

    Attributes:
        code: A stable code (`errors`).
        name: The error's class name in the step's language.
        message: Text for people.
        step: The failed step, or None.
        line: Line of the step's cell, or None.
        stack: The frames of the step's own code with their local variables, as text, or None.
    """

    code: str
    name: str
    message: str
    step: str | None = None
    line: int | None = None
    stack: str | None = None

    def to_json(self) -> dict[str, Any]:
        """`{"code", "name", "message", "step", "line", "stack"}`."""
        return {
            "code": self.code,
            "name": self.name,
            "message": self.message,
            "step": self.step,
            "line": self.line,
            "stack": self.stack,
        }


@dataclass(frozen=True, slots=True)
class Response:
    """
    The HTTP response that the caller received, redacted.

    Attributes:
        status: The status.
        headers: Headers by name as the step wrote it, without headers of the connection and without the content type that
            follows from *body*.
        body: The body; bytes are `{"$base64": TEXT}`.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: JSON = None

    def to_json(self) -> dict[str, Any]:
        """`{"status", "headers", "body"}`."""
        return {"status": self.status, "headers": dict(self.headers), "body": self.body}


@dataclass(frozen=True, slots=True)
class StepResult:
    """
    The result of one step.

    Attributes:
        source: For a pre-built action, where the component came from and the limits of that source; None for code.
    """

    name: str
    status: StepStatus
    started_at: str | None = None
    duration_ms: float | None = None
    attempt: int = 1
    exports: Mapping[str, JSON] = field(default_factory=dict)
    logs: tuple[Log, ...] = ()
    accounts: tuple[AccountUse, ...] = ()
    requests: tuple[OutboundCall, ...] = ()
    error: ErrorRecord | None = None
    source: str | None = None

    @property
    def return_value(self) -> JSON:
        """The step's return value, or None."""
        return self.exports.get(RETURN_VALUE)

    @property
    def output(self) -> str:
        """The step's output on both streams, in order."""
        return "".join(log.text for log in self.logs)

    def to_json(self) -> dict[str, Any]:
        """The step as JSON; `source` is present for a pre-built action."""
        return {
            "name": self.name,
            "status": self.status,
            "started_at": self.started_at,
            "duration_ms": self.duration_ms if self.duration_ms is None else round(self.duration_ms, 1),
            "attempt": self.attempt,
            "exports": dict(self.exports),
            "logs": [log.to_json() for log in self.logs],
            "accounts": [use.to_json() for use in self.accounts],
            "requests": [call.to_json() for call in self.requests],
            "error": self.error.to_json() if self.error else None,
            **({"source": self.source} if self.source is not None else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The reverse of `to_json`."""
        return cls(
            name=data["name"],
            status=data["status"],
            started_at=data["started_at"],
            duration_ms=data["duration_ms"],
            attempt=data["attempt"],
            exports=data["exports"],
            logs=tuple(Log(**log) for log in data["logs"]),
            accounts=tuple(AccountUse(**use) for use in data["accounts"]),
            requests=tuple(OutboundCall(**call) for call in data["requests"]),
            error=ErrorRecord(**data["error"]) if data["error"] else None,
            source=data.get("source"),
        )


@dataclass(frozen=True, slots=True)
class Execution:
    """
    One run of a workflow on one event.

    Attributes:
        sealed: Whether *event* is empty because the journal holds only an encrypted event: the run ended before its
            accounts were resolved, so their credentials could not be redacted.
    """

    id: str
    trace_id: str
    workflow: str
    version: str
    status: Status
    external_user: str | None
    environment: str
    started_at: str
    event: Mapping[str, JSON]
    context: Mapping[str, JSON]
    steps: tuple[StepResult, ...] = ()
    finished_at: str | None = None
    attempt: int = 1
    replay_of: str | None = None
    response: Response | None = None
    error: ErrorRecord | None = None
    sends: tuple[Delivery, ...] = ()
    outbound_enforcement: OutboundEnforcement | None = None
    lookup: Lookup | None = None
    sealed: bool = False

    def step(self, name: str) -> StepResult:
        """Return the result of step *name*. Raises `KeyError` if there is no such step."""
        for step in self.steps:
            if step.name == name:
                return step
        raise KeyError(f"no step {name!r}; the steps are {', '.join(step.name for step in self.steps) or 'none'}")

    @property
    def requests(self) -> tuple[OutboundCall, ...]:
        """The outbound calls of all steps, in step order."""
        return tuple(call for step in self.steps for call in step.requests)

    def to_json(self) -> dict[str, Any]:
        """The execution as JSON; `sends` is present if a step queued a message, `lookup` if an account was looked up."""
        return {
            "id": self.id,
            "trace_id": self.trace_id,
            "workflow": self.workflow,
            "version": self.version,
            "status": self.status,
            "external_user": self.external_user,
            "environment": self.environment,
            "started_at": self.started_at,
            "finished_at": self.finished_at,
            "attempt": self.attempt,
            "replay_of": self.replay_of,
            "trigger": {
                "event": dict(self.event),
                "context": dict(self.context),
                **({"sealed": True} if self.sealed else {}),
            },
            "steps": [step.to_json() for step in self.steps],
            "response": self.response.to_json() if self.response else None,
            "error": self.error.to_json() if self.error else None,
            **({"sends": [send.to_json() for send in self.sends]} if self.sends else {}),
            **({"lookup": self.lookup.to_json()} if self.lookup else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The reverse of `to_json`."""
        return cls(
            id=data["id"],
            trace_id=data["trace_id"],
            workflow=data["workflow"],
            version=data["version"],
            status=data["status"],
            external_user=data["external_user"],
            environment=data["environment"],
            started_at=data["started_at"],
            finished_at=data["finished_at"],
            attempt=data["attempt"],
            replay_of=data["replay_of"],
            event=data["trigger"]["event"],
            context=data["trigger"]["context"],
            steps=tuple(StepResult.from_json(step) for step in data["steps"]),
            response=Response(**data["response"]) if data["response"] else None,
            error=ErrorRecord(**data["error"]) if data["error"] else None,
            sends=tuple(Delivery.from_json(send) for send in data.get("sends", ())),
            lookup=Lookup.from_json(data["lookup"]) if data.get("lookup") else None,
            sealed=data["trigger"].get("sealed", False),
        )

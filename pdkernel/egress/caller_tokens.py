"""
Caller tokens: an opaque token per worker process, bound to one step at a time.

A token is looked up at every request, not at every connection: a kept-alive connection outlives its step.
"""

from __future__ import annotations

import asyncio
import secrets
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

import msgspec

from pdkernel.common.identity import ProxyAccess
from pdkernel.common.redaction import Redactor
from pdkernel.egress.outbound_policy import OutboundPolicy
from pdkernel.egress.own_server import StepCaller
from pdkernel.egress.send_once import SentRequestStore
from pdkernel.execution import OutboundCall
from pdkernel.model import JSON

if TYPE_CHECKING:
    from pdkernel.egress.message import Request  # both load h11
    from pdkernel.egress.recording import MemoryRecording

_MAX_FAILURES = 256
"""Dropped connections per token whose causes are stored."""


class CallsInFlight(Protocol):
    """The unsafe calls of one attempt at a step, recorded before they are sent."""

    def is_repeated(self, method: str, url: str) -> bool:
        """Return whether an earlier attempt has sent the next call of that method and redacted URL, and saw no answer; count the call."""
        ...

    async def add(self, call: OutboundCall) -> None:
        """
        Record *call*; it is stored for good when this returns.

        Raises:
            PdkernelError: The call must not be sent, because it could not be recorded, or because its step has ended.
        """
        ...


class CallWatch(Protocol):
    """Sees the calls of steps that leave: to a host, to a stand-in, or to a recording that answers them."""

    async def leaving(self, context: CallContext, request: Request) -> None:
        """Called before the first byte of *request* leaves."""
        ...

    async def answered(self, context: CallContext, request: Request) -> None:
        """Called when the head of the answer to *request* is known, before the step sees it."""
        ...


class CallContext(msgspec.Struct, kw_only=True, eq=False):
    """
    The step that a token is bound to, and how its outbound calls are treated.

    Attributes:
        step: The step's name.
        policy: The outbound policy of its calls.
        redactor: Redacts the run's secrets in everything that is stored of a call; replaced when the step gets other secrets.
        owner: Whose connections the calls use, see `connection_owner`; owners share no connection. Default: the step alone.
        on_call_finished: Called with each finished call, before the step receives the end of the response.
        on_call_refused: Called with the message of a refused call; the step should fail with this message.
        on_failed: Called with the cause of a call without a complete response; the client's own error may not name the cause.
        external_user_id: The external user of the run, or None.
        environment: The environment of the run; None for a call of no run.
        app_by_secret_ref: Secret ref to the slug of the app whose account has the secret.
        proxy_by_secret_ref: Secret ref to Connect's proxy, for credentials that Connect does not give out.
        sent_requests: Responses to unsafe requests of earlier runs, or None to send every time.
        send_once_scope: A text made of event, user and environment; a request is sent once within this scope.
        send_again: Send requests that were sent before, and store the new responses.
        memory_recording: Records the calls in memory, in every mode; or None.
        attempt: The number of the attempt at the step.
        calls_in_flight: Records unsafe calls before they are sent, where *sent_requests* does not; or None.
    """

    step: str
    policy: OutboundPolicy
    redactor: Redactor
    owner: str = msgspec.field(default_factory=secrets.token_hex)
    on_call_finished: Callable[[OutboundCall], None]
    on_call_refused: Callable[[str], None]
    on_failed: Callable[[str], None] = lambda _: None
    external_user_id: str | None = None
    environment: str | None = None
    app_by_secret_ref: Mapping[str, str] = {}
    proxy_by_secret_ref: Mapping[str, ProxyAccess] = {}
    sent_requests: SentRequestStore | None = None
    send_once_scope: str = ""
    send_again: bool = False
    memory_recording: MemoryRecording | None = None
    attempt: int = 1
    calls_in_flight: CallsInFlight | None = None

    @property
    def caller(self) -> StepCaller:
        """The run for the mark of calls to its own server."""
        return StepCaller(self.external_user_id, self.environment)

    @property
    def is_recorded(self) -> bool:
        """Whether calls are recorded."""
        return self.policy.mode == "record" or self.memory_recording is not None


def connection_owner(external_user_id: str | None, environment: str, run_id: str) -> str:
    """Return whose connections a run uses: those of its external user in its environment; without a user, the run's own."""
    return f"run {run_id}" if external_user_id is None else f"user {environment} {external_user_id}"


class UnfinishedCall(Protocol):
    """A call that is recorded when it is finished (`pending_call.PendingCall`)."""

    def abandon(self) -> None:
        """Record the call as far as it is known, unless it is recorded."""
        ...


class StepBinding:
    """
    The context that a token is bound to; counts equal requests and remembers blocked URLs since the binding.

    Attributes:
        context: The context.
    """

    def __init__(self, context: CallContext) -> None:
        self.context = context
        self._calls: weakref.WeakSet[UnfinishedCall] | None = None  # that may be unfinished; most steps make none
        self._ordinals: dict[str, int] = {}
        self._blocked_urls: set[str] = set()

    def add_call(self, call: UnfinishedCall) -> None:
        """Note *call*, which begins."""
        if self._calls is None:
            self._calls = weakref.WeakSet()
        self._calls.add(call)

    def abandon_calls(self) -> None:
        """Record the calls that are unfinished: the step has ended."""
        for call in list(self._calls or ()):
            call.abandon()

    def next_ordinal(self, identity: str) -> int:
        """Return the number of earlier requests with *identity*, and count this request."""
        count = self._ordinals.get(identity, 0)
        self._ordinals[identity] = count + 1
        return count

    def is_first_block(self, url: str) -> bool:
        """Return whether this is the first blocked call to *url*: a program may send thousands of datagrams."""
        new = url not in self._blocked_urls
        self._blocked_urls.add(url)
        return new


class CallerToken:
    """
    An issued token and its state.

    Attributes:
        value: The token.
        public_only: The process may call public addresses only, also between steps.
        step_binding: The current binding, or None between steps.
        connections: Tasks of the connections that use the token.
    """

    def __init__(self, token: str, *, public_only: bool) -> None:
        self.value = token
        self.public_only = public_only
        self.step_binding: StepBinding | None = None
        self.connections: set[asyncio.Task[None]] = set()
        self._failures: OrderedDict[int, Mapping[str, JSON]] = OrderedDict()

    def add_failure(self, port: int, why: Mapping[str, JSON]) -> None:
        """Store *why* the client's connection from its local *port* was dropped, for a query of the hook."""
        self._failures[port] = why
        if len(self._failures) > _MAX_FAILURES:
            self._failures.popitem(last=False)

    def forget_failure(self, port: int) -> None:
        """Delete the stored cause: a new connection uses the port."""
        self._failures.pop(port, None)

    def failure(self, port: int) -> Mapping[str, JSON]:
        """Return why the connection from the client's local *port* was dropped, or `{}`."""
        return self._failures.get(port, {})


def binding_of(caller: CallerToken | None) -> StepBinding | None:
    """Return the current binding of *caller*; None between steps and for an unknown caller."""
    return None if caller is None else caller.step_binding


class CallerTokens:
    """The tokens of one gateway."""

    def __init__(self) -> None:
        self._callers: dict[str, CallerToken] = {}

    def issue(self, *, public_only: bool = False) -> str:
        """Return a new random token without a binding."""
        token = secrets.token_urlsafe(18)
        self._callers[token] = CallerToken(token, public_only=public_only)
        return token

    def find(self, token: str | None) -> CallerToken | None:
        """Return the caller with *token*, or None if the token was not issued or is revoked."""
        return self._callers.get(token) if token else None

    def bind(self, token: str, context: CallContext) -> None:
        """
        Bind *token* to *context*.

        Raises:
            KeyError: The token was not issued or is revoked.
            ValueError: `public_only` of the token and of the policy differ.
        """
        caller = self._callers[token]
        if context.policy.public_only != caller.public_only:
            raise ValueError("The token and the policy must agree on public_only.")
        caller.step_binding = StepBinding(context)

    def unbind(self, token: str) -> None:
        """Remove the binding of *token*, and record its unfinished calls; an unknown token is ignored."""
        caller = self._callers.get(token)
        if caller is not None and caller.step_binding is not None:
            caller.step_binding.abandon_calls()
            caller.step_binding = None

    def find_most_connections(self) -> set[asyncio.Task[None]]:
        """Return the connections of the token that has the most; empty without connections."""
        return max((caller.connections for caller in list(self._callers.values())), key=len, default=set())

    def revoke(self, token: str) -> CallerToken | None:
        """Delete *token*; returns its caller, or None if the token is unknown."""
        return self._callers.pop(token, None)

"""
Whose outside calls these are: an opaque word per process, bound anew to each step.

Knows the binding's fields and the count of equal requests since it was bound. Knows nothing of HTTP.
A ticket is looked up at every request, not at every connection: a kept-alive connection outlives its step.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pdkernel.egress.outbound_policy import OutboundPolicy
from pdkernel.egress.send_once import SentRequestStore
from pdkernel.execution import OutboundCall
from pdkernel.identity import ProxyAccess
from pdkernel.model import JSON

if TYPE_CHECKING:
    from pdkernel.egress.memory_recording import MemoryRecording

_FAILURES = 256
"""Dropped connections of a process whose causes are remembered."""


class SecretRedactor(Protocol):
    """Hides a run's secrets."""

    def redact_text(self, text: str) -> str:
        """*text* with every known secret, however encoded, replaced by its placeholder."""
        ...

    def restore(self, value: JSON) -> JSON:
        """*value* with the secret back in the place of each placeholder."""
        ...

    @property
    def secret_refs(self) -> list[str]:
        """The refs of all of them: `APP/ACCOUNT/FIELD`, `env/NAME`."""
        ...

    def find_secrets(self, text: str) -> list[str]:
        """The refs of the secrets that *text* holds."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class CallContext:
    """
    The step whose outside calls a ticket stands for.

    Attributes:
        step: The step's name.
        policy: What becomes of its calls.
        redactor: Hides the run's secrets in whatever is kept of a call.
        on_call_finished: Told of each finished call, before the step sees the end of the answer.
        on_call_refused: Told of a call that nothing may answer: the step should end with this message.
        on_failed: Told of a call that got no whole answer: the client's own error may not name the cause.
        external_user: On whose behalf the run is, or None.
        app_by_secret_ref: Secret ref to app slug, for "whose account was used".
        proxy_by_secret_ref: Secret ref to the proxy that has the credential, for those that Connect keeps to itself.
        sent_requests: Answers to unsafe requests of earlier runs, or None to send every time.
        send_once_scope: Event, user and environment: what "once" is counted in.
        send_again: Send even what was sent before, and keep the new answer.
        memory_recording: Takes the calls down in memory, whatever the mode; or None.
    """

    step: str
    policy: OutboundPolicy
    redactor: SecretRedactor
    on_call_finished: Callable[[OutboundCall], None]
    on_call_refused: Callable[[str], None]
    on_failed: Callable[[str], None] = lambda _: None
    external_user: str | None = None
    app_by_secret_ref: Mapping[str, str] = field(default_factory=dict)
    proxy_by_secret_ref: Mapping[str, ProxyAccess] = field(default_factory=dict)
    sent_requests: SentRequestStore | None = None
    send_once_scope: str = ""
    send_again: bool = False
    memory_recording: MemoryRecording | None = None

    @property
    def is_recorded(self) -> bool:
        """Whether what goes out is written down."""
        return self.policy.mode == "record" or self.memory_recording is not None


class StepBinding:
    """One binding at work: the binding, and how often each request was made since."""

    def __init__(self, context: CallContext) -> None:
        self.context = context
        self._ordinals: Counter[str] = Counter()
        self._blocked_urls: set[str] = set()

    def next_ordinal(self, identity: str) -> int:
        """How many equal requests came before this one; counts it."""
        count = self._ordinals[identity]
        self._ordinals[identity] += 1
        return count

    def is_first_block(self, url: str) -> bool:
        """Whether this is the first time that something to *url* is stopped: datagrams come by the thousand."""
        new = url not in self._blocked_urls
        self._blocked_urls.add(url)
        return new


class CallerToken:
    """
    A ticket.

    Attributes:
        value: The word.
        public_only: Its process reaches public addresses only, between steps, too.
        step_binding: Its present binding, or None between steps.
        connections: Those that carry it.
    """

    def __init__(self, token: str, *, public_only: bool) -> None:
        self.value = token
        self.public_only = public_only
        self.step_binding: StepBinding | None = None
        self.connections: set[asyncio.Task[None]] = set()
        self._failures: OrderedDict[int, Mapping[str, JSON]] = OrderedDict()

    def add_failure(self, port: int, why: Mapping[str, JSON]) -> None:
        """Remember *why* the client's connection from its local *port* was dropped, for the hook that asks."""
        self._failures[port] = why
        if len(self._failures) > _FAILURES:
            self._failures.popitem(last=False)

    def forget_failure(self, port: int) -> None:
        """Forget it: another connection has the port."""
        self._failures.pop(port, None)

    def failure(self, port: int) -> Mapping[str, JSON]:
        """Why the connection was dropped, or `{}`."""
        return self._failures.get(port, {})


class CallerTokens:
    """The tickets of one gateway."""

    def __init__(self) -> None:
        self._tickets: dict[str, CallerToken] = {}

    def issue(self, *, public_only: bool = False) -> str:
        """A new ticket, unbound; nobody can guess it."""
        token = secrets.token_urlsafe(18)
        self._tickets[token] = CallerToken(token, public_only=public_only)
        return token

    def find(self, token: str | None) -> CallerToken | None:
        """The open ticket of that word, or None."""
        return self._tickets.get(token) if token else None

    def bind(self, token: str, context: CallContext) -> None:
        """
        From now on *token* stands for *context*.

        Raises:
            KeyError: The ticket is not open.
            ValueError: One of the two is for public addresses only, and the other is not.
        """
        ticket = self._tickets[token]
        if context.policy.public_only != ticket.public_only:
            raise ValueError("A ticket and its binding reach the same addresses.")
        ticket.step_binding = StepBinding(context)

    def unbind(self, token: str) -> None:
        """From now on *token* stands for no step; an unknown ticket is left at that."""
        ticket = self._tickets.get(token)
        if ticket is not None:
            ticket.step_binding = None

    def revoke(self, token: str) -> CallerToken | None:
        """Forget *token*; the ticket, if it was open."""
        return self._tickets.pop(token, None)

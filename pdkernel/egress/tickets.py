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

from pdkernel.egress.policy import Policy
from pdkernel.egress.sent import SentRequests
from pdkernel.execution import OutsideCall
from pdkernel.identity import ProxyAccess
from pdkernel.model import JSON

if TYPE_CHECKING:
    from pdkernel.egress.tape import Tape

_FAILURES = 256
"""Dropped connections of a process whose causes are remembered."""


class Redacts(Protocol):
    """Hides a run's secrets."""

    def text(self, text: str) -> str:
        """*text* with every known secret, however encoded, replaced by its placeholder."""
        ...

    def restore(self, value: JSON) -> JSON:
        """*value* with the secret back in the place of each placeholder."""
        ...

    @property
    def refs(self) -> list[str]:
        """The refs of all of them: `APP/ACCOUNT/FIELD`, `env/NAME`."""
        ...

    def found_in(self, text: str) -> list[str]:
        """The refs of the secrets that *text* holds."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Binding:
    """
    The step whose outside calls a ticket stands for.

    Attributes:
        step: The step's name.
        policy: What becomes of its calls.
        redactor: Hides the run's secrets in whatever is kept of a call.
        on_call: Told of each finished call, before the step sees the end of the answer.
        on_refused: Told of a call that nothing may answer: the step should end with this message.
        on_failed: Told of a call that got no whole answer: the client's own error may not name the cause.
        external_user: On whose behalf the run is, or None.
        apps: Secret ref to app slug, for "whose account was used".
        proxied: Secret ref to the proxy that has the credential, for those that Connect keeps to itself.
        sent: Answers to unsafe requests of earlier runs, or None to send every time.
        scope: Event, user and environment: what "once" is counted in.
        send: Send even what was sent before, and keep the new answer.
        tape: Takes the calls down in memory, whatever the mode; or None.
    """

    step: str
    policy: Policy
    redactor: Redacts
    on_call: Callable[[OutsideCall], None]
    on_refused: Callable[[str], None]
    on_failed: Callable[[str], None] = lambda _: None
    external_user: str | None = None
    apps: Mapping[str, str] = field(default_factory=dict)
    proxied: Mapping[str, ProxyAccess] = field(default_factory=dict)
    sent: SentRequests | None = None
    scope: str = ""
    send: bool = False
    tape: Tape | None = None

    @property
    def is_recorded(self) -> bool:
        """Whether what goes out is written down."""
        return self.policy.mode == "record" or self.tape is not None


class Bound:
    """One binding at work: the binding, and how often each request was made since."""

    def __init__(self, binding: Binding) -> None:
        self.binding = binding
        self._made: Counter[str] = Counter()
        self._stopped: set[str] = set()

    def ordinal(self, identity: str) -> int:
        """How many equal requests came before this one; counts it."""
        count = self._made[identity]
        self._made[identity] += 1
        return count

    def is_new(self, place: str) -> bool:
        """Whether this is the first time that something to *place* is stopped: datagrams come by the thousand."""
        new = place not in self._stopped
        self._stopped.add(place)
        return new


class Ticket:
    """
    A ticket.

    Attributes:
        token: The word.
        public_only: Its process reaches public addresses only, between steps, too.
        bound: Its present binding, or None between steps.
        connections: Those that carry it.
    """

    def __init__(self, token: str, *, public_only: bool) -> None:
        self.token = token
        self.public_only = public_only
        self.bound: Bound | None = None
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


class Tickets:
    """The tickets of one gateway."""

    def __init__(self) -> None:
        self._tickets: dict[str, Ticket] = {}

    def open(self, *, public_only: bool = False) -> str:
        """A new ticket, unbound; nobody can guess it."""
        token = secrets.token_urlsafe(18)
        self._tickets[token] = Ticket(token, public_only=public_only)
        return token

    def find(self, token: str | None) -> Ticket | None:
        """The open ticket of that word, or None."""
        return self._tickets.get(token) if token else None

    def bind(self, token: str, binding: Binding) -> None:
        """
        From now on *token* stands for *binding*.

        Raises:
            KeyError: The ticket is not open.
            ValueError: One of the two is for public addresses only, and the other is not.
        """
        ticket = self._tickets[token]
        if binding.policy.public_only != ticket.public_only:
            raise ValueError("A ticket and its binding reach the same addresses.")
        ticket.bound = Bound(binding)

    def unbind(self, token: str) -> None:
        """From now on *token* stands for no step; an unknown ticket is left at that."""
        ticket = self._tickets.get(token)
        if ticket is not None:
            ticket.bound = None

    def close(self, token: str) -> Ticket | None:
        """Forget *token*; the ticket, if it was open."""
        return self._tickets.pop(token, None)

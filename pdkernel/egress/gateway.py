"""
The one place through which the outside calls of a project's steps pass: a listener on this machine.

Knows connections: how they begin, what they speak, and whom they belong to. What becomes of a call is `desk`'s to decide.
One gateway serves all runs of a process; what is allowed hangs on the ticket, so that two runs may differ.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from pdkernel.clock import SYSTEM_CLOCK, Clock
from pdkernel.egress import refusals
from pdkernel.egress.call import Call
from pdkernel.egress.guard.addresses import Place
from pdkernel.egress.guard.choice import Guard
from pdkernel.egress.guard.guarding import Guarding
from pdkernel.egress.message import origin
from pdkernel.egress.policy import Policy
from pdkernel.egress.public import Lookup, NotPublicError, public_addresses, system_lookup
from pdkernel.egress.standins import StandIn, built_in
from pdkernel.egress.tickets import Binding, Tickets
from pdkernel.egress.tls.certificates import Authority
from pdkernel.egress.variables import variables
from pdkernel.model import Language

if TYPE_CHECKING:
    from pdkernel.egress.desk import Desk
    from pdkernel.egress.upstream import Resolve, Upstream

_T = TypeVar("_T")


class Gateway:
    """
    A listener on 127.0.0.1 that answers, sends or refuses steps' outside calls.

    Use `await Gateway.start(folder)`. All methods but `close` may be called from any thread.

    Attributes:
        port: Where it listens.
        stand_ins: The built-in stand-ins, by name; each remembers what it received.
    """

    def __init__(
        self,
        listener: socket.socket,
        authority: Authority,
        out: Callable[[], Upstream],
        clock: Clock,
        guard: Guard | None = None,
        lookup: Lookup = system_lookup,
    ) -> None:
        self.port: int = listener.getsockname()[1]
        self.stand_ins: Mapping[str, StandIn] = built_in()
        self._listener = listener
        self._authority = authority
        self._out = out
        self._clock = clock
        self._lookup = lookup
        self._desk: Desk | None = None
        self._tickets = Tickets()
        self._loop = asyncio.get_running_loop()
        self._connections: set[asyncio.Task[None]] = set()
        self._guarding = Guarding(self._loop, port=self.port, refused=self._stopped, guard=guard)
        self._accepting = self._loop.create_task(self._accept())

    @classmethod
    async def start(
        cls,
        folder: Path,
        *,
        clock: Clock = SYSTEM_CLOCK,
        resolve: Resolve | None = None,
        upstream_ca: Path | None = None,
        environ: Mapping[str, str] | None = None,
        guard: Guard | None = None,
        lookup: Lookup = system_lookup,
    ) -> Self:
        """
        Listen on a free port.

        Args:
            folder: Where the project's certificate authority is kept; made if need be.
            clock: Of the ledger's rows.
            resolve: Hosts that live somewhere else, (host, port) to (host, port): for tests.
            upstream_ca: Roots to trust besides the public ones, as PEM.
            environ: Whose `SSL_CERT_FILE` names the user's own roots; this process's if not given.
            guard: What guards processes that `guarded` starts; the best that works here if not given.
            lookup: Resolves names where only public addresses may be reached.
        """
        environ = os.environ if environ is None else environ
        listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        listener.setblocking(False)

        def out() -> Upstream:
            from pdkernel.egress.upstream import Upstream

            return Upstream(environ=environ, resolve=resolve or {}, extra_ca=upstream_ca, lookup=lookup)

        return cls(listener, Authority(folder, environ=environ), out, clock, guard, lookup)

    def open_ticket(self, *, public_only: bool = False) -> str:
        """A new ticket for a process, not yet bound to a step; with *public_only*, for one that reaches nothing else."""
        return self._tickets.open(public_only=public_only)

    def bind(self, ticket: str, binding: Binding) -> None:
        """From now on the calls of *ticket*'s process are those of *binding*'s step. `KeyError` if it is not open."""
        self._tickets.bind(ticket, binding)

    async def check(self, policy: Policy) -> None:
        """Read the recording of *policy*, if it has one. Raises `RecordingError` if it cannot be used."""
        if policy.file is not None:
            await asyncio.to_thread(self._opened_desk().check, policy)

    def unbind(self, ticket: str) -> None:
        """From now on the calls of *ticket*'s process are nobody's, and refused."""
        self._tickets.unbind(ticket)

    def close_ticket(self, ticket: str) -> None:
        """Forget *ticket*, and end the connections that it opened."""
        closed = self._tickets.close(ticket)
        if closed is not None and closed.connections:
            self._loop.call_soon_threadsafe(_cancel, closed.connections)

    def environment(self, ticket: str, language: Language) -> dict[str, str]:
        """The variables that lead a process to the gateway; the project's certificates are made if need be."""
        return variables(
            port=self.port,
            ticket=ticket,
            language=language,
            authority=self._authority,
            public_only=self._public_only(ticket),
        )

    @property
    def guard(self) -> Guard:
        """What the operating system does about processes that `guarded` starts; the first time it is tried out."""
        return self._guarding.guard

    def guarded(self, ticket: str, start: Callable[[], _T]) -> _T:
        """
        *start*'s result; what the processes that it starts do outside is led here or refused, whatever they are.

        For every mode but live, and where only public addresses may be reached. As far as the operating system can: see `guard`.

        Args:
            ticket: Whose calls these are.
            start: Starts a process; it is called in a thread of its own.
        """
        return self._guarding.start(ticket, start, public_only=self._public_only(ticket))

    async def leads_inside(self, host: str, port: int) -> bool:
        """Whether *host* has an address now that is not public; a name without an address leads nowhere."""
        try:
            await public_addresses(host, port, self._lookup)
        except NotPublicError:
            return True
        except OSError:
            return False
        return False

    async def close(self) -> None:
        """Stop listening and end every connection."""
        self._guarding.close()
        self._accepting.cancel()
        await asyncio.gather(self._accepting, return_exceptions=True)
        self._listener.close()
        _cancel(self._connections)
        await asyncio.gather(*self._connections, return_exceptions=True)
        if self._desk is not None:
            await self._desk.close()

    def _public_only(self, token: str) -> bool:
        ticket = self._tickets.find(token)
        return ticket is not None and ticket.public_only

    def _stopped(self, ticket: str, what: str, place: Place) -> None:
        """The operating system has stopped something: there is no way to answer it but the ledger."""
        found = self._tickets.find(ticket)
        bound = found.bound if found is not None else None
        if bound is not None:
            url = origin("udp", place.host, place.port)
            if bound.is_new(url):
                policy = bound.binding.policy
                if policy.public_only and place.local:
                    refusal = refusals.not_public("CONNECT", url)
                else:
                    refusal = refusals.stopped(what, url, policy.text)
                Call(bound.binding, "CONNECT", url, self._clock).refuse(refusal)

    async def _accept(self) -> None:
        while True:
            try:
                sock, _ = await self._loop.sock_accept(self._listener)
            except OSError:
                # No descriptors left: they come back as connections end.
                await asyncio.sleep(0.1)
                continue
            task = self._loop.create_task(self._serve(sock))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

    async def _serve(self, sock: socket.socket) -> None:
        # Imported with the first connection: a gateway that nobody calls costs nothing.
        from pdkernel.egress.connection import Connection

        desk = self._opened_desk()
        with contextlib.closing(sock), contextlib.suppress(OSError):
            await Connection(sock, self._tickets, desk, self._authority, self._guarding.name_of).serve()

    def _opened_desk(self) -> Desk:
        from pdkernel.egress.desk import Desk

        if self._desk is None:
            self._desk = Desk(upstream=self._out(), stand_ins=self.stand_ins, clock=self._clock)
        return self._desk


def _cancel(tasks: set[asyncio.Task[None]]) -> None:
    for task in list(tasks):
        task.cancel()

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
from pdkernel.egress.caller_tokens import CallContext, CallerTokens
from pdkernel.egress.gateway_environment import build_gateway_environment
from pdkernel.egress.message import format_origin
from pdkernel.egress.outbound_policy import OutboundPolicy
from pdkernel.egress.pending_call import PendingCall
from pdkernel.egress.public_addresses import Lookup, NotPublicError, public_addresses, system_lookup
from pdkernel.egress.sandbox.addresses import SocketAddress
from pdkernel.egress.sandbox.detection import SandboxKind
from pdkernel.egress.sandbox.launcher import SandboxLauncher
from pdkernel.egress.stand_ins import StandIn, build_stand_ins
from pdkernel.egress.tls.certificates import CertificateAuthority
from pdkernel.model import Language

if TYPE_CHECKING:
    from pdkernel.egress.router import CallRouter
    from pdkernel.egress.upstream import HostOverrides, Upstream

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
        authority: CertificateAuthority,
        make_upstream: Callable[[], Upstream],
        clock: Clock,
        sandbox_kind: SandboxKind | None = None,
        lookup: Lookup = system_lookup,
    ) -> None:
        self.port: int = listener.getsockname()[1]
        self.stand_ins: Mapping[str, StandIn] = build_stand_ins()
        self._listener = listener
        self._authority = authority
        self._make_upstream = make_upstream
        self._clock = clock
        self._lookup = lookup
        self._router: CallRouter | None = None
        self._tokens = CallerTokens()
        self._loop = asyncio.get_running_loop()
        self._connections: set[asyncio.Task[None]] = set()
        self._sandbox = SandboxLauncher(self._loop, port=self.port, on_blocked=self._record_blocked, kind=sandbox_kind)
        self._accepting = self._loop.create_task(self._accept())

    @classmethod
    async def start(
        cls,
        folder: Path,
        *,
        clock: Clock = SYSTEM_CLOCK,
        host_overrides: HostOverrides | None = None,
        extra_ca_file: Path | None = None,
        environ: Mapping[str, str] | None = None,
        sandbox_kind: SandboxKind | None = None,
        lookup: Lookup = system_lookup,
    ) -> Self:
        """
        Listen on a free port.

        Args:
            folder: Where the project's certificate authority is kept; made if need be.
            clock: Of the ledger's rows.
            host_overrides: Hosts that live somewhere else, (host, port) to (host, port): for tests.
            extra_ca_file: Roots to trust besides the public ones, as PEM.
            environ: Whose `SSL_CERT_FILE` names the user's own roots; this process's if not given.
            sandbox_kind: What guards processes that `guarded` starts; the best that works here if not given.
            lookup: Resolves names where only public addresses may be reached.
        """
        environ = os.environ if environ is None else environ
        listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        listener.setblocking(False)

        def out() -> Upstream:
            from pdkernel.egress.upstream import Upstream

            return Upstream(environ=environ, host_overrides=host_overrides or {}, extra_ca=extra_ca_file, lookup=lookup)

        return cls(listener, CertificateAuthority(folder, environ=environ), out, clock, sandbox_kind, lookup)

    def issue_token(self, *, public_only: bool = False) -> str:
        """A new ticket for a process, not yet bound to a step; with *public_only*, for one that reaches nothing else."""
        return self._tokens.issue(public_only=public_only)

    def bind(self, token: str, context: CallContext) -> None:
        """From now on the calls of *token*'s process are those of *context*'s step. `KeyError` if it is not open."""
        self._tokens.bind(token, context)

    async def check(self, policy: OutboundPolicy) -> None:
        """Read the recording of *policy*, if it has one. Raises `RecordingError` if it cannot be used."""
        if policy.recording_file is not None:
            await asyncio.to_thread(self._opened_desk().check, policy)

    def unbind(self, token: str) -> None:
        """From now on the calls of *token*'s process are nobody's, and refused."""
        self._tokens.unbind(token)

    def revoke_token(self, token: str) -> None:
        """Forget *token*, and end the connections that it opened."""
        closed = self._tokens.revoke(token)
        if closed is not None and closed.connections:
            self._loop.call_soon_threadsafe(_cancel, closed.connections)

    def build_environment(self, token: str, language: Language) -> dict[str, str]:
        """The variables that lead a process to the gateway; the project's certificates are made if need be."""
        return build_gateway_environment(
            port=self.port,
            token=token,
            language=language,
            authority=self._authority,
            public_only=self._public_only(token),
        )

    @property
    def sandbox_kind(self) -> SandboxKind:
        """What the operating system does about processes that `guarded` starts; the first time it is tried out."""
        return self._sandbox.kind

    def start_sandboxed(self, token: str, start_process: Callable[[], _T]) -> _T:
        """
        *start_process*'s result; what the processes that it starts do outside is led here or refused, whatever they are.

        For every mode but live, and where only public addresses may be reached. As far as the operating system can: see `guard`.

        Args:
            token: Whose calls these are.
            start_process: Starts a process; it is called in a thread of its own.
        """
        return self._sandbox.start(token, start_process, public_only=self._public_only(token))

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
        self._sandbox.close()
        self._accepting.cancel()
        await asyncio.gather(self._accepting, return_exceptions=True)
        self._listener.close()
        _cancel(self._connections)
        await asyncio.gather(*self._connections, return_exceptions=True)
        if self._router is not None:
            await self._router.close()

    def _public_only(self, token: str) -> bool:
        ticket = self._tokens.find(token)
        return ticket is not None and ticket.public_only

    def _record_blocked(self, ticket: str, what: str, place: SocketAddress) -> None:
        """The operating system has stopped something: there is no way to answer it but the ledger."""
        found = self._tokens.find(ticket)
        bound = found.step_binding if found is not None else None
        if bound is not None:
            url = format_origin("udp", place.host, place.port)
            if bound.is_first_block(url):
                policy = bound.context.policy
                if policy.public_only and place.is_loopback:
                    refusal = refusals.not_public("CONNECT", url)
                else:
                    refusal = refusals.blocked_by_sandbox(what, url, policy.mode_text)
                PendingCall(bound.context, "CONNECT", url, self._clock).refuse(refusal)

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
        from pdkernel.egress.client_connection import ClientConnection

        desk = self._opened_desk()
        with contextlib.closing(sock), contextlib.suppress(OSError):
            await ClientConnection(sock, self._tokens, desk, self._authority, self._sandbox.resolve_name).serve()

    def _opened_desk(self) -> CallRouter:
        from pdkernel.egress.router import CallRouter

        if self._router is None:
            self._router = CallRouter(upstream=self._make_upstream(), stand_ins=self.stand_ins, clock=self._clock)
        return self._router


def _cancel(tasks: set[asyncio.Task[None]]) -> None:
    for task in list(tasks):
        task.cancel()

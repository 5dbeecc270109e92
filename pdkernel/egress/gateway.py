"""
The gateway: a listener on this machine through which all outbound calls of steps go.

One gateway serves all runs of a process. The policy belongs to the caller token, so runs may have different policies.
`open_client` opens an HTTP client whose calls go through the gateway like a step's: deliveries after a run, calls of the API proxy.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import resource
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self, TypeVar
from urllib.parse import urlsplit

from pdkernel.common.blocking import run_blocking
from pdkernel.common.clock import SYSTEM_CLOCK, Clock
from pdkernel.egress import refusals
from pdkernel.egress.caller_tokens import CallContext, CallerTokens, CallWatch, binding_of
from pdkernel.egress.certificates import CertificateAuthority
from pdkernel.egress.message import format_origin
from pdkernel.egress.outbound_policy import (
    Lookup,
    NotPublicError,
    OutboundPolicy,
    is_loopback,
    public_addresses,
    system_lookup,
)
from pdkernel.egress.own_server import OwnServer
from pdkernel.egress.pending_call import PendingCall
from pdkernel.egress.protocol_sniff import SERVER_FIRST_TIMEOUT_S
from pdkernel.egress.sandbox import SandboxKind, SandboxLauncher
from pdkernel.egress.sandbox_supervisor import SocketAddress
from pdkernel.egress.stand_ins import StandIn, build_stand_ins
from pdkernel.model import Language
from pdkernel.runtimes.seccomp import SandboxPlan

if TYPE_CHECKING:
    import httpx

    from pdkernel.egress.router import CallRouter
    from pdkernel.egress.upstream import HostOverrides, Upstream

_MAX_CONNECTIONS = 4096
_T = TypeVar("_T")

NODE_HOOK = Path(__file__).parent.parent / "runtimes" / "node" / "egress_hook.mjs"
_DIRECT_BROWSER = 'data:application/x-ns-proxy-autoconfig,function%20FindProxyForURL(){return"DIRECT"}'
_PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_BUNDLE_VARIABLES = (
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "AWS_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
)
"""Variables with the file of certificates that a client trusts."""
_NO_PROXY_HOSTS = "localhost,127.0.0.1,127.0.0.0/8,::1"


class Gateway:
    """
    A listener on 127.0.0.1 that answers, sends or refuses the outbound calls of steps.

    Use `await Gateway.start(folder)`. All methods but `close` may be called from any thread.

    Attributes:
        port: The port on 127.0.0.1.
        stand_ins: The built-in stand-ins, by name; each stores the requests that it received.
        own_server: The server whose workflows use the gateway.
        silence_s: Seconds after which a silent client expects the server to send first.
    """

    silence_s = SERVER_FIRST_TIMEOUT_S

    def __init__(
        self,
        listener: socket.socket,
        authority: CertificateAuthority,
        make_upstream: Callable[[OwnServer, Path | None], Upstream],
        clock: Clock,
        sandbox_kind: SandboxKind | None = None,
        lookup: Lookup = system_lookup,
        max_connections: int | None = None,
        watch: CallWatch | None = None,
    ) -> None:
        self.port: int = listener.getsockname()[1]
        self.stand_ins: Mapping[str, StandIn] = build_stand_ins()
        self.own_server = OwnServer()
        self._listener = listener
        self._authority = authority
        self._make_upstream = make_upstream
        self._clock = clock
        self._lookup = lookup
        self._router: CallRouter | None = None
        self._tokens = CallerTokens()
        self._loop = asyncio.get_running_loop()
        self._connections: set[asyncio.Task[None]] = set()
        self._unidentified: dict[asyncio.Task[None], None] = {}  # those of them without a valid token, oldest first
        self._max_connections = max_connections
        self._watch = watch
        self._sandbox = SandboxLauncher(
            self._loop,
            port=self.port,
            on_blocked=self._record_blocked,
            own_port=lambda: self.own_server.local_port,
            kind=sandbox_kind,
        )
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
        max_connections: int | None = None,
        watch: CallWatch | None = None,
    ) -> Self:
        """
        Listen on a free port.

        Args:
            folder: Folder of the project's certificate authority; created if missing.
            clock: Clock for the times of recorded calls.
            host_overrides: Maps (host, port) to another (host, port): for tests.
            extra_ca_file: PEM file of roots to trust besides the public roots.
            environ: Environment with `SSL_CERT_FILE`, the user's own roots; default: the environment of this process.
            sandbox_kind: The sandbox for processes that `start_sandboxed` starts; default: the best that works on this machine.
            lookup: Resolves names where only public addresses are allowed.
            max_connections: Connections at once. Beyond it, one without a token ends, else one of the token that has the most. Default: a
                quarter of the files that this process may open, because the server and its database need files, too.
            watch: Sees the calls of steps that leave, or None.
        """
        environ = os.environ if environ is None else environ
        listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        listener.setblocking(False)

        def make_upstream(own_server: OwnServer, own_ca: Path | None) -> Upstream:
            from pdkernel.egress.upstream import Upstream

            return Upstream(
                environ=environ,
                host_overrides=host_overrides or {},
                extra_cas=[file for file in (extra_ca_file, own_ca) if file is not None],
                lookup=lookup,
                own_server=own_server,
            )

        authority = CertificateAuthority(folder, environ=environ)
        return cls(listener, authority, make_upstream, clock, sandbox_kind, lookup, max_connections, watch)

    def issue_token(self, *, public_only: bool = False) -> str:
        """Return a new token for a process, without a binding; with *public_only*, the process may call public addresses only."""
        return self._tokens.issue(public_only=public_only)

    def bind(self, token: str, context: CallContext) -> None:
        """Bind *token* to the step of *context*. Raises `KeyError` if the token was not issued or is revoked."""
        self._tokens.bind(token, context)

    async def check(self, policy: OutboundPolicy) -> None:
        """Read the recording of *policy*, if it has one. Raises `RecordingError` if it cannot be used."""
        if policy.recording_file is not None:
            await run_blocking(self._open_router().check, policy)

    def unbind(self, token: str) -> None:
        """Remove the binding of *token*: calls with the token are refused."""
        self._tokens.unbind(token)

    def revoke_token(self, token: str) -> None:
        """Delete *token*, and end its connections."""
        closed = self._tokens.revoke(token)
        if closed is not None and closed.connections:
            self._loop.call_soon_threadsafe(_cancel, closed.connections)

    def build_environment(self, token: str, language: Language) -> dict[str, str]:
        """
        Return environment variables that route a process to the gateway; create the project's certificates if missing.

        Every client reads the proxy variables in lower case; wget reads only those, and takes a certificate only from `WGETRC`.
        Node.js reads `NODE_EXTRA_CA_CERTS` at its start and adds it to its roots, which are those of `SSL_CERT_FILE`: OpenSSL reads
        that file at the first TLS connection that does not pass the hook.
        Node.js 24 alone reads `NODE_USE_ENV_PROXY`. Chromium alone reads `auto_proxy`, before the other proxy variables: it does not
        send the credentials of a proxy, so it connects directly, and the sandbox redirects its connections to the gateway.

        Args:
            token: The token of the process. Its connections to the port of `own_server` are routed to the gateway, which marks them;
                if it may call public addresses only, so are all others to this machine, which the gateway refuses.
            language: Language of the step. A step in any language may start Node.js, so the variables of the Node.js and
                Python hooks are always set.
        """
        authority, own_port, public_only = self._authority, self.own_server.local_port, self._public_only(token)
        proxy = f"http://{token}:x@127.0.0.1:{self.port}"
        environment = {
            "NODE_EXTRA_CA_CERTS": str(authority.certificate_file),
            "NODE_USE_ENV_PROXY": "1",
            # with Node.js's own roots, loading the module `tls` parses all of them, in 16 ms of CPU for each process
            "NODE_OPTIONS": f"--use-openssl-ca --import {NODE_HOOK.as_uri()}",
            "PDK_EGRESS": f"127.0.0.1:{self.port}",
            "PDK_TOKEN": token,
            "WGETRC": str(authority.wgetrc_file),
            "GRPC_DNS_RESOLVER": "native",  # the system's resolver: gRPC's own rejects replies of the sandbox's name server
        }
        environment |= dict.fromkeys(_PROXY_VARIABLES, proxy)
        routes_all = public_only or own_port is not None  # these variables cannot name a port
        environment["no_proxy"] = environment["NO_PROXY"] = "" if routes_all else _NO_PROXY_HOSTS
        if public_only:
            environment["PDK_EGRESS_ALL"] = "1"
        else:
            environment["auto_proxy"] = _DIRECT_BROWSER
        if own_port is not None:
            environment["PDK_OWN_PORT"] = str(own_port)
        environment |= dict.fromkeys(_BUNDLE_VARIABLES, str(authority.bundle_file))
        if language == "go":
            # pdkernel builds the Go program of a step, and Go reads SSL_CERT_FILE on Linux only.
            environment["PD_PROXY"], environment["PD_CA"] = proxy, str(authority.certificate_file)
        return environment

    def open_transport(self, token: str) -> httpx.AsyncBaseTransport:
        """Return a transport of this process whose calls go through the gateway with *token*."""
        import httpx

        environment = self.build_environment(token, "bash")
        verify = ssl.create_default_context(cafile=environment["SSL_CERT_FILE"])
        return httpx.AsyncHTTPTransport(verify=verify, trust_env=False, proxy=environment["https_proxy"])

    @property
    def certificate_files(self) -> tuple[Path, ...]:
        """The files that `build_environment` names; creates them if missing."""
        return self._authority.certificate_file, self._authority.bundle_file, self._authority.wgetrc_file

    @property
    def sandbox_kind(self) -> SandboxKind:
        """The sandbox of processes that `start_sandboxed` starts; detected at the first use."""
        return self._sandbox.kind

    def start_sandboxed(self, token: str, start_process: Callable[[], _T]) -> _T:
        """
        Call *start_process*; outbound calls of the processes that it starts are routed to the gateway or refused.

        Used in every mode except live, and where only public addresses are allowed. The protection depends on `sandbox_kind`.

        Args:
            token: The token of the processes.
            start_process: Starts a process; called in a thread of its own. Its result is returned.
        """
        return self._sandbox.start(token, start_process, public_only=self._public_only(token))

    def plan_sandbox(self, token: str) -> SandboxPlan | None:
        """Return how a process with *token* puts itself into the sandbox, as `start_sandboxed` would; None without a sandbox."""
        return self._sandbox.plan(token, public_only=self._public_only(token))

    async def leads_inside(self, host: str, port: int) -> bool:
        """Return whether *host* resolves to an address that is not public; False if the name cannot be resolved."""
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
        caller = self._tokens.find(token)
        return caller is not None and caller.public_only

    def _record_blocked(self, token: str, what: str, address: SocketAddress) -> None:
        """Record a blocked call of a sandboxed process."""
        binding = binding_of(self._tokens.find(token))
        if binding is not None:
            url = format_origin("udp", address.host, address.port)
            if binding.is_first_block(url):
                policy = binding.context.policy
                if policy.public_only and address.is_loopback:
                    refusal = refusals.not_public("CONNECT", url)
                else:
                    refusal = refusals.blocked_by_sandbox(what, url, policy.mode_text)
                PendingCall(binding.context, "CONNECT", url, self._clock).refuse(refusal)

    async def _accept(self) -> None:
        while True:
            try:
                sock, _ = await self._loop.sock_accept(self._listener)
            except OSError:
                # No descriptors are left; connections that end free some.
                await asyncio.sleep(0.1)
                continue
            try:
                await self._make_room()
            except asyncio.CancelledError:  # the gateway closes
                sock.close()
                raise
            task = self._loop.create_task(self._serve(sock))
            self._connections.add(task)
            self._unidentified[task] = None
            task.add_done_callback(functools.partial(self._forget, sock))

    async def _make_room(self) -> None:
        """End connections until there may be one more."""
        most = self._max_connections or _find_max_connections()
        while len(self._connections) >= most:
            next(iter(self._unidentified or self._tokens.find_most_connections() or self._connections)).cancel()
            await asyncio.wait(self._connections, return_when=asyncio.FIRST_COMPLETED)

    def _forget(self, sock: socket.socket, connection: asyncio.Task[None]) -> None:
        sock.close()  # also if the task was cancelled before it began
        self._connections.discard(connection)
        self._unidentified.pop(connection, None)

    def _identify(self, connection: asyncio.Task[None]) -> None:
        self._unidentified.pop(connection, None)

    async def _serve(self, sock: socket.socket) -> None:
        # Imported with the first connection: a gateway without calls costs no import time.
        from pdkernel.egress.client_connection import ClientConnection

        router = self._open_router()
        with contextlib.suppress(OSError):
            resolve = self._sandbox.resolve_name
            await ClientConnection(
                sock, self._tokens, router, self._authority, resolve, self.silence_s, self._identify
            ).serve()

    def _open_router(self) -> CallRouter:
        from pdkernel.egress.router import CallRouter

        if self._router is None:
            self._router = CallRouter(
                upstream=self._make_upstream(
                    self.own_server, self._authority.certificate_file if self.own_server.uses_tls else None
                ),
                stand_ins=self.stand_ins,
                clock=self._clock,
                own_server=self.own_server,
                watch=self._watch,
            )
        return self._router


def _find_max_connections() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else min(max(soft // 4, 16), _MAX_CONNECTIONS)


def _cancel(tasks: set[asyncio.Task[None]]) -> None:
    for task in list(tasks):
        task.cancel()


class GatewayAddress(Protocol):
    """The part of `Gateway` that the client needs."""

    def issue_token(self, *, public_only: bool = False) -> str:
        """Return a new token."""
        ...

    def bind(self, token: str, context: CallContext) -> None:
        """Bind *token* to *context*."""
        ...

    def unbind(self, token: str) -> None:
        """Remove the binding of *token*."""
        ...

    def revoke_token(self, token: str) -> None:
        """Delete *token*."""
        ...

    def open_transport(self, token: str) -> httpx.AsyncBaseTransport:
        """Return a transport whose calls go through the gateway with *token*."""
        ...


class ServerGateway(GatewayAddress, Protocol):
    """The part of `Gateway` that a server needs."""

    @property
    def own_server(self) -> OwnServer:
        """The server whose workflows use the gateway."""
        ...

    async def leads_inside(self, host: str, port: int) -> bool:
        """Return whether *host* resolves to an address that is not public; False if the name cannot be resolved."""
        ...

    async def close(self) -> None:
        """End every connection."""
        ...


@contextlib.asynccontextmanager
async def open_client(
    url: str, gateway: GatewayAddress | None, context: CallContext, *, timeout_s: float
) -> AsyncIterator[httpx.AsyncClient]:
    """
    Open a client for calls to the host of *url*.

    Args:
        url: The URL to call. A loopback URL is called without the gateway, unless only public addresses are allowed.
        gateway: The gateway, or None to call directly. Required if only public addresses are allowed.
        context: The policy and the redactor of the calls.
        timeout_s: Seconds that a call may take.
    """
    import httpx

    public_only = context.policy.public_only
    if not public_only and (gateway is None or is_loopback(urlsplit(url).hostname or "")):
        async with httpx.AsyncClient(timeout=timeout_s, trust_env=False) as client:
            yield client
        return
    assert gateway is not None, "a policy of public addresses only needs the gateway"
    token = gateway.issue_token(public_only=public_only)
    gateway.bind(token, context)
    try:
        transport = gateway.open_transport(token)
        async with httpx.AsyncClient(timeout=timeout_s, trust_env=False, transport=transport) as client:
            yield client
    finally:
        gateway.unbind(token)
        gateway.revoke_token(token)

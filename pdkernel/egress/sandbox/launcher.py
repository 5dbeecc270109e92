"""Starts processes in the sandbox, and answers their system calls for as long as they run. The rules are in `supervisor`."""

from __future__ import annotations

import asyncio
import os
import platform
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from pdkernel.egress.sandbox.addresses import SocketAddress
from pdkernel.egress.sandbox.detection import (
    SandboxKind,
    detect_sandbox,
    start_with_landlock,
    start_with_seccomp_listener,
)
from pdkernel.egress.sandbox.name_server import NameServer
from pdkernel.egress.sandbox.seccomp_filters import SYSCALL_TABLES, build_notify_filter, build_refuse_filter
from pdkernel.egress.sandbox.supervisor import Supervisor
from pdkernel.runtimes.seccomp import SandboxPlan

_T = TypeVar("_T")


class SandboxLauncher:
    """Starts processes in the sandbox of one gateway."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        port: int,
        on_blocked: Callable[[str, str, SocketAddress], None],
        own_port: Callable[[], int | None] = lambda: None,
        kind: SandboxKind | None = None,
    ) -> None:
        """
        The sandbox is detected and its sockets are opened at the first use.

        Args:
            loop: The event loop that answers system calls.
            port: Port of the gateway.
            on_blocked: Called with the token, what was refused, and its destination.
            own_port: Returns the port of the server on this machine, or None.
            kind: The kind of sandbox; default: the best that works on this machine.
        """
        self._loop = loop
        self._port = port
        self._on_blocked = on_blocked
        self._own_port = own_port
        self._requested_kind = kind
        self._name_servers: dict[str, NameServer] = {}  # by token
        self._supervisors: set[Supervisor] = set()

    @property
    def kind(self) -> SandboxKind:
        """The kind of sandbox in use."""
        return self._requested_kind or detect_sandbox()

    def resolve_name(self, token: str | None, host: str) -> str:
        """The name that the address *host* was assigned to for processes with *token*; any other host is returned unchanged."""
        names = self._name_servers.get(token or "")
        return host if names is None else names.name(host)

    def start(self, token: str, start: Callable[[], _T], *, public_only: bool = False) -> _T:
        """
        Call *start*, and sandbox the processes that it starts.

        Args:
            token: The caller token of the processes.
            start: Starts the processes; its result is returned.
            public_only: Whether calls to this machine, too, go to the gateway.
        """
        kind = self.kind
        if kind == "none":
            return start()
        if kind == "landlock":
            return start_with_landlock(start, self._port)
        result, listener = start_with_seccomp_listener(start)
        self._supervise(token, listener, public_only=public_only)
        return result

    def plan(self, token: str, *, public_only: bool = False) -> SandboxPlan | None:
        """Return how a process with *token* puts itself into the sandbox; None if there is no sandbox. Arguments as for `start`."""
        kind = self.kind
        if kind == "none":
            return None
        table = SYSCALL_TABLES[platform.machine()]
        if kind == "landlock":
            return SandboxPlan(build_refuse_filter(table), None, self._port)
        return SandboxPlan(build_notify_filter(table), partial(self._supervise, token, public_only=public_only), None)

    def _open_name_server(self, token: str) -> NameServer:
        names = self._name_servers.get(token)
        if names is None:
            names = self._name_servers[token] = NameServer()
            self._loop.add_reader(names.socket, names.answer)
        return names

    def _close_name_server(self, token: str) -> None:
        names = self._name_servers.pop(token, None)
        if names is not None:
            self._loop.remove_reader(names.socket)
            names.close()

    def _supervise(self, token: str, listener: int, *, public_only: bool) -> None:
        supervisor = Supervisor(
            listener,
            SYSCALL_TABLES[platform.machine()],
            gateway=self._port,
            name_server=partial(self._open_name_server, token),
            token=token,
            on_blocked=lambda what, place: self._on_blocked(token, what, place),
            own_port=self._own_port,
            public_only=public_only,
        )
        self._supervisors.add(supervisor)
        self._loop.call_soon_threadsafe(self._loop.add_reader, listener, self._answer, supervisor)

    def close(self) -> None:
        """Stop answering: processes that still run cannot connect any more."""
        for supervisor in list(self._supervisors):
            self._stop_supervisor(supervisor)

    def _answer(self, supervisor: Supervisor) -> None:
        if not supervisor.answer_next():
            self._stop_supervisor(supervisor)

    def _stop_supervisor(self, supervisor: Supervisor) -> None:
        if supervisor in self._supervisors:
            self._supervisors.discard(supervisor)
            self._loop.remove_reader(supervisor.listener)
            os.close(supervisor.listener)
            if all(other.token != supervisor.token for other in self._supervisors):
                self._close_name_server(supervisor.token)

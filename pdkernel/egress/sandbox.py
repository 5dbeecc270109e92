"""
Starts processes in the best sandbox that works on this machine, and answers their system calls for as long as they run.

The sandbox is detected by trying each one. The rules are in `sandbox_supervisor`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import platform
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Literal, TypeVar

from pdkernel.egress.sandbox_name_server import NameServer
from pdkernel.egress.sandbox_supervisor import (
    SYSCALL_TABLES,
    SocketAddress,
    Supervisor,
    build_notify_filter,
    build_refuse_filter,
)
from pdkernel.runtimes import isolation, seccomp
from pdkernel.runtimes.seccomp import SandboxPlan

SandboxKind = Literal["redirect", "landlock", "none"]

SANDBOX_DESCRIPTIONS: dict[SandboxKind, str] = {
    "redirect": "the operating system redirects to the gateway, or refuses, what the hooks and proxy variables miss",
    "landlock": "the operating system refuses what the hooks and proxy variables miss, and also connections of such "
    "programs to other ports of this machine (its seccomp listener is not available)",
    "none": "hooks and proxy variables only: a program that bypasses them is not stopped on this system",
}

_T = TypeVar("_T")
_TEST_ADDRESS = ("192.0.2.1", 7)  # reserved for documentation (RFC 5737), so never in use
_TEST_S = 5.0
_TEST_CODE = f"""
import _socket
sock = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
try:
    sock.connect({_TEST_ADDRESS!r})
except PermissionError:
    raise SystemExit(13)
"""
_REFUSED = 13


@functools.cache
def detect_sandbox() -> SandboxKind:
    """Return the best sandbox that works on this machine; detected once per process, which takes about 20 ms."""
    if sys.platform != "linux" or platform.machine() not in SYSCALL_TABLES:
        return "none"
    for kind, works in (("redirect", can_redirect), ("landlock", can_use_landlock)):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            if works():
                return kind  # type: ignore[return-value]  # mypy widens the literals of the tuple
    return "none"


def start_with_seccomp_listener(start: Callable[[], _T]) -> tuple[_T, int]:
    """
    Call *start* in a thread with a seccomp filter, which the started processes inherit.

    Returns:
        The result of *start*, and the descriptor that reports the network calls of the started processes.
    """
    machine = platform.machine()
    listener = -1

    def restricted() -> _T:
        nonlocal listener
        listener = seccomp.install_notify_filter(build_notify_filter(SYSCALL_TABLES[machine]))
        return start()

    try:
        return _run_in_thread(restricted), listener
    except BaseException:
        if listener >= 0:
            os.close(listener)
        raise


def start_with_landlock(start: Callable[[], _T], allowed_port: int) -> _T:
    """
    Call *start* in a restricted thread, and return its result.

    Processes that *start* starts may connect by TCP to *allowed_port* only, and can use no other internet sockets.
    """
    machine = platform.machine()

    def restricted() -> _T:
        isolation.restrict_connect_to_port(allowed_port)
        seccomp.install_filter(build_refuse_filter(SYSCALL_TABLES[machine]))
        return start()

    return _run_in_thread(restricted)


def can_redirect() -> bool:
    """Return whether connections of a process can be redirected to a local listener. Raises `OSError` if the test cannot start."""
    with socket.create_server(("127.0.0.1", 0)) as gateway:
        gateway.settimeout(_TEST_S)
        port = gateway.getsockname()[1]
        process, listener = start_with_seccomp_listener(_try_to_connect)
        supervisor = Supervisor(
            listener,
            SYSCALL_TABLES[platform.machine()],
            gateway=port,
            name_server=NameServer,
            token="self-test",  # noqa: S106 - not a valid token
            on_blocked=_ignore_blocked,
        )
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        try:
            # the interpreter may make other calls while it starts
            while poll.poll(_TEST_S * 1000) and supervisor.answer_next():
                pass
            done = process.wait(_TEST_S) == 0
            gateway.setblocking(False)
            client, _ = gateway.accept()
            with client:
                client.settimeout(_TEST_S)
                return done and b"self-test" in client.recv(1000)
        finally:
            process.kill()
            process.wait()
            os.close(listener)


def can_use_landlock() -> bool:
    """Return whether connections of a process can be refused. Raises `OSError` if the test cannot start."""
    if isolation.landlock_version() < isolation.MIN_LANDLOCK_PORT_VERSION:
        return False
    process = start_with_landlock(_try_to_connect, 1)
    try:
        return process.wait(_TEST_S) == _REFUSED
    finally:
        process.kill()
        process.wait()


def _try_to_connect() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _TEST_CODE],
        env={},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _run_in_thread(work: Callable[[], _T]) -> _T:
    """
    Call *work* in a new thread, and return its result.

    Only the processes that a thread starts inherit its restrictions. So no wrapper program is needed, and the other threads
    of this process are not restricted.
    """
    results: list[_T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001  # raised again in the calling thread
            failures.append(error)

    thread = threading.Thread(target=run, name="pdkernel-sandbox")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def _ignore_blocked(what: str, place: SocketAddress) -> None:
    """Ignore the refusals of the self-test."""


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
        """Return the name that the address *host* was assigned to for processes with *token*; any other host is returned unchanged."""
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

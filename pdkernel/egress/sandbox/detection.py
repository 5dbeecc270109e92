"""Detects the best sandbox that works on this machine, by trying each one."""

from __future__ import annotations

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
from typing import Literal, TypeVar

from pdkernel.egress.sandbox.addresses import SocketAddress
from pdkernel.egress.sandbox.name_server import NameServer
from pdkernel.egress.sandbox.seccomp_filters import SYSCALL_TABLES, build_notify_filter, build_refuse_filter
from pdkernel.egress.sandbox.supervisor import Supervisor
from pdkernel.runtimes import isolation, seccomp

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
    """The best sandbox that works on this machine; detected once per process, which takes about 20 ms."""
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
    """Whether connections of a process can be redirected to a local listener. Raises `OSError` if the test cannot start."""
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
    """Whether connections of a process can be refused. Raises `OSError` if the test cannot start."""
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

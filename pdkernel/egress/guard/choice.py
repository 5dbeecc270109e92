"""
Which guard this machine can have, found out by trying it.

Knows how each is put on and how to see that it works. Knows nothing of gateways or steps.
"""

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

from pdkernel.egress.guard import kernel
from pdkernel.egress.guard.addresses import Place
from pdkernel.egress.guard.filters import MACHINES, asking, refusing
from pdkernel.egress.guard.supervisor import Supervisor

Guard = Literal["redirect", "landlock", "none"]

DESCRIPTIONS: dict[Guard, str] = {
    "redirect": "the operating system leads to the gateway, or refuses, what the hooks and proxy variables miss",
    "landlock": "the operating system refuses what the hooks and proxy variables miss, and to programs that are not "
    "led to the gateway also the other ports of this machine (its seccomp listener is not available)",
    "none": "hooks and proxy variables only: a program that goes around them is not caught on this system",
}

_T = TypeVar("_T")
_TEST_PLACE = ("192.0.2.1", 7)  # set aside for documentation (RFC 5737): nobody is there
_TEST_S = 5.0
_TEST_CODE = f"""
import _socket
sock = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
try:
    sock.connect({_TEST_PLACE!r})
except PermissionError:
    raise SystemExit(13)
"""
_REFUSED = 13


@functools.cache
def available() -> Guard:
    """The best guard that works here; tried once a process, which takes some 20 ms."""
    if sys.platform != "linux" or platform.machine() not in MACHINES:
        return "none"
    for guard, works in (("redirect", redirect_works), ("landlock", landlock_works)):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            if works():
                return guard  # type: ignore[return-value]  # mypy widens the literals of the tuple
    return "none"


def listening(start: Callable[[], _T]) -> tuple[_T, int]:
    """*start*'s result, and the listener that asks about what the processes that it started connect to."""
    machine = platform.machine()
    listener = -1

    def restricted() -> _T:
        nonlocal listener
        listener = kernel.listen(machine, asking(MACHINES[machine]))
        return start()

    try:
        return _in_a_thread(restricted), listener
    except BaseException:
        if listener >= 0:
            os.close(listener)
        raise


def locked(start: Callable[[], _T], port: int) -> _T:
    """*start*'s result; the processes that it started connect to *port* only."""
    machine = platform.machine()

    def restricted() -> _T:
        kernel.only_port(port)
        kernel.refuse(machine, refusing(MACHINES[machine]))
        return start()

    return _in_a_thread(restricted)


def redirect_works() -> bool:
    """Whether a process that connects somewhere arrives at a listener of ours. Raises `OSError` if it cannot be tried."""
    with socket.create_server(("127.0.0.1", 0)) as gateway:
        gateway.settimeout(_TEST_S)
        port = gateway.getsockname()[1]
        process, listener = listening(_try_to_connect)
        supervisor = Supervisor(
            listener,
            MACHINES[platform.machine()],
            gateway=port,
            name_server=port,
            ticket="self-test",
            refused=_nobody,
        )
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        try:
            # the interpreter may ask for more than our connection while it starts
            while poll.poll(_TEST_S * 1000) and supervisor.answer():
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


def landlock_works() -> bool:
    """Whether a process that connects somewhere is refused. Raises `OSError` if it cannot be tried."""
    if kernel.landlock_version() < kernel.LANDLOCK_WITH_NETWORK:
        return False
    process = locked(_try_to_connect, 1)
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


def _in_a_thread(work: Callable[[], _T]) -> _T:
    """
    *work*'s result, done in a thread of its own.

    What a thread restricts itself to is kept by the processes that it starts, and by nobody else: no program in between,
    which would take a start of its own, and nothing of ours is ever restricted.
    """
    results: list[_T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001  # raised again where it was asked for
            failures.append(error)

    thread = threading.Thread(target=run, name="pdkernel-guard")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def _nobody(what: str, place: Place) -> None:
    """The self-test's refusals are nobody's."""

"""
Linux system calls that the sandbox needs and Python does not provide (notifications, Landlock), through ctypes.

A restriction applies to the *calling thread* and the processes that it starts later; other threads of this process are not
affected.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from dataclasses import dataclass

from pdkernel.runtimes.seccomp import fetch_descriptor

_PR_SET_NO_NEW_PRIVS = 38
_RECEIVE, _ANSWER, _STILL_VALID = 0xC0502100, 0xC0182101, 0x40082102
_CONTINUE = 1
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_LANDLOCK_VERSION, _LANDLOCK_NET_PORT, _CONNECT_TCP = 1, 2, 2
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")
_REPLY = struct.Struct("=QqiI")

MIN_LANDLOCK_VERSION = 4
"""The first version of Landlock with rules for TCP ports (Linux 6.7)."""


@dataclass(frozen=True, slots=True)
class Notification:
    """A system call that waits for an answer."""

    id: int
    thread_id: int
    syscall_number: int
    arguments: tuple[int, ...]


def landlock_version() -> int:
    """The version of Landlock; 0 if Landlock is not available."""
    try:
        return _call(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint(_LANDLOCK_VERSION))
    except OSError:
        return 0


def restrict_connect_to_port(port: int) -> None:
    """Let the calling thread connect by TCP to *port* only, of any machine. Raises `OSError`."""
    attributes = struct.pack("=QQ", 0, _CONNECT_TCP)
    rules = _call(_LANDLOCK_CREATE, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint(0))
    try:
        rule = struct.pack("=QQ", _CONNECT_TCP, port)
        _call(_LANDLOCK_ADD, ctypes.c_int(rules), ctypes.c_int(_LANDLOCK_NET_PORT), rule, ctypes.c_uint(0))
        _no_new_privileges()
        _call(_LANDLOCK_RESTRICT, ctypes.c_int(rules), ctypes.c_uint(0))
    finally:
        os.close(rules)


def receive_notification(listener: int) -> Notification | None:
    """The next waiting call, or None if its process has ended. Call it when *listener* is readable."""
    buffer = bytearray(_NOTIFICATION.size)
    try:
        fcntl.ioctl(listener, _RECEIVE, buffer, True)
    except (FileNotFoundError, InterruptedError):
        return None
    notification_id, thread, _, number, _, _, *arguments = _NOTIFICATION.unpack(buffer)
    return Notification(notification_id, thread, number, tuple(arguments))


def continue_syscall(listener: int, notification: Notification) -> None:
    """Let the kernel execute the call unchanged."""
    _answer(listener, _REPLY.pack(notification.id, 0, 0, _CONTINUE))


def reply_with_errno(listener: int, notification: Notification, errno_value: int) -> None:
    """Complete the call with *errno_value*, or with success for 0, without executing it."""
    _answer(listener, _REPLY.pack(notification.id, 0, -errno_value, 0))


def is_pending(listener: int, notification: Notification) -> bool:
    """Whether the calling process still waits; if not, memory that was read from it may belong to another process."""
    try:
        fcntl.ioctl(listener, _STILL_VALID, struct.pack("=Q", notification.id))
    except OSError:
        return False
    return True


def read_process_memory(thread: int, address: int, length: int) -> bytes:
    """Read memory of another process. Raises `OSError`."""
    descriptor = os.open(f"/proc/{thread}/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(descriptor, length, address)
    finally:
        os.close(descriptor)


def duplicate_socket(thread: int, descriptor: int) -> socket.socket:
    """Duplicate a socket of another process into this process. Raises `OSError`."""
    fetched = fetch_descriptor(_process_of(thread), descriptor)
    flags = fcntl.fcntl(fetched, fcntl.F_GETFL)
    found = socket.socket(fileno=fetched)
    # The blocking flag is shared with the owner; Python's default timeout would have changed it.
    fcntl.fcntl(fetched, fcntl.F_SETFL, flags)
    return found


def _process_of(thread: int) -> int:
    with open(f"/proc/{thread}/status", "rb") as file:  # noqa: PTH123
        return next(int(line.split()[1]) for line in file if line.startswith(b"Tgid:"))


def _no_new_privileges() -> None:
    if _libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def _answer(listener: int, reply: bytes) -> None:
    try:
        fcntl.ioctl(listener, _ANSWER, reply)
    except FileNotFoundError:
        return  # the calling process has ended


def _call(number: int, *arguments: object) -> int:
    result = int(_libc().syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)

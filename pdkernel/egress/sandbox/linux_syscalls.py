"""Linux system calls with which the sandbox answers the notifications of a seccomp filter."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from dataclasses import dataclass

from pdkernel.runtimes.seccomp import fetch_descriptor

_RECEIVE, _ANSWER, _STILL_VALID = 0xC0502100, 0xC0182101, 0x40082102
_CONTINUE = 1
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")
_REPLY = struct.Struct("=QqiI")


@dataclass(frozen=True, slots=True)
class Notification:
    """A system call that waits for an answer."""

    id: int
    thread_id: int
    syscall_number: int
    arguments: tuple[int, ...]


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


def _answer(listener: int, reply: bytes) -> None:
    try:
        fcntl.ioctl(listener, _ANSWER, reply)
    except FileNotFoundError:
        return  # the calling process has ended

"""
Installs seccomp filters on the calling thread, and takes descriptors from other processes.

It uses only the standard library, because the zygote imports it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform

_SYSCALL_NUMBERS = {"x86_64": 317, "aarch64": 277}
_SET_MODE_FILTER, _NEW_LISTENER, _WAIT_KILLABLE = 1, 8, 32
_PR_SET_NO_NEW_PRIVS = 38
_PIDFD_GETFD = 438

_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    _fields_ = (("count", ctypes.c_ushort), ("lines", ctypes.c_void_p))


def install_notify_filter(program: bytes) -> int:
    """Install *program* on the calling thread; returns the descriptor of its notifications. Raises `OSError`."""
    try:
        # WAIT_KILLABLE: signals do not interrupt a received call; Go's runtime sends itself many.
        return _filter(program, _NEW_LISTENER | _WAIT_KILLABLE)
    except OSError as error:
        if error.errno != errno.EINVAL:  # before Linux 5.19
            raise
        return _filter(program, _NEW_LISTENER)


def install_filter(program: bytes) -> None:
    """Install *program*, which sends no notifications, on the calling thread. Raises `OSError`."""
    _filter(program, 0)


def _filter(program: bytes, flags: int) -> int:
    lines = ctypes.create_string_buffer(program, len(program))
    filter_program = _Program(len(program) // 8, ctypes.addressof(lines))
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    return _call(
        _SYSCALL_NUMBERS[platform.machine()],
        ctypes.c_uint(_SET_MODE_FILTER),
        ctypes.c_uint(flags),
        ctypes.byref(filter_program),
    )


def fetch_descriptor(pid: int, number: int) -> int:
    """Duplicate descriptor *number* of process *pid* into this process. Raises `OSError`."""
    process = os.pidfd_open(pid)
    try:
        return _call(_PIDFD_GETFD, ctypes.c_int(process), ctypes.c_int(number), ctypes.c_uint(0))
    finally:
        os.close(process)


def _call(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

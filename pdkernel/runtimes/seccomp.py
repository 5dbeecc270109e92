"""
Builds seccomp filters (classic BPF programs), installs them on the calling thread, and takes descriptors from other processes.

The filter of `restrict_system_calls` is that of every step: it leaves no system call for which a step has no honest use, and which
opened doors before. Filters of the outbound policies are in `egress.sandbox`. This module uses only the standard library, because
the zygote imports it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
LOAD, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_SET, AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_NUMBER, _MACHINE, ARGUMENTS = 0, 4, 16
_X32 = 0x40000000
_CLONE_NEWUSER = 0x10000000
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK, _NETLINK_ROUTE = 1, 2, 10, 16, 0
_INTERNET_PROTOCOLS = (0, 6, 17, 1, 58)  # the default of the type, TCP, UDP, and ICMP of both versions for `ping`

Instruction = tuple[int, int, int, int]
"""A line of a program: operation, jumps if true and if false, and a number."""


class SandboxPlan(NamedTuple):
    """
    What a process does to itself to enter the sandbox of the gateway for outbound calls.

    Attributes:
        filter: The seccomp filter that it installs.
        attach: Called with the descriptor that receives the filter's notifications; None for a filter that sends none.
        port: The only port to which Landlock permits TCP connections, or None.
    """

    filter: bytes
    attach: Callable[[int], None] | None
    port: int | None


class SyscallTable(NamedTuple):
    """
    System call numbers of an architecture.

    Attributes:
        audit_arch: The architecture, as filters see it.
        unavailable: Calls that do not exist for steps.
    """

    audit_arch: int
    seccomp: int
    connect: int
    sendto: int
    sendmsg: int
    sendmmsg: int
    socket: int
    clone: int
    unshare: int
    unavailable: tuple[int, ...]
    clone3: int = 435
    io_uring_setup: int = 425


# add_key, request_key, keyctl (the keyrings of the kernel, which processes of a user share in all namespaces); ptrace, process_vm_readv,
# process_vm_writev, pidfd_getfd (other processes); bpf, perf_event_open, userfaultfd, io_uring_*, memfd_secret (attacks on the
# kernel and ways around filters); open_by_handle_at (around Landlock); kexec_load, kexec_file_load, init_module, finit_module,
# delete_module, syslog (of root)
SYSCALL_TABLES: Mapping[str, SyscallTable] = {
    "x86_64": SyscallTable(
        0xC000003E, 317, 42, 44, 46, 307, 41, 56, 272,
        (248, 249, 250, 101, 310, 311, 438, 321, 298, 323, 425, 426, 427, 447, 304, 246, 320, 175, 313, 176, 103),
    ),
    "aarch64": SyscallTable(
        0xC00000B7, 277, 203, 206, 211, 269, 198, 220, 97,
        (217, 218, 219, 117, 270, 271, 438, 280, 241, 282, 425, 426, 427, 447, 265, 104, 294, 105, 273, 106, 116),
    ),
}  # fmt: skip

_SET_MODE_FILTER, _SPEC_ALLOW, _NEW_LISTENER, _WAIT_KILLABLE = 1, 4, 8, 32
_PR_SET_NO_NEW_PRIVS = 38
_PIDFD_GETFD = 438

_libc = ctypes.CDLL(None, use_errno=True)


def restrict_system_calls() -> None:
    """
    Take the system calls from this process and its later children that steps have no use for.

    They appear as not available. Sockets are those of this machine, TCP and UDP. A new user namespace is refused, because it would
    give all capabilities in it. It does nothing on an unknown type of machine, or where the system does not permit it.
    """
    table = SYSCALL_TABLES.get(platform.machine())
    if table is not None:
        with contextlib.suppress(OSError):  # a kernel without seccomp
            _filter(build_step_filter(table), _SPEC_ALLOW)


def build_step_filter(table: SyscallTable) -> bytes:
    """Return the program of `restrict_system_calls`."""
    new_user_namespace = [load(0), (JUMP_SET, 0, 1, _CLONE_NEWUSER), refuse(errno.EPERM), give(ALLOW)]
    protocols = [line for number in _INTERNET_PROTOCOLS for line in when(number, give(ALLOW))]
    internet = [load(2), *protocols, refuse(errno.EPROTONOSUPPORT)]
    return build_program(
        table,
        [
            (table.clone, new_user_namespace),
            (table.unshare, new_user_namespace),
            # its flags are in memory, where a filter cannot read them; libraries then use `clone`
            (table.clone3, [refuse(errno.ENOSYS)]),
            (
                table.socket,
                [
                    load(0),
                    *when(_AF_UNIX, give(ALLOW)),
                    *when(_AF_INET, *internet),
                    *when(_AF_INET6, *internet),
                    *when(_AF_NETLINK, load(2), *when(_NETLINK_ROUTE, give(ALLOW)), refuse(errno.EPROTONOSUPPORT)),
                    refuse(errno.EAFNOSUPPORT),
                ],
            ),
            *((number, [refuse(errno.ENOSYS)]) for number in table.unavailable),
        ],
    )


def build_program(table: SyscallTable, rules: Sequence[tuple[int, Sequence[Instruction]]]) -> bytes:
    """
    Return a filter with *rules*: the number of a system call, and what is executed for it. Other calls are allowed.

    System calls of 32-bit programs, which have other numbers, do not exist.
    """
    lines: list[Instruction] = [
        (LOAD, 0, 0, _MACHINE),
        (JUMP_EQUAL, 1, 0, table.audit_arch),
        refuse(errno.ENOSYS),
        (LOAD, 0, 0, _NUMBER),
    ]
    if table.audit_arch == SYSCALL_TABLES["x86_64"].audit_arch:
        lines += [(JUMP_AT_LEAST, 0, 1, _X32), refuse(errno.ENOSYS)]
    for number, body in rules:
        lines += when(number, *body)
    lines.append(give(ALLOW))
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def give(value: int) -> Instruction:
    """End with the action *value*."""
    return _RETURN, 0, 0, value


def refuse(number: int) -> Instruction:
    """Let the call fail with the errno *number*."""
    return give(_ERRNO | number)


def when(value: int, *body: Instruction) -> list[Instruction]:
    """Execute *body* if the loaded value is *value*, otherwise skip it."""
    return [(JUMP_EQUAL, 0, len(body), value), *body]


def load(argument: int) -> Instruction:
    """Load the lower half of an argument; both architectures are little-endian."""
    return LOAD, 0, 0, ARGUMENTS + 8 * argument


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
        SYSCALL_TABLES[platform.machine()].seccomp,
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

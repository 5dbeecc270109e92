"""Seccomp filters that report or refuse network system calls; `runtimes.seccomp` has the filter of all steps."""

from __future__ import annotations

import errno
import functools

from pdkernel.runtimes.seccomp import (
    ALLOW,
    AND,
    ARGUMENTS,
    JUMP_EQUAL,
    JUMP_SET,
    LOAD,
    SYSCALL_TABLES,
    Instruction,
    SyscallTable,
    build_program,
    give,
    load,
    refuse,
    when,
)

__all__ = ["ALLOW", "NOTIFY", "SYSCALL_TABLES", "SyscallTable", "build_notify_filter", "build_refuse_filter"]

NOTIFY = 0x7FC00000
"""Action: send a notification to the listener."""

_FAST_OPEN = 0x20000000
_AF_INET, _AF_INET6, _AF_PACKET = 2, 10, 17
_SOCK_STREAM, _KIND_MASK = 1, 0xF
_IPPROTO_TCP = 6
_DENIED = refuse(errno.EACCES)


@functools.cache
def build_notify_filter(table: SyscallTable) -> bytes:
    """
    A filter that reports the calls that may reach another machine: connecting, and sending to an address.

    io_uring, which bypasses both, fails with ENOSYS, as all calls of 32-bit programs do.
    """
    return build_program(
        table,
        [
            (table.io_uring_setup, [refuse(errno.ENOSYS)]),
            (table.connect, [give(NOTIFY)]),
            (table.sendto, [*_if_pointer(4, give(NOTIFY)), give(ALLOW)]),
            (table.sendmsg, [give(NOTIFY)]),
            (table.sendmmsg, [give(NOTIFY)]),
        ],
    )


@functools.cache
def build_refuse_filter(table: SyscallTable) -> bytes:
    """
    A filter that refuses the calls that Landlock does not restrict: internet sockets other than TCP, and connecting by sending.

    Landlock restricts the ports of TCP connections.
    """
    tcp = when(_SOCK_STREAM, load(2), *when(0, give(ALLOW)), *when(_IPPROTO_TCP, give(ALLOW)))
    internet = [load(1), (AND, 0, 0, _KIND_MASK), *tcp, _DENIED]
    socket = [load(0), *when(_AF_PACKET, _DENIED), *when(_AF_INET, *internet), *when(_AF_INET6, *internet)]
    return build_program(
        table,
        [
            (table.io_uring_setup, [refuse(errno.ENOSYS)]),
            (table.socket, [*socket, give(ALLOW)]),
            (table.sendto, [*_if_pointer(4, _DENIED), give(ALLOW)]),
            (table.sendmsg, [load(2), (JUMP_SET, 0, 1, _FAST_OPEN), _DENIED, give(ALLOW)]),
            (table.sendmmsg, [load(3), (JUMP_SET, 0, 1, _FAST_OPEN), _DENIED, give(ALLOW)]),
        ],
    )


def _if_pointer(argument: int, line: Instruction) -> list[Instruction]:
    """Execute *line* if the argument, a pointer, is not null."""
    upper = ARGUMENTS + 8 * argument + 4
    return [
        load(argument),
        (JUMP_EQUAL, 0, 2, 0),
        (LOAD, 0, 0, upper),
        (JUMP_EQUAL, 1, 0, 0),
        line,
    ]

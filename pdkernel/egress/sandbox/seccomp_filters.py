"""Seccomp filters (classic BPF programs) that report or refuse network system calls."""

from __future__ import annotations

import errno
import functools
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ALLOW = 0x7FFF0000
NOTIFY = 0x7FC00000
"""Action: send a notification to the listener."""

_ERRNO = 0x00050000
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_SET, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_NUMBER, _MACHINE, _ARGUMENTS = 0, 4, 16
_X32 = 0x40000000
_FAST_OPEN = 0x20000000
_AF_INET, _AF_INET6, _AF_PACKET = 2, 10, 17
_SOCK_STREAM, _KIND_MASK = 1, 0xF
_IPPROTO_TCP = 6


@dataclass(frozen=True, slots=True)
class SyscallTable:
    """System call numbers of an architecture; *network_calls_32* are those of its 32-bit programs."""

    audit_arch: int
    connect: int
    sendto: int
    sendmsg: int
    sendmmsg: int
    socket: int
    audit_arch_32: int
    network_calls_32: tuple[int, ...]
    io_uring_setup: int = 425


SYSCALL_TABLES: Mapping[str, SyscallTable] = {
    # 32-bit: connect, sendto, sendmsg, sendmmsg, socketcall
    "x86_64": SyscallTable(0xC000003E, 42, 44, 46, 307, 41, 0x40000003, (362, 369, 370, 345, 102)),
    "aarch64": SyscallTable(0xC00000B7, 203, 206, 211, 269, 198, 0x40000028, (283, 290, 296, 374, 102)),
}

_Instruction = tuple[int, int, int, int]


def _return(value: int) -> _Instruction:
    return _RETURN, 0, 0, value


_DENIED = _return(_ERRNO | errno.EACCES)


@functools.cache
def build_notify_filter(table: SyscallTable) -> bytes:
    """
    A filter that reports the calls that may reach another machine: connecting, and sending to an address.

    io_uring, which bypasses both, fails with ENOSYS; 32-bit programs cannot connect.
    """
    return _program(
        table,
        [
            (table.connect, [_return(NOTIFY)]),
            (table.sendto, [*_if_pointer(4, _return(NOTIFY)), _return(ALLOW)]),
            (table.sendmsg, [_return(NOTIFY)]),
            (table.sendmmsg, [_return(NOTIFY)]),
        ],
    )


@functools.cache
def build_refuse_filter(table: SyscallTable) -> bytes:
    """
    A filter that refuses the calls that Landlock does not restrict: internet sockets other than TCP, and connecting by sending.

    Landlock restricts the ports of TCP connections.
    """
    tcp = _when(_SOCK_STREAM, _load(2), *_when(0, _return(ALLOW)), *_when(_IPPROTO_TCP, _return(ALLOW)))
    internet = [_load(1), (_AND, 0, 0, _KIND_MASK), *tcp, _DENIED]
    socket = [_load(0), *_when(_AF_PACKET, _DENIED), *_when(_AF_INET, *internet), *_when(_AF_INET6, *internet)]
    return _program(
        table,
        [
            (table.socket, [*socket, _return(ALLOW)]),
            (table.sendto, [*_if_pointer(4, _DENIED), _return(ALLOW)]),
            (table.sendmsg, [_load(2), (_JUMP_SET, 0, 1, _FAST_OPEN), _DENIED, _return(ALLOW)]),
            (table.sendmmsg, [_load(3), (_JUMP_SET, 0, 1, _FAST_OPEN), _DENIED, _return(ALLOW)]),
        ],
    )


def _program(machine: SyscallTable, rules: Sequence[tuple[int, list[_Instruction]]]) -> bytes:
    load_number = (_LOAD, 0, 0, _NUMBER)
    small = [line for number in machine.network_calls_32 for line in _when(number, _DENIED)]
    lines: list[_Instruction] = [
        (_LOAD, 0, 0, _MACHINE),
        *_when(machine.audit_arch_32, load_number, *small, _return(ALLOW)),
        load_number,
        *_when(machine.io_uring_setup, _return(_ERRNO | errno.ENOSYS)),
    ]
    if machine.audit_arch == SYSCALL_TABLES["x86_64"].audit_arch:
        lines += [(_JUMP_AT_LEAST, 0, 1, _X32), _return(_ERRNO | errno.ENOSYS)]
    for number, body in rules:
        lines += _when(number, *body)
    lines.append(_return(ALLOW))
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def _when(value: int, *body: _Instruction) -> list[_Instruction]:
    """Execute *body* if the loaded value is *value*, otherwise skip it."""
    return [(_JUMP_EQUAL, 0, len(body), value), *body]


def _load(argument: int) -> _Instruction:
    """Load the lower half of an argument; both architectures are little-endian."""
    return _LOAD, 0, 0, _ARGUMENTS + 8 * argument


def _if_pointer(argument: int, line: _Instruction) -> list[_Instruction]:
    """Execute *line* if the argument, a pointer, is not null."""
    upper = _ARGUMENTS + 8 * argument + 4
    return [
        _load(argument),
        (_JUMP_EQUAL, 0, 2, 0),
        (_LOAD, 0, 0, upper),
        (_JUMP_EQUAL, 1, 0, 0),
        line,
    ]

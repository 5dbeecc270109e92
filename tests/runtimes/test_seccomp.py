"""The filter of every step: what it refuses, on each architecture, and that programs work under it."""

from __future__ import annotations

import errno
import json
import os
import platform
import struct
import subprocess
import sys

import pytest

from pdkernel.egress.sandbox_supervisor import build_notify_filter, build_refuse_filter
from pdkernel.runtimes import seccomp
from pdkernel.runtimes.seccomp import ALLOW, SYSCALL_TABLES, SyscallTable, build_step_filter

NEW_USER, NEW_MOUNTS = 0x10000000, 0x20000
I386, ARM = 0x40000003, 0x40000028
ERRNO = 0x50000


def decide(program: bytes, machine: int, number: int, *arguments: int) -> int:
    """The action of a filter for a system call: an interpreter of the instructions that filters use."""
    data = struct.pack("=IIQ6Q", number, machine, 0, *arguments, *[0] * (6 - len(arguments)))
    lines = [struct.unpack_from("=HBBI", program, 8 * index) for index in range(len(program) // 8)]
    value = at = 0
    while True:
        operation, if_true, if_false, operand = lines[at]
        at += 1
        match operation:
            case 0x20:
                (value,) = struct.unpack_from("=I", data, operand)
            case 0x54:
                value &= operand
            case 0x06:
                return int(operand)
            case 0x15 | 0x35 | 0x45:
                is_true = {0x15: value == operand, 0x35: value >= operand, 0x45: bool(value & operand)}[operation]
                at += if_true if is_true else if_false
            case _:
                raise AssertionError(hex(operation))


@pytest.fixture(params=SYSCALL_TABLES)
def table(request: pytest.FixtureRequest) -> SyscallTable:
    """The numbers of each architecture."""
    return SYSCALL_TABLES[request.param]


SOCKETS = {
    (1, 1, 0): 0,  # AF_UNIX
    (1, 5, 0): 0,
    (2, 1, 0): 0,  # AF_INET
    (2, 0x80801, 6): 0,
    (2, 2, 17): 0,
    (2, 2, 1): 0,  # ping
    (10, 1, 6): 0,  # AF_INET6
    (10, 2, 58): 0,
    (16, 3, 0): 0,  # AF_NETLINK, routes
    (2, 1, 262): errno.EPROTONOSUPPORT,  # multipath TCP, which Landlock's rules for ports do not cover
    (10, 1, 262): errno.EPROTONOSUPPORT,
    (2, 1, 132): errno.EPROTONOSUPPORT,  # SCTP
    (2, 2, 136): errno.EPROTONOSUPPORT,
    (2, 3, 255): errno.EPROTONOSUPPORT,
    (16, 3, 15): errno.EPROTONOSUPPORT,  # events of devices
    (16, 3, 9): errno.EPROTONOSUPPORT,  # audit
    (16, 3, 12): errno.EPROTONOSUPPORT,  # firewall
    (40, 1, 0): errno.EAFNOSUPPORT,  # AF_VSOCK
    (38, 5, 0): errno.EAFNOSUPPORT,  # AF_ALG
    (17, 3, 3): errno.EAFNOSUPPORT,  # AF_PACKET
    (31, 3, 1): errno.EAFNOSUPPORT,  # AF_BLUETOOTH
    (15, 3, 2): errno.EAFNOSUPPORT,  # AF_KEY
    (44, 3, 0): errno.EAFNOSUPPORT,  # AF_XDP
    (43, 1, 0): errno.EAFNOSUPPORT,  # AF_SMC
    (21, 5, 0): errno.EAFNOSUPPORT,  # AF_RDS
    (30, 1, 0): errno.EAFNOSUPPORT,  # AF_TIPC
    (29, 3, 1): errno.EAFNOSUPPORT,  # AF_CAN
    (0, 1, 0): errno.EAFNOSUPPORT,
}


def test_sockets_of_a_step(table: SyscallTable) -> None:
    """A step gets sockets of this machine, of TCP and UDP, and of routes; no other family or protocol."""
    program = build_step_filter(table)

    found = {socket: decide(program, table.audit_arch, table.socket, *socket) for socket in SOCKETS}

    assert found == {socket: ERRNO | number if number else ALLOW for socket, number in SOCKETS.items()}


def test_namespaces_of_a_step(table: SyscallTable) -> None:
    """No call makes a user namespace; threads and processes are made as before."""
    program = build_step_filter(table)

    def answer(number: int, *arguments: int) -> int:
        return decide(program, table.audit_arch, number, *arguments)

    refused = ERRNO | errno.EPERM
    assert answer(table.clone, NEW_USER | 17) == answer(table.unshare, NEW_USER | NEW_MOUNTS) == refused
    assert answer(table.clone3) == ERRNO | errno.ENOSYS
    assert answer(table.clone, 17) == answer(table.clone, 0x3D0F00) == answer(table.unshare, 0x400) == ALLOW


def test_calls_that_do_not_exist(table: SyscallTable) -> None:
    """Each unavailable call appears as not implemented; reading and writing are allowed."""
    program = build_step_filter(table)

    assert {decide(program, table.audit_arch, number) for number in table.unavailable} == {ERRNO | errno.ENOSYS}
    assert {decide(program, table.audit_arch, number) for number in (0, 1, 2, 63, 64, 221, 59)} == {ALLOW}


@pytest.mark.parametrize("build", [build_step_filter, build_notify_filter, build_refuse_filter])
def test_other_numbers_of_calls(build: object, table: SyscallTable) -> None:
    """The calls of 32-bit programs, and those of x32, do not exist: they would go around all rules."""
    assert callable(build)
    program = build(table)

    others = [(I386, 3), (I386, 102), (I386, 359), (ARM, 3), (ARM, 281)]
    others += [(SYSCALL_TABLES["x86_64"].audit_arch, 0x40000000 | 41)] if table is SYSCALL_TABLES["x86_64"] else []
    assert {decide(program, machine, number) for machine, number in others} == {ERRNO | errno.ENOSYS}


PROGRAM = """
import importlib.util, json, os, socket, subprocess, sys, threading
spec = importlib.util.spec_from_file_location("seccomp", sys.argv[1])
seccomp = importlib.util.module_from_spec(spec)
sys.modules["seccomp"] = seccomp
spec.loader.exec_module(seccomp)
seccomp.restrict_system_calls()
found = {}
for name, work in {
    "thread": lambda: threading.Thread(target=int).start(),
    "process": lambda: subprocess.run(["true"], check=True),
    "spawned": lambda: os.waitpid(os.posix_spawn(sys.executable, [sys.executable, "-c", ""], {}), 0),
    "interfaces": socket.if_nameindex,
    "lookup": lambda: socket.getaddrinfo("localhost", 80),
    "listener": lambda: socket.create_server(("127.0.0.1", 0)).close(),
    "vsock": lambda: socket.socket(40, 1),
    "user namespace": lambda: os.unshare(0x10000000) if hasattr(os, "unshare") else subprocess.run(["unshare", "-U", "true"], check=True, capture_output=True),
}.items():
    try:
        work()
        found[name] = True
    except (OSError, subprocess.SubprocessError):
        found[name] = False
print(json.dumps(found))
"""


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() not in SYSCALL_TABLES, reason="no filter here")
def test_programs_work_under_the_filter() -> None:
    """Threads, child processes, name lookup and servers work in a process with the filter; VSOCK and user namespaces do not."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", PROGRAM, str(seccomp.__file__)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={"PATH": os.environ["PATH"]},
    )

    found = json.loads(done.stdout)
    assert found == dict.fromkeys(found, True) | {"vsock": False, "user namespace": False}

"""
Answers the operating system's notifications before a sandboxed process connects or sends to an address.

The rules: calls to this machine and to Unix sockets are allowed; TCP to any other host, and to the server whose workflows the steps
are, is connected to the gateway, which receives the original destination; DNS goes to the
sandbox's name server; everything else is refused. For a process that may call public addresses only, calls to this machine go to the gateway, too.

The supervisor protects against accidents, not against malicious code: another thread can change an address after the check.

The seccomp filters report or refuse network system calls; `runtimes.seccomp` has the filter of all steps.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import ipaddress
import json
import os
import select
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

from pdkernel.egress.outbound_policy import is_loopback
from pdkernel.egress.sandbox_name_server import NameServer
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
    fetch_descriptor,
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
    Return a filter that reports the calls that may reach another machine: connecting, and sending to an address.

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
    Return a filter that refuses the calls that Landlock does not restrict: internet sockets other than TCP, and connecting by sending.

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


_LOCAL_FAMILIES = frozenset({socket.AF_UNSPEC, socket.AF_UNIX, 16})  # 16: netlink, the kernel's own interface
_RESOLVERS = (b"/var/run/nscd/socket", b"/run/nscd/socket", b"/run/systemd/resolve/", b"/var/run/systemd/resolve/")


@dataclass(frozen=True, slots=True)
class SocketAddress:
    """An internet address and port."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether the address is this machine's."""
        return is_loopback(self.host)


def parse_sockaddr(address: bytes, *, for_datagram: bool = False) -> SocketAddress | None:
    """
    Return the internet address in *address*; None for a local address (Unix socket, netlink) and for a disconnection.

    Args:
        address: A `sockaddr`.
        for_datagram: The address is that of a datagram, where Linux takes an unspecified family for IPv4.

    Raises:
        ValueError: The address family is unknown.
    """
    family = int.from_bytes(address[:2], "little")
    if family == socket.AF_INET or (family == socket.AF_UNSPEC and for_datagram and len(address) >= 8):
        return SocketAddress(str(ipaddress.IPv4Address(address[4:8])), int.from_bytes(address[2:4], "big"))
    if family == socket.AF_INET6:
        six = ipaddress.IPv6Address(address[8:24])
        return SocketAddress(str(six.ipv4_mapped or six), int.from_bytes(address[2:4], "big"))
    if family not in _LOCAL_FAMILIES:
        raise ValueError(f"an address of family {family}")
    return None


def is_unix(address: bytes) -> bool:
    """Return whether *address* is the address of a Unix socket."""
    return int.from_bytes(address[:2], "little") == socket.AF_UNIX


def is_resolver_socket(address: bytes) -> bool:
    """Return whether *address* is the Unix socket of a service that resolves names."""
    return is_unix(address) and address[2:].startswith(_RESOLVERS)


_RECEIVE, _ANSWER, _STILL_VALID = 0xC0502100, 0xC0182101, 0x40082102
_CONTINUE = 1
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")
_REPLY = struct.Struct("=QqiI")
OnBlocked = Callable[[str, SocketAddress], None]
"""Called with what was refused (`A UDP connection`) and its destination."""
_DNS = 53
_PROBE_PORTS = frozenset({0, 9})  # connecting a UDP socket there sends nothing: resolvers do it to sort addresses
_IPV6_PROBE = SocketAddress(
    "2001:4860:4860::8888", 443
)  # Chromium connects a UDP socket there to find out if IPv6 works
_MAX_ADDRESS_BYTES = 128
_MESSAGE = struct.Struct("=QI4x")  # the start of a msghdr: the address of a name, and its length
_MESSAGE_SIZE, _MANY_MESSAGE_SIZE = 56, 64
_MAX_MESSAGES = 1024
_CONNECT_MS = 2000


@dataclass(frozen=True, slots=True)
class Notification:
    """A system call that waits for an answer."""

    id: int
    thread_id: int
    syscall_number: int
    arguments: tuple[int, ...]


def receive_notification(listener: int) -> Notification | None:
    """Return the next waiting call, or None if its process has ended. Call it when *listener* is readable."""
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
    """Return whether the calling process still waits; if not, memory that was read from it may belong to another process."""
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


class Supervisor:
    """
    Answers the notifications of one seccomp listener.

    Attributes:
        listener: The descriptor of the listener.
        token: The caller token of the processes.
    """

    def __init__(
        self,
        listener: int,
        table: SyscallTable,
        *,
        gateway: int,
        name_server: Callable[[], NameServer],
        token: str,
        on_blocked: OnBlocked,
        own_port: Callable[[], int | None] = lambda: None,
        public_only: bool = False,
    ) -> None:
        """
        Nothing happens before `answer_next` is called.

        Args:
            listener: Descriptor from `start_with_seccomp_listener`.
            table: System call numbers of this machine.
            gateway: Port of the gateway on 127.0.0.1.
            name_server: Returns the name server of the token, which is opened for the first question.
            token: The caller token of the processes.
            on_blocked: Called for each refused call.
            own_port: Returns the port of the server on this machine; the gateway marks calls to it (`own_server`).
            public_only: Whether the gateway is the only allowed address of this machine; other ports and Unix sockets are
                refused.
        """
        self.listener = listener
        self._gateway = gateway
        self._name_server = name_server
        self.token = token
        self._on_blocked = on_blocked
        self._own_port = own_port
        self._public_only = public_only
        self._rules: dict[int, Callable[[Notification], int | None]] = {
            table.connect: self._connect,
            table.sendto: self._sendto,
            table.sendmsg: self._sendmsg,
            table.sendmmsg: self._sendmmsg,
        }

    def answer_next(self) -> bool:
        """Answer the waiting call, if any; False if all processes have ended."""
        ready = select.poll()
        ready.register(self.listener, select.POLLIN)
        events = ready.poll(0)
        if not events or not events[0][1] & select.POLLIN:
            return not events
        notification = receive_notification(self.listener)
        if notification is None:
            return True
        try:
            error = self._rules[notification.syscall_number](notification)
        except (OSError, ValueError, struct.error):
            error = errno.EACCES  # a call that cannot be inspected is refused
        if error is None:
            continue_syscall(self.listener, notification)
        else:
            reply_with_errno(self.listener, notification, error)
        return True

    def _connect(self, notification: Notification) -> int | None:
        """Return the errno of a connect call, 0 if it was redirected, None to let the kernel execute it."""
        descriptor, address, length, *_ = notification.arguments
        where = self._address(notification, address, length)
        if is_resolver_socket(where):
            return errno.ECONNREFUSED
        destination = self._parse_destination(where)
        if destination is None or self._is_allowed(destination):
            return None
        with duplicate_socket(notification.thread_id, descriptor) as sock:
            if sock.type == socket.SOCK_STREAM:
                is_direct = destination.is_loopback and destination.port == _DNS and not self._public_only
                return None if is_direct else self._redirect(sock, destination)
            if sock.type == socket.SOCK_DGRAM and destination.port == _DNS:
                return self._connect_to_name_server(sock)
            if sock.type == socket.SOCK_DGRAM and destination.port in _PROBE_PORTS:
                return None
            if sock.type == socket.SOCK_DGRAM and destination == _IPV6_PROBE:
                return errno.ENETUNREACH
        return self._refuse("A UDP connection", destination)

    def _connect_to_name_server(self, sock: socket.socket) -> int:
        names = self._name_server()
        error = _connect_to(sock, names.port)
        if not error:
            names.admit(sock.getsockname()[1])
        return error

    def _redirect(self, sock: socket.socket, destination: SocketAddress) -> int:
        error = _connect_to(sock, self._gateway)
        if error == errno.EISCONN and sock.getpeername()[1] == self._gateway:
            return 0  # a signal interrupted the first call, and the program repeats it
        if error:
            return error
        preamble = {"host": destination.host, "port": destination.port, "tls": False, "token": self.token}
        sock.send(f"PDK1 {json.dumps(preamble)}\n".encode(), socket.MSG_NOSIGNAL)
        return 0

    def _sendto(self, notification: Notification) -> int | None:
        return self._send(self._address(notification, *notification.arguments[4:6]))

    def _sendmsg(self, notification: Notification) -> int | None:
        return self._message(notification, notification.arguments[1])

    def _sendmmsg(self, notification: Notification) -> int | None:
        count = notification.arguments[2] & 0xFFFFFFFF
        messages = range(min(count, _MAX_MESSAGES))  # Linux sends at most this many in one call
        answers = (
            self._message(notification, notification.arguments[1] + _MANY_MESSAGE_SIZE * number) for number in messages
        )
        return next((answer for answer in answers if answer is not None), None)

    def _message(self, notification: Notification, address: int) -> int | None:
        name, length = _MESSAGE.unpack(read_process_memory(notification.thread_id, address, _MESSAGE.size))
        return self._send(self._address(notification, name, length)) if name and length else None

    def _send(self, address: bytes) -> int | None:
        destination = self._parse_destination(address, sending=True)
        if destination is None or self._is_allowed(destination):
            return None
        return self._refuse("A DNS question" if destination.port == _DNS else "A datagram", destination)

    def _parse_destination(self, address: bytes, *, sending: bool = False) -> SocketAddress | None:
        """As `parse_sockaddr`. Raises `PermissionError` for a Unix socket that is not allowed."""
        if self._public_only and is_unix(address):
            raise PermissionError("a Unix socket")
        return parse_sockaddr(address, for_datagram=sending)

    def _is_allowed(self, destination: SocketAddress) -> bool:
        if self._public_only:
            return destination.is_loopback and destination.port == self._gateway
        return destination.is_loopback and destination.port not in (_DNS, self._own_port())

    def _refuse(self, what: str, destination: SocketAddress) -> int:
        self._on_blocked(what, destination)
        return errno.EACCES

    def _address(self, notification: Notification, address: int, length: int) -> bytes:
        found = read_process_memory(notification.thread_id, address, min(length & 0xFFFFFFFF, _MAX_ADDRESS_BYTES))
        if not is_pending(self.listener, notification):
            raise ProcessLookupError(notification.thread_id)
        return found


def _connect_to(sock: socket.socket, port: int) -> int:
    """Connect *sock*, which may be non-blocking, to *port* of this machine; returns the errno, or 0."""
    host = "127.0.0.1"
    if sock.family == socket.AF_INET6:
        host = "::ffff:127.0.0.1"
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    error = sock.connect_ex((host, port))
    if error == errno.EINPROGRESS:
        poll = select.poll()
        poll.register(sock, select.POLLOUT)
        if not poll.poll(_CONNECT_MS):
            return errno.ETIMEDOUT
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return error

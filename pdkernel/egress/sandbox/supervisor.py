"""
Answers the operating system, which asks before a guarded process connects or sends to an address.

Knows what may go where: this machine and Unix sockets are left alone; TCP to anywhere else is connected to the gateway, which
hears where it was meant to go; DNS is led to our own name server; everything else is refused. A process that reaches public
addresses only is led to the gateway where it wants to reach this machine, too. Knows nothing of modes.

A guard against accidents, not a sandbox: another thread may change an address after it was looked at.
"""

from __future__ import annotations

import errno
import json
import select
import socket
import struct
from collections.abc import Callable

from pdkernel.egress.sandbox import linux_syscalls
from pdkernel.egress.sandbox.addresses import SocketAddress, is_resolver_socket, is_unix, parse_sockaddr
from pdkernel.egress.sandbox.linux_syscalls import Notification
from pdkernel.egress.sandbox.seccomp_filters import SyscallTable

OnBlocked = Callable[[str, SocketAddress], None]
"""Told what was refused (`A UDP connection`), and where it wanted to go."""

_DNS = 53
_PROBE_PORTS = frozenset({0, 9})  # connecting a UDP socket there sends nothing: it is how addresses are put in order
_MAX_ADDRESS_BYTES = 128
_MESSAGE = struct.Struct("=QI4x")  # how a msghdr begins: the address of a name, and its length
_MESSAGE_SIZE, _MANY_MESSAGE_SIZE = 56, 64
_MAX_MESSAGES = 1024
_CONNECT_MS = 2000


class Supervisor:
    """Answers for the processes that one listener asks about."""

    def __init__(
        self,
        listener: int,
        table: SyscallTable,
        *,
        gateway: int,
        name_server: int,
        token: str,
        on_blocked: OnBlocked,
        public_only: bool = False,
    ) -> None:
        """
        Nothing is done before `answer_next` is called.

        Args:
            listener: From `kernel.listen`.
            table: Whose system calls are meant.
            gateway: Port of the gateway on 127.0.0.1.
            name_server: Port of our own name server there.
            token: Says whose connections these are.
            on_blocked: Is told of what was stopped.
            public_only: Leave nothing of this machine alone but the gateway: neither its ports nor its Unix sockets.
        """
        self.listener = listener
        self._gateway = gateway
        self._name_server = name_server
        self._token = token
        self._on_blocked = on_blocked
        self._public_only = public_only
        self._rules: dict[int, Callable[[Notification], int | None]] = {
            table.connect: self._connect,
            table.sendto: self._sendto,
            table.sendmsg: self._sendmsg,
            table.sendmmsg: self._sendmmsg,
        }

    def answer_next(self) -> bool:
        """Answer the call that waits, if one does; False if nobody is left who could ask."""
        ready = select.poll()
        ready.register(self.listener, select.POLLIN)
        events = ready.poll(0)
        if not events or not events[0][1] & select.POLLIN:
            return not events
        notification = linux_syscalls.receive_notification(self.listener)
        if notification is None:
            return True
        try:
            error = self._rules[notification.syscall_number](notification)
        except (OSError, ValueError, struct.error):
            error = errno.EACCES  # what cannot be looked at does not pass
        if error is None:
            linux_syscalls.continue_syscall(self.listener, notification)
        else:
            linux_syscalls.reply_with_errno(self.listener, notification, error)
        return True

    def _connect(self, notification: Notification) -> int | None:
        """The error of a connect call, 0 if it was made elsewhere, None to let it be made as it is."""
        descriptor, address, length, *_ = notification.arguments
        where = self._address(notification, address, length)
        if is_resolver_socket(where):
            return errno.ECONNREFUSED
        destination = self._parse_destination(where)
        if destination is None or self._is_left_alone(destination):
            return None
        with linux_syscalls.duplicate_socket(notification.thread_id, descriptor) as sock:
            if sock.type == socket.SOCK_STREAM:
                return None if destination.is_loopback and not self._public_only else self._redirect(sock, destination)
            if sock.type == socket.SOCK_DGRAM and destination.port == _DNS:
                return _connect_to(sock, self._name_server)
            if sock.type == socket.SOCK_DGRAM and destination.port in _PROBE_PORTS:
                return None
        return self._refuse("A UDP connection", destination)

    def _redirect(self, sock: socket.socket, destination: SocketAddress) -> int:
        error = _connect_to(sock, self._gateway)
        if error == errno.EISCONN and sock.getpeername()[1] == self._gateway:
            return 0  # a signal came while the first call was answered, and it is made again
        if error:
            return error
        preamble = {"host": destination.host, "port": destination.port, "tls": False, "ticket": self._token}
        sock.send(f"PDK1 {json.dumps(preamble)}\n".encode(), socket.MSG_NOSIGNAL)
        return 0

    def _sendto(self, notification: Notification) -> int | None:
        return self._send(self._address(notification, *notification.arguments[4:6]))

    def _sendmsg(self, notification: Notification) -> int | None:
        return self._message(notification, notification.arguments[1])

    def _sendmmsg(self, notification: Notification) -> int | None:
        count = notification.arguments[2] & 0xFFFFFFFF
        messages = range(min(count, _MAX_MESSAGES))  # Linux sends no more at once
        answers = (
            self._message(notification, notification.arguments[1] + _MANY_MESSAGE_SIZE * number) for number in messages
        )
        return next((answer for answer in answers if answer is not None), None)

    def _message(self, notification: Notification, address: int) -> int | None:
        name, length = _MESSAGE.unpack(
            linux_syscalls.read_process_memory(notification.thread_id, address, _MESSAGE.size)
        )
        return self._send(self._address(notification, name, length)) if name and length else None

    def _send(self, address: bytes) -> int | None:
        destination = self._parse_destination(address, sending=True)
        if destination is None or self._is_left_alone(destination):
            return None
        return self._refuse("A DNS question" if destination.port == _DNS else "A datagram", destination)

    def _parse_destination(self, address: bytes, *, sending: bool = False) -> SocketAddress | None:
        """As `place_of`. Raises `PermissionError` for a Unix socket that must not be reached."""
        if self._public_only and is_unix(address):
            raise PermissionError("a Unix socket")
        return parse_sockaddr(address, for_datagram=sending)

    def _is_left_alone(self, destination: SocketAddress) -> bool:
        if self._public_only:
            return destination.is_loopback and destination.port == self._gateway
        return destination.is_loopback and destination.port != _DNS

    def _refuse(self, what: str, destination: SocketAddress) -> int:
        self._on_blocked(what, destination)
        return errno.EACCES

    def _address(self, notification: Notification, address: int, length: int) -> bytes:
        found = linux_syscalls.read_process_memory(
            notification.thread_id, address, min(length & 0xFFFFFFFF, _MAX_ADDRESS_BYTES)
        )
        if not linux_syscalls.is_pending(self.listener, notification):
            raise ProcessLookupError(notification.thread_id)
        return found


def _connect_to(sock: socket.socket, port: int) -> int:
    """Connect *sock*, which may be one that does not wait, to *port* of this machine; the error, or 0."""
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

"""
Several server processes on one listening socket: the parent forks them, replaces one that dies, and ends all.

uvicorn's supervisor replaces processes, but does not know when they accept requests, and its processes outlive it. Without
the parent, each process ends as after a signal. The parent itself uses neither threads nor an event loop, which a fork would
not copy.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pdkernel.errors import InternalError
from pdkernel.server.uvicorn_server import SHUTDOWN_GRACE_S, ConnectionShare, share_connections

RESTART_DELAYS_S = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds until a process that has died is replaced, by the number of processes before it that died soon."""
STABLE_AFTER_S = 60.0
"""A process that dies after this time is replaced at once."""
KILL_AFTER_S = SHUTDOWN_GRACE_S + 5.0
"""Seconds after a signal until a process that has not ended is killed."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)


@dataclass(frozen=True)
class ProcessMembership:
    """
    The connections of a server process to its parent and to the other processes.

    Attributes:
        share: The connections of the processes.
        parent: A socket to the parent, which is readable as soon as the parent has ended.
        predecessor: The executor of the process that died, and that this process replaces; or None.
    """

    share: ConnectionShare
    parent: socket.socket
    predecessor: str | None = None

    def report_ready(self, executor_id: str) -> None:
        """Report to the parent that this process accepts requests, and its executor in the journal."""
        with contextlib.suppress(OSError):  # the parent has ended; the server stops when it reads from `parent`
            self.parent.sendall(f"{executor_id}\n".encode())


@dataclass
class _Child:
    """A process, as the parent sees it."""

    pid: int
    channel: socket.socket
    started_at: float
    received: bytes = b""

    @property
    def executor_id(self) -> str | None:
        """The executor of the process; None until the process accepts requests."""
        return self.received.decode().strip() if self.received.endswith(b"\n") else None


@dataclass
class _Slot:
    """The place of a process: the process, or when the next one starts."""

    share: ConnectionShare
    child: _Child | None = None
    start_at: float = float("inf")
    early_deaths: int = 0
    predecessor: str | None = None


class ServerProcesses:
    """
    The processes of one server.

    Args:
        count: The number of processes.
        listening: The socket on which they accept connections.
        on_ready: Called once, in the parent, when all of them accept requests.
        write_line: Writes a message for the operator.
    """

    def __init__(
        self,
        count: int,
        listening: socket.socket,
        *,
        on_ready: Callable[[], None],
        write_line: Callable[[str], None],
    ) -> None:
        self._listening = listening
        self._on_ready = on_ready
        self._write_line = write_line
        self._slots = [_Slot(share) for share in share_connections(count)]
        self._is_ready = False
        self._status = 0
        self._stops, self._stops_sent = 0, 0
        self._kill_at = float("inf")

    def run(self) -> ProcessMembership | int:
        """
        Fork the processes, and watch them until a signal ends them.

        Returns:
            In each new process its membership. In the parent, after all processes have ended, the exit status.
        """
        self._slots[0].start_at = 0.0  # what prevents a start is reported once, by the first process
        with self._signals() as wakeup, selectors.DefaultSelector() as events:
            events.register(wakeup, selectors.EVENT_READ)
            while True:
                if self._stops > self._stops_sent or time.monotonic() >= self._kill_at:
                    self._send_stop()
                for slot in [] if self._stops else self._slots:
                    if slot.child is None and slot.start_at <= time.monotonic():
                        membership = self._start(slot, wakeup, events)
                        if membership is not None:
                            return membership
                if self._stops and all(slot.child is None for slot in self._slots):
                    return self._status
                for key, _ in events.select(self._timeout()):
                    if key.data is None:
                        _drain(wakeup)
                    elif self._read(key.data):
                        events.unregister(key.fileobj)
                self._reap(events)
                self._start_others()

    def _start(self, slot: _Slot, wakeup: socket.socket, events: selectors.BaseSelector) -> ProcessMembership | None:
        """Start the process of a slot; return its membership in the new process, and None in the parent."""
        try:
            membership = self._fork(slot, wakeup)
        except OSError as fault:  # too many processes, or no memory
            if not self._is_ready:
                raise
            slot.start_at = time.monotonic() + RESTART_DELAYS_S[-1]
            self._write_line(f"No server process can be started at the moment: {fault.strerror}.")
            return None
        if slot.child is not None:
            events.register(slot.child.channel, selectors.EVENT_READ, slot)
        return membership

    def _fork(self, slot: _Slot, wakeup: socket.socket) -> ProcessMembership | None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        sys.stdout.flush()
        sys.stderr.flush()
        # a signal that arrives before the new process has its own handlers would be taken for one of the parent
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                self._become_child(ours, wakeup)
                slot.child = None
                return ProcessMembership(slot.share, theirs, slot.predecessor)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        theirs.close()
        slot.child = _Child(pid, ours, time.monotonic())
        return None

    def _become_child(self, ours: socket.socket, wakeup: socket.socket) -> None:
        """Close the sockets of the parent and leave its process group: Ctrl-C on a terminal reaches the parent only."""
        for number in _SIGNALS:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        os.setpgid(0, 0)
        for each in (ours, wakeup, *(slot.child.channel for slot in self._slots if slot.child is not None)):
            each.close()
        if any(slot.child is not None or slot.predecessor is not None for slot in self._slots):
            os.dup2(2, 1)  # only the first process may report on standard output why it cannot start

    def _read(self, slot: _Slot) -> bool:
        """Read what the process has reported; return whether its channel is closed."""
        if slot.child is None:
            return True
        try:
            received = slot.child.channel.recv(1024)
        except OSError:
            received = b""
        slot.child.received += received
        return not received

    def _reap(self, events: selectors.BaseSelector) -> None:
        """Find the processes that have ended, and decide when each is replaced."""
        for slot in self._slots:
            child = slot.child
            if child is None:
                continue
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid == 0:
                continue
            self._read(slot)
            with contextlib.suppress(KeyError):
                events.unregister(child.channel)
            child.channel.close()
            slot.child = None
            slot.share.leave()
            if not self._stops:
                self._replace(slot, child, os.waitstatus_to_exitcode(status))

    def _replace(self, slot: _Slot, child: _Child, status: int) -> None:
        if not self._is_ready:  # the process has printed why it cannot start
            self._status = status if status > 0 else InternalError.exit_status
            self._stops += 1
            return
        if time.monotonic() - child.started_at >= STABLE_AFTER_S:
            slot.early_deaths = 0
        delay = RESTART_DELAYS_S[min(slot.early_deaths, len(RESTART_DELAYS_S) - 1)]
        slot.early_deaths += 1
        slot.start_at = time.monotonic() + delay
        slot.predecessor = child.executor_id or slot.predecessor
        reason = f"by signal {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
        when = f"in {delay:.0f} s" if delay else "now"
        self._write_line(
            f"The server process {child.pid} has ended {reason}. Other processes continue its runs. A new process starts {when}."
        )

    def _start_others(self) -> None:
        """Start the other processes after the first one accepts requests; call *on_ready* when all do."""
        if self._is_ready or self._stops:
            return
        ready = [slot.child is not None and slot.child.executor_id is not None for slot in self._slots]
        if ready[0]:
            for slot in self._slots:
                slot.start_at = 0.0
        if all(ready):
            self._is_ready = True
            self._on_ready()

    def _send_stop(self) -> None:
        """End the processes: gracefully after the first signal, at once after the second, and with force at last."""
        self._listening.close()  # the last process that closes the socket lets the system refuse connections
        is_late = time.monotonic() >= self._kill_at
        number = signal.SIGKILL if is_late else signal.SIGTERM
        if is_late:
            self._kill_at = float("inf")
        elif not self._stops_sent:
            self._kill_at = time.monotonic() + KILL_AFTER_S
        self._stops_sent = self._stops
        for slot in self._slots:
            if slot.child is not None:  # it was not waited for, so its id is not another process's
                os.kill(slot.child.pid, number)

    def _timeout(self) -> float | None:
        """Return the seconds until the next start, or until processes that do not end are killed; None for neither."""
        starts = [slot.start_at for slot in self._slots if slot.child is None and not self._stops]
        earliest = min([*starts, self._kill_at])
        return None if earliest == float("inf") else max(0.0, earliest - time.monotonic())

    @contextlib.contextmanager
    def _signals(self) -> Iterator[socket.socket]:
        """Open a socket that is readable after a signal; SIGINT and SIGTERM are counted."""
        wakeup, alarm = socket.socketpair()
        wakeup.setblocking(False)
        alarm.setblocking(False)
        parent = os.getpid()
        earlier = [signal.signal(number, self._count_signal) for number in _SIGNALS]
        descriptor = signal.set_wakeup_fd(alarm.fileno(), warn_on_full_buffer=False)
        try:
            yield wakeup
        finally:
            if os.getpid() == parent:
                signal.set_wakeup_fd(descriptor)
                for number, handler in zip(_SIGNALS, earlier, strict=True):
                    signal.signal(number, handler)
            wakeup.close()
            alarm.close()

    def _count_signal(self, number: int, _: object) -> None:
        self._stops += number != signal.SIGCHLD


def _drain(wakeup: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while wakeup.recv(4096):
            pass

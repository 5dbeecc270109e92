"""A process that a zygote started, as this process sees it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import struct
from collections.abc import Callable, Sequence

from pdkernel.runtimes import process_tree
from pdkernel.runtimes.seccomp import fetch_descriptor
from pdkernel.workers.warden_client import WARDEN

_END_TIMEOUT_MS = 20  # the event loop waits; the signal is sent anyway
_END_TIMEOUT_S = 10.0  # without a wait of the event loop
_CREDENTIALS = struct.Struct("3i")
_MESSAGE_BYTES = 4096
_ANCILLARY_BYTES = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(4 * 4)


class ZygoteProcess:
    """
    A process that a zygote started (a `ChildProcess`).

    Attributes:
        exit_code: The exit code of the step's program (negative: a signal), or None.
        peak_bytes: As in `ChildProcess`.
        has_ended: Whether the step's program has ended.
        start_error: Why the process could not be started, or None.
        system_v: As in `ChildProcess`.
    """

    def __init__(
        self,
        status: socket.socket,
        process_tag: str,
        *,
        attach: Callable[[int], None] | None,
        is_left_to_system: bool,
        on_namespaces: Callable[[], None],
        on_lost: Callable[[], None],
        on_closed: Callable[[], None],
    ) -> None:
        """
        Take the process of a request that was sent to a zygote.

        Args:
            status: The socket on which the process reports.
            process_tag: The process tag of the request.
            attach: Called with the descriptor that receives the notifications of its seccomp filter; None without a filter.
            is_left_to_system: Whether the process surely has namespaces of its own, which the system ends with the zygote.
            on_namespaces: Called when the process has reported that it has namespaces of its own.
            on_lost: Called when the process has ended before the zygote has started it.
            on_closed: Called once by `kill`: the zygote is not needed any more.
        """
        self.exit_code: int | None = None
        self.peak_bytes = 0
        self.has_ended = False
        self.start_error: str | None = None
        self.system_v: Sequence[int] = ()
        self._on_namespaces = on_namespaces
        self._on_lost = on_lost
        self._on_closed = on_closed
        self._tag = process_tag
        self._attach = attach
        self._status: socket.socket | None = status
        self._pid: int | None = None
        self._init_pid: int | None = None
        self._pidfd: int | None = None
        self._in_namespaces = False
        self._is_closed = False
        self._have_all_ended = True  # until there is one
        self._children: tuple[int, int] | None = None
        self._on_exit: Callable[[], None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        if not is_left_to_system:
            WARDEN.register(-id(self), self._tag)  # until it is known that the system ends what remains
        if self._attach is not None:
            self._watch()

    @property
    def pid(self) -> int | None:
        """The process id of the step's program, when known. In its namespace, the program has another number."""
        if self._pid is None:
            self.poll()
        return self._pid

    @property
    def root_pid(self) -> int | None:
        """The process id of an ancestor of the processes of the step that have lost their parent, when known."""
        return self._init_pid

    def poll(self) -> bool:
        """Read what the process has reported; return whether the step's program has ended."""
        while self._status is not None:
            try:
                text, ancillary, _, _ = self._status.recvmsg(
                    _MESSAGE_BYTES, _ANCILLARY_BYTES, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                break
            except OSError:
                text, ancillary = b"", []
            if not text:
                if self._pid is None and not self.has_ended and not self._is_closed:
                    self._on_lost()
                self._end(None)
                self._close_status()
            else:
                self._on_message(text.decode(), ancillary)
        return self.has_ended

    def watch_exit(self, on_exit: Callable[[], None]) -> None:
        """Call *on_exit* in the running event loop when the step's program has ended."""
        self._on_exit = on_exit
        self._watch()

    def send_kill(self) -> None:
        """Let the system begin to end the processes, if they have namespaces; `kill` then does not wait long."""
        self.poll()
        if self._pidfd is not None and self._in_namespaces:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def kill(self, *, wait: bool = True) -> None:
        """
        End every process of the step at once, and forget it.

        Blocks for a few milliseconds until all have ended, unless *wait* is False.
        """
        self._on_exit = None
        was_closed, self._is_closed = self._is_closed, True
        if self._status is not None:
            with contextlib.suppress(OSError):
                self._status.shutdown(socket.SHUT_RDWR)  # a process that is not started yet ends by itself
            self.poll()
            self._close_status()
        if self._pidfd is not None:
            if not self._in_namespaces:
                roots = [pid for pid in (self._init_pid, self._pid) if pid]
                process_tree.kill_processes(roots, [self._tag], reaper=self._init_pid)
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            if wait:
                ended = select.poll()
                ended.register(self._pidfd, select.POLLIN)
                self._have_all_ended = bool(ended.poll(_END_TIMEOUT_MS))
            os.close(self._pidfd)
            self._pidfd = None
        for descriptor in (*(self._children or ()), *self.system_v):
            os.close(descriptor)
        self._children, self.system_v = None, ()
        self.has_ended = True
        WARDEN.unregister(-id(self))
        if not was_closed:
            self._on_closed()

    async def end_processes(self) -> bool:
        """End every process, and wait for them without blocking: the first process of a namespace is the last to end."""
        self.send_kill()
        if self._pidfd is not None and self._in_namespaces:
            await _wait_until_readable(os.dup(self._pidfd), _END_TIMEOUT_S)
        self.kill()
        return self._have_all_ended

    def has_children(self) -> bool:
        """
        Whether processes that the step's program started still run, daemons included.

        It checks the children of the program's main thread, and processes without a parent. Children of an ended thread
        move to the main thread, and a worker itself reports a running thread.
        """
        if self._children is None:
            pid, init = self.pid, self._init_pid
            if pid is None or init is None or self.has_ended:
                return False
            try:
                step = os.open(f"/proc/{pid}/task/{pid}/children", os.O_RDONLY | os.O_CLOEXEC)
                self._children = step, os.open(f"/proc/{init}/task/{init}/children", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return False
        of_step, of_init = self._children
        own = 0 if self._in_namespaces else 1  # the program is then a child of init
        try:
            return bool(os.pread(of_step, 1, 0)) or len(os.pread(of_init, 64, 0).split()) > own
        except OSError:
            return False

    def _on_message(self, text: str, ancillary: Sequence[tuple[int, int, bytes]]) -> None:
        for _, kind, data in ancillary:
            if kind == socket.SCM_RIGHTS:
                self._pidfd, *self.system_v = struct.unpack(f"{len(data) // 4}i", data)
            elif text == "step":
                self._pid = _CREDENTIALS.unpack(data)[0]
            elif text.startswith("init"):
                self._init_pid = _CREDENTIALS.unpack(data)[0]
        word, _, rest = text.partition(" ")
        if word == "init" and rest == "namespaces":
            self._in_namespaces = True
            WARDEN.unregister(-id(self))
            self._on_namespaces()
        elif word == "listen":
            self._attach_listener(int(rest))
        elif word == "exit":
            status, kilobytes = map(int, rest.split())
            self.peak_bytes = kilobytes * 1024
            self._end(os.waitstatus_to_exitcode(status))
        elif word == "fail":
            self.start_error = rest
            self._end(None)

    def _attach_listener(self, number: int) -> None:
        assert self._attach is not None
        assert self._pid is not None
        assert self._status is not None
        attach, self._attach = self._attach, None
        try:
            attach(fetch_descriptor(self._pid, number))
            self._status.send(b"!")
        except (ProcessLookupError, BrokenPipeError):  # it was killed meanwhile
            return
        except OSError as error:  # a security module forbids it: the process, which waits for the answer, ends
            self.start_error = f"its outbound calls cannot be supervised: {error.strerror}"
            self._status.shutdown(socket.SHUT_RDWR)

    def _end(self, exit_code: int | None) -> None:
        if not self.has_ended:
            self.has_ended = True
            self.exit_code = exit_code
            if self._on_exit is not None:
                self._on_exit()

    def _watch(self) -> None:
        if self._loop is None and self._status is not None:
            self._loop = asyncio.get_running_loop()
            # a number: the selector would describe a socket object in detail, to report that the object is not registered yet
            self._loop.add_reader(self._status.fileno(), self.poll)

    def _close_status(self) -> None:
        if self._status is not None:
            if self._loop is not None and not self._loop.is_closed():
                self._loop.remove_reader(self._status.fileno())
            self._status.close()
            self._status = None


async def _wait_until_readable(descriptor: int, timeout_s: float) -> None:
    """Wait until *descriptor* can be read, but at most *timeout_s* seconds, and close it."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        async with asyncio.timeout(timeout_s):
            await readable.wait()
    except TimeoutError:
        return
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)

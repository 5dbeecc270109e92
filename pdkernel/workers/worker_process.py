"""
A long-lived guest as a process: starting it, its lines and its output, ending it.

Knows descriptors and processes. Lines come on a private pipe as JSON; stdout and stderr are wholly the
user's. What the lines mean, and whose step prints, is for `Conversation`s to know. All of it runs in one
event loop, with no threads: a call costs one write, and a reply one read.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import select
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

from pdkernel.execution import Stream
from pdkernel.runtimes import process_tree
from pdkernel.workers.warden_client import WARDEN

MAX_LINE_BYTES = 256 << 20
"""Bytes; an event of 10 MB and exports of twice the platform's limit fit many times over."""

_CHUNK = 1 << 16
_DRAIN_LIMIT = 4 << 20  # more than any pipe holds: what comes after was printed after
_REQUEST_FD, _REPLY_FD = 3, 4  # in the guest; small numbers, because Node.js closes only small ones in its children
_MIN_PARENT_FD = 10  # our own ends, while a guest is started: never a number that the guest's own ends take
_REAP_TRIES = 10
_F_SETPIPE_SZ = getattr(fcntl, "F_SETPIPE_SZ", 1031)
_PIPE_SIZE = 1 << 20


class WorkerListener(Protocol):
    """Whoever has the guest's attention."""

    def on_line(self, line: bytes) -> None:
        """The guest said *line*, without its end."""
        ...

    def on_output(self, stream: Stream, data: bytes) -> None:
        """User code in the guest printed *data*."""
        ...

    def flooded(self) -> None:
        """The guest said a line that is longer than any may be."""
        ...

    def on_closed(self) -> None:
        """The guest has closed its side: it is dead or as good as."""
        ...


class WorkerProcess:
    """A guest, in its own session and process group."""

    def __init__(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        *,
        launch: Callable[[Callable[[], int]], int] | None = None,
        longest: int = MAX_LINE_BYTES,
    ) -> None:
        """
        Start *argv*. Must be called in a running event loop.

        Args:
            argv: Program and arguments.
            environment: All of it.
            launch: Called with what starts the process, for whoever has to be there when it starts.
            longest: Bytes that a line may have.
        """
        self.process_tag = secrets.token_hex(16)
        self.is_alive = True
        self.listener: WorkerListener | None = None
        self._loop = asyncio.get_running_loop()
        self._parts: list[bytes] = []
        self._buffered_bytes = 0
        self._longest = longest
        self._unsent: deque[memoryview] = deque()
        self._exit_code: int | None = None
        self._reaped = False
        ours, theirs = _pipes()
        self._write_fd, self._read_fd, *outputs = ours
        self._outputs: dict[Stream, int] = {"stdout": outputs[0], "stderr": outputs[1]}
        try:
            spawn = partial(_spawn, argv, {**environment, process_tree.PROCESS_TAG_VARIABLE: self.process_tag}, theirs)
            self.pid = launch(spawn) if launch else spawn()
        except BaseException:
            for fd in ours:
                os.close(fd)
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        WARDEN.register(self.pid, self.process_tag)
        self._children = _try_open(f"/proc/{self.pid}/task/{self.pid}/children")
        self._output_poll = select.poll()
        for fd in outputs:
            self._output_poll.register(fd, select.POLLIN)
        self._loop.add_reader(self._read_fd, self._on_line)
        for stream, fd in self._outputs.items():
            self._loop.add_reader(fd, self._on_output, stream)

    def send(self, data: bytes) -> None:
        """Write *data*, now as far as the pipe takes it and the rest as it can."""
        if not self.is_alive:
            return
        view = memoryview(data)
        if not self._unsent:
            view = view[self._write(view) :]
        if view:
            if not self._unsent:
                self._loop.add_writer(self._write_fd, self._on_writable)
            self._unsent.append(view)

    def drain(self) -> None:
        """Read everything that has been printed so far."""
        if not self._output_poll.poll(0):
            return
        for stream in list(self._outputs):
            left = _DRAIN_LIMIT
            while left > 0 and (read := self._read_output(stream)):
                left -= read

    def kill(self) -> None:
        """End the whole process tree at once. Blocks for a few milliseconds."""
        if not self.is_alive:
            return
        self.is_alive = False
        process_tree.kill_processes([self.pid], [self.process_tag])
        for _ in range(_REAP_TRIES):
            if self._reap():
                break
            time.sleep(0.001)
        else:
            self._reap_soon()
        self.drain()
        self._loop.remove_reader(self._read_fd)
        self._loop.remove_writer(self._write_fd)
        for fd in (self._read_fd, self._write_fd, self._children):
            if fd is not None:
                os.close(fd)
        for stream in list(self._outputs):
            self._close_output(stream)
        self.listener = None

    async def wait_exit_code(self) -> int | None:
        """How the process ended, given a moment to do so; None if it has not. Kill it afterwards."""
        for _ in range(50):
            if self._reap():
                break
            await asyncio.sleep(0.004)
        return self._exit_code

    def has_children(self) -> bool:
        """
        Whether processes that user code started are left (Linux; elsewhere the guest itself knows what it can).

        Those of the main thread: a thread that has ended leaves its own to that one, and one that has not is seen by
        the guest.
        """
        if self._children is None or not self.is_alive:
            return False
        try:
            return bool(os.pread(self._children, 1, 0))
        except OSError:
            return False

    def _write(self, view: memoryview) -> int:
        try:
            return os.write(self._write_fd, view)
        except BlockingIOError:
            return 0
        except BrokenPipeError:  # it is dead; the end of its own pipe says so in a moment
            return len(view)

    def _on_writable(self) -> None:
        while self._unsent:
            view = self._unsent[0]
            written = self._write(view)
            if written < len(view):
                self._unsent[0] = view[written:]
                return
            self._unsent.popleft()
        self._loop.remove_writer(self._write_fd)

    def _on_line(self) -> None:
        try:
            data = self._read_lines()
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(self._read_fd)
            if self.listener:
                self.listener.on_closed()
            return
        if b"\n" not in data:
            self._parts.append(data)
            self._buffered_bytes += len(data)
            if self._buffered_bytes > self._longest:
                self._loop.remove_reader(self._read_fd)
                if self.listener:
                    self.listener.flooded()
            return
        *lines, rest = data.split(b"\n")
        if self._parts:
            lines[0] = b"".join([*self._parts, lines[0]])
        self._parts = [rest] if rest else []
        self._buffered_bytes = len(rest)
        # what was printed before a line was said is in the pipe by now: output keeps its place among exports
        self.drain()
        for line in lines:
            if self.listener:
                self.listener.on_line(line)

    def _read_lines(self) -> bytes:
        """What is there, up to a pipe's fill; read in parts, since room for a whole one is asked of the system and given back."""
        data = os.read(self._read_fd, _CHUNK)
        if len(data) < _CHUNK:
            return data
        parts = [data]
        with contextlib.suppress(BlockingIOError):
            while len(parts[-1]) == _CHUNK and len(parts) * _CHUNK < _PIPE_SIZE:
                parts.append(os.read(self._read_fd, _CHUNK))
        return b"".join(parts)

    def _on_output(self, stream: Stream) -> None:
        self._read_output(stream)

    def _read_output(self, stream: Stream) -> int:
        fd = self._outputs.get(stream)
        if fd is None:
            return 0
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return 0
        if not data:
            self._close_output(stream)
        elif self.listener:
            self.listener.on_output(stream, data)
        return len(data)

    def _close_output(self, stream: Stream) -> None:
        fd = self._outputs.pop(stream, None)
        if fd is not None:
            self._loop.remove_reader(fd)
            self._output_poll.unregister(fd)
            os.close(fd)

    def _reap_soon(self, tries: int = 100) -> None:
        # a process of many threads is a zombie a moment before it can be waited for
        if not self._reap() and tries and not self._loop.is_closed():
            self._loop.call_later(0.02, self._reap_soon, tries - 1)

    def _reap(self) -> bool:
        if not self._reaped:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # someone in this process reaps every child
                pid, status = self.pid, None
            if pid:
                self._reaped = True
                self._exit_code = None if status is None else os.waitstatus_to_exitcode(status)
                WARDEN.unregister(self.pid)
        return self._reaped


def _try_open(path: str) -> int | None:
    """A descriptor of that file, which is read again and again; None where there is no such file."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def _pipes() -> tuple[list[int], list[int]]:
    """Our ends (to write, to read, stdout, stderr; not blocking) and the guest's, in the same order."""
    ours, theirs = [], []
    for we_write in (True, False, False, False):
        read, write = os.pipe()
        mine, other = (write, read) if we_write else (read, write)
        moved = fcntl.fcntl(other, fcntl.F_DUPFD_CLOEXEC, _MIN_PARENT_FD)
        os.close(other)
        os.set_blocking(mine, False)
        ours.append(mine)
        theirs.append(moved)
    for fd in ours[:2]:
        with contextlib.suppress(OSError):  # not Linux, or the user's share of pipe memory is used up
            fcntl.fcntl(fd, _F_SETPIPE_SZ, _PIPE_SIZE)
    return ours, theirs


def _spawn(argv: Sequence[str], environment: Mapping[str, str], ends: Sequence[int]) -> int:
    """Start *argv* with *ends* in their places; everything else that is open here is closed there."""
    incoming, outgoing, stdout, stderr = ends
    return os.posix_spawn(
        argv[0],
        list(argv),
        dict(environment),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, stdout, 1),
            (os.POSIX_SPAWN_DUP2, stderr, 2),
            (os.POSIX_SPAWN_DUP2, incoming, _REQUEST_FD),
            (os.POSIX_SPAWN_DUP2, outgoing, _REPLY_FD),
        ],
        setsid=True,
        setsigmask=[],
        setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP],
    )

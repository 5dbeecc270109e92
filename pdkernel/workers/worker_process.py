"""
The process of a long-lived worker: its start, its lines and output, and its end.

JSON lines use private pipes; stdout and stderr belong to the user's code. A `WorkerListener` interprets the lines.
Everything runs in one event loop without threads: a request costs one write, and a reply costs one read.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import select
import termios
from collections import deque
from typing import Protocol

from pdkernel.execution import Stream
from pdkernel.workers.child_process import ProcessRequest, open_pipes
from pdkernel.workers.zygote import Zygote, start_process

MAX_LINE_BYTES = 64 << 20
"""The longest line in bytes, as the largest file of a Bash step; an export has fewer (`MAX_EXPORT_LINE_BYTES`)."""

_CHUNK = 1 << 16
_DRAIN_LIMIT = 4 << 20  # more than a pipe holds: later bytes were printed later
_F_SETPIPE_SZ = getattr(fcntl, "F_SETPIPE_SZ", 1031)
_PIPE_SIZE = 1 << 20


class WorkerListener(Protocol):
    """Receives the lines and the output of a worker."""

    def on_line(self, line: bytes) -> None:
        """Receive a line without its line end."""
        ...

    def on_output(self, stream: Stream, data: bytes) -> None:
        """Receive *data* that user code printed."""
        ...

    def on_line_too_long(self) -> None:
        """Handle a line that exceeds the limit."""
        ...

    def on_closed(self) -> None:
        """Handle the end of the pipe: the worker has ended or is about to."""
        ...


class WorkerProcess:
    """A worker process in its own session and process group."""

    def __init__(
        self, request: ProcessRequest, *, zygote: Zygote | None = None, max_line_bytes: int = MAX_LINE_BYTES
    ) -> None:
        """
        Start the process of *request*. Must be called in a running event loop.

        Args:
            request: The process.
            zygote: The zygote that starts it, or None.
            max_line_bytes: The longest line in bytes.

        Raises:
            OSError: The program cannot be started.
        """
        self.is_alive = True
        self.listener: WorkerListener | None = None
        self._loop = asyncio.get_running_loop()
        self._parts: list[bytes] = []
        self._buffered_bytes = 0
        self._max_line_bytes = max_line_bytes
        self._unsent: deque[memoryview] = deque()
        self._is_broken = False
        parent_fds, worker_fds = open_pipes("from", "from", "to", "from")
        *outputs, self._write_fd, self._read_fd = parent_fds
        self._outputs: dict[Stream, int] = {"stdout": outputs[0], "stderr": outputs[1]}
        for fd in parent_fds[2:]:
            with contextlib.suppress(OSError):  # not Linux, or the user's share of pipe memory is used up
                fcntl.fcntl(fd, _F_SETPIPE_SZ, _PIPE_SIZE)
        try:
            self.child = start_process(request, worker_fds, zygote)
        except BaseException:
            for fd in parent_fds:
                os.close(fd)
            raise
        finally:
            for fd in worker_fds:
                os.close(fd)
        self._output_poll = select.poll()
        for fd in outputs:
            self._output_poll.register(fd, select.POLLIN)
        self._loop.add_reader(self._read_fd, self._on_line)
        for stream, fd in self._outputs.items():
            self._loop.add_reader(fd, self._on_output, stream)

    def send(self, data: bytes) -> None:
        """Write *data*: as much as the pipe accepts now, and the rest when the pipe is writable."""
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
        """Read all output that was printed so far."""
        if not self._output_poll.poll(0):
            return
        for stream in list(self._outputs):
            left = _DRAIN_LIMIT
            while left > 0 and (read := self._read_output(stream)):
                left -= read

    def kill(self, *, wait: bool = True) -> None:
        """End the whole process tree at once. Blocks for a few milliseconds until it has ended, unless *wait* is False."""
        if not self.is_alive:
            return
        self.is_alive = False
        self.child.kill(wait=wait)
        self.drain()
        self._loop.remove_reader(self._read_fd)
        self._loop.remove_writer(self._write_fd)
        for fd in (self._read_fd, self._write_fd):
            os.close(fd)
        for stream in list(self._outputs):
            self._close_output(stream)
        self.listener = None

    @property
    def has_unread(self) -> bool:
        """Whether the process has not read all that was sent: of what it has not read completely, it has begun nothing."""
        if not self.is_alive or self._is_broken or self._unsent:
            return True
        count = bytearray(4)
        fcntl.ioctl(self._write_fd, termios.FIONREAD, count)
        return any(count)

    async def wait_exit_code(self) -> int | None:
        """Wait up to 0.2 s for the exit code; None if the process still runs. Kill the process afterwards."""
        for _ in range(50):
            if self.child.poll():
                break
            await asyncio.sleep(0.004)
        return self.child.exit_code

    def _write(self, view: memoryview) -> int:
        try:
            return os.write(self._write_fd, view)
        except BlockingIOError:
            return 0
        except BrokenPipeError:  # the worker has ended; the end of its own pipe follows
            self._is_broken = True
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
            if self._buffered_bytes > self._max_line_bytes:
                self._loop.remove_reader(self._read_fd)
                self._parts.clear()
                if self.listener:
                    self.listener.on_line_too_long()
            return
        *lines, rest = data.split(b"\n")
        if self._parts:
            lines[0] = b"".join([*self._parts, lines[0]])
        self._parts = [rest] if rest else []
        self._buffered_bytes = len(rest)
        # output that was printed before a line is in the pipe by now: output keeps its order among exports
        self.drain()
        for line in lines:
            if self.listener:
                self.listener.on_line(line)

    def _read_lines(self) -> bytes:
        """Read the available data, up to the size of a pipe, in chunks: a large buffer would be allocated for each read."""
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

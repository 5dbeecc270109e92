"""
A worker: its process, its lines and output, and a record of what it has received. It serves one request at a time.

A request is a JSON line, followed by one line for each export that the worker does not have yet. Each reply begins with
the number of the request; the last one is `done`. The source and the exports of a step are sent once.

JSON lines use private pipes; stdout and stderr belong to the user's code. A `WorkerListener` interprets the lines.
Everything runs in one event loop without threads: a request costs one write, and a reply costs one read.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import termios
from collections import deque
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from pdkernel.errors import ExportNotJSONError, InterpreterMissingError
from pdkernel.execution import Stream
from pdkernel.model import Step
from pdkernel.runtimes.process_tree import PROCESS_TAG_VARIABLE
from pdkernel.workers.child_process import OutputPipes, ProcessRequest, base_environment, open_pipes
from pdkernel.workers.declarations import ComponentFile
from pdkernel.workers.interpreters import WorkerCommand, WorkerLanguage
from pdkernel.workers.isolation import NO_PLAN, IsolationPlan
from pdkernel.workers.process_memory import holds_shared_memory
from pdkernel.workers.protocols import OutboundGateway
from pdkernel.workers.replies import (
    Late,
    ReplyError,
    decode_reply,
)
from pdkernel.workers.zygote import READ_BY_ZYGOTES, Zygote, Zygotes, start_process

MAX_LINE_BYTES = 64 << 20
"""The longest line in bytes, as the largest file of a Bash step; an export has fewer (`MAX_EXPORT_LINE_BYTES`)."""

_CHUNK = 1 << 16
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
        self._outputs = OutputPipes(outputs, self._on_output)
        self._loop.add_reader(self._read_fd, self._on_line)

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
        self._outputs.drain()

    def kill(self, *, wait: bool = True) -> None:
        """End the whole process tree at once. Blocks for a few milliseconds until it has ended, unless *wait* is False."""
        if not self.is_alive:
            return
        self.is_alive = False
        self.child.kill(wait=wait)
        self._outputs.close()
        self._loop.remove_reader(self._read_fd)
        self._loop.remove_writer(self._write_fd)
        for fd in (self._read_fd, self._write_fd):
            os.close(fd)
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

    def _on_output(self, stream: Stream, data: bytes) -> None:
        if data and self.listener:
            self.listener.on_output(stream, data)


READY_LINE = b'0 {"t":"ready"}'
"""The line that a worker sends when it has started."""

_CHECK_INTERVAL_S = 0.2  # of code of steps, also while it waits for a processor: a check takes as long as a short step
_LIMITED_CHECK_INTERVAL_S = 0.05  # with a memory limit: what a run leaves counts for the next one
_MAX_SOURCES = 500  # each version of a cell keeps a few kilobytes in the worker


class Worker:
    """
    A worker process of one language, with a record of what the worker has received.

    Attributes:
        is_healthy: Whether it accepts more requests; false after a failure that may have damaged it.
        is_stale: Whether the next run must use another worker.
        is_ready: Whether it has started.
        request: The number of its last request; each reply begins with it.
        intruded: Whether code wrote to the private descriptor when no reply was expected; the worker was ended.
        process_tag: Identifies its processes.
        read_variables: The environment variables that its modules had read before it had a user: it serves no run that sets one.
        gateway_variables: The environment variables that route it through the gateway.
        is_sandboxed: Whether the operating system stops the worker from bypassing the gateway.
        public_only: Whether the worker reaches public addresses only.
    """

    def __init__(
        self,
        language: WorkerLanguage,
        command: WorkerCommand,
        environment: Mapping[str, str],
        gateway: OutboundGateway | None,
        *,
        zygotes: Zygotes | None = None,
        plan: IsolationPlan = NO_PLAN,
        variables: Collection[str] = (),
        is_sandboxed: bool = False,
        public_only: bool = False,
    ) -> None:
        self.language = language
        self.is_sandboxed = is_sandboxed
        self.public_only = public_only
        self.caller_token = gateway.issue_token(public_only=public_only) if gateway else None
        self.gateway_variables = (
            gateway.build_environment(self.caller_token, language) if gateway and self.caller_token else {}
        )
        self._gateway = gateway
        self.process_tag = secrets.token_hex(16)
        try:
            zygote = zygotes.get(Path(command.argv[0]) if command.is_forked else None) if zygotes else None
            is_forked = command.is_forked and zygote is not None and READ_BY_ZYGOTES.isdisjoint(variables)
            self.read_variables = READ_BY_ZYGOTES if is_forked else frozenset[str]()
            request = ProcessRequest(
                command.argv,
                {**environment, **self.gateway_variables},
                self.process_tag,
                is_forked=is_forked,
                plan=plan,
                sandboxed_by=gateway if is_sandboxed else None,
                caller_token=self.caller_token or "",
            )
            self.process = WorkerProcess(request, zygote=zygote)
        except OSError as error:
            if gateway and self.caller_token:
                gateway.revoke_token(self.caller_token)
            raise InterpreterMissingError(f"{command.argv[0]} cannot be started: {error.strerror}.") from None
        self.is_healthy = True
        self.is_stale = False
        self.is_ready = False
        self.request = 0
        self.intruded = False
        self._unchecked_share = (
            0.0  # of the time after which it is checked again whether the worker holds shared memory
        )
        self._run: object = None
        self._new_sources: list[str] = []
        self._code_numbers: dict[str, int] = {}
        self._sent_values: dict[str, object] = {}
        self._sent_settings: dict[str, Any] = {}
        self.rest()

    def rest(self) -> None:
        """Expect no reply: only the ready line and reports of late failures are valid until the next request."""
        if self.process.is_alive:
            self.process.listener = self

    def on_line(self, line: bytes) -> None:
        """Handle a line without a request; an invalid line ends the worker."""
        if line == READY_LINE and not self.is_ready:
            self.is_ready = True
        elif not _is_late(line):
            self.intruded = True
            self.kill()

    def on_output(self, stream: Stream, data: bytes) -> None:
        """Ignore output that comes without a request."""

    def on_line_too_long(self) -> None:
        """End the worker, whose line without a request is too long."""
        self.intruded = True
        self.kill()

    def on_closed(self) -> None:
        """End the worker, which closed its pipe."""
        self.kill()

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self.process.is_alive

    def has_begun(self, run: object) -> bool:
        """Return whether the `begin` of *run* was built for this worker."""
        return self._run is run

    def build_begin(self, run: object, **setup: Any) -> dict[str, Any]:
        """Build the `begin` of *run*, which is sent with its first request: the settings that the worker does not have."""
        self._run = run
        environment = base_environment(setup["cwd"], self.process_tag)
        # the worker applies `gateway` last: no variable of the workflow replaces the tag, by which processes are found
        last_variables = {**self.gateway_variables, PROCESS_TAG_VARIABLE: self.process_tag}
        settings = {**setup, "env": environment, "gateway": last_variables}
        last, self._sent_settings = self._sent_settings, settings
        return {"begin": {name: value for name, value in settings.items() if name not in last or last[name] != value}}

    def build_code(self, step: Step) -> dict[str, Any]:
        """Build the part of a request that names the code, with its source if the worker does not have it."""
        code: dict[str, Any] = {"step": step.name, "file": step.filename, "offset": step.line_offset}
        if step.files:
            code["files"] = dict(step.files)
        number = self._code_numbers.get(step.source)
        if number is None:
            number = self._code_numbers[step.source] = len(self._code_numbers)
            code["source"] = step.source
            self._new_sources.append(step.source)
            self.is_stale = self.is_stale or number >= _MAX_SOURCES
        code["code"] = number
        return code

    def build_component(self, component: ComponentFile, name: str) -> dict[str, Any]:
        """Build the part of a request that names the component."""
        return {"step": name, "component": {"path": str(component.path), "fresh": component.origin == "folder"}}

    def end_run(self) -> None:
        """Forget the run, which is over."""
        self._run = None
        self._sent_values = {}

    def take_new_sources(self) -> list[str]:
        """Return the code of steps that the worker has received since the last call."""
        taken, self._new_sources = self._new_sources, []
        return taken

    def build_exports(self, values: Mapping[str, object]) -> dict[str, Any]:
        """
        Build the part of a request that names the exports of steps above, and mark them as sent.

        `texts` are the names whose values the worker does not have yet, and follow the request; `steps` are all, unless they are what the
        worker then has: the last one of many steps would name all others.
        """
        sent = self._sent_values
        names = [name for name, value in values.items() if sent.get(name) is not value]
        for name in names:
            sent[name] = values[name]
        return {"texts": names} if len(sent) == len(values) else {"texts": names, "steps": list(values)}

    def bind(self, call_context: Any) -> None:
        """Apply *call_context* to later outbound calls."""
        if self._gateway and self.caller_token and call_context is not None:
            self._gateway.bind(self.caller_token, call_context)

    def unbind(self) -> None:
        """Detach later outbound calls from the step."""
        if self._gateway and self.caller_token:
            self._gateway.unbind(self.caller_token)

    def note_run_time(self, seconds: float, *, is_limited: bool) -> None:
        """Note that code of a step has run for *seconds*, and whether its memory *is_limited*: then it is checked sooner."""
        self._unchecked_share += seconds / (_LIMITED_CHECK_INTERVAL_S if is_limited else _CHECK_INTERVAL_S)

    def check_shared_memory(self) -> None:
        """Mark the worker as stale if steps have left shared memory; it checks when steps have run for a while."""
        child = self.process.child
        if self._unchecked_share >= 1 and child.pid is not None:
            self._unchecked_share = 0.0
            self.is_stale = self.is_stale or holds_shared_memory(child.pid, child.system_v)

    def kill(self, *, wait: bool = True) -> None:
        """End the worker and every process that it started; return before they have ended if *wait* is False."""
        if self.process.is_alive:
            self.process.kill(wait=wait)
        if self._gateway and self.caller_token:
            self._gateway.revoke_token(self.caller_token)
            self.caller_token = None


def _is_late(line: bytes) -> bool:
    try:
        return isinstance(decode_reply(line.partition(b" ")[2]), Late)
    except (ReplyError, ExportNotJSONError, RecursionError):
        return False

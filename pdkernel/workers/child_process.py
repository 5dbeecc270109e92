"""
The processes of steps: their environment, how a zygote or this process starts them, and how they end.

The environment is built from a fixed list and never inherited. Without a zygote, processes have no namespaces of their own:
`process_tree` then finds and ends what a step started.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import select
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from pdkernel.common.blocking import run_blocking
from pdkernel.common.encode import encode_json
from pdkernel.execution import Stream
from pdkernel.runtimes import process_tree
from pdkernel.runtimes.process_tree import PROCESS_TAG_VARIABLE
from pdkernel.runtimes.seccomp import SandboxPlan
from pdkernel.workers.isolation import NO_PLAN, IsolationPlan
from pdkernel.workers.protocols import OutboundGateway
from pdkernel.workers.warden_client import WARDEN


def base_environment(folder: str, process_tag: str) -> dict[str, str]:
    """
    Return the variables that every step's process has.

    Args:
        folder: The working folder. HOME is the same folder, so that a step does not read files of the user by accident.
        process_tag: Identifies the processes of one worker.
    """
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": folder,
        "TMPDIR": folder,
        "LANG": "C.UTF-8",
        "TZ": "UTC",  # parity[time-zone]: the platform's machines keep UTC
        "NO_COLOR": "1",
        PROCESS_TAG_VARIABLE: process_tag,
    }


def step_environment(
    folder: str, process_tag: str, *, variables: Mapping[str, str], gateway_variables: Mapping[str, str]
) -> dict[str, str]:
    """Return the base, the workflow's *variables*, and *gateway_variables*, which override the others."""
    return base_environment(folder, process_tag) | dict(variables) | dict(gateway_variables)


_CHUNK = 1 << 16
_DRAIN_LIMIT = 4 << 20  # more than a pipe holds: later bytes were printed later
_REAP_TRIES = 10
_MIN_PARENT_FD = 10  # never a number of the child's own descriptors
_CHANGE_FOLDER = 'cd "$0" && exec "$@"'


@dataclass(frozen=True)
class ProcessRequest:
    """
    A process to start.

    Attributes:
        argv: The program and its arguments.
        environment: The complete environment, without the process tag.
        process_tag: Identifies the process and its descendants: 32 hexadecimal digits.
        folder: The working folder, as the process sees it.
        is_forked: The zygote forks a Python worker instead of executing *argv*.
        plan: What the process does to itself (`runtimes.isolation`), if a zygote starts it.
        sandboxed_by: The gateway in whose sandbox the process runs, or None.
        caller_token: The token of the process at that gateway.
    """

    argv: Sequence[str]
    environment: Mapping[str, str]
    process_tag: str
    folder: str = "/"
    is_forked: bool = False
    plan: IsolationPlan = NO_PLAN
    sandboxed_by: OutboundGateway | None = None
    caller_token: str = ""

    @property
    def complete_environment(self) -> dict[str, str]:
        """The environment with the process tag."""
        return {**self.environment, process_tree.PROCESS_TAG_VARIABLE: self.process_tag}

    def plan_sandbox(self) -> SandboxPlan | None:
        """Return how the process enters its sandbox, or None."""
        return self.sandboxed_by.plan_sandbox(self.caller_token) if self.sandboxed_by else None

    def encode_for_zygote(self, sandbox: SandboxPlan | None) -> tuple[bytes, bytes]:
        """Return the two parts of the specification for the zygote, with the result of `plan_sandbox`; the first has no secret."""
        public = {"tag": self.process_tag, "forked": self.is_forked, "plan": self.plan}
        private = {
            "argv": list(self.argv),
            "env": self.complete_environment,
            "cwd": self.folder,
            "sandbox": sandbox
            and {"filter": sandbox.filter.hex(), "listen": sandbox.attach is not None, "port": sandbox.port},
        }
        return encode_json(public), encode_json(private)


class ChildProcess(Protocol):
    """
    The process of a worker or step, with all processes that it started.

    Attributes:
        exit_code: The exit code of its program (negative: a signal), or None.
        peak_bytes: The highest resident memory of its program, or of a process that the program waited for; 0 if it is unknown:
            before its end, and without a zygote. (Linux counts the memory of the process that called `exec`, here the server's.)
        start_error: Why the process could not be started, or None.
        system_v: Descriptors of the lists of its System V objects, `/proc/sysvipc/shm`, `msg` and `sem`, if it has objects of its own.
    """

    exit_code: int | None
    peak_bytes: int
    start_error: str | None
    system_v: Sequence[int]

    @property
    def pid(self) -> int | None:
        """The process id of its program, when known."""
        ...

    @property
    def root_pid(self) -> int | None:
        """The process id of an ancestor of all its processes but its program, when known; perhaps of the program itself."""
        ...

    def poll(self) -> bool:
        """Return whether the program has ended."""
        ...

    def watch_exit(self, on_exit: Callable[[], None]) -> None:
        """Call *on_exit* in the running event loop when the program has ended."""
        ...

    def has_children(self) -> bool:
        """Return whether processes that the program started still run (Linux only)."""
        ...

    def send_kill(self) -> None:
        """Let many processes end at the same time: `kill`, which must follow for each, then does not wait long."""
        ...

    def kill(self, *, wait: bool = True) -> None:
        """End every process at once, and forget it. Blocks for a few milliseconds until all have ended, unless *wait* is False."""
        ...

    async def end_processes(self) -> bool:
        """End every process as `kill` does, but without blocking for long; return whether all of them have ended."""
        ...


class SpawnedProcess:
    """A process that this process started without a zygote (a `ChildProcess`)."""

    def __init__(self, request: ProcessRequest, outputs: Sequence[int]) -> None:
        """
        Start *request*. All descriptors but *outputs* and standard input are closed in the process.

        Args:
            request: The process.
            outputs: The descriptors for its stdout and stderr, and for the requests and replies of a worker.

        Raises:
            OSError: The program cannot be started.
        """
        self.exit_code: int | None = None
        self.peak_bytes = 0
        self.start_error: str | None = None
        self.system_v: Sequence[int] = ()
        self._tag = request.process_tag
        self._has_ended = False
        self._is_killed = False
        self._have_all_ended = False
        self._pidfd: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

        def spawn() -> int:
            return _spawn(request, outputs)

        gateway = request.sandboxed_by
        self.pid: int = gateway.start_sandboxed(request.caller_token, spawn) if gateway else spawn()
        WARDEN.register(self.pid, self._tag)
        self._children = _try_open(f"/proc/{self.pid}/task/{self.pid}/children")

    @property
    def root_pid(self) -> int:
        """The process id of its program."""
        return self.pid

    def poll(self) -> bool:
        """Reap the program if it has ended; return whether it has."""
        if self._has_ended:
            return True
        try:
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return False
            # not reaped yet: no other process has its number, so the group can be killed
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            self.exit_code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        except ChildProcessError:  # other code in this process reaps every child
            pass
        self._has_ended = True
        if not self._is_killed:
            # processes that left the group are found by their tag; the pid may be reused by then
            WARDEN.register(-self.pid, self._tag)
        WARDEN.unregister(self.pid)
        return True

    def watch_exit(self, on_exit: Callable[[], None]) -> None:
        """Call *on_exit* in the running event loop when the program has ended."""
        self._loop = loop = asyncio.get_running_loop()

        def report() -> None:
            self._unwatch()
            if not self._is_killed and self.poll():
                on_exit()

        if hasattr(os, "pidfd_open"):
            self._pidfd = os.pidfd_open(self.pid)
            loop.add_reader(self._pidfd, report)
            return

        def wait() -> None:  # not Linux: a thread waits
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(report)

        run_blocking(wait)

    def has_children(self) -> bool:
        """
        Return whether processes that the program started still run (Linux only; elsewhere a worker reports what it finds).

        It checks the children of the main thread. Children of an ended thread move to the main thread, and a worker
        itself reports a running thread.
        """
        if self._children is None or self._has_ended:
            return False
        try:
            return bool(os.pread(self._children, 1, 0))
        except OSError:
            return False

    def send_kill(self) -> None:
        """Do nothing: `kill` must find the processes by their tag before one of them ends."""

    def kill(self, *, wait: bool = True) -> None:
        """End every process at once, and forget it. Blocks for a few milliseconds until all have ended, unless *wait* is False."""
        if self._is_killed:
            return
        self._is_killed = True
        self._unwatch()
        self._have_all_ended = process_tree.kill_processes([] if self._has_ended else [self.pid], [self._tag])
        for _ in range(_REAP_TRIES if wait else 0):
            if self.poll():
                break
            time.sleep(0.001)
        else:
            self._reap_soon()
        WARDEN.unregister(-self.pid)
        if self._children is not None:
            os.close(self._children)
            self._children = None

    async def end_processes(self) -> bool:
        """End every process; looking for those that left the group takes a while."""
        self._unwatch()
        await run_blocking(self.kill)
        self._reap_soon()
        return self._have_all_ended

    def _unwatch(self) -> None:
        if self._pidfd is not None:
            assert self._loop is not None
            if not self._loop.is_closed():
                self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None

    def _reap_soon(self, tries: int = 100) -> None:
        # a process of many threads is a zombie a moment before it can be waited for
        if not self.poll() and tries:
            with contextlib.suppress(RuntimeError):  # no event loop runs any more
                asyncio.get_running_loop().call_later(0.02, self._reap_soon, tries - 1)


class OutputPipes:
    """
    The stdout and stderr of a process, which this process reads in its event loop.

    Args:
        fds: The descriptors of the reading ends of stdout and of stderr; this class closes them.
        on_output: Called with each piece of output, and with empty bytes at the end of a stream.
    """

    def __init__(self, fds: Sequence[int], on_output: Callable[[Stream, bytes], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_output = on_output
        self._open: dict[Stream, int] = {"stdout": fds[0], "stderr": fds[1]}
        self._poll = select.poll()
        for stream, fd in self._open.items():
            self._poll.register(fd, select.POLLIN)
            self._loop.add_reader(fd, self._read, stream)

    def drain(self) -> None:
        """Read all output that was printed so far, up to 4 MB of each stream."""
        if not self._poll.poll(0):
            return
        for stream in list(self._open):
            left = _DRAIN_LIMIT
            while left > 0 and (read := self._read(stream)):
                left -= read

    def close(self) -> None:
        """Read what is left, and close the pipes. A second call does nothing."""
        self.drain()
        for stream in list(self._open):
            self._close(stream)

    def _read(self, stream: Stream) -> int:
        fd = self._open.get(stream)
        if fd is None:
            return 0
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return 0
        if data:
            self._on_output(stream, data)
        else:
            self._close(stream)
        return len(data)

    def _close(self, stream: Stream) -> None:
        fd = self._open.pop(stream)
        self._on_output(stream, b"")
        self._loop.remove_reader(fd)
        self._poll.unregister(fd)
        os.close(fd)


def open_pipes(*directions: Literal["to", "from"]) -> tuple[list[int], list[int]]:
    """Open a pipe *to* or *from* a child for each direction; return this process's ends, non-blocking, and the child's ends."""
    own_ends, child_ends = [], []
    for direction in directions:
        read, write = os.pipe()
        own, child = (write, read) if direction == "to" else (read, write)
        os.set_blocking(own, False)
        own_ends.append(own)
        child_ends.append(fcntl.fcntl(child, fcntl.F_DUPFD_CLOEXEC, _MIN_PARENT_FD))
        os.close(child)
    return own_ends, child_ends


def _try_open(path: str) -> int | None:
    """Open the file for repeated reads; return None if it does not exist."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def _spawn(request: ProcessRequest, outputs: Sequence[int]) -> int:
    argv = list(request.argv)
    if request.folder != "/":
        argv = ["/bin/sh", "-c", _CHANGE_FOLDER, request.folder, *argv]
    return os.posix_spawn(
        argv[0],
        argv,
        request.complete_environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            *((os.POSIX_SPAWN_DUP2, descriptor, number) for number, descriptor in enumerate(outputs, 1)),
        ],
        setsid=True,
        setsigmask=[],
        setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP],
    )

"""
The client of the zygotes: one per set of Python packages and operating system process. `runtimes/python/zygote.py` is the program.

A start costs this process one message; the ids of the new processes arrive later on a socket of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import functools
import os
import secrets
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pdkernel import runtimes
from pdkernel.runtimes import process_tree
from pdkernel.runtimes.seccomp import fetch_descriptor
from pdkernel.workers.child_process import ChildProcess, ProcessRequest, SpawnedProcess
from pdkernel.workers.environment import base_environment
from pdkernel.workers.isolation import Isolation
from pdkernel.workers.warden_client import WARDEN

ZYGOTE_PROGRAM = Path(runtimes.__file__).parent / "python" / "zygote.py"
_START_TIMEOUT_S = 30.0
_END_TIMEOUT_MS = 20  # the event loop waits; the signal is sent anyway
_CREDENTIALS = struct.Struct("3i")
_MESSAGE_BYTES = 4096
_ANCILLARY_BYTES = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(4)
_TAG_BYTES = 32
_MIN_PARENT_FD = 10
_SEND_TRIES = 1000
_IS_SUPPORTED = sys.platform == "linux" and hasattr(os, "pidfd_open")


class ZygoteProcess:
    """
    A process that a zygote started (a `ChildProcess`).

    Attributes:
        exit_code: The exit code of the step's program (negative: a signal), or None.
        has_ended: Whether the step's program has ended.
        start_error: Why the process could not be started, or None.
    """

    def __init__(
        self, zygote: Zygote, process_tag: str, status: socket.socket, attach: Callable[[int], None] | None
    ) -> None:
        self.exit_code: int | None = None
        self.has_ended = False
        self.start_error: str | None = None
        self._zygote = zygote
        self._tag = process_tag
        self._attach = attach
        self._status: socket.socket | None = status
        self._pid: int | None = None
        self._init_pid: int | None = None
        self._pidfd: int | None = None
        self._in_namespaces = False
        self._children: tuple[int, int] | None = None
        self._on_exit: Callable[[], None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
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
        """The process id of an ancestor of all processes of the step, when known."""
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
                self._end(None)
                self._close_status()
                self._zygote.reap()
            else:
                self._on_message(text.decode(), ancillary)
        return self.has_ended

    def watch_exit(self, on_exit: Callable[[], None]) -> None:
        """Call *on_exit* in the running event loop when the step's program has ended."""
        self._on_exit = on_exit
        self._watch()

    def kill(self) -> None:
        """End every process of the step at once, and forget it. Blocks for a few milliseconds."""
        self._on_exit = None
        if self._status is not None:
            with contextlib.suppress(OSError):
                self._status.shutdown(socket.SHUT_RDWR)  # a process that is not started yet ends by itself
            self.poll()
            self._close_status()
        if self._pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            if not self._in_namespaces:
                process_tree.kill_processes([pid for pid in (self._init_pid, self._pid) if pid], [self._tag])
            ended = select.poll()
            ended.register(self._pidfd, select.POLLIN)
            ended.poll(_END_TIMEOUT_MS)
            os.close(self._pidfd)
            self._pidfd = None
        for descriptor in self._children or ():
            os.close(descriptor)
        self._children = None
        self.has_ended = True
        WARDEN.unregister(-id(self))

    async def end_leftovers(self) -> None:
        """End the processes that the program left behind."""
        self.kill()

    @property
    def has_leftovers(self) -> bool:
        """Whether processes that the step's program started may still run after its end."""
        self.poll()
        return self._status is not None

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
        try:
            of_step, of_init = (os.pread(descriptor, 64, 0) for descriptor in self._children)
        except OSError:
            return False
        return bool(of_step) or len(of_init.split()) > 1

    def _on_message(self, text: str, ancillary: Sequence[tuple[int, int, bytes]]) -> None:
        for _, kind, data in ancillary:
            if kind == socket.SCM_RIGHTS:
                self._pidfd = struct.unpack("i", data)[0]
            elif text == "step":
                self._pid = _CREDENTIALS.unpack(data)[0]
            elif text.startswith("init"):
                self._init_pid = _CREDENTIALS.unpack(data)[0]
        word, _, rest = text.partition(" ")
        if word == "init" and rest == "namespaces":
            self._in_namespaces = True
            WARDEN.unregister(-id(self))
            self._zygote.leave_to_system()
        elif word == "listen":
            self._attach_listener(int(rest))
        elif word == "exit":
            self._end(os.waitstatus_to_exitcode(int(rest)))
        elif word == "fail":
            self.start_error = rest
            self._end(None)

    def _attach_listener(self, number: int) -> None:
        assert self._attach is not None
        assert self._pid is not None
        assert self._status is not None
        self._attach(fetch_descriptor(self._pid, number))
        self._attach = None
        self._status.send(b"!")

    def _end(self, exit_code: int | None) -> None:
        if not self.has_ended:
            self.has_ended = True
            self.exit_code = exit_code
            if self._on_exit is not None:
                self._on_exit()

    def _watch(self) -> None:
        if self._loop is None and self._status is not None:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._status, self.poll)

    def _close_status(self) -> None:
        if self._status is not None:
            if self._loop is not None and not self._loop.is_closed():
                self._loop.remove_reader(self._status)
            self._status.close()
            self._status = None


class Zygote:
    """
    The zygote of one interpreter.

    Attributes:
        last_use: The time of the last start, of `time.monotonic`.
    """

    def __init__(self, python: Path) -> None:
        """Start the zygote of *python*. Raises `OSError`."""
        self.last_use = time.monotonic()
        self._isolation: Isolation | None = None
        self._is_left_to_system = False
        self._lock = threading.Lock()
        self._control, created = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with created:  # another number than 3, which `dup2` would leave closed on exec
            theirs = fcntl.fcntl(created, fcntl.F_DUPFD_CLOEXEC, _MIN_PARENT_FD)
        tag = secrets.token_hex(_TAG_BYTES // 2)
        try:
            self._pid: int | None = os.posix_spawn(
                python,
                # an interpreter that is not of an environment serves those without packages
                [str(python), "-I", *([] if _is_environment(python) else ["-S"]), "-X", "utf8", str(ZYGOTE_PROGRAM)],
                base_environment(Path("/"), tag),
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, theirs, 3),
                    *((os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in range(3)),
                ],
                setsid=True,
                setsigmask=[],
                setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP],
            )
        except BaseException:
            self._control.close()
            raise
        finally:
            os.close(theirs)
        WARDEN.register(self._pid, tag)

    @property
    def is_alive(self) -> bool:
        """Whether the zygote runs."""
        self.reap()
        return self._pid is not None

    @property
    def isolation(self) -> Isolation:
        """What its processes can do to themselves on this machine. The first call waits until the zygote has started."""
        with self._lock:
            if self._isolation is None:
                self._control.settimeout(_START_TIMEOUT_S)
                try:
                    self._isolation = Isolation.parse(self._control.recv(_MESSAGE_BYTES))
                except (OSError, ValueError):
                    return Isolation.unavailable("the zygote does not start")
                finally:
                    self._control.settimeout(None)
                if self._isolation.namespaces:
                    self.leave_to_system()
            return self._isolation

    def leave_to_system(self) -> None:
        """Let the system end its processes with it, because they have namespaces: the warden need not watch it."""
        if not self._is_left_to_system and self._pid is not None:
            WARDEN.unregister(self._pid)
        self._is_left_to_system = True

    def start(self, request: ProcessRequest, outputs: Sequence[int]) -> ZygoteProcess:
        """
        Start a process; this does not wait for it.

        Args:
            request: The process.
            outputs: The descriptors for its stdout and stderr, and for the requests and replies of a worker.

        Raises:
            OSError: The zygote has ended, or no more descriptors are available.
        """
        self.last_use = time.monotonic()
        sandbox = request.plan_sandbox()
        status, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            status.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            with theirs, os.fdopen(os.memfd_create("pdkernel"), "wb", buffering=0) as specification:
                specification.write(request.encode_for_zygote(sandbox))
                with self._lock:
                    _send_fds(self._control, [specification.fileno(), theirs.fileno(), *outputs])
        except BaseException:
            status.close()
            raise
        return ZygoteProcess(self, request.process_tag, status, sandbox.attach if sandbox else None)

    def reap(self) -> None:
        """Find out whether the zygote has ended."""
        if self._pid is not None:
            try:
                ended = os.waitpid(self._pid, os.WNOHANG)[0]
            except ChildProcessError:  # other code in this process reaps every child
                ended = self._pid
            if ended:
                WARDEN.unregister(self._pid)
                self._pid = None

    def close(self) -> None:
        """End the zygote and all its processes."""
        self._control.close()
        if self._pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._pid, 0)
            WARDEN.unregister(self._pid)
            self._pid = None

    def forget(self) -> None:
        """Close the descriptor in a fork of this process, whose parent owns the zygote."""
        self._control.close()
        self._pid = None


class Zygotes:
    """
    The zygotes of this operating system process; each is started at its first use.

    Environments without packages share one, which also starts the programs that are not Python workers.
    """

    def __init__(self) -> None:
        self._zygotes: dict[Path, Zygote] = {}
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._reset_after_fork)

    def get(self, python: Path | None = None) -> Zygote | None:
        """
        Return the zygote of *python* (by default: one for programs that are not Python workers), or None where this system
        has none.

        Raises:
            OSError: *python* cannot be started.
        """
        if not _IS_SUPPORTED:
            return None
        python = Path(os.path.realpath(sys.executable)) if python is None else _find_start(python)
        with self._lock:
            zygote = self._zygotes.get(python)
            if zygote is not None and not zygote.is_alive:
                zygote.close()
                zygote = None
            if zygote is None:
                zygote = self._zygotes[python] = Zygote(python)
            return zygote

    def _reset_after_fork(self) -> None:
        for zygote in self._zygotes.values():
            zygote.forget()
        self._zygotes = {}
        self._lock = threading.Lock()

    def isolation(self) -> Isolation:
        """Return what the processes of steps can do to themselves on this machine; starts a zygote to find out."""
        try:
            zygote = self.get()
        except OSError as error:
            return Isolation.unavailable(f"{sys.executable} cannot be started: {error.strerror}")
        return zygote.isolation if zygote else Isolation.unavailable(f"{sys.platform} has no such protection")


@functools.lru_cache(maxsize=1000)
def _find_start(python: Path) -> Path:
    """Return *python*, or the interpreter of which *python* is an environment without packages. Results are cached."""
    if not _is_environment(python):
        return python
    packages = python.parent.parent.glob("lib/python*/site-packages/*")
    return Path(os.path.realpath(python)) if next(packages, None) is None else python


def _is_environment(python: Path) -> bool:
    return (python.parent.parent / "pyvenv.cfg").exists()


def _send_fds(control: socket.socket, descriptors: Sequence[int]) -> None:
    for _ in range(_SEND_TRIES):
        try:
            socket.send_fds(control, [b"s"], descriptors)
        except OSError as error:
            if error.errno != errno.ETOOMANYREFS:  # the zygote has not received the descriptors of earlier starts yet
                raise
            time.sleep(0.001)
        else:
            return
    raise OSError(errno.ETOOMANYREFS, os.strerror(errno.ETOOMANYREFS))


def start_process(request: ProcessRequest, outputs: Sequence[int], zygote: Zygote | None) -> ChildProcess:
    """
    Start *request* with the descriptors *outputs*: stdout, stderr and, for a worker, requests and replies.

    Raises:
        OSError: The program cannot be started.
    """
    if zygote is None:
        return SpawnedProcess(request, outputs)
    if not os.access(request.argv[0], os.X_OK):
        Path(request.argv[0]).stat()  # raises the reason if the file does not exist
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return zygote.start(request, outputs)


ZYGOTES = Zygotes()
"""The zygotes of this operating system process."""

"""
The zygotes, which start processes of steps: one per interpreter and operating system process. `runtimes/python/zygote.py` is the program.

A zygote has the rights of this process, so it never runs code of a package: it has an interpreter without an environment.

A start costs this process one message; the ids of the new processes arrive later on a socket of their own, and a `ZygoteProcess` is
such a process as this process sees it.
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
from pdkernel.workers.child_process import ChildProcess, ProcessRequest, SpawnedProcess, base_environment
from pdkernel.workers.isolation import Isolation
from pdkernel.workers.warden_client import WARDEN

_END_TIMEOUT_MS = 20  # the event loop waits; the signal is sent anyway
_END_TIMEOUT_S = 10.0  # without a wait of the event loop
_CREDENTIALS = struct.Struct("3i")
_REPORT_BYTES = 4096
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
                    _REPORT_BYTES, _ANCILLARY_BYTES, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
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
        Return whether processes that the step's program started still run, daemons included.

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


READ_BY_ZYGOTES = frozenset({"OPENSSL_CONF", "OPENSSL_MODULES", "OPENSSL_ENGINES"})
"""The environment variables that the modules of a zygote have read: they were not set."""

ZYGOTE_PROGRAM = Path(runtimes.__file__).parent / "python" / "zygote.py"
_START_TIMEOUT_S = 30.0
_MESSAGE_BYTES = 1 << 16
_TAG_BYTES = 32
_MIN_PARENT_FD = 10
_SEND_TRIES = 1000
_IS_SUPPORTED = sys.platform == "linux" and hasattr(os, "pidfd_open")


class Zygote:
    """
    The zygote of one interpreter.

    Attributes:
        has_lost_start: Whether a request had no effect: the zygote is about to end.
    """

    def __init__(self, python: Path) -> None:
        """Start the zygote of *python*, the program itself. Raises `OSError`."""
        self.has_lost_start = False
        self._processes = 0
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
                [str(python), "-I", "-S", "-X", "utf8", str(ZYGOTE_PROGRAM)],
                base_environment("/", tag),
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
            if self._isolation is None and select.select([self._control], [], [], _START_TIMEOUT_S)[0]:
                with contextlib.suppress(OSError, ValueError):  # the zygote has ended
                    self._isolation = Isolation.parse(self._control.recv(_MESSAGE_BYTES))
                    if self._isolation.namespaces:
                        self.leave_to_system()
            return self._isolation or Isolation.unavailable("the zygote does not start")

    @property
    def is_unused(self) -> bool:
        """Whether none of its processes is left."""
        return self._processes == 0

    def _on_process_closed(self) -> None:
        self._processes -= 1
        self.reap()

    def _on_start_lost(self) -> None:
        self.has_lost_start = True

    def leave_to_system(self) -> None:
        """Let the system end its processes with it, because they have namespaces: the warden need not watch it."""
        if not self._is_left_to_system and self._pid is not None:
            WARDEN.unregister(self._pid)
        self._is_left_to_system = True

    def start(self, request: ProcessRequest, outputs: Sequence[int]) -> ZygoteProcess:
        """
        Start a process; this does not wait for it. If the zygote has just ended, so has the process.

        Args:
            request: The process.
            outputs: The descriptors for its stdout and stderr, and for the requests and replies of a worker.

        Raises:
            OSError: The zygote was closed, or no more descriptors are available.
        """
        sandbox = request.plan_sandbox()
        status, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            status.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            with theirs, os.fdopen(os.memfd_create("pdkernel"), "wb", buffering=0) as specification:
                public, private = request.encode_for_zygote(sandbox)
                specification.write(public + private)
                with self._lock, contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    _send_fds(self._control, b"%d" % len(public), [specification.fileno(), theirs.fileno(), *outputs])
        except BaseException:
            status.close()
            raise
        self._processes += 1
        return ZygoteProcess(
            status,
            request.process_tag,
            attach=sandbox.attach if sandbox else None,
            is_left_to_system=self._is_left_to_system,
            on_namespaces=self.leave_to_system,
            on_lost=self._on_start_lost,
            on_closed=self._on_process_closed,
        )

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
    """The zygotes of this operating system process: one per interpreter, without regard to environments, started at its first use."""

    def __init__(self) -> None:
        self._zygotes: dict[Path, Zygote] = {}
        self._replaced: list[Zygote] = []
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._reset_after_fork)

    def get(self, python: Path | None = None) -> Zygote | None:
        """
        Return the zygote for workers of *python*, or None where this system has none. By default: one for other programs.

        Raises:
            OSError: *python* cannot be started.
        """
        if not _IS_SUPPORTED:
            return None
        python = _resolve(Path(sys.executable) if python is None else python)
        with self._lock:
            for replaced in [each for each in self._replaced if each.is_unused]:
                self._replaced.remove(replaced)
                replaced.close()
            zygote = self._zygotes.get(python)
            if zygote is not None and not zygote.is_alive:
                zygote.close()
                zygote = None
            elif zygote is not None and zygote.has_lost_start:
                self._replaced.append(zygote)
                zygote = None
            if zygote is None:
                self._zygotes.pop(python, None)
                zygote = self._zygotes[python] = Zygote(python)
            return zygote

    def close(self) -> None:
        """End all zygotes and their processes."""
        with self._lock:
            for zygote in (*self._zygotes.values(), *self._replaced):
                zygote.close()
            self._zygotes, self._replaced = {}, []

    def _reset_after_fork(self) -> None:
        for zygote in (*self._zygotes.values(), *self._replaced):
            zygote.forget()
        self._zygotes, self._replaced = {}, []
        self._lock = threading.Lock()

    def isolation(self) -> Isolation:
        """Return what the processes of steps can do to themselves on this machine; starts a zygote to find out."""
        try:
            zygote = self.get()
        except OSError as error:
            return Isolation.unavailable(f"{sys.executable} cannot be started: {error.strerror}")
        return zygote.isolation if zygote else Isolation.unavailable(f"{sys.platform} has no such protection")


@functools.lru_cache(maxsize=1000)
def _resolve(python: Path) -> Path:
    """Return *python* without links: the interpreter itself, not that of an environment. Results are cached."""
    return Path(os.path.realpath(python))


def _send_fds(control: socket.socket, message: bytes, descriptors: Sequence[int]) -> None:
    for _ in range(_SEND_TRIES):
        try:
            socket.send_fds(control, [message], descriptors)
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

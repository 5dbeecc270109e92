"""
The client of the zygotes: one per interpreter and operating system process. `runtimes/python/zygote.py` is the program.

A zygote has the rights of this process, so it never runs code of a package: it has an interpreter without an environment.

A start costs this process one message; the ids of the new processes arrive later on a socket of their own.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import secrets
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from pdkernel import runtimes
from pdkernel.workers.child_process import ChildProcess, ProcessRequest, SpawnedProcess
from pdkernel.workers.environment import base_environment
from pdkernel.workers.isolation import Isolation
from pdkernel.workers.warden_client import WARDEN
from pdkernel.workers.zygote_process import ZygoteProcess

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

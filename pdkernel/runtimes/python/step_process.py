"""
Processes of steps: how their parent starts them and reports their end, and what they do to themselves before that.

`zygote` describes the processes and their messages.
"""

from __future__ import annotations

import _socket
import array
import contextlib
import ctypes
import errno
import fcntl
import gc
import importlib
import json
import os
import select
import signal
import struct
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from pdkernel.runtimes import isolation, seccomp
else:
    isolation = importlib.import_module("_pdkernel_runtime.isolation")
    seccomp = importlib.import_module("_pdkernel_runtime.seccomp")

_EXIT_OF_FAILURE = 127

_NAMESPACES = ("pid_for_children", "mnt", "ipc")
_TAG_VARIABLE = b"PDKERNEL_STEP_PROCESS="
_FREE_FD = 20  # above the descriptors of a step while they are put into place
_ANCILLARY_BYTES = _socket.CMSG_SPACE(16 * array.array("i").itemsize)
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 1, 4, 36
_EXEC_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ)  # Python ignores them

_libc = ctypes.CDLL(None, use_errno=True)
_raw_fork = ctypes.PyDLL(None, use_errno=True).fork


class StepParent:
    """A process that starts steps: the launcher or the template."""

    def __init__(
        self,
        link: _socket.socket,
        fork: Callable[[], int],
        *,
        in_namespaces: bool,
        run_worker: Callable[[str, dict[str, str]], None] | None = None,
    ) -> None:
        """
        Create the state.

        Args:
            link: The socket of the starter.
            fork: Forks this process. Raises `OSError`.
            in_namespaces: Steps have namespaces of their own.
            run_worker: Is called with the interpreter and the environment instead of executing the step's program.
        """
        self._link = link
        self._fork = fork
        self._run_worker = run_worker
        self._self = os.pidfd_open(os.getpid())
        self._own_namespace = open_namespaces()[0] if in_namespaces else None
        self._steps: dict[int, tuple[int, int]] = {}  # the process and the status socket, by descriptor of the process
        self._poll = select.epoll()
        self._poll.register(link, select.EPOLLIN)
        seccomp.restrict_system_calls()  # for all forks, because the system compiles a filter for each process that installs it
        if not in_namespaces:
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system reaps init

    def serve(self) -> NoReturn:
        """Start steps until the starter ends."""
        gc.collect()
        gc.freeze()
        gc.disable()
        while True:
            self.handle_events(-1)

    def handle_events(self, timeout_s: float) -> bool:
        """Handle what has happened within *timeout_s*; return whether something has."""
        events = self._poll.poll(timeout_s)
        for descriptor, _ in events:
            if descriptor == self._link.fileno():
                self._receive()
            else:
                self._report_end(descriptor)
        return bool(events)

    def _receive(self) -> None:
        message, descriptors = receive(self._link)
        if not message:
            os._exit(0)
        size, count = map(int, message.split())
        given, made = descriptors[:count], descriptors[count:]
        try:
            pid = self._fork_into(made[0]) if made else self._fork()
            if pid == 0:
                self._run_child(size, given, made)
            if made:
                step = os.pidfd_open(pid)
                self._steps[step] = pid, os.dup(given[1])
                self._poll.register(step, select.EPOLLIN)
        except OSError as error:
            if not self._has_starter_ended():  # with it, the namespaces would have ended
                report_failure(given[1], error)
        for each in descriptors:
            os.close(each)

    def _has_starter_ended(self) -> bool:
        try:
            return not self._link.recv(1, _socket.MSG_PEEK | _socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False

    def _fork_into(self, namespace: int) -> int:
        assert self._own_namespace is not None
        enter_namespace(namespace)
        pid = -1
        try:
            pid = self._fork()
        finally:
            if pid != 0:
                enter_namespace(self._own_namespace)
        return pid

    def _run_child(self, size: int, given: list[int], made: list[int]) -> NoReturn:
        status = given[1]
        try:
            specification = os.pread(given[0], os.fstat(given[0]).st_size, 0)
            public, private = json.loads(specification[:size]), json.loads(specification[size:])
            _set_tag(public["tag"])
            rules = None
            if made:
                for each in made[1:3]:
                    enter_namespace(each)
                rules = made[3] if len(made) > 3 else None
                isolation.mount_proc(public["plan"], rules)
            else:
                self._become_init(status)
            _run_step(public["plan"], private, given, rules, run_worker=self._run_worker, dies_with_parent=not made)
        except BaseException as error:
            report_failure(status, error)
        finally:
            os._exit(_EXIT_OF_FAILURE)

    def _become_init(self, status: int) -> None:
        """Be init without namespaces, and return in a child."""
        die_with_parent(self._self)
        os.setsid()
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        report_init(status, [os.pidfd_open(os.getpid())], b"init", os.getpid())
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        step = self._fork()
        if step:
            _reap(step, status)

    def _report_end(self, step: int) -> None:
        """Report how a step ended, which *step* is a descriptor of."""
        pid, status = self._steps.pop(step)
        # closing does not suffice: a child that was just forked may still have the descriptor
        self._poll.unregister(step)
        os.close(step)
        with contextlib.suppress(OSError):  # no other process of the group is left
            os.killpg(pid, signal.SIGKILL)
        _, result, usage = os.wait4(pid, 0)
        with contextlib.suppress(OSError):  # pdkernel has closed the socket
            os.write(status, b"exit %d %d" % (result, usage.ru_maxrss))
        os.close(status)


def receive(control: _socket.socket) -> tuple[bytes, list[int]]:
    """Receive a message with its descriptors; an empty message if the sender has closed the socket."""
    message, ancillary, _, _ = control.recvmsg(16, _ANCILLARY_BYTES, _socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for _, _, data in ancillary:
        descriptors.frombytes(data)
    return message, descriptors.tolist()


def hand_over(link: _socket.socket, size: int, given: list[int], made: list[int]) -> None:
    """
    Let a parent of steps start the step of a message. Raises `OSError`.

    Args:
        link: The socket of the parent.
        size: The bytes of the specification's first part.
        given: The descriptors of the message.
        made: Descriptors of the step's namespaces (`open_namespaces`), and of its Landlock rules if there are some.
    """
    ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", given + made))]
    while True:
        try:
            link.sendmsg([b"%d %d" % (size, len(given))], ancillary)
        except BrokenPipeError:
            os._exit(0)  # the parent has ended, and its steps with it
        except OSError as error:
            if error.errno != errno.ETOOMANYREFS:  # the parent has not received the descriptors of earlier starts yet
                raise
            time.sleep(0.001)
        else:
            return


def open_namespaces() -> list[int]:
    """Open the namespaces of this process that a start makes."""
    return [os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in _NAMESPACES]


def enter_namespace(descriptor: int) -> None:
    """Move this process (or its future children, for a process namespace) to a namespace. Raises `OSError`."""
    _check(_libc.setns(descriptor, 0))


def die_with_parent(parent: int) -> None:
    """Let the system end this process when its parent ends; *parent* is a descriptor of that process."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if select.select([parent], [], [], 0)[0]:
        os._exit(0)  # it has ended before


def forbid_tracing() -> None:
    """Let no process of this user read the memory of this process. Raises `OSError`."""
    _prctl(_PR_SET_DUMPABLE, 0)


def open_system_v() -> list[int]:
    """Open the lists of the System V objects of this process's namespace: shared memory, message queues and semaphores."""
    try:
        return [os.open(f"/proc/sysvipc/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in ("shm", "msg", "sem")]
    except OSError:  # a kernel without them
        return []


def report_init(status: int, descriptors: list[int], message: bytes, pid: int) -> None:
    """
    Send *message* and *descriptors*, of which the first is of the process *pid*.

    Raises:
        OSError: pdkernel has closed the socket.
    """
    sender = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, status)
    try:
        sender.sendmsg(
            [message],
            [
                (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", descriptors)),
                (_socket.SOL_SOCKET, _socket.SCM_CREDENTIALS, struct.pack("3i", pid, os.getuid(), os.getgid())),
            ],
        )
    finally:
        sender.detach()


def fork() -> int:
    """
    Fork as C does it, without the functions that modules have registered with `os.fork`. Raises `OSError`.

    Those of the standard library are for locks that other threads hold, and this process has one thread. A child that runs
    code of a step does the rest itself (`template`).
    """
    pid = int(_raw_fork())
    if pid < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return pid


def _reap(step: int, status: int) -> NoReturn:
    """Reap all children; report the exit of *step*, and end when no process is left."""
    forbid_tracing()
    os.dup2(status, 0)
    os.closerange(1, _max_descriptor())
    while True:
        try:
            pid, result, usage = os.wait3(0)
        except ChildProcessError:
            os._exit(0)
        if pid == step:
            with contextlib.suppress(OSError):  # pdkernel has closed the socket
                os.write(0, b"exit %d %d" % (result, usage.ru_maxrss))
            with contextlib.suppress(OSError):  # no process of the group is left
                os.killpg(step, signal.SIGKILL)


def _run_step(
    plan: dict[str, Any],
    private: dict[str, Any],
    given: list[int],
    rules: int | None,
    *,
    run_worker: Callable[[str, dict[str, str]], None] | None,
    dies_with_parent: bool,
) -> NoReturn:
    """Be the process of a step: *private* is the second part of the specification, *given* the descriptors of the message."""
    status = given[1]
    try:
        os.setsid()
        if dies_with_parent:
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.write(status, b"step")
        status, *kept = _place([status] if rules is None else [status, rules], given[2:])
        os.chdir(private["cwd"])
        isolation.restrict(plan, *kept)
        if private["sandbox"]:
            _apply_sandbox(private["sandbox"], status)
        program, *_ = arguments = private["argv"]
        if run_worker is None:
            for number in _EXEC_SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            os.execve(program, arguments, private["env"])  # noqa: S606 - the step's program
        os.close(status)
        run_worker(program, private["env"])
    except BaseException as error:
        report_failure(status, error)
    finally:
        os._exit(_EXIT_OF_FAILURE)


def report_failure(status: int, error: BaseException) -> None:
    """Report that the process of a step cannot be started, because of *error*."""
    with contextlib.suppress(OSError):
        os.write(status, f"fail {type(error).__name__}: {error}".encode()[:1000])


def _set_tag(tag: str) -> None:
    """Show *tag* in /proc/PID/environ of this process, where `process_tree` finds it."""
    ctypes.memmove(_TAG_ADDRESS, tag.encode(), len(tag))


def _apply_sandbox(sandbox: dict[str, Any], status: int) -> None:
    program = bytes.fromhex(sandbox["filter"])
    if sandbox["port"] is not None:
        isolation.restrict_connect_to_port(sandbox["port"])
    if not sandbox["listen"]:
        seccomp.install_filter(program)
        return
    listener = seccomp.install_notify_filter(program)
    os.write(status, b"listen %d" % listener)  # `sendmsg` is filtered
    if not os.read(status, 1):
        os._exit(_EXIT_OF_FAILURE)
    os.close(listener)


def _place(kept: list[int], outputs: list[int]) -> list[int]:
    """Make *outputs*, stdout and stderr first, descriptors 1 and following; close others. Returns the new numbers of *kept*."""
    last = _FREE_FD + len(kept) - 1
    moved = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, last + 1) for each in (*kept, *outputs)]
    numbers = range(_FREE_FD, last + 1)
    for number, each in zip(numbers, moved, strict=False):
        os.dup2(each, number, inheritable=False)
    for number, each in enumerate(moved[len(kept) :], 1):
        os.dup2(each, number)
    os.closerange(len(outputs) + 1, _FREE_FD)
    os.closerange(last + 1, _max_descriptor())
    return list(numbers)


def _find_tag() -> int:
    """Return the address of the tag's value in this process's initial environment, which /proc/PID/environ shows."""
    entries = ctypes.POINTER(ctypes.c_void_p).in_dll(_libc, "environ")
    number = 0
    while address := entries[number]:
        if ctypes.string_at(address).startswith(_TAG_VARIABLE):
            return int(address) + len(_TAG_VARIABLE)
        number += 1
    raise KeyError(_TAG_VARIABLE)


def _max_descriptor() -> int:
    return os.sysconf("SC_OPEN_MAX")


def _prctl(option: int, value: int) -> None:
    _check(_libc.prctl(ctypes.c_int(option), *map(ctypes.c_ulong, (value, 0, 0, 0))))


def _check(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


_TAG_ADDRESS = _find_tag()

"""
The zygote: starts the processes of steps by `fork`, each in process and mount namespaces of its own.

It runs as `python -I -X utf8 zygote.py [MODULE...]`, with `-S` for environments without packages. It has one thread, and a Unix
socket of pdkernel as descriptor 3. When it is ready, it has imported these modules (`preload`), and sends what this system permits,
as JSON: `{"namespaces": null or why not, "landlock": VERSION, "user_ids": the first or null, "read": [environment variables that
imported modules have read]}`. Each message to it starts one process. It carries descriptors: the specification, the status socket,
stdout, stderr and, for a worker, requests and replies.

A start makes two processes:

- *init*, the first process of the namespaces. It reaps processes that lost their parent, and reports how the step's process
  ended. When init is killed, the system ends all processes of the namespace. It is killed when the zygote ends, and the zygote
  ends when pdkernel does.
- *step*, which runs user code: a Python worker, without an `exec`, or the program of `argv`.

The specification is JSON in a file in memory, because it may hold secrets: only init and step read it, never the zygote. It is
`{"argv": [...] or null, "python": PATH or null, "env", "cwd", "tag", "plan" (see `isolation`), "sandbox": null or {"filter": HEX, "listen": BOOL,
"port": INT or null}}`.

Messages on the status socket: `init` or `init namespaces` with a descriptor of the process, `step`, `listen N` (the number of the filter's listener;
the step waits for an answer), `exit STATUS` and `fail TEXT`. Sender ids come from the system, which translates them.
"""

from __future__ import annotations

import _socket
import array
import contextlib
import ctypes
import fcntl
import gc
import importlib
import importlib.util
import json
import os
import select
import signal
import site
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

_CONTROL = 3
_HERE = Path(__file__).resolve().parent
_TAG_VARIABLE = b"PDKERNEL_STEP_PROCESS="
_FREE_FD = 20  # above the descriptors of a step while they are put into place
_ANCILLARY_BYTES = _socket.CMSG_SPACE(6 * array.array("i").itemsize)
_CLONE_NEWPID = 0x20000000
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 1, 4, 36
_EXIT_OF_FAILURE = 127
_EXEC_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ)  # Python ignores them

_libc = ctypes.CDLL(None, use_errno=True)


class Zygote:
    """The state of the zygote."""

    def __init__(self, runtime: ModuleType) -> None:
        self._runtime = runtime
        self._isolation = runtime.import_helper("isolation")
        self._seccomp = runtime.import_helper("seccomp")
        self._refusal: str | None = None
        if os.geteuid() != 0:
            try:
                self._enter_user_namespace()
            except OSError as error:
                self._refusal = error.strerror
        self._control = _socket.socket(fileno=_CONTROL)
        os.set_inheritable(_CONTROL, False)
        self._pid = os.getpid()
        self._self = os.pidfd_open(self._pid)
        self._own_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._tag_address = _find_tag()
        self._in_namespaces = False
        self._reseed: Callable[[], None]

    def serve(self, names: list[str]) -> NoReturn:
        """Import the modules *names* if their import is harmless, and start processes until pdkernel closes its socket."""
        user_ids = self._isolation.find_user_ids()
        refusal = self._try_namespaces()
        self._in_namespaces = refusal is None
        preload = self._runtime.import_helper("preload")
        self._reseed = preload.reseed
        if names:
            preload.import_common_modules()
        found = {
            "namespaces": refusal,
            "landlock": self._isolation.landlock_version(),
            "user_ids": user_ids,
            "read": preload.import_ahead(names),
        }
        self._control.send(json.dumps(found).encode())
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system reaps
        gc.collect()
        gc.freeze()
        gc.disable()
        for name in preload.COMMON_MODULES:
            while select.select([self._control], [], [], 0)[0]:
                self._receive()
            importlib.import_module(name)
            gc.freeze()
        while True:
            self._receive()

    def _receive(self) -> None:
        """Start the process of the next message; end if pdkernel has closed its socket."""
        message, ancillary, _, _ = self._control.recvmsg(16, _ANCILLARY_BYTES, _socket.MSG_CMSG_CLOEXEC)
        if not message:
            os._exit(0)
        descriptors = array.array("i")
        for _, _, data in ancillary:
            descriptors.frombytes(data)
        self._start(descriptors.tolist())
        for descriptor in descriptors:
            os.close(descriptor)

    def _enter_user_namespace(self) -> None:
        """
        Continue in a child with a user namespace, in which it has all rights, and a process namespace of it.

        Without the latter, it could not return to its process namespace, which each start leaves. Raises `OSError`.
        """
        self._isolation.enter_user_namespace(_CLONE_NEWPID)
        parent = os.pidfd_open(os.getpid())
        child = os.fork()
        if child:
            os.close(_CONTROL)
            os.waitpid(child, 0)
            os._exit(0)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if select.select([parent], [], [], 0)[0]:
            os._exit(0)
        os.close(parent)

    def _try_namespaces(self) -> str | None:
        """Try out process and mount namespaces; returns why they are not permitted."""
        if self._refusal is not None:
            return self._refusal
        try:
            pid = self._fork(in_namespaces=True)
        except OSError as error:
            return error.strerror
        if pid == 0:
            number = 0
            try:
                self._isolation.enter_namespaces({"mounts": []})
            except OSError as error:
                number = error.errno or 1
            os._exit(number)
        status = os.waitpid(pid, 0)[1]
        return os.strerror(os.waitstatus_to_exitcode(status)) if status else None

    def _fork(self, *, in_namespaces: bool) -> int:
        """Fork; the child is the first process of a new process namespace if *in_namespaces*."""
        if not in_namespaces:
            return os.fork()
        _check(_libc.unshare(_CLONE_NEWPID))
        pid = -1
        try:
            pid = os.fork()
        finally:
            if pid != 0:
                _check(_libc.setns(self._own_namespace, _CLONE_NEWPID))
        return pid

    def _start(self, descriptors: list[int]) -> None:
        try:
            pid = self._fork(in_namespaces=self._in_namespaces)
        except OSError as error:
            _report_failure(descriptors[1], error)
            return
        if pid == 0:
            try:
                self._run_init(descriptors)
            except BaseException as error:
                _report_failure(descriptors[1], error)
            finally:
                os._exit(_EXIT_OF_FAILURE)

    def _run_init(self, descriptors: list[int]) -> None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if select.select([self._self], [], [], 0)[0]:
            return  # the zygote ended before
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        specification = json.loads(os.pread(descriptors[0], os.fstat(descriptors[0]).st_size, 0))
        ctypes.memmove(self._tag_address, specification["tag"].encode(), len(specification["tag"]))
        if self._in_namespaces:
            id_outside = int(os.readlink("/proc/self"))  # noqa: PTH115 - pathlib is slower; /proc is still that of the zygote
            self._isolation.enter_namespaces(specification["plan"])
            self._choose_next_id(id_outside + 1)
        else:
            _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        own = array.array("i", [os.pidfd_open(os.getpid())])
        status = _socket.socket(fileno=descriptors[1])
        status.sendmsg(
            [b"init namespaces" if self._in_namespaces else b"init"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, own)]
        )
        status.detach()
        self._control.detach()
        step = os.fork()
        if step == 0:
            self._run_step(specification, descriptors[1], descriptors[2:])
        _prctl(_PR_SET_DUMPABLE, 0)
        os.dup2(descriptors[1], 0)
        os.closerange(1, _max_descriptor())
        _reap(step)

    def _choose_next_id(self, wanted: int) -> None:
        """
        Let the next process of this namespace have the id *wanted*, so that the steps of a machine have different ids.

        Code uses ids to name files and to own locks, and libraries notice a fork by an id that is not the zygote's.
        """
        with contextlib.suppress(OSError):  # without its own /proc, or not permitted
            last = os.open("/proc/sys/kernel/ns_last_pid", os.O_WRONLY | os.O_CLOEXEC)
            os.write(last, b"%d" % (wanted if wanted == self._pid else wanted - 1))
            os.close(last)
            return
        if self._pid == os.getpid() + 1:
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)

    def _run_step(self, specification: dict[str, Any], status: int, outputs: list[int]) -> NoReturn:
        try:
            os.setsid()
            if not self._in_namespaces:
                _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            os.write(status, b"step")
            status = _place(status, outputs)
            os.chdir(specification["cwd"])
            os.environ.clear()
            os.environ.update(specification["env"])
            self._isolation.restrict(specification["plan"])
            if specification["sandbox"]:
                self._apply_sandbox(specification["sandbox"], status)
            if specification["argv"]:
                for number in _EXEC_SIGNALS:
                    signal.signal(number, signal.SIG_DFL)
                os.execve(specification["argv"][0], specification["argv"], specification["env"])  # noqa: S606 - the step's program
            os.close(status)
            _become(specification["python"])
            gc.enable()
            self._reseed()
            self._runtime.run_forked()
        except BaseException as error:
            _report_failure(status, error)
        finally:
            os._exit(_EXIT_OF_FAILURE)

    def _apply_sandbox(self, sandbox: dict[str, Any], status: int) -> None:
        program = bytes.fromhex(sandbox["filter"])
        if sandbox["port"] is not None:
            self._isolation.restrict_connect_to_port(sandbox["port"])
        if not sandbox["listen"]:
            self._seccomp.install_filter(program)
            return
        listener = self._seccomp.install_notify_filter(program)
        os.write(status, b"listen %d" % listener)  # `sendmsg` is filtered
        if not os.read(status, 1):
            os._exit(_EXIT_OF_FAILURE)
        os.close(listener)


def _become(python: str) -> None:
    """Set the interpreter of a worker: *python* may be an environment without packages of this interpreter."""
    if python != sys.executable:
        sys.executable = python
        sys.prefix = sys.exec_prefix = os.path.dirname(os.path.dirname(python))  # noqa: PTH120 - pathlib is slower


def _reap(step: int) -> NoReturn:
    """Reap all children; report the exit of *step*, and end when no process is left."""
    while True:
        try:
            pid, status = os.wait()
        except ChildProcessError:
            os._exit(0)
        if pid == step:
            try:
                os.write(0, b"exit %d" % status)
                os.killpg(step, signal.SIGKILL)
            except OSError:  # pdkernel has closed the socket, or no process of the group is left
                continue


def _place(status: int, outputs: list[int]) -> int:
    """Make stdout, stderr and, for a worker, requests and replies descriptors 1, 2, 3 and 4; close all others but *status*."""
    moved = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, _FREE_FD + 1) for each in outputs]
    os.dup2(status, _FREE_FD, inheritable=False)
    for number, each in enumerate(moved, 1):
        os.dup2(each, number)
    os.closerange(len(moved) + 1, _FREE_FD)
    os.closerange(_FREE_FD + 1, _max_descriptor())
    return _FREE_FD


def _report_failure(status: int, error: BaseException) -> None:
    try:
        os.write(status, f"fail {type(error).__name__}: {error}".encode()[:1000])
    except OSError:
        return


def _find_tag() -> int:
    """
    Return the address of the tag's value in this process's initial environment, which /proc/PID/environ shows.

    A forked process writes its own tag there, so that `process_tree` finds it.
    """
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


def _load_runtime() -> ModuleType:
    """Import the program of a Python worker, without its `main`."""
    spec = importlib.util.spec_from_file_location("_pdkernel_runtime_main", _HERE / "main.py")
    assert spec is not None
    assert spec.loader is not None
    runtime = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(runtime)
    runtime.load_helpers()
    runtime.import_helper("egress_hook").refuse_connections()
    return runtime


if __name__ == "__main__":
    if sys.flags.no_site:  # the names that `site` adds, without the packages of this interpreter
        site.setquit()
        site.setcopyright()
        site.sethelper()
    Zygote(_load_runtime()).serve(sys.argv[1:])

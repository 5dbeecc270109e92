"""
The zygote: starts the processes of steps, each in process and mount namespaces of its own.

It runs as `python -I -S -X utf8 zygote.py` with a Unix socket of pdkernel as descriptor 3: without packages, `.pth` files and
`sitecustomize`, because its processes have the rights of the server. It is three processes, each with one thread:

- the *starter* receives the messages and makes namespaces. It is the first process of a process namespace, so that the system ends
  all others when it ends.
- the *template* is its child, which has imported modules of the standard library, and forks Python workers into the namespaces. When
  it is ready, it sends what this system permits to pdkernel, as JSON: `{"namespaces": null or why not, "landlock": VERSION,
  "user_ids": the first or null}`.
- the *launcher*, which pdkernel has started, is the parent of the starter. It has imported little, so that its forks cost little, and
  starts programs in the namespaces.

Each message starts one process. It carries descriptors: the specification, the status socket, stdout, stderr and, for a worker,
requests and replies. A start makes two processes:

- *init*, the first process of the namespaces, waits for its end. Processes that lose their parent become its children. When pdkernel
  ends it, the system ends all processes of the namespaces.
- *step*, which runs user code, is a child of the template or the launcher, which reports how it ended.

Without namespaces, init is a child of the template or the launcher, too, and the step a child of init, which reaps and reports.

The specification is a file in memory with two JSON texts. The message is the length of the first in bytes, which the starter reads:
`{"tag", "forked": BOOL, "plan" (see `isolation`)}`. The second may hold secrets, so only the step reads it: `{"argv": [...], "env",
"cwd", "sandbox": null or {"filter": HEX, "listen": BOOL, "port": INT or null}}`. Of a worker that is forked, the first of `argv` is
the interpreter.

Messages on the status socket: `init` or `init namespaces` with a descriptor of the process (and of the lists of System V objects in
its namespace), `step`, `listen N` (the number of the filter's
listener; the step waits for an answer), `exit STATUS KILOBYTES` (its highest resident memory) and `fail TEXT`. Sender ids come from the system, which translates them.
"""

from __future__ import annotations

import _socket
import ctypes
import errno
import gc
import importlib
import json
import mmap
import os
import select
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

gc.disable()  # until a worker runs: what its processes import lives as long as they do
_HERE = Path(__file__).resolve().parent

if TYPE_CHECKING:
    from pdkernel.runtimes import isolation
    from pdkernel.runtimes.python import step_process
else:  # a package whose name no step uses, with the modules of both folders
    _package = ModuleType("_pdkernel_runtime")
    _package.__path__ = [str(_HERE), str(_HERE.parent)]
    sys.modules[_package.__name__] = _package
    isolation = importlib.import_module("_pdkernel_runtime.isolation")
    step_process = importlib.import_module("_pdkernel_runtime.step_process")

_CONTROL = 3
_CLONE_VM, _CLONE_FILES, _CLONE_VFORK, _CLONE_NEWPID = 0x100, 0x400, 0x4000, 0x20000000
_STACK_BYTES = 1 << 16
_MAX_BASES = 8
_NO_MOUNTS: dict[str, Any] = {"mounts": [], "landlock": False}
_SECOND_ID = 3  # of a process namespace, after init and the process that chooses the next id

# The calls keep the lock of the interpreter, whose state a process with the same memory shares.
_libc = ctypes.PyDLL(None, use_errno=True)
_libc.fopen.restype = ctypes.c_void_p


class Starter:
    """The state of the starter."""

    def __init__(
        self, launcher: _socket.socket, template: _socket.socket, template_id: int, namespaces: Namespaces | None
    ) -> None:
        self._control = _socket.socket(fileno=_CONTROL)
        self._launcher = launcher
        self._template = template
        self._template_id = template_id
        self._namespaces = namespaces

    def serve(self) -> NoReturn:
        """Hand over starts until pdkernel closes its socket, or the template or the launcher ends."""
        gc.collect()
        gc.freeze()
        gc.disable()
        poll = select.poll()
        for each in (self._control, self._launcher, self._template):
            poll.register(each, select.POLLIN)
        while True:
            if any(descriptor != _CONTROL for descriptor, _ in poll.poll()):
                os._exit(0)  # the others send nothing, so one of them has ended
            message, descriptors = step_process.receive(self._control)
            if not message:
                os._exit(0)
            try:
                self._start(int(message), descriptors)
            except OSError as error:
                step_process.report_failure(descriptors[1], error)
            for descriptor in descriptors:
                os.close(descriptor)

    def _start(self, size: int, descriptors: list[int]) -> None:
        public = json.loads(os.pread(descriptors[0], size, 0))
        parent = self._template if public["forked"] else self._launcher
        if self._namespaces is None:
            step_process.hand_over(parent, size, descriptors, [])
            return
        init, system_v, made = self._namespaces.make(public["plan"], self._template_id)
        try:
            step_process.report_init(descriptors[1], [made[0], *system_v], b"init namespaces", init)
            step_process.hand_over(parent, size, descriptors, made[1:])
        except OSError:
            signal.pidfd_send_signal(made[0], signal.SIGKILL)
            raise
        finally:
            for each in system_v + made:
                os.close(each)


class Namespaces:
    """The namespaces of the starter, to which it returns after it has made others."""

    def __init__(self) -> None:
        """Move this process, the first of its process namespace, to mounts and System V objects of its own. Raises `OSError`."""
        isolation.enter_namespaces(_NO_MOUNTS)
        self._own = step_process.open_namespaces()
        self._bases: dict[tuple[Any, ...], list[int]] = {}  # descriptors of a mount namespace, and of what is mounted
        self._stacks = mmap.mmap(-1, 2 * _STACK_BYTES)
        self._stack_address = ctypes.addressof(ctypes.c_char.from_buffer(self._stacks))
        # an init process has the memory of this process: its namespace must not read it, nor call a function of it by a signal
        step_process.forbid_tracing()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system reaps
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    def make(self, plan: dict[str, Any], template_id: int) -> tuple[int, list[int], list[int]]:
        """
        Make namespaces with the mounts of *plan*, whose next process has another id than *template_id*. Raises `OSError`.

        Returns the id of their init process, descriptors of the lists of System V objects, and descriptors of init, of the namespaces,
        and of the Landlock rules if there are some.
        """
        isolation.unshare(_CLONE_NEWPID)
        init = 0
        system_v: list[int] = []
        rules: list[int] = []
        made: list[int] = []
        try:
            self._enter_base([each for each in plan["mounts"] if each["shared"]], is_protected=bool(plan["mounts"]))
            isolation.copy_namespaces()
            isolation.mount_paths([each for each in plan["mounts"] if not each["shared"]])
            isolation.mount_terminals()
            if plan["landlock"]:
                rules = [isolation.create_file_rules(plan, without_proc=True)]
            # Its memory and descriptors are those of this process, so it costs next to nothing. It never returns from `pause`: it
            # has no signal handler. So all init processes use one stack.
            init = self._clone(_libc.pause, _CLONE_FILES, self._stack_address + _STACK_BYTES)
            system_v = step_process.open_system_v()
            made = [os.pidfd_open(init), *step_process.open_namespaces()]
            self._choose_next_id(_id_outside(made[0]) + 1, template_id)
        except OSError:
            if init:
                os.kill(init, signal.SIGKILL)
            for each in system_v + rules + made:
                os.close(each)
            raise
        finally:
            for each in self._own:
                step_process.enter_namespace(each)
        return init, system_v, made + rules

    def _enter_base(self, mounts: list[dict[str, Any]], *, is_protected: bool) -> None:
        """
        Enter a mount namespace with *mounts*, which the starts of all slots copy: mounting takes longer. Raises `OSError`.

        If it is protected, all other mounts are read-only.
        It is used as long as the files of *mounts* are the same: if a file is replaced, the system removes what is mounted on it.
        Open descriptors of the files keep their inode numbers from being used again.
        """
        paths = [each["target"] for each in mounts] + [each["source"] for each in mounts if each["source"]]
        key = json.dumps([mounts, is_protected]), *map(_identity, paths)
        if key in self._bases:
            step_process.enter_namespace(self._bases[key][0])
            return
        for outdated in list(self._bases)[: 1 - _MAX_BASES]:
            for each in self._bases.pop(outdated):
                os.close(each)
        opened = [os.open(path, os.O_PATH | os.O_CLOEXEC) for path, found in zip(paths, key[1:], strict=True) if found]
        try:
            isolation.copy_namespaces()
            isolation.mount_paths(mounts)
            if is_protected:
                isolation.protect_mounts([each["target"] for each in mounts if each["writable"]])
            opened.insert(0, os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            for each in opened:
                os.close(each)
            raise
        self._bases[key] = opened

    def _choose_next_id(self, wanted: int, template_id: int) -> None:
        """
        Let the next process of the new namespace have the id *wanted*, so that the steps of a machine have different ids.

        Code uses ids to name files and to own locks, and libraries notice a fork by an id that is not the template's. Only a process of
        the namespace can choose: one that calls `fflush` in the memory of this process, which waits.
        """
        chosen = wanted if wanted == template_id else wanted - 1
        opened = _libc.fopen(b"/proc/sys/kernel/ns_last_pid", b"w")
        top = self._stack_address + 2 * _STACK_BYTES
        if opened:
            file = ctypes.c_void_p(opened)
            _libc.fputs(b"%d" % chosen, file)
            self._clone(_libc.fflush, _CLONE_VFORK, top, file)
            is_chosen = not _libc.ferror(file)
            _libc.fclose(file)
            if is_chosen:
                return
        if template_id == _SECOND_ID:
            self._clone(_libc.fflush, _CLONE_VFORK, top)

    @staticmethod
    def _clone(function: Any, flags: int, stack: int, argument: ctypes.c_void_p | None = None) -> int:
        """Start a process that calls *function* in the memory of this process. Raises `OSError`."""
        pid = int(_libc.clone(function, ctypes.c_void_p(stack), _CLONE_VM | flags | signal.SIGCHLD, argument))
        if pid < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return pid


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - pathlib is slower
    except FileNotFoundError:  # mounting creates it
        return None
    return found.st_dev, found.st_ino


def _id_outside(process: int) -> int:
    """Return the id of a process in the namespace of pdkernel, whose `/proc` this still is; *process* is a descriptor of it."""
    file = os.open(f"/proc/self/fdinfo/{process}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return int(os.read(file, 4096).split(b"Pid:", 1)[1].split(None, 1)[0])
    finally:
        os.close(file)


def _leave_process_namespace() -> None:
    """Let the children of this process have a process namespace of their own; a user other than root, in a user namespace."""
    if os.geteuid() != 0:
        isolation.enter_user_namespace(_CLONE_NEWPID)
    else:
        isolation.unshare(_CLONE_NEWPID)


def _try_namespaces() -> None:
    """Make namespaces, and a process in them, in a child. Raises `OSError`."""

    def make() -> None:
        _leave_process_namespace()
        _run_child(enter)

    def enter() -> None:
        own = Namespaces()  # its memory has the stack of the init process, which starts when the system wants
        _, _, (_, *namespaces) = own.make(_NO_MOUNTS, 0)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        step_process.enter_namespace(namespaces[0])
        _run_child(lambda: mount(namespaces))

    def mount(namespaces: list[int]) -> None:
        for each in namespaces[1:]:
            step_process.enter_namespace(each)
        isolation.mount_proc(_NO_MOUNTS, None)

    _run_child(make)


def _run_child(work: Any) -> None:
    """Call *work* in a child, and raise its `OSError`."""
    pid = os.fork()
    if pid == 0:
        number = 1
        try:
            work()
            number = 0
        except OSError as error:
            number = error.errno or 1
        finally:
            os._exit(number)
    number = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if number < 0:
        raise OSError(errno.ESRCH, f"a process that tried it ended by signal {-number}")
    if number:
        raise OSError(number, os.strerror(number))


def _open_link() -> tuple[_socket.socket, _socket.socket]:
    one, other = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    return one, other


def main() -> NoReturn:
    """Find out what the system permits, start the processes, and be the launcher."""
    os.set_inheritable(_CONTROL, False)
    found: dict[str, Any] = {"namespaces": None, "landlock": isolation.landlock_version()}
    found["user_ids"] = isolation.find_user_ids()
    try:
        _try_namespaces()
    except OSError as error:
        found["namespaces"] = error.strerror
    in_namespaces = found["namespaces"] is None
    launcher = os.pidfd_open(os.getpid())
    link, link_of_launcher = _open_link()
    if in_namespaces:
        _leave_process_namespace()
    if os.fork():
        os.close(_CONTROL)
        link.close()
        step_process.StepParent(link_of_launcher, step_process.fork, in_namespaces=in_namespaces).serve()
    step_process.die_with_parent(launcher)
    link_of_launcher.close()
    link_to_template, link_of_template = _open_link()
    starter = os.pidfd_open(os.getpid())
    template = os.fork()
    if template:
        link_of_template.close()
        Starter(link, link_to_template, template, Namespaces() if in_namespaces else None).serve()
    step_process.die_with_parent(starter)
    link.close()
    link_to_template.close()
    importlib.import_module("_pdkernel_runtime.template").Template(link_of_template, _CONTROL, found).serve()
    os._exit(0)  # not reached: `serve` never returns


if __name__ == "__main__":
    main()

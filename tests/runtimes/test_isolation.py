"""What an isolated process can do to the server, the project and other runs: attacks, each with a positive control."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pdkernel.common.safe_files import STEP_PATHS_VARIABLE
from pdkernel.runtimes import isolation as program
from pdkernel.runtimes import seccomp
from pdkernel.workers import ZYGOTES
from pdkernel.workers.isolation import Isolation, StepAccess
from pdkernel.workers.isolation_plan import plan_access
from pdkernel.workers.slot_folder import SlotFolder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="namespaces and Landlock exist on Linux only")

OTHER_USER = 65534
PORT = 20_000 + 2 * (os.getpid() % 6_000)  # another one in each process of the tests
NAMED_PORT = PORT + 1
GROUP = 4
"""A group of a server that runs as root, besides its own."""

READ = {
    "key": "return open(key).read() == 'the key'",
    "database": "return b'a secret row' in open(database, 'rb').read() + open(database + '-wal', 'rb').read()",
    "key by a link": "os.symlink(key, tmp + '/link'); return open(tmp + '/link').read() == 'the key'",
    "key by a hard link": "os.link(key, tmp + '/hard'); return open(tmp + '/hard').read() == 'the key'",
    "key by a replaced folder": (
        "os.rename(folder + '/tmp', folder + '/old'); os.symlink(os.path.dirname(key), folder + '/tmp')\n"
        "done = open(folder + '/tmp/key').read() == 'the key'\n"
        "os.unlink(folder + '/tmp'); os.rename(folder + '/old', folder + '/tmp'); return done"
    ),
    "name in the folder of the slot": "os.mkdir(folder + '/own'); return True",
    "key by the server's root": "return open(f'/proc/{server}/root{key}').read() == 'the key'",
    "key by the parent's root": "return open(f'/proc/{os.getppid()}/root{key}').read() == 'the key'",
    "key by a new root": (
        "os.mkdir(tmp + '/jail'); os.chroot(tmp + '/jail')\nfor _ in range(50): os.chdir('..')\n"
        "os.chroot('.'); return open(key).read() == 'the key'"
    ),
    "key by the server's mounts": (
        "assert libc.setns(os.open(f'/proc/{server}/ns/mnt', 0), 0) == 0; return open(key).read() == 'the key'"
    ),
    "key below a cover": "libc.umount2(hidden.encode(), 2); return open(key).read() == 'the key'",
    "key below a cover, in a user namespace": (
        "libc.unshare(0x10020000); libc.umount2(hidden.encode(), 2); return open(key).read() == 'the key'"
    ),
    "file in a cover": "open(hidden + '/new', 'w').close(); return True",
    "file of another slot": "return open(other).read() == 'of another user'",
    "environment of the server": "return 'MARK=' in open(f'/proc/{server}/environ').read()",
    "memory of the server": (
        "file = os.open(f'/proc/{server}/mem', os.O_RDONLY)\n"
        "return os.pread(file, len(secret), address) == secret.encode()"
    ),
    "memory of the server by a system call": (
        "class Part(ctypes.Structure): _fields_ = [('base', ctypes.c_void_p), ('length', ctypes.c_size_t)]\n"
        "buffer = ctypes.create_string_buffer(len(secret))\n"
        "parts = [Part(ctypes.addressof(buffer), len(secret)), Part(address, len(secret))]\n"
        "libc.process_vm_readv(server, ctypes.byref(parts[0]), 1, ctypes.byref(parts[1]), 1, 0)\n"
        "return buffer.raw == secret.encode()"
    ),
    "trace of the server": (
        "libc.ptrace.argtypes = [ctypes.c_long] * 4\nreturn libc.ptrace(0x4206, server, 0, 0) == 0"  # PTRACE_SEIZE
    ),
    "keyring of the user": (
        "add_key = {'x86_64': 248}.get(os.uname().machine, 217)\n"
        "number = libc.syscall(add_key, b'user', b'pdkernel-test', b'x', 1, -4)\n"  # KEY_SPEC_USER_KEYRING
        "return number > 0 and libc.syscall(add_key + 2, 21, number) == 0"  # KEYCTL_INVALIDATE
    ),
}
"""Attacks that every kind of isolation stops."""

SYSTEM_CALLS = {
    "user namespace": "return libc.unshare(0x10000000) == 0",
    "user namespace by a new process": (
        "number = {'x86_64': 56}.get(os.uname().machine, 220)\n"
        "pid = libc.syscall(number, 0x10000011, 0, 0, 0, 0)\n"  # CLONE_NEWUSER | SIGCHLD
        "if pid == 0: os._exit(0)\n"
        "return pid > 0"
    ),
    "user namespace by clone3": (
        "arguments = (ctypes.c_ulonglong * 11)(0x10000000, 0, 0, 0, 17)\n"
        "pid = libc.syscall(435, ctypes.byref(arguments), 88)\n"
        "if pid == 0: os._exit(0)\n"
        "return pid > 0"
    ),
    "events of devices": "socket.socket(16, socket.SOCK_DGRAM, 15); return True",
    "tracing": "return libc.ptrace(0, 0, 0, 0) == 0",
    "descriptor of another process": (
        "target = os.pidfd_open(os.getpid())\nreturn libc.syscall(438, target, 0, 0) >= 0"  # pidfd_getfd
    ),
}
"""What no step needs."""

PORTS = {
    f"port of the server on {address}": (
        f"sock = socket.socket({family}); sock.setsockopt(1, 2, 1); sock.bind(({address!r}, port)); sock.listen(); return True"
    )
    for family, address in ((2, "127.0.0.1"), (2, "0.0.0.0"), (10, "::1"), (10, "::"), (10, "::ffff:127.0.0.1"))
}
"""Attacks on a server that restarts; Landlock stops them."""

CONTACT = {
    "signal to the server": "os.kill(server, 0); return True",
    "abstract socket of the server": (
        "socket.socket(socket.AF_UNIX).connect(f'\\0pdkernel-test-{server}'); return True"
    ),
    "change of the code": "open(code, 'a').close(); return True",
    "file elsewhere": "return open(elsewhere).read() == 'of this machine'",
}
"""Attacks that Landlock stops."""

APART = {
    "list of processes": "return str(server) in os.listdir('/proc') and 'isolated.py' in open(f'/proc/{server}/cmdline').read()",
    "shared memory of System V": "libc.shmat.restype = ctypes.c_long; return libc.shmat(shared, None, 0) > 0",
}
"""Attacks that namespaces stop, or confine to the run's files."""

OF_ROOT = {
    "password file": "return ':' in open('/etc/shadow').read()",
    "setting of the kernel": "open('/proc/sys/kernel/hostname', 'a').close(); return True",
    "device": "os.mknod(tmp + '/null', 0o20666, os.makedev(1, 3)); return True",
    "mount": "return libc.mount(b'tmpfs', tmp.encode(), b'tmpfs', 0, None) == 0 and libc.umount2(tmp.encode(), 2) == 0",
    "user id": "os.setuid(12345); return True",
    "group of the server": "return group in os.getgroups()",
}
"""Attacks of a process that runs as root."""

OWN = {
    "own files": "open(tmp + '/own', 'w').write('x'); return open(tmp + '/own').read() == 'x'",
    "code": "return open(code).read() == 'code'",
    "package": "return open(package).read() == 'package'",
    "file store": "open(store + '/new', 'w').write('x'); return True",
    "program": "import subprocess; return subprocess.run(['sh', '-c', 'exit 7']).returncode == 7",
    "stdout": "return os.path.exists('/dev/stdout') and os.open('/dev/stderr', os.O_WRONLY) >= 0",
    "devices": "open('/dev/null', 'w').close(); return len(open('/dev/urandom', 'rb').read(1)) == 1",
    "terminal": "master, slave = os.openpty(); return os.write(slave, b'x') == 1 and os.read(master, 1) == b'x'",
    "shared memory": "import multiprocessing; multiprocessing.Lock(); return True",
    "own process": "return f'Pid:\\t{os.getpid()}' in open('/proc/self/status').read() and os.listdir('/proc/self/fd') != []",
    "any free port": (
        "found = []\nfor family, address in ((2, '127.0.0.1'), (2, '0.0.0.0'), (10, '::1')):\n"
        "    sock = socket.socket(family); sock.bind((address, 0)); sock.listen(); found.append(sock.getsockname()[1])\n"
        "socket.socket().listen()\nreturn 0 not in found"
    ),
    "port that the workflow names": "sock = socket.socket(); sock.bind(('127.0.0.1', named_port)); sock.listen(); return True",
    "sockets": (
        "import threading\n"
        "for family in (1, 2, 10):\n    for kind in (1, 2): socket.socket(family, kind).close()\n"
        "socket.socket(2, 1, 6); socket.socket(10, 2, 17); socket.socketpair(); socket.if_nameindex()\n"
        "socket.getaddrinfo('localhost', 80); done = threading.Thread(target=int); done.start(); done.join(); return True"
    ),
    "rename between folders": (
        "os.mkdir(tmp + '/a'); os.mkdir(tmp + '/b'); open(tmp + '/a/x', 'w').close()\n"
        "os.rename(tmp + '/a/x', tmp + '/b/x'); return True"
    ),
}
"""What a step may do."""


class Place:
    """A project, a slot and a file elsewhere, in a folder outside of `/tmp`."""

    def __init__(self, base: Path, owner: int) -> None:
        self.project = base / "project"
        self.hidden = self.project / ".pdkernel"
        self.slot = base / "slots" / "1"
        self.owner = owner
        for folder in (self.hidden / "packages", self.hidden / "files", base / "slots" / "2"):
            folder.mkdir(parents=True)
        self.hidden.chmod(0o700)
        self.files = {
            "key": (self.hidden / "key", "the key"),
            "other": (base / "slots" / "2" / "file", "of another user"),
            "code": (self.project / "code.js", "code"),
            "package": (self.hidden / "packages" / "index.js", "package"),
            "elsewhere": (base / "notes", "of this machine"),
        }
        for path, text in self.files.values():
            path.write_text(text)
        self.database = sqlite3.connect(self.hidden / "project.db")
        self.database.executescript(
            "pragma journal_mode=wal; create table a (b); insert into a values ('a secret row')"
        )
        self.program = base / "isolation.py"
        shutil.copy(str(program.__file__), self.program)
        shutil.copy(str(seccomp.__file__), base)
        for place, folders, files in os.walk(base):
            for name in (".", *folders, *files):
                os.chown(Path(place, name), owner, owner)

    def plan(self, isolation: Isolation) -> dict[str, Any]:
        """The plan of the slot's processes."""
        access = StepAccess(
            read=frozenset({self.project, self.hidden / "packages"}),
            write=frozenset({self.hidden / "files"}),
            hide=frozenset({self.hidden}),
            ports=(NAMED_PORT,),
        )
        plan = SlotFolder(self.slot.parent, 1, plan_access(isolation, access, slots=self.slot.parent).of_slot(1)).plan
        if plan.uid is None:
            for path in (self.slot, self.slot / "tmp"):
                os.chown(path, self.owner, self.owner)
        return plan.to_json()


def python_of_all_users() -> str | None:
    """An interpreter that every user may run."""
    return shutil.which("python3", path="/usr/bin:/usr/local/bin")


def attempt(place: Place, plan: dict[str, Any] | None, uid: int | None) -> set[str]:
    """What succeeds in a process with *plan* of a server of user *uid*; a plan of None isolates nothing."""
    if plan is None:
        for folder in (place.slot, place.slot / "tmp"):
            folder.mkdir()
            os.chown(folder, place.owner, place.owner)
    names = {name: str(path) for name, (path, _) in place.files.items()} | {
        "tmp": "/tmp" if plan and plan["namespaces"] else str(place.slot / "tmp"),
        "folder": str(place.slot),
        "hidden": str(place.hidden),
        "database": str(place.hidden / "project.db"),
        "store": str(place.hidden / "files"),
        "port": PORT,
        "named_port": NAMED_PORT,
    }
    request = {"module": str(place.program), "plan": plan, "uid": uid, "group": GROUP}
    done = subprocess.run(
        [python_of_all_users() or sys.executable, "-I", str(Path(__file__).with_name("isolated.py"))],
        input=json.dumps(
            {
                **request,
                "names": {**names, "group": GROUP},
                "attacks": {**READ, **SYSTEM_CALLS, **PORTS, **CONTACT, **APART, **OF_ROOT, **OWN},
            }
        ),
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.defpath, "MARK": "of the server"},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return {name for name, worked in json.loads(done.stdout).items() if worked}


MODES: dict[str, Callable[[Isolation], Isolation]] = {
    "everything": lambda found: found,
    "namespaces": lambda found: replace(found, landlock=False),
    "Landlock": lambda found: replace(found, namespaces=False),
    "without a user": lambda found: replace(found, first_uid=None),
    "Landlock without a user": lambda found: replace(found, namespaces=False, first_uid=None),
}
ALLOWED = {
    "everything": {*OWN},
    "namespaces": {*OWN, *PORTS, "abstract socket of the server", "file elsewhere"},
    "Landlock": {*OWN, *APART},
    "without a user": {*OWN},
    "Landlock without a user": {*OWN, *APART} - {"terminal"},
}


@pytest.fixture(autouse=True)
def no_other_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes see no other files of tests."""
    monkeypatch.delenv(STEP_PATHS_VARIABLE, raising=False)


@pytest.fixture
def make_place() -> Iterator[Callable[[int], Place]]:
    """A factory of places for a server of a user; outside of `/tmp`, which is not private then."""
    with tempfile.TemporaryDirectory(prefix="pdkernel-test-", dir="/var/tmp") as folder, ExitStack() as opened:
        Path(folder).chmod(0o755)

        def make(owner: int) -> Place:
            os.chown(folder, owner, owner)
            place = Place(Path(folder), owner)
            opened.callback(place.database.close)
            return place

        yield make


def available(mode: str) -> Isolation:
    """What *mode* uses; skips the test if this machine does not permit it."""
    found = ZYGOTES.isolation()
    if not found.namespaces or not found.landlock:
        pytest.skip(f"this system permits no namespaces or has no Landlock: {found.reasons}")
    return MODES[mode](found)


@pytest.mark.skipif(os.geteuid() != 0, reason="as another user, a part of the attacks fails without isolation too")
def test_everything_works_without_isolation(make_place: Callable[[int], Place]) -> None:
    """Each attack does what it claims, for a server that runs as root."""
    assert attempt(make_place(0), None, None) == {
        *READ,
        *SYSTEM_CALLS,
        *PORTS,
        *CONTACT,
        *APART,
        *OF_ROOT,
        *OWN,
    }


@pytest.mark.parametrize("mode", MODES)
def test_isolated_process_of_this_user(make_place: Callable[[int], Place], mode: str) -> None:
    """A process reaches its own files, and neither the server, nor the project's secrets, nor other runs."""
    isolation, place = available(mode), make_place(os.geteuid())

    plan = place.plan(isolation)
    keeps_group = os.geteuid() == 0 and plan["uid"] is None
    # mounts protect the code by its owner, who this user is unless root starts the process as another one
    owns_code = os.geteuid() != 0 and mode == "namespaces"
    others = {"group of the server"} if keeps_group else {"change of the code"} if owns_code else set()
    # without a user and mounts of their own, processes open no terminals: those of the server would be open, too
    refused = {"terminal"} if plan["uid"] is None and not plan["namespaces"] else set()

    assert attempt(place, plan, None) == (ALLOWED[mode] | others) - refused


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process as another user")
@pytest.mark.skipif(python_of_all_users() is None, reason="no interpreter that other users may run")
@pytest.mark.parametrize("mode", [None, "without a user", "Landlock without a user", "namespaces"])
def test_isolated_process_of_an_unprivileged_server(make_place: Callable[[int], Place], mode: str | None) -> None:
    """A server that does not run as root isolates its processes by a user namespace and Landlock."""
    place = make_place(OTHER_USER)
    found = attempt(place, place.plan(replace(available(mode), first_uid=None)) if mode else None, OTHER_USER)

    if mode is None:
        assert found == {*READ, *SYSTEM_CALLS, *PORTS, *CONTACT, *APART, *OWN} - {
            "key by a new root",
            "key by the server's mounts",
        }
    else:
        assert found == ALLOWED[mode] | ({"change of the code"} if mode == "namespaces" else set())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process as another user")
def test_files_of_a_step_are_in_its_slot(make_place: Callable[[int], Place]) -> None:
    """What a process writes to `/tmp` and to the file store is in the slot's folder and the store; its group may change the files."""
    isolation, place = available("everything"), make_place(0)
    plan = place.plan(isolation)

    attempt(place, plan, None)

    own = place.slot.joinpath("tmp", "own").stat()
    assert (own.st_uid, stat.S_IMODE(own.st_mode)) == (plan["uid"], 0o664)
    assert place.hidden.joinpath("files", "new").stat().st_gid == plan["gid"]
    assert not Path("/tmp/own").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can enter namespaces without a user namespace")
def test_failing_mount_ends_the_process(make_place: Callable[[int], Place]) -> None:
    """If a part of the plan cannot be carried out, no user code runs."""
    place = make_place(0)
    plan = place.plan(available("everything"))
    plan["mounts"] = [*plan["mounts"], {"target": "/does/not/exist", "source": "/does/not/exist", "writable": False}]

    with pytest.raises(AssertionError, match="FileNotFoundError"):
        attempt(place, plan, None)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can enter namespaces without a user namespace")
@pytest.mark.parametrize("kind", ["folder", "link"])
def test_other_folder_in_place_of_a_source_ends_the_process(make_place: Callable[[int], Place], kind: str) -> None:
    """A folder that is not the one that the plan was made for is not mounted."""
    place = make_place(0)
    plan = place.plan(available("everything"))
    tmp = place.slot / "tmp"
    tmp.rename(place.slot / "moved")
    if kind == "folder":
        tmp.mkdir()
    else:
        tmp.symlink_to(place.hidden)

    with pytest.raises(AssertionError, match="it was replaced"):
        attempt(place, plan, None)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can enter namespaces without a user namespace")
@pytest.mark.parametrize("hidden", [True, False])
@pytest.mark.parametrize("target", ["/tmp/left", "/tmp/left/inner/code.js", "/tmp/folder/left/code.js"])
def test_link_that_a_step_left_in_its_tmp_ends_the_process(
    make_place: Callable[[int], Place], target: str, hidden: bool
) -> None:
    """Nothing is made or mounted where a link leads that an earlier step of the slot has left in `/tmp`."""
    place = make_place(0)
    plan = place.plan(available("everything"))
    outside = place.project.parent / "outside"
    for folder in (outside, place.slot / "tmp" / "folder"):
        folder.mkdir()
    for link in (place.slot / "tmp" / "left", place.slot / "tmp" / "folder" / "left"):
        link.symlink_to(outside)
    source = None if hidden else str(place.project if target == "/tmp/left" else place.project / "code.js")
    plan["mounts"] = [*plan["mounts"], {"target": target, "source": source, "writable": False}]

    with pytest.raises(AssertionError, match="it was replaced"):
        attempt(place, plan, None)

    assert list(outside.iterdir()) == []

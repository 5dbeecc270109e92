"""
What the process of a step does to itself before user code runs: mounts, user, capabilities and Landlock rules.

It uses only the standard library, because the zygote imports it. `workers.isolation` makes the plans, as JSON objects:

- `mounts`: what `enter_namespaces` mounts, in order, each `{"target", "source", "writable", "shared", "inode"}`; without a source, an
  empty folder covers the target. What is `shared` is the same for all slots; it may be mounted before all others. `inode` is null, or
  the device and the inode number that the source must have.
- `uid` and `gid`: the user of the process, or null to keep it.
- `landlock`: whether Landlock restricts files to the paths of `read` and `write`, and listening to the `ports` and free ports.

A failure raises `OSError`. The caller must end the process then: user code never runs without the protection that its plan names.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import struct
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path
from typing import Any

STEP_USERS = ((2_000_000_000, 1_000_000), (60_000, 4_000))
"""Ranges of the user ids of steps: the first id, and the number. No account has them; a container may lack the large ones."""

_CLONE_NEWNS, _CLONE_NEWIPC, _CLONE_NEWUSER = 0x20000, 0x8000000, 0x10000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT = 1, 2, 4, 8, 32
_MS_BIND, _MS_REC, _MS_SLAVE = 4096, 16384, 1 << 19
_LOCKED_FLAGS = {  # flags that a user namespace must keep when it remounts, as `statvfs` reports them
    2: _MS_NOSUID,
    4: _MS_NODEV,
    8: _MS_NOEXEC,
    1024: 1024,  # noatime
    2048: 2048,  # nodiratime
    4096: 1 << 21,  # relatime
}
_PROC = "/proc"
_TMP = "/tmp"  # noqa: S108 - the folder itself
_ESCAPES = (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\"))  # in /proc/self/mountinfo
_PR_SET_DUMPABLE, _PR_SET_SECUREBITS, _PR_SET_NO_NEW_PRIVS = 4, 28, 38
_NO_ROOT_RIGHTS = 0b1111  # SECBIT_NOROOT and SECBIT_NO_SETUID_FIXUP, both locked
_CAPABILITIES_VERSION = 0x20080522

_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_LANDLOCK_VERSION_FLAG, _LANDLOCK_PATH, _LANDLOCK_PORT = 1, 1, 2
_LANDLOCK_BIND_TCP, _LANDLOCK_CONNECT_TCP = 1, 2
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1, 2, 4, 8, 1 << 14
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
_FILE_RIGHTS = {
    2: (1 << 14) - 1,
    3: (1 << 15) - 1,
}  # by Landlock's version; the right of version 5 (ioctl) is not restricted
_SCOPES = 3  # abstract Unix sockets and signals, version 6

MIN_LANDLOCK_FILES_VERSION = 2
"""The first version of Landlock that permits renames between folders (Linux 5.19)."""
MIN_LANDLOCK_PORT_VERSION = 4
"""The first version of Landlock with rules for TCP ports (Linux 6.7)."""


def enter_user_namespace(more: int = 0) -> None:
    """
    Move this process to a user namespace with the same user id, in which it may create others, and to new namespaces *more*.

    A user other than root needs this. The process must be dumpable and have one thread.

    Raises:
        OSError: The system does not permit it.
    """
    uid, gid = os.geteuid(), os.getegid()
    unshare(_CLONE_NEWUSER | more)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        Path("/proc/self", name).write_text(text)


def enter_namespaces(plan: dict[str, Any]) -> None:
    """
    Give this process mounts and System V objects of its own.

    Its `/proc` remains. A process of a new process namespace calls `mount_proc` in these mounts.

    Raises:
        OSError: The system does not permit it, or a source does not exist.
    """
    copy_namespaces()
    mount(None, "/", None, _MS_REC | _MS_SLAVE)
    mount_paths(plan["mounts"])
    mount_terminals()


def copy_namespaces() -> None:
    """Give this process a copy of its mounts, and System V objects of its own. Raises `OSError`."""
    unshare(_CLONE_NEWNS | _CLONE_NEWIPC)


def enter_mounts() -> None:
    """Give this process, which must have one thread, mounts of its own, in a user namespace unless it is root. Raises `OSError`."""
    if os.geteuid() == 0:
        unshare(_CLONE_NEWNS)
    else:
        enter_user_namespace(_CLONE_NEWNS)
    mount(None, "/", None, _MS_REC | _MS_SLAVE)


def hide_processes() -> None:
    """Cover `/proc` in the mounts of this process, which mounts nothing afterwards. Raises `OSError`."""
    mount("tmpfs", _PROC, "tmpfs", _MS_NOSUID | _MS_NODEV | _MS_RDONLY, "size=1m,mode=711")


def mount_paths(mounts: Sequence[dict[str, Any]]) -> None:
    """
    Mount *mounts* of a plan.

    Raises:
        OSError: The system does not permit it, a source is another one than the plan says, or a step has replaced a target.
    """
    umask = os.umask(0o022)  # other users may enter the folders that are made for mounts
    with contextlib.ExitStack() as opened:
        # a cover may hide the source of a later mount, so all sources are opened first
        sources = [each["source"] and _keep(opened, _open_source(each)) for each in mounts]
        covers = []
        for each, source in zip(mounts, sources, strict=True):
            if source is None:
                covers.append(_cover(opened, each["target"]))
            else:
                _bind(opened, source, each["target"], writable=each["writable"])
        os.umask(umask)
        for cover in covers:
            mount(None, _path(cover), None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)


def protect_mounts(writable: Collection[str]) -> None:
    """
    Make all mounts read-only but those at and below *writable*.

    Landlock alone lets a step change the mode, the times and the attributes of each file of its user.

    Raises:
        OSError: The system does not permit it.
    """
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        target = line.split(" ")[4]
        for escaped, character in _ESCAPES:
            target = target.replace(escaped, character)
        if not any(f"{target}/".startswith(f"{each}/") for each in (*writable, _PROC)):
            try:
                _remount(target, writable=False)
            except OSError as error:
                # another mount covers it, or a folder on the way is closed
                if error.errno not in (errno.ENOENT, errno.EACCES, errno.EINVAL):
                    raise


def mount_terminals() -> None:
    """Mount terminals of this process's own: that of the server's user would be open to steps. Raises `OSError`."""
    if os.path.isdir("/dev/pts"):  # noqa: PTH112 - as everywhere in this module's paths of the system
        mount("devpts", "/dev/pts", "devpts", _MS_NOSUID | _MS_NOEXEC, "newinstance,mode=620,ptmxmode=666")
        mount("/dev/pts/ptmx", "/dev/ptmx", None, _MS_BIND)


def mount_proc(plan: dict[str, Any], rules: int | None) -> None:
    """
    Mount the `/proc` of this process's process namespace, and permit it in the Landlock *rules* if *plan* does.

    Raises:
        OSError: The system does not permit it.
    """
    mount("proc", _PROC, "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    if rules is not None and _PROC in plan["read"]:
        _allow_path(rules, _PROC, _READ)


def restrict(plan: dict[str, Any], rules: int | None = None) -> None:
    """
    Take from this process the rights that its plan does not give; cannot be undone. Raises `OSError`.

    Call it after `enter_namespaces` in a process that has one thread, right before user code or an `exec`.

    Args:
        plan: The plan.
        rules: The result of `create_file_rules` after `enter_namespaces`, if there is one.
    """
    uid, gid = plan["uid"], plan["gid"]
    if uid is not None:
        for descriptor in (1, 2):  # a step may open /dev/stdout, which needs the right to open the pipe
            with contextlib.suppress(OSError):
                os.fchown(descriptor, uid, gid)
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        os.umask(0o002)  # workers of other runs, with other user ids in the same group, change files of the file store
    drop_capabilities()
    no_new_privileges()
    if plan["landlock"]:
        _enforce(create_file_rules(plan) if rules is None else rules)
    if uid is not None:  # a change of the user sets it to 0, and the process could not read its own /proc entries
        _prctl(_PR_SET_DUMPABLE, 1)


def drop_capabilities() -> None:
    """Give up all capabilities, also those that programs of user 0 would get. Raises `OSError`."""
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):  # without CAP_SETPCAP; NO_NEW_PRIVS then prevents that they come back
            _prctl(_PR_SET_SECUREBITS, _NO_ROOT_RIGHTS)
    header = struct.pack("=Ii", _CAPABILITIES_VERSION, 0)
    _check(_libc().capset(header, bytes(24)), "capset")


def no_new_privileges() -> None:
    """Let no program that this process executes gain rights, by a set-user-ID bit for example. Raises `OSError`."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def set_undumpable() -> None:
    """Let no other process of the same user read the memory and the environment of this process. Raises `OSError`."""
    _prctl(_PR_SET_DUMPABLE, 0)


def landlock_version() -> int:
    """Return the version of Landlock; 0 if Landlock is not available."""
    try:
        return landlock_call(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint(_LANDLOCK_VERSION_FLAG))
    except OSError:
        return 0


def create_file_rules(plan: dict[str, Any], *, without_proc: bool = False) -> int:
    """
    Return a descriptor of the Landlock rules of *plan*, which `restrict` enforces.

    They permit reading and executing files below the paths of `read`, changing files below those of `write`, and no other files.
    TCP sockets may be bound to the `ports`, and to a free port that the system chooses, of any address. So no process can take the
    port of a server that restarts, or listen beside it at another address.
    Where Landlock can, they also stop signals and connections to abstract sockets of processes without the rules.

    Args:
        plan: The plan.
        without_proc: Leave out `/proc`, which `mount_proc` will mount and permit.

    Raises:
        OSError: Landlock is not available.
    """
    version = landlock_version()
    rights = _FILE_RIGHTS[min(max(version, min(_FILE_RIGHTS)), max(_FILE_RIGHTS))]
    network = _LANDLOCK_BIND_TCP if version >= MIN_LANDLOCK_PORT_VERSION else 0
    scopes = _SCOPES if version >= 6 else 0
    rules = _create_rules(struct.pack("=QQQ", rights, network, scopes)[: 24 if scopes else 16 if network else 8])
    for port in (0, *plan.get("ports", ())) if network else ():
        _allow_port(rules, _LANDLOCK_BIND_TCP, port)
    for paths, allowed in ((plan["read"], _READ), (plan["write"], rights)):
        for path in paths:
            if path != _PROC or not without_proc:
                _allow_path(rules, path, allowed & rights)
    return rules


def restrict_files(plan: dict[str, Any]) -> None:
    """Enforce the Landlock rules of *plan* in this process; cannot be undone. Raises `OSError`."""
    _enforce(create_file_rules(plan))


def restrict_connect_to_port(port: int) -> None:
    """Let the calling thread connect by TCP to *port* only, of any machine. Raises `OSError`."""
    rules = _create_rules(struct.pack("=QQ", 0, _LANDLOCK_CONNECT_TCP))
    _allow_port(rules, _LANDLOCK_CONNECT_TCP, port)
    _enforce(rules)


def _create_rules(attributes: bytes) -> int:
    return landlock_call(_LANDLOCK_CREATE, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint(0))


def _enforce(rules: int) -> None:
    no_new_privileges()
    landlock_call(_LANDLOCK_RESTRICT, ctypes.c_int(rules), ctypes.c_uint(0))
    os.close(rules)


def _allow_port(rules: int, allowed: int, port: int) -> None:
    rule = struct.pack("=QQ", allowed, port)
    landlock_call(_LANDLOCK_ADD, ctypes.c_int(rules), ctypes.c_int(_LANDLOCK_PORT), rule, ctypes.c_uint(0))


def _allow_path(rules: int, path: str, allowed: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # what does not exist, or cannot be reached, needs no rule
        return
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            allowed &= _OF_FILES
        rule = struct.pack("=Qi", allowed, descriptor)
        landlock_call(_LANDLOCK_ADD, ctypes.c_int(rules), ctypes.c_int(_LANDLOCK_PATH), rule, ctypes.c_uint(0))
    finally:
        os.close(descriptor)


def _open_source(planned: dict[str, Any]) -> int:
    source = os.open(planned["source"], os.O_PATH | os.O_CLOEXEC)
    if planned.get("inode") and _identity(source) != tuple(planned["inode"]):
        os.close(source)
        raise OSError(errno.ESTALE, "it was replaced", planned["source"])
    return source


def _cover(opened: contextlib.ExitStack, target: str) -> int:
    """Hide *target* by an empty folder, to which other targets are added before it becomes read-only; return its descriptor."""
    place = _keep(opened, _open_target(target, is_folder=True))
    mount("tmpfs", _path(place), "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,mode=711")
    cover = _keep(opened, _open_target(target, is_folder=True))
    if os.fstat(cover).st_dev == os.fstat(place).st_dev:
        raise OSError(errno.ESTALE, "it was replaced", target)
    return cover


def _bind(opened: contextlib.ExitStack, source: int, target: str, *, writable: bool) -> None:
    is_folder = stat.S_ISDIR(os.fstat(source).st_mode)
    place = _keep(opened, _open_target(target, is_folder=is_folder))
    mount(_path(source), _path(place), None, _MS_BIND | _MS_REC)
    mounted = _keep(opened, _open_target(target, is_folder=is_folder))
    if _identity(mounted) != _identity(source):
        raise OSError(errno.ESTALE, "it was replaced", target)
    _remount(_path(mounted), writable=writable)


def _remount(target: str, *, writable: bool) -> None:
    flags = os.statvfs(target).f_flag
    if writable == bool(flags & os.ST_RDONLY):
        kept = sum(as_mounted for reported, as_mounted in _LOCKED_FLAGS.items() if flags & reported)
        mount(None, target, None, _MS_REMOUNT | _MS_BIND | kept | (0 if writable else _MS_RDONLY))


def _open_target(target: str, *, is_folder: bool) -> int:
    """
    Open *target*, a folder or another file, and make it if it is missing. Raises `OSError`.

    Below `/tmp`, a step of the slot may have left links or may replace names at this moment, so no link is followed there.
    """
    if not target.startswith(f"{_TMP}/"):
        if not os.path.lexists(target):  # in a cover; another worker of the slot may create it at the same time
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            _make(target, is_folder=is_folder)
        return os.open(target, os.O_PATH | os.O_CLOEXEC)
    current = os.open(_TMP, os.O_PATH | os.O_CLOEXEC)
    *folders, last = target[len(_TMP) + 1 :].split("/")
    for name, is_folder_too in (*((each, True) for each in folders), (last, is_folder)):
        above = current
        try:
            try:
                current = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
            except FileNotFoundError:
                _make(name, is_folder=is_folder_too, above=above)
                current = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
        finally:
            os.close(above)
        mode = os.fstat(current).st_mode
        if stat.S_ISLNK(mode) or stat.S_ISDIR(mode) != is_folder_too:
            os.close(current)
            raise OSError(errno.ESTALE, "it was replaced", target)
    return current


def _make(name: str, *, is_folder: bool, above: int | None = None) -> None:
    with contextlib.suppress(FileExistsError):
        if is_folder:
            os.mkdir(name, dir_fd=above)
        else:
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=above))


def _keep(opened: contextlib.ExitStack, descriptor: int) -> int:
    """Close *descriptor* with *opened*; return it."""
    opened.callback(os.close, descriptor)
    return descriptor


def _path(descriptor: int) -> str:
    """Return the path that leads to exactly what *descriptor* has opened."""
    return f"/proc/self/fd/{descriptor}"


def _identity(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    """Call `mount(2)`. Raises `OSError`."""
    encoded = [None if each is None else os.fsencode(each) for each in (source, target, kind, options)]
    _check(_libc().mount(*encoded[:3], ctypes.c_ulong(flags), encoded[3]), target)


def unshare(namespaces: int) -> None:
    """Move this process (or its future children, for the process namespace) to new *namespaces*. Raises `OSError`."""
    _check(_libc().unshare(ctypes.c_int(namespaces)), "unshare")


def landlock_call(number: int, *arguments: object) -> int:
    """Make system call *number*. Raises `OSError`."""
    return _check(int(_libc().syscall(ctypes.c_long(number), *arguments)), "landlock")


def _prctl(option: int, value: int) -> None:
    _check(_libc().prctl(ctypes.c_int(option), *map(ctypes.c_ulong, (value, 0, 0, 0))), "prctl")


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def find_user_ids() -> int | None:
    """
    Return the first of a range of ids that no account has, if this process may change to them; else None.

    It tries it out in a child. The child does not change this process, which must have one thread.
    """
    users = find_step_users() if os.geteuid() == 0 else range(0)
    if not users:
        return None
    first = users.start
    pid = os.fork()
    if pid == 0:
        try:
            restrict({"uid": first + 1, "gid": first, "landlock": False})
        except OSError:
            os._exit(1)
        os._exit(0)
    return first if os.waitpid(pid, 0)[1] == 0 else None


@cache
def find_step_users() -> range:
    """Return the user ids of steps of a server of root in this user namespace, which no user of a system has; it may be empty."""
    maps = [
        [line.split() for line in Path("/proc/self", name).read_text().splitlines()] for name in ("uid_map", "gid_map")
    ]
    for first, count in STEP_USERS:
        if all(
            any(int(start) <= first and first + count < int(start) + int(size) for start, _, size in lines)
            for lines in maps
        ):
            return range(first, first + count)
    return range(0)

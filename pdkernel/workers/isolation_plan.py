"""
Plans: what the processes of a slot do to themselves, so that they see their own files only; and copies of code for their users.

A server that runs as root gives steps users of their own. If these may not read a folder of code, on a machine with umask 027 for
example, they see a copy in its place, which their group may read. The copy is in a folder of the server that no step reaches in
another way.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import re
import shutil
import stat
import struct
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from pdkernel import runtimes
from pdkernel.common.safe_files import PROJECT_FOLDER_NAME, STEP_PATHS_VARIABLE, find_step_paths
from pdkernel.errors import RequestError
from pdkernel.runtimes.file_tree import make_readable, open_own, remove_tree
from pdkernel.runtimes.isolation import STEP_USERS
from pdkernel.workers.isolation import (
    ACCOUNTS_FILE,
    NO_PLAN,
    TMP_FOLDER,
    Isolation,
    IsolationPlan,
    Mount,
    StepAccess,
)
from pdkernel.workers.slot_folder import ACCOUNTS_NAME, TMP_NAME

MAX_COPIED_BYTES = 1 << 30
"""The most bytes of a folder that is copied."""
MAX_COPIED_FILES = 100_000
"""The most files of a folder that is copied."""

_CHECK_SHARE = 0.05  # of the time of a process, at most, for finding out what has changed
_MIN_CHECK_INTERVAL_S = 1.0
_READABLE_BY_GROUP = stat.S_IRGRP | stat.S_IROTH


class CodeNotCopiedError(Exception):
    """A folder cannot be copied; the text is the reason."""


@dataclass
class _Copy:
    """A copied folder: where the copy is, and what it has, as `_list_files` reports it."""

    folder: Path
    skip: frozenset[Path]
    files: dict[Path, os.stat_result] = field(default_factory=dict)
    next_check: float = 0.0


class CodeCopies:
    """
    The copies of one pool, by copied folder. Its methods may be called by several threads.

    Args:
        folder: Where the copies are. It must not exist, or be empty.
        clock: A monotonic clock in seconds.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._clock = clock
        self._copies: dict[Path, _Copy] = {}
        self._lock = threading.Lock()

    def provide(self, source: Path, gid: int, skip: frozenset[Path]) -> Path:
        """
        Return the copy of the folder *source*, which the group *gid* may read; copy it if that was not done yet.

        Args:
            source: The folder. Links in it are copied as links.
            gid: The group.
            skip: Paths in it that are empty in the copy.

        Raises:
            CodeNotCopiedError: The folder is too large, or cannot be copied.
        """
        with self._lock:
            copy = self._copies.get(source)
            if copy is None:
                copy = _Copy(self._folder / str(len(self._copies) + 1), skip)
                try:
                    copy.folder.mkdir(parents=True, mode=0o711)
                    self._update(source, copy, gid)
                except OSError as error:
                    remove_tree(copy.folder)
                    raise CodeNotCopiedError(f"{source} cannot be copied: {error.strerror or error}") from None
                except CodeNotCopiedError:
                    remove_tree(copy.folder)
                    raise
                self._copies[source] = copy
            return copy.folder

    def is_update_due(self) -> bool:
        """Return whether `update` has something to check."""
        return any(self._clock() >= copy.next_check for copy in self._copies.values())

    def update(self) -> None:
        """Copy what has changed in the copied folders since the last call, unless that was a moment ago. May block for long."""
        with self._lock:
            for source, copy in self._copies.items():
                if self._clock() >= copy.next_check:
                    # a folder that cannot be read at this moment is read at the next call
                    with contextlib.suppress(OSError, CodeNotCopiedError):
                        self._update(source, copy, copy.folder.stat().st_gid)

    def _update(self, source: Path, copy: _Copy, gid: int) -> None:
        began = self._clock()
        found = dict(_list_files(source, copy.skip))
        for path in sorted(copy.files.keys() - found.keys(), reverse=True):
            _remove(copy.folder / path)
        for path, status in sorted(found.items()):
            before = copy.files.get(path)
            if before is None or _version(before) != _version(status):
                if before is not None and stat.S_IFMT(before.st_mode) != stat.S_IFMT(status.st_mode):
                    _remove(copy.folder / path)
                _copy(source / path, copy.folder / path, status, gid, is_empty=source / path in copy.skip)
        copy.files = found
        took = self._clock() - began
        copy.next_check = self._clock() + max(_MIN_CHECK_INTERVAL_S, took / _CHECK_SHARE)


def check_size(source: Path, skip: frozenset[Path]) -> str | None:
    """Return why the folder *source* cannot be copied without the paths of *skip*, or None."""
    try:
        for _ in _list_files(source, skip):
            pass
    except CodeNotCopiedError as reason:
        return str(reason)
    except OSError as error:
        return f"{source} cannot be read: {error.strerror}"
    return None


def _list_files(source: Path, skip: frozenset[Path]) -> Iterator[tuple[Path, os.stat_result]]:
    """
    Yield folders, regular files and links in *source* by relative path, folders before what is in them; the first is *source* itself.

    Of a project's folder, nothing that is in it is yielded. If the group may read *source*, a file that it may not read is left out: it was closed on purpose.

    Raises:
        CodeNotCopiedError: The files are too many or too large.
        OSError: A folder cannot be read.
    """
    top = source.stat()
    is_for_group = bool(top.st_mode & _READABLE_BY_GROUP)
    yield Path(), top
    size, count, folders = 0, 0, [Path()]
    while folders:
        folder = folders.pop()
        with os.scandir(source / folder) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                path = folder / entry.name
                if stat.S_ISDIR(status.st_mode):
                    if source / path not in skip and entry.name != PROJECT_FOLDER_NAME:
                        folders.append(path)
                elif source / path in skip:
                    pass
                elif stat.S_ISREG(status.st_mode):
                    if is_for_group and not status.st_mode & _READABLE_BY_GROUP:
                        continue
                    size += status.st_size
                elif not stat.S_ISLNK(status.st_mode):
                    continue
                count += 1
                if size > MAX_COPIED_BYTES or count > MAX_COPIED_FILES:
                    raise CodeNotCopiedError(
                        f"{source} has more than {MAX_COPIED_BYTES >> 20:,} MB or {MAX_COPIED_FILES:,} files, so it is not copied"
                    )
                yield path, status


def _version(status: os.stat_result) -> tuple[int, ...]:
    if stat.S_ISDIR(status.st_mode):
        return (stat.S_IFMT(status.st_mode),)
    return status.st_mode, status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns


def _copy(source: Path, target: Path, status: os.stat_result, gid: int, *, is_empty: bool) -> None:
    """Copy one file (without its content if *is_empty*), link or (always without its content) folder. Raises `OSError`."""
    if stat.S_ISDIR(status.st_mode):
        target.mkdir(mode=0o750, exist_ok=True)
        os.chown(target, -1, gid)
        target.chmod(0o750)
        return
    beside = target.with_name(f".{target.name[:200]}.pdkernel-new")
    beside.unlink(missing_ok=True)
    if stat.S_ISLNK(status.st_mode) and not is_empty:
        beside.symlink_to(source.readlink())
    else:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as made:
            if not is_empty:
                opened = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
                with os.fdopen(opened, "rb") as original:
                    if not stat.S_ISREG(os.fstat(opened).st_mode):
                        raise FileNotFoundError(source)
                    shutil.copyfileobj(original, made)
            os.fchown(made.fileno(), -1, gid)
            os.fchmod(made.fileno(), 0o550 if status.st_mode & stat.S_IXUSR else 0o440)
        os.utime(beside, ns=(status.st_atime_ns, status.st_mtime_ns))
    beside.replace(target)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        remove_tree(path)
    else:
        path.unlink(missing_ok=True)


_ANY_SLOT = "*"
_WITHOUT_PROJECTS = frozenset({"node_modules", "site-packages", "__pycache__"})
_OF_INTERPRETERS = re.compile(r"/(?:lib/python3\.\d+t?|include/node)$")
_FILES_OF_INTERPRETERS = frozenset({"os.py", "node.h"})
"""With such a file, `_OF_INTERPRETERS` is a library or headers, of hundreds of folders."""
_OF_THE_KERNEL = frozenset({"proc", "sys", "dev"})
_MAX_SEARCHED_FOLDERS = 50_000  # about a second
_MAX_OTHER_PROJECTS = (
    100  # that are hidden in a folder of code: each takes a mount and descriptors at the start of a process
)
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the folder itself
_SYSTEM_READ = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt", "/nix/store", "/snap"),
    *("/home/linuxbrew/.linuxbrew", "/sys", "/proc", "/dev/random", "/dev/urandom"),
    *("/run/systemd/resolve", "/run/resolvconf", "/var/lib/ca-certificates", "/var/cache/fontconfig"),
)
_SYSTEM_WRITE = ("/dev/null", "/dev/zero", "/dev/full")
_TERMINALS = ("/dev/tty", "/dev/ptmx", "/dev/pts")
_SERVICES = Path("/run")  # their Unix sockets
_SECRETS_OF_ROOT = ("/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-", "/etc/ssl/private")
_SLOTS_PER_PROCESS = 1024
_GROUP_WRITES = ((1, 7), (4, 7), (16, 7), (32, 0))  # of a POSIX access control list: user, group, mask, others


@functools.lru_cache(maxsize=1000)
def program_folders(program: Path) -> frozenset[Path]:
    """Return the folders of an interpreter, without and with its links resolved: the parents of their `bin` folders."""
    folders = (path.parent for path in (program, Path(os.path.realpath(program))))
    return frozenset(folder.parent if folder.name == "bin" else folder for folder in folders)


@functools.lru_cache(maxsize=1000)
def node_modules_above(folder: Path) -> tuple[Path, ...]:
    """Return the folders above *folder* from which Node.js loads packages, too."""
    return tuple(path for path in (each / "node_modules" for each in folder.parents) if os.path.isdir(path))  # noqa: PTH112 - no error for a closed folder


@functools.lru_cache(maxsize=1000)
def component_folder(file: Path) -> Path:
    """Return the folder that the component in *file* may load other files from: that of all apps, or its own."""
    if not file.is_file():
        return file
    if file.parents[1].name not in ("actions", "sources"):
        return file.parent
    apps = file.parents[3]
    return apps.parent if apps.name == "components" else apps


@dataclasses.dataclass(frozen=True)
class AccessPlan:
    """
    The plan for processes with one access.

    Attributes:
        plan: The plan without what is the slot's own: the user id, and the folders of `slots / _ANY_SLOT`.
        slots: The folder of the slots' folders (`SlotFolder`).
        obstacle: Why the processes keep the user of this process although others are available, or None.
    """

    plan: IsolationPlan
    slots: Path
    obstacle: str | None = None

    def of_slot(self, number: int) -> IsolationPlan:
        """Return the plan for the slot *number* of this process, which is the name of its folder, too."""
        common = self.plan
        uid = None
        if common.gid is not None:
            count = dict(STEP_USERS)[common.gid]
            uid = common.gid + 1 + (os.getpid() * _SLOTS_PER_PROCESS + number) % (count - 1)
        any_tmp, tmp = f"{self.slots}/{_ANY_SLOT}/{TMP_NAME}", f"{self.slots}/{number}/{TMP_NAME}"
        mounts = [
            msgspec.structs.replace(each, source=tmp) if each.source == any_tmp else each for each in common.mounts
        ]
        if uid is not None and common.namespaces:
            mounts.append(Mount(str(ACCOUNTS_FILE), f"{self.slots}/{number}/{ACCOUNTS_NAME}"))
        return msgspec.structs.replace(
            common,
            uid=uid,
            mounts=tuple(mounts),
            write=tuple(tmp if path == any_tmp else path for path in common.write),
        )


def find_user_obstacle(isolation: Isolation, access: StepAccess) -> str | None:
    """Return why processes with *access* keep the user of this process although others are available, or None."""
    if isolation.first_uid is None:
        return None
    more = find_step_paths(os.environ.get(STEP_PATHS_VARIABLE, ""))
    obstacle, _, closed = _check_user(isolation, _find_needed_rights(access, _with_system(access), more))
    skip = access.hide | _resolve(more)
    reasons = (
        check_size(path, skip) if path.is_dir() else _refusal(path) for path in _find_uncovered(closed, access.hide)
    )
    return obstacle or next((reason for reason in reasons if reason), None)


def plan_access(
    isolation: Isolation, access: StepAccess, *, slots: Path, copies: CodeCopies | None = None
) -> AccessPlan:
    """
    Return the plan for processes with *access*. It is made of some hundred calls; a search for projects and copies may block for long.

    Args:
        isolation: What this machine permits.
        access: What the processes may see, besides the system's programs and the slot's files.
        slots: The folder of the slots' folders.
        copies: The copies of folders that the users of steps may not read; with None, processes keep this user if there are such.

    Raises:
        OSError: A folder of the project cannot be read or changed.
        RequestError: A folder of code contains too many other projects.
    """
    if not isolation.namespaces and not isolation.landlock:
        return AccessPlan(NO_PLAN, slots)
    # what is hidden stays hidden if it is also named as a folder of code
    access = dataclasses.replace(access, read=access.read - access.hide)
    tmp = slots / _ANY_SLOT / TMP_NAME
    own = {TMP_FOLDER, _SHARED_MEMORY}
    if not isolation.namespaces:  # in a folder that steps may change, they could replace those of their slot
        own = {tmp, *(folder for folder in own if folder not in slots.parents)}
    _create_hidden_folders(access)
    more = find_step_paths(os.environ.get(STEP_PATHS_VARIABLE, ""))
    read, write = _with_system(access), {path for path in (*access.write, *more) if _exists(path)}
    obstacle, blocked, closed = _check_user(isolation, _find_needed_rights(access, read, more))
    copied: dict[Path, Path] = {}
    if obstacle is None and isolation.first_uid is not None:
        try:
            copied = _make_readable(closed, access.hide, _resolve(more), isolation.first_uid, copies)
        except CodeNotCopiedError as reason:
            obstacle, blocked = str(reason), set()
    changes_user = obstacle is None
    if changes_user and isolation.first_uid is not None:
        for path in access.write & write:
            _share_folder(path, isolation.first_uid)
    code = (path for path in access.read if access.hide.isdisjoint((path, *path.parents)))
    others = _find_other_projects(code, _resolve(more))
    of_root = map(Path, _SECRETS_OF_ROOT if not changes_user and os.geteuid() == 0 else ())
    hide = {path for path in (*access.hide, *others, slots, _SERVICES, *blocked, *of_root) if _exists(path)}
    mounts: tuple[Mount, ...] = ()
    if isolation.namespaces:
        mounts = _plan_mounts(tmp, hide, read, write, copied)
    else:
        read = {shown for path in read for shown in _without(path, hide)}
    # without mounts of their own, steps with the user of this process would read what is typed in this user's terminals
    terminals = _TERMINALS if isolation.namespaces or changes_user else ()
    plan = IsolationPlan(
        namespaces=isolation.namespaces,
        landlock=isolation.landlock,
        gid=isolation.first_uid if changes_user else None,
        mounts=mounts,
        read=_as_texts(_outermost(read)),
        write=_as_texts({*write, *own, *map(Path, (*_SYSTEM_WRITE, *terminals))}),
        ports=access.ports,
        tmp_names=frozenset(path.parts[2] for each in mounts if TMP_FOLDER in (path := Path(each.target)).parents),
    )
    return AccessPlan(plan, slots, obstacle if isolation.first_uid is not None else None)


def _create_hidden_folders(access: StepAccess) -> None:
    """Create the missing folders of *access* that are inside hidden ones: a later run may install something there."""
    for path in (*access.read, *access.write):
        if not access.hide.isdisjoint(path.parents) and not _exists(path):
            with contextlib.suppress(OSError):  # the project's folder is read-only: nothing will be there
                path.mkdir(parents=True)


def _find_other_projects(folders: Iterable[Path], changeable: frozenset[Path]) -> set[Path]:
    """
    Return the folders of projects in *folders* of code: steps of one project need nothing there. Packages and interpreters have none.

    In the paths *changeable*, which steps may change, they are not searched: a step could make so many that the search does not reach the
    others, or replace one that is hidden, so that no process can start.

    Raises:
        RequestError: There are more than `_MAX_OTHER_PROJECTS`.
    """
    found, left = set(), _MAX_SEARCHED_FOLDERS
    skip = tuple(os.path.join(path, "") for path in changeable)  # noqa: PTH118 - with a slash at its end
    for folder in folders:
        resolved, length = os.path.realpath(folder), len(str(folder))
        for place, names, files in os.walk(folder):
            if os.path.join(resolved + place[length:], "").startswith(skip):  # noqa: PTH118 - as above
                names.clear()
            if PROJECT_FOLDER_NAME in names:
                found.add(Path(place, PROJECT_FOLDER_NAME))
            if len(found) > _MAX_OTHER_PROJECTS:
                raise RequestError(
                    f"The folder of the workflow's code, {folder}, contains more than {_MAX_OTHER_PROJECTS} other projects, "
                    "so they cannot be hidden from its steps.",
                    fix="Move the workflow to a folder without them.",
                )
            left -= 1
            if _OF_INTERPRETERS.search(place) and not _FILES_OF_INTERPRETERS.isdisjoint(files):
                names.clear()
            names[:] = [
                name
                for name in names
                if left > 0
                and not name.startswith(".")
                and name not in _WITHOUT_PROJECTS
                and not (place == "/" and name in _OF_THE_KERNEL)
            ]
    return found


def _with_system(access: StepAccess) -> set[Path]:
    programs = {Path(path) for path in os.environ.get("PATH", os.defpath).split(os.pathsep) if path.startswith("/")}
    programs |= {
        path.parent for path in programs if path.name == "shims"
    }  # of pyenv, asdf and others: scripts that call them
    imported = {Path(path) for path in sys.path if path.startswith("/")}
    own = {Path(sys.prefix), Path(sys.base_prefix), Path(runtimes.__file__).parents[1]}
    found = {*map(Path, _SYSTEM_READ), *programs, *imported, *own, *access.read}
    found |= {Path(os.path.realpath(path)) for path in found}
    for wide in access.read & _too_wide():  # a workflow in the home folder
        found |= {path for path in wide.iterdir() if not path.name.startswith(".")}
    return {path for path in found if path not in _too_wide() and _exists(path)}


@functools.cache
def _too_wide() -> frozenset[Path]:
    """Return the folders that contain more than programs and code."""
    home = Path.home()
    return frozenset({home, *home.parents, Path("/"), TMP_FOLDER, Path("/var"), Path("/dev")})


def _find_needed_rights(access: StepAccess, read: Iterable[Path], more: Iterable[Path]) -> dict[Path, str]:
    """Return each path that steps need, and the rights that all users must have there: `r`, `rw`, or none, as the group gets them."""
    optional = set(map(Path, _SYSTEM_READ)) | set(map(Path, os.environ.get("PATH", "").split(os.pathsep)))
    needed = [path for path in read if path in access.read or path not in optional]
    return {**dict.fromkeys(access.write, ""), **dict.fromkeys(needed, "r"), **dict.fromkeys(more, "rw")}


def _check_user(isolation: Isolation, paths: Mapping[Path, str]) -> tuple[str | None, set[Path], set[Path]]:
    """
    Return why workers cannot get another user, or None, and what such users cannot reach.

    That is: folders on the way to *paths* that only this user may enter, and those of *paths* that another user may not read. Mounts
    show the paths in such folders to the other user, and copies of the paths.
    """
    if isolation.first_uid is None:
        return "no other user is available", set(), set()
    blocked: set[Path] = set()
    closed: set[Path] = set()
    for path, rights in paths.items():
        if not _exists(path):
            continue
        needed = sum({"r": stat.S_IROTH, "w": stat.S_IWOTH}[right] for right in rights)
        if needed and path.is_dir():
            needed |= stat.S_IXOTH
        if path.stat().st_mode & needed != needed:
            if "w" in rights:
                return f"other users may not change {path} ({STEP_PATHS_VARIABLE})", set(), set()
            closed.add(path)
        entry = next((folder for folder in reversed(path.parents) if not folder.stat().st_mode & stat.S_IXOTH), None)
        if entry is not None:
            blocked.add(entry)
    if not isolation.namespaces and (blocked or closed):
        return f"{_refusal(min(blocked or closed))}, and namespaces are not available", set(), set()
    return None, blocked, closed


def _refusal(path: Path) -> str:
    return f"other users may not read {path}"


def _find_uncovered(closed: Iterable[Path], hide: Collection[Path]) -> list[Path]:
    """Return those of *closed* that are neither in another one nor in a folder of pdkernel (*hide*), without links."""
    found: list[Path] = []
    for path in sorted({Path(os.path.realpath(each)) for each in closed}):
        if not any(above in found or above in hide for above in path.parents):
            found.append(path)
    return found


def _make_readable(
    closed: Collection[Path], hide: frozenset[Path], changeable: frozenset[Path], gid: int, copies: CodeCopies | None
) -> dict[Path, Path]:
    """
    Let the users of steps read *closed*: by the mode of what pdkernel has made in its own folders *hide*, else by copies.

    Returns the copies by path. They are empty at the paths *changeable*, which steps may change: steps see the paths themselves there.

    Raises:
        CodeNotCopiedError: A path cannot be copied.
        OSError: A mode cannot be changed.
    """
    copied: dict[Path, Path] = {}
    for path in _find_uncovered(closed, hide):
        if copies is None or not path.is_dir():
            raise CodeNotCopiedError(_refusal(path))
        copied[path] = copies.provide(path, gid, hide | changeable)
    for path in closed:
        if not hide.isdisjoint(path.parents):
            make_readable(path)
    return copied


def _plan_mounts(
    tmp: Path, hide: Iterable[Path], read: Iterable[Path], write: Iterable[Path], copied: Mapping[Path, Path]
) -> tuple[Mount, ...]:
    """
    Return the mounts in order, outer paths first.

    Args:
        tmp: The folder of the slot that is `/tmp`.
        hide: Paths that are hidden.
        read: Paths that are visible.
        write: Paths that may be changed.
        copied: The copies that are visible in place of some paths of *read*.
    """
    planned = {target: Mount(str(target), str(tmp), writable=True) for target in (TMP_FOLDER, _SHARED_MEMORY)}
    wanted: dict[Path, bool | None] = {
        **dict.fromkeys(hide, None),
        **dict.fromkeys(read, False),
        **dict.fromkeys(write, True),
    }
    for path in list(wanted):  # a folder of steps in their /tmp must not be a part of the run's files
        if TMP_FOLDER in path.parents[1:]:
            wanted.setdefault(TMP_FOLDER / path.parts[2], None)
    for path in sorted(wanted, key=lambda each: len(each.parts)):
        writable = wanted[path]
        outer = next((planned[each] for each in path.parents if each in planned), None)
        is_hidden = outer is not None and (outer.source is None or outer.source == str(tmp))
        if path in copied:
            planned[path] = Mount(str(path), str(copied[path]))
        elif writable is None:
            if not is_hidden or path.parent == TMP_FOLDER:
                planned[path] = Mount(str(path), None if path.is_dir() else os.devnull)
        elif is_hidden or (writable and (outer is None or not outer.writable)):
            planned[path] = Mount(str(path), str(path), writable)
    of_slot = {TMP_FOLDER, _SHARED_MEMORY, *tmp.parents}.intersection(planned)
    return tuple(
        each if path in of_slot or not of_slot.isdisjoint(path.parents) else msgspec.structs.replace(each, shared=True)
        for path, each in planned.items()
    )


def _without(path: Path, hidden: Collection[Path]) -> list[Path]:
    """Return *path*, or what is in it besides *hidden*."""
    if path in hidden:
        return []
    if (
        not any(each.is_relative_to(path) for each in hidden)
        or not os.access(path, os.R_OK | os.X_OK)
        or not path.is_dir()
    ):
        return [path]
    return [shown for child in path.iterdir() for shown in _without(child, hidden)]


def _resolve(paths: Iterable[Path]) -> frozenset[Path]:
    return frozenset(Path(os.path.realpath(path)) for path in paths)


def _outermost(paths: Collection[Path]) -> set[Path]:
    """Return *paths* without links and without those below another one."""
    resolved = _resolve(paths)
    return {path for path in resolved if not any(parent in resolved for parent in path.parents)}


def _exists(path: Path | str) -> bool:
    """Return whether *path* exists; not if it is in a folder that this user cannot enter."""
    return os.path.exists(path)  # noqa: PTH110 - `Path.exists` raises an error then


def _as_texts(paths: Iterable[Path]) -> tuple[str, ...]:
    return tuple(sorted(map(str, paths)))


def _share_folder(folder: Path, gid: int) -> None:
    """
    Let all processes of the group *gid* change the files in *folder*, whichever of them made a file.

    Steps may have left links there, when they still had the user of the server: see `open_own`. Raises `OSError`.
    """
    store = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        top = os.fstat(store)
        if top.st_gid == gid:
            return
        for opened, found in open_own(store, top):
            if stat.S_ISDIR(found.st_mode):
                _share(opened, gid)
            elif found.st_nlink == 1:
                os.fchown(opened, -1, gid)
                os.fchmod(opened, 0o660)
        _share(store, gid)  # last: until then, the next start begins again
    finally:
        os.close(store)


def _share(folder: int, gid: int) -> None:
    os.fchown(folder, -1, gid)
    os.fchmod(folder, 0o2770)
    rights = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", tag, rwx, -1) for tag, rwx in _GROUP_WRITES)
    with contextlib.suppress(
        OSError
    ):  # the file system has no access control lists; the umask of workers does the same
        os.setxattr(folder, "system.posix_acl_default", rights)

"""Plans: what the processes of a slot do to themselves, so that they see their own files only."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import re
import stat
import struct
import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import msgspec

from pdkernel import runtimes
from pdkernel.common.safe_files import PROJECT_FOLDER_NAME, STEP_PATHS_VARIABLE, find_step_paths
from pdkernel.errors import RequestError
from pdkernel.runtimes.file_tree import make_readable, open_own
from pdkernel.runtimes.isolation import STEP_USERS
from pdkernel.workers.code_copy import CodeCopies, CodeNotCopiedError, check_size
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
    for path in (*access.read, *access.write):
        if not access.hide.isdisjoint(path.parents) and not _exists(path):  # a later run may install something there
            with contextlib.suppress(OSError):  # the project's folder is read-only: nothing will be there
                path.mkdir(parents=True)
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
    hide = {path for path in (*access.hide, *others, slots, _SERVICES, *blocked) if _exists(path)}
    if not changes_user and os.geteuid() == 0:
        hide |= {Path(path) for path in _SECRETS_OF_ROOT if _exists(path)}
    mounts: tuple[Mount, ...] = ()
    if isolation.namespaces:
        mounts = _plan_mounts(tmp, hide, read, write, copied)
    else:
        read = {shown for path in read for shown in _without(path, hide)}
    # without mounts of their own, steps with the user of this process would read what is typed in this user's terminals
    terminals = _TERMINALS if isolation.namespaces or changes_user else ()
    targets = [Path(each.target) for each in mounts]
    plan = IsolationPlan(
        namespaces=isolation.namespaces,
        landlock=isolation.landlock,
        gid=isolation.first_uid if changes_user else None,
        mounts=mounts,
        read=_as_texts(_outermost(read)),
        write=_as_texts({*write, *own, *map(Path, (*_SYSTEM_WRITE, *terminals))}),
        ports=access.ports,
        tmp_names=frozenset(each.parts[2] for each in targets if TMP_FOLDER in each.parents),
    )
    return AccessPlan(plan, slots, obstacle if isolation.first_uid is not None else None)


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
    """Folders that contain more than programs and code."""
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
    """Whether *path* exists; not if it is in a folder that this user cannot enter."""
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

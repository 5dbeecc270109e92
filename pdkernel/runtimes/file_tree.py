"""
Removes folders that a step could write to, and changes their modes, but never those of a file outside of them.

A link is removed, not followed. A mount and its content stay. The module uses only the standard library, because the warden runs
it without site-packages.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

_log = logging.getLogger(__name__)

_LOOK = getattr(os, "O_PATH", os.O_RDONLY)  # O_PATH sends no request to a file system that is mounted there
_FOLDER = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_READ_FOLDER = _READ_FILE | os.O_DIRECTORY
_MAX_DEPTH = 100  # of `open_own`: each folder on the way is open
_NOT_A_FOLDER = (errno.ENOTDIR, errno.ELOOP)


def remove_tree(folder: Path) -> bool:
    """
    Remove *folder* and its content. Return whether everything was removed.

    If something is left, a warning in the log names the folder, the reason and the fix.
    """
    try:
        parent = os.open(folder.parent, _LOOK | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:  # another process removed it
        return True
    except OSError as error:
        return _report(error, str(folder))
    try:
        return remove_entry(parent, folder.name, path=str(folder))
    finally:
        os.close(parent)


def remove_entry(parent: int, name: str, *, path: str) -> bool:
    """
    Remove the file, or the folder with its content, that is *name* in the folder with the descriptor *parent*; otherwise as `remove_tree`.

    Nothing is opened by *path*, which is for the warning.
    """
    removal = _Removal(os.dup(parent))
    try:
        removal.run(name)
    except OSError as error:
        if not isinstance(error, FileNotFoundError) or _exists(parent, name):  # otherwise another process removed it
            removal.failed(error)
    finally:
        removal.close()
    return removal.error is None or _report(removal.error, path)


def _exists(parent: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except OSError:
        return False
    return True


def _report(error: OSError, path: str) -> bool:
    """Warn that *path* was not removed, and return False."""
    if error.errno == errno.EBUSY:
        _log.warning(
            "%s was not removed: something is mounted in it, perhaps by a step. `grep -F %s /proc/self/mountinfo` lists"
            " the mounts. Unmount each with `umount`, then remove the folder.",
            path,
            os.path.basename(path),  # noqa: PTH119 - a text
        )
    else:
        _log.warning("%s was not removed: %s. Correct the cause, then remove the folder.", path, error.strerror)
    return False


@contextlib.contextmanager
def temporary_folder(prefix: str, *, inside: Path | None = None) -> Iterator[Path]:
    """A context with a new temporary folder in *inside* (default: the system's temporary folder), removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=inside))
    try:
        yield folder
    finally:
        remove_tree(folder)


def open_to_steps(folder: Path) -> None:
    """
    Let the users of steps read *folder* of pdkernel, and enter the folder around it, whatever the umask of a server of root is.

    Raises:
        OSError: A mode cannot be changed.
    """
    if os.geteuid() == 0:  # another user has no other users for steps
        make_readable(folder)
        folder.parent.chmod(folder.parent.stat().st_mode | 0o055)


def make_readable(path: Path) -> None:
    """
    Let all users read *path* and, if it is a folder, what is in it and has the same owner; links are not followed.

    Raises:
        OSError: It is a link, or its mode cannot be changed.
    """
    top = os.open(path, _READ_FILE)
    try:
        found = os.fstat(top)
        _add_read(top, found)
        if stat.S_ISDIR(found.st_mode):
            for opened, status in open_own(top, found):
                _add_read(opened, status)
    finally:
        os.close(top)


def _add_read(opened: int, found: os.stat_result) -> None:
    wanted = stat.S_IMODE(found.st_mode) | 0o044 | (0o011 if found.st_mode & stat.S_IXUSR else 0)
    if wanted != stat.S_IMODE(found.st_mode):
        os.fchmod(opened, wanted)


def open_own(folder: int, top: os.stat_result, depth: int = 0) -> Iterator[tuple[int, os.stat_result]]:
    """
    Yield the folders and regular files in *folder* that have the owner and the device of *top*, each open until the next one.

    No link is followed. What is in a very deep folder is left out.
    """
    with os.scandir(folder) as listed:
        names = [entry.name for entry in listed]
    for name in names:
        try:
            is_folder = stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
            opened = os.open(name, _READ_FOLDER if is_folder else _READ_FILE, dir_fd=folder)
        except OSError:  # a link, or a name that was replaced or removed meanwhile
            continue
        try:
            found = os.fstat(opened)
            if (found.st_uid, found.st_dev) != (top.st_uid, top.st_dev):
                continue
            if stat.S_ISREG(found.st_mode):
                yield opened, found
            elif stat.S_ISDIR(found.st_mode) and depth < _MAX_DEPTH:
                yield opened, found
                yield from open_own(opened, top, depth + 1)
        finally:
            os.close(opened)


class _Level(NamedTuple):
    """A folder on the path to the current one: its name, its device and inode, and its remaining subfolders."""

    name: str
    identity: tuple[int, int]
    folders: list[str]


class _Removal:
    """
    One removal. It keeps one folder open at a time, so a tree may have any depth.

    Attributes:
        error: The first failure.
    """

    def __init__(self, parent: int) -> None:
        """Create the removal of something in the folder with the descriptor *parent*, which `close` closes."""
        self.error: OSError | None = None
        self._current_fd = parent

    def run(self, name: str) -> None:
        """Remove *name*. Raises `OSError` for a failure that ends the removal early; `error` has the first other failure."""
        mount = _mount(self._current_fd)
        levels = [_Level("", _identity(self._current_fd), [name])]
        while True:
            if levels[-1].folders:
                name = levels[-1].folders.pop()
                if self._enter(name, mount):
                    levels.append(_Level(name, _identity(self._current_fd), self._clear()))
            elif len(levels) > 1:
                name = levels.pop().name
                self._move(os.open("..", _LOOK | _FOLDER, dir_fd=self._current_fd))
                if _identity(self._current_fd) != levels[-1].identity:
                    raise OSError(errno.EAGAIN, "another process moved a folder in it")
                self._try(os.rmdir, name)
            else:
                return

    def close(self) -> None:
        """Close the open folder."""
        os.close(self._current_fd)

    def failed(self, error: OSError) -> None:
        """Store the first failure: later ones, such as a folder that is not empty, follow from it."""
        self.error = self.error or error

    def _enter(self, name: str, mount: int) -> bool:
        """Make the subfolder *name* the current folder, and return whether this succeeded. If *name* is a file, it is removed."""
        try:
            below = _open(name, self._current_fd, mount)
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno in _NOT_A_FOLDER:
                self._try(os.unlink, name)
            else:
                self.failed(error)
            return False
        self._move(below)
        return True

    def _clear(self) -> list[str]:
        """Remove everything in the current folder except its subfolders, and return their names."""
        folders = []
        try:
            opened = os.open(".", os.O_RDONLY | _FOLDER, dir_fd=self._current_fd)
            try:
                with os.scandir(opened) as found:
                    entries = list(found)
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.name)
                    else:
                        self._try(os.unlink, entry.name)
            finally:
                os.close(opened)
        except OSError as error:
            self.failed(error)
        return folders

    def _move(self, folder: int) -> None:
        os.close(self._current_fd)
        self._current_fd = folder

    def _try(self, remove: Callable[..., None], name: str) -> None:
        try:
            remove(name, dir_fd=self._current_fd)
        except FileNotFoundError:
            pass
        except OSError as error:
            self.failed(error)


def _open(name: str, above: int, mount: int) -> int:
    """Open the folder *name* and give its owner full access. Raises `OSError` (EBUSY) if it is a mount."""
    if sys.platform != "linux":  # there, a folder must be readable before it can be opened
        found = os.stat(name, dir_fd=above, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode) and found.st_dev == mount and found.st_mode & stat.S_IRWXU != stat.S_IRWXU:
            os.chmod(name, stat.S_IRWXU, dir_fd=above, follow_symlinks=False)
    folder = os.open(name, _LOOK | _FOLDER, dir_fd=above)
    try:
        if _mount(folder) != mount:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        if sys.platform == "linux" and os.fstat(folder).st_mode & stat.S_IRWXU != stat.S_IRWXU:
            os.chmod(f"/proc/self/fd/{folder}", stat.S_IRWXU)  # noqa: PTH101 - fchmod does not accept an O_PATH descriptor
    except BaseException:
        os.close(folder)
        raise
    return folder


def _mount(folder: int) -> int:
    """Return the id of the mount (on Linux, because a bind mount keeps the device), else the device."""
    if sys.platform != "linux":
        return os.fstat(folder).st_dev
    with open(f"/proc/self/fdinfo/{folder}", "rb") as file:  # noqa: PTH123 - for each folder
        return next(int(line[7:]) for line in file if line.startswith(b"mnt_id:"))


def _identity(folder: int) -> tuple[int, int]:
    found = os.fstat(folder)
    return found.st_dev, found.st_ino

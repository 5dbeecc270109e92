"""
Removes folders that a step could write to, and nothing that lies elsewhere.

A link is removed and never followed. A mount is left where it is, with everything behind it. Standard library only, because
the warden runs this module without site-packages.
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

_LOOK = getattr(os, "O_PATH", os.O_RDONLY)  # O_PATH asks nothing of a file system that is mounted there
_FOLDER = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NOT_A_FOLDER = (errno.ENOTDIR, errno.ELOOP)


def remove_tree(folder: Path) -> bool:
    """
    Remove *folder* with everything in it; whether nothing of it is left.

    If something is left, the log names the folder, the reason and what to do.
    """
    removal = _Removal()
    try:
        removal.run(folder)
    except OSError as error:
        if not isinstance(error, FileNotFoundError) or os.path.lexists(folder):  # else another process removes it, too
            removal.failed(error)
    finally:
        removal.close()
    if removal.error is None:
        return True
    if removal.error.errno == errno.EBUSY:
        _log.warning(
            "%s is not removed: something is mounted in it, perhaps by a step. `grep -F %s /proc/self/mountinfo` lists"
            " the mounts. Unmount each with `umount`, then remove the folder.",
            folder,
            folder.name,
        )
    else:
        _log.warning("%s is not removed: %s. Correct that, then remove the folder.", folder, removal.error.strerror)
    return False


@contextlib.contextmanager
def temporary_folder(prefix: str, *, inside: Path | None = None) -> Iterator[Path]:
    """A new folder, in *inside* or where the system has temporary files, that is removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=inside))
    try:
        yield folder
    finally:
        remove_tree(folder)


class _Level(NamedTuple):
    """A folder on the way to the current one: its name in the folder above, itself, and its subfolders to come."""

    name: str
    identity: tuple[int, int]
    folders: list[str]


class _Removal:
    """
    One removal. Holds one folder open at a time, so a tree may be of any depth.

    Attributes:
        error: The first failure.
    """

    def __init__(self) -> None:
        self.error: OSError | None = None
        self._here = -1

    def run(self, folder: Path) -> None:
        """Remove *folder*. Raises `OSError` for what ends the removal early; other failures are in `error`."""
        self._here = os.open(folder.parent, _LOOK | os.O_DIRECTORY | os.O_CLOEXEC)
        mount = _mount(self._here)
        levels = [_Level("", _identity(self._here), [folder.name])]
        while True:
            if levels[-1].folders:
                name = levels[-1].folders.pop()
                if self._enter(name, mount):
                    levels.append(_Level(name, _identity(self._here), self._clear()))
            elif len(levels) > 1:
                name = levels.pop().name
                self._move(os.open("..", _LOOK | _FOLDER, dir_fd=self._here))
                if _identity(self._here) != levels[-1].identity:
                    raise OSError(errno.EAGAIN, "a folder in it was moved meanwhile")
                self._try(os.rmdir, name)
            else:
                return

    def close(self) -> None:
        """Close the folder that is open."""
        if self._here >= 0:
            os.close(self._here)

    def failed(self, error: OSError) -> None:
        """Keep the first failure: that a folder is not empty follows from it."""
        self.error = self.error or error

    def _enter(self, name: str, mount: int) -> bool:
        """Make the subfolder *name* the current folder; whether it can be. What is not a folder is removed."""
        try:
            below = _open(name, self._here, mount)
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
        """Remove everything in the current folder but its subfolders; their names."""
        folders = []
        try:
            opened = os.open(".", os.O_RDONLY | _FOLDER, dir_fd=self._here)
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
        os.close(self._here)
        self._here = folder

    def _try(self, remove: Callable[..., None], name: str) -> None:
        try:
            remove(name, dir_fd=self._here)
        except FileNotFoundError:
            pass
        except OSError as error:
            self.failed(error)


def _open(name: str, above: int, mount: int) -> int:
    """A descriptor of the folder *name*, with its owner's permissions. Raises `OSError` (EBUSY) if it is a mount."""
    if sys.platform != "linux":  # where a folder must be readable to be opened
        found = os.stat(name, dir_fd=above, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode) and found.st_dev == mount and found.st_mode & stat.S_IRWXU != stat.S_IRWXU:
            os.chmod(name, stat.S_IRWXU, dir_fd=above, follow_symlinks=False)
    folder = os.open(name, _LOOK | _FOLDER, dir_fd=above)
    try:
        if _mount(folder) != mount:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        if sys.platform == "linux" and os.fstat(folder).st_mode & stat.S_IRWXU != stat.S_IRWXU:
            os.chmod(f"/proc/self/fd/{folder}", stat.S_IRWXU)  # noqa: PTH101 - fchmod takes no descriptor of O_PATH
    except BaseException:
        os.close(folder)
        raise
    return folder


def _mount(folder: int) -> int:
    """By which a mount differs from what surrounds it: a folder that is bound elsewhere keeps its device, on Linux."""
    if sys.platform != "linux":
        return os.fstat(folder).st_dev
    with open(f"/proc/self/fdinfo/{folder}", "rb") as file:  # noqa: PTH123 - for each folder
        return next(int(line[7:]) for line in file if line.startswith(b"mnt_id:"))


def _identity(folder: int) -> tuple[int, int]:
    found = os.fstat(folder)
    return found.st_dev, found.st_ino

"""
Copies of folders with code that the users of steps may not read: those of a machine with umask 027, for example.

A server that runs as root gives steps users of their own. If these may not read a folder of code, they see a copy in its place, which
their group may read. The copy is in a folder of the server that no step reaches in another way.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pdkernel.common.safe_files import PROJECT_FOLDER_NAME
from pdkernel.runtimes.file_tree import remove_tree

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
        """Whether `update` has something to check."""
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

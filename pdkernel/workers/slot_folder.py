"""
The folder of a slot and of the files of a step: what a step may change, which the server therefore never follows.

A step can replace everything in its folders by a link, a FIFO, a device or a link to a file of the server, and race with the server
while one of its processes runs. So the server works with descriptors that are as old as the folder, and opens one name below them at a
time, without following a link. Paths leave this module as texts for steps; nothing else in the package opens them.

    SLOTS/                of the pool; steps see only what is mounted there
      1/                  `SlotFolder`: of the server, so that steps replace no name in it
        tmp/              of the step: `/tmp`, or its working folder
        passwd            of the server: `/etc/passwd` for steps with a user of their own
        step-1234abcd/    `StepFiles`: of the step
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from pdkernel.runtimes.file_tree import remove_entry, remove_tree
from pdkernel.workers.isolation import ACCOUNTS_FILE, TMP_FOLDER, IsolationPlan, Mount

TMP_NAME = "tmp"
"""The name of the folder in a slot's folder that steps see as `/tmp`, or have as their working folder."""
ACCOUNTS_NAME = "passwd"
"""The name of the file in a slot's folder that is `/etc/passwd` for processes with a user of their own."""

_TMP_MODE = 0o700
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LEFT_FILE = (
    os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
)  # a FIFO without a writer would block the server
_CHUNK_BYTES = 1 << 20


class LeftFile(NamedTuple):
    """
    A file that a step has left.

    Attributes:
        data: Its first bytes, as many as the reader allows.
        size: The size of the whole file in bytes.
    """

    data: bytes
    size: int


class StepFileError(Exception):
    """A file that a step has left cannot be read; the text continues a sentence about the file, such as `is a symbolic link`."""


class SlotFolder:
    """
    The folder of the files of a slot's runs, one run at a time.

    Attributes:
        plan: The plan of the slot's processes. Its mounts name the inodes of this folder.
    """

    def __init__(self, slots: Path, number: int, plan: IsolationPlan) -> None:
        """
        Create the folder *number* in *slots*, which steps cannot change, for processes with *plan*.

        Raises:
            OSError: It cannot be created, or exists.
        """
        self._path = f"{slots}/{number}"
        os.mkdir(self._path, 0o700)  # noqa: PTH102 - a path of the server
        self._folder = os.open(self._path, _FOLDER)
        self._close = weakref.finalize(self, os.close, self._folder)
        self._close.atexit = False
        self._user = plan.uid, plan.gid
        if plan.uid is not None:
            os.fchmod(self._folder, 0o711)  # without mounts, the step's user goes through it to its own folders
        self._tmp = self._make_tmp()
        tmp_path = f"{self._path}/{TMP_NAME}"
        self.plan = replace(
            plan,
            mounts=tuple(replace(each, inode=self._tmp) if each.source == tmp_path else each for each in plan.mounts),
        )
        if plan.uid is not None and plan.namespaces:
            self._write_accounts()

    @property
    def working_folder(self) -> str:
        """The path of the working folder, as the slot's processes see it."""
        return str(TMP_FOLDER) if self.plan.namespaces else f"{self._path}/{TMP_NAME}"

    @property
    def working_folder_outside(self) -> str:
        """The path of the working folder for a process without the slot's mounts: code of a user in a notebook's kernel."""
        return f"{self._path}/{TMP_NAME}"

    def ensure_tmp(self) -> None:
        """Create the working folder if a step has removed it. Raises `OSError`."""
        try:
            os.stat(TMP_NAME, dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            made = self._make_tmp()
            if (
                not self.plan.namespaces
            ):  # otherwise, processes still see the former one, so this slot is not used again
                self._tmp = made

    def create_step_files(self) -> StepFiles:
        """Create the folder of the files of one step. Raises `OSError`."""
        return StepFiles(self._folder, self._path, self.plan)

    def is_empty(self) -> bool:
        """Return whether the last run has left no file, and every permission of `/tmp` to the next one."""
        try:
            names = set(os.listdir(self._folder)) - {ACCOUNTS_NAME}  # noqa: PTH208 - by descriptor
            if names != {TMP_NAME}:
                return not names and not self.plan.namespaces
            with self._open_tmp() as tmp:
                is_usable = stat.S_IMODE(os.fstat(tmp).st_mode) == _TMP_MODE
                return is_usable and self.plan.tmp_names.issuperset(os.listdir(tmp))  # noqa: PTH208 - by descriptor
        except OSError:  # a step has replaced a folder
            return False

    def clear(self) -> bool:
        """Remove the files of the last run and restore `/tmp`; return whether all of them are gone. May block for long."""
        try:
            kept = {TMP_NAME, ACCOUNTS_NAME} if self.plan.namespaces else {ACCOUNTS_NAME}
            is_clear = self._remove_names(self._folder, self._path, kept)
            if self.plan.namespaces:
                with self._open_tmp() as tmp:
                    os.fchmod(tmp, _TMP_MODE)
                    is_clear &= self._remove_names(tmp, f"{self._path}/{TMP_NAME}", self.plan.tmp_names)
        except OSError:
            return False
        return is_clear

    def remove(self) -> None:
        """Remove the folder of a slot whose processes have ended."""
        self._close()
        remove_tree(Path(self._path))

    @staticmethod
    def _remove_names(folder: int, path: str, kept: set[str] | frozenset[str]) -> bool:
        """Remove all names in *folder* but *kept*; return whether all of them are gone."""
        names = set(os.listdir(folder)) - kept
        return not [name for name in names if not remove_entry(folder, name, path=f"{path}/{name}")]

    @contextlib.contextmanager
    def _open_tmp(self) -> Iterator[int]:
        """Open the folder that workers see as `/tmp`. Raises `OSError` if a step has replaced it."""
        tmp = os.open(TMP_NAME, _FOLDER, dir_fd=self._folder)
        try:
            if _identity(tmp) != self._tmp:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), TMP_NAME)
            yield tmp
        finally:
            os.close(tmp)

    def _make_tmp(self) -> tuple[int, int]:
        os.mkdir(TMP_NAME, _TMP_MODE, dir_fd=self._folder)
        tmp = os.open(TMP_NAME, _FOLDER, dir_fd=self._folder)
        try:
            _give(tmp, self._user)
            return _identity(tmp)
        finally:
            os.close(tmp)

    def _write_accounts(self) -> None:
        """Write the accounts of the system and that of the plan: programs look up the name of their user, and fail without one."""
        uid, gid = self._user
        accounts = ACCOUNTS_FILE.read_bytes() + f"step:x:{uid}:{gid}::{TMP_FOLDER}:/bin/sh\n".encode()
        file = os.open(ACCOUNTS_NAME, _NEW_FILE, 0o600, dir_fd=self._folder)
        with os.fdopen(file, "wb") as opened:
            os.fchmod(file, 0o644)
            opened.write(accounts)


class StepFiles:
    """
    The files of one step, in a folder of its own that only the step's user can read.

    Attributes:
        path: The path of the folder, as the step sees it.
        plan: The plan of the step's process, which may change the folder; processes of other steps do not see it.
    """

    def __init__(self, slot: int, slot_path: str, plan: IsolationPlan) -> None:
        """Create the folder in that with the descriptor *slot*, for a process with *plan* of the slot. Raises `OSError`."""
        self._slot = slot
        self._name = f"step-{secrets.token_hex(4)}"
        self._user = plan.uid, plan.gid
        self.path = f"{slot_path}/{self._name}"
        os.mkdir(self._name, 0o700, dir_fd=slot)
        self._folder = os.open(self._name, _FOLDER, dir_fd=slot)
        mounts = plan.mounts
        if plan.namespaces:
            mounts = (*mounts, Mount(self.path, self.path, writable=True, inode=_identity(self._folder)))
        self.plan = replace(plan, mounts=mounts, write=(*plan.write, self.path))

    def write(self, name: str, data: bytes = b"") -> str:
        """Create the file *name* with *data*, which the step may change; return its path for the step. Raises `OSError`."""
        if os.sep in name:
            raise ValueError(name)
        file = os.open(name, _NEW_FILE, 0o600, dir_fd=self._folder)
        with os.fdopen(file, "wb", buffering=0) as opened:
            _give(file, self._user)
            left = memoryview(data)
            while left:
                left = left[opened.write(left) :]
        return f"{self.path}/{name}"

    def give_to_step(self) -> None:
        """Let the step change the folder; call it after the last `write`. Raises `OSError`."""
        _give(self._folder, self._user)

    def read(self, name: str, limit: int) -> LeftFile | None:
        """
        Return what the step has left as *name*, whether it has written to the file or replaced it; None if it has removed the file.

        Call it when no process of the step is left. At most *limit* bytes are read.

        Raises:
            StepFileError: It is not a regular file of the step, or the step has closed it.
        """
        try:
            file = os.open(name, _LEFT_FILE, dir_fd=self._folder)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise StepFileError("is a symbolic link") from None
            if error.errno == errno.ENXIO:
                raise StepFileError("is not a regular file") from None
            raise StepFileError(f"cannot be read ({error.strerror})") from None
        try:
            found = os.fstat(file)
            _check_own_file(found, os.geteuid() if self.plan.uid is None else self.plan.uid)
            return LeftFile(_read(file, limit), found.st_size)
        except OSError as error:
            raise StepFileError(f"cannot be read ({error.strerror})") from None
        finally:
            os.close(file)

    def remove(self) -> None:
        """Remove the files."""
        os.close(self._folder)
        remove_entry(self._slot, self._name, path=self.path)


def _check_own_file(found: os.stat_result, owner: int) -> None:
    """Raise `StepFileError` unless *found* is a regular file of the user *owner* that has one name."""
    if not stat.S_ISREG(found.st_mode):
        raise StepFileError("is not a regular file")
    if found.st_uid != owner:
        raise StepFileError("belongs to another user")
    if found.st_nlink != 1:  # by a hard link, it may be a file of another user
        raise StepFileError("is a file with more than one name (hard links)")


def _read(file: int, limit: int) -> bytes:
    """Read *file* to its end, but at most *limit* bytes, whatever size it reports. Raises `OSError`."""
    pieces = []
    while limit > 0 and (piece := os.read(file, min(limit, _CHUNK_BYTES))):
        pieces.append(piece)
        limit -= len(piece)
    return b"".join(pieces)


def _give(file: int, user: tuple[int | None, int | None]) -> None:
    """Give the file or folder with the descriptor *file*, which this process has just made, to *user* if it is one. Raises `OSError`."""
    uid, gid = user
    if uid is not None and gid is not None:
        os.fchown(file, uid, gid)


def _identity(file: int) -> tuple[int, int]:
    found = os.fstat(file)
    return found.st_dev, found.st_ino

"""Reads and writes untrusted files safely: only regular files, no links inside a folder, no blocking on a FIFO."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

STEP_PATHS_VARIABLE = "PDKERNEL_STEP_PATHS"
"""The environment variable with more paths that steps may change, separated by colons."""
PROJECT_FOLDER_NAME = ".pdkernel"
"""The name of a project's folder, which has its key, database and packages."""
SCRATCH_PREFIX = "pdkernel-run-"
"""The beginning of the name of the folder with the temporary files of steps."""

BYTE_ORDER_MARK = "\ufeff"
"""The byte order mark: an editor may write it before the text of a file."""
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # O_NONBLOCK: opening a FIFO does not wait for a writer


def find_step_paths(text: str) -> frozenset[Path]:
    """Return the absolute paths in *text*, the value of `STEP_PATHS_VARIABLE`."""
    return frozenset(Path(path) for path in text.split(os.pathsep) if path.startswith("/"))


def read_file(path: Path) -> bytes:
    """Return the bytes of the regular file at *path*. Raises `OSError`."""
    with _open_regular(os.open(path, _FLAGS)) as stream:
        return stream.read()


def is_file(path: Path) -> bool:
    """Return whether *path* is a file; false for a text that is too long for a file name, such as an event instead of its file."""
    try:
        return path.is_file()
    except OSError:
        return False


def open_inside(folder: Path, name: str) -> IO[bytes]:
    """
    Open the regular file *name* in *folder* for reading. Neither the file nor the folder may be a link.

    Raises:
        OSError: The file does not exist, file or folder is a link, or *name* contains a path separator.
    """
    with _open_folder(folder, name) as folder_fd:
        return _open_regular(os.open(name, _FLAGS | os.O_NOFOLLOW, dir_fd=folder_fd))


def write_inside(folder: Path, name: str, content: bytes) -> None:
    """
    Write the file *name* in *folder* atomically; a link of that name is replaced, not followed.

    Raises:
        OSError: The file cannot be written, *folder* is a link, or *name* contains a path separator.
    """
    with _open_folder(folder, name) as folder_fd:
        temporary_name = f".{secrets.token_hex(8)}"
        try:
            descriptor = os.open(temporary_name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder_fd)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
            os.rename(temporary_name, name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
        except OSError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary_name, dir_fd=folder_fd)
            raise


@contextlib.contextmanager
def _open_folder(folder: Path, name: str) -> Iterator[int]:
    if os.sep in name or "\0" in name or name in ("", os.curdir, os.pardir):
        raise OSError(errno.EINVAL, "Not the name of a file")
    folder_fd = os.open(folder, _FLAGS | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield folder_fd
    finally:
        os.close(folder_fd)


def _open_regular(descriptor: int) -> IO[bytes]:
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(code, os.strerror(code) if code == errno.EISDIR else "Not a regular file")
    return open(descriptor, "rb")

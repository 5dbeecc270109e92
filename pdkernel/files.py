"""Reading of files that other people wrote: regular files only, and no waiting for a FIFO."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # opening a FIFO to read does not wait for its writer then


def read_file(path: Path) -> bytes:
    """The bytes of the regular file at *path*. Raises `OSError`."""
    return _read(os.open(path, _FLAGS))


def read_inside(folder: Path, name: str) -> bytes:
    """
    The bytes of the regular file *name* in *folder*; a link is not followed, for either of them.

    Raises:
        OSError: There is no such file, it is a link, or *name* is a path.
    """
    if os.sep in name or "\0" in name or name in ("", os.curdir, os.pardir):
        raise OSError(errno.EINVAL, "Not the name of a file")
    opened = os.open(folder, _FLAGS | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        return _read(os.open(name, _FLAGS | os.O_NOFOLLOW, dir_fd=opened))
    finally:
        os.close(opened)


def _read(descriptor: int) -> bytes:
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(code, os.strerror(code) if code == errno.EISDIR else "Not a regular file")
    with open(descriptor, "rb") as stream:
        return stream.read()

"""Files that other people wrote, or could have put in place: regular files only, and no waiting for a FIFO."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # opening a FIFO to read does not wait for its writer then


def read_file(path: Path) -> bytes:
    """The bytes of the regular file at *path*. Raises `OSError`."""
    with _opened(os.open(path, _FLAGS)) as stream:
        return stream.read()


def open_inside(folder: Path, name: str) -> IO[bytes]:
    """
    The regular file *name* in *folder*, to be read; a link is not followed, for either of them.

    Raises:
        OSError: There is no such file, it is a link, or *name* is a path.
    """
    with _folder(folder, name) as opened:
        return _opened(os.open(name, _FLAGS | os.O_NOFOLLOW, dir_fd=opened))


def write_inside(folder: Path, name: str, content: bytes) -> None:
    """
    Write *content* as the file *name* in *folder*, in one act; a link of that name is replaced, not followed.

    Raises:
        OSError: It cannot be written, *folder* is a link, or *name* is a path.
    """
    with _folder(folder, name) as opened:
        aside = f".{secrets.token_hex(8)}"
        try:
            descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=opened)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
            os.rename(aside, name, src_dir_fd=opened, dst_dir_fd=opened)
        except OSError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(aside, dir_fd=opened)
            raise


@contextlib.contextmanager
def _folder(folder: Path, name: str) -> Iterator[int]:
    if os.sep in name or "\0" in name or name in ("", os.curdir, os.pardir):
        raise OSError(errno.EINVAL, "Not the name of a file")
    opened = os.open(folder, _FLAGS | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield opened
    finally:
        os.close(opened)


def _opened(descriptor: int) -> IO[bytes]:
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(code, os.strerror(code) if code == errno.EISDIR else "Not a regular file")
    return open(descriptor, "rb")

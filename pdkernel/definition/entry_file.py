"""Reads an entry file that `workflow.yaml` names, with checks: inside the folder, a regular file, within the size limit."""

from __future__ import annotations

import stat
from pathlib import Path

MAX_ENTRY_FILE_BYTES = 32 * 1024 * 1024
"""Size limit of one entry file; the platform's own limit for a step's code is not documented, and surely lower."""


class EntryFileError(Exception):
    """Why an entry file cannot be read: the end of a sentence that starts with the file's name."""


def read_entry_file(folder: Path, uses: str) -> str | None:
    """
    The text of the file that *uses* names in *folder*, byte for byte as UTF-8; None if there is no such file.

    Raises:
        EntryFileError: The path leaves the folder, is not a regular file, is too large, or is not UTF-8.
    """
    path = folder / uses
    try:
        if is_outside(path, folder):
            raise EntryFileError("which is outside the folder")
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise EntryFileError("which is not a file")
        if found.st_size > MAX_ENTRY_FILE_BYTES:
            raise EntryFileError(f"which has {found.st_size} bytes, more than the {MAX_ENTRY_FILE_BYTES} that are read")
        return path.read_bytes().decode("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnicodeDecodeError as fault:
        raise EntryFileError(f"which is not UTF-8 text (its line {get_error_line(fault)})") from None
    except (OSError, ValueError, RuntimeError) as fault:  # a name with a NUL; a link to itself
        raise EntryFileError(f"which cannot be read ({getattr(fault, 'strerror', None) or fault})") from None


def is_outside(path: Path, folder: Path) -> bool:
    """Whether *path* is outside *folder* after its links are resolved."""
    return not path.resolve().is_relative_to(folder.resolve())


def get_error_line(fault: UnicodeDecodeError) -> int:
    """The line of the byte that *fault* is about, from 1."""
    return fault.object.count(b"\n", 0, fault.start) + 1
